//! The books' side of zaps: which mappings are evictable, which of them were zapped, and how they are bound again.

use super::bind::Overlay;
use super::change::Change;
use super::piece::Piece;
use super::prepare::Plan;
use super::request::{Live, MapRequest, Place, PrepareError};
use super::rounds::push_write;
use super::slots::clear_pages;
use super::space::Vmm;
use super::zap::{Slots, Stage, Swap, Zap, Zapper};
use crate::device::{Acknowledge, Depth, Invalidate, TableMemory, TablePool};
use crate::format::Format;
use crate::storage::{List, NoMemory, Shared};
use core::ops::Range;

/// What the space knows of one evictable mapping.
#[derive(Debug)]
pub(super) struct Evictee {
    zapper: Shared<Zapper>,
    /// The generation in which its pages were bound: after any other one they are gone.
    bound: u32,
    /// From its first page to its last, and how many bytes of that it has, after all prepared jobs.
    range: Range<u64>,
    bytes: u64,
    /// Open jobs that change it.
    jobs: u32,
}

/// An evictable mapping that a job changes, and the generation in which it was bound before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touched {
    mapping: u32,
    bound: u32,
}

/// Whether both lists, in the order of the numbers, have a mapping in common.
pub(super) fn share(some: &[Touched], others: &[Touched]) -> bool {
    some.iter().any(|touched| others.binary_search_by_key(&touched.mapping, |other| other.mapping).is_ok())
}

/// The pages of evictable mappings among those that a change takes or brings.
fn mappings(change: &Change) -> impl Iterator<Item = (&Range<u64>, u32)> {
    let new = change.new.iter().map(|target| (&target.range, target.piece.zap));
    let old = change.old.iter().map(|(range, piece)| (range, piece.zap));
    new.chain(old).filter(|(_, mapping)| *mapping != 0)
}

impl<F: Format> Vmm<F> {
    /// The zap of the [evictable](MapRequest::evictable) mapping that has a page at `va` after all prepared jobs. It stays
    /// good while the mapping is split, cut, protected and bound again.
    #[must_use]
    pub fn zap(&self, va: u64) -> Option<Zap> {
        let (_, piece) = self.va.get(va)?;
        let evictee = self.evictee(piece.zap)?;
        Some(Zap { zapper: evictee.zapper.clone(), mapping: piece.zap })
    }

    /// What is in the records and has no pages any more: zapped, and not bound again.
    pub fn zapped(&self) -> impl Iterator<Item = (Range<u64>, &Piece)> {
        self.va.iter().filter(|(_, piece)| self.is_zapped(piece))
    }

    /// Plans to give a mapping, zapped or not, other memory: `maps`, in the order of their addresses, cover exactly the
    /// pages that it has, and may differ in all but that. Its [`Zap`] stays the same.
    ///
    /// # Errors
    /// [`PrepareError`], [`NotMapped`](PrepareError::NotMapped) where one of them reaches beyond the mapping,
    /// [`BindsPart`](PrepareError::BindsPart) where they leave some of it out; nothing was changed and nothing is held.
    pub fn plan_rebind<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        zap: &Zap,
        maps: &[MapRequest<'_>],
        live: Live,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        self.open(pool)?;
        let bound = zap.zapper.generation();
        self.covers_mapping(zap, maps)?;
        let mut overlay = Overlay::default();
        for request in maps {
            self.apply_map(&mut overlay, request, zap.mapping, live)?;
        }
        let change = self.difference(&overlay, &[], live, Some((zap.mapping, bound)))?;
        self.plan_change(pool, change)
    }

    /// Prepares to give a mapping other memory: [`plan_rebind`](Self::plan_rebind) and [`Plan::init`] in one.
    ///
    /// ```
    /// # use gmmu::addr::{PageSize, Pfn, PhysAddr, VramAddr};
    /// # use gmmu::format::{Flags, V3};
    /// # use gmmu::mmio::Mmio;
    /// # use gmmu::vmm::{Extent, Live, MapRequest, SpaceConfig, Use, Vmm};
    /// # use gmmu::vram::{TablePages, Vram};
    /// # use gmmu::walk::Outcome;
    /// # use gmmu_sim::{Config, Gpu};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100"))?)?;
    /// # let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(1 << 30)])?;
    /// # let mut pages = TablePages::for_vram(&vram)?;
    /// # let mut pool = pages.pool(&mut vram);
    /// # let config = SpaceConfig::new(card.chip(), card.vram_bytes(), Use::Channel);
    /// # let mut space = Vmm::<V3>::create(config, &mut card, &mut pool)?;
    /// let extents = [Extent { to: PhysAddr::vram(8 << 30), bytes: 4 << 20 }];
    /// let request = MapRequest::extents(&extents).at(0x4000_0000).evictable();
    /// space.map_pages(&mut card, &mut pool, &request, &[])?;
    /// let zap = space.zap(0x4000_0000).ok_or("not evictable")?;
    /// // Memory is short: under the hardware's lock alone, without the heap.
    /// zap.zap(&mut card)?;
    /// assert!(matches!(space.read_mapping(&mut card, 0x4000_0000)?.outcome, Outcome::Unmapped));
    /// assert_eq!(space.zapped().count(), 1);
    /// // Later its pages lie elsewhere.
    /// let elsewhere = [Extent { to: PhysAddr::vram(9 << 30), bytes: 4 << 20 }];
    /// let request = MapRequest::extents(&elsewhere).at(0x4000_0000);
    /// let job = space.prepare_rebind(&mut card, &mut pool, &zap, &[request], Live::MustNotFault)?;
    /// let receipt = job.execute(&mut card).map_err(|failed| failed.why)?;
    /// space.commit(&mut pool, receipt).map_err(|(_, why)| why)?;
    /// assert!(matches!(space.read_mapping(&mut card, 0x4000_0000)?.outcome,
    ///     Outcome::Mapped { to, .. } if to == PhysAddr::vram(9 << 30)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn prepare_rebind<M: TableMemory, P: TablePool>(
        &mut self,
        memory: &mut M,
        pool: &mut P,
        zap: &Zap,
        maps: &[MapRequest<'_>],
        live: Live,
    ) -> Result<super::Job, PrepareError> {
        self.plan_rebind(pool, zap, maps, live)?.init(memory)
    }

    /// Refuses maps that are not just the pages of a mapping.
    fn covers_mapping(&self, zap: &Zap, maps: &[MapRequest<'_>]) -> Result<(), PrepareError> {
        let evictee = self.evictee(zap.mapping).filter(|evictee| evictee.zapper.same(&zap.zapper));
        let (mut at, mut bytes) = (0, 0);
        for request in maps {
            let Place::At(va) = request.place else { return Err(PrepareError::NoPlace) };
            let length = request.bytes().ok_or(PrepareError::Overflow)?;
            let end = va.checked_add(length).ok_or(PrepareError::Overflow)?;
            let pieces = self.va.overlapping(va..end).filter(|(_, piece)| piece.zap == zap.mapping);
            let own: u64 = pieces.map(|(range, _)| range.end.min(end) - range.start.max(va)).sum();
            if evictee.is_none() || own != length || va < at {
                return Err(PrepareError::NotMapped { range: va..end });
            }
            (at, bytes) = (end, bytes + length);
        }
        match evictee {
            Some(evictee) if bytes == evictee.bytes && bytes > 0 => Ok(()),
            evictee => Err(PrepareError::BindsPart { bytes, of: evictee.map_or(0, |evictee| evictee.bytes) }),
        }
    }

    fn evictee(&self, mapping: u32) -> Option<&Evictee> {
        self.evictees.get(mapping.checked_sub(1)?)
    }

    fn evictee_mut(&mut self, mapping: u32) -> Option<&mut Evictee> {
        self.evictees.get_mut(mapping.checked_sub(1)?)
    }

    /// Whether a piece is in the records only.
    pub(super) fn is_zapped(&self, piece: &Piece) -> bool {
        self.evictee(piece.zap).is_some_and(|evictee| evictee.bound != evictee.zapper.generation())
    }

    /// The number of a new mapping, 0 for one that is not evictable. Where no job comes of it, it is forgotten in time.
    pub(super) fn number_mapping(&mut self, evictable: bool) -> Result<u32, NoMemory> {
        if !evictable {
            return Ok(0);
        }
        let what = Invalidate { pdb: self.pdb, depth: Depth::PteOnly, scope: self.scope(), ack: Acknowledge::Globally };
        let zapper = Zapper::new(what, self.config.limits)?;
        self.evictees.reserve(1)?;
        self.numbered.reserve(1)?;
        let evictee = Evictee { zapper, bound: 0, range: 0..0, bytes: 0, jobs: 0 };
        let number = self.evictees.insert_within(evictee).map_err(|_| NoMemory)? + 1;
        let _ = self.numbered.push_within(number);
        Ok(number)
    }

    /// Forgets the numbers that came to nothing.
    pub(super) fn drop_numbers(&mut self) {
        while let Some(mapping) = self.numbered.pop() {
            self.drop_number(mapping);
        }
    }

    fn drop_number(&mut self, mapping: u32) {
        if self.evictee(mapping).is_some_and(|evictee| evictee.jobs == 0 && evictee.bytes == 0) {
            self.evictees.remove(mapping - 1);
        }
    }

    /// Lists the evictable mappings that a change changes, in the order of their numbers.
    pub(super) fn evictees_of(&self, change: &Change, list: &mut List<Touched>) -> Result<(), NoMemory> {
        if self.evictees.is_empty() {
            return Ok(());
        }
        for (_, mapping) in mappings(change) {
            if let Err(at) = list.binary_search_by_key(&mapping, |touched| touched.mapping) {
                list.reserve(1)?;
                let bound = self.evictee(mapping).map_or(0, |evictee| evictee.bound);
                let _ = list.insert_within(at, Touched { mapping, bound });
            }
        }
        Ok(())
    }

    /// Notes that a change of these mappings is under way. [`let_go`](Self::let_go) ends it.
    pub(super) fn touch(&mut self, change: &Change, list: &[Touched]) {
        if list.is_empty() {
            return;
        }
        for touched in list {
            let Some(evictee) = self.evictee_mut(touched.mapping) else { continue };
            evictee.jobs += 1;
            if let Some((_, bound)) = change.rebinds.filter(|(mapping, _)| *mapping == touched.mapping) {
                evictee.bound = bound;
            }
        }
        for (range, mapping) in mappings(change) {
            if let Some(evictee) = self.evictee_mut(mapping) {
                let Range { start, end } = evictee.range;
                let start = if start == end { range.start } else { start.min(range.start) };
                evictee.range = start..end.max(range.end);
            }
        }
    }

    /// What a job exchanges with the zaps of the mappings that it changes, as the plan has left them.
    pub(super) fn swaps(
        &mut self,
        change: &Change,
        list: &[Touched],
        swaps: &mut List<Swap>,
    ) -> Result<(), PrepareError> {
        if list.is_empty() {
            return Ok(());
        }
        swaps.reserve(list.len())?;
        for touched in list {
            let Some(evictee) = self.evictee(touched.mapping) else { continue };
            let mut slots = Slots::default();
            for (range, piece) in self.va.overlapping(evictee.range.clone()) {
                if piece.zap == touched.mapping {
                    clear_pages(&self.tree, self.nothing.closed, range, piece.page, |write, depth| {
                        slots.depth = slots.depth.max(depth);
                        push_write(&mut slots.writes, write).map_err(PrepareError::from)
                    })?;
                }
            }
            let zapper = evictee.zapper.clone();
            let swap =
                Swap { zapper, mapping: touched.mapping, writes_in: None, slots, stage: Stage::Planned, seen: 0 };
            let _ = swaps.push_within(swap);
            self.count_pages(touched.mapping);
        }
        for target in change.new.iter().filter(|target| !target.kept && !target.cleared) {
            let bound = self.evictee(target.piece.zap).map(|evictee| evictee.bound);
            if let Ok(at) = swaps.binary_search_by_key(&target.piece.zap, |swap| swap.mapping) {
                if let Some(swap) = swaps.get_mut(at) {
                    swap.writes_in = bound;
                }
            }
        }
        Ok(())
    }

    /// Ends that a job is at these mappings. Where it is taken back, the records are as they were already.
    pub(super) fn let_go(&mut self, list: &[Touched], taken_back: bool) {
        for touched in list {
            let Some(evictee) = self.evictee_mut(touched.mapping) else { continue };
            evictee.jobs -= 1;
            if taken_back {
                evictee.bound = touched.bound;
                self.count_pages(touched.mapping);
            }
            self.drop_number(touched.mapping);
        }
    }

    /// Counts anew what a mapping has.
    fn count_pages(&mut self, mapping: u32) {
        let Some(range) = self.evictee(mapping).map(|evictee| evictee.range.clone()) else { return };
        let own = self.va.overlapping(range).filter(|(_, piece)| piece.zap == mapping);
        let bytes = own.map(|(range, _)| range.end - range.start).sum();
        if let Some(evictee) = self.evictee_mut(mapping) {
            evictee.bytes = bytes;
        }
    }

    /// Lets no zap touch the tables any more, which are gone or about to be given back. `false` where one is at them now.
    pub(super) fn forget_entries(&self) -> bool {
        self.evictees.iter().all(|(_, evictee)| evictee.zapper.forget())
    }
}
