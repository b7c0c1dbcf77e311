//! Compiled components on disk.

use std::fs::{self, DirBuilder, File};
use std::hash::{Hash as _, Hasher};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::artifact;
use crate::error::Error;

/// A directory of compiled components, named by the content of the WebAssembly and the engine that compiled it.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
    compatibility: [u8; 32],
}

impl Cache {
    /// Opens the directory, making it when there is none.
    pub(crate) fn open(directory: &Path, engine: &Engine) -> Result<Self, Error> {
        let refuse = |message: String| Error::Cache {
            path: directory.to_path_buf(),
            message,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| refuse(format!("it cannot be made: {error}")))?;
        let metadata =
            fs::symlink_metadata(directory).map_err(|error| refuse(error.to_string()))?;
        if !metadata.is_dir() {
            return Err(refuse("it is not a directory".to_owned()));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(refuse(format!(
                "it belongs to user {}, not to this program's",
                metadata.uid()
            )));
        }
        let mode = metadata.mode() & 0o777;
        if mode & 0o022 != 0 {
            // Someone else may have left machine code in it.
            return Err(refuse(format!(
                "others may write to it (mode {mode:o}); remove it"
            )));
        }
        if mode != 0o700 {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
                .map_err(|error| refuse(format!("it cannot be closed to others: {error}")))?;
        }
        let mut hasher = KeyHasher(blake3::Hasher::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self {
            directory: directory.to_path_buf(),
            compatibility: *hasher.0.finalize().as_bytes(),
        })
    }

    /// The compiled form of the component with this digest, and its file, when there is a sound one.
    pub(crate) fn load(&self, engine: &Engine, digest: &blake3::Hash) -> Option<(Component, File)> {
        let (path, hash_path) = self.paths(digest);
        let recorded = fs::read_to_string(hash_path).ok()?;
        let recorded = blake3::Hash::from_hex(recorded.trim()).ok()?;
        let file = File::open(&path).ok()?;
        let found = hash_file(&file).ok()?;
        if found != recorded {
            tracing::warn!(path = %path.display(), "a compiled component is damaged and is compiled again");
            return None;
        }
        artifact::load_open(engine, &file)
            .map(|component| (component, file))
            .inspect_err(|error| {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "a compiled component does not load"
                );
            })
            .ok()
    }

    /// A place for a compiled component to be written to.
    pub(crate) fn writer(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(".writing-")
            .tempfile_in(&self.directory)
    }

    /// Keeps a compiled component that was written. Failing to only costs time later.
    ///
    /// The artifact comes first, its hash second: a hash on disk means that its artifact is.
    pub(crate) fn keep(&self, artifact: NamedTempFile, digest: &blake3::Hash) {
        // Two processes may do this at once with artifacts that differ in nothing that matters but their bytes;
        // a reader between the two renames sees a hash that does not match, and compiles.
        let kept = (|| {
            let (path, hash_path) = self.paths(digest);
            let hash = hash_file(artifact.as_file())?;
            artifact.as_file().sync_all()?;
            artifact.persist(&path).map_err(|error| error.error)?;
            let mut recorded = self.writer()?;
            recorded.write_all(hash.to_hex().as_bytes())?;
            recorded.as_file().sync_all()?;
            recorded.persist(&hash_path).map_err(|error| error.error)?;
            File::open(&self.directory)?.sync_all()
        })();
        if let Err(error) = kept {
            tracing::warn!(%error, directory = %self.directory.display(), "a compiled component was not cached");
        }
    }

    /// Removes what is kept of the component with this digest. Who has it mapped keeps it. Failing to only costs
    /// room.
    pub(crate) fn forget(&self, digest: &blake3::Hash) {
        let (path, hash_path) = self.paths(digest);
        // The hash first: an artifact without one is not used.
        for path in [hash_path, path] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a compiled component stays behind");
                }
                _ => {}
            }
        }
    }

    fn paths(&self, digest: &blake3::Hash) -> (PathBuf, PathBuf) {
        let key = blake3::Hasher::new()
            .update(digest.as_bytes())
            .update(&self.compatibility)
            .finalize()
            .to_hex();
        (
            self.directory.join(format!("{key}.cwasm")),
            self.directory.join(format!("{key}.blake3")),
        )
    }
}

/// Hashes a file from its beginning.
fn hash_file(mut file: &File) -> io::Result<blake3::Hash> {
    file.rewind()?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(read) => {
                hasher.update(&buffer[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lets the engine write its configuration into a hash that is the same in every process.
struct KeyHasher(blake3::Hasher);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let bytes = self.0.finalize();
        u64::from_le_bytes(std::array::from_fn(|index| bytes.as_bytes()[index]))
    }
}
