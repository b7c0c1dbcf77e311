//! Whole packages, made here byte by byte, against the real file system.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test may panic, and its fixtures are small"
)]

mod bench;
mod format;
mod limits;
mod links;
mod made_tar;
mod made_zip;
mod names;
mod tar_headers;
mod trees;
mod zip;
