//! Writing a planned directory as a tar stream.

use std::fs::File;
use std::io::{self, Read, Write};

use super::{Entry, Error, Kind, Plan, header};

/// Bytes of a file read at once.
const READ: usize = 256 * 1024;

impl Plan {
    /// Writes the whole archive to `out`: exactly [`Plan::tar_bytes`] bytes, or an error.
    ///
    /// # Errors
    ///
    /// [`Error::Changed`] names a file that is no longer what [`super::plan`] saw, [`Error::Abandoned`] says
    /// that `out` takes no more.
    pub(crate) fn write(&self, out: &mut impl Write) -> Result<(), Error> {
        let mut buffer = vec![0; READ];
        for entry in &self.entries {
            send(out, &header::blocks(entry))?;
            if let Kind::File { bytes, .. } = entry.kind {
                self.write_content(entry, bytes, out, &mut buffer)?;
                send(out, &header::END[..header::padding(bytes)])?;
            }
        }
        send(out, &header::END)?;
        out.flush().map_err(|_| Error::Abandoned)
    }

    fn write_content(
        &self,
        entry: &Entry,
        bytes: u64,
        out: &mut impl Write,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let changed = |what| entry.changed(what);
        let unreadable = |source| self.unreadable(entry, source);
        let mut file = File::open(self.root.join(&entry.path)).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(changed("stopped being a file"));
        }
        let mut left = bytes;
        loop {
            // One byte more than is left is asked for, which is how a file that grew is found out.
            let want = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX);
            let part = want.min(buffer.len());
            let read = match file.read(&mut buffer[..part]) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(error)),
            };
            if read == 0 {
                return if left == 0 {
                    Ok(())
                } else {
                    Err(changed("shrank"))
                };
            }
            left = left
                .checked_sub(read as u64)
                .ok_or_else(|| changed("grew"))?;
            send(out, &buffer[..read])?;
        }
    }
}

fn send(out: &mut impl Write, bytes: &[u8]) -> Result<(), Error> {
    out.write_all(bytes).map_err(|_| Error::Abandoned)
}
