//! Who may do what: bearer tokens and their scopes.
//!
//! - [`Scope`]: something that a token may allow
//! - [`Identity`]: who a request comes from, and whether that still holds
//! - `store`: the tokens of a host

mod store;

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use crate::error::Error;
use crate::name::ProjectName;
use crate::record::Time;

pub use store::{MAX_SCOPES, MAX_TOKENS, NewToken, TokenStore, TokenView};

/// How long a wait for the end of a token sleeps at most: a clock that was set forward ends it this late.
const CLOCK_CHECK: Duration = Duration::from_secs(10);

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
            _ => Err(Error::ScopeInvalid {
                scope: text.chars().take(80).collect(),
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
    /// What people call the token, if it has a name.
    pub name: Option<String>,
    /// What it allows.
    pub scopes: Vec<Scope>,
    life: Life,
}

/// For how long a token is good.
#[derive(Debug, Clone)]
struct Life {
    revoked: watch::Receiver<bool>,
    expires_at: Option<Time>,
}

impl Life {
    fn is_over(&self) -> bool {
        *self.revoked.borrow() || self.expires_at.is_some_and(|expiry| expiry <= Time::now())
    }
}

impl Identity {
    /// An identity that no token stands behind and nothing ends: for programs that embed a host and do the
    /// authorisation themselves.
    #[must_use]
    pub fn without_token(name: impl Into<String>, scopes: Vec<Scope>) -> Self {
        let (_, revoked) = watch::channel(false);
        Self {
            id: Uuid::nil(),
            name: Some(name.into()),
            scopes,
            life: Life {
                revoked,
                expires_at: None,
            },
        }
    }

    /// Whether it allows what `wanted` names.
    #[must_use]
    pub fn allows(&self, wanted: &Scope) -> bool {
        self.scopes.iter().any(|scope| scope.covers(wanted))
    }

    /// Whether the token has been revoked, or has expired, since it was presented.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.life.is_over()
    }

    /// Waits until the token is revoked or expires: what it was allowed to begin ends then.
    pub fn over(&self) -> impl Future<Output = ()> + Send + 'static {
        let Life {
            mut revoked,
            expires_at,
        } = self.life.clone();
        async move {
            let revocation = async move {
                if revoked.wait_for(|revoked| *revoked).await.is_err() {
                    // The host is gone, and nobody is left to revoke anything.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = revocation => {}
                () = expiry(expires_at) => {}
            }
        }
    }
}

/// Waits for a moment of the clock on the wall, which may be set meanwhile.
async fn expiry(at: Option<Time>) {
    let Some(at) = at else {
        return std::future::pending().await;
    };
    loop {
        let left = at.as_millis().saturating_sub(Time::now().as_millis());
        let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else {
            return;
        };
        tokio::time::sleep(Duration::from_millis(left).min(CLOCK_CHECK)).await;
    }
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
        assert!(!scope("deploy:app").covers(&scope("deploy:*")));
        assert!(scope("read:*").covers(&scope("read:app")));
        assert!(scope("admin").covers(&scope("deploy:*")));
        assert!(!scope("deploy:*").covers(&scope("admin")));
    }

    #[test]
    fn a_scope_has_one_spelling() {
        for text in ["admin", "deploy:app", "deploy:*", "read:app", "read:*"] {
            assert_eq!(scope(text).to_string(), text);
        }
        for bad in [
            "",
            "root",
            "deploy:",
            "read:../x",
            "deploy",
            "admin:*",
            "read:**",
        ] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
    }
}
