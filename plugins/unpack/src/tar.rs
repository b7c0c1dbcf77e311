//! A strict reader of tar archives: ustar, GNU and PAX.
//!
//! It accepts what today's writers make and refuses what two readers could take for two things. An entry's
//! size is given once or consistently; extended headers do not repeat, mix or apply to the whole archive; the
//! archive ends with two zero blocks, and nothing but zeros follows.

mod header;
mod pax;

use std::io::BufRead;

pub(crate) use self::header::BLOCK;
use self::header::{Header, Type};
use self::pax::Extended;
use crate::Error;
use crate::extraction::{Entry, EntryKind, Extraction};
use crate::input::{fill, skip, truncated};
use crate::refusal::{Reason, Refused, shown};

/// The most bytes of one extended header. Writers stay below a few thousand; the host's memory is not theirs.
const LONGEST_EXTENSION: u64 = 1024 * 1024;

/// The most zeros after the end: writers pad to records, of 10 KiB as a rule and of 1 MiB at the most.
const LONGEST_PADDING: u64 = 1024 * 1024;

/// Whether a package can begin like this.
pub(crate) fn begins(head: &[u8]) -> bool {
    let Ok(block) = <&[u8; BLOCK]>::try_from(head) else {
        return false;
    };
    is_zero(block) || Header::parse(block).is_ok()
}

/// Reads an archive to its end, and the input to its own.
pub(crate) fn extract(input: &mut dyn BufRead, extraction: &mut Extraction) -> Result<(), Error> {
    let mut block = [0; BLOCK];
    let mut extended = Extended::default();
    let mut first = true;
    loop {
        if input.fill_buf()?.is_empty() {
            return Err(truncated("the archive, before its end mark").into());
        }
        fill(input, &mut block, "a tar header")?;
        if is_zero(&block) {
            extended.nothing_pending()?;
            return end(input, &mut block);
        }
        let header = Header::parse(&block).map_err(|refused| {
            // Behind a decoder nobody has looked at the first block yet.
            if first {
                Refused::new(
                    Reason::FormatUnknown,
                    "what the package decompresses to is no tar archive",
                )
            } else {
                refused
            }
        })?;
        first = false;
        match header.kind {
            Type::Extended(scope) => {
                extraction.count_entry()?;
                let text = extension(input, header.size)?;
                extended.read(&text, scope)?;
            }
            Type::LongName | Type::LongLink => {
                extraction.count_entry()?;
                let text = extension(input, header.size)?;
                extended.gnu(&text, header.kind == Type::LongName)?;
            }
            _ => entry(input, extraction, &header, &std::mem::take(&mut extended))?,
        }
    }
}

/// Reads one entry, of which the extended headers before it say more.
fn entry(
    input: &mut dyn BufRead,
    extraction: &mut Extraction,
    header: &Header,
    extended: &Extended,
) -> Result<(), Error> {
    let own_name;
    let name = match &extended.path {
        Some(path) => path.as_slice(),
        None => {
            own_name = header.name()?;
            &own_name
        }
    };
    let own_link;
    let link = match &extended.link {
        Some(link) => link.as_slice(),
        None => {
            own_link = header.link()?;
            own_link
        }
    };
    if extended.sparse {
        return Err(sparse(name).into());
    }
    let size = extended.size(header, name)?;
    let kind = match header.kind {
        Type::File => EntryKind::File(size),
        // Before POSIX a directory was a file whose name ends in a slash; to some readers it still is.
        Type::OldFile if name.ends_with(b"/") => EntryKind::Directory,
        Type::OldFile => EntryKind::File(size),
        Type::Directory => EntryKind::Directory,
        Type::Symlink => EntryKind::Symlink(link),
        Type::HardLink => EntryKind::HardLink(link),
        Type::Sparse => return Err(sparse(name).into()),
        Type::Special(what) => {
            return Err(
                Refused::new(Reason::SpecialFile, format!("{} is {what}", shown(name))).into(),
            );
        }
        Type::Unknown(letter) => {
            return Err(Refused::new(
                Reason::EntryUnknown,
                format!(
                    "{} is an entry of the unknown type {}",
                    shown(name),
                    shown([letter])
                ),
            )
            .into());
        }
        Type::Extended(_) | Type::LongName | Type::LongLink => {
            unreachable!("extended headers are read before")
        }
    };
    if size > 0 && !matches!(kind, EntryKind::File(_)) {
        return Err(Refused::new(
            Reason::EntryWithData,
            format!(
                "{} is no file and has {size} bytes, which some readers take for the next entry",
                shown(name)
            ),
        )
        .into());
    }
    let mode = header.mode;
    extraction.entry(&Entry { name, mode, kind }, input)?;
    skip(input, padding(size), "an entry's padding")?;
    Ok(())
}

/// The contents of an extended header.
fn extension(input: &mut dyn BufRead, size: u64) -> Result<Vec<u8>, Error> {
    let len = usize::try_from(size)
        .ok()
        .filter(|_| size <= LONGEST_EXTENSION)
        .ok_or_else(|| {
            Refused::new(
                Reason::HeaderInvalid,
                format!("an extended header has {size} bytes; the most is {LONGEST_EXTENSION}"),
            )
        })?;
    let mut text = vec![0; len];
    fill(input, &mut text, "an extended header")?;
    skip(input, padding(size), "an extended header's padding")?;
    Ok(text)
}

/// After the first zero block: a second one, and then zeros only, until the input ends.
fn end(input: &mut dyn BufRead, block: &mut [u8; BLOCK]) -> Result<(), Error> {
    fill(input, block, "its end mark, which is two blocks of zeros")?;
    let mut zeros = 0;
    let mut clean = is_zero(block);
    while clean {
        let rest = input.fill_buf()?;
        if rest.is_empty() {
            return Ok(());
        }
        let len = rest.len();
        clean = rest.iter().all(|byte| *byte == 0);
        input.consume(len);
        zeros += len as u64;
        clean &= zeros <= LONGEST_PADDING;
    }
    Err(Refused::new(
        Reason::TrailingData,
        "something follows the end of the archive; a reader that goes on would find more files",
    )
    .into())
}

fn sparse(name: &[u8]) -> Refused {
    Refused::new(
        Reason::Sparse,
        format!(
            "{} is a sparse file; write the archive without --sparse",
            shown(name)
        ),
    )
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|byte| *byte == 0)
}
