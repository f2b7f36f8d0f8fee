//! The mirror: the planner's own copy of the table structure, after all prepared jobs.
//!
//! It says which tables exist, where they are and what hangs below them, but not what the leaves map: that is
//! [`va`](crate::va)'s to know. Nothing here touches hardware, and nothing is read back from it but once, by `adopt`: tables
//! that it finds are *foreign*, and count as in use for ever.

use crate::addr::TableAddr;
use crate::device::TablePool;
use crate::format::{Format, Level, BIG_TABLE, SMALL_TABLE};
use crate::storage::{List, NoMemory, Slab};
use core::marker::PhantomData;

/// Bytes that every directory takes, the small roots too: Blackwell reads whole cache lines of them.
pub(crate) const DIRECTORY_BYTES: u64 = 4096;

/// What counts in `used` of a foreign table, one that firmware made, beside what is ours in it: no such account is ever that
/// of an empty table or of a full one, so none is ever dropped, reclaimed or replaced.
const FOREIGN: u16 = 1 << 14;

/// What hangs on a slot: an entry of a directory, or half of a dual entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Child {
    Empty,
    /// A large leaf. In a dual entry it stands in the big half.
    Leaf,
    /// The whole span reads as 0. In a dual entry it stands in the big half.
    Sparse,
    /// A directory, by its number.
    Directory(u32),
    /// A leaf table, by its number.
    Table(u32),
}

/// [`Child`] in four bytes: there are 512 of them in each directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed(u32);

impl Packed {
    const EMPTY: Self = Self(0);
    const LEAF: u32 = 1;
    /// Shares its low bits with the leaf.
    const SPARSE: u32 = 1 << 2 | Self::LEAF;
    const DIRECTORY: u32 = 2;
    const TABLE: u32 = 3;

    const fn of(child: Child) -> Self {
        Self(match child {
            Child::Empty => 0,
            Child::Leaf => Self::LEAF,
            Child::Sparse => Self::SPARSE,
            Child::Directory(n) => n << 2 | Self::DIRECTORY,
            Child::Table(n) => n << 2 | Self::TABLE,
        })
    }

    const fn child(self) -> Child {
        match self.0 & 3 {
            0 => Child::Empty,
            Self::LEAF if self.0 == Self::SPARSE => Child::Sparse,
            Self::LEAF => Child::Leaf,
            Self::DIRECTORY => Child::Directory(self.0 >> 2),
            _ => Child::Table(self.0 >> 2),
        }
    }
}

/// Which half of a dual entry, and so which kind of leaf table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Big,
    Small,
}

impl Half {
    /// The level of its leaf tables.
    pub(crate) const fn level(self) -> &'static Level {
        match self {
            Self::Big => &BIG_TABLE,
            Self::Small => &SMALL_TABLE,
        }
    }
}

/// A directory table.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) at: TableAddr,
    children: [Packed; 512],
    /// Number of the directory above; its own for the root.
    parent: u32,
    /// Its slot there.
    slot: u16,
    /// Slots that are not empty.
    used: u16,
    /// Whether an acknowledged job has linked it. Until then every job that needs it does.
    pub(crate) linked: bool,
    /// The job that made it, by its number: numbers of directories are reused, those of jobs are not.
    pub(crate) made_by: u64,
    /// The job that noted it last as one that it has to link.
    pub(crate) noted_by: u64,
}

/// A table of 4K or 64K leaves.
#[derive(Debug)]
pub(crate) struct LeafTable {
    pub(crate) at: TableAddr,
    /// Of a table of 4K pages: which of the 32 chunks of 64 KiB have pages or sparse entries here, so that a 64K slot
    /// beside must let the hardware look.
    pub(crate) open: u32,
    /// Entries that map memory; sparse ones do not count.
    pub(crate) used: u16,
    /// Of a foreign table, chunks as they were found: in a 4K table those with entries, which stay open for ever; in a 64K
    /// table those that say "no 4K pages".
    pub(crate) found: u32,
}

/// A slot of a directory: where something hangs, or could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) directory: u32,
    pub(crate) slot: u16,
}

/// The tables of one address space.
#[derive(Debug)]
pub(crate) struct Tree<F> {
    directories: Slab<Directory, 8>,
    tables: Slab<LeafTable, 64>,
    root: u32,
    /// How many tables are foreign.
    foreign: usize,
    format: PhantomData<F>,
}

/// Tables on their way back to the pool: neighbours in memory go together.
pub(crate) struct Returns<'a, P> {
    pool: &'a mut P,
    /// The first of those that wait, the size of each, and how many they are.
    run: Option<(TableAddr, u64, u64)>,
}

impl<'a, P: TablePool> Returns<'a, P> {
    pub(crate) fn new(pool: &'a mut P) -> Self {
        Self { pool, run: None }
    }

    pub(crate) fn give(&mut self, at: TableAddr, bytes: u64) {
        match &mut self.run {
            Some((first, size, count)) if *size == bytes && first.checked_add(bytes * *count) == Some(at) => {
                *count += 1
            }
            other => {
                if let Some((at, bytes, count)) = other.replace((at, bytes, 1)) {
                    self.pool.give_run(at, bytes, count);
                }
            }
        }
    }

    /// Gives what still waits.
    pub(crate) fn finish(mut self) {
        if let Some((at, bytes, count)) = self.run.take() {
            self.pool.give_run(at, bytes, count);
        }
    }
}

/// The last place in [`Format::LEVELS`]: the directories with dual entries.
pub(crate) const fn dual_level<F: Format>() -> u8 {
    // No format has more than six levels.
    (F::LEVELS.len() - 1).to_le_bytes()[0]
}

/// The level at `n`, from the root down.
pub(crate) fn level<F: Format>(n: u8) -> &'static Level {
    F::LEVELS.get(usize::from(n)).unwrap_or(&SMALL_TABLE)
}

impl<F: Format> Tree<F> {
    /// A tree of a root alone, which is linked by being the root.
    pub(crate) fn new(at: TableAddr) -> Result<Self, NoMemory> {
        let mut tree = Self { directories: Slab::new(), tables: Slab::new(), root: 0, foreign: 0, format: PhantomData };
        tree.directories.reserve(1)?;
        tree.root = tree.insert_directory(at, 0, Place { directory: 0, slot: 0 })?;
        if let Some(root) = tree.directories.get_mut(tree.root) {
            root.linked = true;
        }
        Ok(tree)
    }

    pub(crate) fn root(&self) -> u32 {
        self.root
    }

    pub(crate) fn directory_mut(&mut self, n: u32) -> Option<&mut Directory> {
        self.directories.get_mut(n)
    }

    pub(crate) fn directory(&self, n: u32) -> Option<&Directory> {
        self.directories.get(n)
    }

    pub(crate) fn table(&self, n: u32) -> Option<&LeafTable> {
        self.tables.get(n)
    }

    pub(crate) fn table_mut(&mut self, n: u32) -> Option<&mut LeafTable> {
        self.tables.get_mut(n)
    }

    /// How many tables firmware made, the root among them; none but in a space that was adopted.
    pub(crate) const fn foreign(&self) -> usize {
        self.foreign
    }

    /// Whether firmware made what hangs on a slot.
    pub(crate) fn is_foreign(&self, child: Child) -> bool {
        match child {
            Child::Empty | Child::Leaf | Child::Sparse => false,
            Child::Table(n) => self.tables.get(n).is_some_and(|table| table.used >= FOREIGN),
            Child::Directory(n) => self.directories.get(n).is_some_and(|directory| directory.used >= FOREIGN),
        }
    }

    /// Says that firmware made, and linked, a table that was just entered.
    pub(crate) fn make_foreign(&mut self, child: Child) {
        match child {
            Child::Empty | Child::Leaf | Child::Sparse => return,
            Child::Table(n) => {
                if let Some(table) = self.tables.get_mut(n) {
                    table.used += FOREIGN;
                }
            }
            Child::Directory(n) => {
                if let Some(directory) = self.directories.get_mut(n) {
                    directory.used += FOREIGN;
                    directory.linked = true;
                }
            }
        }
        self.foreign += 1;
    }

    /// Number of directories, the root included, and of leaf tables.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.directories.len(), self.tables.len())
    }

    /// Bytes of heap, used or not.
    pub(crate) fn footprint(&self) -> usize {
        self.directories.footprint() + self.tables.footprint()
    }

    /// What hangs on a slot.
    pub(crate) fn child(&self, place: Place) -> Child {
        let children = self.directories.get(place.directory).map(|directory| &directory.children);
        children.and_then(|c| c.get(usize::from(place.slot))).map_or(Child::Empty, |packed| packed.child())
    }

    /// Hangs `child` on a slot and returns what hung there.
    pub(crate) fn set(&mut self, place: Place, child: Child) -> Child {
        let Some(directory) = self.directories.get_mut(place.directory) else { return Child::Empty };
        let Some(slot) = directory.children.get_mut(usize::from(place.slot)) else { return Child::Empty };
        let old = core::mem::replace(slot, Packed::of(child));
        directory.used -= u16::from(old != Packed::EMPTY);
        directory.used += u16::from(child != Child::Empty);
        old.child()
    }

    /// Both halves of a dual entry.
    pub(crate) fn halves(&self, big: Place) -> (Child, Child) {
        let pair = self.directories.get(big.directory).map(|directory| &directory.children);
        let pair = pair.and_then(|c| c.get(usize::from(big.slot)..)).and_then(|rest| rest.first_chunk::<2>());
        pair.map_or((Child::Empty, Child::Empty), |[big, small]| (big.child(), small.child()))
    }

    /// Hangs `new` on `count` entries of `words` slots each from `place` on, if `old` hangs on the first slot of every one
    /// of them and nothing on the second. Both are plain: what has no number. Says whether that was so.
    pub(crate) fn replace_run(&mut self, place: Place, words: usize, count: usize, old: Child, new: Child) -> bool {
        let Some(directory) = self.directories.get_mut(place.directory) else { return false };
        let first = usize::from(place.slot);
        let Some(slots) = directory.children.get_mut(first..first + count * words) else { return false };
        let (old, new) = (Packed::of(old), Packed::of(new));
        let as_said = |(index, slot): (usize, &Packed)| *slot == if index % words == 0 { old } else { Packed::EMPTY };
        if !slots.iter().enumerate().all(as_said) {
            return false;
        }
        for slot in slots.iter_mut().step_by(words) {
            *slot = new;
        }
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        if old != Packed::EMPTY {
            directory.used -= count;
        }
        if new != Packed::EMPTY {
            directory.used += count;
        }
        true
    }

    /// Takes the leaf tables off up to `most` dual entries from `first` on, as long as each has one of this half alone, and
    /// that is `full`. Tells each, and returns how many there were.
    pub(crate) fn drop_tables(
        &mut self,
        first: Place,
        half: Half,
        most: usize,
        full: u16,
        mut dropped: impl FnMut(Place, u32),
    ) -> usize {
        let Self { directories, tables, .. } = self;
        let Some(directory) = directories.get_mut(first.directory) else { return 0 };
        let duals = directory.children.get_mut(usize::from(first.slot)..).unwrap_or_default().chunks_exact_mut(2);
        let mut count = 0;
        for (dual, slot) in duals.take(most).zip((first.slot..).step_by(2)) {
            let [big, small] = dual else { break };
            let (table, other, slot) = if half == Half::Big { (big, small, slot) } else { (small, big, slot + 1) };
            let Child::Table(number) = table.child() else { break };
            if *other != Packed::EMPTY || tables.get(number).is_none_or(|table| table.used != full) {
                break;
            }
            *table = Packed::EMPTY;
            dropped(Place { slot, ..first }, number);
            count += 1;
        }
        directory.used -= u16::try_from(count).unwrap_or(0);
        count
    }

    /// The leaf table of this half under a dual entry that has no other; `Err` where there is anything else.
    pub(crate) fn lone_table(&mut self, dual: Place, half: Half) -> Result<Option<(u32, &mut LeafTable)>, ()> {
        let (big, small) = self.halves(dual);
        let (table, other) = if half == Half::Big { (big, small) } else { (small, big) };
        match (table, other) {
            (Child::Empty, Child::Empty) => Ok(None),
            (Child::Table(number), Child::Empty) => Ok(self.tables.get_mut(number).map(|table| (number, table))),
            _ => Err(()),
        }
    }

    /// Where the word of a slot is: 8 bytes each, the halves of a dual entry side by side.
    pub(crate) fn word_at(&self, place: Place) -> Option<TableAddr> {
        self.directories.get(place.directory)?.at.checked_add(u64::from(place.slot) * 8)
    }

    /// Where a directory hangs; `None` for the root.
    pub(crate) fn parent(&self, n: u32) -> Option<Place> {
        let directory = self.directories.get(n)?;
        (n != self.root).then_some(Place { directory: directory.parent, slot: directory.slot })
    }

    /// Adds a directory at `place`. Room for it is made here.
    pub(crate) fn add_directory(&mut self, at: TableAddr, made_by: u64, place: Place) -> Result<u32, NoMemory> {
        self.directories.reserve(1)?;
        let n = self.insert_directory(at, made_by, place)?;
        self.set(place, Child::Directory(n));
        Ok(n)
    }

    fn insert_directory(&mut self, at: TableAddr, made_by: u64, place: Place) -> Result<u32, NoMemory> {
        let children = [Packed::EMPTY; 512];
        let Place { directory: parent, slot } = place;
        let directory = Directory { at, children, parent, slot, used: 0, linked: false, made_by, noted_by: 0 };
        self.directories.insert_within(directory).map_err(|_| NoMemory)
    }

    /// Adds a leaf table at `place`. Room for it is made here.
    pub(crate) fn add_table(&mut self, at: TableAddr, place: Place, open: u32, used: u16) -> Result<u32, NoMemory> {
        self.tables.reserve(1)?;
        let n = self.tables.insert_within(LeafTable { at, open, used, found: 0 }).map_err(|_| NoMemory)?;
        self.set(place, Child::Table(n));
        Ok(n)
    }

    /// Says that a job has linked directory `n`, if it is still the one that job `made_by` made.
    pub(crate) fn mark_linked(&mut self, n: u32, made_by: u64) {
        if let Some(directory) = self.directories.get_mut(n).filter(|directory| directory.made_by == made_by) {
            directory.linked = true;
        }
    }

    /// Gives the memory of a leaf table, or of a directory and all below it, back to the pool. It hangs nowhere any
    /// more, and the GPU cannot reach it. What firmware made is only forgotten.
    pub(crate) fn free<P: TablePool>(&mut self, child: Child, half: Half, pool: &mut P) {
        let mut gone = Returns::new(pool);
        self.free_to(child, half, &mut gone);
        gone.finish();
    }

    /// The same for one of several, which are given together where they are neighbours in memory.
    pub(crate) fn free_to<P: TablePool>(&mut self, child: Child, half: Half, gone: &mut Returns<'_, P>) {
        match child {
            Child::Empty | Child::Leaf | Child::Sparse => {}
            Child::Table(n) => {
                let table = self.tables.remove(n);
                if let Some(table) = table.filter(|table| table.used < FOREIGN) {
                    gone.give(table.at, half.level().table_bytes());
                }
            }
            Child::Directory(n) => {
                // At most five levels deep: a directory never lies below itself.
                for slot in 0..512 {
                    let below = self.child(Place { directory: n, slot });
                    let half = if slot % 2 == 0 { Half::Big } else { Half::Small };
                    self.free_to(below, half, gone);
                }
                let directory = self.directories.remove(n);
                if let Some(directory) = directory.filter(|directory| directory.used < FOREIGN) {
                    gone.give(directory.at, DIRECTORY_BYTES);
                }
            }
        }
    }

    /// Gives all tables to the pool, the root only where `root` says so.
    pub(crate) fn free_all<P: TablePool>(&mut self, pool: &mut P, root: bool) {
        let mut gone = Returns::new(pool);
        for slot in 0..512 {
            let place = Place { directory: self.root, slot };
            let child = self.set(place, Child::Empty);
            self.free_to(child, Half::Big, &mut gone);
        }
        if root {
            self.free_to(Child::Directory(self.root), Half::Big, &mut gone);
        }
        gone.finish();
    }

    /// Whether directory `n` is still the one that job `made_by` made, was never linked, and nothing hangs in it.
    pub(crate) fn is_idle(&self, n: u32, made_by: u64) -> bool {
        let directory = self.directories.get(n).filter(|directory| directory.made_by == made_by);
        directory.is_some_and(|directory| directory.used == 0 && !directory.linked)
    }

    /// Whether nothing below `child` maps anything. What firmware made never counts as empty.
    pub(crate) fn is_empty_below(&self, child: Child) -> bool {
        match child {
            Child::Empty => true,
            Child::Leaf | Child::Sparse => false,
            Child::Table(n) => self.tables.get(n).is_none_or(|table| table.used == 0 && table.open == 0),
            Child::Directory(n) => {
                let empty = |slot| self.is_empty_below(self.child(Place { directory: n, slot }));
                !self.is_foreign(child) && (0..512).all(empty)
            }
        }
    }

    /// Where the tables are that firmware made, or all others, and how long each is.
    pub(crate) fn addresses(&self, foreign: bool) -> Result<List<(TableAddr, u64)>, NoMemory> {
        let mut list = List::new();
        let all = self.directories.len() + self.tables.len();
        list.reserve_exact(if foreign { self.foreign } else { all - self.foreign })?;
        for (_, directory) in self.directories.iter() {
            if (directory.used >= FOREIGN) == foreign {
                list.push((directory.at, DIRECTORY_BYTES))?;
            }
            for (slot, packed) in directory.children.iter().enumerate() {
                if let Child::Table(n) = packed.child() {
                    let half = if slot % 2 == 0 { Half::Big } else { Half::Small };
                    if let Some(table) = self.tables.get(n).filter(|table| (table.used >= FOREIGN) == foreign) {
                        list.push((table.at, half.level().table_bytes()))?;
                    }
                }
            }
        }
        Ok(list)
    }
}

/// The slot for `va` in a directory of level `n`; of a dual entry, the big half.
pub(crate) fn entry_slot<F: Format>(n: u8, va: u64) -> u16 {
    let level = level::<F>(n);
    let slot = level.index(va) * (level.entry_bytes / 8);
    // At most 511.
    u16::try_from(slot).unwrap_or(0)
}

/// The slot for `half` of the dual entry for `va`.
pub(crate) fn half_slot<F: Format>(half: Half, va: u64) -> u16 {
    let slot = entry_slot::<F>(dual_level::<F>(), va);
    match half {
        Half::Big => slot,
        Half::Small => slot + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::V3;

    /// What the mirror may cost.
    #[test]
    fn a_leaf_table_takes_64_bytes_and_a_directory_2_5_kib_at_most() {
        let (mut tables, mut directories) = (Slab::<LeafTable, 64>::new(), Slab::<Directory, 8>::new());
        tables.reserve(64).expect("memory");
        directories.reserve(8).expect("memory");
        let (table, directory) = (tables.footprint() / 64, directories.footprint() / 8);
        assert!(table <= 64 && directory <= 2560, "{table} and {directory} bytes");
    }

    #[test]
    fn children_survive_packing() {
        for child in
            [Child::Empty, Child::Leaf, Child::Sparse, Child::Directory(0), Child::Directory(9), Child::Table(1 << 29)]
        {
            assert_eq!(Packed::of(child).child(), child);
        }
    }

    #[test]
    fn slots_follow_the_geometry() {
        assert_eq!(entry_slot::<V3>(0, 1 << 56), 1);
        assert_eq!((half_slot::<V3>(Half::Big, 3 << 21), half_slot::<V3>(Half::Small, 3 << 21)), (6, 7));
    }
}
