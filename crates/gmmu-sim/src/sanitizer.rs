//! The sanitizer: what a driver under test did wrong, as data.
//!
//! # The rules
//! An entry or a table is *live* when it can be reached from a root that the model knows: one named by
//! [`note_root`](crate::Gpu::note_root), by an access, by an invalidate or by a bound instance block.
//!
//! * [`Rule::StaleLeaf`]: an access used a cached leaf entry (an invalid one too) that memory no longer holds, and a
//!   walk through memory as it is now gives another result: other memory, size, kind or flags, or a fault in one case
//!   only. Two different faults are not a finding.
//! * [`Rule::StaleDirectory`]: the same, where the first outdated word on the path is a directory entry.
//! * [`Rule::TableFreedReachable`]: memory was given back ([`note_table_freed`](crate::Gpu::note_table_freed)) or taken
//!   ([`note_table_taken`](crate::Gpu::note_table_taken)) while it held a live table, while a cache held an entry read
//!   from it, or while a cached directory entry pointed into it; or an engine or BAR1 wrote data into a live table.
//!   A root that is given back is live only while a BAR is bound to it.
//! * [`Rule::PublishedUninitialised`]: a table became reachable, and a part of it that its level uses was not written
//!   since `note_table_taken`. Tables that were never noted as taken are not judged.
//! * [`Rule::ValidToValid`]: a store changed the page size with which an address translates (sparse entries translate,
//!   with the size that they cover), and since it translated with the former size no invalidate was completed that
//!   covers the space, the level of the former entry, and the caches that the space is used through. An address
//!   translates by what is reachable: a 4K entry below a 64K entry that is not zero does not count, nor one below a
//!   large leaf. Where whole directory tables are exchanged for others, only large leaves are compared with what was
//!   and is below.
//! * [`Rule::InvalidateWhileRunning`]: an invalidate was triggered while an earlier one ran. It is ignored.
//! * [`Rule::CachedSysTable`]: an entry of a live directory points to a table in system memory, and is not volatile
//!   (v2: `VOL`, v3: an uncached `PCF`). The GPU's L2 may then keep words of the table that no invalidate drops. Judged
//!   when the entry is stored, or its directory becomes live; of several entries in one store the first is reported.
//! * [`Rule::CachedNonCoherentPage`]: a leaf entry of a live table maps non-coherent system memory, and is not volatile.
//!   Judged like the rule before.
//! * [`Rule::BarTableInSysMem`]: a BAR was bound to a root in system memory, or an access through a BAR read an entry in
//!   system memory: a read of the CPU that makes the GPU read from the CPU can lock up the bus. Said once per root.
//! * [`Rule::PublishedUnordered`]: a table in system memory became reachable, and some of its words were written for the
//!   first time since `note_table_taken` by the CPU, with no ordering point
//!   ([`TableMemory::order`](gmmu::device::TableMemory::order)) since: the MMU may find the table before its entries.
//! * [`Rule::UndrainedStores`]: an invalidate was triggered while stores of the CPU to system memory had not been waited
//!   for ([`TableMemory::drain`](gmmu::device::TableMemory::drain)): the MMU may read, and keep, what was there before.
//!
//! Tables are known by memory and address: system memory is one memory, coherent or not.

use gmmu::addr::TableAddr;
use std::fmt;

/// Which rule was broken. Rules have names that never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// `stale-leaf`
    StaleLeaf,
    /// `stale-directory`
    StaleDirectory,
    /// `table-freed-reachable`
    TableFreedReachable,
    /// `published-uninitialised`
    PublishedUninitialised,
    /// `valid-to-valid`
    ValidToValid,
    /// `invalidate-while-running`
    InvalidateWhileRunning,
    /// `cached-sys-table`
    CachedSysTable,
    /// `cached-noncoherent-page`
    CachedNonCoherentPage,
    /// `bar-table-in-sysmem`
    BarTableInSysMem,
    /// `published-unordered`
    PublishedUnordered,
    /// `undrained-stores`
    UndrainedStores,
}

impl Rule {
    /// The stable name.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::StaleLeaf => "stale-leaf",
            Self::StaleDirectory => "stale-directory",
            Self::TableFreedReachable => "table-freed-reachable",
            Self::PublishedUninitialised => "published-uninitialised",
            Self::ValidToValid => "valid-to-valid",
            Self::InvalidateWhileRunning => "invalidate-while-running",
            Self::CachedSysTable => "cached-sys-table",
            Self::CachedNonCoherentPage => "cached-noncoherent-page",
            Self::BarTableInSysMem => "bar-table-in-sysmem",
            Self::PublishedUnordered => "published-unordered",
            Self::UndrainedStores => "undrained-stores",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Wrong, but nothing was hurt.
    Warning,
    /// Wrong, and on hardware memory may have been corrupted.
    Error,
}

impl Severity {
    /// `note`, `warning` or `error`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One broken rule. What does not apply is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// How bad it is.
    pub severity: Severity,
    /// The operation that broke it: accesses of the bus and of the MMU and the driver's notes count as one each, a run
    /// of N words as N.
    pub op: u64,
    /// The operation in which the cache of the outdated entry first looked at its table.
    pub cached_op: Option<u64>,
    /// The operation of the latest change of a cached entry in its table.
    pub changed_op: Option<u64>,
    /// The virtual address; for a table the lowest that it serves.
    pub va: Option<u64>,
    /// The entry or table.
    pub entry: Option<TableAddr>,
    /// The word that memory holds now.
    pub raw: Option<u64>,
    /// The word that a cache holds, or the word before the store.
    pub cached: Option<u64>,
    /// What happened, as a sentence without a full stop.
    pub what: &'static str,
}

impl Finding {
    pub(crate) const fn new(rule: Rule, op: u64, what: &'static str) -> Self {
        Self {
            rule,
            severity: Severity::Error,
            op,
            cached_op: None,
            changed_op: None,
            va: None,
            entry: None,
            raw: None,
            cached: None,
            what,
        }
    }

    /// The finding in words, one line.
    #[must_use]
    pub fn says(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] op {}: {}", self.severity.name(), self.rule, self.op, self.what)?;
        if let Some(va) = self.va {
            write!(f, "; va {va:#014x}")?;
        }
        if let Some(entry) = self.entry {
            write!(f, "; entry {entry}")?;
        }
        if let Some(raw) = self.raw {
            write!(f, "; memory holds {raw:#018x}")?;
        }
        if let Some(cached) = self.cached {
            let what = if self.cached_op.is_some() { "the cache" } else { "before" };
            write!(f, "; {what} {cached:#018x}")?;
        }
        if let Some(op) = self.cached_op {
            write!(f, "; cached since op {op}")?;
        }
        if let Some(op) = self.changed_op {
            write!(f, ", changed at op {op}, no covering invalidate since")?;
        }
        Ok(())
    }
}

/// The findings so far, a bounded number of them.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
    pub(crate) suppressed: u64,
}

impl Report {
    /// More findings are counted, not kept.
    const MAX: usize = 1024;

    pub(crate) fn add(&mut self, finding: Finding) {
        if self.findings.len() < Self::MAX {
            self.findings.push(finding);
        } else {
            self.suppressed += 1;
        }
    }
}
