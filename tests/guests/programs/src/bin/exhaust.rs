//! Takes from the host what the config's `how` names, until it is refused or stopped.

#![expect(
    clippy::mem_forget,
    reason = "keeping what the host holds is what it is for"
)]

use std::fs::File;
use std::mem::forget;

use wasip2::cli::environment::get_environment;
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasip2::http::types::{Fields, OutgoingRequest};
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
        "fields" => loop {
            let fields = Fields::new();
            while fields.append("name", &[b'x'; 4096]).is_ok() {}
            forget(fields);
        },
        "bodies" => loop {
            let request = OutgoingRequest::new(Fields::new());
            let body = request.body().expect("it is taken once");
            let stream = body.write().expect("it is taken once");
            while let Ok(room @ 1..) = stream.check_write() {
                let room = usize::try_from(room).map_or(4096, |room| room.min(4096));
                if stream.write(&vec![b'x'; room]).is_err() {
                    break;
                }
            }
            forget((request, body, stream));
        },
        "environment" => loop {
            forget(get_environment());
        },
        "progress" => {
            for done in 0.. {
                cofferdam_sdk::progress(done, None, &"far ".repeat(1000));
            }
        }
        "listings" => {
            let directory = listed();
            for held in 0.. {
                match directory.read_directory() {
                    Ok(listing) => forget(listing),
                    Err(error) => {
                        println!("refused after {held}: {error}");
                        std::process::exit(1);
                    }
                }
            }
        }
        how => panic!("there is no way {how}"),
    }
    println!("WORKED");
}

fn root() -> Descriptor {
    directory("/release").expect("there is /release")
}

/// A directory that has many entries, or any.
fn listed() -> Descriptor {
    directory("/many").unwrap_or_else(root)
}

fn directory(wanted: &str) -> Option<Descriptor> {
    get_directories()
        .into_iter()
        .find_map(|(directory, name)| (name == wanted).then_some(directory))
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
