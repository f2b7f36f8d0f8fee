//! The books' side of a job: what it holds, and which jobs it waits for.

use super::change::Change;
use super::job::{Progress, State};
use super::plan::Holdings;
use super::rebind::{share, Touched};
use crate::storage::{List, Shared};
use crate::va::windows::{overlapping, Windows};
use core::ops::Range;

/// The books' side of a job.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) progress: Shared<Progress>,
    /// What it does to the records; the list of what is mapped afterwards is empty once that is entered.
    pub(super) change: Change,
    /// All that was sparse before, where that changes.
    pub(super) sparse: Windows,
    /// The evictable mappings that it changes.
    pub(super) touched: List<Touched>,
    pub(super) held: Holdings,
}

impl Record {
    /// A record of nothing yet.
    pub(super) fn new(progress: Shared<Progress>) -> Self {
        let (change, held) = (Change::default(), Holdings::default());
        Self { number: 0, progress, change, sparse: Windows::new(), touched: List::new(), held }
    }

    /// Forgets everything; the room of the lists stays.
    pub(super) fn clear(&mut self) {
        self.change.clear();
        self.sparse.clear();
        self.touched.clear();
        self.held.clear();
    }

    /// Bytes of heap that its lists hold.
    pub(super) fn footprint(&self) -> usize {
        self.change.footprint() + self.sparse.footprint() + self.held.footprint()
    }

    /// Room in the records for taking the job back: for pieces, and for what is sparse.
    pub(super) fn room(&self) -> (usize, usize) {
        let Change { background, old, parts, .. } = &self.change;
        let sparse = background.iter().map(|range| self.sparse.overlapping(range.clone()).count() + 2).sum();
        (old.len() + 2 * parts.len() + 2, sparse)
    }

    /// The parts of the addresses that it changes.
    pub(super) fn parts(&self) -> &[Range<u64>] {
        parts(&self.change.range, &self.change.parts)
    }

    pub(super) fn state(&self) -> State {
        self.progress.get()
    }

    /// Whether this job must not be executed before `earlier`: owners of a domain wait for everybody, everybody waits
    /// for owners, and guests for guests on the same pages. What can be zapped has one list of entries: there, everybody
    /// waits for everybody.
    pub(super) fn waits_for(&self, earlier: &Self) -> bool {
        // What is owned are whole domains.
        let meets = |owner: &Self, other: &Self| {
            owner.held.owned.iter().any(|owned| overlapping(other.parts(), owned.clone()).next().is_some())
        };
        let zapped_alike = share(&self.touched, &earlier.touched);
        zapped_alike || meets(earlier, self) || meets(self, earlier) || self.touches(earlier)
    }

    /// The end of the last addresses in `range` that nobody else gets before this job is committed. Where it was lost,
    /// nothing that needs its domains can ever be executed.
    pub(super) fn keeps(&self, range: &Range<u64>) -> Option<u64> {
        let lost: &[Range<u64>] = if self.state() == State::Lost { &self.held.owned } else { &[] };
        let parts = self.parts();
        let rest = parts.get(parts.partition_point(|part| part.end <= range.start)..).unwrap_or_default();
        let parts = rest.iter().take_while(|part| part.start < range.end);
        let lost = lost.iter().filter(|owned| owned.start < range.end && range.start < owned.end);
        parts.chain(lost).map(|kept| kept.end).max()
    }

    /// How many stretches of addresses [`keeps`](Self::keeps) looks at, at most.
    pub(super) fn stretches(&self) -> usize {
        self.change.parts.len() + self.held.owned.len() + 1
    }

    /// Whether both change a page.
    fn touches(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.change.range, &other.change.range);
        if ours.start >= theirs.end || theirs.start >= ours.end {
            return false;
        }
        other.parts().iter().any(|part| overlapping(self.parts(), part.clone()).next().is_some())
    }

    /// Whether later jobs still have to look at it.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state(), State::Prepared | State::Executing | State::Abandoned | State::Lost)
    }
}

/// The parts of a job that has `list`, or one part that is all of it.
pub(super) fn parts<'l>(range: &'l Range<u64>, list: &'l [Range<u64>]) -> &'l [Range<u64>] {
    if list.is_empty() {
        core::slice::from_ref(range)
    } else {
        list
    }
}
