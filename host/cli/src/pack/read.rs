//! Reading a planned directory's tar stream from any place.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Entry, Error, Kind, Plan, header};

/// The bytes of a planned tar stream, wherever they are asked for.
pub(crate) struct PlanReader<'a> {
    plan: &'a Plan,
    /// Where each entry begins, and after the last one where the stream's end does.
    starts: Vec<u64>,
    /// The entry that was read last, its blocks and its file.
    open: Option<Open>,
}

struct Open {
    at: usize,
    blocks: Vec<u8>,
    file: Option<File>,
}

impl<'a> PlanReader<'a> {
    pub(crate) fn new(plan: &'a Plan) -> PlanReader<'a> {
        let mut starts = Vec::with_capacity(plan.entries.len() + 1);
        let mut start = 0;
        for entry in &plan.entries {
            starts.push(start);
            start += entry.tar_bytes;
        }
        starts.push(start);
        PlanReader {
            plan,
            starts,
            open: None,
        }
    }

    /// Appends bytes of the stream from byte `at` on to `out`: at least one and at most `most`; none at its end.
    ///
    /// # Errors
    ///
    /// As for [`Plan::write`].
    pub(crate) fn read_at(&mut self, at: u64, most: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        // The last entry that begins here or before; every entry has bytes.
        let index = self.starts.partition_point(|start| *start <= at);
        let index = index.saturating_sub(1);
        let within = at - self.starts[index];
        let Some(entry) = self.plan.entries.get(index) else {
            let end = &header::END;
            let from = usize::try_from(within).unwrap_or(end.len()).min(end.len());
            let length = most.min(end.len() - from);
            out.extend_from_slice(&end[from..from + length]);
            return Ok(());
        };
        let open = match self.open.take().filter(|open| open.at == index) {
            Some(open) => open,
            None => self.plan.open(index, entry)?,
        };
        let open = self.open.insert(open);
        let blocks = open.blocks.len() as u64;
        if let Ok(from) = usize::try_from(within)
            && from < open.blocks.len()
        {
            let length = most.min(open.blocks.len() - from);
            out.extend_from_slice(&open.blocks[from..from + length]);
            return Ok(());
        }
        let (Kind::File { bytes, .. }, Some(file)) = (&entry.kind, &open.file) else {
            return Ok(());
        };
        let from = within - blocks;
        if from >= *bytes {
            let padding = usize::try_from(entry.tar_bytes - within).unwrap_or(usize::MAX);
            out.extend_from_slice(&header::END[..padding.min(most)]);
            return Ok(());
        }
        let length = usize::try_from(bytes - from)
            .unwrap_or(usize::MAX)
            .min(most);
        let begun = out.len();
        out.resize(begun + length, 0);
        file.read_exact_at(&mut out[begun..], from)
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::UnexpectedEof => entry.changed("shrank"),
                _ => self.plan.unreadable(entry, source),
            })
    }
}

impl Plan {
    fn open(&self, at: usize, entry: &Entry) -> Result<Open, Error> {
        let file = match &entry.kind {
            Kind::File { bytes, .. } => Some(self.open_file(entry, *bytes)?),
            Kind::Directory | Kind::Link { .. } => None,
        };
        Ok(Open {
            at,
            blocks: header::blocks(entry),
            file,
        })
    }

    fn open_file(&self, entry: &Entry, bytes: u64) -> Result<File, Error> {
        let failed = |source| self.unreadable(entry, source);
        let file = File::open(self.root.join(&entry.path)).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(entry.changed("stopped being a file"));
        }
        match metadata.len().cmp(&bytes) {
            std::cmp::Ordering::Less => Err(entry.changed("shrank")),
            std::cmp::Ordering::Equal => Ok(file),
            std::cmp::Ordering::Greater => Err(entry.changed("grew")),
        }
    }
}
