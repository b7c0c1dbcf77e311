//! A release made whole again: from its own files and those of other releases that have the same content;
//! and where that is not enough, by deploying its package once more.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::activation::active;
use crate::audit::{Act, Origin};
use crate::catalog::blocking;
use crate::data_dir::make_dir;
use crate::error::Error;
use crate::freeze::{self, FreezeError, ListedKind, Listing};
use crate::host::{Host, Inner};
use crate::name::{DeploymentId, ProjectName};
use crate::pipeline::RELEASE;
use crate::record::{Body, ReleaseRecord};

/// How long after the first attempt a release is tried again: what stood in the way, a hold or a full disk, may be gone by
/// then. After each further one it is twice as long.
const AGAIN: Duration = Duration::from_mins(10);

/// How often it becomes twice as long: to a day, about.
const DOUBLINGS: u32 = 7;

/// How long what is under way is waited for.
const BUSY: Duration = Duration::from_mins(1);

/// When releases may be tried to be restored.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<DeploymentId, Attempt>>);

#[derive(Debug)]
struct Attempt {
    count: u32,
    next: Instant,
}

impl Attempts {
    /// Whether it is time for an attempt, which begins with this.
    fn begin(&self, release: DeploymentId) -> bool {
        let now = Instant::now();
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = attempts.entry(release).or_insert(Attempt {
            count: 0,
            next: now,
        });
        if now < attempt.next {
            return false;
        }
        attempt.next = now + AGAIN * 2_u32.pow(attempt.count.min(DOUBLINGS));
        attempt.count += 1;
        true
    }

    /// Says that this was none, and that it is soon time for one.
    fn postpone(&self, release: DeploymentId) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attempt) = attempts.get_mut(&release) {
            attempt.count = attempt.count.saturating_sub(1);
            attempt.next = Instant::now() + BUSY;
        }
    }

    /// Lets the next look try again.
    fn forget(&self, release: DeploymentId) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&release);
    }
}

/// What rebuilding a release came to.
enum Rebuilt {
    Whole,
    /// Another release is served by now.
    NotServed,
}

impl Inner {
    /// Restores a release that is served and is not whole. One that cannot be restored is tried again after a while.
    pub(super) async fn restore(
        self: &Arc<Self>,
        project: &ProjectName,
        release: DeploymentId,
        record: &ReleaseRecord,
        why: &str,
    ) -> Result<(), Error> {
        if !self.observations.restore.begin(release) {
            return Ok(());
        }
        tracing::warn!(%project, %release, why, "a release that is served is not whole; it is restored");
        let how = match self.rebuild(project, release, record).await {
            Ok(Rebuilt::Whole) => {
                self.observations.restore.forget(release);
                "restored from kept files".to_owned()
            }
            Ok(Rebuilt::NotServed) => {
                self.observations.restore.forget(release);
                return Ok(());
            }
            Err(error) if self.queue.is_busy(project) => {
                // What is under way is newer than what would be deployed again, and may take its place.
                tracing::warn!(%project, %release, error = error.chain(), "a release cannot be restored from kept files; what is under way is waited for");
                self.observations.restore.postpone(release);
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(%project, %release, error = error.chain(), "a release cannot be restored from kept files; its package is deployed again");
                match self.redeploy(project, release).await {
                    Ok(again) => format!("deployed again as {again}"),
                    Err(error) => {
                        tracing::error!(%project, %release, error = error.chain(), "a release cannot be restored: deploy it again");
                        "it cannot be restored".to_owned()
                    }
                }
            }
        };
        let released = release.to_string();
        let detail = format!("{how}: {why}");
        let act = Act {
            action: "release.restore",
            project: Some(project),
            target: Some(&released),
            detail: Some(&detail),
        };
        self.audit(&Origin::host(), act).await
    }

    /// Builds the tree anew from whatever has its files, and puts it in the place of the other.
    async fn rebuild(
        self: &Arc<Self>,
        project: &ProjectName,
        release: DeploymentId,
        record: &ReleaseRecord,
    ) -> Result<Rebuilt, Error> {
        let place = |id| {
            (
                self.data.release(project, id),
                self.data.listing(project, id),
            )
        };
        let own = place(release);
        let others: Vec<_> = self
            .ledger
            .releases(project.as_str())
            .await?
            .into_iter()
            .filter(|row| row.id != release.as_uuid())
            .map(|row| place(row.id.into()))
            .collect();
        let staging = self.data.scratch();
        let (trash, digest) = (self.data.trash(), record.digest.clone());
        let _pointer = self.pointers.take(project).await;
        let row = self.ledger.project(project.as_str()).await?;
        if active(row.as_ref()) != Some(release) {
            return Ok(Rebuilt::NotServed);
        }
        let (from, to) = (staging.clone(), own.0.clone());
        let built: Result<_, Error> = blocking(move || {
            let staged = from.join(RELEASE);
            make_dir(&staged)?;
            build(&own, &others, &staged)?;
            let tree = freeze::inspect(&staged)?;
            if tree.digest != digest {
                return Err(Error::ReleaseInvalid {
                    message: format!("what could be put together has the digest {}", tree.digest),
                });
            }
            freeze::make_durable(&staged)?;
            // From here on it may be in its place, whatever fails.
            Ok(freeze::replace(&staged, &to, &trash))
        })
        .await?;
        // Whoever has the old directory open serves what is about to be gone.
        let served = match &built {
            Ok(_) => crate::recovery::serve(self, project.as_str(), release).await,
            Err(_) => Ok(()),
        };
        self.discard(staging).await;
        built??;
        served?;
        Ok(Rebuilt::Whole)
    }

    /// Sends the stored package through its pipeline again.
    async fn redeploy(
        self: &Arc<Self>,
        project: &ProjectName,
        release: DeploymentId,
    ) -> Result<DeploymentId, Error> {
        let host = Host {
            inner: self.clone(),
        };
        let body = Body::parse(&self.deployment_row(release).await?)?;
        let mut package = host.package(release).await?;
        let media_type = package.media_type.clone();
        let row = self.ledger.project(project.as_str()).await?;
        if active(row.as_ref()) != Some(release) || self.queue.is_busy(project) {
            return Err(Error::Conflict {
                message: "another release has taken its place, or is about to".to_owned(),
            });
        }
        let mut intake = host.begin(project, body.head, media_type).await?;
        intake.attribute(Origin::host());
        let id = intake.id();
        while let Some(bytes) = package.next().await? {
            intake.write(bytes).await?;
        }
        intake.finish().await?;
        Ok(id)
    }
}

/// Puts a release's tree together, each file from wherever its content still is.
fn build(
    own: &(PathBuf, PathBuf),
    others: &[(PathBuf, PathBuf)],
    staged: &Path,
) -> Result<(), FreezeError> {
    let mut wanted: HashMap<[u8; 32], Vec<(PathBuf, bool)>> = HashMap::new();
    for entry in Listing::open(&own.1)? {
        let entry = entry?;
        let to = staged.join(&entry.path);
        let failed = || FreezeError::outside("restore", &to);
        match entry.kind {
            ListedKind::Directory => fs::create_dir(&to).map_err(failed())?,
            ListedKind::Link { target } => {
                std::os::unix::fs::symlink(target, &to).map_err(failed())?;
            }
            ListedKind::File {
                hash, executable, ..
            } => {
                if !copy(&own.0.join(&entry.path), &to, &hash, executable) {
                    wanted.entry(hash).or_default().push((to, executable));
                }
            }
        }
    }
    for (root, list) in others {
        if wanted.is_empty() {
            break;
        }
        let Ok(listing) = Listing::open(list) else {
            continue;
        };
        for entry in listing {
            let entry = entry?;
            let ListedKind::File { hash, .. } = entry.kind else {
                continue;
            };
            let Some(places) = wanted.get_mut(&hash) else {
                continue;
            };
            let from = root.join(&entry.path);
            places.retain(|(to, executable)| !copy(&from, to, &hash, *executable));
            if places.is_empty() {
                wanted.remove(&hash);
            }
        }
    }
    Ok(())
}

/// Copies a file if its content is what it should be; whether it was.
fn copy(from: &Path, to: &Path, hash: &[u8; 32], executable: bool) -> bool {
    let copied = || -> std::io::Result<bool> {
        if !fs::symlink_metadata(from)?.is_file() {
            return Ok(false);
        }
        fs::copy(from, to)?;
        let mut hasher = blake3::Hasher::new();
        let mut file = fs::File::open(to)?;
        let mut block = vec![0; 128 * 1024];
        loop {
            match file.read(&mut block)? {
                0 => break,
                read => {
                    hasher.update(&block[..read]);
                }
            }
        }
        if hasher.finalize().as_bytes() != hash {
            fs::remove_file(to)?;
            return Ok(false);
        }
        let mode = if executable { 0o755 } else { 0o644 };
        fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
        Ok(true)
    };
    copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_release_is_put_together_from_what_is_left_of_it_and_from_others() {
        let directory = tempfile::tempdir().unwrap();
        let release = |name: &str, files: &[(&str, &str)]| {
            let root = directory.path().join(name);
            fs::create_dir(&root).unwrap();
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            let list = directory.path().join(format!("{name}.files"));
            let digest = freeze::inspect_listed(&root, &list).unwrap().digest;
            ((root, list), digest)
        };
        let (own, digest) = release("own", &[("a", "1"), ("d/b", "2"), ("c", "3")]);
        let (other, _) = release("other", &[("elsewhere", "2"), ("c", "not 3")]);
        fs::remove_dir_all(own.0.join("d")).unwrap();
        let restore = |name: &str| {
            let staged = directory.path().join(name);
            fs::create_dir(&staged).unwrap();
            build(&own, std::slice::from_ref(&other), &staged).unwrap();
            freeze::digest_of(&staged).unwrap().digest
        };
        assert_eq!(restore("one"), digest);
        // Content that is nowhere any more is not made up.
        fs::write(own.0.join("c"), "X").unwrap();
        assert_ne!(restore("two"), digest);
    }

    #[test]
    fn a_release_that_cannot_be_restored_is_tried_ever_more_seldom() {
        let (attempts, release) = (Attempts::default(), DeploymentId::new());
        let wait = || attempts.0.lock().unwrap()[&release].next - Instant::now();
        for count in 0..20 {
            assert!(attempts.begin(release));
            assert!(!attempts.begin(release));
            let expected = AGAIN * 2_u32.pow(count.min(DOUBLINGS));
            assert!(wait() <= expected && wait() > expected - BUSY);
            attempts.0.lock().unwrap().get_mut(&release).unwrap().next = Instant::now();
        }
        attempts.postpone(release);
        assert!(wait() <= BUSY && !attempts.begin(release));
        attempts.forget(release);
        assert!(attempts.begin(release));
    }
}
