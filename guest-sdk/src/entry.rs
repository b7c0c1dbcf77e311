//! From a returned error to a last line and an exit code.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

/// Runs a step's function and turns what it returns into the step's verdict: success, or one readable line
/// on stderr (the error and everything behind it, joined by colons) and exit code 1.
///
/// Any error type will do: one of your own, `Box<dyn Error>`, `anyhow::Error`, a `String`.
///
/// ```no_run
/// fn step() -> Result<(), std::io::Error> {
///     std::fs::write("index.html", "hello")
/// }
///
/// fn main() -> std::process::ExitCode {
///     cofferdam_sdk::run(step)
/// }
/// ```
pub fn run<E: Into<Box<dyn Error>>>(step: impl FnOnce() -> Result<(), E>) -> ExitCode {
    let result = step();
    // Lines keep their order: what was printed comes before the verdict. A stream that cannot be flushed
    // belongs to a host that has gone, and nobody is left to be told.
    let _ = std::io::stdout().flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", sentence(&*error.into()));
            ExitCode::FAILURE
        }
    }
}

/// An error and its sources on one line. A source that its wrapper already quotes is not repeated.
fn sentence(error: &dyn Error) -> String {
    let mut text = one_line(&error.to_string());
    let mut source = error.source();
    while let Some(error) = source {
        let more = one_line(&error.to_string());
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::sentence;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the list")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("line 3 is\n  not UTF-8")]
    struct Inner;

    #[test]
    fn an_error_and_its_sources_are_one_line() {
        assert_eq!(
            sentence(&Outer(Inner)),
            "cannot read the list: line 3 is not UTF-8"
        );
    }
}
