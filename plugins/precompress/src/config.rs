//! What a pipeline may set.

use serde::{Deserialize, Serialize};

/// Below this, headers and the round trip outweigh what compression saves.
const DEFAULT_MIN_BYTES: u64 = 1024;

/// Brotli's last level before it becomes ten times slower for a few per cent.
const DEFAULT_QUALITY: u8 = 9;

/// What compresses well: text, and formats that are text or tables inside.
const DEFAULT_EXTENSIONS: &[&str] = &[
    "atom",
    "cjs",
    "css",
    "csv",
    "eot",
    "geojson",
    "htm",
    "html",
    "ics",
    "ico",
    "js",
    "json",
    "jsonld",
    "map",
    "md",
    "mjs",
    "otf",
    "rss",
    "svg",
    "ttf",
    "txt",
    "wasm",
    "webmanifest",
    "xhtml",
    "xml",
    "yaml",
    "yml",
];

/// The step's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Only assets below this directory of the release. Default: all of it.
    pub root: String,
    /// Smaller assets are left alone. Default: 1024.
    pub min_bytes: u64,
    /// The extensions of assets, in lower case and without the dot.
    pub extensions: Vec<String>,
    /// Which siblings to write. Default: all three.
    pub formats: Vec<Format>,
    /// Brotli's quality, 0 to 11. Default: 9.
    pub quality: Quality,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            root: ".".to_owned(),
            min_bytes: DEFAULT_MIN_BYTES,
            extensions: DEFAULT_EXTENSIONS
                .iter()
                .map(|extension| (*extension).to_owned())
                .collect(),
            formats: Format::ALL.to_vec(),
            quality: Quality(DEFAULT_QUALITY),
        }
    }
}

/// A compressed form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `.br`
    #[serde(alias = "br")]
    Brotli,
    /// `.zst`
    #[serde(alias = "zst")]
    Zstd,
    /// `.gz`
    #[serde(alias = "gz")]
    Gzip,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 3] = [Format::Brotli, Format::Zstd, Format::Gzip];

    /// What a sibling's name ends in, without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Format::Brotli => "br",
            Format::Zstd => "zst",
            Format::Gzip => "gz",
        }
    }
}

/// Brotli's quality, 0 to 11.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u8")]
pub struct Quality(u8);

impl Quality {
    pub(crate) fn level(self) -> i32 {
        i32::from(self.0)
    }
}

impl TryFrom<u8> for Quality {
    type Error = String;

    fn try_from(level: u8) -> Result<Quality, String> {
        match level {
            0..=11 => Ok(Quality(level)),
            _ => Err(format!("{level} is not between 0 and 11")),
        }
    }
}
