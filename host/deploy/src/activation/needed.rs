//! Releases that were replaced and are needed for a while yet: requests to them are being answered, or the one that
//! took their place may give it back. No retention takes them away meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::name::DeploymentId;

/// The releases that somebody needs.
#[derive(Debug, Default, Clone)]
pub(crate) struct Needed {
    releases: Arc<Mutex<HashMap<DeploymentId, Needs>>>,
}

#[derive(Debug, Default)]
struct Needs {
    count: usize,
    /// Retention would have taken it away.
    is_overdue: bool,
}

/// One need of a release; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Need {
    needed: Needed,
    release: DeploymentId,
    is_over: bool,
}

impl Needed {
    /// Keeps a release.
    pub(crate) fn hold(&self, release: DeploymentId) -> Need {
        self.with(|releases| releases.entry(release).or_default().count += 1);
        Need {
            needed: self.clone(),
            release,
            is_over: false,
        }
    }

    /// Whether a release that is to be taken away has to wait.
    pub(crate) fn keeps(&self, release: DeploymentId) -> bool {
        self.with(|releases| match releases.get_mut(&release) {
            Some(needs) => {
                needs.is_overdue = true;
                true
            }
            None => false,
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut HashMap<DeploymentId, Needs>) -> T) -> T {
        look(&mut self.releases.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Need {
    /// Ends the need; whether the release had to wait for nothing but this.
    pub(super) fn end(mut self) -> bool {
        self.give_back()
    }

    fn give_back(&mut self) -> bool {
        if std::mem::replace(&mut self.is_over, true) {
            return false;
        }
        let release = self.release;
        self.needed.with(|releases| {
            let Some(needs) = releases.get_mut(&release) else {
                return false;
            };
            needs.count -= 1;
            let is_overdue = needs.is_overdue;
            if needs.count > 0 {
                return false;
            }
            releases.remove(&release);
            is_overdue
        })
    }
}

impl Drop for Need {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_had_to_wait_is_told_to_the_last_that_needed_it() {
        let needed = Needed::default();
        let (one, other) = (DeploymentId::new(), DeploymentId::new());
        let (first, second) = (needed.hold(one), needed.hold(one));
        assert!(needed.keeps(one) && !needed.keeps(other));
        assert!(!first.end());
        assert!(needed.keeps(one));
        assert!(second.end());
        assert!(!needed.keeps(one));
        // Nobody wanted to take it away.
        assert!(!needed.hold(other).end());
        drop(needed.hold(one));
        assert!(!needed.keeps(one));
    }
}
