//! The example as a user runs it: a component and a directory on its command line.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::process::{Command, Output};

fn embed(program: &str, directory: &std::path::Path) -> (Output, String) {
    let wasm = directory.join("../plugin.wasm");
    std::fs::write(&wasm, cofferdam_test_guests::program(program)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cofferdam-example-embed"))
        .arg(&wasm)
        .arg(directory)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, printed)
}

#[test]
fn the_lines_of_a_component_and_its_end_are_shown() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("release");
    std::fs::create_dir(&directory).unwrap();
    let (output, printed) = embed("both_streams", &directory);
    assert!(output.status.success(), "{printed}");
    assert!(printed.starts_with("| "), "{printed}");
    let last = printed.lines().last().unwrap();
    assert!(
        last.starts_with("succeeded in ") && last.ends_with(" ms"),
        "{printed}"
    );
}

#[test]
fn a_component_that_fails_fails_the_program_and_says_how() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("release");
    std::fs::create_dir(&directory).unwrap();
    let (output, printed) = embed("panic", &directory);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(printed.contains("trapped: "), "{printed}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("the component failed"), "{error}");
}
