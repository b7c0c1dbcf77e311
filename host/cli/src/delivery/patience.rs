//! For how long what does not get through is tried again.

use std::time::Duration;

use tokio::time::Instant;

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use std::cell::Cell;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// How long it waits, in tenths of a second; nothing when it gives up.
    async fn waits(patience: &mut Patience, asked: Duration) -> Option<u128> {
        let before = Instant::now();
        patience.wait_for(asked, "it is gone").await.ok()?;
        Some(before.elapsed().as_millis() / 100)
    }

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_the_longest_until_all_patience_is_gone() {
        let began = Instant::now();
        let mut patience = Patience::new(MINUTE);
        let mut seen = Vec::new();
        while let Some(wait) = waits(&mut patience, Duration::ZERO).await {
            seen.push(wait);
        }
        assert_eq!(seen[..6], [2, 4, 8, 16, 32, 50]);
        assert!(seen[6..].iter().all(|wait| *wait == 50), "{seen:?}");
        let took = began.elapsed();
        assert!(took > MINUTE && took <= MINUTE + LONGEST_WAIT, "{took:?}");
        let said = patience.wait_or("it is gone").await.unwrap_err();
        assert_eq!(said.exit_code(), 4);
        let said = said.to_string();
        assert!(
            said.contains("60 s: it is gone") && said.contains("is kept"),
            "{said}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_gets_further_is_worth_as_much_patience_as_at_first() {
        let mut patience = Patience::new(MINUTE);
        for offset in 1..10 {
            for wait in [2, 4, 8, 16, 32, 50, 50] {
                assert_eq!(waits(&mut patience, Duration::ZERO).await, Some(wait));
            }
            patience.reached(offset);
        }
        // The same place again is no progress.
        let began = Instant::now();
        while waits(&mut patience, Duration::ZERO).await.is_some() {
            patience.reached(9);
        }
        assert!(began.elapsed() <= MINUTE + LONGEST_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_gets_the_wait_that_it_asks_for_unless_that_is_too_long() {
        let mut patience = Patience::for_a_question(2 * MINUTE);
        let seconds = Duration::from_secs;
        assert_eq!(waits(&mut patience, seconds(2)).await, Some(20));
        assert_eq!(waits(&mut patience, seconds(0)).await, Some(4));
        assert_eq!(waits(&mut patience, seconds(86_400)).await, Some(300));
        assert_eq!(waits(&mut patience, seconds(1)).await, Some(16));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_asked_until_it_is_answered_and_a_refusal_is_an_answer() {
        let asked = Cell::new(0);
        let answer = Patience::for_a_question(MINUTE)
            .until_answered(async || {
                asked.set(asked.get() + 1);
                match asked.get() {
                    1 => Err(Failure::Unreachable("gone".to_owned())),
                    2 => Err(Failure::Busy {
                        message: "later".to_owned(),
                        after: Duration::from_secs(2),
                    }),
                    tries => Ok(tries),
                }
            })
            .await;
        assert_eq!(answer.unwrap(), 3);
        let refused = Patience::for_a_question(MINUTE)
            .until_answered(async || {
                asked.set(asked.get() + 1);
                Err::<(), _>(Failure::refused("no"))
            })
            .await;
        assert_eq!((refused.unwrap_err().exit_code(), asked.get()), (3, 4));
        let silent = Patience::for_a_question(MINUTE)
            .until_answered(async || Err::<(), _>(Failure::Unreachable("gone".to_owned())))
            .await;
        let said = silent.unwrap_err().to_string();
        assert_eq!(said, "the server has been asked in vain for 60 s: gone");
    }
}
