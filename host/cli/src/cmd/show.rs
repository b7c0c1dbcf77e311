//! `cofferdam show`: one deployment, for people.

use serde_json::Value;

use crate::args::OneArgs;
use crate::cmd::{print, table, text_at, time_at};
use crate::event::{Problem, Receipt};
use crate::exit::Failure;
use crate::ui::text::{bytes, duration, escaped};

pub(crate) async fn run(arguments: &OneArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let id = api.resolve(&arguments.id).await?;
    let record = api.record(&id).await?;
    if arguments.json {
        return print(&format!("{record}\n"));
    }
    print(&page(&record))
}

fn page(record: &Value) -> String {
    let size = |pointer: &str| {
        let number = record.pointer(pointer).and_then(Value::as_u64);
        number.map_or_else(|| "-".to_owned(), bytes)
    };
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        if value != "-" {
            out.push_str(&format!("{name:<10} {value}\n"));
        }
    };
    line("deployment", &text_at(record, "/id"));
    line("project", &text_at(record, "/project"));
    line("status", &text_at(record, "/status"));
    line("message", &text_at(record, "/message"));
    line("created", &time_at(record, "/created_at"));
    line("finished", &time_at(record, "/finished_at"));
    let received = size("/package/received");
    line(
        "package",
        &match size("/package/bytes").as_str() {
            "-" => format!("{received} received"),
            whole => format!("{whole}, {}", text_at(record, "/package/media_type")),
        },
    );
    line("blake3", &text_at(record, "/package/blake3"));
    if record
        .get("release")
        .is_some_and(|release| !release.is_null())
    {
        let files = text_at(record, "/release/files");
        line(
            "release",
            &format!("{files} files, {}", size("/release/bytes")),
        );
        line("digest", &text_at(record, "/release/digest"));
        line("url", &text_at(record, "/release/url"));
    }
    if let Some(problem) = record
        .get("error")
        .and_then(Value::as_object)
        .map(Problem::read)
    {
        line("error", &escaped(&problem.code));
        line(
            "step",
            problem
                .step
                .as_deref()
                .map(escaped)
                .as_deref()
                .unwrap_or("-"),
        );
        for part in problem.message.trim_end().split('\n') {
            line("", &escaped(part));
        }
        for part in &problem.lines {
            line("", &format!("| {}", escaped(part)));
        }
    }
    let steps = record.get("steps").and_then(Value::as_array);
    let rows: Vec<Vec<String>> = steps.into_iter().flatten().map(step).collect();
    if !rows.is_empty() {
        out.push('\n');
        out.push_str(&table(
            &["STEP", "PLUGIN", "STATUS", "TIME", "MEMORY", "WRITTEN"],
            &rows,
        ));
    }
    out
}

fn step(step: &Value) -> Vec<String> {
    let receipt = step.get("receipt").and_then(Value::as_object);
    let receipt = receipt.map(Receipt::read).unwrap_or_default();
    let size = |figure: Option<u64>| figure.map_or_else(|| "-".to_owned(), bytes);
    let wall = receipt.wall_ms.map(std::time::Duration::from_millis);
    vec![
        text_at(step, "/name"),
        text_at(step, "/plugin"),
        text_at(step, "/status"),
        wall.map_or_else(|| "-".to_owned(), duration),
        size(receipt.peak_memory_bytes),
        size(receipt.bytes_written),
    ]
}
