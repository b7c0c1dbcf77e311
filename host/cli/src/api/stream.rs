//! One event stream at a time, asked for again whenever it breaks.

use std::time::{Duration, Instant};

use reqwest::Response;

use super::sse::{Decoder, Frame};
use crate::exit::Failure;

/// Silence after which a stream is taken for dead: the server's heartbeat comes every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// The first wait before a stream is asked for again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait before a stream is asked for again.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long a server may be out of reach before it is given up: a restart fits well into this.
const PATIENCE: Duration = Duration::from_secs(30);

/// An event stream that outlives its connections. Whoever reads it asks for the next connection, from where it
/// was left: what "where" means is theirs to know.
#[derive(Debug)]
pub(super) struct Stream {
    answer: Option<Response>,
    decoder: Decoder,
    wait: Duration,
    unreachable_since: Option<Instant>,
    patience: Duration,
    has_asked: bool,
    has_opened: bool,
}

impl Stream {
    /// A stream that has yet to be asked for.
    pub(super) fn closed() -> Stream {
        Stream {
            answer: None,
            decoder: Decoder::default(),
            wait: FIRST_WAIT,
            unreachable_since: None,
            patience: PATIENCE,
            has_asked: false,
            has_opened: false,
        }
    }

    /// A stream that an answer has opened already.
    pub(super) fn of(answer: Response) -> Stream {
        Stream {
            answer: Some(answer),
            has_asked: true,
            has_opened: true,
            ..Stream::closed()
        }
    }

    #[cfg(test)]
    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Whether a connection was ever had.
    pub(super) fn has_opened(&self) -> bool {
        self.has_opened
    }

    /// The frames that came next; `None` when there is no connection, or no longer one.
    pub(super) async fn next(&mut self) -> Option<Vec<Frame>> {
        let answer = self.answer.as_mut()?;
        if let Ok(Ok(Some(part))) = tokio::time::timeout(SILENCE, answer.chunk()).await
            && let Ok(frames) = self.decoder.feed(&part)
        {
            return Some(frames);
        }
        // The end, a break, silence, or what is not an event stream: all mean asking again.
        self.close();
        None
    }

    /// Gives the connection up: the server wants it asked for again.
    pub(super) fn close(&mut self) {
        self.answer = None;
    }

    /// The connection brought something new: the next one need not wait long.
    pub(super) fn progressed(&mut self) {
        self.wait = FIRST_WAIT;
    }

    /// Waits before the stream is asked for again: one that breaks at once would otherwise be asked for as fast as
    /// the machine can.
    pub(super) async fn pause(&mut self) {
        if std::mem::replace(&mut self.has_asked, true) {
            tokio::time::sleep(self.wait).await;
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Takes what asking for the stream was answered with. A server out of reach is no failure while there is
    /// patience with it.
    ///
    /// # Errors
    ///
    /// [`Failure::Unreachable`] when it has been out of reach for half a minute; any other failure at once.
    pub(super) fn open(&mut self, answer: Result<Response, Failure>) -> Result<(), Failure> {
        match answer {
            Ok(answer) => {
                self.answer = Some(answer);
                self.decoder = Decoder::default();
                self.unreachable_since = None;
                self.has_opened = true;
                Ok(())
            }
            Err(Failure::Unreachable(why) | Failure::Busy { message: why, .. }) => {
                let since = *self.unreachable_since.get_or_insert_with(Instant::now);
                if since.elapsed() < self.patience {
                    Ok(())
                } else {
                    Err(Failure::Unreachable(why))
                }
            }
            Err(refusal) => Err(refusal),
        }
    }
}
