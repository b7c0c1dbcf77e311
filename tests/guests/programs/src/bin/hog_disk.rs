//! Fills the disk in the way that the config's `how` names, until it is refused; then exits with 1, or with
//! `"politely"` with 0.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};

use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, ErrorCode, PathFlags};

fn main() {
    let how = cofferdam_test_programs::text("how", "stream");
    let refused = match how.as_str() {
        "stream" => stream(),
        "append" => append(),
        "write" => write(),
        "set-size" => set_size(),
        "sparse" => sparse(),
        "files" => files(),
        "directories" => count(|number| fs::create_dir(format!("directory-{number}"))),
        "symlinks" => links(|root, number| root.symlink_at("target", &format!("link-{number}"))),
        "links" => {
            File::create("original").expect("one file is granted");
            links(|root, number| {
                root.link_at(
                    PathFlags::empty(),
                    "original",
                    root,
                    &format!("link-{number}"),
                )
            })
        }
        how => panic!("there is no way {how}"),
    };
    println!("{refused}");
    let polite = cofferdam_test_programs::config()["politely"] == true;
    std::process::exit(i32::from(!polite));
}

fn stream() -> String {
    let mut file = File::create("big").expect("one file is granted");
    let block = vec![7; 64 << 10];
    loop {
        if let Err(error) = file.write_all(&block) {
            return format!("refused: {error}");
        }
    }
}

fn append() -> String {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open("big")
        .expect("one file is granted");
    loop {
        if let Err(error) = file.write_all(&[7; 4096]) {
            return format!("refused: {error}");
        }
    }
}

/// Through `descriptor.write`, which no stream is part of.
fn write() -> String {
    File::create("big").expect("one file is granted");
    let file = open("big");
    let block = vec![7; 64 << 10];
    let mut offset = 0;
    loop {
        match file.write(&block, offset) {
            Ok(written) => offset += written,
            Err(error) => return format!("refused: {error}"),
        }
    }
}

fn set_size() -> String {
    let file = File::create("big").expect("one file is granted");
    match file.set_len(4 << 40) {
        Ok(()) => "WORKED".to_owned(),
        Err(error) => format!("refused: {error}"),
    }
}

fn sparse() -> String {
    let mut file = File::create("big").expect("one file is granted");
    file.seek(SeekFrom::Start(4 << 40))
        .expect("seeking is free");
    match file.write_all(b"x") {
        Ok(()) => "WORKED".to_owned(),
        Err(error) => format!("refused: {error}"),
    }
}

fn files() -> String {
    count(|number| File::create(format!("file-{number}")).map(drop))
}

fn count(mut create: impl FnMut(u64) -> io::Result<()>) -> String {
    for number in 0.. {
        if let Err(error) = create(number) {
            return format!("refused after {number}: {error}");
        }
    }
    unreachable!("a disk is finite")
}

fn links(create: impl Fn(&Descriptor, u64) -> Result<(), ErrorCode>) -> String {
    let root = root();
    for number in 0.. {
        if let Err(error) = create(&root, number) {
            return format!("refused after {number}: {error}");
        }
    }
    unreachable!("a disk is finite")
}

fn root() -> Descriptor {
    let (root, _) = get_directories()
        .into_iter()
        .find(|(_, name)| name == "/release")
        .expect("there is /release");
    root
}

fn open(path: &str) -> Descriptor {
    use wasip2::filesystem::types::{DescriptorFlags, OpenFlags};
    root()
        .open_at(
            PathFlags::empty(),
            path,
            OpenFlags::empty(),
            DescriptorFlags::WRITE,
        )
        .expect("the file was just created")
}
