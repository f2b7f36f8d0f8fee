//! What random jobs ask for, and what the library has to say to it.

use super::pages::{effective, floor, kinds_fit, lay, recast, Part, Run};
use super::{Change, Model, Snapshot};
use crate::common::{DATA, GIB, MIB};
use gmmu::addr::{Aperture, PageSize, PeerId, PhysAddr, PAGE_BYTES};
use gmmu::format::{Flags, Format, Kind};
use gmmu::vmm::{Backing, Extent, Job, Live, MapRequest, Place, PrepareError, Protection, Span};
use std::ops::Range;

const KIB_64: u64 = 64 << 10;
const LARGE: u64 = 512 * MIB;
const HUGE: u64 = 256 * GIB;
/// Where a table border of every level below 256 GiB lies.
const BORDER: Range<u64> = 512 * GIB - 3 * MIB..512 * GIB + 3 * MIB;
/// Where one of every level below the root lies; of v2 the root's too.
const HIGH: Range<u64> = (1 << 47) - 2 * MIB..(1 << 47) + 2 * MIB;
/// Three 512M pages around another border.
const WIDE: u64 = 1024 * GIB - LARGE;
/// Three 256G pages.
const VAST: u64 = 4096 * GIB - HUGE;
/// More runs than this, and a large range is unmapped.
const RUNS_MAX: usize = 300;

/// A mapping that a random request asks for, at its address.
struct Wish {
    name: &'static str,
    start: u64,
    page: Option<PageSize>,
    largest: Option<PageSize>,
    kind: Kind,
    extents: Vec<Extent>,
    /// Frames that come late: where, and their first bytes.
    late: Option<(Aperture, Vec<u64>)>,
}

impl Wish {
    fn bytes(&self) -> u64 {
        match (&self.late, self.page) {
            (Some((_, list)), Some(page)) => list.len() as u64 * page.bytes(),
            _ => self.extents.iter().map(|extent| extent.bytes).sum(),
        }
    }

    fn request(&self, flags: Flags, live: Live) -> MapRequest<'_> {
        let backing = match (&self.late, self.page) {
            (Some((aperture, list)), Some(page)) => {
                Backing::Late { pages: list.len() as u64, page, aperture: *aperture }
            }
            _ => Backing::Extents(&self.extents),
        };
        let place = Place::At(self.start);
        MapRequest { place, backing, page: self.page, largest: self.largest, kind: self.kind, flags, live }
    }

    /// The pages that come of it at `start`.
    fn pages(&self, start: u64, flags: Flags, sizes: &[PageSize]) -> Vec<Part> {
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

    fn live(&mut self) -> Live {
        [Live::MustNotFault, Live::Quiesced, Live::Quiesced, Live::Replayable][self.random.index(4)]
    }

    fn flags(&mut self) -> Flags {
        let mut on = || self.random.one_in(4);
        let flags = Flags { read_only: on(), privileged: on(), volatile: on(), no_atomic: on(), ..Flags::NONE };
        let own = on();
        if Self::is_v2() {
            Flags { encrypted: own, ..flags }
        } else {
            Flags { no_access_counting: own, ..flags }
        }
    }

    fn kind(&mut self) -> Kind {
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

    fn wish(&mut self) -> Wish {
        let mut wish = if self.random.one_in(4) { self.mixed_wish() } else { self.plain_wish() };
        wish.start = wish.start.min((Self::limit() - wish.bytes()) & !(2 * MIB - 1));
        wish
    }

    /// Prepares something.
    pub(super) fn prepare(&mut self) {
        if self.waiting.len() >= super::WAITING_MAX {
            return;
        }
        match self.random.below(20) {
            _ if self.books.len() > RUNS_MAX => self.prepare_unmap(),
            0..=8 => self.prepare_map(),
            9..=13 => self.prepare_unmap(),
            14..=16 => self.prepare_protect(),
            17.. if self.plain => self.prepare_map(),
            17 | 18 => self.prepare_sparse(true),
            _ => self.prepare_sparse(false),
        }
    }

    /// Sometimes remembers everything, so that it can be compared.
    fn before(&mut self) -> Option<Snapshot> {
        self.sweep();
        self.random.one_in(10).then(|| self.snapshot())
    }

    /// What a prepare that failed has left.
    fn refused(&mut self, what: &'static str, why: &PrepareError, before: Option<Snapshot>) {
        self.count(what);
        self.note(format!("  refused: {why}"));
        if let Some(before) = before {
            self.snapshot().assert_is(&before, "what a failed prepare left");
        }
    }

    /// Where jobs do not change what is there, whether a change of `range` has to cut a sparse entry; `None` where they do.
    fn cuts_sparse(&mut self, range: &Range<u64>) -> Option<bool> {
        if !self.waiting.is_empty() || !self.running.is_empty() {
            return None;
        }
        let cut = [range.start, range.end - PAGE_BYTES].into_iter().any(|va| {
            self.peek(va).is_some_and(|found| {
                let start = va & !(found.page_bytes - 1);
                found.sparse && (start < range.start || range.end < start + found.page_bytes)
            })
        });
        Some(cut)
    }

    fn prepare_map(&mut self) {
        let mut wish = self.wish();
        // Seldom where something is mapped already.
        for _ in 0..6 {
            if !self.books.is_free(&(wish.start..wish.start + wish.bytes())) {
                wish = self.wish();
            }
        }
        let (flags, bytes) = (self.flags(), wish.bytes());
        let live = if self.random.one_in(2) { Live::Quiesced } else { self.live() };
        let mut request = wish.request(flags, live);
        let chosen = self.random.one_in(24);
        if chosen {
            request = request.within(BORDER.start - 64 * GIB..BORDER.end);
        }
        let range = wish.start..wish.start + bytes;
        let (busy, cuts, before) = (!self.books.is_free(&range), self.cuts_sparse(&range), self.before());
        self.note(format!("{}: {request:x?}", wish.name));
        self.run_short();
        let prepared = self.plan(|vmm, pool| vmm.plan_map(pool, &request));
        self.have_enough();
        let short = self.short;
        match prepared {
            Ok(job) => {
                let range = if chosen { job.range() } else { range };
                assert!(self.books.is_free(&range), "{range:x?} was free for the library and not for the model");
                assert!(!chosen || self.sparse.within(&range).is_empty(), "{range:x?} is sparse");
                assert!(chosen || live != Live::MustNotFault || cuts != Some(true), "{range:x?} cuts a sparse entry");
                self.count(wish.name);
                let after = wish.pages(range.start, flags, &self.sizes);
                self.enter(job, range, Change::Pages { before: Vec::new(), after }, live, before);
            }
            Err(why) => {
                match &why {
                    PrepareError::Busy { .. } => assert!(busy, "{range:x?} was busy for the library alone"),
                    PrepareError::WouldFault { .. } => {
                        let may = live == Live::MustNotFault && !chosen && cuts != Some(false);
                        assert!(may && !self.sparse.within(&range).is_empty(), "{range:x?}: {why}");
                    }
                    PrepareError::NoVa(_) => assert!(chosen),
                    why => assert!(short && is_shortage(why), "{why}"),
                }
                self.refused("map refused", &why, before);
            }
        }
    }

    /// Part of what is mapped, some of it, or anything.
    fn some_range(&mut self) -> Range<u64> {
        let runs = self.books.len();
        if runs == 0 || self.random.one_in(10) {
            let start = self.address(4096);
            return start..(start + PAGE_BYTES * (1 + self.random.below(2000))).min(Self::limit());
        }
        let first = self.random.index(runs);
        let (from, run) = self.books.nth(first);
        if runs > RUNS_MAX {
            return from.start..self.books.nth((first + RUNS_MAX / 2).min(runs - 1)).0.end;
        }
        match self.random.below(10) {
            0..=2 => from,
            3 => from.start..self.books.nth((first + self.random.index(6)).min(runs - 1)).0.end,
            4 => {
                let start = (from.start + self.random.below(from.end - from.start)) & !(run.page.bytes() - 1);
                start..start + run.page.bytes()
            }
            _ => {
                let [a, b] = [0, 1].map(|_| self.inside(&from));
                let range = a.min(b)..a.max(b) + PAGE_BYTES;
                if self.random.one_in(3) {
                    from.start..range.end
                } else if self.random.one_in(3) {
                    range.start..from.end
                } else {
                    range
                }
            }
        }
    }

    /// A page of `range`: anywhere, or near borders that others use too.
    fn inside(&mut self, range: &Range<u64>) -> u64 {
        let bytes = range.end - range.start;
        if bytes > 2 * MIB && self.random.one_in(2) {
            let near = self.random.below(bytes.min(3 * MIB));
            return floor(if self.random.one_in(2) { range.start + near } else { range.end - 1 - near });
        }
        range.start + floor(self.random.below(bytes))
    }

    fn prepare_unmap(&mut self) {
        let (wish, live, before) = (self.some_range(), self.live(), self.before());
        let parts = self.books.within(&wish);
        let ends = parts.first().map(|(first, _)| first.start..parts[parts.len() - 1].0.end);
        self.note(format!("unmap {wish:x?} {live:?}"));
        self.run_short();
        let prepared = self.plan(|vmm, pool| vmm.plan_unmap(pool, Span { range: wish.clone(), live }));
        self.have_enough();
        let Some(ends) = ends else {
            return self.not_mapped(prepared, before);
        };
        self.settle("unmap", prepared, &ends, live, before, |_| None);
    }

    fn prepare_protect(&mut self) {
        let (wish, live, before) = (self.some_range(), self.live(), self.before());
        let flags = if self.random.one_in(4) { None } else { Some(self.flags()) };
        let kind = if self.random.one_in(3) { Some(self.kind()) } else { None };
        let whole = self
            .books
            .within(&wish)
            .iter()
            .try_fold(wish.start, |at, (part, _)| (part.start == at).then_some(part.end));
        self.note(format!("protect {wish:x?} {live:?} {flags:?} {kind:?}"));
        self.run_short();
        let prepared = self
            .plan(|vmm, pool| vmm.plan_protect(pool, Span { range: wish.clone(), live }, Protection { flags, kind }));
        self.have_enough();
        if whole != Some(wish.end) {
            return self.not_mapped(prepared, before);
        }
        self.settle("protect", prepared, &wish, live, before, |run: Run| {
            let flags = effective(flags.unwrap_or(run.flags), run.to.aperture);
            Some(Run { flags, kind: kind.unwrap_or(run.kind), ..run })
        });
    }

    fn not_mapped(&mut self, prepared: Result<Job, PrepareError>, before: Option<Snapshot>) {
        let why = prepared.map(drop).unwrap_err();
        assert!(matches!(why, PrepareError::NotMapped { .. }) || self.short && is_shortage(&why), "{why}");
        self.refused("not mapped", &why, before);
    }

    /// Sees whether the library prepares a change of mapped pages, or refuses it, just as it has to.
    fn settle(
        &mut self,
        name: &'static str,
        prepared: Result<Job, PrepareError>,
        range: &Range<u64>,
        live: Live,
        before: Option<Snapshot>,
        new: impl Fn(Run) -> Option<Run>,
    ) {
        let recast = recast(&self.books, range, &self.sizes, new);
        let entry = recast.cut.clone().filter(|_| live == Live::MustNotFault);
        match prepared {
            Ok(job) => {
                assert_eq!(entry, None, "{range:x?} cuts a page");
                assert!(kinds_fit(&recast.after), "{range:x?}: small pages of a compressible kind");
                self.count(if recast.cut.is_some() { "cut" } else { name });
                let gone = self.books.within(&recast.range);
                for border in [range.start, range.end - 1] {
                    self.touched.insert(border & !(super::DOMAIN - 1));
                }
                let change = Change::Pages { before: gone, after: recast.after };
                self.enter(job, recast.range, change, live, before);
            }
            Err(why) => {
                match &why {
                    PrepareError::WouldFault { entry: found } => assert_eq!(Some(found), entry.as_ref()),
                    PrepareError::KindForbids4K { .. } => assert!(!kinds_fit(&recast.after), "{range:x?}: {why}"),
                    why => assert!(self.short && is_shortage(why), "{why}"),
                }
                self.refused("change refused", &why, before);
            }
        }
    }

    fn prepare_sparse(&mut self, on: bool) {
        let range = self.sparse_range(on);
        let (live, before) = (self.live(), self.before());
        let cuts = self.cuts_sparse(&range);
        self.note(format!("{} {range:x?} {live:?}", if on { "sparse" } else { "unsparse" }));
        self.run_short();
        let span = Span { range: range.clone(), live };
        let prepared =
            self.plan(|vmm, pool| if on { vmm.plan_sparse(pool, span) } else { vmm.plan_unsparse(pool, span) });
        self.have_enough();
        match prepared {
            Ok(job) => {
                let strict = live == Live::MustNotFault && !on;
                assert!(!strict || cuts != Some(true), "{range:x?} cuts a sparse entry");
                self.count(if on { "sparse" } else { "unsparse" });
                let parts = self.sparse.within(&range);
                let after = if on { vec![range.clone()] } else { Vec::new() };
                self.enter(job, range, Change::Sparse { before: parts, after }, live, before);
            }
            Err(why) => {
                match &why {
                    PrepareError::WouldFault { .. } => {
                        assert!(!on && live == Live::MustNotFault && cuts != Some(false), "{range:x?}: {why}");
                    }
                    why => assert!(self.short && is_shortage(why), "{why}"),
                }
                self.refused("sparse refused", &why, before);
            }
        }
    }

    fn sparse_range(&mut self, on: bool) -> Range<u64> {
        let known: Vec<Range<u64>> = self.sparse.iter().collect();
        if !known.is_empty() && self.random.one_in(if on { 6 } else { 2 }) {
            let one = known[self.random.index(known.len())].clone();
            let [a, b] = [0, 1].map(|_| self.inside(&one));
            let part = a.min(b)..a.max(b) + PAGE_BYTES;
            return if self.random.one_in(2) { one } else { part };
        }
        if self.random.one_in(60) {
            return 0..Self::limit();
        }
        let (unit, most) =
            [(4096, 40), (4096, 600), (KIB_64, 40), (2 * MIB, 4), (LARGE, 2), (HUGE, 2)][self.random.index(6)];
        let mut start = self.address(unit);
        let mut end = start + unit * (1 + self.random.below(most));
        if self.random.one_in(2) {
            start = start.saturating_sub(PAGE_BYTES * self.random.below(40));
            end += PAGE_BYTES * self.random.below(40);
        }
        start..end.min(Self::limit())
    }
}

const fn is_shortage(why: &PrepareError) -> bool {
    matches!(why, PrepareError::NoMemory(_) | PrepareError::NoSpace(_) | PrepareError::Device(_))
}
