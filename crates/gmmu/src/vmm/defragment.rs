//! Defragmenting: pages that were cut become large again, where their memory still goes on.

use super::change::Change;
use super::piece::{smallest_page, Backed, Piece, Sizes};
use super::prepare::Plan;
use super::request::{check_range, Live, PrepareError, Span};
use super::space::Vmm;
use crate::addr::PageSize;
use crate::device::{TableMemory, TablePool};
use crate::format::Format;
use crate::va::windows;
use core::ops::Range;

impl<F: Format> Vmm<F> {
    /// Plans to merge what is mapped in a range into larger pages: where pieces of one mapping lie behind one another in
    /// memory too, with the same attributes, they get the largest pages that fit, up to `largest`. Pages that are as large
    /// already are not touched; nothing beyond the range is.
    ///
    /// Between the smaller pages and the larger one that takes their place, the hardware must have seen neither: the
    /// pages fault for a moment, and the span has to say that they may.
    ///
    /// # Errors
    /// [`PrepareError`], [`NothingToMerge`](PrepareError::NothingToMerge) where nothing becomes larger,
    /// [`WouldFault`](PrepareError::WouldFault); nothing was changed and nothing is held.
    pub fn plan_defragment<'a, P: TablePool>(
        &'a mut self,
        pool: &'a mut P,
        span: impl Into<Span>,
        largest: PageSize,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        let Span { range, live } = span.into();
        self.open(pool)?;
        check_range(&range, self.va.limits().end)?;
        self.refuse_foreign(&range)?;
        let largest = self.largest_in(&range, largest);
        let mut change = self.new_change(range.clone(), live)?;
        let mut stretch: Option<(Range<u64>, Piece)> = None;
        for (whole, piece) in self.va.overlapping(range.clone()) {
            let part = whole.start.max(range.start)..whole.end.min(range.end);
            let piece = piece.skip(part.start - whole.start);
            match &mut stretch {
                Some((before, first)) if before.end == part.start && goes_on(before, first, &piece) => {
                    before.end = part.end;
                }
                _ => {
                    self.merge(&mut change, stretch.replace((part, piece)), largest)?;
                }
            }
        }
        self.merge(&mut change, stretch, largest)?;
        let Some(entry) = change.parts.first().cloned() else { return Err(PrepareError::NothingToMerge { range }) };
        if live == Live::MustNotFault {
            return Err(PrepareError::WouldFault { entry });
        }
        self.replace_parts(&mut change)?;
        (change.adds, change.removes, change.heals) = (true, true, true);
        self.plan_change(pool, change)
    }

    /// Prepares to merge pages: [`plan_defragment`](Self::plan_defragment) and [`Plan::init`] in one.
    ///
    /// ```
    /// # use gmmu::addr::{PageSize, PhysAddr, VramAddr};
    /// # use gmmu::format::{Flags, V3};
    /// # use gmmu::mmio::Mmio;
    /// # use gmmu::vmm::{Extent, MapRequest, Protection, Span, SpaceConfig, Use, Vmm};
    /// # use gmmu::vram::{TablePages, Vram};
    /// # use gmmu_sim::{Config, Gpu};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100"))?)?;
    /// # let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(1 << 30)])?;
    /// # let mut pages = TablePages::for_vram(&vram)?;
    /// # let mut pool = pages.pool(&mut vram);
    /// # let config = SpaceConfig::new(card.chip(), card.vram_bytes(), Use::Channel);
    /// # let mut space = Vmm::<V3>::create(config, &mut card, &mut pool)?;
    /// let extents = [Extent { to: PhysAddr::vram(8 << 30), bytes: 2 << 20 }];
    /// space.map_pages(&mut card, &mut pool, &MapRequest::extents(&extents).at(0x4000_0000), &[])?;
    /// // One page is read-only for a while, which cuts the 2M page.
    /// for read_only in [true, false] {
    ///     let flags = Protection::flags(Flags { read_only, ..Flags::NONE });
    ///     let page = Span::new(0x4000_5000..0x4000_6000).quiesced();
    ///     let job = space.prepare_protect(&mut card, &mut pool, page, flags)?;
    ///     let receipt = job.execute(&mut card).map_err(|failed| failed.why)?;
    ///     space.commit(&mut pool, receipt).map_err(|(_, why)| why)?;
    /// }
    /// assert!(space.pieces().count() > 1);
    /// let span = Span::new(0x4000_0000..0x4020_0000).quiesced();
    /// let job = space.prepare_defragment(&mut card, &mut pool, span, PageSize::Size2M)?;
    /// let receipt = job.execute(&mut card).map_err(|failed| failed.why)?;
    /// space.commit(&mut pool, receipt).map_err(|(_, why)| why)?;
    /// assert!(space.pieces().all(|(_, piece)| piece.page == PageSize::Size2M));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn prepare_defragment<M: TableMemory, P: TablePool>(
        &mut self,
        memory: &mut M,
        pool: &mut P,
        span: impl Into<Span>,
        largest: PageSize,
    ) -> Result<super::Job, PrepareError> {
        self.plan_defragment(pool, span, largest)?.init(memory)
    }

    /// Adds what becomes larger of pieces that go on from one another.
    fn merge(
        &self,
        change: &mut Change,
        stretch: Option<(Range<u64>, Piece)>,
        largest: PageSize,
    ) -> Result<(), PrepareError> {
        let Some((range, piece)) = stretch else { return Ok(()) };
        let Backed::Memory(_) = piece.to else { return Ok(()) };
        if self.is_zapped(&piece) {
            return Ok(());
        }
        let (has, smallest) = (self.config.page_sizes(), smallest_page(piece.kind));
        let sizes = Sizes { only: None, has, smallest, largest };
        for (part, merged) in sizes.cut(range, piece) {
            let mut smaller = self.va.overlapping(part.clone()).filter(|(_, old)| old.page < merged.page).peekable();
            let mut va = part.start;
            while let Some((old, _)) = smaller.next() {
                // Whole pages of the larger size around it, up to where the next one begins.
                let mask = merged.page.bytes() - 1;
                let start = (old.start & !mask).max(va);
                va = ((old.end + mask) & !mask).min(part.end);
                while let Some((next, _)) = smaller.next_if(|(next, _)| next.start < va) {
                    va = ((next.end + mask) & !mask).min(part.end);
                }
                windows::add(&mut change.parts, start..va)?;
                self.target(change, start..va, merged.skip(start - part.start))?;
            }
        }
        Ok(())
    }
}

/// Whether `next` is what `first` would be at the end of `range`, but for the size of its pages.
fn goes_on(range: &Range<u64>, first: &Piece, next: &Piece) -> bool {
    first.continues(range.end - range.start, &Piece { page: first.page, ..*next })
}
