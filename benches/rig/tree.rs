//! What is deployed: bytes that do not compress, and a tree of files with an archive of it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each benchmark uses a part of it, and may stop at the first surprise"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The files of the tree, of mixed sizes in directories of a hundred.
pub(crate) const TREE_FILES: u64 = 20_000;

/// A tree of files from 100 bytes to 64 KiB, many small ones and few large ones, as sources are; the archive that GNU tar
/// makes of it, and the files' bytes.
pub(crate) fn tree(scratch: &Path) -> (PathBuf, u64) {
    let root = scratch.join("tree");
    let mut noise = Noise::new("tree");
    let mut total = 0;
    for at in 0..TREE_FILES {
        let directory = root.join(format!("d{:03}", at / 100));
        fs::create_dir_all(&directory).unwrap();
        let exponent = noise.next() % 10;
        let size = 100 + noise.next() % (64 << exponent);
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        noise.fill(&mut bytes);
        // Half of each file repeats, so that compression has something to do.
        let half = bytes.len() / 2;
        bytes[half..].fill(b'x');
        fs::write(directory.join(format!("f{at}.txt")), bytes).unwrap();
        total += size;
    }
    let archive = scratch.join("tree.tar");
    gnu_tar("-cf", &archive, &root, &["."]);
    (archive, total)
}

/// Seconds that GNU tar takes to unpack an archive into a directory, which is made.
pub(crate) fn gnu_unpack(archive: &Path, out: &Path) -> f64 {
    fs::create_dir(out).unwrap();
    let start = Instant::now();
    gnu_tar("-xf", archive, out, &[]);
    start.elapsed().as_secs_f64()
}

fn gnu_tar(what: &str, archive: &Path, directory: &Path, names: &[&str]) {
    let done = Command::new("tar")
        .arg(what)
        .arg(archive)
        .arg("-C")
        .arg(directory)
        .args(names)
        .status()
        .unwrap();
    assert!(done.success(), "GNU tar is needed for the comparison");
}

/// Bytes that do not compress: xorshift64*, the same for the same name.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(name: &str) -> Self {
        let seed = name.bytes().fold(0x9E37_79B9_7F4A_7C15, |seed: u64, byte| {
            seed.rotate_left(7) ^ u64::from(byte)
        });
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            let value = self.next().to_le_bytes();
            word.copy_from_slice(&value[..word.len()]);
        }
    }
}
