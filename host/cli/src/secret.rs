//! A secret's name and its value, on their way to a server.

use std::io::{self, BufRead as _, IsTerminal as _, Read, Write as _};
use std::path::Path;
use std::str::FromStr;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::exit::{Failure, plain};

/// The most bytes of a value: what a server takes.
const MAX_BYTES: usize = cofferdam_deploy::MAX_SECRET_BYTES;

/// A secret's name. The server judges it; here it only has to fit into a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretName(String);

impl FromStr for SecretName {
    type Err = String;

    fn from_str(name: &str) -> Result<SecretName, String> {
        let parsed: Result<cofferdam_deploy::SecretName, _> = name.parse();
        parsed
            .map(|name| SecretName(name.to_string()))
            .map_err(|error| error.to_string())
    }
}

impl std::fmt::Display for SecretName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The bytes of a file.
pub(crate) fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |error: io::Error| {
        Failure::Usage(format!("cannot read {}: {}", path.display(), plain(&error)))
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    bounded(file, failed)
}

/// What comes on standard input: a line that a person types and does not see, or all of it.
pub(crate) fn from_stdin(name: &SecretName, exact: bool) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |error: io::Error| Failure::Usage(format!("cannot read the value: {error}"));
    let stdin = io::stdin();
    if stdin.is_terminal() {
        // Nobody who watches knows whether this can be written.
        let _ = write!(io::stderr(), "the value of {name} (it is not shown): ");
        let typed = {
            let _silent = Silent::begin().map_err(failed)?;
            let mut line = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
            stdin
                .lock()
                .take(MAX_BYTES as u64 + 1)
                .read_until(b'\n', &mut line)
                .map_err(failed)?;
            line
        };
        let _ = writeln!(io::stderr());
        return Ok(one_line(typed));
    }
    let value = bounded(stdin.lock(), failed)?;
    Ok(if exact { value } else { one_line(value) })
}

/// Everything that a reader has, if it is no more than a value may have.
fn bounded(
    reader: impl Read,
    failed: impl Fn(io::Error) -> Failure,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // At its full size from the start: a vector that grows leaves copies of the value behind.
    let mut value = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    reader
        .take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut value)
        .map_err(failed)?;
    if value.len() > MAX_BYTES {
        return Err(Failure::refused(format!(
            "the value has more than {MAX_BYTES} bytes, which is the most that a secret has"
        )));
    }
    Ok(value)
}

/// The value without its line end, if it is a single line.
fn one_line(mut value: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    let line = value
        .strip_suffix(b"\r\n")
        .or_else(|| value.strip_suffix(b"\n"))
        .filter(|line| !line.contains(&b'\n'))
        .map(<[u8]>::len);
    if let Some(length) = line {
        value.truncate(length);
    }
    value
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silent(Termios);

impl Silent {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Nothing is left to do when the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    fn lined(value: &[u8]) -> Vec<u8> {
        one_line(Zeroizing::new(value.to_vec())).to_vec()
    }

    #[test]
    fn the_line_end_of_a_single_line_goes_and_those_of_a_key_stay() {
        for (typed, meant) in [
            ("token\n", "token"),
            ("token\r\n", "token"),
            ("token", "token"),
            ("token\n\n", "token\n\n"),
            ("\n", ""),
            ("-----BEGIN\nabc\n-----END\n", "-----BEGIN\nabc\n-----END\n"),
        ] {
            assert_eq!(lined(typed.as_bytes()), meant.as_bytes(), "{typed:?}");
        }
    }

    #[test]
    fn a_value_that_no_server_takes_is_not_read_whole() {
        let failed = |error: io::Error| Failure::Usage(error.to_string());
        assert_eq!(bounded(io::repeat(1).take(10), failed).unwrap().len(), 10);
        let error = bounded(io::repeat(1), failed).unwrap_err();
        assert_eq!(error.exit_code(), 3);
    }
}
