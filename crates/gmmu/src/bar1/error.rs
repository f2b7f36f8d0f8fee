//! Why a BAR1 refuses, and what it keeps.

use super::MappingId;
use crate::device::DeviceError;
use crate::storage::NoMemory;
use crate::vmm::{ExecuteError, PrepareError};
use core::fmt;
use core::ops::Range;

/// Why there is no [`Bar1`](super::Bar1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NewError {
    /// The address space was made for channels: its invalidates and its tables are others.
    #[error("the address space was made for channels, not for a BAR")]
    NotForBars,
    /// Somebody uses the address space already, and could come into the way.
    #[error("the address space has {pieces} mapped pieces and {jobs} open jobs: it is not empty")]
    InUse {
        /// Pieces that are mapped.
        pieces: usize,
        /// Jobs that are open.
        jobs: usize,
    },
    /// The aperture has not one page.
    #[error("an aperture of {aperture_bytes:#x} bytes has no page of 4 KiB")]
    TooSmall {
        /// Its size.
        aperture_bytes: u64,
    },
    /// No memory for the records.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}

/// Why an access was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The mapping was unmapped.
    #[error("BAR1 mapping {generation} is no longer there")]
    Stale {
        /// Its number.
        generation: u64,
    },
    /// The mapping is of another BAR1.
    #[error("BAR1 mapping {generation} is of another BAR1")]
    Foreign {
        /// Its number.
        generation: u64,
    },
    /// The device failed while the mapping was made or unmade.
    #[error("the BAR1 mapping at {:#x}..{:#x} is poisoned: the device failed while it was changed; unmap it", range.start, range.end)]
    Poisoned {
        /// Its offsets in the aperture.
        range: Range<u64>,
    },
    /// Beyond the end of the mapping.
    #[error("{bytes} bytes at offset {offset:#x} are beyond the mapping, which has {size:#x}")]
    OutOfRange {
        /// First byte of the access.
        offset: u64,
        /// Length of the access.
        bytes: u64,
        /// Length of the mapping.
        size: u64,
    },
    /// Not a multiple of the access width.
    #[error("offset {offset:#x} is not a multiple of {alignment}")]
    Unaligned {
        /// The offset.
        offset: u64,
        /// The width in bytes.
        alignment: u64,
    },
    /// A value that the access has no room for.
    #[error("{value:#x} does not fit the access: it writes {max:#x} at most")]
    TooWide {
        /// The value.
        value: u64,
        /// The largest that fits.
        max: u64,
    },
    /// The mapping can only be read.
    #[error("the BAR1 mapping at {:#x}..{:#x} is read-only", range.start, range.end)]
    ReadOnly {
        /// Its offsets in the aperture.
        range: Range<u64>,
    },
    /// The aperture has become smaller.
    #[error("the access ends at BAR1 offset {end:#x}, the aperture at {limit:#x}")]
    BeyondAperture {
        /// The offset behind the access.
        end: u64,
        /// Bytes of the aperture.
        limit: u64,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Why nothing was mapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A place that is not wholly in the aperture.
    #[error("the place ends at BAR1 offset {end:#x}, the aperture at {limit:#x}")]
    BeyondAperture {
        /// The offset behind the place.
        end: u64,
        /// Bytes of the aperture.
        limit: u64,
    },
    /// The aperture, or the part of it that was asked for, has no hole large enough.
    #[error("no room for {bytes:#x} bytes there: the largest hole of the aperture has {largest:#x}")]
    NoRoom {
        /// Length of the mapping.
        bytes: u64,
        /// Bytes of the largest hole, wherever it is.
        largest: u64,
    },
    /// Frames that come later: the CPU maps what is there.
    #[error("a BAR1 mapping needs its memory at once, as extents")]
    Late,
    /// It could not be prepared.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// It was not begun.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// No memory for the records.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}

/// A mapping was not made, or not to its end.
#[derive(Debug)]
pub enum MapFailed<T> {
    /// Nothing was changed.
    Refused {
        /// What owns the memory.
        backing: T,
        /// Why.
        why: MapError,
    },
    /// The device failed half-way: entries may be there. [`unmap`](super::Bar1::unmap) takes them out, and gives the
    /// backing back.
    Poisoned {
        /// The mapping.
        id: MappingId,
        /// Why.
        why: ExecuteError,
    },
}

impl<T> fmt::Display for MapFailed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { why, .. } => write!(f, "{why}"),
            Self::Poisoned { id, why } => write!(f, "{id} is poisoned: {why}"),
        }
    }
}

impl<T: fmt::Debug> core::error::Error for MapFailed<T> {}

/// Why a mapping is still there. Its backing is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnmapError {
    /// There is no such mapping.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// It could not be prepared; the mapping is as it was.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// It was not begun; the mapping is as it was.
    #[error(transparent)]
    Refused(ExecuteError),
    /// The device failed half-way: the mapping is poisoned. Call again.
    #[error("the mapping is poisoned, and may be unmapped again: {0}")]
    Poisoned(ExecuteError),
}
