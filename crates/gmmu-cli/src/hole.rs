//! The hole around an address that is not mapped, and what lies on its two sides.

use std::ops::Range;

use gmmu::device::TableRead;
use gmmu::format::Format;
use gmmu::walk::WalkError;

use crate::ranges::Mapped;
use crate::scan::{Barren, Scan, Space};

/// The unmapped addresses around one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// First unmapped address.
    pub start: u64,
    /// First address behind the hole.
    pub end: u64,
    /// The nearest mapping below.
    pub below: Option<Mapped>,
    /// The nearest mapping above.
    pub above: Option<Mapped>,
}

/// Finds the hole around `va`, which is not mapped.
///
/// # Errors
/// Those of the scans: the search was too long, or the memory failed.
pub fn around<F: Format, M: TableRead>(memory: &mut M, space: Space, va: u64) -> Result<Hole, WalkError> {
    let mut search = Search { memory, space, barren: Barren::default() };
    let end = 1 << F::VA_BITS;
    let above = search.first::<F>(va..end)?;
    let below = search.last_before::<F>(va)?;
    Ok(Hole { start: below.map_or(0, |below| below.end()), end: above.map_or(end, |above| above.va), below, above })
}

struct Search<'a, M> {
    memory: &'a mut M,
    space: Space,
    barren: Barren,
}

impl<M: TableRead> Search<'_, M> {
    /// The first mapping in `range`.
    fn first<F: Format>(&mut self, range: Range<u64>) -> Result<Option<Mapped>, WalkError> {
        let mut scan = Scan::<F>::new(self.space, range, &mut self.barren)?;
        while let Some((va, step)) = scan.next(self.memory)? {
            if let Some(mapped) = Mapped::of(va, &step) {
                return Ok(Some(mapped));
            }
        }
        Ok(None)
    }

    /// The last mapping in `range`, by going through all of them: for a small range.
    fn last<F: Format>(&mut self, range: Range<u64>) -> Result<Option<Mapped>, WalkError> {
        let mut scan = Scan::<F>::new(self.space, range, &mut self.barren)?;
        let mut last = None;
        while let Some((va, step)) = scan.next(self.memory)? {
            last = Mapped::of(va, &step).or(last);
        }
        Ok(last)
    }

    /// The last mapping that ends at or below `va`. Goes outwards: first through the 2 MiB around the address, then
    /// through the 512 MiB, and so on; in each through the pieces of the next smaller span, backwards.
    fn last_before<F: Format>(&mut self, va: u64) -> Result<Option<Mapped>, WalkError> {
        let mut end = va;
        for (number, level) in F::LEVELS.iter().enumerate().rev() {
            let start = va & !(level.span() - 1);
            if let Some(found) = self.last_in::<F>(start..end, number + 1)? {
                return Ok(Some(found));
            }
            end = start;
        }
        self.last_in::<F>(0..end, 0)
    }

    /// The last mapping in `range`, looked for in pieces of one entry of the directory `number`.
    fn last_in<F: Format>(&mut self, range: Range<u64>, number: usize) -> Result<Option<Mapped>, WalkError> {
        let (mut range, mut number) = (range, number);
        'levels: while !range.is_empty() {
            let Some(level) = F::LEVELS.get(number) else { return self.last::<F>(range) };
            let mut end = range.end;
            while end > range.start {
                let start = ((end - 1) & !(level.span() - 1)).max(range.start);
                if self.first::<F>(start..end)?.is_some() {
                    range = start..end;
                    number += 1;
                    continue 'levels;
                }
                end = start;
            }
            return Ok(None);
        }
        Ok(None)
    }
}
