//! `GET /v1/deployments/{id}/log`: everything that is recorded of a deployment, for people or programs.

use std::borrow::Cow;
use std::fmt::Write as _;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use cofferdam_deploy::{Error, Next, Record, StoredEvent, Subscription};
use futures::stream;
use http::header::CONTENT_TYPE;
use serde::Deserialize;

use super::Call;
use super::problem::Problem;

/// How much is put into one write.
const BATCH_BYTES: usize = 32 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    format: Option<String>,
}

/// The two forms of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// What the steps printed and what the host has to say about it, a line each.
    Text,
    /// Every event as it is stored.
    JsonLines,
}

/// Answers with the log up to now.
pub(super) async fn read(call: Call, record: Record) -> Result<Response, Problem> {
    let query: LogQuery = call.query()?;
    let format = match query.format.as_deref() {
        Some("text") => Format::Text,
        Some("jsonl") => Format::JsonLines,
        Some(other) => {
            return Err(Problem::bad_request(format!(
                "the format {other:?} is neither text nor jsonl"
            )));
        }
        None if call.accepts("application/x-ndjson") || call.accepts("application/jsonl") => {
            Format::JsonLines
        }
        None => Format::Text,
    };
    let content_type = match format {
        Format::Text => "text/plain; charset=utf-8",
        Format::JsonLines => "application/x-ndjson",
    };
    let subscription = call.api.host().log(record.id).await?;
    let lines = stream::try_unfold(Some(subscription), move |state| batch(state, format));
    Ok(([(CONTENT_TYPE, content_type)], Body::from_stream(lines)).into_response())
}

/// The next piece of the log; nothing after the last.
async fn batch(
    subscription: Option<Subscription>,
    format: Format,
) -> Result<Option<(Bytes, Option<Subscription>)>, Error> {
    let Some(mut subscription) = subscription else {
        return Ok(None);
    };
    let mut text = String::new();
    while text.len() < BATCH_BYTES {
        match subscription.next().await.map_err(Error::from) {
            Ok(Next::Event(event)) => match format {
                Format::JsonLines => {
                    text.push_str(&event.json);
                    text.push('\n');
                }
                Format::Text => render(&mut text, &event),
            },
            Ok(Next::End | Next::Resync) => {
                return Ok((!text.is_empty()).then(|| (text.into(), None)));
            }
            Err(error) => {
                tracing::error!(cause = error.chain(), "a log cannot be read");
                return Err(error);
            }
        }
    }
    Ok(Some((text.into(), Some(subscription))))
}

/// What a person reads of an event.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry<'a> {
    #[serde(borrow)]
    step: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    truncated: bool,
    lines: u64,
    bytes: u64,
}

/// Writes an event as a line of text, if it is one that a person looks for in a log.
fn render(text: &mut String, event: &StoredEvent) {
    let Ok(entry) = serde_json::from_str::<Entry<'_>>(&event.json) else {
        return;
    };
    let said = match event.kind.as_str() {
        "line" if entry.truncated => Cow::Owned(format!("{} (cut)", entry.text)),
        "line" => entry.text,
        "warning" => Cow::Owned(format!("warning: {}", entry.text)),
        "dropped" => Cow::Owned(format!(
            "({} lines, {} bytes were dropped)",
            entry.lines, entry.bytes
        )),
        "error" => Cow::Owned(format!("error: {}", entry.message)),
        "resumed" => Cow::Borrowed("(the server was restarted and goes on)"),
        _ => return,
    };
    if let Some(step) = entry.step {
        write!(text, "[{step}] ").expect("a string takes what is written");
    }
    escape(text, &said);
    text.push('\n');
}

/// Appends text that a stranger's program printed, so that a terminal shows it and does not obey it:
/// control characters, and those that turn the direction of writing, as `\u{1b}`. Tabs stay.
fn escape(text: &mut String, said: &str) {
    for character in said.chars() {
        let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let ends_line = matches!(character, '\u{2028}' | '\u{2029}');
        if (character.is_control() && character != '\t') || turns || ends_line {
            text.extend(character.escape_unicode());
        } else {
            text.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(kind: &str, json: &str) -> String {
        let mut text = String::new();
        let event = StoredEvent {
            seq: 1,
            kind: kind.to_owned(),
            json: json.to_owned(),
        };
        render(&mut text, &event);
        text
    }

    #[test]
    fn a_line_says_which_step_printed_it() {
        let line = rendered(
            "line",
            r#"{"seq":1,"step":"install-1","stream":"stdout","text":"hi"}"#,
        );
        assert_eq!(line, "[install-1] hi\n");
        let cut = rendered("line", r#"{"step":"load","text":"hi","truncated":true}"#);
        assert_eq!(cut, "[load] hi (cut)\n");
    }

    #[test]
    fn what_the_host_has_to_say_is_there_too() {
        assert_eq!(
            rendered("error", r#"{"step":null,"message":"no"}"#),
            "error: no\n"
        );
        let dropped = rendered("dropped", r#"{"step":"load","lines":3,"bytes":99}"#);
        assert_eq!(dropped, "[load] (3 lines, 99 bytes were dropped)\n");
        assert_eq!(rendered("phase", r#"{"status":"loading"}"#), "");
    }

    #[test]
    fn a_terminal_obeys_nothing_of_what_a_step_printed() {
        let line = rendered(
            "line",
            r#"{"step":"load","text":"\u001b[2J\r\u0007\u009b1m\u202ex\t\u0000é"}"#,
        );
        assert_eq!(
            line,
            "[load] \\u{1b}[2J\\u{d}\\u{7}\\u{9b}1m\\u{202e}x\t\\u{0}é\n"
        );
    }
}
