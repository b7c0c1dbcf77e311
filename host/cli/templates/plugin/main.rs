//! `{{name}}`: an install plugin that writes a list of the release's files, with their sizes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use cofferdam_sdk as sdk;
use serde::Deserialize;

// What the compiled file says about itself. The host checks a step's config against the schema before it
// reads any byte of the package.
sdk::plugin! {
    name: "{{name}}",
    description: "Writes a list of the release's files, with their sizes.",
    phases: ["install"],
    config: {
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "file": { "type": "string", "minLength": 1 },
            "skip": { "type": "array", "items": { "type": "string" } }
        }
    },
}

/// The step's config. A step without one gets the defaults.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// What the list is called.
    file: String,
    /// Extensions of the files that are not listed.
    skip: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            file: "files.txt".to_owned(),
            skip: Vec::new(),
        }
    }
}

fn step() -> Result<(), Box<dyn std::error::Error>> {
    let config: Config = sdk::config()?;
    let release = sdk::release();
    let files = files_below(&release)?;
    let (mut list, mut listed) = (String::new(), 0);
    for (done, path) in files.iter().enumerate() {
        sdk::progress(done as u64, files.len() as u64, "files");
        let name = path.strip_prefix(&release)?.display();
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        if config.skip.iter().any(|skipped| *skipped == extension) {
            println!("left out {name}");
            continue;
        }
        let bytes = fs::metadata(path)?.len();
        list.push_str(&format!("{bytes} {name}\n"));
        listed += 1;
    }
    if listed == 0 {
        sdk::warning("there is no file to list");
    }
    fs::write(release.join(&config.file), list)?;
    println!("{}: {listed} listed", config.file);
    sdk::output("listed", &listed)?;
    Ok(())
}

/// Every file below a directory, in order.
fn files_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn main() -> ExitCode {
    sdk::run(step)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cofferdam_sdk::testing::Run;
    use serde_json::json;

    use super::step;

    // The step's function, natively, with the host's part played by the SDK: quick, and fit for a debugger.
    // tests/sandbox.rs runs the plugin itself.
    #[test]
    fn files_are_listed_with_their_sizes() {
        let release = tempfile::tempdir().unwrap();
        fs::write(release.path().join("a.txt"), "abc").unwrap();
        fs::write(release.path().join("b.css"), "").unwrap();
        let report = Run::new(release.path())
            .config(json!({ "file": "list", "skip": ["css"] }))
            .enter(step)
            .map(Result::unwrap);
        let list = fs::read_to_string(release.path().join("list")).unwrap();
        assert_eq!(list, "3 a.txt\n");
        assert_eq!(report.output("listed"), Some(&json!(1)));
    }
}
