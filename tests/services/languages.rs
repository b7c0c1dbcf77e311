//! The same install plugin in four languages: each is built by its one command, does what is recorded of the one in
//! Rust, and makes the same release of the same package.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::server::{Server, cofferdam};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// Runs a command to its success.
fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The plugin of a language, built as its README says.
fn built(language: &str) -> PathBuf {
    let directory = examples().join(format!("plugin-{language}"));
    succeed(&mut Command::new(directory.join("build")));
    directory.join("fill.wasm")
}

#[tokio::test(flavor = "multi_thread")]
async fn four_languages_make_one_release() {
    let place = tempfile::tempdir().unwrap();
    let rust = place.path().join("fill.wasm");
    std::fs::write(&rust, cofferdam_test_guests::program("fill")).unwrap();
    let plugins = [
        ("rust", rust),
        ("python", built("python")),
        ("js", built("js")),
        ("c", built("c")),
    ];

    let server = Server::start();
    let mut digests = Vec::new();
    for (version, (language, wasm)) in plugins.iter().enumerate() {
        // What is recorded of the one in Rust is what all of them do: trees, lines, outputs and ends.
        succeed(
            cofferdam()
                .args(["plugin", "test"])
                .arg(wasm)
                .arg("--fixtures")
                .arg(examples().join("plugin-rust/tests/fixtures")),
        );

        // The package names no version, so the newest that was admitted is the one that runs.
        let name = format!("fill@0.{}.0", version + 1);
        succeed(
            cofferdam()
                .arg("deploy")
                .arg(examples().join("site"))
                .arg("--plugin")
                .arg(format!("{name}={}", wasm.display()))
                .env("COFFERDAM_URL", server.url(""))
                .env("COFFERDAM_TOKEN", &server.token),
        );
        let newest = server
            .get_json("/v1/deployments?project=filled-site&limit=1")
            .await;
        let id = newest["deployments"][0]["id"]
            .as_str()
            .unwrap_or_else(|| panic!("{newest}"));
        let record: Value = server.get_json(&format!("/v1/deployments/{id}")).await;
        assert_eq!(record["steps"][1]["plugin"], name, "{record:#}");
        digests.push((*language, record["release"]["digest"].clone()));
    }
    let (_, first) = &digests[0];
    assert!(first.is_string());
    assert!(
        digests.iter().all(|(_, digest)| digest == first),
        "{digests:#?}"
    );

    let (status, page) = server.serves("filled-site", "/notes/").await;
    assert_eq!(status, 200);
    assert!(page.contains("<h1>Notes on &lt;fill></h1>"), "{page}");
}
