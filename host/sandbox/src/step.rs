//! A running step, as its owner sees it.

mod outputs;
mod thread;
mod threads;

pub(crate) use self::thread::{Job, run, stopped, trap_message};
pub(crate) use self::threads::Threads;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::admission::Component;
use crate::console::EVENT_CAPACITY;
use crate::control::{Control, Stop};
use crate::error::Error;
use crate::event::StepEvent;
use crate::lines::STEP_WORK;
use crate::net::{self, Broker};
use crate::outcome::{Outcome, Verdict};
use crate::sandbox::Inner;
use crate::spec::{Preopen, Stdin, StepSpec};

/// A running step. Dropping it stops the guest.
#[derive(Debug)]
pub struct Step {
    events: mpsc::Receiver<StepEvent>,
    outcome: oneshot::Receiver<Result<Outcome, Error>>,
    stop: StopOnDrop,
    component: Component,
    broker: Option<Broker>,
}

/// Stops a step from anywhere.
#[derive(Debug, Clone)]
pub struct Canceller(Arc<Control>);

impl Canceller {
    /// Stops the step; its verdict becomes [`Cancelled`](crate::Verdict::Cancelled) unless it has ended already.
    /// Returns at once: [`Step::outcome`] tells when no guest code runs any more.
    pub fn cancel(&self) {
        self.0.stop(Stop::Cancelled);
    }
}

#[derive(Debug)]
struct StopOnDrop(Arc<Control>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop(Stop::Cancelled);
    }
}

impl Step {
    pub(crate) fn new(
        events: mpsc::Receiver<StepEvent>,
        outcome: oneshot::Receiver<Result<Outcome, Error>>,
        control: Arc<Control>,
        component: Component,
        broker: Option<Broker>,
    ) -> Self {
        Self {
            events,
            outcome,
            stop: StopOnDrop(control),
            component,
            broker,
        }
    }

    /// The next thing the step says; `None` when it has ended and everything was taken. While nobody takes events
    /// the step is held back as soon as it has said a few hundred things.
    ///
    /// Dropping the future loses nothing.
    pub async fn next_event(&mut self) -> Option<StepEvent> {
        self.events.recv().await
    }

    /// Stops the step. See [`Canceller::cancel`].
    pub fn cancel(&self) {
        self.stop.0.stop(Stop::Cancelled);
    }

    /// A handle that stops the step and outlives borrows of it.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.stop.0))
    }

    /// How the step ended, once none of its code runs any more. Events that were not taken are discarded.
    ///
    /// # Errors
    ///
    /// When the host failed; a guest's failure is a [`Verdict`](crate::Verdict).
    pub async fn outcome(mut self) -> Result<Outcome, Error> {
        while self.events.recv().await.is_some() {}
        match (&mut self.outcome).await {
            Ok(outcome) => outcome.map(|mut outcome| {
                if let Some(broker) = self.broker.take() {
                    outcome.receipt.hosts = broker.finish();
                }
                with_lines(outcome, &self.component)
            }),
            Err(_) => Err(Error::host(
                "whoever ran the step ended without saying how it did",
            )),
        }
    }
}

/// Adds the places in the guest's sources to the backtrace of a trap.
fn with_lines(mut outcome: Outcome, component: &Component) -> Outcome {
    if let Verdict::Trapped { message } = &mut outcome.verdict {
        *message = component.lines().add_to(message, STEP_WORK);
    }
    outcome
}

/// Gives the step to a thread.
pub(crate) fn start(
    sandbox: Arc<Inner>,
    component: Component,
    spec: StepSpec,
    preopens: Vec<Preopen>,
    stdin: Stdin,
) -> Result<Step, Error> {
    let (net, broker) = net::open(&spec)?.unzip();
    let control = Arc::new(Control::default());
    let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
    let (done, outcome) = oneshot::channel();
    let threads = Arc::clone(&sandbox.step_threads);
    let job = Job {
        sandbox,
        component: component.clone(),
        spec,
        preopens,
        stdin,
        control: Arc::clone(&control),
        events,
        net,
    };
    threads
        .run(move || {
            // The receiver may be gone: then nobody wants to know.
            let _ = done.send(run(job));
        })
        .map_err(Error::Thread)?;
    Ok(Step::new(receiver, outcome, control, component, broker))
}
