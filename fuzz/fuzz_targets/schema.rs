//! Schemas of names, which the types that are read here derive theirs from. Nobody looks at them.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::name::{PluginRef, ProjectName};

macro_rules! any {
    ($($type:ident)*) => {
        $(impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($type))
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                true.into()
            }
        })*
    };
}

any! { PluginRef ProjectName }
