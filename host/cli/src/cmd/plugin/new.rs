//! `cofferdam plugin new`: a plugin's crate that builds and tests at once.
//!
//! The crates of this workspace are in no registry, so the SDK's sources are in this binary and are written into
//! the crate's `vendor/`: the binary and cargo are all it takes.

mod name;
mod sdk;

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::args::PluginNewArgs;
use crate::cmd::print;
use crate::exit::{Failure, plain};
use crate::ui::text::escaped;

pub(crate) use name::CrateName;

/// What stands for the plugin's name in the templates.
const NAME: &str = "{{name}}";

/// The files of a new crate; the SDK's come beside them.
const TEMPLATES: &[(&str, &str)] = &[
    (
        "Cargo.toml",
        include_str!("../../../templates/plugin/package.toml"),
    ),
    (
        "rust-toolchain.toml",
        include_str!("../../../templates/plugin/toolchain.toml"),
    ),
    (
        ".gitignore",
        include_str!("../../../templates/plugin/gitignore"),
    ),
    (
        "README.md",
        include_str!("../../../templates/plugin/README.md"),
    ),
    (
        "src/main.rs",
        include_str!("../../../templates/plugin/main.rs"),
    ),
    (
        "tests/sandbox.rs",
        include_str!("../../../templates/plugin/sandbox.rs"),
    ),
    (
        "tests/fixtures/site/step.toml",
        include_str!("../../../templates/plugin/fixture/step.toml"),
    ),
    (
        "tests/fixtures/site/release/index.html",
        include_str!("../../../templates/plugin/fixture/release/index.html"),
    ),
    (
        "tests/fixtures/site/release/css/site.css",
        include_str!("../../../templates/plugin/fixture/release/css/site.css"),
    ),
    (
        "tests/fixtures/site/expected/index.html",
        include_str!("../../../templates/plugin/fixture/release/index.html"),
    ),
    (
        "tests/fixtures/site/expected/css/site.css",
        include_str!("../../../templates/plugin/fixture/release/css/site.css"),
    ),
    (
        "tests/fixtures/site/expected/files.txt",
        include_str!("../../../templates/plugin/fixture/files.txt"),
    ),
    (
        "tests/fixtures/site/expected.events.jsonl",
        include_str!("../../../templates/plugin/fixture/expected.events.jsonl"),
    ),
];

/// Where the SDK goes.
const VENDOR: &str = "vendor/cofferdam-sdk";

pub(crate) fn run(arguments: &PluginNewArgs) -> Result<(), Failure> {
    let name = arguments.name.as_str();
    let directory = arguments.dir.clone().unwrap_or_else(|| PathBuf::from(name));
    refuse_to_overwrite(&directory)?;
    let own = TEMPLATES
        .iter()
        .map(|(path, text)| (directory.join(path), text.replace(NAME, name)));
    let vendored = sdk::FILES
        .iter()
        .map(|(path, text)| (directory.join(VENDOR).join(path), (*text).to_owned()));
    for (path, text) in own.chain(vendored) {
        write(&path, &text)?;
    }
    let shown = escaped(&directory.display().to_string());
    print(&format!(
        "{shown} is a plugin that builds and tests as it is:\n  cd {shown}\n  cargo test\n  cofferdam plugin test\n"
    ))?;
    if let Some(remark) = how_to_find_the_binary() {
        print(&remark)?;
    }
    Ok(())
}

fn refuse_to_overwrite(directory: &Path) -> Result<(), Failure> {
    let shown = directory.display();
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::Usage(format!(
            "{shown} cannot become a plugin's directory: {}",
            plain(&error)
        ))),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Failure::Usage(format!(
                "{shown} is not empty, and nothing is overwritten: name another with --dir"
            ))),
        },
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let written = path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, text));
    written.map_err(|error| {
        let message = format!("cannot write {}: {}", path.display(), plain(&error));
        Failure::Machine(anyhow::Error::msg(message))
    })
}

/// What to set when `cargo test` would not find this binary by itself.
fn how_to_find_the_binary() -> Option<String> {
    if env::var_os("COFFERDAM_BIN").is_some() {
        return None;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|directory| directory.join("cofferdam").is_file()) {
        return None;
    }
    let binary = env::current_exe().ok()?;
    Some(format!(
        "its tests look for `cofferdam` on the PATH, where it is not:\n  export COFFERDAM_BIN={}\n",
        escaped(&binary.display().to_string())
    ))
}
