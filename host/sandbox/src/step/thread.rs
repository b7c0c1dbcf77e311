//! The thread of a step: a runtime of its own, one store, one guest, and whoever may stop it.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use wasmtime::{PoolConcurrencyLimitError, Store, UpdateDeadline};
use wasmtime_wasi::I32Exit;

use super::outputs;
use crate::additions::Additions;
use crate::admission::Component;
use crate::console::Console;
use crate::control::{Clock, Control, Deadline, Stop, Stopped, millis, thread_cpu_time};
use crate::error::Error;
use crate::event::{OutputStream, StepEvent};
use crate::filesystem::{Files, Quota};
use crate::input::{Input, Pieces};
use crate::limits::Limits;
use crate::memory::MemoryLimiter;
use crate::net::Client;
use crate::outcome::{Outcome, Receipt, Verdict};
use crate::redact::Redactor;
use crate::sandbox::Inner;
use crate::spec::{self, InputError, Preopen, Stdin, StepSpec};
use crate::state::{HOSTCALL_FUEL, Parts, State};
use crate::virtuality::SeededRandom;

/// Bytes of a trap's message: a backtrace of the frames the engine keeps, with long names.
const TRAP_BYTES: usize = 16 << 10;

/// Everything a step's thread needs, moved into it.
pub(crate) struct Job {
    pub(crate) sandbox: Arc<Inner>,
    pub(crate) component: Component,
    pub(crate) spec: StepSpec,
    pub(crate) preopens: Vec<Preopen>,
    pub(crate) stdin: Stdin,
    pub(crate) control: Arc<Control>,
    pub(crate) events: mpsc::Sender<StepEvent>,
    /// The stream to the broker of its network.
    pub(crate) net: Option<UnixStream>,
}

/// Runs a step to its end. When this returns, its store is gone.
pub(crate) fn run(job: Job) -> Result<Outcome, Error> {
    let cpu_start = thread_cpu_time();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time();
    if job.net.is_some() {
        runtime.enable_io();
    }
    let runtime = runtime.build().map_err(Error::Thread)?;
    runtime.block_on(Box::pin(step(job, cpu_start)))
}

/// How the guest left.
enum End {
    Returned(wasmtime::Result<Result<(), ()>>),
    Stopped(Stop),
}

async fn step(job: Job, cpu_start: Duration) -> Result<Outcome, Error> {
    let Job {
        sandbox,
        component,
        spec,
        preopens,
        stdin,
        control,
        events,
        net,
    } = job;
    let slot = tokio::select! {
        biased;
        _ = control.wait() => None,
        slot = sandbox.step_slots.acquire() => Some(slot.map_err(|_| Error::host("the sandbox is closed"))?),
    };

    let limits = spec.limits.clone();
    let clock = Arc::new(Clock::start());
    let redactor = Redactor::new(&spec.secrets);
    let console = Console::new(&limits, redactor.clone(), events);
    let pieces = if spec.reproducible {
        Pieces::Even
    } else {
        Pieces::AsTheyCome
    };
    let input = Input::new(stdin, Arc::clone(&clock), pieces);
    let quota = Arc::new(Quota::new(limits.disk_bytes, limits.files));
    let outputs_file = outputs::File::find(&preopens)?;

    let net = match net {
        Some(net) => Some(Client::new(net, limits.connections).await?),
        None => None,
    };
    let until = Deadline {
        control: Arc::clone(&control),
        clock: Arc::clone(&clock),
        wall: Duration::from_millis(limits.wall_ms),
    };
    let files = Files::new(
        preopens,
        limits.handles,
        Arc::clone(&quota),
        spec.reproducible,
    )
    .until(until);
    let state = state(&component, &spec, files, &input, &console, net);
    let mut store = Store::new(&sandbox.engine, state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(HOSTCALL_FUEL);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(deadline(&control, &clock, &limits, cpu_start));

    let end = match slot {
        None => End::Stopped(Stop::Cancelled),
        Some(_) => {
            let _tick = sandbox.ticker.run().map_err(Error::Thread)?;
            let command = component.command(&sandbox.engine)?;
            tokio::select! {
                biased;
                stop = control.wait() => End::Stopped(stop),
                () = clock.exceeds(Duration::from_millis(limits.wall_ms)) => End::Stopped(Stop::TimedOut),
                never = console.report_waiting_progress() => match never {},
                returned = async {
                    let instance = command.instantiate_async(&mut store).await?;
                    instance.wasi_cli_run().call_run(&mut store).await
                } => End::Returned(returned),
                // After the guest: what it said goes out as soon as it pauses.
                never = console.deliver() => match never {},
            }
        }
    };
    let wall = clock.used();
    let cpu = thread_cpu_time().saturating_sub(cpu_start);
    let verdict = verdict(
        end,
        &control,
        &limits,
        store.data().memory.refused(),
        &quota,
    )?
    .redacted(&redactor);

    // The guest's code and all it held is gone before anyone hears how it ended.
    let mut state = store.into_data();
    if verdict.is_success()
        && let Some(file) = outputs_file
    {
        outputs::read(&file, &console, state.additions.outputs(), &control).await;
    }
    console.finish();
    tokio::select! {
        biased;
        () = console.drained() => {}
        _ = control.wait() => {}
    }

    let printed = console.printed();
    let receipt = Receipt {
        wall_ms: millis(wall),
        cpu_ms: millis(cpu),
        waited_ms: millis(clock.paused()),
        peak_memory_bytes: state.memory.peak(),
        bytes_written: quota.bytes(),
        bytes_read: quota.bytes_read(),
        files_created: quota.files(),
        files_opened: quota.files_opened(),
        peak_handles: state.files.peak_handles(),
        lines: printed.lines,
        output_bytes: printed.bytes,
        dropped_lines: printed.dropped_lines,
        dropped_bytes: printed.dropped_bytes,
        secrets_read: state.additions.secrets_read(),
        hosts: BTreeMap::new(),
        granted: limits,
    };
    let input_error = if verdict.is_success() {
        None
    } else {
        input.error().map(|error| InputError {
            message: redactor.text(error.message).into_owned(),
        })
    };
    Ok(Outcome {
        verdict,
        receipt,
        input_error,
        host_disk_full: quota.host_full(),
    })
}

fn state(
    component: &Component,
    spec: &StepSpec,
    files: Files,
    input: &Input,
    console: &Console,
    net: Option<Client>,
) -> State {
    let limits = &spec.limits;
    let env = spec::environment(spec);
    let parts = Parts {
        program: component.program(),
        env: &env,
        files,
        memory: MemoryLimiter::new(limits.memory_bytes, limits.table_elements),
        additions: Additions::for_step(
            spec.context.clone(),
            spec.secrets.clone(),
            limits,
            console.clone(),
        ),
        net,
        reproducible: spec.reproducible.then(|| {
            ["secure", "insecure"].map(|name| SeededRandom::new(spec, component.digest(), name))
        }),
    };
    let stdout = console.stream(OutputStream::Stdout);
    let stderr = console.stream(OutputStream::Stderr);
    State::new(parts, limits.handles, Some(input.clone()), stdout, stderr)
}

/// Looks, at each tick that finds the guest computing, whether it may go on.
fn deadline<T>(
    control: &Arc<Control>,
    clock: &Arc<Clock>,
    limits: &Limits,
    cpu_start: Duration,
) -> impl FnMut(wasmtime::StoreContextMut<'_, T>) -> wasmtime::Result<UpdateDeadline>
+ Send
+ Sync
+ 'static {
    let (control, clock) = (Arc::clone(control), Arc::clone(clock));
    let wall = Duration::from_millis(limits.wall_ms);
    let cpu = Duration::from_millis(limits.cpu_ms);
    move |_| {
        if thread_cpu_time().saturating_sub(cpu_start) > cpu {
            control.stop(Stop::CpuExceeded);
        } else if clock.used() > wall {
            control.stop(Stop::TimedOut);
        }
        if control.stopped().is_some() {
            return Err(wasmtime::Error::new(Stopped));
        }
        // Yields, so that what runs beside the guest on its thread gets its turn.
        Ok(UpdateDeadline::Yield(1))
    }
}

fn verdict(
    end: End,
    control: &Control,
    limits: &Limits,
    memory_refused: bool,
    quota: &Quota,
) -> Result<Verdict, Error> {
    let failed = |otherwise: Verdict| {
        if let Some(message) = quota.refusal() {
            Verdict::DiskExceeded {
                message: message.to_owned(),
            }
        } else if memory_refused {
            Verdict::MemoryExceeded {
                limit_bytes: limits.memory_bytes,
            }
        } else {
            otherwise
        }
    };
    let error = match end {
        End::Stopped(stop) => return Ok(stopped(stop, limits)),
        End::Returned(Ok(Ok(()))) => return Ok(Verdict::Succeeded),
        End::Returned(Ok(Err(()))) => return Ok(failed(Verdict::Exited { code: 1 })),
        End::Returned(Err(error)) => error,
    };
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return Ok(match code {
            0 => Verdict::Succeeded,
            &code => failed(Verdict::Exited { code }),
        });
    }
    if error.is::<Stopped>()
        && let Some(stop) = control.stopped()
    {
        return Ok(stopped(stop, limits));
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return Err(Error::Busy {
            message: format!("{error:#}"),
        });
    }
    Ok(failed(Verdict::Trapped {
        message: trap_message(&error),
    }))
}

pub(crate) fn stopped(stop: Stop, limits: &Limits) -> Verdict {
    match stop {
        Stop::Cancelled => Verdict::Cancelled,
        Stop::TimedOut => Verdict::TimedOut {
            limit_ms: limits.wall_ms,
        },
        Stop::CpuExceeded => Verdict::CpuExceeded {
            limit_ms: limits.cpu_ms,
        },
    }
}

/// The trap first, then where: the engine says it the other way round.
pub(crate) fn trap_message(error: &wasmtime::Error) -> String {
    let mut message = error.root_cause().to_string();
    if let Some(backtrace) = error.downcast_ref::<wasmtime::WasmBacktrace>() {
        message.push('\n');
        message.push_str(&readable(&backtrace.to_string()));
    }
    if message.len() > TRAP_BYTES {
        let end = (0..=TRAP_BYTES)
            .rev()
            .find(|&at| message.is_char_boundary(at))
            .unwrap_or(0);
        message.truncate(end);
    }
    message.truncate(message.trim_end().len());
    message
}

/// A backtrace for a person: without the compiler's hashes, and a recursion said once.
fn readable(backtrace: &str) -> String {
    let mut text = String::new();
    let mut before: Option<String> = None;
    let mut repeated = 0_usize;
    let again = |text: &mut String, repeated: usize| {
        if repeated > 0 {
            text.push_str(&format!("          ... and {repeated} more of it\n"));
        }
    };
    for line in backtrace.lines() {
        let line = without_hashes(line);
        // A frame is `  0:   0x2e97 - module!function`.
        let frame = line
            .split_once('!')
            .map(|(_, function)| function.to_owned());
        if frame.is_some() && frame == before {
            repeated += 1;
            continue;
        }
        again(&mut text, std::mem::take(&mut repeated));
        // A module without a name says nothing by it.
        text.push_str(&line.replacen("<unknown>!", "", 1));
        text.push('\n');
        before = frame;
    }
    again(&mut text, repeated);
    text
}

/// A frame without the hashes that the Rust compiler adds to names: `::h` and 16 digits at the end of a function's,
/// `[` 16 digits `]` after a crate's, `-` and 16 digits in a module's.
fn without_hashes(line: &str) -> String {
    const DIGITS: usize = 16;
    let is_hash =
        |text: &str| text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let line = match line.rsplit_once("::h") {
        Some((name, hash)) if is_hash(hash) => name,
        _ => line,
    };
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(['[', '-']) {
        let (before, after) = rest.split_at(at);
        let end = if after.starts_with('[') {
            "]"
        } else {
            ".wasm!"
        };
        let inside = after
            .get(1..=DIGITS)
            .filter(|hash| is_hash(hash) && after[1 + DIGITS..].starts_with(end));
        text.push_str(before);
        match inside {
            Some(_) => rest = &after[1 + DIGITS + usize::from(end == "]")..],
            None => {
                text.push_str(&after[..1]);
                rest = &after[1..];
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hash_of_the_compiler_is_left_in_a_frame() {
        for (line, expected) in [
            (
                "0: 0x1 - a.wasm!a::f::h0123456789abcdef",
                "0: 0x1 - a.wasm!a::f",
            ),
            (
                "0: 0x1 - my-list-0123456789abcdef.wasm!std[0123456789abcdef]::f::<[u8; 2]>",
                "0: 0x1 - my-list.wasm!std::f::<[u8; 2]>",
            ),
            (
                "0: 0x1 - a-b.wasm!f::{closure#0}[é",
                "0: 0x1 - a-b.wasm!f::{closure#0}[é",
            ),
        ] {
            assert_eq!(without_hashes(line), expected);
        }
    }

    #[test]
    fn a_backtrace_names_a_recursion_once_and_no_hashes() {
        let engines = "error while executing at wasm backtrace:\n    \
            0:   0x10 - a.wasm!a::deeper::h0123456789abcdef\n    \
            1:   0x20 - a.wasm!a::deeper::h0123456789abcdef\n    \
            2:   0x20 - a.wasm!a::deeper::h0123456789abcdef\n    \
            3:   0x30 - a.wasm!main\n";
        let persons = "error while executing at wasm backtrace:\n    \
            0:   0x10 - a.wasm!a::deeper\n          \
            ... and 2 more of it\n    \
            3:   0x30 - a.wasm!main\n";
        assert_eq!(readable(engines), persons);
    }
}
