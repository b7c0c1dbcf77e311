//! Workers that something else kills, at any instant: the step fails with a clear error, and nothing else does.
//!
//! Alone in its program, because it kills every child of its own process.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use cofferdam_sandbox::worker::{Isolation, WorkerOptions};
use cofferdam_sandbox::{
    Access, Error, Phase, Preopen, Sandbox, SandboxOptions, Stdin, StepContext, StepEvent, StepSpec,
};
use rustix::process::{Pid, Signal};
use serde_json::json;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kills at different instants: before the job, while the walls go up, while the guest runs.
const KILLS: u64 = 40;

/// The workers of this program, the idle ones too.
fn workers() -> Vec<Pid> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let children = task.unwrap().path().join("children");
        // A thread may have ended since it was listed.
        let Ok(children) = fs::read_to_string(children) else {
            continue;
        };
        let children = children.split_whitespace().filter_map(|id| id.parse().ok());
        found.extend(children.filter_map(Pid::from_raw));
    }
    found
}

fn is_gone(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A process that waits for its parent to look is gone too.
    status.is_empty() || status.contains(") Z ")
}

async fn all_gone(pids: &[Pid]) {
    let gone = async {
        while !pids.iter().all(|pid| is_gone(*pid)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

fn spec(config: serde_json::Value) -> StepSpec {
    StepSpec::new(StepContext {
        deployment: "1".into(),
        project: "blog".into(),
        step: "install-1".into(),
        phase: Phase::Install,
        config,
    })
}

fn preopens(directory: &Path) -> Vec<Preopen> {
    vec![Preopen::open("/release", Access::ReadWrite, directory).unwrap()]
}

#[tokio::test]
async fn a_worker_killed_at_any_instant_fails_its_step_and_nothing_else() {
    let mut options = SandboxOptions::default();
    let hostile = env!("CARGO_BIN_EXE_cofferdam-test-walls");
    options.isolation = Isolation::Worker(WorkerOptions::program(hostile, ["none", "/"]));
    let sandbox = Sandbox::new(options).unwrap();
    let endless = sandbox
        .admit(cofferdam_test_guests::program("flood"))
        .unwrap();
    let succeed = sandbox
        .admit(cofferdam_test_guests::program("succeed"))
        .unwrap();
    let directory = tempfile::TempDir::new().unwrap();

    let mut lost = 0;
    for kill in 0..KILLS {
        let config = json!({ "lines": u32::MAX });
        let mut step = sandbox
            .start(
                &endless,
                spec(config),
                preopens(directory.path()),
                Stdin::Closed,
            )
            .unwrap();
        let printed = async {
            while let Some(event) = step.next_event().await {
                // Half of the kills come while it prints.
                if kill % 2 == 0 && matches!(event, StepEvent::Line { .. }) {
                    break;
                }
                if kill % 2 == 1 {
                    break;
                }
            }
        };
        if kill % 2 == 0 {
            tokio::time::timeout(PATIENCE, printed).await.unwrap();
        } else {
            // The others at some instant of its start.
            let _ = tokio::time::timeout(Duration::from_micros(100 * kill), printed).await;
        }
        let killed = workers();
        for pid in &killed {
            let _ = rustix::process::kill_process(*pid, Signal::KILL);
        }
        // Killed before it had the job, another takes its place: that one prints for ever.
        step.cancel();
        let ended = tokio::time::timeout(PATIENCE, step.outcome())
            .await
            .unwrap();
        if let Err(error) = ended {
            assert!(matches!(error, Error::Worker { .. }), "{error}");
            assert!(error.to_string().contains("signal 9"), "{error}");
            lost += 1;
        }
        all_gone(&killed).await;

        // The next step knows nothing of it.
        let step = sandbox
            .start(
                &succeed,
                spec(json!(null)),
                preopens(directory.path()),
                Stdin::Closed,
            )
            .unwrap();
        let ended = tokio::time::timeout(PATIENCE, step.outcome())
            .await
            .unwrap();
        assert!(ended.unwrap().verdict.is_success());
    }
    assert!(lost >= KILLS / 4, "{lost}");

    // And with the sandbox, its idle workers go.
    let idle = workers();
    assert!(!idle.is_empty());
    drop((endless, succeed));
    drop(sandbox);
    all_gone(&idle).await;
}
