//! Taking directories away.

use std::path::PathBuf;

use super::Inner;
use crate::catalog::blocking;
use crate::freeze;

impl Inner {
    /// Takes a directory out of sight at once and removes it in the background.
    pub(crate) async fn discard(&self, path: PathBuf) {
        let trash = self.data.trash();
        let shown = path.display().to_string();
        let discarded = blocking(move || freeze::discard(&path, &trash)).await;
        match discarded {
            Ok(Ok(())) => self.empty_trash(),
            Ok(Err(error)) => {
                tracing::error!(path = shown, %error, "a directory could not be discarded");
            }
            Err(error) => {
                tracing::error!(path = shown, %error, "a directory could not be discarded");
            }
        }
    }

    /// Empties the trash in the background.
    pub(crate) fn empty_trash(&self) {
        let data = self.data.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = freeze::empty_trash(&data.trash()) {
                tracing::warn!(%error, "the trash could not be emptied; the next discarded directory tries again");
            }
        });
    }
}
