//! What host and worker say to each other, in frames over one stream socket.
//!
//! | bytes | are |
//! |---|---|
//! | 4 | the length of the rest, little-endian |
//! | 1 | the kind: 0 a message as JSON, 1 to 4 a printed line (standard output, error; the same, cut) |
//! | length - 1 | the message, or the line's text in UTF-8 |
//!
//! Lines are not JSON because there are so many of them. Descriptors go with the first byte of a job.
//!
//! A step's input has a socket of its own, so that a guest that does not read stops nothing else: pieces of a
//! 4-byte length and as many bytes, [`INPUT_END`] for the end, [`INPUT_ERROR`] and then one piece of text for an
//! error. A socket that ends without either is an input that broke off.

use std::io::{self, IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Landlock, LandlockStatus};
use crate::event::{OutputStream, StepEvent};
use crate::outcome::Outcome;
use crate::spec::{Access, Secrets, StepSpec, exposed};

/// The longest frame: the longest line that a policy can grant, and a job whose config and environment are large.
pub(super) const MAX_FRAME: usize = 16 << 20;

/// Descriptors that go with a job: a handful of directories, the component, the input, the network.
pub(super) const MAX_DESCRIPTORS: usize = 32;

/// The end of a step's input, in the place of a length.
pub(super) const INPUT_END: u32 = u32::MAX;

/// An error instead of more input, in the place of a length.
pub(super) const INPUT_ERROR: u32 = u32::MAX - 1;

/// The longest piece of input.
pub(super) const MAX_INPUT: usize = 1 << 20;

/// Bytes before a frame's payload.
pub(super) const HEADER: usize = 5;

const JSON: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STDOUT_CUT: u8 = 3;
const STDERR_CUT: u8 = 4;

/// What a worker is to do. Its descriptors come in the order in which they are named here.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Job {
    /// Map a component that a step may soon need, and wait on. Descriptor: the compiled component.
    Know(Known),
    /// Run a step. Descriptors: the compiled component, then each directory, then the input, then the network.
    Step(Box<StepJob>),
    /// Compile a component. Descriptors: the WebAssembly, and an empty file for the result.
    Compile {
        /// Whether to use Landlock.
        landlock: Landlock,
        /// Bytes of memory that it may hold.
        memory_bytes: u64,
    },
    /// Make a component of a module for WASI preview 1. Descriptors: the module, and an empty file for the component.
    Adapt {
        /// Whether to use Landlock.
        landlock: Landlock,
        /// Bytes of memory that it may hold.
        memory_bytes: u64,
    },
}

/// A component that is no job by itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Known {
    /// What the guest is called.
    pub(super) program: String,
    pub(super) digest: String,
}

/// A step, as plain data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StepJob {
    pub(super) landlock: Landlock,
    /// What the guest is called.
    pub(super) program: String,
    pub(super) digest: String,
    pub(super) spec: StepSpec,
    /// The values of the secrets, which a specification does not say.
    #[serde(with = "exposed")]
    pub(super) secrets: Secrets,
    pub(super) preopens: Vec<(String, Access)>,
    pub(super) input: bool,
    /// Whether it has a network: its stream to the broker is the last descriptor.
    pub(super) net: bool,
}

/// What the host says after the job.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    /// Stop the guest.
    Cancel,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromWorker {
    /// It is ready for a job.
    Hello {
        /// The version of this crate that it was built from.
        version: String,
    },
    /// Its walls are up, and the guest starts.
    Walled {
        /// What Landlock does.
        landlock: LandlockStatus,
    },
    /// The step said something that is not a line.
    Event(StepEvent),
    /// The step has ended, and said everything.
    Done(Box<Outcome>),
    /// The result is in its file: the component is compiled, or the module adapted.
    Made,
    /// The module is no program that can be adapted.
    NoProgram {
        /// One sentence for each thing that stands against it.
        problems: Vec<String>,
    },
    /// The component is not valid.
    Invalid {
        /// What the compiler found.
        message: String,
    },
    /// The worker cannot do its job, through no fault of a guest.
    Failed {
        /// Why.
        message: String,
    },
}

/// One frame from a worker.
#[derive(Debug)]
pub(super) enum Said {
    Event(StepEvent),
    Message(FromWorker),
}

/// Appends a message as a frame.
pub(super) fn put(frames: &mut Vec<u8>, message: &impl Serialize) -> io::Result<()> {
    let start = frames.len();
    frames.extend_from_slice(&[0; 4]);
    frames.push(JSON);
    serde_json::to_writer(&mut *frames, message).map_err(io::Error::other)?;
    finish(frames, start)
}

/// Appends an event as a frame.
pub(super) fn put_event(frames: &mut Vec<u8>, event: StepEvent) -> io::Result<()> {
    let StepEvent::Line {
        stream,
        text,
        truncated,
    } = event
    else {
        return put(frames, &FromWorker::Event(event));
    };
    let start = frames.len();
    frames.extend_from_slice(&[0; 4]);
    frames.push(match (stream, truncated) {
        (OutputStream::Stdout, false) => STDOUT,
        (OutputStream::Stderr, false) => STDERR,
        (OutputStream::Stdout, true) => STDOUT_CUT,
        (OutputStream::Stderr, true) => STDERR_CUT,
    });
    frames.extend_from_slice(text.as_bytes());
    finish(frames, start)
}

fn finish(frames: &mut [u8], start: usize) -> io::Result<()> {
    let length = frames.len() - start - 4;
    let length = u32::try_from(length)
        .ok()
        .filter(|_| length <= MAX_FRAME)
        .ok_or_else(|| io::Error::other(format!("a frame of {length} bytes is too long")))?;
    frames[start..start + 4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// The length of the frame that begins with these bytes, its header included, when the length is there and allowed.
pub(super) fn frame_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(length) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    if (1..=MAX_FRAME).contains(&length) {
        Ok(Some(length + 4))
    } else {
        Err(invalid(format!("a frame of {length} bytes")))
    }
}

/// Reads one whole frame of a worker.
pub(super) fn parse(frame: &[u8]) -> io::Result<Said> {
    let (kind, payload) = (frame[4], &frame[HEADER..]);
    let (stream, truncated) = match kind {
        JSON => return message::<FromWorker>(payload).map(Said::from),
        STDOUT => (OutputStream::Stdout, false),
        STDERR => (OutputStream::Stderr, false),
        STDOUT_CUT => (OutputStream::Stdout, true),
        STDERR_CUT => (OutputStream::Stderr, true),
        other => return Err(invalid(format!("a frame of kind {other}"))),
    };
    let text = std::str::from_utf8(payload)
        .map_err(|_| invalid("a line that is not UTF-8".to_owned()))?
        .to_owned();
    Ok(Said::Event(StepEvent::Line {
        stream,
        text,
        truncated,
    }))
}

impl From<FromWorker> for Said {
    fn from(message: FromWorker) -> Self {
        match message {
            FromWorker::Event(event) => Self::Event(event),
            message => Self::Message(message),
        }
    }
}

fn message<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    serde_json::from_slice(payload).map_err(|error| invalid(error.to_string()))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Sends the beginning of a job's frame, with its descriptors, and says how much of the frame that was. A fresh
/// socket has room for it.
pub(super) fn begin_job(
    socket: &UnixStream,
    frame: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    send_job(socket, frame, descriptors, SendFlags::NOSIGNAL)
}

/// Sends a small job at once, or not at all: to a worker that may not listen.
pub(super) fn offer_job(
    socket: &UnixStream,
    frame: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = send_job(socket, frame, descriptors, flags)?;
    if sent == frame.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

fn send_job(
    socket: &UnixStream,
    frame: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<usize> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::other(format!(
            "{} descriptors are more than the {MAX_DESCRIPTORS} that a worker takes",
            descriptors.len()
        )));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("no room for the descriptors of a job"));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(frame)], &mut control, flags)?;
    Ok(sent)
}

/// Waits for a job; `None` when the host has none any more.
pub(super) fn receive_job(mut socket: &UnixStream) -> io::Result<Option<(Job, Vec<OwnedFd>)>> {
    let mut header = [0; HEADER];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut header)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    socket.read_exact(&mut header[received.bytes..])?;
    let payload = payload(socket, header)?;
    Ok(Some((message(&payload)?, descriptors)))
}

/// Waits for the host's next message; `None` when none has begun within the socket's own time limit.
pub(super) fn receive(mut socket: &UnixStream) -> io::Result<Option<ToWorker>> {
    let mut header = [0; HEADER];
    match socket.read(&mut header[..1]) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => {}
        Err(error) if is_late(&error) => return Ok(None),
        Err(error) => return Err(error),
    }
    // A message is sent at once, so the rest of it is there or about to be.
    read_all(socket, &mut header[1..])?;
    let length = frame_length(&header)?.unwrap_or(0);
    let mut payload = vec![0; length - HEADER];
    read_all(socket, &mut payload)?;
    message(&payload).map(Some)
}

/// Reads all of it, however long that takes.
fn read_all(mut socket: &UnixStream, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.read(bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => bytes = &mut bytes[read..],
            Err(error) if is_late(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn payload(mut socket: &UnixStream, header: [u8; HEADER]) -> io::Result<Vec<u8>> {
    let length = frame_length(&header)?.unwrap_or(0);
    let mut payload = vec![0; length - HEADER];
    socket.read_exact(&mut payload)?;
    Ok(payload)
}

/// Waits for the worker's next frame.
pub(super) fn receive_said(mut socket: &UnixStream) -> io::Result<Said> {
    let mut frame = vec![0; HEADER];
    socket.read_exact(&mut frame)?;
    let length = frame_length(&frame)?.unwrap_or(0);
    frame.resize(length, 0);
    socket.read_exact(&mut frame[HEADER..])?;
    parse(&frame)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn events_survive_the_way() {
        let events = [
            StepEvent::Line {
                stream: OutputStream::Stderr,
                text: "für \u{1b}[31m".into(),
                truncated: true,
            },
            StepEvent::Output {
                name: "service".into(),
                value: serde_json::json!({ "name": "web", "deep": [1, null, "x"] }),
            },
            StepEvent::Dropped { lines: 3, bytes: 9 },
        ];
        for event in events {
            let mut frame = Vec::new();
            put_event(&mut frame, event.clone()).unwrap();
            assert_eq!(frame_length(&frame).unwrap(), Some(frame.len()));
            match parse(&frame).unwrap() {
                Said::Event(parsed) => assert_eq!(parsed, event),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error_and_no_panic() {
        assert!(frame_length(&[0, 0, 0, 0]).is_err());
        assert!(frame_length(&[255, 255, 255, 255]).is_err());
        assert!(frame_length(&[1, 0]).unwrap().is_none());
        assert!(parse(&[1, 0, 0, 0, 9]).is_err());
        assert!(parse(&[3, 0, 0, 0, 1, 0xff, 0xfe]).is_err());
        assert!(parse(&[2, 0, 0, 0, 0, b'{']).is_err());
    }

    #[test]
    fn a_job_arrives_with_its_descriptors() {
        let (host, worker) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(b"here").unwrap();
        let job = Job::Compile {
            landlock: Landlock::Prefer,
            memory_bytes: 1 << 30,
        };
        let mut frame = Vec::new();
        put(&mut frame, &job).unwrap();
        let sent = begin_job(&host, &frame, &[file.as_fd()]).unwrap();
        assert_eq!(sent, frame.len());
        let (received, mut descriptors) = receive_job(&worker).unwrap().unwrap();
        assert!(matches!(received, Job::Compile { .. }));
        let received = std::fs::File::from(descriptors.remove(0));
        assert_eq!(received.metadata().unwrap().len(), 4);
        drop(host);
        assert!(receive_job(&worker).unwrap().is_none());
    }
}
