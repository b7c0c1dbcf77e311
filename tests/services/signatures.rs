//! Debian's minisign signs, and a server whose operator requires it checks.

use std::path::Path;
use std::process::Command;

use crate::server::{Server, cofferdam};

/// Runs minisign to its success.
fn minisign(directory: &Path, arguments: &[&str]) {
    let output = Command::new("minisign")
        .current_dir(directory)
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_minisign_signed_is_admitted_and_others_are_not() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    for name in ["trusted", "other"] {
        let (public, secret) = (format!("{name}.pub"), format!("{name}.key"));
        minisign(path, &["-G", "-W", "-p", &public, "-s", &secret]);
    }
    let public = std::fs::read_to_string(path.join("trusted.pub")).unwrap();
    let (comment, key) = public.trim().split_once('\n').unwrap();
    let policy = path.join("policy.toml");
    let text = format!("[signatures]\nrequired = true\nkeys = [\"{key}\"]\n");
    std::fs::write(&policy, text).unwrap();
    let server = Server::start_with(&["--policy", policy.to_str().unwrap()]);

    let file = path.join("fill.wasm");
    std::fs::write(&file, cofferdam_test_guests::program("fill")).unwrap();
    let add = || {
        let output = cofferdam()
            .args(["plugin", "add"])
            .arg(&file)
            .arg("fill@0.1.0")
            .env("COFFERDAM_URL", server.url(""))
            .env("COFFERDAM_TOKEN", &server.token)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let printed = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), said, printed)
    };
    let (code, said, _) = add();
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains("not signed") && said.contains("forbidden"),
        "{said}"
    );
    minisign(path, &["-S", "-s", "other.key", "-m", "fill.wasm"]);
    let (code, said, _) = add();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("does not trust"), "{said}");
    minisign(path, &["-S", "-l", "-s", "trusted.key", "-m", "fill.wasm"]);
    let said = add().1;
    assert!(said.contains("old form"), "{said}");

    minisign(path, &["-S", "-s", "trusted.key", "-m", "fill.wasm"]);
    let (code, said, printed) = add();
    assert_eq!(code, Some(0), "{said}");
    let view = server.get_json("/v1/plugins/fill/0.1.0").await;
    let key_id = view["signed_by"].as_str().unwrap();
    assert!(
        printed.contains(&format!("signed by: {key_id}")),
        "{printed}"
    );
    // minisign's own name for the key, which it prints without the zeros that a number may begin with.
    let name = comment.trim_end().rsplit(' ').next().unwrap();
    assert_eq!(name, key_id.trim_start_matches('0'), "{comment}");
}
