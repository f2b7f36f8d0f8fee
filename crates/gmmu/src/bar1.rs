//! CPU mappings through BAR1: an address space whose addresses are offsets in the BAR's aperture.
//!
//! [`Bar1`] keeps any number of mappings, each with its backing: whatever owns the memory stays inside until the GPU has
//! acknowledged that it forgot the mapping, and comes back from [`unmap`](Bar1::unmap). Where the device fails half-way
//! the mapping is *poisoned*: its addresses and its backing stay taken, accesses are refused, and `unmap` can be called
//! again. Nothing here touches hardware when it is dropped, and nothing that the GPU may still reach is freed: the
//! backings of a `Bar1` that is dropped with mappings are leaked. [`Bar1::close`] is the way to end one.
//!
//! Accesses are checked against the mapping and against the aperture, whose size is known only at run time.

use core::fmt;

use crate::addr::PAGE_BYTES;
use crate::device::{Bar1Aperture, Hardware, TablePool};
use crate::format::Format;
use crate::storage::{NoMemory, Shared, Slab};
use crate::va::{InvalidVa, VaError, VaRequest, VaSpace};
use crate::vmm::{Backing, CloseError, ExecuteError, Job, MapRequest, Place, PrepareError, State, Use, Vmm};

mod access;
mod books;
mod error;

pub use books::{Owned, Owner, Usage};
pub use error::{AccessError, MapError, MapFailed, NewError, UnmapError};

use books::{Entry, Held, Keep};

/// A job that was not carried to its end.
enum Stuck {
    /// It was not begun, and is cancelled.
    Refused(ExecuteError),
    /// It was begun, and is kept.
    Poisoned(ExecuteError),
}

impl From<Stuck> for UnmapError {
    fn from(stuck: Stuck) -> Self {
        match stuck {
            Stuck::Refused(why) => Self::Refused(why),
            Stuck::Poisoned(why) => Self::Poisoned(why),
        }
    }
}

/// Names one mapping of one [`Bar1`]: of no other, and of no later one at the same place.
#[derive(Clone, Debug)]
pub struct MappingId {
    index: u32,
    generation: u64,
    bar: Shared<()>,
}

impl PartialEq for MappingId {
    fn eq(&self, other: &Self) -> bool {
        self.generation == other.generation && self.bar.same(&other.bar)
    }
}
impl Eq for MappingId {}

impl fmt::Display for MappingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BAR1 mapping {}", self.generation)
    }
}

/// The mappings of one BAR1. `T` owns the memory behind a mapping.
#[derive(Debug)]
pub struct Bar1<F: Format, T> {
    vmm: Vmm<F>,
    /// Bytes that can be mapped: of the aperture, and of the address space.
    end: u64,
    /// Which addresses are taken, poisoned ones too, and by which entry.
    taken: VaSpace<u32>,
    entries: Keep<T>,
    /// Number of the next mapping.
    next: u64,
    bar: Shared<()>,
    /// A `close` was begun: the tables may be unlinked.
    closing: bool,
}

impl<F: Format, T> Bar1<F, T> {
    /// The mappings of a BAR1 whose aperture has `aperture_bytes`, through `vmm`, which is bound to it and empty, or
    /// [adopted](Vmm::adopt) with firmware's mappings alone. What of the aperture is no whole page, beyond the address
    /// space, or firmware's, is not used.
    ///
    /// # Errors
    /// [`NewError`], with the address space.
    #[expect(clippy::result_large_err, reason = "the address space comes back by value")]
    pub fn new(vmm: Vmm<F>, aperture_bytes: u64) -> Result<Self, (Vmm<F>, NewError)> {
        if vmm.config().used_by != Use::Bar {
            return Err((vmm, NewError::NotForBars));
        }
        let pieces = vmm.pieces().count();
        let jobs = vmm.census().jobs;
        if pieces + jobs != 0 {
            return Err((vmm, NewError::InUse { pieces, jobs }));
        }
        let end = aperture_bytes.min(1 << F::VA_BITS) & !(PAGE_BYTES - 1);
        let Ok(mut taken) = VaSpace::new(0..end) else { return Err((vmm, NewError::TooSmall { aperture_bytes })) };
        let within = vmm.foreign().map(|range| range.start..range.end.min(end));
        let excluded = within.take_while(|range| range.start < end).try_for_each(|range| taken.exclude(range));
        let bar = match excluded.and_then(|()| Shared::new(())) {
            Ok(bar) => bar,
            Err(why) => return Err((vmm, why.into())),
        };
        Ok(Self { vmm, end, taken, entries: Keep(Slab::new()), next: 1, bar, closing: false })
    }

    /// The address space.
    #[must_use]
    pub const fn vmm(&self) -> &Vmm<F> {
        &self.vmm
    }

    /// Bytes of the aperture that can be mapped.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.end
    }

    /// Maps memory for the CPU.
    ///
    /// ```
    /// # use gmmu::addr::{PhysAddr, VramAddr};
    /// # use gmmu::device::Width;
    /// # use gmmu::format::V3;
    /// # use gmmu::mmio::Mmio;
    /// # use gmmu::vram::{TablePages, Vram};
    /// # use gmmu_sim::{Config, Gpu};
    /// use gmmu::bar1::Bar1;
    /// use gmmu::device::Bar1Aperture;
    /// use gmmu::vmm::{Extent, MapRequest, SpaceConfig, Use, Vmm};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100"))?)?;
    /// # let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(1 << 30)])?;
    /// # let mut pages = TablePages::for_vram(&vram)?;
    /// # let mut pool = pages.pool(&mut vram);
    /// let config = SpaceConfig::new(card.chip(), card.vram_bytes(), Use::Bar);
    /// let vmm = Vmm::<V3>::create(config, &mut card, &mut pool)?;
    /// // … and an instance block with `vmm.pdb()` is bound to BAR1.
    /// let mut bar1 = Bar1::new(vmm, card.bar0().size()).map_err(|(_, why)| why)?;
    ///
    /// // What owns the memory goes in, and comes back when the GPU has forgotten the mapping.
    /// let owner_of_memory = "a buffer".to_owned();
    /// let extents = [Extent { to: PhysAddr::vram(8 << 30), bytes: 64 << 10 }];
    /// let request = MapRequest::extents(&extents);
    /// let id = bar1.map(&mut card, &mut pool, owner_of_memory, "cursor", &request)?;
    /// bar1.write(&id, card.bar0(), 0x40, Width::W32, 42)?;
    /// assert!(bar1.read(&id, card.bar0(), 64 << 10, Width::W8).is_err());
    /// let told: Vec<String> = bar1.owners().map(|owned| owned.to_string()).collect();
    /// assert_eq!(told, ["0x0..0x10000 cursor"]);
    /// assert_eq!(bar1.unmap(&id, &mut card, &mut pool)?, "a buffer");
    /// assert!(bar1.read(&id, card.bar0(), 0, Width::W8).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Takes the extents of `request`, in its place or wherever the aperture has room, from offset 0 on. `backing` owns the memory, and is kept until the mapping is gone.
    ///
    /// # Errors
    /// [`MapFailed`]: refused, with the backing, or poisoned, with the backing kept inside.
    pub fn map<H: Hardware, P: TablePool>(
        &mut self,
        hardware: &mut H,
        pool: &mut P,
        backing: T,
        owner: impl Into<Owner>,
        request: &MapRequest<'_>,
    ) -> Result<MappingId, MapFailed<T>> {
        let job = match self.prepare(hardware, pool, request) {
            Ok(job) => job,
            Err(why) => return Err(MapFailed::Refused { backing, why }),
        };
        let (range, generation) = (job.range(), self.next);
        let (owner, read_only) = (owner.into(), request.flags.read_only);
        let entry = Entry { generation, range: range.clone(), owner, read_only, held: Held::Mapping(job), backing };
        let index = match self.entries.0.insert_within(entry) {
            Ok(index) => index,
            // Room was reserved, so this never happens; the dropped job is taken back at the space's next call.
            Err(entry) => return Err(MapFailed::Refused { backing: entry.backing, why: NoMemory.into() }),
        };
        let _ = self.taken.insert(range.clone(), index);
        self.next += 1;
        let id = MappingId { index, generation, bar: self.bar.clone() };
        match self.run(&id, hardware, pool) {
            Ok(()) => Ok(id),
            Err(Stuck::Poisoned(why)) => Err(MapFailed::Poisoned { id, why }),
            Err(Stuck::Refused(why)) => {
                self.taken.remove(range.start);
                match self.entries.0.remove(index) {
                    Some(entry) => Err(MapFailed::Refused { backing: entry.backing, why: why.into() }),
                    None => Err(MapFailed::Poisoned { id, why }),
                }
            }
        }
    }

    /// Chooses a place and prepares the mapping; room to enter it is made.
    fn prepare<H: Hardware, P: TablePool>(
        &mut self,
        hardware: &mut H,
        pool: &mut P,
        request: &MapRequest<'_>,
    ) -> Result<Job, MapError> {
        if self.closing {
            return Err(PrepareError::Closing.into());
        }
        self.entries.0.reserve(1)?;
        self.taken.reserve(1)?;
        let va = self.choose(request)?;
        Ok(self.vmm.prepare_map(hardware, pool, &request.clone().at(va))?)
    }

    fn choose(&self, request: &MapRequest<'_>) -> Result<u64, MapError> {
        let Backing::Extents(extents) = request.backing else { return Err(MapError::Late) };
        let sum = extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.bytes));
        let bytes = sum.ok_or(PrepareError::Overflow)?;
        let beyond = |end| MapError::BeyondAperture { end, limit: self.end };
        let wish = VaRequest::new(bytes).allow_null();
        let wish = match &request.place {
            Place::At(va) => {
                let end = va.checked_add(bytes).ok_or(PrepareError::Overflow)?;
                if end > self.end {
                    return Err(beyond(end));
                }
                wish.at(*va)
            }
            Place::Within(range) if range.end > self.end => return Err(beyond(range.end)),
            Place::Within(range) => wish.within(range.clone()),
            Place::Anywhere => wish,
        };
        let wish = match (&request.place, request.page) {
            (Place::Anywhere | Place::Within(_), Some(page)) => wish.align(page.bytes()),
            _ => wish,
        };
        match self.taken.find(&wish) {
            Ok(va) => Ok(va.raw()),
            Err(VaError::NoSpace { .. }) => Err(MapError::NoRoom { bytes, largest: self.largest_hole() }),
            Err(VaError::InvalidRequest(InvalidVa::Empty)) => Err(PrepareError::Empty.into()),
            Err(why) => Err(PrepareError::NoVa(why).into()),
        }
    }

    /// Unmaps, waits until the GPU has acknowledged it, and gives the backing back. A poisoned mapping is tried again: what
    /// was begun is carried to its end.
    ///
    /// # Errors
    /// [`UnmapError`]: the mapping is as it was, or poisoned; its backing is kept.
    pub fn unmap<H: Hardware, P: TablePool>(
        &mut self,
        id: &MappingId,
        hardware: &mut H,
        pool: &mut P,
    ) -> Result<T, UnmapError> {
        let entry = self.entry(id)?;
        if self.closing {
            return Err(PrepareError::Closing.into());
        }
        let (range, live) = (entry.range.clone(), matches!(entry.held, Held::Live));
        if !live {
            self.run(id, hardware, pool)?;
        }
        if matches!(self.entry(id)?.held, Held::Live) {
            let job = self.vmm.prepare_unmap(hardware, pool, range.clone())?;
            self.entry_mut(id)?.held = Held::Unmapping(job);
            self.run(id, hardware, pool)?;
        }
        self.taken.remove(range.start);
        let entry = self.entries.0.remove(id.index);
        entry.map(|entry| entry.backing).ok_or(UnmapError::Access(AccessError::Stale { generation: id.generation }))
    }

    /// Carries the job of an entry to its end, or leaves it there.
    fn run<H: Hardware, P: TablePool>(&mut self, id: &MappingId, hardware: &mut H, pool: &mut P) -> Result<(), Stuck> {
        let Ok(entry) = self.entry_mut(id) else { return Ok(()) };
        let (job, unmaps) = match core::mem::replace(&mut entry.held, Held::Lost) {
            Held::Mapping(job) => (job, false),
            Held::Unmapping(job) => (job, true),
            held @ (Held::Live | Held::Gone | Held::Lost) => {
                entry.held = held;
                return Ok(());
            }
        };
        let executed = match job.execute(hardware) {
            // What a poisoned mapping has begun nearby has to be done first.
            Err(failed) if failed.why == ExecuteError::NotYet => {
                self.settle(hardware, pool);
                failed.job.execute(hardware)
            }
            executed => executed,
        };
        let (held, result) = match executed {
            Ok(receipt) => {
                // It is this space's own, so it is taken.
                let _ = self.vmm.commit(pool, receipt);
                (if unmaps { Held::Gone } else { Held::Live }, Ok(()))
            }
            Err(failed) if failed.job.state() == State::Prepared => {
                // Where there is no memory to cancel it now, the space does it at its next call.
                let _ = self.vmm.cancel(pool, failed.job);
                (if unmaps { Held::Live } else { Held::Gone }, Err(Stuck::Refused(failed.why)))
            }
            Err(failed) => {
                let held = if unmaps { Held::Unmapping(failed.job) } else { Held::Mapping(failed.job) };
                (held, Err(Stuck::Poisoned(failed.why)))
            }
        };
        if let Ok(entry) = self.entry_mut(id) {
            entry.held = held;
        }
        result
    }

    /// Tries again what the device failed at: mappings that were half made can be used again, and those that were half
    /// unmade wait for [`unmap`](Self::unmap) to give their backing back. Stops where the device still fails. A change that
    /// needs what was begun does this by itself.
    pub fn settle<H: Hardware, P: TablePool>(&mut self, hardware: &mut H, pool: &mut P) {
        let Self { vmm, taken, entries, .. } = self;
        for (_, &index) in taken.iter() {
            let Some(entry) = entries.0.get_mut(index) else { continue };
            let (job, unmaps) = match core::mem::replace(&mut entry.held, Held::Lost) {
                Held::Mapping(job) => (job, false),
                Held::Unmapping(job) => (job, true),
                held @ (Held::Live | Held::Gone | Held::Lost) => {
                    entry.held = held;
                    continue;
                }
            };
            match job.execute(hardware) {
                Ok(receipt) => {
                    let _ = vmm.commit(pool, receipt);
                    entry.held = if unmaps { Held::Gone } else { Held::Live };
                }
                Err(failed) => {
                    entry.held = if unmaps { Held::Unmapping(failed.job) } else { Held::Mapping(failed.job) };
                    return;
                }
            }
        }
    }

    /// Ends the BAR's address space: unlinks everything, waits for the acknowledgement, gives the tables back to `pool` and
    /// every backing to `give`, those of poisoned mappings too. The BAR has to be unbound before.
    ///
    /// # Errors
    /// The device failed, and nothing is given: only another `close` can follow.
    #[expect(clippy::result_large_err, reason = "the mappings come back by value")]
    pub fn close<H: Hardware, P: TablePool>(
        mut self,
        hardware: &mut H,
        pool: &mut P,
        mut give: impl FnMut(Owner, T),
    ) -> Result<(), (Self, CloseError)> {
        self.closing = true;
        for (_, &index) in self.taken.iter() {
            if let Some(entry) = self.entries.0.get_mut(index) {
                // A job that was begun and is dropped is lost, and ends with its space.
                if matches!(entry.held, Held::Mapping(_) | Held::Unmapping(_)) {
                    entry.held = Held::Lost;
                }
            }
        }
        let Self { vmm, end, taken, mut entries, next, bar, closing } = self;
        match vmm.close(hardware, pool) {
            Ok(()) => {
                for (_, &index) in taken.iter() {
                    if let Some(entry) = entries.0.remove(index) {
                        give(entry.owner, entry.backing);
                    }
                }
                Ok(())
            }
            Err((vmm, why)) => Err((Self { vmm, end, taken, entries, next, bar, closing }, why)),
        }
    }

    fn entry(&self, id: &MappingId) -> Result<&Entry<T>, AccessError> {
        if !self.bar.same(&id.bar) {
            return Err(AccessError::Foreign { generation: id.generation });
        }
        let entry = self.entries.0.get(id.index).filter(|entry| entry.generation == id.generation);
        entry.ok_or(AccessError::Stale { generation: id.generation })
    }

    fn entry_mut(&mut self, id: &MappingId) -> Result<&mut Entry<T>, AccessError> {
        let MappingId { index, generation, .. } = *id;
        let entry = self.entries.0.get_mut(index).filter(|entry| entry.generation == generation);
        entry.ok_or(AccessError::Stale { generation })
    }

    /// The offset in the aperture of an access within a mapping.
    fn locate<A: Bar1Aperture>(
        &self,
        id: &MappingId,
        aperture: &A,
        offset: u64,
        bytes: u64,
        writes: bool,
    ) -> Result<u64, AccessError> {
        let entry = self.entry(id)?;
        if self.closing || !matches!(entry.held, Held::Live) {
            return Err(AccessError::Poisoned { range: entry.range.clone() });
        }
        let size = entry.range.end - entry.range.start;
        if offset.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(AccessError::OutOfRange { offset, bytes, size });
        }
        if writes && entry.read_only {
            return Err(AccessError::ReadOnly { range: entry.range.clone() });
        }
        let at = entry.range.start + offset;
        // A BAR can be resized behind our back.
        let limit = aperture.size();
        if at.checked_add(bytes).is_none_or(|end| end > limit) {
            return Err(AccessError::BeyondAperture { end: at.saturating_add(bytes), limit });
        }
        Ok(at)
    }
}
