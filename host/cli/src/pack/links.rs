//! Where a symlink leads, judged by what is in the package and nothing else.

use std::collections::HashMap;

use super::Kind;

/// Links followed before it must be a circle; Linux uses the same number.
const HOPS: usize = 40;

/// Why a link cannot be packed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the symlink's target {0} is absolute: make it relative")]
    Absolute(String),
    #[error("the symlink leads out of the package (to {0})")]
    Escapes(String),
    #[error("the symlink dangles: there is no {0}")]
    Dangling(String),
    #[error("the symlink leads to {0}, which is not in the package (an ignore file leaves it out)")]
    LeftOut(String),
    #[error("the symlink leads in a circle (through {0})")]
    Circle(String),
}

/// Follows the link at `path` through the package's own entries.
///
/// `exists` answers whether a path that is not packed is there on disk, which tells a dangling link from one
/// whose target was ignored.
pub(super) fn check(
    path: &str,
    target: &str,
    entries: &HashMap<&str, &Kind>,
    exists: impl Fn(&str) -> bool,
) -> Result<(), Refused> {
    let mut here: Vec<String> = path.split('/').map(str::to_owned).collect();
    here.pop();
    // Components still to walk, the next one last.
    let mut ahead = components(target, target)?;
    let mut hops = 1;

    while let Some(step) = ahead.pop() {
        if step == ".." {
            if here.pop().is_none() {
                return Err(Refused::Escapes(target.to_owned()));
            }
            continue;
        }
        here.push(step);
        let at = here.join("/");
        match entries.get(at.as_str()) {
            Some(Kind::Directory) => {}
            Some(Kind::File { .. }) if ahead.is_empty() => {}
            Some(Kind::File { .. }) => return Err(Refused::Dangling(target.to_owned())),
            Some(Kind::Link { target: next }) => {
                hops += 1;
                if hops > HOPS {
                    return Err(Refused::Circle(at));
                }
                here.pop();
                ahead.extend(components(next, target)?);
            }
            None if exists(&at) => return Err(Refused::LeftOut(at)),
            None => return Err(Refused::Dangling(at)),
        }
    }
    Ok(())
}

/// The components of a target, last first, without empty ones and `.`.
fn components(target: &str, asked: &str) -> Result<Vec<String>, Refused> {
    if target.starts_with('/') {
        return Err(Refused::Absolute(asked.to_owned()));
    }
    Ok(target
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .rev()
        .map(str::to_owned)
        .collect())
}
