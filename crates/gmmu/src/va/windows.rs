//! Sets of address windows: few, sorted, disjoint, not touching.

use core::ops::Range;

use crate::storage::{List, NoMemory};

/// How much of a range a set of windows covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cover {
    None,
    Part,
    Full,
}

/// Adds a window to a list in order; those that touch become one. An empty one adds nothing.
pub(crate) fn add(list: &mut List<Range<u64>>, window: Range<u64>) -> Result<(), NoMemory> {
    if window.start >= window.end {
        return Ok(());
    }
    list.reserve(1)?;
    // Most come in order.
    let first = match list.last() {
        Some(last) if last.end >= window.start => list.partition_point(|old| old.end < window.start),
        _ => return list.push_within(window).map_err(|_| NoMemory),
    };
    let mut merged = window;
    while let Some(old) = list.get(first).filter(|old| old.start <= merged.end) {
        merged = merged.start.min(old.start)..merged.end.max(old.end);
        list.remove(first);
    }
    list.insert_within(first, merged).map_err(|_| NoMemory)
}

/// The parts of `span` that lie in `list`, which is in order.
pub(crate) fn overlapping(list: &[Range<u64>], span: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
    let first = list.partition_point(|window| window.end <= span.start);
    let rest = list.get(first..).unwrap_or_default().iter();
    let Range { start, end } = span;
    rest.take_while(move |window| window.start < end).map(move |window| window.start.max(start)..window.end.min(end))
}

#[derive(Debug, Default)]
pub(crate) struct Windows {
    list: List<Range<u64>>,
}

impl Windows {
    pub(crate) const fn new() -> Self {
        Self { list: List::new() }
    }

    pub(crate) fn add(&mut self, window: Range<u64>) -> Result<(), NoMemory> {
        add(&mut self.list, window)
    }

    pub(crate) fn subtract(&mut self, window: Range<u64>) -> Result<(), NoMemory> {
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

    /// Makes room so that `extra` calls of `add` and `subtract` cannot fail.
    pub(crate) fn reserve(&mut self, extra: usize) -> Result<(), NoMemory> {
        self.list.reserve(extra)
    }

    /// Takes all windows out; the room stays.
    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    /// The same windows once more.
    pub(crate) fn copy(&self) -> Result<Self, NoMemory> {
        let mut list = List::new();
        list.reserve_exact(self.list.len())?;
        for window in self.list.iter() {
            list.push(window.clone())?;
        }
        Ok(Self { list })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The windows that share a byte with `range`, clipped to it, in order.
    pub(crate) fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        overlapping(&self.list, range)
    }

    /// How much of `range` is covered.
    pub(crate) fn cover(&self, range: Range<u64>) -> Cover {
        match self.overlapping(range.clone()).next() {
            None => Cover::None,
            Some(part) if part == range => Cover::Full,
            Some(_) => Cover::Part,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.list.iter().cloned()
    }

    /// What is left of `bounds`, in order; parts may be empty.
    pub(crate) fn allowed(&self, bounds: Range<u64>) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        let first = self.list.partition_point(|old| old.end <= bounds.start);
        let behind = self.list.partition_point(|old| old.start < bounds.end).max(first);
        (first..=behind).map(move |at| {
            let left = if at == first { None } else { at.checked_sub(1).and_then(|at| self.list.get(at)) };
            let right = if at == behind { None } else { self.list.get(at) };
            left.map_or(bounds.start, |old| old.end)..right.map_or(bounds.end, |old| old.start)
        })
    }

    pub(crate) fn footprint(&self) -> usize {
        self.list.footprint()
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let filled = self.list.iter().all(|window| window.start < window.end);
        let apart = self.list.windows(2).all(|pair| matches!(pair, [a, b] if a.end < b.start));
        (filled && apart).then_some(()).ok_or("excluded windows are not in order")
    }
}
