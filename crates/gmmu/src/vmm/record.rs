//! The books' side of a job: what it holds, and which jobs it waits for.

use super::job::{Progress, State};
use super::piece::Piece;
use super::plan::{Holdings, DOMAIN_BYTES};
use crate::storage::{List, Shared};
use core::ops::Range;

/// How the records were before a job.
#[derive(Debug)]
pub(super) enum Before {
    /// These pieces were in the job's range.
    Pieces(List<(Range<u64>, Piece)>),
    /// These parts of the job's range were sparse; the pieces are the same.
    Sparse(List<Range<u64>>),
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
    /// for owners, and guests for guests on the same pages.
    pub(super) fn waits_for(&self, earlier: &Self) -> bool {
        let meets = |owned: &[Range<u64>], range: &Range<u64>| {
            let start = range.start & !(DOMAIN_BYTES - 1);
            let end = range.end.checked_next_multiple_of(DOMAIN_BYTES).unwrap_or(u64::MAX);
            owned.iter().any(|owned| owned.start < end && start < owned.end)
        };
        meets(&earlier.held.owned, &self.range)
            || meets(&self.held.owned, &earlier.range)
            || (earlier.range.start < self.range.end && self.range.start < earlier.range.end)
    }

    /// Whether later jobs still have to look at it.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state(), State::Prepared | State::Executing | State::Abandoned | State::Lost)
    }
}
