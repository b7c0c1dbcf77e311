//! JSON schemas of what is one text to a client and a type of its own here. Every other schema is derived
//! from its type.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::name::{
    DeploymentId, PluginName, PluginRef, ProjectName, SecretName, ServiceName, TokenName,
};
use crate::policy::Rule;
use crate::record::Time;

macro_rules! text {
    ($($type:ty, $name:literal, $schema:tt;)*) => {
        $(impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        })*
    };
}

text! {
    Time, "Time", { "type": "string", "format": "date-time" };
    DeploymentId, "DeploymentId", { "type": "string", "format": "uuid" };
    ProjectName, "ProjectName", { "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" };
    PluginName, "PluginName", { "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" };
    ServiceName, "ServiceName", { "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" };
    SecretName, "SecretName", { "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_-]{0,127}$" };
    TokenName, "TokenName", { "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$" };
    PluginRef, "PluginRef", {
        "type": "string",
        "description": "NAME, NAME@VERSION, or blake3: and 64 hex digits"
    };
    Rule, "Rule", {
        "type": "string",
        "description": "a file's name and line, or what is built in"
    };
}
