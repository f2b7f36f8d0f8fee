//! Which words of memory belong to the page tables of some address spaces.

use std::collections::{BTreeMap, HashSet};

use gmmu::addr::{PAGE_BYTES, TableAddr};
use gmmu::device::TableRead;
use gmmu::format::{Format, Level};
use gmmu::regs::{
    NV_RAMIN_ADR_LIMIT_LO, NV_RAMIN_PAGE_DIR_BASE_LO, NV_RAMIN_SC_PAGE_DIR_BASE_LO, NV_RAMIN_SC_PDB_VALID,
};
use gmmu::walk::{Cursor, Event, Is, Step, View, WalkError, Why};

use super::{PageKey, SnapshotInfo};

/// Most tables that a snapshot is made of: 4 GiB of them, which map 2 TiB in the smallest pages.
const TABLES_MAX: u64 = 1 << 20;
/// Words of a page.
pub(super) const WORDS: u64 = PAGE_BYTES / 8;

/// One bit for each word of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mask([u64; 8]);

impl Mask {
    fn set(&mut self, word: u64) {
        if let Some(bits) = usize::try_from(word / 64).ok().and_then(|n| self.0.get_mut(n)) {
            *bits |= 1 << (word % 64);
        }
    }

    fn has(&self, word: u64) -> bool {
        usize::try_from(word / 64).ok().and_then(|n| self.0.get(n)).is_some_and(|bits| bits >> (word % 64) & 1 != 0)
    }

    /// The runs of words that belong to tables: first word and length.
    pub(super) fn runs(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = (next..WORDS).find(|&word| self.has(word))?;
            let end = (first..WORDS).find(|&word| !self.has(word)).unwrap_or(WORDS);
            next = end;
            Some((usize::try_from(first).ok()?, usize::try_from(end - first).ok()?))
        })
    }
}

/// The pages that hold tables, and which words of them do.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) pages: BTreeMap<PageKey, Mask>,
    seen: HashSet<(TableAddr, u32)>,
    /// Entries whose table cannot be read.
    pub(super) unreadable: u64,
}

impl Tables {
    /// How many tables there are. One that is used at two levels counts twice.
    pub(super) fn count(&self) -> u64 {
        self.seen.len() as u64
    }

    /// Finds the tables of every address space of `info`.
    ///
    /// # Errors
    /// Those of the walk: the memory failed, or there are too many tables.
    pub(super) fn find<F: Format>(info: &SnapshotInfo, memory: &mut impl TableRead) -> Result<Self, WalkError> {
        let mut tables = Self::default();
        for root in &info.roots {
            let range = 0..1 << F::VA_BITS;
            let mut cursor = Cursor::<F>::new(root.at, info.page_sizes(), range, View::Structure, TABLES_MAX)?;
            while let Some(event) = cursor.next(memory)? {
                match event {
                    Event::Enter(table) => {
                        if !tables.add(table.level, table.at) {
                            cursor.skip();
                        }
                        if tables.count() > TABLES_MAX {
                            return Err(WalkError::TooManyTables { limit: TABLES_MAX });
                        }
                    }
                    Event::Entry { step: Step { is: Is::Bad(Why::TableUnreadable(_)), .. }, .. } => {
                        tables.unreadable += 1;
                    }
                    Event::Entry { .. } | Event::Leave { .. } => {}
                }
            }
        }
        Ok(tables)
    }

    /// Adds the words of an instance block that say which address spaces are its own, those of subcontexts too. False where it
    /// cannot be read, or is no block.
    pub(super) fn keep_block(&mut self, block: TableAddr, memory: &mut impl TableRead) -> bool {
        const SUBCONTEXTS: u64 = 64;
        let root = block.checked_add(NV_RAMIN_PAGE_DIR_BASE_LO);
        if !block.is_aligned(PAGE_BYTES) || root.is_none_or(|root| memory.read_word(root).is_err()) {
            return false;
        }
        let spaces = NV_RAMIN_SC_PAGE_DIR_BASE_LO..NV_RAMIN_SC_PAGE_DIR_BASE_LO + 16 * SUBCONTEXTS;
        let mask = self.pages.entry(PageKey::of(block)).or_default();
        let words = [NV_RAMIN_PAGE_DIR_BASE_LO, NV_RAMIN_ADR_LIMIT_LO, NV_RAMIN_SC_PDB_VALID];
        words.into_iter().chain(spaces.step_by(8)).for_each(|offset| mask.set(offset / 8));
        true
    }

    /// Adds a table. False where it was there already.
    fn add(&mut self, level: &Level, at: TableAddr) -> bool {
        if !self.seen.insert((at, level.shift)) {
            return false;
        }
        for n in 0..level.table_bytes() / 8 {
            let word = at.with_raw(at.raw().wrapping_add(n * 8));
            self.pages.entry(PageKey::of(word)).or_default().set(word.raw() % PAGE_BYTES / 8);
        }
        true
    }
}
