//! The commands, one module each.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod cancel;
pub(crate) mod deploy;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod hold;
pub(crate) mod list;
pub(crate) mod plugin;
pub(crate) mod policy;
pub(crate) mod release;
pub(crate) mod secret;
pub(crate) mod serve;
pub(crate) mod show;
pub(crate) mod store;
pub(crate) mod token;
pub(crate) mod up;
pub(crate) mod webhook;

use std::io::{self, Write};

use serde_json::Value;

use crate::api::Api;
use crate::args::ClientArgs;
use crate::exit::Failure;
use crate::ui::text::escaped;

impl ClientArgs {
    /// The client that these arguments describe.
    pub(crate) fn api(&self) -> Result<Api, Failure> {
        Api::with_ca(
            &self.url,
            self.token.clone(),
            &self.data,
            self.ca.as_deref(),
        )
    }
}

/// Writes a command's product to standard output. A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(anyhow::Error::new(error)
            .context("cannot write to standard output")
            .into()),
        _ => Ok(()),
    }
}

/// The text at `pointer`, fit for a terminal; a dash when there is none.
fn text_at(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => escaped(text),
        Some(other) => escaped(&other.to_string()),
    }
}

/// A time as people write it: no `T`, no fractions, `Z` kept.
fn time_at(value: &Value, pointer: &str) -> String {
    let text = text_at(value, pointer);
    match (text.get(..10), text.get(11..19)) {
        (Some(date), Some(time)) if text.as_bytes()[10] == b'T' => format!("{date} {time}Z"),
        _ => text,
    }
}

/// Columns as wide as what is in them.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|name| name.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let header = header.iter().map(|name| (*name).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
