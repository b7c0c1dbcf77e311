//! An install step that ships: every text asset of the release gets compressed siblings (`app.js.br`,
//! `app.js.zst`, `app.js.gz`), which the ingress sends to the clients that take them.
//!
//! A sibling is written when it is smaller than its asset. zstd's also has to be smaller than gzip's, because
//! every client that takes zstd takes gzip: this encoder (pure Rust, as guests have to be) wins on assets
//! beyond some 50 KiB, and loses a few per cent on small ones. A sibling that the package brought is left
//! alone, and so is everything that is no text by its extension, too small to matter, or only a link.
//!
//! # Layout
//!
//! - `config`: what a pipeline may set
//! - `assets`: which files it is about
//! - `encode`: the three encoders, of which zstd's finds its matches in `chains`

mod assets;
mod chains;
mod config;
mod encode;

pub use config::{Config, Format};

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cofferdam_sdk::Bytes;
use serde::Serialize;

use crate::assets::Asset;

/// So many assets are listed by name.
const LISTED: usize = 40;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory that the configuration names is none of the release's.
    #[error("config.root: {root:?} {problem}")]
    Root {
        /// What was configured.
        root: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file could not be read or written.
    #[error("cannot {verb} {}: {source}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On which file, relative to the release.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::File {
            verb,
            path: path.to_owned(),
            source,
        }
    }
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The assets that got at least one sibling.
    pub assets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their bytes when each is sent in its smallest form.
    pub smallest: u64,
    /// By format: how many siblings, and their bytes.
    pub formats: BTreeMap<Format, Siblings>,
}

/// The siblings of one format.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Siblings {
    /// How many were written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Writes the siblings of every asset below `release`.
///
/// # Errors
///
/// When the configured root is not there, or when a file cannot be read or written.
pub fn precompress(release: &Path, config: &Config) -> Result<Summary, Error> {
    let assets = assets::find(release, config)?;
    let total = assets.iter().map(|asset| asset.bytes).sum::<u64>();
    let mut summary = Summary::default();
    let mut done = 0;
    for (index, asset) in assets.iter().enumerate() {
        cofferdam_sdk::progress(done, total, &format!("bytes, {}", asset.path.display()));
        let line = compress(release, config, asset, &mut summary)?;
        done += asset.bytes;
        match line {
            Some(line) if index < LISTED => println!("{line}"),
            Some(_) if index == LISTED => println!("... and more"),
            _ => {}
        }
    }
    cofferdam_sdk::progress(done, total, "bytes");
    if summary.assets == 0 {
        println!(
            "nothing to compress: {} text assets were looked at",
            assets.len()
        );
    } else {
        println!(
            "compressed {} assets: {} are sent as {} ({}% less)",
            summary.assets,
            Bytes(summary.bytes),
            Bytes(summary.smallest),
            (summary.bytes - summary.smallest) * 100 / summary.bytes.max(1),
        );
    }
    Ok(summary)
}

/// Writes the siblings of one asset and returns the line that says so.
fn compress(
    release: &Path,
    config: &Config,
    asset: &Asset,
    summary: &mut Summary,
) -> Result<Option<String>, Error> {
    let wanted: Vec<_> = config
        .formats
        .iter()
        .filter(|format| !asset.siblings.contains(format))
        .collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let content = fs::read(release.join(&asset.path)).map_err(Error::file("read", &asset.path))?;
    let mut encoded: Vec<_> = wanted
        .into_iter()
        .map(|format| (*format, encode::encode(*format, &content, config.quality)))
        .filter(|(_, encoded)| encoded.len() < content.len())
        .collect();
    let len_of = |wanted: Format| {
        let mut all = encoded.iter();
        all.find(|(format, _)| *format == wanted)
            .map(|(_, encoded)| encoded.len())
    };
    if let (Some(zstd), Some(gzip)) = (len_of(Format::Zstd), len_of(Format::Gzip))
        && zstd >= gzip
    {
        encoded.retain(|(format, _)| *format != Format::Zstd);
    }
    if encoded.is_empty() {
        return Ok(None);
    }
    let mut smallest = asset.bytes;
    let mut forms = Vec::new();
    for (format, encoded) in encoded {
        let len = encoded.len() as u64;
        let path = assets::sibling(&asset.path, format);
        fs::write(release.join(&path), encoded).map_err(Error::file("write", &path))?;
        forms.push(format!("{} {}", format.extension(), Bytes(len)));
        smallest = smallest.min(len);
        let siblings = summary.formats.entry(format).or_default();
        siblings.files += 1;
        siblings.bytes += len;
    }
    summary.assets += 1;
    summary.bytes += asset.bytes;
    summary.smallest += smallest;
    Ok(Some(format!(
        "{}  {} -> {}",
        asset.path.display(),
        Bytes(asset.bytes),
        forms.join(", ")
    )))
}
