//! Modules built for WASI preview 1, as components.
//!
//! The adapter is wasmtime's own: it implements preview 1 by WASI 0.2, so an adapted module sees the same sandbox as
//! a component. It knows only success and failure of an exit, though; a module's `proc_exit` is therefore led past
//! it to the function of WASI 0.2.12 that takes a number.

use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as PREVIEW_1,
    WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER as ADAPTER,
};
use wasm_encoder::reencode::{self, RoundtripReencoder};
use wasm_encoder::{ImportSection, Module, RawSection};
use wasmparser::{ExternalKind, ImportSectionReader, Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::imports::{nearest, shown};
use crate::error::Error;

/// The export by which a program of preview 1 begins.
const START: &str = "_start";

/// How preview 1 ends a program with a number, and how WASI 0.2.12 does.
const PROC_EXIT: &str = "proc_exit";
const EXIT: (&str, &str) = ("wasi:cli/exit@0.2.12", "exit-with-code");

/// What a module imports that ends by the latter.
const EXIT_WIT: &str = "
    package wasi:cli@0.2.12;
    interface exit { exit-with-code: func(status-code: u8); }
    world exiting { import exit; }
";

/// What custom sections begin with that describe interfaces of the component model.
const INTERFACES: &str = "component-type";

/// How many foreign imports are named.
const NAMED: usize = 8;

/// Makes a component of a core module, if it is a program for WASI preview 1.
pub(crate) fn adapt(module: &[u8]) -> Result<Vec<u8>, Error> {
    let problems = problems(module).map_err(|error| Error::Invalid {
        message: error.to_string(),
    })?;
    if !problems.is_empty() {
        return Err(Error::CoreModule { problems });
    }
    let failed = |message: String| Error::Invalid {
        message: format!("it cannot be adapted from WASI preview 1: {message}"),
    };
    // The encoder is made for build tools, which read their own compiler's modules.
    let encoded = panic::catch_unwind(AssertUnwindSafe(|| encode(module)));
    encoded
        .unwrap_or_else(|_| Err("the encoder gave up on it".to_owned()))
        .map_err(failed)
}

fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    let module = with_exit_codes(module)?;
    ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.adapter(PREVIEW_1, ADAPTER))
        // It is validated when it is compiled.
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| format!("{error:#}"))
}

/// The module with its `proc_exit` replaced. Every other section stays as it is, byte for byte, so that what debug
/// sections say of the code stays true.
fn with_exit_codes(module: &[u8]) -> Result<Vec<u8>, String> {
    let mut renamed = Module::new();
    let mut exits = false;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(|error| error.to_string())?;
        if let Payload::ImportSection(section) = payload {
            let (imports, found) = imports(section)?;
            exits |= found;
            renamed.section(&imports);
        } else if let Some((id, range)) = payload.as_section() {
            let data = &module[range];
            renamed.section(&RawSection { id, data });
        }
    }
    let mut renamed = renamed.finish();
    if exits {
        let mut resolve = Resolve::default();
        resolve
            .push_source("exit.wit", EXIT_WIT)
            .and_then(|package| resolve.select_world(&[package], None))
            .and_then(|world| {
                embed_component_metadata(&mut renamed, &resolve, world, StringEncoding::UTF8)
            })
            .map_err(|error| format!("{error:#}"))?;
    }
    Ok(renamed)
}

/// The imports, with `proc_exit` replaced; and whether there was one.
fn imports(section: ImportSectionReader<'_>) -> Result<(ImportSection, bool), String> {
    let (mut imports, mut found) = (ImportSection::new(), false);
    for import in section.into_imports() {
        let mut import = import.map_err(|error| error.to_string())?;
        if (import.module, import.name) == (PREVIEW_1, PROC_EXIT) {
            (import.module, import.name) = EXIT;
            found = true;
        }
        reencode::utils::parse_import(&mut RoundtripReencoder, &mut imports, import)
            .map_err(|error| error.to_string())?;
    }
    Ok((imports, found))
}

/// Why a module is no program for preview 1, in sentences.
fn problems(module: &[u8]) -> Result<Vec<String>, wasmparser::BinaryReaderError> {
    let known = functions();
    let mut foreign = BTreeSet::new();
    let mut more = false;
    let (mut starts, mut describes) = (false, false);
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import?;
                    if import.module == PREVIEW_1 && known.contains(import.name) {
                        continue;
                    }
                    let problem = missing(import.module, import.name, &known);
                    if foreign.len() < NAMED {
                        foreign.insert(problem);
                    } else {
                        more |= !foreign.contains(&problem);
                    }
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    starts |= export.name == START && export.kind == ExternalKind::Func;
                }
            }
            Payload::CustomSection(section) => describes |= section.name().starts_with(INTERFACES),
            _ => {}
        }
    }
    let mut problems: Vec<String> = foreign.into_iter().collect();
    if more {
        problems.push("and it imports more of the kind".to_owned());
    }
    if describes {
        // The encoder would read types that a stranger wrote.
        problems.push(
            "it describes interfaces of components; make one of it with `wasm-tools component new`"
                .to_owned(),
        );
    }
    if !starts {
        problems.push(format!(
            "it exports no function {START}, so it is a library and not a program"
        ));
    }
    Ok(problems)
}

/// A sentence about an import that the adapter does not have.
fn missing(module: &str, name: &str, known: &BTreeSet<&str>) -> String {
    let import = format!("{}.{}", shown(module), shown(name));
    let near = if module == PREVIEW_1 {
        nearest(name, known.iter().copied())
    } else {
        None
    };
    let near = near.map(|near| format!(" (it has {near}: a slip?)"));
    format!(
        "it imports {import}, which is not part of WASI preview 1 ({PREVIEW_1}){}",
        near.unwrap_or_default()
    )
}

/// The functions of preview 1 that the adapter has.
fn functions() -> BTreeSet<&'static str> {
    let exports = Parser::new(0)
        .parse_all(ADAPTER)
        .filter_map(|payload| match payload {
            Ok(Payload::ExportSection(section)) => Some(section.into_iter().filter_map(Result::ok)),
            _ => None,
        });
    // The adapter's other exports are named after interfaces.
    let is_plain = |name: &&str| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    exports
        .flatten()
        .map(|export| export.name)
        .filter(is_plain)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_adapter_has_the_functions_of_preview_1() {
        let names = functions();
        for name in [
            "proc_exit",
            "fd_write",
            "path_open",
            "random_get",
            "sock_shutdown",
        ] {
            assert!(names.contains(name), "{name} is not in {names:?}");
        }
    }
}
