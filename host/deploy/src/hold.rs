//! Holds: a project that takes no deployments for now, and why.

use cofferdam_ledger::{Change, Durability, HoldRow, Ledger};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::Error;
use crate::name::ProjectName;
use crate::record::Time;

/// The longest reason, in characters: whoever is refused reads it in one line or two.
const MAX_REASON: usize = 500;

/// A project's hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HoldView {
    /// Why, in the words of whoever asked for it.
    pub reason: String,
    /// Since when.
    pub since: Time,
    /// The id of the token that asked for it.
    pub by: Uuid,
}

impl From<HoldRow> for HoldView {
    fn from(row: HoldRow) -> Self {
        Self {
            reason: row.reason,
            since: Time::from_millis(row.created_at),
            by: row.token,
        }
    }
}

/// Puts a project under a hold, or gives the one that it is under another reason.
pub(crate) async fn put(
    ledger: &Ledger,
    project: &ProjectName,
    reason: &str,
    token: Uuid,
) -> Result<HoldView, Error> {
    let reason = reason.trim();
    let length = reason.chars().count();
    if length == 0 || length > MAX_REASON || reason.chars().any(char::is_control) {
        return Err(Error::HoldInvalid {
            message: format!(
                "a reason is one line of 1 to {MAX_REASON} characters, and this one has {length}"
            ),
        });
    }
    let row = HoldRow {
        project: project.to_string(),
        reason: reason.to_owned(),
        token,
        created_at: Time::now().as_millis(),
    };
    ledger
        .commit(Durability::Power, vec![Change::PutHold(row.clone())])
        .await?;
    Ok(row.into())
}

/// Ends a project's hold. Without one there is nothing to do.
pub(crate) async fn remove(ledger: &Ledger, project: &ProjectName) -> Result<(), Error> {
    let change = Change::RemoveHold {
        project: project.to_string(),
    };
    ledger.commit(Durability::Power, vec![change]).await?;
    Ok(())
}

/// Refuses a deployment of a project that is under a hold.
pub(crate) async fn check(ledger: &Ledger, project: &ProjectName) -> Result<(), Error> {
    match ledger.hold(project.as_str()).await? {
        None => Ok(()),
        Some(row) => Err(Error::Held {
            project: project.clone(),
            hold: row.into(),
        }),
    }
}
