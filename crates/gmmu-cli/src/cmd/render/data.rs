//! What a picture is made of. Rows are short arrays, as there may be tens of thousands.

use std::collections::{BTreeSet, HashMap};

use gmmu::addr::TableAddr;
use gmmu::format::{EntryKind, Format};
use gmmu::walk::{Is, WalkError};
use schemars::JsonSchema;
use serde::Serialize;

use crate::check::{Finding, check};
use crate::console::Terminal;
use crate::entry::{fields::Fields, flags};
use crate::exit::Failure;
use crate::progress::Progress;
use crate::ranges::Mapped;
use crate::scan::{Barren, Scan, Space};
use crate::source::Source;
use crate::survey::{Seen, survey};

/// Ranges above which only tables are drawn.
pub(super) const RANGES: usize = 20_000;
/// The same with `--full`: beyond it no browser would follow.
const RANGES_FULL: usize = 1_000_000;
/// Tables that are drawn.
const TABLES: usize = 20_000;
const TABLES_FULL: usize = 1_000_000;
/// Findings that are marked.
const FINDINGS: usize = 500;

/// A picture as data, read by the script of the page.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct Picture {
    pub(super) mmu: &'static str,
    pub(super) root: String,
    va_bits: u32,
    pub(super) tables: Vec<TableRow>,
    /// None where `summary` is set.
    pub(super) ranges: Vec<RangeRow>,
    /// Which flags occur together.
    flags: Vec<String>,
    pub(super) findings: Vec<Finding>,
    /// Fields of the entries that occur: name, highest and lowest bit, by the aperture's code.
    fields: [Vec<FieldRow>; 4],
    /// What the word of a leaf grows by from one page to the next, by the page's shift.
    steps: Vec<(u32, String)>,
    pub(super) summary: bool,
    pub(super) truncated: bool,
}

/// Name of the level, shift of an entry, address, first address translated, number of the parent (-1 for the top),
/// entries used, of how many, leaves in it and below.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub(super) struct TableRow(
    pub(super) &'static str,
    pub(super) u32,
    pub(super) String,
    pub(super) String,
    pub(super) i64,
    pub(super) u64,
    pub(super) u64,
    pub(super) u64,
);

/// First address, number of pages, shift of a page, word of the first entry, number of its flags (-1: sparse).
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub(super) struct RangeRow(pub(super) String, pub(super) u64, pub(super) u32, pub(super) String, i64);

/// A field: name, highest and lowest bit.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
struct FieldRow(&'static str, u32, u32);

/// Collects the data of a picture.
///
/// # Errors
/// Those of the source.
pub(super) fn collect<F: Format>(source: &mut Source, terminal: Terminal, full: bool) -> Result<Picture, Failure> {
    let (tables, cut_tables) = tables::<F>(source, terminal, if full { TABLES_FULL } else { TABLES })?;
    let most = if full { RANGES_FULL } else { RANGES };
    let (ranges, flags, more) = ranges::<F>(source, most, terminal)?;
    let end = source.vram_bytes();
    let found = check::<F>(source, terminal, end)?;
    let mut findings = found.into_list();
    let cut_findings = findings.len() > FINDINGS;
    findings.truncate(FINDINGS);
    let summary = more && !full;
    let shifts: BTreeSet<u32> = F::LEVELS.iter().filter_map(|level| level.leaf).map(|page| page.shift()).collect();
    let steps = shifts.into_iter().chain([12, 16]).map(|shift| (shift, hex(F::leaf_step(1 << shift))));
    Ok(Picture {
        mmu: F::VERSION.name(),
        root: source.root.to_string(),
        va_bits: F::VA_BITS,
        tables,
        ranges: if summary { Vec::new() } else { ranges },
        flags,
        findings,
        fields: [0, 1, 2, 3].map(fields_of::<F>),
        steps: steps.collect(),
        summary,
        truncated: cut_tables || cut_findings || more && full,
    })
}

fn hex(value: u64) -> String {
    format!("{value:x}")
}

/// The fields of a leaf in the memory of this code.
fn fields_of<F: Format>(aperture: u64) -> Vec<FieldRow> {
    let fields = Fields::of::<F>(EntryKind::Pte, aperture << 1 | 1);
    fields.0.iter().map(|value| FieldRow(value.field.name, value.field.range().0, value.field.range().1)).collect()
}

fn tables<F: Format>(source: &mut Source, terminal: Terminal, most: usize) -> Result<(Vec<TableRow>, bool), Failure> {
    let mut rows: Vec<TableRow> = Vec::new();
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut places: HashMap<(TableAddr, u32), usize> = HashMap::new();
    let mut left_out = false;
    let cut = survey::<F>(source, terminal, |_, seen| {
        match seen {
            Seen::Table { table, again } => {
                let parent = open.iter().rev().find_map(|number| *number).and_then(|number| i64::try_from(number).ok());
                let number = rows.len();
                let kept = number < most;
                left_out |= !kept;
                if kept {
                    let level = table.level;
                    let (at, va, parent) = (table.at.to_string(), hex(table.va), parent.unwrap_or(-1));
                    rows.push(TableRow(level.name, level.shift, at, va, parent, 0, level.entries(), 0));
                }
                if again {
                    // Its numbers are those of its first place.
                    let first = places.get(&(table.at, table.level.shift)).and_then(|&first| rows.get(first)).cloned();
                    if let (Some(first), Some(row), true) = (first, rows.last_mut(), kept) {
                        (row.5, row.7) = (first.5, first.7);
                    }
                } else {
                    places.insert((table.at, table.level.shift), number);
                    open.push(kept.then_some(number));
                }
            }
            Seen::End { used, leaves, .. } => {
                if let Some(row) = open.pop().flatten().and_then(|number| rows.get_mut(number)) {
                    (row.5, row.7) = (used, leaves);
                }
            }
            Seen::Entry { .. } => {}
        }
        Ok(())
    })?;
    Ok((rows, cut || left_out))
}

/// The ranges, the flags that occur, and whether there are more than `most`.
fn ranges<F: Format>(
    source: &mut Source,
    most: usize,
    terminal: Terminal,
) -> Result<(Vec<RangeRow>, Vec<String>, bool), Failure> {
    let space = Space { root: source.root, sizes: source.sizes, tables_max: source.tables_max() };
    let mut barren = Barren::default();
    let scan = Scan::<F>::new(space, 0..source.va_end(), &mut barren);
    let mut scan = scan.map_err(|error| source.failure(error))?;
    let (mut rows, mut names): (Vec<RangeRow>, Vec<String>) = (Vec::new(), Vec::new());
    let mut open: Option<Mapped> = None;
    let mut progress = Progress::new(terminal, "walking", None);
    loop {
        progress.advance(1);
        let (va, step) = match scan.next(&mut source.memory) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok((rows, names, false)),
            Err(WalkError::TooManyTables { .. }) => return Ok((rows, names, true)),
            Err(error) => return Err(source.failure(error)),
        };
        let Some(next) = Mapped::of(va, &step) else { continue };
        if let (Some(open), Some(row)) = (&mut open, rows.last_mut())
            && open.goes_on_with(&next)
        {
            open.bytes += next.bytes;
            row.1 += 1;
            continue;
        }
        if rows.len() >= most {
            return Ok((rows, names, true));
        }
        let flags = match &step.is {
            Is::Leaf(leaf) => {
                let text = flags(leaf).join(" ");
                let known = names.iter().position(|name| *name == text);
                let number = known.unwrap_or_else(|| {
                    names.push(text);
                    names.len() - 1
                });
                i64::try_from(number).unwrap_or(0)
            }
            _ => -1,
        };
        let [raw, _] = step.raw;
        rows.push(RangeRow(hex(va), 1, step.level.shift, hex(raw), flags));
        open = Some(next);
    }
}
