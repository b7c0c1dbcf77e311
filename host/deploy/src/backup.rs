//! Backups: the whole state of a data directory in one file, taken while its server runs, and put back elsewhere.
//!
//! A backup is a tar archive under zstd. What it holds is of one moment of the ledger: everything that was
//! acknowledged before, and of deployments that were under way their beginning, so that a server over the restored
//! directory finds what it would find after a power cut at that moment. Left out is what can be made again: compiled
//! components, caches, staging, the trash, and uploads that were not complete.
//!
//! The file has the key of the secrets and the admin token in it: it is as confidential as the directory.
//!
//! - `take`: writing one
//! - `restore`: reading one
//! - `manifest`: what both agree on

mod manifest;
mod restore;
mod take;

pub use restore::restore;
pub use take::take;

/// What a backup holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backup {
    /// Files, directories and links.
    pub entries: u64,
    /// The bytes of the files.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::error::Error;

    async fn packages(root: &Path) -> cofferdam_blobs::Store {
        let options = cofferdam_blobs::StoreOptions::default();
        cofferdam_blobs::Store::open(&root.join("blobs"), options)
            .await
            .unwrap()
    }

    /// A data directory with something of everything, as a host leaves it.
    async fn filled(root: &Path) {
        drop(crate::data_dir::DataDir::open(root).unwrap());
        let ledger = cofferdam_ledger::Ledger::open(&root.join("ledger.db")).await;
        ledger.unwrap().close().await;
        let store = packages(root).await;
        let mut ingest = store.ingest("blog").await.unwrap();
        ingest
            .write(bytes::Bytes::from_static(b"a package"))
            .await
            .unwrap();
        ingest.finish().await.unwrap();
        fs::write(root.join("secrets.key"), "key").unwrap();
        fs::create_dir_all(root.join("releases/blog/one/empty")).unwrap();
        fs::write(root.join("releases/blog/one/index.html"), "<h1>").unwrap();
        std::os::unix::fs::symlink("index.html", root.join("releases/blog/one/link")).unwrap();
        fs::write(root.join("plugins/aa.wasm"), "wasm").unwrap();
        fs::create_dir_all(root.join("plugins/compiled")).unwrap();
        fs::write(root.join("plugins/compiled/aa"), "code").unwrap();
    }

    #[tokio::test]
    async fn what_is_restored_is_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let (data, file) = (
            directory.path().join("data"),
            directory.path().join("b.tar.zst"),
        );
        filled(&data).await;
        let taken = take(&data, &file).await.unwrap();
        assert!(taken.entries > 8 && taken.bytes > 20, "{taken:?}");
        assert!(!data.join(".backup").exists());
        let elsewhere = directory.path().join("elsewhere");
        assert_eq!(restore(&file, &elsewhere).await.unwrap(), taken);
        for path in [
            "secrets.key",
            "releases/blog/one/index.html",
            "plugins/aa.wasm",
            "FORMAT",
        ] {
            assert_eq!(
                fs::read(data.join(path)).unwrap(),
                fs::read(elsewhere.join(path)).unwrap(),
                "{path}"
            );
        }
        assert!(elsewhere.join("releases/blog/one/empty").is_dir());
        let link = fs::read_link(elsewhere.join("releases/blog/one/link")).unwrap();
        assert_eq!(link, Path::new("index.html"));
        assert!(!elsewhere.join("plugins/compiled").exists());
        let store = packages(&elsewhere).await;
        let blob = store.blobs(None, 10).await.unwrap().remove(0);
        let mut reader = store.reader(blob.id).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), "a package");
        // A directory that is in use, or has something in it, is left alone.
        assert!(matches!(
            restore(&file, &elsewhere).await,
            Err(Error::DataDirectory { .. })
        ));
    }

    #[tokio::test]
    async fn a_server_that_never_had_a_package_is_restored_with_a_sound_store() {
        let directory = tempfile::tempdir().unwrap();
        let (data, file) = (directory.path().join("data"), directory.path().join("b"));
        drop(crate::data_dir::DataDir::open(&data).unwrap());
        let ledger = cofferdam_ledger::Ledger::open(&data.join("ledger.db")).await;
        ledger.unwrap().close().await;
        drop(packages(&data).await);
        take(&data, &file).await.unwrap();
        let elsewhere = directory.path().join("elsewhere");
        restore(&file, &elsewhere).await.unwrap();
        assert!(elsewhere.join("blobs/packs").is_dir());
    }

    #[tokio::test]
    async fn a_backup_that_was_changed_or_cut_restores_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (data, file) = (
            directory.path().join("data"),
            directory.path().join("b.tar.zst"),
        );
        filled(&data).await;
        take(&data, &file).await.unwrap();
        let good = fs::read(&file).unwrap();
        let plain = zstd::stream::decode_all(&good[..]).unwrap();
        let at = plain
            .windows(4)
            .position(|window| window == b"<h1>")
            .unwrap();
        let mut changed = plain.clone();
        changed[at] = b'[';
        let changed = zstd::stream::encode_all(&changed[..], 1).unwrap();
        let cut = zstd::stream::encode_all(&plain[..plain.len() / 2], 1).unwrap();
        for bad in [
            &changed[..],
            &cut[..],
            &good[..good.len() / 2],
            b"no archive",
            b"",
        ] {
            fs::write(&file, bad).unwrap();
            let elsewhere = directory.path().join("elsewhere");
            assert!(restore(&file, &elsewhere).await.is_err());
            assert!(!elsewhere.exists());
        }
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 2, "something stayed behind");
    }
}
