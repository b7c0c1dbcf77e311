//! The rules for all entries, whatever archive they come from.

use std::cell::Cell;
use std::io::{BufRead, Read as _, Write as _};
use std::rc::Rc;

use serde::Serialize;

use crate::config::Strip;
use crate::name::{Name, judge_characters};
use crate::place::{Directory, File};
use crate::refusal::{Reason, Refused, shown};
use crate::tree::Tree;
use crate::watch::Watch;
use crate::{Config, Error, input};

/// Any small package may be this much larger unpacked, whatever the ratio.
const RATIO_APPLIES_BEYOND: u64 = 16 * 1024 * 1024;

/// Any of the three execute bits.
const EXECUTE: u32 = 0o111;

/// setuid, setgid and the sticky bit.
const SPECIAL: u32 = 0o7000;

/// One entry of an archive; a file's bytes come separately.
pub(crate) struct Entry<'a> {
    /// The name as the archive has it.
    pub(crate) name: &'a [u8],
    /// The Unix mode's permission and special bits.
    pub(crate) mode: u32,
    pub(crate) kind: EntryKind<'a>,
}

pub(crate) enum EntryKind<'a> {
    Directory,
    /// A regular file of this size.
    File(u64),
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A hard link to the entry of this name.
    HardLink(&'a [u8]),
}

/// What an archive held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The archive's format: `tar`, `tar.gz`, `tar.zst` or `zip`.
    pub format: &'static str,
    /// Regular files, copies of hard links among them.
    pub files: u64,
    /// Directories, with those that no entry named.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Executable files among `files`.
    pub executables: u64,
    /// The files' bytes.
    pub bytes: u64,
    /// The package's bytes.
    pub package_bytes: u64,
}

/// A package being unpacked.
pub(crate) struct Extraction {
    strip: Strip,
    max_entries: u64,
    max_bytes: Option<u64>,
    max_ratio: u64,
    tree: Tree,
    watch: Watch,
    /// The package's bytes that were read so far.
    taken: Rc<Cell<u64>>,
    /// The directory that `strip` takes away, once an entry has named it.
    stripped: Option<String>,
    entries: u64,
    files: u64,
    links: u64,
    executables: u64,
    bytes: u64,
    /// How many entries had special bits, and the first of them.
    special: (u64, String),
    buffer: Vec<u8>,
}

impl Extraction {
    pub(crate) fn new(config: &Config, root: Directory, taken: Rc<Cell<u64>>) -> Extraction {
        Extraction {
            strip: config.strip,
            max_entries: config.max_entries,
            max_bytes: config.max_bytes,
            max_ratio: config.max_ratio,
            tree: Tree::new(root),
            watch: Watch::default(),
            taken,
            stripped: None,
            entries: 0,
            files: 0,
            links: 0,
            executables: 0,
            bytes: 0,
            special: (0, String::new()),
            buffer: Vec::new(),
        }
    }

    /// Counts an entry, or a header that only describes one, against the limit.
    pub(crate) fn count_entry(&mut self) -> Result<(), Refused> {
        self.entries += 1;
        if self.entries > self.max_entries {
            return Err(Refused::new(
                Reason::TooManyEntries,
                format!("there are more than {} entries", self.max_entries),
            ));
        }
        Ok(())
    }

    /// Writes one entry. For a file exactly its size is taken from `data`.
    pub(crate) fn entry(&mut self, entry: &Entry<'_>, data: &mut dyn BufRead) -> Result<(), Error> {
        self.count_entry()?;
        let whole = Name::parse(entry.name)?;
        if whole.says_directory() && !matches!(entry.kind, EntryKind::Directory) {
            return Err(Refused::new(
                Reason::EntryAmbiguous,
                format!("{} is no directory and ends in a slash", shown(entry.name)),
            )
            .into());
        }
        let is_directory = matches!(entry.kind, EntryKind::Directory);
        let Some(name) = self.strip(whole, is_directory)? else {
            return Ok(());
        };
        if entry.mode & SPECIAL != 0 && !is_directory {
            if self.special.0 == 0 {
                self.special.1 = shown(name.as_str());
            }
            self.special.0 += 1;
        }
        match entry.kind {
            EntryKind::Directory => {
                self.tree.directory(&name)?;
                self.watch.directory(&name);
            }
            EntryKind::File(size) => {
                let file = self.tree.file(&name)?;
                self.copy(&name, file, data, size)?;
                self.finish_file(&name, entry.mode, size)?;
            }
            EntryKind::Symlink(target) => {
                let target = judge_target(&name, target)?;
                self.tree.symlink(&name, target)?;
                self.links += 1;
                self.watch.link(&name, target);
            }
            EntryKind::HardLink(target) => {
                let size = self.duplicate(&name, target)?;
                self.finish_file(&name, entry.mode, size)?;
            }
        }
        Ok(())
    }

    /// Says what was done, once the archive has ended as it should.
    pub(crate) fn finish(mut self, format: &'static str) -> Summary {
        if self.special.0 > 0 {
            let (count, first) = &self.special;
            cofferdam_sdk::warning(format!(
                "dropped the setuid, setgid or sticky bit of {count} files, the first of them {first}"
            ));
        }
        let summary = Summary {
            format,
            files: self.files,
            directories: self.tree.directories(),
            links: self.links,
            executables: self.executables,
            bytes: self.bytes,
            package_bytes: self.taken.get(),
        };
        self.watch.finish(&summary);
        summary
    }

    /// Takes the one leading directory away; `None` for an entry that is nothing else.
    fn strip(&mut self, name: Name, is_directory: bool) -> Result<Option<Name>, Refused> {
        if self.strip == Strip::Nothing || name.is_root() {
            return Ok(Some(name));
        }
        let (first, rest) = name.split_first();
        match &self.stripped {
            Some(known) if known != first => {
                return Err(Refused::new(
                    Reason::StripMismatch,
                    format!(
                        "strip = 1 was asked for, and there is more than one leading directory: {} and {}",
                        shown(known),
                        shown(first)
                    ),
                ));
            }
            Some(_) => {}
            None => self.stripped = Some(first.to_owned()),
        }
        if rest.is_none() && !is_directory {
            return Err(Refused::new(
                Reason::StripMismatch,
                format!(
                    "strip = 1 was asked for, and {} is in no directory",
                    shown(first)
                ),
            ));
        }
        Ok(rest)
    }

    fn copy(
        &mut self,
        name: &Name,
        mut file: File,
        data: &mut dyn BufRead,
        size: u64,
    ) -> Result<(), Error> {
        // Before the first byte: a size that cannot be allowed is not worth reading up to.
        self.judge_bytes(name, size)?;
        let mut left = size;
        while left > 0 {
            let available = data.fill_buf()?;
            if available.is_empty() {
                return Err(input::truncated(&shown(name.as_str())).into());
            }
            let part =
                usize::try_from(left).map_or(available.len(), |left| left.min(available.len()));
            file.write_all(&available[..part])
                .map_err(Error::disk(shown(name.as_str())))?;
            data.consume(part);
            left -= part as u64;
            self.wrote(part as u64)?;
        }
        Ok(())
    }

    /// Copies the file that a hard link names; the two are separate files afterwards.
    fn duplicate(&mut self, name: &Name, target: &[u8]) -> Result<u64, Error> {
        let refused = || {
            Refused::new(
                Reason::HardLinkTarget,
                format!(
                    "{} is a hard link to {}, which is no file before it in this archive",
                    shown(name.as_str()),
                    shown(target)
                ),
            )
        };
        let target = Name::parse(target).map_err(|_| refused())?;
        let target = self
            .strip(target, false)
            .map_err(|_| refused())?
            .ok_or_else(refused)?;
        let mut source = self.tree.written_file(&target)?.ok_or_else(refused)?;
        let mut file = self.tree.file(name)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(64 * 1024, 0);
        let mut size = 0;
        loop {
            let read = source
                .read(&mut buffer)
                .map_err(Error::disk(shown(name.as_str())))?;
            if read == 0 {
                break;
            }
            self.judge_bytes(name, read as u64)?;
            file.write_all(&buffer[..read])
                .map_err(Error::disk(shown(name.as_str())))?;
            size += read as u64;
            self.wrote(read as u64)?;
        }
        self.buffer = buffer;
        Ok(size)
    }

    fn finish_file(&mut self, name: &Name, mode: u32, size: u64) -> Result<(), Error> {
        self.files += 1;
        if mode & EXECUTE != 0 {
            cofferdam_sdk::set_executable(name.as_str(), true)
                .map_err(std::io::Error::other)
                .map_err(Error::disk("the executable bit"))?;
            self.executables += 1;
        }
        self.watch.file(name, size, self.files, self.bytes);
        Ok(())
    }

    fn judge_bytes(&self, name: &Name, more: u64) -> Result<(), Refused> {
        match self.max_bytes {
            Some(most) if self.bytes.saturating_add(more) > most => Err(Refused::new(
                Reason::TooLarge,
                format!(
                    "with {} the files have more than {most} bytes",
                    shown(name.as_str())
                ),
            )),
            _ => Ok(()),
        }
    }

    fn wrote(&mut self, bytes: u64) -> Result<(), Refused> {
        self.bytes += bytes;
        self.watch.bytes(self.files, self.bytes);
        judge_ratio(self.bytes, self.taken.get(), self.max_ratio)
    }

    /// The guard of the bytes that a decoder makes, files or not.
    pub(crate) fn ratio_guard(&self) -> RatioGuard {
        RatioGuard {
            taken: Rc::clone(&self.taken),
            max_ratio: self.max_ratio,
            made: 0,
        }
    }
}

/// Judges what a decoder makes against what it was given.
pub(crate) struct RatioGuard {
    taken: Rc<Cell<u64>>,
    max_ratio: u64,
    made: u64,
}

impl RatioGuard {
    pub(crate) fn made(&mut self, bytes: usize) -> Result<(), Refused> {
        self.made += bytes as u64;
        judge_ratio(self.made, self.taken.get(), self.max_ratio)
    }
}

fn judge_ratio(made: u64, taken: u64, max_ratio: u64) -> Result<(), Refused> {
    if made > RATIO_APPLIES_BEYOND && made / max_ratio.max(1) > taken {
        return Err(Refused::new(
            Reason::DecompressionBomb,
            format!("{taken} bytes became {made}, which is more than {max_ratio} to 1"),
        ));
    }
    Ok(())
}

/// A link's target has to be relative and to begin with all of its `..`: the directory that the link lies in
/// is a real one, so they can be counted. After a name, `..` would depend on what that name is when somebody
/// follows the link.
fn judge_target<'t>(name: &Name, target: &'t [u8]) -> Result<&'t str, Refused> {
    let refused = |reason, why: &str| {
        Refused::new(
            reason,
            format!(
                "{} is a symbolic link to {}, {why}",
                shown(name.as_str()),
                shown(target)
            ),
        )
    };
    let text = std::str::from_utf8(target)
        .map_err(|_| refused(Reason::NameNotUtf8, "which is not UTF-8"))?;
    judge_characters(text)?;
    if text.is_empty() {
        return Err(refused(Reason::NameEmpty, "which is no name"));
    }
    if text.starts_with('/') {
        return Err(refused(Reason::LinkAbsolute, "an absolute path"));
    }
    let mut up = 0;
    let mut named = false;
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if named => {
                return Err(refused(
                    Reason::LinkEscapes,
                    "which has .. after a name and could lead anywhere",
                ));
            }
            ".." => up += 1,
            _ => named = true,
        }
    }
    if up > name.depth() {
        return Err(refused(Reason::LinkEscapes, "outside the release"));
    }
    Ok(text)
}
