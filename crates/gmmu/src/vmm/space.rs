//! One address space: its books, and the jobs that change it.

use super::change::{Change, Scraps};
use super::execute::{initialise, Flush, Write};
use super::frames::FramesError;
use super::job::{Body, ExecuteError, Job, Receipt, State};
use super::piece::{smallest_page, Piece, Pieces};
use super::plan::{Holdings, Nothing, Planner, Setting};
use super::record::{Before, Record};
use super::request::{check, check_range, Backing, MapRequest, Place, PrepareError, Protection, Span};
use crate::addr::{Pfn, PhysAddr, TableAddr, PAGE_BYTES};
use crate::chip::Chip;
use crate::device::{
    Acknowledge, Depth, DeviceError, Hardware, Invalidate, Run, Scope, TableMemory, TablePool, TableRead,
};
use crate::format::{Format, Leaf, Pte};
use crate::storage::{List, NoMemory, Owned, Slab};
use crate::tlb::Limits;
use crate::tree::{Tree, DIRECTORY_BYTES};
use crate::va::windows::Windows;
use crate::va::{VaError, VaRequest, VaSpace};
use crate::walk::{walk, Walk, WalkError};
use core::ops::Range;

/// Who translates through a space, and so whose TLBs have to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Channels: the engines.
    Channel,
    /// BAR1 or BAR2: the hub alone.
    Bar,
}

/// What an address space is for, and on which GPU.
#[derive(Clone, Copy, Debug)]
pub struct SpaceConfig {
    /// The chip.
    pub chip: &'static Chip,
    /// Bytes of video memory.
    pub vram_bytes: u64,
    /// Who translates through it.
    pub used_by: Use,
    /// How long an invalidate may take.
    pub limits: Limits,
}

/// A mapping that was made or unmade: its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address, and the one behind the last.
    pub range: Range<u64>,
}

/// Numbers about a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Directory tables, the root included.
    pub directories: usize,
    /// Tables of 4K and 64K leaves.
    pub leaf_tables: usize,
    /// Bytes of heap that the mirror of the tables takes.
    pub mirror_bytes: usize,
    /// Jobs that were prepared and neither committed nor cancelled.
    pub jobs: usize,
    /// Jobs of these that were dropped half-way: what they own stays unused until the space is closed.
    pub quarantined: usize,
}

/// Why [`Vmm::map_pages`] or [`Vmm::unmap_pages`] failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// It was not prepared; nothing was changed.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The frames do not fit; nothing was changed.
    #[error(transparent)]
    Frames(#[from] FramesError),
    /// It was not executed. Unless the job was begun, nothing was changed; else what it owns is in quarantine.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
}

/// A GPU address space: which tables and mappings it has after all prepared jobs, and how to change them.
///
/// One live `Vmm` per root. Nothing is read back from the GPU; what the books say is what was written.
#[derive(Debug)]
pub struct Vmm<F: Format> {
    pub(super) pdb: TableAddr,
    pub(super) config: SpaceConfig,
    pub(super) tree: Tree<F>,
    pub(super) va: VaSpace<Piece>,
    /// What reads as 0 where nothing is mapped.
    pub(super) sparse: Windows,
    pub(super) jobs: Slab<Record, 8>,
    nothing: Nothing,
    pub(super) scraps: Scraps,
    /// Whether the root came from the pool.
    pub(super) owns_root: bool,
    /// The invalidate of a `close` that was begun: the tables may be unlinked.
    pub(super) closing: Option<Flush>,
    pub(super) next_job: u64,
}

/// A planned change whose new tables are not written yet. Dropping it takes the plan back.
#[must_use = "a plan is taken back when it is dropped; write its tables with `init`"]
#[derive(Debug)]
pub struct Plan<'a, F: Format, P: TablePool> {
    vmm: &'a mut Vmm<F>,
    pool: &'a mut P,
    init: List<Write>,
    job: Option<Job>,
}

impl<F: Format, P: TablePool> Plan<'_, F, P> {
    /// Writes the new tables, which nothing links yet: the hardware lock is held for this alone. What comes out is the
    /// job.
    ///
    /// # Errors
    /// [`PrepareError::Device`]; the plan is taken back.
    pub fn init<M: TableMemory>(mut self, memory: &mut M) -> Result<Job, PrepareError> {
        initialise(memory, &self.init)?;
        self.vmm.scraps.keep_init(core::mem::take(&mut self.init));
        self.job.take().ok_or(PrepareError::Empty)
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
    /// Makes an empty address space: takes a root from `pool` and clears all of it.
    ///
    /// # Errors
    /// [`PrepareError::NoSpace`], [`NoMemory`](PrepareError::NoMemory), [`Device`](PrepareError::Device); nothing is
    /// held.
    pub fn create<M: TableMemory, P: TablePool>(
        config: SpaceConfig,
        memory: &mut M,
        pool: &mut P,
    ) -> Result<Self, PrepareError> {
        let pdb = pool.take(DIRECTORY_BYTES, None)?;
        match Self::with_root(config, memory, pdb) {
            Ok(vmm) => Ok(Self { owns_root: true, ..vmm }),
            Err(why) => {
                pool.give(pdb, DIRECTORY_BYTES);
                Err(why)
            }
        }
    }

    /// Makes an empty address space with its root at `pdb`, 4 KiB of memory that nothing else uses, and clears all of
    /// it: the caller keeps the memory's ownership.
    ///
    /// # Errors
    /// [`PrepareError::Unaligned`], [`WrongFormat`](PrepareError::WrongFormat), [`Encode`](PrepareError::Encode) where the
    /// format cannot name all of the memory, [`NoMemory`](PrepareError::NoMemory), [`Device`](PrepareError::Device), also
    /// for a root in system memory that a BAR is to use.
    pub fn with_root<M: TableMemory>(
        config: SpaceConfig,
        memory: &mut M,
        pdb: TableAddr,
    ) -> Result<Self, PrepareError> {
        super::request::aligned("root address", pdb.raw(), PAGE_BYTES)?;
        if config.used_by == Use::Bar && !pdb.is_vram() {
            // A BAR access that has to read its tables from the bus would wait for itself.
            return Err(DeviceError::WrongAperture { at: pdb }.into());
        }
        if config.chip.mmu != F::VERSION {
            return Err(PrepareError::WrongFormat { chip: config.chip.name, mmu: config.chip.mmu, wanted: F::VERSION });
        }
        // What the format can name to the last page, frames that come late need not be asked about one by one.
        let last_page = config.vram_bytes.saturating_sub(1) & !(PAGE_BYTES - 1);
        F::encode_pte(&Pte::Leaf(Leaf::new(PhysAddr::vram(last_page))))?;
        let va = VaSpace::new(0..1 << F::VA_BITS).map_err(PrepareError::NoVa)?;
        let tree = Tree::new(pdb)?;
        memory.write_run(pdb, Run { first: 0, step: 0, count: 512 })?;
        memory.order()?;
        let sparse = Windows::new();
        Ok(Self {
            pdb,
            config,
            tree,
            va,
            sparse,
            jobs: Slab::new(),
            nothing: Nothing::new::<F>()?,
            scraps: Scraps::default(),
            owns_root: false,
            closing: None,
            next_job: 1,
        })
    }

    /// The top table.
    #[must_use]
    pub const fn pdb(&self) -> TableAddr {
        self.pdb
    }

    /// What the space is for.
    #[must_use]
    pub const fn config(&self) -> &SpaceConfig {
        &self.config
    }

    /// The pieces that are mapped after all prepared jobs, in order.
    pub fn pieces(&self) -> impl Iterator<Item = (Range<u64>, &Piece)> {
        self.va.iter()
    }

    /// Numbers about the space.
    #[must_use]
    pub fn census(&self) -> Census {
        let (directories, leaf_tables) = self.tree.counts();
        let quarantined = self.jobs.iter().filter(|(_, record)| record.state() == State::Lost).count();
        let (mirror_bytes, jobs) = (self.tree.footprint(), self.jobs.len());
        Census { directories, leaf_tables, mirror_bytes, jobs, quarantined }
    }

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
        let chip = self.config.chip;
        let bytes = check(request, chip, self.config.vram_bytes)?;
        let range = self.choose(request, bytes)?;
        let mut change = self.new_change(range.clone(), request.live);
        for (part, piece) in Pieces::new(request, range.start, chip.page_sizes) {
            self.target(&mut change, part, piece)?;
        }
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
        let mut change = self.new_change(span.range.clone(), span.live);
        change.sparse = Some(on);
        for (whole, piece) in self.va.overlapping(span.range.clone()) {
            let part = whole.start.max(span.range.start)..whole.end.min(span.range.end);
            change.old.push((part.clone(), piece.skip(part.start - whole.start)))?;
        }
        self.plan_change(pool, change)
    }

    /// Enters a change into the records, plans what the tables need for it, and makes a job of that. All or nothing.
    fn plan_change<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        change: Change,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        let number = self.next_job;
        // Numbers of plans that fail are not used again.
        self.next_job += 1;
        let mut sparse_before = None;
        let mut parts = List::new();
        if let Some(on) = change.sparse {
            sparse_before = Some(self.sparse.copy()?);
            for part in self.sparse.overlapping(change.range.clone()) {
                parts.push(part)?;
            }
            self.sparse.reserve(parts.len() + 3)?;
            if on {
                self.sparse.add(change.range.clone())?;
            } else {
                self.sparse.subtract(change.range.clone())?;
            }
        } else {
            self.reserve_records(&change)?;
            self.book(&change)?;
        }
        let mut body = match self.take_body() {
            Ok(body) => body,
            Err(why) => {
                self.undo(pool, &change.range, &before(change.sparse, change.old, parts), &Holdings::default());
                return Err(why.into());
            }
        };
        let setting = Setting {
            va: &self.va,
            sparse: &self.sparse,
            sparse_before: sparse_before.as_ref().unwrap_or(&self.sparse),
            change: &change,
            nothing: self.nothing,
            job: number,
            pdb: self.pdb,
            scope: self.scope(),
            tables_first: self.config.chip.leaf_512m_needs_tables_first,
        };
        let (mut init, mut held) = (core::mem::take(&mut self.scraps.init), core::mem::take(&mut self.scraps.held));
        let planned = Planner::new(&mut self.tree, pool, setting, &mut body.rounds, &mut init, &mut held).plan();
        let Change { range, old, new, wants, sparse, .. } = change;
        self.scraps.keep_new(new);
        let before = before(sparse, old, parts);
        if let Err(why) = planned {
            self.undo(pool, &range, &before, &held);
            return Err(why);
        }
        // A job without any writes still has a round, at the end of which it is executed.
        body.first = usize::from(body.rounds[0].is_empty());
        (body.round, body.wants, body.range) = (body.first, wants, range.clone());
        let record = Record { number, progress: body.token.progress.clone(), range, before, held };
        self.enter(pool, Job { body }, record, init)
    }

    /// What a job consists of, empty: that of an earlier one, or a new one.
    fn take_body(&mut self) -> Result<Owned<Body>, NoMemory> {
        let Some(mut body) = self.scraps.bodies.pop() else {
            let what =
                Invalidate { pdb: self.pdb, depth: Depth::PteOnly, scope: self.scope(), ack: Acknowledge::Globally };
            return Owned::new(Body::new(self.config.limits, F::leaf_step(PAGE_BYTES).trailing_zeros(), what)?);
        };
        body.renew()?;
        Ok(body)
    }

    /// Plans a mapping and writes its new tables: [`plan_map`](Self::plan_map) and [`Plan::init`] in one.
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

    /// Prepares the end of a sparse range: [`plan_unsparse`](Self::plan_unsparse) and [`Plan::init`] in one.
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

    /// Maps pages for good: prepare, execute, commit.
    ///
    /// # Errors
    /// [`MapError`]. A job that was refused is cancelled; one that was begun stays in quarantine.
    pub fn map_pages<H: Hardware, P: TablePool>(
        &mut self,
        hardware: &mut H,
        pool: &mut P,
        request: &MapRequest<'_>,
        frames: &[Pfn],
    ) -> Result<Mapping, MapError> {
        let job = self.prepare_map(hardware, pool, request)?;
        let receipt = match request.backing {
            Backing::Extents(_) => job.execute(hardware).map_err(|failed| (failed.job, failed.why.into())),
            Backing::Late { .. } => match job.with_frames(frames) {
                Ok(ready) => ready.execute(hardware).map_err(|failed| (failed.job.into_job(), failed.why.into())),
                Err((job, why)) => Err((job, why.into())),
            },
        };
        self.conclude(pool, receipt)
    }

    /// Unmaps what is mapped in a range for good: prepare, execute, commit.
    ///
    /// # Errors
    /// As [`map_pages`](Self::map_pages).
    pub fn unmap_pages<H: Hardware, P: TablePool>(
        &mut self,
        hardware: &mut H,
        pool: &mut P,
        span: impl Into<Span>,
    ) -> Result<Mapping, MapError> {
        let job = self.prepare_unmap(hardware, pool, span)?;
        let receipt = job.execute(hardware).map_err(|failed| (failed.job, failed.why.into()));
        self.conclude(pool, receipt)
    }

    /// What the tables in memory say of `va`, level by level.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn read_mapping<M: TableRead>(&self, memory: &mut M, va: u64) -> Result<Walk, WalkError> {
        walk::<F, M>(memory, self.pdb, self.config.chip.page_sizes, va)
    }

    fn conclude<P: TablePool>(
        &mut self,
        pool: &mut P,
        executed: Result<Receipt, (Job, MapError)>,
    ) -> Result<Mapping, MapError> {
        match executed {
            Ok(receipt) => self.commit(pool, receipt).map_err(|_| MapError::Execute(ExecuteError::PredecessorLost)),
            Err((job, why)) => {
                // Where it was begun, the job is dropped, and kept in quarantine.
                let _ = self.cancel(pool, job);
                Err(why)
            }
        }
    }

    /// Sees to jobs whose owner has gone, and refuses where the space is being closed.
    fn open<P: TablePool>(&mut self, pool: &mut P) -> Result<(), PrepareError> {
        if self.closing.is_some() {
            return Err(PrepareError::Closing);
        }
        self.sweep(pool);
        Ok(())
    }

    pub(super) const fn scope(&self) -> Scope {
        match self.config.used_by {
            Use::Channel => Scope::All,
            Use::Bar => Scope::HubOnly,
        }
    }

    /// The addresses of a mapping.
    fn choose(&self, request: &MapRequest<'_>, bytes: u64) -> Result<Range<u64>, PrepareError> {
        let limit = self.va.limits().end;
        let smallest = smallest_page(request.kind).bytes();
        let wish = VaRequest::new(bytes);
        let wish = request.page_size().map_or(wish.clone(), |page| wish.align(page.bytes()));
        let mut window = match &request.place {
            Place::At(va) => {
                let end = va.checked_add(bytes).ok_or(PrepareError::Overflow)?;
                if end > limit {
                    return Err(PrepareError::BeyondVa { end, limit });
                }
                return Ok(*va..end);
            }
            Place::Anywhere => 0..limit,
            Place::Within(range) => range.clone(),
        };
        // Addresses that an uncommitted unmap still holds, and sparse ones, are passed over; each pass leaves one behind.
        for _ in 0..=self.jobs.len() + self.sparse.len() {
            let wish = wish.clone().within(window.clone());
            let mut start = self.va.find(&wish).map_err(PrepareError::NoVa)?.raw();
            if start % smallest != 0 {
                // Found only with the alignment of a page that this kind cannot use.
                start = self.va.find(&wish.align(smallest)).map_err(PrepareError::NoVa)?.raw();
            }
            let range = start..start + bytes;
            let held = self.jobs.iter().map(|(_, record)| record.range.clone());
            let held = held.filter(|held| held.start < range.end && range.start < held.end);
            match held.chain(self.sparse.overlapping(range.clone())).map(|held| held.end).max() {
                None => return Ok(range),
                Some(end) => window.start = end.max(window.start),
            }
            if window.start >= window.end {
                break;
            }
        }
        Err(PrepareError::NoVa(VaError::NoSpace { largest: 0 }))
    }

    /// Enters a planned job into the books and tells it for whom to wait.
    fn enter<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        mut job: Job,
        record: Record,
        init: List<Write>,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        let waited = |earlier: &&Record| earlier.is_waiting() && record.waits_for(earlier);
        let reserved = self
            .jobs
            .iter()
            .map(|(_, earlier)| earlier)
            .filter(waited)
            .try_for_each(|earlier| job.body.after.push(earlier.progress.clone()));
        let reserved = reserved.and_then(|()| self.jobs.reserve(1));
        let entered = match reserved {
            Ok(()) => self.jobs.insert_within(record),
            Err(_) => Err(record),
        };
        match entered {
            Ok(index) => {
                job.body.token.record = index;
                Ok(Plan { vmm: self, pool, init, job: Some(job) })
            }
            Err(record) => {
                self.undo(pool, &record.range, &record.before, &record.held);
                record.progress.set(State::Closed);
                Err(NoMemory.into())
            }
        }
    }

    /// The page sizes of the chip, for those who read the tables.
    #[must_use]
    pub const fn page_sizes(&self) -> crate::chip::PageSizes {
        self.config.chip.page_sizes
    }

    /// All tables that the space has, with their sizes: what it holds of its pool, the root included, and leaf tables
    /// of jobs that are still open apart.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn tables(&self) -> Result<List<(TableAddr, u64)>, NoMemory> {
        self.tree.addresses()
    }
}

/// What the records go back to where a change is taken back.
fn before(sparse: Option<bool>, old: List<(Range<u64>, Piece)>, parts: List<Range<u64>>) -> Before {
    match sparse {
        None => Before::Pieces(old),
        Some(_) => Before::Sparse(parts),
    }
}
