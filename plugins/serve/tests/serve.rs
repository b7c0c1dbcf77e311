//! The step over whole releases.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

use std::fs;

use cofferdam_sdk::Phase;
use cofferdam_sdk::testing::{Report, Run};
use cofferdam_serve::{Error, serve};
use serde_json::{Value, json};

/// As much of a component as this step looks at.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0...wasi:http/incoming-handler@0.2.0...";
const OTHER_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0...wasi:cli/run@0.2.0...";
const MODULE: &[u8] = b"\0asm\x01\0\0\0...wasi:http/incoming-handler...";

fn run(files: &[(&str, &[u8])], config: &Value) -> Report<Result<usize, Error>> {
    let release = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = release.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    Run::new(release.path())
        .phase(Phase::Load)
        .config(config.clone())
        .enter(|| serve(release.path(), cofferdam_sdk::config().unwrap()))
}

fn services(files: &[(&str, &[u8])], config: &Value) -> Vec<Value> {
    let report = run(files, config).map(Result::unwrap);
    report
        .outputs
        .into_iter()
        .map(|(name, value)| {
            assert_eq!(name, "service");
            value
        })
        .collect()
}

fn problem(files: &[(&str, &[u8])], config: &Value) -> String {
    run(files, config).result.unwrap_err().to_string()
}

#[test]
fn a_root_becomes_one_static_service() {
    assert_eq!(
        services(&[("public/index.html", b"x")], &json!({"root": "public"})),
        [json!({"name": "web", "kind": "static", "root": "public"})]
    );
}

#[test]
fn services_are_described_as_they_are_configured() {
    let config = json!({"services": [
        {"name": "web", "kind": "static", "root": "public"},
        {"name": "api", "kind": "component", "path": "app.wasm", "request": {"net": ["db:5432"]}},
    ]});
    let files: &[(&str, &[u8])] = &[("public/a", b"x"), ("app.wasm", OTHER_COMPONENT)];
    assert_eq!(Value::from(services(files, &config)), config["services"]);
}

#[test]
fn what_a_service_names_has_to_be_there() {
    let files: &[(&str, &[u8])] = &[("file", b"x"), ("module.wasm", MODULE)];
    let component =
        |path: &str| json!({"services": [{"name": "api", "kind": "component", "path": path}]});
    for (config, words) in [
        (json!({"root": "public"}), "is not in the release"),
        (json!({"root": "file"}), "is not a directory"),
        (json!({"root": "../x"}), "is not a path inside the release"),
        (json!({"root": ""}), "is not a path inside the release"),
        (component("app.wasm"), "is not in the release"),
        (component("file"), "is not WebAssembly"),
        (component("module.wasm"), "is a core module"),
    ] {
        let problem = problem(files, &config);
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn a_configuration_that_says_two_things_is_refused() {
    let both = json!({"root": ".", "services": []});
    assert!(matches!(
        run(&[], &both).result,
        Err(Error::RootAndServices)
    ));
    let web = json!({"name": "web", "kind": "static", "root": "."});
    let twice = json!({"services": [web, web]});
    assert!(matches!(run(&[], &twice).result, Err(Error::Twice(_))));
    let name = json!({"services": [{"name": "-Web", "kind": "static", "root": "."}]});
    assert!(matches!(run(&[], &name).result, Err(Error::Name(_))));
}

#[test]
fn a_component_is_found_before_a_site() {
    let component = |path: &str| vec![json!({"name": "web", "kind": "component", "path": path})];
    assert_eq!(
        services(
            &[("app.wasm", COMPONENT), ("index.html", b"x")],
            &Value::Null
        ),
        component("app.wasm")
    );
    assert_eq!(
        services(&[("dist/hello.wasm", COMPONENT)], &Value::Null),
        component("dist/hello.wasm")
    );
    let files: &[(&str, &[u8])] = &[("dist/app.wasm", COMPONENT), ("dist/b.wasm", COMPONENT)];
    assert_eq!(services(files, &Value::Null), component("dist/app.wasm"));
}

#[test]
fn wasm_that_answers_no_requests_is_part_of_the_site() {
    let files: &[(&str, &[u8])] = &[
        ("index.html", b"x"),
        ("game.wasm", MODULE),
        ("tool.wasm", OTHER_COMPONENT),
    ];
    assert_eq!(
        services(files, &Value::Null),
        [json!({"name": "web", "kind": "static", "root": "."})]
    );
}

#[test]
fn the_handler_is_found_wherever_it_is_in_the_file() {
    for padding in [0, 65_536 - 20, 65_536 - 8, 200_000] {
        let mut component = OTHER_COMPONENT.to_vec();
        component.resize(component.len() + padding, b'.');
        component.extend_from_slice(COMPONENT);
        assert_eq!(services(&[("a.wasm", &component)], &Value::Null).len(), 1);
    }
}

#[test]
fn a_site_is_found_in_the_usual_places() {
    for root in [".", "public", "dist", "build", "site", "_site", "out"] {
        let index = format!("{root}/index.html");
        assert_eq!(
            services(&[(&index, b"x")], &Value::Null),
            [json!({"name": "web", "kind": "static", "root": root})]
        );
    }
}

#[test]
fn a_release_with_nothing_to_serve_is_kept_with_a_warning() {
    for files in [
        &[("README.md", &b"x"[..])][..],
        &[("a.wasm", COMPONENT), ("b.wasm", COMPONENT)],
    ] {
        let report = run(files, &Value::Null).map(Result::unwrap);
        assert_eq!(report.result, 0);
        assert!(report.outputs.is_empty());
        assert!(!report.warnings.is_empty());
    }
}
