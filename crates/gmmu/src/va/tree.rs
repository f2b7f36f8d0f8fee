//! The ranges in order.

use core::ops::Range;

use super::gap::{Edge, Gap};
use super::request::Wish;
use crate::storage::{List, NoMemory};

#[derive(Debug)]
pub(super) struct Entry<T> {
    start: u64,
    end: u64,
    guard: u32,
    value: T,
}

/// Where an entry is; good until the next change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pos(usize);

#[derive(Debug)]
pub(super) struct Tree<T> {
    limits: Range<u64>,
    entries: List<Entry<T>>,
}

impl<T> Tree<T> {
    pub(super) const fn new(limits: Range<u64>) -> Self {
        Self { limits, entries: List::new() }
    }

    pub(super) fn reserve(&mut self, extra: usize) -> Result<(), NoMemory> {
        self.entries.reserve(extra)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn footprint(&self) -> usize {
        self.entries.footprint()
    }

    /// The first entry that ends behind `va`.
    pub(super) fn seek(&self, va: u64) -> Option<Pos> {
        let at = self.entries.partition_point(|entry| entry.end <= va);
        (at < self.entries.len()).then_some(Pos(at))
    }

    pub(super) fn last(&self) -> Option<Pos> {
        self.entries.len().checked_sub(1).map(Pos)
    }

    pub(super) fn after(&self, pos: Pos) -> Option<Pos> {
        let at = pos.0.checked_add(1)?;
        (at < self.entries.len()).then_some(Pos(at))
    }

    pub(super) fn before(&self, pos: Pos) -> Option<Pos> {
        pos.0.checked_sub(1).map(Pos)
    }

    pub(super) fn range(&self, pos: Pos) -> Option<Range<u64>> {
        self.entries.get(pos.0).map(|entry| entry.start..entry.end)
    }

    pub(super) fn guard(&self, pos: Pos) -> Option<u32> {
        self.entries.get(pos.0).map(|entry| entry.guard)
    }

    pub(super) fn value(&self, pos: Pos) -> Option<&T> {
        self.entries.get(pos.0).map(|entry| &entry.value)
    }

    pub(super) fn value_mut(&mut self, pos: Pos) -> Option<&mut T> {
        self.entries.get_mut(pos.0).map(|entry| &mut entry.value)
    }

    /// Whether one more entry needs no memory.
    pub(super) fn has_room(&self) -> bool {
        self.entries.footprint() / size_of::<Entry<T>>() > self.entries.len()
    }

    /// Inserts a range that overlaps nothing, before the entry at `next`.
    pub(super) fn insert(&mut self, next: Option<Pos>, range: Range<u64>, guard: u32, value: T) -> Result<(), T> {
        let at = next.map_or(self.entries.len(), |pos| pos.0);
        self.entries.insert_within(at, Entry { start: range.start, end: range.end, guard, value }).map_err(|e| e.value)
    }

    pub(super) fn remove(&mut self, pos: Pos) -> Option<T> {
        self.entries.remove(pos.0).map(|entry| entry.value)
    }

    /// Moves the end of an entry; it stays before its successor.
    pub(super) fn set_end(&mut self, pos: Pos, end: u64) {
        if let Some(entry) = self.entries.get_mut(pos.0) {
            entry.end = end;
        }
    }

    fn gaps(&self) -> impl DoubleEndedIterator<Item = Gap> + '_ {
        (0..=self.entries.len()).map(|at| {
            let before = at.checked_sub(1).and_then(|at| self.entries.get(at));
            let before = before.map_or(Edge { at: self.limits.start, guard: None }, |e| Edge {
                at: e.end,
                guard: Some(u64::from(e.guard) * 4096),
            });
            let after = self.entries.get(at);
            let after = after.map_or(Edge { at: self.limits.end, guard: None }, |e| Edge {
                at: e.start,
                guard: Some(u64::from(e.guard) * 4096),
            });
            Gap { before, after }
        })
    }

    pub(super) fn lowest(&self, wish: &Wish, lo: u64, hi: u64) -> Option<u64> {
        self.gaps().find_map(|gap| gap.lowest(wish, lo, hi))
    }

    pub(super) fn highest(&self, wish: &Wish, lo: u64, hi: u64) -> Option<u64> {
        self.gaps().rev().find_map(|gap| gap.highest(wish, lo, hi))
    }

    pub(super) fn largest(&self, guard: u64, lo: u64, hi: u64) -> u64 {
        self.gaps().map(|gap| gap.room(guard, lo, hi)).max().unwrap_or(0)
    }

    /// How many bytes from `at` on, below `hi`, a range with guard gaps may have.
    pub(super) fn room_from(&self, guard: u64, at: u64, hi: u64) -> u64 {
        let found = self.gaps().find(|gap| gap.after.at > at);
        found.filter(|gap| gap.usable(guard).0 <= at).map_or(0, |gap| gap.room(guard, at, hi))
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        let ordered = self.entries.windows(2).all(|pair| matches!(pair, [a, b] if a.end <= b.start));
        ordered.then_some(()).ok_or("ranges are not in order")
    }
}
