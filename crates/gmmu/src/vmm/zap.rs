//! Zaps: taking a mapping's pages away from the GPU at once, from where neither the planner nor the heap can be reached.
//!
//! An evictable mapping carries a list of what clears its entries. Zap, jobs and space share it:
//! - the **lists** are the hardware's: they are looked at and exchanged by whoever holds the hardware's lock, and a job
//!   exchanges them together with its stores;
//! - the **generation** counts zaps. A job remembers the one that its mapping had when it was prepared, and writes
//!   no page of a mapping that was zapped since. The planner compares it too, at its next call.
//!
//! While a job writes its last round, the entries from before it and those of after it may both be valid, and a zap
//! clears both.

use super::execute::{Cursor, Evictable, Flush, Round, Write};
use super::job::ExecuteError;
use crate::device::{Acknowledge, Depth, DeviceError, Hardware, Invalidate, Invalidator, Poll, TableMemory};
use crate::storage::{Guarded, List, NoMemory, Shared};
use crate::tlb::Limits;
use core::sync::atomic::{AtomicU32, Ordering};

/// Why a zap is not done. Pages may be reachable: call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZapError {
    /// Somebody else is at the mapping's entries: the hardware's lock was not held, or the space is being restored.
    #[error("somebody else is at the entries of this mapping: hold the hardware's lock, and zap again")]
    Contended,
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What clears some pages.
#[derive(Debug)]
pub(crate) struct Slots {
    pub(crate) writes: List<Write>,
    /// How deep an invalidate has to reach for them.
    pub(crate) depth: Depth,
}

impl Default for Slots {
    fn default() -> Self {
        Self { writes: List::new(), depth: Depth::PteOnly }
    }
}

/// What zap, jobs and space share of a mapping.
#[derive(Debug)]
pub(crate) struct Zapper {
    generation: AtomicU32,
    lists: Guarded<Lists>,
    /// The invalidate of a zap, but for its depth.
    what: Invalidate,
    limits: Limits,
}

#[derive(Debug, Default)]
struct Lists {
    /// The entries that are valid, and those that the job at hand makes valid.
    now: Slots,
    next: Slots,
    /// Whether a job wrote entries and its invalidate was not acknowledged yet, of whatever depth.
    unsettled: bool,
    /// The invalidate that the last zap owes.
    flush: Option<Flush>,
}

impl Zapper {
    pub(super) fn new(what: Invalidate, limits: Limits) -> Result<Shared<Self>, NoMemory> {
        let what = Invalidate { ack: Acknowledge::Globally, ..what };
        Shared::new(Self { generation: AtomicU32::new(0), lists: Guarded::new(Lists::default()), what, limits })
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Forgets all entries: their tables are gone, or nothing leads to them. `false` where a zap is at them.
    pub(super) fn forget(&self) -> bool {
        let Some(mut lists) = self.lists.open() else { return false };
        *lists = Lists::default();
        true
    }
}

/// Takes all pages of one mapping away from the GPU: clears their entries and waits for the invalidate. For MMU notifiers
/// and memory pressure: it allocates nothing, frees nothing, and needs the hardware's lock alone.
///
/// The mapping stays in the records, without pages, until it is unmapped or [bound again](super::Vmm::plan_rebind). Jobs
/// that were prepared before and would write its pages answer [`ExecuteError::Zapped`]. A mapping whose job was not
/// executed yet, or that is unmapped, has nothing to clear.
#[derive(Clone, Debug)]
pub struct Zap {
    pub(super) zapper: Shared<Zapper>,
    /// Its number in its space.
    pub(super) mapping: u32,
}

impl Zap {
    /// Clears the entries and waits until the GPU has forgotten them: then their memory can be given to others.
    ///
    /// # Errors
    /// [`ZapError`]; call again, which begins anew.
    pub fn zap<H: Hardware>(&self, hardware: &mut H) -> Result<(), ZapError> {
        self.write(hardware)?;
        let mut lists = self.zapper.lists.open().ok_or(ZapError::Contended)?;
        let Some(flush) = lists.flush.as_mut() else { return Ok(()) };
        flush.finish(hardware, self.zapper.limits)?;
        lists.flush = None;
        Ok(())
    }

    /// Clears the entries. The GPU may still have them in its caches: see [`poll_flush`](Self::poll_flush).
    ///
    /// # Errors
    /// [`ZapError`]; some entries may be cleared, and jobs know of the zap. Call again.
    pub fn write<M: TableMemory>(&self, memory: &mut M) -> Result<(), ZapError> {
        let mut lists = self.zapper.lists.open().ok_or(ZapError::Contended)?;
        // Jobs that come to their stores after this must know, even where the rest fails.
        self.zapper.generation.fetch_add(1, Ordering::AcqRel);
        for slots in [&lists.now, &lists.next] {
            let (leaves, mut cursor) = (slots.writes.as_slice(), Cursor::default());
            let round = Round { leaves, evictable: &[], links: &[], frame_shift: 0 };
            if !leaves.is_empty() {
                round.write(memory, &[], &mut cursor, u64::MAX)?;
            }
        }
        let depth = if lists.unsettled { Depth::UpToPde4 } else { lists.now.depth };
        let anything = lists.unsettled || !lists.now.writes.is_empty();
        lists.flush = anything.then(|| Flush::new(Invalidate { depth, ..self.zapper.what }));
        Ok(())
    }

    /// Starts the invalidate of [`write`](Self::write) where that is still due and none runs, and looks once whether it is
    /// done.
    ///
    /// # Errors
    /// [`ZapError`]; call again.
    pub fn poll_flush<I: Invalidator>(&self, invalidator: &mut I) -> Result<Poll, ZapError> {
        let mut lists = self.zapper.lists.open().ok_or(ZapError::Contended)?;
        let Some(flush) = lists.flush.as_mut() else { return Ok(Poll::Done) };
        let poll = flush.poll(invalidator)?;
        if poll == Poll::Done {
            lists.flush = None;
        }
        Ok(poll)
    }
}

/// A job's side of one evictable mapping.
#[derive(Debug)]
pub(crate) struct Swap {
    pub(crate) zapper: Shared<Zapper>,
    /// The mapping's number in its space.
    pub(crate) mapping: u32,
    /// The generation in which the job may write pages of the mapping; `None` where it writes none.
    pub(crate) writes_in: Option<u32>,
    /// Before the job's stores what clears the mapping's entries after them; behind its stores, those from before.
    pub(crate) slots: Slots,
    pub(crate) stage: Stage,
    /// The generation when the job was last at its stores.
    pub(crate) seen: u32,
}

/// How far a job has exchanged the lists of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Planned,
    Writing,
    Written,
}

impl Swap {
    fn is_zapped(&self) -> bool {
        self.writes_in.is_some_and(|generation| generation != self.zapper.generation())
    }

    pub(super) fn is_written(&self) -> bool {
        self.stage == Stage::Written
    }

    /// Before stores of the last round: from the first one on a zap clears what is about to be written, too. Says whether
    /// there was a zap since the stores before.
    fn begin(&mut self) -> Result<bool, ExecuteError> {
        let generation = self.zapper.generation();
        let seen = core::mem::replace(&mut self.seen, generation);
        if self.stage == Stage::Planned {
            let mut lists = self.zapper.lists.open().ok_or(ExecuteError::Contended)?;
            core::mem::swap(&mut lists.next, &mut self.slots);
            lists.unsettled = true;
            self.stage = Stage::Writing;
            return Ok(false);
        }
        Ok(self.stage == Stage::Writing && seen != generation)
    }

    /// Behind the last store: a zap no longer clears what was there before. The job keeps that list, so that nothing is
    /// freed here.
    fn end(&mut self) -> Result<(), ExecuteError> {
        if self.stage == Stage::Writing {
            let mut lists = self.zapper.lists.open().ok_or(ExecuteError::Contended)?;
            let Lists { now, next, .. } = &mut *lists;
            core::mem::swap(now, next);
            core::mem::swap(next, &mut self.slots);
            self.stage = Stage::Written;
        }
        Ok(())
    }
}

/// Refuses where a mapping was zapped since the job was prepared.
pub(super) fn check(swaps: &[Swap]) -> Result<(), ExecuteError> {
    if swaps.iter().any(Swap::is_zapped) {
        return Err(ExecuteError::Zapped);
    }
    Ok(())
}

/// Before stores of a job's last round. Says whether those that were made already have to be made again: a zap came in
/// between and cleared slots that a mapping had before, and others have now.
pub(super) fn begin(swaps: &mut [Swap]) -> Result<bool, ExecuteError> {
    swaps.iter_mut().try_fold(false, |again, swap| Ok(swap.begin()? || again))
}

/// Behind the last of them.
pub(super) fn end(swaps: &mut [Swap]) -> Result<(), ExecuteError> {
    swaps.iter_mut().try_for_each(Swap::end)
}

/// When the job's last invalidate is acknowledged. Where somebody is at a mapping its zaps just go deeper than they need.
pub(super) fn settle(swaps: &[Swap]) {
    for swap in swaps {
        if let Some(mut lists) = swap.zapper.lists.open() {
            lists.unsettled = false;
        }
    }
}

/// Lets a job write the pages of zapped mappings as not there, and no longer ask for their zaps.
pub(super) fn skip(swaps: &mut [Swap], writes: &mut [Evictable]) {
    for swap in swaps.iter_mut().filter(|swap| swap.is_zapped()) {
        swap.writes_in = None;
        for write in writes.iter_mut().filter(|write| write.mapping == swap.mapping) {
            write.give_up();
        }
    }
}
