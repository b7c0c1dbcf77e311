//! A package that is put together while it arrives: its held chunks from the store, its others from the body.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use cofferdam_deploy::{
    Assembly, BlobDigest, ChunkRef, ChunkerParams, Host, Input, Named, ProjectName, Supply,
};

use super::chunks::{Chunks, ChunksError, Line, ListHead, MAX_FRAME, Piece};
use super::recipe::{self, Part};
use super::{Source, UploadError};

/// A package with so many bytes in the store is read for as long as it takes to make a smaller one durable.
const NEAR_BYTES: u64 = 32 << 20;

/// Puts one package together.
pub(crate) struct Assembled {
    source: Source,
    parser: Chunks,
    assembly: Assembly,
    /// Chunks of the last frame, which were not asked for yet.
    frame: VecDeque<Bytes>,
    /// What kind of archive it is, if its sender said so.
    pub(crate) media_type: Option<String>,
}

impl Assembled {
    /// Reads the list, and leases what it leans on.
    ///
    /// # Errors
    ///
    /// [`UploadError::NotHeld`] when the project does not hold what the list says, [`UploadError::Chunker`] when it
    /// was cut by another chunker, and everything else that is wrong with it.
    pub(crate) async fn open(
        mut source: Source,
        host: &Host,
        project: &ProjectName,
        max_package: u64,
    ) -> Result<Self, UploadError> {
        let mut parser = Chunks::new();
        let Some(Piece::Head(head)) = next_piece(&mut parser, &mut source).await? else {
            return Err(ChunksError::Truncated.into());
        };
        check(&head, &host.chunker(), max_package)?;
        let mut assembly = host.assemble(project).await.map_err(UploadError::Host)?;
        if let Some(base) = &head.base {
            assembly.lean_on(&digest(base)?).await?;
        }
        let mut listed = 0;
        while listed < head.chunks {
            let Some(Piece::Lines(lines)) = next_piece(&mut parser, &mut source).await? else {
                return Err(ChunksError::Truncated.into());
            };
            listed += lines.len() as u64;
            let named: Vec<Named> = lines
                .iter()
                .map(|line| match *line {
                    Line::Run { first, chunks } => Named::Run { first, chunks },
                    Line::Chunk { id, bytes, held } => {
                        let id = id.into();
                        let chunk = ChunkRef { id, bytes };
                        if held {
                            Named::Held(chunk)
                        } else {
                            Named::Sent(chunk)
                        }
                    }
                })
                .collect();
            assembly.name(&named).await?;
        }
        if assembly.bytes() != head.bytes {
            return Err(UploadError::List(format!(
                "its head says {} bytes, and its chunks have {}",
                head.bytes,
                assembly.bytes()
            )));
        }
        if let Some(list) = &head.list {
            let (expected, found) = (digest(list)?, assembly.list_digest());
            if expected != found {
                return Err(UploadError::ListDigest { expected, found });
            }
        }
        Ok(Self {
            source,
            parser,
            assembly,
            frame: VecDeque::new(),
            media_type: head.media_type,
        })
    }

    /// Whether it arrives as fast as the disk is, and is long enough for that to count.
    pub(crate) fn is_nearly_here(&self) -> bool {
        let (held, bytes) = (self.assembly.held_bytes(), self.assembly.bytes());
        held >= NEAR_BYTES && (bytes - held) < bytes / 8
    }

    /// The next bytes of the package, never none; nothing when it is complete.
    pub(crate) async fn next(&mut self) -> Result<Option<Input>, UploadError> {
        match self.assembly.next().await? {
            Supply::Held(bytes) => Ok(Some(bytes)),
            Supply::Wanted(chunk) => self.wanted(chunk).await.map(|bytes| Some(bytes.into())),
            Supply::End => {
                // The parser refuses a frame that nobody needs.
                match next_piece(&mut self.parser, &mut self.source).await? {
                    None => Ok(None),
                    Some(_) => Err(ChunksError::Trailing.into()),
                }
            }
        }
    }

    /// The bytes of a chunk that is sent, verified.
    async fn wanted(&mut self, chunk: ChunkRef) -> Result<Bytes, UploadError> {
        if self.frame.is_empty() {
            let piece = next_piece(&mut self.parser, &mut self.source).await?;
            let Some(Piece::Frame {
                bytes,
                recipe,
                stored,
            }) = piece
            else {
                return Err(ChunksError::Truncated.into());
            };
            let decoded = blocking(move || decode(recipe.unwrap_or(bytes), stored)).await?;
            let frame = match recipe {
                None => decoded,
                Some(_) => self.made(recipe::parse(decoded, bytes)?).await?,
            };
            self.frame.push_back(frame);
        }
        let Some(mut rest) = self.frame.pop_front() else {
            return Err(ChunksError::Truncated.into());
        };
        if rest.len() < chunk.bytes as usize {
            return Err(UploadError::List(
                "a frame ends in the middle of a chunk".to_owned(),
            ));
        }
        let data = rest.split_to(chunk.bytes as usize);
        if !rest.is_empty() {
            self.frame.push_front(rest);
        }
        blocking(move || {
            chunk.verify(&data)?;
            Ok(data)
        })
        .await
    }

    /// The bytes of a frame, of which some are in the base.
    async fn made(&mut self, parts: Vec<Part>) -> Result<Bytes, UploadError> {
        let mut frame = BytesMut::with_capacity(MAX_FRAME as usize);
        for part in parts {
            frame.extend_from_slice(&part.sent);
            if part.copied > 0 {
                self.assembly
                    .copy(part.place, part.copied, &mut frame)
                    .await?;
            }
        }
        Ok(frame.freeze())
    }
}

/// The next piece; nothing when the body has ended, and ended well.
async fn next_piece(
    parser: &mut Chunks,
    source: &mut Source,
) -> Result<Option<Piece>, UploadError> {
    loop {
        if let Some(piece) = parser.next()? {
            return Ok(Some(piece));
        }
        match source.next().await? {
            Some(bytes) => parser.push(&bytes),
            None => return Ok(parser.finish().map(|()| None)?),
        }
    }
}

/// A digest in the list's head.
fn digest(text: &str) -> Result<BlobDigest, UploadError> {
    text.parse()
        .map_err(|_| UploadError::List(format!("{text:?} in its head is not a BLAKE3 in hex")))
}

fn check(head: &ListHead, chunker: &ChunkerParams, max_package: u64) -> Result<(), UploadError> {
    let same = serde_json::from_value::<ChunkerParams>(head.chunker.clone())
        .is_ok_and(|used| used == *chunker);
    if !same {
        return Err(UploadError::Chunker);
    }
    if head.bytes > max_package {
        return Err(UploadError::TooLarge { limit: max_package });
    }
    if head.bytes == 0 {
        return Err(UploadError::Empty);
    }
    Ok(())
}

fn decode(bytes: u32, stored: Bytes) -> Result<Bytes, UploadError> {
    if stored.len() == bytes as usize {
        return Ok(stored);
    }
    // Never more than was announced, whatever the frame says of itself.
    let decoded = zstd::bulk::decompress(&stored, bytes as usize);
    match decoded {
        Ok(decoded) if decoded.len() == bytes as usize => Ok(decoded.into()),
        _ => Err(UploadError::List(format!(
            "a frame does not decompress to the {bytes} bytes that it announces"
        ))),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UploadError> + Send + 'static,
) -> Result<T, UploadError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| UploadError::Host(cofferdam_deploy::Error::Task))?
}
