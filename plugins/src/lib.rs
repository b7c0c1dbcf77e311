//! The plugins that ship with Cofferdam, as compiled components.
//!
//! Their sources are the packages beside this one: `unpack` (extract), `precompress` (install) and `serve`
//! (load). The build script compiles them for `wasm32-wasip2`; a version is that of the plugin's own package.
//!
//! ```
//! let unpack = cofferdam_plugins::ALL.iter().find(|plugin| plugin.name == "unpack").unwrap();
//! assert!(unpack.wasm.starts_with(b"\0asm"));
//! assert_eq!(unpack.wasm, cofferdam_plugins::UNPACK);
//! ```

mod guests {
    #![allow(
        dead_code,
        unreachable_pub,
        reason = "generated for crates that hand out all of it"
    )]

    include!(concat!(env!("OUT_DIR"), "/guests.rs"));
}

/// The extract step: tar, tar.gz, tar.zst and zip become a directory.
pub const UNPACK: &[u8] = guests::UNPACK;

/// An install step: text assets get compressed siblings.
pub const PRECOMPRESS: &[u8] = guests::PRECOMPRESS;

/// The load step: a directory becomes services.
pub const SERVE: &[u8] = guests::SERVE;

/// One plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plugin {
    /// Its name, as pipelines write it.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The component.
    pub wasm: &'static [u8],
}

/// Every plugin that ships.
pub const ALL: &[Plugin] = &[
    Plugin {
        name: "precompress",
        version: guests::PRECOMPRESS_VERSION,
        wasm: PRECOMPRESS,
    },
    Plugin {
        name: "serve",
        version: guests::SERVE_VERSION,
        wasm: SERVE,
    },
    Plugin {
        name: "unpack",
        version: guests::UNPACK_VERSION,
        wasm: UNPACK,
    },
];

#[cfg(test)]
mod tests {
    use super::{ALL, guests};

    /// The name of the section in which a plugin describes itself, and the beginning of what is in it.
    fn described(name: &str, version: &str) -> Vec<u8> {
        format!("cofferdam:plugin{{\"name\":\"{name}\",\"version\":\"{version}\",").into_bytes()
    }

    #[test]
    fn every_guest_that_is_compiled_ships() {
        let shipped: Vec<_> = ALL
            .iter()
            .map(|plugin| (plugin.name, plugin.wasm))
            .collect();
        assert_eq!(shipped, guests::ALL);
    }

    #[test]
    fn every_plugin_is_a_component_that_describes_itself_as_this_table_does() {
        for plugin in ALL {
            assert_eq!(plugin.wasm[..8], *b"\0asm\x0d\0\x01\0", "{}", plugin.name);
            let described = described(plugin.name, plugin.version);
            assert!(
                plugin
                    .wasm
                    .windows(described.len())
                    .any(|window| window == described),
                "{}",
                plugin.name
            );
        }
    }
}
