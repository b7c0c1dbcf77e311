//! `wasi:clocks` and `wasi:io/poll`: the machine's, or virtual ones in which nothing depends on how fast it is.

use std::collections::HashMap;

use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::ResourceTable;
use wasmtime_wasi::clocks::WasiClocksCtxView;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock::{self, Duration, Instant};
use wasmtime_wasi_io::bindings::wasi::io::poll::{self, HostPollable};

use crate::virtuality::VirtualTime;

/// Virtual time, and the pollables that stand for moments in it.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    pub(crate) time: VirtualTime,
    /// Nanoseconds, by the pollable's number in the table.
    moments: HashMap<u32, u64>,
}

impl Timers {
    fn moment(&self, pollable: &Resource<DynPollable>) -> Option<u64> {
        self.moments.get(&pollable.rep()).copied()
    }

    fn is_due(&self, pollable: &Resource<DynPollable>) -> bool {
        self.moment(pollable)
            .is_none_or(|moment| moment <= self.time.now())
    }
}

/// How host calls see the monotonic clock.
pub(crate) struct ClocksView<'a> {
    pub(crate) real: WasiClocksCtxView<'a>,
    /// When there are some, there is no other clock.
    pub(crate) timers: Option<&'a mut Timers>,
}

/// Names [`ClocksView`] to the linker.
pub(crate) struct HasClocks;

impl HasData for HasClocks {
    type Data<'a> = ClocksView<'a>;
}

impl monotonic_clock::Host for ClocksView<'_> {
    fn now(&mut self) -> wasmtime::Result<Instant> {
        monotonic_clock::Host::now(&mut self.real)
    }

    fn resolution(&mut self) -> wasmtime::Result<Duration> {
        monotonic_clock::Host::resolution(&mut self.real)
    }

    fn subscribe_instant(&mut self, when: Instant) -> wasmtime::Result<Resource<DynPollable>> {
        let Some(timers) = &mut self.timers else {
            return self.real.subscribe_instant(when);
        };
        // The runtime's own is ready at once; when it is due is decided here.
        let pollable = self.real.subscribe_duration(0)?;
        timers.moments.insert(pollable.rep(), when);
        Ok(pollable)
    }

    fn subscribe_duration(
        &mut self,
        duration: Duration,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        match &self.timers {
            Some(timers) => {
                let when = timers.time.now().saturating_add(duration);
                self.subscribe_instant(when)
            }
            None => self.real.subscribe_duration(duration),
        }
    }
}

/// How host calls see what can be waited for.
pub(crate) struct PollView<'a> {
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) timers: Option<&'a mut Timers>,
}

/// Names [`PollView`] to the linker.
pub(crate) struct HasPoll;

impl HasData for HasPoll {
    type Data<'a> = PollView<'a>;
}

impl poll::Host for PollView<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        let Some(timers) = self.timers.as_mut().filter(|_| !pollables.is_empty()) else {
            return self.table.poll(pollables).await;
        };
        // A program that polls until it is late gets there.
        timers.time.look();
        // Which of several is ready first depends on the machine, so all are waited for; each of them becomes ready
        // whatever the guest does. A moment comes only when there is nothing else to wait for.
        let mut earliest = Some(u64::MAX);
        for pollable in &pollables {
            match timers.moment(pollable) {
                Some(moment) => earliest = earliest.map(|earliest| earliest.min(moment)),
                None => {
                    earliest = None;
                    let pollable = Resource::new_borrow(pollable.rep());
                    HostPollable::block(self.table, pollable).await?;
                }
            }
        }
        if let Some(earliest) = earliest {
            timers.time.pass_to(earliest);
        }
        let ready = (0..)
            .zip(&pollables)
            .filter(|(_, pollable)| timers.is_due(pollable))
            .map(|(index, _)| index)
            .collect();
        // Whoever may stop the guest has a turn: a loop that sleeps never waits.
        tokio::task::yield_now().await;
        Ok(ready)
    }
}

impl HostPollable for PollView<'_> {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        if let Some(timers) = &mut self.timers {
            if let Some(moment) = timers.moment(&pollable) {
                timers.time.pass_to(moment);
            }
            tokio::task::yield_now().await;
        }
        HostPollable::block(self.table, pollable).await
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        let Some(timers) = &mut self.timers else {
            return HostPollable::ready(self.table, pollable).await;
        };
        timers.time.look();
        tokio::task::yield_now().await;
        if timers.moment(&pollable).is_some() {
            return Ok(timers.is_due(&pollable));
        }
        // Whether it is ready yet depends on the machine; that it will be does not.
        HostPollable::block(self.table, pollable).await?;
        Ok(true)
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        if let Some(timers) = &mut self.timers {
            timers.moments.remove(&pollable.rep());
        }
        HostPollable::drop(self.table, pollable)
    }
}
