//! The end of jobs: committed, cancelled, or swept up after whoever let them go; and the end of a space.

use super::execute::Flush;
use super::job::{Job, Receipt, State, Token};
use super::plan::Linked;
use super::record::Record;
use super::space::{Mapping, Vmm};
use crate::device::{Acknowledge, Depth, DeviceError, Hardware, Invalidate, Run, TablePool};
use crate::format::Format;
use crate::storage::{NoMemory, Owned};
use crate::tree::{dual_level, Child, Half, DIRECTORY_BYTES};

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

/// Why a space was not closed. It comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// Jobs are still open, or a zap runs.
    #[error("jobs of this address space are still open: execute and commit, or cancel them")]
    Busy,
    /// The device failed; call again.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl<F: Format> Vmm<F> {
    /// Closes the books on an executed job: what it replaced goes back to the pool.
    ///
    /// # Errors
    /// [`CommitError::Foreign`], with the receipt.
    pub fn commit<P: TablePool>(&mut self, pool: &mut P, receipt: Receipt) -> Result<Mapping, (Receipt, CommitError)> {
        let record = match self.record_of(&receipt.job.body.token) {
            Some(record) => record,
            None => return Err((receipt, CommitError::Foreign)),
        };
        let range = receipt.job.range();
        if let Some(record) = self.close_job(pool, record) {
            self.scraps.keep(receipt.job.body, record);
        }
        self.sweep(pool);
        Ok(Mapping { range })
    }

    /// Takes back a job that was not begun: tables, addresses and records are as if it had never been prepared.
    ///
    /// # Errors
    /// [`CommitError`], with the job, whole.
    pub fn cancel<P: TablePool>(&mut self, pool: &mut P, job: Job) -> Result<(), (Job, CommitError)> {
        self.sweep(pool);
        let Some(record) = self.record_of(&job.body.token) else { return Err((job, CommitError::Foreign)) };
        if job.state() != State::Prepared {
            return Err((job, CommitError::Begun));
        }
        match self.take_back(pool, record) {
            Ok(record) => {
                self.scraps.keep(job.body, record);
                Ok(())
            }
            Err(why) => Err((job, why)),
        }
    }

    /// The record that a token stands for, if it is this space's and still open.
    pub(super) fn record_of(&self, token: &Token) -> Option<u32> {
        let record = self.jobs.get(token.record)?;
        record.progress.same(&token.progress).then_some(token.record)
    }

    /// Takes the plan of an open job back, if no later job builds on it.
    pub(super) fn take_back<P: TablePool>(&mut self, pool: &mut P, index: u32) -> Result<Owned<Record>, CommitError> {
        let Some(record) = self.jobs.get(index) else { return Err(CommitError::Foreign) };
        let later = |other: &Record| other.number > record.number && other.waits_for(record);
        if self.jobs.iter().any(|(_, other)| later(other)) {
            return Err(CommitError::HasDependents);
        }
        let (pieces, sparse) = record.room();
        self.va.reserve(pieces)?;
        self.sparse.reserve(sparse)?;
        let record = self.jobs.remove(index).ok_or(CommitError::Foreign)?;
        self.undo(pool, &record);
        record.progress.set(State::Closed);
        Ok(record)
    }

    /// Takes a plan back: records first, then the mirror. Room for the records was reserved.
    pub(super) fn undo<P: TablePool>(&mut self, pool: &mut P, record: &Record) {
        let Record { change, sparse, touched, held, .. } = record;
        if !change.pages_stay {
            for part in record.parts() {
                self.unbook(part, &change.old);
            }
        }
        // A restore changes nothing of what is sparse.
        let background = change.background.iter().filter(|_| !change.restores);
        for range in background {
            let _ = self.sparse.subtract(range.clone());
            for part in sparse.overlapping(range.clone()) {
                let _ = self.sparse.add(part);
            }
        }
        self.let_go(touched, true);
        self.lost |= change.restores;
        held.journal.take_back(&mut self.tree, &self.va, pool);
        self.prune(pool, &held.linked);
        for &table in held.spare.iter() {
            pool.give(table, DIRECTORY_BYTES);
        }
    }

    /// Gives directories to the pool that are left empty, and that nobody has linked or will.
    fn prune<P: TablePool>(&mut self, pool: &mut P, linked: &[Linked]) {
        for n in (1..=dual_level::<F>()).rev() {
            for directory in linked.iter().filter(|directory| directory.level == n) {
                #[cfg(feature = "sabotage")]
                let mine = self.config.mistakes.undoes_others;
                #[cfg(not(feature = "sabotage"))]
                let mine = false;
                let needed = self.jobs.iter().any(|(_, other)| other.held.linked.contains(directory));
                if !mine && (needed || !self.tree.is_idle(directory.number, directory.made_by)) {
                    continue;
                }
                if let Some(place) = self.tree.parent(directory.number) {
                    let child = self.tree.set(place, Child::Empty);
                    self.tree.free(child, Half::Big, pool);
                }
            }
        }
    }

    /// Closes the books on an acknowledged job.
    pub(super) fn close_job<P: TablePool>(&mut self, pool: &mut P, index: u32) -> Option<Owned<Record>> {
        let record = self.jobs.remove(index)?;
        record.progress.set(State::Closed);
        for directory in
            record.held.linked.iter().filter(|directory| record.held.adds || directory.made_by == record.number)
        {
            self.tree.mark_linked(directory.number, directory.made_by);
        }
        record.held.journal.free_replaced(&mut self.tree, pool);
        for &table in record.held.spare.iter() {
            pool.give(table, DIRECTORY_BYTES);
        }
        self.let_go(&record.touched, false);
        Some(record)
    }

    /// Sees to jobs whose owner has gone: unbegun ones are taken back, executed ones committed.
    #[inline]
    pub(super) fn sweep<P: TablePool>(&mut self, pool: &mut P) {
        if !self.jobs.is_empty() {
            self.sweep_some(pool);
        }
    }

    #[inline(never)]
    fn sweep_some<P: TablePool>(&mut self, pool: &mut P) {
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

    /// Unlinks everything and gives every table back to `pool`; the root too, where [`create`](Self::create) took it. Of an
    /// [adopted](Self::adopt) space, what firmware made stays, as it was found.
    /// Jobs that were lost half-way end here: nothing can be reached any more, and what they held is given back too.
    ///
    /// # Errors
    /// The space and why: [`CloseError::Busy`], and nothing was changed; or [`CloseError::Device`], and the space takes
    /// nothing but another `close`, for the GPU may not reach its mappings any more.
    #[expect(clippy::result_large_err, reason = "the space comes back by value")]
    pub fn close<H: Hardware, P: TablePool>(
        mut self,
        hardware: &mut H,
        pool: &mut P,
    ) -> Result<(), (Self, CloseError)> {
        self.sweep(pool);
        if self.jobs.iter().any(|(_, record)| record.state() != State::Lost) {
            return Err((self, CloseError::Busy));
        }
        let what =
            Invalidate { pdb: self.pdb, depth: Depth::UpToPde4, scope: self.scope(), ack: Acknowledge::Globally };
        // A close that timed out goes on with the invalidate that it began.
        let mut flush = self.closing.unwrap_or(Flush::new(what));
        let unlinked: Result<(), DeviceError> = self
            .unlink(hardware)
            .and_then(|()| hardware.drain())
            .and_then(|()| flush.finish(hardware, self.config.limits));
        self.closing = Some(flush);
        if let Err(why) = unlinked {
            return Err((self, why.into()));
        }
        if !self.forget_entries() {
            return Err((self, CloseError::Busy));
        }
        for _ in 0..self.jobs.len() {
            let first = self.jobs.iter().next().map(|(index, _)| index);
            first.map(|index| self.close_job(pool, index));
        }
        self.tree.free_all(pool, self.owns_root);
        Ok(())
    }

    /// Takes everything that is not firmware's out of what the GPU can reach.
    fn unlink<H: Hardware>(&self, hardware: &mut H) -> Result<(), DeviceError> {
        if self.tree.foreign() == 0 {
            return hardware.write_run(self.pdb, Run { first: 0, step: 0, count: 512 });
        }
        self.empty_foreign_tables(hardware)
    }
}
