//! A request's body, with a limit on how long its sender may make us wait.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::UploadError;

/// How long a sender may send nothing. Mobile links pause for seconds, not for half a minute.
const IDLE: Duration = Duration::from_secs(30);

/// How much waiting a sender is granted before its rate counts, and the most it can save up.
const CREDIT: Duration = Duration::from_secs(60);

/// The least rate of a body. The worst link that people deploy over is ten times faster; a sender that
/// dribbles to hold a connection open is slower.
const MIN_BYTES_PER_SECOND: u64 = 1024;

/// How long the sender of a body may keep the server waiting.
///
/// Only time in which the server waits for the sender counts: a pipeline that is slow to take bytes
/// costs the sender nothing.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    /// The longest wait for the next byte. Default: 30 seconds.
    pub idle: Duration,
    /// The waiting that is granted at first, and the most that a fast sender saves up for a slow spell.
    /// Default: 60 seconds.
    pub credit: Duration,
    /// The bytes that earn one second of waiting; zero makes waiting free. Default: 1024.
    pub min_bytes_per_second: u64,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            idle: IDLE,
            credit: CREDIT,
            min_bytes_per_second: MIN_BYTES_PER_SECOND,
        }
    }
}

/// The body of a request that is read piece by piece.
pub(crate) struct UploadBody {
    body: Body,
    limits: BodyLimits,
    credit: Duration,
    received: u64,
}

impl UploadBody {
    /// Nothing is read yet, so that a client which waits for `100 Continue` still waits.
    pub(crate) fn new(body: Body, limits: BodyLimits) -> Self {
        let credit = limits.credit;
        Self {
            body,
            limits,
            credit,
            received: 0,
        }
    }

    /// The bytes received so far, framing and all.
    #[cfg(test)]
    fn received(&self) -> u64 {
        self.received
    }

    /// The next piece, never empty; nothing when the whole body has arrived.
    ///
    /// # Errors
    ///
    /// [`UploadError::Slow`] when the sender takes too long, [`UploadError::Broken`] when the connection
    /// ends before the body does.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, UploadError> {
        loop {
            let allowed = self.limits.idle.min(self.credit);
            let before = Instant::now();
            let Ok(frame) = tokio::time::timeout(allowed, self.body.frame()).await else {
                return Err(UploadError::Slow {
                    received: self.received,
                });
            };
            let frame = match frame {
                None => return Ok(None),
                Some(Ok(frame)) => frame,
                Some(Err(source)) => {
                    return Err(UploadError::Broken {
                        received: self.received,
                        source,
                    });
                }
            };
            // Trailers say nothing that we would read.
            let bytes = frame.into_data().unwrap_or_default();
            self.settle(before.elapsed(), bytes.len() as u64);
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    fn settle(&mut self, waited: Duration, bytes: u64) {
        self.received += bytes;
        let earned = match self.limits.min_bytes_per_second {
            0 => self.limits.credit,
            rate => Duration::from_micros(bytes.saturating_mul(1_000_000) / rate),
        };
        let credit = self.credit.saturating_sub(waited).saturating_add(earned);
        self.credit = credit.min(self.limits.credit);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use futures::stream;

    fn dribble(bytes: usize, pause: Duration) -> UploadBody {
        let stream = stream::unfold(0, move |at| async move {
            if at == bytes {
                return None;
            }
            tokio::time::sleep(pause).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), at + 1))
        });
        UploadBody::new(Body::from_stream(Box::pin(stream)), BodyLimits::default())
    }

    async fn drain(mut body: UploadBody) -> Result<u64, UploadError> {
        while body.next().await?.is_some() {}
        Ok(body.received())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_sender_is_given_up_after_the_idle_time() {
        let before = Instant::now();
        let error = drain(dribble(1, Duration::from_secs(3600)))
            .await
            .unwrap_err();
        assert!(matches!(error, UploadError::Slow { received: 0 }));
        assert_eq!(before.elapsed(), IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dribbling_sender_is_given_up_once_its_credit_is_spent() {
        let before = Instant::now();
        let error = drain(dribble(10_000, Duration::from_secs(1)))
            .await
            .unwrap_err();
        assert!(
            matches!(error, UploadError::Slow { received: 50..70 }),
            "{error}"
        );
        assert!(before.elapsed() < CREDIT + Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_pauses_and_catches_up_is_kept() {
        let stream = stream::unfold(0, |at| async move {
            tokio::time::sleep(Duration::from_secs(20)).await;
            (at < 20).then(|| {
                (
                    Ok::<_, std::io::Error>(Bytes::from(vec![0; 32 * 1024])),
                    at + 1,
                )
            })
        });
        let body = UploadBody::new(Body::from_stream(Box::pin(stream)), BodyLimits::default());
        assert_eq!(drain(body).await.unwrap(), 20 * 32 * 1024);
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_asks_for_bytes_costs_the_sender_nothing() {
        let mut body = dribble(3, Duration::from_millis(1));
        while body.next().await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        assert_eq!(body.received(), 3);
    }
}
