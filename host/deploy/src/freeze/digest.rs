//! The digest of a tree.
//!
//! It is the BLAKE3 hash of one byte string: the 17 bytes `cofferdam-tree-1` and a zero, then one record
//! for every entry below the root:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | `d` directory, `f` file, `x` executable file, `l` symbolic link |
//! | 4 | length of the path, little-endian |
//! | n | the path from the root, UTF-8, its names joined by `/` |
//! | 32 | of a file: the BLAKE3 hash of its content |
//! | 4 + m | of a link: the length of its target, little-endian, and the target as it stands |
//!
//! Entries come in the order of their paths, compared name by name, names by their bytes; a directory
//! comes right before what it holds. So every string belongs to one tree, every tree has one string, and
//! an empty directory counts. Times, owners and the root's own name do not.

use std::{fs::File, io::Read};

use blake3::Hasher;

use super::{FreezeError, Tree, listing, shown};

/// Begins the string, and names its format.
const FORMAT: &[u8] = b"cofferdam-tree-1\0";

/// Bytes of a file read at once: enough for BLAKE3 to use all its lanes, and it stays in the cache.
const BLOCK: usize = 128 * 1024;

/// One entry of a tree, in its turn.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Directory,
    File {
        file: File,
        bytes: u64,
        executable: bool,
    },
    Link {
        target: String,
    },
}

/// Digests entries as they come.
#[derive(Debug)]
pub(super) struct TreeHasher {
    hasher: Hasher,
    tree: Tree,
    block: Vec<u8>,
    /// Where the entries are listed, too.
    listing: Option<listing::Writer>,
}

impl TreeHasher {
    pub(super) fn new(listing: Option<listing::Writer>) -> TreeHasher {
        let mut hasher = Hasher::new();
        hasher.update(FORMAT);
        TreeHasher {
            hasher,
            tree: Tree {
                digest: String::new(),
                files: 0,
                bytes: 0,
                directories: 0,
                links: 0,
            },
            block: vec![0; BLOCK],
            listing,
        }
    }

    pub(super) fn add(&mut self, entry: Entry) -> Result<(), FreezeError> {
        let Entry { path, kind } = entry;
        match kind {
            Kind::Directory => {
                self.tree.directories += 1;
                self.begin(b'd', &path)?;
            }
            Kind::File {
                mut file,
                bytes,
                executable,
            } => {
                let hash = self.content(&mut file, bytes, &path)?;
                self.tree.files += 1;
                self.tree.bytes += bytes;
                self.begin(if executable { b'x' } else { b'f' }, &path)?;
                self.put(hash.as_bytes())?;
                if let Some(listing) = &mut self.listing {
                    listing.write(&bytes.to_le_bytes())?;
                }
            }
            Kind::Link { target } => {
                self.tree.links += 1;
                self.begin(b'l', &path)?;
                self.text(&target)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Tree, FreezeError> {
        if let Some(listing) = self.listing {
            listing.finish()?;
        }
        self.tree.digest = format!("blake3:{}", self.hasher.finalize().to_hex());
        Ok(self.tree)
    }

    fn begin(&mut self, kind: u8, path: &str) -> Result<(), FreezeError> {
        self.put(&[kind])?;
        self.text(path)
    }

    fn text(&mut self, text: &str) -> Result<(), FreezeError> {
        let length = u32::try_from(text.len()).expect("paths and targets are far below 4 GiB");
        self.put(&length.to_le_bytes())?;
        self.put(text.as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), FreezeError> {
        self.hasher.update(bytes);
        match &mut self.listing {
            Some(listing) => listing.write(bytes),
            None => Ok(()),
        }
    }

    /// The hash of a file's content, which must be as long as it was when the file was opened.
    fn content(
        &mut self,
        file: &mut File,
        bytes: u64,
        path: &str,
    ) -> Result<blake3::Hash, FreezeError> {
        let mut left = bytes;
        let mut hasher = Hasher::new();
        while left > 0 {
            let wanted = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
            match file.read(&mut self.block[..wanted]) {
                Ok(0) => return Err(FreezeError::Changed { path: shown(path) }),
                Ok(read) => {
                    hasher.update(&self.block[..read]);
                    left -= read as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FreezeError::inside("read", path)(error)),
            }
        }
        Ok(hasher.finalize())
    }
}
