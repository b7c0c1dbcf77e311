//! What a step tells the people who watch it, beyond the lines it prints.

use serde::Serialize;

use crate::{Error, host};

/// Says how far the step has come, in units of its own choice, with a label that says of what
/// (`"files"`, `"downloading left-pad"`). `total` is a number, or `None` when it is not known.
///
/// The host merges reports that come too fast, so a step may call this as often as it likes; each call still
/// costs one crossing into the host.
pub fn progress(done: u64, total: impl Into<Option<u64>>, label: &str) {
    host::progress(done, total.into(), label);
}

/// Says something that a person should look at, although the step goes on.
pub fn warning(text: impl AsRef<str>) {
    host::warning(text.as_ref());
}

/// Records a typed result: a name, and a value that the host keeps as JSON.
///
/// # Errors
///
/// [`Error::OutputNotJson`] when the value has no JSON form (a map whose keys are not strings), and
/// [`Error::OutputRefused`] when the step's outputs exceed their limits.
pub fn output<T: Serialize + ?Sized>(name: &str, value: &T) -> Result<(), Error> {
    let json = serde_json::to_string(value).map_err(|source| Error::OutputNotJson {
        name: name.to_owned(),
        source,
    })?;
    host::output(name, &json).map_err(|message| Error::OutputRefused {
        name: name.to_owned(),
        message,
    })
}
