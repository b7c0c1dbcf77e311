//! `cofferdam plugin test`: runs a plugin in the real sandbox over fixtures and compares what it leaves and says
//! with what is recorded beside them. `docs/writing-plugins.md` describes the files.
//!
//! - `build`: from a crate to a component
//! - `fixture`: a fixture's directory, and how its step is run
//! - `events`: what a step says, in the form that is recorded
//! - `tree`: the files of a release
//! - `run`: one fixture, run in the sandbox
//! - `compare`: what differs from what is recorded, and recording it

mod build;
mod compare;
mod events;
mod fixture;
mod run;
mod tree;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_sandbox::{Component, Receipt, Sandbox, SandboxOptions};
use serde_json::json;

use crate::args::{Isolation, LandlockUse, PluginTestArgs};
use crate::cmd::{print, serve};
use crate::exit::{Failure, plain};
use crate::ui::Paint;
use crate::ui::text::{count, duration, escaped, escaped_lines};
use compare::Difference;
use fixture::Fixture;

/// Where a crate's fixtures are.
const FIXTURES: &str = "tests/fixtures";

pub(crate) async fn run(arguments: &PluginTestArgs) -> Result<(), Failure> {
    let (wasm, base) = component(&arguments.plugin, arguments.json)?;
    let directory = arguments
        .fixtures
        .clone()
        .unwrap_or_else(|| base.join(FIXTURES));
    let fixtures = Fixture::all(&directory, &arguments.fixture)?;
    let (sandbox, component) = admit(wasm).await?;

    let mut report = Report::new(arguments.json);
    for fixture in &fixtures {
        let ran = run::run(&sandbox, &component, fixture).await?;
        let differences = compare::with_recorded(fixture, &ran)?;
        let updated = arguments.update && !differences.is_empty();
        if updated {
            compare::record(fixture, &ran)?;
        }
        report.fixture(&fixture.name, &ran, &differences, updated)?;
    }
    report.end(fixtures.len(), &arguments.plugin)
}

/// The component's bytes, and the directory that its fixtures are sought in.
fn component(plugin: &Path, json: bool) -> Result<(Vec<u8>, PathBuf), Failure> {
    let (path, base) = if plugin.join("Cargo.toml").is_file() {
        (build::build(plugin, json)?, plugin.to_owned())
    } else if plugin.is_dir() {
        return Err(Failure::Usage(format!(
            "there is no Cargo.toml in {}: name a crate's directory or a .wasm file",
            plugin.display()
        )));
    } else {
        (plugin.to_owned(), PathBuf::from("."))
    };
    let wasm = std::fs::read(&path).map_err(|error| {
        Failure::Usage(format!("cannot read {}: {}", path.display(), plain(&error)))
    })?;
    Ok((wasm, base))
}

async fn admit(wasm: Vec<u8>) -> Result<(Sandbox, Component), Failure> {
    let admitted = tokio::task::spawn_blocking(move || {
        let mut options = SandboxOptions::default();
        // As a server runs it: behind both walls, and compiled within bounds.
        options.isolation = serve::isolation(Isolation::Worker, LandlockUse::Prefer);
        let sandbox = Sandbox::new(options)?;
        let component = sandbox.admit(&wasm)?;
        Ok::<_, cofferdam_sandbox::Error>((sandbox, component))
    });
    admitted
        .await
        .map_err(|error| Failure::Machine(error.into()))?
        .map_err(|error| Failure::refused(format!("the plugin is not admitted: {error}")))
}

/// Says how each fixture came out: prose on standard error, or JSON lines on standard output.
struct Report {
    json: bool,
    paint: Paint,
    failed: usize,
    updated: usize,
}

impl Report {
    fn new(json: bool) -> Report {
        Report {
            json,
            paint: Paint::for_terminal(std::io::stderr().is_terminal()),
            failed: 0,
            updated: 0,
        }
    }

    fn fixture(
        &mut self,
        name: &str,
        ran: &run::Ran,
        differences: &[Difference],
        updated: bool,
    ) -> Result<(), Failure> {
        let status = match (differences.is_empty(), updated) {
            (true, _) => "passed",
            (false, true) => "updated",
            (false, false) => "failed",
        };
        self.failed += usize::from(status == "failed");
        self.updated += usize::from(updated);
        if self.json {
            let differences: Vec<_> = differences
                .iter()
                .map(|difference| json!({ "path": difference.path, "what": difference.what }))
                .collect();
            return print(&format!(
                "{}\n",
                json!({
                    "kind": "fixture",
                    "name": name,
                    "status": status,
                    "end": ran.said.last(),
                    "digest": ran.digest,
                    "differences": differences,
                    "receipt": ran.receipt,
                })
            ));
        }
        let status = format!("{status:<10}");
        let painted = match status.trim_end() {
            "failed" => self.paint.red(&status),
            "updated" => self.paint.yellow(&status),
            _ => self.paint.green(&status),
        };
        let took = ran.receipt.as_ref().map_or(String::new(), took);
        let mut text = format!("{painted} {}{took}\n", escaped(name));
        if !updated {
            for difference in differences {
                text.push_str(&format!(
                    "  {}\n",
                    self.paint.bold(&escaped(&difference.path))
                ));
                for line in escaped_lines(&difference.what).lines() {
                    let line = match line.as_bytes().first() {
                        Some(b'+') => self.paint.green(line),
                        Some(b'-') => self.paint.red(line),
                        _ => line.to_owned(),
                    };
                    text.push_str(&format!("    {line}\n"));
                }
            }
            if let (false, Some(trap)) = (differences.is_empty(), &ran.trap) {
                for line in escaped_lines(trap).lines() {
                    text.push_str(&format!("  {line}\n"));
                }
            }
        }
        say(&text);
        Ok(())
    }

    fn end(&self, fixtures: usize, plugin: &Path) -> Result<(), Failure> {
        let passed = fixtures - self.failed - self.updated;
        if !self.json {
            let mut parts = vec![format!("{passed} passed")];
            if self.failed > 0 {
                parts.push(format!("{} failed", self.failed));
            }
            if self.updated > 0 {
                parts.push(format!("{} recorded anew", self.updated));
            }
            say(&format!("{}\n", parts.join(", ")));
        }
        if self.failed == 0 {
            return Ok(());
        }
        Err(Failure::Fixtures(format!(
            "{} came out differently than recorded; if that is how it should be: cofferdam plugin test {} --update",
            count(self.failed as u64, "fixture"),
            plugin.display()
        )))
    }
}

fn took(receipt: &Receipt) -> String {
    format!("  {}", duration(Duration::from_millis(receipt.wall_ms)))
}

fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
