//! The parts of one GPU, put together: its chip, what its memory holds, who has which page of it, and which roots are in
//! use by whom.
//!
//! [`GpuMm`] is the planner's side: it has no lock, and no registers. What needs the device is given it for the call.
//!
//! ```
//! use gmmu::addr::TableAddr;
//! use gmmu::format::V3;
//! use gmmu::instance::Bar;
//! use gmmu::mm::{FbSource, GpuMm};
//! use gmmu::mmio::Mmio;
//! use gmmu::tlb::Limits;
//! use gmmu::vmm::Use;
//! use gmmu::vram::Request;
//! use gmmu_sim::{Config, Gpu};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100"))?)?;
//! let mut mm = GpuMm::probe(&mut card, FbSource::Registers, &[])?;
//! let mut space = mm.create_space::<V3, _>(mm.space_config(Use::Bar), &mut card)?;
//!
//! // BAR1 goes through the space from here on.
//! let vram = mm.vram().ok_or("no video memory")?;
//! let block = TableAddr::from(vram.alloc_contiguous(&Request::new(4096).build()?)?.start());
//! let bar1 = mm.bind_bar(&mut card, Bar::Bar1, block, space.root(), Limits::default())?;
//! assert_eq!(mm.roots().collect::<Vec<_>>(), [(space.pdb(), 1)]);
//!
//! // A space that an instance block names is not closed.
//! let (space, why) = mm.close_space(space, &mut card).err().ok_or("closed while bound")?;
//! assert!(why.to_string().contains("is still named by instance blocks (1 of them)"));
//! mm.unbind_bar(&mut card, bar1, Limits::default()).map_err(|(_, why)| why)?;
//! mm.close_space(space, &mut card).map_err(|(_, why)| why)?;
//! # Ok(())
//! # }
//! ```

mod bind;
mod root;
mod space;

pub use bind::{BarBind, BindError, BindFailed, ChannelBind, ChannelUse};
pub use root::{Root, RootError};
pub use space::{CloseSpaceError, Space};

use crate::addr::{Aperture, TableAddr};
use crate::chip::Chip;
use crate::device::{Bar0, Clock, NoTableMemory, SysPath};
use crate::fb::{self, FbError, FbLayout, GspRegion, Keep, LayoutError, LayoutInput};
use crate::instance::Bar;
use crate::mmio::Mmio;
use crate::storage::{List, NoMemory, Shared};
use crate::vmm::{AdoptError, PrepareError, Use};
use crate::vram::{NewError, TablePages, Vram, VramTables};
use root::{Reach, Roots};

/// Who says which video memory is usable.
#[derive(Clone, Copy, Debug)]
pub enum FbSource<'a> {
    /// The registers alone: what lies below the lowest carveout.
    Registers,
    /// The GSP's firmware; what registers say is taken stays out all the same.
    Gsp(&'a [GspRegion]),
}

/// The parts of a GPU cannot be put together, or a space cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MmError {
    /// The size of video memory, or what is taken from it, cannot be told.
    #[error(transparent)]
    Fb(#[from] FbError),
    /// What is said of video memory makes no sense.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// There is no allocator over what is usable.
    #[error(transparent)]
    Vram(#[from] NewError),
    /// The root cannot be used.
    #[error(transparent)]
    Root(#[from] RootError),
    /// No memory for a root.
    #[error(transparent)]
    NoTable(#[from] NoTableMemory),
    /// The address space cannot be made.
    #[error(transparent)]
    Space(#[from] PrepareError),
    /// The address space cannot be taken over.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The space is for another chip.
    #[error("the space is for {wanted}, but this GPU is {chip}")]
    OtherChip {
        /// The chip that this is.
        chip: &'static str,
        /// The chip that the space is for.
        wanted: &'static str,
    },
    /// The GPU's own pool was asked for, which a chip without video memory does not have.
    #[error("{chip} has no video memory: name a pool of system memory for the space's tables")]
    NoPool {
        /// The chip.
        chip: &'static str,
    },
    /// No memory for the library's own records.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}

/// A GPU whose parts are still in use cannot be let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address spaces are live: {roots} roots, named by instance blocks {binds} times")]
pub struct Busy {
    /// Registered roots.
    pub roots: usize,
    /// Instance blocks that name them.
    pub binds: u64,
}

/// The state of the root that a BAR goes through.
type BarSlot = Option<Shared<root::State>>;

/// Video memory: what it holds, and who has its pages.
#[derive(Debug)]
struct Memory {
    layout: FbLayout,
    vram: Vram,
    tables: TablePages,
}

/// One GPU, for whoever plans what its memory and its address spaces are used for.
#[derive(Debug)]
pub struct GpuMm {
    chip: &'static Chip,
    /// None on a chip without video memory.
    memory: Option<Memory>,
    roots: Roots,
    bars: [BarSlot; 2],
    /// Whether the bus writes an entry in one store.
    whole_words: bool,
}

impl GpuMm {
    /// Asks the card for what registers say of its memory, and puts the parts together. Only reads. `keep` is memory that
    /// the driver keeps from its own allocator. A chip without video memory has no layout, whatever `source` says.
    ///
    /// # Errors
    /// [`MmError::Fb`], [`Layout`](MmError::Layout), [`Vram`](MmError::Vram), [`NoMemory`](MmError::NoMemory).
    pub fn probe<B: Bar0 + Clock, S: SysPath<B>>(
        mmio: &mut Mmio<B, S>,
        source: FbSource<'_>,
        keep: &[Keep],
    ) -> Result<Self, MmError> {
        let chip = mmio.chip();
        let whole_words = mmio.bar0().has_64bit();
        let Some(window) = chip.window else { return Ok(Self { whole_words, ..Self::new(chip, None)? }) };
        let total = fb::vram_bytes(mmio.bar0(), chip)?;
        let carveouts = fb::carveouts(mmio.bar0(), chip, total)?;
        let reach = chip.reach(Aperture::Vram).min(window.reach());
        let input = LayoutInput { total, reach, carveouts: &carveouts, keep };
        let layout = match source {
            FbSource::Registers => FbLayout::from_registers(&input)?,
            FbSource::Gsp(regions) => FbLayout::from_gsp(&input, regions)?,
        };
        Ok(Self { whole_words, ..Self::new(chip, Some(layout))? })
    }

    /// Puts the parts together: an allocator over everything that is usable in `layout`. None is for a chip without video
    /// memory. The bus is taken to have 64-bit stores.
    ///
    /// # Errors
    /// [`MmError::Vram`], [`NoMemory`](MmError::NoMemory).
    pub fn new(chip: &'static Chip, layout: Option<FbLayout>) -> Result<Self, MmError> {
        let memory = match layout {
            Some(layout) => {
                let mut usable = List::new();
                for range in layout.usable() {
                    usable.push(range)?;
                }
                let vram = Vram::new(&usable)?;
                let tables = TablePages::for_vram(&vram)?;
                Some(Memory { layout, vram, tables })
            }
            None => None,
        };
        Ok(Self { chip, memory, roots: Roots::default(), bars: [None, None], whole_words: true })
    }

    /// What the GPU is.
    #[must_use]
    pub const fn chip(&self) -> &'static Chip {
        self.chip
    }

    /// Bytes of video memory, usable or not; 0 on a chip without.
    #[must_use]
    pub const fn vram_bytes(&self) -> u64 {
        match &self.memory {
            Some(memory) => memory.layout.total_bytes(),
            None => 0,
        }
    }

    /// What is where in video memory; none on a chip without.
    #[must_use]
    pub const fn layout(&self) -> Option<&FbLayout> {
        match &self.memory {
            Some(memory) => Some(&memory.layout),
            None => None,
        }
    }

    /// Who has which page of video memory; none on a chip without.
    pub const fn vram(&mut self) -> Option<&mut Vram> {
        match &mut self.memory {
            Some(memory) => Some(&mut memory.vram),
            None => None,
        }
    }

    /// Where tables in video memory come from; none on a chip without.
    pub fn pool(&mut self) -> Option<VramTables<'_>> {
        self.memory.as_mut().map(|memory| memory.tables.pool(&mut memory.vram))
    }

    const fn reach(&self) -> Reach {
        Reach { chip: self.chip, vram_bytes: self.vram_bytes() }
    }

    /// Enters a root into the books, for an address space that is not made by [`create_space`](Self::create_space): one
    /// of the firmware's, or another driver's. A root that is registered for [`Use::Bar`] is bound to BARs alone.
    ///
    /// # Errors
    /// [`RootError::Taken`] and others; nothing was changed.
    pub fn register(&mut self, pdb: TableAddr, used_by: Use) -> Result<Root, RootError> {
        let reach = self.reach();
        self.roots.register(reach, pdb, used_by)
    }

    /// Strikes a root out of the books.
    ///
    /// # Errors
    /// The root, and why: [`RootError::Bound`], [`Foreign`](RootError::Foreign).
    pub fn unregister(&mut self, root: Root) -> Result<(), (Root, RootError)> {
        self.roots.unregister(root)
    }

    /// All roots in use, by address, with how many instance blocks name each.
    pub fn roots(&self) -> impl Iterator<Item = (TableAddr, u32)> + '_ {
        self.roots.iter()
    }

    /// Lets the GPU go.
    ///
    /// # Errors
    /// All of it, and [`Busy`] while roots are in use: their tables may be live, and so is the memory that they are in.
    #[expect(clippy::result_large_err, reason = "the GPU comes back by value")]
    pub fn close(self) -> Result<(), (Self, Busy)> {
        let roots = self.roots().count();
        let binds = self.roots().map(|(_, binds)| u64::from(binds)).sum();
        if roots == 0 && self.bar(Bar::Bar1).is_none() && self.bar(Bar::Bar2).is_none() {
            return Ok(());
        }
        Err((self, Busy { roots, binds }))
    }
}
