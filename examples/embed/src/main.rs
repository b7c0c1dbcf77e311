//! Runs a component of someone else's in your own program: it gets one directory, ten seconds and nothing else.
//!
//! `cargo run -p cofferdam-example-embed -- plugin.wasm some/directory`

use cofferdam_sandbox::{
    Access, Phase, Preopen, Sandbox, SandboxOptions, Stdin, StepContext, StepEvent, StepSpec,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(wasm), Some(directory)) = (args.next(), args.next()) else {
        anyhow::bail!("usage: embed COMPONENT.wasm DIRECTORY");
    };
    let sandbox = Sandbox::new(SandboxOptions::default())?;
    let component = sandbox.admit(&std::fs::read(wasm)?)?;

    let mut spec = StepSpec::new(StepContext {
        deployment: "1".into(),
        project: "example".into(),
        step: "embed".into(),
        phase: Phase::Install,
        config: serde_json::json!({}),
    });
    spec.limits.wall_ms = 10_000;
    let release = Preopen::open("/release", Access::ReadWrite, directory)?;

    let mut step = sandbox.start(&component, spec, vec![release], Stdin::Closed)?;
    while let Some(event) = step.next_event().await {
        if let StepEvent::Line { text, .. } = event {
            println!("| {}", text.escape_debug());
        }
    }
    let outcome = step.outcome().await?;
    println!("{} in {} ms", outcome.verdict, outcome.receipt.wall_ms);
    anyhow::ensure!(outcome.verdict.is_success(), "the component failed");
    Ok(())
}
