//! The list of a release's files, kept beside it: what history, sharing and repair compare releases by.
//!
//! It is written while the tree is digested and holds the very records of the digest, so it can be checked
//! against it. After the 17 bytes `cofferdam-list-1` and a zero, one record for every entry, in the order of
//! the digest:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | `d`, `f`, `x` or `l`, as in the digest |
//! | 4 | length of the path, little-endian |
//! | n | the path |
//! | 32 + 8 | of a file: the BLAKE3 hash of its content, and how many bytes it has, little-endian |
//! | 4 + m | of a link: the length of its target, little-endian, and the target |

use std::cmp::Ordering;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::FreezeError;

/// Begins a list, and names its format.
const FORMAT: &[u8] = b"cofferdam-list-1\0";

/// The longest path or target that is read: what the kernel takes. A list with a longer one is damaged.
const LONGEST: u32 = 4096;

/// One entry of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its path from the root.
    pub path: String,
    /// What it is.
    pub kind: ListedKind,
}

/// What an entry of a release is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListedKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// The BLAKE3 hash of its content.
        hash: [u8; 32],
        /// How many bytes it has.
        bytes: u64,
        /// Whether its owner may execute it.
        executable: bool,
    },
    /// A symbolic link.
    Link {
        /// Where it leads, as it stands.
        target: String,
    },
}

/// Writes a list.
#[derive(Debug)]
pub(super) struct Writer {
    file: BufWriter<File>,
    path: PathBuf,
}

impl Writer {
    pub(super) fn create(path: &Path) -> Result<Writer, FreezeError> {
        let create = || {
            let mut options = OpenOptions::new();
            let file = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(path)?;
            let mut file = BufWriter::new(file);
            file.write_all(FORMAT)?;
            Ok::<_, io::Error>(file)
        };
        Ok(Writer {
            file: create().map_err(FreezeError::outside("write", path))?,
            path: path.to_owned(),
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), FreezeError> {
        self.file
            .write_all(bytes)
            .map_err(FreezeError::outside("write", &self.path))
    }

    pub(super) fn finish(mut self) -> Result<(), FreezeError> {
        self.file
            .flush()
            .map_err(FreezeError::outside("write", &self.path))
    }
}

/// Reads a list, entry by entry.
#[derive(Debug)]
pub struct Listing {
    file: BufReader<File>,
    path: PathBuf,
    over: bool,
}

impl Listing {
    /// Opens a list. Blocks, as reading it does.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is none.
    pub fn open(path: &Path) -> Result<Listing, FreezeError> {
        let failed = || FreezeError::outside("read", path);
        let mut file = BufReader::new(File::open(path).map_err(failed())?);
        let mut format = [0; FORMAT.len()];
        file.read_exact(&mut format).map_err(failed())?;
        if format != FORMAT {
            return Err(failed()(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is not a list of files",
            )));
        }
        Ok(Listing {
            file,
            path: path.to_owned(),
            over: false,
        })
    }

    fn read(&mut self) -> io::Result<Option<Listed>> {
        let mut kind = [0];
        if self.file.read(&mut kind)? == 0 {
            return Ok(None);
        }
        let path = self.text()?;
        let kind = match kind[0] {
            b'd' => ListedKind::Directory,
            b'l' => ListedKind::Link {
                target: self.text()?,
            },
            file @ (b'f' | b'x') => {
                let mut hash = [0; 32];
                self.file.read_exact(&mut hash)?;
                let mut bytes = [0; 8];
                self.file.read_exact(&mut bytes)?;
                ListedKind::File {
                    hash,
                    bytes: u64::from_le_bytes(bytes),
                    executable: file == b'x',
                }
            }
            _ => return Err(damaged()),
        };
        Ok(Some(Listed { path, kind }))
    }

    fn text(&mut self) -> io::Result<String> {
        let mut length = [0; 4];
        self.file.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > LONGEST {
            return Err(damaged());
        }
        let mut text = vec![0; length as usize];
        self.file.read_exact(&mut text)?;
        String::from_utf8(text).map_err(|_| damaged())
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the list of files is damaged")
}

impl Iterator for Listing {
    type Item = Result<Listed, FreezeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let read = self
            .read()
            .map_err(FreezeError::outside("read", &self.path));
        self.over = !matches!(read, Ok(Some(_)));
        read.transpose()
    }
}

/// What the lists of two releases say of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pair {
    /// Only the earlier release has it.
    Before(Listed),
    /// Only the later release has it.
    After(Listed),
    /// Both have it, alike or not.
    Both(Listed, Listed),
}

/// Goes through two lists side by side, in their order.
pub struct Pairs<B: Iterator, A: Iterator> {
    before: std::iter::Peekable<B>,
    after: std::iter::Peekable<A>,
}

impl<B, A> Pairs<B, A>
where
    B: Iterator<Item = Result<Listed, FreezeError>>,
    A: Iterator<Item = Result<Listed, FreezeError>>,
{
    /// Goes through these.
    pub fn new(before: B, after: A) -> Self {
        Pairs {
            before: before.peekable(),
            after: after.peekable(),
        }
    }
}

impl<B, A> Iterator for Pairs<B, A>
where
    B: Iterator<Item = Result<Listed, FreezeError>>,
    A: Iterator<Item = Result<Listed, FreezeError>>,
{
    type Item = Result<Pair, FreezeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.before.peek(), self.after.peek()) {
            (None, None) => return None,
            (Some(Ok(before)), Some(Ok(after))) => in_order(&before.path, &after.path),
            // An error first, on whichever side it is.
            (Some(Err(_)), _) | (Some(Ok(_)), None) => Ordering::Less,
            (_, Some(Err(_))) | (None, Some(Ok(_))) => Ordering::Greater,
        };
        let pair = match order {
            Ordering::Less => self.before.next()?.map(Pair::Before),
            Ordering::Greater => self.after.next()?.map(Pair::After),
            Ordering::Equal => match (self.before.next()?, self.after.next()?) {
                (Ok(before), Ok(after)) => Ok(Pair::Both(before, after)),
                (Err(error), _) | (_, Err(error)) => Err(error),
            },
        };
        Some(pair)
    }
}

/// The order of a digest: name by name, names by their bytes.
fn in_order(left: &str, right: &str) -> Ordering {
    left.split('/')
        .map(str::as_bytes)
        .cmp(right.split('/').map(str::as_bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use std::fs;

    use super::*;
    use crate::freeze::inspect_listed;

    fn listed(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf, String) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("release");
        fs::create_dir(&root).unwrap();
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let list = directory.path().join("list");
        let digest = inspect_listed(&root, &list).unwrap().digest;
        (directory, list, digest)
    }

    #[test]
    fn a_list_says_what_the_tree_holds_in_the_order_of_the_digest() {
        let (_directory, list, _) = listed(&[("b", "bb"), ("a/c", "c"), ("a-b", "")]);
        let entries: Vec<Listed> = Listing::open(&list).unwrap().map(Result::unwrap).collect();
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["a", "a/c", "a-b", "b"]);
        let ListedKind::File { hash, bytes, .. } = &entries[3].kind else {
            panic!("{:?}", entries[3]);
        };
        assert_eq!((*hash, *bytes), (*blake3::hash(b"bb").as_bytes(), 2));
    }

    #[test]
    fn two_lists_are_gone_through_side_by_side() {
        let (_one, before, _) = listed(&[("a/x", "1"), ("a-b", "2"), ("gone", "3")]);
        let (_two, after, _) = listed(&[("a/x", "1"), ("a-b", "changed"), ("new", "4")]);
        let pairs = Pairs::new(
            Listing::open(&before).unwrap(),
            Listing::open(&after).unwrap(),
        );
        let told: Vec<String> = pairs
            .map(|pair| match pair.unwrap() {
                Pair::Before(entry) => format!("-{}", entry.path),
                Pair::After(entry) => format!("+{}", entry.path),
                Pair::Both(before, after) if before == after => format!("={}", after.path),
                Pair::Both(_, after) => format!("!{}", after.path),
            })
            .collect();
        assert_eq!(told, ["=a", "=a/x", "!a-b", "-gone", "+new"]);
    }

    #[test]
    fn a_list_that_was_cut_or_changed_is_an_error_and_no_short_list() {
        let (_directory, list, _) = listed(&[("a", "1"), ("b", "2")]);
        let bytes = fs::read(&list).unwrap();
        fs::write(&list, &bytes[..bytes.len() - 3]).unwrap();
        let read: Vec<_> = Listing::open(&list).unwrap().collect();
        assert!(read.last().unwrap().is_err() && read.len() == 2);
        fs::write(&list, "something else, which is long enough").unwrap();
        assert!(Listing::open(&list).is_err());
    }
}
