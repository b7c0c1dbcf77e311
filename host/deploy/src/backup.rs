//! Backups: the whole state of a data directory in one file, taken while its server runs, and put back elsewhere.
//!
//! A backup is a tar archive under zstd. What it holds is of one moment of the ledger: everything that was
//! acknowledged before, and of deployments that were under way their beginning, so that a server over the restored
//! directory finds what it would find after a power cut at that moment. Left out is what can be made again: compiled
//! components, caches, staging, the trash, and uploads that were not complete. What services keep is copied file by
//! file while they may be writing: each file as it was between two writes, one file a little later than another.
//!
//! The file has the key of the secrets and the admin token in it: it is as confidential as the directory.
//!
//! - `take`: making one, in the order that makes it whole
//! - `archive`: the file of it, as it is written
//! - `state`: what services keep
//! - `restore`: reading one
//! - `manifest`: what both agree on

mod archive;
mod manifest;
mod restore;
mod state;
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
    /// What services keep and no backup can hold: directories within more than 128 others, names that are no text, links
    /// that begin at the root.
    pub skipped: u64,
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
        fs::create_dir_all(root.join("state/blog/web/empty")).unwrap();
        fs::write(root.join("state/blog/web/visits"), "12").unwrap();
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
            "state/blog/web/visits",
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
        assert!(elsewhere.join("state/blog/web/empty").is_dir());
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
        // So is a file that is there.
        let was = fs::read(&file).unwrap();
        assert!(matches!(
            take(&data, &file).await,
            Err(Error::Conflict { .. })
        ));
        assert_eq!(fs::read(&file).unwrap(), was);
    }

    #[test]
    fn no_service_keeps_a_backup_from_being_taken_or_leads_it_elsewhere() {
        use std::os::unix::fs::symlink;
        use std::sync::mpsc;

        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(filled(&data));
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "the host's own").unwrap();
        let own = data.join("state/blog/web");
        let mut deep = own.join("deep");
        for _ in 0..200 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        let outside = &outside;
        std::thread::scope(|scope| {
            // Gone when this is over, in whatever way.
            let (_going_on, over) = mpsc::channel::<()>();
            // What a guest can do in its directory, all the time.
            scope.spawn(move || {
                for round in 0_u32.. {
                    if over.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
                        break;
                    }
                    let length = if round % 2 == 0 { 300_000 } else { 3 };
                    fs::write(own.join("written"), vec![b'w'; length]).unwrap();
                    let _ = fs::remove_file(own.join("turned"));
                    let _ = fs::remove_dir_all(own.join("turned"));
                    if round % 2 == 0 {
                        fs::create_dir(own.join("turned")).unwrap();
                        fs::write(own.join("turned/secret"), "its own").unwrap();
                    } else {
                        let places = [Path::new("../../../../outside"), outside];
                        symlink(places[round as usize / 2 % 2], own.join("turned")).unwrap();
                    }
                }
            });
            for round in 0..10 {
                let file = directory.path().join(format!("{round}.tar.zst"));
                let restored = directory.path().join(format!("restored-{round}"));
                let taken = runtime.block_on(take(&data, &file)).unwrap();
                assert!(taken.skipped > 0, "the deepest directories are");
                runtime.block_on(restore(&file, &restored)).unwrap();
                let kept = restored.join("state/blog/web");
                if let Ok(written) = fs::read(kept.join("written")) {
                    assert!(written.iter().all(|byte| *byte == b'w'));
                }
                if !kept.join("turned").is_symlink()
                    && let Ok(found) = fs::read_to_string(kept.join("turned/secret"))
                {
                    assert!(["", "its own"].contains(&found.as_str()), "{found}");
                }
            }
        });
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
