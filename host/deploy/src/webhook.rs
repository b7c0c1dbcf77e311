//! Telling a project's owner of its ends.
//!
//! What is to be told is put into the outbox by the very commit that makes it true, so nothing is told that did not
//! happen, and nothing that happened is forgotten. A task posts what waits, tries again with growing pauses what
//! nobody takes, and gives up after [`PATIENCE`]. A receiver may get a message twice, when its answer is lost: both
//! have the same id.
//!
//! - here: where news go, what they say, and when they are tried again
//! - `sign`: the signature of a message (Standard Webhooks, version 1)

mod sign;

use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cofferdam_ledger::{Beside, Change, DeliveryRow, Durability, WebhookRow};
use cofferdam_sandbox::{PostRules, check_post_url, post};
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::host::{Host, Inner};
use crate::name::{DeploymentId, ProjectName};
use crate::record::{Body, Time};
use crate::status::Status;

/// The longest URL.
const MAX_URL: usize = 2000;

/// Bytes of a signing key.
const KEY_BYTES: usize = 32;

/// What a key begins with, so that a leaked one is recognised.
const KEY_PREFIX: &str = "whsec_";

/// The pause after the first attempt in vain; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// For how long a message is tried: a receiver that is down over a weekend gets it.
const PATIENCE: Duration = Duration::from_secs(72 * 3600);

/// Messages that are posted at a time.
const AT_ONCE: u32 = 16;

/// How long the task sleeps when nothing waits; it is woken when something does.
const IDLE: Duration = Duration::from_secs(60);

/// Who says that it is.
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("cofferdam/", env!("CARGO_PKG_VERSION")));

/// Where a project's news go, as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WebhookView {
    /// The URL.
    pub url: String,
    /// When one was first set.
    pub created_at: Time,
    /// When this one was set.
    pub updated_at: Time,
    /// What waits to be told.
    pub waiting: u64,
    /// Why the last attempt at the oldest of it was in vain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// A webhook that was just set, with the key of its signatures. It is told this once.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct NewWebhook {
    /// The URL.
    pub url: String,
    /// `whsec_` and the key in base64.
    pub secret: String,
}

impl Host {
    /// Sets where a project's news go, and makes a new key for their signatures.
    ///
    /// # Errors
    ///
    /// [`Error::WebhookInvalid`] for a URL that no message can go to; [`Error::NotFound`] for the project.
    pub async fn set_webhook(&self, project: &ProjectName, url: &str) -> Result<NewWebhook, Error> {
        let invalid = |message: String| Error::WebhookInvalid { message };
        if url.len() > MAX_URL {
            return Err(invalid(format!("it is longer than {MAX_URL} bytes")));
        }
        check_post_url(url).map_err(|error| invalid(error.to_string()))?;
        let inner = &self.inner;
        if inner.ledger.project(project.as_str()).await?.is_none() {
            return Err(Error::NotFound {
                what: format!("project {project}"),
            });
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut *key).map_err(|error| Error::Io {
            action: "get random bytes for a webhook's key".to_owned(),
            source: std::io::Error::other(error),
        })?;
        let before = inner.ledger.webhook(project.as_str()).await?;
        let now = Time::now().as_millis();
        let row = WebhookRow {
            project: project.to_string(),
            url: url.to_owned(),
            sealed: inner.secrets.seal_key(project, &*key).await?,
            created_at: before.map_or(now, |row| row.created_at),
            updated_at: now,
        };
        inner
            .ledger
            .commit(Durability::Power, vec![Beside::PutWebhook(row).into()])
            .await?;
        Ok(NewWebhook {
            url: url.to_owned(),
            secret: format!("{KEY_PREFIX}{}", STANDARD.encode(*key)),
        })
    }

    /// Where a project's news go.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no webhook.
    pub async fn webhook(&self, project: &ProjectName) -> Result<WebhookView, Error> {
        let ledger = &self.inner.ledger;
        let row = ledger.webhook(project.as_str()).await?;
        let row = row.ok_or_else(|| missing(project))?;
        let waiting = ledger.deliveries_of(project.as_str()).await?;
        Ok(WebhookView {
            url: row.url,
            created_at: Time::from_millis(row.created_at),
            updated_at: Time::from_millis(row.updated_at),
            waiting: waiting.len() as u64,
            last_error: waiting.into_iter().next().and_then(|row| row.error),
        })
    }

    /// Tells nobody any more, and forgets what waited to be told.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no webhook.
    pub async fn remove_webhook(&self, project: &ProjectName) -> Result<(), Error> {
        let ledger = &self.inner.ledger;
        if ledger.webhook(project.as_str()).await?.is_none() {
            return Err(missing(project));
        }
        let change = Beside::RemoveWebhook {
            project: project.to_string(),
        };
        ledger
            .commit(Durability::Power, vec![change.into()])
            .await?;
        Ok(())
    }
}

fn missing(project: &ProjectName) -> Error {
    Error::NotFound {
        what: format!("a webhook of project {project}"),
    }
}

/// The end of a deployment as news, for the commit that ends it. It holds nothing that a plugin printed.
pub(crate) fn ended(
    project: &ProjectName,
    deployment: DeploymentId,
    status: Status,
    body: &Body,
) -> Change {
    let release = body.release.as_ref().map(|release| {
        json!({
            "digest": release.digest,
            "files": release.files,
            "bytes": release.bytes,
            "url": release.url,
        })
    });
    let error = body.error.as_ref().map(|error| {
        json!({
            "code": error.code,
            "message": error.message,
            "step": error.step,
            "hint": error.hint,
        })
    });
    let data = json!({
        "project": project,
        "deployment": deployment,
        "status": status,
        "message": body.head.message,
        "release": release,
        "error": error,
    });
    news(project, &format!("deployment.{}", status.as_str()), &data)
}

/// A move of the pointer that is no deployment's as news, for the commit that makes it.
pub(crate) fn moved(
    project: &ProjectName,
    cause: &str,
    release: DeploymentId,
    previous: DeploymentId,
    message: Option<&str>,
) -> Change {
    let data = json!({
        "project": project,
        "release": release,
        "previous": previous,
        "message": message,
    });
    news(project, &format!("project.{cause}"), &data)
}

fn news(project: &ProjectName, kind: &str, data: &Value) -> Change {
    let now = Time::now();
    let body = json!({ "type": kind, "timestamp": now, "data": data });
    Beside::Enqueue(DeliveryRow {
        id: Uuid::now_v7(),
        project: project.to_string(),
        body: body.to_string(),
        created_at: now.as_millis(),
        attempts: 0,
        next_at: now.as_millis(),
        error: None,
    })
    .into()
}

/// Posts what waits, for as long as the host is there.
pub(crate) async fn run(host: Weak<Inner>) {
    loop {
        let (pause, news) = {
            let Some(host) = host.upgrade() else {
                return;
            };
            let pause = host.deliver().await.unwrap_or_else(|error| {
                tracing::warn!(
                    error = error.chain(),
                    "what waits to be told cannot be read"
                );
                IDLE
            });
            (pause, host.news.clone())
        };
        tokio::select! {
            () = news.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Inner {
    /// Posts what is due, and says how long there is nothing to do.
    async fn deliver(self: &Arc<Self>) -> Result<Duration, Error> {
        loop {
            let now = Time::now().as_millis();
            let due = self.ledger.due_deliveries(now, AT_ONCE).await?;
            if due.is_empty() {
                let Some(next) = self.ledger.next_delivery().await? else {
                    return Ok(IDLE);
                };
                let pause = u64::try_from(next.saturating_sub(now)).unwrap_or(0);
                return Ok(Duration::from_millis(pause).min(IDLE));
            }
            let mut posting = JoinSet::new();
            for row in due {
                let host = self.clone();
                posting.spawn(async move { host.deliver_one(row).await });
            }
            while let Some(posted) = posting.join_next().await {
                // What cannot be put on record would be posted again and again.
                posted.map_err(|_| Error::Task)??;
            }
        }
    }

    async fn deliver_one(&self, row: DeliveryRow) -> Result<(), Error> {
        let change = match self.attempt(&row).await {
            Ok(()) => Beside::Dequeue { delivery: row.id },
            Err(why) => {
                let now = Time::now().as_millis();
                let age = u64::try_from(now.saturating_sub(row.created_at)).unwrap_or(0);
                if Duration::from_millis(age) >= PATIENCE {
                    tracing::warn!(project = row.project, delivery = %row.id, why, "a message is given up");
                    Beside::Dequeue { delivery: row.id }
                } else {
                    tracing::info!(project = row.project, delivery = %row.id, attempts = row.attempts + 1, why, "a message was not taken");
                    let pause = i64::try_from(pause(row.attempts).as_millis()).unwrap_or(i64::MAX);
                    Beside::Postpone {
                        delivery: row.id,
                        next_at: now.saturating_add(pause),
                        error: why,
                    }
                }
            }
        };
        self.ledger
            .commit(Durability::Process, vec![change.into()])
            .await?;
        Ok(())
    }

    async fn attempt(&self, row: &DeliveryRow) -> Result<(), String> {
        let failed = |error: Error| error.to_string();
        let webhook = self
            .ledger
            .webhook(&row.project)
            .await
            .map_err(|error| error.to_string())?;
        // Nobody wants it any more.
        let Some(webhook) = webhook else {
            return Ok(());
        };
        let project: ProjectName = row
            .project
            .parse()
            .map_err(|error: crate::NameError| error.to_string())?;
        let key = self
            .secrets
            .open_key(&project, &webhook.sealed)
            .await
            .map_err(failed)?;
        let at = Time::now().as_millis() / 1000;
        let id = row.id.to_string();
        let signature = sign::signature(&key, &id, at, row.body.as_bytes());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, AGENT);
        for (name, value) in [
            ("webhook-id", id),
            ("webhook-timestamp", at.to_string()),
            ("webhook-signature", signature),
        ] {
            let value = HeaderValue::try_from(value).map_err(|error| error.to_string())?;
            headers.insert(HeaderName::from_static(name), value);
        }
        let network = self.activator.policy.network();
        let rules = PostRules {
            allow_ranges: network.allow_ranges.clone(),
            extra_roots: network.extra_roots.clone(),
        };
        let body = Bytes::from(row.body.clone());
        match post(&webhook.url, headers, body, &rules).await {
            Ok(status) if (200..300).contains(&status) => Ok(()),
            Ok(status) => Err(format!("it was answered with {status}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// How long to wait after so many attempts in vain.
fn pause(attempts: u64) -> Duration {
    let doublings = u32::try_from(attempts.min(16)).unwrap_or(16);
    FIRST_PAUSE
        .saturating_mul(1 << doublings)
        .min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_grow_and_end_at_an_hour() {
        let pauses: Vec<u64> = (0..4).map(|attempts| pause(attempts).as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40]);
        assert_eq!(pause(u64::MAX), LONGEST_PAUSE);
    }
}
