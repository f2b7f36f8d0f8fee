//! What can be asked of an address space, and the pieces that a mapping falls into.

use crate::addr::{Aperture, PageSize, PhysAddr};
use crate::chip::PageSizes;
use crate::device::{DeviceError, NoTableMemory};
use crate::format::{EncodeError, Flags, Kind, MmuVersion};
use crate::storage::NoMemory;
use crate::va::VaError;
use core::ops::Range;

/// A stretch of contiguous physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first byte.
    pub to: PhysAddr,
    /// Its length, a multiple of 4 KiB.
    pub bytes: u64,
}

/// Where a mapping goes in the address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Wherever there is room.
    Anywhere,
    /// Exactly there.
    At(u64),
    /// Wherever there is room in the range.
    Within(Range<u64>),
}

/// What a mapping maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing<'a> {
    /// These stretches, one behind the other.
    Extents(&'a [Extent]),
    /// Frames that come between prepare and execute: `pages` of size `page`, in video memory.
    Late {
        /// How many pages.
        pages: u64,
        /// Their size.
        page: PageSize,
    },
}

/// A mapping to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRequest<'a> {
    /// Where.
    pub place: Place,
    /// What.
    pub backing: Backing<'a>,
    /// The page size; `None` takes the largest that fits, piece by piece. Frames that come late have their own.
    pub page: Option<PageSize>,
    /// Surface kind.
    pub kind: Kind,
    /// Permissions and caching.
    pub flags: Flags,
}

impl<'a> MapRequest<'a> {
    /// A readable and writable mapping of `extents` in generic memory, anywhere, with the largest pages that fit.
    #[must_use]
    pub const fn extents(extents: &'a [Extent]) -> Self {
        Self::new(Backing::Extents(extents), None)
    }

    /// The same for `pages` frames of size `page`, given later with [`Job::with_frames`](super::Job::with_frames).
    #[must_use]
    pub const fn frames(pages: u64, page: PageSize) -> Self {
        Self::new(Backing::Late { pages, page }, Some(page))
    }

    const fn new(backing: Backing<'a>, page: Option<PageSize>) -> Self {
        Self { place: Place::Anywhere, backing, page, kind: Kind::GENERIC, flags: Flags::NONE }
    }

    /// Exactly at `va`.
    #[must_use]
    pub fn at(self, va: u64) -> Self {
        Self { place: Place::At(va), ..self }
    }

    /// Somewhere in `range`.
    #[must_use]
    pub fn within(self, range: Range<u64>) -> Self {
        Self { place: Place::Within(range), ..self }
    }

    /// With pages of this size only.
    #[must_use]
    pub fn page(self, page: PageSize) -> Self {
        Self { page: Some(page), ..self }
    }

    /// With this kind.
    #[must_use]
    pub fn kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// With these flags.
    #[must_use]
    pub fn flags(self, flags: Flags) -> Self {
        Self { flags, ..self }
    }

    /// The page size that was asked for. Frames that come late have the one that they were announced with.
    pub(crate) const fn page_size(&self) -> Option<PageSize> {
        match self.backing {
            Backing::Late { page, .. } => Some(page),
            Backing::Extents(_) => self.page,
        }
    }

    /// Length in bytes; `None` on overflow.
    pub(crate) fn bytes(&self) -> Option<u64> {
        match self.backing {
            Backing::Extents(extents) => extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.bytes)),
            Backing::Late { pages, page } => pages.checked_mul(page.bytes()),
        }
    }
}

/// Why a change could not be prepared. Nothing was changed, nothing is held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// Nothing was asked for.
    #[error("the range is empty")]
    Empty,
    /// A length that does not fit 64 bits.
    #[error("the length overflows")]
    Overflow,
    /// An address or length that is not a multiple of what it has to be.
    #[error("{what} {value:#x} is not a multiple of {alignment:#x}")]
    Unaligned {
        /// Which one.
        what: &'static str,
        /// Its value.
        value: u64,
        /// Alignment that is needed, in bytes.
        alignment: u64,
    },
    /// Addresses beyond the address space.
    #[error("the range ends at {end:#x}, the address space at {limit:#x}")]
    BeyondVa {
        /// First address behind the range.
        end: u64,
        /// First address behind the address space.
        limit: u64,
    },
    /// Memory beyond the end of video memory.
    #[error("the memory ends at vram:{end:#x}, video memory at {limit:#x}")]
    BeyondVram {
        /// First byte behind the memory.
        end: u64,
        /// Bytes of video memory.
        limit: u64,
    },
    /// The space was made for another format than the chip has.
    #[error("{chip} has MMU {mmu}, not {wanted}")]
    WrongFormat {
        /// The chip.
        chip: &'static str,
        /// Its format.
        mmu: MmuVersion,
        /// The format of the space.
        wanted: MmuVersion,
    },
    /// The space is being closed.
    #[error("the address space is being closed")]
    Closing,
    /// A page size that the chip does not have.
    #[error("{chip} has no {page} pages, only {has}")]
    NoSuchPage {
        /// The page size.
        page: PageSize,
        /// The chip.
        chip: &'static str,
        /// What it has.
        has: PageSizes,
    },
    /// A compressible kind needs pages of at least 64 KiB.
    #[error("kind {:#x} is compressible and needs pages of at least 64K", kind.0)]
    KindForbids4K {
        /// The kind.
        kind: Kind,
    },
    /// Memory that this version cannot map yet.
    #[error("{} cannot be mapped yet, only video memory", aperture_text(*.0))]
    ApertureNotYet(Aperture),
    /// Part of the range is mapped already.
    #[error("{:#x}..{:#x} is mapped already", with.start, with.end)]
    Busy {
        /// The mapping in the way.
        with: Range<u64>,
    },
    /// Nothing is mapped in the range.
    #[error("nothing is mapped in {:#x}..{:#x}", range.start, range.end)]
    NotMapped {
        /// The range.
        range: Range<u64>,
    },
    /// The range cuts a mapping.
    #[error("the range cuts the mapping {:#x}..{:#x}: only whole mappings can be unmapped yet", mapping.start, mapping.end)]
    CutsMapping {
        /// The mapping.
        mapping: Range<u64>,
    },
    /// No addresses are free.
    #[error("no addresses: {0}")]
    NoVa(VaError),
    /// No memory for page tables.
    #[error(transparent)]
    NoSpace(#[from] NoTableMemory),
    /// No memory for the planner's own records.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// Something that the page-table format cannot say.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The device failed while the new tables were written. None of them was linked.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// An aperture in words.
const fn aperture_text(aperture: Aperture) -> &'static str {
    match aperture {
        Aperture::Vram => "video memory",
        Aperture::Peer(_) => "memory of a peer",
        Aperture::SysCoherent => "coherent system memory",
        Aperture::SysNonCoherent => "non-coherent system memory",
    }
}

/// A piece of a mapping: contiguous in addresses and memory, of one page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Page size.
    pub page: PageSize,
    /// Its memory; `None` where the frames came late and are the caller's to know.
    pub to: Option<PhysAddr>,
    /// Surface kind.
    pub kind: Kind,
    /// Permissions and caching.
    pub flags: Flags,
    /// First address of the mapping that it is part of.
    pub mapping: u64,
}

/// The pieces of a request placed at an address, in order.
#[derive(Clone, Debug)]
pub(crate) struct Pieces<'a> {
    va: u64,
    backing: Backing<'a>,
    /// Bytes of the first extent that are done.
    offset: u64,
    page: Option<PageSize>,
    sizes: PageSizes,
    smallest: PageSize,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(request: &MapRequest<'a>, va: u64, sizes: PageSizes) -> Self {
        let smallest = smallest_page(request.kind);
        Self { va, backing: request.backing, offset: 0, page: request.page_size(), sizes, smallest }
    }

    /// Page size and length of the piece that starts here. The address, the memory and what is left are multiples of the
    /// smallest page: [`check`] saw to that.
    fn choose(&self, to: u64, left: u64) -> (PageSize, u64) {
        if let Some(page) = self.page {
            return (page, left);
        }
        let usable = |page: &PageSize| self.sizes.has(*page) && *page >= self.smallest;
        let fits = |page: &PageSize| (self.va | to) & (page.bytes() - 1) == 0 && page.bytes() <= left;
        let page = PageSize::ALL.into_iter().filter(usable).rfind(fits).unwrap_or(self.smallest);
        // Up to where larger pages become possible, if they ever do.
        let larger = PageSize::ALL.into_iter().filter(usable).filter(|larger| *larger > page).filter_map(|larger| {
            let mask = larger.bytes() - 1;
            let distance = larger.bytes() - (self.va & mask);
            let reached = distance.checked_add(larger.bytes()).is_some_and(|needed| needed <= left);
            ((self.va ^ to) & mask == 0 && reached).then_some(distance)
        });
        let whole = (left & !(page.bytes() - 1)).max(page.bytes().min(left));
        (page, larger.min().unwrap_or(whole).min(whole))
    }
}

impl Iterator for Pieces<'_> {
    /// Address, length, page size, memory.
    type Item = (u64, u64, PageSize, Option<PhysAddr>);

    fn next(&mut self) -> Option<Self::Item> {
        let va = self.va;
        let (bytes, page, to) = match &mut self.backing {
            Backing::Late { pages, page } => {
                let bytes = pages.checked_mul(page.bytes()).filter(|bytes| *bytes > 0)?;
                let page = *page;
                *pages = 0;
                (bytes, page, None)
            }
            Backing::Extents(extents) => {
                let (extent, rest) = extents.split_first()?;
                let to = extent.to.checked_add(self.offset)?;
                let left = extent.bytes.checked_sub(self.offset).filter(|left| *left > 0)?;
                let (page, bytes) = self.choose(to.raw, left);
                if bytes == left {
                    self.backing = Backing::Extents(rest);
                    self.offset = 0;
                } else {
                    self.offset += bytes;
                }
                (bytes, page, Some(to))
            }
        };
        self.va = va.checked_add(bytes)?;
        Some((va, bytes, page, to))
    }
}

/// The smallest page that memory of this kind can be mapped with.
pub(crate) fn smallest_page(kind: Kind) -> PageSize {
    if kind.is_compressible() {
        PageSize::Size64K
    } else {
        PageSize::Size4K
    }
}

/// Refuses a value that is not a multiple of `alignment`.
pub(crate) fn aligned(what: &'static str, value: u64, alignment: u64) -> Result<(), PrepareError> {
    if value & (alignment - 1) == 0 {
        Ok(())
    } else {
        Err(PrepareError::Unaligned { what, value, alignment })
    }
}

/// Refuses what no address space could map, whatever its state.
pub(crate) fn check(
    request: &MapRequest<'_>,
    sizes: PageSizes,
    chip: &'static str,
    vram_bytes: u64,
) -> Result<u64, PrepareError> {
    let bytes = request.bytes().ok_or(PrepareError::Overflow)?;
    if bytes == 0 {
        return Err(PrepareError::Empty);
    }
    let page = request.page_size();
    if let Some(page) = page {
        if !sizes.has(page) {
            return Err(PrepareError::NoSuchPage { page, chip, has: sizes });
        }
    }
    let smallest = smallest_page(request.kind);
    if page.is_some_and(|page| page < smallest) {
        return Err(PrepareError::KindForbids4K { kind: request.kind });
    }
    let alignment = page.unwrap_or(smallest).bytes();
    if let Backing::Extents(extents) = request.backing {
        for extent in extents {
            if extent.bytes == 0 {
                return Err(PrepareError::Empty);
            }
            if extent.to.aperture != Aperture::Vram {
                return Err(PrepareError::ApertureNotYet(extent.to.aperture));
            }
            aligned("memory address", extent.to.raw, alignment)?;
            aligned("length", extent.bytes, alignment)?;
            let end = extent.to.raw.checked_add(extent.bytes).ok_or(PrepareError::Overflow)?;
            if end > vram_bytes {
                return Err(PrepareError::BeyondVram { end, limit: vram_bytes });
            }
        }
    }
    if let Place::At(va) = request.place {
        aligned("address", va, alignment)?;
    }
    Ok(bytes)
}
