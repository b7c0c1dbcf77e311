//! What install steps keep from one deployment of a project to the next: one directory for each plugin.
//!
//! A cache is a convenience that must never be a trap: what a failed step left in it is thrown away, and so
//! is what a step left that nobody saw the end of. A marker beside the directory says that a step is at
//! work; a start that finds one discards the cache.
//!
//! While a step runs, what it writes counts against its `disk_bytes`, wherever it writes. When it has
//! ended, everything in the cache counts, and a cache that holds more than `cache_bytes` starts anew.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::data_dir::{DataDir, make_dir};
use crate::error::Error;
use crate::freeze;
use crate::name::{PluginName, ProjectName};

/// The most files and directories of a cache: counting them takes a second or two.
const MAX_ENTRIES: u64 = 1_000_000;

/// The cache of one plugin in one project, and the step that is at work in it.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
    marker: PathBuf,
    trash: PathBuf,
    bytes_limit: u64,
    before: Usage,
}

/// What became of a cache when its step had ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is there for the next step. `used` is whether there is, or was, anything in it.
    Yes { used: bool },
    /// It was thrown away.
    No,
    /// It was thrown away because it had grown too large; why, in words.
    TooLarge(String),
}

/// What a cache holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    bytes: u64,
    entries: u64,
}

impl Cache {
    /// Takes a cache for a step; makes it when there is none. Blocking.
    pub(crate) fn open(
        data: &DataDir,
        project: &ProjectName,
        plugin: &PluginName,
        bytes_limit: u64,
    ) -> Result<Self, Error> {
        let mut cache = Self {
            directory: data.cache(project, plugin),
            marker: data.cache_marker(project, plugin),
            trash: data.trash(),
            bytes_limit,
            before: Usage::default(),
        };
        // A marker that is there already is of a step whose end could not be taken care of.
        if cache.marker.exists() {
            cache.throw_away()?;
        }
        make_dir(&cache.directory)?;
        cache.before = match measure(&cache.directory) {
            Ok(usage) if cache.excess(usage).is_none() => usage,
            // The ceiling was lowered, or somebody was here; either way a new one is as good.
            Ok(_) | Err(_) => {
                cache.throw_away()?;
                make_dir(&cache.directory)?;
                Usage::default()
            }
        };
        let failed = format!("write {}", cache.marker.display());
        write_synced(&cache.marker).map_err(Error::io(failed))?;
        Ok(cache)
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Ends the step's use of it. Blocking.
    pub(crate) fn close(self, succeeded: bool) -> Result<Kept, Error> {
        let kept = if succeeded {
            match measure(&self.directory).map(|usage| (usage, self.excess(usage))) {
                Ok((usage, None)) => {
                    freeze::make_durable(&self.directory)?;
                    Kept::Yes {
                        used: usage != Usage::default() || self.before != Usage::default(),
                    }
                }
                Ok((_, Some(excess))) => Kept::TooLarge(excess),
                Err(error) => Kept::TooLarge(format!("it cannot be measured: {error}")),
            }
        } else {
            Kept::No
        };
        match kept {
            Kept::Yes { .. } => remove_marker(&self.marker)?,
            Kept::No | Kept::TooLarge(_) => self.throw_away()?,
        }
        Ok(kept)
    }

    /// By how much it holds too much, in words.
    fn excess(&self, usage: Usage) -> Option<String> {
        if usage.bytes > self.bytes_limit {
            Some(format!(
                "it holds {} bytes, and its quota is {}",
                usage.bytes, self.bytes_limit
            ))
        } else if usage.entries > MAX_ENTRIES {
            Some(format!("it holds more than {MAX_ENTRIES} files"))
        } else {
            None
        }
    }

    fn throw_away(&self) -> Result<(), Error> {
        throw_away(&self.directory, &self.marker, &self.trash)
    }
}

/// Discards every cache whose step did not end. Blocking.
pub(crate) fn recover(data: &DataDir) -> Result<(), Error> {
    for project in entries(&data.all_caches())? {
        if !project.is_dir() {
            continue;
        }
        for marker in entries(&project)? {
            let name = marker.file_name().and_then(|name| name.to_str());
            let Some(plugin) = name.and_then(|name| name.strip_suffix(DataDir::CACHE_MARKER))
            else {
                continue;
            };
            let directory = project.join(plugin);
            tracing::warn!(path = %directory.display(), "a cache whose step was interrupted is discarded");
            throw_away(&directory, &marker, &data.trash())?;
        }
    }
    Ok(())
}

/// First the cache, then its marker: in between, a crash leaves the marker, and nothing to discard.
fn throw_away(directory: &Path, marker: &Path, trash: &Path) -> Result<(), Error> {
    freeze::discard(directory, trash)?;
    remove_marker(marker)
}

fn remove_marker(marker: &Path) -> Result<(), Error> {
    match fs::remove_file(marker) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", marker.display()))(error))
        }
        _ => Ok(()),
    }
}

fn write_synced(path: &Path) -> io::Result<()> {
    File::create(path)?.sync_all()?;
    let directory = path.parent().expect("a marker lies in a directory of ours");
    File::open(directory)?.sync_all()
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = || format!("read {}", directory.display());
    let entries = fs::read_dir(directory).map_err(Error::io(failed()))?;
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(Error::io(failed())))
        .collect()
}

/// Counts what a guest left, following no link. A tree that is too deep for a path is an error.
fn measure(directory: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            usage.entries += 1;
            if metadata.is_dir() {
                open.push(entry.path());
            } else {
                // A sparse file counts as what it may become.
                usage.bytes = usage.bytes.saturating_add(metadata.len());
            }
            if usage.entries > MAX_ENTRIES {
                return Ok(usage);
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    struct Place {
        _directory: tempfile::TempDir,
        data: DataDir,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let data = DataDir::open(directory.path()).unwrap();
            Self {
                _directory: directory,
                data,
            }
        }

        fn open(&self, bytes: u64) -> Cache {
            let (project, plugin) = ("blog".parse().unwrap(), "npm".parse().unwrap());
            Cache::open(&self.data, &project, &plugin, bytes).unwrap()
        }
    }

    #[test]
    fn what_a_successful_step_leaves_is_there_for_the_next_one() {
        let place = Place::new();
        let cache = place.open(100);
        fs::write(cache.directory().join("a"), "kept").unwrap();
        assert_eq!(cache.close(true).unwrap(), Kept::Yes { used: true });
        let cache = place.open(100);
        assert_eq!(fs::read(cache.directory().join("a")).unwrap(), b"kept");
    }

    #[test]
    fn what_a_failed_step_leaves_is_gone() {
        let place = Place::new();
        let cache = place.open(100);
        fs::write(cache.directory().join("a"), "half").unwrap();
        assert_eq!(cache.close(false).unwrap(), Kept::No);
        let cache = place.open(100);
        assert_eq!(entries(cache.directory()).unwrap().len(), 0);
        assert_eq!(cache.close(true).unwrap(), Kept::Yes { used: false });
    }

    #[test]
    fn what_was_there_counts_and_a_cache_that_grew_too_large_starts_anew() {
        let place = Place::new();
        let cache = place.open(100);
        fs::write(cache.directory().join("a"), [0; 60]).unwrap();
        assert_eq!(cache.close(true).unwrap(), Kept::Yes { used: true });
        let cache = place.open(100);
        fs::create_dir(cache.directory().join("d")).unwrap();
        fs::write(cache.directory().join("d/b"), [0; 41]).unwrap();
        let Kept::TooLarge(why) = cache.close(true).unwrap() else {
            panic!("it was kept");
        };
        assert!(why.contains("101") && why.contains("100"), "{why}");
        assert_eq!(entries(place.open(100).directory()).unwrap().len(), 0);
    }

    #[test]
    fn a_start_discards_the_cache_of_a_step_that_did_not_end_and_no_other() {
        let place = Place::new();
        let cache = place.open(100);
        fs::write(cache.directory().join("a"), "half").unwrap();
        let directory = cache.directory().to_owned();
        drop(cache);
        let other = directory.with_file_name("pip");
        fs::create_dir(&other).unwrap();
        recover(&place.data).unwrap();
        assert!(!directory.exists() && other.exists());
        assert_eq!(entries(directory.parent().unwrap()).unwrap(), [other]);
    }

    #[test]
    fn a_link_that_leaves_the_cache_is_not_followed() {
        let place = Place::new();
        let cache = place.open(100);
        std::os::unix::fs::symlink("/", cache.directory().join("root")).unwrap();
        assert_eq!(cache.close(true).unwrap(), Kept::Yes { used: true });
    }
}
