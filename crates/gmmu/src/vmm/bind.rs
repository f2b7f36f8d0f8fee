//! Bind jobs: an ordered list of operations, each over whatever is there, as one change.
//!
//! The operations are applied to a copy of the records, of as much as they touch. What the copy says in the end is what is
//! to be, the records say what was, and pages that are the same in both are not written.

use super::change::{Change, Draft, Target};
use super::piece::{Backed, Piece, Sizes};
use super::prepare::Plan;
use super::request::{check, check_range, Live, MapRequest, Place, PrepareError};
use super::space::Vmm;
use crate::addr::{PageSize, PAGE_BYTES};
use crate::device::{TableMemory, TablePool};
use crate::format::Format;
use crate::storage::List;
use crate::va::windows;
use core::ops::Range;

/// One operation of a bind job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind<'a> {
    /// Maps at an address, in the place of whatever is mapped there.
    Map(MapRequest<'a>),
    /// Unmaps what is mapped in the range, if anything is.
    Unmap(Range<u64>),
    /// Makes the range sparse.
    Sparse(Range<u64>),
    /// Ends that the range is sparse.
    Unsparse(Range<u64>),
}

/// Part of the copy: addresses, what they lead to, and whether the records have it so.
#[derive(Clone, Debug)]
struct Part {
    range: Range<u64>,
    piece: Option<Piece>,
    recorded: bool,
}

/// The copy of the records, in order. It has no hole within what was loaded.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    parts: List<Part>,
}

impl Overlay {
    /// The first part that ends behind `va`.
    fn seek(&self, va: u64) -> usize {
        // Most operations go upwards.
        match self.parts.last() {
            Some(last) if last.range.end <= va => self.parts.len(),
            _ => self.parts.partition_point(|part| part.range.end <= va),
        }
    }

    fn insert(&mut self, at: usize, part: Part) -> Result<(), PrepareError> {
        if part.range.start < part.range.end {
            self.parts.reserve(1)?;
            let _ = self.parts.insert_within(at, part);
        }
        Ok(())
    }

    /// Takes out whatever is in `range`; returns where new parts go.
    fn make_room<F: Format>(&mut self, vmm: &Vmm<F>, range: &Range<u64>, live: Live) -> Result<usize, PrepareError> {
        let behind = self.parts.last().is_none_or(|last| last.range.end <= range.start);
        if !(behind && vmm.va.overlapping(range.clone()).next().is_none()) {
            self.load(vmm, range.clone())?;
            self.cut(vmm, range.start, live)?;
            self.cut(vmm, range.end, live)?;
            return Ok(self.clear(range));
        }
        Ok(self.parts.len())
    }

    /// Copies what the records have in `range`, where that is not done yet; pages over its borders are copied whole.
    fn load<F: Format>(&mut self, vmm: &Vmm<F>, range: Range<u64>) -> Result<(), PrepareError> {
        let page_over = |va: u64| {
            let (_, piece) = vmm.va.get(va).filter(|(whole, _)| whole.start < va)?;
            let mask = piece.page.bytes() - 1;
            Some((va & !mask, (va + mask) & !mask))
        };
        let start = page_over(range.start).map_or(range.start, |(start, _)| start);
        let range = start..page_over(range.end).map_or(range.end, |(_, end)| end);
        let mut va = range.start;
        while va < range.end {
            let at = self.seek(va);
            let next = self.parts.get(at).map(|part| part.range.clone());
            match next.filter(|next| next.start < range.end) {
                Some(next) if next.start <= va => va = next.end,
                next => {
                    let end = next.map_or(range.end, |next| next.start);
                    self.load_gap(vmm, va..end, at)?;
                    va = end;
                }
            }
        }
        Ok(())
    }

    fn load_gap<F: Format>(&mut self, vmm: &Vmm<F>, gap: Range<u64>, at: usize) -> Result<(), PrepareError> {
        let (mut va, mut at) = (gap.start, at);
        let none = |range| Part { range, piece: None, recorded: true };
        for (whole, piece) in vmm.va.overlapping(gap.clone()) {
            let part = whole.start.max(gap.start)..whole.end.min(gap.end);
            let before = self.parts.len();
            self.insert(at, none(va..part.start))?;
            at += self.parts.len() - before;
            va = part.end;
            let piece = Some(piece.skip(part.start - whole.start));
            self.insert(at, Part { range: part, piece, recorded: true })?;
            at += 1;
        }
        self.insert(at, none(va..gap.end))
    }

    /// Lets a part begin at `va`. A larger page that lies over it is cut; where the tables have that page, its other parts
    /// fault while that is done.
    fn cut<F: Format>(&mut self, vmm: &Vmm<F>, va: u64, live: Live) -> Result<(), PrepareError> {
        let Some(part) = self.parts.get(self.seek(va)).filter(|part| part.range.start < va).cloned() else {
            return Ok(());
        };
        let Some(piece) = part.piece else { return self.split(va) };
        let mask = piece.page.bytes() - 1;
        if va & mask == 0 {
            return self.split(va);
        }
        let page = va & !mask..(va & !mask) + mask + 1;
        if part.recorded && live == Live::MustNotFault {
            return Err(PrepareError::WouldFault { entry: page });
        }
        self.split(page.start)?;
        self.split(page.end)?;
        let at = self.seek(page.start);
        self.parts.remove(at);
        let piece = piece.skip(page.start - part.range.start);
        self.cut_page(vmm, at, [page.start..va, va..page.end], piece)
    }

    /// Puts the two halves of a page in its place, in smaller pages.
    fn cut_page<F: Format>(
        &mut self,
        vmm: &Vmm<F>,
        at: usize,
        halves: [Range<u64>; 2],
        piece: Piece,
    ) -> Result<(), PrepareError> {
        let [low, high] = halves;
        let sizes = Sizes::smaller(&piece, vmm.config.page_sizes(), [low.end; 2])?;
        let above = piece.skip(low.end - low.start);
        for (at, (range, piece)) in (at..).zip(sizes.cut(low, piece).chain(sizes.cut(high, above))) {
            self.insert(at, Part { range, piece: Some(piece), recorded: false })?;
        }
        Ok(())
    }

    /// Makes two parts of the one that contains `va`, where no page lies over it.
    fn split(&mut self, va: u64) -> Result<(), PrepareError> {
        let at = self.seek(va);
        let Some(part) = self.parts.get(at).filter(|part| part.range.start < va).cloned() else { return Ok(()) };
        let piece = part.piece.map(|piece| piece.skip(va - part.range.start));
        self.parts.reserve(1)?;
        if let Some(low) = self.parts.get_mut(at) {
            low.range.end = va;
        }
        self.insert(at + 1, Part { range: va..part.range.end, piece, ..part })
    }

    /// Takes out whatever is in `range`, at whose ends parts begin; returns where new parts go.
    fn clear(&mut self, range: &Range<u64>) -> usize {
        let at = self.seek(range.start);
        while self.parts.get(at).is_some_and(|part| part.range.start < range.end) {
            self.parts.remove(at);
        }
        at
    }
}

impl<F: Format> Vmm<F> {
    /// Plans an ordered list of operations as one job: one invalidate, and a second one only where page sizes change.
    /// Operations see what those before them did. Pages that are mapped in the end as they were before, to the same memory
    /// and with the same attributes, are not touched.
    ///
    /// # Errors
    /// [`PrepareError`], [`Busy`](PrepareError::Busy) only for what is firmware's; nothing was changed and nothing is held.
    pub fn plan_bind<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        operations: &[Bind<'_>],
        live: Live,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        self.open(pool)?;
        if operations.is_empty() {
            return Err(PrepareError::Empty);
        }
        let mut overlay = Overlay::default();
        let mut switches = List::new();
        let mut order = List::new();
        order.reserve_exact(operations.len())?;
        // A part each at least: growing step by step would copy the first ones again and again.
        overlay.parts.reserve(operations.len())?;
        for (index, operation) in operations.iter().enumerate() {
            order.push((self.range_of(operation)?, index))?;
        }
        // Where no two share an address their order does not matter, and the copy grows at its end alone.
        order.sort_unstable_by_key(|(range, _)| range.start);
        if order.windows(2).any(|pair| matches!(pair, [(low, _), (high, _)] if low.end > high.start)) {
            order.sort_unstable_by_key(|(_, index)| *index);
        }
        for (range, index) in order.iter() {
            if let Some(operation) = operations.get(*index) {
                self.apply(&mut overlay, &mut switches, range, operation, live)?;
            }
        }
        let change = self.difference(&overlay, &switches, live, None)?;
        if switches.is_empty() {
            self.plan_change(pool, change)
        } else {
            self.plan_with_background(pool, change, &switches)
        }
    }

    /// Prepares an ordered list of operations: [`plan_bind`](Self::plan_bind) and [`Plan::init`] in one.
    ///
    /// ```
    /// # use gmmu::addr::{PageSize, Pfn, PhysAddr, VramAddr};
    /// # use gmmu::format::{Flags, V3};
    /// # use gmmu::mmio::Mmio;
    /// # use gmmu::vmm::{Bind, Extent, Live, MapRequest, PrepareError, Protection, Span, SpaceConfig, Use, Vmm};
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
    /// let first = [Extent { to: PhysAddr::vram(8 << 30), bytes: 2 << 20 }];
    /// let second = [Extent { to: PhysAddr::vram(9 << 30), bytes: 64 << 10 }];
    /// let operations = [
    ///     Bind::Sparse(0x4000_0000..0x6000_0000),
    ///     Bind::Map(MapRequest::extents(&first).at(0x4000_0000).page(PageSize::Size64K).object(1, 0)),
    ///     // In the middle of what was just mapped.
    ///     Bind::Map(MapRequest::extents(&second).at(0x4001_0000).object(2, 0)),
    ///     Bind::Unmap(0x4003_0000..0x4004_0000),
    /// ];
    /// let job = space.prepare_bind(&mut card, &mut pool, &operations, Live::MustNotFault)?;
    /// assert_eq!(job.rounds(), 1);
    /// let receipt = job.execute(&mut card).map_err(|failed| failed.why)?;
    /// space.commit(&mut pool, receipt).map_err(|(_, why)| why)?;
    /// assert!(matches!(space.read_mapping(&mut card, 0x4001_0000)?.outcome,
    ///     Outcome::Mapped { to, .. } if to == PhysAddr::vram(9 << 30)));
    /// assert!(matches!(space.read_mapping(&mut card, 0x4003_0000)?.outcome, Outcome::Sparse));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn prepare_bind<M: TableMemory, P: TablePool>(
        &mut self,
        memory: &mut M,
        pool: &mut P,
        operations: &[Bind<'_>],
        live: Live,
    ) -> Result<super::Job, PrepareError> {
        self.plan_bind(pool, operations, live)?.init(memory)
    }

    /// The addresses of an operation, of which all is checked that does not depend on what is mapped.
    fn range_of(&self, operation: &Bind<'_>) -> Result<Range<u64>, PrepareError> {
        match operation {
            Bind::Map(request) => self.map_range(request),
            Bind::Unmap(range) | Bind::Sparse(range) | Bind::Unsparse(range) => {
                check_range(range, self.va.limits().end)?;
                self.refuse_foreign(range)?;
                Ok(range.clone())
            }
        }
    }

    /// The addresses that a request of a bind job names.
    pub(super) fn map_range(&self, request: &MapRequest<'_>) -> Result<Range<u64>, PrepareError> {
        let bytes = check(request, &self.config)?;
        let Place::At(va) = request.place else { return Err(PrepareError::NoPlace) };
        let range = va..va.checked_add(bytes).ok_or(PrepareError::Overflow)?;
        check_range(&range, self.va.limits().end)?;
        self.refuse_foreign(&range)?;
        Ok(range)
    }

    fn apply(
        &mut self,
        overlay: &mut Overlay,
        switches: &mut List<(Range<u64>, bool)>,
        range: &Range<u64>,
        operation: &Bind<'_>,
        live: Live,
    ) -> Result<(), PrepareError> {
        match operation {
            Bind::Map(request) => {
                let zap = self.number_mapping(request.evictable)?;
                self.put_map(overlay, range, request, zap, live)
            }
            Bind::Unmap(_) => {
                let at = overlay.make_room(self, range, live)?;
                overlay.insert(at, Part { range: range.clone(), piece: None, recorded: false })
            }
            Bind::Sparse(_) | Bind::Unsparse(_) => {
                overlay.load(self, range.clone())?;
                Ok(switches.push((range.clone(), matches!(operation, Bind::Sparse(_))))?)
            }
        }
    }

    /// Puts the pages of `request`, parts of mapping `zap`, in the place of whatever the copy has there.
    pub(super) fn apply_map(
        &self,
        overlay: &mut Overlay,
        request: &MapRequest<'_>,
        zap: u32,
        live: Live,
    ) -> Result<(), PrepareError> {
        let range = self.map_range(request)?;
        self.put_map(overlay, &range, request, zap, live)
    }

    fn put_map(
        &self,
        overlay: &mut Overlay,
        range: &Range<u64>,
        request: &MapRequest<'_>,
        zap: u32,
        live: Live,
    ) -> Result<(), PrepareError> {
        let at = overlay.make_room(self, range, live)?;
        let pieces = self.pieces_at(request, range, zap);
        for (at, (range, piece)) in (at..).zip(pieces) {
            overlay.insert(at, Part { range, piece: Some(piece), recorded: false })?;
        }
        Ok(())
    }

    /// What the copy says that the records do not.
    pub(super) fn difference(
        &mut self,
        overlay: &Overlay,
        switches: &[(Range<u64>, bool)],
        live: Live,
        rebinds: Option<(u32, u32)>,
    ) -> Result<Draft, PrepareError> {
        let mut change = self.new_change(0..0, live)?;
        change.rebinds = rebinds;
        change.parts.reserve(overlay.parts.len())?;
        change.new.reserve(overlay.parts.len())?;
        // Where nothing is mapped before or after, nothing changes, unless it becomes sparse or ceases to be.
        for part in overlay.parts.iter() {
            if part.piece.is_some() {
                windows::add(&mut change.parts, part.range.clone())?;
                continue;
            }
            for (whole, _) in self.va.overlapping(part.range.clone()) {
                let gone = whole.start.max(part.range.start)..whole.end.min(part.range.end);
                windows::add(&mut change.parts, gone)?;
            }
        }
        for (range, _) in switches {
            windows::add(&mut change.parts, range.clone())?;
        }
        if let (true, Some(first)) = (change.parts.is_empty(), overlay.parts.first()) {
            // A job that comes to nothing still is somewhere.
            change.parts.push(first.range.start..first.range.start + PAGE_BYTES)?;
        }
        self.replace_parts(&mut change)?;
        let mut old_at = 0;
        for part in overlay.parts.iter() {
            let Some(piece) = part.piece else { continue };
            self.add_difference(&mut change, &mut old_at, part, piece)?;
        }
        change.heals = !change.new.is_empty();
        for (range, on) in switches {
            (change.adds, change.removes) = (change.adds || *on, change.removes || !*on);
            windows::add(&mut change.background, range.clone())?;
        }
        // What was there and is not kept goes, or changes.
        let kept = |range: &Range<u64>| {
            let targets = change.new.iter().skip(change.new.partition_point(|target| target.range.end <= range.start));
            let mut targets = targets.take_while(|target| target.range.start < range.end);
            let mut at = range.start;
            targets.all(|target| {
                let goes_on = target.kept && target.range.start <= at;
                at = target.range.end;
                goes_on
            }) && at >= range.end
        };
        let gone = change.old.iter().any(|(range, _)| !kept(range));
        change.removes |= gone;
        change.adds |= change.new.iter().any(|target| !target.kept);
        Ok(change)
    }

    /// Lets a change take whatever its parts have now.
    pub(super) fn replace_parts(&self, change: &mut Change) -> Result<(), PrepareError> {
        if let (Some(first), Some(last)) = (change.parts.first(), change.parts.last()) {
            change.range = first.start..last.end;
        }
        for index in 0..change.parts.len() {
            let Some(part) = change.parts.get(index).cloned() else { break };
            for (whole, piece) in self.va.overlapping(part.clone()) {
                if whole.start < part.start {
                    change.borders.push(part.start)?;
                }
                if whole.end > part.end {
                    change.borders.push(part.end)?;
                }
                let range = whole.start.max(part.start)..whole.end.min(part.end);
                change.old.push((range.clone(), piece.skip(range.start - whole.start)))?;
            }
        }
        Ok(())
    }

    /// Adds what a part of the copy leads to, in the pages that are there where it leads to the same.
    fn add_difference(
        &self,
        change: &mut Change,
        old_at: &mut usize,
        part: &Part,
        piece: Piece,
    ) -> Result<(), PrepareError> {
        let aligned = |va: u64, page: PageSize| va & (page.bytes() - 1) == 0;
        let start = part.range.start;
        // What is to be written, so far.
        let mut rest = start;
        let mut va = start;
        while va < part.range.end {
            while change.old.get(*old_at).is_some_and(|(old, _)| old.end <= va) {
                *old_at += 1;
            }
            let Some((old, was)) = change.old.get(*old_at).filter(|(old, _)| old.start < part.range.end).cloned()
            else {
                break;
            };
            let both = va.max(old.start)..part.range.end.min(old.end);
            va = both.end;
            let here = piece.skip(both.start - start);
            let was = was.skip(both.start - old.start);
            let same = (was.to, was.kind, was.flags) == (here.to, here.kind, here.flags);
            // Frames are the same only where they are the same object's.
            let known = part.recorded || matches!(was.to, Backed::Memory(_));
            let known = known || !change.other_frames(&was, &here);
            // Nor are they there where they were zapped, or where another mapping's zap may take them.
            let known = known && (part.recorded || (was.zap == here.zap && !self.is_zapped(&was)));
            // No page may be kept in part, and none written in part.
            let whole = [both.start, both.end].into_iter().all(|border| {
                let inner = aligned(border, here.page) || border == part.range.end;
                aligned(border, was.page) && inner
            });
            if same && known && !whole && change.live == Live::MustNotFault {
                let page = was.page.max(here.page).bytes();
                let start = both.start & !(page - 1);
                return Err(PrepareError::WouldFault { entry: start..start + page });
            }
            if same && known && whole {
                if rest < both.start {
                    self.target(change, rest..both.start, piece.skip(rest - start))?;
                }
                rest = both.end;
                let piece = Piece { page: was.page, ..here };
                change.new.push(Target { range: both, piece, word: 0, frame: 0, kept: true, cleared: false })?;
            }
        }
        if rest < part.range.end {
            self.target(change, rest..part.range.end, piece.skip(rest - start))?;
        }
        Ok(())
    }
}
