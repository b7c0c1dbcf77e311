//! Redacting a stream that arrives in pieces.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::REDACTED;
use super::windows::Windows;

/// One stream of bytes, from which secrets are taken out however it is cut into pieces.
///
/// Bytes are held back only while they may be the beginning of a secret, at most 11 of them and never past a line's
/// end.
#[derive(Default)]
pub struct RedactedStream {
    windows: Option<Arc<Windows>>,
    /// The end of what has come, which is not decided yet.
    held: Zeroizing<Vec<u8>>,
    /// How much of that is a secret's already, and replaced.
    covered: usize,
    /// Whether the last thing that was handed out is a mark, and what follows it touches it.
    marked: bool,
}

impl RedactedStream {
    pub(super) fn new(windows: Option<Arc<Windows>>) -> Self {
        Self {
            windows,
            ..Self::default()
        }
    }

    /// Takes more of the stream, and hands out what is decided by it, in pieces.
    pub fn push(&mut self, bytes: &[u8], mut out: impl FnMut(&[u8])) {
        let Some(windows) = self.windows.clone() else {
            return out(bytes);
        };
        if self.held.is_empty() {
            self.decide(&windows, bytes, false, &mut out);
        } else {
            let mut text = std::mem::take(&mut self.held);
            text.extend_from_slice(bytes);
            self.decide(&windows, &text, false, &mut out);
        }
    }

    /// Hands out what was held back, when the stream has ended.
    pub fn finish(&mut self, mut out: impl FnMut(&[u8])) {
        if let Some(windows) = self.windows.clone() {
            let text = std::mem::take(&mut self.held);
            self.decide(&windows, &text, true, &mut out);
        }
    }

    /// Hands out the text as far as it is decided, and keeps the rest. The first `covered` bytes of it were replaced
    /// before.
    fn decide(&mut self, windows: &Windows, text: &[u8], ended: bool, out: &mut impl FnMut(&[u8])) {
        let undecided = if ended {
            text.len()
        } else {
            windows.undecided(text)
        };
        // Behind this everything was handed out.
        let mut done = std::mem::take(&mut self.covered);
        for run in windows.find(text) {
            if run.start >= undecided {
                // It is found again in what is kept, with what lies before it.
                break;
            }
            if run.end <= done {
                continue;
            }
            if run.start > done {
                out(&text[done..run.start]);
                self.marked = false;
            }
            if !std::mem::replace(&mut self.marked, true) {
                out(REDACTED.as_bytes());
            }
            done = run.end;
        }
        if done < undecided {
            out(&text[done..undecided]);
            self.marked = false;
            done = undecided;
        }
        self.held.extend_from_slice(&text[undecided..]);
        self.covered = done - undecided;
    }
}

impl fmt::Debug for RedactedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedactedStream").finish_non_exhaustive()
    }
}
