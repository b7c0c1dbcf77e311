//! How far it is, on standard error: a moving line on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use cofferdam_blobs::{Progress, Stage};

use crate::ui::text;

/// How often a line is written where there is no terminal: often enough for a job that is ended when it is silent.
const STILL_AT_IT: Duration = Duration::from_secs(10);

pub(super) struct Shown {
    terminal: bool,
    said: Instant,
    /// Whether a moving line stands.
    stands: bool,
}

impl Shown {
    pub(super) fn new() -> Shown {
        Shown {
            terminal: io::stderr().is_terminal() && !text::is_dumb(),
            said: Instant::now(),
            stands: false,
        }
    }

    pub(super) fn show(&mut self, progress: Progress) {
        let line = line(progress);
        let mut err = io::stderr().lock();
        // Where nobody reads any more, nobody is told.
        let _ = if self.terminal {
            self.stands = true;
            write!(err, "\r\x1b[2K{line}").and_then(|()| err.flush())
        } else if self.said.elapsed() >= STILL_AT_IT {
            self.said = Instant::now();
            writeln!(err, "{line}")
        } else {
            Ok(())
        };
    }

    /// Takes the moving line away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.stands) {
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[2K").and_then(|()| err.flush());
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.clear();
    }
}

fn line(Progress { stage, done, total }: Progress) -> String {
    match stage {
        Stage::Packs => format!("packs: {} of {}", text::bytes(done), text::bytes(total)),
        Stage::Blobs => format!("packages: {done} of {total}"),
        Stage::Reindex => format!("indexing packs: {done} of {total}"),
        _ => format!("{done} of {total}"),
    }
}
