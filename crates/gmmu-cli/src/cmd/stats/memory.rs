//! Which parts of video memory are mapped.

use schemars::JsonSchema;
use serde::Serialize;

use crate::notation::Address;

/// Spans that are kept.
const MOST: usize = 1 << 22;

/// Spans of memory, as they come.
#[derive(Debug, Default)]
pub(super) struct Spans {
    spans: Vec<(u64, u64)>,
    truncated: bool,
}

/// What is mapped of video memory. Sizes are bytes.
#[derive(Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub(super) struct MemoryUse {
    /// Bytes of memory that are mapped, each counted once.
    pub(super) mapped: u64,
    /// Bytes of addresses that lead to memory which another address leads to as well.
    pub(super) aliased: u64,
    /// Runs of memory without a gap.
    pub(super) pieces: u64,
    pub(super) lowest: Option<Address>,
    pub(super) end: Option<Address>,
    /// How much memory there is, where that is known; the next two as well.
    pub(super) bytes: Option<u64>,
    pub(super) unmapped: Option<u64>,
    pub(super) largest_hole: Option<u64>,
}

impl Spans {
    pub(super) fn add(&mut self, start: u64, bytes: u64) {
        if self.spans.len() < MOST {
            self.spans.push((start, start.saturating_add(bytes)));
        } else {
            self.truncated = true;
        }
    }

    pub(super) const fn truncated(&self) -> bool {
        self.truncated
    }

    /// Puts the spans together.
    pub(super) fn usage(mut self, bytes: Option<u64>) -> MemoryUse {
        self.spans.sort_unstable();
        let (mut mapped, mut all, mut pieces, mut hole, mut end) = (0, 0_u64, 0, 0, 0);
        for &(start, stop) in &self.spans {
            all = all.saturating_add(stop - start);
            if pieces == 0 || start > end {
                hole = start.saturating_sub(end).max(hole);
                pieces += 1;
                mapped += stop - start;
                end = stop;
            } else if stop > end {
                mapped += stop - end;
                end = stop;
            }
        }
        let lowest = self.spans.first().map(|&(start, _)| Address(start));
        MemoryUse {
            mapped,
            aliased: all - mapped,
            pieces,
            lowest,
            end: lowest.map(|_| Address(end)),
            bytes,
            unmapped: bytes.map(|bytes| bytes.saturating_sub(mapped)),
            largest_hole: bytes.map(|bytes| bytes.saturating_sub(end).max(hole)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a byte for every byte of a small memory.
        #[test]
        fn spans_are_counted_right(spans in prop::collection::vec((0_usize..200, 1_usize..50), 0..20)) {
            let (mut times, mut list) = ([0_u64; 256], Spans::default());
            for &(start, bytes) in &spans {
                list.add(start as u64, bytes as u64);
                times[start..start + bytes].iter_mut().for_each(|times| *times += 1);
            }
            let usage = list.usage(Some(256));
            let mapped = times.iter().filter(|&&times| times > 0).count() as u64;
            prop_assert_eq!(usage.mapped, mapped);
            prop_assert_eq!(usage.unmapped, Some(256 - mapped));
            prop_assert_eq!(usage.aliased, times.iter().sum::<u64>() - mapped);
            let holes = times.split(|&times| times > 0).map(<[u64]>::len).max().unwrap_or(0);
            prop_assert_eq!(usage.largest_hole, Some(holes as u64));
            let pieces = times.split(|&times| times == 0).filter(|piece| !piece.is_empty()).count();
            prop_assert_eq!(usage.pieces, pieces as u64);
        }
    }
}
