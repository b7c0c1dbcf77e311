//! What one release has that another has not, by their lists of files.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::freeze::{FreezeError, Listed, ListedKind, Listing, Pair, Pairs};

/// How many files are named; the rest are counted. A history of a thousand moves stays readable, and below
/// 20 MB.
const NAMED: usize = 100;

/// How two releases differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileChanges {
    /// What only the later one has.
    pub added: Tally,
    /// What both have, and differently: the later one's bytes.
    pub changed: Tally,
    /// What only the earlier one has.
    pub removed: Tally,
    /// The first of them, in the order of their paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileChange>,
}

/// How many files, and how many bytes they hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tally {
    /// Files and links.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// One file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileChange {
    /// Its path in the release.
    pub path: String,
    /// Its bytes in the earlier release, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// Its bytes in the later release, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// Compares two releases by their lists. Blocks.
pub(crate) fn between(before: &Path, after: &Path) -> Result<FileChanges, FreezeError> {
    let mut changes = FileChanges::default();
    for pair in Pairs::new(Listing::open(before)?, Listing::open(after)?) {
        match pair? {
            Pair::Both(before, after) if before.kind == after.kind => {}
            Pair::Before(before) => changes.note(Some(&before), None),
            Pair::After(after) => changes.note(None, Some(&after)),
            Pair::Both(before, after) => changes.note(Some(&before), Some(&after)),
        }
    }
    Ok(changes)
}

impl FileChanges {
    fn note(&mut self, before: Option<&Listed>, after: Option<&Listed>) {
        let before = before.and_then(|entry| Some((entry, bytes(entry)?)));
        let after = after.and_then(|entry| Some((entry, bytes(entry)?)));
        let (tally, path, counted) = match (before, after) {
            (None, Some((entry, bytes))) => (&mut self.added, &entry.path, bytes),
            (Some((entry, bytes)), None) => (&mut self.removed, &entry.path, bytes),
            (Some(_), Some((entry, bytes))) => (&mut self.changed, &entry.path, bytes),
            // Directories are no news: what is in them is.
            (None, None) => return,
        };
        tally.files += 1;
        tally.bytes = tally.bytes.saturating_add(counted);
        if self.files.len() < NAMED {
            self.files.push(FileChange {
                path: path.clone(),
                before: before.map(|(_, bytes)| bytes),
                after: after.map(|(_, bytes)| bytes),
            });
        }
    }
}

/// How many bytes a file or link counts for; nothing for a directory.
fn bytes(entry: &Listed) -> Option<u64> {
    match &entry.kind {
        ListedKind::Directory => None,
        ListedKind::File { bytes, .. } => Some(*bytes),
        ListedKind::Link { .. } => Some(0),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::freeze::inspect_listed;

    #[test]
    fn two_releases_differ_in_what_was_added_changed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        for root in [&one, &two] {
            fs::create_dir_all(root.join("same")).unwrap();
            fs::write(root.join("same/file"), "alike").unwrap();
        }
        fs::write(one.join("old"), "12345").unwrap();
        fs::write(one.join("both"), "1").unwrap();
        fs::write(two.join("both"), "22").unwrap();
        fs::create_dir(two.join("new")).unwrap();
        fs::write(two.join("new/file"), "123").unwrap();
        symlink("file", two.join("new/link")).unwrap();
        let list = |root: &Path, name: &str| {
            let list = directory.path().join(name);
            inspect_listed(root, &list).unwrap();
            list
        };
        let changes = between(&list(&one, "1"), &list(&two, "2")).unwrap();
        let tally = |files, bytes| Tally { files, bytes };
        assert_eq!(changes.added, tally(2, 3));
        assert_eq!(changes.changed, tally(1, 2));
        assert_eq!(changes.removed, tally(1, 5));
        let told: Vec<_> = changes
            .files
            .iter()
            .map(|file| (file.path.as_str(), file.before, file.after))
            .collect();
        assert_eq!(
            told,
            [
                ("both", Some(1), Some(2)),
                ("new/file", None, Some(3)),
                ("new/link", None, Some(0)),
                ("old", Some(5), None),
            ]
        );
    }
}
