//! One header block.

use std::borrow::Cow;

use super::pax::Scope;
use crate::refusal::{Reason, Refused, shown};

/// The unit of everything in a tar archive, in bytes.
pub(crate) const BLOCK: usize = 512;

/// What a header is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    File,
    /// A file as before POSIX, which is a directory when its name ends in a slash.
    OldFile,
    HardLink,
    Symlink,
    Directory,
    Sparse,
    Special(&'static str),
    Extended(Scope),
    LongName,
    LongLink,
    Unknown(u8),
}

/// Whose rules the fields after the link's name follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// None: there are no such fields.
    Old,
    /// The name's beginning may be in `prefix`.
    Ustar,
    /// Other things are where ustar has `prefix`.
    Gnu,
}

/// A header whose checksum is right and whose numbers are numbers.
pub(super) struct Header<'b> {
    block: &'b [u8; BLOCK],
    dialect: Dialect,
    pub(super) kind: Type,
    pub(super) size: u64,
    pub(super) mode: u32,
}

impl<'b> Header<'b> {
    pub(super) fn parse(block: &'b [u8; BLOCK]) -> Result<Header<'b>, Refused> {
        let invalid = |what: &str| {
            let name = shown(text(&block[..100]).unwrap_or(b"?"));
            Refused::new(
                Reason::HeaderInvalid,
                format!("the header of {name} has {what}"),
            )
        };
        // The checksum counts its own field as spaces.
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| {
                u64::from(if (148..156).contains(&at) {
                    b' '
                } else {
                    *byte
                })
            })
            .sum();
        if number(&block[148..156]) != Some(sum) {
            return Err(invalid("a wrong checksum"));
        }
        let dialect = match &block[257..265] {
            b"ustar  \0" => Dialect::Gnu,
            b"ustar\x0000" | b"ustar\0\0\0" => Dialect::Ustar,
            magic if magic.iter().all(|byte| *byte == 0) => Dialect::Old,
            _ => return Err(invalid("an unknown magic number")),
        };
        let size = number(&block[124..136]).ok_or_else(|| invalid("a size that is no number"))?;
        if size > i64::MAX as u64 {
            return Err(invalid("an impossible size"));
        }
        let mode = number(&block[100..108]).ok_or_else(|| invalid("a mode that is no number"))?;
        let kind = match block[156] {
            b'0' | b'7' => Type::File,
            0 => Type::OldFile,
            b'1' => Type::HardLink,
            b'2' => Type::Symlink,
            b'3' => Type::Special("a character device"),
            b'4' => Type::Special("a block device"),
            b'5' => Type::Directory,
            b'6' => Type::Special("a FIFO"),
            b'S' => Type::Sparse,
            b'x' => Type::Extended(Scope::Next),
            b'g' => Type::Extended(Scope::All),
            b'L' => Type::LongName,
            b'K' => Type::LongLink,
            other => Type::Unknown(other),
        };
        Ok(Header {
            block,
            dialect,
            kind,
            size,
            mode: u32::try_from(mode & 0o7777).expect("twelve bits fit"),
        })
    }

    /// The header's own name, of both its parts.
    pub(super) fn name(&self) -> Result<Cow<'b, [u8]>, Refused> {
        let name = field(&self.block[..100])?;
        if self.dialect == Dialect::Ustar {
            let prefix = field(&self.block[345..500])?;
            if !prefix.is_empty() {
                return Ok(Cow::Owned([prefix, b"/", name].concat()));
            }
        }
        Ok(Cow::Borrowed(name))
    }

    /// The header's own link target.
    pub(super) fn link(&self) -> Result<&'b [u8], Refused> {
        field(&self.block[157..257])
    }

    /// Whether the size does not fit the field's eleven octal digits, so that writers leave it out there.
    pub(super) fn size_needs_extension(size: u64) -> bool {
        size >= 1 << 33
    }
}

/// A field's text: up to the first NUL, after which there must be nothing else. To some readers the name
/// would go on.
fn field(field: &[u8]) -> Result<&[u8], Refused> {
    text(field).ok_or_else(|| {
        Refused::new(
            Reason::NameAmbiguous,
            format!("the name field {} goes on after its end", shown(field)),
        )
    })
}

fn text(field: &[u8]) -> Option<&[u8]> {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    let (text, rest) = field.split_at(end);
    rest.iter().all(|byte| *byte == 0).then_some(text)
}

/// A number in octal digits between spaces and NULs, or in base 256 when the first bit is set. An empty
/// field is zero.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        // 0x80 and then the number; 0xFF would make it negative.
        let (first, rest) = (field[0] & 0x7F, &field[1..]);
        let mut value = u64::from(first);
        for byte in rest {
            value = value.checked_mul(256)?.checked_add(u64::from(*byte))?;
        }
        return Some(value);
    }
    let blank = |byte: &u8| matches!(*byte, b' ' | 0);
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(0);
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    if !digits[end..].iter().all(blank) {
        return None;
    }
    digits[..end].iter().try_fold(0_u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::{number, text};

    #[test]
    fn numbers_are_octal_or_base_256_and_nothing_else() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"        "), Some(0));
        assert_eq!(number(b"00000008"), None);
        assert_eq!(number(b"0644\x00\x30\x30\x31\0"), None);
        assert_eq!(number(b"-0000001"), None);
        assert_eq!(
            number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]),
            Some((2 << 32) + 1)
        );
        assert_eq!(number(&[0xFF; 12]), None);
    }

    #[test]
    fn a_field_ends_once() {
        assert_eq!(text(b"name\0\0\0"), Some(&b"name"[..]));
        assert_eq!(text(b"full"), Some(&b"full"[..]));
        assert_eq!(text(b"name\0more"), None);
    }
}
