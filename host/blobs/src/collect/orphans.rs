//! Packs that the index does not know.
//!
//! A crash between the naming of a pack and the commit that makes it known leaves one; so do an operator who puts
//! a pack there, and one who puts an older index back. Nobody leans on them by that index; but what an older index does not
//! know may be whole blobs. So their time begins when a collection first finds that they are not known, and not when their
//! bytes were written: whoever puts an index back has the whole grace to find that out.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::{Collector, blocking};
use crate::Error;
use crate::index::now;
use crate::pack;

impl Collector {
    /// Removes the packs that the index does not know, once it has not known them for long enough.
    pub(super) async fn remove_orphans(&mut self) -> Result<(), Error> {
        let shared = self.shared.clone();
        let listed = blocking(move || {
            let directory = shared.packs_directory();
            let listed = shared.disk.list(directory);
            listed.map_err(|source| Error::io("listing", directory, source))
        })
        .await??;
        let mut removed = 0;
        let mut waiting = Vec::new();
        for path in listed {
            let Some(name) = pack_name(&path) else {
                continue;
            };
            if self.shared.index.knows_pack(name).await? {
                continue;
            }
            if !self.was_seen_long_ago(name).await? {
                waiting.push(name);
                continue;
            }
            // Whoever is about to tell the index of it has done so when this is had, and nobody begins to.
            let naming = self.shared.naming.write().await;
            if self.shared.index.knows_pack(name).await? {
                continue;
            }
            let bytes = length(path).await?;
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
        if self.options.dry_run {
            return Ok(());
        }
        self.shared.index.forget_orphans(&waiting).await
    }

    /// Whether a collection has seen this one for longer than the grace. If none has, this one does.
    async fn was_seen_long_ago(&self, name: Uuid) -> Result<bool, Error> {
        let now = now();
        let index = &self.shared.index;
        let seen_at = match index.orphan_seen_at(name).await? {
            Some(seen_at) => seen_at,
            None if self.options.dry_run => now,
            None => {
                index.see_orphan(name, now).await?;
                now
            }
        };
        // One that is seen in the future was not seen long ago.
        let age = u128::try_from(now.saturating_sub(seen_at)).unwrap_or_default();
        Ok(age >= self.options.orphan_grace.as_millis())
    }
}

/// How many bytes a file has.
async fn length(path: PathBuf) -> Result<u64, Error> {
    blocking(move || {
        let metadata = path.metadata();
        let metadata = metadata.map_err(|source| Error::io("measuring", &path, source))?;
        Ok(metadata.len())
    })
    .await?
}

/// The name of the pack that a file is by its own; what has no such name is nobody's to remove.
fn pack_name(path: &Path) -> Option<Uuid> {
    if path.extension()? != pack::EXTENSION {
        return None;
    }
    let name: Uuid = path.file_stem()?.to_str()?.parse().ok()?;
    (path.file_name()?.to_str()? == pack::pack_file_name(name)).then_some(name)
}
