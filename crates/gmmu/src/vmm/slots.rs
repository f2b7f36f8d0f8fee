//! Where the entries of pages are, and what clears them: in the round before others take their place, and in a zap.

use super::execute::{Source, Write};
use super::plan::{leaf_level, next_table, small, DOMAIN_BYTES};
use super::request::PrepareError;
use crate::addr::{PageSize, TableAddr};
use crate::device::{Depth, Run};
use crate::format::{Format, Level, BIG_TABLE, SMALL_TABLE};
use crate::tree::{entry_slot, level, Child, Place, Tree};
use core::ops::Range;

/// Hands on what clears the entries of `pages`, one write a table, and how deep an invalidate has to reach for it. Below a
/// 64K slot that is cleared, no 4K pages are: it says so, which is what `closed` says.
pub(super) fn clear_pages<F: Format>(
    tree: &Tree<F>,
    closed: u64,
    pages: Range<u64>,
    page: PageSize,
    mut each: impl FnMut(Write, Depth) -> Result<(), PrepareError>,
) -> Result<(), PrepareError> {
    let table = table_of::<F>(page);
    let first = if page == PageSize::Size64K { closed } else { 0 };
    let mut va = pages.start;
    while va < pages.end {
        let end = pages.end.min(next_leaf_table::<F>(page, va));
        let at = entry_of(tree, va, page).ok_or(PrepareError::Overflow)?;
        let words = table.entry_bytes / 8;
        let run = Run { first, step: 0, count: small(((end - va) >> table.shift) * words) };
        each(Write { at, run, stride: 8, source: Source::Words }, table.depth)?;
        va = end;
    }
    Ok(())
}

/// The level whose entries are pages of this size.
fn table_of<F: Format>(page: PageSize) -> &'static Level {
    match page {
        PageSize::Size4K => &SMALL_TABLE,
        PageSize::Size64K => &BIG_TABLE,
        PageSize::Size2M | PageSize::Size512M | PageSize::Size256G => level::<F>(leaf_level::<F>(page)),
    }
}

/// The first address behind the table that has the entry of the page at `va`.
fn next_leaf_table<F: Format>(page: PageSize, va: u64) -> u64 {
    if page <= PageSize::Size64K {
        (va | (DOMAIN_BYTES - 1)) + 1
    } else {
        next_table::<F>(leaf_level::<F>(page), va)
    }
}

/// Where the entry of a page is; `None` where the mirror has no table for it.
fn entry_of<F: Format>(tree: &Tree<F>, va: u64, page: PageSize) -> Option<TableAddr> {
    let n = leaf_level::<F>(page);
    let mut directory = tree.root();
    for at in 0..n {
        match tree.child(Place { directory, slot: entry_slot::<F>(at, va) }) {
            Child::Directory(below) => directory = below,
            Child::Empty | Child::Leaf | Child::Sparse | Child::Table(_) => return None,
        }
    }
    let place = Place { directory, slot: entry_slot::<F>(n, va) };
    if page > PageSize::Size64K {
        return tree.word_at(place);
    }
    let (big, little) = tree.halves(place);
    let child = if page == PageSize::Size4K { little } else { big };
    let Child::Table(number) = child else { return None };
    tree.table(number)?.at.checked_add(table_of::<F>(page).index(va) * 8)
}
