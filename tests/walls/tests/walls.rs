//! The second wall alone: a worker whose host function is hostile, stopped by the kernel; and workers that are killed.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::time::{Duration, Instant};

use cofferdam_sandbox::worker::{Isolation, Landlock, LandlockStatus, WorkerOptions};
use cofferdam_sandbox::{
    Access, Component, Error, Outcome, Phase, Preopen, Sandbox, SandboxOptions, Stdin, Step,
    StepContext, StepSpec, Verdict,
};
use tempfile::TempDir;

#[path = "../../../host/sandbox/tests/all/latency.rs"]
mod latency;

use latency::Latency;

const HOSTILE: &str = env!("CARGO_BIN_EXE_cofferdam-test-walls");

/// What the hostile worker exits with when everything it tried was stopped.
const STOPPED: &str = "it exited with code 100";

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a granted, a read-only and an ungranted part.
struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        for name in ["granted", "read-only", "outside"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("secret"), "beside the granted").unwrap();
        fs::write(root.path().join("outside/secret"), "outside").unwrap();
        fs::write(root.path().join("read-only/read-only"), "not to be changed").unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    /// Every file with its content, and every directory.
    fn snapshot(&self) -> BTreeMap<String, Vec<u8>> {
        fn walk(root: &Path, directory: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().display().to_string();
                if path.is_dir() {
                    found.insert(name, Vec::new());
                    walk(root, &path, found);
                } else {
                    found.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.root.path(), self.root.path(), &mut found);
        found
    }
}

fn sandbox(attack: &str, outside: &Path, landlock: Landlock) -> (Sandbox, Component) {
    let mut workers = WorkerOptions::program(HOSTILE, [attack.as_ref(), outside.as_os_str()]);
    workers.landlock = landlock;
    let mut options = SandboxOptions::default();
    options.isolation = Isolation::Worker(workers);
    let sandbox = Sandbox::new(options).unwrap();
    let component = sandbox
        .admit(cofferdam_test_guests::program("succeed"))
        .unwrap();
    (sandbox, component)
}

fn spec() -> StepSpec {
    StepSpec::new(StepContext {
        deployment: "1".into(),
        project: "blog".into(),
        step: "install-1".into(),
        phase: Phase::Install,
        config: serde_json::Value::Null,
    })
}

fn start(sandbox: &Sandbox, component: &Component, place: &Place) -> Step {
    let preopens = vec![
        Preopen::open("/release", Access::ReadWrite, place.path("granted")).unwrap(),
        Preopen::open("/input", Access::ReadOnly, place.path("read-only")).unwrap(),
    ];
    sandbox
        .start(component, spec(), preopens, Stdin::Closed)
        .unwrap()
}

async fn outcome(step: Step) -> Result<Outcome, Error> {
    tokio::time::timeout(PATIENCE, step.outcome())
        .await
        .expect("the step ends")
}

/// Runs an attack and proves that it changed nothing.
async fn attack(name: &str) -> Result<Outcome, Error> {
    let place = Place::new();
    let before = place.snapshot();
    let (sandbox, component) = sandbox(name, &place.path("outside"), Landlock::Require);
    let ended = outcome(start(&sandbox, &component, &place)).await;
    assert_eq!(place.snapshot(), before, "{name}");
    ended
}

async fn is_refused(name: &str) {
    let error = attack(name).await.unwrap_err();
    assert!(error.to_string().contains(STOPPED), "{name}: {error}");
}

async fn is_killed(name: &str) {
    match attack(name).await.unwrap().verdict {
        Verdict::Trapped { message } => {
            assert!(message.contains("system call"), "{name}: {message}");
        }
        other => panic!("{name}: {other}"),
    }
}

#[tokio::test]
async fn a_worker_that_does_nothing_wrong_is_not_stopped() {
    let ended = attack("none").await.unwrap();
    assert!(ended.verdict.is_success(), "{}", ended.verdict);
}

#[tokio::test]
async fn no_file_opens_that_was_not_granted() {
    is_refused("files").await;
}

#[tokio::test]
async fn a_read_only_directory_is_read_only_for_the_kernel_too() {
    is_refused("descriptors").await;
}

#[tokio::test]
async fn no_memory_becomes_code() {
    is_refused("memory").await;
}

#[tokio::test]
async fn no_wall_is_moved_once_it_stands() {
    is_refused("loosen").await;
}

#[tokio::test]
async fn sockets_are_fatal() {
    for name in ["tcp", "listen", "udp", "unix"] {
        is_killed(name).await;
    }
}

#[tokio::test]
async fn programs_are_not_started() {
    is_killed("exec").await;
    is_killed("kill").await;
    is_killed("ptrace").await;
}

#[tokio::test]
async fn processes_are_not_made() {
    // The C library makes processes by `clone`, which is refused rather than fatal: threads need it.
    is_refused("fork").await;
    is_refused("program").await;
}

#[tokio::test]
async fn a_worker_that_does_not_react_is_killed_at_the_deadline_and_after_a_cancel() {
    let place = Place::new();
    let (sandbox, component) = sandbox("hang", &place.path("outside"), Landlock::Prefer);
    let mut impatient = spec();
    impatient.limits.wall_ms = 200;
    let step = sandbox
        .start(&component, impatient, Vec::new(), Stdin::Closed)
        .unwrap();
    let ended = outcome(step).await.unwrap();
    assert_eq!(ended.verdict, Verdict::TimedOut { limit_ms: 200 });
    assert!(ended.receipt.wall_ms >= 200, "{:?}", ended.receipt);

    let step = start(&sandbox, &component, &place);
    // Long enough that it hangs; a cancel before that is as good.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let asked = Instant::now();
    step.cancel();
    let ended = outcome(step).await.unwrap();
    assert_eq!(ended.verdict, Verdict::Cancelled);
    assert!(asked.elapsed() < PATIENCE / 10, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn without_landlock_a_sandbox_that_requires_it_runs_nothing() {
    let place = Place::new();
    // Switched off stands for a kernel that has none: the files open then, and so the test above can fail.
    let (sandbox, component) = sandbox("files", &place.path("outside"), Landlock::Off);
    let error = outcome(start(&sandbox, &component, &place))
        .await
        .unwrap_err();
    assert!(!error.to_string().contains(STOPPED), "{error}");
}

#[test]
fn this_machine_has_landlock() {
    let status = cofferdam_sandbox::worker::landlock_status();
    assert!(
        matches!(status, LandlockStatus::Enforced { abi } if abi >= 4),
        "{status}"
    );
}

#[tokio::test]
async fn nothing_that_the_host_left_open_is_open_in_a_worker() {
    let place = Place::new();
    let file = fs::File::open(place.path("secret")).unwrap();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut names = String::new();
    for descriptor in [file.as_fd(), socket.as_fd()] {
        // As a program does that has never heard of it.
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty()).unwrap();
        let stat = rustix::fs::fstat(descriptor).unwrap();
        names.push_str(&format!("{}:{} ", stat.st_dev, stat.st_ino));
    }
    // Any other program would have it.
    let other = std::process::Command::new("readlink")
        .arg(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&other.stdout).contains("secret"));

    let (sandbox, component) = sandbox("inherited", Path::new(&names), Landlock::Require);
    let error = outcome(start(&sandbox, &component, &place))
        .await
        .unwrap_err();
    assert!(error.to_string().contains(STOPPED), "{error}");
}

#[tokio::test]
async fn code_that_no_engine_interrupts_ends_within_a_tenth_of_a_second_of_the_deadline() {
    let place = Place::new();
    for name in ["began", "beat"] {
        fs::write(place.path("granted").join(name), "").unwrap();
    }
    let (sandbox, component) = sandbox("beat", &place.path("outside"), Landlock::Require);
    let wall = Duration::from_millis(200);
    let mut spec = spec();
    spec.limits.wall_ms = 200;
    let preopens =
        vec![Preopen::open("/release", Access::ReadWrite, place.path("granted")).unwrap()];
    let latency = Latency::watch();
    let step = sandbox.start(&component, spec, preopens, Stdin::Closed);
    let ended = outcome(step.unwrap()).await.unwrap();
    let allowance = latency.allowance();
    assert_eq!(ended.verdict, Verdict::TimedOut { limit_ms: 200 });
    let changed = |name: &str| {
        let metadata = fs::metadata(place.path("granted").join(name)).unwrap();
        assert_eq!(metadata.len(), 3, "{name} was written");
        metadata.modified().unwrap()
    };
    let last = changed("beat");
    let worked = last.duration_since(changed("began")).unwrap_or_default();
    let late = worked.saturating_sub(wall);
    assert!(
        late <= Duration::from_millis(100) + allowance,
        "{late:?} late on a machine that explains {allowance:?}"
    );
    // Nothing to wait for: that nothing happens is what is tested.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(changed("beat"), last);
}
