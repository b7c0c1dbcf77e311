//! The stand-in for the host when a plugin is built natively.
//!
//! Inside [`testing::Run::enter`](crate::testing::Run::enter) it answers from that run and records what the
//! step reports. Outside, so that a plugin can be tried by hand, it answers from the environment
//! (`COFFERDAM_PROJECT`, `COFFERDAM_DEPLOYMENT`, `COFFERDAM_STEP`, `COFFERDAM_CONFIG`, as a component
//! that imports nothing would find them; the release is the current directory) and prints reports on stderr.

use std::cell::RefCell;
use std::env;
use std::path::{Component, Path, PathBuf};

use crate::testing::{Progress, Report, Run};
use crate::{Context, Error, Phase};

thread_local! {
    static CURRENT: RefCell<Option<(Run, Report<()>)>> = const { RefCell::new(None) };
}

/// Makes a run the one that this thread's calls belong to, and returns what it reported.
pub(crate) fn within<T>(run: &Run, step: impl FnOnce() -> T) -> Report<T> {
    let outer = CURRENT.replace(Some((run.clone(), Report::of(()))));
    let result = step();
    let (_, report) = CURRENT
        .replace(outer)
        .expect("the run that was put here stays until it is taken");
    report.map(|()| result)
}

fn with_run<T>(read: impl FnOnce(&Run) -> T) -> Option<T> {
    CURRENT.with_borrow(|current| current.as_ref().map(|(run, _)| read(run)))
}

/// Records something in the current run; says whether there is one.
fn recorded(record: impl FnOnce(&mut Report<()>)) -> bool {
    CURRENT.with_borrow_mut(|current| current.as_mut().map(|(_, report)| record(report)).is_some())
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

pub(crate) fn context() -> Context {
    with_run(|run| run.context.clone()).unwrap_or_else(|| {
        let step = variable("COFFERDAM_STEP");
        let phase = step.split('-').next().and_then(Phase::from_name);
        Context::new(
            variable("COFFERDAM_DEPLOYMENT"),
            variable("COFFERDAM_PROJECT"),
            step,
            phase.unwrap_or(Phase::Install),
        )
    })
}

pub(crate) fn config() -> String {
    with_run(|run| run.config.to_string()).unwrap_or_else(|| variable("COFFERDAM_CONFIG"))
}

pub(crate) fn progress(done: u64, total: Option<u64>, label: &str) {
    let progress = || Progress {
        done,
        total,
        label: label.to_owned(),
    };
    if !recorded(|report| report.progress.push(progress())) {
        match total {
            Some(total) => eprintln!("progress: {done} of {total} {label}"),
            None => eprintln!("progress: {done} {label}"),
        }
    }
}

pub(crate) fn warning(text: &str) {
    if !recorded(|report| report.warnings.push(text.to_owned())) {
        eprintln!("warning: {text}");
    }
}

pub(crate) fn output(name: &str, value: &str) -> Result<(), String> {
    let json = serde_json::from_str(value).map_err(|error| error.to_string())?;
    if !recorded(|report| report.outputs.push((name.to_owned(), json))) {
        eprintln!("output: {name} {value}");
    }
    Ok(())
}

pub(crate) fn set_executable(path: &str, executable: bool) -> Result<(), String> {
    let path = regular_file(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = if executable { 0o755 } else { 0o644 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .map_err(|error| error.to_string())?;
    }
    recorded(|report| {
        report.executables.retain(|known| *known != path);
        if executable {
            report.executables.push(path.clone());
        }
    });
    Ok(())
}

pub(crate) fn is_executable(path: &str) -> Result<bool, String> {
    let path = regular_file(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = std::fs::metadata(&path).map_err(|error| error.to_string())?;
        Ok(metadata.permissions().mode() & 0o111 != 0)
    }
    #[cfg(not(unix))]
    Ok(CURRENT.with_borrow(|current| {
        current
            .as_ref()
            .is_some_and(|(_, report)| report.executables.contains(&path))
    }))
}

pub(crate) fn secret(name: &str) -> Result<Vec<u8>, Error> {
    with_run(|run| run.secrets.get(name).cloned())
        .flatten()
        .ok_or_else(|| Error::SecretNotGranted { name: name.into() })
}

pub(crate) fn release() -> PathBuf {
    with_run(|run| run.release.clone()).unwrap_or_else(|| PathBuf::from("."))
}

pub(crate) fn scratch() -> PathBuf {
    with_run(|run| run.scratch.clone())
        .flatten()
        .unwrap_or_else(env::temp_dir)
}

/// The same rules as the host's: inside the release, a regular file, links not followed.
fn regular_file(path: &str) -> Result<PathBuf, String> {
    let path = Path::new(path);
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("a path with .. is not taken".to_owned());
    }
    let release = release();
    let path = match path.strip_prefix("/release") {
        Ok(inside) => release.join(inside),
        Err(_) => release.join(path),
    };
    if !path.starts_with(&release) {
        return Err("it is outside the release".to_owned());
    }
    let metadata = std::fs::symlink_metadata(&path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    Ok(path)
}
