//! Letting a release that was replaced come to its end: requests that it has begun to answer finish, up to a
//! limit.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep};

use crate::name::{DeploymentId, ProjectName};
use crate::route::Route;

/// How long requests to a release that was replaced may take: longer than a page takes, shorter than an
/// operator's patience. What is still under way then is cut off.
pub(crate) const DRAIN: Duration = Duration::from_secs(30);

/// How often it is looked whether the last request has gone.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until nobody is answered by these routes any more, or `limit` has passed; then nothing is.
pub(crate) async fn drain(routes: Vec<(String, Arc<Route>)>, limit: Duration) {
    // A service that has two names has one route.
    let mut left: Vec<Arc<Route>> = Vec::new();
    for (_, route) in routes {
        if !left.iter().any(|known| Arc::ptr_eq(known, &route)) {
            left.push(route);
        }
    }
    let deadline = Instant::now() + limit;
    loop {
        // Whoever answers a request holds its route, and so does a table that is still read.
        left.retain(|route| Arc::strong_count(route) > 1);
        if left.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            break;
        }
        sleep(LOOK).await;
    }
    for route in left {
        tracing::warn!(
            project = %route.project,
            release = %route.release,
            service = route.service,
            "requests to a release that was replaced are cut off"
        );
        route.retire();
    }
}

/// One move of a project's pointer at a time: the commit and the route that follows it belong together.
#[derive(Debug, Default)]
pub(crate) struct Pointers {
    locks: std::sync::Mutex<HashMap<ProjectName, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to move a project's pointer, and its routes.
#[derive(Debug)]
pub(crate) struct Pointer {
    _held: OwnedMutexGuard<()>,
}

impl Pointers {
    /// Waits for the right to move a project's pointer.
    pub(crate) async fn take(&self, project: &ProjectName) -> Pointer {
        let lock = {
            let mut locks = self
                .locks
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            // Those that nobody holds or waits for go, so that there are never more than moves under way.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(project.clone()).or_default().clone()
        };
        Pointer {
            _held: lock.lock_owned().await,
        }
    }
}

/// What a project serves by the ledger.
pub(crate) fn active(row: Option<&cofferdam_ledger::ProjectRow>) -> Option<DeploymentId> {
    row.and_then(|row| row.active).map(DeploymentId::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::route::Target;

    fn route() -> Arc<Route> {
        Arc::new(Route::new(
            "blog".parse().unwrap(),
            DeploymentId::new(),
            "blake3:0".to_owned(),
            "web".to_owned(),
            Target::Replacing,
        ))
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_the_last_request_and_cuts_none_off() {
        let route = route();
        let request = route.clone();
        // The same route under two names is one.
        let routes = vec![("a".to_owned(), route.clone()), ("b".to_owned(), route)];
        let draining = tokio::spawn(drain(routes, DRAIN));
        sleep(Duration::from_secs(5)).await;
        assert!(!draining.is_finished() && !request.is_retired());
        drop(request);
        draining.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_longer_than_the_limit_is_cut_off() {
        let route = route();
        let request = route.clone();
        let before = Instant::now();
        let draining = tokio::spawn(drain(vec![("a".to_owned(), route)], DRAIN));
        request.retired().await;
        assert!(before.elapsed() >= DRAIN);
        draining.await.unwrap();
    }

    #[tokio::test]
    async fn one_project_has_one_pointer_and_others_do_not_wait() {
        let pointers = Arc::new(Pointers::default());
        let blog: ProjectName = "blog".parse().unwrap();
        let held = pointers.take(&blog).await;
        let (other, again) = (pointers.clone(), blog.clone());
        let waiting = tokio::spawn(async move { other.take(&again).await });
        drop(pointers.take(&"shop".parse().unwrap()).await);
        assert!(!waiting.is_finished());
        drop(held);
        waiting.await.unwrap();
    }
}
