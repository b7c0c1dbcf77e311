//! Which files it is about.

use std::collections::HashSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::{Config, Error, Format};

/// Larger assets are left alone: an encoder needs several times an asset's size of the step's memory, and
/// nobody sends such a file as text.
const LARGEST: u64 = 24 * 1024 * 1024;

/// One file that gets siblings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asset {
    /// Relative to the release.
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    /// The siblings that are there already.
    pub(crate) siblings: Vec<Format>,
}

/// The name of an asset's sibling.
pub(crate) fn sibling(path: &Path, format: Format) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(format.extension());
    name.into()
}

/// Every asset below the configured root, in the order of their names. Links are not followed; what a name
/// with a dot hides is not served, and so not compressed.
pub(crate) fn find(release: &Path, config: &Config) -> Result<Vec<Asset>, Error> {
    let root = root(release, &config.root)?;
    let mut assets = Vec::new();
    let mut directories = vec![root];
    while let Some(directory) = directories.pop() {
        let entries =
            fs::read_dir(release.join(&directory)).map_err(Error::file("list", &directory))?;
        let mut names = HashSet::new();
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::file("list", &directory))?;
            let name = entry.file_name();
            let path = directory.join(&name);
            let kind = entry.file_type().map_err(Error::file("look at", &path))?;
            if is_hidden(&name.to_string_lossy()) {
                continue;
            }
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() && is_asset(&path, config) {
                let metadata = entry.metadata().map_err(Error::file("look at", &path))?;
                files.push((path, metadata.len()));
            }
            names.insert(name);
        }
        for (path, bytes) in files {
            if bytes < config.min_bytes || bytes == 0 {
                continue;
            }
            if bytes > LARGEST {
                println!(
                    "{}  {} is too large to be worth it",
                    path.display(),
                    cofferdam_sdk::Bytes(bytes)
                );
                continue;
            }
            let siblings = Format::ALL
                .into_iter()
                .filter(|format| {
                    sibling(&path, *format)
                        .file_name()
                        .is_some_and(|name| names.contains(name))
                })
                .collect();
            assets.push(Asset {
                path,
                bytes,
                siblings,
            });
        }
    }
    assets.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(assets)
}

/// The configured root, relative to the release.
fn root(release: &Path, root: &str) -> Result<PathBuf, Error> {
    let refused = |problem| Error::Root {
        root: root.to_owned(),
        problem,
    };
    let mut relative = PathBuf::new();
    for part in Path::new(root).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => relative.push(part),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(refused("is not a path inside the release"));
            }
        }
    }
    match fs::symlink_metadata(release.join(&relative)) {
        Ok(metadata) if metadata.is_dir() => Ok(relative),
        Ok(_) => Err(refused("is not a directory")),
        Err(_) => Err(refused("is not in the release")),
    }
}

fn is_asset(path: &Path, config: &Config) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| {
            let extension = extension.to_ascii_lowercase();
            config.extensions.contains(&extension)
        })
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.') && name != ".well-known"
}
