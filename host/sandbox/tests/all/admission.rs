//! What is admitted, and what is said about the rest.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::harness::{Run, program, sandbox};
use cofferdam_sandbox::{
    ComponentKind, Error, Phase, Sandbox, SandboxOptions, ServiceSpec, Stdin, Verdict, wants,
};
use tempfile::TempDir;

/// A component without anything in it.
const EMPTY_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// A core module without anything in it.
const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";

#[test]
fn a_program_describes_itself() {
    let component = program("report");
    assert_eq!(component.kind(), ComponentKind::Command);
    assert!(
        component
            .imports()
            .iter()
            .any(|import| import.starts_with("cofferdam:step/report@1"))
    );
    let description = component.description().unwrap();
    assert_eq!(
        (description.name.as_str(), &description.phases[..]),
        ("report", &[Phase::Install][..])
    );
    assert_eq!(program("succeed").description(), None);
}

#[test]
fn a_digest_names_the_bytes() {
    let wasm = cofferdam_test_guests::program("succeed");
    assert_eq!(
        program("succeed").digest(),
        format!("blake3:{}", blake3::hash(wasm).to_hex())
    );
}

#[test]
fn what_is_no_component_is_refused_with_what_it_is() {
    let refusal = |bytes: &[u8]| sandbox().admit(bytes).map(drop).unwrap_err();
    assert!(matches!(refusal(EMPTY_MODULE), Error::CoreModule { .. }));
    assert!(refusal(EMPTY_MODULE).to_string().contains("wasm32-wasip2"));
    assert!(refusal(b"").to_string().contains("empty"));
    assert!(refusal(b"#!/bin/sh\n").to_string().contains("\\0asm"));
    assert!(
        refusal(b"(component)")
            .to_string()
            .contains("wasm-tools parse")
    );
    let cut = &cofferdam_test_guests::program("succeed")[..5000];
    assert!(
        matches!(refusal(cut), Error::Invalid { .. }),
        "{}",
        refusal(cut)
    );
}

#[test]
fn a_component_that_exports_nothing_of_use_is_refused() {
    let refusal = sandbox().admit(EMPTY_COMPONENT).map(drop).unwrap_err();
    assert!(
        refusal.to_string().contains("exports neither wasi:cli/run"),
        "{refusal}"
    );
}

#[test]
fn a_missing_import_is_named() {
    // The name of an import, replaced by one of the same length wherever it stands.
    let mut wasm = cofferdam_test_guests::program("report").to_vec();
    let (from, to) = (b"cofferdam:step/report@", b"cofferdam:step/rapport");
    let to = &to[..from.len() - 1];
    for at in 0..wasm.len() - from.len() {
        if wasm[at..].starts_with(from) {
            wasm[at..at + to.len()].copy_from_slice(to);
        }
    }
    let refusal = sandbox().admit(&wasm).map(drop).unwrap_err();
    let Error::Incompatible { problems } = &refusal else {
        panic!("{refusal}")
    };
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("it imports cofferdam:step/rappor@1.0.0"),
        "{problems:?}"
    );
    assert!(
        problems[0].contains("(it has cofferdam:step/report: a slip?)"),
        "{problems:?}"
    );
}

#[test]
fn what_a_component_can_ask_for_is_told_in_words() {
    let words = |name: &str| wants(program(name).imports());
    assert!(words("files").contains(&"files"));
    assert!(!words("files").contains(&"sockets (always denied)"));
    assert!(words("sockets").contains(&"sockets (always denied)"));
    assert!(!words("succeed").contains(&"http out"));
}

#[test]
fn a_component_that_is_too_large_is_refused() {
    let mut options = SandboxOptions::default();
    options.max_component_bytes = 1000;
    let sandbox = Sandbox::new(options).unwrap();
    let refusal = sandbox
        .admit(cofferdam_test_guests::program("succeed"))
        .map(drop)
        .unwrap_err();
    assert!(matches!(refusal, Error::TooLarge { limit: 1000, .. }));
}

#[test]
fn a_program_is_no_service() {
    let spec = ServiceSpec::new("web");
    let refusal = sandbox()
        .service(&program("succeed"), spec, None)
        .map(drop)
        .unwrap_err();
    assert!(matches!(refusal, Error::WrongKind { .. }), "{refusal}");
}

#[test]
fn a_component_of_another_sandbox_is_refused() {
    let other = Sandbox::new(SandboxOptions::default()).unwrap();
    let refusal = other.start(
        &program("succeed"),
        Run::of("succeed").spec,
        Vec::new(),
        Stdin::Closed,
    );
    assert!(matches!(refusal, Err(Error::Specification { .. })));
}

fn artifacts(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "cwasm")
        })
        .collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn a_compiled_component_is_found_again_and_a_damaged_one_is_not_used() {
    let directory = TempDir::new().unwrap();
    let cache = directory.path().join("cache");
    let wasm = cofferdam_test_guests::program("succeed");
    let admit = || {
        let sandbox = Sandbox::new(SandboxOptions::cached_in(&cache)).unwrap();
        let component = sandbox.admit(wasm).unwrap();
        (sandbox, component)
    };
    admit();
    let first = artifacts(&cache);
    assert_eq!(first.len(), 1);
    assert_eq!(
        fs::metadata(&cache).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let sound = fs::read(&first[0]).unwrap();
    let written = fs::metadata(&first[0]).unwrap().modified().unwrap();

    let (sandbox, component) = admit();
    assert_eq!(artifacts(&cache), first);
    assert_eq!(
        fs::metadata(&first[0]).unwrap().modified().unwrap(),
        written,
        "it was not compiled again"
    );
    let step = sandbox
        .start(
            &component,
            Run::of("succeed").spec,
            Vec::new(),
            Stdin::Closed,
        )
        .unwrap();
    assert!(step.outcome().await.unwrap().verdict.is_success());

    // A copy with a changed byte in its place, as a bad disk leaves one.
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    fs::remove_file(&first[0]).unwrap();
    fs::write(&first[0], &damaged).unwrap();
    let (sandbox, component) = admit();
    assert_ne!(
        fs::read(&first[0]).unwrap(),
        damaged,
        "it was compiled again"
    );
    let step = sandbox
        .start(
            &component,
            Run::of("succeed").spec,
            Vec::new(),
            Stdin::Closed,
        )
        .unwrap();
    assert!(step.outcome().await.unwrap().verdict.is_success());
}

#[test]
fn a_forgotten_component_leaves_nothing_in_the_cache() {
    let cache = TempDir::new().unwrap();
    let sandbox = Sandbox::new(SandboxOptions::cached_in(cache.path())).unwrap();
    let kept = sandbox
        .admit(cofferdam_test_guests::program("fail"))
        .unwrap();
    let before = fs::read_dir(cache.path()).unwrap().count();
    let forgotten = sandbox
        .admit(cofferdam_test_guests::program("succeed"))
        .unwrap();
    assert!(fs::read_dir(cache.path()).unwrap().count() > before);
    sandbox.forget(forgotten.digest());
    sandbox.forget(forgotten.digest());
    sandbox.forget("blake3:no digest");
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), before);
    drop(kept);
}

#[test]
fn a_cache_that_others_may_write_to_is_refused() {
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let refusal = Sandbox::new(SandboxOptions::cached_in(directory.path()))
        .map(drop)
        .unwrap_err();
    assert!(matches!(refusal, Error::Cache { .. }), "{refusal}");
}

/// A program of preview 1 that makes a file in its directory, prints, and exits with 7.
const PREVIEW_1: &str = r#"
    (module
        (import "wasi_snapshot_preview1" "fd_write"
            (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open"
            (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 64) "from preview 1\n")
        (data (i32.const 96) "made")
        (func (export "_start")
            ;; Creates the file in the first preopened directory, with all rights.
            (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 96) (i32.const 4)
                    (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 20))
                (then (unreachable)))
            (i32.store (i32.const 0) (i32.const 64))
            (i32.store (i32.const 4) (i32.const 15))
            (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
            (call $proc_exit (i32.const 7))))
"#;

#[tokio::test]
async fn a_module_of_preview_1_is_adapted_and_its_exit_code_keeps_its_number() {
    let module = wat::parse_str(PREVIEW_1).unwrap();
    let component = sandbox().admit(&module).unwrap();
    // The digest is that of the bytes that were given.
    let digest = format!("blake3:{}", blake3::hash(&module).to_hex());
    assert_eq!(component.digest(), digest);
    assert_eq!(component.kind(), ComponentKind::Command);
    assert!(component.is_adapted() && !program("succeed").is_adapted());
    let mut started = Run::of("adapted").start_with(&component);
    started.until_line("from preview 1").await;
    assert!(started.release.path().join("made").is_file());
    let ended = started.end().await;
    assert_eq!(ended.outcome.verdict, Verdict::Exited { code: 7 });
}

#[test]
fn a_module_that_wants_more_than_preview_1_is_refused_by_name() {
    let module = r#"(module (import "env" "system" (func)) (func (export "_start")))"#;
    let error = sandbox()
        .admit(&wat::parse_str(module).unwrap())
        .map(drop)
        .unwrap_err();
    assert!(error.to_string().contains("env.system"), "{error}");
    let library = r#"(module (func (export "add")))"#;
    let error = sandbox()
        .admit(&wat::parse_str(library).unwrap())
        .map(drop)
        .unwrap_err();
    assert!(error.to_string().contains("_start"), "{error}");
}

#[test]
fn a_module_is_refused_with_each_import_that_preview_1_lacks_and_the_nearest_name() {
    let refusal = |text: &str| {
        let module = wat::parse_str(text).unwrap();
        let refusal = sandbox().admit(&module).map(drop).unwrap_err();
        let Error::CoreModule { problems } = refusal else {
            panic!("{refusal}")
        };
        problems
    };
    let problems = refusal(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
            (import "wasi_snapshot_preview1" "fd_wirte" (func))
            (import "wasi_unstable" "fd_write" (func))
            (import "env" "a\1b[31m" (func))
            (func (export "_start")))"#,
    );
    assert_eq!(problems.len(), 3, "{problems:?}");
    let said = problems.join("\n");
    assert!(
        said.contains("fd_wirte") && said.contains("(it has fd_write: a slip?)"),
        "{said}"
    );
    assert!(said.contains("it imports wasi_unstable.fd_write"), "{said}");
    assert!(
        said.contains("it imports env.a") && !said.contains('\u{1b}'),
        "{said}"
    );

    let many: String = (0..500)
        .map(|at| format!("(import \"env\" \"{at}{}\" (func))", "x".repeat(1000)))
        .collect();
    let problems = refusal(&format!("(module {many} (func (export \"_start\")))"));
    assert!(
        problems.len() < 12 && problems.join("").len() < 4000,
        "{problems:?}"
    );
}

#[test]
fn a_module_that_describes_interfaces_is_not_adapted() {
    let mut module =
        wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#)
            .unwrap();
    assert!(sandbox().admit(&module).is_ok());
    let name = b"component-type:x";
    module.extend_from_slice(&[0, 18, 16]);
    module.extend_from_slice(name);
    module.push(0);
    let refusal = sandbox().admit(&module).map(drop).unwrap_err();
    assert!(
        refusal.to_string().contains("wasm-tools component new"),
        "{refusal}"
    );
}
