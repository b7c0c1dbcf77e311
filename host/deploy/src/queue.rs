//! One deployment of a project runs at a time; of those that wait, only the newest is worth running.
//!
//! A deployment takes its place when its head is accepted, because its pipeline may run while its package still
//! arrives. It takes the place of an older one only when its package is durable: one whose upload breaks off must
//! not have cost the one before it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::name::{DeploymentId, ProjectName};

/// The waiting room of every project.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue {
    lanes: Arc<Mutex<HashMap<ProjectName, Lane>>>,
}

/// A project that runs a deployment; without one it has no lane.
#[derive(Debug)]
struct Lane {
    running: DeploymentId,
    /// Oldest first. Uploads are bounded, and so are those that wait here.
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    id: DeploymentId,
    turn: oneshot::Sender<Turn>,
}

/// How waiting ends.
#[derive(Debug)]
pub(crate) enum Turn {
    /// The deployment may run until it drops this.
    Run(Permit),
    /// A newer deployment took its place.
    Superseded(DeploymentId),
}

/// The right to run, for one deployment of a project.
#[derive(Debug)]
pub(crate) struct Permit {
    queue: Queue,
    project: ProjectName,
    id: DeploymentId,
}

impl Queue {
    /// Takes the last place in the project's queue.
    pub(crate) fn enter(&self, project: &ProjectName, id: DeploymentId) -> oneshot::Receiver<Turn> {
        let (turn, receiver) = oneshot::channel();
        let mut lanes = self.lock();
        if let Some(lane) = lanes.get_mut(project) {
            // Those that were cancelled meanwhile wait for nothing.
            lane.waiting.retain(|waiter| !waiter.turn.is_closed());
            lane.waiting.push_back(Waiter { id, turn });
        } else {
            let lane = Lane {
                running: id,
                waiting: VecDeque::new(),
            };
            lanes.insert(project.clone(), lane);
            drop(lanes);
            self.hand_over(project, Waiter { id, turn });
        }
        receiver
    }

    /// Whether a deployment of the project runs or waits.
    pub(crate) fn is_busy(&self, project: &ProjectName) -> bool {
        self.lock().contains_key(project)
    }

    /// Says that a deployment's package is durable: every older one that still waits is superseded.
    pub(crate) fn settle(&self, project: &ProjectName, id: DeploymentId) {
        let mut lanes = self.lock();
        let Some(lane) = lanes.get_mut(project) else {
            return;
        };
        let Some(place) = lane.waiting.iter().position(|waiter| waiter.id == id) else {
            return;
        };
        for older in lane.waiting.drain(..place) {
            // A waiter that has gone meanwhile needs no word.
            let _ = older.turn.send(Turn::Superseded(id));
        }
    }

    /// Lets the next deployment run in place of this one, if this one runs.
    pub(crate) fn release(&self, project: &ProjectName, id: DeploymentId) {
        let mut lanes = self.lock();
        let Some(lane) = lanes.get_mut(project).filter(|lane| lane.running == id) else {
            return;
        };
        match lane.waiting.pop_front() {
            Some(next) => {
                lane.running = next.id;
                drop(lanes);
                self.hand_over(project, next);
            }
            None => {
                lanes.remove(project);
            }
        }
    }

    /// Not to be called under the lock.
    fn hand_over(&self, project: &ProjectName, to: Waiter) {
        let permit = Permit {
            queue: self.clone(),
            project: project.clone(),
            id: to.id,
        };
        // A receiver that has gone drops the permit, which hands over to the next.
        let _ = to.turn.send(Turn::Run(permit));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProjectName, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.queue.release(&self.project, self.id);
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

    fn three(queue: &Queue) -> (ProjectName, [(DeploymentId, oneshot::Receiver<Turn>); 3]) {
        let project: ProjectName = "blog".parse().unwrap();
        let enter = || {
            let id = DeploymentId::new();
            (id, queue.enter(&project, id))
        };
        let entered = [enter(), enter(), enter()];
        (project, entered)
    }

    #[test]
    fn a_newer_package_that_is_durable_takes_the_place_of_an_older_deployment_that_waits() {
        let queue = Queue::default();
        let (project, [mut first, mut second, mut third]) = three(&queue);
        let permit = run(first.1.try_recv());
        queue.settle(&project, second.0);
        assert!(second.1.try_recv().is_err());
        queue.settle(&project, third.0);
        assert!(matches!(second.1.try_recv(), Ok(Turn::Superseded(by)) if by == third.0));
        assert!(third.1.try_recv().is_err());
        drop(permit);
        drop(run(third.1.try_recv()));
        assert!(queue.lock().is_empty());
    }

    #[test]
    fn one_whose_package_still_arrives_waits_behind_the_older_and_costs_it_nothing() {
        let queue = Queue::default();
        let (project, [mut first, mut second, third]) = three(&queue);
        queue.settle(&project, second.0);
        let permit = run(first.1.try_recv());
        // Its upload breaks off.
        drop(third);
        drop(permit);
        drop(run(second.1.try_recv()));
        assert!(queue.lock().is_empty());
    }

    #[test]
    fn one_that_runs_is_superseded_by_nobody() {
        let queue = Queue::default();
        let (project, [mut first, second, third]) = three(&queue);
        let permit = run(first.1.try_recv());
        queue.settle(&project, third.0);
        queue.settle(&project, first.0);
        drop((permit, second, third));
        assert!(queue.lock().is_empty());
    }

    #[test]
    fn a_waiter_that_has_gone_does_not_block_the_lane() {
        let queue = Queue::default();
        let project: ProjectName = "blog".parse().unwrap();
        assert!(!queue.is_busy(&project));
        let permit = run(queue.enter(&project, DeploymentId::new()).try_recv());
        assert!(queue.is_busy(&project));
        drop(queue.enter(&project, DeploymentId::new()));
        drop(permit);
        drop(run(queue.enter(&project, DeploymentId::new()).try_recv()));
    }

    #[test]
    fn one_that_was_put_aside_does_not_let_a_third_run_beside_the_second() {
        let queue = Queue::default();
        let (project, [mut first, mut second, mut third]) = three(&queue);
        let aside = run(first.1.try_recv());
        queue.release(&project, first.0);
        let permit = run(second.1.try_recv());
        drop(aside);
        assert!(third.1.try_recv().is_err());
        drop(permit);
        drop(run(third.1.try_recv()));
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
