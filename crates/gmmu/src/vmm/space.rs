//! One address space: its books, and the jobs that change it.

use super::change::Scraps;
use super::execute::Flush;
use super::job::State;
use super::piece::Piece;
use super::plan::Nothing;
use super::rebind::Evictee;
use super::record::Record;
use super::request::PrepareError;
use crate::addr::{PhysAddr, TableAddr, PAGE_BYTES};
use crate::chip::{Chip, PageSizes};
use crate::device::{DeviceError, Run, Scope, TableMemory, TablePool, TableRead};
use crate::format::{Format, Leaf, Pte};
use crate::storage::{List, NoMemory, Owned, Slab};
use crate::tlb::Limits;
use crate::tree::{Tree, DIRECTORY_BYTES};
use crate::va::windows::Windows;
use crate::va::VaSpace;
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
///
/// ```
/// # use gmmu::addr::{PhysAddr, VramAddr};
/// # use gmmu::format::V3;
/// # use gmmu::mmio::Mmio;
/// # use gmmu::vmm::{Extent, MapRequest, PrepareError, SpaceConfig, Use, Vmm};
/// # use gmmu::vram::{TablePages, Vram};
/// # use gmmu_sim::{Config, Gpu};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100"))?)?;
/// # let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(1 << 30)])?;
/// # let mut pages = TablePages::for_vram(&vram)?;
/// # let mut pool = pages.pool(&mut vram);
/// // A space in which no job waits for another.
/// let config = SpaceConfig { queues: false, ..SpaceConfig::new(card.chip(), card.vram_bytes(), Use::Channel) };
/// let mut space = Vmm::<V3>::create(config, &mut card, &mut pool)?;
/// let extents = [Extent { to: PhysAddr::vram(8 << 30), bytes: 2 << 20 }];
/// let map = space.prepare_map(&mut card, &mut pool, &MapRequest::extents(&extents).at(0x4000_0000))?;
/// let early = space.prepare_unmap(&mut card, &mut pool, 0x4000_0000..0x4020_0000);
/// assert!(matches!(early, Err(PrepareError::Pending { range }) if range == (0x4000_0000..0x4020_0000)));
/// let receipt = map.execute(&mut card).map_err(|failed| failed.why)?;
/// space.prepare_unmap(&mut card, &mut pool, 0x4000_0000..0x4020_0000)?;
/// # space.commit(&mut pool, receipt).map_err(|(_, why)| why)?;
/// # Ok(())
/// # }
/// ```
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
    /// Whether the bus writes an entry in one store ([`Bar0::has_64bit`](crate::device::Bar0::has_64bit), or plain
    /// memory). Where it does not, live entries that change in both halves are cleared in a round before.
    pub whole_words: bool,
    /// Whether a job may be prepared that has to wait for an earlier one. Where not, it is refused with
    /// [`PrepareError::Pending`], and every job there is can be executed at once.
    pub queues: bool,
    /// What its jobs do wrong.
    #[cfg(feature = "sabotage")]
    pub mistakes: super::Mistakes,
}

impl SpaceConfig {
    /// A space on a bus with 64-bit stores, with the usual limits, where jobs queue.
    #[must_use]
    pub fn new(chip: &'static Chip, vram_bytes: u64, used_by: Use) -> Self {
        Self {
            chip,
            vram_bytes,
            used_by,
            limits: Limits::default(),
            whole_words: true,
            queues: true,
            #[cfg(feature = "sabotage")]
            mistakes: super::Mistakes::default(),
        }
    }

    /// The page sizes of a space: those of its chip. Where a 512M leaf has to follow a table of invalid entries directly,
    /// a bus that splits words cannot write one: for a moment the entry would point to another table.
    #[must_use]
    pub const fn page_sizes(&self) -> PageSizes {
        if self.chip.leaf_512m_needs_tables_first && !self.whole_words {
            return PageSizes::UP_TO_2M;
        }
        self.chip.page_sizes
    }
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
    /// How many of both firmware made ([`Vmm::adopt`]).
    pub foreign_tables: usize,
    /// Bytes of heap that the mirror of the tables takes.
    pub mirror_bytes: usize,
    /// Bytes of heap that the records of what is mapped take.
    pub record_bytes: usize,
    /// Jobs that were prepared and neither committed nor cancelled.
    pub jobs: usize,
    /// Jobs of these that were dropped half-way: what they own stays unused until the space is closed.
    pub quarantined: usize,
}

/// A GPU address space: which tables and mappings it has after all prepared jobs, and how to change them.
///
/// One live `Vmm` per root. Nothing is read back from the GPU, but once by [`adopt`](Self::adopt); what the books say is what
/// was written.
#[derive(Debug)]
pub struct Vmm<F: Format> {
    pub(super) pdb: TableAddr,
    pub(super) config: SpaceConfig,
    pub(super) tree: Tree<F>,
    pub(super) va: VaSpace<Piece>,
    /// What reads as 0 where nothing is mapped.
    pub(super) sparse: Windows,
    pub(super) jobs: Slab<Owned<Record>, 8>,
    /// The mappings that can be zapped, by their numbers less one, and the numbers given away by the plan at hand.
    pub(super) evictees: Slab<Evictee, 8>,
    pub(super) numbered: List<u32>,
    pub(super) nothing: Nothing,
    pub(super) scraps: Scraps,
    /// Whether the root came from the pool.
    pub(super) owns_root: bool,
    /// The invalidate of a `close` that was begun: the tables may be unlinked.
    pub(super) closing: Option<Flush>,
    pub(super) next_job: u64,
    /// Whether the tables are gone, and have to be written anew before anything else.
    pub(super) lost: bool,
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
        let vmm = Self::over(config, pdb)?;
        memory.write_run(pdb, Run { first: 0, step: 0, count: 512 })?;
        memory.order()?;
        Ok(vmm)
    }

    /// A space over a root that says nothing yet.
    pub(super) fn over(config: SpaceConfig, pdb: TableAddr) -> Result<Self, PrepareError> {
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
        let sparse = Windows::new();
        Ok(Self {
            pdb,
            config,
            tree,
            va,
            sparse,
            jobs: Slab::new(),
            evictees: Slab::new(),
            numbered: List::new(),
            nothing: Nothing::new::<F>()?,
            scraps: Scraps::default(),
            owns_root: false,
            closing: None,
            next_job: 1,
            lost: false,
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

    /// The piece that is mapped at `va` after all prepared jobs, with its addresses. Takes the same time whatever is mapped,
    /// or nearly so.
    #[must_use]
    pub fn piece_at(&self, va: u64) -> Option<(Range<u64>, &Piece)> {
        self.va.get(va)
    }

    /// Numbers about the space.
    #[must_use]
    pub fn census(&self) -> Census {
        let (directories, leaf_tables) = self.tree.counts();
        let quarantined = self.jobs.iter().filter(|(_, record)| record.state() == State::Lost).count();
        let (mirror_bytes, record_bytes, jobs) = (self.tree.footprint(), self.va.footprint(), self.jobs.len());
        let foreign_tables = self.tree.foreign();
        Census { directories, leaf_tables, foreign_tables, mirror_bytes, record_bytes, jobs, quarantined }
    }

    /// What the tables in memory say of `va`, level by level.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn read_mapping<M: TableRead>(&self, memory: &mut M, va: u64) -> Result<Walk, WalkError> {
        walk::<F, M>(memory, self.pdb, self.config.page_sizes(), va)
    }

    /// Sees to jobs whose owner has gone, and refuses where the space is being closed.
    pub(super) fn open<P: TablePool>(&mut self, pool: &mut P) -> Result<(), PrepareError> {
        if self.closing.is_some() {
            return Err(PrepareError::Closing);
        }
        if self.lost {
            return Err(PrepareError::NotRestored);
        }
        self.drop_numbers();
        self.sweep(pool);
        Ok(())
    }

    pub(super) const fn scope(&self) -> Scope {
        match self.config.used_by {
            Use::Channel => Scope::All,
            Use::Bar => Scope::HubOnly,
        }
    }

    /// The page sizes of the space, for those who read the tables.
    #[must_use]
    pub const fn page_sizes(&self) -> PageSizes {
        self.config.page_sizes()
    }

    /// All tables that the space has, with their sizes: what it holds of its pool, the root included, and leaf tables
    /// of jobs that are still open apart. Those that firmware made are [`foreign_tables`](Self::foreign_tables).
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn tables(&self) -> Result<List<(TableAddr, u64)>, NoMemory> {
        self.tree.addresses(false)
    }
}
