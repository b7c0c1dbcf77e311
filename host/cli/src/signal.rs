//! Ctrl-c and SIGTERM, counted: the first asks, the second insists.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit::Failure;

/// How often the user has asked to stop so far. Cheap to clone; every clone sees the same count.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    count: watch::Receiver<u32>,
}

impl Interrupt {
    /// Takes over both signals for the rest of the process. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Failure::Machine`] when the signals cannot be had.
    pub(crate) fn listen() -> Result<Interrupt, Failure> {
        let machine = |error: std::io::Error| Failure::Machine(error.into());
        let mut interrupt = signal(SignalKind::interrupt()).map_err(machine)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(machine)?;
        let (sender, count) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Interrupt { count })
    }

    /// Waits until the user has asked `times` times, counted from the start of the process.
    pub(crate) async fn raised(&self, times: u32) {
        let mut count = self.count.clone();
        if count.wait_for(|count| *count >= times).await.is_err() {
            // The listener is gone with its runtime: nobody will ask any more.
            std::future::pending::<()>().await;
        }
    }
}
