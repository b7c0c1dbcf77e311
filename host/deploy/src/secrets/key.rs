//! The key under which secrets are sealed: 32 random bytes in base64, in a file that only its owner may read.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::catalog::blocking;
use crate::data_dir::write_whole;
use crate::error::Error;

/// Bytes of a key of XChaCha20-Poly1305.
pub(super) const KEY_BYTES: usize = 32;

/// The longest file that is read as a key.
const MAX_FILE: u64 = 1024;

/// What nobody but the owner of the file may have: any access.
const OTHERS: u32 = 0o077;

/// A key, wiped when it is dropped.
pub(super) type Key = Zeroizing<[u8; KEY_BYTES]>;

/// Reads the key.
pub(super) async fn read(path: PathBuf) -> Result<Key, Error> {
    blocking(move || {
        load(&path)?.ok_or_else(|| {
            unavailable(
                &path,
                "is missing, and without it no secret can be opened: put it back from a backup, or remove \
                 every secret and set them anew",
            )
        })
    })
    .await?
}

/// Reads the key, and makes one first when there is none and there `may_make` be: when nothing is sealed yet.
pub(super) async fn read_or_make(path: PathBuf, may_make: bool) -> Result<Key, Error> {
    let of = path.clone();
    if may_make && blocking(move || load(&of)).await??.is_none() {
        let of = path.clone();
        blocking(move || make(&of)).await??;
    }
    read(path).await
}

fn unavailable(path: &Path, what: &str) -> Error {
    // Its name tells where it is; where the data directory is concerns no client.
    let name = path.file_name().unwrap_or_default().display();
    Error::SecretsUnavailable {
        message: format!("{name} in the server's data directory {what}"),
    }
}

fn load(path: &Path) -> Result<Option<Key>, Error> {
    let failed = || Error::io(format!("read {}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed()(error)),
    };
    let mode = file.metadata().map_err(failed())?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(unavailable(
            path,
            &format!(
                "has the mode {mode:04o}, and others than its owner may use it: chmod 600 it, and set every secret \
                 anew if somebody may have read it"
            ),
        ));
    }
    let mut text = Zeroizing::new(String::new());
    let read = file.take(MAX_FILE).read_to_string(&mut text);
    let mut key = Key::default();
    let decoded = read
        .ok()
        .and_then(|_| URL_SAFE_NO_PAD.decode_slice(text.trim(), &mut *key).ok());
    if decoded == Some(KEY_BYTES) {
        Ok(Some(key))
    } else {
        Err(unavailable(
            path,
            "is not a key (32 bytes in base64): put it back from a backup",
        ))
    }
}

fn make(path: &Path) -> Result<(), Error> {
    let mut key = Key::default();
    getrandom::fill(&mut *key).map_err(|error| Error::Io {
        action: "get random bytes for the key of the secrets".to_owned(),
        source: std::io::Error::other(error),
    })?;
    let text = Zeroizing::new(format!("{}\n", URL_SAFE_NO_PAD.encode(*key)));
    write_whole(path, text.as_bytes())
}
