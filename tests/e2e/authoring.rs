//! What the author of a plugin does: a new crate, its tests, a difference, a trap.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::server::{Server, cofferdam};

/// The published packages that this workspace uses are all that a new plugin needs, so its builds share a target
/// directory and its lock file starts as ours.
pub(crate) const TARGET: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/plugins");

/// Settings with which cargo and the binary work on a crate outside this workspace.
pub(crate) fn as_an_author(command: &mut Command) -> &mut Command {
    command
        .env("CARGO_TARGET_DIR", TARGET)
        .env("CARGO_NET_OFFLINE", "true")
        .env("COFFERDAM_BIN", env!("CARGO_BIN_EXE_cofferdam"))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
}

/// Lets a crate use the versions that are here.
pub(crate) fn lock(directory: &Path) {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
    std::fs::copy(ours, directory.join("Cargo.lock")).unwrap();
}

/// What a command printed, both streams.
fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A new plugin's crate in a directory of its own.
fn new_plugin(place: &Path, name: &str) -> PathBuf {
    let output = as_an_author(&mut cofferdam())
        .current_dir(place)
        .args(["plugin", "new", name])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let directory = place.join(name);
    lock(&directory);
    directory
}

fn plugin_test(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let output = as_an_author(&mut cofferdam())
        .current_dir(directory)
        .args(["plugin", "test"])
        .args(arguments)
        .output()
        .unwrap();
    (output.status.code().unwrap(), said(&output))
}

#[test]
fn a_new_plugin_builds_and_tests_at_once_and_says_what_differs() {
    let place = tempfile::tempdir().unwrap();
    let directory = new_plugin(place.path(), "e2e-list");

    // Its own tests, which run it in the sandbox by this binary.
    let cargo = std::env::var_os("CARGO").unwrap();
    let output = as_an_author(&mut Command::new(&cargo))
        .current_dir(&directory)
        .arg("test")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("test the_fixtures_come_out_as_recorded ... ok"),
        "{}",
        said(&output)
    );

    // A fixture that comes out differently is shown, and fails.
    let release = directory.join("tests/fixtures/site/release");
    std::fs::write(release.join("new.html"), "<p>new").unwrap();
    let (code, told) = plugin_test(&directory, &[]);
    assert_eq!(code, 1, "{told}");
    for shown in [
        "failed     site",
        "expected/files.txt",
        "+6 new.html",
        "expected/new.html",
        "was left and is not recorded (6 bytes)",
        "cofferdam plugin test . --update",
    ] {
        assert!(told.contains(shown), "{shown}: {told}");
    }

    // To a script it is one line of JSON, and the failure another.
    let (code, told) = plugin_test(&directory, &["--json", "--fixture", "site"]);
    assert_eq!(code, 1, "{told}");
    let line: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    assert_eq!(line["kind"], "fixture");
    assert_eq!(line["status"], "failed");
    assert_eq!(line["end"]["status"], "succeeded");
    assert_eq!(line["differences"][0]["path"], "expected/files.txt");

    let (code, told) = plugin_test(&directory, &["--update"]);
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("updated    site"), "{told}");
    let (code, told) = plugin_test(&directory, &[]);
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("1 passed"), "{told}");

    // A config that a server would refuse is refused here, by the plugin's own schema.
    std::fs::write(
        directory.join("tests/fixtures/site/step.toml"),
        "config = { fyle = \"x\" }\n",
    )
    .unwrap();
    let (code, told) = plugin_test(&directory, &[]);
    assert_eq!(code, 1, "{told}");
    assert!(
        told.contains("config_invalid") && told.contains("fyle"),
        "{told}"
    );

    // A trap names the lines that led to it, in the author's own source.
    let main = directory.join("src/main.rs");
    let source = std::fs::read_to_string(&main).unwrap().replace(
        "fn step() -> Result<(), Box<dyn std::error::Error>> {\n",
        "fn step() -> Result<(), Box<dyn std::error::Error>> {\n    Vec::<u8>::new().first().unwrap();\n",
    );
    let at = source
        .lines()
        .position(|line| line.contains(".first().unwrap()"))
        .unwrap()
        + 1;
    std::fs::write(&main, source).unwrap();
    std::fs::remove_file(directory.join("tests/fixtures/site/step.toml")).unwrap();
    let (code, told) = plugin_test(&directory, &[]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("step_trapped"), "{told}");
    assert!(told.contains(&format!("at src/main.rs:{at}:")), "{told}");
}

#[test]
fn a_new_plugin_overwrites_nothing_and_has_a_name_that_works() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("list")).unwrap();
    std::fs::write(place.path().join("list/keep"), "me").unwrap();
    for (arguments, told) in [
        (vec!["list"], "nothing is overwritten"),
        (vec!["List"], "begins with a lower-case letter"),
        (vec!["fn"], "means something to cargo"),
        (
            vec!["fill", "--dir", "list/keep"],
            "cannot become a plugin's directory",
        ),
    ] {
        let output = cofferdam()
            .current_dir(place.path())
            .args(["plugin", "new"])
            .args(&arguments)
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            said(&output)
        );
        assert!(
            said(&output).contains(told),
            "{arguments:?}: {}",
            said(&output)
        );
    }
    let left: Vec<_> = std::fs::read_dir(place.path().join("list"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1);
}

/// A fixture of a plugin in another place than a crate's.
fn fixture(root: &Path, name: &str, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(name).join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

#[test]
fn a_compiled_plugin_of_any_phase_is_run_over_fixtures_as_a_server_would() {
    let place = tempfile::tempdir().unwrap();
    let fixtures = place.path().join("tests/fixtures");
    let wasm = place.path().join("plugin.wasm");

    // An extract step reads what lies in `stdin`.
    std::fs::write(&wasm, cofferdam_plugins::UNPACK).unwrap();
    fixture(
        &fixtures,
        "a-tar",
        &[("step.toml", "phase = \"extract\"\n")],
    );
    let entries = crate::package::site("unpacked");
    std::fs::write(fixtures.join("a-tar/stdin"), crate::package::tar(&entries)).unwrap();
    let (code, told) = plugin_test(place.path(), &["plugin.wasm", "--update"]);
    assert_eq!(code, 0, "{told}");
    assert!(fixtures.join("a-tar/expected/css/site.css").is_file());
    let (code, told) = plugin_test(place.path(), &["plugin.wasm"]);
    assert_eq!(code, 0, "{told}");

    // A load step changes nothing and leaves services as outputs.
    std::fs::write(&wasm, cofferdam_plugins::SERVE).unwrap();
    std::fs::remove_dir_all(&fixtures).unwrap();
    fixture(
        &fixtures,
        "a-site",
        &[
            ("step.toml", "phase = \"load\"\n"),
            ("release/index.html", "<h1>"),
        ],
    );
    let (code, told) = plugin_test(place.path(), &["plugin.wasm", "--update"]);
    assert_eq!(code, 0, "{told}");
    assert!(!fixtures.join("a-site/expected").exists());
    let log = std::fs::read_to_string(fixtures.join("a-site/expected.events.jsonl")).unwrap();
    assert!(
        log.contains("\"kind\":\"output\",\"name\":\"service\""),
        "{log}"
    );
    let (code, told) = plugin_test(place.path(), &["plugin.wasm"]);
    assert_eq!(code, 0, "{told}");

    // What is not there is named.
    let (code, told) = plugin_test(place.path(), &["plugin.wasm", "--fixture", "other"]);
    assert_eq!(code, 2, "{told}");
    assert!(
        told.contains("there is no fixture \"other\"") && told.contains("a-site"),
        "{told}"
    );
    let (code, told) = plugin_test(place.path(), &["nothing.wasm"]);
    assert_eq!(code, 2, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_in_a_deployment_names_the_lines_too() {
    let server = Server::start();
    server
        .admit("traced", cofferdam_test_guests::program("traced"))
        .await;
    let head = serde_json::json!({ "pipeline": { "install": [{ "plugin": "traced" }] } });
    let package = crate::package::tar(&crate::package::site("trapped"));
    let record = server.fail("trapped", &head, package).await;
    assert_eq!(record["error"]["code"], "step_trapped", "{record:#}");
    let message = record["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("at tests/guests/traced/src/main.rs:5:"),
        "{message}"
    );
}

#[test]
fn a_plugin_that_looks_at_the_clock_and_at_chance_comes_out_as_recorded() {
    let place = tempfile::tempdir().unwrap();
    let fixtures = place.path().join("tests/fixtures");
    let wasm = cofferdam_test_guests::program("observe");
    std::fs::write(place.path().join("observe.wasm"), wasm).unwrap();
    fixture(
        &fixtures,
        "same",
        &[("release/given/b", "b"), ("release/given/a", "a")],
    );
    let (code, told) = plugin_test(place.path(), &["observe.wasm", "--update"]);
    assert_eq!(code, 0, "{told}");
    let (code, told) = plugin_test(place.path(), &["observe.wasm"]);
    assert_eq!(code, 0, "{told}");

    let real = "reproducible = false\nconfig = { sleep_ms = 1, wait_ms = 2 }\n";
    fixture(&fixtures, "same", &[("step.toml", real)]);
    let (code, told) = plugin_test(place.path(), &["observe.wasm"]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("expected/seen.txt"), "{told}");
}
