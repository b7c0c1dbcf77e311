//! The threads of steps. A step has one to itself from its start to its end; then the thread waits a while for the next,
//! because making one costs as much as all the rest of a start.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Threads that wait at once: more steps than there are processors do not start at the same moment.
const MOST: usize = 4;

/// How long one waits: a pipeline's next step comes within this.
const LINGER: Duration = Duration::from_secs(5);

/// What a thread does for one step.
type Task = Box<dyn FnOnce() + Send>;

/// Threads that wait for a step.
#[derive(Debug, Default)]
pub(crate) struct Threads(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// The number of the thread that waits next.
    number: u64,
    threads: Vec<(u64, SyncSender<Task>)>,
}

impl Threads {
    /// Runs a task on a thread of its own.
    pub(super) fn run(self: &Arc<Self>, task: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut task: Task = Box::new(task);
        loop {
            let Some((_, waiting)) = self.lock().threads.pop() else {
                break;
            };
            // It takes the task, unless it has ended by itself.
            match waiting.send(task) {
                Ok(()) => return Ok(()),
                Err(unsent) => task = unsent.0,
            }
        }
        let threads = Arc::clone(self);
        thread::Builder::new()
            .name("cofferdam-step".to_owned())
            .spawn(move || threads.work(task))?;
        Ok(())
    }

    fn work(&self, first: Task) {
        let mut next = Some(first);
        while let Some(task) = next {
            task();
            next = self.wait();
        }
    }

    /// The next task, when one comes in time.
    fn wait(&self) -> Option<Task> {
        let (sender, tasks) = mpsc::sync_channel(1);
        let number = {
            let mut waiting = self.lock();
            if waiting.threads.len() >= MOST {
                return None;
            }
            waiting.number += 1;
            let number = waiting.number;
            waiting.threads.push((number, sender));
            number
        };
        match tasks.recv_timeout(LINGER) {
            Ok(task) => Some(task),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                let mut waiting = self.lock();
                let before = waiting.threads.len();
                waiting.threads.retain(|(other, _)| *other != number);
                let is_unwanted = waiting.threads.len() < before;
                drop(waiting);
                // Somebody has it in hand otherwise, and gives it a task at this very moment.
                if is_unwanted { None } else { tasks.recv().ok() }
            }
        }
    }

    /// Ends those that wait.
    pub(crate) fn close(&self) {
        self.lock().threads.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::thread::ThreadId;

    use super::*;

    fn run(threads: &Arc<Threads>) -> ThreadId {
        let (sender, ran) = mpsc::channel();
        threads
            .run(move || sender.send(thread::current().id()).unwrap())
            .unwrap();
        ran.recv().unwrap()
    }

    fn waiting(threads: &Threads, wanted: usize) {
        while threads.lock().threads.len() != wanted {
            thread::yield_now();
        }
    }

    #[test]
    fn a_thread_serves_one_step_after_the_other_and_two_at_once_have_two() {
        let threads = Arc::new(Threads::default());
        let first = run(&threads);
        waiting(&threads, 1);
        assert_eq!(run(&threads), first);
        waiting(&threads, 1);

        let (release, held) = mpsc::channel::<()>();
        threads.run(move || held.recv().unwrap_or(())).unwrap();
        assert_ne!(run(&threads), first);
        drop(release);
        waiting(&threads, 2);
    }

    #[test]
    fn a_task_that_panics_takes_its_thread_with_it_and_nothing_else() {
        let threads = Arc::new(Threads::default());
        threads.run(|| panic!("as asked")).unwrap();
        run(&threads);
        waiting(&threads, 1);
        threads.close();
        waiting(&threads, 0);
    }

    #[test]
    fn no_more_wait_than_are_of_use() {
        let threads = Arc::new(Threads::default());
        let releases: Vec<_> = (0..2 * MOST)
            .map(|_| {
                let (release, held) = mpsc::channel::<()>();
                threads.run(move || held.recv().unwrap_or(())).unwrap();
                release
            })
            .collect();
        drop(releases);
        waiting(&threads, MOST);
    }
}
