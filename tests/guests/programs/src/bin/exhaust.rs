//! Takes from the host what the config's `how` names, until it is refused or stopped.

#![expect(
    clippy::mem_forget,
    reason = "keeping what the host holds is what it is for"
)]

use std::fs::{self, File};
use std::mem::forget;

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasip2::random::{insecure, random};

fn main() {
    let how = cofferdam_test_programs::text("how", "");
    println!("{how}");
    match how.as_str() {
        "pollables" => loop {
            forget(subscribe_duration(1));
        },
        "streams" => {
            let file = file();
            loop {
                forget(file.read_via_stream(0));
            }
        }
        "random" => drop(random::get_random_bytes(1 << 40)),
        "insecure random" => drop(insecure::get_insecure_random_bytes(1 << 40)),
        "one large call" => drop(file().write(&vec![0; 64 << 20], 0)),
        "listings" => {
            for held in 0.. {
                match root().read_directory() {
                    Ok(listing) => forget(listing),
                    Err(error) => {
                        println!("refused after {held}: {error}");
                        std::process::exit(1);
                    }
                }
            }
        }
        "changes" => {
            for change in 0_u64.. {
                fs::write("/release/changing", change.to_string()).expect("writing is granted");
            }
        }
        how => panic!("there is no way {how}"),
    }
    println!("WORKED");
}

fn root() -> Descriptor {
    let (root, _) = get_directories()
        .into_iter()
        .find(|(_, name)| name == "/release")
        .expect("there is /release");
    root
}

fn file() -> Descriptor {
    drop(File::create("/release/file"));
    root()
        .open_at(
            PathFlags::empty(),
            "file",
            OpenFlags::empty(),
            DescriptorFlags::READ | DescriptorFlags::WRITE,
        )
        .expect("it was just made")
}
