//! What random mappings ask for: where, which memory, and in which pages.

use super::pages::{effective, lay, Part, Run};
use super::Model;
use crate::common::{DATA, GIB, MIB};
use gmmu::addr::{Aperture, PageSize, PeerId, PhysAddr};
use gmmu::format::{Flags, Format, Kind};
use gmmu::vmm::{Backing, Extent, Live, MapRequest};
use std::ops::Range;

pub(super) const KIB_64: u64 = 64 << 10;
pub(super) const LARGE: u64 = 512 * MIB;
pub(super) const HUGE: u64 = 256 * GIB;
/// Where a table border of every level below 256 GiB lies.
pub(super) const BORDER: Range<u64> = 512 * GIB - 3 * MIB..512 * GIB + 3 * MIB;
/// Where one of every level below the root lies; of v2 the root's too.
const HIGH: Range<u64> = (1 << 47) - 2 * MIB..(1 << 47) + 2 * MIB;
/// Three 512M pages around another border.
const WIDE: u64 = 1024 * GIB - LARGE;
/// Three 256G pages.
const VAST: u64 = 4096 * GIB - HUGE;
/// Borders of 256G from here on are used for some jobs each.
const FRESH: u64 = 16 << 40;
/// More runs than this, and a large range is unmapped.
pub(super) const RUNS_MAX: usize = 300;

/// A mapping that a random request asks for, at its address.
pub(super) struct Wish {
    pub(super) name: &'static str,
    pub(super) start: u64,
    page: Option<PageSize>,
    largest: Option<PageSize>,
    kind: Kind,
    extents: Vec<Extent>,
    /// Frames that come late: where, and their first bytes.
    late: Option<(Aperture, Vec<u64>)>,
}

impl Wish {
    pub(super) fn bytes(&self) -> u64 {
        match (&self.late, self.page) {
            (Some((_, list)), Some(page)) => list.len() as u64 * page.bytes(),
            _ => self.extents.iter().map(|extent| extent.bytes).sum(),
        }
    }

    pub(super) fn request(&self, flags: Flags, live: Live) -> MapRequest<'_> {
        let backing = match (&self.late, self.page) {
            (Some((aperture, list)), Some(page)) => {
                Backing::Late { pages: list.len() as u64, page, aperture: *aperture }
            }
            _ => Backing::Extents(&self.extents),
        };
        MapRequest {
            backing,
            page: self.page,
            largest: self.largest,
            kind: self.kind,
            flags,
            live,
            ..MapRequest::extents(&[])
        }
        .at(self.start)
    }

    /// The pages that come of it at `start`.
    pub(super) fn pages(&self, start: u64, flags: Flags, sizes: &[PageSize]) -> Vec<Part> {
        let mut parts = Vec::new();
        let run = |to: PhysAddr, page, late| Run {
            end: 0,
            to,
            page,
            kind: self.kind,
            flags: effective(flags, to.aperture),
            late,
        };
        if let (Some((aperture, list)), Some(page)) = (&self.late, self.page) {
            for (n, &to) in (0..).zip(list) {
                let va = start + n * page.bytes();
                let run = run(PhysAddr::new(*aperture, to), page, Some(page));
                parts.push((va..va + page.bytes(), Run { end: va + page.bytes(), ..run }));
            }
            return parts;
        }
        let smallest = if self.kind.is_compressible() { PageSize::Size64K } else { PageSize::Size4K };
        let largest = self.largest.unwrap_or(PageSize::Size256G);
        let choice = sizes.iter().copied().filter(|page| match self.page {
            Some(only) => *page == only,
            None => *page >= smallest && *page <= largest,
        });
        let choice: Vec<PageSize> = choice.collect();
        let mut va = start;
        for extent in &self.extents {
            lay(&mut parts, va..va + extent.bytes, run(extent.to, PageSize::Size4K, None), &choice);
            va += extent.bytes;
        }
        parts
    }
}

impl<F: Format> Model<F> {
    /// Windows in which every page is looked at in the end.
    pub(super) fn narrow(&self) -> [Range<u64>; 4] {
        [BORDER, HIGH, 0..4 * MIB, Self::limit() - 4 * MIB..Self::limit()]
    }

    /// An address for a page of `unit` bytes.
    pub(super) fn address(&mut self, unit: u64) -> u64 {
        if unit >= HUGE {
            return VAST + self.random.below(3) * HUGE;
        }
        if unit >= LARGE {
            let base = if self.random.one_in(4) { VAST + HUGE - LARGE } else { WIDE };
            return base + self.random.below(3) * LARGE;
        }
        if self.random.one_in(5) {
            // Where no directories are yet, and soon others are needed.
            let border = FRESH + (self.jobs / 40 % 400) * 2 * HUGE;
            return (border - 2 * MIB + self.random.below(4 * MIB)) & !(unit - 1);
        }
        if self.crowded && !self.random.one_in(12) {
            return (512 * GIB - MIB + self.random.below(2 * MIB)) & !(unit - 1);
        }
        let narrow = self.narrow();
        let window = match self.random.below(16) {
            0..=6 => BORDER,
            7..=9 => narrow[self.random.index(4)].clone(),
            10 | 11 => WIDE + LARGE - 2 * MIB..WIDE + LARGE + 2 * MIB,
            12 => VAST + HUGE - 2 * MIB..VAST + HUGE + 2 * MIB,
            13 => VAST..VAST + 3 * HUGE,
            _ => WIDE..WIDE + 3 * LARGE,
        };
        (window.start + self.random.below(window.end - window.start)) & !(unit - 1)
    }

    fn aperture(&mut self) -> Aperture {
        match self.random.below(8) {
            0 => Aperture::SysCoherent,
            1 => Aperture::SysNonCoherent,
            2 => Aperture::Peer(PeerId::new(self.random.below(8) as u8).unwrap()),
            _ => Aperture::Vram,
        }
    }

    /// The first byte that `aperture` does not reach; of frames that come late where `late`.
    fn reach(aperture: Aperture, late: bool) -> u64 {
        match aperture {
            Aperture::Vram => 96 * GIB,
            Aperture::Peer(_) if Self::is_v2() => 1 << if late { 37 } else { 57 },
            Aperture::Peer(_) => 1 << 52,
            Aperture::SysCoherent | Aperture::SysNonCoherent => 1 << if Self::is_v2() { 47 } else { 52 },
        }
    }

    /// Memory of pages of `unit` bytes for `va`, whose larger pages fit, or not.
    fn memory(&mut self, va: u64, unit: u64, bytes: u64, late: bool) -> PhysAddr {
        let mut aperture = self.aperture();
        if aperture == Aperture::Vram && bytes > 64 * GIB {
            aperture = Aperture::SysNonCoherent;
        }
        let end = Self::reach(aperture, late);
        let (from, to) = match (aperture, self.random.below(4)) {
            (Aperture::Vram, _) => (DATA, end),
            (_, 0) => (end - 8 * unit.max(bytes), end),
            // Where v2 goes on with a peer's address in another field.
            (Aperture::Peer(_), 1 | 2) if !late => {
                ((1 << 37) - 2 * bytes.min(1 << 36), (1 << 37) + 2 * bytes.max(unit))
            }
            _ => (0, end),
        };
        let base = (from + self.random.below((to - from - bytes).max(unit))) & !(unit - 1);
        let like = base & !(LARGE - 1) | va & (LARGE - 1);
        let like = if self.random.one_in(2) && unit < LARGE { like } else { base };
        let fits = |raw: u64| raw >= from.min(base) && raw + bytes <= end;
        PhysAddr::new(aperture, if fits(like) { like } else { base.min(end - bytes) & !(unit - 1) })
    }

    pub(super) fn live(&mut self) -> Live {
        [Live::MustNotFault, Live::Quiesced, Live::Quiesced, Live::Replayable][self.random.index(4)]
    }

    pub(super) fn flags(&mut self) -> Flags {
        let mut on = || self.random.one_in(4);
        let flags = Flags { read_only: on(), privileged: on(), volatile: on(), no_atomic: on(), ..Flags::NONE };
        let own = on();
        if Self::is_v2() {
            Flags { encrypted: own, ..flags }
        } else {
            Flags { no_access_counting: own, ..flags }
        }
    }

    pub(super) fn kind(&mut self) -> Kind {
        Kind([6, 6, 6, 0, 1, 4, 0xf, 8, 0xa, 0xe][self.random.index(10)])
    }

    /// A kind for pages of `unit` bytes.
    fn kind_for(&mut self, unit: u64) -> Kind {
        let kind = self.kind();
        if kind.is_compressible() && unit < KIB_64 {
            Kind::GENERIC
        } else {
            kind
        }
    }

    /// Up to six extents of pages of several sizes, aligned like their addresses or not.
    fn mixed_wish(&mut self) -> Wish {
        let unit = if self.random.one_in(3) { KIB_64 } else { 4096 };
        let (start, kind) = (self.address(unit), self.kind_for(unit));
        let (mut extents, mut va) = (Vec::new(), start);
        for _ in 0..=self.random.below(6) {
            let unit = [unit, unit, KIB_64, 2 * MIB][self.random.index(4)];
            let bytes = unit * (1 + self.random.below(if self.crowded { 3 } else { 5 }));
            extents.push(Extent { to: self.memory(va, unit, bytes, false), bytes });
            va += bytes;
        }
        let largest = if self.random.one_in(3) { Some(self.sizes[1 + self.random.index(2)]) } else { None };
        Wish { name: "map, mixed", start, page: None, largest, kind, extents, late: None }
    }

    /// Pages of one size, in one piece of memory or in frames that come late.
    fn plain_wish(&mut self) -> Wish {
        let size = match self.random.below(32) {
            0..=11 => 0,
            12..=20 => 1,
            21..=28 => 2,
            29 | 30 => 3,
            _ => 4,
        };
        let page = self.sizes.get(size).copied().unwrap_or(PageSize::Size2M);
        let unit = page.bytes();
        let many = !self.crowded || self.random.one_in(8);
        let most = [if many && self.random.one_in(8) { 700 } else { 40 }, if many { 40 } else { 8 }, 4, 2, 2][size];
        let (start, kind, pages) = (self.address(unit), self.kind_for(unit), 1 + self.random.below(most));
        if self.random.one_in(3) {
            let to = self.memory(start, unit, unit, true);
            let aperture = to.aperture;
            let mut list = vec![to.raw];
            let (first, places) = if aperture == Aperture::Vram { (DATA, 100.min(88 * GIB / unit)) } else { (0, 100) };
            let places = places.min(Self::reach(aperture, true) / unit);
            list.extend((1..pages).map(|_| first + self.random.below(places) * unit));
            let late = Some((aperture, list));
            return Wish { name: "map, late", start, page: Some(page), largest: None, kind, extents: vec![], late };
        }
        let bytes = pages * unit;
        let extents = vec![Extent { to: self.memory(start, unit, bytes, false), bytes }];
        let only = if self.random.one_in(3) { Some(page) } else { None };
        let mut largest = None;
        if only.is_none() && self.random.one_in(3) {
            // Not so small that there would be hundreds of thousands of pages.
            let floor = if unit >= HUGE { 3 } else { 2 * usize::from(unit >= LARGE) };
            let floor = floor.max(usize::from(kind.is_compressible()));
            largest = Some(self.sizes[floor + self.random.index(self.sizes.len() - floor)]);
        }
        Wish { name: "map", start, page: only, largest, kind, extents, late: None }
    }

    pub(super) fn wish(&mut self) -> Wish {
        let mut wish = if self.random.one_in(4) { self.mixed_wish() } else { self.plain_wish() };
        wish.start = wish.start.min((Self::limit() - wish.bytes()) & !(2 * MIB - 1));
        wish
    }
}
