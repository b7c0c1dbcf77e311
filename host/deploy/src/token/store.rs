//! The tokens of a host: made, looked up with every request, revoked.
//!
//! Only BLAKE3 hashes are stored. A token is 32 random bytes, so a fast hash is as good as a slow one:
//! there is nothing to guess. All tokens are held in memory, found by a hash of their hash and then compared
//! in constant time, so a look-up costs no query and its duration tells nothing.

use std::collections::HashMap;
use std::fs;
use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cofferdam_ledger::{Change, Durability, Ledger, TokenRow};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Identity, Life, Scope};
use crate::data_dir::{DataDir, write_whole};
use crate::error::Error;
use crate::name::TokenName;
use crate::record::Time;

/// Bytes of randomness in a token: beyond any search.
const TOKEN_BYTES: usize = 32;

/// What tokens begin with, so that a leaked one is recognised by people and scanners.
const PREFIX: &str = "cofferdam_";

/// The longest text that is looked up as a token.
const MAX_TOKEN: usize = 256;

/// The most tokens of a host: each of ten thousand projects may have one, and all of them are in memory.
pub const MAX_TOKENS: usize = 10_000;

/// The most scopes of a token: a person who is given more is given `read:*`.
pub const MAX_SCOPES: usize = 64;

/// The longest life of a token, in seconds: a hundred years, well within what times can say.
const MAX_LIFE_SECONDS: u64 = 100 * 365 * 24 * 3600;

/// How long a token that has expired is still listed, in milliseconds: thirty days, in which somebody asks why
/// something stopped working.
const EXPIRED_KEPT_MS: i64 = 30 * 24 * 3600 * 1000;

/// What a token that is to be made should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What people will call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<TokenName>,
    /// What it allows: `admin`, `deploy:PROJECT`, `deploy:*`, `read:PROJECT`, `read:*`.
    pub scopes: Vec<String>,
    /// For how many seconds; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u64>,
}

/// A token as a client sees it: everything but what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenView {
    /// Its id, to revoke it by.
    pub id: Uuid,
    /// What people call it.
    pub name: Option<TokenName>,
    /// What it allows.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Time,
    /// When it stops to be good; never when absent.
    pub expires_at: Option<Time>,
    /// Whether it has stopped to be good.
    pub expired: bool,
}

/// The tokens of one host.
#[derive(Debug)]
pub struct TokenStore {
    ledger: Ledger,
    /// By hash. The comparison of two hashes takes constant time.
    table: RwLock<HashMap<blake3::Hash, Entry>>,
    /// Held by whoever changes the ledger: what it judges stays true until it is done.
    writing: Mutex<()>,
}

#[derive(Debug)]
struct Entry {
    id: Uuid,
    name: String,
    scopes: Vec<Scope>,
    created_at: Time,
    expires_at: Option<Time>,
    revoked: watch::Sender<bool>,
}

impl TokenStore {
    /// Reads the tokens of the ledger.
    pub(crate) async fn open(ledger: Ledger) -> Result<Self, Error> {
        let mut table = HashMap::new();
        for row in ledger.tokens().await? {
            let id = row.id;
            match (blake3::Hash::from_hex(&row.hash), Entry::of(row)) {
                (Ok(hash), Ok(entry)) => {
                    table.insert(hash, entry);
                }
                (_, Err(error)) => {
                    tracing::warn!(token = %id, %error, "a token opens nothing: its scopes are not known to this version");
                }
                (Err(error), _) => {
                    tracing::warn!(token = %id, %error, "a token opens nothing: its hash is damaged");
                }
            }
        }
        Ok(Self {
            ledger,
            table: RwLock::new(table),
            writing: Mutex::new(()),
        })
    }

    /// The identity behind a presented token, if it is good.
    #[must_use]
    pub fn authenticate(&self, token: &str) -> Option<Identity> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let hash = blake3::hash(token.as_bytes());
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let identity = table.get(&hash)?.identity();
        (!identity.is_over()).then_some(identity)
    }

    /// Makes a token, and answers it: it is never shown again.
    ///
    /// # Errors
    ///
    /// [`Error::ScopeInvalid`] and [`Error::TokenInvalid`] when it cannot be as asked; [`Error::Conflict`] when there
    /// are [`MAX_TOKENS`] others; when the ledger cannot be written.
    pub async fn create(&self, new: &NewToken) -> Result<(TokenView, Zeroizing<String>), Error> {
        let invalid = |message: String| Error::TokenInvalid { message };
        if new.scopes.is_empty() || new.scopes.len() > MAX_SCOPES {
            return Err(invalid(format!(
                "it has {} scopes; give it 1 to {MAX_SCOPES}",
                new.scopes.len()
            )));
        }
        let scopes = new.scopes.iter().map(|scope| scope.parse());
        let scopes = scopes.collect::<Result<Vec<Scope>, Error>>()?;
        let created_at = Time::now();
        let expires_at = match new.expires_in_s {
            None => None,
            Some(seconds @ 1..=MAX_LIFE_SECONDS) => {
                let millis = i64::try_from(seconds * 1000).unwrap_or(i64::MAX);
                Some(created_at.as_millis().saturating_add(millis))
            }
            Some(seconds) => {
                return Err(invalid(format!(
                    "it would be good for {seconds} seconds; give it 1 to {MAX_LIFE_SECONDS}, or no end"
                )));
            }
        };
        let _writing = self.writing.lock().await;
        let outdated = self.outdated();
        if self.len() - outdated.len() >= MAX_TOKENS {
            return Err(Error::Conflict {
                message: format!("there are {MAX_TOKENS} tokens; revoke some first"),
            });
        }
        let token = random_token()?;
        let hash = blake3::hash(token.as_bytes());
        let row = TokenRow {
            id: Uuid::now_v7(),
            name: new.name.clone().map(String::from).unwrap_or_default(),
            hash: hash.to_hex().to_string(),
            scopes: spelt(&scopes).join(" "),
            created_at: created_at.as_millis(),
            expires_at,
        };
        let entry = Entry::of(row.clone())?;
        let view = entry.view();
        let removals = outdated
            .iter()
            .map(|(_, id)| Change::RemoveToken { id: *id });
        let changes = removals.chain([Change::InsertToken(row)]).collect();
        self.ledger.commit(Durability::Power, changes).await?;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        for (hash, _) in outdated {
            table.remove(&hash);
        }
        table.insert(hash, entry);
        Ok((view, token))
    }

    /// Every token, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<TokenView> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let mut views: Vec<_> = table.values().map(Entry::view).collect();
        views.sort_by_key(|view| (view.created_at, view.id));
        views
    }

    /// Revokes a token: whoever presents it is refused, and what it had begun ends.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Conflict`] for the last token by which others can be made; when the ledger
    /// cannot be written.
    pub async fn revoke(&self, id: Uuid) -> Result<TokenView, Error> {
        let _writing = self.writing.lock().await;
        let view = {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            let entry = table.values().find(|entry| entry.id == id);
            let entry = entry.ok_or_else(|| Error::NotFound {
                what: format!("token {id}"),
            })?;
            let rules =
                |entry: &&Entry| entry.scopes.contains(&Scope::Admin) && entry.expires_at.is_none();
            if rules(&entry) && table.values().filter(rules).count() == 1 {
                return Err(Error::Conflict {
                    message: format!(
                        "token {id} is the last with the scope admin and without an end: make another one first"
                    ),
                });
            }
            entry.view()
        };
        let changes = vec![Change::RemoveToken { id }];
        self.ledger.commit(Durability::Power, changes).await?;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, entry| {
            let stays = entry.id != id;
            if !stays {
                entry.revoked.send_replace(true);
            }
            stays
        });
        Ok(view)
    }

    /// Makes sure that `DIR/admin.token` holds a token that works, and writes a new one when it does not.
    pub(crate) async fn ensure_admin(&self, data: &DataDir) -> Result<(), Error> {
        let path = data.admin_token();
        match fs::read_to_string(&path) {
            Ok(token) if self.authenticate(token.trim()).is_some() => return Ok(()),
            Ok(_) => {
                tracing::warn!(path = %path.display(), "the admin token is not known to the ledger; a new one replaces it");
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("read {}", path.display()))(error)),
        }
        // The ledger first: a token in the file that the ledger does not know is replaced at the next start,
        // a row without a file would be a key that nobody holds.
        let new = NewToken {
            name: Some("admin".parse()?),
            scopes: vec![Scope::Admin.to_string()],
            expires_in_s: None,
        };
        let (_, token) = self.create(&new).await?;
        let line = Zeroizing::new(format!("{}\n", *token));
        write_whole(&path, line.as_bytes())
    }

    fn len(&self) -> usize {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// The tokens that expired long ago.
    fn outdated(&self) -> Vec<(blake3::Hash, Uuid)> {
        let before = Time::now().as_millis().saturating_sub(EXPIRED_KEPT_MS);
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let old = |entry: &Entry| {
            entry
                .expires_at
                .is_some_and(|expiry| expiry.as_millis() < before)
        };
        let outdated = table.iter().filter(|(_, entry)| old(entry));
        outdated.map(|(hash, entry)| (*hash, entry.id)).collect()
    }
}

impl Entry {
    fn of(row: TokenRow) -> Result<Self, Error> {
        let scopes = row.scopes.split_whitespace().map(str::parse);
        Ok(Self {
            id: row.id,
            name: row.name,
            scopes: scopes.collect::<Result<_, _>>()?,
            created_at: Time::from_millis(row.created_at),
            expires_at: row.expires_at.map(Time::from_millis),
            revoked: watch::Sender::new(false),
        })
    }

    fn identity(&self) -> Identity {
        Identity {
            id: self.id,
            name: (!self.name.is_empty()).then(|| self.name.clone()),
            scopes: self.scopes.clone(),
            life: Life {
                revoked: self.revoked.subscribe(),
                expires_at: self.expires_at,
            },
        }
    }

    fn view(&self) -> TokenView {
        TokenView {
            id: self.id,
            name: self.name.parse().ok(),
            scopes: spelt(&self.scopes),
            created_at: self.created_at,
            expires_at: self.expires_at,
            expired: self.expires_at.is_some_and(|expiry| expiry <= Time::now()),
        }
    }
}

fn spelt(scopes: &[Scope]) -> Vec<String> {
    scopes.iter().map(Scope::to_string).collect()
}

fn random_token() -> Result<Zeroizing<String>, Error> {
    let mut random = Zeroizing::new([0; TOKEN_BYTES]);
    getrandom::fill(&mut *random).map_err(|error| Error::Io {
        action: "get random bytes for a token".to_owned(),
        source: std::io::Error::other(error),
    })?;
    let spelt = Zeroizing::new(URL_SAFE_NO_PAD.encode(*random));
    Ok(Zeroizing::new(format!("{PREFIX}{}", *spelt)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use std::time::Duration;

    use super::*;

    async fn store(directory: &tempfile::TempDir) -> TokenStore {
        let ledger = Ledger::open(&directory.path().join("ledger.db")).await;
        TokenStore::open(ledger.unwrap()).await.unwrap()
    }

    fn new(scopes: &[&str], expires_in_s: Option<u64>) -> NewToken {
        NewToken {
            name: Some("ci".parse().unwrap()),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            expires_in_s,
        }
    }

    #[tokio::test]
    async fn a_token_is_known_until_it_is_revoked_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = store(&directory).await;
        let (view, token) = tokens
            .create(&new(&["deploy:blog", "read:*"], Some(3600)))
            .await
            .unwrap();
        assert_eq!(view.scopes, ["deploy:blog", "read:*"]);
        assert!(!view.expired);
        let identity = tokens.authenticate(&token).unwrap();
        assert_eq!(
            (identity.id, identity.name.as_deref()),
            (view.id, Some("ci"))
        );
        assert!(tokens.authenticate(&token[1..]).is_none());
        tokens.ledger.close().await;

        let tokens = store(&directory).await;
        let identity = tokens.authenticate(&token).unwrap();
        assert_eq!(tokens.list(), std::slice::from_ref(&view));
        tokens.revoke(view.id).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), identity.over())
            .await
            .unwrap();
        assert!(identity.is_over());
        assert!(tokens.authenticate(&token).is_none());
        assert!(matches!(
            tokens.revoke(view.id).await,
            Err(Error::NotFound { .. })
        ));
        tokens.ledger.close().await;
        assert!(store(&directory).await.authenticate(&token).is_none());
    }

    #[tokio::test]
    async fn a_token_ends_by_itself_when_its_time_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = store(&directory).await;
        let (_, token) = tokens.create(&new(&["read:*"], Some(1))).await.unwrap();
        let identity = tokens.authenticate(&token).unwrap();
        tokio::time::timeout(Duration::from_secs(30), identity.over())
            .await
            .unwrap();
        assert!(tokens.authenticate(&token).is_none());
        assert!(tokens.list()[0].expired);
    }

    #[tokio::test]
    async fn a_token_that_means_nothing_or_lives_too_long_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = store(&directory).await;
        for scopes in [
            &[][..],
            &["root"],
            &["deploy:../x"],
            &["read:a b"],
            &["read:*"; 65],
        ] {
            assert!(
                tokens.create(&new(scopes, None)).await.is_err(),
                "{scopes:?}"
            );
        }
        for seconds in [0, MAX_LIFE_SECONDS + 1, u64::MAX] {
            let made = tokens.create(&new(&["admin"], Some(seconds))).await;
            assert!(matches!(made, Err(Error::TokenInvalid { .. })), "{seconds}");
        }
        assert!(tokens.list().is_empty());
    }

    #[tokio::test]
    async fn the_last_token_that_can_make_others_stays() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = store(&directory).await;
        let (first, _) = tokens.create(&new(&["admin"], None)).await.unwrap();
        let (_, _) = tokens.create(&new(&["admin"], Some(60))).await.unwrap();
        assert!(matches!(
            tokens.revoke(first.id).await,
            Err(Error::Conflict { .. })
        ));
        let (second, _) = tokens.create(&new(&["admin"], None)).await.unwrap();
        tokens.revoke(first.id).await.unwrap();
        assert!(tokens.revoke(second.id).await.is_err());
    }
}
