//! Who may do what: bearer tokens and their scopes.
//!
//! Only BLAKE3 hashes are stored. A token is 32 random bytes, so a fast hash is as good as a slow one:
//! there is nothing to guess. Looking a hash up tells an attacker nothing about the token by its timing.

use std::fmt;
use std::fs;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cofferdam_ledger::{Change, Durability, Ledger, TokenRow};
use uuid::Uuid;

use crate::data_dir::{DataDir, write_whole};
use crate::error::Error;
use crate::name::ProjectName;
use crate::record::Time;

/// Bytes of randomness in a token: beyond any search.
const TOKEN_BYTES: usize = 32;

/// What tokens begin with, so that a leaked one is recognised by people and scanners.
const PREFIX: &str = "cofferdam_";

/// The longest text that is looked up as a token.
const MAX_TOKEN: usize = 256;

/// Something that a token may allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Admin,
    /// Reading and deploying one project; `None` stands for every project.
    Deploy(Option<ProjectName>),
    /// Reading one project; `None` stands for everything.
    Read(Option<ProjectName>),
}

impl Scope {
    /// Whether whoever has `self` may do what `wanted` names.
    #[must_use]
    pub fn covers(&self, wanted: &Self) -> bool {
        let within = |mine: &Option<ProjectName>, theirs: &Option<ProjectName>| {
            mine.is_none() || mine == theirs
        };
        match (self, wanted) {
            (Self::Admin, _) => true,
            (Self::Deploy(mine), Self::Deploy(theirs) | Self::Read(theirs))
            | (Self::Read(mine), Self::Read(theirs)) => within(mine, theirs),
            _ => false,
        }
    }
}

impl FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let project = |name: &str| {
            if name == "*" {
                Ok(None)
            } else {
                name.parse().map(Some)
            }
        };
        match text.split_once(':') {
            None if text == "admin" => Ok(Self::Admin),
            Some(("deploy", name)) => Ok(Self::Deploy(project(name)?)),
            Some(("read", name)) => Ok(Self::Read(project(name)?)),
            _ => Err(Error::HeadInvalid {
                message: format!(
                    "{text:?} is not a scope; use admin, deploy:PROJECT, read:PROJECT or read:*"
                ),
            }),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, project) = match self {
            Self::Admin => return f.write_str("admin"),
            Self::Deploy(project) => ("deploy", project),
            Self::Read(project) => ("read", project),
        };
        write!(
            f,
            "{verb}:{}",
            project.as_ref().map_or("*", ProjectName::as_str)
        )
    }
}

/// Who a request comes from.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The token's id; safe to log.
    pub id: Uuid,
    /// What it is called, if it has a name.
    pub name: Option<String>,
    /// What it allows.
    pub scopes: Vec<Scope>,
}

impl Identity {
    /// Whether it allows what `wanted` names.
    #[must_use]
    pub fn allows(&self, wanted: &Scope) -> bool {
        self.scopes.iter().any(|scope| scope.covers(wanted))
    }
}

fn hash(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

/// Finds the identity behind a presented token.
pub(crate) async fn authenticate(ledger: &Ledger, token: &str) -> Result<Option<Identity>, Error> {
    if token.len() > MAX_TOKEN {
        return Ok(None);
    }
    let Some(row) = ledger.token(&hash(token)).await? else {
        return Ok(None);
    };
    if row
        .expires_at
        .is_some_and(|expiry| expiry <= Time::now().as_millis())
    {
        return Ok(None);
    }
    let scopes = row
        .scopes
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(Some(Identity {
        id: row.id,
        name: None,
        scopes,
    }))
}

/// Makes sure that `DIR/admin.token` holds a token that works, and writes a new one when it does not.
pub(crate) async fn ensure_admin(data: &DataDir, ledger: &Ledger) -> Result<(), Error> {
    let path = data.admin_token();
    match fs::read_to_string(&path) {
        Ok(token) if authenticate(ledger, token.trim()).await?.is_some() => return Ok(()),
        Ok(_) => {
            tracing::warn!(path = %path.display(), "the admin token is not known to the ledger; a new one replaces it");
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(format!("read {}", path.display()))(error)),
    }
    let mut random = [0; TOKEN_BYTES];
    getrandom::fill(&mut random).map_err(|error| Error::Io {
        action: "get random bytes for a token".to_owned(),
        source: std::io::Error::other(error),
    })?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    // The ledger first: a token in the file that the ledger does not know is replaced at the next start,
    // a row without a file would be a key that nobody holds.
    let row = TokenRow {
        id: Uuid::now_v7(),
        hash: hash(&token),
        scopes: Scope::Admin.to_string(),
        created_at: Time::now().as_millis(),
        expires_at: None,
    };
    ledger
        .commit(Durability::Power, vec![Change::InsertToken(row)])
        .await?;
    write_whole(&path, format!("{token}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn a_scope_opens_its_project_and_no_other() {
        assert!(scope("deploy:app").covers(&scope("deploy:app")));
        assert!(scope("deploy:app").covers(&scope("read:app")));
        assert!(!scope("deploy:app").covers(&scope("deploy:app2")));
        assert!(!scope("read:app").covers(&scope("deploy:app")));
        assert!(!scope("deploy:app").covers(&scope("read:*")));
        assert!(scope("read:*").covers(&scope("read:app")));
        assert!(scope("admin").covers(&scope("deploy:*")));
        assert!(!scope("deploy:*").covers(&scope("admin")));
    }

    #[test]
    fn a_scope_has_one_spelling() {
        for text in ["admin", "deploy:app", "deploy:*", "read:app", "read:*"] {
            assert_eq!(scope(text).to_string(), text);
        }
        for bad in ["", "root", "deploy:", "read:../x", "deploy"] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
    }
}
