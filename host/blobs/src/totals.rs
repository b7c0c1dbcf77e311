//! How much a store holds, and a copy of its index that a backup takes from beside a running server.

use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use uuid::Uuid;

use crate::store::INDEX;
use crate::{Error, Store};

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Complete blobs.
    pub blobs: u64,
    /// Their bytes as they were given.
    pub bytes: u64,
    /// Packs in use.
    pub packs: u64,
    /// The bytes of those on the disk.
    pub pack_bytes: u64,
}

impl Store {
    /// What the store holds. One look at each blob and each pack, none at chunks.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] when the index cannot be read.
    pub async fn totals(&self) -> Result<Totals, Error> {
        let index = &self.shared().index;
        let failed = |source| Error::index("counting what it holds", index.path(), source);
        let mut reader = index.reader().await;
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM blob), (SELECT coalesce(sum(bytes), 0) FROM blob), \
                    (SELECT count(*) FROM pack WHERE state < 2), \
                    (SELECT coalesce(sum(bytes), 0) FROM pack WHERE state < 2)",
        )
        .fetch_one(&mut *reader)
        .await
        .map_err(failed)?;
        let at = |column: usize| -> Result<u64, Error> {
            let value: i64 = row.try_get(column).map_err(failed)?;
            Ok(u64::try_from(value).unwrap_or_default())
        };
        Ok(Totals {
            blobs: at(0)?,
            bytes: at(1)?,
            packs: at(2)?,
            pack_bytes: at(3)?,
        })
    }
}

/// A copy of a store's index, and the files that it needs.
#[derive(Debug)]
pub struct IndexCopy {
    /// Where the index belongs in a store's directory.
    pub index: PathBuf,
    /// The packs that it names, as paths within a store's directory.
    pub packs: Vec<PathBuf>,
}

/// Writes a copy of the index of the store in `directory` to the new file `to`. The store may be open, also in
/// another process, and may be written meanwhile: the copy is of one moment, and every pack that it names was
/// durable then.
///
/// # Errors
///
/// [`Error::Index`] when the index cannot be read or `to` cannot be written.
pub async fn copy_index(directory: &Path, to: &Path) -> Result<IndexCopy, Error> {
    let path = directory.join(INDEX);
    let failed = |source| Error::index("copying it", &path, source);
    let mut connection: SqliteConnection = SqliteConnectOptions::new()
        .filename(&path)
        .read_only(true)
        .busy_timeout(crate::index::BUSY)
        .disable_statement_logging()
        .connect()
        .await
        .map_err(failed)?;
    sqlx::query("VACUUM INTO ?")
        .bind(to.to_string_lossy().into_owned())
        .execute(&mut connection)
        .await
        .map_err(failed)?;
    connection.close().await.map_err(failed)?;
    let mut copy: SqliteConnection = SqliteConnectOptions::new()
        .filename(to)
        .read_only(true)
        .disable_statement_logging()
        .connect()
        .await
        .map_err(failed)?;
    let names: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT name FROM pack WHERE state < 2 ORDER BY id")
            .fetch_all(&mut copy)
            .await
            .map_err(failed)?;
    copy.close().await.map_err(failed)?;
    let names = names.iter().filter_map(|name| Uuid::from_slice(name).ok());
    Ok(IndexCopy {
        index: PathBuf::from(INDEX),
        packs: names
            .map(|name| Path::new("packs").join(crate::pack::pack_file_name(name)))
            .collect(),
    })
}

/// The most faults that are listed: one is enough to act on.
const FAULTS: usize = 10;

/// Looks at every page of the index of the store in `directory`, and whether the packs that it names are there at
/// their length. The store may be open, also in another process; nothing is written, and no pack is read.
///
/// # Errors
///
/// [`Error::Index`] when the index cannot be read at all.
pub async fn quick_check(directory: &Path) -> Result<Vec<String>, Error> {
    let path = directory.join(INDEX);
    let failed = |source| Error::index("checking it", &path, source);
    let mut connection: SqliteConnection = SqliteConnectOptions::new()
        .filename(&path)
        .read_only(true)
        .busy_timeout(crate::index::BUSY)
        .disable_statement_logging()
        .connect()
        .await
        .map_err(failed)?;
    let mut faults: Vec<String> = sqlx::query_scalar("PRAGMA quick_check(10)")
        .fetch_all(&mut connection)
        .await
        .map_err(failed)?;
    faults.retain(|fault| fault != "ok");
    let packs = sqlx::query("SELECT name, bytes FROM pack WHERE state = 0 ORDER BY id")
        .fetch_all(&mut connection)
        .await
        .map_err(failed)?;
    let damaged: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM chunk WHERE quarantined <> 0")
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
    connection.close().await.map_err(failed)?;
    if damaged > 0 {
        faults.push(format!("{damaged} chunks are known to be damaged"));
    }
    for pack in packs {
        if faults.len() >= FAULTS {
            break;
        }
        let name: Vec<u8> = pack.try_get(0).map_err(failed)?;
        let bytes: i64 = pack.try_get(1).map_err(failed)?;
        let Ok(name) = Uuid::from_slice(&name) else {
            faults.push("a pack has no name".to_owned());
            continue;
        };
        let file = crate::pack::pack_file_name(name);
        match std::fs::metadata(directory.join("packs").join(&file)) {
            Ok(metadata) if i64::try_from(metadata.len()) == Ok(bytes) => {}
            Ok(metadata) => faults.push(format!(
                "the pack {file} has {} bytes instead of {bytes}",
                metadata.len()
            )),
            Err(error) => faults.push(format!("the pack {file} cannot be found: {error}")),
        }
    }
    Ok(faults)
}
