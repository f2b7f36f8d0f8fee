//! The life of address spaces: made with a registered root, named by instance blocks, and ended.

use gmmu::addr::{PAGE_BYTES, TableAddr};
use gmmu::bar1::{Bar1, MapFailed, MappingId, UnmapError};
use gmmu::device::{Bar0, DeviceError, TablePool};
use gmmu::format::Format;
use gmmu::instance::Bar;
use gmmu::mm::{BarBind, BindError, BindFailed, ChannelBind, ChannelUse, CloseSpaceError, MmError, Root, RootError};
use gmmu::tlb::Limits;
use gmmu::vmm::{AdoptError, MapRequest, SpaceConfig, Use, Vmm};

use super::{Data, Machine, Tables};
use crate::exit::Failure;

/// A root that was registered for a space.
#[derive(Debug)]
pub(super) struct OwnRoot {
    root: Root,
    owner: Owner,
}

/// Whose the memory of a root is.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// The pool's of that memory.
    Pool,
    /// The user's.
    User,
    /// Firmware's, which may still use it.
    Firmware,
}

/// An instance block and who goes through it.
#[derive(Debug)]
pub struct Bound<T> {
    bind: T,
    block: Data,
}

/// A channel's instance block.
pub type Channel = Bound<ChannelBind>;
/// BAR1's.
pub(super) type BoundBar1 = Bound<BarBind>;

/// An instance block was not bound.
#[derive(Debug)]
pub enum InstError {
    /// No memory for the block.
    NoSpace(Failure),
    /// As the library says.
    Bind(BindError),
}

impl Machine {
    /// Bytes of video memory that nobody has.
    pub const fn free_bytes(&mut self) -> u64 {
        match self.mm.vram() {
            Some(vram) => vram.free_bytes(),
            None => 0,
        }
    }

    /// Makes an address space, its root where the user wants it or anywhere, its tables where the chip has them.
    ///
    /// # Errors
    /// What the library says.
    pub fn create_space<F: Format>(&mut self, root: Option<u64>, used_by: Use) -> Result<Vmm<F>, MmError> {
        self.create_space_in(Tables::of(self.mmio.chip()), root, used_by)
    }

    /// The same, with the root and all later tables in the memory that the caller chooses.
    ///
    /// # Errors
    /// What the library says.
    pub fn create_space_in<F: Format>(
        &mut self,
        tables: Tables,
        root: Option<u64>,
        used_by: Use,
    ) -> Result<Vmm<F>, MmError> {
        if (used_by, tables) == (Use::Bar, Tables::Sys) {
            // As the library refuses every other table of such a space.
            return Err(MmError::Space(DeviceError::WrongAperture { at: tables.at(root.unwrap_or(0)) }.into()));
        }
        let whole_words = self.mmio.bar0().has_64bit();
        let config = SpaceConfig { whole_words, ..SpaceConfig::new(self.mmio.chip(), self.mmio.vram_bytes(), used_by) };
        let config = (self.tune)(config);
        let (at, owner) = match root {
            Some(root) => (tables.at(root), Owner::User),
            None => (self.parts(tables).0.take(PAGE_BYTES, None)?, Owner::Pool),
        };
        let root = OwnRoot { root: self.mm.register(at, used_by)?, owner };
        if matches!(owner, Owner::User) {
            self.gpu().note_table_taken(at, PAGE_BYTES);
        }
        match Vmm::with_root(config, &mut self.parts(tables).1, at) {
            Ok(vmm) => {
                self.tell();
                self.gpu().note_root(at);
                self.roots.push(root);
                Ok(vmm)
            }
            Err(why) => {
                self.strike(root);
                Err(why.into())
            }
        }
    }

    /// Takes a space over as if firmware had made it, and whatever is in it now: all its tables are read, `limit` at most.
    ///
    /// # Errors
    /// What the library says.
    pub fn adopt<F: Format>(&mut self, vmm: &Vmm<F>, limit: usize) -> Result<Vmm<F>, AdoptError> {
        let pdb = vmm.pdb();
        let adopted = Vmm::adopt(*vmm.config(), &mut self.mmio, pdb, limit)?;
        // Its root and its tables are never given back.
        for own in self.roots.iter_mut().filter(|own| own.root.pdb() == pdb) {
            own.owner = Owner::Firmware;
        }
        Ok(adopted)
    }

    /// Ends an address space: all its tables are unlinked and given back.
    ///
    /// # Errors
    /// The space, and what the library says.
    #[expect(clippy::result_large_err, reason = "the space comes back by value")]
    pub fn close_space<F: Format>(&mut self, vmm: Vmm<F>) -> Result<(), (Vmm<F>, CloseSpaceError)> {
        let pdb = vmm.pdb();
        if let Err(why) = self.unbound(pdb) {
            return Err((vmm, why.into()));
        }
        let (mut pool, mut hardware) = self.parts(Tables::holding(pdb));
        let closed = vmm.close(&mut hardware, &mut pool);
        self.tell();
        closed.map_err(|(vmm, why)| (vmm, why.into()))?;
        self.strike_at(pdb);
        Ok(())
    }

    /// The same, of the space that BAR1 had. The memory of its mappings is given back.
    ///
    /// # Errors
    /// The mappings, and what the library says.
    #[expect(clippy::result_large_err, reason = "the mappings come back by value")]
    pub fn close_bar1<F: Format>(
        &mut self,
        bar1: Bar1<F, Option<Data>>,
    ) -> Result<(), (Bar1<F, Option<Data>>, CloseSpaceError)> {
        let pdb = bar1.vmm().pdb();
        if let Err(why) = self.unbound(pdb) {
            return Err((bar1, why.into()));
        }
        let mut memory = Vec::new();
        let (mut pool, mut hardware) = self.parts(Tables::Vram);
        let closed = bar1.close(&mut hardware, &mut pool, |_, data| memory.extend(data));
        self.tell();
        closed.map_err(|(bar1, why)| (bar1, why.into()))?;
        for data in memory {
            self.give_pages(data);
        }
        self.strike_at(pdb);
        Ok(())
    }

    /// Refuses while instance blocks name the root.
    fn unbound(&self, pdb: TableAddr) -> Result<(), RootError> {
        match find(&self.roots, pdb)?.binds() {
            0 => Ok(()),
            binds => Err(RootError::Bound { pdb, binds }),
        }
    }

    fn strike_at(&mut self, pdb: TableAddr) {
        if let Some(index) = self.roots.iter().position(|own| own.root.pdb() == pdb) {
            let own = self.roots.swap_remove(index);
            self.strike(own);
        }
    }

    /// A root is out of use: its memory is whose it was.
    fn strike(&mut self, OwnRoot { root, owner }: OwnRoot) {
        let at = root.pdb();
        match owner {
            Owner::Pool => {
                self.parts(Tables::holding(at)).0.give(at, PAGE_BYTES);
                self.tell();
            }
            Owner::User => self.gpu().note_table_freed(at, PAGE_BYTES),
            Owner::Firmware => {}
        }
        let struck = self.mm.unregister(root);
        debug_assert!(struck.is_ok(), "{struck:?}");
    }

    /// Writes an instance block that names the space with the root `pdb`, as a channel has it.
    ///
    /// # Errors
    /// [`InstError`].
    pub fn bind_channel(&mut self, pdb: TableAddr) -> Result<Channel, InstError> {
        let block = self.take_pages(PAGE_BYTES, None).map_err(InstError::NoSpace)?;
        let at = block.table();
        let bound = match find(&self.roots, pdb) {
            Ok(root) => self.mm.bind_channel(&mut self.mmio, at, root, ChannelUse::default()),
            Err(why) => Err(BindFailed { left: None, why: why.into() }),
        };
        match bound {
            Ok(bind) => {
                self.gpu().note_instance(pdb, at);
                Ok(Bound { bind, block })
            }
            // Where the memory failed, the block may name the root: it is kept, and counts.
            Err(failed) => {
                if failed.left.is_none() {
                    self.give_pages(block);
                }
                Err(InstError::Bind(failed.why))
            }
        }
    }

    /// Makes a channel's block name nothing, and gives it back.
    ///
    /// # Errors
    /// The channel, and what the device says.
    pub fn unbind_channel(&mut self, channel: Channel) -> Result<(), (Channel, DeviceError)> {
        let Bound { bind, block } = channel;
        match bind.unbind(&mut self.mmio) {
            Ok(()) => {
                self.give_pages(block);
                Ok(())
            }
            Err((bind, why)) => Err((Bound { bind, block }, why)),
        }
    }

    /// Lets BAR1 go through the space with the root `pdb`.
    ///
    /// # Errors
    /// [`InstError`]; a bind that may have happened counts, until [`unbind_bar1`](Self::unbind_bar1).
    pub fn bind_bar1(&mut self, pdb: TableAddr) -> Result<(), InstError> {
        let block = self.take_pages(PAGE_BYTES, None).map_err(InstError::NoSpace)?;
        let at = block.table();
        let bound = match find(&self.roots, pdb) {
            Ok(root) => self.mm.bind_bar(&mut self.mmio, Bar::Bar1, at, root, Limits::default()),
            Err(why) => Err(BindFailed { left: None, why: why.into() }),
        };
        let (left, result) = match bound {
            Ok(bind) => (Some(bind), Ok(())),
            Err(failed) => (failed.left, Err(InstError::Bind(failed.why))),
        };
        match left {
            Some(bind) => self.bar1 = Some(Bound { bind, block }),
            None => self.give_pages(block),
        }
        result
    }

    /// Takes BAR1 from whatever it goes through. Whether it went through anything.
    ///
    /// # Errors
    /// What the library says; the bind still counts.
    pub fn unbind_bar1(&mut self) -> Result<bool, BindError> {
        let Some(Bound { bind, block }) = self.bar1.take() else { return Ok(false) };
        match self.mm.unbind_bar(&mut self.mmio, bind, Limits::default()) {
            Ok(()) => {
                self.give_pages(block);
                Ok(true)
            }
            Err((bind, why)) => {
                self.bar1 = Some(Bound { bind, block });
                Err(why)
            }
        }
    }

    /// The root that BAR1 goes through.
    #[must_use]
    pub fn bar1_root(&self) -> Option<TableAddr> {
        self.mm.bar(Bar::Bar1)
    }

    /// Maps memory in BAR1.
    ///
    /// # Errors
    /// What the library says.
    pub fn map_bar1<F: Format>(
        &mut self,
        bar1: &mut Bar1<F, Option<Data>>,
        backing: Option<Data>,
        owner: u64,
        request: &MapRequest<'_>,
    ) -> Result<MappingId, MapFailed<Option<Data>>> {
        let (mut pool, mut hardware) = self.parts(Tables::Vram);
        let mapped = bar1.map(&mut hardware, &mut pool, backing, owner, request);
        self.tell();
        mapped
    }

    /// Unmaps memory in BAR1, and gives it back where the allocator gave it.
    ///
    /// # Errors
    /// What the library says.
    pub fn unmap_bar1<F: Format>(
        &mut self,
        bar1: &mut Bar1<F, Option<Data>>,
        id: &MappingId,
    ) -> Result<(), UnmapError> {
        let (mut pool, mut hardware) = self.parts(Tables::Vram);
        let backing = bar1.unmap(id, &mut hardware, &mut pool);
        self.tell();
        if let Some(data) = backing? {
            self.give_pages(data);
        }
        Ok(())
    }
}

/// The space's root among those that were registered.
fn find(roots: &[OwnRoot], pdb: TableAddr) -> Result<&Root, RootError> {
    let root = roots.iter().map(|own| &own.root).find(|root| root.pdb() == pdb);
    root.ok_or(RootError::Foreign { pdb })
}
