//! `wasi:clocks`: the machine's, or virtual ones.

use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::ResourceTable;
use wasmtime_wasi::clocks::WasiClocksCtxView;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock::{self, Duration, Instant};
use wasmtime_wasi_io::poll::subscribe;

use crate::virtuality::VirtualTime;

/// How host calls see the monotonic clock.
pub(crate) struct ClocksView<'a> {
    pub(crate) real: WasiClocksCtxView<'a>,
    /// When there is one, it is the only clock.
    pub(crate) time: Option<VirtualTime>,
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
        match &self.time {
            Some(time) => sleep(self.real.table, time.until(when)),
            None => self.real.subscribe_instant(when),
        }
    }

    fn subscribe_duration(
        &mut self,
        duration: Duration,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        match &self.time {
            Some(time) => sleep(self.real.table, time.after(duration)),
            None => self.real.subscribe_duration(duration),
        }
    }
}

fn sleep(
    table: &mut ResourceTable,
    sleep: crate::virtuality::Sleep,
) -> wasmtime::Result<Resource<DynPollable>> {
    let sleep = table.push(sleep)?;
    subscribe(table, sleep)
}
