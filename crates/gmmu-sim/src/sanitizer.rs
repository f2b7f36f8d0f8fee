//! The sanitizer: what a driver under test did wrong, as data.
//!
//! [`Rule::ALL`] is the table of the rules: what breaks each, and what should have happened. Here is what their
//! sentences leave out.
//!
//! * An entry or a table is *live* when it can be reached from a root that the model knows: one named by
//!   [`note_root`](crate::Gpu::note_root), by an access, by an invalidate or by a bound instance block. A root that is
//!   given back is live only while a BAR is bound to it; one that nothing but invalidates has named, until one finds its
//!   top table empty. Entries are judged when they are stored, or become live; of
//!   several that are wrong in one store the first is reported.
//! * A *stale hit* is an access that used a cached entry (an invalid one too) where a walk through memory as it is now
//!   gives another result: other memory, size, kind or flags, or a fault in one case only. Two different faults are not a
//!   finding. Its rule says what was wrong with the invalidate that came nearest to covering the entry; `stale-leaf`,
//!   `stale-directory` and `stale-invalid` where there was none.
//! * An invalidate *covers* an entry of its space, up to its level, in the caches that it reaches, if the store that
//!   changed the entry was waited for before the trigger, and, where the entry was removed or tightened, if it waits for
//!   all units. What it does not cover stays in the caches.
//! * Stores of the CPU to system memory are waited for by [`drain`](gmmu::device::TableMemory::drain), those through the
//!   window by a read through it, those through BAR2 by the flush register, which does for the window too.
//! * An invalidate that names another space is blamed only if it found nothing outdated there.
//! * `valid-to-valid`: sparse entries translate, with the size that they cover. An address translates by what is
//!   reachable: a 4K entry below a 64K entry that is not zero does not count, nor one below a large leaf. Where whole
//!   directory tables are exchanged for others, only large leaves are compared with what was and is below.
//! * `published-uninitialised`: tables that were never noted as taken are not judged.
//! * `bar-table-in-sysmem` is said once per root, `window-moving` once per move.
//!
//! Tables are known by memory and address: system memory is one memory, coherent or not.

pub use crate::rules::{Rule, RuleInfo, Severity};

use gmmu::addr::TableAddr;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// Something that happened to what a finding tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `cached`, `changed`, `cleared`, `invalidated`, `freed` or `found`.
    pub what: &'static str,
    /// The operation.
    pub op: u64,
    /// The caller's [label](crate::Gpu::label) at that time, if it is still known.
    pub label: Option<Arc<str>>,
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
    /// The operation that completed the invalidate which came nearest to covering the change.
    pub missed_op: Option<u64>,
    /// The operation in which the driver gave the table's memory back.
    pub freed_op: Option<u64>,
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
    /// The operations above, oldest first, with the caller's labels.
    pub story: Vec<Event>,
}

impl Finding {
    pub(crate) const fn new(rule: Rule, op: u64, what: &'static str) -> Self {
        Self {
            rule,
            severity: rule.severity(),
            op,
            cached_op: None,
            changed_op: None,
            missed_op: None,
            freed_op: None,
            va: None,
            entry: None,
            raw: None,
            cached: None,
            what,
            story: Vec::new(),
        }
    }

    /// Whether an access was translated by an outdated entry. While a change is under way that is no fault of the
    /// driver: its invalidate is still to come.
    #[must_use]
    pub const fn is_stale_hit(&self) -> bool {
        self.cached_op.is_some()
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
            let what = if self.is_stale_hit() { "the cache" } else { "before" };
            write!(f, "; {what} {cached:#018x}")?;
        }
        let mut before = "; ";
        for Event { what, op, label } in self.story.iter().filter(|event| event.what != "found") {
            write!(f, "{before}{what} at op {op}")?;
            if let Some(label) = label {
                write!(f, " ({label})")?;
            }
            before = ", ";
        }
        if self.is_stale_hit() {
            write!(f, ", no covering invalidate since")?;
        }
        Ok(())
    }
}

/// The findings so far and the labels of the latest operations, a bounded number of each.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
    pub(crate) suppressed: u64,
    /// (first operation, label), ascending.
    labels: VecDeque<(u64, Arc<str>)>,
}

impl Report {
    /// More findings are counted, not kept.
    const MAX: usize = 1024;
    /// More labels are forgotten, the oldest first.
    const LABELS: usize = 4096;

    pub(crate) fn add(&mut self, mut finding: Finding) {
        if self.findings.len() >= Self::MAX {
            self.suppressed += 1;
            return;
        }
        let changed = if finding.raw == Some(0) { "cleared" } else { "changed" };
        let events = [
            ("cached", finding.cached_op),
            (changed, finding.changed_op),
            ("invalidated", finding.missed_op),
            ("freed", finding.freed_op),
            ("found", Some(finding.op)),
        ];
        let happened = events.into_iter().filter_map(|(what, op)| Some((what, op?)));
        finding.story = happened.map(|(what, op)| Event { what, op, label: self.label_of(op) }).collect();
        finding.story.sort_by_key(|event| event.op);
        self.findings.push(finding);
    }

    /// Operations from `op` on have this label.
    pub(crate) fn label(&mut self, op: u64, label: &str) {
        if self.labels.len() >= Self::LABELS {
            self.labels.pop_front();
        }
        self.labels.push_back((op, label.into()));
    }

    fn label_of(&self, op: u64) -> Option<Arc<str>> {
        let after = self.labels.partition_point(|&(from, _)| from <= op);
        self.labels.get(after.checked_sub(1)?).map(|(_, label)| label.clone())
    }
}
