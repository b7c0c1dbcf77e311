//! One entry's name, judged once.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization as _;

use crate::refusal::{Reason, Refused, shown};

/// What Linux takes as one name, in bytes.
const LONGEST_COMPONENT: usize = 255;

/// What Linux takes as a whole path, in bytes, with room for the directory that the release lies in.
const LONGEST_PATH: usize = 3072;

/// The name of an entry: relative, with no `.`, no `..` and no empty part. An empty one is the archive's own
/// root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    text: String,
    directory: bool,
}

impl Name {
    /// Reads a name as archives write it: `./a//b/` is `a/b`, and says of itself that it is a directory.
    pub(crate) fn parse(raw: &[u8]) -> Result<Name, Refused> {
        let text = std::str::from_utf8(raw).map_err(|_| {
            Refused::new(
                Reason::NameNotUtf8,
                format!("the name {} is not UTF-8", shown(raw)),
            )
        })?;
        judge_characters(text)?;
        if text.is_empty() {
            return Err(Refused::new(Reason::NameEmpty, "an entry has no name"));
        }
        if text.starts_with('/') {
            return Err(Refused::new(
                Reason::PathAbsolute,
                format!("{} is an absolute path", shown(text)),
            ));
        }
        let mut parts = String::with_capacity(text.len());
        for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
            if part == ".." {
                return Err(Refused::new(
                    Reason::PathEscapes,
                    format!("{} has .. in it", shown(text)),
                ));
            }
            if part.len() > LONGEST_COMPONENT {
                return Err(too_long(text));
            }
            if !parts.is_empty() {
                parts.push('/');
            }
            parts.push_str(part);
        }
        if parts.len() > LONGEST_PATH {
            return Err(too_long(text));
        }
        let directory = parts.is_empty() || text.ends_with('/') || text.ends_with("/.");
        Ok(Name {
            text: parts,
            directory,
        })
    }

    /// The name without its leading directory, and that directory.
    pub(crate) fn split_first(&self) -> (&str, Option<Name>) {
        match self.text.split_once('/') {
            Some((first, rest)) => {
                let rest = Name {
                    text: rest.to_owned(),
                    directory: self.directory,
                };
                (first, Some(rest))
            }
            None => (&self.text, None),
        }
    }

    /// The directory that holds the entry (empty for the root), and the entry's own part of the name.
    pub(crate) fn split_last(&self) -> (&str, &str) {
        self.text.rsplit_once('/').unwrap_or(("", &self.text))
    }

    /// How many directories the entry is below the root.
    pub(crate) fn depth(&self) -> usize {
        self.text.matches('/').count()
    }

    pub(crate) fn is_root(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether the name says of itself that it is a directory: by a slash at its end.
    pub(crate) fn says_directory(&self) -> bool {
        self.directory
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

/// What no name and no link's target may contain.
pub(crate) fn judge_characters(text: &str) -> Result<(), Refused> {
    // One pass over bytes settles nearly every name.
    if text
        .bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\')
    {
        return Ok(());
    }
    for character in text.chars() {
        if character.is_control() || turns_direction(character) {
            return Err(Refused::new(
                Reason::NameControlCharacters,
                format!("the name {} has control characters", shown(text)),
            ));
        }
        if character == '\\' {
            return Err(Refused::new(
                Reason::NameBackslash,
                format!(
                    "the name {} has a backslash, which is a separator to some readers",
                    shown(text)
                ),
            ));
        }
    }
    Ok(())
}

/// Line and paragraph separators, and the characters that reorder what a terminal shows.
fn turns_direction(character: char) -> bool {
    matches!(character, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// The form under which two names are the same on file systems that ignore case or normalise.
pub(crate) fn folded(part: &str) -> Cow<'_, str> {
    if part.is_ascii() {
        if part.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Cow::Owned(part.to_ascii_lowercase());
        }
        return Cow::Borrowed(part);
    }
    // Upper and then lower case makes one of ß and SS, and of the two small sigmas.
    let decomposed: String = part.nfd().collect();
    Cow::Owned(decomposed.to_uppercase().to_lowercase().nfc().collect())
}

fn too_long(text: &str) -> Refused {
    Refused::new(
        Reason::PathTooLong,
        format!("the name {} is too long", shown(text)),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::{Name, folded};
    use crate::Reason;

    #[test]
    fn dots_and_doubled_slashes_mean_nothing() {
        let name = Name::parse(b"./a//b/./c").unwrap();
        assert_eq!(name.as_str(), "a/b/c");
        assert!(!name.says_directory());
        assert!(Name::parse(b"a/").unwrap().says_directory());
        assert!(Name::parse(b"./").unwrap().is_root());
    }

    #[test]
    fn names_that_leave_or_lie_are_refused() {
        for (name, reason) in [
            (&b"/etc/passwd"[..], Reason::PathAbsolute),
            (b"a/../../b", Reason::PathEscapes),
            (b"..", Reason::PathEscapes),
            (b"", Reason::NameEmpty),
            (b"a\xFF", Reason::NameNotUtf8),
            (b"a\x1b[2Jb", Reason::NameControlCharacters),
            (
                "exe\u{202E}gpj.sh".as_bytes(),
                Reason::NameControlCharacters,
            ),
            (b"..\\..\\b", Reason::NameBackslash),
            (&[b'a'; 300], Reason::PathTooLong),
        ] {
            assert_eq!(Name::parse(name).unwrap_err().reason, reason);
        }
    }

    #[test]
    fn names_that_are_one_on_other_file_systems_fold_together() {
        for (a, b) in [
            ("README", "readme"),
            ("caf\u{e9}", "cafe\u{301}"),
            ("stra\u{df}e", "STRASSE"),
            ("\u{3c2}", "\u{3c3}"),
            ("\u{212a}", "k"),
        ] {
            assert_eq!(folded(a), folded(b), "{a} {b}");
        }
        assert_ne!(folded("a"), folded("b"));
    }
}
