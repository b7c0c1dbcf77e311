//! What is recorded of a plugin, and what a client sees of it.

use cofferdam_ledger::PluginRow;
use cofferdam_sandbox::{self as sandbox, Component, Phase};
use schemars::JsonSchema;
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::name::PluginName;
use crate::record::Time;

/// An admitted plugin as a client sees it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PluginView {
    /// Its name.
    pub name: PluginName,
    /// Its version.
    pub version: Version,
    /// The digest of the bytes that were admitted, `blake3:<hex>`.
    pub digest: String,
    /// How many bytes those are; `None` when it was admitted by a host that did not record it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<u64>,
    /// When it was admitted.
    pub admitted_at: Time,
    /// Who admitted it: the id of a token, or `shipped` for what came with the host.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub admitted_by: Option<String>,
    /// The id of the trusted key that signed it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signed_by: Option<String>,
    /// What it says it does.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub description: String,
    /// The phases it says it is for; empty means that it does not say.
    pub phases: Vec<Phase>,
    /// What it can ask for, in words.
    pub wants: Vec<String>,
    /// The interfaces it imports.
    pub imports: Vec<String>,
    /// Whether it is a module for WASI preview 1 that was adapted.
    #[serde(default)]
    pub adapted: bool,
    /// The JSON Schema of its configuration, if it gives one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub config_schema: Option<Value>,
    /// What it says it usually needs, in the form of a step's `request`.
    #[serde(skip_serializing_if = "Value::is_null", default)]
    pub requests: Value,
}

/// What a plugin's admission knows beside the component itself.
#[derive(Debug)]
pub(super) struct Provenance {
    pub(super) bytes: u64,
    pub(super) admitted_by: String,
    pub(super) signed_by: Option<String>,
}

/// The part of a plugin that the ledger stores as text. What came later has a default.
#[derive(Debug, Serialize, Deserialize)]
struct PluginBody {
    description: String,
    phases: Vec<Phase>,
    imports: Vec<String>,
    config_schema: Option<Value>,
    #[serde(default)]
    requests: Value,
    #[serde(default)]
    adapted: bool,
    #[serde(default)]
    bytes: Option<u64>,
    #[serde(default)]
    admitted_by: Option<String>,
    #[serde(default)]
    signed_by: Option<String>,
}

/// The body of a plugin's record.
pub(super) fn describe(component: &Component, provenance: Provenance) -> String {
    let said = component.description().cloned().unwrap_or_default();
    let body = PluginBody {
        description: said.description,
        phases: said.phases,
        imports: component.imports().to_vec(),
        config_schema: said.config_schema,
        requests: said.requests,
        adapted: component.is_adapted(),
        bytes: Some(provenance.bytes),
        admitted_by: Some(provenance.admitted_by),
        signed_by: provenance.signed_by,
    };
    serde_json::to_string(&body).expect("a body has only string keys and serialises")
}

/// A record as a client sees it.
pub(super) fn view(row: &PluginRow) -> Result<PluginView, Error> {
    let damaged = |source| Error::Damaged {
        what: format!("plugin {}@{}", row.name, row.version),
        source,
    };
    let body: PluginBody = serde_json::from_str(&row.body).map_err(damaged)?;
    Ok(PluginView {
        name: row.name.parse()?,
        version: Version::parse(&row.version).map_err(|error| Error::PluginIncompatible {
            message: error.to_string(),
        })?,
        digest: row.digest.clone(),
        bytes: body.bytes,
        admitted_at: Time::from_millis(row.created_at),
        admitted_by: body.admitted_by,
        signed_by: body.signed_by,
        description: body.description,
        phases: body.phases,
        wants: sandbox::wants(&body.imports)
            .into_iter()
            .map(str::to_owned)
            .collect(),
        imports: body.imports,
        adapted: body.adapted,
        config_schema: body.config_schema,
        requests: body.requests,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_record_of_an_older_host_is_read() {
        let row = PluginRow {
            name: "fill".to_owned(),
            version: "0.1.0".to_owned(),
            digest: "blake3:00".to_owned(),
            created_at: 0,
            body: r#"{"description":"","phases":[],"imports":["wasi:random/random@0.2.0"],"config_schema":null}"#
                .to_owned(),
        };
        let view = view(&row).unwrap();
        assert_eq!(view.wants, ["random"]);
        assert_eq!(
            (view.bytes, view.admitted_by, view.signed_by),
            (None, None, None)
        );
    }
}
