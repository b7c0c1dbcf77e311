//! `cofferdam events` and `cofferdam log`: what happened, live or as recorded.

use std::io::IsTerminal;

use crate::api::Api;
use crate::api::follow::Follow;
use crate::api::follow_project::FollowProject;
use crate::args::{EventsArgs, OneArgs};
use crate::cmd::print;
use crate::event::Event;
use crate::exit::Failure;
use crate::project::Project;
use crate::ui::text::{Paint, escaped};
use crate::ui::{Outcome, Transcript};

/// Follows a deployment to its end.
pub(crate) async fn events(arguments: &EventsArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    if let Some(project) = &arguments.follow {
        return follow_project(&api, project, arguments.json).await;
    }
    let given = arguments.id.as_deref().unwrap_or_default();
    let id = api.resolve(given).await?;
    let mut follow = Follow::of(&api, id.clone(), arguments.after);
    let mut printer = Printer::new(arguments.json);
    while let Some(events) = follow.next().await? {
        for event in &events {
            printer.event(event);
        }
        printer.flush()?;
    }
    let outcome = Outcome::of(&id, api.record(&id).await?);
    if !arguments.json {
        printer.end(&outcome);
        printer.flush()?;
    }
    outcome.into_result()
}

/// Follows a project through all its deployments. It ends with a signal, or with the server.
async fn follow_project(api: &Api, project: &Project, json: bool) -> Result<(), Failure> {
    let mut follow = FollowProject::of(api, project);
    let mut printer = Printer::new(json);
    let mut deployment: Option<String> = None;
    loop {
        for event in &follow.next().await? {
            if event.deployment != deployment && event.deployment.is_some() {
                deployment.clone_from(&event.deployment);
                if !json {
                    // Steps of one are no steps of another.
                    printer.begin(deployment.as_deref().unwrap_or_default());
                }
            }
            printer.event(event);
        }
        printer.flush()?;
    }
}

/// Prints the recorded log.
pub(crate) async fn log(arguments: &OneArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let id = api.resolve(&arguments.id).await?;
    let mut answer = api.log(&id).await?;
    let mut printer = Printer::new(arguments.json);
    let mut rest = Vec::new();
    loop {
        let part = answer.chunk().await.map_err(|error| api.broken(&error))?;
        let Some(part) = part else { break };
        rest.extend_from_slice(&part);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
            continue;
        };
        let whole: Vec<u8> = rest.drain(..=end).collect();
        printer.recorded(&whole);
        printer.flush()?;
    }
    printer.recorded(&rest);
    printer.flush()
}

/// Events on standard output: JSON lines, or a transcript.
struct Printer {
    json: bool,
    paint: Paint,
    transcript: Transcript,
    out: String,
}

impl Printer {
    fn new(json: bool) -> Printer {
        let paint = Paint::for_terminal(std::io::stdout().is_terminal());
        Printer {
            json,
            paint,
            transcript: Transcript::new(paint).with_outputs(),
            out: String::new(),
        }
    }

    /// Another deployment speaks from here on.
    fn begin(&mut self, id: &str) {
        self.transcript.close();
        self.transcript = Transcript::new(self.paint).with_outputs();
        self.out.push_str(&format!("deployment {}\n", escaped(id)));
    }

    fn event(&mut self, event: &Event) {
        if self.json {
            self.out.push_str(&serde_json::json!(event.raw).to_string());
            self.out.push('\n');
        } else {
            self.transcript.event(event, &mut self.out);
        }
    }

    /// Whole lines of a recorded log: JSON, or text from a server that has no JSON for it.
    fn recorded(&mut self, lines: &[u8]) {
        for line in String::from_utf8_lossy(lines).lines() {
            if line.starts_with('{') {
                self.event(&Event::read("", line));
            } else {
                self.out.push_str(&escaped(line));
                self.out.push('\n');
            }
        }
    }

    fn end(&mut self, outcome: &Outcome) {
        self.transcript.close();
        crate::ui::ended(&mut self.out, self.paint, outcome);
    }

    fn flush(&mut self) -> Result<(), Failure> {
        print(&std::mem::take(&mut self.out))
    }
}
