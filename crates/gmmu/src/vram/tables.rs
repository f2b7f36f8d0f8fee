//! Memory for page tables: whole chunks, and 256-byte pieces of chunks for the tables of 64K pages.

use super::extent::{Extent, State};
use super::request::{Place, Request};
use super::Vram;
use crate::addr::{TableAddr, VramAddr, PAGE_BYTES};
use crate::device::{NoTableMemory, TablePool};
use crate::storage::{List, NoMemory};

/// Size of a piece: a table of 32 entries of 8 bytes, for 64K pages.
pub const PIECE_BYTES: u64 = 256;

/// A chunk that is shared by tables of 64K pages.
#[derive(Clone, Copy, Debug)]
struct Page {
    at: VramAddr,
    /// Pieces in use, one bit each; never 0.
    used: u16,
}

/// The chunks that are cut into pieces, in the order of their addresses. One table covers 2 MiB of addresses, so room
/// for one page per 32 MiB of video memory maps all of it once. Where the room is used up, a piece gets a chunk of its
/// own: wasteful, but never a failure, and never a call to the heap.
#[derive(Debug)]
pub struct TablePages {
    pages: List<Page>,
    /// Pages with a free piece.
    partly: usize,
    /// Bytes in use as tables of either size.
    bytes: u64,
    refused: u64,
}

impl TablePages {
    /// Room for `pages` chunks that are cut into pieces, 16 bytes each.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn new(pages: usize) -> Result<Self, NoMemory> {
        let mut room = List::new();
        room.reserve_exact(pages)?;
        Ok(Self { pages: room, partly: 0, bytes: 0, refused: 0 })
    }

    /// Room for the pieces that map all of `vram` once with 64K pages, and half as much again.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn for_vram(vram: &Vram) -> Result<Self, NoMemory> {
        let pages = vram.total_bytes() >> 25;
        Self::new(usize::try_from(pages + pages / 2).map_err(|_| NoMemory)?.max(64))
    }

    /// The pool of table memory that these pages and `vram` are together.
    pub fn pool<'v>(&'v mut self, vram: &'v mut Vram) -> VramTables<'v> {
        VramTables { vram, pages: self }
    }

    /// Chunks that are cut into pieces.
    #[must_use]
    pub fn shared_pages(&self) -> usize {
        self.pages.len()
    }

    /// Bytes that are in use as tables of either size.
    #[must_use]
    pub const fn table_bytes(&self) -> u64 {
        self.bytes
    }

    /// Calls of [`TablePool::give`] with something that was never taken. They change nothing else.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes a piece of a page that has one, from the page nearest to `near`.
    fn take_piece(&mut self, near: VramAddr) -> Option<VramAddr> {
        if self.partly == 0 {
            return None;
        }
        let middle = self.pages.partition_point(|page| page.at.raw() / PAGE_BYTES < near.raw() / PAGE_BYTES);
        let (below, above) = (self.pages.get(..middle)?, self.pages.get(middle..)?);
        let has_room = |page: &Page| page.used != u16::MAX;
        // Tables are wanted behind `near`: only where there is no room, before it.
        let found = above.iter().position(has_room).map(|index| middle + index);
        let index = found.or_else(|| below.iter().rposition(has_room))?;
        let page = self.pages.as_mut_slice().get_mut(index)?;
        let piece = page.used.trailing_ones();
        page.used |= 1 << piece;
        self.partly -= usize::from(page.used == u16::MAX);
        page.at.checked_add(u64::from(piece) * PIECE_BYTES)
    }

    /// Remembers a new page with its first piece taken; without room it stays whole.
    fn add_page(&mut self, at: VramAddr) {
        let index = self.pages.partition_point(|page| page.at < at);
        if self.pages.insert_within(index, Page { at, used: 1 }).is_ok() {
            self.partly += 1;
        }
    }

    /// Gives a piece back. `Some(true)` where its page is empty now and was forgotten, `None` where it is no piece in use.
    fn give_piece(&mut self, at: VramAddr) -> Option<bool> {
        let index = self.find(at)?;
        let page = self.pages.as_mut_slice().get_mut(index)?;
        let bit = 1u16 << (at.raw() % PAGE_BYTES / PIECE_BYTES);
        if at.raw() % PIECE_BYTES != 0 || page.used & bit == 0 {
            return None;
        }
        self.partly += usize::from(page.used == u16::MAX);
        page.used &= !bit;
        let empty = page.used == 0;
        if empty {
            self.partly -= 1;
            self.pages.remove(index);
        }
        Some(empty)
    }

    fn find(&self, at: VramAddr) -> Option<usize> {
        let page = at.raw() / PAGE_BYTES;
        self.pages.binary_search_by_key(&page, |shared| shared.at.raw() / PAGE_BYTES).ok()
    }
}

/// A [`Vram`] with its [`TablePages`], for the time of a call that needs table memory.
#[derive(Debug)]
pub struct VramTables<'v> {
    vram: &'v mut Vram,
    pages: &'v mut TablePages,
}

impl VramTables<'_> {
    /// Takes one chunk: the first behind `near`, or the lowest.
    fn take_chunk(&mut self, near: Option<VramAddr>) -> Option<VramAddr> {
        let place = near.map_or(Place::Best, Place::Near);
        let request = Request::new(PAGE_BYTES).place(place).build().ok()?;
        self.vram.alloc_contiguous(&request).ok().map(|chunk| chunk.start())
    }

    fn give_chunk(&mut self, at: VramAddr) -> bool {
        self.vram.free(Extent::new(at, PAGE_BYTES), State::Dirty).is_ok()
    }
}

impl TablePool for VramTables<'_> {
    /// Takes a whole chunk, or a piece of one that is shared; never more memory than `bytes` where a shared page has room.
    /// `near` counts only where it is in video memory.
    fn take(&mut self, bytes: u64, near: Option<TableAddr>) -> Result<TableAddr, NoTableMemory> {
        let near = match near {
            Some(TableAddr::Vram(at)) => Some(at),
            _ => None,
        };
        let taken = match bytes {
            PAGE_BYTES => self.take_chunk(near),
            PIECE_BYTES => self.pages.take_piece(near.unwrap_or_default()).or_else(|| {
                let page = self.take_chunk(near)?;
                self.pages.add_page(page);
                Some(page)
            }),
            _ => None,
        };
        let at = taken.ok_or(NoTableMemory { bytes })?;
        self.pages.bytes += bytes;
        Ok(at.into())
    }

    /// Gives a table back. What was never taken is counted in [`TablePages::refused`] and otherwise left alone.
    fn give(&mut self, at: TableAddr, bytes: u64) {
        let TableAddr::Vram(at) = at else {
            self.pages.refused += 1;
            return;
        };
        let shared = self.pages.find(at).is_some();
        let given = match bytes {
            PAGE_BYTES => !shared && self.give_chunk(at),
            PIECE_BYTES if shared => match self.pages.give_piece(at) {
                Some(true) => self.give_chunk(VramAddr::new(at.raw() / PAGE_BYTES * PAGE_BYTES)),
                given => given.is_some(),
            },
            // A piece that got a chunk of its own.
            PIECE_BYTES => self.give_chunk(at),
            _ => false,
        };
        if given {
            self.pages.bytes = self.pages.bytes.saturating_sub(bytes);
        } else {
            self.pages.refused += 1;
        }
    }

    fn give_run(&mut self, at: TableAddr, bytes: u64, count: u64) {
        if let (TableAddr::Vram(start), PAGE_BYTES, true) = (at, bytes, self.pages.pages.is_empty()) {
            let all = count.saturating_mul(bytes);
            if self.vram.free_chunks(Extent::new(start, all), State::Dirty).is_ok() {
                self.pages.bytes = self.pages.bytes.saturating_sub(all);
                return;
            }
        }
        for n in 0..count {
            self.give(at.with_raw(at.raw().wrapping_add(n.wrapping_mul(bytes))), bytes);
        }
    }
}
