//! Handing out memory.

use super::extent::{Contiguous, Extent};
use super::request::{AllocError, Cleared, InvalidRequest, Place, Request};
use super::search::Bounds;
use super::Vram;
use crate::addr::PAGE_BYTES;

impl Vram {
    /// Hands out memory as `request` says, into the front of `pieces`, whose length limits their number. The pieces that
    /// are returned are sorted by address, none touches the next, and together they have exactly the size.
    ///
    /// # Errors
    /// [`AllocError::NoSpace`] where no placement exists, [`AllocError::InvalidRequest`] where `pieces` is empty. Nothing
    /// was handed out; `pieces` may have been written to.
    pub fn alloc<'p>(&mut self, request: &Request, pieces: &'p mut [Extent]) -> Result<&'p [Extent], AllocError> {
        let limit = request.pieces.min(pieces.len());
        if limit == 0 {
            return Err(InvalidRequest::NoPieces.into());
        }
        if request.chunks == 1 && request.align_mask == 0 {
            let chunk = self.alloc_chunk(request)?;
            let pieces = pieces.get_mut(..1).unwrap_or_default();
            pieces.fill(chunk);
            return Ok(pieces);
        }
        let bounds = self.bounds(request);
        let clear = Bounds { only_clear: true, ..bounds };
        let taken = match request.cleared {
            Cleared::Any => self.take(request, bounds, limit, pieces),
            Cleared::Require => self.take(request, clear, limit, pieces),
            Cleared::Prefer => {
                let taken = self.take(request, clear, limit, pieces);
                taken.or_else(|_| self.take(request, bounds, limit, pieces))
            }
        };
        let count = taken.map_err(|chunks| AllocError::NoSpace { largest: chunks * PAGE_BYTES })?;
        Ok(pieces.get(..count).unwrap_or_default())
    }

    /// Hands out memory as `request` says, in one piece.
    ///
    /// # Errors
    /// [`AllocError::NoSpace`] where no placement exists. Nothing was handed out.
    pub fn alloc_contiguous(&mut self, request: &Request) -> Result<Contiguous, AllocError> {
        let mut piece = [Extent::default()];
        self.alloc(request, &mut piece)?;
        let [piece] = piece;
        Ok(Contiguous(piece))
    }

    fn bounds(&self, request: &Request) -> Bounds {
        let local = |chunk: u64| u32::try_from(chunk.saturating_sub(self.origin)).unwrap_or(self.end).min(self.end);
        let align = self.align(request.align_mask);
        Bounds { align, lo: local(request.lo), hi: local(request.hi), only_clear: false }
    }

    /// One chunk with no alignment of its own.
    fn alloc_chunk(&mut self, request: &Request) -> Result<Extent, AllocError> {
        let bounds = self.bounds(request);
        let clear = Bounds { only_clear: true, ..bounds };
        let chunk = match request.cleared {
            Cleared::Any => self.find_one(bounds, request.place),
            Cleared::Require => self.find_one(clear, request.place),
            Cleared::Prefer => {
                let found = self.find_one(clear, request.place);
                found.or_else(|| self.find_one(bounds, request.place))
            }
        };
        let chunk = chunk.ok_or(AllocError::NoSpace { largest: 0 })?;
        let cleared = self.take_one(chunk);
        Ok(self.extent(chunk, 1).with_cleared(cleared))
    }

    /// Hands out the chunks for `request` and writes the pieces down. Returns their number, or how many
    /// chunks it could have got, with nothing taken.
    fn take(&mut self, request: &Request, bounds: Bounds, limit: usize, pieces: &mut [Extent]) -> Result<usize, u64> {
        if bounds.only_clear && limit > 1 {
            if let Some(count) = self.take_cleared_in_order(request, bounds, limit, pieces) {
                return Ok(count);
            }
        }
        let mut left = request.chunks;
        for (count, piece) in pieces.iter_mut().take(limit).enumerate() {
            if let Some((at, len)) = self.find_all(left, bounds, request.place) {
                if count == 0 {
                    *piece = self.extent(at, len).with_cleared(self.claim(at, len));
                    return Ok(1);
                }
                self.take_bits(at, len);
                *piece = self.extent(at, len);
                return Ok(self.finish(pieces, count + 1));
            }
            let longest = self.find_longest(request.granule, bounds, request.place == Place::High);
            let Some((at, len)) = longest else {
                self.undo(pieces, count);
                return Err(request.chunks - left);
            };
            left -= u64::from(len);
            if count + 1 == limit {
                self.undo(pieces, count);
                return Err(request.chunks - left);
            }
            self.take_bits(at, len);
            *piece = self.extent(at, len);
        }
        Err(0)
    }

    /// A place for all of the `chunks`.
    fn find_all(&mut self, chunks: u64, bounds: Bounds, place: Place) -> Option<(u32, u32)> {
        let len = u32::try_from(chunks).ok()?;
        let most = if bounds.only_clear { self.clear } else { self.free };
        if len > most {
            return None;
        }
        self.find(len, bounds, place).map(|at| (at, len))
    }

    /// Takes cleared runs in the order of their addresses, where `limit` pieces are enough that way; otherwise takes
    /// nothing. One pass, however broken up the cleared memory is.
    fn take_cleared_in_order(
        &mut self,
        request: &Request,
        bounds: Bounds,
        limit: usize,
        pieces: &mut [Extent],
    ) -> Option<usize> {
        if request.chunks > u64::from(self.clear) {
            return None;
        }
        let granule = u32::try_from(request.granule).ok()?;
        if let Some((at, len)) = self.find_all(request.chunks, bounds, request.place) {
            *pieces.first_mut()? = self.extent(at, len).with_cleared(self.claim(at, len));
            return Some(1);
        }
        let (mut left, mut rest) = (u32::try_from(request.chunks).ok()?, bounds);
        for (count, piece) in pieces.iter_mut().take(limit).enumerate() {
            let Some(at) = self.find_up(granule, rest) else {
                self.undo(pieces, count);
                return None;
            };
            let end = self.run_end(at, bounds.hi, true);
            let len = ((end - at) / granule * granule).min(left);
            self.take_bits(at, len);
            *piece = self.extent(at, len);
            left -= len;
            rest.lo = end;
            if left == 0 {
                return Some(self.finish(pieces, count + 1));
            }
        }
        self.undo(pieces, limit);
        None
    }

    /// Makes the first `count` pieces free again, just as they were.
    fn undo(&mut self, pieces: &[Extent], count: usize) {
        for piece in pieces.iter().take(count) {
            if let Some((start, len)) = self.local(*piece) {
                self.untake_bits(start, len);
            }
        }
    }

    /// Sorts the first `count` pieces, puts neighbours together and makes them allocations; returns how many are left.
    fn finish(&mut self, pieces: &mut [Extent], count: usize) -> usize {
        let Some(pieces) = pieces.get_mut(..count) else { return 0 };
        pieces.sort_unstable_by_key(Extent::start);
        let mut kept = 0;
        for index in 1..count {
            let (Some(&last), Some(&next)) = (pieces.get(kept), pieces.get(index)) else { break };
            let touches = last.end() == Some(next.start());
            if !touches {
                kept += 1;
            }
            if let Some(slot) = pieces.get_mut(kept) {
                *slot = if touches { Extent::new(last.start(), last.bytes() + next.bytes()) } else { next };
            }
        }
        for piece in pieces.iter_mut().take(kept + 1) {
            if let Some((start, len)) = self.local(*piece) {
                *piece = piece.with_cleared(self.mark_allocation(start, len));
            }
        }
        kept + 1
    }
}
