//! From a crate to a component.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cofferdam_guest_build::{TARGET, ensure_target};
use serde_json::Value;

use crate::exit::Failure;
use crate::ui::text::escaped;

/// Settings for the outer build of a `cargo test` that would break one for another target.
const NOT_INHERITED: &[&str] = &[
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_RUSTFLAGS",
];

/// Compiles the crate's program in its release profile, and says where the component is.
pub(super) fn build(directory: &Path, quiet: bool) -> Result<PathBuf, Failure> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    ensure_target(&rustc, directory)
        .map_err(|message| Failure::Machine(anyhow::Error::msg(message)))?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(&cargo);
    command
        .current_dir(directory)
        .args(["build", "--release", "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit());
    if quiet {
        command.arg("--quiet");
    }
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    let output = command.output().map_err(|error| {
        let cargo = cargo.to_string_lossy().into_owned();
        Failure::Machine(anyhow::Error::new(error).context(format!(
            "cannot start {cargo}, which compiles the plugin; give a compiled .wasm file instead, or install cargo"
        )))
    })?;
    let shown = escaped(&directory.display().to_string());
    if !output.status.success() {
        return Err(Failure::Machine(anyhow::anyhow!(
            "the plugin in {shown} does not compile: the messages above are cargo's"
        )));
    }
    let mut programs = programs(&String::from_utf8_lossy(&output.stdout));
    match (programs.pop(), programs.is_empty()) {
        (Some(program), true) => Ok(directory.join(program)),
        (None, _) => Err(Failure::refused(format!(
            "the crate in {shown} has no program: a plugin has a src/main.rs"
        ))),
        (Some(_), false) => Err(Failure::refused(format!(
            "the crate in {shown} has more than one program: build it, and name one .wasm file and --fixtures"
        ))),
    }
}

/// The programs that cargo's messages name.
fn programs(messages: &str) -> Vec<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_are_taken_from_what_cargo_says() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","executable":null,"target":{"kind":["lib"]}}"#,
            "\nnot a message\n",
            r#"{"reason":"compiler-artifact","executable":"/t/list.wasm","target":{"kind":["bin"]}}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(programs(messages), [PathBuf::from("/t/list.wasm")]);
    }
}
