//! Workers that SIGKILL does not end, as when the kernel waits in them for a disk that does not answer. No test can
//! make such a process, so these stand for one: they say what a worker says, and are not reaped until they are told.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use super::super::LandlockStatus;
use super::super::process::Handle;
use super::super::wire;
use super::*;
use crate::engine::STEP_SLOTS;
use crate::sandbox::{Sandbox, SandboxOptions};
use crate::spec::{Phase, StepContext};

/// What such a process does, and what was done to it.
#[derive(Debug, Default)]
struct Fate {
    killed: AtomicUsize,
    released: AtomicBool,
}

impl Fate {
    fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
struct Undying(Arc<Fate>);

impl Handle for Undying {
    fn id(&self) -> u32 {
        4242
    }

    fn kill(&mut self) -> io::Result<()> {
        self.0.killed.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = ExitStatus::from_raw(Signal::KILL.as_raw());
        Ok(self.0.is_released().then_some(status))
    }
}

/// What every worker says first.
fn begin(socket: &UnixStream) {
    let say = |message: &FromWorker| {
        let mut frame = Vec::new();
        wire::put(&mut frame, message).unwrap();
        (&*socket).write_all(&frame).unwrap();
    };
    say(&FromWorker::Hello {
        version: super::super::VERSION.to_owned(),
    });
    wire::receive_job(socket).unwrap().unwrap();
    say(&FromWorker::Walled {
        landlock: LandlockStatus::Off,
    });
}

/// A worker that takes a job and then says the same thing for as long as somebody listens.
fn babbling(event: StepEvent) -> Process {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let fate = Arc::new(Fate::default());
    let handle = Undying(Arc::clone(&fate));
    thread::spawn(move || {
        begin(&theirs);
        let mut frame = Vec::new();
        wire::put_event(&mut frame, event).unwrap();
        let frames = frame.repeat((64 << 10) / frame.len() + 1);
        while fate.killed.load(Ordering::Acquire) == 0 && (&theirs).write_all(&frames).is_ok() {}
        fate.released.store(true, Ordering::Release);
    });
    Process::new(handle, ours)
}

/// Every kind of event, small as can be: what is recorded of each is more than what it says.
#[tokio::test]
async fn a_worker_that_says_more_than_its_guest_may_is_killed_whatever_it_says() {
    let cache = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new(SandboxOptions::cached_in(cache.path().join("cache"))).unwrap();
    let component = sandbox
        .admit(cofferdam_test_guests::program("succeed"))
        .unwrap();
    let progress = |label: String| StepEvent::Progress {
        done: 1,
        total: None,
        label,
    };
    let line = StepEvent::Line {
        stream: crate::event::OutputStream::Stdout,
        text: String::new(),
        truncated: false,
    };
    let warning = StepEvent::Warning {
        text: String::new(),
    };
    let output = StepEvent::Output {
        name: "a".into(),
        value: Value::Null,
    };
    let dropped = StepEvent::Dropped { lines: 1, bytes: 1 };
    for (event, why, most) in [
        (line, "more output", 64 << 10),
        (warning, "more output", 64 << 10),
        (output, "more outputs", 64),
        (dropped, "more than once", 1),
        (progress(String::new()), "too often", 1000),
        (progress("a".repeat(1 << 20)), "too great length", 0),
    ] {
        let mut spec = spec();
        (spec.limits.output_bytes, spec.limits.outputs) = (1 << 20, 64);
        let pool = Pool::of([babbling(event.clone())]);
        let mut step = start(
            Arc::clone(&sandbox.0),
            pool,
            &component,
            spec,
            Vec::new(),
            Stdin::Closed,
        )
        .unwrap();
        let mut heard = 0;
        while step.next_event().await.is_some() {
            heard += 1;
        }
        let error = step.outcome().await.unwrap_err().to_string();
        assert!(
            error.contains("broke the rules") && error.contains(why),
            "{event:?}: {error}"
        );
        assert!(heard <= most, "{event:?}: {heard}");
    }
}

fn spec() -> StepSpec {
    StepSpec::new(StepContext {
        deployment: "1".into(),
        project: "blog".into(),
        step: "install-1".into(),
        phase: Phase::Install,
        config: Value::Null,
    })
}

/// A worker that takes a job and then hangs, with its socket open or closed meanwhile.
fn undying(fate: &Arc<Fate>, holds_socket: bool) -> Process {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let fate = Arc::clone(fate);
    let handle = Undying(Arc::clone(&fate));
    thread::spawn(move || {
        begin(&theirs);
        let done = |fate: &Fate| match holds_socket {
            true => fate.is_released(),
            false => fate.killed.load(Ordering::Acquire) > 0,
        };
        while !done(&fate) {
            thread::sleep(Duration::from_millis(1));
        }
    });
    Process::new(handle, ours)
}

#[tokio::test]
async fn a_worker_that_does_not_die_is_reported_as_stuck_and_keeps_its_slot_until_it_does() {
    let cache = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new(SandboxOptions::cached_in(cache.path().join("cache"))).unwrap();
    let component = sandbox
        .admit(cofferdam_test_guests::program("succeed"))
        .unwrap();
    let fates = [Arc::new(Fate::default()), Arc::new(Fate::default())];
    let pool = Pool::of([undying(&fates[0], true), undying(&fates[1], false)]);
    let mut spec = spec();
    spec.limits.wall_ms = 50;
    let step = || {
        start(
            Arc::clone(&sandbox.0),
            pool.clone(),
            &component,
            spec.clone(),
            Vec::new(),
            Stdin::Closed,
        )
        .unwrap()
        .outcome()
    };
    let (first, second) = tokio::join!(step(), step());
    for outcome in [first, second] {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Stuck { pid: 4242 }), "{error}");
        assert!(error.to_string().contains("does not die"), "{error}");
    }
    for fate in &fates {
        assert!(fate.killed.load(Ordering::Acquire) > 0);
    }
    let all = STEP_SLOTS as usize;
    let free = || sandbox.0.step_slots.available_permits();
    assert_eq!(free(), all - 2);
    // They keep it for as long as it takes.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(free(), all - 2);
    for fate in &fates {
        fate.released.store(true, Ordering::Release);
    }
    let freed = async {
        while free() < all {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), freed)
        .await
        .unwrap();
}

#[test]
fn an_idle_worker_is_told_once_of_the_components_that_are_used() {
    let cache = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new(SandboxOptions::cached_in(cache.path().join("cache"))).unwrap();
    let fate = Arc::new(Fate::default());
    fate.released.store(true, Ordering::Release);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let pool = Pool::of([Process::new(Undying(fate), ours)]);
    theirs.set_nonblocking(true).unwrap();
    for program in ["succeed", "fail"] {
        let component = sandbox
            .admit(cofferdam_test_guests::program(program))
            .unwrap();
        let artifact = component.artifact().unwrap();
        pool.know(&component, &artifact);
        let (job, descriptors) = wire::receive_job(&theirs).unwrap().unwrap();
        match job {
            Job::Know(known) => assert_eq!(known.digest, component.digest()),
            other => panic!("{other:?}"),
        }
        assert_eq!(descriptors.len(), 1);
        pool.know(&component, &artifact);
        let error = wire::receive_job(&theirs).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
