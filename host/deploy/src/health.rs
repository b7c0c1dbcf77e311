//! Whether what a data directory keeps is whole: quick looks, beside a server that may be running.

use std::path::Path;

use crate::error::Error;

pub use cofferdam_ledger::Health as LedgerHealth;

/// Looks at every page of a ledger's file. Nothing is written.
///
/// # Errors
///
/// When it cannot be read at all.
pub async fn ledger_health(ledger: &Path) -> Result<LedgerHealth, Error> {
    Ok(cofferdam_ledger::health(ledger).await?)
}

/// Looks at every page of the index of a directory of packages, and whether its packs are there. What is wrong, a
/// sentence each; nothing is written.
///
/// # Errors
///
/// When it cannot be read at all.
pub async fn packages_health(blobs: &Path) -> Result<Vec<String>, Error> {
    Ok(cofferdam_blobs::quick_check(blobs).await?)
}
