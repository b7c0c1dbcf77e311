//! One deployment of a project runs at a time; of those that wait, only the newest is worth running.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::name::{DeploymentId, ProjectName};

/// The waiting room of every project.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue {
    lanes: Arc<Mutex<HashMap<ProjectName, Lane>>>,
}

/// A project that runs a deployment; without one it has no lane.
#[derive(Debug, Default)]
struct Lane {
    next: Option<(DeploymentId, oneshot::Sender<Turn>)>,
}

/// How waiting ends.
#[derive(Debug)]
pub(crate) enum Turn {
    /// The deployment may run until it drops this.
    Run(Permit),
    /// A newer deployment took its place.
    Superseded(DeploymentId),
}

/// The right to run, for one project.
#[derive(Debug)]
pub(crate) struct Permit {
    queue: Queue,
    project: ProjectName,
}

impl Queue {
    /// Takes a place in the project's queue; a deployment that waits there already is superseded.
    pub(crate) fn enter(&self, project: &ProjectName, id: DeploymentId) -> oneshot::Receiver<Turn> {
        let (sender, receiver) = oneshot::channel();
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        match lanes.get_mut(project) {
            None => {
                lanes.insert(project.clone(), Lane::default());
                drop(lanes);
                self.hand_over(project, sender);
            }
            Some(lane) => {
                if let Some((_, older)) = lane.next.replace((id, sender)) {
                    // A waiter that has gone meanwhile needs no word.
                    let _ = older.send(Turn::Superseded(id));
                }
            }
        }
        receiver
    }

    fn hand_over(&self, project: &ProjectName, to: oneshot::Sender<Turn>) {
        let permit = Permit {
            queue: self.clone(),
            project: project.clone(),
        };
        // A receiver that has gone drops the permit, which hands over to the next.
        let _ = to.send(Turn::Run(permit));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut lanes = self
            .queue
            .lanes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let next = lanes
            .get_mut(&self.project)
            .and_then(|lane| lane.next.take());
        match next {
            Some((_, sender)) => {
                drop(lanes);
                self.queue.hand_over(&self.project, sender);
            }
            None => {
                lanes.remove(&self.project);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn run(turn: Result<Turn, oneshot::error::TryRecvError>) -> Permit {
        match turn.unwrap() {
            Turn::Run(permit) => permit,
            Turn::Superseded(by) => panic!("superseded by {by}"),
        }
    }

    #[test]
    fn the_first_runs_the_second_is_superseded_and_the_third_runs_next() {
        let queue = Queue::default();
        let project: ProjectName = "blog".parse().unwrap();
        let ids = [
            DeploymentId::new(),
            DeploymentId::new(),
            DeploymentId::new(),
        ];
        let mut turns = ids.map(|id| queue.enter(&project, id));

        let permit = run(turns[0].try_recv());
        assert!(matches!(turns[1].try_recv(), Ok(Turn::Superseded(by)) if by == ids[2]));
        assert!(turns[2].try_recv().is_err());
        drop(permit);
        drop(run(turns[2].try_recv()));
        assert!(queue.lanes.lock().unwrap().is_empty());
    }

    #[test]
    fn a_waiter_that_has_gone_does_not_block_the_lane() {
        let queue = Queue::default();
        let project: ProjectName = "blog".parse().unwrap();
        let permit = run(queue.enter(&project, DeploymentId::new()).try_recv());
        drop(queue.enter(&project, DeploymentId::new()));
        drop(permit);
        drop(run(queue.enter(&project, DeploymentId::new()).try_recv()));
    }

    #[test]
    fn projects_do_not_wait_for_each_other() {
        let queue = Queue::default();
        let one = run(queue
            .enter(&"one".parse().unwrap(), DeploymentId::new())
            .try_recv());
        let two = run(queue
            .enter(&"two".parse().unwrap(), DeploymentId::new())
            .try_recv());
        drop((one, two));
    }
}
