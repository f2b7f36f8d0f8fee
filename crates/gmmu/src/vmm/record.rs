//! The books' side of a job: what it holds, and which jobs it waits for.

use super::change::Change;
use super::job::{Progress, State};
use super::piece::Piece;
use super::plan::Holdings;
use super::rebind::{share, Touched};
use crate::storage::{List, Shared};
use crate::va::windows::{overlapping, Windows};
use core::ops::Range;

/// How the records were before a job.
#[derive(Debug)]
pub(super) struct Before {
    /// Where the job changes only parts of its range: these.
    pub(super) parts: List<Range<u64>>,
    /// What was mapped there.
    pub(super) pieces: List<(Range<u64>, Piece)>,
    /// Whether that stayed as it was.
    pub(super) pages_stay: bool,
    /// Where something becomes sparse or ceases to be, and all that was sparse before.
    pub(super) background: List<Range<u64>>,
    pub(super) sparse: Windows,
    /// Whether the job wrote all tables anew: without it there are none.
    pub(super) restores: bool,
    /// The evictable mappings that it changes.
    pub(super) touched: List<Touched>,
}

impl Before {
    pub(super) fn new(change: Change, sparse: Option<Windows>, touched: List<Touched>) -> Self {
        let Change { parts, old: pieces, background, pages_stay, restores, .. } = change;
        let background = if restores { List::new() } else { background };
        Self { parts, pieces, pages_stay, background, sparse: sparse.unwrap_or_default(), restores, touched }
    }

    /// Room in the records for taking the job back: for pieces, and for what is sparse.
    pub(super) fn room(&self) -> (usize, usize) {
        let sparse = self.background.iter().map(|range| self.sparse.overlapping(range.clone()).count() + 2).sum();
        (self.pieces.len() + 2 * self.parts.len() + 2, sparse)
    }
}

/// The books' side of a job.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) progress: Shared<Progress>,
    pub(super) range: Range<u64>,
    pub(super) before: Before,
    pub(super) held: Holdings,
}

impl Record {
    pub(super) fn state(&self) -> State {
        self.progress.get()
    }

    /// Whether this job must not be executed before `earlier`: owners of a domain wait for everybody, everybody waits
    /// for owners, and guests for guests on the same pages. What can be zapped has one list of entries: there, everybody
    /// waits for everybody.
    pub(super) fn waits_for(&self, earlier: &Self) -> bool {
        // What is owned are whole domains.
        let meets = |owner: &Self, other: &Self| {
            let parts = parts(&other.range, &other.before.parts);
            owner.held.owned.iter().any(|owned| overlapping(parts, owned.clone()).next().is_some())
        };
        let zapped_alike = share(&self.before.touched, &earlier.before.touched);
        zapped_alike || meets(earlier, self) || meets(self, earlier) || self.touches(earlier)
    }

    /// The end of the last addresses in `range` that nobody else gets before this job is committed. Where it was lost,
    /// nothing that needs its domains can ever be executed.
    pub(super) fn keeps(&self, range: &Range<u64>) -> Option<u64> {
        let lost: &[Range<u64>] = if self.state() == State::Lost { &self.held.owned } else { &[] };
        let parts = parts(&self.range, &self.before.parts);
        let rest = parts.get(parts.partition_point(|part| part.end <= range.start)..).unwrap_or_default();
        let parts = rest.iter().take_while(|part| part.start < range.end);
        let lost = lost.iter().filter(|owned| owned.start < range.end && range.start < owned.end);
        parts.chain(lost).map(|kept| kept.end).max()
    }

    /// How many stretches of addresses [`keeps`](Self::keeps) looks at, at most.
    pub(super) fn stretches(&self) -> usize {
        self.before.parts.len() + self.held.owned.len() + 1
    }

    /// Whether both change a page.
    fn touches(&self, other: &Self) -> bool {
        if self.range.start >= other.range.end || other.range.start >= self.range.end {
            return false;
        }
        let mine = parts(&self.range, &self.before.parts);
        let mut others = parts(&other.range, &other.before.parts).iter();
        others.any(|part| overlapping(mine, part.clone()).next().is_some())
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
