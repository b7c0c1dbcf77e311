//! A source's path without the machine it was compiled on.

/// How many of its last names are shown of a path that says nothing about itself.
const LAST_NAMES: usize = 3;

/// The longest path that is shown, in characters.
const LONGEST: usize = 200;

/// The part of a path that tells a reader which file it is: a crate's name and what follows it.
///
/// A path relative to the crate stays. The standard library's begin with `library/`, a dependency's with its name
/// and version, another crate's with its directory; what comes before is the machine's own.
pub(super) fn shown(path: &str) -> String {
    let names: Vec<&str> = path
        .split(['/', '\\'])
        .filter(|name| !name.is_empty())
        .collect();
    let position = |wanted: &str| names.iter().rposition(|name| *name == wanted);
    let absolute = path.starts_with(['/', '\\']) || path.as_bytes().get(1) == Some(&b':');
    let from = if let Some(registry) = position("registry")
        && names.get(registry + 1) == Some(&"src")
    {
        // registry/src/INDEX/serde-1.0.0/src/...
        registry + 3
    } else if names.first() == Some(&"rustc") {
        // /rustc/COMMIT/library/std/src/...
        2
    } else if let Some(library) = position("library")
        && names.get(library.wrapping_sub(1)) == Some(&"rust")
    {
        library
    } else if !absolute {
        0
    } else if let Some(sources) = position("src") {
        sources.saturating_sub(1)
    } else {
        names.len().saturating_sub(LAST_NAMES)
    };
    let names = names.get(from..).filter(|rest| !rest.is_empty());
    let path = names.map_or_else(|| path.to_owned(), |names| names.join("/"));
    path.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_path_names_the_crate_and_not_the_machine() {
        for (path, expected) in [
            ("src/main.rs", "src/main.rs"),
            ("/home/ann/plugins/fill/src/main.rs", "fill/src/main.rs"),
            (
                "/rustc/0123456789abcdef/library/core/src/option.rs",
                "library/core/src/option.rs",
            ),
            (
                "/home/ann/.cargo/registry/src/index-0123/serde-1.0.1/src/de.rs",
                "serde-1.0.1/src/de.rs",
            ),
            (
                "/home/ann/.rustup/toolchains/1/lib/rustlib/src/rust/library/std/src/rt.rs",
                "library/std/src/rt.rs",
            ),
            (r"C:\Users\ann\fill\src\main.rs", "fill/src/main.rs"),
            ("/build/libc/top/half/exit.c", "top/half/exit.c"),
            ("/main.c", "main.c"),
        ] {
            assert_eq!(shown(path), expected);
        }
    }
}
