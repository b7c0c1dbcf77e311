//! What differs from what is recorded, and recording it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use similar::TextDiff;

use super::events::{self, Said};
use super::fixture::{Fixture, invalid, text, unreadable};
use super::run::Ran;
use super::tree::{self, Node, Tree};
use crate::exit::{Failure, plain};

/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;

/// Lines of one difference that are shown: enough to see what it is about.
const LINES: usize = 60;

/// Where a fixture came out differently, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// The file in the fixture's directory.
    pub(super) path: String,
    /// A sentence, or a diff: `-` is what is recorded, `+` is what came out.
    pub(super) what: String,
}

/// Compares a run with what is recorded.
pub(super) fn with_recorded(fixture: &Fixture, ran: &Ran) -> Result<Vec<Difference>, Failure> {
    let mut differences = Vec::new();
    let root = fixture.expected();
    let recorded = tree::read(&root).map_err(|error| unreadable(&root, &error))?;
    match &ran.tree {
        Some(tree) => trees(&recorded, tree, &mut differences),
        // A step that failed or may change nothing leaves nothing to compare; how it ended is told below.
        None if root.exists() && ran.receipt.is_some() && ended_well(&ran.said) => {
            differences.push(Difference {
                path: "expected/".to_owned(),
                what: "a load step changes no file: remove this directory".to_owned(),
            });
        }
        None => {}
    }
    let path = fixture.expected_events();
    let name = "expected.events.jsonl".to_owned();
    match text(&path)? {
        None => differences.push(Difference {
            path: name,
            what: "nothing is recorded yet".to_owned(),
        }),
        Some(text) => {
            let recorded = events::read(&text).map_err(|error| invalid(&path, &error))?;
            if recorded != ran.said {
                let (recorded, said) = (events::text(&recorded), events::text(&ran.said));
                differences.push(Difference {
                    path: name,
                    what: diff(&recorded, &said),
                });
            }
        }
    }
    Ok(differences)
}

fn ended_well(said: &[Said]) -> bool {
    matches!(
        said.last(),
        Some(Said::Done {
            status: events::End::Succeeded,
            ..
        })
    )
}

fn trees(recorded: &Tree, found: &Tree, differences: &mut Vec<Difference>) {
    let paths: BTreeSet<_> = recorded.keys().chain(found.keys()).collect();
    for path in paths {
        let what = match (recorded.get(path), found.get(path)) {
            (Some(recorded), Some(found)) if recorded == found => continue,
            (Some(recorded), Some(found)) => nodes(recorded, found),
            (Some(_), None) => "is recorded and was not left".to_owned(),
            (None, Some(Node::File { bytes, .. })) => {
                format!("was left and is not recorded ({} bytes)", bytes.len())
            }
            (None, _) => "was left and is not recorded".to_owned(),
        };
        differences.push(Difference {
            path: format!("expected/{}", path.display()),
            what,
        });
    }
}

fn nodes(recorded: &Node, found: &Node) -> String {
    match (recorded, found) {
        (
            Node::File {
                bytes: before,
                executable,
            },
            Node::File {
                bytes: after,
                executable: now,
            },
        ) => {
            let mut what = Vec::new();
            if executable != now {
                let word = |executable: bool| if executable { "" } else { "not " };
                what.push(format!(
                    "is recorded as {}executable and was left {}executable",
                    word(*executable),
                    word(*now)
                ));
            }
            if before != after {
                what.push(match (str::from_utf8(before), str::from_utf8(after)) {
                    (Ok(before), Ok(after)) => diff(before, after),
                    _ => binary(before, after),
                });
            }
            what.join("\n")
        }
        (Node::Link { target }, Node::Link { target: now }) => format!(
            "is recorded as a link to {} and was left as one to {}",
            target.display(),
            now.display()
        ),
        (Node::Link { .. }, Node::File { .. }) => {
            "is recorded as a link and was left as a file".to_owned()
        }
        (Node::File { .. }, Node::Link { .. }) => {
            "is recorded as a file and was left as a link".to_owned()
        }
    }
}

fn binary(before: &[u8], after: &[u8]) -> String {
    let at = before
        .iter()
        .zip(after)
        .position(|(before, after)| before != after)
        .unwrap_or(before.len().min(after.len()));
    format!(
        "differs from byte {at} on; {} bytes are recorded, {} were left",
        before.len(),
        after.len()
    )
}

fn diff(recorded: &str, found: &str) -> String {
    let diff = TextDiff::from_lines(recorded, found);
    let mut unified = diff.unified_diff();
    let text = unified.context_radius(CONTEXT).to_string();
    let lines = text.lines().count();
    if lines <= LINES {
        return text.trim_end().to_owned();
    }
    let mut shown: Vec<&str> = text.lines().take(LINES).collect();
    let rest = format!("... and {} lines more", lines - LINES);
    shown.push(&rest);
    shown.join("\n")
}

/// Makes what came out the recorded form.
pub(super) fn record(fixture: &Fixture, ran: &Ran) -> Result<(), Failure> {
    let root = fixture.expected();
    let recorded = remove(&root).and_then(|()| match &ran.tree {
        Some(tree) => tree::write(&root, tree),
        None => Ok(()),
    });
    recorded.map_err(|error| unwritable(&root, &error))?;
    let path = fixture.expected_events();
    fs::write(&path, events::text(&ran.said)).map_err(|error| unwritable(&path, &error))
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot write {}: {}", path.display(), plain(error));
    Failure::Machine(anyhow::Error::msg(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &[u8], executable: bool) -> Node {
        Node::File {
            bytes: text.to_vec(),
            executable,
        }
    }

    #[test]
    fn every_way_in_which_trees_differ_is_said_with_its_path() {
        let recorded = Tree::from([
            ("bin".into(), file(&[0xff, 1], false)),
            ("gone".into(), file(b"", false)),
            ("link".into(), Node::Link { target: "a".into() }),
            ("run".into(), file(b"#!", true)),
            ("same".into(), file(b"same", false)),
            ("text".into(), file(b"one\ntwo\n", false)),
        ]);
        let found = Tree::from([
            ("bin".into(), file(&[0xff, 2, 3], false)),
            ("link".into(), Node::Link { target: "b".into() }),
            ("new".into(), file(b"abc", false)),
            ("run".into(), file(b"#!", false)),
            ("same".into(), file(b"same", false)),
            ("text".into(), file(b"one\n2\n", false)),
        ]);
        let mut differences = Vec::new();
        trees(&recorded, &found, &mut differences);
        let said: Vec<(&str, &str)> = differences
            .iter()
            .map(|difference| (difference.path.as_str(), difference.what.as_str()))
            .collect();
        assert_eq!(
            said,
            [
                (
                    "expected/bin",
                    "differs from byte 1 on; 2 bytes are recorded, 3 were left"
                ),
                ("expected/gone", "is recorded and was not left"),
                (
                    "expected/link",
                    "is recorded as a link to a and was left as one to b"
                ),
                ("expected/new", "was left and is not recorded (3 bytes)"),
                (
                    "expected/run",
                    "is recorded as executable and was left not executable"
                ),
                ("expected/text", "@@ -1,2 +1,2 @@\n one\n-two\n+2"),
            ]
        );
    }
}
