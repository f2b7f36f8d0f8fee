//! What a model run cost and what the sanitizer said, as it is printed.

use gmmu::addr::TableAddr;
use gmmu_sim::{Counts, Finding};
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{BAD, Console, GOOD};
use crate::exit::Failure;
use crate::notation::{Address, Counted, Text, Word};

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
            console.line(format_args!("{BAD}{}{BAD:#}", finding.says))?;
        }
        Ok(())
    }
}
