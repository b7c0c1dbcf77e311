//! The section in which a component describes itself.
//!
//! The custom section `cofferdam:plugin` holds one JSON object: `name`, `version`, `description`, `phases`,
//! `config_schema` (a JSON Schema, against which the host checks a step's configuration before it reads any
//! byte of the package) and `requests` (the grants that the plugin usually needs). Everything in it is optional
//! to the host. [`plugin!`](crate::plugin) writes it.

/// The name of the custom section.
pub const SECTION: &str = "cofferdam:plugin";

/// Describes the plugin in its own wasm file, and defines `PLUGIN`, the JSON text of that description.
///
/// Use it once, in the crate of the program itself (`main.rs`): the linker may leave out what only a
/// library contains. The version is the crate's own. `config` (a JSON Schema) and `requests` are written as
/// plain JSON and may be left out. The macro adds a test that reads the result back, so a slip in the JSON
/// fails `cargo test`.
///
/// ```
/// cofferdam_sdk::plugin! {
///     name: "fill",
///     description: "Fills placeholders in HTML pages.",
///     phases: ["install"],
///     config: {
///         "type": "object",
///         "required": ["values"],
///         "properties": { "values": { "type": "object" } }
///     },
///     requests: { "cache": true },
/// }
/// # fn main() { cofferdam_sdk::description::check(PLUGIN).unwrap(); }
/// ```
#[macro_export]
macro_rules! plugin {
    (
        name: $name:literal,
        description: $description:literal,
        phases: [$($phase:literal),+ $(,)?]
        $(, config: $config:tt)?
        $(, requests: $requests:tt)?
        $(,)?
    ) => {
        /// How this plugin describes itself, as JSON: the contents of its section `cofferdam:plugin`.
        pub(crate) const PLUGIN: &str = concat!(
            "{\"name\":", stringify!($name),
            ",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"",
            ",\"description\":", stringify!($description),
            ",\"phases\":", stringify!([$($phase),+]),
            $(",\"config_schema\":", stringify!($config),)?
            $(",\"requests\":", stringify!($requests),)?
            "}"
        );

        const _: () = {
            #[cfg(target_family = "wasm")]
            #[used]
            #[allow(unsafe_code, reason = "a custom section is only bytes in the file; nothing executes or reads it")]
            #[unsafe(link_section = "cofferdam:plugin")]
            static SECTION: [u8; PLUGIN.len()] = $crate::description::bytes(PLUGIN);
        };

        #[cfg(test)]
        #[test]
        fn the_plugin_describes_itself_in_valid_json() {
            if let Err(problem) = $crate::description::check(PLUGIN) {
                panic!("{problem}: {PLUGIN}");
            }
        }
    };
}

/// The bytes of a text, for a static of exactly that size.
///
/// # Panics
///
/// At compile time, when `N` is not the length of the text.
#[doc(hidden)]
#[must_use]
pub const fn bytes<const N: usize>(text: &str) -> [u8; N] {
    let from = text.as_bytes();
    assert!(from.len() == N);
    let mut to = [0; N];
    let mut at = 0;
    while at < N {
        to[at] = from[at];
        at += 1;
    }
    to
}

/// Whether a description is one that the host can use.
///
/// # Errors
///
/// A sentence that says what is wrong with it.
pub fn check(description: &str) -> Result<(), String> {
    let value: serde_json::Value =
        serde_json::from_str(description).map_err(|error| format!("not JSON ({error})"))?;
    let name = value["name"].as_str().unwrap_or_default();
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(valid) {
        return Err(format!(
            "the name {name:?} is not made of lower-case letters, digits and hyphens"
        ));
    }
    for phase in value["phases"].as_array().into_iter().flatten() {
        if phase.as_str().and_then(crate::Phase::from_name).is_none() {
            return Err(format!("{phase} is not extract, install or load"));
        }
    }
    if let Some(schema) = value.get("config_schema")
        && !schema.is_object()
    {
        return Err("config is not a JSON Schema object".to_owned());
    }
    Ok(())
}
