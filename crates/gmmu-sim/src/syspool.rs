//! Memory for page tables from system memory.

use gmmu::addr::{SysAddr, TableAddr};
use gmmu::device::{NoTableMemory, TablePool};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Bytes of a small piece: a table of 64K entries. 16 of them share a page.
const PIECE: u64 = 256;
/// All pieces of a page.
const ALL: u16 = u16::MAX;

/// A pool of table memory in a range of system memory, lowest address first: as good as a driver's that asks its kernel
/// for DMA pages. Tables of 256 bytes share pages, and a page goes back with its last one.
#[derive(Clone, Debug)]
pub struct SysPool {
    coherent: bool,
    free: BTreeSet<u64>,
    /// Pages that are cut into pieces and not full: the pieces that are free, one bit each.
    cut: BTreeMap<u64, u16>,
    next: u64,
    end: u64,
    /// What is out: (address, bytes).
    out: BTreeSet<(u64, u64)>,
}

impl SysPool {
    /// A pool of coherent system memory; `range` is cut to whole pages.
    #[must_use]
    pub const fn coherent(range: Range<u64>) -> Self {
        Self::new(range, true)
    }

    /// A pool of non-coherent system memory; `range` is cut to whole pages.
    #[must_use]
    pub const fn non_coherent(range: Range<u64>) -> Self {
        Self::new(range, false)
    }

    const fn new(range: Range<u64>, coherent: bool) -> Self {
        // Rounding up never overflows: the pages at the very end are not used.
        let next = range.start.saturating_add(PAGE - 1) & !(PAGE - 1);
        let end = range.end & !(PAGE - 1);
        Self { coherent, free: BTreeSet::new(), cut: BTreeMap::new(), next, end, out: BTreeSet::new() }
    }

    /// What was taken and not given back: address and bytes, by address.
    pub fn out(&self) -> impl Iterator<Item = (TableAddr, u64)> + '_ {
        self.out.iter().map(|&(at, bytes)| (self.named(at), bytes))
    }

    const fn named(&self, raw: u64) -> TableAddr {
        if self.coherent {
            TableAddr::SysCoherent(SysAddr::new(raw))
        } else {
            TableAddr::SysNonCoherent(SysAddr::new(raw))
        }
    }

    fn page(&mut self) -> Option<u64> {
        self.free.pop_first().or_else(|| {
            let at = self.next;
            (at < self.end).then(|| {
                self.next += PAGE;
                at
            })
        })
    }

    fn piece(&mut self) -> Option<u64> {
        let (page, free) = match self.cut.first_key_value() {
            Some((&page, &free)) => (page, free),
            None => (self.page()?, ALL),
        };
        let piece = free.trailing_zeros();
        match free & (free - 1) {
            0 => self.cut.remove(&page),
            rest => self.cut.insert(page, rest),
        };
        Some(page + u64::from(piece) * PIECE)
    }
}

impl TablePool for SysPool {
    fn take(&mut self, bytes: u64, _near: Option<TableAddr>) -> Result<TableAddr, NoTableMemory> {
        let taken = match bytes {
            PAGE => self.page(),
            PIECE => self.piece(),
            _ => None,
        };
        let at = taken.ok_or(NoTableMemory { bytes })?;
        self.out.insert((at, bytes));
        Ok(self.named(at))
    }

    /// # Panics
    /// Where `at` is not out: a driver that gives a table back twice must not go on.
    fn give(&mut self, at: TableAddr, bytes: u64) {
        let known = at == self.named(at.raw()) && self.out.remove(&(at.raw(), bytes));
        assert!(known, "{at} + {bytes} is given back and is not out");
        if bytes == PAGE {
            self.free.insert(at.raw());
            return;
        }
        let (page, piece) = (at.raw() & !(PAGE - 1), at.raw() % PAGE / PIECE);
        let free = self.cut.entry(page).or_insert(0);
        *free |= 1 << piece;
        if *free == ALL {
            self.cut.remove(&page);
            self.free.insert(page);
        }
    }
}
