//! Preparing: from a request to a job that owns all it needs.

use super::change::{Draft, Target};
use super::execute::{initialise, Source, Write};
use super::job::{Job, Progress, State};
use super::plan::{Planner, Setting};
use super::record::Record;
use super::request::{check, check_range, MapRequest, PrepareError, Protection, Span};
use super::space::Vmm;
use crate::device::{Run, TableMemory, TablePool};
use crate::format::Format;
use crate::storage::{List, NoMemory, Owned, Shared};
use crate::va::windows::Windows;
use core::ops::Range;

/// A planned change whose new tables are not written yet. Dropping it takes the plan back.
#[must_use = "a plan is taken back when it is dropped; write its tables with `init`"]
#[derive(Debug)]
pub struct Plan<'a, F: Format, P: TablePool> {
    /// With what is to be written first, in [`Scraps`](super::change::Scraps).
    vmm: &'a mut Vmm<F>,
    pool: &'a mut P,
    job: Option<Job>,
}

impl<F: Format, P: TablePool> Plan<'_, F, P> {
    /// Writes the new tables, which nothing links yet: the hardware lock is held for this alone. What comes out is the
    /// job.
    ///
    /// # Errors
    /// [`PrepareError::Device`]; the plan is taken back.
    pub fn init<M: TableMemory>(mut self, memory: &mut M) -> Result<Job, PrepareError> {
        initialise(memory, &self.vmm.scraps.init)?;
        self.vmm.scraps.trim_init();
        self.job.take().ok_or(PrepareError::Empty)
    }

    /// Says that the space has tables again, those of the job.
    pub(super) fn now_restored(&mut self) {
        self.vmm.lost = false;
    }

    /// Writes `run` into the root before anything else.
    pub(super) fn init_first(&mut self, run: Run) -> Result<(), PrepareError> {
        let init = &mut self.vmm.scraps.init;
        init.reserve(1)?;
        let write = Write { at: self.vmm.pdb, run, stride: 8, source: Source::Words };
        let _ = init.insert_within(0, write);
        Ok(())
    }
}

impl<F: Format, P: TablePool> Drop for Plan<'_, F, P> {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            drop(job);
            self.vmm.sweep(self.pool);
        }
    }
}

impl<F: Format> Vmm<F> {
    /// Plans a mapping: addresses, tables and room for all its words are taken, the hardware is not touched.
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn plan_map<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        request: &MapRequest<'_>,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        self.open(pool)?;
        let bytes = check(request, &self.config)?;
        let range = self.choose(request, bytes)?;
        let zap = self.number_mapping(request.evictable)?;
        let mut change = self.new_change(range.clone(), request.live)?;
        for (part, piece) in self.pieces_at(request, &range, zap) {
            self.target(&mut change, part, piece)?;
        }
        change.adds = true;
        self.plan_change(pool, change)
    }

    /// Plans to unmap whatever is mapped in a range; mappings that reach beyond it keep the rest. What is sparse below
    /// reads as 0 again.
    ///
    /// # Errors
    /// [`PrepareError`], [`WouldFault`](PrepareError::WouldFault) where a large page would have to be cut; nothing was
    /// changed and nothing is held.
    pub fn plan_unmap<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        span: impl Into<Span>,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        let span = span.into();
        self.open(pool)?;
        check_range(&span.range, self.va.limits().end)?;
        let change = self.change_of(&span, None)?;
        self.plan_change(pool, change)
    }

    /// Plans to give every page of a range, all of which is mapped, other attributes. Where the memory came as frames,
    /// the job wants those again: [`Job::wants`].
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn plan_protect<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        span: impl Into<Span>,
        protection: Protection,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        let span = span.into();
        self.open(pool)?;
        check_range(&span.range, self.va.limits().end)?;
        let change = self.change_of(&span, Some(protection))?;
        self.plan_change(pool, change)
    }

    /// Plans to make a range sparse: where nothing is mapped, now or later, reads give 0 and writes are dropped. Entries
    /// of the largest span that fits say so, which are cut where something is mapped into them.
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn plan_sparse<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        span: impl Into<Span>,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        self.plan_background(pool, span.into(), true)
    }

    /// Plans to end that a range is sparse: where nothing is mapped, accesses fault.
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn plan_unsparse<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        span: impl Into<Span>,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        self.plan_background(pool, span.into(), false)
    }

    fn plan_background<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        span: Span,
        on: bool,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        self.open(pool)?;
        check_range(&span.range, self.va.limits().end)?;
        let mut change = self.new_change(span.range.clone(), span.live)?;
        change.background.push(span.range.clone())?;
        for (whole, piece) in self.va.overlapping(span.range.clone()) {
            let part = whole.start.max(span.range.start)..whole.end.min(span.range.end);
            let piece = piece.skip(part.start - whole.start);
            change.old.push((part.clone(), piece))?;
            change.new.push(Target { range: part, piece, word: 0, frame: 0, kept: true, cleared: false })?;
        }
        (change.adds, change.removes, change.pages_stay) = (on, !on, true);
        self.plan_with_background(pool, change, core::slice::from_ref(&(span.range, on)))
    }

    /// Plans a change, for which parts of the background become sparse or cease to be, one after the other.
    pub(super) fn plan_with_background<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        change: Draft,
        switches: &[(Range<u64>, bool)],
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        let before = self.sparse.copy()?;
        // No switch leaves more windows than one more.
        self.sparse.reserve(switches.len() + 1)?;
        for (range, on) in switches {
            if *on {
                self.sparse.add(range.clone())?;
            } else {
                self.sparse.subtract(range.clone())?;
            }
        }
        let job = self.plan_between(pool, change, Some(before))?;
        Ok(Plan { vmm: self, pool, job: Some(job) })
    }

    /// Plans a change of pages alone.
    #[inline]
    pub(super) fn plan_change<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        change: Draft,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        let job = self.plan_between(pool, change, None)?;
        Ok(Plan { vmm: self, pool, job: Some(job) })
    }

    /// Plans all tables anew: before, nothing was mapped or sparse.
    pub(super) fn plan_restored<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        change: Draft,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        let job = self.plan_between(pool, change, Some(Windows::new()))?;
        Ok(Plan { vmm: self, pool, job: Some(job) })
    }

    /// Enters a change into the records, plans what the tables need for it, and makes a job of that. All or nothing.
    /// The background is changed already; `sparse_before` is what it was.
    fn plan_between<P: TablePool>(
        &mut self,
        pool: &mut P,
        mut draft: Draft,
        sparse_before: Option<Windows>,
    ) -> Result<Job, PrepareError> {
        let number = self.next_job;
        // Numbers of plans that fail are not used again.
        self.next_job += 1;
        let Draft { body, record } = &mut draft;
        if let Err(why) = self.book_first(record, sparse_before.as_ref()) {
            if let Some(before) = sparse_before.filter(|_| !record.change.restores) {
                self.sparse = before;
            }
            return Err(why);
        }
        #[cfg(feature = "sabotage")]
        for round in &mut body.rounds {
            round.hasty = self.config.mistakes.ignores_acknowledge;
        }
        let Record { change, held, .. } = &mut **record;
        let setting = Setting {
            va: &self.va,
            sparse: &self.sparse,
            sparse_before: sparse_before.as_ref().unwrap_or(&self.sparse),
            change,
            nothing: self.nothing,
            job: number,
            pdb: self.pdb,
            scope: self.scope(),
            tables_first: self.config.chip.leaf_512m_needs_tables_first,
            whole_words: self.config.whole_words,
            #[cfg(feature = "sabotage")]
            mistakes: self.config.mistakes,
        };
        let init = &mut self.scraps.init;
        init.clear();
        let planned = Planner::new(&mut self.tree, pool, setting, &mut body.rounds, init, held).plan();
        let planned = planned.and_then(|()| self.swaps(&record.change, &record.touched, &mut body.swaps));
        record.change.new.clear();
        record.number = number;
        if let Some(before) = sparse_before {
            record.sparse = before;
        }
        if let Err(why) = planned {
            self.undo(pool, record);
            return Err(why);
        }
        // A job without any writes still has a round, at the end of which it is executed.
        body.first = usize::from(body.rounds[0].is_empty());
        (body.round, body.range) = (body.first, record.change.range.clone());
        core::mem::swap(&mut body.wants, &mut record.change.wants);
        self.enter(pool, draft)
    }

    /// Enters a change into the records. Where that fails, they are as they were.
    fn book_first(&mut self, record: &mut Record, sparse_before: Option<&Windows>) -> Result<(), PrepareError> {
        let Record { change, touched, .. } = record;
        self.refuse_foreign_change(change)?;
        if let Some(before) = sparse_before {
            // So that taking the plan back cannot fail.
            self.sparse.reserve(before.len() + change.background.len() + 1)?;
        }
        self.evictees_of(change, touched)?;
        if !change.pages_stay {
            self.reserve_records(change)?;
            self.book(change)?;
        }
        self.touch(change, touched);
        Ok(())
    }

    /// Plans a mapping and writes its new tables: [`plan_map`](Self::plan_map) and [`Plan::init`] in one.
    ///
    /// ```
    /// # use gmmu::addr::{PageSize, Pfn, PhysAddr, VramAddr};
    /// # use gmmu::format::{Flags, V3};
    /// # use gmmu::mmio::Mmio;
    /// # use gmmu::vmm::{Extent, MapRequest, PrepareError, Protection, Span, SpaceConfig, Use, Vmm};
    /// # use gmmu::vram::{TablePages, Vram};
    /// # use gmmu::walk::Outcome;
    /// # use gmmu_sim::{Config, Gpu};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100"))?)?;
    /// # let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(1 << 30)])?;
    /// # let mut pages = TablePages::for_vram(&vram)?;
    /// # let mut pool = pages.pool(&mut vram);
    /// # let config = SpaceConfig::new(card.chip(), card.vram_bytes(), Use::Channel);
    /// # let mut space = Vmm::<V3>::create(config, &mut card, &mut pool)?;
    /// // Frames are known only when the job is about to run.
    /// let request = MapRequest::frames(3, PageSize::Size64K).at(0x4000_0000);
    /// let job = space.prepare_map(&mut card, &mut pool, &request)?;
    /// let frames = [0x50_0010, 0x50_0200, 0x50_0040].map(Pfn::new);
    /// let ready = job.with_frames(&frames).map_err(|(_, why)| why)?;
    /// let receipt = ready.execute(&mut card).map_err(|failed| failed.why)?;
    /// space.commit(&mut pool, receipt).map_err(|(_, why)| why)?;
    /// let found = space.read_mapping(&mut card, 0x4001_0000)?.outcome;
    /// assert!(matches!(found, Outcome::Mapped { to, .. } if to == PhysAddr::vram(0x5_0020_0000)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn prepare_map<M: TableMemory, P: TablePool>(
        &mut self,
        memory: &mut M,
        pool: &mut P,
        request: &MapRequest<'_>,
    ) -> Result<Job, PrepareError> {
        self.plan_map(pool, request)?.init(memory)
    }

    /// Prepares to unmap: [`plan_unmap`](Self::plan_unmap) and [`Plan::init`] in one.
    ///
    /// ```
    /// # use gmmu::addr::{PageSize, Pfn, PhysAddr, VramAddr};
    /// # use gmmu::format::{Flags, V3};
    /// # use gmmu::mmio::Mmio;
    /// # use gmmu::vmm::{Extent, MapRequest, PrepareError, Protection, Span, SpaceConfig, Use, Vmm};
    /// # use gmmu::vram::{TablePages, Vram};
    /// # use gmmu::walk::Outcome;
    /// # use gmmu_sim::{Config, Gpu};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100"))?)?;
    /// # let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(1 << 30)])?;
    /// # let mut pages = TablePages::for_vram(&vram)?;
    /// # let mut pool = pages.pool(&mut vram);
    /// # let config = SpaceConfig::new(card.chip(), card.vram_bytes(), Use::Channel);
    /// # let mut space = Vmm::<V3>::create(config, &mut card, &mut pool)?;
    /// let extents = [Extent { to: PhysAddr::vram(8 << 30), bytes: 4 << 20 }];
    /// let request = MapRequest::extents(&extents).at(0x4000_0000).page(PageSize::Size2M);
    /// space.map_pages(&mut card, &mut pool, &request, &[])?;
    /// // One 4K page out of a 2M page: what is left of that faults for a moment, so nobody may be using it.
    /// let hole = 0x4000_1000..0x4000_2000;
    /// let refused = space.prepare_unmap(&mut card, &mut pool, hole.clone());
    /// assert!(matches!(refused, Err(PrepareError::WouldFault { .. })));
    /// let job = space.prepare_unmap(&mut card, &mut pool, Span::new(hole).quiesced())?;
    /// assert_eq!(job.rounds(), 2);
    /// let receipt = job.execute(&mut card).map_err(|failed| failed.why)?;
    /// space.commit(&mut pool, receipt).map_err(|(_, why)| why)?;
    /// let beside = space.read_mapping(&mut card, 0x4000_2000)?.outcome;
    /// assert!(matches!(beside, Outcome::Mapped { page: PageSize::Size4K, .. }));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn prepare_unmap<M: TableMemory, P: TablePool>(
        &mut self,
        memory: &mut M,
        pool: &mut P,
        span: impl Into<Span>,
    ) -> Result<Job, PrepareError> {
        self.plan_unmap(pool, span)?.init(memory)
    }

    /// Prepares other attributes: [`plan_protect`](Self::plan_protect) and [`Plan::init`] in one.
    ///
    /// ```
    /// # use gmmu::addr::{PageSize, Pfn, PhysAddr, VramAddr};
    /// # use gmmu::format::{Flags, V3};
    /// # use gmmu::mmio::Mmio;
    /// # use gmmu::vmm::{Extent, MapRequest, PrepareError, Protection, Span, SpaceConfig, Use, Vmm};
    /// # use gmmu::vram::{TablePages, Vram};
    /// # use gmmu::walk::Outcome;
    /// # use gmmu_sim::{Config, Gpu};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100"))?)?;
    /// # let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(1 << 30)])?;
    /// # let mut pages = TablePages::for_vram(&vram)?;
    /// # let mut pool = pages.pool(&mut vram);
    /// # let config = SpaceConfig::new(card.chip(), card.vram_bytes(), Use::Channel);
    /// # let mut space = Vmm::<V3>::create(config, &mut card, &mut pool)?;
    /// let extents = [Extent { to: PhysAddr::vram(8 << 30), bytes: 4 << 20 }];
    /// let request = MapRequest::extents(&extents).at(0x4000_0000).page(PageSize::Size64K);
    /// space.map_pages(&mut card, &mut pool, &request, &[])?;
    /// let read_only = Protection::flags(Flags { read_only: true, ..Flags::NONE });
    /// let job = space.prepare_protect(&mut card, &mut pool, 0x4001_0000..0x4003_0000, read_only)?;
    /// let receipt = job.execute(&mut card).map_err(|failed| failed.why)?;
    /// space.commit(&mut pool, receipt).map_err(|(_, why)| why)?;
    /// let read_only = space.pieces().filter(|(_, piece)| piece.flags.read_only);
    /// assert!(read_only.map(|(range, _)| range).eq([0x4001_0000..0x4003_0000]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn prepare_protect<M: TableMemory, P: TablePool>(
        &mut self,
        memory: &mut M,
        pool: &mut P,
        span: impl Into<Span>,
        protection: Protection,
    ) -> Result<Job, PrepareError> {
        self.plan_protect(pool, span, protection)?.init(memory)
    }

    /// Prepares a sparse range: [`plan_sparse`](Self::plan_sparse) and [`Plan::init`] in one.
    ///
    /// ```
    /// # use gmmu::addr::{PageSize, Pfn, PhysAddr, VramAddr};
    /// # use gmmu::format::{Flags, V3};
    /// # use gmmu::mmio::Mmio;
    /// # use gmmu::vmm::{Extent, MapRequest, PrepareError, Protection, Span, SpaceConfig, Use, Vmm};
    /// # use gmmu::vram::{TablePages, Vram};
    /// # use gmmu::walk::Outcome;
    /// # use gmmu_sim::{Config, Gpu};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100"))?)?;
    /// # let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(1 << 30)])?;
    /// # let mut pages = TablePages::for_vram(&vram)?;
    /// # let mut pool = pages.pool(&mut vram);
    /// # let config = SpaceConfig::new(card.chip(), card.vram_bytes(), Use::Channel);
    /// # let mut space = Vmm::<V3>::create(config, &mut card, &mut pool)?;
    /// // A gibibyte that reads as 0: two entries of 512 MiB.
    /// let range = 0x4000_0000..0x8000_0000;
    /// let job = space.prepare_sparse(&mut card, &mut pool, range)?;
    /// let receipt = job.execute(&mut card).map_err(|failed| failed.why)?;
    /// space.commit(&mut pool, receipt).map_err(|(_, why)| why)?;
    /// // A page in it; the rest of what was one entry faults while that is cut.
    /// let extents = [Extent { to: PhysAddr::vram(8 << 30), bytes: 64 << 10 }];
    /// let request = MapRequest::extents(&extents).at(0x5000_0000).live(gmmu::vmm::Live::Quiesced);
    /// space.map_pages(&mut card, &mut pool, &request, &[])?;
    /// let beside = space.read_mapping(&mut card, 0x5001_0000)?.outcome;
    /// assert!(matches!(beside, Outcome::Sparse { .. }));
    /// // And no longer sparse; the page stays.
    /// let job = space.prepare_unsparse(&mut card, &mut pool, 0x4000_0000..0x8000_0000)?;
    /// let receipt = job.execute(&mut card).map_err(|failed| failed.why)?;
    /// space.commit(&mut pool, receipt).map_err(|(_, why)| why)?;
    /// assert!(matches!(space.read_mapping(&mut card, 0x5001_0000)?.outcome, Outcome::Unmapped));
    /// assert!(matches!(space.read_mapping(&mut card, 0x5000_0000)?.outcome, Outcome::Mapped { .. }));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn prepare_sparse<M: TableMemory, P: TablePool>(
        &mut self,
        memory: &mut M,
        pool: &mut P,
        span: impl Into<Span>,
    ) -> Result<Job, PrepareError> {
        self.plan_sparse(pool, span)?.init(memory)
    }

    /// Prepares the end of a sparse range: [`plan_unsparse`](Self::plan_unsparse) and [`Plan::init`] in one. There is an
    /// example at [`prepare_sparse`](Self::prepare_sparse).
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn prepare_unsparse<M: TableMemory, P: TablePool>(
        &mut self,
        memory: &mut M,
        pool: &mut P,
        span: impl Into<Span>,
    ) -> Result<Job, PrepareError> {
        self.plan_unsparse(pool, span)?.init(memory)
    }

    /// Enters a planned job into the books and tells it for whom to wait.
    fn enter<P: TablePool>(&mut self, pool: &mut P, draft: Draft) -> Result<Job, PrepareError> {
        let Draft { mut body, record } = draft;
        let entered = match self.predecessors(&record, &mut body.after) {
            Ok(()) => self.jobs.insert_within(record).map_err(|record| (record, NoMemory.into())),
            Err(why) => Err((record, why)),
        };
        match entered {
            Ok(index) => {
                body.token.record = index;
                Ok(Job { body })
            }
            Err((record, why)) => {
                self.undo(pool, &record);
                record.progress.set(State::Closed);
                Err(why)
            }
        }
    }

    /// Lists the jobs that `record`'s has to wait for, and makes room for it among the records.
    fn predecessors(&mut self, record: &Record, after: &mut List<Shared<Progress>>) -> Result<(), PrepareError> {
        // Mostly there are none.
        #[cfg(feature = "sabotage")]
        if self.config.mistakes.never_waits {
            return Ok(self.jobs.reserve(1)?);
        }
        if !self.jobs.is_empty() {
            let waited = |earlier: &&Owned<Record>| earlier.is_waiting() && record.waits_for(earlier);
            for earlier in self.jobs.iter().map(|(_, earlier)| earlier).filter(waited) {
                if !self.config.queues {
                    return Err(PrepareError::Pending { range: earlier.change.range.clone() });
                }
                after.push(earlier.progress.clone())?;
            }
        }
        Ok(self.jobs.reserve(1)?)
    }
}
