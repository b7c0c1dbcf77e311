//! Cancelling a deployment.

use std::time::{Duration, Instant};

use super::Host;
use super::acceptance::LOOK_AGAIN;
use crate::error::Error;
use crate::name::DeploymentId;
use crate::record::Record;
use crate::status::Status;

/// How long a deployment may be in the ledger and not under way, as it is for a moment after it was accepted.
const BEGINS: Duration = Duration::from_secs(5);

impl Host {
    /// Stops a deployment in whatever state it is; `by` says who wants it. Returns when none of its guests' code
    /// runs any more and its staging is in the trash. One that was cancelled before, or superseded, answers the
    /// same again.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Conflict`] when it has ended otherwise; [`Error::StillRuns`] when a process of it
    /// does not die.
    pub async fn cancel(&self, id: DeploymentId, by: &str) -> Result<Record, Error> {
        let inner = &self.inner;
        inner.recovered().await;
        let since = Instant::now();
        let record = loop {
            let live = inner.live(id);
            if let Some(live) = &live {
                live.stop("cancelled", format!("cancelled by {by}"));
                live.ended().await;
            }
            let record = inner.record(id).await?;
            if live.is_some() || record.status.is_terminal() || since.elapsed() > BEGINS {
                break record;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        match (&record.error, record.status) {
            (_, Status::Cancelled) => Ok(record),
            (Some(error), _) if error.code == "step_stuck" => Err(Error::StillRuns {
                deployment: id,
                message: error.message.clone(),
            }),
            (_, status) if status.is_terminal() => Err(Error::Conflict {
                message: format!(
                    "deployment {id} cannot be cancelled: it has ended as {}",
                    status.as_str()
                ),
            }),
            _ => Err(Error::NotReady {
                message: format!("deployment {id} is not under way; try again"),
            }),
        }
    }
}
