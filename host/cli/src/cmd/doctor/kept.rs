//! What a server keeps: whether its records and the index of its packages are whole, and agree with the clock. A
//! server may be running over them.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Finding, Standing, found};

/// A record may be this far ahead of the clock: two clocks of one network are never further apart.
const AHEAD: Duration = Duration::from_secs(60);

/// Looks at a data directory, if it is one.
pub(super) async fn look(data: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let ledger = data.join("ledger.db");
    if ledger.is_file() {
        records(&ledger, &mut findings).await;
    }
    let blobs = data.join("blobs");
    if blobs.join("index.db").is_file() {
        findings.push(packages(&blobs).await);
    }
    findings
}

async fn records(ledger: &Path, findings: &mut Vec<Finding>) {
    let begun = Instant::now();
    let health = match cofferdam_deploy::ledger_health(ledger).await {
        Ok(health) => health,
        Err(error) => {
            findings.push(found(
                "ledger",
                Standing::Broken,
                format!("{}: restore a backup", error.chain()),
            ));
            return;
        }
    };
    findings.push(if health.faults.is_empty() {
        let took = begun.elapsed();
        found(
            "ledger",
            Standing::Ok,
            format!(
                "the records are whole (looked at in {took:.1?}, SQLite {})",
                health.sqlite
            ),
        )
    } else {
        let faults = health.faults.join("; ");
        found(
            "ledger",
            Standing::Broken,
            format!("the records are damaged: {faults}. Restore a backup"),
        )
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let newest = health
        .newest
        .and_then(|newest| u64::try_from(newest).ok())
        .map(Duration::from_millis);
    if let Some(ahead) = newest.and_then(|newest| newest.checked_sub(now))
        && ahead > AHEAD
    {
        findings.push(found(
            "clock",
            Standing::Broken,
            format!(
                "the newest record is {ahead:.0?} ahead of the clock, which was set back: new deployments would sort \
                 before old ones"
            ),
        ));
    }
}

async fn packages(blobs: &Path) -> Finding {
    match cofferdam_deploy::packages_health(blobs).await {
        Ok(faults) if faults.is_empty() => found(
            "store",
            Standing::Ok,
            "the index of the packages is whole, and every pack is there (their bytes were not read)",
        ),
        Ok(faults) => found(
            "store",
            Standing::Broken,
            format!(
                "the stored packages are damaged: {}. `cofferdam store check` says more",
                faults.join("; ")
            ),
        ),
        Err(error) => found("store", Standing::Broken, error.chain()),
    }
}
