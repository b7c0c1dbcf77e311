//! Walking a tree by descriptors: whatever a name is made to mean, what is opened is what is judged.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, open, openat, readlinkat, statat};

use super::{
    FreezeError, Tree,
    digest::{Entry, Kind, TreeHasher},
    link, listing,
    normalise::{self, Normaliser},
    shown,
};

/// Directories within each other. Each holds a descriptor and a stack frame while its children are
/// walked; the deepest trees of package managers have some twenty.
pub(crate) const DEPTH: usize = 128;

/// Files, directories and links of one release. A large `node_modules` has 100,000.
const ENTRIES: u64 = 1_000_000;

/// Bytes of a path from the release's root. Linux takes paths of 4096; the rest is for the data directory.
const PATH_BYTES: usize = 3072;

/// Entries between the thread that walks and the one that digests; each may hold a descriptor.
const AHEAD: usize = 64;

/// How directories and files are opened: never through a link, never waiting for a FIFO's other end.
pub(crate) const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Walks the tree, refuses what a release may not hold, makes the rest uniform, and digests it. Blocks,
/// for about as long as reading every file takes; a second thread reads ahead.
///
/// Nobody else may write to the tree meanwhile. After an error it is not as it was, and is to be
/// discarded.
///
/// # Errors
///
/// What is wrong with the tree ([`FreezeError::is_refusal`]), or with the host.
pub fn inspect(root: &Path) -> Result<Tree, FreezeError> {
    walk(root, Some(Normaliser::default()), None)
}

/// As [`inspect`], and writes the [list](super::Listing) of what it finds to this file, which is not within
/// the tree and not made durable here.
///
/// # Errors
///
/// As [`inspect`], and when the list cannot be written.
pub fn inspect_listed(root: &Path, listing: &Path) -> Result<Tree, FreezeError> {
    let listing = listing::Writer::create(listing)?;
    walk(root, Some(Normaliser::default()), Some(listing))
}

/// Digests a frozen tree again and changes nothing of it. Blocks.
///
/// # Errors
///
/// When it holds what no frozen tree can hold, or cannot be read.
pub fn digest_of(root: &Path) -> Result<Tree, FreezeError> {
    walk(root, None, None)
}

fn walk(
    root: &Path,
    normaliser: Option<Normaliser>,
    listing: Option<listing::Writer>,
) -> Result<Tree, FreezeError> {
    let directory = open(root, READ | OFlags::DIRECTORY, Mode::empty())
        .map_err(FreezeError::outside("open", root))?;
    let (entries, arriving) = sync_channel(AHEAD);
    thread::scope(|scope| {
        let walk = Walk {
            entries,
            seen: 0,
            links: Vec::new(),
            normaliser,
        };
        let walk = thread::Builder::new()
            .name("freeze".to_owned())
            .spawn_scoped(scope, || walk.run(directory.as_fd()))
            .map_err(FreezeError::outside("start a thread for", root))?;
        let mut hasher = TreeHasher::new(listing);
        let digested = arriving.iter().try_for_each(|entry| hasher.add(entry));
        // A walk that still sends sees that nobody listens, and ends.
        drop(arriving);
        let links = match walk.join() {
            Ok(walked) => {
                // An error in a file's content stopped the walk, so it is the first.
                digested?;
                walked?
            }
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // Everything that a link can meet is known to be harmless by now.
        link::judge(&directory, &links)?;
        hasher.finish()
    })
}

/// A link and its target, to be judged when the tree is known.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) path: String,
    pub(super) target: String,
}

struct Walk {
    entries: SyncSender<Entry>,
    seen: u64,
    links: Vec<Link>,
    /// Absent when nothing is to be changed.
    normaliser: Option<Normaliser>,
}

/// Why a walk ended before its end.
enum Stopped {
    Refused(FreezeError),
    /// The thread that digests has stopped, and knows why.
    Unheard,
}

impl From<FreezeError> for Stopped {
    fn from(error: FreezeError) -> Stopped {
        Stopped::Refused(error)
    }
}

impl Walk {
    fn run(mut self, root: BorrowedFd<'_>) -> Result<Vec<Link>, FreezeError> {
        match self.directory(root, "", 0) {
            Ok(()) | Err(Stopped::Unheard) => Ok(self.links),
            Err(Stopped::Refused(error)) => Err(error),
        }
    }

    /// Walks one directory, its names in order.
    fn directory(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &str,
        depth: usize,
    ) -> Result<(), Stopped> {
        if depth > DEPTH {
            return Err(FreezeError::TooDeep {
                path: shown(path),
                limit: DEPTH,
            }
            .into());
        }
        if let Some(normaliser) = &mut self.normaliser {
            normaliser.directory(directory, path)?;
        }
        let mut names = self.names(directory, path)?;
        names.sort_unstable_by(|left, right| left.0.as_bytes().cmp(right.0.as_bytes()));
        for (name, file_type) in names {
            let path = join(path, &name)?;
            self.entry(directory, &name, path, file_type, depth)?;
        }
        Ok(())
    }

    /// The names in a directory, with what the directory says they are.
    fn names(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &str,
    ) -> Result<Vec<(String, FileType)>, FreezeError> {
        let failed = || FreezeError::inside("read", path);
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            self.seen += 1;
            if self.seen > ENTRIES {
                return Err(FreezeError::TooMany { limit: ENTRIES });
            }
            let Ok(name) = str::from_utf8(name) else {
                let mut path = path.escape_debug().to_string();
                if !path.is_empty() {
                    path.push('/');
                }
                path.extend(name.escape_ascii().map(char::from));
                return Err(FreezeError::NotUtf8 { path });
            };
            names.push((name.to_owned(), entry.file_type()));
        }
        Ok(names)
    }

    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &str,
        path: String,
        file_type: FileType,
        depth: usize,
    ) -> Result<(), Stopped> {
        let file_type = match file_type {
            // Some file systems do not tell.
            FileType::Unknown => {
                let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(FreezeError::inside("look at", &path))?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        match file_type {
            FileType::Directory => {
                let opened = openat(directory, name, READ | OFlags::DIRECTORY, Mode::empty())
                    .map_err(FreezeError::inside("open", &path))?;
                self.send(path.clone(), Kind::Directory)?;
                self.directory(opened.as_fd(), &path, depth + 1)
            }
            FileType::RegularFile => {
                let kind = self.file(directory, name, &path)?;
                self.send(path, kind)
            }
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new())
                    .map_err(FreezeError::inside("read", &path))?;
                let Ok(target) = target.into_string() else {
                    let path = format!("the target of the link {}", shown(&path));
                    return Err(FreezeError::NotUtf8 { path }.into());
                };
                link::stays_inside(&path, &target)?;
                self.links.push(Link {
                    path: path.clone(),
                    target: target.clone(),
                });
                self.send(path, Kind::Link { target })
            }
            special => Err(FreezeError::Special {
                path: shown(&path),
                what: match special {
                    FileType::Fifo => "named pipe",
                    FileType::Socket => "socket",
                    FileType::CharacterDevice => "character device",
                    FileType::BlockDevice => "block device",
                    _ => "thing of an unknown kind",
                },
            }
            .into()),
        }
    }

    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &str,
        path: &str,
    ) -> Result<Kind, FreezeError> {
        let opened = openat(directory, name, READ, Mode::empty())
            .map_err(FreezeError::inside("open", path))?;
        let stat = fstat(&opened).map_err(FreezeError::inside("look at", path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(FreezeError::Changed { path: shown(path) });
        }
        let executable = normalise::is_executable(&stat);
        let opened = File::from(opened);
        let file = match &mut self.normaliser {
            Some(normaliser) => normaliser.file(directory, name, path, opened, &stat)?,
            None => opened,
        };
        Ok(Kind::File {
            file,
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            executable,
        })
    }

    fn send(&self, path: String, kind: Kind) -> Result<(), Stopped> {
        self.entries
            .send(Entry { path, kind })
            .map_err(|_| Stopped::Unheard)
    }
}

/// The path of a name in a directory.
fn join(directory: &str, name: &str) -> Result<String, FreezeError> {
    let path = if directory.is_empty() {
        name.to_owned()
    } else {
        format!("{directory}/{name}")
    };
    if path.len() > PATH_BYTES {
        return Err(FreezeError::TooLong {
            path: shown(&path[..path.floor_char_boundary(100)]),
            limit: PATH_BYTES,
        });
    }
    Ok(path)
}
