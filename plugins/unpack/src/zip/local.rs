//! What stands before and after a member's data, and has to say what the directory says.

use std::io::BufRead;

use super::directory::{Extra, Member, Method, u16_at, u32_at, u64_at, widened};
use super::layout;
use crate::Error;
use crate::input::fill;
use crate::refusal::{Reason, Refused, shown};

/// A local header without its name and extra fields.
const HEADER: usize = 30;

/// The flag of a member whose sizes come after its data.
const HAS_DESCRIPTOR: u16 = 1 << 3;

/// A local header that agrees with the directory.
pub(super) struct Header {
    /// Its bytes, name and extra fields included.
    pub(super) len: u64,
    /// Whether the sizes follow the data.
    pub(super) has_descriptor: bool,
}

/// Reads the header that is next and compares it.
pub(super) fn read(input: &mut dyn BufRead, member: &Member) -> Result<Header, Error> {
    let disagrees = |what: &str| {
        Error::from(Refused::new(
            Reason::ZipDisagrees,
            format!(
                "{} has another {what} in its own header than in the zip's directory",
                shown(&member.name)
            ),
        ))
    };
    let mut head = [0; HEADER];
    fill(input, &mut head, "a zip header")?;
    if !head.starts_with(b"PK\x03\x04") {
        return Err(layout(format!(
            "there is no header where {} begins",
            shown(&member.name)
        ))
        .into());
    }
    let mut name = vec![0; usize::from(u16_at(&head, 26))];
    fill(input, &mut name, "a zip header")?;
    let mut extra = vec![0; usize::from(u16_at(&head, 28))];
    fill(input, &mut extra, "a zip header")?;
    if name != member.name {
        return Err(disagrees("name"));
    }
    if u16_at(&head, 6) != member.flags {
        return Err(disagrees("set of flags"));
    }
    let method = match member.method {
        Method::Stored => 0,
        Method::Deflate => 8,
    };
    if u16_at(&head, 8) != method {
        return Err(disagrees("compression"));
    }
    let has_descriptor = member.flags & HAS_DESCRIPTOR != 0;
    let mut wide = Extra::parse(&name, &extra)?.zip64.unwrap_or_default();
    let size = widened(&name, u32_at(&head, 22), &mut wide)?;
    let compressed = widened(&name, u32_at(&head, 18), &mut wide)?;
    // With a descriptor the writer did not know these yet, and wrote zeros.
    let agrees = |here: u64, there: u64| here == there || (has_descriptor && here == 0);
    if !agrees(size, member.size) || !agrees(compressed, member.compressed) {
        return Err(disagrees("size"));
    }
    if !agrees(u64::from(u32_at(&head, 14)), u64::from(member.crc)) {
        return Err(disagrees("checksum"));
    }
    Ok(Header {
        len: (HEADER + name.len() + extra.len()) as u64,
        has_descriptor,
    })
}

/// Reads the descriptor after a member's data, which fills the `len` bytes up to whatever is next. Its
/// signature is optional, and its sizes have four bytes or eight: the length tells which.
pub(super) fn descriptor(input: &mut dyn BufRead, member: &Member, len: u64) -> Result<(), Error> {
    let wrong = || {
        Error::from(Refused::new(
            Reason::ZipDisagrees,
            format!(
                "what follows the data of {} is not what the zip's directory says of it",
                shown(&member.name)
            ),
        ))
    };
    let len = usize::try_from(len)
        .ok()
        .filter(|len| matches!(len, 12 | 16 | 20 | 24))
        .ok_or_else(wrong)?;
    let mut bytes = vec![0; len];
    fill(input, &mut bytes, "a zip descriptor")?;
    let fields = match len {
        16 | 24 => bytes.strip_prefix(b"PK\x07\x08").ok_or_else(wrong)?,
        _ => &bytes,
    };
    let (compressed, size) = if fields.len() == 12 {
        (u64::from(u32_at(fields, 4)), u64::from(u32_at(fields, 8)))
    } else {
        (u64_at(fields, 4), u64_at(fields, 12))
    };
    if u32_at(fields, 0) != member.crc || compressed != member.compressed || size != member.size {
        return Err(wrong());
    }
    Ok(())
}
