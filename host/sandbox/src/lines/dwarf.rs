//! From an address in the code to places in sources.
//!
//! One pass over the units for all addresses. Only the unit that an address belongs to is looked into: its line
//! program gives the innermost place, and the entries of its functions say what was inlined around it, each with
//! the place that it was inlined at.

use std::fmt;
use std::sync::Arc;

use gimli::constants as dw;
use gimli::{
    Abbreviations, AttributeValue, DebugAbbrevOffset, Dwarf, DwarfSections, EndianSlice,
    LineProgramHeader, LittleEndian, Reader as _, Unit, UnitHeader, UnitOffset,
};

use super::path;

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Attributes of one unit's table of abbreviations; a compiler's has a few thousand.
const MAX_ABBREVIATED: u64 = 100_000;

/// Bytes of the header of one line program: the names of its files.
const MAX_LINE_HEADER: u64 = 1 << 20;

/// Inlined functions that are shown of one frame.
const MAX_INLINED: usize = 12;

/// The longest name that is shown, in characters.
const LONGEST_NAME: usize = 160;

/// Entries that may refer to each other before one of them has a name.
const MAX_HOPS: usize = 4;

/// What may still be done, in entries and bytes read.
#[derive(Debug)]
pub(super) struct Work(u64);

/// Nothing more may be done, or the sections make no sense.
#[derive(Debug)]
struct GiveUp;

type Result<T> = std::result::Result<T, GiveUp>;

impl From<gimli::Error> for GiveUp {
    fn from(_: gimli::Error) -> Self {
        GiveUp
    }
}

impl Work {
    pub(super) fn new(work: u64) -> Work {
        Work(work)
    }

    fn spend(&mut self, work: u64) -> Result<()> {
        self.0 = self.0.checked_sub(work).ok_or(GiveUp)?;
        Ok(())
    }
}

/// Where the code of a frame comes from.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// The functions that were inlined there, innermost first, each with the place inside it.
    pub(super) inlined: Vec<(String, Location)>,
    /// The place in the frame's own function.
    pub(super) at: Location,
}

/// A file, a line and a column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Location {
    file: String,
    line: u64,
    column: u64,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.escape_debug(), self.line)?;
        if self.column > 0 {
            write!(f, ":{}", self.column)?;
        }
        Ok(())
    }
}

/// A place as the sections have it: the number of a file, a line and a column.
#[derive(Debug, Clone, Copy, Default)]
struct Raw {
    file: u64,
    line: u64,
    column: u64,
}

/// An address that lies in the unit at hand.
struct Hit {
    address: u64,
    row: Option<Raw>,
    /// What was inlined, outermost first: the function's entry, and where it was inlined.
    inlined: Vec<(Option<UnitOffset>, Raw)>,
}

/// The places of those addresses that can be found.
pub(super) fn places(
    sections: &DwarfSections<Vec<u8>>,
    addresses: &[u64],
    work: &mut Work,
) -> Vec<(u64, Place)> {
    let dwarf = sections.borrow(|section| EndianSlice::new(section, LittleEndian));
    let mut found = Vec::new();
    // What was found before the end of the budget, or before the first nonsense, is of use.
    let _ = search(&dwarf, addresses, work, &mut found);
    found
}

fn search(
    dwarf: &Dwarf<Slice<'_>>,
    addresses: &[u64],
    work: &mut Work,
    found: &mut Vec<(u64, Place)>,
) -> Result<()> {
    let mut left = addresses.to_vec();
    left.sort_unstable();
    left.dedup();
    let mut units = dwarf.units();
    let mut known = None;
    while let Some(header) = units.next()? {
        let abbreviations = abbreviations(dwarf, &header, &mut known, work)?;
        charge_line_header(dwarf, &header, &abbreviations, work)?;
        let unit = Unit::new_with_abbreviations(dwarf, header, abbreviations)?;
        let mut ranges = dwarf.unit_ranges(&unit)?;
        let mut hits = Vec::new();
        while let Some(range) = ranges.next()? {
            work.spend(1)?;
            left.retain(|&address| {
                let here = (range.begin..range.end).contains(&address);
                if here {
                    hits.push(Hit {
                        address,
                        row: None,
                        inlined: Vec::new(),
                    });
                }
                !here
            });
        }
        if hits.is_empty() {
            continue;
        }
        rows(&unit, &mut hits, work)?;
        // A unit whose entries are odd may still have lines.
        let walked = functions(dwarf, &unit, &mut hits, work);
        for hit in &hits {
            if let Some(place) = place(dwarf, &unit, hit) {
                found.push((hit.address, place));
            }
        }
        walked?;
        if left.is_empty() {
            break;
        }
    }
    Ok(())
}

/// The unit's abbreviations, after it is known that they are not too many. Units often share a table.
fn abbreviations(
    dwarf: &Dwarf<Slice<'_>>,
    header: &UnitHeader<Slice<'_>>,
    known: &mut Option<(DebugAbbrevOffset, Arc<Abbreviations>)>,
    work: &mut Work,
) -> Result<Arc<Abbreviations>> {
    let at = header.debug_abbrev_offset();
    if let Some((offset, abbreviations)) = known
        && *offset == at
    {
        return Ok(Arc::clone(abbreviations));
    }
    let mut table = *gimli::Section::reader(&dwarf.debug_abbrev);
    table.skip(at.0)?;
    let mut attributes = 0_u64;
    while table.read_uleb128()? != 0 {
        table.read_uleb128()?;
        table.read_u8()?;
        loop {
            attributes += 1;
            if attributes > MAX_ABBREVIATED {
                return Err(GiveUp);
            }
            let (name, form) = (table.read_uleb128()?, table.read_uleb128()?);
            if form == u64::from(dw::DW_FORM_implicit_const.0) {
                table.read_sleb128()?;
            }
            if name == 0 && form == 0 {
                break;
            }
        }
    }
    work.spend(attributes)?;
    let abbreviations = dwarf.abbreviations(header)?;
    *known = Some((at, Arc::clone(&abbreviations)));
    Ok(abbreviations)
}

/// Pays for the header of the unit's line program, which is read with the unit.
fn charge_line_header(
    dwarf: &Dwarf<Slice<'_>>,
    header: &UnitHeader<Slice<'_>>,
    abbreviations: &Abbreviations,
    work: &mut Work,
) -> Result<()> {
    let mut entries = header.entries_raw(abbreviations, None)?;
    let Some(root) = entries.read_abbreviation()? else {
        return Ok(());
    };
    for &specification in root.attributes() {
        let attribute = entries.read_attribute(specification)?;
        if let AttributeValue::DebugLineRef(offset) = attribute.value() {
            let mut program = *gimli::Section::reader(&dwarf.debug_line);
            program.skip(offset.0)?;
            let (_, format) = program.read_initial_length()?;
            if program.read_u16()? >= 5 {
                program.read_u16()?;
            }
            let bytes = program.read_length(format)? as u64;
            if bytes > MAX_LINE_HEADER {
                return Err(GiveUp);
            }
            work.spend(bytes)?;
        }
    }
    Ok(())
}

/// Finds each hit's row in the unit's line program.
fn rows(unit: &Unit<Slice<'_>>, hits: &mut [Hit], work: &mut Work) -> Result<()> {
    let Some(program) = unit.line_program.clone() else {
        return Ok(());
    };
    let bytes = program.header().unit_length() as u64;
    work.spend(bytes.saturating_mul(hits.len() as u64))?;
    let mut rows = program.rows();
    let mut before: Option<(u64, Raw)> = None;
    while let Some((_, row)) = rows.next_row()? {
        if let Some((start, raw)) = before {
            for hit in hits.iter_mut() {
                if hit.row.is_none() && (start..row.address()).contains(&hit.address) {
                    hit.row = Some(raw);
                }
            }
        }
        before = (!row.end_sequence()).then(|| {
            let column = match row.column() {
                gimli::ColumnType::LeftEdge => 0,
                gimli::ColumnType::Column(column) => column.get(),
            };
            let raw = Raw {
                file: row.file_index(),
                line: row.line().map_or(0, std::num::NonZero::get),
                column,
            };
            (row.address(), raw)
        });
    }
    Ok(())
}

/// Walks the unit's entries in order, an outer function before what was inlined into it.
fn functions(
    dwarf: &Dwarf<Slice<'_>>,
    unit: &Unit<Slice<'_>>,
    hits: &mut [Hit],
    work: &mut Work,
) -> Result<()> {
    let hits_count = hits.len() as u64;
    let mut entries = unit.entries_raw(None)?;
    while !entries.is_empty() {
        work.spend(1)?;
        let Some(abbreviation) = entries.read_abbreviation()? else {
            continue;
        };
        let attributes = abbreviation.attributes();
        work.spend(attributes.len() as u64)?;
        let inlined = match abbreviation.tag() {
            dw::DW_TAG_subprogram => false,
            dw::DW_TAG_inlined_subroutine => true,
            _ => {
                entries.skip_attributes(attributes)?;
                continue;
            }
        };
        let (mut low, mut high, mut size, mut ranges) = (None, None, None, None);
        let (mut origin, mut call) = (None, Raw::default());
        for &specification in attributes {
            let attribute = entries.read_attribute(specification)?;
            let number = || attribute.udata_value().unwrap_or(0);
            match attribute.name() {
                dw::DW_AT_low_pc => low = dwarf.attr_address(unit, attribute.value())?,
                dw::DW_AT_high_pc => match dwarf.attr_address(unit, attribute.value())? {
                    Some(address) => high = Some(address),
                    None => size = attribute.udata_value(),
                },
                dw::DW_AT_ranges => ranges = dwarf.attr_ranges(unit, attribute.value())?,
                dw::DW_AT_abstract_origin => origin = reference(&attribute.value()),
                dw::DW_AT_call_line => call.line = number(),
                dw::DW_AT_call_column => call.column = number(),
                dw::DW_AT_call_file => {
                    call.file = match attribute.value() {
                        AttributeValue::FileIndex(file) => file,
                        _ => number(),
                    };
                }
                _ => {}
            }
        }
        let mut touch = |start: u64, end: u64| {
            for hit in hits.iter_mut() {
                if !(start..end).contains(&hit.address) {
                    continue;
                }
                if !inlined {
                    hit.inlined.clear();
                } else if hit.inlined.len() < MAX_INLINED {
                    hit.inlined.push((origin, call));
                }
            }
        };
        if let Some(mut ranges) = ranges {
            while let Some(range) = ranges.next()? {
                work.spend(hits_count)?;
                touch(range.begin, range.end);
            }
        } else if let Some(low) = low {
            let end = high.or_else(|| low.checked_add(size?));
            touch(low, end.unwrap_or(low));
        }
    }
    Ok(())
}

/// A reference to an entry of the same unit.
fn reference(value: &AttributeValue<Slice<'_>>) -> Option<UnitOffset> {
    match value {
        AttributeValue::UnitRef(offset) => Some(*offset),
        _ => None,
    }
}

/// Turns what was found of a hit into names: from the innermost place outwards.
fn place(dwarf: &Dwarf<Slice<'_>>, unit: &Unit<Slice<'_>>, hit: &Hit) -> Option<Place> {
    let program = unit.line_program.as_ref()?;
    let located = |raw: Raw| location(dwarf, unit, program.header(), raw);
    let mut place = Place {
        inlined: Vec::new(),
        at: located(hit.row?)?,
    };
    for (function, call) in hit.inlined.iter().rev() {
        let Some(outer) = located(*call) else {
            break;
        };
        let name = function
            .and_then(|entry| name(dwarf, unit, entry))
            .unwrap_or_else(|| "an inlined function".to_owned());
        place
            .inlined
            .push((name, std::mem::replace(&mut place.at, outer)));
    }
    Some(place)
}

fn location(
    dwarf: &Dwarf<Slice<'_>>,
    unit: &Unit<Slice<'_>>,
    header: &LineProgramHeader<Slice<'_>>,
    raw: Raw,
) -> Option<Location> {
    let file = header.file(raw.file)?;
    let text = |value| {
        let text: Slice<'_> = dwarf.attr_string(unit, value).ok()?;
        Some(text.to_string_lossy().into_owned())
    };
    let mut path = text(file.path_name())?;
    // Directory 0 is the one that the compiler ran in.
    if file.directory_index() != 0
        && !path.starts_with('/')
        && let Some(directory) = file.directory(header).and_then(text)
    {
        path = format!("{directory}/{path}");
    }
    Some(Location {
        file: path::shown(&path),
        line: raw.line,
        column: raw.column,
    })
}

/// The name of a function, by its entry or one that the entry refers to.
fn name(dwarf: &Dwarf<Slice<'_>>, unit: &Unit<Slice<'_>>, entry: UnitOffset) -> Option<String> {
    let mut at = Some(entry);
    for _ in 0..MAX_HOPS {
        let entry = unit.entry(at?).ok()?;
        if let Some(value) = entry.attr_value(dw::DW_AT_name) {
            let name: Slice<'_> = dwarf.attr_string(unit, value).ok()?;
            let name: String = name.to_string_lossy().chars().take(LONGEST_NAME).collect();
            return Some(name.escape_debug().to_string());
        }
        at = [dw::DW_AT_specification, dw::DW_AT_abstract_origin]
            .into_iter()
            .find_map(|which| reference(&entry.attr_value(which)?));
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    /// A unit over the addresses 0 to 100, all of them line 1 of `a.c`, whose inlined functions lie within each
    /// other, `depth` of them.
    fn nested(depth: usize) -> DwarfSections<Vec<u8>> {
        let abbreviations = [
            // A unit with children: low_pc, high_pc, stmt_list.
            &[1, 0x11, 1, 0x11, 0x01, 0x12, 0x06, 0x10, 0x17, 0, 0][..],
            // An inlined function with children: low_pc, high_pc.
            &[2, 0x1d, 1, 0x11, 0x01, 0x12, 0x06, 0, 0],
            &[0],
        ]
        .concat();
        let range = [0, 0, 0, 0, 100, 0, 0, 0];
        // Version 4, abbreviations at 0, addresses of 4 bytes; then the unit's own entry.
        let mut entries = vec![4, 0, 0, 0, 0, 0, 4, 1];
        entries.extend(range);
        entries.extend([0; 4]);
        for _ in 0..depth {
            entries.push(2);
            entries.extend(range);
        }
        let header = [
            &[1, 1, 1, 0xfb, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1][..],
            b"\0a.c\0\0\0\0\0",
        ]
        .concat();
        let program = [0, 5, 2, 0, 0, 0, 0, 1, 2, 100, 0, 1, 1];
        let mut lines = vec![4, 0];
        lines.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
        lines.extend(header);
        lines.extend(program);
        let sized = |bytes: Vec<u8>| {
            let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
            [&length[..], &bytes].concat()
        };
        let (entries, lines) = (sized(entries), sized(lines));
        DwarfSections::load(|id| {
            Ok::<_, std::convert::Infallible>(match id {
                gimli::SectionId::DebugAbbrev => abbreviations.clone(),
                gimli::SectionId::DebugInfo => entries.clone(),
                gimli::SectionId::DebugLine => lines.clone(),
                _ => Vec::new(),
            })
        })
        .unwrap()
    }

    #[test]
    fn an_address_has_its_line_and_what_was_inlined_there() {
        let found = places(&nested(0), &[50], &mut Work::new(10_000));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.at.to_string(), "a.c:1");
        assert!(places(&nested(0), &[100], &mut Work::new(10_000)).is_empty());
    }

    #[test]
    fn a_million_functions_within_each_other_take_neither_the_stack_nor_for_ever() {
        let bomb = nested(1_000_000);
        let found = places(&bomb, &[50], &mut Work::new(super::super::STEP_WORK));
        // The places of such calls name no file, so the line alone is told.
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.at.to_string(), "a.c:1");
        // With less to spend the walk ends early, and the line is still told.
        let found = places(&bomb, &[50], &mut Work::new(5_000));
        assert_eq!(found.len(), 1);
    }
}
