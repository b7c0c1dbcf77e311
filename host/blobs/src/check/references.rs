//! The third way: over the blobs, each with its chunk list and its chunks.

use super::{Checker, Fault, Stage};
use crate::manifest::ChunkRef;
use crate::{BlobInfo, ChunkId, Error};

/// How many blobs are taken at a time.
const BLOBS: u32 = 256;

/// How many chunks of a blob are looked up at a time.
const CHUNKS: usize = 1024;

/// How many of a blob's lost chunks are named; all are counted.
const NAMED: usize = 4;

/// What is wrong with a blob's chunks.
#[derive(Default)]
pub(super) struct Lost {
    pub(super) count: u64,
    first: Vec<ChunkId>,
}

impl Checker<'_> {
    pub(super) fn look_at_blobs(&mut self) -> Result<(), Error> {
        let Some(index) = &self.index else {
            return Ok(());
        };
        let total = self.job.handle.block_on(index.blob_count())?;
        let mut after = None;
        loop {
            let Some(index) = &self.index else {
                return Ok(());
            };
            let blobs = self.job.handle.block_on(index.blobs(after, BLOBS))?;
            let Some(last) = blobs.last() else {
                return self.job.progress(Stage::Blobs, total, total);
            };
            after = Some(last.id);
            for blob in blobs {
                self.job.progress(Stage::Blobs, self.report.blobs, total)?;
                self.report.blobs += 1;
                self.look_at_blob(&blob)?;
            }
        }
    }

    fn look_at_blob(&mut self, blob: &BlobInfo) -> Result<(), Error> {
        let mut recorded = self.recorded_blobs.contains(&blob.id);
        let mut lost = Lost::default();
        let (mut bytes, mut chunks) = (0, 0);
        let mut wrong = None;
        let mut from = 0;
        loop {
            let Some(index) = &self.index else {
                return Ok(());
            };
            let part = self.job.handle.block_on(index.part_from(blob.id, from))?;
            let Some((first_byte, stored)) = part else {
                break;
            };
            recorded &= self.recorded_parts.contains(&stored.checksum);
            let part = match stored.part {
                Ok(part) => part,
                Err(detail) => {
                    wrong = Some(format!("around byte {bytes}: {detail}"));
                    break;
                }
            };
            let follows = (first_byte, part.first_byte, part.first_chunk) == (bytes, bytes, chunks);
            if part.blob != blob.id || !follows {
                wrong = Some(format!("nothing covers byte {bytes}"));
                break;
            }
            bytes += part.bytes();
            chunks += part.chunks.len() as u64;
            from = first_byte + 1;
            self.look_at_chunks(&part.chunks, &mut lost)?;
        }
        if wrong.is_none() && (bytes, chunks) != (blob.bytes, blob.chunks) {
            wrong = Some(format!(
                "it covers {bytes} bytes in {chunks} chunks, and the blob has {} in {}",
                blob.bytes, blob.chunks
            ));
        }
        if wrong.is_none() {
            let uses = self.uses.entry(blob.namespace.clone()).or_default();
            *uses = uses.saturating_add_unsigned(blob.chunks);
        }
        let namespace = || blob.namespace.clone();
        if lost.count > 0 {
            self.fault(Fault::IncompleteBlob {
                blob: blob.id,
                namespace: namespace(),
                chunks: lost.count,
                first: lost.first,
            })?;
        }
        if let Some(detail) = wrong {
            self.findings.manifests.push(blob.id);
            self.fault(Fault::WrongManifest {
                blob: blob.id,
                namespace: namespace(),
                detail,
            })
        } else if !recorded {
            self.findings.unrecorded.push(blob.id);
            self.fault(Fault::UnrecordedBlob {
                blob: blob.id,
                namespace: namespace(),
            })
        } else {
            Ok(())
        }
    }

    pub(super) fn look_at_chunks(
        &mut self,
        chunks: &[ChunkRef],
        lost: &mut Lost,
    ) -> Result<(), Error> {
        for chunks in chunks.chunks(CHUNKS) {
            let Some(index) = &self.index else {
                return Ok(());
            };
            let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
            let found = self.job.handle.block_on(index.lookup(&ids))?;
            for chunk in chunks {
                let stored = found.get(&chunk.id);
                let readable = stored.is_some_and(|stored| {
                    stored.extent.bytes == chunk.bytes
                        && self.files.contains_key(&stored.name)
                        && !self.corrupt.contains(&chunk.id)
                });
                // A row that is not where the first way came by, or that says another length.
                let misplaced = stored.is_none_or(|stored| stored.extent.bytes != chunk.bytes);
                if misplaced && !self.corrupt.contains(&chunk.id) {
                    self.lost(chunk.id)?;
                }
                if !readable {
                    lost.count += 1;
                    if lost.first.len() < NAMED {
                        lost.first.push(chunk.id);
                    }
                }
            }
        }
        Ok(())
    }
}
