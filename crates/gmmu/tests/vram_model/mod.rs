//! The allocator against a model that is too simple to be wrong: one byte of state per chunk, every question answered
//! by looking at all of them. An interpreter turns numbers (of a seed, or the bytes of a fuzzer) into operations, does
//! them on both, and compares everything that can be seen.

#![expect(clippy::cast_possible_truncation, clippy::panic, reason = "a test: numbers are small, disagreement ends it")]

use gmmu::addr::{VramAddr, PAGE_BYTES};
use gmmu::vram::{
    AllocError, Cleared, Extent, FreeError, Place, Quarantined, Request, ReserveError, RetireError, Retired, State,
    Vram,
};
use std::ops::Range;

/// Where the choices come from.
pub(crate) trait Source {
    /// A number below `below`, which is at least 1.
    fn next(&mut self, below: u64) -> u64;
    /// Whether there are no choices left.
    fn is_done(&self) -> bool;
}

/// Choices from a seed (splitmix64), for a number of operations.
pub(crate) struct Seed {
    state: u64,
}

impl Seed {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }
}

impl Source for Seed {
    fn next(&mut self, below: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
    fn is_done(&self) -> bool {
        false
    }
}

/// Choices from the bytes of a file or a fuzzer: one, two or eight for each, as many as its limit needs.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Source for Bytes<'_> {
    fn next(&mut self, below: u64) -> u64 {
        let wanted = match below {
            0..=0x100 => 1,
            0x101..=0x1_0000 => 2,
            _ => 8,
        };
        let count = self.0.len().min(wanted);
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken.iter().fold(0u64, |value, &byte| value << 8 | u64::from(byte)) % below
    }
    fn is_done(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    Out,
    Free {
        clear: bool,
    },
    /// Part of the allocation that starts at this chunk number.
    Used {
        start: u32,
    },
}

/// The naive allocator: chunks from `base` on.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) base: u64,
    pub(crate) chunks: Vec<Chunk>,
    pending: Vec<bool>,
}

impl Model {
    pub(crate) fn new(regions: &[Range<u64>]) -> Self {
        let base = regions.iter().map(|r| r.start).min().expect("a region");
        let end = regions.iter().map(|r| r.end).max().expect("a region");
        let inside = |chunk: u64| regions.iter().any(|r| r.contains(&chunk));
        let state = |chunk| if inside(chunk) { Chunk::Free { clear: false } } else { Chunk::Out };
        let chunks: Vec<Chunk> = (base..end).map(state).collect();
        Self { base, pending: vec![false; chunks.len()], chunks }
    }

    fn usable(&self, at: usize, only_clear: bool) -> bool {
        matches!(self.chunks[at], Chunk::Free { clear } if clear || !only_clear)
    }

    /// The usable parts of all runs: absolute start and length in chunks.
    pub(crate) fn parts(&self, ask: &Ask, only_clear: bool) -> Vec<(u64, u64)> {
        let step = ask.align.max(ask.granule);
        let mut parts = Vec::new();
        let index = |chunk: u64| usize::try_from(chunk.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let (mut at, last) = (index(ask.lo), index(ask.hi).min(self.chunks.len()));
        while at < last {
            if !self.usable(at, only_clear) {
                at += 1;
                continue;
            }
            let start = at;
            while at < last && self.usable(at, only_clear) {
                at += 1;
            }
            let (start, end) = ((self.base + start as u64).next_multiple_of(step), self.base + at as u64);
            let len = end.saturating_sub(start) / ask.granule * ask.granule;
            if len > 0 {
                parts.push((start, len));
            }
        }
        parts
    }

    /// The most chunks that `limit` pieces can have, and the fewest pieces that hold `ask`, if any number does.
    pub(crate) fn most(&self, ask: &Ask, only_clear: bool, limit: usize) -> (u64, Option<usize>) {
        let mut lengths: Vec<u64> = self.parts(ask, only_clear).iter().map(|part| part.1).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let most = lengths.iter().take(limit).sum();
        let mut sum = 0;
        let enough = lengths.iter().position(|len| {
            sum += len;
            sum >= ask.chunks
        });
        (most, enough.map(|index| index + 1))
    }

    /// Where one piece goes by the rule of the place; `None` for a place without a rule.
    fn only_place(&self, ask: &Ask, only_clear: bool) -> Option<u64> {
        let step = ask.align.max(ask.granule);
        let fits = self.parts(&Ask { align: step, granule: 1, ..*ask }, only_clear);
        let fits: Vec<(u64, u64)> = fits
            .into_iter()
            .filter(|part| part.1 >= ask.chunks)
            .map(|(start, len)| (start, (start + len - ask.chunks) / step * step))
            .collect();
        let lowest = |from: u64| {
            let first = fits.iter().filter(|fit| fit.1 >= from).map(|fit| fit.0.max(from.next_multiple_of(step)));
            first.filter(|&at| fits.iter().any(|fit| fit.0 <= at && at <= fit.1)).min()
        };
        let highest = |below: u64| {
            let last = fits.iter().filter(|fit| fit.0 < below).map(|fit| fit.1.min((below - 1) / step * step));
            last.max()
        };
        match ask.place {
            Place::Best => None,
            Place::Low => lowest(0),
            Place::High => highest(u64::MAX),
            Place::Near(at) => {
                let chunk = at.raw().div_ceil(PAGE_BYTES);
                lowest(chunk.max(ask.lo)).or_else(|| highest(chunk))
            }
        }
    }

    fn slot(&mut self, chunk: u64) -> &mut Chunk {
        &mut self.chunks[usize::try_from(chunk - self.base).expect("small")]
    }

    pub(crate) fn free_chunks(&self) -> u64 {
        self.chunks.iter().filter(|chunk| matches!(chunk, Chunk::Free { .. })).count() as u64
    }

    pub(crate) fn clear_chunks(&self) -> u64 {
        self.chunks.iter().filter(|chunk| matches!(chunk, Chunk::Free { clear: true })).count() as u64
    }

    /// Hands an extent out; says whether all of it was clear.
    fn take(&mut self, extent: Extent) -> bool {
        let start = extent.start().raw() / PAGE_BYTES;
        let mut all_clear = true;
        for chunk in start..start + extent.bytes() / PAGE_BYTES {
            let first = u32::try_from(start - self.base).expect("small");
            let Chunk::Free { clear } = *self.slot(chunk) else { panic!("{extent} was not free") };
            all_clear &= clear;
            *self.slot(chunk) = Chunk::Used { start: first };
        }
        all_clear
    }

    fn give(&mut self, start: u64, len: u64, clear: bool) {
        for chunk in start..start + len {
            let index = usize::try_from(chunk - self.base).expect("small");
            assert!(matches!(self.chunks[index], Chunk::Used { .. }));
            self.chunks[index] = if self.pending[index] { Chunk::Out } else { Chunk::Free { clear } };
            self.pending[index] = false;
        }
    }

    fn restart(&mut self, at: u64, len: u64) {
        let first = u32::try_from(at - self.base).expect("small");
        (at..at + len).for_each(|chunk| *self.slot(chunk) = Chunk::Used { start: first });
    }

    /// Start and length of the allocation that `chunk` starts.
    fn allocation(&self, chunk: u64) -> Result<u64, FreeError> {
        let Some(index) = chunk.checked_sub(self.base).and_then(|index| usize::try_from(index).ok()) else {
            return Err(FreeError::Foreign);
        };
        match self.chunks.get(index) {
            None | Some(Chunk::Out) => Err(FreeError::Foreign),
            Some(Chunk::Free { .. }) => Err(FreeError::NotAllocated),
            Some(&Chunk::Used { start }) if start as usize != index => Err(FreeError::NotAStart),
            Some(&used) => Ok(self.chunks.iter().skip(index).take_while(|&&chunk| chunk == used).count() as u64),
        }
    }
}

/// A request as plain numbers, in chunks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) chunks: u64,
    pub(crate) align: u64,
    pub(crate) granule: u64,
    pub(crate) lo: u64,
    pub(crate) hi: u64,
    pub(crate) place: Place,
    pub(crate) pieces: usize,
    pub(crate) cleared: Cleared,
}

impl Ask {
    pub(crate) fn of(chunks: u64) -> Self {
        let place = Place::Best;
        Self { chunks, align: 1, granule: 1, lo: 0, hi: u64::MAX, place, pieces: usize::MAX, cleared: Cleared::Any }
    }

    /// The real request, or `None` where its own numbers contradict each other.
    pub(crate) fn request(&self) -> Option<Request> {
        let at = |chunk: u64| VramAddr::new(chunk.saturating_mul(PAGE_BYTES));
        let builder = Request::new(self.chunks.checked_mul(PAGE_BYTES)?)
            .align(self.align * PAGE_BYTES)
            .granule(self.granule * PAGE_BYTES)
            .within(at(self.lo)..at(self.hi))
            .place(self.place)
            .at_most(self.pieces)
            .cleared(self.cleared);
        builder.build().ok()
    }
}

/// Both allocators, and what is out.
pub(crate) struct Pair {
    pub(crate) vram: Vram,
    pub(crate) model: Model,
    pub(crate) live: Vec<Extent>,
    quarantine: Vec<Quarantined>,
    retired: usize,
}

/// How many pages the allocators of a [`Pair`] can retire.
const RETIRABLE: usize = 24;

impl Pair {
    /// Both over `regions`, in absolute chunk numbers.
    pub(crate) fn new(regions: &[Range<u64>]) -> Self {
        let bytes = |r: &Range<u64>| VramAddr::new(r.start * PAGE_BYTES)..VramAddr::new(r.end * PAGE_BYTES);
        let real: Vec<_> = regions.iter().map(bytes).collect();
        let vram = Vram::with_retirable(&real, RETIRABLE).expect("regions");
        Self { vram, model: Model::new(regions), live: Vec::new(), quarantine: Vec::new(), retired: 0 }
    }

    /// Regions as the source likes them: one to three, small or some thousand chunks, anywhere.
    pub(crate) fn from_source(source: &mut impl Source) -> Self {
        let sizes = [1, 63, 64, 65, 200, 511, 512, 513, 1024, 1900];
        let bases = [0, 1, 511, 512, 5000, 1 << 20, (1 << 36) + 77, (1 << 51) + 3];
        let mut at = bases[source.next(bases.len() as u64) as usize];
        let mut regions = Vec::new();
        for _ in 0..1 + source.next(3) {
            let len = sizes[source.next(sizes.len() as u64) as usize];
            regions.push(at..at + len);
            at += len + [0, 1, 64, 600][source.next(4) as usize];
        }
        Self::new(&regions)
    }

    fn end(&self) -> u64 {
        self.model.base + self.model.chunks.len() as u64
    }

    fn ask(&self, source: &mut impl Source) -> Ask {
        let total = self.model.chunks.len() as u64;
        let mut ask = Ask::of(match source.next(8) {
            0..=2 => 1,
            3 | 4 => 1 + source.next(8),
            5 => 1 + source.next(70),
            6 => 1 + source.next(700),
            _ => 1 + source.next(total + 2),
        });
        ask.align = match source.next(4) {
            0 => 1 << source.next(13),
            1 => 1 << source.next(5),
            _ => 1,
        };
        if source.next(8) == 0 {
            ask.granule = 1 << source.next(6);
            ask.chunks = ask.chunks.next_multiple_of(ask.granule);
        }
        if source.next(3) == 0 {
            ask.lo = self.model.base.saturating_sub(2) + source.next(total + 4);
            ask.hi = match source.next(4) {
                0 => u64::MAX / PAGE_BYTES,
                1 => ask.lo + ask.chunks,
                _ => ask.lo + source.next(total + 4),
            };
        }
        ask.place = match source.next(5) {
            0 => Place::Low,
            1 => Place::High,
            2 => Place::Near(VramAddr::new((self.model.base + source.next(total + 2)) * PAGE_BYTES)),
            _ => Place::Best,
        };
        ask.pieces = [1, 1, 2, 3, 16, 64, usize::MAX][source.next(7) as usize];
        ask.cleared = [Cleared::Any, Cleared::Any, Cleared::Prefer, Cleared::Require][source.next(4) as usize];
        ask
    }

    /// One operation on both, compared.
    pub(crate) fn step(&mut self, source: &mut impl Source) {
        match source.next(32) {
            0..=12 => {
                let ask = self.ask(source);
                self.alloc(&ask, 64);
            }
            13..=22 => self.free_one(source),
            23 => self.free_wrong(source),
            24 => self.split(source),
            25 => self.free_part(source),
            26 => self.reserve(source),
            27 => self.quarantine(source),
            28 if source.next(16) == 0 => self.retire(source),
            29 if source.next(16) == 0 => self.clear(source),
            30 => {
                self.vram.settle(u32::try_from(source.next(300)).expect("small"));
            }
            31 if source.next(64) == 0 => self.vram.rebuild(),
            _ => {
                for _ in 0..4 {
                    self.free_one(source);
                }
            }
        }
        assert_eq!(self.vram.free_bytes(), self.model.free_chunks() * PAGE_BYTES);
        assert_eq!(self.vram.cleared_bytes(), self.model.clear_chunks() * PAGE_BYTES);
    }

    /// A request to both; says whether it succeeded.
    pub(crate) fn alloc(&mut self, ask: &Ask, room: usize) -> bool {
        let Some(request) = ask.request() else { return false };
        let limit = room.min(ask.pieces);
        let mut buffer = vec![Extent::default(); room];
        let only_clear = match ask.cleared {
            Cleared::Any => false,
            Cleared::Prefer => self.model.most(ask, true, limit).0 >= ask.chunks,
            Cleared::Require => true,
        };
        let before = (self.vram.free_bytes(), self.vram.cleared_bytes());
        let (could, fewest) = self.model.most(ask, only_clear, limit);
        let expected = self.model.only_place(ask, only_clear);
        match self.vram.alloc(&request, &mut buffer) {
            Ok(pieces) => {
                assert!(could >= ask.chunks, "{ask:?} got {pieces:?} where nothing fits");
                assert!(pieces.len() <= limit);
                // Cleared runs are taken in order, so there may be more of them than needed.
                if !only_clear {
                    assert!(Some(pieces.len()) <= fewest, "{ask:?} got {} pieces for {fewest:?}", pieces.len());
                }
                if let ([piece], Some(at)) = (pieces, expected) {
                    assert_eq!(piece.start().raw() / PAGE_BYTES, at, "{ask:?}");
                }
                let pieces = pieces.to_vec();
                self.accept(ask, &pieces, only_clear);
                true
            }
            Err(AllocError::NoSpace { largest }) => {
                assert!(could < ask.chunks, "{ask:?} was refused though it fits: {}", self.vram);
                // A single chunk is refused only where there is none at all.
                assert_eq!(largest, could * PAGE_BYTES, "{ask:?}");
                assert_eq!(before, (self.vram.free_bytes(), self.vram.cleared_bytes()));
                false
            }
            Err(error) => panic!("{ask:?}: {error}"),
        }
    }

    fn accept(&mut self, ask: &Ask, pieces: &[Extent], only_clear: bool) {
        let total: u64 = pieces.iter().map(Extent::bytes).sum();
        assert_eq!(total, ask.chunks * PAGE_BYTES);
        for pair in pieces.windows(2) {
            assert!(pair[0].end().expect("fits") < pair[1].start(), "{pieces:?}");
        }
        for piece in pieces {
            let (start, len) = (piece.start().raw() / PAGE_BYTES, piece.bytes() / PAGE_BYTES);
            assert!(start % ask.align == 0 && start % ask.granule == 0 && len % ask.granule == 0, "{ask:?} {piece}");
            assert!(start >= ask.lo && start + len <= ask.hi, "{ask:?} {piece}");
            let clear = self.model.take(*piece);
            assert_eq!(piece.is_cleared(), clear, "{ask:?} {piece}");
            assert!(clear || !only_clear);
        }
        self.live.extend_from_slice(pieces);
    }

    fn pick(&mut self, source: &mut impl Source) -> Option<Extent> {
        if self.live.is_empty() {
            return None;
        }
        let index = source.next(self.live.len() as u64) as usize;
        Some(self.live.swap_remove(index))
    }

    fn state(source: &mut impl Source) -> State {
        if source.next(3) == 0 {
            State::Cleared
        } else {
            State::Dirty
        }
    }

    fn free_one(&mut self, source: &mut impl Source) {
        let Some(extent) = self.pick(source) else { return };
        let state = Self::state(source);
        self.free(extent, state);
    }

    pub(crate) fn free(&mut self, extent: Extent, state: State) {
        self.vram.free(extent, state).expect("live");
        let (start, len) = (extent.start().raw() / PAGE_BYTES, extent.bytes() / PAGE_BYTES);
        self.model.give(start, len, state == State::Cleared);
        assert!(self.vram.free(extent, state).is_err(), "{extent} was freed twice");
    }

    fn free_wrong(&mut self, source: &mut impl Source) {
        let total = self.model.chunks.len() as u64;
        let start = (self.model.base + source.next(total + 3)).saturating_sub(1);
        let most = if source.next(2) == 0 { 4 } else { total };
        let len = 1 + source.next(most);
        let extent = Extent::new(VramAddr::new(start * PAGE_BYTES), len * PAGE_BYTES);
        let told = match self.model.allocation(start) {
            // Only its size can be wrong; a right guess is no error and is not freed here.
            Ok(real) if real == len => Ok(()),
            Ok(real) => Err(FreeError::WrongSize { allocated: real * PAGE_BYTES }),
            Err(error) => Err(error),
        };
        let found = self.vram.verify(extent);
        // What leaves the managed span is foreign, whatever it starts with.
        assert!(found == told || (start + len > self.end() && found == Err(FreeError::Foreign)), "{found:?} {told:?}");
        let off = Extent::new(VramAddr::new(start * PAGE_BYTES + 1 + source.next(4095)), len * PAGE_BYTES);
        assert_eq!(self.vram.free(off, State::Dirty), Err(FreeError::Misaligned));
    }

    fn split(&mut self, source: &mut impl Source) {
        let Some(extent) = self.pick(source) else { return };
        let len = extent.bytes() / PAGE_BYTES;
        let at = source.next(len + 1);
        let start = extent.start().raw() / PAGE_BYTES;
        match self.vram.split(extent, at * PAGE_BYTES) {
            Ok((first, second)) => {
                assert_eq!((first.bytes(), second.end()), (at * PAGE_BYTES, extent.end()));
                assert_eq!(first.end(), Some(second.start()));
                self.model.restart(start + at, len - at);
                self.live.extend([first, second]);
            }
            Err(error) => {
                assert!(error == FreeError::NotAPart && (at == 0 || at == len), "{error}");
                self.live.push(extent);
            }
        }
    }

    fn free_part(&mut self, source: &mut impl Source) {
        let Some(extent) = self.pick(source) else { return };
        let (start, len) = (extent.start().raw() / PAGE_BYTES, extent.bytes() / PAGE_BYTES);
        let from = source.next(len);
        let count = 1 + source.next(len - from);
        let state = Self::state(source);
        let part = Extent::new(VramAddr::new((start + from) * PAGE_BYTES), count * PAGE_BYTES);
        let beyond = Extent::new(part.start(), (len - from + 1) * PAGE_BYTES);
        let refused = self.vram.free_part(extent, beyond, state);
        assert_eq!(refused, Err(FreeError::NotAPart));
        let rest = self.vram.free_part(extent, part, state).expect("a part");
        self.model.give(start + from, count, state == State::Cleared);
        if from + count < len {
            self.model.restart(start + from + count, len - from - count);
        }
        let left: u64 = rest.iter().flatten().map(Extent::bytes).sum();
        assert_eq!(left, (len - count) * PAGE_BYTES);
        self.live.extend(rest.into_iter().flatten());
    }

    fn reserve(&mut self, source: &mut impl Source) {
        let total = self.model.chunks.len() as u64;
        let start = (self.model.base + source.next(total + 2)).saturating_sub(1);
        let most = if source.next(2) == 0 { 3 } else { 600 };
        let len = 1 + source.next(most);
        let range = VramAddr::new(start * PAGE_BYTES)..VramAddr::new((start + len) * PAGE_BYTES);
        let free = |chunk: &u64| {
            let index = chunk.checked_sub(self.model.base).and_then(|index| usize::try_from(index).ok());
            index.is_some_and(|index| matches!(self.model.chunks.get(index), Some(Chunk::Free { .. })))
        };
        let taken = (start..start + len).find(|chunk| !free(chunk));
        match (self.vram.reserve(range), taken) {
            (Ok(extent), None) => {
                assert_eq!((extent.start().raw(), extent.bytes()), (start * PAGE_BYTES, len * PAGE_BYTES));
                assert_eq!(self.model.take(extent), extent.is_cleared());
                self.live.push(extent);
            }
            (Err(ReserveError::Taken { at }), Some(chunk)) => assert_eq!(at.raw(), chunk * PAGE_BYTES),
            (got, want) => panic!("reserve {start:#x}+{len:#x}: {got:?}, first taken {want:?}"),
        }
    }

    fn quarantine(&mut self, source: &mut impl Source) {
        if source.next(2) == 0 {
            let Some(extent) = self.pick(source) else { return };
            self.quarantine.push(self.vram.quarantine(extent).expect("live"));
        } else if let Some(held) = self.quarantine.pop() {
            let (start, len) = (held.extent().start().raw() / PAGE_BYTES, held.extent().bytes() / PAGE_BYTES);
            self.vram.release(held, State::Dirty).expect("still there");
            self.model.give(start, len, false);
        }
        let held: u64 = self.quarantine.iter().map(|held| held.extent().bytes()).sum();
        assert_eq!(self.vram.quarantined_bytes(), held);
    }

    fn retire(&mut self, source: &mut impl Source) {
        let index = source.next(self.model.chunks.len() as u64) as usize;
        let at = VramAddr::new((self.model.base + index as u64) * PAGE_BYTES + source.next(4096));
        let told = self.vram.retire(at);
        match (self.model.chunks[index], told) {
            (Chunk::Free { .. }, Ok(Retired::Now)) => self.model.chunks[index] = Chunk::Out,
            (Chunk::Used { .. }, Ok(Retired::WhenFreed)) => {
                assert!(!std::mem::replace(&mut self.model.pending[index], true));
            }
            (Chunk::Used { .. }, Err(RetireError::Already)) => return assert!(self.model.pending[index]),
            (Chunk::Out, Err(RetireError::Foreign | RetireError::Already)) => return,
            (_, Err(RetireError::Full)) => return assert_eq!(self.retired, RETIRABLE),
            (chunk, told) => panic!("{chunk:?} {told:?}"),
        }
        self.retired += 1;
    }

    fn clear(&mut self, source: &mut impl Source) {
        let total = self.model.chunks.len() as u64;
        let (from, to, state) = match source.next(8) {
            0 => {
                self.vram.reset_clear(true);
                (0, total, true)
            }
            1 => {
                self.vram.reset_clear(false);
                (0, total, false)
            }
            _ => {
                let from = source.next(total);
                let to = from + source.next(total - from + 1);
                let at = |index: u64| VramAddr::new((self.model.base + index) * PAGE_BYTES);
                let told = self.vram.note_cleared(at(from)..at(to));
                let free = self.model.chunks[from as usize..to as usize].iter();
                let free = free.filter(|chunk| matches!(chunk, Chunk::Free { .. })).count() as u64;
                assert_eq!(told, free * PAGE_BYTES);
                (from, to, true)
            }
        };
        for chunk in &mut self.model.chunks[from as usize..to as usize] {
            if let Chunk::Free { clear } = chunk {
                *clear = state;
            }
        }
    }

    /// Compares everything that takes a pass over the memory.
    pub(crate) fn compare(&self) {
        self.vram.check().expect("invariants");
        let stats = self.vram.stats();
        let runs = self.model.parts(&Ask::of(1), false);
        assert_eq!(stats.runs, runs.len() as u64);
        assert_eq!(stats.largest, runs.iter().map(|run| run.1).max().unwrap_or(0) * PAGE_BYTES);
        let in_orders: u64 = stats.orders.iter().enumerate().map(|(order, count)| (count * PAGE_BYTES) << order).sum();
        assert_eq!((stats.free, in_orders), (self.vram.free_bytes(), self.vram.free_bytes()));
        let managed = self.model.chunks.iter().filter(|&&chunk| chunk != Chunk::Out).count() as u64;
        assert_eq!(stats.total, managed * PAGE_BYTES);
    }

    /// Gives everything back and expects one free memory without a trace.
    pub(crate) fn finish(mut self) {
        while let Some(extent) = self.live.pop() {
            self.free(extent, State::Dirty);
        }
        while let Some(held) = self.quarantine.pop() {
            let (start, len) = (held.extent().start().raw() / PAGE_BYTES, held.extent().bytes() / PAGE_BYTES);
            self.vram.release(held, State::Dirty).expect("still there");
            self.model.give(start, len, false);
        }
        self.compare();
        assert_eq!(self.vram.free_bytes(), self.vram.total_bytes());
    }
}

/// Runs operations until the source is done or `most` are done; returns how many that were.
pub(crate) fn run(source: &mut impl Source, most: usize) -> usize {
    let mut pair = Pair::from_source(source);
    let mut done = 0;
    while done < most && !source.is_done() {
        pair.step(source);
        done += 1;
        if done % 64 == 0 {
            pair.compare();
        }
    }
    pair.compare();
    pair.finish();
    done
}
