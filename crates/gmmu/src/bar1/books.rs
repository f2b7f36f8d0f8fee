//! What a BAR1 remembers of its mappings, and what it tells of them.

use super::{AccessError, Bar1, MappingId};
use crate::addr::PAGE_BYTES;
use crate::format::Format;
use crate::storage::Slab;
use crate::va::{VaError, VaRequest};
use crate::vmm::Job;
use core::fmt;
use core::ops::Range;

/// Who a mapping belongs to: for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A name.
    Name(&'static str),
    /// A number, such as a client's.
    Number(u64),
}

impl From<&'static str> for Owner {
    fn from(name: &'static str) -> Self {
        Self::Name(name)
    }
}

impl From<u64> for Owner {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// How far a mapping has got.
#[derive(Debug)]
pub(super) enum Held {
    /// It is there.
    Live,
    /// The device failed while it was made.
    Mapping(Job),
    /// It is being unmade, or the device failed at it.
    Unmapping(Job),
    /// It is unmade: only the entry is left.
    Gone,
    /// Its job was let go, for the space is being closed.
    Lost,
}

#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) generation: u64,
    pub(super) range: Range<u64>,
    pub(super) owner: Owner,
    pub(super) read_only: bool,
    pub(super) held: Held,
    pub(super) backing: T,
}

/// Entries whose backings are never dropped: the GPU may reach them.
#[derive(Debug)]
pub(super) struct Keep<T>(pub(super) Slab<Entry<T>, 8>);

impl<T> Drop for Keep<T> {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            core::mem::forget(core::mem::take(&mut self.0));
        }
    }
}

/// One mapping, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Its offsets in the aperture.
    pub range: Range<u64>,
    /// Who it belongs to.
    pub owner: Owner,
    /// Whether it can only be read.
    pub read_only: bool,
    /// Whether the device failed half-way: it can only be unmapped.
    pub poisoned: bool,
}

impl fmt::Display for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, owner, .. } = self;
        write!(f, "{:#x}..{:#x} {owner}", range.start, range.end)?;
        f.write_str(if self.read_only { ", read-only" } else { "" })?;
        f.write_str(if self.poisoned { ", poisoned" } else { "" })
    }
}

/// How full a BAR1 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that can be mapped.
    pub bytes: u64,
    /// Bytes that are taken: by poisoned mappings too, and by firmware's.
    pub taken: u64,
    /// Bytes of the largest hole.
    pub largest_hole: u64,
    /// Mappings.
    pub mappings: usize,
    /// Those of them that are poisoned.
    pub poisoned: usize,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, taken, largest_hole, mappings, poisoned } = self;
        write!(f, "{taken:#x} of {bytes:#x} bytes in {mappings} mappings, {poisoned} of them poisoned; ")?;
        write!(f, "the largest hole has {largest_hole:#x}")
    }
}

impl<F: Format, T> Bar1<F, T> {
    /// How full the aperture is.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut usage = Usage {
            bytes: self.bytes(),
            taken: self.taken.excluded().map(|foreign| foreign.end - foreign.start).sum(),
            largest_hole: self.largest_hole(),
            mappings: self.entries.0.len(),
            poisoned: 0,
        };
        for (_, entry) in self.entries.0.iter() {
            usage.taken += entry.range.end - entry.range.start;
            usage.poisoned += usize::from(!matches!(entry.held, Held::Live));
        }
        usage
    }

    /// Bytes of the largest hole: more cannot be mapped at once.
    #[must_use]
    pub fn largest_hole(&self) -> u64 {
        // What is larger than the aperture has no room, and the answer says how much there is.
        match self.taken.find(&VaRequest::new(self.bytes() + PAGE_BYTES).align(PAGE_BYTES).allow_null()) {
            Err(VaError::NoSpace { largest }) => largest,
            Ok(_) | Err(VaError::InvalidRequest(_)) => 0,
        }
    }

    /// Every mapping, in the order of its offsets.
    pub fn owners(&self) -> impl Iterator<Item = Owned> + '_ {
        self.taken.iter().filter_map(|(_, &index)| self.entries.0.get(index)).map(Entry::told)
    }

    /// The mapping at byte `offset` of the aperture: whose access was it that faulted there?
    #[must_use]
    pub fn owner_at(&self, offset: u64) -> Option<Owned> {
        let (_, &index) = self.taken.get(offset)?;
        self.entries.0.get(index).map(Entry::told)
    }

    /// What is told of one mapping.
    ///
    /// # Errors
    /// [`AccessError::Stale`], [`AccessError::Foreign`].
    pub fn mapping(&self, id: &MappingId) -> Result<Owned, AccessError> {
        self.entry(id).map(Entry::told)
    }

    /// What owns the memory of a mapping.
    ///
    /// # Errors
    /// [`AccessError::Stale`], [`AccessError::Foreign`].
    pub fn backing(&self, id: &MappingId) -> Result<&T, AccessError> {
        self.entry(id).map(|entry| &entry.backing)
    }
}

impl<T> Entry<T> {
    fn told(&self) -> Owned {
        let Self { range, owner, read_only, held, .. } = self;
        Owned { range: range.clone(), owner: *owner, read_only: *read_only, poisoned: !matches!(held, Held::Live) }
    }
}
