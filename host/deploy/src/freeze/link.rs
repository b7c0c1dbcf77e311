//! Whether symbolic links stay inside a release.

use std::{fs::File, io, os::fd::OwnedFd};

use rustix::io::Errno;

use super::{FreezeError, shown, walk::Link};

/// Judges a target by its words: absolute, or with more `..` than there are directories above the link,
/// it leaves.
pub(super) fn stays_inside(path: &str, target: &str) -> Result<(), FreezeError> {
    let escape = || FreezeError::Escape {
        path: shown(path),
        target: shown(target),
    };
    if target.starts_with('/') {
        return Err(escape());
    }
    let mut depth = path.matches('/').count();
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => depth = depth.checked_sub(1).ok_or_else(escape)?,
            _ => depth += 1,
        }
    }
    Ok(())
}

/// Judges every link by where it really leads: through other links, `..` may mean another directory than
/// the words say. One that leads nowhere is harmless, for nothing will ever appear there.
pub(super) fn judge(root: &OwnedFd, links: &[Link]) -> Result<(), FreezeError> {
    let root = root.try_clone().map_err(FreezeError::inside("open", ""))?;
    let root = cap_std::fs::Dir::from_std_file(File::from(root));
    for Link { path, target } in links {
        let Err(error) = root.metadata(path) else {
            continue;
        };
        if matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ) {
            continue;
        }
        let (path, target) = (shown(path), shown(target));
        if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
            return Err(FreezeError::Loop { path, target });
        }
        // What cap-std answers where a path would leave its directory. Nothing in the tree denies us
        // anything else: its modes are uniform by now.
        if error.kind() == io::ErrorKind::PermissionDenied {
            return Err(FreezeError::Escape { path, target });
        }
        return Err(FreezeError::Io {
            action: "resolve",
            path,
            source: error,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_judged_from_where_its_link_is() {
        for (path, target) in [
            ("a", "b"),
            ("a", "./b//c/"),
            ("a", "b/../c"),
            ("a/b/c", "../../d"),
            ("a/b/c", "../.."),
            ("a", "."),
            ("a", "...."),
        ] {
            assert!(stays_inside(path, target).is_ok(), "{path} -> {target}");
        }
        for (path, target) in [
            ("a", "/"),
            ("a", "/etc/passwd"),
            ("a", ".."),
            ("a", "../a"),
            ("a", "b/../../c"),
            ("a/b", "../.."),
            ("a/b/c", "../../../a"),
        ] {
            assert!(stays_inside(path, target).is_err(), "{path} -> {target}");
        }
    }
}
