//! Taking memory back: whole allocations, parts of them, and by way of the quarantine.

use super::cells::{spans, WORD};
use super::extent::{Extent, Quarantined, State};
use super::leaf;
use super::request::FreeError;
use super::Vram;
use crate::addr::{VramAddr, PAGE_BYTES};

impl Vram {
    /// Takes one allocation back. Allocates nothing and fails only where `extent` is not exactly an allocation that is in
    /// use. (An allocation that was freed and handed out again with the same start and size is not told apart from the
    /// first.)
    ///
    /// # Errors
    /// See [`FreeError`].
    pub fn free(&mut self, extent: Extent, state: State) -> Result<(), FreeError> {
        let (start, len) = self.owned(extent)?;
        self.give(start, len, state);
        Ok(())
    }

    /// Takes neighbours of one chunk each back, all that lie in `extent`, as if one by one.
    ///
    /// # Errors
    /// [`FreeError`], as for the first of them that is not exactly such an allocation; nothing was freed.
    pub fn free_chunks(&mut self, extent: Extent, state: State) -> Result<(), FreeError> {
        extent.chunks().ok_or(FreeError::Misaligned)?;
        let (start, len) = self.local(extent).ok_or(FreeError::Foreign)?;
        let special = |index| self.leaf(index).is_special();
        let plain = !(start / leaf::CHUNKS..(start + len).div_ceil(leaf::CHUNKS)).any(special);
        let alone = spans(start, len).all(|(word, mask)| {
            let cell = self.cell(word);
            cell.free & mask == 0 && cell.mark & mask == mask
        });
        let ends = self.allocation_end(start + len.saturating_sub(1), self.end) == start + len;
        if plain && alone && ends {
            self.give(start, len, state);
            return Ok(());
        }
        let chunk = |n: u32| chunk_of(extent, n);
        for n in 0..len {
            self.verify(chunk(n))?;
        }
        for n in 0..len {
            self.free(chunk(n), state)?;
        }
        Ok(())
    }

    /// Takes a part of an allocation back; what is left on either side are allocations of their own, in order.
    ///
    /// # Errors
    /// [`FreeError::NotAPart`] where `part` does not lie in `extent`, [`FreeError::Misaligned`] where it is not whole
    /// chunks; otherwise as [`free`](Self::free).
    pub fn free_part(&mut self, extent: Extent, part: Extent, state: State) -> Result<[Option<Extent>; 2], FreeError> {
        let (start, len) = self.owned(extent)?;
        part.chunks().ok_or(FreeError::Misaligned)?;
        let (from, count) = self.local(part).ok_or(FreeError::NotAPart)?;
        let (end, to) = (start + len, from + count);
        if from < start || to > end {
            return Err(FreeError::NotAPart);
        }
        if to < end {
            self.mark_start(to);
        }
        self.give(from, count, state);
        let rest = |lo: u32, hi: u32| (lo < hi).then(|| self.extent(lo, hi - lo).with_cleared(extent.is_cleared()));
        Ok([rest(start, from), rest(to, end)])
    }

    /// Makes two allocations of one: its first `bytes`, and the others.
    ///
    /// # Errors
    /// [`FreeError::NotAPart`] where one of them would be empty, [`FreeError::Misaligned`] where `bytes` is not a multiple
    /// of 4 KiB; otherwise as [`free`](Self::free).
    pub fn split(&mut self, extent: Extent, bytes: u64) -> Result<(Extent, Extent), FreeError> {
        let (start, len) = self.owned(extent)?;
        if bytes % PAGE_BYTES != 0 {
            return Err(FreeError::Misaligned);
        }
        let first = u32::try_from(bytes / PAGE_BYTES).ok().filter(|&first| first != 0 && first < len);
        let first = first.ok_or(FreeError::NotAPart)?;
        self.mark_start(start + first);
        let part = |at: u32, len: u32| self.extent(at, len).with_cleared(extent.is_cleared());
        Ok((part(start, first), part(start + first, len - first)))
    }

    /// Puts an allocation into quarantine: still taken, counted apart, for memory that the GPU may still reach.
    ///
    /// # Errors
    /// As [`free`](Self::free).
    pub fn quarantine(&mut self, extent: Extent) -> Result<Quarantined, FreeError> {
        let (_, len) = self.owned(extent)?;
        self.quarantined += u64::from(len);
        Ok(Quarantined(extent))
    }

    /// Takes memory back that was in quarantine.
    ///
    /// # Errors
    /// As [`free`](Self::free); only where somebody freed the extent behind the quarantine's back.
    pub fn release(&mut self, quarantined: Quarantined, state: State) -> Result<(), FreeError> {
        let Quarantined(extent) = quarantined;
        self.quarantined = self.quarantined.saturating_sub(extent.bytes() / PAGE_BYTES);
        self.free(extent, state)
    }

    /// Whether `extent` is exactly one allocation that is in use.
    ///
    /// # Errors
    /// Says why it is not, see [`FreeError`].
    pub fn verify(&mut self, extent: Extent) -> Result<(), FreeError> {
        self.owned(extent).map(|_| ())
    }

    /// First chunk and length of an extent inside the span.
    pub(super) fn local(&self, extent: Extent) -> Option<(u32, u32)> {
        let (start, len) = extent.chunks()?;
        let start = start.checked_sub(self.origin)?;
        if start.checked_add(len)? > u64::from(self.end) {
            return None;
        }
        Some((u32::try_from(start).ok()?, u32::try_from(len).ok()?))
    }

    /// First chunk and length of an allocation that is in use.
    fn owned(&mut self, extent: Extent) -> Result<(u32, u32), FreeError> {
        extent.chunks().ok_or(FreeError::Misaligned)?;
        let (start, len) = self.local(extent).ok_or(FreeError::Foreign)?;
        if self.leaf(start / leaf::CHUNKS).is_special() && !self.is_managed(start) {
            return Err(FreeError::Foreign);
        }
        let (cell, bit) = (self.cell(start / WORD), 1u64 << (start % WORD));
        if cell.free & bit != 0 {
            return Err(FreeError::NotAllocated);
        }
        if cell.mark & bit == 0 {
            return Err(FreeError::NotAStart);
        }
        // Most often the next chunk is in the same word and says that a single chunk ends here.
        if len == 1 && (cell.free | cell.mark) & bit << 1 != 0 {
            return Ok((start, len));
        }
        if self.allocation_end(start, start + len + 1) == start + len {
            return Ok((start, len));
        }
        let chunks = self.allocation_end(start, self.end) - start;
        Err(FreeError::WrongSize { allocated: u64::from(chunks) * PAGE_BYTES })
    }

    /// The end of the allocation that starts at `start`, looked for up to `limit`.
    fn allocation_end(&mut self, start: u32, limit: u32) -> u32 {
        let limit = limit.min(self.end);
        let first = (start + 1) / WORD;
        let cells = self.cells.get(first as usize..limit.div_ceil(WORD) as usize).unwrap_or_default();
        let mut mask = u64::MAX << ((start + 1) % WORD);
        for (word, cell) in (first..).zip(cells) {
            let border = (cell.free | cell.mark) & mask;
            mask = u64::MAX;
            if border != 0 {
                self.touched += 2 * u64::from(word - first + 1);
                return limit.min(word * WORD + border.trailing_zeros());
            }
        }
        self.touched += 2 * cells.len() as u64;
        limit
    }

    fn give(&mut self, start: u32, len: u32, state: State) {
        let cleared = state == State::Cleared;
        if len == 1 {
            self.give_one(start, cleared);
        } else {
            self.give_bits(start, len, cleared);
        }
        if !self.retired.is_empty() {
            self.withdraw_pending(start, start + len);
        }
    }
}

/// Chunk `n` of an extent.
fn chunk_of(extent: Extent, n: u32) -> Extent {
    let at = extent.start().raw() + u64::from(n) * PAGE_BYTES;
    Extent::new(VramAddr::new(at), PAGE_BYTES)
}
