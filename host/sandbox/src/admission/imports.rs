//! What a component may import, and how to say that it may not.

/// Every interface this host has, without its version.
const KNOWN: &[&str] = &[
    "cofferdam:step/context",
    "cofferdam:step/files",
    "cofferdam:step/report",
    "cofferdam:step/secrets",
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// The versions of the packages above: WASI 0.2 whatever its patch, and version 1 of ours.
const VERSIONS: &[(&str, &str)] = &[("wasi:", "0.2"), ("cofferdam:", "1")];

/// How many changed characters still make a name a likely slip.
const NEAR: usize = 4;

/// Characters of a stranger's name that a message shows.
const MAX_SHOWN: usize = 120;

/// A sentence about an import that this host does not have; `None` when it does.
pub(super) fn missing(import: &str) -> Option<String> {
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    if KNOWN.contains(&name) {
        let served = VERSIONS
            .iter()
            .find(|(namespace, _)| name.starts_with(namespace))
            .map(|(_, version)| *version)?;
        let matches = version.strip_prefix(served).is_some_and(|rest| {
            (rest.is_empty() || rest.starts_with('.')) && !version.contains('-')
        });
        // Plain names without a version are matched by the linker itself.
        return (!matches && !version.is_empty()).then(|| {
            let import = shown(import);
            format!("it imports {import}, and this host has {name} in version {served}")
        });
    }
    if name.starts_with("wasi:") && version.starts_with("0.3") {
        return Some(format!(
            "it imports {}, and this host has WASI 0.2; compile it for wasm32-wasip2",
            shown(import)
        ));
    }
    let shown = shown(import);
    let nearest = nearest(name, KNOWN.iter().copied())
        .map(|known| format!(" (it has {known}: a slip?)"))
        .unwrap_or_default();
    Some(format!(
        "it imports {shown}, which this host does not have{nearest}"
    ))
}

/// The one of the names that someone who wrote `name` most likely meant, if any is near.
pub(super) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        // A stranger's name may be as long as he likes; comparing it takes its length times that of ours.
        .filter(|known| known.len().abs_diff(name.len()) <= NEAR)
        .map(|known| (distance(name, known), known))
        .min()
        .filter(|(distance, _)| *distance <= NEAR)
        .map(|(_, known)| known)
}

/// A stranger's name as it may stand in a message: not too long, without control characters.
pub(super) fn shown(name: &str) -> String {
    let mut shown: String = name.escape_debug().take(MAX_SHOWN).collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    shown
}

/// The number of characters to insert, remove or replace between two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replace = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_patch_of_wasi_0_2_is_served() {
        assert_eq!(missing("wasi:cli/stdout@0.2.0"), None);
        assert_eq!(missing("wasi:http/types@0.2.12"), None);
        assert_eq!(missing("cofferdam:step/report@1.4.0"), None);
    }

    #[test]
    fn what_is_missing_is_named_in_plain_words() {
        assert_eq!(
            missing("wasi:keyvalue/store@0.2.0-draft").as_deref(),
            Some("it imports wasi:keyvalue/store@0.2.0-draft, which this host does not have")
        );
        assert_eq!(
            missing("cofferdam:step/reports@1.0.0").as_deref(),
            Some(
                "it imports cofferdam:step/reports@1.0.0, which this host does not have \
                 (it has cofferdam:step/report: a slip?)"
            )
        );
        assert_eq!(
            missing("cofferdam:step/report@2.0.0").as_deref(),
            Some(
                "it imports cofferdam:step/report@2.0.0, and this host has cofferdam:step/report in version 1"
            )
        );
        let long = missing(&format!("a:b/{}", "c".repeat(100_000))).unwrap_or_default();
        assert!(long.len() < 300 && long.contains('…'), "{}", long.len());
        assert!(missing("wasi:cli/run@0.3.0").is_some_and(|message| message.contains("WASI 0.2")));
    }
}
