//! Secrets: values of a project that its steps may be granted by name.
//!
//! They are written and never read back by a client. At rest they are sealed (see `seal`) under a key that lies in a
//! file beside the ledger (see `key`): a copy of the ledger alone tells nothing but their names.

mod key;
mod seal;

use std::path::PathBuf;

use cofferdam_ledger::{Change, Durability, Ledger, SecretRow};
use cofferdam_sandbox::{Redactor, Secrets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::name::{ProjectName, SecretName};
use crate::record::Time;

/// The most bytes of a secret: the largest that people have are bundles of certificates, of some 20 KiB.
pub const MAX_SECRET_BYTES: usize = 64 << 10;

/// The most secrets of a project: more than a person keeps apart, and a bound on what its list holds.
pub const MAX_SECRETS: usize = 100;

/// The most bytes of all secrets of one deployment: looking for them in what its steps print takes some two hundred
/// times their size of the host's memory.
const MAX_DEPLOYMENT_BYTES: usize = 128 << 10;

/// A secret as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretView {
    /// Its name.
    pub name: SecretName,
    /// When it was first set.
    pub created_at: Time,
    /// When it was last set.
    pub updated_at: Time,
}

/// A secret that was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoredSecret {
    /// The secret.
    #[serde(flatten)]
    pub secret: SecretView,
    /// Whether it is taken out of what a step prints: not when it has no line of 8 bytes or more, because anything
    /// shorter turns up in ordinary text.
    pub redacted: bool,
    /// Whether there was none of this name before.
    #[serde(skip)]
    pub is_new: bool,
}

/// The secrets of one host.
#[derive(Debug)]
pub struct SecretStore {
    ledger: Ledger,
    key: PathBuf,
    /// Held by whoever writes: the limit of a project is counted and the key is made under it.
    writing: Mutex<()>,
}

impl SecretStore {
    pub(crate) fn new(ledger: Ledger, key: PathBuf) -> Self {
        Self {
            ledger,
            key,
            writing: Mutex::new(()),
        }
    }

    /// Sets a project's secret, new or in place of an earlier one. The project need not have been deployed.
    ///
    /// # Errors
    ///
    /// [`Error::SecretInvalid`] when the value is empty or larger than [`MAX_SECRET_BYTES`], [`Error::Conflict`] when
    /// the project has [`MAX_SECRETS`] others, [`Error::SecretsUnavailable`] when the key cannot be used, and when the
    /// ledger cannot be written.
    pub async fn put(
        &self,
        project: &ProjectName,
        name: &SecretName,
        value: Zeroizing<Vec<u8>>,
    ) -> Result<StoredSecret, Error> {
        if value.is_empty() || value.len() > MAX_SECRET_BYTES {
            return Err(Error::SecretInvalid {
                message: format!(
                    "the value of {name} has {} bytes, and a secret has 1 to {MAX_SECRET_BYTES}",
                    value.len()
                ),
            });
        }
        let _writing = self.writing.lock().await;
        let others = self.ledger.secrets(project.as_str()).await?;
        let before = others.iter().find(|row| row.name == name.as_str());
        if before.is_none() && others.len() >= MAX_SECRETS {
            return Err(Error::Conflict {
                message: format!(
                    "project {project} has {MAX_SECRETS} secrets, and none may have more: remove one first"
                ),
            });
        }
        let may_make = self.ledger.secret_count().await? == 0;
        let key = key::read_or_make(self.key.clone(), may_make).await?;
        let now = Time::now();
        let created_at = before.map_or(now, |row| Time::from_millis(row.created_at));
        let row = SecretRow {
            project: project.to_string(),
            name: name.to_string(),
            sealed: seal::seal(&key, project, name, &value)?,
            created_at: created_at.as_millis(),
            updated_at: now.as_millis(),
        };
        self.ledger
            .commit(Durability::Power, vec![Change::PutSecret(row)])
            .await?;
        Ok(StoredSecret {
            secret: SecretView {
                name: name.clone(),
                created_at,
                updated_at: now,
            },
            redacted: Redactor::can_redact(&value),
            is_new: before.is_none(),
        })
    }

    /// The names of a project's secrets, with when they were set. A project that nobody has deployed has none.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub async fn list(&self, project: &ProjectName) -> Result<Vec<SecretView>, Error> {
        let rows = self.ledger.secrets(project.as_str()).await?;
        rows.iter()
            .map(|row| {
                Ok(SecretView {
                    name: row.name.parse()?,
                    created_at: Time::from_millis(row.created_at),
                    updated_at: Time::from_millis(row.updated_at),
                })
            })
            .collect()
    }

    /// Forgets a project's secret. Deployments that run keep what they were given.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or when the ledger cannot be written.
    pub async fn remove(&self, project: &ProjectName, name: &SecretName) -> Result<(), Error> {
        let change = Change::RemoveSecret {
            project: project.to_string(),
            name: name.to_string(),
        };
        let removed = self.ledger.commit(Durability::Power, vec![change]).await;
        match removed {
            Err(cofferdam_ledger::Error::NotFound { .. }) => Err(Error::NotFound {
                what: format!("secret {name} of project {project}"),
            }),
            other => Ok(other.map(|_| ())?),
        }
    }

    /// The values of the secrets that a step asks for.
    ///
    /// # Errors
    ///
    /// [`Error::GrantDenied`] naming each that there is not, [`Error::SecretsUnavailable`] when they cannot be
    /// opened.
    pub(crate) async fn open(
        &self,
        step: &str,
        project: &ProjectName,
        names: &[String],
    ) -> Result<Secrets, Error> {
        let mut secrets = Secrets::default();
        if names.is_empty() {
            return Ok(secrets);
        }
        let denied = |denied: Vec<String>| Error::GrantDenied {
            step: step.to_owned(),
            denied,
        };
        let rows = self.ledger.secrets(project.as_str()).await?;
        let (mut wanted, mut missing) = (Vec::new(), Vec::new());
        for name in names {
            match (
                name.parse::<SecretName>(),
                rows.iter().find(|row| row.name == *name),
            ) {
                (Ok(name), Some(row)) => wanted.push((name, row)),
                (Ok(name), None) => missing.push(format!(
                    "secret {name}: project {project} has none of this name; `cofferdam secret set {project} \
                     {name}` sets it"
                )),
                (Err(error), _) => missing.push(error.to_string()),
            }
        }
        if !missing.is_empty() {
            return Err(denied(missing));
        }
        let key = key::read(self.key.clone()).await?;
        for (name, row) in wanted {
            let value = seal::open(&key, project, &name, &row.sealed)?;
            secrets.insert(name, value);
        }
        check_size(step, &secrets)?;
        Ok(secrets)
    }

    /// Seals the key of a project's webhook, which is opened by nobody but the host.
    pub(crate) async fn seal_key(
        &self,
        project: &ProjectName,
        value: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let _writing = self.writing.lock().await;
        let may_make = self.ledger.secret_count().await? == 0;
        let key = key::read_or_make(self.key.clone(), may_make).await?;
        seal::seal_in(&key, &webhook_context(project), value)
    }

    /// The key of a project's webhook.
    pub(crate) async fn open_key(
        &self,
        project: &ProjectName,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let key = key::read(self.key.clone()).await?;
        let opened = seal::open_in(&key, &webhook_context(project), sealed);
        opened
            .map(Zeroizing::new)
            .ok_or_else(|| Error::SecretsUnavailable {
                message: format!(
                    "the webhook of project {project} was sealed under another key than the present secrets.key, or is \
                     damaged: put the right key back, or set the webhook anew"
                ),
            })
    }

    /// Says in the log when there are secrets that cannot be opened: better at the start than by a failed deployment.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        if self.ledger.secret_count().await? > 0
            && let Err(error) = key::read(self.key.clone()).await
        {
            tracing::error!(error = error.chain(), "no secret can be used");
        }
        Ok(())
    }
}

/// What the key of a webhook is sealed in. No secret's context begins like this.
fn webhook_context(project: &ProjectName) -> Vec<u8> {
    format!("cofferdam webhook\0{project}").into_bytes()
}

/// Refuses more secrets than can be looked for: those of a step, and of the steps before it.
pub(crate) fn check_size(step: &str, secrets: &Secrets) -> Result<(), Error> {
    let bytes = secrets.bytes();
    if bytes <= MAX_DEPLOYMENT_BYTES {
        return Ok(());
    }
    Err(Error::GrantDenied {
        step: step.to_owned(),
        denied: vec![format!(
            "secrets: with those of the steps before it they have {bytes} bytes, and the secrets of a deployment have \
             {MAX_DEPLOYMENT_BYTES} at most"
        )],
    })
}

#[cfg(test)]
mod tests;
