//! What a pipeline may set.

use serde::Deserialize;

/// More entries than the largest trees that people deploy (a big `node_modules` has 100,000), and few enough
/// that the memory for their names stays below 100 MiB.
const DEFAULT_MAX_ENTRIES: u64 = 400_000;

/// Deflate reaches 1030 to 1 on nothing but zeros; real files stay below 200 to 1.
const DEFAULT_MAX_RATIO: u64 = 1000;

/// The step's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How many leading directories to take away from every name: 0, or 1 for an archive that keeps
    /// everything in one directory, as source archives do. Default: 0.
    pub strip: Strip,
    /// The most entries that an archive may have. Default: 400,000.
    pub max_entries: u64,
    /// The most bytes that its files may have together. Default: what the step's disk quota allows.
    pub max_bytes: Option<u64>,
    /// How many times larger than the package its contents may be, beyond the first 16 MiB. Default: 1000.
    pub max_ratio: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            strip: Strip::default(),
            max_entries: DEFAULT_MAX_ENTRIES,
            max_bytes: None,
            max_ratio: DEFAULT_MAX_RATIO,
        }
    }
}

/// How many leading directories are taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub enum Strip {
    /// Names stay as they are.
    #[default]
    Nothing,
    /// The one directory in which everything is goes away.
    One,
}

impl TryFrom<u64> for Strip {
    type Error = String;

    fn try_from(levels: u64) -> Result<Strip, String> {
        match levels {
            0 => Ok(Strip::Nothing),
            1 => Ok(Strip::One),
            more => Err(format!("{more} is neither 0 nor 1")),
        }
    }
}
