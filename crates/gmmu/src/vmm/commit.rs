//! The end of jobs: committed, cancelled, or swept up after whoever let them go; and the end of a space.

use super::execute::Flush;
use super::job::{ExecuteError, Job, Receipt, State, Token};
use super::plan::{next_table, Dropped, Holdings};
use super::record::{Change, Record};
use super::space::{Mapping, Vmm};
use super::undo::{remap_mirror, unmap_mirror};
use crate::device::{Acknowledge, Depth, DeviceError, Hardware, Invalidate, Run, TablePool};
use crate::format::Format;
use crate::storage::NoMemory;
use crate::tree::{dual_level, Child, Half, DIRECTORY_BYTES};
use core::ops::Range;

/// Why a job or receipt was not taken. It comes back whole, nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// It belongs to another space, or was taken already.
    #[error("this job belongs to another address space")]
    Foreign,
    /// Something may have been written: execute it to the end.
    #[error("the job was begun: it can only be executed to its end")]
    Begun,
    /// Another job builds on it.
    #[error("a job that was prepared later builds on this one: cancel that first")]
    HasDependents,
    /// No memory to put back what it had taken out of the books.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}

impl<F: Format> Vmm<F> {
    /// Closes the books on an executed job: what it replaced goes back to the pool.
    ///
    /// # Errors
    /// [`CommitError::Foreign`], with the receipt.
    #[expect(clippy::result_large_err, reason = "the receipt comes back by value: boxing it would allocate")]
    pub fn commit<P: TablePool>(&mut self, pool: &mut P, receipt: Receipt) -> Result<Mapping, (Receipt, CommitError)> {
        let record = match self.record_of(&receipt.job.token) {
            Some(record) => record,
            None => return Err((receipt, CommitError::Foreign)),
        };
        let range = self.close_job(pool, record);
        self.sweep(pool);
        Ok(Mapping { range })
    }

    /// Takes back a job that was not begun: tables, addresses and records are as if it had never been prepared.
    ///
    /// # Errors
    /// [`CommitError`], with the job, whole.
    #[expect(clippy::result_large_err, reason = "the job comes back by value: boxing it would allocate")]
    pub fn cancel<P: TablePool>(&mut self, pool: &mut P, job: Job) -> Result<(), (Job, CommitError)> {
        self.sweep(pool);
        let Some(record) = self.record_of(&job.token) else { return Err((job, CommitError::Foreign)) };
        if job.state() != State::Prepared {
            return Err((job, CommitError::Begun));
        }
        match self.take_back(pool, record) {
            Ok(()) => Ok(()),
            Err(why) => Err((job, why)),
        }
    }

    /// The record that a token stands for, if it is this space's and still open.
    pub(super) fn record_of(&self, token: &Token) -> Option<u32> {
        let record = self.jobs.get(token.record)?;
        record.progress.same(&token.progress).then_some(token.record)
    }

    /// Takes the plan of an open job back, if no later job builds on it.
    pub(super) fn take_back<P: TablePool>(&mut self, pool: &mut P, index: u32) -> Result<(), CommitError> {
        let Some(record) = self.jobs.get(index) else { return Err(CommitError::Foreign) };
        let later = |other: &Record| other.number > record.number && other.waits_for(record);
        if self.jobs.iter().any(|(_, other)| later(other)) {
            return Err(CommitError::HasDependents);
        }
        if let Change::Unmap(pieces) = &record.change {
            self.va.reserve(pieces.len())?;
        }
        if let Some(record) = self.jobs.remove(index) {
            self.undo(pool, &record)?;
            record.progress.set(State::Closed);
        }
        Ok(())
    }

    pub(super) fn undo<P: TablePool>(&mut self, pool: &mut P, record: &Record) -> Result<(), NoMemory> {
        match &record.change {
            Change::Map => {
                self.undo_map(pool, record.number, &record.range, u64::MAX, &record.held);
                Ok(())
            }
            Change::Unmap(pieces) => {
                remap_mirror(&mut self.tree, pieces, u64::MAX, &record.held.dropped);
                self.reinsert(pieces)
            }
        }
    }

    pub(super) fn undo_map<P: TablePool>(
        &mut self,
        pool: &mut P,
        number: u64,
        range: &Range<u64>,
        done: u64,
        held: &Holdings,
    ) {
        // One piece after the other: nothing is allocated on the way back.
        while let Some(piece) = self.take_piece(range) {
            unmap_mirror(&mut self.tree, pool, number, [piece].iter(), done, &held.dropped);
        }
        for &table in held.spare.iter() {
            pool.give(table, DIRECTORY_BYTES);
        }
    }

    /// Closes the books on an acknowledged job.
    pub(super) fn close_job<P: TablePool>(&mut self, pool: &mut P, index: u32) -> Range<u64> {
        let Some(record) = self.jobs.remove(index) else { return 0..0 };
        record.progress.set(State::Closed);
        if matches!(record.change, Change::Map) {
            self.mark_linked(&record.range);
        }
        for Dropped { child, half, .. } in record.held.dropped.iter() {
            self.tree.free(*child, *half, pool);
        }
        for &table in record.held.spare.iter() {
            pool.give(table, DIRECTORY_BYTES);
        }
        record.range
    }

    fn mark_linked(&mut self, range: &Range<u64>) {
        for n in 1..=dual_level::<F>() {
            let mut va = range.start;
            while va < range.end {
                if let Some(number) = self.tree.find(n, va) {
                    self.tree.mark_linked(number);
                }
                va = next_table::<F>(n, va);
            }
        }
    }

    /// Sees to jobs whose owner has gone: unbegun ones are taken back, executed ones committed.
    pub(super) fn sweep<P: TablePool>(&mut self, pool: &mut P) {
        // Newest first: whatever builds on a job is newer than it.
        let mut before = u64::MAX;
        for _ in 0..self.jobs.len() {
            let gone = |record: &Record| matches!(record.state(), State::Abandoned | State::Orphaned);
            let orphans = self.jobs.iter().filter(|(_, record)| record.number < before && gone(record));
            let Some((index, record)) = orphans.max_by_key(|(_, record)| record.number) else { return };
            before = record.number;
            if record.state() == State::Orphaned {
                self.close_job(pool, index);
            } else {
                // One that a waiting job builds on stays until that is gone; one without room for its records, too.
                let _ = self.take_back(pool, index);
            }
        }
    }

    /// Unlinks everything and gives every table back to `pool`, the root too.
    ///
    /// # Errors
    /// The space and why, where a job is still open, or the device failed: nothing was given back then.
    #[expect(clippy::result_large_err, reason = "the space comes back by value")]
    pub fn close<H: Hardware, P: TablePool>(
        mut self,
        hardware: &mut H,
        pool: &mut P,
    ) -> Result<(), (Self, ExecuteError)> {
        self.sweep(pool);
        if !self.jobs.is_empty() {
            return Err((self, ExecuteError::NotYet));
        }
        let what =
            Invalidate { pdb: self.pdb, depth: Depth::UpToPde4, scope: self.scope(), ack: Acknowledge::Globally };
        let mut flush = Flush::new(what);
        let root = Run { first: 0, step: 0, count: 512 };
        let unlinked: Result<(), DeviceError> = hardware
            .write_run(self.pdb, root)
            .and_then(|()| hardware.drain())
            .and_then(|()| flush.finish(hardware, self.config.limits));
        if let Err(why) = unlinked {
            return Err((self, why.into()));
        }
        let root = self.tree.root();
        self.tree.free(Child::Directory(root), Half::Big, pool);
        Ok(())
    }
}
