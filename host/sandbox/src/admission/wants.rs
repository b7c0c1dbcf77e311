//! What a component's imports let it ask for, in words.

/// A capability in words, and the beginning of the names of the interfaces that stand for it.
const WORDS: &[(&str, &[&str])] = &[
    ("files", &["wasi:filesystem/"]),
    ("clock", &["wasi:clocks/"]),
    ("random", &["wasi:random/"]),
    ("environment", &["wasi:cli/environment"]),
    ("http out", &["wasi:http/outgoing-handler"]),
    ("secrets", &["cofferdam:step/secrets"]),
    ("sockets (always denied)", &["wasi:sockets/"]),
];

/// What a component with these imports can ask for, in words: `files`, `clock`, `random`, `environment`, `http out`,
/// `secrets`, `sockets (always denied)`.
///
/// It is the most that the component could use: what a step gets of it is granted to the step. What every program may
/// do (print, exit, learn its own configuration, report its progress) has no word.
#[must_use]
pub fn wants(imports: &[String]) -> Vec<&'static str> {
    WORDS
        .iter()
        .filter(|(_, interfaces)| {
            imports.iter().any(|import| {
                let name = import.split('@').next().unwrap_or_default();
                interfaces
                    .iter()
                    .any(|interface| name.starts_with(interface))
            })
        })
        .map(|(word, _)| *word)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_told_in_words_and_in_one_order() {
        let imports = [
            "wasi:sockets/tcp@0.2.0",
            "cofferdam:step/secrets@1.0.0",
            "wasi:http/types@0.2.0",
            "wasi:io/streams@0.2.0",
            "wasi:filesystem/types@0.2.0",
            "wasi:filesystem/preopens@0.2.0",
        ]
        .map(str::to_owned);
        assert_eq!(
            wants(&imports),
            ["files", "secrets", "sockets (always denied)"]
        );
        assert_eq!(
            wants(&["wasi:http/outgoing-handler@0.2.0".to_owned()]),
            ["http out"]
        );
        assert!(wants(&["wasi:cli/stdout@0.2.0".to_owned()]).is_empty());
    }
}
