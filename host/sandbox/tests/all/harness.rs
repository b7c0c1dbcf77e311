//! What the tests share: one sandbox, and running one program in directories of its own.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cofferdam_sandbox::{
    Access, Component, InputError, Limits, Outcome, OutputStream, Phase, Preopen, Sandbox,
    SandboxOptions, Stdin, Step, StepContext, StepEvent, StepSpec,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Longer than anything here takes, so that a hang is a failure and not a silence.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    let mut options = SandboxOptions::default();
    options.isolation = crate::isolation();
    Sandbox::new(options).expect("this machine runs WebAssembly")
});

pub(crate) fn sandbox() -> &'static Sandbox {
    &SANDBOX
}

/// The program of this name, admitted once in each test binary.
pub(crate) fn program(name: &str) -> Component {
    static ADMITTED: LazyLock<Mutex<HashMap<String, Component>>> = LazyLock::new(Mutex::default);
    let mut admitted = ADMITTED.lock().unwrap();
    admitted
        .entry(name.to_owned())
        .or_insert_with(|| {
            sandbox()
                .admit(cofferdam_test_guests::program(name))
                .expect("the program is admitted")
        })
        .clone()
}

/// One run that is being prepared.
pub(crate) struct Run {
    program: String,
    pub(crate) spec: StepSpec,
    pub(crate) release: TempDir,
    pub(crate) scratch: TempDir,
    preopens: Vec<(String, Access, std::path::PathBuf)>,
    stdin: Stdin,
}

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) events: Vec<StepEvent>,
}

impl Run {
    pub(crate) fn of(program: &str) -> Self {
        let context = StepContext {
            deployment: "0190a7c0-0000-7000-8000-000000000000".into(),
            project: "blog".into(),
            step: "install-1".into(),
            phase: Phase::Install,
            config: Value::Null,
        };
        Self {
            program: program.to_owned(),
            spec: StepSpec::new(context),
            release: TempDir::new().unwrap(),
            scratch: TempDir::new().unwrap(),
            preopens: Vec::new(),
            stdin: Stdin::Closed,
        }
    }

    pub(crate) fn config(mut self, config: Value) -> Self {
        self.spec.context.config = config;
        self
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.spec.limits);
        self
    }

    pub(crate) fn directory(
        mut self,
        guest_path: &str,
        access: Access,
        path: &std::path::Path,
    ) -> Self {
        self.preopens
            .push((guest_path.to_owned(), access, path.to_path_buf()));
        self
    }

    /// Gives the run an input, and returns where its bytes go.
    pub(crate) fn stdin(mut self) -> (Self, mpsc::Sender<Result<Bytes, InputError>>) {
        let (sender, receiver) = mpsc::channel(4);
        self.stdin = Stdin::Channel(receiver);
        (self, sender)
    }

    pub(crate) fn start(self) -> Started {
        let component = program(&self.program);
        self.start_with(&component)
    }

    /// Runs a component that is none of the programs.
    pub(crate) fn start_with(self, component: &Component) -> Started {
        let mut preopens = vec![
            Preopen::open("/release", Access::ReadWrite, self.release.path()).unwrap(),
            Preopen::open("/tmp", Access::ReadWrite, self.scratch.path()).unwrap(),
        ];
        for (guest_path, access, path) in &self.preopens {
            preopens.push(Preopen::open(guest_path, *access, path).unwrap());
        }
        let step = sandbox()
            .start(component, self.spec, preopens, self.stdin)
            .unwrap();
        Started {
            step,
            release: self.release,
            scratch: self.scratch,
        }
    }

    /// Runs to the end.
    pub(crate) async fn end(self) -> Ended {
        self.start().end().await
    }
}

/// A run that has begun. Its directories live as long as it.
pub(crate) struct Started {
    pub(crate) step: Step,
    pub(crate) release: TempDir,
    pub(crate) scratch: TempDir,
}

impl Started {
    /// Takes events until this line was printed.
    pub(crate) async fn until_line(&mut self, wanted: &str) {
        tokio::time::timeout(PATIENCE, async {
            while let Some(event) = self.step.next_event().await {
                if matches!(&event, StepEvent::Line { text, .. } if text == wanted) {
                    return;
                }
            }
            panic!("the step ended before it printed {wanted:?}");
        })
        .await
        .expect("the line comes");
    }

    pub(crate) async fn end(mut self) -> Ended {
        tokio::time::timeout(PATIENCE, async {
            let mut events = Vec::new();
            while let Some(event) = self.step.next_event().await {
                events.push(event);
            }
            Ended {
                outcome: self.step.outcome().await.expect("the host does not fail"),
                events,
            }
        })
        .await
        .expect("the step ends")
    }
}

impl Ended {
    /// The text of every printed line, in order.
    pub(crate) fn lines(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| match event {
                StepEvent::Line { text, .. } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    /// The lines of one stream.
    pub(crate) fn lines_of(&self, wanted: OutputStream) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| match event {
                StepEvent::Line { text, stream, .. } if *stream == wanted => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }
}
