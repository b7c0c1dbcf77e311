//! `docs/writing-plugins.md`, done as it says: its files are written, its commands run, and what it shows is what
//! they print.
//!
//! A fenced block whose language is followed by a path is a file. One of the language `console` is a session: after
//! `$ ` stands a command, below it what it prints, where `…` is anything, on a line of its own any lines, and
//! `[exit code N]` how it ends when that is not with success. Other blocks are only shown.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::authoring::{TARGET, lock};
use crate::server::Server;

const DOCUMENT: &str = include_str!("../../docs/writing-plugins.md");

/// One thing that a reader does.
#[derive(Debug, PartialEq)]
enum Act<'a> {
    Write {
        path: &'a str,
        text: String,
    },
    Run {
        command: &'a str,
        shown: Vec<&'a str>,
        code: i32,
    },
}

fn acts(document: &str) -> Vec<Act<'_>> {
    let mut acts = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if info == "console" {
            for line in block {
                if let Some(command) = line.strip_prefix("$ ") {
                    acts.push(Act::Run {
                        command,
                        shown: Vec::new(),
                        code: 0,
                    });
                    continue;
                }
                let Some(Act::Run { shown, code, .. }) = acts.last_mut() else {
                    panic!("output before any command: {line}");
                };
                match line
                    .strip_prefix("[exit code ")
                    .and_then(|rest| rest.strip_suffix(']'))
                {
                    Some(number) => *code = number.parse().unwrap(),
                    None => shown.push(line),
                }
            }
        } else if let Some((_, path)) = info.split_once(' ') {
            let text = block.iter().map(|line| format!("{line}\n")).collect();
            acts.push(Act::Write { path, text });
        }
    }
    acts
}

/// Whether a line is what is shown, where `…` stands for anything.
fn fits(shown: &str, line: &str) -> bool {
    let mut parts = shown.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let mut open = false;
    for part in parts {
        open = true;
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || (open && shown.ends_with('…'))
}

/// Whether lines are what is shown, where a line `…` stands for any lines.
fn all_fit(shown: &[&str], lines: &[&str]) -> bool {
    match (shown, lines) {
        ([], []) => true,
        (["…", rest @ ..], _) => {
            (0..=lines.len()).any(|skipped| all_fit(rest, &lines[skipped..]))
        }
        ([first, rest @ ..], [line, more @ ..]) => fits(first, line) && all_fit(rest, more),
        _ => false,
    }
}

/// A shell that stays where it was between two commands.
struct Shell<'a> {
    server: &'a Server,
    place: &'a Path,
    directory: PathBuf,
}

impl Shell<'_> {
    /// Runs a command; returns its exit code and what it printed, cargo's own reports left out.
    fn run(&mut self, command: &str) -> (i32, String) {
        let at = self.place.join("at");
        let script = format!("{command}\ncode=$?\npwd > {}\nexit $code", at.display());
        let binary = Path::new(env!("CARGO_BIN_EXE_cofferdam"));
        let mut path = vec![binary.parent().unwrap().to_owned()];
        path.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        let output = Command::new("bash")
            .args(["-c", &format!("exec 2>&1\n{script}")])
            .current_dir(&self.directory)
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("COFFERDAM_URL", self.server.url(""))
            .env("COFFERDAM_TOKEN", &self.server.token)
            .env("CARGO_NET_OFFLINE", "true")
            .env_remove("COFFERDAM_BIN")
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .output()
            .unwrap();
        self.directory = PathBuf::from(std::fs::read_to_string(at).unwrap().trim_end());
        let printed: String = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|line| !is_cargos(line))
            .map(|line| format!("{line}\n"))
            .collect();
        (output.status.code().unwrap(), printed)
    }
}

/// `   Compiling serde v1.0.0`: a word that ends in the twelfth column.
fn is_cargos(line: &str) -> bool {
    [
        "Compiling",
        "Finished",
        "Locking",
        "Adding",
        "Blocking",
        "Removing",
    ]
    .iter()
    .any(|word| line.starts_with(&format!("{word:>12} ")))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tutorial_is_true() {
    let server = Server::start();
    let place = tempfile::tempdir().unwrap();
    let mut shell = Shell {
        server: &server,
        place: place.path(),
        directory: place.path().to_owned(),
    };
    let acts = acts(DOCUMENT);
    assert!(acts.len() > 12, "{acts:?}");
    for act in acts {
        match act {
            Act::Write { path, text } => {
                let path = shell.directory.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Act::Run {
                command,
                shown,
                code,
            } => {
                let (ended, printed) = shell.run(command);
                assert_eq!(ended, code, "$ {command}\n{printed}\n{}", server.log());
                let lines: Vec<&str> = printed.lines().collect();
                assert!(
                    all_fit(&shown, &lines),
                    "$ {command}\nshown:\n{}\nprinted:\n{printed}",
                    shown.join("\n")
                );
                if command.starts_with("cofferdam plugin new ") {
                    // What others have compiled already, in the versions that are here.
                    let directory = shell.directory.join("sitemap");
                    lock(&directory);
                    std::fs::create_dir_all(TARGET).unwrap();
                    std::os::unix::fs::symlink(TARGET, directory.join("target")).unwrap();
                }
            }
        }
    }
    let (status, sitemap) = server.serves("mapped", "/sitemap.txt").await;
    assert_eq!(
        (status, sitemap.as_str()),
        (200, "https://mapped.example/\n")
    );
}

#[test]
fn a_shown_line_may_leave_things_open() {
    assert!(fits("passed     site …", "passed     site  12 ms"));
    assert!(fits("a…c", "abc") && fits("a…c", "ac") && !fits("a…c", "abcd"));
    assert!(!fits("a", "ab"));
    assert!(all_fit(&["a", "…", "d"], &["a", "b", "c", "d"]));
    assert!(!all_fit(&["a", "d"], &["a", "b", "d"]));
}
