//! What a directory was like when it was last sent, so that only what changed since has to be read.
//!
//! One file for each directory, project and server: the package's BLAKE3, and a stamp of each entry in the package's
//! order. What is remembered says which entries need not be read; what the package consisted of, the server tells.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::state;
use crate::pack::{Plan, STAMP_BYTES, Stamp};

/// What a file of memory begins with, and its version.
const MAGIC: &[u8; 8] = b"CFDMMEM1";

/// The longest file that is read: a million entries.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What was not sent for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The bytes of a digest.
const DIGEST_BYTES: usize = 32;

/// One entry: its stamp, and its bytes in the package.
const ENTRY_BYTES: usize = STAMP_BYTES + 8;

/// A directory as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Memory {
    /// BLAKE3 of the package.
    pub(super) package: [u8; DIGEST_BYTES],
    /// Its entries, in order: what each was like, if that can be told, and how many bytes of the package it takes.
    pub(super) entries: Vec<(Option<Stamp>, u64)>,
}

/// Where it is remembered.
#[derive(Debug)]
pub(super) struct Place {
    /// Absent where there is no home to keep anything in.
    path: Option<PathBuf>,
}

impl Memory {
    /// What `plan` says, sent as the package with this digest.
    pub(super) fn of(plan: &Plan, package: [u8; DIGEST_BYTES]) -> Memory {
        Memory {
            package,
            entries: plan.stamps().collect(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAGIC.len() + 32 + self.entries.len() * ENTRY_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.package);
        for (stamp, length) in &self.entries {
            bytes.extend_from_slice(&stamp.unwrap_or_default());
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        // A file that was cut off or damaged is none.
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Memory> {
        let (bytes, digest) = bytes.split_last_chunk::<DIGEST_BYTES>()?;
        let rest = bytes.strip_prefix(MAGIC)?;
        let (package, rest) = rest.split_first_chunk::<DIGEST_BYTES>()?;
        let (entries, rest) = rest.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() || blake3::hash(bytes) != *digest {
            return None;
        }
        let entries = entries.iter().map(|entry| {
            let (stamp, length) = entry.split_first_chunk::<STAMP_BYTES>()?;
            let stamp = Some(*stamp).filter(|stamp| *stamp != Stamp::default());
            Some((stamp, u64::from_le_bytes(length.try_into().ok()?)))
        });
        Some(Memory {
            package: *package,
            entries: entries.collect::<Option<_>>()?,
        })
    }
}

impl Place {
    /// Where the directory `root` is remembered, as it is sent to that project of that server.
    pub(super) fn of(server: &str, project: &str, root: &Path) -> Place {
        Place::within(
            state::directory("packages").as_deref(),
            server,
            project,
            root,
        )
    }

    fn within(directory: Option<&Path>, server: &str, project: &str, root: &Path) -> Place {
        let mut name = blake3::Hasher::new();
        for part in [
            server.as_bytes(),
            project.as_bytes(),
            root.as_os_str().as_encoded_bytes(),
        ] {
            name.update(&(part.len() as u64).to_le_bytes());
            name.update(part);
        }
        let name = name.finalize().to_hex();
        Place {
            path: directory.map(|directory| directory.join(name.as_str())),
        }
    }

    /// What is remembered. A file that cannot be read or understood is nothing.
    pub(super) fn read(&self) -> Option<Memory> {
        Memory::decode(&state::read(self.path.as_ref()?, MAX_BYTES)?)
    }

    /// Remembers. Where that is not possible, everything is read the next time.
    pub(super) fn write(&self, memory: &Memory) {
        let Some(path) = &self.path else { return };
        path.parent().into_iter().for_each(prune);
        state::replace(path, &memory.encode());
    }
}

/// Forgets directories that were not sent for long.
fn prune(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        if let Ok(modified) = modified
            && modified.elapsed().is_ok_and(|age| age > FORGOTTEN_AFTER)
        {
            // Another run may have been faster.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    fn memory() -> Memory {
        Memory {
            package: [7; DIGEST_BYTES],
            entries: vec![(Some([1; STAMP_BYTES]), 512), (None, 70_144)],
        }
    }

    #[test]
    fn a_directory_is_remembered_for_its_project_and_server_and_for_no_other() {
        let home = tempfile::tempdir().unwrap();
        let place = |server, project, root: &str| {
            Place::within(
                Some(&home.path().join("deep")),
                server,
                project,
                Path::new(root),
            )
        };
        let own = place("http://a", "blog", "/site");
        assert_eq!(own.read(), None);
        own.write(&memory());
        assert_eq!(own.read(), Some(memory()));
        for other in [
            place("http://b", "blog", "/site"),
            place("http://a", "shop", "/site"),
            place("http://a", "blog", "/site2"),
            place("http://a", "blog/", "site"),
        ] {
            assert_eq!(other.read(), None);
        }
        Place::within(None, "a", "b", Path::new("c")).write(&memory());
    }

    #[test]
    fn a_file_with_any_other_bit_is_as_good_as_none() {
        let sound = memory().encode();
        assert_eq!(Memory::decode(&sound), Some(memory()));
        for at in 0..sound.len() {
            let mut wrong = sound.clone();
            wrong[at] ^= 1;
            assert_eq!(Memory::decode(&wrong), None, "byte {at}");
            assert_eq!(Memory::decode(&sound[..at]), None, "{at} bytes");
        }
    }
}
