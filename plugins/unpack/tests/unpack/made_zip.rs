//! Zip archives, made by hand so that they can be wrong.

use std::io::Write as _;

use crc32fast::hash;
use flate2::Compression;
use flate2::write::DeflateEncoder;

/// One member. What the local header says is set apart from what the directory says.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) local: Said,
    pub(crate) central: Said,
    /// What is really there, between the local header and whatever is next.
    pub(crate) data: Vec<u8>,
    pub(crate) descriptor: Vec<u8>,
    pub(crate) mode: Option<u32>,
    pub(crate) dos_directory: bool,
}

/// What a header says.
#[derive(Clone)]
pub(crate) struct Said {
    pub(crate) name: Vec<u8>,
    pub(crate) flags: u16,
    pub(crate) method: u16,
    pub(crate) crc: u32,
    pub(crate) compressed: u32,
    pub(crate) size: u32,
    pub(crate) extra: Vec<u8>,
}

impl Member {
    fn new(name: impl AsRef<[u8]>, method: u16, content: &[u8], data: Vec<u8>) -> Member {
        let said = Said {
            name: name.as_ref().to_vec(),
            flags: 1 << 11,
            method,
            crc: hash(content),
            compressed: data.len() as u32,
            size: content.len() as u32,
            extra: Vec::new(),
        };
        Member {
            local: said.clone(),
            central: said,
            data,
            descriptor: Vec::new(),
            mode: Some(0o100_644),
            dos_directory: false,
        }
    }

    pub(crate) fn stored(name: impl AsRef<[u8]>, content: &str) -> Member {
        Member::new(name, 0, content.as_bytes(), content.into())
    }

    pub(crate) fn deflated(name: &str, content: &str) -> Member {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content.as_bytes()).unwrap();
        Member::new(name, 8, content.as_bytes(), encoder.finish().unwrap())
    }

    pub(crate) fn mode(mut self, mode: u32) -> Member {
        self.mode = Some(mode);
        self
    }

    /// Changes what both headers say.
    pub(crate) fn both(mut self, change: impl Fn(&mut Said)) -> Member {
        change(&mut self.local);
        change(&mut self.central);
        self
    }

    /// Writes the sizes after the data, as writers do that cannot seek.
    pub(crate) fn streamed(self, signature: bool, wide: bool) -> Member {
        let mut member = self.both(|said| said.flags |= 1 << 3);
        (member.local.crc, member.local.compressed, member.local.size) = (0, 0, 0);
        let said = &member.central;
        if signature {
            member.descriptor.extend_from_slice(b"PK\x07\x08");
        }
        member.descriptor.extend_from_slice(&said.crc.to_le_bytes());
        for size in [said.compressed, said.size] {
            member.descriptor.extend_from_slice(&size.to_le_bytes());
            if wide {
                member.descriptor.extend_from_slice(&[0; 4]);
            }
        }
        member
    }
}

fn common(out: &mut Vec<u8>, said: &Said) {
    out.extend_from_slice(&20_u16.to_le_bytes());
    out.extend_from_slice(&said.flags.to_le_bytes());
    out.extend_from_slice(&said.method.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&said.crc.to_le_bytes());
    out.extend_from_slice(&said.compressed.to_le_bytes());
    out.extend_from_slice(&said.size.to_le_bytes());
    out.extend_from_slice(&(said.name.len() as u16).to_le_bytes());
    out.extend_from_slice(&(said.extra.len() as u16).to_le_bytes());
}

/// The parts of an archive, in the order they have in it.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) data: Vec<u8>,
    pub(crate) directory: Vec<u8>,
    pub(crate) count: u16,
    pub(crate) comment: Vec<u8>,
}

pub(crate) fn parts(members: &[Member]) -> Parts {
    let mut data = Vec::new();
    let mut directory = Vec::new();
    for member in members {
        let offset = data.len() as u32;
        data.extend_from_slice(b"PK\x03\x04");
        common(&mut data, &member.local);
        data.extend_from_slice(&member.local.name);
        data.extend_from_slice(&member.local.extra);
        data.extend_from_slice(&member.data);
        data.extend_from_slice(&member.descriptor);

        directory.extend_from_slice(b"PK\x01\x02");
        directory.extend_from_slice(&[20, if member.mode.is_some() { 3 } else { 0 }]);
        common(&mut directory, &member.central);
        directory.extend_from_slice(&[0; 6]);
        let attributes = member.mode.unwrap_or(0) << 16 | u32::from(member.dos_directory) << 4;
        directory.extend_from_slice(&attributes.to_le_bytes());
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(&member.central.name);
        directory.extend_from_slice(&member.central.extra);
    }
    Parts {
        data,
        directory,
        count: members.len() as u16,
        comment: Vec::new(),
    }
}

impl Parts {
    pub(crate) fn end_record(&self) -> Vec<u8> {
        let mut end = b"PK\x05\x06\0\0\0\0".to_vec();
        end.extend_from_slice(&self.count.to_le_bytes());
        end.extend_from_slice(&self.count.to_le_bytes());
        end.extend_from_slice(&(self.directory.len() as u32).to_le_bytes());
        end.extend_from_slice(&(self.data.len() as u32).to_le_bytes());
        end.extend_from_slice(&(self.comment.len() as u16).to_le_bytes());
        end.extend_from_slice(&self.comment);
        end
    }

    pub(crate) fn whole(&self) -> Vec<u8> {
        [&self.data[..], &self.directory, &self.end_record()].concat()
    }

    /// With a zip64 end record and its locator, and a short one that leaves everything to them.
    pub(crate) fn whole_64(&self) -> Vec<u8> {
        let mut bytes = [&self.data[..], &self.directory].concat();
        let at = bytes.len() as u64;
        bytes.extend_from_slice(b"PK\x06\x06");
        bytes.extend_from_slice(&44_u64.to_le_bytes());
        bytes.extend_from_slice(&[45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for number in [
            u64::from(self.count),
            u64::from(self.count),
            self.directory.len() as u64,
            self.data.len() as u64,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(b"PK\x06\x07\0\0\0\0");
        bytes.extend_from_slice(&at.to_le_bytes());
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0");
        bytes.extend_from_slice(&[0xFF; 12]);
        bytes.extend_from_slice(&[0; 2]);
        bytes
    }
}

pub(crate) fn zip(members: &[Member]) -> Vec<u8> {
    parts(members).whole()
}
