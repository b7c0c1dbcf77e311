//! The blocks that come before an entry's content.
//!
//! Names of up to 100 bytes, or that split at a slash into 155 and 100, fit a ustar header; longer ones get a
//! PAX record, and nothing of GNU's is used for names. A size past 8 GiB is written in base 256, as every
//! tar reads it, rather than twice (in PAX and in the header), where readers could disagree.

use tar::{EntryType, Header};

use super::{Entry, Kind};

/// The unit of a tar stream.
pub(super) const BLOCK: usize = 512;

/// What ends a tar stream: two blocks of zeros.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

const NAME: usize = 100;
const PREFIX: usize = 155;

/// Bytes of padding after a content of `bytes`.
pub(super) fn padding(bytes: u64) -> usize {
    let over = usize::try_from(bytes % BLOCK as u64).expect("less than a block");
    if over == 0 { 0 } else { BLOCK - over }
}

/// Everything that comes before the content of `entry`: its header, and a PAX record when names are long.
pub(super) fn blocks(entry: &Entry) -> Vec<u8> {
    let (kind, mode, size) = match &entry.kind {
        Kind::Directory => (EntryType::Directory, 0o755, 0),
        Kind::File { bytes, executable } => {
            let mode = if *executable { 0o755 } else { 0o644 };
            (EntryType::Regular, mode, *bytes)
        }
        Kind::Link { .. } => (EntryType::Symlink, 0o777, 0),
    };
    let mut name = entry.path.clone();
    if kind == EntryType::Directory {
        name.push('/');
    }

    let mut header = blank(kind, mode, size);
    let mut records = Vec::new();
    if !put_name(&mut header, name.as_bytes()) {
        record(&mut records, "path", &name);
        put(&mut name_field(&mut header)[..], cut(&name));
    }
    if let Kind::Link { target } = &entry.kind {
        if target.len() > NAME {
            record(&mut records, "linkpath", target);
        }
        put(&mut ustar(&mut header).linkname[..], cut(target));
    }
    header.set_cksum();

    let mut out = Vec::with_capacity(3 * BLOCK);
    if !records.is_empty() {
        let mut pax = blank(EntryType::XHeader, 0o644, records.len() as u64);
        put(&mut name_field(&mut pax)[..], b"PaxHeader");
        pax.set_cksum();
        out.extend_from_slice(pax.as_bytes());
        out.extend_from_slice(&records);
        out.resize(out.len() + padding(records.len() as u64), 0);
    }
    out.extend_from_slice(header.as_bytes());
    out
}

/// A header that says nothing about whose file this was, or when.
fn blank(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    let fields = ustar(&mut header);
    put(&mut fields.dev_major[..], b"0000000");
    put(&mut fields.dev_minor[..], b"0000000");
    header
}

fn ustar(header: &mut Header) -> &mut tar::UstarHeader {
    header
        .as_ustar_mut()
        .expect("it was made as a ustar header")
}

fn name_field(header: &mut Header) -> &mut [u8; NAME] {
    &mut ustar(header).name
}

/// Writes `name` if a ustar header can hold it.
fn put_name(header: &mut Header, name: &[u8]) -> bool {
    let fields = ustar(header);
    if name.len() <= NAME {
        put(&mut fields.name[..], name);
        return true;
    }
    // The slash between the two halves is not stored. A directory's own last slash cannot be it.
    let split = name[..name.len() - 1]
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| at)
        .find(|at| *at <= PREFIX && name.len() - at - 1 <= NAME);
    let Some(at) = split else { return false };
    put(&mut fields.prefix[..], &name[..at]);
    put(&mut fields.name[..], &name[at + 1..]);
    true
}

fn put(field: &mut [u8], value: &[u8]) {
    field[..value.len()].copy_from_slice(value);
}

/// The start of a name that a field can hold, for readers that know no PAX.
fn cut(name: &str) -> &[u8] {
    &name.as_bytes()[..name.floor_char_boundary(NAME)]
}

/// Appends `length key=value\n`, whose length counts itself.
fn record(records: &mut Vec<u8>, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
}
