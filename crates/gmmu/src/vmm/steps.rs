//! What an operation of a bind job does to the mappings there are, step by step, as DRM GPUVM tells it to a driver.

use super::bind::Bind;
use super::request::{check_range, PrepareError};
use super::space::Vmm;
use crate::format::Format;
use core::ops::Range;

/// A mapping as its caller knows it: part of an object, in pages of whatever size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address, and the one behind the last.
    pub range: Range<u64>,
    /// The caller's number of what is mapped; 0 where it has none.
    pub object: u64,
    /// Where in the object it begins, in bytes.
    pub offset: u64,
}

/// One step of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This is mapped.
    Map(Region),
    /// A mapping loses a part.
    Remap {
        /// What stays of it below.
        prev: Option<Region>,
        /// What stays of it above.
        next: Option<Region>,
        /// The whole of it, as it was.
        unmap: Region,
        /// What it loses is mapped again to the same part of the same object: its entries may stay.
        keep: bool,
    },
    /// A mapping goes.
    Unmap {
        /// The mapping.
        unmap: Region,
        /// It is mapped again to the same part of the same object: its entries may stay.
        keep: bool,
    },
}

impl Region {
    /// The part of it in `range`; `None` where that is empty.
    fn part(&self, range: Range<u64>) -> Option<Self> {
        let offset = self.offset.wrapping_add(range.start.wrapping_sub(self.range.start));
        (range.start < range.end).then_some(Self { range, offset, object: self.object })
    }

    /// Whether both would have the same part of the same object at every address.
    fn continues(&self, other: &Self) -> bool {
        let base = |region: &Self| region.range.start.wrapping_sub(region.offset);
        self.object != 0 && self.object == other.object && base(self) == base(other)
    }
}

impl<F: Format> Vmm<F> {
    /// What `operation` would do to the mappings, were it the next bind job: a step for each mapping that it meets, in the
    /// order of their addresses, and for a map the [`Map`](Step::Map) last. Two steps at most are remaps. Sparse ranges
    /// change no mapping.
    ///
    /// What touches, and goes on in the same object, is one mapping, however often it was asked for.
    ///
    /// ```
    /// # use gmmu::addr::{PhysAddr, VramAddr};
    /// # use gmmu::format::V3;
    /// # use gmmu::mmio::Mmio;
    /// # use gmmu::vmm::{Bind, Extent, MapRequest, SpaceConfig, Step, Use, Vmm};
    /// # use gmmu::vram::{TablePages, Vram};
    /// # use gmmu_sim::{Config, Gpu};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100"))?)?;
    /// # let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(1 << 30)])?;
    /// # let mut pages = TablePages::for_vram(&vram)?;
    /// # let mut pool = pages.pool(&mut vram);
    /// # let config = SpaceConfig::new(card.chip(), card.vram_bytes(), Use::Channel);
    /// # let mut space = Vmm::<V3>::create(config, &mut card, &mut pool)?;
    /// let extents = [Extent { to: PhysAddr::vram(8 << 30), bytes: 0x3000 }];
    /// space.map_pages(&mut card, &mut pool, &MapRequest::extents(&extents).at(0x1000).object(7, 0), &[])?;
    /// let mut steps = space.bind_steps(&Bind::Unmap(0x2000..0x3000))?;
    /// let Some(Step::Remap { prev: Some(prev), next: Some(next), .. }) = steps.next() else { return Err("no hole".into()) };
    /// assert_eq!((prev.range, next.range, next.offset), (0x1000..0x2000, 0x3000..0x4000, 0x2000));
    /// assert_eq!(steps.next(), None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`PrepareError`]: what [`plan_bind`](Self::plan_bind) says of operations that no space could carry out.
    pub fn bind_steps(&self, operation: &Bind<'_>) -> Result<impl Iterator<Item = Step> + '_, PrepareError> {
        let (range, mut map) = match operation {
            Bind::Map(request) => {
                let range = self.map_range(request)?;
                (range.clone(), Some(Region { range, object: request.object, offset: request.offset }))
            }
            Bind::Unmap(range) | Bind::Sparse(range) | Bind::Unsparse(range) => (range.clone(), None),
        };
        check_range(&range, self.va.limits().end)?;
        let mut at = if matches!(operation, Bind::Map(_) | Bind::Unmap(_)) { range.start } else { range.end };
        Ok(core::iter::from_fn(move || {
            let Some(unmap) = self.region_in(at..range.end) else { return map.take().map(Step::Map) };
            at = unmap.range.end;
            let keep = map.as_ref().is_some_and(|map| map.continues(&unmap));
            let prev = unmap.part(unmap.range.start..range.start);
            let next = unmap.part(range.end..unmap.range.end);
            Some(if prev.is_none() && next.is_none() {
                Step::Unmap { unmap, keep }
            } else {
                Step::Remap { prev, next, unmap, keep }
            })
        }))
    }

    /// The first mapping that has an address in `range`, whole.
    fn region_in(&self, range: Range<u64>) -> Option<Region> {
        let (mut whole, piece) = self.va.overlapping(range).next()?;
        let goes_on = |other: &super::Piece| (other.object, other.mapping) == (piece.object, piece.mapping);
        while let Some((below, other)) = self.va.prev(whole.start) {
            if below.end != whole.start || !goes_on(other) {
                break;
            }
            whole.start = below.start;
        }
        while let Some((above, _)) = self.va.get(whole.end).filter(|(_, other)| goes_on(other)) {
            whole.end = above.end;
        }
        let offset = whole.start.wrapping_sub(piece.mapping);
        Some(Region { range: whole, object: piece.object, offset })
    }
}
