//! What a component says about itself.

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

use crate::error::Error;
use crate::spec::Phase;

/// The custom section that carries the description.
pub(super) const SECTION: &str = "cofferdam:plugin";

/// The largest description that is read: a schema of ten thousand words.
const MAX_BYTES: usize = 1 << 20;

/// A plugin's description of itself: the JSON of its `cofferdam:plugin` section. Everything is optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginDescription {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it does, in a sentence.
    pub description: String,
    /// The phases it works in. Empty: any.
    pub phases: Vec<Phase>,
    /// A JSON Schema for its config.
    pub config_schema: Option<serde_json::Value>,
    /// What it usually needs, in the form of a pipeline's `request`.
    pub requests: serde_json::Value,
}

/// Finds the description, in the component itself or in a module or component inside it: a linker section of a
/// Rust program ends up in its core module.
pub(super) fn find(wasm: &[u8]) -> Result<Option<PluginDescription>, Error> {
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(|error| Error::Invalid {
            message: error.to_string(),
        })?;
        let Payload::CustomSection(section) = payload else {
            continue;
        };
        if section.name() != SECTION {
            continue;
        }
        let data = section.data();
        if data.len() > MAX_BYTES {
            let message = format!(
                "it has {} bytes and at most {MAX_BYTES} are read",
                data.len()
            );
            return Err(Error::Description { message });
        }
        return serde_json::from_slice(data)
            .map(Some)
            .map_err(|error| Error::Description {
                message: error.to_string(),
            });
    }
    Ok(None)
}
