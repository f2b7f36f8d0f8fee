//! Taking a plan back out of the mirror: after a failed prepare, and when a job is cancelled. The same thing both times,
//! since nothing that such a job brought was ever linked.

use super::plan::{domain_of, leaf_level, next_table, Dropped, DOMAIN_BYTES};
use super::request::Piece;
use crate::addr::PageSize;
use crate::device::TablePool;
use crate::format::Format;
use crate::tree::{dual_level, entry_slot, half_slot, level, Child, Half, Place, Tree};
use core::ops::Range;

/// Takes one mapped piece back out of the mirror, as far as it is counted there (`done`). Leaf tables that job `job` made
/// are given to the pool.
pub(super) fn unmap_piece<F: Format, P: TablePool>(
    tree: &mut Tree<F>,
    pool: &mut P,
    job: u64,
    (range, piece): &(Range<u64>, Piece),
    done: u64,
) {
    match piece.page {
        PageSize::Size4K => leaves(tree, pool, job, Half::Small, range, done),
        PageSize::Size64K => leaves(tree, pool, job, Half::Big, range, done),
        page => large(tree, page, range, Child::Leaf, Child::Empty),
    }
}

/// Gives the directories over `range` to the pool that are left empty and that nobody has linked or will.
pub(super) fn prune<F: Format, P: TablePool>(
    tree: &mut Tree<F>,
    pool: &mut P,
    range: &Range<u64>,
    needed: impl Fn(Range<u64>, u64) -> bool,
) {
    let mut va = range.start;
    while va < range.end {
        tree.prune(va, pool, &needed);
        va = next_table::<F>(dual_level::<F>(), va);
    }
}

fn leaves<F: Format, P: TablePool>(
    tree: &mut Tree<F>,
    pool: &mut P,
    job: u64,
    half: Half,
    range: &Range<u64>,
    done: u64,
) {
    let mut va = range.start;
    while va < range.end {
        let end = range.end.min(domain_of(va) + DOMAIN_BYTES);
        if let Some((place, number)) = leaf_table(tree, half, va) {
            let made_here = tree.table(number).is_some_and(|table| table.made_by == job);
            if made_here {
                let child = tree.set(place, Child::Empty);
                tree.free(child, half, pool);
            } else if va < done {
                count(tree, number, half, end - va, false);
            }
        }
        va = end;
    }
}

/// Puts the mirror's account of unmapped `pieces` back, as far as they were taken out of it (`done`).
pub(super) fn remap_mirror<F: Format>(
    tree: &mut Tree<F>,
    pieces: &[(Range<u64>, Piece)],
    done: u64,
    dropped: &[Dropped],
) {
    hang_back(tree, dropped);
    for (range, piece) in pieces {
        let half = match piece.page {
            PageSize::Size4K => Half::Small,
            PageSize::Size64K => Half::Big,
            page => {
                large(tree, page, range, Child::Empty, Child::Leaf);
                continue;
            }
        };
        let mut va = range.start;
        while va < range.end.min(done) {
            let end = range.end.min(domain_of(va) + DOMAIN_BYTES);
            if let Some((_, number)) = leaf_table(tree, half, va) {
                count(tree, number, half, end - va, true);
            }
            va = end;
        }
    }
}

/// Changes every directory entry over `range` that is `from` to `to`.
fn large<F: Format>(tree: &mut Tree<F>, page: PageSize, range: &Range<u64>, from: Child, to: Child) {
    let n = leaf_level::<F>(page);
    for va in range.clone().step_by(usize::try_from(level::<F>(n).span()).unwrap_or(usize::MAX)) {
        if let Some(directory) = tree.find(n, va) {
            let place = Place { directory, slot: entry_slot::<F>(n, va) };
            if tree.child(place) == from {
                tree.set(place, to);
            }
        }
    }
}

/// Hangs dropped tables back to where they were.
pub(super) fn hang_back<F: Format>(tree: &mut Tree<F>, dropped: &[Dropped]) {
    for Dropped { place, child, .. } in dropped.iter().rev() {
        tree.set(*place, *child);
    }
}

fn leaf_table<F: Format>(tree: &Tree<F>, half: Half, va: u64) -> Option<(Place, u32)> {
    let directory = tree.find(dual_level::<F>(), va)?;
    let place = Place { directory, slot: half_slot::<F>(half, va) };
    match tree.child(place) {
        Child::Table(number) => Some((place, number)),
        Child::Empty | Child::Leaf | Child::Directory(_) => None,
    }
}

fn count<F: Format>(tree: &mut Tree<F>, number: u32, half: Half, bytes: u64, more: bool) {
    let entries = u16::try_from(bytes >> half.level().shift).unwrap_or(0);
    if let Some(table) = tree.table_mut(number) {
        table.used = if more { table.used.saturating_add(entries) } else { table.used.saturating_sub(entries) };
    }
}
