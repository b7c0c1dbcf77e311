//! Restoring a backup: every file is checked, and the directory is there whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use uuid::Uuid;

use super::Backup;
use super::manifest::{FORMAT, HEAD, Head, Item, MANIFEST};
use crate::catalog::blocking;
use crate::error::Error;

/// The longest first entry.
const MAX_HEAD: u64 = 64 * 1024;

/// The longest manifest: ten million files with long names.
const MAX_MANIFEST: u64 = 4 << 30;

/// How much of a file is copied at once.
const PIECE: usize = 256 * 1024;

/// Restores a backup as a new data directory. `data` is not there yet, or empty.
///
/// # Errors
///
/// [`Error::DataDirectory`] when something is in `data`, or the file is no backup, is damaged or not whole; when
/// something cannot be read or written. Then `data` is as it was.
pub async fn restore(file: &Path, data: &Path) -> Result<Backup, Error> {
    let (file, data) = (file.to_owned(), data.to_owned());
    blocking(move || into_place(&file, &data)).await?
}

fn into_place(file: &Path, data: &Path) -> Result<Backup, Error> {
    match fs::read_dir(data) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(Error::DataDirectory {
                    message: format!(
                        "{} has something in it: restore into a new or an empty directory",
                        data.display()
                    ),
                });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(format!("read {}", data.display()))(error)),
    }
    let parent = match data.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = data.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".{name}.restoring.{}", Uuid::now_v7().simple()));
    let restored = (|| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&temporary)
            .map_err(Error::io(format!("make {}", temporary.display())))?;
        let backup = extract(file, &temporary)?;
        // A server without a package has no pack either, and `store check` misses the place of packs.
        fs::create_dir_all(temporary.join("blobs/packs")).map_err(unmade)?;
        let directory = File::open(&temporary).map_err(unmade)?;
        // Everything at once: a sync for each of a hundred thousand files takes minutes.
        rustix::fs::syncfs(&directory).map_err(|error| unmade(error.into()))?;
        match fs::remove_dir(data) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unmade(error)),
            _ => {}
        }
        fs::rename(&temporary, data).map_err(unmade)?;
        let parent = File::open(&parent).map_err(unmade)?;
        parent.sync_all().map_err(unmade)?;
        Ok(backup)
    })();
    if restored.is_err() {
        // Half of it is of no use; that it may not go away changes nothing about the error.
        let _ = fs::remove_dir_all(&temporary);
    }
    restored
}

fn unmade(source: io::Error) -> Error {
    Error::io("make the data directory")(source)
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::DataDirectory {
        message: format!("this is no whole backup ({what}): take another one"),
    }
}

fn extract(file: &Path, root: &Path) -> Result<Backup, Error> {
    let input = File::open(file).map_err(Error::io(format!("read {}", file.display())))?;
    let decoder = zstd::stream::Decoder::new(input).map_err(damaged)?;
    let mut archive = tar::Archive::new(decoder);
    // Nothing that the archive says leads out of this directory.
    let root = Dir::open_ambient_dir(root, ambient_authority()).map_err(unmade)?;
    let mut found: BTreeMap<String, Item> = BTreeMap::new();
    let mut backup = Backup::default();
    let mut manifest = None;
    // Applied last: a directory may forbid what is still to be made in it.
    let mut modes: Vec<(String, u32)> = Vec::new();
    for (at, entry) in archive.entries().map_err(damaged)?.enumerate() {
        let mut entry = entry.map_err(damaged)?;
        let path = path_of(&entry)?;
        if manifest.is_some() {
            return Err(damaged("something follows its manifest"));
        }
        if at == 0 {
            check_head(&path, &mut entry)?;
            continue;
        }
        if path == MANIFEST {
            let mut text = Vec::new();
            entry
                .take(MAX_MANIFEST)
                .read_to_end(&mut text)
                .map_err(damaged)?;
            manifest = Some(text);
            continue;
        }
        let mode = entry.header().mode().map_err(damaged)? & 0o777;
        let item = match entry.header().entry_type() {
            tar::EntryType::Regular => {
                let item = write_file(&root, &path, mode, &mut entry)?;
                if let Item::File { bytes, .. } = &item {
                    backup.bytes += bytes;
                }
                item
            }
            tar::EntryType::Directory => {
                root.create_dir_all(&path).map_err(unmade)?;
                modes.push((path.clone(), mode));
                Item::Directory { path: path.clone() }
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name().map_err(damaged)?;
                let target = target.as_deref().and_then(Path::to_str);
                let target = target
                    .ok_or_else(|| damaged("a link leads nowhere"))?
                    .to_owned();
                root.symlink(&target, &path).map_err(unmade)?;
                Item::Link {
                    path: path.clone(),
                    target,
                }
            }
            other => return Err(damaged(format!("{path} is of the kind {other:?}"))),
        };
        backup.entries += 1;
        if found.insert(path.clone(), item).is_some() {
            return Err(damaged(format!("{path} is there twice")));
        }
    }
    compare(
        &manifest.ok_or_else(|| damaged("its end is missing"))?,
        found,
    )?;
    for (path, mode) in modes.iter().rev() {
        let permissions = fs::Permissions::from_mode(*mode);
        let permissions = cap_std::fs::Permissions::from_std(permissions);
        root.set_permissions(path, permissions).map_err(unmade)?;
    }
    Ok(backup)
}

/// The path of an entry: relative, and made of plain names.
fn path_of<R: Read>(entry: &tar::Entry<'_, R>) -> Result<String, Error> {
    let path = entry.path().map_err(damaged)?;
    let plain = path
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    match path.to_str() {
        Some(text) if plain && !text.is_empty() => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err(damaged(format!(
            "{} is not a path within it",
            path.display()
        ))),
    }
}

fn check_head(path: &str, entry: &mut impl Read) -> Result<(), Error> {
    let mut text = Vec::new();
    entry
        .take(MAX_HEAD)
        .read_to_end(&mut text)
        .map_err(damaged)?;
    let head: Head = match serde_json::from_slice(&text) {
        Ok(head) if path == HEAD => head,
        _ => return Err(damaged("it does not begin like one")),
    };
    if head.format == FORMAT {
        Ok(())
    } else {
        Err(Error::DataDirectory {
            message: format!(
                "the backup has format {}, written by version {}; this version reads {FORMAT}",
                head.format, head.version
            ),
        })
    }
}

fn write_file(root: &Dir, path: &str, mode: u32, entry: &mut impl Read) -> Result<Item, Error> {
    if let Some(parent) = Path::new(path).parent()
        && !parent.as_os_str().is_empty()
    {
        root.create_dir_all(parent).map_err(unmade)?;
    }
    let mut file = root
        .open_with(path, OpenOptions::new().write(true).create_new(true))
        .map_err(unmade)?;
    let (mut bytes, mut hasher) = (0, blake3::Hasher::new());
    let mut piece = vec![0; PIECE];
    loop {
        let read = entry.read(&mut piece).map_err(damaged)?;
        if read == 0 {
            break;
        }
        hasher.update(&piece[..read]);
        file.write_all(&piece[..read]).map_err(unmade)?;
        bytes += read as u64;
    }
    let permissions = fs::Permissions::from_mode(mode);
    file.set_permissions(cap_std::fs::Permissions::from_std(permissions))
        .map_err(unmade)?;
    Ok(Item::File {
        path: path.to_owned(),
        bytes,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

/// Holds what was found against what the manifest says.
fn compare(manifest: &[u8], mut found: BTreeMap<String, Item>) -> Result<(), Error> {
    let lines = manifest
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    for line in lines {
        let item: Item = serde_json::from_slice(line).map_err(damaged)?;
        let (Item::File { path, .. } | Item::Directory { path } | Item::Link { path, .. }) = &item;
        match found.remove(path) {
            Some(there) if there == item => {}
            Some(_) => return Err(damaged(format!("{path} was changed"))),
            None => return Err(damaged(format!("{path} is missing"))),
        }
    }
    match found.into_keys().next() {
        None => Ok(()),
        Some(path) => Err(damaged(format!("{path} is not in its manifest"))),
    }
}
