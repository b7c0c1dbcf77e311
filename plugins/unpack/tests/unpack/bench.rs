//! Unpacks one package into a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};

use cofferdam_sdk::Phase;
use cofferdam_sdk::testing::{Report, Run};
use cofferdam_unpack::{Config, Error, Input, Reason, Summary, unpack};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A release directory inside another, so that a file that leaves the release is found.
pub(crate) struct Bench {
    outer: TempDir,
    scratch: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir(outer.path().join("release")).unwrap();
        fs::write(outer.path().join("secret"), "outside").unwrap();
        Bench {
            outer,
            scratch: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn release(&self) -> PathBuf {
        self.outer.path().join("release")
    }

    /// Unpacks a package that arrives in chunks of the given size.
    pub(crate) fn in_chunks(
        &self,
        package: &[u8],
        chunk: usize,
        config: &Value,
    ) -> Report<Result<Summary, Error>> {
        let config: Config = serde_json::from_value(config.clone()).unwrap();
        let chunks: Vec<_> = package.chunks(chunk).map(<[u8]>::to_vec).collect();
        Run::new(self.release()).phase(Phase::Extract).enter(|| {
            unpack(
                &config,
                Input::new(chunks.into_iter()),
                &self.release(),
                self.scratch.path(),
            )
        })
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.release().join(path)).unwrap()
    }

    /// Every path below the release, sorted; links with their targets, executables with a star.
    pub(crate) fn tree(&self) -> Vec<String> {
        let mut found = Vec::new();
        list(&self.release(), "", &mut found);
        found.sort();
        found
    }

    fn outside(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.outer.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn list(directory: &Path, prefix: &str, found: &mut Vec<String>) {
    use std::os::unix::fs::PermissionsExt as _;

    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        let metadata = fs::symlink_metadata(entry.path()).unwrap();
        if metadata.is_dir() {
            found.push(format!("{name}/"));
            list(&entry.path(), &format!("{name}/"), found);
        } else if metadata.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            found.push(format!("{name} -> {}", target.display()));
        } else if metadata.permissions().mode() & 0o111 != 0 {
            found.push(format!("{name}*"));
        } else {
            found.push(name);
        }
    }
}

/// Unpacks a package that has to be taken.
pub(crate) fn taken(package: &[u8]) -> Bench {
    taken_with(package, &json!({})).0
}

/// As above, with a configuration, and with what the step reported.
pub(crate) fn taken_with(package: &[u8], config: &Value) -> (Bench, Report<Summary>) {
    let bench = Bench::new();
    let report = bench.in_chunks(package, 64 * 1024, config);
    let report = report.map(|result| match result {
        Ok(summary) => summary,
        Err(error) => panic!("{error}"),
    });
    (bench, report)
}

/// Unpacks a package that has to be refused for this reason, whatever the size of the chunks it comes in,
/// and returns the message. Nothing may have been written outside the release.
#[track_caller]
pub(crate) fn refused(package: &[u8], reason: Reason) -> String {
    refused_with(package, &json!({}), reason)
}

/// As above, with a configuration.
#[track_caller]
pub(crate) fn refused_with(package: &[u8], config: &Value, reason: Reason) -> String {
    let mut message = String::new();
    for chunk in [package.len().max(1), 700, 1] {
        let bench = Bench::new();
        match bench.in_chunks(package, chunk, config).result {
            Err(Error::Refused(refused)) => {
                assert_eq!(refused.reason, reason, "{refused}");
                message = refused.message;
            }
            other => panic!("not refused as {}: {other:?}", reason.word()),
        }
        assert_eq!(bench.outside(), ["release", "secret"]);
        assert_eq!(
            fs::read_to_string(bench.outer.path().join("secret")).unwrap(),
            "outside"
        );
        if package.len() > 200_000 {
            break;
        }
    }
    assert!(!message.contains(char::is_control), "{message:?}");
    message
}
