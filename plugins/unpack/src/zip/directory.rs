//! The directory at a zip's end.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use super::layout;
use crate::Error;
use crate::refusal::{Reason, Refused, shown};

/// The end record without its comment.
const END: usize = 22;

/// The most bytes of a comment, by the width of its length.
const LONGEST_COMMENT: u64 = 0xFFFF;

/// The zip64 end record, in the one version that is written.
const END_64: usize = 56;

/// What points to it.
const LOCATOR_64: usize = 20;

/// One member in the directory, without its name and the rest.
const MEMBER: usize = 46;

/// The most bytes of a directory: half a million members with long names, and a fraction of a step's memory.
const LONGEST: u64 = 64 * 1024 * 1024;

/// One member, as the directory describes it.
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    pub(super) flags: u16,
    pub(super) method: Method,
    pub(super) crc: u32,
    pub(super) compressed: u64,
    pub(super) size: u64,
    /// Where its local header begins.
    pub(super) offset: u64,
    /// The Unix mode, when it was written on a system that has them.
    pub(super) mode: Option<u32>,
    /// The directory bit of the DOS attributes.
    pub(super) dos_directory: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Stored,
    Deflate,
}

/// The whole directory.
pub(super) struct Directory {
    /// In the order of their data.
    pub(super) members: Vec<Member>,
    /// Where the directory begins, and with it the data ends.
    pub(super) offset: u64,
}

/// Finds the directory by the end record and reads it.
pub(super) fn read(file: &mut File, len: u64) -> Result<Directory, Error> {
    let (end, end_at) = end_record(file, len)?;
    let here = extent(file, &end, end_at)?;
    if here.offset.checked_add(here.size) != Some(here.end) {
        return Err(layout(format!(
            "the directory is said to be {} bytes from byte {}, and its end record is at byte {}",
            here.size, here.offset, here.end
        ))
        .into());
    }
    if here.size > LONGEST {
        return Err(layout(format!(
            "the directory has {} bytes; the most is {LONGEST}",
            here.size
        ))
        .into());
    }
    let mut bytes = vec![0; usize::try_from(here.size).unwrap_or(0)];
    read_at(file, here.offset, &mut bytes)?;
    let mut rest = bytes.as_slice();
    let mut members = Vec::new();
    while !rest.is_empty() {
        members.push(member(&mut rest)?);
    }
    if members.len() as u64 != here.count {
        return Err(layout(format!(
            "the directory has {} members and its end record says {}",
            members.len(),
            here.count
        ))
        .into());
    }
    members.sort_by_key(|member| member.offset);
    Ok(Directory {
        members,
        offset: here.offset,
    })
}

/// The one end record whose comment ends where the package does, and where it is.
fn end_record(file: &mut File, len: u64) -> Result<([u8; END], u64), Error> {
    let tail_len = len.min(END as u64 + LONGEST_COMMENT);
    let mut tail = vec![0; usize::try_from(tail_len).unwrap_or(0)];
    read_at(file, len - tail_len, &mut tail)?;
    let mut found = (0..tail.len().saturating_sub(END - 1)).filter(|at| {
        let record = &tail[*at..];
        record.starts_with(b"PK\x05\x06") && usize::from(u16_at(record, 20)) == record.len() - END
    });
    let Some(at) = found.next() else {
        return Err(Refused::new(
            Reason::Truncated,
            "the zip has no end record at its end: it is incomplete, or something was added to it",
        )
        .into());
    };
    if found.next().is_some() {
        return Err(layout("the zip has two end records".to_owned()).into());
    }
    let mut end = [0; END];
    end.copy_from_slice(&tail[at..at + END]);
    Ok((end, len - tail_len + at as u64))
}

/// Where the directory is, and what has to be right behind it.
struct Extent {
    offset: u64,
    size: u64,
    count: u64,
    end: u64,
}

/// What the end record says, with the help of the zip64 one where its numbers do not fit.
fn extent(file: &mut File, end: &[u8; END], end_at: u64) -> Result<Extent, Error> {
    if u16_at(end, 4) != 0 || u16_at(end, 6) != 0 || u16_at(end, 8) != u16_at(end, 10) {
        return Err(layout("the zip is one of several disks".to_owned()).into());
    }
    let short = Extent {
        offset: u64::from(u32_at(end, 16)),
        size: u64::from(u32_at(end, 12)),
        count: u64::from(u16_at(end, 10)),
        end: end_at,
    };
    let mut locator = [0; LOCATOR_64];
    let locator_at = end_at.checked_sub(LOCATOR_64 as u64);
    if let Some(at) = locator_at {
        read_at(file, at, &mut locator)?;
    }
    let Some(locator_at) = locator_at.filter(|_| locator.starts_with(b"PK\x06\x07")) else {
        if short.offset == 0xFFFF_FFFF || short.size == 0xFFFF_FFFF || short.count == 0xFFFF {
            return Err(
                layout("the zip's end record points to a missing zip64 one".to_owned()).into(),
            );
        }
        return Ok(short);
    };
    let at = u64_at(&locator, 8);
    if u32_at(&locator, 4) != 0 || at.checked_add(END_64 as u64) != Some(locator_at) {
        return Err(layout("the zip64 end record is not where it should be".to_owned()).into());
    }
    let mut record = [0; END_64];
    read_at(file, at, &mut record)?;
    let long = Extent {
        offset: u64_at(&record, 48),
        size: u64_at(&record, 40),
        count: u64_at(&record, 32),
        end: at,
    };
    let agree = |short: u64, none: u64, long: u64| short == none || short == long;
    if !record.starts_with(b"PK\x06\x06")
        || u64_at(&record, 4) != END_64 as u64 - 12
        || u32_at(&record, 16) != 0
        || u32_at(&record, 20) != 0
        || u64_at(&record, 24) != long.count
        || !agree(short.offset, 0xFFFF_FFFF, long.offset)
        || !agree(short.size, 0xFFFF_FFFF, long.size)
        || !agree(short.count, 0xFFFF, long.count)
    {
        return Err(layout("the zip's two end records disagree".to_owned()).into());
    }
    Ok(long)
}

/// Takes the first member off the directory.
fn member(rest: &mut &[u8]) -> Result<Member, Refused> {
    let cut = || layout("the zip's directory is damaged".to_owned());
    let (head, after) = rest.split_at_checked(MEMBER).ok_or_else(cut)?;
    if !head.starts_with(b"PK\x01\x02") {
        return Err(cut());
    }
    let (name, after) = after
        .split_at_checked(usize::from(u16_at(head, 28)))
        .ok_or_else(cut)?;
    let (extra, after) = after
        .split_at_checked(usize::from(u16_at(head, 30)))
        .ok_or_else(cut)?;
    let (_comment, after) = after
        .split_at_checked(usize::from(u16_at(head, 32)))
        .ok_or_else(cut)?;
    *rest = after;

    let flags = u16_at(head, 8);
    let method = u16_at(head, 10);
    let attributes = u32_at(head, 38);
    judge_flags(name, flags)?;
    let extra = Extra::parse(name, extra)?;
    judge_encoding(name, flags, &extra)?;
    let mut wide = extra.zip64.unwrap_or_default();
    let size = widened(name, u32_at(head, 24), &mut wide)?;
    let compressed = widened(name, u32_at(head, 20), &mut wide)?;
    let offset = widened(name, u32_at(head, 42), &mut wide)?;
    if u16_at(head, 34) != 0 {
        return Err(layout(format!("{} is on another disk", shown(name))));
    }
    Ok(Member {
        name: name.to_vec(),
        flags,
        method: match method {
            0 if size == compressed => Method::Stored,
            0 => {
                return Err(Refused::new(
                    Reason::SizeDisagrees,
                    format!("{} is stored and has two different sizes", shown(name)),
                ));
            }
            8 => Method::Deflate,
            other => {
                return Err(Refused::new(
                    Reason::ZipMethod,
                    format!(
                        "{} is compressed by method {other}; stored and deflate are taken",
                        shown(name)
                    ),
                ));
            }
        },
        crc: u32_at(head, 16),
        compressed,
        size,
        offset,
        // The upper byte says on which system it was made: 3 is Unix, 19 is macOS.
        mode: matches!(head[5], 3 | 19).then_some(attributes >> 16),
        dos_directory: attributes & 0x10 != 0,
    })
}

fn judge_flags(name: &[u8], flags: u16) -> Result<(), Refused> {
    /// Bit 0 is encryption, 6 strong encryption, 13 a masked directory.
    const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
    /// Bits 1 and 2 are the compressor's effort, 3 a data descriptor, 11 a name in UTF-8.
    const KNOWN: u16 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 11;

    if flags & ENCRYPTED != 0 {
        return Err(Refused::new(
            Reason::ZipEncrypted,
            format!("{} is encrypted", shown(name)),
        ));
    }
    if flags & !KNOWN != 0 {
        return Err(Refused::new(
            Reason::ZipMethod,
            format!(
                "{} has the unknown flags {:#06x}",
                shown(name),
                flags & !KNOWN
            ),
        ));
    }
    Ok(())
}

/// A name beyond ASCII has to say that it is UTF-8: by its flag, or by Info-ZIP's extra field, which must
/// then hold the very same name.
fn judge_encoding(name: &[u8], flags: u16, extra: &Extra<'_>) -> Result<(), Refused> {
    if extra.unicode_name.is_some_and(|unicode| unicode != name) {
        return Err(Refused::new(
            Reason::ZipDisagrees,
            format!("{} has another name in an extra field", shown(name)),
        ));
    }
    if name.is_ascii() || flags & 1 << 11 != 0 || extra.unicode_name.is_some() {
        return Ok(());
    }
    Err(Refused::new(
        Reason::NameNotUtf8,
        format!("the name {} does not say that it is UTF-8", shown(name)),
    ))
}

/// The extra fields that matter.
#[derive(Default)]
pub(super) struct Extra<'b> {
    pub(super) zip64: Option<&'b [u8]>,
    unicode_name: Option<&'b [u8]>,
}

impl<'b> Extra<'b> {
    pub(super) fn parse(name: &[u8], mut bytes: &'b [u8]) -> Result<Extra<'b>, Refused> {
        let damaged = || {
            layout(format!(
                "the extra fields of {} are damaged or repeated",
                shown(name)
            ))
        };
        let mut extra = Extra::default();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at_checked(4).ok_or_else(damaged)?;
            let (field, rest) = rest
                .split_at_checked(usize::from(u16_at(head, 2)))
                .ok_or_else(damaged)?;
            bytes = rest;
            let slot = match u16_at(head, 0) {
                0x0001 => &mut extra.zip64,
                0x7075 => &mut extra.unicode_name,
                _ => continue,
            };
            // Info-ZIP's field: a version, a checksum of the other name, the name.
            let field = if u16_at(head, 0) == 0x7075 {
                field.get(5..).ok_or_else(damaged)?
            } else {
                field
            };
            if slot.replace(field).is_some() {
                return Err(damaged());
            }
        }
        Ok(extra)
    }
}

/// A number of four bytes, or the next eight of the zip64 field when those are all ones.
pub(super) fn widened(name: &[u8], narrow: u32, wide: &mut &[u8]) -> Result<u64, Refused> {
    if narrow != u32::MAX {
        return Ok(u64::from(narrow));
    }
    let (value, rest) = wide
        .split_at_checked(8)
        .ok_or_else(|| layout(format!("{} lacks its zip64 sizes", shown(name))))?;
    *wide = rest;
    Ok(u64_at(value, 0))
}

fn read_at(file: &mut File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            layout("the zip's directory is not inside the package".to_owned()).into_io()
        }
        _ => error,
    })
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
