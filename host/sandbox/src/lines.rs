//! Source lines for backtraces, from the debug sections that a guest brings along.
//!
//! The engine could look lines up itself, but it reads those sections with code that recurses and allocates as
//! deeply and as much as they say, in this process; they are the guest's own bytes, and it can trap whenever it
//! likes. So the engine is left to name functions, and [`Lines`] adds files and lines to what it said: without
//! recursion, in memory bounded by the sections' size, and within a budget of work. What a budget does not reach
//! stays as it was, a backtrace of names.
//!
//! - `dwarf`: from an address in the code to places in sources
//! - `path`: a source's path without the machine it was compiled on

mod dwarf;
mod path;

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use gimli::DwarfSections;
use wasmparser::{Encoding, Parser, Payload};

use self::dwarf::{Place, Work};

/// The sections that lines are found with.
const NEEDED: &[&str] = &[
    ".debug_abbrev",
    ".debug_addr",
    ".debug_info",
    ".debug_line",
    ".debug_line_str",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_str",
    ".debug_str_offsets",
];

/// The most bytes of debug sections that are kept of one module: a large program with full debug information has
/// more, one with line tables a tenth of it.
const MAX_SECTION_BYTES: usize = 8 << 20;

/// The most bytes of debug sections that a process keeps, whatever it has admitted: some sixty plugins with line
/// tables. The traps of further ones name functions.
const MAX_KEPT_BYTES: usize = 64 << 20;

/// Bytes of debug sections that are kept.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// The work that one step's trap is worth, in entries and bytes read: some hundred milliseconds at the worst.
pub(crate) const STEP_WORK: u64 = 32_000_000;

/// The work that one request's trap is worth: there may be many of them, and they go to a log.
pub(crate) const REQUEST_WORK: u64 = 1_000_000;

/// Bytes that a message may have once lines are added.
const MAX_MESSAGE_BYTES: usize = 48 << 10;

/// The debug sections of a component's modules.
#[derive(Debug, Default)]
pub(crate) struct Lines(Vec<Module>);

#[derive(Debug)]
struct Module {
    /// Where its code lies in the component.
    code: Range<u64>,
    sections: DwarfSections<Vec<u8>>,
    _kept: Kept,
}

/// A share of the bytes that may be kept.
#[derive(Debug)]
struct Kept(usize);

impl Kept {
    /// Takes a share, if there is that much left.
    fn take(bytes: usize) -> Option<Kept> {
        KEPT.try_update(Ordering::Relaxed, Ordering::Relaxed, |kept| {
            kept.checked_add(bytes)
                .filter(|kept| *kept <= MAX_KEPT_BYTES)
        })
        .ok()
        .map(|_| Kept(bytes))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// A module that is being read.
#[derive(Default)]
struct Reading<'a> {
    code: Option<Range<usize>>,
    sections: Vec<(&'a str, &'a [u8])>,
}

impl Lines {
    /// Keeps what `wasm` says about its sources. A component that cannot be read has none.
    pub(crate) fn of(wasm: &[u8]) -> Lines {
        let mut modules = Vec::new();
        let mut open: Vec<Option<Reading<'_>>> = Vec::new();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload {
                Ok(Payload::Version { encoding, .. }) => {
                    open.push((encoding == Encoding::Module).then(Reading::default));
                }
                Ok(Payload::CodeSectionStart { range, .. }) => {
                    if let Some(Some(module)) = open.last_mut() {
                        module.code = Some(range);
                    }
                }
                Ok(Payload::CustomSection(section)) if section.name().starts_with(".debug_") => {
                    if let Some(Some(module)) = open.last_mut() {
                        module.sections.push((section.name(), section.data()));
                    }
                }
                Ok(Payload::End(_)) => {
                    modules.extend(open.pop().flatten().and_then(Reading::finish));
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Lines(modules)
    }

    /// A backtrace with the places of its frames, each below its own: `at src/main.rs:12:5`.
    pub(crate) fn add_to(&self, message: &str, work: u64) -> String {
        let frames: Vec<u64> = message.lines().filter_map(offset).collect();
        let mut work = Work::new(work);
        let mut found: Vec<(u64, Place)> = Vec::new();
        for module in &self.0 {
            let addresses: Vec<u64> = frames
                .iter()
                .filter(|frame| module.code.contains(frame))
                .map(|frame| frame - module.code.start)
                .collect();
            if !addresses.is_empty() {
                let places = dwarf::places(&module.sections, &addresses, &mut work);
                let start = module.code.start;
                found.extend(places.into_iter().map(|(at, place)| (at + start, place)));
            }
        }
        if found.is_empty() {
            return message.to_owned();
        }
        let mut text = String::with_capacity(message.len() * 2);
        for line in message.lines() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(line);
            let place = offset(line).and_then(|at| found.iter().find(|(known, _)| *known == at));
            if let Some((_, place)) = place
                && text.len() < MAX_MESSAGE_BYTES
            {
                for (name, at) in &place.inlined {
                    let _ = write!(text, "\n                    in {name} at {at}");
                }
                let _ = write!(text, "\n                    at {}", place.at);
            }
        }
        text
    }
}

impl Reading<'_> {
    fn finish(self) -> Option<Module> {
        let code = self.code?;
        let bytes = self
            .sections
            .iter()
            .filter(|(name, _)| NEEDED.contains(name))
            .map(|(_, data)| data.len())
            .sum();
        let has = |name: &str| self.sections.iter().any(|(known, _)| *known == name);
        if !has(".debug_info") || !has(".debug_line") || bytes > MAX_SECTION_BYTES {
            return None;
        }
        let kept = Kept::take(bytes)?;
        let load = |id: gimli::SectionId| {
            let wanted = NEEDED.contains(&id.name()).then_some(id.name());
            let section = self.sections.iter().find(|(name, _)| Some(*name) == wanted);
            Ok::<_, std::convert::Infallible>(section.map_or(Vec::new(), |(_, data)| data.to_vec()))
        };
        let Ok(sections) = DwarfSections::load(load);
        Some(Module {
            code: code.start as u64..code.end as u64,
            sections,
            _kept: kept,
        })
    }
}

/// The offset in the component that a line of a backtrace names: `    0:   0x2e97 - module!function`.
fn offset(line: &str) -> Option<u64> {
    let (number, rest) = line.trim_start().split_once(':')?;
    number.parse::<u32>().ok()?;
    let (hex, _) = rest.trim_start().strip_prefix("0x")?.split_once(" - ")?;
    u64::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_frame_names_an_offset() {
        assert_eq!(offset("    0:   0x2e97 - a.wasm!a::f"), Some(0x2e97));
        assert_eq!(offset("   12:     0x10 - a.wasm!f"), Some(0x10));
        for other in [
            "wasm trap: wasm `unreachable` instruction executed",
            "    0: a.wasm!f",
            "          ... and 3 more of it",
            "x: 0x10 - f",
        ] {
            assert_eq!(offset(other), None, "{other}");
        }
    }

    #[test]
    fn a_component_without_debug_sections_keeps_its_message() {
        let message = "unreachable\n    0:   0x10 - a.wasm!f";
        let lines = Lines::of(b"\0asm\x0d\0\x01\0");
        assert_eq!(lines.add_to(message, STEP_WORK), message);
        assert_eq!(Lines::of(b"nonsense").add_to(message, STEP_WORK), message);
    }

    #[test]
    fn a_process_keeps_so_many_bytes_of_debug_sections_and_no_more() {
        let most = Kept::take(MAX_KEPT_BYTES + 1);
        assert!(most.is_none());
        let some = Kept::take(1).map(|kept| kept.0);
        assert_eq!(some, Some(1));
    }

    /// A backtrace with a frame every few bytes of a module's code.
    fn frames(code: &Range<u64>) -> String {
        (code.start..code.end)
            .step_by(997)
            .take(64)
            .enumerate()
            .map(|(number, at)| format!("    {number}: {at:#8x} - traced.wasm!f\n"))
            .collect()
    }

    #[test]
    fn sections_that_were_tampered_with_cost_lines_and_nothing_else() {
        let wasm = cofferdam_test_guests::program("traced");
        let lines = Lines::of(wasm);
        let message = frames(&lines.0[0].code);
        let whole = lines.add_to(&message, STEP_WORK);
        assert!(
            whole.lines().count() > message.lines().count() + 30,
            "{whole}"
        );

        let sections: Vec<Range<usize>> = Parser::new(0)
            .parse_all(wasm)
            .filter_map(|payload| match payload {
                Ok(Payload::CustomSection(section)) if section.name().starts_with(".debug_") => {
                    Some(section.data_offset()..section.data_offset() + section.data().len())
                }
                _ => None,
            })
            .collect();
        assert!(sections.len() > 3);
        // Deterministic, and different bytes in each round.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap_or(0)
        };
        for _ in 0..200 {
            let mut wasm = wasm.to_vec();
            for section in &sections {
                for _ in 0..next(30) {
                    let at = section.start + next(section.len());
                    wasm[at] = u8::try_from(next(256)).unwrap_or(0);
                }
            }
            let text = Lines::of(&wasm).add_to(&message, STEP_WORK);
            assert!(text.len() < 2 * MAX_MESSAGE_BYTES);
        }
    }
}
