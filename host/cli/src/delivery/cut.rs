//! Cutting a package as the server does, and asking which chunks are missing, in one pass.
//!
//! One thread reads, one cuts and names, one compresses what is missing; between them are a few megabytes, whatever
//! the package's size. So no file is read twice, and what is sent is what was named. Of a directory that was sent
//! before, only what changed is read ([`super::unchanged`]).

use std::thread;
use std::time::Duration;

use bytes::Bytes;
use cofferdam_blobs::{ChunkRef, Chunker, ChunkerParams, Digest};
use tokio::sync::mpsc;

use super::framed::{Framed, Framing, Whole};
use super::patience::Patience;
use super::unchanged::{Item, Known};
use crate::api::Api;
use crate::api::upload::Sent;
use crate::exit::Failure;
use crate::package::{self, Prepared, Wanted};
use crate::project::Project;

/// Chunks are asked for when they have this many bytes. A few such batches are in memory at a time; a link with
/// 50 ms to the server and back still passes 80 MB/s of them.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The bytes of a chunk's name.
const ID_BYTES: usize = 32;

/// How much is looked at before the rest is given up as not worth the trouble.
const TRIAL_BYTES: u64 = 64 * 1024 * 1024;

/// At least one part in so many must be held by then.
const WORTHWHILE: u64 = 8;

/// Cuts one package.
pub(super) struct Cut<'a> {
    pub(super) api: &'a Api,
    pub(super) project: &'a Project,
    /// What the server cuts with.
    pub(super) chunker: &'a ChunkerParams,
    pub(super) sent: &'a Sent,
    /// How long a question is asked in vain.
    pub(super) patience: Duration,
}

/// What came of it.
pub(super) enum Outcome {
    /// What is missing, ready to be sent.
    Framed(Framed),
    /// Nearly everything is missing, the chunker is not known here, or there is no room for what is missing.
    NotWorthwhile,
    /// The server has changed its mind about the chunker.
    OtherChunker(ChunkerParams),
}

/// Why nothing came of it.
pub(super) enum Error {
    Package(package::Error),
    Failure(Failure),
}

/// What follows one another in a package.
struct Batch(Vec<Item>);

type Batches = mpsc::Sender<Result<Batch, package::Error>>;

impl Cut<'_> {
    /// Cuts all of the package.
    pub(super) async fn run(&self, prepared: &mut Prepared) -> Result<Outcome, Error> {
        let Some(chunker) = Chunker::new(self.chunker) else {
            return Ok(Outcome::NotWorthwhile);
        };
        let package = prepared
            .open(Wanted::default())
            .await
            .map_err(Error::Package)?;
        let (media_type, bytes) = (package.media_type, package.bytes);
        let (sender, batches) = mpsc::channel(1);
        spawn(move || cut(chunker, package.parts, Gathered::new(sender)))?;
        let whole = Whole::Read(Box::default());
        self.frame(batches, whole, media_type, bytes).await
    }

    /// Cuts what changed of a directory that was sent before.
    pub(super) async fn run_changed(
        &self,
        known: Known,
        media_type: &'static str,
    ) -> Result<Outcome, Error> {
        let (sender, batches) = mpsc::channel(1);
        let whole = Whole::LikeThis(known.package);
        let bytes = Some(known.bytes());
        let chunker = self.chunker.clone();
        spawn(move || {
            let mut gathered = Gathered::new(sender);
            match known.cut(&chunker, |item| gathered.push(item)) {
                Ok(()) => gathered.end(),
                Err(error) => gathered.fail(error.into()),
            }
        })?;
        self.frame(batches, whole, media_type, bytes).await
    }

    /// Asks for what was cut, and makes of it what is sent.
    async fn frame(
        &self,
        mut batches: mpsc::Receiver<Result<Batch, package::Error>>,
        whole: Whole,
        media_type: &'static str,
        bytes: Option<u64>,
    ) -> Result<Outcome, Error> {
        let Ok(mut framing) = Framing::new(whole) else {
            return Ok(Outcome::NotWorthwhile);
        };
        while let Some(batch) = batches.recv().await {
            let Batch(batch) = batch.map_err(Error::Package)?;
            let ids: Vec<u8> = batch
                .iter()
                .filter_map(|item| match item {
                    Item::Chunk(chunk, ..) => Some(*chunk.id.as_bytes()),
                    Item::Run { .. } => None,
                })
                .flatten()
                .collect();
            let chunks = ids.len() / ID_BYTES;
            let ids = Bytes::from(ids);
            let answer = Patience::for_a_question(self.patience)
                .until_answered(|| self.api.missing(self.project, ids.clone()))
                .await;
            let Some(answer) = answer.map_err(Error::Failure)? else {
                return Ok(Outcome::NotWorthwhile);
            };
            if answer.chunker != *self.chunker {
                return Ok(Outcome::OtherChunker(answer.chunker));
            }
            let Some(missing) = answer.bits(chunks) else {
                return Ok(Outcome::NotWorthwhile);
            };
            let framed = tokio::task::spawn_blocking(move || {
                let mut missing = missing.into_iter();
                for item in batch {
                    match item {
                        Item::Chunk(chunk, data, copied) => {
                            let missing = missing.next().unwrap_or(true);
                            framing.push(chunk, &data, missing.then_some(&copied))?;
                        }
                        Item::Run { first, chunks } => framing.push_run(first, &chunks),
                    }
                }
                Ok::<_, std::io::Error>(framing)
            });
            // A disk without room is no reason not to deploy.
            framing = match framed.await {
                Ok(Ok(framing)) => framing,
                Ok(Err(_)) => return Ok(Outcome::NotWorthwhile),
                Err(error) => return Err(Error::Failure(Failure::Machine(error.into()))),
            };
            self.sent.compared(framing.package_bytes());
            let seen = framing.package_bytes();
            if seen >= TRIAL_BYTES && framing.spared() < seen / WORTHWHILE {
                return Ok(Outcome::NotWorthwhile);
            }
        }
        // A cutter that stopped early, for a chunker that is not known here or a defect, has not seen all of it.
        let is_whole = bytes.is_none_or(|bytes| bytes == framing.package_bytes());
        if !is_whole || framing.spared() < framing.package_bytes() / WORTHWHILE {
            return Ok(Outcome::NotWorthwhile);
        }
        let chunker = self.chunker.clone();
        let framed = tokio::task::spawn_blocking(move || framing.finish(&chunker, media_type));
        match framed.await {
            Ok(Ok(framed)) => Ok(Outcome::Framed(framed)),
            Ok(Err(_)) => Ok(Outcome::NotWorthwhile),
            Err(error) => Err(Error::Failure(Failure::Machine(error.into()))),
        }
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    thread::Builder::new()
        .name("cutter".to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|error| Error::Failure(Failure::Machine(error.into())))
}

/// Cuts a package and names its chunks. Blocks.
fn cut(
    mut chunker: Chunker,
    mut parts: mpsc::Receiver<Result<Bytes, package::Error>>,
    mut gathered: Gathered,
) {
    let mut last = false;
    while !last {
        match parts.blocking_recv() {
            Some(Ok(part)) => chunker.push(&part),
            Some(Err(error)) => return gathered.fail(error),
            None => last = true,
        }
        while let Some(data) = chunker.next(last) {
            let Ok(bytes) = u32::try_from(data.len()) else {
                return;
            };
            let id = Digest::blake3(&data);
            if !gathered.push(Item::Chunk(ChunkRef { id, bytes }, data, Vec::new())) {
                return;
            }
        }
    }
    gathered.end();
}

/// Gathers batches that are worth a question.
struct Gathered {
    batch: Vec<Item>,
    bytes: usize,
    batches: Batches,
}

impl Gathered {
    fn new(batches: Batches) -> Gathered {
        Gathered {
            batch: Vec::new(),
            bytes: 0,
            batches,
        }
    }

    /// Takes what comes next, and says whether anything more is wanted. Blocks.
    fn push(&mut self, item: Item) -> bool {
        if let Item::Chunk(_, data, _) = &item {
            self.bytes += data.len();
        }
        self.batch.push(item);
        if self.bytes < BATCH_BYTES {
            return true;
        }
        self.bytes = 0;
        let batch = Batch(std::mem::take(&mut self.batch));
        self.batches.blocking_send(Ok(batch)).is_ok()
    }

    /// Hands out what is left.
    fn end(self) {
        if !self.batch.is_empty() {
            let _ = self.batches.blocking_send(Ok(Batch(self.batch)));
        }
    }

    fn fail(self, error: package::Error) {
        let _ = self.batches.blocking_send(Err(error));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use cofferdam_blobs::MAX_LISTED_CHUNKS;

    use super::*;

    /// The lengths of the chunks of `data`, as a text, and the digest of their list.
    fn cuts(data: &[u8]) -> (String, String) {
        let mut chunker = Chunker::new(&ChunkerParams::default()).unwrap();
        chunker.push(data);
        let (mut lengths, mut list) = (Vec::new(), blake3::Hasher::new());
        while let Some(chunk) = chunker.next(true) {
            let length = u32::try_from(chunk.len()).unwrap();
            lengths.push(length.to_string());
            list.update(&length.to_le_bytes());
            list.update(Digest::blake3(&chunk).as_bytes());
        }
        (lengths.join(", "), list.finalize().to_hex().to_string())
    }

    #[test]
    fn what_the_protocols_page_says_of_cutting_is_what_is_cut() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol.md");
        let page = std::fs::read_to_string(page).unwrap();
        let params = page.lines().find(|line| line.starts_with("    {\"name\""));
        let params: ChunkerParams = serde_json::from_str(params.unwrap()).unwrap();
        assert_eq!(params, ChunkerParams::default());
        // The question's limit, and the list's.
        assert_eq!(MAX_LISTED_CHUNKS, 1_048_576);
        assert_eq!(page.matches("1,048,576").count(), 2);

        let mut x = 1_u64;
        let words = std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()
        });
        let data: Vec<u8> = words.flatten().take(1_000_000).collect();
        let (lengths, list) = cuts(&data);
        assert!(page.contains(&format!("\n    {lengths}\n")), "{lengths}");
        assert!(page.contains(&format!("\n    {list}\n")), "{list}");
        let (lengths, _) = cuts(&[0; 600_001]);
        assert!(page.contains(&format!("`{lengths}`")), "{lengths}");
    }
}
