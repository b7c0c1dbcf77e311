//! Cancelling a deployment.

use super::Host;
use crate::error::Error;
use crate::name::DeploymentId;
use crate::record::Record;
use crate::status::Status;

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
        if let Some(live) = inner.live(id) {
            live.stop("cancelled", format!("cancelled by {by}"));
            live.ended().await;
        }
        let record = inner.record(id).await?;
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
            // Between its commit and its run there is a moment.
            _ => Err(Error::NotReady {
                message: format!("deployment {id} has just been accepted; try again"),
            }),
        }
    }
}
