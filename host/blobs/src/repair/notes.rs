//! Notes of what is lost and what nobody can name.
//!
//! A blob that is damaged is named by every check as long as the index knows it. But an index that is made from packs knows
//! only the blobs that packs describe: when a description is lost, nothing would ever speak of it again. So whoever finds
//! that a damaged pack may have described something that no index knows leaves a note beside it, and every check is one
//! fault short of well until an operator has taken note and deletes it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::Error;
use crate::check::Job;
use crate::pack::LOST;

/// More of a note is not read: it is a line.
const MAX_NOTE_BYTES: usize = 1024;

fn note(job: &Job, pack: Uuid) -> PathBuf {
    job.packs.join(format!("{pack}.{LOST}"))
}

/// Leaves a note about a damaged pack, unless there is one.
pub(crate) fn leave(job: &Job, pack: Uuid, detail: &str) -> Result<(), Error> {
    let path = note(job, pack);
    let failed = |source| Error::io("noting what is lost in", &path, source);
    let file = match job.disk.create(&path) {
        // One that is empty, because whoever wrote it was killed, says enough.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return job.sync(&job.packs),
        created => created.map_err(failed)?,
    };
    job.disk.append(&file, detail.as_bytes()).map_err(failed)?;
    job.disk.sync(&file).map_err(failed)?;
    job.sync(&job.packs)
}

/// Takes the note about a pack away, of which nothing is lost any more.
pub(crate) fn take_away(job: &Job, pack: Uuid) -> Result<(), Error> {
    let path = note(job, pack);
    if !path.exists() {
        return Ok(());
    }
    let removed = job.disk.remove(&path);
    removed.map_err(|source| Error::io("removing", &path, source))?;
    job.sync(&job.packs)
}

/// What a note says.
pub(crate) fn read(path: &Path) -> String {
    let mut bytes = fs::read(path).unwrap_or_default();
    bytes.truncate(MAX_NOTE_BYTES);
    let text = String::from_utf8_lossy(&bytes);
    match text.trim() {
        "" => "something of it cannot be told".to_owned(),
        text => text.to_owned(),
    }
}
