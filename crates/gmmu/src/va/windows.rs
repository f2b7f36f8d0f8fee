//! Windows in which nothing is placed: few, sorted, disjoint, not touching.

use core::ops::Range;

use crate::storage::{List, NoMemory};

#[derive(Debug)]
pub(super) struct Windows {
    list: List<Range<u64>>,
}

impl Windows {
    pub(super) const fn new() -> Self {
        Self { list: List::new() }
    }

    pub(super) fn add(&mut self, window: Range<u64>) -> Result<(), NoMemory> {
        if window.start >= window.end {
            return Ok(());
        }
        self.list.reserve(1)?;
        let first = self.list.partition_point(|old| old.end < window.start);
        let mut merged = window;
        while let Some(old) = self.list.get(first).filter(|old| old.start <= merged.end) {
            merged = merged.start.min(old.start)..merged.end.max(old.end);
            self.list.remove(first);
        }
        self.list.insert_within(first, merged).map_err(|_| NoMemory)
    }

    pub(super) fn subtract(&mut self, window: Range<u64>) -> Result<(), NoMemory> {
        if window.start >= window.end {
            return Ok(());
        }
        self.list.reserve(1)?;
        let mut at = self.list.partition_point(|old| old.end <= window.start);
        while let Some(old) = self.list.get(at).filter(|old| old.start < window.end).cloned() {
            self.list.remove(at);
            // Only the first window can stick out below and only the last one above, so that one more place is enough.
            if old.start < window.start {
                self.list.insert_within(at, old.start..window.start).map_err(|_| NoMemory)?;
                at = at.saturating_add(1);
            }
            if old.end > window.end {
                self.list.insert_within(at, window.end..old.end).map_err(|_| NoMemory)?;
                break;
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.list.iter().cloned()
    }

    /// What is left of `bounds`, in order; parts may be empty.
    pub(super) fn allowed(&self, bounds: Range<u64>) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        let first = self.list.partition_point(|old| old.end <= bounds.start);
        let behind = self.list.partition_point(|old| old.start < bounds.end).max(first);
        (first..=behind).map(move |at| {
            let left = if at == first { None } else { at.checked_sub(1).and_then(|at| self.list.get(at)) };
            let right = if at == behind { None } else { self.list.get(at) };
            left.map_or(bounds.start, |old| old.end)..right.map_or(bounds.end, |old| old.start)
        })
    }

    pub(super) fn footprint(&self) -> usize {
        self.list.footprint()
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        let filled = self.list.iter().all(|window| window.start < window.end);
        let apart = self.list.windows(2).all(|pair| matches!(pair, [a, b] if a.end < b.start));
        (filled && apart).then_some(()).ok_or("excluded windows are not in order")
    }
}
