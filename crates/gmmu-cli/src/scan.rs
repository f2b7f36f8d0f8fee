//! Everything that an address space maps, in order, in bounded time on any input.
//!
//! A directory that was read to its end and held no leaf is remembered with its level, and not read again: tables that
//! point at each other and lead nowhere cost each of them once. Tables that lead to leaves over and over are mappings,
//! however odd; the cursor's limit on tables ends those.

use std::collections::HashSet;
use std::ops::Range;

use gmmu::addr::TableAddr;
use gmmu::chip::PageSizes;
use gmmu::device::TableRead;
use gmmu::format::{DUAL_SHIFT, Format};
use gmmu::walk::{Cursor, Event, Step, Table, View, WalkError};

/// Directories without a leaf in or below them, by place and level.
#[derive(Clone, Debug, Default)]
pub struct Barren(HashSet<(TableAddr, u32)>);

/// What to scan: the top table, the page sizes of the chip, and how many tables may be read.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// The top table.
    pub root: TableAddr,
    /// Page sizes of the chip.
    pub sizes: PageSizes,
    /// Tables that may be read.
    pub tables_max: u64,
}

/// A scan over part of an address space.
#[derive(Debug)]
pub struct Scan<'a, F> {
    cursor: Cursor<F>,
    range: Range<u64>,
    barren: &'a mut Barren,
}

impl<'a, F: Format> Scan<'a, F> {
    /// A scan of the addresses in `range`.
    ///
    /// # Errors
    /// [`WalkError::VaTooWide`].
    pub fn new(space: Space, range: Range<u64>, barren: &'a mut Barren) -> Result<Self, WalkError> {
        let Space { root, sizes, tables_max } = space;
        let cursor = Cursor::new(root, sizes, range.clone(), View::Translations, tables_max)?;
        Ok(Self { cursor, range, barren })
    }

    /// The next leaf, sparse or bad entry, and the first address that it is for.
    ///
    /// # Errors
    /// Those of the cursor.
    pub fn next<M: TableRead>(&mut self, memory: &mut M) -> Result<Option<(u64, Step)>, WalkError> {
        loop {
            match self.cursor.next(memory)? {
                None => return Ok(None),
                Some(Event::Entry { va, step }) => return Ok(Some((va, step))),
                Some(Event::Enter(table)) => {
                    if self.barren.0.contains(&(table.at, table.level.shift)) {
                        self.cursor.skip();
                    }
                }
                Some(Event::Leave { table, leaves, .. }) => {
                    if leaves == 0 && self.is_whole_directory(&table) {
                        self.barren.0.insert((table.at, table.level.shift));
                    }
                }
            }
        }
    }

    /// Whether all of a directory was looked at. Leaf tables are left out: what is found in a 64K table depends on the
    /// 4K table beside it.
    fn is_whole_directory(&self, table: &Table) -> bool {
        let end = table.va.saturating_add(table.level.entries() << table.level.shift);
        table.level.shift >= DUAL_SHIFT && self.range.start <= table.va && end <= self.range.end
    }
}
