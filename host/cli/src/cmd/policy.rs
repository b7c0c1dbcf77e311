//! `cofferdam policy check`: what a package would get, which rule decided, and what is refused.

use std::time::Duration;

use cofferdam_deploy::Policy;
use serde_json::Value;

use crate::args::{PolicyCheckArgs, PolicyCommand};
use crate::cmd::{print, text_at};
use crate::deployment::{Job, judged};
use crate::exit::Failure;
use crate::ui::text::{bytes, duration};

pub(crate) async fn run(command: &PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Check(arguments) => check(arguments).await,
    }
}

async fn check(arguments: &PolicyCheckArgs) -> Result<(), Failure> {
    let job = Job::new(&arguments.package())?;
    let check = match &arguments.policy {
        Some(file) => job.check_against(&Policy::read(file)?)?,
        None => job.check(&arguments.client.api()?).await?,
    };
    print(&if arguments.json {
        format!("{check}\n")
    } else {
        shown(&check)
    })?;
    judged(&check)
}

/// The answer for a person: a paragraph for each step.
fn shown(check: &Value) -> String {
    let mut out = String::new();
    for step in array(check, "steps") {
        out.push_str(&format!(
            "{}  {}\n",
            text_at(step, "/step"),
            text_at(step, "/plugin")
        ));
        for finding in array(step, "findings") {
            let granted = finding.get("granted").and_then(Value::as_bool) == Some(true);
            out.push_str(&format!(
                "  {}  {} {}  ({})\n",
                if granted { "granted" } else { "refused" },
                text_at(finding, "/capability"),
                text_at(finding, "/asked"),
                text_at(finding, "/rule"),
            ));
            if !granted {
                out.push_str(&format!("           {}\n", text_at(finding, "/reason")));
            }
        }
        out.push_str(&format!("  limits   {}\n", limits(step)));
    }
    out
}

/// The limits that people ask about, with units.
fn limits(step: &Value) -> String {
    let number = |name: &str| {
        step.pointer(&format!("/limits/{name}"))
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    let time = |name: &str| duration(Duration::from_millis(number(name)));
    format!(
        "memory {}, wall {}, cpu {}, disk {} in {} files, output {}",
        bytes(number("memory_bytes")),
        time("wall_ms"),
        time("cpu_ms"),
        bytes(number("disk_bytes")),
        number("files"),
        bytes(number("output_bytes")),
    )
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}
