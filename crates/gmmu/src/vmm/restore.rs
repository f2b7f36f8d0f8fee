//! Restoring: all tables of a space are written anew from its records, after a reset of the GPU or the loss of its memory.

use super::job::State;
use super::prepare::Plan;
use super::request::{Live, PrepareError};
use super::space::Vmm;
use crate::addr::PAGE_BYTES;
use crate::device::{Run, TableMemory, TablePool};
use crate::format::Format;
use crate::tree::Tree;

impl<F: Format> Vmm<F> {
    /// Plans to write every table again, from the records: the GPU was reset and has forgotten all, or lost its memory. Where
    /// memory came as frames, the job wants all of them again ([`Job::wants`](super::Job::wants)). The root stays where it
    /// is; other tables may come to lie elsewhere.
    ///
    /// Jobs that wait, or were begun, are taken out of the records first, newest first, and are lost: what they answer is
    /// [`Lost`](super::ExecuteError::Lost). Executed ones are committed.
    ///
    /// # Errors
    /// [`PrepareError`]. The space takes nothing but another restore until one was executed. An [adopted](Self::adopt) one
    /// is refused, and stays as it was: nobody but firmware can write firmware's entries.
    pub fn plan_restore<'a, P: TablePool>(&'a mut self, pool: &'a mut P) -> Result<Plan<'a, F, P>, PrepareError> {
        if self.closing.is_some() {
            return Err(PrepareError::Closing);
        }
        if self.tree.foreign() != 0 {
            return Err(PrepareError::Adopted);
        }
        self.lost = true;
        self.lose_jobs(pool)?;
        let fresh = Tree::new(self.pdb)?;
        if !self.forget_entries() {
            return Err(PrepareError::Contended);
        }
        self.tree.free_all(pool, false);
        self.tree = fresh;
        let mut change = self.new_change(0..0, Live::Quiesced)?;
        for window in self.sparse.iter() {
            change.background.push(window)?;
        }
        let first = self.va.iter().next().map(|(range, _)| range.start).into_iter();
        let start = first.chain(change.background.first().map(|window| window.start)).min().unwrap_or(0);
        let mut end = change.background.last().map_or(start, |window| window.end);
        for (range, piece) in self.va.iter() {
            end = end.max(range.end);
            self.target(&mut change, range, *piece)?;
        }
        // A page at least: an empty range has no last address.
        change.range = start..end.max(start + PAGE_BYTES);
        (change.adds, change.removes, change.pages_stay, change.restores) = (true, true, true, true);
        let mut plan = self.plan_restored(pool, change)?;
        // The root is the only table that is not new.
        plan.init_first(Run { first: 0, step: 0, count: 512 })?;
        plan.now_restored();
        Ok(plan)
    }

    /// Prepares to write every table again: [`plan_restore`](Self::plan_restore) and [`Plan::init`] in one.
    ///
    /// # Errors
    /// [`PrepareError`]; see there.
    pub fn prepare_restore<M: TableMemory, P: TablePool>(
        &mut self,
        memory: &mut M,
        pool: &mut P,
    ) -> Result<super::Job, PrepareError> {
        self.plan_restore(pool)?.init(memory)
    }

    /// Takes all open jobs out of the records: newest first, since whatever builds on a job is newer.
    fn lose_jobs<P: TablePool>(&mut self, pool: &mut P) -> Result<(), PrepareError> {
        for _ in 0..self.jobs.len() {
            let Some((index, record)) = self.jobs.iter().max_by_key(|(_, record)| record.number) else { break };
            if matches!(record.state(), State::Acknowledged | State::Orphaned) {
                self.close_job(pool, index);
                continue;
            }
            let (pieces, sparse) = record.room();
            self.va.reserve(pieces)?;
            self.sparse.reserve(sparse)?;
            if let Some(record) = self.jobs.remove(index) {
                record.progress.set(State::Lost);
                self.undo(pool, &record);
            }
        }
        Ok(())
    }
}
