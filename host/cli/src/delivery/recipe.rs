//! A frame that takes bytes from the base: its recipe (docs/protocol.md).
//!
//! A chunk around an edit is mostly what was there before. The server has that, so only what was edited is sent.

/// The fewest bytes that are taken from the base at once: a block of a tar. Fewer are refused.
pub(super) const MIN_COPIED: u64 = 512;

/// Bytes of a chunk that the base has as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copied {
    /// Where they begin in the chunk.
    pub(super) at: usize,
    /// Where they begin in the base.
    pub(super) place: u64,
    pub(super) bytes: usize,
}

/// A frame that is being filled.
#[derive(Debug, Default)]
pub(super) struct Recipe {
    /// The numbers of each part: sent bytes, then bytes of the base, and where these begin there.
    parts: Vec<(u32, u32, u64)>,
    /// What is sent of all parts.
    sent: Vec<u8>,
    /// How much of that belongs to no part yet.
    open: u32,
    /// The bytes of the frame.
    bytes: u32,
}

impl Recipe {
    /// How many bytes the frame has.
    pub(super) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Appends a chunk, and says how many bytes of it are taken from the base.
    pub(super) fn push(&mut self, data: &[u8], copied: &[Copied]) -> u64 {
        let (mut at, mut spared) = (0, 0);
        for copy in copied {
            self.send(&data[at..copy.at]);
            let bytes = number(copy.bytes);
            self.parts
                .push((std::mem::take(&mut self.open), bytes, copy.place));
            self.bytes += bytes;
            at = copy.at + copy.bytes;
            spared += copy.bytes as u64;
        }
        self.send(&data[at..]);
        spared
    }

    fn send(&mut self, data: &[u8]) {
        self.sent.extend_from_slice(data);
        self.open += number(data.len());
        self.bytes += number(data.len());
    }

    /// What is stored, and whether that is a recipe or simply the frame's bytes.
    pub(super) fn take(&mut self) -> (Vec<u8>, bool) {
        let mut this = std::mem::take(self);
        if this.parts.is_empty() {
            return (this.sent, false);
        }
        if this.open > 0 {
            this.parts.push((this.open, 0, 0));
        }
        let mut recipe = Vec::with_capacity(4 + 16 * this.parts.len() + this.sent.len());
        recipe.extend_from_slice(&number(this.parts.len()).to_le_bytes());
        for (sent, copied, place) in this.parts {
            recipe.extend_from_slice(&sent.to_le_bytes());
            recipe.extend_from_slice(&copied.to_le_bytes());
            recipe.extend_from_slice(&place.to_le_bytes());
        }
        recipe.append(&mut this.sent);
        (recipe, true)
    }
}

/// A length within a frame, which has a mebibyte.
pub(super) fn number(length: usize) -> u32 {
    u32::try_from(length).expect("a part of a frame is shorter than 4 GiB")
}
