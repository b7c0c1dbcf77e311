//! Packs that the index does not know.
//!
//! A crash between the naming of a pack and the commit that makes it known leaves one; so do an operator who puts
//! a pack there, and one who puts an older index back. Nobody leans on them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::{Collector, blocking};
use crate::Error;
use crate::pack;

impl Collector {
    /// Removes the packs that the index does not know, once they are old enough.
    pub(super) async fn remove_orphans(&mut self) -> Result<(), Error> {
        let shared = self.shared.clone();
        let listed = blocking(move || {
            let directory = shared.packs_directory();
            let listed = shared.disk.list(directory);
            listed.map_err(|source| Error::io("listing", directory, source))
        })
        .await??;
        let mut removed = 0;
        for path in listed {
            let Some(name) = pack_name(&path) else {
                continue;
            };
            if self.shared.index.knows_pack(name).await? {
                continue;
            }
            let Some(bytes) = self.old_enough(path.clone()).await? else {
                continue;
            };
            // Whoever is about to tell the index of it has done so when this is had, and nobody begins to.
            let naming = self.shared.naming.write().await;
            if self.shared.index.knows_pack(name).await? {
                continue;
            }
            self.report.orphans_removed += 1;
            self.report.orphan_bytes += bytes;
            if !self.options.dry_run {
                let shared = self.shared.clone();
                tracing::warn!(
                    pack = pack::pack_file_name(name),
                    bytes,
                    "a pack that the index does not know is removed"
                );
                blocking(move || shared.remove_pack(name)).await??;
                removed += 1;
            }
            drop(naming);
        }
        if removed > 0 {
            let shared = self.shared.clone();
            blocking(move || shared.sync_packs()).await??;
        }
        Ok(())
    }

    /// How many bytes a file has, if it is older than the grace.
    async fn old_enough(&self, path: PathBuf) -> Result<Option<u64>, Error> {
        let grace = self.options.orphan_grace;
        blocking(move || {
            let failed = |source| Error::io("reading the age of", &path, source);
            let metadata = path.metadata().map_err(failed)?;
            let written = metadata.modified().map_err(failed)?;
            // One from the future is not old.
            let age = written.elapsed().unwrap_or(Duration::ZERO);
            Ok((age >= grace).then_some(metadata.len()))
        })
        .await?
    }
}

/// The name of the pack that a file is by its own; what has no such name is nobody's to remove.
fn pack_name(path: &Path) -> Option<Uuid> {
    if path.extension()? != pack::EXTENSION {
        return None;
    }
    let name: Uuid = path.file_stem()?.to_str()?.parse().ok()?;
    (path.file_name()?.to_str()? == pack::pack_file_name(name)).then_some(name)
}
