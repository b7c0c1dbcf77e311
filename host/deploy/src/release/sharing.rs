//! One copy on disk of what two releases have in common.
//!
//! It happens after a release is frozen, and only between frozen releases, whose files nobody writes: a
//! step writes into a staging directory of its own, with files that were made there. So a second name for a
//! file, or shared extents, can never be the way by which one release changes another.
//!
//! A file is shared when path, content and executable bit are alike by the lists, and its content is read
//! once more before it takes the place of the other: what a bad disk did to one release is not handed on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalog::blocking;
use crate::data_dir::make_dir;
use crate::freeze::{self, FreezeError, ListedKind, Listing, Pair, Pairs};
use crate::host::Inner;
use crate::name::{DeploymentId, ProjectName};

/// How many clones are made durable at once before they take their places.
const BATCH: usize = 1000;

/// Bytes of a file that are read at once.
const BLOCK: usize = 128 * 1024;

/// How the disk shares what files have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Two files with the same extents, until one is written.
    Reflink,
    /// Two names of one file.
    HardLink,
    /// Not at all.
    Copies,
}

/// What was shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shared {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// The two releases, each by its root and its list.
#[derive(Debug, Clone)]
pub(crate) struct Sides {
    pub(crate) before: (PathBuf, PathBuf),
    pub(crate) after: (PathBuf, PathBuf),
}

impl Sharing {
    /// Finds out what the disk can do, by doing it in this directory. Blocks.
    pub(crate) fn probe(directory: &Path) -> Self {
        let place = directory.join(format!("probe-{}", uuid::Uuid::now_v7().simple()));
        let found = Self::try_in(&place).unwrap_or(Self::Copies);
        if let Err(error) = fs::remove_dir_all(&place)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %place.display(), "what was tried out on the disk stays behind");
        }
        found
    }

    fn try_in(place: &Path) -> io::Result<Self> {
        fs::create_dir(place)?;
        let (one, two) = (place.join("one"), place.join("two"));
        fs::write(&one, [7; 8192])?;
        if clone(&one, &two, 0o600).is_ok() {
            return Ok(Self::Reflink);
        }
        fs::remove_file(&two).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        fs::hard_link(&one, &two)?;
        Ok(Self::HardLink)
    }

    /// Puts the earlier release's files in the place of those of the later one that are alike. `scratch` is
    /// a directory on the same file system that is thrown away whatever happens. Blocks.
    pub(crate) fn share(self, sides: &Sides, scratch: &Path) -> Result<Shared, FreezeError> {
        let mut shared = Shared::default();
        if self == Self::Copies {
            return Ok(shared);
        }
        let (old, new) = (&sides.before, &sides.after);
        let failed = || FreezeError::outside("share", &new.0);
        make_dir(scratch).map_err(|error| failed()(io::Error::other(error)))?;
        let mut waiting: Vec<(PathBuf, PathBuf)> = Vec::new();
        let mut number = 0_u64;
        for pair in Pairs::new(Listing::open(&old.1)?, Listing::open(&new.1)?) {
            let Pair::Both(before, after) = pair? else {
                continue;
            };
            let ListedKind::File {
                hash,
                bytes,
                executable,
            } = after.kind
            else {
                continue;
            };
            if before.kind != after.kind || bytes == 0 {
                continue;
            }
            let (from, to) = (old.0.join(&before.path), new.0.join(&after.path));
            number += 1;
            let temporary = scratch.join(number.to_string());
            match self.prepare(&from, &to, &temporary, &hash, executable) {
                Ok(true) => {
                    shared.files += 1;
                    shared.bytes += bytes;
                    waiting.push((temporary, to));
                }
                // It is shared already, or not what the list says.
                Ok(false) => {}
                // A file that cannot be shared (it has too many names, its release is being removed) is a
                // copy, as it was.
                Err(error) => {
                    tracing::debug!(%error, path = %from.display(), "a file is not shared");
                }
            }
            if waiting.len() >= BATCH {
                self.place(&mut waiting, scratch)?;
            }
        }
        self.place(&mut waiting, scratch)?;
        Ok(shared)
    }

    /// Makes the file that is to take the place of the other; false when there is no need, or no reason.
    fn prepare(
        self,
        from: &Path,
        to: &Path,
        temporary: &Path,
        hash: &[u8; 32],
        executable: bool,
    ) -> io::Result<bool> {
        let (source, present) = (fs::symlink_metadata(from)?, fs::symlink_metadata(to)?);
        let same_file = (source.dev(), source.ino()) == (present.dev(), present.ino());
        if same_file || !source.is_file() || !present.is_file() {
            return Ok(false);
        }
        if hash_of(from)? != *hash {
            tracing::error!(path = %from.display(), "a file of a frozen release is not what it was; it is not shared");
            return Ok(false);
        }
        match self {
            Self::Reflink => {
                let mode = if executable { 0o755 } else { 0o644 };
                clone(from, temporary, mode)?;
            }
            Self::HardLink => fs::hard_link(from, temporary)?,
            Self::Copies => return Ok(false),
        }
        Ok(true)
    }

    /// Lets what was made take its place.
    fn place(
        self,
        waiting: &mut Vec<(PathBuf, PathBuf)>,
        scratch: &Path,
    ) -> Result<(), FreezeError> {
        if waiting.is_empty() {
            return Ok(());
        }
        if self == Self::Reflink {
            // A name must never lead to what is not on the disk yet. A hard link leads to what is.
            freeze::make_durable(scratch)?;
        }
        for (temporary, to) in waiting.drain(..) {
            fs::rename(&temporary, &to).map_err(FreezeError::outside("share", &to))?;
        }
        Ok(())
    }
}

impl Inner {
    /// Lets a release that was just activated share what it has in common with the one before.
    pub(crate) fn share_in_background(
        self: &Arc<Self>,
        project: &ProjectName,
        before: DeploymentId,
        after: DeploymentId,
    ) {
        let sharing = self.sharing;
        if sharing == Sharing::Copies {
            return;
        }
        let place = |id| {
            (
                self.data.release(project, id),
                self.data.listing(project, id),
            )
        };
        let sides = Sides {
            before: place(before),
            after: place(after),
        };
        let scratch = self.data.scratch();
        let (host, project) = (self.clone(), project.clone());
        tokio::spawn(async move {
            let place = scratch.clone();
            let shared = blocking(move || sharing.share(&sides, &place)).await;
            host.discard(scratch).await;
            match shared {
                Ok(Ok(shared)) => {
                    tracing::debug!(%project, release = %after, files = shared.files, bytes = shared.bytes, ?sharing, "a release shares files with the one before");
                }
                // It is as whole as it was, and takes more room.
                Ok(Err(error)) => {
                    tracing::warn!(%project, release = %after, %error, "a release shares fewer files than it could");
                }
                Err(error) => {
                    tracing::warn!(%project, error = error.chain(), "files could not be shared");
                }
            }
        });
    }
}

/// Makes a file that has the extents of another.
fn clone(from: &Path, to: &Path, mode: u32) -> io::Result<()> {
    let source = File::open(from)?;
    let copy = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    rustix::fs::ioctl_ficlone(copy.as_fd(), source.as_fd())?;
    copy.set_permissions(fs::Permissions::from_mode(mode))
}

fn hash_of(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(*hasher.finalize().as_bytes()),
            read => {
                hasher.update(&block[..read]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::freeze::{digest_of, inspect_listed};

    struct Place {
        directory: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            Self {
                directory: tempfile::tempdir().unwrap(),
            }
        }

        /// A frozen release of these files, with its list and its digest.
        fn release(&self, name: &str, files: &[(&str, &str)]) -> (PathBuf, PathBuf, String) {
            let root = self.directory.path().join(name);
            fs::create_dir(&root).unwrap();
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            let list = self.directory.path().join(format!("{name}.files"));
            let digest = inspect_listed(&root, &list).unwrap().digest;
            (root, list, digest)
        }

        fn share(
            &self,
            before: &(PathBuf, PathBuf, String),
            after: &(PathBuf, PathBuf, String),
        ) -> Shared {
            let sides = Sides {
                before: (before.0.clone(), before.1.clone()),
                after: (after.0.clone(), after.1.clone()),
            };
            let scratch = self.directory.path().join("scratch");
            let sharing = Sharing::probe(self.directory.path());
            assert_ne!(
                sharing,
                Sharing::Copies,
                "this disk has not even hard links"
            );
            sharing.share(&sides, &scratch).unwrap()
        }
    }

    #[test]
    fn what_releases_have_in_common_is_on_disk_once_and_their_digests_stay() {
        let place = Place::new();
        let one = place.release("one", &[("a/same", "alike"), ("b", "old"), ("empty", "")]);
        let two = place.release("two", &[("a/same", "alike"), ("b", "new"), ("empty", "")]);
        let shared = place.share(&one, &two);
        assert_eq!(shared, Shared { files: 1, bytes: 5 });
        for release in [&one, &two] {
            assert_eq!(digest_of(&release.0).unwrap().digest, release.2);
        }
        let inode = |root: &Path| fs::metadata(root.join("a/same")).unwrap().ino();
        if Sharing::probe(place.directory.path()) == Sharing::HardLink {
            assert_eq!(inode(&one.0), inode(&two.0));
            // What is shared already is left alone.
            assert_eq!(place.share(&one, &two), Shared::default());
        }
        // The one goes, the other stays whole.
        fs::remove_dir_all(&one.0).unwrap();
        assert_eq!(digest_of(&two.0).unwrap().digest, two.2);
    }

    #[test]
    fn damage_is_not_handed_on() {
        let place = Place::new();
        let one = place.release("one", &[("a", "alike")]);
        let two = place.release("two", &[("a", "alike")]);
        fs::write(one.0.join("a"), "wrong").unwrap();
        assert_eq!(place.share(&one, &two), Shared::default());
        assert_eq!(digest_of(&two.0).unwrap().digest, two.2);
    }

    #[test]
    fn another_mode_is_another_file() {
        let place = Place::new();
        let one = place.release("one", &[("run", "#!")]);
        let root = place.directory.path().join("two");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("run"), "#!").unwrap();
        fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        let list = place.directory.path().join("two.files");
        let digest = inspect_listed(&root, &list).unwrap().digest;
        let two = (root, list, digest);
        assert_eq!(place.share(&one, &two), Shared::default());
        assert_eq!(digest_of(&two.0).unwrap().digest, two.2);
    }
}
