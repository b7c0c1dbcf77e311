//! Events as lines of text.
//!
//! ```text
//! deploying  hello: 12 files, 48.0 KiB
//! sent       48.0 KiB in 12 ms
//! extract    unpack@0.1.0
//!            | wrote 12 files
//! extract    8 ms, 3.1 MiB memory, 40.2 KiB written in 14 entries, 1 line
//! succeeded  12 files, 40.2 KiB, in 214 ms
//! ```
//!
//! The first column says who speaks: a step, or the deployment itself. Steps run one after another, so a line
//! of a plugin stands under its step; should two ever run at once, a step's name is said again where it changes.

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Outcome;
use super::text::{self, Paint, bytes, count, duration, escaped};
use crate::api::upload::Progress;
use crate::event::{Event, Kind, Receipt};

/// Width of the first column: `activating` and a space.
const COLUMN: usize = 11;

/// How often a step's own progress becomes a line.
const PROGRESS: Duration = Duration::from_secs(10);

/// Longest value of an output that is shown.
const VALUE: usize = 200;

/// How long a deployment may be queued before that is worth a line.
const QUEUED: Duration = Duration::from_secs(2);

/// Shortest wait for the upload that a receipt mentions.
const WAITED_MS: u64 = 100;

/// Turns events into lines, and knows what runs at the moment.
#[derive(Debug)]
pub(crate) struct Transcript {
    paint: Paint,
    /// Typed outputs are lines too. They are for programs: who watches a deployment has the plugin's own words.
    outputs: bool,
    running: Vec<Running>,
    /// The step under whose name lines were last printed.
    speaker: Option<String>,
    /// What the deployment itself is at between steps, which has a clock and no line.
    stage: Option<Running>,
}

/// A step that has begun and not ended.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) step: String,
    pub(crate) since: Instant,
    /// Its last progress, in words.
    pub(crate) progress: Option<String>,
    /// Its progress became a line at this time, or it began.
    said: Instant,
}

impl Running {
    fn now(step: &str) -> Running {
        let now = Instant::now();
        Running {
            step: step.to_owned(),
            since: now,
            progress: None,
            said: now,
        }
    }
}

impl Transcript {
    pub(crate) fn new(paint: Paint) -> Transcript {
        Transcript {
            paint,
            outputs: false,
            running: Vec::new(),
            speaker: None,
            stage: None,
        }
    }

    /// Shows typed outputs too.
    pub(crate) fn with_outputs(mut self) -> Transcript {
        self.outputs = true;
        self
    }

    /// What runs now.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Running> {
        self.running.iter().chain(&self.stage)
    }

    /// Appends the lines that `event` is worth to `out`.
    pub(crate) fn event(&mut self, event: &Event, out: &mut String) {
        let step = event.step.as_deref();
        match &event.kind {
            Kind::Phase { status, plugin } => {
                self.phase(step, status.as_deref(), plugin.as_deref(), out);
            }
            Kind::Line {
                stderr,
                text,
                truncated,
            } => {
                let mut line = escaped(text);
                if *stderr {
                    line = self.paint.yellow(&line);
                }
                if *truncated {
                    line.push_str(&self.paint.dim(" [cut]"));
                }
                self.under(step, &line, out);
            }
            Kind::Progress { done, total, label } => {
                self.progress(step, *done, *total, label, out);
            }
            Kind::Warning { text } => {
                let line = format!("{} {}", self.paint.yellow("warning:"), escaped(text));
                self.under(step, &line, out);
            }
            Kind::Output { name, value } if self.outputs => {
                let mut value = escaped(&value.to_string());
                if value.chars().count() > VALUE {
                    value = value.chars().take(VALUE).collect::<String>() + "...";
                }
                let line = self.paint.dim(&format!("{} = {value}", escaped(name)));
                self.under(step, &line, out);
            }
            Kind::Dropped { lines, bytes } => {
                let line = format!(
                    "{} ({}) over the step's output limit are not kept",
                    count(*lines, "line"),
                    text::bytes(*bytes)
                );
                self.under(step, &self.paint.yellow(&line), out);
            }
            Kind::Receipt(receipt) => {
                let name = step.unwrap_or("step").to_owned();
                self.running.retain(|running| running.step != name);
                self.speaker = None;
                say(
                    out,
                    &self.paint.cyan(&column(&name)),
                    &used(receipt, self.paint),
                );
                if !receipt.unused.is_empty() {
                    let unused = escaped(&receipt.unused.join(", "));
                    say(
                        out,
                        &self.paint.cyan(&column(&name)),
                        &format!("granted and not used: {unused}"),
                    );
                }
            }
            // The end says why, with everything that the record knows.
            Kind::Error(_) | Kind::Done { .. } => self.close(),
            Kind::Resumed { from } => {
                self.running.clear();
                let text = format!("from {}, after a restart of the server", escaped(from));
                say(out, &self.paint.cyan(&column("resumed")), &text);
            }
            Kind::Output { .. } | Kind::Resync | Kind::Other => {}
        }
    }

    /// Says once that the deployment is waiting for its turn, when it has been for a while.
    pub(crate) fn waiting(&mut self, out: &mut String) {
        let Some(stage) = self.stage.as_mut().filter(|stage| stage.step == "queued") else {
            return;
        };
        if stage.progress.is_none() && stage.since.elapsed() >= QUEUED {
            let words = "behind another deployment of this project";
            stage.progress = Some(words.to_owned());
            say(out, &column("queued"), words);
        }
    }

    /// Nothing runs any more.
    pub(crate) fn close(&mut self) {
        self.running.clear();
        self.stage = None;
        self.speaker = None;
    }

    fn phase(
        &mut self,
        step: Option<&str>,
        status: Option<&str>,
        plugin: Option<&str>,
        out: &mut String,
    ) {
        self.stage = None;
        match (step, status) {
            // It waits for others to end.
            (Some(_), Some("queued")) => self.stage = Some(Running::now("queued")),
            (Some(step), _) => self.start(step, plugin, out),
            (None, Some(stage @ ("queued" | "activating"))) => {
                self.stage = Some(Running::now(stage));
            }
            _ => {}
        }
    }

    fn start(&mut self, step: &str, plugin: Option<&str>, out: &mut String) {
        if self.running.iter().any(|running| running.step == step) {
            return;
        }
        self.running.push(Running::now(step));
        self.speaker = Some(step.to_owned());
        let plugin = escaped(plugin.unwrap_or_default());
        say(
            out,
            &self.paint.cyan(&column(step)),
            &self.paint.dim(&plugin),
        );
    }

    /// A line under its step.
    fn under(&mut self, step: Option<&str>, line: &str, out: &mut String) {
        if let Some(step) = step {
            self.start(step, None, out);
            if self.speaker.as_deref() != Some(step) {
                self.speaker = Some(step.to_owned());
                say(out, &self.paint.cyan(&column(step)), "");
            }
        }
        say(out, &column(""), &format!("{} {line}", self.paint.dim("|")));
    }

    fn progress(
        &mut self,
        step: Option<&str>,
        done: u64,
        total: Option<u64>,
        label: &str,
        out: &mut String,
    ) {
        let Some(step) = step else { return };
        self.start(step, None, out);
        let words = far(done, total, label);
        let mut due = false;
        if let Some(running) = self.running.iter_mut().find(|running| running.step == step) {
            due = running.said.elapsed() >= PROGRESS;
            if due {
                running.said = Instant::now();
            }
            running.progress = Some(words.clone());
        }
        if due {
            self.under(Some(step), &self.paint.dim(&words), out);
        }
    }
}

/// The first line: what goes where.
pub(super) fn begin(
    out: &mut String,
    paint: Paint,
    project: &str,
    files: Option<u64>,
    size: Option<u64>,
) {
    let what: Vec<String> = files
        .map(|files| count(files, "file"))
        .into_iter()
        .chain(size.map(bytes))
        .collect();
    let mut line = paint.bold(project);
    if !what.is_empty() {
        let _ = write!(line, ": {}", what.join(", "));
    }
    say(out, &column("deploying"), &line);
}

/// The upload is through: how much was sent for it, in all attempts.
pub(super) fn sent(out: &mut String, paint: Paint, progress: &Progress, taken: Duration) {
    let sent = progress.sent;
    let rate = text::rate(sent, taken).map_or_else(String::new, |rate| format!(", {rate}"));
    let mut line = format!("{} in {}{rate}", bytes(sent), duration(taken));
    if progress.spared > 0 {
        let _ = write!(line, ", {} spared", bytes(progress.spared));
    }
    say(out, &column("sent"), &paint.dim(&line));
}

/// The connection broke, and what was sent is taken up again.
pub(super) fn broke(out: &mut String, paint: Paint, progress: &Progress) {
    let line = format!("after {}, resuming", bytes(progress.at));
    say(out, &column("broken"), &paint.yellow(&line));
}

/// The upload is under way.
pub(super) fn sending(out: &mut String, progress: &Progress, total: Option<u64>, taken: Duration) {
    let sent = progress.at;
    if sent == 0 && progress.compared > 0 {
        let total = total.map_or_else(String::new, |total| format!(" of {}", bytes(total)));
        let line = format!("{}{total}", bytes(progress.compared));
        say(out, &column("comparing"), &line);
        return;
    }
    let total = progress.total.or(total);
    let total = total.map_or_else(String::new, |total| format!(" of {}", bytes(total)));
    let rate = text::rate(progress.sent, taken);
    let rate = rate.map_or_else(String::new, |rate| format!(", {rate}"));
    say(
        out,
        &column("sending"),
        &format!("{}{total}{rate}", bytes(sent)),
    );
}

/// The last lines: how it ended, and why.
pub(super) fn end(out: &mut String, paint: Paint, outcome: &Outcome, taken: Option<Duration>) {
    let taken = |before: &str| {
        taken.map_or_else(String::new, |taken| format!("{before} {}", duration(taken)))
    };
    if outcome.succeeded() {
        let number = |path: &str| outcome.record.pointer(path).and_then(Value::as_u64);
        let mut what: Vec<String> = number("/release/files")
            .map(|files| count(files, "file"))
            .into_iter()
            .chain(number("/release/bytes").map(bytes))
            .collect();
        what.extend(Some(taken("in")).filter(|taken| !taken.is_empty()));
        if outcome.url.is_none() {
            what.push("no service, so there is nothing to open".to_owned());
        }
        say(out, &paint.green(&column("succeeded")), &what.join(", "));
        return;
    }
    let problem = outcome.problem.clone().unwrap_or_default();
    let mut line = escaped(&problem.code);
    if let Some(step) = &problem.step {
        let _ = write!(line, " in {}", escaped(step));
    }
    line.push_str(&taken(" after"));
    let status = escaped(&outcome.status);
    say(out, &paint.red(&column(&status)), &line);
    for part in problem.message.trim_end().split('\n') {
        say(out, &column(""), &escaped(part));
    }
    if !problem.lines.is_empty() {
        say(out, &column("last lines"), "");
        for part in &problem.lines {
            quote(out, paint, &escaped(part));
        }
    }
    if let Some(advice) = cofferdam_deploy::hint::of(&problem.code) {
        let advice = advice.replace(" ID`", &format!(" {}`", outcome.id));
        say(out, &column("what to do"), &advice);
    }
}

/// How far a step is, in words. A label that begins with `bytes` says what is counted.
fn far(done: u64, total: Option<u64>, label: &str) -> String {
    let sizes = label
        .strip_prefix("bytes")
        .filter(|rest| rest.is_empty() || rest.starts_with(','));
    let (figure, label): (fn(u64) -> String, &str) = match sizes {
        Some(rest) => (bytes, rest.trim_start_matches([',', ' '])),
        None => (|number| number.to_string(), label),
    };
    let mut words = figure(done);
    if let Some(total) = total {
        let _ = write!(words, " of {}", figure(total));
    }
    if !label.is_empty() {
        let separator = if sizes.is_some() { ", " } else { " " };
        let _ = write!(words, "{separator}{}", escaped(label));
    }
    words
}

/// What a step used, in one line; how it ended, when that was not well.
fn used(receipt: &Receipt, paint: Paint) -> String {
    let mut parts = Vec::new();
    let ended = receipt
        .status
        .as_deref()
        .filter(|status| *status != "succeeded");
    match (ended, receipt.wall_ms) {
        (Some(status), Some(ms)) => {
            let taken = duration(Duration::from_millis(ms));
            parts.push(format!("{} after {taken}", paint.red(&escaped(status))));
        }
        (Some(status), None) => parts.push(paint.red(&escaped(status))),
        (None, Some(ms)) => parts.push(duration(Duration::from_millis(ms))),
        (None, None) => {}
    }
    if let Some(ms) = receipt.waited_ms.filter(|ms| *ms >= WAITED_MS) {
        let waited = duration(Duration::from_millis(ms));
        parts.push(format!("{waited} waiting for the package"));
    }
    if let Some(memory) = receipt.peak_memory_bytes {
        parts.push(format!("{} memory", bytes(memory)));
    }
    if let Some(written) = receipt.bytes_written.filter(|written| *written > 0) {
        let files = receipt
            .files_created
            .map_or_else(String::new, |files| match files {
                1 => " in 1 entry".to_owned(),
                _ => format!(" in {files} entries"),
            });
        parts.push(format!("{} written{files}", bytes(written)));
    }
    if let Some(lines) = receipt.lines {
        parts.push(count(lines, "line"));
    }
    if let Some(dropped) = receipt.dropped_lines.filter(|dropped| *dropped > 0) {
        parts.push(format!("{dropped} dropped"));
    }
    parts.join(", ")
}

/// The first column's text, padded before it is coloured.
fn column(name: &str) -> String {
    format!("{:<COLUMN$}", escaped(name))
}

/// A line of a plugin's.
fn quote(out: &mut String, paint: Paint, line: &str) {
    let line = format!("{} {line}", paint.dim("|"));
    say(out, &column(""), line.trim_end());
}

fn say(out: &mut String, column: &str, line: &str) {
    let column = if line.is_empty() {
        column.trim_end()
    } else {
        column
    };
    out.push_str(column);
    // A name that fills the column still ends before the line begins.
    if !line.is_empty() && !column.contains(' ') && !column.contains('\x1b') {
        out.push(' ');
    }
    out.push_str(line);
    out.push('\n');
}

#[cfg(test)]
mod tests;
