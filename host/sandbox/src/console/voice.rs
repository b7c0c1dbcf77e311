//! One stream of a console: its bytes, without secrets, as lines.

use super::lines::LineBuffer;
use crate::redact::{RedactedStream, Redactor};

/// Takes secrets out of a stream, across all borders of writes, and then cuts it into lines.
#[derive(Debug)]
pub(super) struct Voice {
    redacted: RedactedStream,
    lines: LineBuffer,
}

impl Voice {
    pub(super) fn new(redactor: &Redactor, line_bytes: u64) -> Self {
        Self {
            redacted: redactor.stream(),
            lines: LineBuffer::new(line_bytes),
        }
    }

    /// Takes more bytes and hands out every line that they complete: its bytes, and whether it was cut.
    pub(super) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8], bool)) {
        let Self { redacted, lines } = self;
        redacted.push(bytes, |bytes| lines.push(bytes, &mut line));
    }

    /// Hands out what is left when the stream has ended without a line end.
    pub(super) fn finish(&mut self, mut line: impl FnMut(&[u8], bool)) {
        let Self { redacted, lines } = self;
        redacted.finish(|bytes| lines.push(bytes, &mut line));
        lines.finish(line);
    }
}
