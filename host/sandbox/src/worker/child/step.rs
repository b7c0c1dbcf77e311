//! A step in its worker.
//!
//! | thread | does |
//! |---|---|
//! | the first | runs the guest, with a runtime of its own, as the thread of a step does in an embedding program |
//! | events | sends what the guest says, in batches |
//! | orders | listens to the host: a cancel, or that it is gone; and lets the guest look whether it should stop |
//! | input | fetches the step's input |

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::walls::{self, Foundation, Needs};
use super::super::wire::{self, FromWorker, INPUT_END, INPUT_ERROR, MAX_INPUT, StepJob, ToWorker};
use super::{Probe, panic_text, say, walled};
use crate::admission::{self, Component};
use crate::console::EVENT_CAPACITY;
use crate::control::{Control, Stop};
use crate::engine::{TICK, Ticker};
use crate::event::StepEvent;
use crate::sandbox::Inner;
use crate::spec::{InputError, Preopen, Stdin};
use crate::state::State;
use crate::step;

/// Bytes of events that are sent at once.
const BATCH_BYTES: usize = 256 << 10;

/// Pieces of input that wait for the guest.
const INPUT_PIECES: usize = 4;

/// The stack of the threads that only carry things to and fro.
const CARRIER_STACK: usize = 128 << 10;

/// What a worker is given to run a step.
pub(super) struct Given {
    pub(super) job: StepJob,
    pub(super) descriptors: Vec<OwnedFd>,
    /// Its component, when it was mapped before.
    pub(super) component: Option<Component>,
}

/// Does once what a step does first, so that its code and memory are there when a step comes.
pub(super) fn warm_up() -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?
        .block_on(tokio::task::yield_now());
    State::warm_up();
    Ok(())
}

pub(super) fn run(
    socket: &UnixStream,
    sandbox: Arc<Inner>,
    foundation: &Foundation,
    given: Given,
    probe: Option<Probe>,
) -> Result<(), String> {
    let Given {
        job,
        descriptors,
        component,
    } = given;
    let StepJob {
        landlock,
        program,
        digest,
        mut spec,
        secrets,
        preopens,
        input,
        net,
    } = job;
    spec.secrets = secrets;
    let mut descriptors = descriptors.into_iter();
    let mut next = || {
        descriptors
            .next()
            .ok_or("a descriptor of the job is missing")
    };
    let artifact = File::from(next()?);
    let component = match component {
        Some(component) => component,
        None => admission::revive(&sandbox, &artifact, &program, &digest)
            .map_err(|error| format!("the compiled component cannot be used: {error:#}"))?,
    };
    let preopens = preopens
        .into_iter()
        .map(|(guest_path, access)| {
            Ok(Preopen {
                guest_path,
                access,
                directory: File::from(next()?),
            })
        })
        .collect::<Result<Vec<_>, &str>>()?;
    let input = input.then(&mut next).transpose()?.map(UnixStream::from);
    let net = net.then(next).transpose()?.map(UnixStream::from);
    drop(artifact);

    let failed = |error: io::Error| format!("it cannot talk to its host: {error}");
    // Whoever waits for orders looks up between them.
    socket.set_read_timeout(Some(TICK)).map_err(failed)?;
    let status = walls::raise(foundation, &Needs::step(landlock, &spec.limits, &preopens))?;
    walled(socket, status).map_err(failed)?;

    let control = Arc::new(Control::default());
    let (events, said) = mpsc::channel(EVENT_CAPACITY);
    let sending = carrier("events", &[socket], move |[socket]| send(said, &socket))?;
    let (ordered, ticker) = (Arc::clone(&control), sandbox.ticker.clone());
    carrier("orders", &[socket], move |[socket]| {
        obey(&socket, &ordered, &ticker);
    })?;
    let stdin = match input {
        None => Stdin::Closed,
        Some(input) => {
            let (sender, receiver) = mpsc::channel(INPUT_PIECES);
            carrier("input", &[&input], move |[input]| fetch(&input, &sender))?;
            Stdin::Channel(receiver)
        }
    };

    if let Some(probe) = probe {
        probe();
    }
    let ended = step::run(step::Job {
        sandbox,
        component,
        spec,
        preopens,
        stdin,
        control,
        events,
        net,
    });
    // Everything that was said goes first.
    let sent = sending.join();
    let outcome = ended.map_err(|error| error.to_string())?;
    sent.map_err(|panic| panic_text(&*panic).to_owned())?
        .map_err(failed)?;
    say(socket, &FromWorker::Done(Box::new(outcome))).map_err(failed)
}

/// A thread that has its own descriptors of these sockets.
fn carrier<const N: usize, T: Send + 'static>(
    name: &str,
    sockets: &[&UnixStream; N],
    work: impl FnOnce([UnixStream; N]) -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>, String> {
    let failed = |error: io::Error| format!("it cannot start a thread: {error}");
    let sockets = sockets
        .iter()
        .map(|socket| socket.try_clone())
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed)?;
    let Ok(sockets) = <[UnixStream; N]>::try_from(sockets) else {
        return Err("it lost a socket".to_owned());
    };
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(CARRIER_STACK)
        .spawn(move || work(sockets))
        .map_err(failed)
}

/// Sends events until there are no more. Blocks while the host takes none, and so holds the guest back.
fn send(mut events: mpsc::Receiver<StepEvent>, mut socket: &UnixStream) -> io::Result<()> {
    let (mut batch, mut frames) = (Vec::new(), Vec::new());
    while events.blocking_recv_many(&mut batch, EVENT_CAPACITY) > 0 {
        for event in batch.drain(..) {
            wire::put_event(&mut frames, event)?;
            if frames.len() >= BATCH_BYTES {
                socket.write_all(&frames)?;
                frames.clear();
            }
        }
        socket.write_all(&frames)?;
        frames.clear();
    }
    Ok(())
}

/// Does what the host says, and lets the guest look up every now and then. When the host is gone, so is the worker.
fn obey(socket: &UnixStream, control: &Control, ticker: &Ticker) {
    loop {
        match wire::receive(socket) {
            Ok(Some(ToWorker::Cancel)) => control.stop(Stop::Cancelled),
            Ok(None) => {}
            Err(_) => gone(),
        }
        ticker.tick();
    }
}

#[expect(clippy::exit, reason = "nobody is left to say anything to")]
fn gone() -> ! {
    std::process::exit(1)
}

/// Fetches the input piece by piece, until it ends or nobody reads any more.
fn fetch(mut socket: &UnixStream, pieces: &mpsc::Sender<Result<Bytes, InputError>>) {
    let broken = |message: String| Err(InputError { message });
    loop {
        let piece = match piece(&mut socket) {
            Ok(Some(piece)) => piece,
            Ok(None) => return,
            Err(error) => broken(format!("the input broke off: {error}")),
        };
        let last = piece.is_err();
        if pieces.blocking_send(piece).is_err() || last {
            return;
        }
    }
}

fn piece(socket: &mut &UnixStream) -> io::Result<Option<Result<Bytes, InputError>>> {
    match length(socket)? {
        INPUT_END => Ok(None),
        INPUT_ERROR => {
            let length = length(socket)?;
            let message = String::from_utf8_lossy(&bytes(socket, length)?).into_owned();
            Ok(Some(Err(InputError { message })))
        }
        length => bytes(socket, length).map(|bytes| Some(Ok(bytes.into()))),
    }
}

fn length(socket: &mut &UnixStream) -> io::Result<u32> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    Ok(u32::from_le_bytes(length))
}

fn bytes(socket: &mut &UnixStream, length: u32) -> io::Result<Vec<u8>> {
    let length = length as usize;
    if length > MAX_INPUT {
        return Err(io::Error::other(format!("a piece of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    socket.read_exact(&mut bytes)?;
    Ok(bytes)
}
