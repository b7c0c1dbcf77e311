//! For how long what does not get through is tried again.

use std::time::{Duration, Instant};

use crate::exit::Failure;

/// The wait before what broke is tried again, which doubles up to [`LONGEST_WAIT`].
pub(crate) const FIRST_WAIT: Duration = Duration::from_millis(200);

/// The longest such wait.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The longest wait that a server gets by asking for it.
const LONGEST_ASKED: Duration = Duration::from_secs(30);

/// How long it is still tried.
pub(super) struct Patience {
    limit: Duration,
    wait: Duration,
    since: Instant,
    furthest: u64,
    /// Whether what came through before is of use to the next process.
    is_kept: bool,
}

impl Patience {
    /// As much as `limit`, from now on, with an upload.
    pub(super) fn new(limit: Duration) -> Patience {
        Patience {
            is_kept: true,
            ..Patience::for_a_question(limit)
        }
    }

    /// The same, with a question.
    pub(super) fn for_a_question(limit: Duration) -> Patience {
        Patience {
            limit,
            wait: FIRST_WAIT,
            since: Instant::now(),
            furthest: 0,
            is_kept: false,
        }
    }

    /// What is sent is this far; if it got further, it is worth as much patience as at first.
    pub(super) fn reached(&mut self, offset: u64) {
        if offset > self.furthest {
            *self = Patience {
                furthest: offset,
                ..Patience::new(self.limit)
            };
        }
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    ///
    /// The server's refusal, or that there was no answer for too long.
    pub(super) async fn until_answered<T, F: Future<Output = Result<T, Failure>>>(
        mut self,
        mut ask: impl FnMut() -> F,
    ) -> Result<T, Failure> {
        loop {
            match ask().await {
                Err(Failure::Unreachable(why)) => self.wait_or(&why).await?,
                Err(Failure::Busy { message, after }) => self.wait_for(after, &message).await?,
                other => return other,
            }
        }
    }

    /// Waits before the next attempt, or gives up with this reason.
    ///
    /// # Errors
    ///
    /// [`Failure::Unreachable`] when it has been tried in vain for too long.
    pub(super) async fn wait_or(&mut self, why: &str) -> Result<(), Failure> {
        self.wait_for(Duration::ZERO, why).await
    }

    /// The same, and waits for as long as the server `asked` for, if that is reasonable.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_or`].
    pub(super) async fn wait_for(&mut self, asked: Duration, why: &str) -> Result<(), Failure> {
        if self.since.elapsed() > self.limit {
            let seconds = self.limit.as_secs();
            return Err(Failure::Unreachable(if self.is_kept {
                format!(
                    "the upload has come to nothing for {seconds} s: {why}\n\
                     what has arrived is kept for a while, and the same command goes on with it"
                )
            } else {
                format!("the server has been asked in vain for {seconds} s: {why}")
            }));
        }
        tokio::time::sleep(self.wait.max(asked.min(LONGEST_ASKED))).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Ok(())
    }
}
