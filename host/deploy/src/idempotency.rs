//! Requests that their clients may send again: what one is called, and what a repeat of it answers.
//!
//! A key belongs to one token and one project. It stands for the deployment that its first request became, from the
//! commit that accepted that deployment on, for [`LIFETIME`]. A repeat with the same head and the same package gets
//! that deployment; with another of either, it is refused. A deployment whose package never became durable has
//! nothing that a repeat could be compared with: the key is free again, and the repeat starts anew.

use std::str::FromStr;
use std::time::Duration;

use cofferdam_ledger::IdempotencyRow;
use uuid::Uuid;

use crate::error::Error;
use crate::head::{ExpectedDigest, Head};
use crate::name::{DeploymentId, ProjectName};
use crate::record::{Package, Time};

/// How long a key is remembered: longer than any client goes on trying.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest key: a UUID or a commit's id with the name of a job fits several times.
const MAX_KEY: usize = 255;

/// What a client calls a request that it may send again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > MAX_KEY || !printable {
            return Err(Error::KeyInvalid {
                message: format!(
                    "it has 1 to {MAX_KEY} printable ASCII characters without spaces, such as a UUID"
                ),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

/// A request with a key.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) token: Uuid,
    pub(crate) project: ProjectName,
    pub(crate) key: IdempotencyKey,
    head: String,
    /// What the package is, if the head promises that.
    digest: Option<ExpectedDigest>,
}

impl Request {
    pub(crate) fn new(token: Uuid, project: ProjectName, key: IdempotencyKey, head: &Head) -> Self {
        // A promise is about the package: the same one may be sent with it and without, in another form.
        let bare = Head {
            digest: None,
            ..head.clone()
        };
        let text = serde_json::to_vec(&bare).expect("a head has only string keys and serialises");
        Self {
            token,
            project,
            key,
            head: format!("blake3:{}", blake3::hash(&text).to_hex()),
            digest: head.digest.clone(),
        }
    }

    /// Whether the package that the first request became may be this one's, as far as the head says, or the error that
    /// it is not.
    pub(crate) fn check_package(
        &self,
        first: DeploymentId,
        package: &Package,
    ) -> Result<(), Error> {
        let Some(promised) = &self.digest else {
            return Ok(());
        };
        let differs = |promised: &Option<String>, actual: &Option<String>| {
            promised
                .as_ref()
                .zip(actual.as_ref())
                .is_some_and(|(promised, actual)| promised != actual)
        };
        if differs(&promised.blake3, &package.blake3) || differs(&promised.sha256, &package.sha256)
        {
            return Err(self.differs(first, "package"));
        }
        Ok(())
    }

    /// What is remembered of the request when it becomes a deployment.
    pub(crate) fn row(&self, deployment: DeploymentId) -> IdempotencyRow {
        let now = Time::now().as_millis();
        let lifetime = i64::try_from(LIFETIME.as_millis()).expect("a day fits");
        IdempotencyRow {
            token: self.token,
            project: self.project.to_string(),
            key: self.key.as_str().to_owned(),
            deployment: deployment.as_uuid(),
            head: self.head.clone(),
            created_at: now,
            expires_at: now + lifetime,
        }
    }

    /// Whether this is the same request, as far as the head says, or the error that it is not.
    pub(crate) fn check_head(&self, first: &IdempotencyRow) -> Result<(), Error> {
        if self.head == first.head {
            Ok(())
        } else {
            Err(self.differs(first.deployment.into(), "head"))
        }
    }

    /// The error of a repeat that is none.
    pub(crate) fn differs(&self, deployment: DeploymentId, what: &str) -> Error {
        Error::Conflict {
            message: format!(
                "the idempotency key {:?} is deployment {deployment}'s, whose {what} is another: give another request \
                 another key",
                self.key.as_str()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_key_is_printable_and_not_long() {
        for good in ["1", "0198c0de-0000-7000-8000-000000000000", "\"quoted\""] {
            assert_eq!(good.parse::<IdempotencyKey>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "ü", "a\n", &"x".repeat(MAX_KEY + 1)] {
            assert!(bad.parse::<IdempotencyKey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_same_head_is_the_same_request_and_another_is_not() {
        let project: ProjectName = "blog".parse().unwrap();
        let key: IdempotencyKey = "k".parse().unwrap();
        let request = |head: &Head| Request::new(Uuid::nil(), project.clone(), key.clone(), head);
        let first = request(&Head::default()).row(DeploymentId::new());
        assert!(request(&Head::default()).check_head(&first).is_ok());
        // A promise is no other request, unless it is one of another package.
        let promising = |digest: char| Head {
            digest: Some(ExpectedDigest {
                blake3: Some(digest.to_string().repeat(64)),
                sha256: None,
            }),
            ..Head::default()
        };
        let package = Package {
            blake3: Some("a".repeat(64)),
            ..Package::default()
        };
        let id = DeploymentId::new();
        for (digest, is_same) in [('a', true), ('b', false)] {
            let request = request(&promising(digest));
            assert!(request.check_head(&first).is_ok());
            assert_eq!(request.check_package(id, &package).is_ok(), is_same);
        }
        let other = Head {
            message: Some("another".to_owned()),
            ..Head::default()
        };
        let error = request(&other).check_head(&first).unwrap_err();
        assert_eq!(error.code(), "conflict");
        assert!(error.to_string().contains(&first.deployment.to_string()));
    }
}
