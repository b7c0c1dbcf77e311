//! What a person, or a script, sees of a deployment.
//!
//! [`transcript`] turns events into lines, the same ones everywhere. On a terminal [`live`] keeps moving lines
//! below them (the upload's bar, a clock per running step); elsewhere the lines stand alone, and with `--json`
//! every event is one line of JSON on standard output. Whatever a plugin or a server said passes
//! [`text::escaped`] before it reaches a terminal.

mod live;
pub(crate) mod text;
mod transcript;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::upload::Progress;
use crate::event::{Event, Problem};
use crate::exit::Failure;
use live::Live;
pub(crate) use text::Paint;
pub(crate) use transcript::Transcript;

/// How often an upload without a terminal says how far it is: often enough for a CI that ends what is silent.
const STILL_SENDING: Duration = Duration::from_secs(10);

/// Shows one deployment from the packing to the URL.
#[derive(Debug)]
pub(crate) struct Ui {
    screen: Screen,
    paint: Paint,
    transcript: Transcript,
    lines: String,
    began: Instant,
    upload: Option<Upload>,
    /// How often it was said that the connection broke.
    breaks: u64,
    /// The last attempt of which it was said that it is through.
    through: Option<u64>,
    /// The package's bytes, if they are known.
    total: Option<u64>,
}

#[derive(Debug)]
enum Screen {
    /// Lines with moving ones below them, on standard error.
    Live(Live),
    /// Lines on standard error.
    Plain,
    /// JSON lines on standard output.
    Json,
}

/// An upload that is under way.
#[derive(Debug)]
struct Upload {
    began: Instant,
    said: Instant,
    total: Option<u64>,
}

/// How a deployment ended, as its record has it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) id: String,
    pub(crate) status: String,
    pub(crate) url: Option<String>,
    pub(crate) problem: Option<Problem>,
    pub(crate) record: Value,
}

impl Outcome {
    /// Reads a record.
    pub(crate) fn of(id: &str, record: Value) -> Outcome {
        let text = |value: Option<&Value>| Some(value?.as_str()?.to_owned());
        Outcome {
            id: id.to_owned(),
            status: text(record.get("status")).unwrap_or_default(),
            url: text(record.pointer("/release/url")),
            problem: record
                .get("error")
                .and_then(Value::as_object)
                .map(Problem::read),
            record,
        }
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.status == "succeeded"
    }

    /// Success, or the failure that ends the command.
    pub(crate) fn into_result(self) -> Result<(), Failure> {
        if self.succeeded() {
            return Ok(());
        }
        Err(Failure::Deployment {
            id: self.id,
            status: self.status,
        })
    }
}

/// How a deployment ended, for one that was not watched from its beginning.
pub(crate) fn ended(out: &mut String, paint: Paint, outcome: &Outcome) {
    transcript::end(out, paint, outcome, None);
    if let Some(url) = outcome.url.as_deref().filter(|_| outcome.succeeded()) {
        out.push_str(&text::escaped(url));
        out.push('\n');
    }
}

impl Ui {
    /// The way of showing that fits: JSON when asked for, moving lines on a terminal unless `quiet_lines`
    /// (something else writes there too), plain lines otherwise.
    pub(crate) fn new(json: bool, quiet_lines: bool) -> Ui {
        let terminal = io::stderr().is_terminal() && !text::is_dumb();
        let paint = Paint::for_terminal(io::stderr().is_terminal());
        let screen = if json {
            Screen::Json
        } else if terminal && !quiet_lines {
            Screen::Live(Live::new(paint))
        } else {
            Screen::Plain
        };
        Ui {
            screen,
            paint,
            transcript: Transcript::new(paint),
            lines: String::new(),
            began: Instant::now(),
            upload: None,
            breaks: 0,
            through: None,
            total: None,
        }
    }

    /// The package is known and its first byte is about to go.
    pub(crate) fn begin(&mut self, project: &str, files: Option<u64>, bytes: Option<u64>) {
        self.began = Instant::now();
        if !matches!(self.screen, Screen::Json) {
            transcript::begin(&mut self.lines, self.paint, project, files, bytes);
        }
        self.total = bytes;
        self.upload();
    }

    /// The package is about to be sent again.
    pub(crate) fn again(&mut self, why: &str) {
        self.transcript.close();
        self.note(why);
        self.upload();
    }

    fn upload(&mut self) {
        self.upload = Some(Upload {
            began: self.began,
            said: Instant::now(),
            total: self.total,
        });
        self.flush();
        if let Screen::Live(live) = &mut self.screen {
            live.upload(self.total);
        }
    }

    /// The upload is this far. Also moves whatever moves.
    pub(crate) fn tick(&mut self, progress: &Progress) {
        // What was all sent, and was then refused, is sent once more in another way.
        if self
            .through
            .is_some_and(|attempt| attempt < progress.attempt)
        {
            self.through = None;
            self.upload();
        }
        if let Some(upload) = &mut self.upload {
            let taken = upload.began.elapsed();
            let is_json = matches!(self.screen, Screen::Json);
            if progress.breaks > self.breaks && !is_json {
                self.breaks = progress.breaks;
                transcript::broke(&mut self.lines, self.paint, progress);
            }
            if progress.complete {
                if is_json {
                    let said = json!({
                        "kind": "sent",
                        "sent_bytes": progress.sent,
                        "spared_bytes": progress.spared,
                        "breaks": progress.breaks,
                    });
                    self.lines.push_str(&format!("{said}\n"));
                } else {
                    transcript::sent(&mut self.lines, self.paint, progress, taken);
                }
                self.upload = None;
                self.through = Some(progress.attempt);
            } else if matches!(self.screen, Screen::Plain) && upload.said.elapsed() > STILL_SENDING
            {
                upload.said = Instant::now();
                transcript::sending(&mut self.lines, progress, upload.total, taken);
            }
        }
        if !matches!(self.screen, Screen::Json) {
            self.transcript.waiting(&mut self.lines);
        }
        if let Screen::Live(live) = &mut self.screen {
            live.tick(progress, self.transcript.running());
        }
        self.flush();
    }

    /// Something happened. Shown at the next [`Ui::flush`], so that a flood of lines is written in one go.
    pub(crate) fn event(&mut self, event: &Event) {
        if let Screen::Json = self.screen {
            self.lines.push_str(&json!(event.raw).to_string());
            self.lines.push('\n');
        } else {
            self.transcript.event(event, &mut self.lines);
        }
    }

    /// Writes what was said since the last time.
    pub(crate) fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        // Where nobody reads any more, nobody is told.
        let _ = match &mut self.screen {
            Screen::Live(live) => live.print(&lines),
            Screen::Plain => io::stderr().write_all(lines.as_bytes()),
            Screen::Json => io::stdout().write_all(lines.as_bytes()),
        };
    }

    /// A remark of this program's own. Always on standard error.
    pub(crate) fn note(&mut self, note: &str) {
        let line = format!("{}\n", text::escaped_lines(note));
        let _ = match &mut self.screen {
            Screen::Live(live) => live.print(&line),
            Screen::Plain | Screen::Json => io::stderr().write_all(line.as_bytes()),
        };
    }

    /// The deployment is over: how it ended, why, and, if it `stays`, where it is to be seen. The URL alone goes
    /// to standard output, for a script to catch.
    pub(crate) fn end(&mut self, outcome: &Outcome, stays: bool) {
        self.transcript.close();
        if let Screen::Json = self.screen {
            let last = json!({ "kind": "record", "record": outcome.record });
            self.lines.push_str(&last.to_string());
            self.lines.push('\n');
            self.flush();
            return;
        }
        transcript::end(
            &mut self.lines,
            self.paint,
            outcome,
            Some(self.began.elapsed()),
        );
        self.flush();
        self.clear();
        let url = outcome.url.as_deref();
        if let Some(url) = url.filter(|_| stays && outcome.succeeded()) {
            let _ = writeln!(io::stdout(), "{}", text::escaped(url));
        }
    }

    /// Takes the moving lines away.
    pub(crate) fn clear(&mut self) {
        self.flush();
        if let Screen::Live(live) = &mut self.screen {
            live.clear();
        }
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        self.clear();
    }
}
