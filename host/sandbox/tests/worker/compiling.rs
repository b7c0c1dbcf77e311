//! Compiling: in a worker, within bounds; and so is making components of modules for WASI preview 1.

use std::time::Duration;

use cofferdam_sandbox::worker::{Isolation, WorkerOptions};
use cofferdam_sandbox::{Error, Sandbox, SandboxOptions};

fn sandbox(cache: &std::path::Path, isolation: Isolation) -> Sandbox {
    let mut options = SandboxOptions::cached_in(cache);
    options.isolation = isolation;
    Sandbox::new(options).unwrap()
}

#[test]
fn what_makes_components_of_modules_runs_in_a_worker() {
    let module =
        wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#);
    let (module, component) = (module.unwrap(), cofferdam_test_guests::program("succeed"));
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    let sound = sandbox(&cache, crate::isolation());
    assert!(sound.admit(&module).unwrap().is_adapted());
    sound.admit(component).unwrap();

    // Both are compiled already. Without workers, the component is there, and the module is not adapted.
    let broken = WorkerOptions::program("/nonexistent/worker", [] as [&str; 0]);
    let broken = sandbox(&cache, Isolation::Worker(broken));
    broken.admit(component).unwrap();
    let refused = broken.admit(&module).map(drop).unwrap_err();
    assert!(
        matches!(refused, Error::Worker { .. } | Error::Thread(_)),
        "{refused:?}"
    );
}

/// What becomes of a component whose compilation is bounded like this.
fn refusal(change: impl FnOnce(&mut WorkerOptions)) -> String {
    let Isolation::Worker(mut options) = crate::isolation() else {
        unreachable!("these tests have workers");
    };
    change(&mut options);
    let mut sandbox = SandboxOptions::default();
    sandbox.isolation = Isolation::Worker(options);
    let sandbox = Sandbox::new(sandbox).unwrap();
    let component = cofferdam_test_guests::program("fetch");
    let refused = sandbox.admit(component).map(drop).unwrap_err();
    // It is the component that is too much, and not the host that failed.
    assert!(matches!(refused, Error::Invalid { .. }), "{refused:?}");
    refused.to_string()
}

#[test]
fn a_compilation_ends_at_its_deadline() {
    let refused = refusal(|options| options.compile_deadline = Duration::from_millis(1));
    assert!(refused.contains("longer to compile"), "{refused}");
}

#[test]
fn a_compilation_that_needs_too_much_memory_ends_without_the_host() {
    let refused = refusal(|options| options.compile_memory_bytes = 1 << 20);
    assert!(refused.contains("more than 1 MiB of memory"), "{refused}");
}
