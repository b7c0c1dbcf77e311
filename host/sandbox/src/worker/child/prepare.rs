//! What a worker does about its process before it waits for a job.

#![expect(
    unsafe_code,
    reason = "descriptors that nobody in this process owns can only be closed by number; see below"
)]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

/// The three standard descriptors, of which the first is the socket.
const STANDARD: RawFd = 2;

/// Sees to it that the worker dies with its host and before it when memory is short, and that it has no descriptors
/// but its own.
pub(super) fn process(socket: &UnixStream) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // A kernel without this file protects nobody by it.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    close_inherited(socket)
}

/// Closes what the host's own parent left open in it without saying that programs are not to inherit it.
fn close_inherited(socket: &UnixStream) -> io::Result<()> {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in open {
        // The listing's own descriptor is among them, and closed already.
        let still_open = fs::symlink_metadata(format!("/proc/self/fd/{descriptor}")).is_ok();
        if still_open && descriptor > STANDARD && descriptor != socket.as_raw_fd() {
            // SAFETY: this runs before the program has opened anything but `socket` or started a thread, as `main`
            // demands of its caller, so these numbers are owned by nobody here.
            unsafe { rustix::io::close(descriptor) };
        }
    }
    Ok(())
}
