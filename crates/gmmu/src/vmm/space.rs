//! One address space: its books, and the jobs that change it.

use super::execute::{initialise, Flush, Template, Write};
use super::job::{ExecuteError, FramesError, Job, Late, OwnedRound, Progress, Receipt, State, Token};
use super::plan::{Holdings, Planner, Words};
use super::record::{Change, Record};
use super::request::{check, smallest_page, Backing, MapRequest, Piece, Pieces, Place, PrepareError};
use super::undo::remap_mirror;
use super::unmap::Unplanner;
use crate::addr::{Pfn, PhysAddr, TableAddr, PAGE_BYTES};
use crate::chip::Chip;
use crate::device::{Acknowledge, Depth, Hardware, Invalidate, Run, Scope, TableMemory, TablePool, TableRead};
use crate::format::{Format, Leaf, Pte};
use crate::storage::{List, NoMemory, Shared, Slab};
use crate::tlb::Limits;
use crate::tree::{Tree, DIRECTORY_BYTES};
use crate::va::{InsertError, VaError, VaRequest, VaSpace};
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
    pub(super) jobs: Slab<Record, 8>,
    /// Whether the root came from the pool.
    pub(super) owns_root: bool,
    /// The invalidate of a `close` that was begun: the tables may be unlinked.
    pub(super) closing: Option<Flush>,
    pub(super) next_job: u64,
}

/// A planned mapping or unmap whose new tables are not written yet. Dropping it takes the plan back.
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
    /// format cannot name all of the memory, [`NoMemory`](PrepareError::NoMemory), [`Device`](PrepareError::Device).
    pub fn with_root<M: TableMemory>(
        config: SpaceConfig,
        memory: &mut M,
        pdb: TableAddr,
    ) -> Result<Self, PrepareError> {
        super::request::aligned("root address", pdb.raw(), PAGE_BYTES)?;
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
        Ok(Self { pdb, config, tree, va, jobs: Slab::new(), owns_root: false, closing: None, next_job: 1 })
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
        let bytes = check(request, chip.page_sizes, chip.name, self.config.vram_bytes)?;
        let base = Leaf { to: PhysAddr::vram(0), kind: request.kind, flags: request.flags, comptag: 0 };
        let template = Template { base: F::encode_pte(&Pte::Leaf(base))?, step: F::leaf_step(PAGE_BYTES) };
        let range = self.choose(request, bytes)?;
        let pieces = Pieces::new(request, range.start, chip.page_sizes);

        self.record_pieces(&pieces, request, &range)?;
        let number = self.next_job;
        let scope = self.scope();
        let tables_first = chip.leaf_512m_needs_tables_first;
        let mut planner = Planner::new(&mut self.tree, &self.va, pool, number, self.pdb, scope, tables_first);
        let words = Words { base, start: range.start };
        let planned = planner.map(&pieces, range.clone(), words);
        let Planner { init, clear, main, held, done, .. } = planner;

        let finished = planned.and_then(|()| {
            let late = match request.backing {
                Backing::Extents(_) => None,
                Backing::Late { pages, page } => Some(Late { pages, page, end: self.config.vram_bytes / PAGE_BYTES }),
            };
            self.make_job([clear, main], template, late)
        });
        match finished {
            Ok(job) => self.enter(pool, job, range, Change::Map, held, init),
            Err(why) => {
                self.undo_map(pool, number, &range, done, &held);
                Err(why)
            }
        }
    }

    /// Plans to unmap every mapping in `range`, none of which may reach beyond it.
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn plan_unmap<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        range: Range<u64>,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        self.open(pool)?;
        let pieces = self.pieces_to_unmap(&range)?;
        // What lies before the first and behind the last piece is nobody's business.
        let range = match (pieces.first(), pieces.last()) {
            (Some((first, _)), Some((last, _))) => first.start..last.end,
            _ => range,
        };
        let what = Invalidate { pdb: self.pdb, depth: Depth::PteOnly, scope: self.scope(), ack: Acknowledge::Globally };
        // Room to put them back, where the rest of the plan fails.
        self.va.reserve(pieces.len())?;
        for (range, _) in pieces.iter() {
            self.va.remove(range.start);
        }
        let mut planner = Unplanner::new(&mut self.tree, &self.va, OwnedRound::new(what));
        let planned = planner.unmap(&pieces);
        let Unplanner { main, held, done, .. } = planner;
        let clear = OwnedRound::new(what);
        let template = Template { base: 0, step: 0 };
        match planned.and_then(|()| self.make_job([clear, main], template, None)) {
            Ok(job) => self.enter(pool, job, range, Change::Unmap(pieces), held, List::new()),
            Err(why) => {
                remap_mirror(&mut self.tree, &pieces, done, &held.dropped);
                let _ = self.reinsert(&pieces);
                Err(why)
            }
        }
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
        range: Range<u64>,
    ) -> Result<Job, PrepareError> {
        self.plan_unmap(pool, range)?.init(memory)
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

    /// Unmaps the mappings in `range` for good: prepare, execute, commit.
    ///
    /// # Errors
    /// As [`map_pages`](Self::map_pages).
    pub fn unmap_pages<H: Hardware, P: TablePool>(
        &mut self,
        hardware: &mut H,
        pool: &mut P,
        range: Range<u64>,
    ) -> Result<Mapping, MapError> {
        let job = self.prepare_unmap(hardware, pool, range)?;
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
        // Addresses that an uncommitted unmap still holds are passed over; each pass leaves one such job behind.
        for _ in 0..=self.jobs.len() {
            let wish = wish.clone().within(window.clone());
            let mut start = self.va.find(&wish).map_err(PrepareError::NoVa)?.raw();
            if start % smallest != 0 {
                // Found only with the alignment of a page that this kind cannot use.
                start = self.va.find(&wish.align(smallest)).map_err(PrepareError::NoVa)?.raw();
            }
            let range = start..start + bytes;
            let held = self.jobs.iter().map(|(_, record)| &record.range);
            match held.filter(|held| held.start < range.end && range.start < held.end).map(|held| held.end).max() {
                None => return Ok(range),
                Some(end) => window.start = end.max(window.start),
            }
            if window.start >= window.end {
                break;
            }
        }
        Err(PrepareError::NoVa(VaError::NoSpace { largest: 0 }))
    }

    /// Enters the pieces of a mapping into the records.
    fn record_pieces(
        &mut self,
        pieces: &Pieces<'_>,
        request: &MapRequest<'_>,
        range: &Range<u64>,
    ) -> Result<(), PrepareError> {
        let busy = self.va.overlapping(range.clone()).next().map(|(with, _)| with);
        if let Some(with) = busy {
            return Err(PrepareError::Busy { with });
        }
        self.va.reserve(pieces.clone().count())?;
        for (va, bytes, page, to) in pieces.clone() {
            let piece = Piece { page, to, kind: request.kind, flags: request.flags, mapping: range.start };
            if let Err((why, _)) = self.va.insert(va..va + bytes, piece) {
                while self.take_piece(range).is_some() {}
                return Err(match why {
                    InsertError::Overlap { with } => PrepareError::Busy { with },
                    InsertError::OutOfLimits => PrepareError::BeyondVa { end: va + bytes, limit: self.va.limits().end },
                    InsertError::Invalid(why) => PrepareError::NoVa(VaError::InvalidRequest(why)),
                    InsertError::NoRoom => PrepareError::NoMemory(NoMemory),
                });
            }
        }
        Ok(())
    }

    /// The pieces in `range`, checked to be whole mappings.
    fn pieces_to_unmap(&self, range: &Range<u64>) -> Result<List<(Range<u64>, Piece)>, PrepareError> {
        if range.start >= range.end {
            return Err(PrepareError::Empty);
        }
        super::request::aligned("address", range.start, PAGE_BYTES)?;
        super::request::aligned("end", range.end, PAGE_BYTES)?;
        let mut pieces = List::new();
        pieces.reserve_exact(self.va.overlapping(range.clone()).count())?;
        for (piece, what) in self.va.overlapping(range.clone()) {
            pieces.push((piece, *what))?;
        }
        let (Some((_, first)), Some((end, last))) = (pieces.first(), pieces.last().map(|(r, p)| (r.end, *p))) else {
            return Err(PrepareError::NotMapped { range: range.clone() });
        };
        let end = self.end_of_mapping(end, last.mapping);
        if first.mapping < range.start {
            return Err(PrepareError::CutsMapping {
                mapping: first.mapping..self.end_of_mapping(range.start, first.mapping),
            });
        }
        if end > range.end {
            return Err(PrepareError::CutsMapping { mapping: last.mapping..end });
        }
        Ok(pieces)
    }

    /// Where the mapping that starts at `mapping` ends, given one of its addresses or ends.
    fn end_of_mapping(&self, from: u64, mapping: u64) -> u64 {
        let rest = self.va.overlapping(from..u64::MAX);
        rest.take_while(|(_, piece)| piece.mapping == mapping).map(|(range, _)| range.end).last().unwrap_or(from)
    }

    /// A job of the rounds that have something to do.
    fn make_job(&self, planned: [OwnedRound; 2], template: Template, late: Option<Late>) -> Result<Job, PrepareError> {
        let mut rounds = List::new();
        rounds.reserve_exact(2)?;
        for round in planned {
            if !round.is_empty() {
                rounds.push(round)?;
            }
        }
        let progress = Shared::new(Progress::new())?;
        let token = Token { record: u32::MAX, progress };
        let limits = self.config.limits;
        Ok(Job { token, range: 0..0, after: List::new(), rounds, template, late, limits, round: 0, written: false })
    }

    /// Enters a planned job into the books and tells it for whom to wait.
    fn enter<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        mut job: Job,
        range: Range<u64>,
        change: Change,
        held: Holdings,
        init: List<Write>,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        let number = self.next_job;
        let waiting = range.clone();
        let record = Record { number, progress: job.token.progress.clone(), range, change, held };
        let waited = |earlier: &&Record| earlier.is_waiting() && record.waits_for(earlier);
        let reserved = self
            .jobs
            .iter()
            .map(|(_, earlier)| earlier)
            .filter(waited)
            .try_for_each(|earlier| job.after.push(earlier.progress.clone()));
        let reserved = reserved.and_then(|()| self.jobs.reserve(1));
        let entered = match reserved {
            Ok(()) => self.jobs.insert_within(record),
            Err(_) => Err(record),
        };
        match entered {
            Ok(index) => {
                job.token.record = index;
                job.range = waiting;
                self.next_job += 1;
                Ok(Plan { vmm: self, pool, init, job: Some(job) })
            }
            Err(record) => {
                // The pieces of an unmap find the room that was made for them.
                let _ = self.undo(pool, &record);
                record.progress.set(State::Closed);
                Err(NoMemory.into())
            }
        }
    }

    /// Takes the first piece of `range` out of the records.
    pub(super) fn take_piece(&mut self, range: &Range<u64>) -> Option<(Range<u64>, Piece)> {
        let (found, _) = self.va.overlapping(range.clone()).next()?;
        self.va.remove(found.start)
    }

    pub(super) fn reinsert(&mut self, pieces: &[(Range<u64>, Piece)]) -> Result<(), NoMemory> {
        for (range, piece) in pieces {
            self.va.insert(range.clone(), *piece).map_err(|_| NoMemory)?;
        }
        Ok(())
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
