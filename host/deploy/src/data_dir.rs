//! The data directory: who may use it, where everything lies, and how things are taken away.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::name::{DeploymentId, PluginName, ProjectName, ServiceName};

/// The version of the layout, in `DIR/FORMAT`. A directory with another one is refused.
const FORMAT: &str = "1";

/// What a data directory may hold before it is one: what a file system itself puts there, and the policy that the
/// operator wrote before the first start.
const HARMLESS: [&str; 2] = ["lost+found", "policy.toml"];

/// An opened and locked data directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    /// Held for as long as the host lives: it refuses a second server.
    _lock: File,
}

impl DataDir {
    /// Opens the directory, makes it when it is new, and locks it. Blocking.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        make_dir(root)?;
        let root = root
            .canonicalize()
            .map_err(Error::io(format!("open {}", root.display())))?;
        check_format(&root)?;
        let lock = lock(&root)?;
        let this = Self { root, _lock: lock };
        for name in [
            "blobs", "events", "staging", "trash", "scratch", "releases", "cache", "state",
            "plugins",
        ] {
            make_dir(&this.root.join(name))?;
        }
        Ok(this)
    }

    pub(crate) fn admin_token(&self) -> PathBuf {
        self.root.join("admin.token")
    }

    /// The key under which secrets are sealed.
    pub(crate) fn secrets_key(&self) -> PathBuf {
        self.root.join("secrets.key")
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.root.join("ledger.db")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(crate) fn events(&self) -> PathBuf {
        self.root.join("events")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(crate) fn plugins(&self) -> PathBuf {
        self.root.join("plugins")
    }

    /// Compiled components. They are derived from what `plugins` and releases hold and may be deleted.
    pub(crate) fn compiled(&self) -> PathBuf {
        self.root.join("plugins").join("compiled")
    }

    pub(crate) fn all_staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Where the host puts together what takes another's place at once. A start empties it.
    pub(crate) fn all_scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// A name in it that nobody has.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.all_scratch().join(uuid::Uuid::now_v7().to_string())
    }

    pub(crate) fn staging(&self, id: DeploymentId) -> PathBuf {
        self.all_staging().join(id.to_string())
    }

    /// A marker beside the log of a deployment whose last event is not written yet.
    pub(crate) fn open_end(&self, id: DeploymentId) -> PathBuf {
        self.events().join(format!("{id}.open"))
    }

    /// Removes the marker of [`Self::open_end`]. That it may survive a crash does no harm: the log it
    /// stands beside is found complete.
    pub(crate) fn remove_open_end(&self, id: DeploymentId) {
        if let Err(error) = fs::remove_file(self.open_end(id))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(deployment = %id, %error, "a marker could not be removed");
        }
    }

    /// The deployments that have a marker of [`Self::open_end`]. Blocking.
    pub(crate) fn open_ends(&self) -> Result<Vec<DeploymentId>, Error> {
        let directory = self.events();
        let entries =
            fs::read_dir(&directory).map_err(Error::io(format!("read {}", directory.display())))?;
        Ok(entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()?
                    .strip_suffix(".open")?
                    .parse()
                    .ok()
            })
            .collect())
    }

    /// What the name of a cache's marker ends with. No plugin's name has a dot in it.
    pub(crate) const CACHE_MARKER: &str = ".writing";

    pub(crate) fn all_caches(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// What a plugin keeps for a project.
    pub(crate) fn cache(&self, project: &ProjectName, plugin: &PluginName) -> PathBuf {
        self.all_caches()
            .join(project.as_str())
            .join(plugin.as_str())
    }

    /// A marker beside a cache in which a step is at work.
    pub(crate) fn cache_marker(&self, project: &ProjectName, plugin: &PluginName) -> PathBuf {
        let name = format!("{plugin}{}", Self::CACHE_MARKER);
        self.all_caches().join(project.as_str()).join(name)
    }

    pub(crate) fn all_states(&self) -> PathBuf {
        self.root.join("state")
    }

    /// What a service of a project keeps, from one release to the next.
    pub(crate) fn state(&self, project: &ProjectName, service: &ServiceName) -> PathBuf {
        self.all_states()
            .join(project.as_str())
            .join(service.as_str())
    }

    pub(crate) fn all_releases(&self) -> PathBuf {
        self.root.join("releases")
    }

    pub(crate) fn release(&self, project: &ProjectName, id: DeploymentId) -> PathBuf {
        self.all_releases()
            .join(project.as_str())
            .join(id.to_string())
    }

    /// What the name of a release's list ends with. No id has a dot in it.
    pub(crate) const LISTING: &str = ".files";

    /// The list of a release's files, beside it.
    pub(crate) fn listing(&self, project: &ProjectName, id: DeploymentId) -> PathBuf {
        self.all_releases()
            .join(project.as_str())
            .join(format!("{id}{}", Self::LISTING))
    }
}

/// Makes a directory that only its owner may enter, with those above it.
pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io(format!("make the directory {}", path.display())))
}

/// Writes a file so that it is either absent or whole: temporary file, sync, rename, sync of the directory.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = || format!("write {}", path.display());
    let directory = path
        .parent()
        .expect("a file of ours lies in a directory of ours");
    let temporary = path.with_extension(format!("{}.tmp", uuid::Uuid::now_v7().simple()));
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    let written = write();
    if written.is_err() {
        // The temporary file is of no use; that it may not go away changes nothing about the error.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(Error::io(failed()))
}

fn check_format(root: &Path) -> Result<(), Error> {
    let path = root.join("FORMAT");
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == FORMAT => Ok(()),
        Ok(text) => Err(Error::DataDirectory {
            message: format!(
                "{} has the format {:?}, this version reads {FORMAT}: use the version that wrote it, or another --data",
                root.display(),
                text.trim().chars().take(20).collect::<String>()
            ),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let strange = fs::read_dir(root)
                .map_err(Error::io(format!("read {}", root.display())))?
                .filter_map(Result::ok)
                .map(|entry| entry.file_name())
                .find(|name| !HARMLESS.iter().any(|harmless| name == harmless) && name != "lock");
            if let Some(name) = strange {
                return Err(Error::DataDirectory {
                    message: format!(
                        "{} is not a data directory (it holds {name:?} and no FORMAT): use an empty or a new one",
                        root.display()
                    ),
                });
            }
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(root, private)
                .map_err(Error::io(format!("make {} private", root.display())))?;
            write_whole(&path, format!("{FORMAT}\n").as_bytes())
        }
        Err(error) => Err(Error::io(format!("read {}", path.display()))(error)),
    }
}

fn lock(root: &Path) -> Result<File, Error> {
    let path = root.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(Error::io(format!("open {}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::DataDirectory {
            message: format!(
                "{} is in use by another server: stop it, or use another --data",
                root.display()
            ),
        }),
        Err(TryLockError::Error(error)) => {
            Err(Error::io(format!("lock {}", path.display()))(error))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_second_server_is_refused_and_the_first_one_leaves_room_when_it_goes() {
        let directory = tempfile::tempdir().unwrap();
        let first = DataDir::open(directory.path()).unwrap();
        let error = DataDir::open(directory.path()).unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
        drop(first);
        DataDir::open(directory.path()).unwrap();
    }

    #[test]
    fn a_directory_of_something_else_is_refused_and_untouched() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("thesis.txt"), "x").unwrap();
        assert!(DataDir::open(directory.path()).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("FORMAT"), "2\n").unwrap();
        let error = DataDir::open(directory.path()).unwrap_err();
        assert!(error.to_string().contains("format"), "{error}");
    }

    #[test]
    fn only_its_owner_may_enter() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("data");
        let data = DataDir::open(&root).unwrap();
        for path in [root.clone(), data.blobs(), data.trash()] {
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o700,
                "{}",
                path.display()
            );
        }
    }
}
