//! Address spaces with a registered root: one live `Vmm` per root, and none closed while an instance block names it.

use super::root::{Reach, Root, RootError, Roots};
use super::{GpuMm, MmError};
use crate::addr::TableAddr;
use crate::addr::{VramAddr, PAGE_BYTES};
use crate::device::{Hardware, TableMemory, TablePool, TableRead};
use crate::format::Format;
use crate::tree::DIRECTORY_BYTES;
use crate::vmm::{CloseError, SpaceConfig, Use, Vmm};
use core::ops::{Deref, DerefMut};

/// A [`Vmm`] whose root is entered in the books of its GPU. It is used as the `Vmm` is, and ended by
/// [`GpuMm::close_space`].
#[derive(Debug)]
#[must_use = "a space that is dropped keeps its tables and its root for ever"]
pub struct Space<F: Format> {
    vmm: Vmm<F>,
    root: Root,
    /// Whether the root goes back to the pool.
    pooled: bool,
}

impl<F: Format> Space<F> {
    /// The root, to bind instance blocks to.
    pub const fn root(&self) -> &Root {
        &self.root
    }
}

impl<F: Format> Deref for Space<F> {
    type Target = Vmm<F>;
    fn deref(&self) -> &Vmm<F> {
        &self.vmm
    }
}

impl<F: Format> DerefMut for Space<F> {
    fn deref_mut(&mut self) -> &mut Vmm<F> {
        &mut self.vmm
    }
}

/// Why a space was not closed. It comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseSpaceError {
    /// Instance blocks still name its root ([`RootError::Bound`]), or it is another GPU's.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Jobs are open, or the device failed.
    #[error(transparent)]
    Close(#[from] CloseError),
    /// The GPU's own pool was asked for, which a chip without video memory does not have.
    #[error("{chip} has no video memory: name the pool that the space's tables are from")]
    NoPool {
        /// The chip.
        chip: &'static str,
    },
}

impl GpuMm {
    /// What a new space on this GPU is made with: chip, memory and bus as they are, and the usual limits.
    #[must_use]
    pub fn space_config(&self, used_by: Use) -> SpaceConfig {
        SpaceConfig { whole_words: self.whole_words, ..SpaceConfig::new(self.chip, self.vram_bytes(), used_by) }
    }

    /// Makes an address space with its tables in this GPU's video memory.
    ///
    /// # Errors
    /// [`MmError`]; nothing is held.
    pub fn create_space<F: Format, M: TableMemory>(
        &mut self,
        config: SpaceConfig,
        memory: &mut M,
    ) -> Result<Space<F>, MmError> {
        let (chip, reach) = (self.chip.name, self.reach());
        let Some(own) = &mut self.memory else { return Err(MmError::NoPool { chip }) };
        create(&mut self.roots, reach, config, memory, &mut own.tables.pool(&mut own.vram))
    }

    /// Makes an address space with its tables in memory of `pool`.
    ///
    /// # Errors
    /// [`MmError`]; nothing is held. Where the pool gave the root of a live space, that page is not given back to it.
    pub fn create_space_in<F: Format, M: TableMemory, P: TablePool>(
        &mut self,
        config: SpaceConfig,
        memory: &mut M,
        pool: &mut P,
    ) -> Result<Space<F>, MmError> {
        let reach = self.reach();
        create(&mut self.roots, reach, config, memory, pool)
    }

    /// Makes an address space with its root at `pdb`, 4 KiB that the caller keeps, and clears all of them.
    ///
    /// # Errors
    /// [`MmError`]; nothing is held, and a root that is taken was not touched.
    pub fn space_at<F: Format, M: TableMemory>(
        &mut self,
        config: SpaceConfig,
        memory: &mut M,
        pdb: TableAddr,
    ) -> Result<Space<F>, MmError> {
        let reach = self.reach();
        at(&mut self.roots, reach, config, pdb, || Ok(Vmm::with_root(config, memory, pdb)?))
    }

    /// Takes over an address space that firmware made, as [`Vmm::adopt`] does; its tables are those of this GPU's video memory
    /// or of any pool. Pages of the tables that were found are kept from this GPU's allocator for good, where they were free.
    ///
    /// # Errors
    /// [`MmError`]; nothing was changed, and nothing is held.
    pub fn adopt<F: Format, M: TableRead>(
        &mut self,
        config: SpaceConfig,
        memory: &mut M,
        pdb: TableAddr,
        limit: usize,
    ) -> Result<Space<F>, MmError> {
        let reach = self.reach();
        let Self { roots, memory: own, .. } = self;
        at(roots, reach, config, pdb, || {
            let vmm = Vmm::adopt(config, memory, pdb, limit)?;
            let Some(own) = own else { return Ok(vmm) };
            for (at, _) in vmm.foreign_tables()?.iter().filter(|(at, _)| at.is_vram()) {
                let page = VramAddr::new(at.raw() & !(PAGE_BYTES - 1));
                // Refused where somebody has the page already, or it is not among those that are handed out.
                let _ = own.vram.reserve(page..VramAddr::new(page.raw() + PAGE_BYTES));
            }
            Ok(vmm)
        })
    }

    /// Ends an address space with its tables in this GPU's video memory.
    ///
    /// # Errors
    /// As [`close_space_in`](Self::close_space_in), and [`CloseSpaceError::NoPool`].
    #[expect(clippy::result_large_err, reason = "the space comes back by value")]
    pub fn close_space<F: Format, H: Hardware>(
        &mut self,
        space: Space<F>,
        hardware: &mut H,
    ) -> Result<(), (Space<F>, CloseSpaceError)> {
        let chip = self.chip.name;
        let Some(own) = &mut self.memory else { return Err((space, CloseSpaceError::NoPool { chip })) };
        close(&mut self.roots, space, hardware, &mut own.tables.pool(&mut own.vram))
    }

    /// Ends an address space: unlinks everything, waits until the GPU has forgotten it, gives all tables back to `pool`,
    /// which they are from, and strikes the root out.
    ///
    /// # Errors
    /// The space, and why: [`RootError::Bound`] or [`CloseError::Busy`], and nothing was changed; or
    /// [`CloseError::Device`], and the space takes nothing but another close.
    #[expect(clippy::result_large_err, reason = "the space comes back by value")]
    pub fn close_space_in<F: Format, H: Hardware, P: TablePool>(
        &mut self,
        space: Space<F>,
        hardware: &mut H,
        pool: &mut P,
    ) -> Result<(), (Space<F>, CloseSpaceError)> {
        close(&mut self.roots, space, hardware, pool)
    }
}

fn create<F: Format, M: TableMemory, P: TablePool>(
    roots: &mut Roots,
    reach: Reach,
    config: SpaceConfig,
    memory: &mut M,
    pool: &mut P,
) -> Result<Space<F>, MmError> {
    let pdb = pool.take(DIRECTORY_BYTES, None)?;
    match at(roots, reach, config, pdb, || Ok(Vmm::with_root(config, memory, pdb)?)) {
        Ok(space) => Ok(Space { pooled: true, ..space }),
        Err(why) => {
            // The root of a live space was never the pool's to give: given back, it would be taken again.
            if !matches!(why, MmError::Root(RootError::Taken { .. })) {
                pool.give(pdb, DIRECTORY_BYTES);
            }
            Err(why)
        }
    }
}

/// Enters a root, and makes the space over it.
fn at<F: Format>(
    roots: &mut Roots,
    reach: Reach,
    config: SpaceConfig,
    pdb: TableAddr,
    make: impl FnOnce() -> Result<Vmm<F>, MmError>,
) -> Result<Space<F>, MmError> {
    if config.chip.name != reach.chip.name {
        return Err(MmError::OtherChip { chip: reach.chip.name, wanted: config.chip.name });
    }
    let root = roots.register(reach, pdb, config.used_by)?;
    match make() {
        Ok(vmm) => Ok(Space { vmm, root, pooled: false }),
        Err(why) => {
            // It was entered a moment ago, and no block can name it.
            let _ = roots.unregister(root);
            Err(why)
        }
    }
}

#[expect(clippy::result_large_err, reason = "the space comes back by value")]
fn close<F: Format, H: Hardware, P: TablePool>(
    roots: &mut Roots,
    space: Space<F>,
    hardware: &mut H,
    pool: &mut P,
) -> Result<(), (Space<F>, CloseSpaceError)> {
    let (pdb, binds) = (space.root.pdb(), space.root.binds());
    // A space whose `Vmm` was swapped with another's is not what its root says.
    if !roots.has(space.root.state()) || space.vmm.pdb() != pdb {
        return Err((space, RootError::Foreign { pdb }.into()));
    }
    if binds != 0 {
        return Err((space, RootError::Bound { pdb, binds }.into()));
    }
    let Space { vmm, root, pooled } = space;
    if let Err((vmm, why)) = vmm.close(hardware, pool) {
        return Err((Space { vmm, root, pooled }, why.into()));
    }
    if pooled {
        pool.give(pdb, DIRECTORY_BYTES);
    }
    // Known and unbound, as was just seen; and with the root by value, nobody can have bound it since.
    let _ = roots.unregister(root);
    Ok(())
}
