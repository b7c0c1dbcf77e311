//! Who did what, when and from where.

use std::net::IpAddr;

use cofferdam_ledger::{AuditFilter, Beside, Change, Durability, NewAudit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::Error;
use crate::host::{Host, Inner, MAX_PAGE};
use crate::name::ProjectName;
use crate::record::Time;
use crate::token::Identity;

/// The longest target or detail of a row, in characters: an id, a name, a sentence.
const MAX_TEXT: usize = 500;

/// Whom something is done for: a token, and the address it was used from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Origin {
    /// The token's id; nothing when the host acts by itself.
    pub token: Option<Uuid>,
    /// What the token is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the request came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

impl Origin {
    /// Somebody with a token, at an address.
    #[must_use]
    pub fn new(identity: &Identity, address: Option<IpAddr>) -> Self {
        Self {
            token: Some(identity.id),
            name: identity.name.clone(),
            address: address.map(|address| address.to_canonical()),
        }
    }

    /// The host itself, unasked.
    #[must_use]
    pub fn host() -> Self {
        Self::default()
    }
}

/// Something that was done, as the audit log tells it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Act<'a> {
    /// What: a word with a dot, such as `secret.set`.
    pub action: &'a str,
    /// To which project.
    pub project: Option<&'a ProjectName>,
    /// To what in particular.
    pub target: Option<&'a str>,
    /// Anything more.
    pub detail: Option<&'a str>,
}

/// A row of the audit log, as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// Its number; later rows have larger ones.
    pub number: u64,
    /// When.
    pub at: Time,
    /// For whom.
    #[serde(flatten)]
    pub origin: Origin,
    /// What was done.
    pub action: String,
    /// To which project.
    pub project: Option<String>,
    /// To what in particular.
    pub target: Option<String>,
    /// Anything more.
    pub detail: Option<String>,
}

/// Which rows of the audit log to show.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Only what was done to this project.
    pub project: Option<ProjectName>,
    /// Only rows older than this number.
    pub before: Option<u64>,
    /// How many; [`MAX_PAGE`] is the ceiling.
    pub limit: u32,
}

impl Host {
    /// Writes down what was done. It survives the death of the process at once, and the loss of power with
    /// the next commit that does.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub async fn audit(&self, origin: &Origin, act: Act<'_>) -> Result<(), Error> {
        self.inner.audit(origin, act).await
    }

    /// A page of the audit log, newest first.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub async fn audit_log(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, Error> {
        let filter = AuditFilter {
            project: query.project.as_ref().map(ToString::to_string),
            before: query.before,
            limit: query.limit.clamp(1, MAX_PAGE),
        };
        let rows = self.inner.ledger.audit(&filter).await?;
        let entries = rows.into_iter().map(|row| {
            let NewAudit {
                at,
                token,
                token_name,
                address,
                action,
                project,
                target,
                detail,
            } = row.entry;
            AuditEntry {
                number: row.number,
                at: Time::from_millis(at),
                origin: Origin {
                    token,
                    name: token_name,
                    address: address.and_then(|address| address.parse().ok()),
                },
                action,
                project,
                target,
                detail,
            }
        });
        Ok(entries.collect())
    }
}

impl Inner {
    pub(crate) async fn audit(&self, origin: &Origin, act: Act<'_>) -> Result<(), Error> {
        let changes = vec![change(origin, act)];
        self.ledger.commit(Durability::Process, changes).await?;
        Ok(())
    }
}

/// The row as a part of a commit that does more.
pub(crate) fn change(origin: &Origin, act: Act<'_>) -> Change {
    let short = |text: Option<&str>| text.map(|text| text.chars().take(MAX_TEXT).collect());
    let row = NewAudit {
        at: Time::now().as_millis(),
        token: origin.token,
        token_name: origin.name.clone(),
        address: origin.address.map(|address| address.to_string()),
        action: act.action.to_owned(),
        project: act.project.map(ToString::to_string),
        target: short(act.target),
        detail: short(act.detail),
    };
    Beside::Audit(row).into()
}
