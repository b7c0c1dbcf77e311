//! What extended headers, PAX and GNU, say about the next entry.

use super::header::Header;
use crate::refusal::{Reason, Refused, shown};

/// What a PAX header applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The next entry.
    Next,
    /// Every entry that follows.
    All,
}

/// What is known about the next entry before its own header.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) sparse: bool,
    size: Option<u64>,
    from: Origin,
}

/// Which kind of header the above comes from: the two kinds do not mix, and PAX headers do not add up.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Origin {
    #[default]
    Nowhere,
    Pax,
    Gnu,
}

impl Extended {
    /// Reads a PAX header's records: `LENGTH KEY=VALUE\n`, the length in bytes and of all of that.
    pub(super) fn read(&mut self, mut records: &[u8], scope: Scope) -> Result<(), Refused> {
        if self.from != Origin::Nowhere {
            return Err(ambiguous(
                "there are two extended headers before one entry".to_owned(),
            ));
        }
        if scope == Scope::Next {
            self.from = Origin::Pax;
        }
        while !records.is_empty() {
            let (key, value, rest) = record(records).ok_or_else(|| {
                Refused::new(
                    Reason::HeaderInvalid,
                    format!(
                        "an extended header has the malformed record {}",
                        shown(records)
                    ),
                )
            })?;
            records = rest;
            self.take(key, value, scope)?;
        }
        Ok(())
    }

    /// Reads a GNU header, which holds a long name or a long link target.
    pub(super) fn gnu(&mut self, text: &[u8], is_name: bool) -> Result<(), Refused> {
        if self.from == Origin::Pax {
            return Err(ambiguous(
                "there are a PAX and a GNU header before one entry".to_owned(),
            ));
        }
        self.from = Origin::Gnu;
        let end = text
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(text.len());
        if text[end..].iter().any(|byte| *byte != 0) {
            return Err(Refused::new(
                Reason::NameAmbiguous,
                format!("the long name {} goes on after its end", shown(text)),
            ));
        }
        let slot = if is_name {
            &mut self.path
        } else {
            &mut self.link
        };
        put(slot, text[..end].to_vec(), "long name")
    }

    /// The size of the entry: the header's, or the extended header's where that is the only one that counts.
    pub(super) fn size(&self, header: &Header<'_>, name: &[u8]) -> Result<u64, Refused> {
        match self.size {
            None => Ok(header.size),
            Some(size) if size == header.size => Ok(size),
            // A size that does not fit the header is zero there, by every writer that there is.
            Some(size) if Header::size_needs_extension(size) && header.size == 0 => Ok(size),
            Some(size) => Err(Refused::new(
                Reason::SizeDisagrees,
                format!(
                    "{} has {} bytes by its header and {size} by its extended header",
                    shown(name),
                    header.size
                ),
            )),
        }
    }

    /// At the archive's end nothing may wait for an entry that does not come.
    pub(super) fn nothing_pending(&self) -> Result<(), Refused> {
        match self.from {
            Origin::Nowhere => Ok(()),
            Origin::Pax | Origin::Gnu => Err(ambiguous(
                "the archive ends after an extended header, without its entry".to_owned(),
            )),
        }
    }

    fn take(&mut self, key: &[u8], value: &[u8], scope: Scope) -> Result<(), Refused> {
        let decides = matches!(key, b"path" | b"linkpath" | b"size");
        if scope == Scope::All && decides {
            return Err(ambiguous(format!(
                "a global header gives every entry the same {}",
                String::from_utf8_lossy(key)
            )));
        }
        match key {
            b"path" => put(&mut self.path, value.to_vec(), "path"),
            b"linkpath" => put(&mut self.link, value.to_vec(), "linkpath"),
            b"size" => {
                let size = decimal(value).ok_or_else(|| {
                    Refused::new(
                        Reason::HeaderInvalid,
                        format!("an extended header has the size {}", shown(value)),
                    )
                })?;
                put(&mut self.size, size, "size")
            }
            _ => {
                self.sparse |= key.starts_with(b"GNU.sparse.") || key == b"SCHILY.realsize";
                Ok(())
            }
        }
    }
}

fn put<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<(), Refused> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ambiguous(format!("an entry is given its {what} twice"))),
    }
}

/// The first record's key and value, and the records after it.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(&records[..space])?).ok()?;
    let record = records.get(..len)?.get(space + 1..)?;
    let record = record.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &records[len..]))
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let value = text.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })?;
    i64::try_from(value).is_ok().then_some(value)
}

fn ambiguous(message: String) -> Refused {
    Refused::new(Reason::HeaderAmbiguous, message)
}
