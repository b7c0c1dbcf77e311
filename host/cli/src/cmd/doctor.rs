//! `cofferdam doctor`: can this machine run packages safely, and is what a server keeps here whole?

mod clock;
mod kept;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use cofferdam_sandbox::worker::{LandlockStatus, landlock_status};
use cofferdam_sandbox::{
    Access, Phase, Preopen, Sandbox, SandboxOptions, Stdin, StepContext, StepSpec,
};
use serde::Serialize;
use serde_json::json;

use crate::args::{self, DoctorArgs, LandlockUse};
use crate::cmd::serve::isolation;
use crate::exit::Failure;
use crate::ui::{Paint, text};

/// Less free space than this is worth a word: one large package and its release.
const LITTLE_SPACE: u64 = 5 << 30;

/// Fewer open files than this are soon used up: each connection, step and log is some.
const FEW_DESCRIPTORS: u64 = 4096;

/// How often the disk's sync is tried.
const SYNCS: usize = 10;

/// A sync that takes longer than this is one of a disk that is failing, shared with many, or far away.
const SLOW_SYNC: Duration = Duration::from_millis(100);

/// How one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Standing {
    Ok,
    Warning,
    Broken,
}

#[derive(Debug, Serialize)]
struct Finding {
    kind: &'static str,
    check: &'static str,
    standing: Standing,
    message: String,
}

fn found(check: &'static str, standing: Standing, message: impl Into<String>) -> Finding {
    Finding {
        kind: "finding",
        check,
        standing,
        message: message.into(),
    }
}

pub(crate) async fn run(arguments: &DoctorArgs) -> Result<(), Failure> {
    let mut broken = 0;
    let mut say = |finding: Finding| {
        broken += u32::from(finding.standing == Standing::Broken);
        show(&finding, arguments.json);
    };
    say(landlock(arguments.landlock));
    say(worker(arguments.landlock).await);
    say(versions());
    say(user());
    say(descriptors());
    say(clock::steady());
    for finding in data(&arguments.data) {
        say(finding);
    }
    for finding in kept::look(&arguments.data).await {
        say(finding);
    }
    match broken {
        0 => Ok(()),
        1 => Err(Failure::Machine(anyhow::anyhow!("one thing is broken"))),
        broken => Err(Failure::Machine(anyhow::anyhow!(
            "{broken} things are broken"
        ))),
    }
}

fn show(finding: &Finding, json: bool) {
    let mut out = std::io::stdout().lock();
    // A reader that has left has heard enough.
    let _ = if json {
        writeln!(out, "{}", json!(finding))
    } else {
        let paint = Paint::for_terminal(std::io::IsTerminal::is_terminal(&std::io::stdout()));
        let standing = match finding.standing {
            Standing::Ok => paint.green("ok     "),
            Standing::Warning => paint.yellow("warning"),
            Standing::Broken => paint.red("broken "),
        };
        let message = text::escaped_lines(&finding.message);
        writeln!(out, "{standing}  {:<12} {message}", finding.check)
    };
}

fn landlock(wanted: LandlockUse) -> Finding {
    let status = match wanted {
        LandlockUse::Off => LandlockStatus::Off,
        LandlockUse::Prefer | LandlockUse::Require => landlock_status(),
    };
    let message = format!("Landlock is {status}");
    match (status.is_enforced(), wanted) {
        (true, _) => found("landlock", Standing::Ok, message),
        (false, LandlockUse::Require) => found("landlock", Standing::Broken, message),
        (false, _) => found(
            "landlock",
            Standing::Warning,
            format!(
                "{message}; the kernel does not confine steps to their directories, WebAssembly alone does. \
                 Use a kernel of 6.7 or newer that lists landlock in its lsm= parameter"
            ),
        ),
    }
}

/// Runs the smallest plugin that ships, as a server would.
async fn worker(landlock: LandlockUse) -> Finding {
    let start = Instant::now();
    match step(landlock).await {
        Ok(step) => found(
            "worker",
            Standing::Ok,
            format!(
                "a step ran in a process of its own, in {step:.1?} ({:.1?} with its compilation)",
                start.elapsed()
            ),
        ),
        Err(error) => found("worker", Standing::Broken, format!("{error:#}")),
    }
}

async fn step(landlock: LandlockUse) -> anyhow::Result<Duration> {
    let directory = tempfile::tempdir()?;
    let mut options = SandboxOptions::default();
    options.isolation = isolation(args::Isolation::Worker, landlock);
    let admitting = tokio::task::spawn_blocking(move || {
        let sandbox = Sandbox::new(options)?;
        let component = sandbox.admit(cofferdam_plugins::SERVE)?;
        Ok::<_, cofferdam_sandbox::Error>((sandbox, component))
    });
    let (sandbox, component) = admitting.await??;
    let context = StepContext {
        deployment: "doctor".to_owned(),
        project: "doctor".to_owned(),
        step: "load".to_owned(),
        phase: Phase::Load,
        config: json!({ "root": "." }),
    };
    let preopens = vec![Preopen::open(
        "/release",
        Access::ReadOnly,
        directory.path(),
    )?];
    let start = Instant::now();
    let step = sandbox.start(&component, StepSpec::new(context), preopens, Stdin::Closed)?;
    let verdict = step.outcome().await?.verdict;
    anyhow::ensure!(
        verdict.is_success(),
        "a step that does next to nothing {verdict}"
    );
    Ok(start.elapsed())
}

fn versions() -> Finding {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    found(
        "version",
        Standing::Ok,
        format!(
            "cofferdam {} on {} {} ({})",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            kernel.trim(),
            std::env::consts::ARCH
        ),
    )
}

fn user() -> Finding {
    if rustix::process::geteuid().is_root() {
        found(
            "user",
            Standing::Warning,
            "this runs as root: whatever leaves both walls is root too. Run the server as a user of its own",
        )
    } else {
        found("user", Standing::Ok, "this does not run as root")
    }
}

fn descriptors() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    match limit.maximum {
        Some(most) if most < FEW_DESCRIPTORS => found(
            "open files",
            Standing::Warning,
            format!("at most {most} files may be open; raise the hard limit to {FEW_DESCRIPTORS}"),
        ),
        Some(most) => found(
            "open files",
            Standing::Ok,
            format!("at most {most} files may be open"),
        ),
        None => found(
            "open files",
            Standing::Ok,
            "any number of files may be open",
        ),
    }
}

fn data(path: &Path) -> Vec<Finding> {
    let shown = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => {
            let message = format!("{shown} is not a directory");
            return vec![found("data", Standing::Broken, message)];
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("{shown} is not there yet; the first start makes it");
            return vec![found("data", Standing::Ok, message)];
        }
        Err(error) => {
            let message = format!("{shown}: {error}");
            return vec![found("data", Standing::Broken, message)];
        }
    };
    let mut findings = Vec::new();
    let mode = metadata.permissions().mode() & 0o777;
    findings.push(if mode & 0o077 == 0 {
        found("data", Standing::Ok, format!("{shown} is closed to others"))
    } else {
        found(
            "data",
            Standing::Broken,
            format!("{shown} is open to others (mode {mode:o}); chmod 700 it"),
        )
    });
    match space(path) {
        Ok(free) => findings.push(found(
            "space",
            if free < LITTLE_SPACE {
                Standing::Warning
            } else {
                Standing::Ok
            },
            format!("{} are free", text::bytes(free)),
        )),
        Err(error) => findings.push(found("space", Standing::Broken, error.to_string())),
    }
    match sync(path) {
        Ok((usual, worst)) => {
            let message = format!("a durable write takes {usual:.1?}, at worst {worst:.1?}");
            findings.push(if worst > SLOW_SYNC {
                found(
                    "disk",
                    Standing::Warning,
                    format!(
                        "{message}: every deployment waits for several of them; use a faster disk"
                    ),
                )
            } else {
                found("disk", Standing::Ok, message)
            });
        }
        Err(error) => findings.push(found(
            "disk",
            Standing::Broken,
            format!("{shown} cannot be written to: {error}"),
        )),
    }
    findings
}

fn space(path: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// How long writing a little and having it on the disk takes: usually, and the longest of some times.
fn sync(path: &Path) -> std::io::Result<(Duration, Duration)> {
    let mut file = tempfile::tempfile_in(path)?;
    let mut took = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let start = Instant::now();
        file.write_all(b"durable")?;
        file.sync_data()?;
        took.push(start.elapsed());
    }
    took.sort();
    Ok((took[SYNCS / 2], took[SYNCS - 1]))
}
