//! What is in a damaged pack, also where no line of its table leads.
//!
//! Records lie back to back, with nothing between them. So what lies between two records that are known by their digests
//! is whole records again, and where the first of them begins is known:
//!
//! 1. what describes blobs, a part of a manifest or a blob's record, is told by its shape, if the table is the pack's own:
//!    then what was stored has lines, and what has none was not stored. No digest vouches for it, so it
//!    is only a *guess*, which never takes the place of what is known otherwise;
//! 2. a chunk is told by its digest, if some manifest names it, or a damaged line does. A compressed one says itself where
//!    it ends.
//!
//! Any byte that is left over may have said that there is a blob: [`Survey::loss`] tells of it.

use std::collections::{HashMap, HashSet};

use super::super::{Decoder, Encoding, Entry, Extent, HEADER_BYTES, Kind, MAX_RECORD_BYTES};
use super::Salvage;
use crate::manifest::{BlobRecord, Part};
use crate::{ChunkId, Digest};

/// How a blob's record begins.
const BLOB_BEGINS: &[u8] = b"{\"version\":";

/// No blob's record is longer: most of it is a namespace of at most 255 bytes, each of which takes at most six.
const MAX_BLOB_RECORD: usize = 4 * 1024;

/// The magic number of a zstd frame.
const FRAME_BEGINS: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// What a disk reads or refuses at a time: one bad block must not take its neighbours along.
const BLOCK: usize = 4096;

/// What was found in a damaged pack.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Records that are what was written, in the order of their places: a line of the table, the index or a manifest
    /// says so. (Of a chunk that was stored compressed and that nobody names, its own form.)
    pub(crate) entries: Vec<Entry>,
    /// Records that describe blobs by their shape alone, in the order of their places.
    pub(crate) guesses: Vec<Entry>,
    /// How many chunks are not what was written. Who needs one of them can tell by its manifest.
    pub(crate) lost_chunks: u64,
    /// What describes blobs and is not what was written, by the table.
    pub(crate) lost_descriptions: Vec<Digest>,
    /// How many bytes are nothing that is known.
    unexplained: u64,
    /// Whether it can be told where the records end.
    bounded: bool,
    /// What was said to be there and is not.
    suspects: Vec<Entry>,
}

/// Where no record is known: from here to there.
type Gap = (u64, u64);

impl Salvage {
    /// Looks for what can be told without knowing what other packs have: the records to which the table leads, or
    /// `known`, which is what the index says of the pack; and what describes blobs. Blocks.
    pub(crate) fn survey(&self, known: &[Entry]) -> Survey {
        let mut survey = Survey::default();
        let mut decoder = Decoder::default();
        let mut seen = HashSet::new();
        let known = known.iter().map(|entry| (entry, true));
        let lines = self.candidates.iter().map(|entry| (entry, self.sound));
        for (entry, is_kind_known) in known.chain(lines) {
            if !seen.insert((entry.extent.offset, entry.id)) {
                continue;
            }
            match self.read(entry, &mut decoder) {
                Ok(_) if is_kind_known => survey.entries.push(*entry),
                Ok(bytes) if self.own => survey.believe(*entry, &bytes),
                // Whatever it describes, somebody may have stored it, and this line too.
                Ok(_) => survey.entries.push(Entry {
                    kind: Kind::Chunk,
                    ..*entry
                }),
                Err(_) => survey.suspects.push(*entry),
            }
        }
        survey.bounded = self.sound || (self.own && !survey.entries.is_empty());
        survey.entries.sort_by_key(place);
        survey.suspects.sort_by_key(place);
        if self.sound {
            survey.count_lost();
            return survey;
        }
        if !self.own {
            return survey;
        }
        let mut window = Window::new(self);
        for (from, to) in survey.gaps(self) {
            window.describes(from, to, &mut survey.guesses);
        }
        survey.guesses.sort_by_key(place);
        survey
    }

    /// Looks for the rest, once it is known which chunks manifests name: `wanted` has those that were not found, and of
    /// [`Survey::doubtful`] those that are chunks. Blocks.
    pub(crate) fn seek(&self, survey: &mut Survey, wanted: &HashMap<ChunkId, u32>) {
        if self.sound {
            return;
        }
        survey
            .guesses
            .retain(|guess| !wanted.contains_key(&guess.id));
        let mut lengths: Vec<usize> = wanted.values().map(|bytes| *bytes as usize).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let mut sought = Sought {
            wanted,
            lengths,
            named: survey.suspects.iter().map(|entry| entry.id).collect(),
            decoder: Decoder::default(),
            window: Window::new(self),
        };
        for gap in survey.gaps(self) {
            sought.fill(gap, survey);
        }
        // Where a chunk is, there is no description, whatever it looks like.
        let taken = std::mem::take(&mut survey.guesses);
        survey.guesses = taken
            .into_iter()
            .filter(|guess| !survey.covers(guess))
            .collect();
        survey.entries.sort_by_key(place);
    }
}

impl Survey {
    /// Whether nothing has to be sought: the table leads to everything that can be had.
    pub(crate) fn is_settled(&self, salvage: &Salvage) -> bool {
        salvage.sound || (self.guesses.is_empty() && self.gaps(salvage).is_empty())
    }

    /// Guesses that are chunks if a manifest names them.
    pub(crate) fn doubtful(&self) -> impl Iterator<Item = ChunkId> {
        self.guesses.iter().map(|guess| guess.id)
    }

    /// What is lost of the pack that only the pack itself could tell of; `None` if nothing is. (Of chunks the manifests
    /// tell.)
    pub(crate) fn loss(&self) -> Option<String> {
        if !self.bounded {
            return Some("its table is gone, so nobody can say what else it had".to_owned());
        }
        if self.unexplained > 0 {
            return Some(format!("{} bytes of it cannot be told", self.unexplained));
        }
        match self.lost_descriptions.len() {
            0 => None,
            lost => Some(format!(
                "{lost} of its records that describe packages cannot be read"
            )),
        }
    }

    /// Takes a record in that has the digest it should have. Its kind is not proved by that, if the table is damaged.
    fn believe(&mut self, entry: Entry, bytes: &[u8]) {
        let shape = description(bytes).filter(|(_, length)| *length == bytes.len());
        let shape = shape.map(|(kind, _)| kind);
        match (entry.kind, shape) {
            (kind, Some(shape)) if kind == shape => self.entries.push(entry),
            (_, None) => self.entries.push(Entry {
                kind: Kind::Chunk,
                ..entry
            }),
            // It may be both: a chunk, if a manifest names it, and else what it looks like.
            (_, Some(kind)) => {
                self.entries.push(Entry {
                    kind: Kind::Chunk,
                    ..entry
                });
                self.guesses.push(Entry { kind, ..entry });
            }
        }
    }

    /// What a sound table says is not there.
    fn count_lost(&mut self) {
        let there: HashSet<Digest> = self.entries.iter().map(|entry| entry.id).collect();
        for suspect in &self.suspects {
            match suspect.kind {
                Kind::Manifest | Kind::Blob if !there.contains(&suspect.id) => {
                    self.lost_descriptions.push(suspect.id);
                }
                Kind::Chunk if !there.contains(&suspect.id) => self.lost_chunks += 1,
                _ => {}
            }
        }
    }

    fn covers(&self, guess: &Entry) -> bool {
        let (from, to) = span(guess);
        // It is what was believed to be either.
        let itself = |entry: &Entry| entry.id == guess.id && entry.extent == guess.extent;
        self.entries
            .iter()
            .any(|entry| !itself(entry) && span(entry).0 < to && from < span(entry).1)
    }

    /// Where no record is known, in the order of the file.
    fn gaps(&self, salvage: &Salvage) -> Vec<Gap> {
        let end = match salvage.table_at {
            Some(table) if self.bounded => table,
            _ => salvage.length,
        };
        let mut gaps = Vec::new();
        let mut at = HEADER_BYTES as u64;
        for (from, to) in self.entries.iter().map(span) {
            if from > at {
                gaps.push((at, from.min(end)));
            }
            at = at.max(to);
        }
        if end > at {
            gaps.push((at, end));
        }
        gaps.retain(|(from, to)| from < to);
        gaps
    }
}

/// The order of records.
fn place(entry: &Entry) -> (u64, Digest) {
    (entry.extent.offset, entry.id)
}

/// Those of these, which are in the order of their places, that begin in a gap.
fn within(entries: &[Entry], (from, to): Gap) -> &[Entry] {
    let at = |place: u64| entries.partition_point(|entry| entry.extent.offset < place);
    &entries[at(from)..at(to)]
}

/// From where to where a record lies.
fn span(entry: &Entry) -> Gap {
    let from = entry.extent.offset;
    (from, from.saturating_add(u64::from(entry.extent.stored)))
}

/// What describes a blob and begins here, by its shape, and how long it is.
fn description(bytes: &[u8]) -> Option<(Kind, usize)> {
    if let Some(length) = Part::measure(bytes) {
        return Some((Kind::Manifest, length));
    }
    if !bytes.starts_with(BLOB_BEGINS) {
        return None;
    }
    let bytes = &bytes[..bytes.len().min(MAX_BLOB_RECORD)];
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<BlobRecord>();
    let record = values.next()?.ok()?;
    (record.version == 1).then(|| (Kind::Blob, values.byte_offset()))
}

/// The bytes of a damaged pack, a few MiB at a time.
struct Window<'a> {
    salvage: &'a Salvage,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    fn new(salvage: &Salvage) -> Window<'_> {
        Window {
            salvage,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// What is there from `at` on: up to `end`, or as many bytes as the longest record has.
    fn from(&mut self, at: u64, end: u64) -> &[u8] {
        let most = u64::from(MAX_RECORD_BYTES);
        let until = end.min(at.saturating_add(most));
        if at < self.start || until > self.start + self.bytes.len() as u64 {
            let long = end.min(at.saturating_add(2 * most)).saturating_sub(at);
            self.start = at;
            self.bytes = vec![0; usize::try_from(long).unwrap_or_default()];
            self.fill();
        }
        let offset = |place: u64| usize::try_from(place - self.start).unwrap_or(usize::MAX);
        self.bytes
            .get(offset(at)..offset(until))
            .unwrap_or_default()
    }

    /// Reads it; what the disk refuses stays zero, and verifies as nothing.
    fn fill(&mut self) {
        let Salvage { disk, file, .. } = self.salvage;
        if disk.read_at(file, &mut self.bytes, self.start).is_ok() {
            return;
        }
        for (place, block) in (self.start..)
            .step_by(BLOCK)
            .zip(self.bytes.chunks_mut(BLOCK))
        {
            if disk.read_at(file, block, place).is_err() {
                block.fill(0);
            }
        }
    }

    /// Finds what describes blobs between these places, wherever it begins.
    fn describes(&mut self, from: u64, to: u64, found: &mut Vec<Entry>) {
        let mut at = from;
        while at < to {
            let bytes = self.from(at, to);
            // So that what begins in the last bytes of a window is whole in the next one.
            let sure = if u64::from(MAX_RECORD_BYTES) < to - at {
                bytes.len() / 2
            } else {
                bytes.len()
            };
            let mut skipped = 0;
            while skipped < sure {
                let rest = &bytes[skipped..];
                // Every description begins with one of these two.
                let ahead = rest.iter().position(|byte| matches!(byte, 1 | b'{'));
                skipped += ahead.unwrap_or(rest.len());
                if skipped >= sure {
                    skipped = sure;
                    break;
                }
                let Some((kind, length)) = description(&bytes[skipped..]) else {
                    skipped += 1;
                    continue;
                };
                let record = &bytes[skipped..skipped + length];
                found.push(Entry {
                    kind,
                    extent: raw(at + skipped as u64, length),
                    id: Digest::blake3(record),
                });
                skipped += length;
            }
            at += skipped.max(1) as u64;
        }
    }
}

/// A record that is stored as it is.
fn raw(offset: u64, length: usize) -> Extent {
    let bytes = u32::try_from(length).unwrap_or(u32::MAX);
    Extent {
        offset,
        stored: bytes,
        bytes,
        encoding: Encoding::Raw,
    }
}

/// What is looked for between the records that are known.
struct Sought<'a> {
    wanted: &'a HashMap<ChunkId, u32>,
    /// The lengths of what is wanted, each once, the least first.
    lengths: Vec<usize>,
    /// What damaged lines name.
    named: HashSet<Digest>,
    decoder: Decoder,
    window: Window<'a>,
}

impl Sought<'_> {
    /// Finds the records between two places.
    fn fill(&mut self, gap: Gap, survey: &mut Survey) {
        let (from, to) = gap;
        let suspects = within(&survey.suspects, gap).to_vec();
        let guesses = within(&survey.guesses, gap).to_vec();
        // Where a record begins, if what is known of this place is right.
        let begun = suspects.iter().chain(&guesses);
        let mut places: Vec<u64> = begun.map(|entry| entry.extent.offset).collect();
        places.push(to);
        places.sort_unstable();
        let mut at = from;
        while at < to {
            let next = places[places.partition_point(|place| *place <= at)];
            let here = (at, at + 1);
            let is_lost = |lost: &&Entry| {
                let end = span(lost).1;
                lost.kind == Kind::Chunk && end > at && places.binary_search(&end).is_ok()
            };
            at = if let Some(entry) = self.chunk(at, next, to) {
                survey.entries.push(entry);
                span(&entry).1
            } else if let Some(guess) = within(&guesses, here).first() {
                span(guess).1
            } else if let Some(entry) = self.frame(at, to) {
                survey.entries.push(entry);
                span(&entry).1
            } else if let Some(lost) = within(&suspects, here).iter().find(is_lost) {
                survey.lost_chunks += 1;
                span(lost).1
            } else {
                survey.unexplained += next - at;
                next
            };
        }
    }

    /// The chunk that begins here and is stored as it is.
    fn chunk(&mut self, at: u64, next: u64, end: u64) -> Option<Entry> {
        let bytes = self.window.from(at, end);
        let is_wanted = |id: &ChunkId, length: usize| {
            let bytes = self.wanted.get(id);
            bytes.is_some_and(|bytes| *bytes as usize == length)
        };
        let entry = |length: usize, id| Entry {
            kind: Kind::Chunk,
            extent: raw(at, length),
            id,
        };
        // Most often it is one line that is damaged, and so the next record's place says where this one ends.
        let alone = usize::try_from(next - at).unwrap_or(usize::MAX);
        if let Some(bytes) = bytes.get(..alone)
            && description(bytes).is_none_or(|(_, length)| length != alone)
        {
            let id = Digest::blake3(bytes);
            if self.named.contains(&id) || is_wanted(&id, alone) {
                return Some(entry(alone, id));
            }
        }
        let mut hasher = blake3::Hasher::new();
        let mut hashed = 0;
        for length in &self.lengths {
            hasher.update(bytes.get(hashed..*length)?);
            hashed = *length;
            let id = Digest::from(*hasher.finalize().as_bytes());
            if is_wanted(&id, hashed) {
                return Some(entry(hashed, id));
            }
        }
        None
    }

    /// The compressed chunk that begins here.
    fn frame(&mut self, at: u64, end: u64) -> Option<Entry> {
        use zstd::zstd_safe::{find_frame_compressed_size, get_frame_content_size};

        let bytes = self.window.from(at, end);
        if !bytes.starts_with(&FRAME_BEGINS) {
            return None;
        }
        let stored = find_frame_compressed_size(bytes).ok()?;
        let extent = Extent {
            offset: at,
            stored: u32::try_from(stored).ok()?,
            bytes: u32::try_from(get_frame_content_size(bytes).ok()??).ok()?,
            encoding: Encoding::Zstd,
        };
        if extent.bytes > MAX_RECORD_BYTES {
            return None;
        }
        let stored = bytes.get(..stored)?.to_vec();
        let bytes = self.decoder.decode(stored, extent).ok()?;
        (bytes.len() == extent.bytes as usize).then(|| Entry {
            kind: Kind::Chunk,
            extent,
            id: Digest::blake3(&bytes),
        })
    }
}
