//! Uploads that an earlier run of this program has begun, so that this one goes on with them.
//!
//! One small file for each, named by the server, the project and what is sent. None of it is believed: the server
//! says how far the upload is, and the package's digest says whether it was this package.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The longest such file that is read.
const MAX_BYTES: u64 = 4096;

/// The file of one upload.
#[derive(Debug)]
pub(super) struct State {
    /// Absent where there is no home to keep anything in.
    path: Option<PathBuf>,
    entry: Entry,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    server: String,
    project: String,
    fingerprint: String,
    upload: String,
}

impl State {
    /// The file for what has this fingerprint and goes to that project of that server.
    pub(super) fn of(server: &str, project: &str, fingerprint: &str) -> State {
        State::within(
            directory("uploads").as_deref(),
            server,
            project,
            fingerprint,
        )
    }

    fn within(directory: Option<&Path>, server: &str, project: &str, fingerprint: &str) -> State {
        let name = format!("{server}\n{project}\n{fingerprint}");
        let name = blake3::hash(name.as_bytes()).to_hex();
        State {
            path: directory.map(|directory| directory.join(format!("{name}.json"))),
            entry: Entry {
                server: server.to_owned(),
                project: project.to_owned(),
                fingerprint: fingerprint.to_owned(),
                upload: String::new(),
            },
        }
    }

    /// The upload that was begun, if one is known. A file that cannot be read or understood is none.
    pub(super) fn read(&self) -> Option<String> {
        let path = self.path.as_ref()?;
        let found: Entry = serde_json::from_slice(&read(path, MAX_BYTES)?).ok()?;
        let expected = Entry {
            upload: found.upload.clone(),
            ..self.entry.clone()
        };
        (found == expected && is_name(&found.upload)).then_some(found.upload)
    }

    /// Remembers the upload. Where that is not possible, a restart begins anew.
    pub(super) fn write(&self, upload: &str) {
        let Some(path) = &self.path else { return };
        let entry = Entry {
            upload: upload.to_owned(),
            ..self.entry.clone()
        };
        if let Ok(entry) = serde_json::to_vec(&entry) {
            replace(path, &entry);
        }
    }

    /// Forgets the upload.
    pub(super) fn remove(&self) {
        if let Some(path) = &self.path {
            // It may never have been written.
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether a text can be a part of a path: the server's names are UUIDs.
fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(fits)
}

/// A file of state, if there is one and it has at most so many bytes.
pub(super) fn read(path: &Path, most: u64) -> Option<Vec<u8>> {
    if fs::metadata(path).ok()?.len() > most {
        return None;
    }
    fs::read(path).ok()
}

/// Writes a file of state, in the place of the one that was there. Where that is not possible, nothing is remembered.
pub(super) fn replace(path: &Path, bytes: &[u8]) {
    let Some(directory) = path.parent() else {
        return;
    };
    let written = fs::create_dir_all(directory)
        .and_then(|()| tempfile::NamedTempFile::new_in(directory))
        .and_then(|mut file| {
            file.write_all(bytes)?;
            Ok(file.persist(path)?)
        });
    drop(written);
}

/// Where this user's state of one kind is kept, as the XDG base directory specification says.
pub(super) fn directory(kind: &str) -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    state
        .is_absolute()
        .then(|| state.join("cofferdam").join(kind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    #[test]
    fn an_upload_is_remembered_for_what_was_sent_to_whom_and_for_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("deep/down");
        let state = |server, project, fingerprint| {
            State::within(Some(&directory), server, project, fingerprint)
        };
        let own = state("http://a", "blog", "1");
        assert_eq!(own.read(), None);
        own.write("0198-aa");
        assert_eq!(own.read().as_deref(), Some("0198-aa"));
        for other in [
            state("http://b", "blog", "1"),
            state("http://a", "shop", "1"),
            state("http://a", "blog", "2"),
        ] {
            assert_eq!(other.read(), None);
        }
        own.remove();
        own.remove();
        assert_eq!(own.read(), None);
    }

    #[test]
    fn a_file_that_makes_no_sense_is_as_good_as_none() {
        let home = tempfile::tempdir().unwrap();
        let own = State::within(Some(home.path()), "http://a", "blog", "1");
        own.write("0198-aa");
        let path = own.path.clone().unwrap();
        let sound = fs::read_to_string(&path).unwrap();
        for wrong in [
            String::new(),
            "{".to_owned(),
            "x".repeat(5000),
            sound.replace("blog", "shop"),
            sound.replace("0198-aa", "../tokens"),
            sound.replace("0198-aa", ""),
        ] {
            fs::write(&path, &wrong).unwrap();
            assert_eq!(own.read(), None, "{wrong}");
        }
        assert_eq!(State::within(None, "a", "b", "c").read(), None);
        State::within(None, "a", "b", "c").write("x");
    }
}
