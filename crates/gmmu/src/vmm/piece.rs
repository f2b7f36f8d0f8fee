//! Pieces: what a mapping falls into. Each is contiguous in addresses and in memory, and of one page size.

use super::request::{Backing, MapRequest, PrepareError};
use crate::addr::{Aperture, PageSize, PhysAddr};
use crate::chip::PageSizes;
use crate::format::{Flags, Kind};
use core::ops::Range;

/// What a piece leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backed {
    /// This memory and what follows it.
    Memory(PhysAddr),
    /// Frames of the caller's list, which the records do not keep: page `n` of the list is for the mapping's first
    /// address plus `n` pages.
    Frames {
        /// Where the frames are.
        aperture: Aperture,
        /// The size of the pages that the list names; the piece's own is smaller where one of them was cut.
        page: PageSize,
    },
}

impl Backed {
    /// Where the memory is.
    #[must_use]
    pub const fn aperture(self) -> Aperture {
        match self {
            Self::Memory(to) => to.aperture,
            Self::Frames { aperture, .. } => aperture,
        }
    }

    /// The memory `bytes` further on. Pieces end before their memory's addresses do.
    const fn skip(self, bytes: u64) -> Self {
        match self {
            Self::Memory(to) => Self::Memory(PhysAddr::new(to.aperture, to.raw.wrapping_add(bytes))),
            frames @ Self::Frames { .. } => frames,
        }
    }
}

/// Where v2 goes on with a peer's address in another field (`COMPTAGLINE`), so that no run of entries may cross it.
const PEER_FIELD_BYTES: u64 = 1 << 37;

/// Bytes up to where no run of entries goes on; v2, whose peers' addresses are in two fields, has no larger pages.
const fn field_left(page: PageSize, to: Backed) -> u64 {
    match to {
        Backed::Memory(PhysAddr { aperture: Aperture::Peer(_), raw }) if page.bytes() < PEER_FIELD_BYTES => {
            PEER_FIELD_BYTES - (raw & (PEER_FIELD_BYTES - 1))
        }
        _ => u64::MAX,
    }
}

/// A piece of a mapping: contiguous in addresses and memory, of one page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Page size.
    pub page: PageSize,
    /// Its memory.
    pub to: Backed,
    /// Surface kind.
    pub kind: Kind,
    /// Permissions and caching, as they stand in the entries.
    pub flags: Flags,
    /// The caller's number of what is mapped; 0 where it has none.
    pub object: u64,
    /// The address at which the object's first byte lies, or would lie: offsets into it, and numbers of its frames, count
    /// from here.
    pub mapping: u64,
    /// The number of its mapping in the space, where that can be zapped; else 0.
    pub(crate) zap: u32,
}

impl Piece {
    /// No page at all.
    pub(crate) const NONE: Self = Self {
        page: PageSize::Size4K,
        to: Backed::Memory(PhysAddr::vram(0)),
        kind: Kind::GENERIC,
        flags: Flags::NONE,
        object: 0,
        mapping: 0,
        zap: 0,
    };

    /// The same piece without its first `bytes`.
    pub(crate) const fn skip(self, bytes: u64) -> Self {
        Self { to: self.to.skip(bytes), ..self }
    }

    /// Whether the piece is part of a mapping that can be [zapped](super::Zap).
    #[must_use]
    pub const fn is_evictable(&self) -> bool {
        self.zap != 0
    }

    /// Whether `next` goes on where this piece, `bytes` long, ends.
    pub(crate) fn continues(&self, bytes: u64, next: &Self) -> bool {
        self.skip(bytes) == *next && field_left(next.page, next.to) != PEER_FIELD_BYTES
    }
}

/// The flags that entries for `aperture` get: what is not snooped must not be cached either (`VOL`, `UNCACHED`), for
/// no invalidate would drop an old copy from the GPU's L2.
pub(crate) const fn effective_flags(flags: Flags, aperture: Aperture) -> Flags {
    match aperture {
        Aperture::SysNonCoherent => Flags { volatile: true, ..flags },
        Aperture::Vram | Aperture::SysCoherent | Aperture::Peer(_) => flags,
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

/// Which page sizes may be chosen from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// This one alone.
    pub(crate) only: Option<PageSize>,
    pub(crate) has: PageSizes,
    pub(crate) smallest: PageSize,
    pub(crate) largest: PageSize,
}

impl Sizes {
    /// What a page of `piece` may be cut into at `borders`.
    pub(crate) fn smaller(piece: &Piece, has: PageSizes, borders: [u64; 2]) -> Result<Self, PrepareError> {
        let smallest = smallest_page(piece.kind);
        if borders.iter().any(|border| border & (smallest.bytes() - 1) != 0) {
            return Err(PrepareError::KindForbids4K { kind: piece.kind });
        }
        let largest = PageSize::ALL.into_iter().rfind(|page| *page < piece.page).unwrap_or(PageSize::Size4K);
        Ok(Self { only: None, has, smallest, largest })
    }

    /// Page size and length of the piece that starts at `va` and leads to `to`. Both, and what is left, are multiples of
    /// the smallest page.
    fn choose(&self, va: u64, to: u64, left: u64) -> (PageSize, u64) {
        if let Some(page) = self.only {
            return (page, left);
        }
        let usable = |page: &PageSize| self.has.has(*page) && *page >= self.smallest && *page <= self.largest;
        let fits = |page: &PageSize| (va | to) & (page.bytes() - 1) == 0 && page.bytes() <= left;
        let page = PageSize::ALL.into_iter().filter(usable).rfind(fits).unwrap_or(self.smallest);
        // Up to where larger pages become possible, if they ever do.
        let larger = PageSize::ALL.into_iter().filter(usable).filter(|larger| *larger > page).filter_map(|larger| {
            let mask = larger.bytes() - 1;
            let distance = larger.bytes() - (va & mask);
            let reached = distance.checked_add(larger.bytes()).is_some_and(|needed| needed <= left);
            ((va ^ to) & mask == 0 && reached).then_some(distance)
        });
        let whole = (left & !(page.bytes() - 1)).max(page.bytes().min(left));
        (page, larger.min().unwrap_or(whole).min(whole))
    }

    /// Cuts `range`, which `piece` leads from, into pieces of these sizes.
    pub(crate) fn cut(self, range: Range<u64>, piece: Piece) -> impl Iterator<Item = (Range<u64>, Piece)> {
        let mut va = range.start;
        core::iter::from_fn(move || {
            let left = range.end.checked_sub(va).filter(|left| *left > 0)?;
            let rest = piece.skip(va - range.start);
            let to = match rest.to {
                Backed::Memory(to) => to.raw,
                // Frames are aligned as their addresses are.
                Backed::Frames { .. } => va,
            };
            let (page, bytes) = self.choose(va, to, left);
            let start = va;
            va += bytes.min(field_left(page, rest.to));
            Some((start..va, Piece { page, ..rest }))
        })
    }
}

/// The pieces of a request placed at an address, in order.
#[derive(Clone, Debug)]
pub(crate) struct Pieces<'a> {
    va: u64,
    backing: Backing<'a>,
    /// Bytes of the first extent that are done.
    offset: u64,
    sizes: Sizes,
    kind: Kind,
    flags: Flags,
    object: u64,
    mapping: u64,
    zap: u32,
}

impl<'a> Pieces<'a> {
    /// The pieces of `request` at `va`, as parts of mapping `zap`.
    pub(crate) fn new(request: &MapRequest<'a>, va: u64, has: PageSizes, zap: u32) -> Self {
        let largest = request.largest.unwrap_or(PageSize::Size256G);
        let sizes = Sizes { only: request.page_size(), has, smallest: smallest_page(request.kind), largest };
        let MapRequest { backing, kind, flags, object, offset, .. } = *request;
        Self { va, backing, offset: 0, sizes, kind, flags, object, mapping: va.wrapping_sub(offset), zap }
    }
}

impl Iterator for Pieces<'_> {
    type Item = (Range<u64>, Piece);

    fn next(&mut self) -> Option<Self::Item> {
        let va = self.va;
        let (bytes, page, to) = match &mut self.backing {
            Backing::Late { pages, page, aperture } => {
                let bytes = pages.checked_mul(page.bytes()).filter(|bytes| *bytes > 0)?;
                *pages = 0;
                (bytes, *page, Backed::Frames { aperture: *aperture, page: *page })
            }
            Backing::Extents(extents) => {
                let (extent, rest) = extents.split_first()?;
                let to = extent.to.checked_add(self.offset)?;
                let left = extent.bytes.checked_sub(self.offset).filter(|left| *left > 0)?;
                let (page, bytes) = self.sizes.choose(va, to.raw, left);
                let bytes = bytes.min(field_left(page, Backed::Memory(to)));
                if bytes == left {
                    self.backing = Backing::Extents(rest);
                    self.offset = 0;
                } else {
                    self.offset += bytes;
                }
                (bytes, page, Backed::Memory(to))
            }
        };
        self.va = va.checked_add(bytes)?;
        let flags = effective_flags(self.flags, to.aperture());
        let Self { kind, object, mapping, zap, .. } = *self;
        Some((va..self.va, Piece { page, to, kind, flags, object, mapping, zap }))
    }
}
