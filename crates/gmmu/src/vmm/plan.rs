//! Planning a mapping: from pieces to tables and runs of words, one table at a time and never one page at a time.
//!
//! The planner changes the mirror as it goes. Where it fails, [`undo`](super::undo) takes back what it did; cancelling
//! a job is the same thing later.

use super::execute::{Source, Write};
use super::job::{push_write, OwnedRound};
use super::request::{Piece, Pieces, PrepareError};
use crate::addr::{PageSize, PhysAddr, TableAddr};
use crate::device::{Acknowledge, Depth, DeviceError, Invalidate, Run, Scope, TablePool};
use crate::format::{Format, Leaf, Link, Pte, Slot, BIG_TABLE, DUAL_SHIFT, SMALL_TABLE};
use crate::storage::List;
use crate::tree::{dual_level, entry_slot, half_slot, level, Child, Half, Place, Tree, DIRECTORY_BYTES};
use crate::va::VaSpace;
use core::ops::Range;

/// Bytes under one dual entry: the unit in which jobs wait for each other.
pub(super) const DOMAIN_BYTES: u64 = 1 << DUAL_SHIFT;

/// A table, with all below it, that a job took out of the mirror. It is freed when the job is committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dropped {
    pub(super) place: Place,
    pub(super) half: Half,
    pub(super) child: Child,
}

/// What a job takes along apart from its writes.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// Domains whose structure the job changes.
    pub(super) owned: List<Range<u64>>,
    pub(super) dropped: List<Dropped>,
    /// Directories that the job links: their numbers, and which job made them.
    pub(super) linked: List<(u32, u64)>,
    /// Tables that are linked for one round only.
    pub(super) spare: List<TableAddr>,
}

impl Holdings {
    /// Notes that the job owns the domains of `range`.
    pub(super) fn own(&mut self, range: Range<u64>) -> Result<(), PrepareError> {
        let start = range.start & !(DOMAIN_BYTES - 1);
        let end = range.end.checked_next_multiple_of(DOMAIN_BYTES).unwrap_or(u64::MAX);
        if let Some(last) = self.owned.last_mut().filter(|last| last.end >= start && last.start <= start) {
            last.end = last.end.max(end);
            return Ok(());
        }
        Ok(self.owned.push(start..end)?)
    }
}

/// The words of a mapping: encoded once, and stepped from page to page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    /// Entry of a page at the start of video memory.
    pub(super) base: Leaf,
    /// Address of the mapping, from which frames are counted where they come late.
    pub(super) start: u64,
}

/// A leaf table of the domain at hand.
#[derive(Clone, Copy, Debug)]
struct OpenTable {
    number: u32,
    at: TableAddr,
    /// Made by this job; entries before `filled` are accounted for.
    new: bool,
    filled: u64,
}

/// The 2 MiB at hand.
#[derive(Clone, Copy, Debug)]
struct Domain {
    start: u64,
    directory: u32,
    tables: [Option<OpenTable>; 2],
    /// 64K slots below this address have been opened for small pages.
    opened_until: u64,
}

/// The plan of one mapping in the making.
pub(super) struct Planner<'a, F: Format, P> {
    pub(super) tree: &'a mut Tree<F>,
    pub(super) va: &'a VaSpace<Piece>,
    pub(super) pool: &'a mut P,
    pub(super) job: u64,
    pub(super) tables_first: bool,
    near: Option<TableAddr>,
    pub(super) init: List<Write>,
    pub(super) clear: OwnedRound,
    pub(super) main: OwnedRound,
    pub(super) held: Holdings,
    /// Addresses below are counted in the mirror.
    pub(super) done: u64,
    domain: Option<Domain>,
}

impl<'a, F: Format, P: TablePool> Planner<'a, F, P> {
    pub(super) fn new(
        tree: &'a mut Tree<F>,
        va: &'a VaSpace<Piece>,
        pool: &'a mut P,
        job: u64,
        pdb: TableAddr,
        scope: Scope,
        tables_first: bool,
    ) -> Self {
        let what = |ack| Invalidate { pdb, depth: Depth::PteOnly, scope, ack };
        let near = tree.directory(tree.root()).map(|root| root.at);
        Self {
            tree,
            va,
            pool,
            job,
            tables_first,
            near,
            init: List::new(),
            clear: OwnedRound::new(what(Acknowledge::Globally)),
            main: OwnedRound::new(what(Acknowledge::None)),
            held: Holdings::default(),
            done: 0,
            domain: None,
        }
    }

    /// Plans all pieces of a mapping that lies in `range`.
    pub(super) fn map(&mut self, pieces: &Pieces<'_>, range: Range<u64>, words: Words) -> Result<(), PrepareError> {
        self.done = range.start;
        // All directories first: they lie together then, in front of the leaf tables.
        for (va, bytes, page, _) in pieces.clone() {
            self.ensure_directories(leaf_level::<F>(page), va..va + bytes)?;
        }
        for (va, bytes, page, to) in pieces.clone() {
            match page {
                PageSize::Size4K => self.leaves(Half::Small, va..va + bytes, to, words)?,
                PageSize::Size64K => self.leaves(Half::Big, va..va + bytes, to, words)?,
                _ => self.large(page, va..va + bytes, to, words)?,
            }
        }
        self.close_domain()?;
        self.link_directories(range)
    }

    fn take(&mut self, bytes: u64) -> Result<TableAddr, PrepareError> {
        let at = self.pool.take(bytes, self.near)?;
        if self.main.flush.what.scope == Scope::HubOnly && !at.is_vram() {
            // A BAR access that has to read its tables from the bus would wait for itself.
            self.pool.give(at, bytes);
            return Err(DeviceError::WrongAperture { at }.into());
        }
        self.near = Some(at);
        Ok(at)
    }

    /// Gives back a table that could not be entered into the mirror.
    fn keep<T>(
        &mut self,
        at: TableAddr,
        bytes: u64,
        result: Result<T, crate::storage::NoMemory>,
    ) -> Result<T, PrepareError> {
        if result.is_err() {
            self.pool.give(at, bytes);
        }
        Ok(result?)
    }

    /// Makes the directories down to level `lowest` over `range`, empty.
    fn ensure_directories(&mut self, lowest: u8, range: Range<u64>) -> Result<(), PrepareError> {
        let mut va = range.start;
        while va < range.end {
            let mut directory = self.tree.root();
            for n in 0..lowest {
                let place = Place { directory, slot: entry_slot::<F>(n, va) };
                directory = match self.tree.child(place) {
                    Child::Directory(next) => next,
                    Child::Empty => self.add_directory(place)?,
                    Child::Leaf | Child::Table(_) => return Err(PrepareError::Busy { with: range }),
                };
            }
            va = next_table::<F>(lowest, va);
        }
        Ok(())
    }

    fn add_directory(&mut self, place: Place) -> Result<u32, PrepareError> {
        let at = self.take(DIRECTORY_BYTES)?;
        let added = self.tree.add_directory(at, self.job, place);
        let number = self.keep(at, DIRECTORY_BYTES, added)?;
        self.initialise(at, 0, 512, 0)?;
        Ok(number)
    }

    /// Notes `count` equal words for a table that nobody can reach yet.
    fn initialise(&mut self, table: TableAddr, first: u64, count: u64, word: u64) -> Result<(), PrepareError> {
        let run = Run { first: word, step: 0, count: small(count) };
        let write = Write { at: entry_at(table, first), run, stride: 8, source: Source::Words };
        Ok(push_write(&mut self.init, write)?)
    }

    /// Plans small or big pages.
    fn leaves(
        &mut self,
        half: Half,
        range: Range<u64>,
        to: Option<PhysAddr>,
        words: Words,
    ) -> Result<(), PrepareError> {
        let level = half.level();
        let mut va = range.start;
        while va < range.end {
            let end = range.end.min(domain_of(va) + DOMAIN_BYTES);
            self.open_domain(va)?;
            let table = self.open_table(half)?;
            let (first, count) = (level.index(va), (end - va) >> level.shift);
            if table.new {
                self.fill(half, table.filled..first)?;
                self.set_filled(half, first + count);
            }
            let write =
                self.leaf_write(entry_at(table.at, first), 8, va, count, level.shift, range.start, to, words)?;
            push_write(&mut self.main.leaves, write)?;
            if half == Half::Small {
                self.open_small(va..end, words.start)?;
            }
            if let Some(table) = self.tree.table_mut(table.number) {
                table.used += u16::try_from(count).unwrap_or(0);
            }
            self.done = end;
            va = end;
        }
        Ok(())
    }

    /// The write of `count` pages from `va` on, of a piece that starts at `piece` and in memory at `to`.
    #[expect(clippy::too_many_arguments, reason = "the parts of one write")]
    fn leaf_write(
        &self,
        at: TableAddr,
        stride: u8,
        va: u64,
        count: u64,
        shift: u32,
        piece: u64,
        to: Option<PhysAddr>,
        words: Words,
    ) -> Result<Write, PrepareError> {
        let Some(to) = to else {
            let run = Run { first: (va - words.start) >> shift, step: 1, count: small(count) };
            return Ok(Write { at, run, stride, source: Source::Frames });
        };
        let first = to.checked_add(va - piece).ok_or(PrepareError::Overflow)?;
        let word = |to| F::encode_pte(&Pte::Leaf(Leaf { to, ..words.base }));
        // The last page too must be within the format, or the steps would run out of the address field.
        word(first.checked_add((count - 1) << shift).ok_or(PrepareError::Overflow)?)?;
        let run = Run { first: word(first)?, step: F::leaf_step(1 << shift), count: small(count) };
        Ok(Write { at, run, stride, source: Source::Words })
    }

    fn open_domain(&mut self, va: u64) -> Result<(), PrepareError> {
        let start = domain_of(va);
        if self.domain.is_some_and(|domain| domain.start == start) {
            return Ok(());
        }
        self.close_domain()?;
        // The directory was made before.
        let directory = self.tree.find(dual_level::<F>(), va).ok_or(PrepareError::Overflow)?;
        self.domain = Some(Domain { start, directory, tables: [None; 2], opened_until: start });
        Ok(())
    }

    /// The leaf table of the domain at hand, made where there is none.
    fn open_table(&mut self, half: Half) -> Result<OpenTable, PrepareError> {
        let Some(domain) = self.domain else { return Err(PrepareError::Empty) };
        if let Some(table) = domain.tables[half as usize] {
            return Ok(table);
        }
        let place = Place { directory: domain.directory, slot: half_slot::<F>(half, domain.start) };
        let table = match self.tree.child(place) {
            Child::Table(number) => {
                let at = self.tree.table(number).map_or(TableAddr::vram(0), |table| table.at);
                OpenTable { number, at, new: false, filled: 0 }
            }
            _ => self.add_table(half, place, domain.start)?,
        };
        if let Some(domain) = &mut self.domain {
            domain.tables[half as usize] = Some(table);
        }
        Ok(table)
    }

    fn add_table(&mut self, half: Half, place: Place, domain: u64) -> Result<OpenTable, PrepareError> {
        let bytes = half.level().table_bytes();
        let at = self.take(bytes)?;
        let added = self.tree.add_table(at, self.job, place);
        let number = self.keep(at, bytes, added)?;
        self.held.own(domain..domain + DOMAIN_BYTES)?;
        let slot = if half == Half::Big { Slot::Big } else { Slot::Small };
        let word = F::encode_link(slot, &Link::table(at))?;
        self.link(place, word, Depth::UpToPde0)?;
        Ok(OpenTable { number, at, new: true, filled: 0 })
    }

    fn set_filled(&mut self, half: Half, filled: u64) {
        if let Some(table) = self.domain.as_mut().and_then(|domain| domain.tables[half as usize].as_mut()) {
            table.filled = filled;
        }
    }

    /// Initialises the entries of a new table that the job does not map, to what they meant before.
    fn fill(&mut self, half: Half, entries: Range<u64>) -> Result<(), PrepareError> {
        let Some(domain) = self.domain else { return Ok(()) };
        let Some(table) = domain.tables[half as usize] else { return Ok(()) };
        if entries.is_empty() {
            return Ok(());
        }
        if half == Half::Small {
            return self.initialise(table.at, entries.start, entries.end - entries.start, 0);
        }
        let closed = F::encode_pte(&Pte::NoValid4K)?;
        for entry in entries {
            let start = domain.start + (entry << BIG_TABLE.shift);
            let open = has_small_pages(self.va, start..start + BIG_TABLE.span(), None);
            self.initialise(table.at, entry, 1, if open { 0 } else { closed })?;
        }
        Ok(())
    }

    /// Lets the hardware look at small pages where a 64K table says that there are none.
    fn open_small(&mut self, range: Range<u64>, mapping: u64) -> Result<(), PrepareError> {
        let Some(domain) = self.domain else { return Ok(()) };
        let big = Place { directory: domain.directory, slot: half_slot::<F>(Half::Big, domain.start) };
        let Child::Table(number) = self.tree.child(big) else { return Ok(()) };
        let Some((at, made_by)) = self.tree.table(number).map(|table| (table.at, table.made_by)) else { return Ok(()) };
        if made_by == self.job {
            // Its entries are initialised to the right words when the domain is closed.
            return Ok(());
        }
        let mut start = (range.start & !(BIG_TABLE.span() - 1)).max(domain.opened_until);
        while start < range.end {
            let chunk = start..start + BIG_TABLE.span();
            if !has_small_pages(self.va, chunk.clone(), Some(mapping)) {
                self.held.own(chunk.clone())?;
                let run = Run { first: 0, step: 0, count: 1 };
                let at = entry_at(at, BIG_TABLE.index(start));
                push_write(&mut self.main.links, Write { at, run, stride: 8, source: Source::Words })?;
            }
            start = chunk.end;
        }
        if let Some(domain) = &mut self.domain {
            domain.opened_until = start.max(domain.opened_until);
        }
        Ok(())
    }

    fn close_domain(&mut self) -> Result<(), PrepareError> {
        for half in Half::BOTH {
            let table = self.domain.and_then(|domain| domain.tables[half as usize]);
            if let Some(table) = table.filter(|table| table.new) {
                self.fill(half, table.filled..half.level().entries())?;
            }
        }
        self.domain = None;
        Ok(())
    }

    /// Plans pages that are leaves of a directory.
    fn large(
        &mut self,
        page: PageSize,
        range: Range<u64>,
        to: Option<PhysAddr>,
        words: Words,
    ) -> Result<(), PrepareError> {
        self.close_domain()?;
        self.held.own(range.clone())?;
        let n = leaf_level::<F>(page);
        let level = level::<F>(n);
        let dual = level.entry_bytes == 16;
        let before = if self.tables_first && page == PageSize::Size512M {
            // The leaf takes those tables out again, and they are freed.
            self.main.flush.what.ack = Acknowledge::Globally;
            Some(self.invalid_tables()?)
        } else {
            None
        };
        let mut va = range.start;
        while va < range.end {
            let end = range.end.min(next_table::<F>(n, va));
            let directory = self.tree.find(n, va).ok_or(PrepareError::Overflow)?;
            let first = Place { directory, slot: entry_slot::<F>(n, va) };
            let at = self.tree.word_at(first).ok_or(PrepareError::Overflow)?;
            let count = (end - va) >> level.shift;
            for entry in 0..count {
                self.occupy(n, va + (entry << level.shift), directory, before)?;
            }
            if dual {
                // The image is written whole, and the half that makes it a leaf last.
                let high = Run { first: 0, step: 0, count: small(count) };
                let at = at.with_raw(at.raw() + 8);
                push_write(&mut self.main.leaves, Write { at, run: high, stride: 16, source: Source::Words })?;
            }
            let stride = if dual { 16 } else { 8 };
            let write = self.leaf_write(at, stride, va, count, level.shift, range.start, to, words)?;
            push_write(&mut self.main.leaves, write)?;
            self.main.deepen(level.depth);
            self.done = end;
            va = end;
        }
        Ok(())
    }

    /// Takes one directory entry for a large leaf. A table that hangs there, empty, is dropped in a round before; on
    /// chips that need it, a table of invalid entries is linked there instead.
    fn occupy(&mut self, n: u8, va: u64, directory: u32, before: Option<TableAddr>) -> Result<(), PrepareError> {
        let level = level::<F>(n);
        let first = entry_slot::<F>(n, va);
        let mut dropped = false;
        let halves: &[Half] = if level.entry_bytes == 16 { &Half::BOTH } else { &[Half::Big] };
        for (slot, &half) in (first..).zip(halves) {
            let place = Place { directory, slot };
            let child = self.tree.child(place);
            if !self.tree.is_empty_below(child) {
                return Err(PrepareError::Busy { with: va..va + level.span() });
            }
            if child != Child::Empty {
                self.held.dropped.reserve(1)?;
                self.tree.set(place, Child::Empty);
                let _ = self.held.dropped.push_within(Dropped { place, half, child });
                dropped = true;
            }
        }
        let place = Place { directory, slot: first };
        self.tree.set(place, Child::Leaf);
        let Some(at) = self.tree.word_at(place) else { return Ok(()) };
        let word = match before {
            Some(table) => F::encode_link(Slot::Pde, &Link::table(table))?,
            None if dropped => 0,
            None => return Ok(()),
        };
        let run = Run { first: word, step: 0, count: small(level.entry_bytes / 8) };
        push_write(&mut self.clear.links, Write { at, run, stride: 8, source: Source::Words })?;
        self.clear.deepen(level.depth);
        Ok(())
    }

    /// A directory whose every entry leads to one table of invalid entries (section 3 rule 9; NVIDIA bug 2720120).
    fn invalid_tables(&mut self) -> Result<TableAddr, PrepareError> {
        self.held.spare.reserve(2)?;
        let table = self.take(DIRECTORY_BYTES)?;
        let _ = self.held.spare.push_within(table);
        let directory = self.take(DIRECTORY_BYTES)?;
        let _ = self.held.spare.push_within(directory);
        self.initialise(table, 0, SMALL_TABLE.entries(), 0)?;
        let small_half = F::encode_link(Slot::Small, &Link::table(table))?;
        for (offset, first) in [(0, 0), (8, small_half)] {
            let at = directory.with_raw(directory.raw() + offset);
            let write = Write { at, run: Run { first, step: 0, count: 256 }, stride: 16, source: Source::Words };
            push_write(&mut self.init, write)?;
        }
        Ok(directory)
    }

    /// Links every directory over `range` that no acknowledged job has linked, from the bottom up.
    fn link_directories(&mut self, range: Range<u64>) -> Result<(), PrepareError> {
        for n in (1..=dual_level::<F>()).rev() {
            let mut va = range.start;
            while va < range.end {
                if let Some(number) = self.tree.find(n, va) {
                    let unlinked = self.tree.directory(number).filter(|directory| !directory.linked);
                    let unlinked = unlinked.map(|directory| (directory.at, directory.made_by));
                    if let (Some((at, made_by)), Some(place)) = (unlinked, self.tree.parent(number)) {
                        self.held.linked.push((number, made_by))?;
                        let word = F::encode_link(Slot::Pde, &Link::table(at))?;
                        self.link(place, word, level::<F>(n - 1).depth)?;
                    }
                }
                va = next_table::<F>(n, va);
            }
        }
        Ok(())
    }

    fn link(&mut self, place: Place, word: u64, depth: Depth) -> Result<(), PrepareError> {
        let at = self.tree.word_at(place).ok_or(PrepareError::Overflow)?;
        let run = Run { first: word, step: 0, count: 1 };
        push_write(&mut self.main.links, Write { at, run, stride: 8, source: Source::Words })?;
        self.main.deepen(depth);
        Ok(())
    }
}

/// Whether 4K pages live in `range`, those of the mapping at `but` aside.
pub(super) fn has_small_pages(va: &VaSpace<Piece>, range: Range<u64>, but: Option<u64>) -> bool {
    va.overlapping(range).any(|(_, piece)| piece.page == PageSize::Size4K && Some(piece.mapping) != but)
}

/// The start of the domain that holds `va`.
pub(super) const fn domain_of(va: u64) -> u64 {
    va & !(DOMAIN_BYTES - 1)
}

/// The directory level whose entries lead to, or are, leaves of this size.
pub(super) fn leaf_level<F: Format>(page: PageSize) -> u8 {
    let dual = dual_level::<F>();
    (0..=dual).find(|&n| level::<F>(n).leaf == Some(page)).unwrap_or(dual)
}

/// The first address behind the table of level `n` that translates `va`.
pub(super) fn next_table<F: Format>(n: u8, va: u64) -> u64 {
    let level = level::<F>(n);
    let bytes = level.span() << level.bits;
    (va & !(bytes - 1)).saturating_add(bytes)
}

/// Where entry `index` of a table of 8-byte entries is. Tables are 4 KiB at most and lie in memory that exists.
pub(super) const fn entry_at(table: TableAddr, index: u64) -> TableAddr {
    table.with_raw(table.raw().wrapping_add(index.wrapping_mul(8)))
}

/// A number of entries of one table.
pub(super) fn small(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
