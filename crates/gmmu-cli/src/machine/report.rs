//! What a model run cost and what the sanitizer said, as it is printed.

use std::ops::Range;

use gmmu::addr::TableAddr;
use gmmu::bar1::{Owned, Usage};
use gmmu_sim::{Counts, Finding};
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{BAD, Console, GOOD};
use crate::exit::Failure;
use crate::notation::{Address, Counted, Size, Text, Word};
use crate::script::Occupancy;

/// Accesses that something cost.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct CountsView {
    /// Reads of BAR0.
    pub reads: u64,
    /// Writes of BAR0.
    pub writes: u64,
    /// Moves of the PRAMIN window.
    pub window_moves: u64,
    /// Invalidates.
    pub invalidates: u64,
    /// 64-bit stores of tables to system memory; left out where there were none.
    #[schemars(default)]
    #[serde(skip_serializing_if = "is_zero")]
    pub sys_writes: u64,
    /// 64-bit loads of tables from system memory; left out where there were none.
    #[schemars(default)]
    #[serde(skip_serializing_if = "is_zero")]
    pub sys_reads: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl CountsView {
    /// All that was written, in words: writes of BAR0, and stores to system memory where there were any.
    #[must_use]
    pub fn written(&self) -> String {
        let writes = Counted(self.writes, "write", "writes");
        match self.sys_writes {
            0 => writes.to_string(),
            stores => format!("{writes} and {}", Counted(stores, "store to system memory", "stores to system memory")),
        }
    }
}

impl From<Counts> for CountsView {
    fn from(counts: Counts) -> Self {
        let Counts { reads, writes, window_moves, invalidates, sys_writes, sys_reads, .. } = counts;
        Self { reads, writes, window_moves, invalidates, sys_writes, sys_reads }
    }
}

/// How full BAR1 is, and of what.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Bar1View {
    /// The space that it goes through.
    pub space: String,
    /// How large the aperture is.
    pub bytes: u64,
    /// How much of it is mapped.
    pub taken: u64,
    /// And how much is not.
    pub free: u64,
    /// The most that can be mapped in one piece.
    pub largest_hole: u64,
    /// Who has what, where that is known, by its place.
    pub mappings: Vec<Bar1MappingView>,
}

/// A mapping of the CPU's.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Bar1MappingView {
    name: String,
    offset: Address,
    bytes: u64,
    read_only: bool,
    poisoned: bool,
}

impl From<Occupancy> for Bar1View {
    fn from(Occupancy { space, usage, mappings }: Occupancy) -> Self {
        let mapping = |(name, owned): (String, Owned)| Bar1MappingView {
            name,
            offset: Address(owned.range.start),
            bytes: owned.range.end - owned.range.start,
            read_only: owned.read_only,
            poisoned: owned.poisoned,
        };
        let Usage { bytes, taken, largest_hole, .. } = usage;
        Self {
            space,
            bytes,
            taken,
            free: bytes.saturating_sub(taken),
            largest_hole,
            mappings: mappings.into_iter().map(mapping).collect(),
        }
    }
}

impl Bar1MappingView {
    /// A mapping of which nothing else is known.
    #[must_use]
    pub fn nameless(range: Range<u64>) -> Self {
        let bytes = range.end - range.start;
        Self { name: String::new(), offset: Address(range.start), bytes, read_only: false, poisoned: false }
    }

    /// In one line.
    #[must_use]
    pub fn says(&self) -> String {
        let Self { name, offset, bytes, read_only, poisoned } = self;
        let what = [(*read_only, ", read-only"), (*poisoned, ", kept because the device failed")];
        let what: String = what.into_iter().filter(|(is, _)| *is).map(|(_, what)| what).collect();
        let size = Size(*bytes).to_string();
        format!("{offset}  {size:>8}  {}{what}", if name.is_empty() { "mapped" } else { name })
    }
}

impl Bar1View {
    /// In one line.
    #[must_use]
    pub fn says(&self) -> String {
        let Self { bytes, taken, free, largest_hole, mappings, .. } = self;
        let (taken, bytes, free, hole) = (Size(*taken), Size(*bytes), Size(*free), Size(*largest_hole));
        let mappings = Counted(mappings.len() as u64, "mapping", "mappings");
        format!("{taken} of {bytes} in {mappings}, {free} free, the largest hole {hole}")
    }
}

/// An address space and where its tables begin.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct SpaceView {
    /// Its name.
    pub name: String,
    /// Its format.
    pub mmu: &'static str,
    /// Its top table.
    pub root: Text<TableAddr>,
}

/// One finding of the sanitizer.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct FindingView {
    rule: &'static str,
    severity: &'static str,
    va: Option<Address>,
    entry: Option<Text<TableAddr>>,
    raw: Vec<Word>,
    says: String,
}

impl From<&Finding> for FindingView {
    fn from(finding: &Finding) -> Self {
        Self {
            rule: finding.rule.id(),
            severity: finding.severity.name(),
            va: finding.va.map(Address),
            entry: finding.entry.map(Text),
            raw: finding.raw.into_iter().map(Word).collect(),
            says: finding.says(),
        }
    }
}

impl FindingView {
    /// Whether the finding makes a run fail.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.severity != "note"
    }

    /// Prints what was found, or that nothing was.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn list(findings: &[Self], console: &mut Console<'_>) -> Result<(), Failure> {
        if findings.is_empty() {
            return console.line(format_args!("{GOOD}the sanitizer found nothing{GOOD:#}"));
        }
        for finding in findings {
            console.paragraph("", 2, BAD, &finding.says)?;
        }
        Ok(())
    }
}
