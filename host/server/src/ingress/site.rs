//! A static service's files: finding what a name means, and what there is to know about it.
//!
//! Releases are immutable, so what is learnt here stays true for as long as the release exists.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cap_std::fs::{Dir, File, Metadata, MetadataExt};
use http::HeaderValue;

use super::coding::{Accepted, Coding};
use super::media;
use super::name::{INDEX, is_shown};
use super::validator;

/// Files up to this size are held in memory: nearly every page, style and script, while 200 of them still
/// fit the shelf.
pub(super) const HELD_BYTES: u64 = 64 * 1024;

/// Files up to this size have an entity tag made from their content, which a redeploy does not change. It
/// costs one read, some 2 ms at this size. A larger file is tagged by its release's digest, and by this much
/// of its beginning, since two services of one tree may have different roots.
const HASHED_BYTES: u64 = 4 * 1024 * 1024;

/// What a page costs on the shelf beside its bytes: its paths, tags and the map's own overhead, rounded up.
const PAGE_OVERHEAD: usize = 1024;

/// One static service of one release.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    /// The release's id: with the service's name, it says whose files these are.
    pub(super) release: [u8; 16],
    /// The digest of the release's tree.
    pub(super) digest: &'a str,
    pub(super) service: &'a str,
    /// The service's own root. Nothing is opened but through it.
    pub(super) dir: &'a Dir,
}

impl Site<'_> {
    /// What a file of this site is kept under on the shelf.
    pub(super) fn key(&self, name: &str) -> Vec<u8> {
        // A service's name holds no NUL, so no two sites share a key.
        [
            &self.release[..],
            self.service.as_bytes(),
            &[0],
            name.as_bytes(),
        ]
        .concat()
    }
}

/// What a name means in a site.
pub(super) enum Found {
    /// A file.
    Page(Page),
    /// A directory that has an index.
    Directory,
    /// Nothing that is served.
    Nothing,
}

/// A file, with the encoded siblings that stand for it.
pub(super) struct Page {
    pub(super) content_type: &'static str,
    /// The plain file first, then the encodings that are smaller than it.
    variants: Vec<Variant>,
}

/// One representation of a page.
pub(super) struct Variant {
    pub(super) coding: Option<Coding>,
    /// Relative to the site's root, all links resolved.
    pub(super) path: PathBuf,
    pub(super) len: u64,
    pub(super) tag: HeaderValue,
    /// The content, when it is small enough to hold.
    pub(super) held: Option<Bytes>,
}

impl Page {
    /// Whether what is sent depends on `Accept-Encoding`.
    pub(super) fn varies(&self) -> bool {
        self.variants.len() > 1
    }

    /// The representation a client wants most; the smallest of those it wants alike; the plain file when it
    /// wants none.
    pub(super) fn choose(&self, accepted: Accepted) -> &Variant {
        let mut chosen = &self.variants[0];
        let mut best = accepted.weight(None);
        for variant in &self.variants[1..] {
            let weight = accepted.weight(variant.coding);
            if weight > best || (weight == best && weight > 0 && variant.len < chosen.len) {
                (chosen, best) = (variant, weight);
            }
        }
        chosen
    }

    /// What holding this page costs, in bytes.
    pub(super) fn cost(&self) -> usize {
        let held = self
            .variants
            .iter()
            .filter_map(|variant| variant.held.as_ref());
        PAGE_OVERHEAD + held.map(Bytes::len).sum::<usize>()
    }
}

#[cfg(test)]
impl Page {
    /// A page of some bytes, for those who only keep pages.
    pub(super) fn of(bytes: Bytes) -> Page {
        let tag = validator::tag(&blake3::hash(&bytes));
        let len = bytes.len() as u64;
        let plain = Variant {
            coding: None,
            path: PathBuf::new(),
            len,
            tag,
            held: Some(bytes),
        };
        Page {
            content_type: media::OCTETS,
            variants: vec![plain],
        }
    }
}

/// A file or directory of a site, all links resolved.
struct Entry {
    path: PathBuf,
    metadata: Metadata,
}

/// Finds what `name` means. Blocks on the disk.
pub(super) fn find(site: Site<'_>, name: &str) -> io::Result<Found> {
    let Some(entry) = resolve(site.dir, Path::new(name))? else {
        return Ok(Found::Nothing);
    };
    if entry.metadata.is_dir() {
        let index = resolve(site.dir, &entry.path.join(INDEX))?;
        let is_index = index.is_some_and(|index| index.metadata.is_file());
        return Ok(if is_index {
            Found::Directory
        } else {
            Found::Nothing
        });
    }
    if !entry.metadata.is_file() {
        return Ok(Found::Nothing);
    }
    let len = entry.metadata.len();
    let mut siblings = Vec::new();
    for coding in Coding::ALL {
        let mut sibling = entry.path.clone().into_os_string();
        sibling.push(coding.suffix());
        if let Some(sibling) = resolve(site.dir, Path::new(&sibling))? {
            // An empty file is no encoding of anything, and one that saves nothing is not worth a decoder.
            if sibling.metadata.is_file() && (1..len).contains(&sibling.metadata.len()) {
                siblings.push((coding, sibling));
            }
        }
    }
    let mut variants = vec![describe(site, None, entry)?];
    for (coding, sibling) in siblings {
        variants.push(describe(site, Some(coding), sibling)?);
    }
    Ok(Found::Page(Page {
        content_type: media::type_of(name),
        variants,
    }))
}

/// How often a name is followed again when what it leads to is replaced meanwhile. That happens to a file once or
/// twice in its life, when its release begins to share it with another one; a name that changes every time leads
/// nowhere.
const FOLLOWED: usize = 8;

/// Follows a name to what it stands for, inside the root, and judges the name that was arrived at: a link
/// to a dot-file shows as little as the dot-file.
fn resolve(dir: &Dir, name: &Path) -> io::Result<Option<Entry>> {
    for _ in 0..FOLLOWED {
        let wanted = match dir.metadata(name) {
            Ok(wanted) => wanted,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = dir
            .canonicalize(name)
            .and_then(|path| Ok((dir.symlink_metadata(&path)?, path)));
        match found {
            // cap-std's fallback, without openat2 or /proc, can return the part of a path that it got through;
            // only the path of the very file asked for is worth judging.
            Ok((metadata, path))
                if wanted.dev() == metadata.dev() && wanted.ino() == metadata.ino() =>
            {
                return Ok(is_shown(&path).then_some(Entry { path, metadata }));
            }
            Ok(_) => {}
            Err(error) if is_absence(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether an error only says that a name leads to nothing: it is missing, too long, goes through a file or
/// in circles, or leaves the root (which cap-std reports as a denied permission).
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::PermissionDenied
    ) || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::LOOP)
}

fn describe(site: Site<'_>, coding: Option<Coding>, entry: Entry) -> io::Result<Variant> {
    let Entry { path, metadata } = entry;
    let len = metadata.len();
    let mut hasher = blake3::Hasher::new();
    let held = if len <= HELD_BYTES {
        let bytes = read_whole(site.dir.open(&path)?, len)?;
        hasher.update(&bytes);
        Some(bytes)
    } else {
        hasher.update_reader(site.dir.open(&path)?.take(HASHED_BYTES))?;
        if len > HASHED_BYTES {
            hasher.update(&len.to_le_bytes());
            hasher.update(path.as_os_str().as_encoded_bytes());
            hasher.update(site.digest.as_bytes());
        }
        None
    };
    // The same bytes under another coding are another representation.
    hasher.update(coding.map_or("", Coding::token).as_bytes());
    Ok(Variant {
        coding,
        path,
        len,
        tag: validator::tag(&hasher.finalize()),
        held,
    })
}

fn read_whole(file: File, len: u64) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
    // One byte more than expected, so that a file that is not what it was is noticed.
    file.take(len + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != len {
        return Err(changed());
    }
    Ok(Bytes::from(bytes))
}

/// A file of a release is not what it was, which somebody must hear of.
pub(super) fn changed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a file of a frozen release changed its length; deploy it again",
    )
}
