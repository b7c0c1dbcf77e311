//! A worker that is hostile in the place of a host function: it runs behind the second wall as if the guest had left
//! the first one, and tries what its argument names. What should have been stopped and was not is its exit code.

#![expect(
    unsafe_code,
    reason = "an attacker uses descriptors and memory that are not his"
)]
#![allow(clippy::exit, reason = "an exit code is how this program reports")]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::fs::{Mode, OFlags};

/// Everything was stopped.
const STOPPED: i32 = 100;

/// Descriptors that an attacker looks through.
const LAST_DESCRIPTOR: RawFd = 64;

/// Descriptors that may have come from the host's own parent: any that a process has by default.
const LAST_INHERITED: RawFd = 1024;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(attack), Some(outside)) = (arguments.next(), arguments.next()) else {
        return ExitCode::from(2);
    };
    cofferdam_sandbox::worker::main_with_probe(move || {
        let outside = Path::new(&outside);
        let attempts = match attack.as_str() {
            "none" => return,
            "files" => files(outside),
            "descriptors" => descriptors(),
            "memory" => memory(),
            "hang" => loop {
                std::thread::park();
            },
            "beat" => beat(),
            "inherited" => inherited(outside),
            "loosen" => loosen(),
            // These end in the middle, or not at all.
            "tcp" => vec![TcpStream::connect("127.0.0.1:9").is_ok()],
            "listen" => vec![TcpListener::bind("127.0.0.1:0").is_ok()],
            "udp" => vec![UdpSocket::bind("127.0.0.1:0").is_ok()],
            "unix" => vec![UnixStream::connect(outside.join("socket")).is_ok()],
            "program" => vec![
                Command::new("/bin/sh")
                    .arg("-c")
                    .arg("exit")
                    .spawn()
                    .is_ok(),
            ],
            "exec" => vec![exec()],
            "fork" => vec![fork()],
            "kill" => vec![kill_parent()],
            "ptrace" => vec![trace_parent()],
            _ => std::process::exit(2),
        };
        match attempts.iter().position(|succeeded| *succeeded) {
            None => std::process::exit(STOPPED),
            Some(which) => std::process::exit(i32::try_from(which).unwrap_or(0) + 1),
        }
    })
}

/// Every way to a file that was not granted.
fn files(outside: &Path) -> Vec<bool> {
    let secret = outside.join("secret");
    let at_parent = |path: &str| {
        (3..LAST_DESCRIPTOR).any(|number| {
            // SAFETY: an attacker does not care whose it is; a number that is not open is an error of the call.
            let directory = unsafe { BorrowedFd::borrow_raw(number) };
            rustix::fs::openat(directory, path, OFlags::RDONLY, Mode::empty()).is_ok()
        })
    };
    vec![
        File::open("/etc/passwd").is_ok(),
        File::open(&secret).is_ok(),
        OpenOptions::new().write(true).open(&secret).is_ok(),
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&secret)
            .is_ok(),
        File::create(outside.join("new")).is_ok(),
        fs::create_dir(outside.join("directory")).is_ok(),
        symlink("/etc", outside.join("link")).is_ok(),
        fs::remove_file(&secret).is_ok(),
        fs::rename(&secret, outside.join("renamed")).is_ok(),
        fs::hard_link(&secret, outside.join("linked")).is_ok(),
        fs::read_dir(outside).is_ok(),
        fs::read_dir("/").is_ok(),
        fs::read_dir("/proc/self/fd").is_ok(),
        File::open("/proc/self/mem").is_ok(),
        File::open("/proc/self/environ").is_ok(),
        File::open("/dev/null").is_ok(),
        at_parent("../secret"),
        at_parent(".."),
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o777)).is_ok(),
    ]
}

/// What the granted directories themselves allow: nothing in the read-only one, no devices or sockets in any.
fn descriptors() -> Vec<bool> {
    let mut attempts = Vec::new();
    for number in 3..LAST_DESCRIPTOR {
        // SAFETY: as above.
        let directory = unsafe { BorrowedFd::borrow_raw(number) };
        let open = |name: &str, flags: OFlags| {
            rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600)).is_ok()
        };
        if open("read-only", OFlags::RDONLY) {
            attempts.extend([
                open("read-only", OFlags::WRONLY),
                open("read-only", OFlags::RDONLY | OFlags::TRUNC),
                open("new", OFlags::WRONLY | OFlags::CREATE),
                rustix::fs::unlinkat(directory, "read-only", rustix::fs::AtFlags::empty()).is_ok(),
                rustix::fs::renameat(directory, "read-only", directory, "renamed").is_ok(),
                rustix::fs::symlinkat("x", directory, "link").is_ok(),
                rustix::fs::mkdirat(directory, "directory", Mode::from_raw_mode(0o700)).is_ok(),
            ]);
        }
    }
    // Not to have found it would prove nothing.
    if attempts.is_empty() {
        attempts.push(true);
    }
    attempts
}

/// Works for ever in a granted directory, in code that no engine interrupts.
fn beat() -> ! {
    let open = |name: &str| {
        (3..LAST_DESCRIPTOR).find_map(|number| {
            // SAFETY: as above.
            let directory = unsafe { BorrowedFd::borrow_raw(number) };
            rustix::fs::openat(directory, name, OFlags::WRONLY, Mode::empty()).ok()
        })
    };
    let (Some(began), Some(beat)) = (open("began"), open("beat")) else {
        std::process::exit(2);
    };
    let touch = |file: &OwnedFd| rustix::io::pwrite(file, b"now", 0);
    let _ = touch(&began);
    loop {
        let _ = touch(&beat);
    }
}

/// Whether something that the host had open is open here too. Each is named by its device and inode.
fn inherited(wanted: &Path) -> Vec<bool> {
    let wanted = wanted.to_string_lossy();
    let wanted: Vec<(u64, u64)> = wanted
        .split_whitespace()
        .filter_map(|one| one.split_once(':'))
        .filter_map(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)))
        .collect();
    let mut attempts = vec![wanted.is_empty()];
    for number in 0..LAST_INHERITED {
        // SAFETY: as above.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        if let Ok(stat) = rustix::fs::fstat(descriptor) {
            attempts.push(wanted.contains(&(stat.st_dev, stat.st_ino)));
        }
    }
    // Its own socket at least is open, or this looked at nothing.
    attempts.push(attempts.len() < 2);
    attempts
}

/// Code that the engine did not compile.
fn memory() -> Vec<bool> {
    let map = |protection| {
        // SAFETY: a fresh mapping that nobody uses.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                protection,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        (address != libc::MAP_FAILED).then_some(address)
    };
    let writable = map(libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: it is the mapping just made.
    let made_executable = writable.is_some_and(|address| unsafe {
        libc::mprotect(address, 4096, libc::PROT_READ | libc::PROT_EXEC) == 0
    });
    vec![
        map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC).is_some(),
        made_executable,
        writable.is_none(),
    ]
}

/// Everything that was open while the walls went up.
fn loosen() -> Vec<bool> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit};
    let limit = Rlimit {
        current: Some(8),
        maximum: Some(8),
    };
    let zero: libc::c_int = 0;
    // SAFETY: no pointer but that of a local is given.
    let (ruleset, filter, option) = unsafe {
        (
            libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1),
            libc::syscall(libc::SYS_seccomp, 2, 0, std::ptr::null::<u8>()),
            libc::setsockopt(
                0,
                libc::SOL_SOCKET,
                libc::SO_SNDBUF,
                std::ptr::from_ref(&zero).cast(),
                4,
            ),
        )
    };
    let refused = std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
    vec![
        ruleset >= 0,
        filter >= 0,
        option >= 0 || !refused,
        rustix::process::setrlimit(Resource::Nofile, limit).is_ok(),
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).is_ok(),
        rustix::fs::memfd_create("code", rustix::fs::MemfdFlags::CLOEXEC).is_ok(),
        // Its own it may read.
        std::panic::catch_unwind(|| rustix::process::getrlimit(Resource::Nofile)).is_err(),
    ]
}

fn exec() -> bool {
    let Ok(shell) = CString::new("/bin/sh") else {
        return true;
    };
    let arguments = [shell.as_ptr(), std::ptr::null()];
    // SAFETY: both arrays end in a null pointer.
    unsafe { libc::execv(shell.as_ptr(), arguments.as_ptr()) == 0 }
}

fn fork() -> bool {
    // SAFETY: the child does nothing but exit.
    match unsafe { libc::fork() } {
        0 => std::process::exit(0),
        child => child > 0,
    }
}

fn kill_parent() -> bool {
    // SAFETY: plain numbers.
    unsafe { libc::kill(libc::getppid(), 0) == 0 }
}

fn trace_parent() -> bool {
    // SAFETY: plain numbers.
    unsafe { libc::ptrace(libc::PTRACE_ATTACH, libc::getppid(), 0, 0) == 0 }
}
