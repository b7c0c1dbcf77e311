//! Reaches for what is not its own: the paths of the config's `paths`, in every way; descriptors by their numbers, and
//! with the config's `handle` one of the host's table; and says what it can see of the host.

#![expect(unsafe_code, reason = "an attacker uses numbers that nobody gave him")]

use std::fs::{self, File, OpenOptions};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd as _;

use cofferdam_test_programs::{config, tried};
use wasip2::clocks::monotonic_clock;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::Descriptor;

/// Numbers of descriptors that are tried.
const NUMBERS: i32 = 256;

/// What a program finds out about its machine elsewhere.
const HOST: [&str; 12] = [
    "/proc/self/status",
    "/proc/self/fd",
    "/proc/1/environ",
    "/proc/uptime",
    "/proc/sys/kernel/hostname",
    "/sys/class/net",
    "/sys/class/rtc/rtc0/time",
    "/dev/rtc0",
    "/dev/fd/0",
    "/dev/pts",
    "/etc/machine-id",
    "/run",
];

fn main() {
    let config = config();
    for path in config["paths"].as_array().into_iter().flatten() {
        reach(path.as_str().unwrap_or_default());
    }
    for path in HOST {
        tried(&format!("read {path}"), fs::read(path));
        tried(&format!("list {path}"), fs::read_dir(path));
    }

    let files = (0..NUMBERS).filter(|number| {
        // SAFETY: nothing that this process counts on hangs on it; it is not closed.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(*number) });
        file.metadata().is_ok_and(|metadata| metadata.is_file())
    });
    println!("files by number {}", files.count());
    // Since the host's boot, if it were the host's.
    let now = monotonic_clock::now();
    println!("the clock counts from the start {}", now < 60_000_000_000);
    let names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
    let ours = names.iter().all(|name| name.starts_with("COFFERDAM_"));
    println!("nothing of the host's environment {ours}");
    println!("arguments {}", std::env::args().count());
    let directories: Vec<String> = get_directories()
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    println!("directories {}", directories.join(" "));

    if let Some(handle) = config["handle"].as_u64() {
        let handle = u32::try_from(handle).unwrap_or(u32::MAX);
        // SAFETY: whose it is, is for the host to know.
        let stolen = ManuallyDrop::new(unsafe { Descriptor::from_handle(handle) });
        tried("the descriptor behind a handle", stolen.stat());
    }
}

/// Everything that could show or change what is at a path.
fn reach(path: &str) {
    let _ = fs::write("/tmp/mine", "mine");
    let name = |verb: &str| format!("{verb} {path}");
    tried(&name("read"), fs::read(path));
    tried(&name("list"), fs::read_dir(path));
    tried(&name("look at"), fs::metadata(path));
    tried(&name("write"), fs::write(path, "changed"));
    tried(
        &name("append to"),
        OpenOptions::new().append(true).open(path),
    );
    tried(
        &name("truncate"),
        OpenOptions::new().write(true).truncate(true).open(path),
    );
    tried(&name("create in"), File::create(format!("{path}/planted")));
    tried(
        &name("make a directory in"),
        fs::create_dir(format!("{path}/planted")),
    );
    tried(&name("link to"), fs::hard_link(path, "/tmp/linked"));
    tried(&name("link over"), fs::hard_link("/tmp/mine", path));
    tried(&name("rename"), fs::rename(path, "/tmp/renamed"));
    tried(&name("rename over"), fs::rename("/tmp/mine", path));
    tried(&name("remove"), fs::remove_file(path));
    tried(&name("remove the directory"), fs::remove_dir(path));

    // The same through a link of its own.
    let Some((tmp, _)) = get_directories()
        .into_iter()
        .find(|(_, name)| name == "/tmp")
    else {
        return;
    };
    let _ = tmp.unlink_file_at("way");
    let linked = tmp.symlink_at(path, "way");
    tried(
        &name("read through a link to"),
        fs::read("/tmp/way").or_else(|_| fs::read_dir("/tmp/way/").map(|_| Vec::new())),
    );
    tried(
        &name("write through a link to"),
        fs::write("/tmp/way", "changed").and_then(|()| {
            // A relative link into its own directory that leads to nothing yet is its own file.
            match linked {
                Ok(()) if fs::symlink_metadata("/tmp/way").is_ok_and(|way| way.is_symlink()) => {
                    Ok(())
                }
                _ => Err(std::io::Error::other("it wrote a file of its own")),
            }
        }),
    );
    let _ = tmp.unlink_file_at("way");
}
