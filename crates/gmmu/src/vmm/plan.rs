//! Planning a change of the tables: from the root down to what the change touches, one table at a time and never one page
//! at a time.
//!
//! The planner changes the mirror as it goes and notes each step in a [`Journal`], so that a plan that fails, and a job
//! that is cancelled, can be taken back. What happens under one dual entry is [`domain`](super::domain)'s to know, what
//! happens to entries of directories [`large`](super::large)'s.

use super::change::{Change, Target};
use super::execute::{Evictable, Flush, Source, Write};
use super::journal::Journal;
use super::piece::{Backed, Piece};
use super::request::{Live, PrepareError};
use super::rounds::{push_write, OwnedRound};
use crate::addr::{PageSize, TableAddr};
use crate::device::{Acknowledge, Depth, DeviceError, Invalidate, Run, Scope, TablePool};
use crate::format::{EncodeError, Format, Link, Pte, Slot, DUAL_SHIFT};
use crate::storage::{List, NoMemory};
use crate::tree::{dual_level, entry_slot, level, Child, Place, Tree, DIRECTORY_BYTES};
use crate::va::windows::{Cover, Windows};
use crate::va::VaSpace;
use core::ops::Range;

/// Bytes under one dual entry: the unit in which jobs wait for each other.
pub(super) const DOMAIN_BYTES: u64 = 1 << DUAL_SHIFT;

/// A directory that a job links, unless an acknowledged job has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Linked {
    pub(super) level: u8,
    pub(super) number: u32,
    /// Numbers of directories are reused, those of the jobs that made them are not.
    pub(super) made_by: u64,
}

/// What a job takes along apart from its writes.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// Domains whose structure the job changes.
    pub(super) owned: List<Range<u64>>,
    /// What it did to the mirror.
    pub(super) journal: Journal,
    /// Directories that it needs and that were not linked; it links those that it made, and all where it adds something.
    pub(super) linked: List<Linked>,
    pub(super) adds: bool,
    /// Tables that are linked for one round only.
    pub(super) spare: List<TableAddr>,
}

impl Holdings {
    /// Forgets everything; the room of the lists stays.
    pub(super) fn clear(&mut self) {
        self.owned.clear();
        self.journal.clear();
        self.linked.clear();
        self.spare.clear();
    }

    /// Bytes of heap that its lists hold, but for those that are short.
    pub(super) fn footprint(&self) -> usize {
        self.owned.footprint() + self.journal.footprint() + self.linked.footprint()
    }

    /// Notes that the job owns the domains of `range`.
    pub(super) fn own(&mut self, range: Range<u64>) -> Result<(), NoMemory> {
        let start = range.start & !(DOMAIN_BYTES - 1);
        let end = range.end.checked_next_multiple_of(DOMAIN_BYTES).unwrap_or(u64::MAX);
        if let Some(last) = self.owned.last_mut().filter(|last| last.end >= start && last.start <= start) {
            last.end = last.end.max(end);
            return Ok(());
        }
        self.owned.push(start..end)
    }
}

/// Entries that map nothing, encoded once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nothing {
    /// The entry of a 64K slot below which no 4K page lives.
    pub(super) closed: u64,
    /// A sparse entry of a leaf table.
    pub(super) sparse: u64,
    /// A sparse entry of a directory; the low word of a dual one.
    pub(super) sparse_entry: u64,
}

impl Nothing {
    /// The entry of a page of this size that is not there. Below a 64K one, no 4K pages are either.
    pub(super) fn of(&self, page: PageSize) -> u64 {
        if page == PageSize::Size64K {
            self.closed
        } else {
            0
        }
    }

    pub(super) fn new<F: Format>() -> Result<Self, EncodeError> {
        Ok(Self {
            closed: F::encode_pte(&Pte::NoValid4K)?,
            sparse: F::encode_pte(&Pte::Sparse)?,
            sparse_entry: F::encode_link(Slot::Big, &Link::SPARSE)?,
        })
    }
}

/// What a planner knows of the space beside the mirror.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) va: &'a VaSpace<Piece>,
    /// What reads as 0 where nothing is mapped: after the change, and before it.
    pub(super) sparse: &'a Windows,
    pub(super) sparse_before: &'a Windows,
    pub(super) change: &'a Change,
    pub(super) nothing: Nothing,
    /// The job's number.
    pub(super) job: u64,
    pub(super) pdb: TableAddr,
    pub(super) scope: Scope,
    /// Whether 512M leaves need tables of invalid entries first.
    pub(super) tables_first: bool,
    /// Whether an entry is written in one store.
    pub(super) whole_words: bool,
    #[cfg(feature = "sabotage")]
    pub(super) mistakes: super::Mistakes,
}

/// The plan of one change in the making.
pub(super) struct Planner<'a, F: Format, P> {
    pub(super) tree: &'a mut Tree<F>,
    pub(super) pool: &'a mut P,
    pub(super) set: Setting<'a>,
    near: Option<TableAddr>,
    pub(super) init: &'a mut List<Write>,
    pub(super) clear: &'a mut OwnedRound,
    pub(super) main: &'a mut OwnedRound,
    pub(super) held: &'a mut Holdings,
    /// Whether pages only go, and nothing is sparse: then whole tables and runs of leaves go at once.
    pub(super) only_takes: bool,
    /// Whether pages only come, and nothing is sparse: then whole tables are filled at once.
    pub(super) only_adds: bool,
    /// How far the change's lists are done.
    pub(super) old_at: usize,
    background_at: usize,
    new_at: usize,
}

impl<'a, F: Format, P: TablePool> Planner<'a, F, P> {
    /// A planner with nothing planned; its lists, empty ones, come from earlier jobs.
    #[inline]
    pub(super) fn new(
        tree: &'a mut Tree<F>,
        pool: &'a mut P,
        set: Setting<'a>,
        [clear, main]: &'a mut [OwnedRound; 2],
        init: &'a mut List<Write>,
        held: &'a mut Holdings,
    ) -> Self {
        let what = |ack| Invalidate { pdb: set.pdb, depth: Depth::PteOnly, scope: set.scope, ack };
        let near = tree.directory(tree.root()).map(|root| root.at);
        clear.flush = Flush::new(what(Acknowledge::Globally));
        // What is only added need not be waited for.
        main.flush = Flush::new(what(if set.change.removes { Acknowledge::Globally } else { Acknowledge::None }));
        held.adds = set.change.adds;
        let plain = set.sparse.is_empty() && set.change.background.is_empty();
        #[cfg(feature = "sabotage")]
        let set = if set.mistakes.leaves_small_entries {
            Setting { nothing: Nothing { closed: 0, ..set.nothing }, ..set }
        } else {
            set
        };
        let only_takes = plain && set.change.new.is_empty();
        let only_adds = plain && set.change.old.is_empty();
        Self {
            tree,
            pool,
            set,
            near,
            init,
            clear,
            main,
            held,
            only_takes,
            only_adds,
            old_at: 0,
            background_at: 0,
            new_at: 0,
        }
    }

    /// Plans the whole change.
    pub(super) fn plan(&mut self) -> Result<(), PrepareError> {
        let change = self.set.change;
        if change.reclaims {
            return self.reclaim(0, self.tree.root(), 0);
        }
        if !self.set.whole_words && !change.old.is_empty() {
            self.clear_torn()?;
        }
        let (n, number) = self.descend()?;
        // All directories first: they lie together then, in front of the leaf tables.
        let mut there = (0, 0);
        for target in change.new.iter().filter(|target| !target.kept) {
            there = self.ensure_directories(n, number, target, there)?;
        }
        self.directory(n, number, change.range.clone())?;
        self.link_directories()
    }

    /// The lowest directory that is there and has all of the change in one entry or more.
    fn descend(&mut self) -> Result<(u8, u32), PrepareError> {
        let Range { start, end } = self.set.change.range;
        let mut number = self.tree.root();
        for n in 0..dual_level::<F>() {
            let level = level::<F>(n);
            if (start ^ (end - 1)) >> level.shift != 0 || end - start >= level.span() {
                return Ok((n, number));
            }
            match self.tree.child(Place { directory: number, slot: entry_slot::<F>(n, start) }) {
                Child::Directory(below) => number = below,
                Child::Empty | Child::Leaf | Child::Sparse | Child::Table(_) => return Ok((n, number)),
            }
            self.visit(n + 1, number)?;
        }
        Ok((dual_level::<F>(), number))
    }

    /// Makes the directories that pages need, empty. Those of a level are `there` up to an address, and up to where they are
    /// afterwards is returned.
    fn ensure_directories(
        &mut self,
        top: u8,
        directory: u32,
        target: &Target,
        there: (u8, u64),
    ) -> Result<(u8, u64), PrepareError> {
        let lowest = leaf_level::<F>(target.piece.page);
        let mut va = target.range.start;
        if lowest == there.0 {
            va = va.max(there.1);
        }
        while va < target.range.end && top < lowest {
            let mut number = directory;
            for n in top..lowest {
                let place = Place { directory: number, slot: entry_slot::<F>(n, va) };
                number = match self.tree.child(place) {
                    Child::Directory(next) => next,
                    Child::Empty => self.add_directory(n + 1, place, Child::Empty)?,
                    // What stands there is cut when its turn comes.
                    Child::Leaf | Child::Sparse | Child::Table(_) => break,
                };
                self.visit(n + 1, number)?;
            }
            va = next_table::<F>(lowest, va);
        }
        Ok((lowest, va))
    }

    /// Plans all that the change does below one directory.
    fn directory(&mut self, n: u8, number: u32, range: Range<u64>) -> Result<(), PrepareError> {
        let span = level::<F>(n).span();
        let mut va = self.next_touched(range.start);
        while va < range.end {
            let start = va & !(span - 1);
            let end = start.saturating_add(span);
            if let Some(target) = self.target_at(va).filter(|target| target.piece.page.bytes() == span) {
                let stretch = va..target.range.end.min(range.end);
                if !target.kept {
                    self.leaves(n, number, stretch.clone(), target)?;
                }
                va = self.next_touched(stretch.end);
                continue;
            }
            if n == dual_level::<F>() && (self.only_adds || self.only_takes) && self.small_pages(number, start)? {
                va = self.next_touched(end);
                continue;
            }
            if self.only_adds && n == dual_level::<F>() {
                if let Some(target) = self.target_at(va).filter(|target| target.piece.page <= PageSize::Size64K) {
                    let filled = self.fill_tables(number, va..target.range.end.min(range.end), target)?;
                    if filled > va {
                        va = self.next_touched(filled);
                        continue;
                    }
                }
            }
            if self.only_takes {
                let gone = self.take_out(n, number, va..range.end)?;
                if gone > va {
                    va = self.next_touched(gone);
                    continue;
                }
            }
            let place = Place { directory: number, slot: entry_slot::<F>(n, va) };
            if n == dual_level::<F>() {
                if !self.settle_dual(n, place, start)? {
                    self.domain(number, start)?;
                }
            } else if !self.settle(n, place, start)? {
                let below = match self.tree.child(place) {
                    Child::Directory(below) => below,
                    Child::Empty => self.add_directory(n + 1, place, Child::Empty)?,
                    Child::Leaf | Child::Sparse | Child::Table(_) => self.cut(n, place, start)?,
                };
                self.visit(n + 1, below)?;
                self.directory(n + 1, below, va..end.min(range.end))?;
            }
            va = self.next_touched(end);
        }
        Ok(())
    }

    /// The first address from `va` on that the change touches.
    fn next_touched(&mut self, va: u64) -> u64 {
        let change = self.set.change;
        while change.old.get(self.old_at).is_some_and(|(range, _)| range.end <= va) {
            self.old_at += 1;
        }
        while change.new.get(self.new_at).is_some_and(|target| target.range.end <= va) {
            self.new_at += 1;
        }
        while change.background.get(self.background_at).is_some_and(|range| range.end <= va) {
            self.background_at += 1;
        }
        let sparse = change.background.get(self.background_at).map_or(u64::MAX, |range| range.start);
        let old = change.old.get(self.old_at).map_or(u64::MAX, |(range, _)| range.start);
        let new = change.new.get(self.new_at).map_or(u64::MAX, |target| target.range.start);
        va.max(old.min(new).min(sparse))
    }

    /// What is to be mapped at `va`.
    fn target_at(&self, va: u64) -> Option<&'a Target> {
        self.set.change.new.get(self.new_at).filter(|target| target.range.start <= va)
    }

    /// What was mapped in `range`, clipped to it.
    pub(super) fn old_in(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, &'a Piece)> {
        let rest = self.set.change.old.get(self.old_at..).unwrap_or_default().iter();
        let Range { start, end } = range;
        rest.skip_while(move |(old, _)| old.end <= start)
            .take_while(move |(old, _)| old.start < end)
            .map(move |(old, piece)| (old.start.max(start)..old.end.min(end), piece))
    }

    /// What is to be mapped in `range`, clipped to it.
    pub(super) fn new_in(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, &'a Target)> {
        let rest = self.set.change.new.get(self.new_at..).unwrap_or_default().iter();
        let Range { start, end } = range;
        rest.skip_while(move |target| target.range.end <= start)
            .take_while(move |target| target.range.start < end)
            .map(move |target| (target.range.start.max(start)..target.range.end.min(end), target))
    }

    /// How much of `range` reads as 0 after the change, pages aside.
    pub(super) fn background(&self, range: Range<u64>) -> Cover {
        self.set.sparse.cover(range)
    }

    /// Refuses to make what lies in `entry` fault for a moment, unless the change covers all of it or may.
    pub(super) fn may_fault(&self, entry: Range<u64>) -> Result<(), PrepareError> {
        let change = self.set.change;
        if change.covers(&entry) || change.live != Live::MustNotFault {
            return Ok(());
        }
        Err(PrepareError::WouldFault { entry })
    }

    pub(super) fn take(&mut self, bytes: u64) -> Result<TableAddr, PrepareError> {
        let at = self.pool.take(bytes, self.near)?;
        if self.set.scope == Scope::HubOnly && !at.is_vram() {
            // A BAR access that has to read its tables from the bus would wait for itself.
            self.pool.give(at, bytes);
            return Err(DeviceError::WrongAperture { at }.into());
        }
        self.near = Some(at);
        Ok(at)
    }

    /// Gives back a table that could not be entered into the mirror.
    pub(super) fn keep<T>(
        &mut self,
        at: TableAddr,
        bytes: u64,
        result: Result<T, NoMemory>,
    ) -> Result<T, PrepareError> {
        if result.is_err() {
            self.pool.give(at, bytes);
        }
        Ok(result?)
    }

    /// Hangs a new directory of level `n` on a slot; all of its entries are `filling`, which is empty or sparse.
    pub(super) fn add_directory(&mut self, n: u8, place: Place, filling: Child) -> Result<u32, PrepareError> {
        self.held.journal.reserve(1)?;
        self.held.linked.reserve(1)?;
        let at = self.take(DIRECTORY_BYTES)?;
        let old = self.tree.child(place);
        // All that can fail comes before the mirror changes.
        let filled = self.fill_directory(n, at, filling);
        self.keep(at, DIRECTORY_BYTES, filled)?;
        let added = self.tree.add_directory(at, self.set.job, place);
        let number = self.keep(at, DIRECTORY_BYTES, added)?;
        self.held.journal.note_hung(place, 1, old, Child::Directory(number));
        let level = level::<F>(n);
        if filling != Child::Empty {
            for entry in 0..level.entries() {
                let slot = u16::try_from(entry * level.entry_bytes / 8).unwrap_or(0);
                self.tree.set(Place { directory: number, slot }, filling);
            }
        }
        Ok(number)
    }

    fn fill_directory(&mut self, n: u8, at: TableAddr, filling: Child) -> Result<(), NoMemory> {
        if filling == Child::Empty {
            return self.initialise(at, 0, 512, 0);
        }
        let level = level::<F>(n);
        let words = level.entry_bytes / 8;
        for half in 0..words {
            let first = if half == 0 { self.set.nothing.sparse_entry } else { 0 };
            let run = Run { first, step: 0, count: small(level.entries()) };
            let stride = level.entry_bytes.to_le_bytes()[0];
            push_write(self.init, Write { at: entry_at(at, half), run, stride, source: Source::Words })?;
        }
        Ok(())
    }

    /// Notes that the job needs directory `number` to be linked.
    fn visit(&mut self, level: u8, number: u32) -> Result<(), PrepareError> {
        let job = self.set.job;
        let Some(directory) = self.tree.directory_mut(number) else { return Ok(()) };
        if !directory.linked && directory.noted_by != job {
            let made_by = directory.made_by;
            self.held.linked.push(Linked { level, number, made_by })?;
            directory.noted_by = job;
        }
        Ok(())
    }

    /// Notes `count` equal words for a table that nobody can reach yet.
    pub(super) fn initialise(&mut self, table: TableAddr, first: u64, count: u64, word: u64) -> Result<(), NoMemory> {
        let run = Run { first: word, step: 0, count: small(count) };
        push_write(self.init, Write { at: entry_at(table, first), run, stride: 8, source: Source::Words })
    }

    /// Notes the entries of `pages`, a part of `target`, for neighbouring slots from `at` on.
    pub(super) fn leaf_write(
        &mut self,
        at: TableAddr,
        stride: u8,
        pages: &Range<u64>,
        target: &Target,
    ) -> Result<(), NoMemory> {
        let Target { range, piece, word, frame, kept, cleared } = target;
        if *kept {
            return Ok(());
        }
        let shift = piece.page.shift();
        let step = F::leaf_step(piece.page.bytes());
        let grown = |bytes: u64| (bytes >> shift).wrapping_mul(step);
        let count = small((pages.end - pages.start) >> shift);
        let (source, run) = match piece.to {
            _ if *cleared => (Source::Words, Run { first: *word, step: 0, count }),
            Backed::Memory(_) => {
                let first = word.wrapping_add(grown(pages.start - range.start));
                (Source::Words, Run { first, step, count })
            }
            Backed::Frames { page, .. } if page == piece.page => {
                let first = frame + ((pages.start - range.start) >> shift);
                (Source::Frames, Run { first, step: *word, count })
            }
            Backed::Frames { page, .. } => {
                let first = word.wrapping_add(grown(pages.start & (page.bytes() - 1)));
                (Source::Part(small(*frame)), Run { first, step, count })
            }
        };
        let write = Write { at, run, stride, source };
        if piece.zap == 0 {
            return push_write(&mut self.main.leaves, write);
        }
        self.main.evictable.push(Evictable { write, mapping: piece.zap, clear: self.set.nothing.of(piece.page) })
    }

    /// Links the directories that no acknowledged job has linked, from the bottom up.
    fn link_directories(&mut self) -> Result<(), PrepareError> {
        if self.held.linked.is_empty() {
            return Ok(());
        }
        // What is only taken away lies where earlier jobs, for which this one waits, have linked all but its own.
        let adds = self.held.adds;
        for n in (1..=dual_level::<F>()).rev() {
            for index in 0..self.held.linked.len() {
                let Some(&Linked { level: at, number, made_by }) = self.held.linked.get(index) else { break };
                if at != n || !(adds || made_by == self.set.job) {
                    continue;
                }
                let table = self.tree.directory(number).map(|directory| directory.at);
                if let (Some(table), Some(place)) = (table, self.tree.parent(number)) {
                    let word = F::encode_link(Slot::Pde, &Link::table(table))?;
                    self.link(place, word, level::<F>(n - 1).depth)?;
                }
            }
        }
        Ok(())
    }

    /// Notes one word of a directory, for when all below it is written.
    pub(super) fn link(&mut self, place: Place, word: u64, depth: Depth) -> Result<(), PrepareError> {
        let at = self.tree.word_at(place).ok_or(PrepareError::Overflow)?;
        push_write(&mut self.main.links, one_word(at, word))?;
        self.main.deepen(depth);
        #[cfg(feature = "sabotage")]
        if self.set.mistakes.writes_both_halves && depth == Depth::UpToPde0 {
            return self.link_other_half(place);
        }
        Ok(())
    }

    /// Writes the other half of a dual entry as it is after the jobs that were prepared up to now.
    #[cfg(feature = "sabotage")]
    fn link_other_half(&mut self, place: Place) -> Result<(), PrepareError> {
        let other = Place { slot: place.slot ^ 1, ..place };
        let slot = if other.slot % 2 == 0 { Slot::Big } else { Slot::Small };
        let word = match self.tree.child(other) {
            Child::Table(number) => match self.tree.table(number) {
                Some(table) => F::encode_link(slot, &Link::table(table.at))?,
                None => 0,
            },
            Child::Empty | Child::Leaf | Child::Sparse | Child::Directory(_) => 0,
        };
        let at = self.tree.word_at(other).ok_or(PrepareError::Overflow)?;
        Ok(push_write(&mut self.main.links, one_word(at, word))?)
    }
}

pub(super) const fn one_word(at: TableAddr, word: u64) -> Write {
    Write { at, run: Run { first: word, step: 0, count: 1 }, stride: 8, source: Source::Words }
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
