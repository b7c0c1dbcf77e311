//! Server-sent events, decoded as they arrive (the WHATWG's event stream format).

/// Longest event that is read. The server's longest line, escaped as JSON, is far below.
const LONGEST: usize = 4 * 1024 * 1024;

/// One event as it was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The field `event`, or nothing.
    pub(crate) event: String,
    /// The fields `data`, joined by newlines.
    pub(crate) data: String,
    /// The field `id`, if this event has one.
    pub(crate) id: Option<String>,
}

/// A stream that is not one of events.
#[derive(Debug, thiserror::Error)]
#[error("the event stream holds an event of more than {LONGEST} bytes")]
pub(crate) struct TooLong;

/// Splits bytes into events, wherever they are cut.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The bytes of a line whose end has not come.
    line: Vec<u8>,
    /// The last byte was a carriage return, so a newline right after it ends no second line.
    after_return: bool,
    frame: Frame,
    has_data: bool,
}

impl Decoder {
    /// Takes the next bytes, and gives the events that they complete.
    ///
    /// # Errors
    ///
    /// [`TooLong`]; the decoder is of no more use then.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<Vec<Frame>, TooLong> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            if self.after_return {
                self.after_return = false;
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.line.extend_from_slice(bytes);
                break;
            };
            self.line.extend_from_slice(&bytes[..end]);
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            frames.extend(self.line(&String::from_utf8_lossy(&line)));
            if self.frame.data.len() > LONGEST {
                return Err(TooLong);
            }
        }
        if self.line.len() > LONGEST {
            return Err(TooLong);
        }
        Ok(frames)
    }

    fn line(&mut self, line: &str) -> Option<Frame> {
        if line.is_empty() {
            let frame = std::mem::take(&mut self.frame);
            // An event without data is none, but `resync` may well come without.
            let complete = std::mem::take(&mut self.has_data) || !frame.event.is_empty();
            return complete.then_some(frame);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.frame.event),
            "data" => {
                if self.has_data {
                    self.frame.data.push('\n');
                }
                self.frame.data.push_str(value);
                self.has_data = true;
            }
            "id" => self.frame.id = Some(value.to_owned()),
            // A comment (the heartbeat) has an empty field name; `retry` is ours to choose.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    const STREAM: &str = ": heartbeat\n\nid: 1\nevent: line\ndata: {\"text\":\"a\"}\n\n\
                          id: 2\r\nevent: done\r\ndata: one\r\ndata:two\r\n\r\nevent: resync\n\n";

    fn frame(event: &str, data: &str, id: Option<&str>) -> Frame {
        Frame {
            event: event.to_owned(),
            data: data.to_owned(),
            id: id.map(str::to_owned),
        }
    }

    #[test]
    fn events_are_the_same_wherever_the_stream_is_cut() {
        let expected = vec![
            frame("line", "{\"text\":\"a\"}", Some("1")),
            frame("done", "one\ntwo", Some("2")),
            frame("resync", "", None),
        ];
        for size in 1..STREAM.len() {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for part in STREAM.as_bytes().chunks(size) {
                frames.extend(decoder.feed(part).unwrap());
            }
            assert_eq!(frames, expected, "cut every {size} bytes");
        }
    }

    #[test]
    fn an_event_without_its_empty_line_is_not_one_yet() {
        let mut decoder = Decoder::default();
        assert!(
            decoder
                .feed(b"event: line\ndata: half\n")
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn an_endless_event_is_an_error_and_not_endless_memory() {
        let mut decoder = Decoder::default();
        let part = vec![b'x'; 1024 * 1024];
        let fed = (0..6).try_for_each(|_| decoder.feed(&part).map(drop));
        assert!(fed.is_err());
    }
}
