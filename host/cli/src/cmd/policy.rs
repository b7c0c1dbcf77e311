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

/// The answer for a person: a paragraph for each step, and for each service that is known by now.
fn shown(check: &Value) -> String {
    let mut out = String::new();
    for step in array(check, "steps") {
        out.push_str(&format!(
            "{}  {}\n",
            text_at(step, "/step"),
            text_at(step, "/plugin")
        ));
        out.push_str(&findings(step));
        out.push_str(&format!("  limits   {}\n", limits(step)));
    }
    for service in array(check, "services") {
        out.push_str(&format!("service {}\n", text_at(service, "/service")));
        out.push_str(&findings(service));
        out.push_str(&format!("  limits   {}\n", limits_of_service(service)));
    }
    out
}

/// A line or two for each thing that was asked for.
fn findings(of: &Value) -> String {
    let mut out = String::new();
    for finding in array(of, "findings") {
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
    out
}

/// The limits that people ask about, with units.
fn limits(step: &Value) -> String {
    format!(
        "memory {}, wall {}, cpu {}, disk {} in {} files, output {}",
        bytes(limit(step, "memory_bytes")),
        time(step, "wall_ms"),
        time(step, "cpu_ms"),
        bytes(limit(step, "disk_bytes")),
        limit(step, "files"),
        bytes(limit(step, "output_bytes")),
    )
}

/// What one request to a service may use.
fn limits_of_service(service: &Value) -> String {
    format!(
        "for each request: memory {}, wall {}, cpu {}, {} requests out",
        bytes(limit(service, "memory_bytes")),
        time(service, "wall_ms"),
        time(service, "cpu_ms"),
        limit(service, "requests"),
    )
}

fn limit(of: &Value, name: &str) -> u64 {
    of.pointer(&format!("/limits/{name}"))
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

fn time(of: &Value, name: &str) -> String {
    duration(Duration::from_millis(limit(of, name)))
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}
