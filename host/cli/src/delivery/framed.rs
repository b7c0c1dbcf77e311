//! A package as a list of its chunks, and frames with those that are sent (docs/protocol.md).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use cofferdam_blobs::{ChunkRef, ChunkerParams, Digest};
use serde_json::json;
use tokio::sync::mpsc;
use zstd::bulk::Compressor;

use super::recipe::{self, Copied, Recipe};
use crate::package::{self, Package};

/// The media type of the form.
pub(super) const MEDIA_TYPE: &str = "application/vnd.cofferdam.chunks";

/// What the form begins with, and its version.
const MAGIC: [u8; 8] = *b"CFDMCHKS";
const VERSION: u32 = 1;

/// The bit that says that a chunk is held.
const HELD: u32 = 1 << 31;

/// The bits that say that a line stands for a run of the base's chunks.
const RUN: u32 = 0b11 << 30;

/// How many chunks one line may stand for: the number's other bits hold more.
const RUN_CHUNKS: usize = 1 << 24;

/// The bit of a frame's first number that says that what is stored is its recipe.
const PATCHED: u32 = 1 << 31;

/// A frame is closed when it has this many bytes: a longer one is refused.
const FRAME_BYTES: usize = 1024 * 1024;

/// zstd's level for frames: about what a gigabit link takes from one core.
const LEVEL: i32 = 3;

/// Bytes handed to the connection at once, and how many such parts may wait for it.
const PART: usize = 256 * 1024;
const PARTS: usize = 4;

/// A package in this form, while it is made.
pub(super) struct Framing {
    /// The list's lines, and how many they are.
    lines: Vec<u8>,
    count: u64,
    /// Digest of what they stand for.
    list: Box<blake3::Hasher>,
    package_bytes: u64,
    spared: u64,
    whole: Whole,
    frame: Recipe,
    compressor: Compressor<'static>,
    spool: File,
    spool_bytes: u64,
    spool_digest: blake3::Hasher,
}

/// What is known of a package as a whole.
pub(super) enum Whole {
    /// All of it is read here: its BLAKE3, so far.
    Read(Box<blake3::Hasher>),
    /// A part of it is what the project's package with this BLAKE3 has, and is not read.
    LikeThis(Digest),
}

/// A package in this form.
#[derive(Debug)]
pub(super) struct Framed {
    /// Everything before the frames.
    prefix: Bytes,
    /// The frames, in a file without a name.
    spool: File,
    spool_bytes: u64,
    spared: u64,
    digest: Option<String>,
    fingerprint: String,
}

impl Framing {
    pub(super) fn new(whole: Whole) -> io::Result<Framing> {
        Ok(Framing {
            lines: Vec::new(),
            count: 0,
            list: Box::default(),
            package_bytes: 0,
            spared: 0,
            whole,
            frame: Recipe::default(),
            compressor: Compressor::new(LEVEL)?,
            spool: spool()?,
            spool_bytes: 0,
            spool_digest: blake3::Hasher::new(),
        })
    }

    /// How many bytes of the package were seen.
    pub(super) fn package_bytes(&self) -> u64 {
        self.package_bytes
    }

    /// How many of them need not be sent.
    pub(super) fn spared(&self) -> u64 {
        self.spared
    }

    /// Takes the package's next chunk, and if that is missing, what of it the base has. Blocks.
    pub(super) fn push(
        &mut self,
        chunk: ChunkRef,
        data: &[u8],
        missing: Option<&[Copied]>,
    ) -> io::Result<()> {
        let word = match missing {
            Some(_) => chunk.bytes,
            None => chunk.bytes | HELD,
        };
        self.line(word, *chunk.id.as_bytes());
        self.count_in(&chunk);
        if let Whole::Read(digest) = &mut self.whole {
            digest.update(data);
        }
        let Some(copied) = missing else {
            self.spared += u64::from(chunk.bytes);
            return Ok(());
        };
        if self.frame.bytes() as usize + data.len() > FRAME_BYTES {
            self.close_frame()?;
        }
        if data.len() > FRAME_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.spared += self.frame.push(data, copied);
        Ok(())
    }

    /// Takes the package's next chunks, which follow one another in the base from the one at this place on.
    pub(super) fn push_run(&mut self, first: u64, chunks: &[ChunkRef]) {
        let mut first = first;
        for run in chunks.chunks(RUN_CHUNKS) {
            let count = u32::try_from(run.len()).expect("at most RUN_CHUNKS");
            let mut place = [0; 32];
            place[..8].copy_from_slice(&first.to_le_bytes());
            self.line(RUN | count, place);
            first += u64::from(count);
        }
        for chunk in chunks {
            self.count_in(chunk);
            self.spared += u64::from(chunk.bytes);
        }
    }

    fn line(&mut self, word: u32, rest: [u8; 32]) {
        self.lines.extend_from_slice(&word.to_le_bytes());
        self.lines.extend_from_slice(&rest);
        self.count += 1;
    }

    fn count_in(&mut self, chunk: &ChunkRef) {
        self.list.update(&chunk.bytes.to_le_bytes());
        self.list.update(chunk.id.as_bytes());
        self.package_bytes += u64::from(chunk.bytes);
    }

    fn close_frame(&mut self) -> io::Result<()> {
        let bytes = self.frame.bytes();
        if bytes == 0 {
            return Ok(());
        }
        let (plain, is_recipe) = self.frame.take();
        let compressed = self.compressor.compress(&plain)?;
        let stored = if compressed.len() < plain.len() {
            &compressed
        } else {
            &plain
        };
        let mut head = Vec::with_capacity(12);
        let patched = if is_recipe { PATCHED } else { 0 };
        head.extend_from_slice(&(bytes | patched).to_le_bytes());
        head.extend_from_slice(&recipe::number(stored.len()).to_le_bytes());
        if is_recipe {
            head.extend_from_slice(&recipe::number(plain.len()).to_le_bytes());
        }
        for part in [&head, stored] {
            self.spool.write_all(part)?;
            self.spool_digest.update(part);
            self.spool_bytes += part.len() as u64;
        }
        Ok(())
    }

    /// Takes the end of the package. Blocks.
    pub(super) fn finish(
        mut self,
        chunker: &ChunkerParams,
        media_type: &str,
    ) -> io::Result<Framed> {
        self.close_frame()?;
        let mut head = json!({
            "chunker": chunker,
            "chunks": self.count,
            "bytes": self.package_bytes,
            "media_type": media_type,
            "list": self.list.finalize().to_hex().as_str(),
        });
        let digest = match self.whole {
            Whole::Read(digest) => Some(digest.finalize().to_hex().to_string()),
            Whole::LikeThis(package) => {
                head["base"] = json!(package.to_string());
                None
            }
        };
        let head = head.to_string();
        let length =
            u32::try_from(head.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let mut prefix = Vec::with_capacity(16 + head.len() + self.lines.len());
        prefix.extend_from_slice(&MAGIC);
        prefix.extend_from_slice(&VERSION.to_le_bytes());
        prefix.extend_from_slice(&length.to_le_bytes());
        prefix.extend_from_slice(head.as_bytes());
        prefix.append(&mut self.lines);
        let mut fingerprint = blake3::Hasher::new();
        fingerprint.update(&prefix);
        fingerprint.update(self.spool_digest.finalize().as_bytes());
        Ok(Framed {
            prefix: prefix.into(),
            spool: self.spool,
            spool_bytes: self.spool_bytes,
            spared: self.spared,
            digest,
            fingerprint: fingerprint.finalize().to_hex().to_string(),
        })
    }
}

impl Framed {
    /// How many bytes are sent.
    pub(super) fn bytes(&self) -> u64 {
        self.prefix.len() as u64 + self.spool_bytes
    }

    /// How many bytes of the package are not.
    pub(super) fn spared(&self) -> u64 {
        self.spared
    }

    /// BLAKE3 of the package, if all of it was read.
    pub(super) fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// BLAKE3 of what is sent, or nearly.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What is sent, from this byte on.
    ///
    /// # Errors
    ///
    /// [`package::Error::Read`] when no thread can be started for it.
    pub(super) fn package(self: &Arc<Self>, from: u64) -> Result<Package, package::Error> {
        let (sender, parts) = mpsc::channel(PARTS);
        let framed = Arc::clone(self);
        thread::Builder::new()
            .name("frames".to_owned())
            .spawn(move || {
                if let Err(source) = framed.copy(from, &sender) {
                    let what = "what is to be sent".to_owned();
                    let _ = sender.blocking_send(Err(package::Error::Read { what, source }));
                }
            })
            .map_err(|source| package::Error::Read {
                what: "the package (no thread could be started)".to_owned(),
                source,
            })?;
        Ok(Package {
            media_type: MEDIA_TYPE,
            bytes: Some(self.bytes().saturating_sub(from)),
            parts,
        })
    }

    fn copy(
        &self,
        from: u64,
        parts: &mpsc::Sender<Result<Bytes, package::Error>>,
    ) -> io::Result<()> {
        let prefix = self.prefix.len() as u64;
        if let Ok(at) = usize::try_from(from)
            && at < self.prefix.len()
            && parts.blocking_send(Ok(self.prefix.slice(at..))).is_err()
        {
            return Ok(());
        }
        let mut at = from.saturating_sub(prefix);
        while at < self.spool_bytes {
            let left = usize::try_from(self.spool_bytes - at).unwrap_or(usize::MAX);
            let mut part = vec![0; left.min(PART)];
            self.spool.read_exact_at(&mut part, at)?;
            at += part.len() as u64;
            if parts.blocking_send(Ok(part.into())).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// A file without a name, where there is likely to be room: the temporary directory may be memory.
fn spool() -> io::Result<File> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .filter(|cache| cache.is_absolute())
        .map(|cache| cache.join("cofferdam"));
    if let Some(cache) = cache
        && std::fs::create_dir_all(&cache).is_ok()
        && let Ok(file) = tempfile::tempfile_in(&cache)
    {
        return Ok(file);
    }
    tempfile::tempfile()
}

#[cfg(test)]
mod tests;
