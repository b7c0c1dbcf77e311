#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

use serde_json::json;

use super::{Error, Manifest};

fn parse(text: &str) -> Manifest {
    Manifest::parse(text, Path::new("/site")).unwrap()
}

fn refusal(text: &str) -> String {
    Manifest::parse(text, Path::new("/site")).unwrap_err()
}

#[test]
fn every_key_becomes_its_place_in_the_head() {
    let manifest = parse(
        r#"
        project = "hello"
        strategy = "recreate"
        message = "first"
        reproducible = true

        [extract]
        config = { strip = 1 }

        [[install]]
        plugin = "precompress"
        config = { min_bytes = 512, since = 2026-01-02, ratio = 0.5 }
        request = { cache = true, net = ["example.org:443"], env = { LANG = "C" }, limits = { wall = "60s", memory = "256MiB", files = 10 } }

        [[install]]
        plugin = "mine@1.0.0"
        request = { limits = { cpu_ms = 5 }, secrets = ["npm"] }

        [load]
        request = { limits = { disk = "1GiB" } }

        [service]
        root = "public"

        [plugins]
        "mine@1.0.0" = "target/mine.wasm"
        "#,
    );
    assert_eq!(manifest.project.as_ref().unwrap().as_str(), "hello");
    assert_eq!(manifest.plugins.len(), 1);
    assert_eq!(
        manifest.plugins[0].path,
        Path::new("/site/target/mine.wasm")
    );
    assert_eq!(
        manifest.head(None),
        json!({
            "strategy": "recreate",
            "message": "first",
            "reproducible": true,
            "pipeline": {
                "extract": { "plugin": "unpack", "config": { "strip": 1 } },
                "install": [
                    {
                        "plugin": "precompress",
                        "config": { "min_bytes": 512, "since": "2026-01-02", "ratio": 0.5 },
                        "request": {
                            "cache": true, "net": ["example.org:443"], "env": { "LANG": "C" },
                            "limits": { "wall_ms": 60000, "memory_bytes": 268_435_456, "files": 10 },
                        },
                    },
                    { "plugin": "mine@1.0.0", "request": { "limits": { "cpu_ms": 5 }, "secrets": ["npm"] } },
                ],
                "load": {
                    "plugin": "serve",
                    "config": { "root": "public" },
                    "request": { "limits": { "disk_bytes": 1_073_741_824 } },
                },
            },
        })
    );
    assert_eq!(manifest.head(Some("second"))["message"], "second");
}

#[test]
fn a_package_without_a_manifest_has_an_empty_head() {
    let directory = tempfile::tempdir().unwrap();
    let manifest = Manifest::of(directory.path()).unwrap();
    assert_eq!(manifest.head(None), json!({}));
    assert!(manifest.project.is_none());
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let why = refusal("project = \"a\"\nstratgy = \"recreate\"\n");
    assert!(why.contains("line 2") && why.contains("stratgy"), "{why}");

    let why =
        refusal("[[install]]\nplugin = \"a\"\n[install.request]\nlimits = { wal = \"1s\" }\n");
    assert!(why.contains("line 4") && why.contains("wal"), "{why}");

    let why = refusal("[service]\nroot = \"public\"\nport = 80\n");
    assert!(why.contains("line 3") && why.contains("port"), "{why}");
}

#[test]
fn a_value_that_means_nothing_is_refused_with_its_line() {
    let why = refusal("\n[load]\nrequest = { limits = { memory = \"lots\" } }\n");
    assert!(why.contains("line 3") && why.contains("no size"), "{why}");

    let why = refusal("strategy = \"canary\"\n");
    assert!(
        why.contains("line 1") && why.contains("blue-green"),
        "{why}"
    );

    let why = refusal("message = \"x\"\nproject = \"My Site\"\n");
    assert!(
        why.contains("line 2") && why.contains("my-site would be one"),
        "{why}"
    );

    let why = refusal("[plugins]\n\"mine\" = \"a.wasm\"\n");
    assert!(
        why.contains("line 2") && why.contains("NAME@VERSION"),
        "{why}"
    );

    let why = refusal("[[install]]\nconfig = {}\n");
    assert!(why.contains("plugin"), "{why}");
}

#[test]
fn saying_one_thing_twice_is_refused() {
    let why = refusal("[load]\nconfig = {}\n[service]\nroot = \"public\"\n");
    assert!(why.contains("keep one of the two"), "{why}");

    let why = refusal("[extract]\nrequest = { limits = { wall = \"1s\", wall_ms = 1000 } }\n");
    assert!(why.contains("wall and wall_ms"), "{why}");
}

#[test]
fn a_manifest_named_on_the_command_line_has_to_exist() {
    let missing = Manifest::read(Path::new("/nowhere/at/all.toml"));
    assert!(matches!(missing, Err(Error::Read { .. })));
}
