//! The last events of a log, which follow the commit that ends a deployment.

use serde_json::json;

use crate::error::Error;
use crate::events::{EventKind, EventWriter};
use crate::record::{ErrorRecord, ReleaseRecord};
use crate::status::Status;

/// Events that follow the last record of a success: the phase and `done`.
pub(crate) const EVENTS_AFTER_SUCCESS: u64 = 2;

/// Events that follow the last record of a failure: the phase, `error` and `done`.
pub(crate) const EVENTS_AFTER_FAILURE: u64 = 3;

/// Writes the phase, the error of a bad end, and `done`, and makes them durable.
pub(crate) async fn write(
    log: &EventWriter,
    status: Status,
    error: Option<&ErrorRecord>,
    release: Option<&ReleaseRecord>,
) -> Result<(), Error> {
    log.append(EventKind::Phase, None, json!({ "status": status }))
        .await?;
    if let Some(error) = error {
        let fields = json!({ "code": error.code, "message": error.message, "exit_code": error.exit_code, "hint": error.hint });
        log.append(EventKind::Error, error.step.as_deref(), fields)
            .await?;
    }
    let mut done = json!({ "status": status });
    if let Some(release) = release {
        done["release"] = json!(release.digest);
        done["url"] = json!(release.url);
    }
    log.append(EventKind::Done, None, done).await?;
    log.sync().await?;
    Ok(())
}
