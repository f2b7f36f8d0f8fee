//! Adopting: a space whose root, and some of whose entries, firmware made. They are read once, are *foreign* from then on,
//! and stay as they are.
//!
//! What is read is hostile: nothing is followed twice on one way down, and nothing is believed of a table that is reached in
//! two ways. How a space lives with what was found is [`foreign`](super::foreign)'s to say.

use super::request::PrepareError;
use super::space::{SpaceConfig, Use, Vmm};
use crate::addr::TableAddr;
use crate::device::{DeviceError, TableRead};
use crate::format::{DecodeError, Dual, Format, Link, Pde, BIG_TABLE, SMALL_TABLE};
use crate::storage::{List, NoMemory};
use crate::tree::{dual_level, entry_slot, level, Child, Half, Place, Tree, DIRECTORY_BYTES};
use crate::walk::is_local;
use core::ops::Range;

/// Why a space was not adopted. Nothing was changed, nothing is held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// No space can be made of this, or the device failed.
    #[error(transparent)]
    Space(#[from] PrepareError),
    /// The root reads as a bus does where nothing answers.
    #[error("the root at {at} cannot be believed: {why}")]
    NotThere {
        /// The root.
        at: TableAddr,
        /// What its first word says.
        why: DecodeError,
    },
    /// As many tables were read as the caller allows, and more remain.
    #[error("{limit} tables were read and more remain: a loop, or a larger space than was allowed for")]
    TooManyTables {
        /// The limit.
        limit: usize,
    },
}

impl From<DeviceError> for AdoptError {
    fn from(why: DeviceError) -> Self {
        Self::Space(why.into())
    }
}

impl From<NoMemory> for AdoptError {
    fn from(why: NoMemory) -> Self {
        Self::Space(why.into())
    }
}

impl<F: Format> Vmm<F> {
    /// Takes over the address space under the root at `pdb`, which firmware made, and some entries with it. All of its tables
    /// are read, at most `limit` of them, and nothing is written; this is the only time that anything is read back. From then
    /// on nobody else may change them.
    ///
    /// Every entry that is found is *foreign* ([`foreign`](Self::foreign)): it is never changed, cut, merged or freed, and
    /// jobs that touch its addresses are [`Busy`](PrepareError::Busy). Found is whatever is not 0, but for "no 4K pages" in a
    /// 64K table with nothing below. An entry that means nothing, or leads to a table that cannot be read, is foreign over
    /// all that it spans; so is whatever lies below a table that is reached in two ways.
    ///
    /// What else the tables have room for can be mapped. No page takes the place of a table: where one stands, mappings are
    /// of smaller pages, and what asks for larger ones is `Busy`. `pool` must never give memory of the tables that were found
    /// ([`foreign_tables`](Self::foreign_tables)). [`close`](Self::close) leaves every word of them as it was.
    ///
    /// The space cannot be [restored](Self::plan_restore). After a reset, what was in it is gone: give [`tables`](Self::tables)
    /// back to their pool, drop it, and adopt what firmware made then.
    ///
    /// ```
    /// # use gmmu::addr::{PhysAddr, TableAddr, VramAddr};
    /// # use gmmu::format::V3;
    /// # use gmmu::mmio::Mmio;
    /// # use gmmu::vmm::{Extent, MapRequest, PrepareError, SpaceConfig, Use, Vmm};
    /// # use gmmu::vram::{TablePages, Vram};
    /// # use gmmu_sim::{Config, Gpu};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100"))?)?;
    /// # let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(1 << 30)])?;
    /// # let mut pages = TablePages::for_vram(&vram)?;
    /// # let mut pool = pages.pool(&mut vram);
    /// # let config = SpaceConfig::new(card.chip(), card.vram_bytes(), Use::Bar);
    /// # let console = [Extent { to: PhysAddr::vram(8 << 30), bytes: 8 << 20 }];
    /// # let mut firmware = Vmm::<V3>::create(config, &mut card, &mut pool)?;
    /// # firmware.map_pages(&mut card, &mut pool, &MapRequest::extents(&console).at(0), &[])?;
    /// # let root = firmware.pdb();
    /// // Firmware shows its console in the first 8 MiB of BAR1.
    /// let mut space = Vmm::<V3>::adopt(config, &mut card, root, 100)?;
    /// assert_eq!(space.foreign().collect::<Vec<_>>(), [0..8 << 20]);
    ///
    /// let extents = [Extent { to: PhysAddr::vram(9 << 30), bytes: 64 << 10 }];
    /// let beside = MapRequest::extents(&extents).at(8 << 20);
    /// space.map_pages(&mut card, &mut pool, &beside, &[])?;
    /// let refused = space.prepare_unmap(&mut card, &mut pool, 0..16 << 20);
    /// assert_eq!(refused.err(), Some(PrepareError::Busy { with: 0..8 << 20 }));
    /// space.close(&mut card, &mut pool).map_err(|(_, why)| why)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AdoptError`]: as [`with_root`](Self::with_root), and where the root reads as nothing that is there, or there are more
    /// tables than `limit`.
    pub fn adopt<M: TableRead>(
        config: SpaceConfig,
        memory: &mut M,
        pdb: TableAddr,
        limit: usize,
    ) -> Result<Self, AdoptError> {
        let mut vmm = Self::over(config, pdb)?;
        let root = vmm.tree.root();
        if let Err(why @ DecodeError::NotThere { .. }) = F::decode_pde(level::<F>(0), memory.read_word(pdb)?) {
            return Err(AdoptError::NotThere { at: pdb, why });
        }
        let (whole, closed, config) = (vmm.va.limits(), vmm.nothing.closed, vmm.config);
        let (found, foreign) = (List::new(), List::new());
        let mut reader = Reader { memory, tree: &mut vmm.tree, closed, config, found, foreign, limit };
        reader.count(pdb, level::<F>(0).table_bytes(), whole)?;
        reader.tree.make_foreign(Child::Directory(root));
        reader.directory(0, root, 0)?;
        for range in reader.finish()?.iter() {
            vmm.va.exclude(range.clone())?;
        }
        Ok(vmm)
    }
}

/// Words that are read at once: those of a chunk's small pages.
const WORDS: usize = 16;

/// Reads tables into a mirror, once. Nothing that is read is trusted.
struct Reader<'a, F: Format, M> {
    memory: &'a mut M,
    tree: &'a mut Tree<F>,
    /// "No 4K pages".
    closed: u64,
    config: SpaceConfig,
    /// The tables that were come upon, and what each translates.
    found: List<Found>,
    /// The addresses of entries, more or less in order.
    foreign: List<Range<u64>>,
    limit: usize,
}

/// A table that was come upon.
#[derive(Debug)]
struct Found {
    at: TableAddr,
    bytes: u64,
    span: Range<u64>,
}

impl Found {
    /// Where it is. System memory is one memory, coherent or not.
    fn memory(&self) -> (bool, Range<u64>) {
        (self.at.is_vram(), self.at.raw()..self.at.raw().saturating_add(self.bytes))
    }
}

impl<F: Format, M: TableRead> Reader<'_, F, M> {
    /// Reads words that are side by side; says whether there are any.
    fn read(&mut self, table: TableAddr, first: u64, words: &mut [u64]) -> Result<bool, AdoptError> {
        let Some(at) = table.checked_add(first * 8) else { return Ok(false) };
        match self.memory.read_words(at, words) {
            Ok(()) => Ok(true),
            Err(why) if is_local(&why) => Ok(false),
            Err(why) => Err(why.into()),
        }
    }

    /// Notes addresses that are firmware's.
    fn keep(&mut self, range: Range<u64>) -> Result<(), NoMemory> {
        match self.foreign.last_mut().filter(|last| last.end == range.start) {
            Some(last) => {
                last.end = range.end;
                Ok(())
            }
            None => self.foreign.push(range),
        }
    }

    /// Notes a table, if there may be one more.
    fn count(&mut self, at: TableAddr, bytes: u64, span: Range<u64>) -> Result<(), AdoptError> {
        if self.found.len() >= self.limit {
            return Err(AdoptError::TooManyTables { limit: self.limit });
        }
        Ok(self.found.push(Found { at, bytes, span })?)
    }

    /// Reads a directory and all below it.
    fn directory(&mut self, n: u8, directory: u32, start: u64) -> Result<(), AdoptError> {
        let Some(at) = self.tree.directory(directory).map(|directory| directory.at) else { return Ok(()) };
        let level = level::<F>(n);
        let words = if level.entry_bytes == 16 { 2 } else { 1 };
        let mut va = start;
        for first in (0..level.table_bytes() / 8).step_by(WORDS) {
            let mut chunk = [0; WORDS];
            let there = self.read(at, first, &mut chunk)?;
            // Roots are shorter than what is read at once.
            let entries = usize::try_from(level.entries()).unwrap_or(WORDS);
            for entry in chunk.chunks_exact(words).take(entries) {
                let raw = match *entry {
                    [low, high] => [low, high],
                    [word] => [word, 0],
                    _ => [0; 2],
                };
                let links = if there { self.links(n, raw) } else { None };
                let place = Place { directory, slot: entry_slot::<F>(n, va) };
                self.follow(n, place, va..va + level.span(), links)?;
                va += level.span();
            }
        }
        Ok(())
    }

    /// Goes where an entry leads to, if it leads to tables and that is all.
    fn follow(
        &mut self,
        n: u8,
        place: Place,
        span: Range<u64>,
        links: Option<[Option<TableAddr>; 2]>,
    ) -> Result<(), AdoptError> {
        match links {
            Some([None, None]) => return Ok(()),
            Some(tables) if n == dual_level::<F>() => return self.leaf_tables(place, span, tables),
            Some([Some(below), _]) => {
                // Counted also where it lies above: what it translates there must not be changed either.
                self.count(below, DIRECTORY_BYTES, span.clone())?;
                if !self.is_above(place.directory, below) {
                    let number = self.tree.add_directory(below, 0, place)?;
                    self.tree.make_foreign(Child::Directory(number));
                    return self.directory(n + 1, number, span.start);
                }
            }
            _ => {}
        }
        self.tree.set(place, Child::Leaf);
        Ok(self.keep(span)?)
    }

    /// Whether a directory is `at`, or lies below one that is.
    fn is_above(&self, directory: u32, at: TableAddr) -> bool {
        let mut next = Some(directory);
        while let Some(number) = next {
            if self.tree.directory(number).is_some_and(|directory| directory.at == at) {
                return true;
            }
            next = self.tree.parent(number).map(|place| place.directory);
        }
        false
    }

    /// The tables that an entry leads to, of a dual one the 64K table first; `None` where it is, or may be, anything else.
    fn links(&self, n: u8, raw: [u64; 2]) -> Option<[Option<TableAddr>; 2]> {
        if raw == [0; 2] {
            return Some([None; 2]);
        }
        let table = |link: Link| {
            let at = link.to()?;
            // A BAR that reads its tables from the bus waits for itself.
            let reached = match at {
                TableAddr::Vram(at) => at.raw() < self.config.vram_bytes,
                TableAddr::SysCoherent(_) | TableAddr::SysNonCoherent(_) => self.config.used_by != Use::Bar,
            };
            reached.then_some(Some(at))
        };
        if n < dual_level::<F>() {
            return match F::decode_pde(level::<F>(n), raw[0]) {
                Ok(Pde::Link(link)) => Some([table(link)?, None]),
                _ => None,
            };
        }
        let Ok(Dual::Links { big, small }) = F::decode_dual(raw) else { return None };
        let half = |word, link| if word == 0 { Some(None) } else { table(link) };
        Some([half(raw[0], big)?, half(raw[1], small)?])
    }

    /// Reads the leaf tables under one dual entry, chunk by chunk.
    fn leaf_tables(
        &mut self,
        place: Place,
        span: Range<u64>,
        [big, small]: [Option<TableAddr>; 2],
    ) -> Result<(), AdoptError> {
        for (half, at) in [(Half::Big, big), (Half::Small, small)] {
            if let Some(at) = at {
                self.count(at, half.level().table_bytes(), span.clone())?;
            }
        }
        let mut chunks = [0; 1 << BIG_TABLE.bits];
        let there = match big {
            Some(at) => self.read(at, 0, &mut chunks)?,
            None => true,
        };
        let (mut open, mut closed) = (0, 0);
        for (chunk, word) in (0..).zip(chunks) {
            let start = span.start + (chunk << BIG_TABLE.shift);
            if !there || (word != 0 && word != self.closed) {
                self.keep(start..start + BIG_TABLE.span())?;
                continue;
            }
            let mut pages = [0; WORDS];
            let readable = match small {
                Some(at) => self.read(at, chunk * WORDS as u64, &mut pages)?,
                None => true,
            };
            let empty = readable && pages == [0; WORDS];
            match (word == 0, empty) {
                (true, true) => {}
                (false, true) => closed |= 1 << chunk,
                (true, false) => {
                    open |= 1 << chunk;
                    self.pages(start, pages.map(|word| word != 0 || !readable))?;
                }
                // Nobody sees those pages, and so it has to stay.
                (false, false) => self.keep(start..start + BIG_TABLE.span())?,
            }
        }
        for (half, at, found) in [(Half::Big, big, closed), (Half::Small, small, open)] {
            let Some(at) = at else { continue };
            let slot = place.slot + u16::from(half == Half::Small);
            let opened = if half == Half::Small { open } else { 0 };
            let number = self.tree.add_table(at, Place { slot, ..place }, opened, 0)?;
            self.tree.make_foreign(Child::Table(number));
            if let Some(table) = self.tree.table_mut(number) {
                table.found = found;
            }
        }
        Ok(())
    }

    /// Notes the pages of a chunk that are firmware's.
    fn pages(&mut self, start: u64, foreign: [bool; WORDS]) -> Result<(), NoMemory> {
        for (page, _) in (0..).zip(foreign).filter(|(_, foreign)| *foreign) {
            let va = start + (page << SMALL_TABLE.shift);
            self.keep(va..va + SMALL_TABLE.span())?;
        }
        Ok(())
    }

    /// All foreign addresses, in order: those of entries, and of tables that share memory.
    fn finish(mut self) -> Result<List<Range<u64>>, NoMemory> {
        self.found.sort_unstable_by_key(|table| {
            let (vram, memory) = table.memory();
            (vram, memory.start)
        });
        // The one of those so far that reaches furthest.
        let mut far: Option<&Found> = None;
        for table in self.found.iter() {
            let (vram, memory) = table.memory();
            let shares = far.filter(|far| far.memory().0 == vram && far.memory().1.end > memory.start);
            if let Some(other) = shares {
                self.foreign.push(other.span.clone())?;
                self.foreign.push(table.span.clone())?;
            }
            if shares.is_none_or(|other| other.memory().1.end < memory.end) {
                far = Some(table);
            }
        }
        self.foreign.sort_unstable_by_key(|range| range.start);
        Ok(self.foreign)
    }
}
