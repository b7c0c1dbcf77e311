//! The host that runs this component, through the interfaces of `wit/step.wit`.

use std::path::PathBuf;

use self::bindings::cofferdam::step::{context as run, files, report, secrets};
use crate::{Context, Error, Phase};

mod bindings {
    #![allow(
        unsafe_code,
        missing_docs,
        unused_qualifications,
        clippy::all,
        clippy::pedantic,
        reason = "generated from the WIT; crossing into the host lowers values to raw memory"
    )]

    wit_bindgen::generate!({ path: "wit", world: "additions" });
}

pub(crate) fn context() -> Context {
    let run = run::current();
    let phase = match run.phase {
        run::Phase::Extract => Phase::Extract,
        run::Phase::Install => Phase::Install,
        run::Phase::Load => Phase::Load,
    };
    Context::new(run.deployment, run.project, run.step, phase)
}

pub(crate) fn config() -> String {
    run::config()
}

pub(crate) fn progress(done: u64, total: Option<u64>, label: &str) {
    report::progress(done, total, label);
}

pub(crate) fn warning(text: &str) {
    report::warning(text);
}

pub(crate) fn output(name: &str, value: &str) -> Result<(), String> {
    report::output(name, value)
}

pub(crate) fn set_executable(path: &str, executable: bool) -> Result<(), String> {
    files::set_executable(path, executable)
}

pub(crate) fn is_executable(path: &str) -> Result<bool, String> {
    files::is_executable(path)
}

pub(crate) fn secret(name: &str) -> Result<Vec<u8>, Error> {
    secrets::get(name).map_err(|error| match error {
        secrets::SecretError::NotGranted => Error::SecretNotGranted { name: name.into() },
        secrets::SecretError::Unavailable(message) => Error::SecretUnavailable {
            name: name.into(),
            message,
        },
    })
}

pub(crate) fn release() -> PathBuf {
    PathBuf::from("/release")
}

pub(crate) fn scratch() -> PathBuf {
    PathBuf::from("/tmp")
}
