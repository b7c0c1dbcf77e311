//! Tar archives, made by hand so that they can be wrong.

use std::io::Write as _;

/// One header, of which every field can be set.
#[derive(Clone)]
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) link: Vec<u8>,
    pub(crate) prefix: Vec<u8>,
    pub(crate) magic: [u8; 8],
}

pub(crate) fn header(name: impl AsRef<[u8]>, kind: u8) -> Header {
    Header {
        name: name.as_ref().to_vec(),
        kind,
        size: 0,
        mode: 0o644,
        link: Vec::new(),
        prefix: Vec::new(),
        magic: *b"ustar\x0000",
    }
}

impl Header {
    pub(crate) fn link(mut self, link: &str) -> Header {
        self.link = link.as_bytes().to_vec();
        self
    }

    pub(crate) fn mode(mut self, mode: u32) -> Header {
        self.mode = mode;
        self
    }

    pub(crate) fn size(mut self, size: u64) -> Header {
        self.size = size;
        self
    }

    pub(crate) fn block(&self) -> [u8; 512] {
        let mut block = [0; 512];
        block[..self.name.len()].copy_from_slice(&self.name);
        write!(&mut block[100..108], "{:07o}", self.mode).unwrap();
        write!(&mut block[108..116], "{:07o}", 0).unwrap();
        write!(&mut block[116..124], "{:07o}", 0).unwrap();
        if self.size < 1 << 33 {
            write!(&mut block[124..136], "{:011o}", self.size).unwrap();
        } else {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&self.size.to_be_bytes());
        }
        write!(&mut block[136..148], "{:011o}", 0).unwrap();
        block[156] = self.kind;
        block[157..157 + self.link.len()].copy_from_slice(&self.link);
        block[257..265].copy_from_slice(&self.magic);
        block[345..345 + self.prefix.len()].copy_from_slice(&self.prefix);
        checksum(&mut block);
        block
    }
}

/// Sets the checksum of a block that was made or changed by hand.
pub(crate) fn checksum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    write!(&mut block[148..155], "{sum:06o}\0").unwrap();
}

/// An archive in the making.
#[derive(Default, Clone)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Tar {
        Tar::default()
    }

    /// Bytes as they are, filled up to a whole block.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Tar {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// A header without data.
    pub(crate) fn head(self, header: &Header) -> Tar {
        self.raw(&header.block())
    }

    /// A header whose size is that of its data.
    pub(crate) fn entry(self, header: Header, data: &[u8]) -> Tar {
        let header = header.size(data.len() as u64);
        self.raw(&header.block()).raw(data)
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, data: &str) -> Tar {
        self.entry(header(name, b'0'), data.as_bytes())
    }

    pub(crate) fn directory(self, name: &str) -> Tar {
        self.head(&header(name, b'5').mode(0o755))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Tar {
        self.head(&header(name, b'2').link(target))
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Tar {
        self.head(&header(name, b'1').link(target))
    }

    /// A PAX header: `x` for the next entry, `g` for all.
    pub(crate) fn pax(self, kind: u8, records: &[(&str, &str)]) -> Tar {
        let text: String = records
            .iter()
            .map(|(key, value)| record(key, value))
            .collect();
        self.entry(header("PaxHeaders/x", kind), text.as_bytes())
    }

    /// A GNU long name (`L`) or long link target (`K`).
    pub(crate) fn gnu(self, kind: u8, text: &str) -> Tar {
        let mut header = header("././@LongLink", kind);
        header.magic = *b"ustar  \0";
        self.entry(header, format!("{text}\0").as_bytes())
    }

    /// The archive with its end mark.
    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }

    /// The archive as it is.
    pub(crate) fn cut(self) -> Vec<u8> {
        self.0
    }
}

fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut len = rest.len() + 1;
    while len != rest.len() + len.to_string().len() {
        len = rest.len() + len.to_string().len();
    }
    format!("{len}{rest}")
}
