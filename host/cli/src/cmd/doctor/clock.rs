//! The clock: ids sort by it, tokens expire by it, certificates are judged by it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Finding, Standing, found};

/// Earlier than this, in seconds since the epoch, the clock was never set: the first of January 2026, when this
/// program did not exist.
const EARLIEST: u64 = 1_767_225_600;

/// How long the two clocks are compared.
const COMPARED: Duration = Duration::from_millis(200);

/// How far apart they may come meanwhile. A clock that is being corrected gains or loses half a thousandth.
const APART: Duration = Duration::from_millis(20);

/// Whether the clock was set, and goes at the pace of the one that only counts.
pub(super) fn steady() -> Finding {
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since.as_secs() < EARLIEST {
        return found(
            "clock",
            Standing::Broken,
            "the clock was not set: tokens would not expire, and certificates are not good yet. Run a time service",
        );
    }
    let begun = Instant::now();
    std::thread::sleep(COMPARED);
    let counted = begun.elapsed();
    let drift = match now.elapsed() {
        Ok(told) => told.abs_diff(counted),
        Err(back) => back.duration() + counted,
    };
    if drift > APART {
        return found(
            "clock",
            Standing::Warning,
            format!("the clock jumped by {drift:.1?} while it was watched: something sets it"),
        );
    }
    found("clock", Standing::Ok, "the clock is set and goes steadily")
}
