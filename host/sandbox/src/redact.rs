//! Keeping secrets out of everything that a step says.
//!
//! A secret is looked for in the forms in which programs print it by accident: as it is, in base64 of either
//! alphabet, also in the middle of a longer text, in hex, percent-encoded, and escaped as JSON. What is looked for
//! is not the whole form but each short window of it, so a piece of a secret is found as well as all of it: one
//! that was cut by a line's end, wrapped to a width, shortened for display, or printed half to one stream and half
//! to the other. Whatever windows cover is replaced by [`REDACTED`], whole runs at once.
//!
//! - A form of [`LONG_FORM`] bytes or more is found by any [`LONG_WINDOW`] bytes of it in a row, a shorter one by
//!   any [`SHORT_WINDOW`]. Less than that stays readable: it is no more than half of a secret of 16 bytes or more.
//! - Windows never contain a line end. The lines of a secret are looked for on their own, and a printed line goes
//!   out as soon as it ends. Lines of fewer than [`SHORT_WINDOW`] bytes are not found.
//! - Windows that are nearly all one character (a ruler, an indentation) are not looked for, unless the secret
//!   has no others.
//!
//! The work is linear in what is printed: a sampled filter passes over ordinary text, and only where it strikes are
//! windows looked up in a sorted list.

mod forms;
mod stream;
mod windows;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

pub use self::stream::RedactedStream;
use self::windows::Windows;
use crate::event::StepEvent;
use crate::spec::Secrets;

/// What stands where a secret stood.
pub const REDACTED: &str = "[redacted]";

/// The shortest run of a secret that is redacted, and so the shortest secret that is: anything shorter turns up in
/// ordinary text.
pub const SHORT_WINDOW: usize = 8;

/// The run that is redacted of a long form: longer, so that `https://` and `postgres` in a secret address do not
/// blacken every log.
pub const LONG_WINDOW: usize = 12;

/// The length from which on a form is a long one: half of it is still a window.
pub const LONG_FORM: usize = 2 * LONG_WINDOW;

/// Takes secrets out of texts and streams. Clones share what they look for; the default looks for nothing and costs
/// nothing.
#[derive(Clone, Default)]
pub struct Redactor(Option<Arc<Windows>>);

impl Redactor {
    /// A redactor for these secrets. It holds some thirty times their bytes, and wipes them when it is dropped.
    #[must_use]
    pub fn new(secrets: &Secrets) -> Self {
        let windows = Windows::of(secrets.iter().map(|(_, value)| value));
        Self((!windows.is_empty()).then(|| Arc::new(windows)))
    }

    /// Whether a secret can be redacted when it is printed as it is: whether it has a line that is long enough.
    #[must_use]
    pub fn can_redact(secret: &[u8]) -> bool {
        forms::lines(secret).any(|line| line.len() >= SHORT_WINDOW)
    }

    /// Whether there is nothing to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The text without secrets.
    #[must_use]
    pub fn text<'a>(&self, text: impl Into<Cow<'a, str>>) -> Cow<'a, str> {
        let text = text.into();
        let Some(windows) = &self.0 else { return text };
        let found = windows.find(text.as_bytes());
        if found.is_empty() {
            return text;
        }
        let mut bytes = Vec::with_capacity(text.len());
        let mut from = 0;
        for run in found {
            bytes.extend_from_slice(&text.as_bytes()[from..run.start]);
            bytes.extend_from_slice(REDACTED.as_bytes());
            from = run.end;
        }
        bytes.extend_from_slice(&text.as_bytes()[from..]);
        // A run may begin or end within a character.
        Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The JSON value without secrets: in its texts, its keys and its numbers.
    #[must_use]
    pub fn value(&self, value: Value) -> Value {
        if self.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.text(text).into_owned()),
            Value::Array(values) => {
                Value::Array(values.into_iter().map(|value| self.value(value)).collect())
            }
            Value::Object(members) => Value::Object(
                members
                    .into_iter()
                    .map(|(key, value)| (self.text(key).into_owned(), self.value(value)))
                    .collect(),
            ),
            Value::Number(number) => match self.text(number.to_string()) {
                text if text == number.to_string() => Value::Number(number),
                text => Value::String(text.into_owned()),
            },
            Value::Null | Value::Bool(_) => value,
        }
    }

    /// What a step said, without secrets. A step's own are gone from it already.
    #[must_use]
    pub fn event(&self, event: StepEvent) -> StepEvent {
        if self.is_empty() {
            return event;
        }
        let text = |text: String| self.text(text).into_owned();
        match event {
            StepEvent::Line {
                stream,
                text: line,
                truncated,
            } => StepEvent::Line {
                stream,
                text: text(line),
                truncated,
            },
            StepEvent::Progress { done, total, label } => StepEvent::Progress {
                done,
                total,
                label: text(label),
            },
            StepEvent::Warning { text: warning } => StepEvent::Warning {
                text: text(warning),
            },
            StepEvent::Output { name, value } => StepEvent::Output {
                name: text(name),
                value: self.value(value),
            },
            StepEvent::Dropped { .. } => event,
        }
    }

    /// A stream of bytes to take secrets out of, however it is cut into pieces.
    #[must_use]
    pub fn stream(&self) -> RedactedStream {
        RedactedStream::new(self.0.clone())
    }
}

/// Whether something that is to be logged may be a guest's own words: at its finer levels the engine traces what
/// guests pass to host calls, secrets included. A program whose log goes that far leaves these out; steps in worker
/// processes log nothing.
#[must_use]
pub fn tells_of_guests(metadata: &tracing::Metadata<'_>) -> bool {
    *metadata.level() > tracing::Level::INFO && metadata.target().starts_with("wasmtime")
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor")
            .field("is_empty", &self.is_empty())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
