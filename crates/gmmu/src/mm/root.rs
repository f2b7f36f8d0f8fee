//! Which roots are in use, and by how many instance blocks: the books that keep a root from being freed too early.

use crate::addr::{PhysAddr, TableAddr, PAGE_BYTES};
use crate::chip::Chip;
use crate::storage::{List, NoMemory, Shared};
use crate::vmm::Use;
use core::sync::atomic::{AtomicU32, Ordering};

/// A root was not registered, or not given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// There is a live address space with this root.
    #[error("an address space with the root {pdb} is live: one space per root")]
    Taken {
        /// The root.
        pdb: TableAddr,
    },
    /// Not the address of a page.
    #[error("the root {pdb} is not a multiple of {PAGE_BYTES:#x}")]
    Unaligned {
        /// The root.
        pdb: TableAddr,
    },
    /// Not in memory that the GPU has and reaches.
    #[error("the root {pdb} is beyond the memory that the GPU reaches, which ends at {end:#x}")]
    BeyondReach {
        /// The root.
        pdb: TableAddr,
        /// First address that it cannot reach.
        end: u64,
    },
    /// Instance blocks still name it.
    #[error("the root {pdb} is still named by instance blocks ({binds} of them): unbind them")]
    Bound {
        /// The root.
        pdb: TableAddr,
        /// How many.
        binds: u32,
    },
    /// As many instance blocks name it as can be counted.
    #[error("the root {pdb} is named by {limit} instance blocks, and no more can be counted")]
    TooManyBinds {
        /// The root.
        pdb: TableAddr,
        /// The most that can.
        limit: u32,
    },
    /// It belongs to another GPU.
    #[error("the root {pdb} was registered with another GPU")]
    Foreign {
        /// The root.
        pdb: TableAddr,
    },
    /// No memory for the library's own records.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}

#[derive(Debug)]
pub(super) struct State {
    pdb: TableAddr,
    used_by: Use,
    /// Atomic, since a bind ends without the books at hand. Nothing else hangs on the order of its changes: whoever
    /// gives up a root has it by value, and so no bind of it can begin.
    binds: AtomicU32,
}

impl State {
    pub(super) const fn pdb(&self) -> TableAddr {
        self.pdb
    }
}

/// A registered root: as long as it is not given back to the `GpuMm` that it is from, no other space can have it.
/// Dropping it gives nothing back.
#[derive(Debug)]
#[must_use = "a root that is dropped stays taken"]
pub struct Root(Shared<State>);

impl Root {
    /// Its address.
    #[must_use]
    pub fn pdb(&self) -> TableAddr {
        self.0.pdb
    }

    /// Who may be bound to it: the invalidates of a space for BARs reach no engine.
    #[must_use]
    pub fn used_by(&self) -> Use {
        self.0.used_by
    }

    /// How many instance blocks name it, those included that may.
    #[must_use]
    pub fn binds(&self) -> u32 {
        self.0.binds.load(Ordering::Acquire)
    }

    /// Counts one instance block more.
    ///
    /// # Errors
    /// [`RootError::TooManyBinds`].
    pub(super) fn hold(&self) -> Result<Hold, RootError> {
        let more = |binds: u32| binds.checked_add(1);
        match self.0.binds.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Ok(Hold(self.0.clone())),
            Err(limit) => Err(RootError::TooManyBinds { pdb: self.pdb(), limit }),
        }
    }

    pub(super) const fn state(&self) -> &Shared<State> {
        &self.0
    }
}

/// One instance block that names a root. Dropping it gives nothing back: the block still does.
#[derive(Debug)]
pub(super) struct Hold(Shared<State>);

impl Hold {
    pub(super) fn pdb(&self) -> TableAddr {
        self.0.pdb
    }

    pub(super) const fn state(&self) -> &Shared<State> {
        &self.0
    }

    /// The block names the root no more.
    pub(super) fn release(self) {
        // Every hold was counted once, and is released once.
        let less = |binds: u32| binds.checked_sub(1);
        let _ = self.0.binds.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }
}

/// What a GPU can read tables from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    pub(super) chip: &'static Chip,
    /// Bytes of video memory.
    pub(super) vram_bytes: u64,
}

/// All roots of one GPU that are in use, in the order of their addresses.
#[derive(Debug, Default)]
pub(super) struct Roots(List<Shared<State>>);

impl Roots {
    fn place(&self, pdb: TableAddr) -> Result<usize, usize> {
        self.0.binary_search_by_key(&pdb, |state| state.pdb)
    }

    /// Enters a root.
    pub(super) fn register(
        &mut self,
        Reach { chip, vram_bytes }: Reach,
        pdb: TableAddr,
        used_by: Use,
    ) -> Result<Root, RootError> {
        if !pdb.is_aligned(PAGE_BYTES) {
            return Err(RootError::Unaligned { pdb });
        }
        let end = chip.reach(PhysAddr::from(pdb).aperture);
        let end = if pdb.is_vram() { end.min(vram_bytes) } else { end };
        if pdb.raw() >= end {
            return Err(RootError::BeyondReach { pdb, end });
        }
        // The same page of system memory is one page, whichever aperture names it.
        let index = match self.place(pdb) {
            Err(index) if !self.is_root(pdb) => index,
            _ => return Err(RootError::Taken { pdb }),
        };
        self.0.reserve(1)?;
        let state = Shared::new(State { pdb, used_by, binds: AtomicU32::new(0) })?;
        self.0.insert_within(index, state.clone()).map_err(|_| NoMemory)?;
        Ok(Root(state))
    }

    /// Whether a page is a root.
    pub(super) fn is_root(&self, page: TableAddr) -> bool {
        self.place(page).is_ok() || other_name(page).is_some_and(|other| self.place(other).is_ok())
    }

    /// Whether a state is of a root in these books.
    pub(super) fn has(&self, state: &Shared<State>) -> bool {
        self.place(state.pdb).is_ok_and(|index| self.0.get(index).is_some_and(|known| known.same(state)))
    }

    /// Strikes a root out that no block names.
    pub(super) fn unregister(&mut self, root: Root) -> Result<(), (Root, RootError)> {
        let pdb = root.pdb();
        if !self.has(&root.0) {
            return Err((root, RootError::Foreign { pdb }));
        }
        match (root.binds(), self.place(pdb)) {
            (0, Ok(index)) => {
                self.0.remove(index);
                Ok(())
            }
            (binds, _) => Err((root, RootError::Bound { pdb, binds })),
        }
    }

    /// All of them, with how many blocks name each.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TableAddr, u32)> + '_ {
        self.0.iter().map(|state| (state.pdb, state.binds.load(Ordering::Acquire)))
    }
}

/// The other way to name the same page of system memory.
const fn other_name(pdb: TableAddr) -> Option<TableAddr> {
    match pdb {
        TableAddr::Vram(_) => None,
        TableAddr::SysCoherent(at) => Some(TableAddr::SysNonCoherent(at)),
        TableAddr::SysNonCoherent(at) => Some(TableAddr::SysCoherent(at)),
    }
}
