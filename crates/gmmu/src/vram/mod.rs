//! The physical allocator: who has which 4 KiB chunk of video memory.
//!
//! One [`Vram`] stands for all memory of a GPU that may be used: regions with any base and size, with holes between
//! them. A [`Request`] says what is needed; the answer is a list of [`Extent`]s, or one [`Contiguous`]. The allocator is
//! **complete**: a request succeeds if and only if some placement exists, and where none does, the error says how much
//! there would have been. A call that fails has changed nothing.
//!
//! # Which pieces
//! A *run* is a longest stretch of free chunks, cut to the request's range; its *usable part* goes from its first
//! aligned chunk as far as whole granules reach. A request for one piece succeeds iff some usable part is long enough.
//! A request for at most `n` pieces succeeds iff the `n` longest usable parts together are: and it gets the fewest
//! pieces that can hold it. As long as the rest does not fit one piece, the longest usable part is taken whole (among
//! equals the lowest, or for [`Place::High`] the highest); the rest is placed as the request says. Only with
//! [`Cleared::Require`] the cleared runs are taken in the order of their addresses where that stays within `n`.
//!
//! # How it works
//! Two bits per chunk (free, and cleared or start of an allocation; file `cells`) are the truth. Above them, per 2 MiB:
//! counts (`leaf`), sets of leaves by what they can hold (`sets`), and a tree of the longest runs (`tree`), 2.3 bits
//! per chunk in all. All of it is taken from the heap at construction; nothing is taken or given back afterwards.
//!
//! Operations on single chunks touch a few words whatever happened before. They only note that a leaf's runs changed, and
//! so do operations on more than two leaves; a search for a longer run first looks again at the leaves that changed since
//! the last one, about 50 ns each. All others keep the runs exact as they go, most often from the old runs alone. So
//! every operation pays for at most a few such looks, but one search may pay for many operations: after every chunk of
//! 80 GiB was touched one by one, the next search for a run looks at 40,960 leaves once, about 2 ms. Who cannot have
//! that calls [`Vram::settle`] at a better moment.
//!
//! ```
//! use gmmu::addr::VramAddr;
//! use gmmu::vram::{AllocError, Extent, Request, State, Vram};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut vram = Vram::new(&[VramAddr::new(0)..VramAddr::new(8 << 20)])?;
//! let table = vram.alloc_contiguous(&Request::new(12 << 10).align(64 << 10).build()?)?;
//! let mut pieces = [Extent::default(); 4];
//! let buffer = vram.alloc(&Request::new(4 << 20).build()?, &mut pieces)?;
//! assert_eq!(buffer.len(), 1);
//! let too_much = Request::new(1 << 30).build()?;
//! assert_eq!(vram.alloc_contiguous(&too_much), Err(AllocError::NoSpace { largest: 0x3f_d000 }));
//! vram.free(table.into(), State::Dirty)?;
//! assert!(vram.free(table.into(), State::Dirty).is_err());
//! # Ok(())
//! # }
//! ```

mod alloc;
mod bits;
mod cells;
mod check;
mod extent;
mod free;
mod leaf;
mod refresh;
mod request;
mod search;
mod sets;
mod single;
mod stats;
mod tables;
mod tree;
mod withdraw;

pub use check::Broken;
pub use extent::{Contiguous, Extent, Quarantined, State};
pub use request::{AllocError, Cleared, FreeError, InvalidRequest, Place, Request, RequestBuilder};
pub use stats::{Stats, ORDERS};
pub use tables::{TablePages, VramTables, PIECE_BYTES};
pub use withdraw::{ReserveError, RetireError, Retired};

use crate::addr::{VramAddr, PAGE_BYTES};
use crate::storage::{List, NoMemory};
use cells::{Align, Cell};
use core::ops::Range;
use leaf::Leaf;
use sets::Sets;
use tree::Tree;

/// The largest span of addresses, from the lowest region to the end of the highest, that one allocator manages: just
/// below 8 TiB.
pub const SPAN_MAX_BYTES: u64 = (1 << 43) - 2 * (2 << 20);

/// Pages that can be retired unless [`Vram::with_retirable`] says otherwise. GPUs remap or retire some hundred at most.
pub const RETIRABLE_DEFAULT: usize = 1024;

/// Why there is no allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NewError {
    /// No memory for the allocator's own records.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// The regions have not one whole 4 KiB chunk.
    #[error("no region holds a whole 4 KiB chunk")]
    Empty,
    /// Two regions overlap.
    #[error("two regions overlap at {at}")]
    Overlap {
        /// First address that both have.
        at: VramAddr,
    },
    /// The regions lie too far apart.
    #[error("the regions span {bytes:#x} bytes; at most {SPAN_MAX_BYTES:#x} can be managed")]
    TooLarge {
        /// Distance from the lowest start to the highest end.
        bytes: u64,
    },
}

/// The allocator for the video memory of one GPU. See the [module](self) for what it promises.
#[derive(Debug)]
pub struct Vram {
    /// Absolute number of chunk 0; a multiple of 512.
    origin: u64,
    /// Chunks from there to the end of the last leaf; a multiple of 512.
    end: u32,
    /// The managed chunks: start and end of each region, in order, with gaps between them.
    regions: List<(u32, u32)>,
    cells: List<Cell>,
    leaves: List<Leaf>,
    sets: Sets,
    tree: Tree,
    /// Retired pages in order: chunk number times two, plus one while it is still in use.
    retired: List<u32>,
    /// Managed chunks, without the retired ones that nobody uses.
    total: u32,
    /// Free chunks.
    free: u32,
    /// Free chunks known to be zero.
    clear: u32,
    quarantined: u64,
    /// Words of `cells` and `leaves` read or written so far.
    touched: u64,
}

impl Vram {
    /// An allocator over `regions`, in any order; all of it free, nothing known to be zero. Chunks that a region holds only
    /// partly are left out.
    ///
    /// # Errors
    /// See [`NewError`].
    pub fn new(regions: &[Range<VramAddr>]) -> Result<Self, NewError> {
        Self::with_retirable(regions, RETIRABLE_DEFAULT)
    }

    /// As [`new`](Self::new), with room for `retirable` calls of [`retire`](Self::retire), 4 bytes each.
    ///
    /// # Errors
    /// See [`NewError`].
    pub fn with_retirable(regions: &[Range<VramAddr>], retirable: usize) -> Result<Self, NewError> {
        let whole = |region: &Range<VramAddr>| {
            let (lo, hi) = (region.start.raw().div_ceil(PAGE_BYTES), region.end.raw() / PAGE_BYTES);
            (lo < hi).then_some((lo, hi))
        };
        let parts = || regions.iter().filter_map(whole);
        let lo = parts().map(|(lo, _)| lo).min().ok_or(NewError::Empty)?;
        let hi = parts().map(|(_, hi)| hi).max().ok_or(NewError::Empty)?;
        let too_large = NewError::TooLarge { bytes: (hi - lo) * PAGE_BYTES };
        if hi - lo > SPAN_MAX_BYTES / PAGE_BYTES {
            return Err(too_large);
        }
        let origin = lo / u64::from(leaf::CHUNKS) * u64::from(leaf::CHUNKS);
        let local = |chunk: u64| u32::try_from(chunk - origin).map_err(|_| too_large);
        let mut managed = List::new();
        managed.reserve_exact(parts().count())?;
        for (lo, hi) in parts() {
            managed.push((local(lo)?, local(hi)?))?;
        }
        normalise(&mut managed).map_err(|chunk| NewError::Overlap { at: address(origin, chunk) })?;
        let count = local(hi)?.div_ceil(leaf::CHUNKS);
        let mut vram = Self {
            origin,
            end: count * leaf::CHUNKS,
            regions: managed,
            cells: List::new(),
            leaves: List::new(),
            sets: Sets::new(leaf::set::COUNT, count)?,
            tree: Tree::new(count)?,
            retired: List::new(),
            total: 0,
            free: 0,
            clear: 0,
            quarantined: 0,
            touched: 0,
        };
        vram.cells.extend_with((count * leaf::WORDS) as usize, &Cell::FOREIGN)?;
        vram.leaves.extend_with(count as usize, &Leaf::FULL)?;
        vram.retired.reserve_exact(retirable)?;
        vram.open_regions();
        Ok(vram)
    }

    /// Makes the managed chunks free and computes everything else.
    fn open_regions(&mut self) {
        let Self { regions, cells, leaves, .. } = self;
        for &(lo, hi) in regions.iter() {
            for (word, mask) in cells::spans(lo, hi - lo) {
                if let Some(cell) = cells.as_mut_slice().get_mut(word as usize) {
                    cell.free |= mask;
                    cell.mark &= !mask;
                }
            }
            self.total += hi - lo;
        }
        let words = leaf::WORDS as usize;
        for (leaf, cells) in leaves.as_mut_slice().iter_mut().zip(cells.chunks(words)) {
            if cells.iter().any(|cell| cell.free != u64::MAX) {
                leaf.set_special();
            }
        }
        self.rebuild();
    }

    /// Bytes of heap that the allocator holds, all taken at construction.
    #[must_use]
    pub fn metadata_bytes(&self) -> usize {
        self.regions.footprint()
            + self.cells.footprint()
            + self.leaves.footprint()
            + self.sets.footprint()
            + self.tree.footprint()
            + self.retired.footprint()
    }

    /// Words of the allocator's records that were read or written since construction: exact, the same on every machine.
    #[must_use]
    pub const fn words_touched(&self) -> u64 {
        self.touched + self.sets.touched
    }

    /// Bytes that are managed: handed out, in quarantine or free, but not retired.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.total as u64 * PAGE_BYTES
    }

    /// Bytes that are free.
    #[must_use]
    pub const fn free_bytes(&self) -> u64 {
        self.free as u64 * PAGE_BYTES
    }

    /// Bytes that are free and known to be zero.
    #[must_use]
    pub const fn cleared_bytes(&self) -> u64 {
        self.clear as u64 * PAGE_BYTES
    }

    /// Bytes in quarantine: handed out, but waiting for the GPU to forget them.
    #[must_use]
    pub const fn quarantined_bytes(&self) -> u64 {
        self.quarantined * PAGE_BYTES
    }

    /// The managed regions in order, neighbours put together.
    pub fn regions(&self) -> impl Iterator<Item = Range<VramAddr>> + '_ {
        self.regions.iter().map(|&(lo, hi)| address(self.origin, lo)..address(self.origin, hi))
    }

    fn address(&self, chunk: u32) -> VramAddr {
        address(self.origin, chunk)
    }

    fn extent(&self, chunk: u32, len: u32) -> Extent {
        Extent::new(self.address(chunk), u64::from(len) * PAGE_BYTES)
    }

    const fn align(&self, mask: u64) -> Align {
        Align::new(mask, self.origin)
    }
}

/// The address of a chunk. Chunks lie below the end of a region, so the product fits.
const fn address(origin: u64, chunk: u32) -> VramAddr {
    VramAddr::new((origin + chunk as u64) * PAGE_BYTES)
}

/// Sorts the regions and puts neighbours together; the first chunk that two of them have is an error.
fn normalise(regions: &mut List<(u32, u32)>) -> Result<(), u32> {
    regions.as_mut_slice().sort_unstable();
    let mut index = 1;
    while let (Some(&(lo, end)), Some(&(next, hi))) = (regions.get(index - 1), regions.get(index)) {
        if next < end {
            return Err(next);
        }
        if next == end {
            regions.remove(index);
            if let Some(joined) = regions.as_mut_slice().get_mut(index - 1) {
                *joined = (lo, hi);
            }
        } else {
            index += 1;
        }
    }
    Ok(())
}
