//! The plugin itself, in the real sandbox.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// Names the `cofferdam` binary when it is not on the `PATH`.
const BINARY: &str = "COFFERDAM_BIN";

/// Compiles the plugin in `directory` and runs it in the real sandbox over each fixture in its `tests/fixtures`,
/// by `cofferdam plugin test`. Use it in an integration test:
///
/// ```no_run
/// #[test]
/// fn the_fixtures_come_out_as_recorded() {
///     cofferdam_sdk::testing::check_fixtures(env!("CARGO_MANIFEST_DIR"));
/// }
/// # fn main() {}
/// ```
///
/// A fixture is a directory: `release/` is the tree that the step finds, `step.toml` how it is run, `expected/`
/// the tree that it leaves and `expected.events.jsonl` what it says. `cofferdam plugin test --update` records the
/// last two. The sandbox is the binary's, so this costs a test no compiling of an engine, and is exactly what a
/// server does.
///
/// # Panics
///
/// When a fixture comes out differently than recorded, with the differences; when the plugin does not compile;
/// when there is no `cofferdam` on the `PATH` and `COFFERDAM_BIN` names none.
#[track_caller]
pub fn check_fixtures(directory: impl AsRef<Path>) {
    let binary = std::env::var_os(BINARY).unwrap_or_else(|| OsString::from("cofferdam"));
    let output = Command::new(&binary)
        .args(["plugin", "test"])
        .arg(directory.as_ref())
        .output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!(
            "{} plugin test: {}\n{}",
            binary.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        ),
        Err(error) => panic!(
            "cannot start {} ({error}): put the cofferdam binary on the PATH, or name it by {BINARY}",
            binary.display()
        ),
    }
}
