//! Text for people: what may reach a terminal, figures with units, colours.

use std::fmt::Write;
use std::time::Duration;

/// `text` on one line, with everything that moves a cursor, rings a bell or turns the writing around made
/// visible: control characters as `\x1b`, others (direction marks, line separators) as `\u{202e}`. A tab stays.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => out.push('\t'),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\0'..='\x1f' | '\x7f' => {
                let _ = write!(out, "\\x{:02x}", u32::from(character));
            }
            '\u{80}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{e0000}'..='\u{e007f}' => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(character));
            }
            _ => out.push(character),
        }
    }
    out
}

/// As [`escaped`], but text of several lines stays on several lines.
pub(crate) fn escaped_lines(text: &str) -> String {
    let lines: Vec<String> = text.trim_end().split('\n').map(escaped).collect();
    lines.join("\n")
}

/// `1.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths, rounded to the nearest, in integers; what rounds to 1024.0 is 1.0 of the next unit.
    let mut divisor = 1024_u128;
    let mut unit = 0;
    let mut tenths = (u128::from(bytes) * 10 + divisor / 2) / divisor;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        divisor *= 1024;
        unit += 1;
        tenths = (u128::from(bytes) * 10 + divisor / 2) / divisor;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `12 ms`, `3.4 s`, `2 m 05 s`.
pub(crate) fn duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms < 1_000 {
        format!("{ms} ms")
    } else if ms < 60_000 {
        format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
    } else if ms < 3_600_000 {
        format!("{} m {:02} s", ms / 60_000, ms % 60_000 / 1_000)
    } else {
        format!("{} h {:02} m", ms / 3_600_000, ms % 3_600_000 / 60_000)
    }
}

/// A running clock: as [`duration`], but in tenths of a second from the start, so that it does not flicker.
pub(crate) fn clock(elapsed: Duration) -> String {
    if elapsed < Duration::from_secs(1) {
        return format!("0.{} s", elapsed.as_millis() / 100);
    }
    duration(elapsed)
}

/// `45.0 MiB/s`, or nothing when it was too little or too quick to say.
pub(crate) fn rate(sent: u64, taken: Duration) -> Option<String> {
    if sent < 1 << 20 {
        return None;
    }
    let ms = u64::try_from(taken.as_millis())
        .ok()
        .filter(|ms| *ms >= 10)?;
    let per_second = u128::from(sent) * 1_000 / u128::from(ms);
    Some(format!("{}/s", bytes(u64::try_from(per_second).ok()?)))
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// Colours, where they are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint(bool);

impl Paint {
    /// Colours for a terminal, unless `NO_COLOR` is set or the terminal knows none.
    pub(crate) fn for_terminal(terminal: bool) -> Paint {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Paint(terminal && !refused && !is_dumb())
    }

    #[cfg(test)]
    pub(crate) fn none() -> Paint {
        Paint(false)
    }

    pub(crate) fn colours(self) -> bool {
        self.0
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn cyan(self, text: &str) -> String {
        self.with("36", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Whether the terminal says that it can do nothing but print.
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_plugin_prints_can_move_the_cursor() {
        assert_eq!(
            escaped("\x1b[2Ja\rb\n\x07\u{9b}31m\u{202e}\tok é"),
            "\\x1b[2Ja\\rb\\n\\x07\\u{9b}31m\\u{202e}\tok é"
        );
        assert_eq!(escaped_lines("a\nb\x1b\n"), "a\nb\\x1b");
    }

    #[test]
    fn figures_have_the_unit_that_reads_best() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(34_905), "34.1 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(1023 * 1024), "1023.0 KiB");
        assert_eq!(bytes(1 << 30), "1.0 GiB");
        assert_eq!(duration(Duration::from_millis(999)), "999 ms");
        assert_eq!(duration(Duration::from_millis(3_450)), "3.4 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 m 05 s");
        assert_eq!(duration(Duration::from_secs(3_700)), "1 h 01 m");
        assert_eq!(
            rate(1 << 20, Duration::from_millis(500)).as_deref(),
            Some("2.0 MiB/s")
        );
        assert_eq!(rate(1 << 30, Duration::ZERO), None);
        assert_eq!(rate(1 << 10, Duration::from_secs(1)), None);
    }
}
