//! What can be asked of an address space, and why it may be refused.

use super::piece::smallest_page;
use super::space::SpaceConfig;
use crate::addr::{Aperture, PageSize, PhysAddr, PAGE_BYTES};
use crate::chip::{Chip, PageSizes};
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
    /// Frames that come between prepare and execute: `pages` of size `page`.
    Late {
        /// How many pages.
        pages: u64,
        /// Their size.
        page: PageSize,
        /// Where all of them are.
        aperture: Aperture,
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
    /// The largest page size that is chosen where `page` is `None`: what is never larger never has to be cut.
    pub largest: Option<PageSize>,
    /// Surface kind.
    pub kind: Kind,
    /// Permissions and caching. What is in non-coherent system memory is always volatile.
    pub flags: Flags,
    /// What accesses to sparse neighbours may come to.
    pub live: Live,
    /// The caller's number of what is mapped, 0 for none, and where in it the mapping begins, in bytes. Bind jobs go by
    /// them, and frames that come late are counted from the object's first byte.
    pub object: u64,
    /// See `object`.
    pub offset: u64,
    /// Whether the mapping can be [zapped](super::Vmm::zap). It then keeps a list of its entries, and jobs that change it
    /// wait for one another.
    pub evictable: bool,
}

/// What accesses may meet while a change cuts a large page, or a large sparse entry, that other addresses need.
///
/// The hardware forbids to go from one valid entry to another of another size: between them the range is invalid, and
/// whoever touches what lies beside the changed part meets a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Live {
    /// Accesses may come at any moment, and none may fault: what would need a cut is refused.
    #[default]
    MustNotFault,
    /// Nobody accesses the pages that are cut until the job is done.
    Quiesced,
    /// Faults are replayed.
    Replayable,
}

/// A range of addresses to change, and what accesses to its neighbours may meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address, and the one behind the last: multiples of 4 KiB.
    pub range: Range<u64>,
    /// What accesses to cut pages may meet.
    pub live: Live,
}

impl Span {
    /// `range`, beside which no access may fault.
    #[must_use]
    pub const fn new(range: Range<u64>) -> Self {
        Self { range, live: Live::MustNotFault }
    }

    /// Nobody accesses the pages that are cut.
    #[must_use]
    pub fn quiesced(self) -> Self {
        Self { live: Live::Quiesced, ..self }
    }

    /// Faults beside the range are replayed.
    #[must_use]
    pub fn replayable(self) -> Self {
        Self { live: Live::Replayable, ..self }
    }
}

impl From<Range<u64>> for Span {
    fn from(range: Range<u64>) -> Self {
        Self::new(range)
    }
}

/// What [`plan_protect`](super::Vmm::plan_protect) changes; `None` leaves as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// New permissions and caching, all of them.
    pub flags: Option<Flags>,
    /// New surface kind.
    pub kind: Option<Kind>,
}

impl Protection {
    /// These permissions and this caching.
    #[must_use]
    pub const fn flags(flags: Flags) -> Self {
        Self { flags: Some(flags), kind: None }
    }

    /// And this kind.
    #[must_use]
    pub fn kind(self, kind: Kind) -> Self {
        Self { kind: Some(kind), ..self }
    }
}

impl<'a> MapRequest<'a> {
    /// A readable and writable mapping of `extents` in generic memory, anywhere, with the largest pages that fit.
    #[must_use]
    pub const fn extents(extents: &'a [Extent]) -> Self {
        Self::new(Backing::Extents(extents), None)
    }

    /// The same for `pages` frames of video memory, of size `page`, given later with
    /// [`Job::with_frames`](super::Job::with_frames).
    #[must_use]
    pub const fn frames(pages: u64, page: PageSize) -> Self {
        Self::frames_of(Aperture::Vram, pages, page)
    }

    /// The same for frames of `aperture`.
    #[must_use]
    pub const fn frames_of(aperture: Aperture, pages: u64, page: PageSize) -> Self {
        Self::new(Backing::Late { pages, page, aperture }, Some(page))
    }

    const fn new(backing: Backing<'a>, page: Option<PageSize>) -> Self {
        let (kind, flags, live) = (Kind::GENERIC, Flags::NONE, Live::MustNotFault);
        Self {
            place: Place::Anywhere,
            backing,
            page,
            largest: None,
            kind,
            flags,
            live,
            object: 0,
            offset: 0,
            evictable: false,
        }
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

    /// With pages of this size at most.
    #[must_use]
    pub fn largest(self, page: PageSize) -> Self {
        Self { largest: Some(page), ..self }
    }

    /// With what accesses to sparse neighbours may come to.
    #[must_use]
    pub fn live(self, live: Live) -> Self {
        Self { live, ..self }
    }

    /// As a mapping of the caller's `object` (not 0) from byte `offset` of it on.
    #[must_use]
    pub fn object(self, object: u64, offset: u64) -> Self {
        Self { object, offset, ..self }
    }

    /// As a mapping that can be [zapped](super::Vmm::zap).
    #[must_use]
    pub fn evictable(self) -> Self {
        Self { evictable: true, ..self }
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
            Backing::Late { pages, page, .. } => pages.checked_mul(page.bytes()),
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
    /// A bind job maps at addresses that the caller chooses.
    #[error("a bind job maps at exact addresses only: say where with `at`")]
    NoPlace,
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
    /// The tables were given up for a restore that did not succeed.
    #[error("the tables of this address space are gone: restore it first")]
    NotRestored,
    /// The space was adopted, and its tables cannot be written anew.
    #[error("firmware made part of this address space, and nobody else can write that anew: adopt it again")]
    Adopted,
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
    /// Memory that the address field of an entry cannot name, or the chip cannot reach.
    #[error("the memory ends at {end}, what {chip} reaches of it at {limit:#x}")]
    BeyondReach {
        /// First byte behind the memory.
        end: PhysAddr,
        /// The chip.
        chip: &'static str,
        /// First byte that cannot be reached.
        limit: u64,
    },
    /// Part of the range is mapped already, or is firmware's ([`Vmm::adopt`](super::Vmm::adopt)).
    #[error("{:#x}..{:#x} is mapped already", with.start, with.end)]
    Busy {
        /// The mapping in the way.
        with: Range<u64>,
    },
    /// The change would have to wait for an open job, and the space
    /// [does not queue](super::SpaceConfig::queues) jobs: it can be asked for again when that one was executed.
    #[error("a job that changes {:#x}..{:#x} has to be executed first", range.start, range.end)]
    Pending {
        /// The addresses of the earlier job.
        range: Range<u64>,
    },
    /// Nothing is mapped in the range.
    #[error("nothing is mapped in {:#x}..{:#x}", range.start, range.end)]
    NotMapped {
        /// The range.
        range: Range<u64>,
    },
    /// No page in the range can become larger.
    #[error("no pages in {:#x}..{:#x} can be merged into larger ones", range.start, range.end)]
    NothingToMerge {
        /// The range.
        range: Range<u64>,
    },
    /// A mapping is bound again as a whole.
    #[error("{bytes:#x} bytes are bound again of a mapping of {of:#x}: give all of its pages")]
    BindsPart {
        /// Bytes that were asked for.
        bytes: u64,
        /// Bytes of the mapping; 0 where it is another space's, or is no more.
        of: u64,
    },
    /// A zap runs at this moment.
    #[error("a zap of this address space runs: try again")]
    Contended,
    /// The change cuts a large page or sparse entry: while that is done, accesses to the rest of it fault.
    #[error(
        "the change cuts what is one entry over {:#x}..{:#x}: accesses to the rest would fault meanwhile; \
         say that they are quiesced or replayable, or map with smaller pages", entry.start, entry.end
    )]
    WouldFault {
        /// The addresses of the entry.
        entry: Range<u64>,
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

/// Refuses a value that is not a multiple of `alignment`.
pub(crate) fn aligned(what: &'static str, value: u64, alignment: u64) -> Result<(), PrepareError> {
    if value & (alignment - 1) == 0 {
        Ok(())
    } else {
        Err(PrepareError::Unaligned { what, value, alignment })
    }
}

/// Refuses memory that an entry cannot name or the chip does not have, from `to` up to `end`.
pub(crate) fn reachable(chip: &'static Chip, vram_bytes: u64, end: PhysAddr) -> Result<(), PrepareError> {
    if end.aperture == Aperture::Vram && end.raw > vram_bytes {
        return Err(PrepareError::BeyondVram { end: end.raw, limit: vram_bytes });
    }
    let limit = chip.reach(end.aperture);
    if end.raw > limit {
        return Err(PrepareError::BeyondReach { end, chip: chip.name, limit });
    }
    Ok(())
}

/// Refuses what no address space could map, whatever its state.
pub(crate) fn check(request: &MapRequest<'_>, config: &SpaceConfig) -> Result<u64, PrepareError> {
    let SpaceConfig { chip, vram_bytes, .. } = *config;
    let bytes = request.bytes().ok_or(PrepareError::Overflow)?;
    if bytes == 0 {
        return Err(PrepareError::Empty);
    }
    let sizes = config.page_sizes();
    let page = request.page_size();
    for page in page.into_iter().chain(request.largest) {
        if !sizes.has(page) {
            return Err(PrepareError::NoSuchPage { page, chip: chip.name, has: sizes });
        }
    }
    let smallest = smallest_page(request.kind);
    if page.into_iter().chain(request.largest).any(|page| page < smallest) {
        return Err(PrepareError::KindForbids4K { kind: request.kind });
    }
    let alignment = page.unwrap_or(smallest).bytes();
    if let Backing::Extents(extents) = request.backing {
        for extent in extents {
            if extent.bytes == 0 {
                return Err(PrepareError::Empty);
            }
            aligned("memory address", extent.to.raw, alignment)?;
            aligned("length", extent.bytes, alignment)?;
            reachable(chip, vram_bytes, extent.to.checked_add(extent.bytes).ok_or(PrepareError::Overflow)?)?;
        }
    }
    if let Place::At(va) = request.place {
        aligned("address", va, alignment)?;
    }
    aligned("offset", request.offset, alignment)?;
    Ok(bytes)
}

/// Refuses a range that is empty, not of whole pages, or beyond `limit`.
pub(crate) fn check_range(range: &Range<u64>, limit: u64) -> Result<(), PrepareError> {
    if range.start >= range.end {
        return Err(PrepareError::Empty);
    }
    aligned("address", range.start, PAGE_BYTES)?;
    aligned("end", range.end, PAGE_BYTES)?;
    if range.end > limit {
        return Err(PrepareError::BeyondVa { end: range.end, limit });
    }
    Ok(())
}
