//! The files of a release: paths with contents, executable bits and links. Empty directories do not count, because
//! version control does not keep them.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    File { bytes: Vec<u8>, executable: bool },
    Link { target: PathBuf },
}

/// Paths below a root, and what they lead to.
pub(super) type Tree = BTreeMap<PathBuf, Node>;

/// Reads the tree below `root`; one that does not exist is empty.
pub(super) fn read(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    match fs::symlink_metadata(root) {
        Ok(_) => below(root, Path::new(""), &mut tree)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(tree)
}

fn below(root: &Path, directory: &Path, tree: &mut Tree) -> io::Result<()> {
    for entry in fs::read_dir(root.join(directory))? {
        let entry = entry?;
        let (path, at) = (directory.join(entry.file_name()), entry.path());
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            below(root, &path, tree)?;
        } else if metadata.is_symlink() {
            let target = fs::read_link(at)?;
            tree.insert(path, Node::Link { target });
        } else {
            let bytes = fs::read(at)?;
            let executable = metadata.permissions().mode() & 0o100 != 0;
            tree.insert(path, Node::File { bytes, executable });
        }
    }
    Ok(())
}

/// Writes a tree below `root`, which may exist.
pub(super) fn write(root: &Path, tree: &Tree) -> io::Result<()> {
    fs::create_dir_all(root)?;
    for (path, node) in tree {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match node {
            Node::File { bytes, executable } => {
                fs::write(&path, bytes)?;
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(&path, Permissions::from_mode(mode))?;
            }
            Node::Link { target } => symlink(target, &path)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn a_tree_is_written_and_read_back_with_bits_and_links() {
        let directory = tempfile::tempdir().unwrap();
        let file = |text: &str, executable| Node::File {
            bytes: text.as_bytes().to_vec(),
            executable,
        };
        let tree = Tree::from([
            ("a".into(), file("a", false)),
            ("bin/run".into(), file("#!", true)),
            (
                "link".into(),
                Node::Link {
                    target: "bin/run".into(),
                },
            ),
        ]);
        let root = directory.path().join("tree");
        assert_eq!(read(&root).unwrap(), Tree::new());
        write(&root, &tree).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        assert_eq!(read(&root).unwrap(), tree);
    }
}
