//! Instance blocks bound to roots: tokens that count, so that no root goes while a block names it.

use super::root::{Hold, Root, RootError};
use super::GpuMm;
use crate::addr::TableAddr;
use crate::device::{Bar0, Clock, DeviceError, SysPath, TableMemory};
use crate::instance::{self, Bar, BarError, Instance};
use crate::mmio::Mmio;
use crate::tlb::Limits;
use crate::vmm::Use;

/// A block was not bound, or not certainly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The root is not one of this GPU's, or bound too often.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The instance block is to lie where a root is.
    #[error("the instance block {block} is a root of a live address space")]
    BlockIsRoot {
        /// The block.
        block: TableAddr,
    },
    /// A channel is to use a space that was made for BARs: its invalidates reach no engine.
    #[error("the space with the root {pdb} is for BARs: its invalidates do not reach the engines of a channel")]
    BarSpace {
        /// The root.
        pdb: TableAddr,
    },
    /// The BAR is bound already.
    #[error("{bar} is bound to the root {pdb} already: unbind it first")]
    BarTaken {
        /// Which.
        bar: Bar,
        /// The root that it goes through.
        pdb: TableAddr,
    },
    /// The token is of another GPU, or the BAR has been bound by another one since.
    #[error("this bind of {bar} is not of this GPU")]
    Foreign {
        /// Which.
        bar: Bar,
    },
    /// The registers or the device.
    #[error(transparent)]
    Bar(BarError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl From<BarError> for BindError {
    fn from(why: BarError) -> Self {
        match why {
            BarError::Device(why) => Self::Device(why),
            why => Self::Bar(why),
        }
    }
}

/// A bind that failed. Where something was written before, the bind itself is left: it counts, and is to be tried again or
/// unbound.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct BindFailed<T> {
    /// What counts as bound, for it may be.
    pub left: Option<T>,
    /// Why.
    pub why: BindError,
}

impl<T> BindFailed<T> {
    fn nothing(why: impl Into<BindError>) -> Self {
        Self { left: None, why: why.into() }
    }
}

/// A channel's instance block that names a root. Dropped, it counts for ever: the block is still there.
#[derive(Debug)]
#[must_use = "a bind that is dropped keeps its root for ever"]
pub struct ChannelBind {
    hold: Hold,
    block: TableAddr,
    subcontexts: bool,
}

impl ChannelBind {
    /// The instance block.
    #[must_use]
    pub const fn block(&self) -> TableAddr {
        self.block
    }

    /// The root that it names.
    #[must_use]
    pub fn pdb(&self) -> TableAddr {
        self.hold.pdb()
    }

    /// Makes the block name no root. The channel is to be off the engines: what they have loaded of the block, they keep.
    ///
    /// # Errors
    /// The bind, which still counts, and the memory's error: try again.
    pub fn unbind<M: TableMemory>(self, memory: &mut M) -> Result<(), (Self, DeviceError)> {
        match instance::clear(memory, self.block, self.subcontexts) {
            Ok(()) => {
                self.hold.release();
                Ok(())
            }
            Err(why) => Err((self, why)),
        }
    }
}

/// A BAR that is bound to an instance block, or may be. Dropped, the BAR stays taken.
#[derive(Debug)]
#[must_use = "a bind that is dropped keeps its BAR and its root for ever"]
pub struct BarBind {
    hold: Hold,
    bar: Bar,
    block: TableAddr,
}

impl BarBind {
    /// Which BAR.
    #[must_use]
    pub const fn bar(&self) -> Bar {
        self.bar
    }

    /// The instance block.
    #[must_use]
    pub const fn block(&self) -> TableAddr {
        self.block
    }

    /// The root that the block names.
    #[must_use]
    pub fn pdb(&self) -> TableAddr {
        self.hold.pdb()
    }
}

impl GpuMm {
    /// Writes the address space with `root` into a channel's instance block: its words for address spaces alone. With
    /// `subcontexts`, these of the channel's 64 use it too, and the others none. Allocates nothing, as nothing here does.
    ///
    /// # Errors
    /// [`BindFailed`]; where the memory failed, the bind comes back, since the block may name the root.
    pub fn bind_channel<M: TableMemory>(
        &self,
        memory: &mut M,
        block: TableAddr,
        root: &Root,
        what: ChannelUse,
    ) -> Result<ChannelBind, BindFailed<ChannelBind>> {
        let says = Instance { pdb: root.pdb(), replayable: what.replayable, subcontexts: what.subcontexts };
        says.word(self.chip).map_err(BindFailed::nothing)?;
        if root.used_by() == Use::Bar {
            return Err(BindFailed::nothing(BindError::BarSpace { pdb: root.pdb() }));
        }
        let hold = self.hold(block, root).map_err(BindFailed::nothing)?;
        let bind = ChannelBind { hold, block, subcontexts: what.subcontexts != 0 };
        match says.write(memory, self.chip, block) {
            Ok(()) => Ok(bind),
            Err(why) => Err(BindFailed { left: Some(bind), why: why.into() }),
        }
    }

    /// Makes `block` an instance block for the space with `root`, clearing all 4 KiB of it, and binds `bar` to it. The
    /// root is in video memory: a BAR access that had to read tables from the bus would wait for itself.
    ///
    /// # Errors
    /// [`BindFailed`]. A bind that comes back counts: [`retry_bar`](Self::retry_bar) or [`unbind_bar`](Self::unbind_bar).
    pub fn bind_bar<B: Bar0 + Clock, S: SysPath<B>>(
        &mut self,
        mmio: &mut Mmio<B, S>,
        bar: Bar,
        block: TableAddr,
        root: &Root,
        limits: Limits,
    ) -> Result<BarBind, BindFailed<BarBind>> {
        let pdb = root.pdb();
        if let Some(taken) = self.bar(bar) {
            return Err(BindFailed::nothing(BindError::BarTaken { bar, pdb: taken }));
        }
        if !pdb.is_vram() {
            return Err(BindFailed::nothing(DeviceError::WrongAperture { at: pdb }));
        }
        let says = Instance::new(pdb);
        let hold = self.hold(block, root).map_err(BindFailed::nothing)?;
        if let Err(why) = instance::erase(mmio, block).and_then(|()| says.write(mmio, self.chip, block)) {
            // The registers do not name the block yet.
            hold.release();
            return Err(BindFailed::nothing(why));
        }
        *self.slot(bar) = Some(hold.state().clone());
        let bind = BarBind { hold, bar, block };
        match self.retry_bar(mmio, &bind, limits) {
            Ok(()) => Ok(bind),
            Err(why) => Err(BindFailed { left: Some(bind), why }),
        }
    }

    /// Binds once more what failed, after waiting for what may still be under way.
    ///
    /// # Errors
    /// [`BindError`]; the bind still counts.
    pub fn retry_bar<B: Bar0 + Clock, S: SysPath<B>>(
        &mut self,
        mmio: &mut Mmio<B, S>,
        bind: &BarBind,
        limits: Limits,
    ) -> Result<(), BindError> {
        self.own(bind)?;
        Ok(instance::bind(mmio.bar0(), self.chip, bind.bar, Some(bind.block), limits)?)
    }

    /// Takes a BAR from its instance block, back to physical mode. Nobody may access the BAR any more.
    ///
    /// # Errors
    /// The bind, which still counts, and why: try again.
    pub fn unbind_bar<B: Bar0 + Clock, S: SysPath<B>>(
        &mut self,
        mmio: &mut Mmio<B, S>,
        bind: BarBind,
        limits: Limits,
    ) -> Result<(), (BarBind, BindError)> {
        let done = self.own(&bind).and_then(|()| Ok(instance::bind(mmio.bar0(), self.chip, bind.bar, None, limits)?));
        match done {
            Ok(()) => {
                *self.slot(bind.bar) = None;
                bind.hold.release();
                Ok(())
            }
            Err(why) => Err((bind, why)),
        }
    }

    /// The root that a BAR goes through, or may.
    #[must_use]
    pub fn bar(&self, bar: Bar) -> Option<TableAddr> {
        let [bar1, bar2] = &self.bars;
        let slot = if bar == Bar::Bar1 { bar1 } else { bar2 };
        slot.as_ref().map(|state| state.pdb())
    }

    fn hold(&self, block: TableAddr, root: &Root) -> Result<Hold, BindError> {
        instance::aligned(block)?;
        if self.roots.is_root(block) {
            return Err(BindError::BlockIsRoot { block });
        }
        if !self.roots.has(root.state()) {
            return Err(RootError::Foreign { pdb: root.pdb() }.into());
        }
        Ok(root.hold()?)
    }

    fn slot(&mut self, bar: Bar) -> &mut super::BarSlot {
        let [bar1, bar2] = &mut self.bars;
        match bar {
            Bar::Bar1 => bar1,
            Bar::Bar2 => bar2,
        }
    }

    /// Refuses a bind that is not this GPU's.
    fn own(&mut self, bind: &BarBind) -> Result<(), BindError> {
        let is = self.slot(bind.bar).as_ref().is_some_and(|state| state.same(bind.hold.state()));
        if is {
            return Ok(());
        }
        Err(BindError::Foreign { bar: bind.bar })
    }
}

/// How a channel uses the address space that its instance block names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelUse {
    /// Faults of the shader units wait to be replayed.
    pub replayable: bool,
    /// Which of the 64 subcontexts use the space, a bit each; 0 leaves their words alone.
    pub subcontexts: u64,
}
