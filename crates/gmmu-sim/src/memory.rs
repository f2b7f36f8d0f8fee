//! Sparse memory: video memory, the part of system memory that the GPU was pointed at, and the memory of its peers.
//!
//! A page of 4 KiB exists once it was written or looked at by the MMU. On the page hangs all that the model knows of
//! it (what caches hold of its words, which tables lie in it, which words were not written since it was taken), so
//! that a store or a fetch finds everything with one look-up.

use crate::graph::Live;
use crate::record::Record;
use gmmu::addr::{Aperture, PeerId, PhysAddr, SysAddr, TableAddr};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Bytes of a page of the model.
pub(crate) const PAGE: u64 = 4096;
/// 64-bit words in it.
pub(crate) const WORDS: usize = 512;
/// Which memory an address is an offset into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// The GPU's own video memory.
    Vram,
    /// System memory, by bus address. Coherent and non-coherent accesses reach the same bytes.
    Sys,
    /// The memory of another GPU, as this one reaches it.
    Peer(PeerId),
}

/// Flat addresses have the space above this bit, and the byte address below: 0 is video memory, 1 system memory, 8 and
/// more are peers.
const SPACE_SHIFT: u32 = 60;
const RAW: u64 = (1 << SPACE_SHIFT) - 1;
const SYS_TAG: u64 = 1;
const PEER_TAG: u64 = 8;

impl Space {
    pub(crate) const fn of(at: TableAddr) -> Self {
        match at {
            TableAddr::Vram(_) => Self::Vram,
            TableAddr::SysCoherent(_) | TableAddr::SysNonCoherent(_) => Self::Sys,
        }
    }

    /// The memory that a page lies in.
    pub(crate) const fn of_page(to: PhysAddr) -> Self {
        match to.aperture {
            Aperture::Vram => Self::Vram,
            Aperture::SysCoherent | Aperture::SysNonCoherent => Self::Sys,
            Aperture::Peer(peer) => Self::Peer(peer),
        }
    }

    /// One number for a byte address of any space. No memory reaches as far as the tag: what does, meets at its end.
    pub(crate) const fn flat(self, raw: u64) -> u64 {
        let raw = if raw > RAW { RAW } else { raw };
        let tag = match self {
            Self::Vram => 0,
            Self::Sys => SYS_TAG,
            Self::Peer(peer) => PEER_TAG + peer.raw() as u64,
        };
        tag << SPACE_SHIFT | raw
    }

    /// The way back from [`flat`](Self::flat), for where tables are: never with a peer. Which kind of system memory it
    /// was is not kept: coherent.
    pub(crate) const fn unflat(flat: u64) -> TableAddr {
        if flat >> SPACE_SHIFT == 0 {
            TableAddr::vram(flat)
        } else {
            TableAddr::SysCoherent(SysAddr::new(flat & RAW))
        }
    }
}

/// The words of a page that were not written since it was taken, one bit for every 32 bits.
pub(crate) type Unwritten = [u64; 16];

/// A page and what the model knows of it.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    /// `flat >> 12`.
    pub(crate) frame: u64,
    /// Contents; zeros until something was written.
    pub(crate) words: Option<Box<[u64; WORDS]>>,
    /// What translation caches hold of it.
    pub(crate) cached: Vec<Record>,
    /// Tables in it that can be reached from a root.
    pub(crate) tables: Vec<Live>,
    pub(crate) unwritten: Option<Box<Unwritten>>,
    /// Of these, the ones that the CPU wrote since its latest ordering point, and the number of that point.
    unordered: Option<Box<(u64, Unwritten)>>,
    /// 4K entries that a 64K entry hid, and that were not written since.
    hidden: Option<Box<Unwritten>>,
    /// Given back in that operation, and not taken again.
    pub(crate) freed: Option<u64>,
    /// A page of system memory that was last named as not coherent.
    pub(crate) non_coherent: bool,
}

impl Cell {
    pub(crate) fn word(&self, slot: u16) -> u64 {
        self.words.as_ref().and_then(|words| words.get(usize::from(slot)).copied()).unwrap_or(0)
    }

    pub(crate) fn words_mut(&mut self) -> &mut [u64; WORDS] {
        self.words.get_or_insert_with(|| Box::new([0; WORDS]))
    }

    /// Address of a word of this page, as a table's, in the aperture that the page was last named with.
    pub(crate) const fn at(&self, slot: u16) -> TableAddr {
        match Space::unflat((self.frame << 12) + 8 * slot as u64) {
            TableAddr::SysCoherent(at) if self.non_coherent => TableAddr::SysNonCoherent(at),
            at => at,
        }
    }

    /// Forgets everything, and where this is video memory the contents too; `garbage` says what an address holds then.
    pub(crate) fn lose(&mut self, garbage: impl Fn(u64) -> u64) {
        let frame = self.frame;
        let words = std::mem::take(self).words;
        (self.frame, self.words) = (frame, words);
        if Space::unflat(frame << 12).is_vram() {
            if let Some(words) = &mut self.words {
                for (word, at) in words.iter_mut().zip((frame << 12..).step_by(8)) {
                    *word = garbage(at);
                }
            }
        }
    }

    /// Notes how a table in this page is named, for findings.
    pub(crate) const fn named(&mut self, at: TableAddr) {
        self.non_coherent = matches!(at, TableAddr::SysNonCoherent(_));
    }

    /// Notes that 32-bit units `from .. from + count` were written.
    pub(crate) fn written(&mut self, from: u32, count: u32) {
        for list in [&mut self.unwritten, &mut self.hidden] {
            let Some(units) = list else { continue };
            for_bits(from, count, |part, mask| {
                if let Some(bits) = units.get_mut(part) {
                    *bits &= !mask;
                }
            });
            if units.iter().all(|&bits| bits == 0) {
                *list = None;
            }
        }
    }

    /// Notes that the entry in a word is hidden from now on.
    pub(crate) fn hide(&mut self, slot: u16) {
        let units = self.hidden.get_or_insert_default();
        for_bits(2 * u32::from(slot), 2, |part, mask| {
            if let Some(bits) = units.get_mut(part) {
                *bits |= mask;
            }
        });
    }

    /// Whether a word was hidden, and not written since.
    pub(crate) fn is_hidden(&self, slot: u16) -> bool {
        let mut hidden = false;
        let Some(units) = &self.hidden else { return false };
        for_bits(2 * u32::from(slot), 2, |part, mask| hidden |= units.get(part).is_some_and(|bits| bits & mask != 0));
        hidden
    }

    /// Notes that the CPU is about to write 32-bit units `from .. from + count` behind its ordering point `fence`. Only
    /// those that held nothing matter: what is linked before them may be read without them.
    pub(crate) fn unordered(&mut self, fence: u64, from: u32, count: u32) {
        let Some(unwritten) = &self.unwritten else { return };
        let (since, units) = &mut **self.unordered.get_or_insert_with(|| Box::new((fence, [0; 16])));
        if *since != fence {
            (*since, *units) = (fence, [0; 16]);
        }
        for_bits(from, count, |part, mask| {
            if let (Some(bits), Some(new)) = (units.get_mut(part), unwritten.get(part)) {
                *bits |= new & mask;
            }
        });
    }

    /// The first of the 32-bit units `from .. from + count` that the CPU wrote first behind its ordering point `fence`.
    pub(crate) fn first_unordered(&self, fence: u64, from: u32, count: u32) -> Option<u32> {
        let (_, units) = self.unordered.as_deref().filter(|(since, _)| *since == fence)?;
        (from..from.saturating_add(count))
            .find(|&at| units.get((at / 64) as usize).is_some_and(|bits| bits >> (at % 64) & 1 != 0))
    }

    /// Notes that 32-bit units `from .. from + count` hold nothing yet.
    pub(crate) fn taken(&mut self, from: u32, count: u32) {
        let unwritten = self.unwritten.get_or_insert_default();
        for_bits(from, count, |part, mask| {
            if let Some(bits) = unwritten.get_mut(part) {
                *bits |= mask;
            }
        });
    }

    /// How many of the 32-bit units `from .. from + count` hold nothing yet.
    pub(crate) fn missing(&self, from: u32, count: u32) -> u32 {
        let Some(unwritten) = &self.unwritten else { return 0 };
        let mut missing = 0;
        for_bits(from, count, |part, mask| {
            missing += unwritten.get(part).map_or(0, |bits| (bits & mask).count_ones());
        });
        missing
    }
}

/// Calls `each` with (index of a 64-bit part, mask within it) for bits `from .. from + count`.
fn for_bits(from: u32, count: u32, mut each: impl FnMut(usize, u64)) {
    let end = from.saturating_add(count).min(1024);
    let mut at = from;
    while at < end {
        let here = (64 - at % 64).min(end - at);
        each((at / 64) as usize, u64::MAX >> (64 - here) << (at % 64));
        at += here;
    }
}

/// A hash for frame numbers: one multiplication, and the high bits folded down.
#[derive(Default)]
pub(crate) struct FrameHasher(u64);

impl Hasher for FrameHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
}

/// A map from numbers of pages or parts of pages. Its order must never matter.
pub(crate) type FrameMap<V> = HashMap<u64, V, BuildHasherDefault<FrameHasher>>;

/// First address that is not memory, by space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) vram: u64,
    pub(crate) sys: u64,
    pub(crate) peers: [u64; 8],
}

/// All memories.
#[derive(Debug)]
pub(crate) struct Memory {
    /// A page, once here, stays at its place: its number may be kept.
    pub(crate) cells: Vec<Cell>,
    index: FrameMap<u32>,
    /// Pages asked for lately, (frame, page): a walk asks for the same few again and again.
    lately: [(u64, u32); LATELY],
    ends: Ends,
}

/// Places in the memory of recent look-ups, a power of two.
const LATELY: usize = 256;

/// The place of a frame in it. Neighbours, and tables of different levels, seldom meet.
const fn lately(frame: u64) -> usize {
    (frame.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56 & 0xff) as usize
}

impl Memory {
    pub(crate) fn new(ends: Ends) -> Self {
        Self { cells: Vec::new(), index: FrameMap::default(), lately: [(u64::MAX, 0); LATELY], ends }
    }

    /// First address of `space` that does not exist.
    pub(crate) const fn end(&self, space: Space) -> u64 {
        match space {
            Space::Vram => self.ends.vram,
            Space::Sys => self.ends.sys,
            Space::Peer(peer) => self.ends.peers[(peer.raw() & 7) as usize],
        }
    }

    /// Whether a word lies in memory that exists.
    pub(crate) const fn holds(&self, space: Space, raw: u64) -> bool {
        raw < self.end(space)
    }

    /// The page with the byte address `flat`, if it exists.
    pub(crate) fn find(&self, flat: u64) -> Option<u32> {
        self.index.get(&(flat >> 12)).copied()
    }

    /// The page with the byte address `flat`, made if need be.
    pub(crate) fn make(&mut self, flat: u64) -> u32 {
        let frame = flat >> 12;
        let place = lately(frame);
        if self.lately[place].0 == frame {
            return self.lately[place].1;
        }
        if let Some(&at) = self.index.get(&frame) {
            self.lately[place] = (frame, at);
            return at;
        }
        // 2^32 pages are 16 TiB of contents: nobody gets there.
        let at = u32::try_from(self.cells.len()).unwrap_or(u32::MAX);
        self.cells.push(Cell { frame, ..Cell::default() });
        self.index.insert(frame, at);
        at
    }

    /// The page with number `cell`.
    pub(crate) fn cell(&self, cell: u32) -> &Cell {
        &self.cells[cell as usize]
    }

    /// The page with number `cell`.
    pub(crate) fn cell_mut(&mut self, cell: u32) -> &mut Cell {
        &mut self.cells[cell as usize]
    }

    /// The 64-bit word around `at`, or `None` outside the memory.
    pub(crate) fn word(&self, at: TableAddr) -> Option<u64> {
        let space = Space::of(at);
        if !self.holds(space, at.raw()) {
            return None;
        }
        let cell = self.find(space.flat(at.raw()));
        Some(cell.map_or(0, |cell| self.cell(cell).word(slot_of(at.raw()))))
    }

    /// Reads bytes as they are; those outside the memory read all-ones.
    pub(crate) fn read(&self, space: Space, from: u64, bytes: &mut [u8]) {
        let mut at = from;
        let mut rest = bytes;
        while !rest.is_empty() {
            let in_page = PAGE - at % PAGE;
            let (here, after) = rest.split_at_mut(rest.len().min(usize::try_from(in_page).unwrap_or(usize::MAX)));
            self.read_in_page(space, at, here);
            rest = after;
            at = at.saturating_add(in_page);
        }
    }

    fn read_in_page(&self, space: Space, from: u64, bytes: &mut [u8]) {
        if !self.holds(space, from) {
            return bytes.fill(0xff);
        }
        let cell = self.find(space.flat(from)).map(|cell| self.cell(cell));
        for (byte, at) in bytes.iter_mut().zip(from..) {
            let word = cell.map_or(0, |cell| cell.word(slot_of(at)));
            *byte = (word >> (8 * (at % 8)) & 0xff) as u8;
        }
    }

    /// The pages of `space` that hold anything but zeros, by address.
    pub(crate) fn populated(&self, space: Space) -> impl Iterator<Item = (u64, &[u64; WORDS])> {
        let tag = space.flat(0) >> SPACE_SHIFT;
        let mut pages: Vec<_> = self
            .cells
            .iter()
            .filter(|cell| cell.frame << 12 >> SPACE_SHIFT == tag)
            .filter_map(|cell| cell.words.as_deref().map(|words| (cell.frame << 12 & RAW, words)))
            .filter(|(_, words)| words.iter().any(|&word| word != 0))
            .collect();
        pages.sort_unstable_by_key(|&(at, _)| at);
        pages.into_iter()
    }
}

/// Number of the word of its page that `raw` lies in.
pub(crate) const fn slot_of(raw: u64) -> u16 {
    (raw >> 3 & 0x1ff) as u16
}
