//! The name of a new plugin, which is also its crate's.

/// The longest name: the server's limit for a plugin's.
const LONGEST: usize = 63;

/// Names that cargo or the compiler keep for themselves.
const TAKEN: &[&str] = &[
    "alloc",
    "as",
    "async",
    "await",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "match",
    "mod",
    "move",
    "mut",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "serde",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "unsafe",
    "use",
    "where",
    "while",
    "yield",
    "cofferdam-sdk",
    "serde-json",
    "tempfile",
];

/// A name that is valid for a plugin and for a crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CrateName(String);

impl CrateName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for CrateName {
    type Err = String;

    fn from_str(name: &str) -> Result<CrateName, String> {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = name.len() <= LONGEST
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && !name.ends_with('-')
            && name.bytes().all(inner);
        if !fits {
            return Err(format!(
                "a plugin's name begins with a lower-case letter, goes on with letters, digits and inner hyphens, \
                 and has at most {LONGEST} of them"
            ));
        }
        if TAKEN.contains(&name) {
            return Err(format!(
                "{name} means something to cargo or the compiler: take another name, like {name}-files"
            ));
        }
        Ok(CrateName(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_a_plugin_and_a_crate() {
        for good in ["list", "npm2", "fill-in", &"x".repeat(63)] {
            assert!(good.parse::<CrateName>().is_ok(), "{good}");
        }
        let long = "x".repeat(64);
        for bad in [
            "", "2go", "-a", "a-", "A", "a_b", "a.b", "../a", "ä", "test", "fn", "std", &long,
        ] {
            assert!(bad.parse::<CrateName>().is_err(), "{bad}");
        }
    }
}
