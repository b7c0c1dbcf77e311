//! Cutting a stream of bytes into lines.

use std::borrow::Cow;

/// Cuts one stream into lines: at `\n`, with a `\r` before it trimmed; what is longer than the limit is cut at a
/// character's border, and its rest is skipped up to the line's end.
#[derive(Debug)]
pub(crate) struct LineBuffer {
    limit: usize,
    partial: Vec<u8>,
    /// The line at hand was cut and handed out already.
    skipping: bool,
}

impl LineBuffer {
    pub(crate) fn new(limit: u64) -> Self {
        // An empty limit would cut every line to nothing and lose even the information that there was one.
        let limit = usize::try_from(limit)
            .unwrap_or(usize::MAX - 1)
            .clamp(1, usize::MAX - 1);
        Self {
            limit,
            partial: Vec::new(),
            skipping: false,
        }
    }

    /// Takes more bytes and hands out every line that they complete: its bytes, and whether it was cut.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8], bool)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (head, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.partial.is_empty() && !self.skipping && head.len() <= self.limit {
                line(trim(head), false);
                continue;
            }
            self.extend(head, &mut line);
            if !std::mem::take(&mut self.skipping) {
                let whole = std::mem::take(&mut self.partial);
                let text = trim(&whole);
                if text.len() > self.limit {
                    line(cut(text, self.limit), true);
                } else {
                    line(text, false);
                }
                self.partial = whole;
            }
            self.partial.clear();
        }
        if !bytes.is_empty() {
            self.extend(bytes, &mut line);
        }
    }

    /// Hands out what is left when the stream has ended without a line end.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(&[u8], bool)) {
        let rest = std::mem::take(&mut self.partial);
        if std::mem::take(&mut self.skipping) || rest.is_empty() {
            return;
        }
        if rest.len() > self.limit {
            line(cut(&rest, self.limit), true);
        } else {
            line(&rest, false);
        }
    }

    /// Adds bytes without a line end.
    fn extend(&mut self, bytes: &[u8], line: &mut impl FnMut(&[u8], bool)) {
        if self.skipping {
            return;
        }
        // One byte more than the limit is held: it may be the `\r` of a line end that is still to come.
        let room = (self.limit + 1).saturating_sub(self.partial.len());
        self.partial
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        let too_long = bytes.len() > room
            || (self.partial.len() > self.limit
                && self.partial.last().is_none_or(|&byte| byte != b'\r'));
        if too_long {
            line(cut(&self.partial, self.limit), true);
            self.partial.clear();
            self.skipping = true;
        }
    }
}

/// A line's text: UTF-8, what is not being U+FFFD.
pub(crate) fn text(line: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(line)
}

fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The longest prefix of at most `limit` bytes that does not end inside a character.
fn cut(line: &[u8], limit: usize) -> &[u8] {
    /// The continuation bytes that a UTF-8 character has at most.
    const CONTINUATION: usize = 3;
    let mut end = limit.min(line.len());
    if end == line.len() {
        return line;
    }
    for back in 0..=CONTINUATION.min(end) {
        let at = end - back;
        let byte = line[at];
        if byte & 0b1100_0000 != 0b1000_0000 {
            // The border is before a character's first byte; keep what lies before it.
            if back == 0 || character_length(byte) > back {
                end = at;
            }
            break;
        }
    }
    &line[..end]
}

fn character_length(first: u8) -> usize {
    match first {
        0b1100_0000..=0b1101_1111 => 2,
        0b1110_0000..=0b1110_1111 => 3,
        0b1111_0000..=0b1111_0111 => 4,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(limit: u64, chunks: &[&[u8]]) -> Vec<(String, bool)> {
        let mut buffer = LineBuffer::new(limit);
        let mut lines = Vec::new();
        for chunk in chunks {
            buffer.push(chunk, |line, cut| {
                lines.push((text(line).into_owned(), cut));
            });
        }
        buffer.finish(|line, cut| lines.push((text(line).into_owned(), cut)));
        lines
    }

    fn whole(lines: &[&str]) -> Vec<(String, bool)> {
        lines
            .iter()
            .map(|line| ((*line).to_owned(), false))
            .collect()
    }

    #[test]
    fn lines_end_at_newlines_and_carriage_returns_before_them_go() {
        assert_eq!(
            lines_of(80, &[b"a\r\nb\n\nc\r\r\nd"]),
            whole(&["a", "b", "", "c\r", "d"])
        );
    }

    #[test]
    fn an_unterminated_last_line_is_kept_and_an_empty_one_is_not() {
        assert_eq!(lines_of(80, &[b"a\n"]), whole(&["a"]));
        assert_eq!(lines_of(80, &[b"a\nb"]), whole(&["a", "b"]));
        assert_eq!(lines_of(80, &[]), whole(&[]));
    }

    #[test]
    fn a_character_split_between_writes_is_whole_in_its_line() {
        let snow = "Sch\u{f6}nes \u{2603}".as_bytes();
        for at in 0..=snow.len() {
            assert_eq!(
                lines_of(80, &[&snow[..at], &snow[at..], b"\n"]),
                whole(&["Sch\u{f6}nes \u{2603}"])
            );
        }
    }

    #[test]
    fn what_is_not_utf8_becomes_replacement_characters() {
        assert_eq!(lines_of(80, &[b"a\xffb\n"]), whole(&["a\u{fffd}b"]));
        assert_eq!(lines_of(80, &[b"a\xe2\x98\n"]), whole(&["a\u{fffd}"]));
    }

    #[test]
    fn an_over_long_line_is_cut_once_and_the_next_one_is_whole() {
        assert_eq!(
            lines_of(4, &[b"abcdefghij\nok\n"]),
            vec![("abcd".to_owned(), true), ("ok".to_owned(), false)]
        );
        assert_eq!(
            lines_of(4, &[b"ab", b"cd", b"ef", b"gh"]),
            vec![("abcd".to_owned(), true)]
        );
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole_whatever_ends_it() {
        assert_eq!(
            lines_of(4, &[b"abcd\nabcd\r\nabcd"]),
            whole(&["abcd", "abcd", "abcd"])
        );
        assert_eq!(
            lines_of(4, &[b"abcd", b"\r", b"\n", b"x\n"]),
            whole(&["abcd", "x"])
        );
        assert_eq!(
            lines_of(4, &[b"abcd\r", b"e\n"]),
            vec![("abcd".to_owned(), true)]
        );
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!(
            lines_of(4, &["ab\u{2603}\u{2603}\n".as_bytes()]),
            vec![("ab".to_owned(), true)]
        );
        assert_eq!(
            lines_of(5, &["ab\u{2603}\u{2603}\n".as_bytes()]),
            vec![("ab\u{2603}".to_owned(), true)]
        );
        assert_eq!(
            lines_of(3, &["\u{1f980}\u{1f980}\n".as_bytes()]),
            vec![(String::new(), true)]
        );
    }

    /// A small deterministic generator, so that a failure repeats.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % bound as u64).expect("below a usize")
        }
    }

    #[test]
    fn however_a_stream_is_written_the_lines_are_the_same() {
        let pieces: [&[u8]; 9] = [
            b"\n",
            b"\r\n",
            b"\r",
            b"a",
            b"bcd",
            "\u{2603}".as_bytes(),
            "\u{1f980}".as_bytes(),
            b"\xff",
            b"\xe2\x98",
        ];
        let mut random = Random(0x1234_5678_9abc_def1);
        for _ in 0..4000 {
            let mut stream = Vec::new();
            for _ in 0..random.below(24) {
                stream.extend_from_slice(pieces[random.below(pieces.len())]);
            }
            let limit = 1 + random.below(12) as u64;
            let at_once = lines_of(limit, &[&stream]);
            let mut chunks = Vec::new();
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(1 + random.below(rest.len()));
                chunks.push(head);
                rest = tail;
            }
            assert_eq!(
                lines_of(limit, &chunks),
                at_once,
                "limit {limit}, stream {stream:?}"
            );

            // Against the obvious definition, for lines that are not cut.
            let mut expected: Vec<_> = stream.split(|&byte| byte == b'\n').collect();
            if expected.last().is_some_and(|line| line.is_empty()) {
                expected.pop();
            }
            let ended = stream.ends_with(b"\n");
            assert_eq!(at_once.len(), expected.len());
            let last = expected.len().saturating_sub(1);
            for (index, (line, (got, truncated))) in expected.iter().zip(&at_once).enumerate() {
                let line = if index < last || ended {
                    line.strip_suffix(b"\r").unwrap_or(line)
                } else {
                    line
                };
                assert_eq!(
                    *truncated,
                    line.len() > usize::try_from(limit).expect("small"),
                    "{line:?}"
                );
                if !truncated {
                    assert_eq!(*got, String::from_utf8_lossy(line));
                }
            }
        }
    }
}
