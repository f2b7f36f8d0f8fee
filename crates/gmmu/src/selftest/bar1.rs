//! Self-tests of BAR1: does the GPU's MMU follow the tables?
//!
//! [`run`] maps pages through a [`Bar1`] that is bound and in use, writes on one way and reads on the other, through BAR1
//! and through PRAMIN. It takes its own mappings out again; where the device fails at that they stay, poisoned, with the
//! owner `"self-test"`. Some checks access what is not mapped, or write what is read-only: the GPU reports faults of BAR1.

use core::ops::Range;

use super::{base_of, Bench, Check, Seen, SelftestError, Sight, Tally};
use crate::addr::{PhysAddr, TableAddr, VramAddr, PAGE_BYTES};
use crate::bar1::{AccessError, Bar1, MapError, MapFailed, MappingId};
use crate::device::{Bar0, Bar1Aperture, Clock, DeviceError, SysPath, TableMemory, TablePool, TableRead, Width};
use crate::format::{Flags, Format};
use crate::mmio::Mmio;
use crate::storage::List;
use crate::vmm::{Extent, MapRequest};
use crate::vram::{self, Place, Request, Vram};
use crate::walk::Outcome;

/// Pages of the memory that are used: 64 KiB for single ones, and 36 KiB for blocks around a hole.
const PAGES: u64 = 25;
/// Words at the start of each of them that may be changed.
const WORDS: usize = 72;
/// Where a 2 MiB border of the aperture is looked for, at most.
const BORDERS: u64 = 16;
const BORDER: u64 = 2 << 20;

/// Runs every check through `bar1`, which is bound to the card behind `mmio`, and hands each result to `report`.
///
/// Run [`pramin`](super::pramin)'s checks first: with a window that does not go where it says, nobody knows what is written.
///
/// Writes only to `memory`, byte addresses of video memory that nobody else uses: [`BYTES_MIN`](super::BYTES_MIN) at
/// least. `own` makes, for a part of it, what `bar1` keeps while that is mapped. Tables come from `pool`.
///
/// # Errors
/// [`SelftestError`] where no check could be made. A card that fails a check, or stops answering, is no error.
pub fn run<B, S, F, T, P>(
    mmio: &mut Mmio<B, S>,
    bar1: &mut Bar1<F, T>,
    pool: &mut P,
    memory: Range<u64>,
    own: impl FnMut(Range<u64>) -> T,
    report: impl FnMut(&Check),
) -> Result<Tally, SelftestError>
where
    B: Bar0 + Clock + Bar1Aperture,
    S: SysPath<B>,
    F: Format,
    P: TablePool,
{
    let base = base_of(memory, mmio.vram_bytes(), 1 << 16)?;
    let mut bench = Bench::new(report);
    let taken = bar1.usage().taken;
    let mut bed = Bed { mmio, bar1, pool, own, base };
    let kept = bed.set_aside();
    bench.saved = kept.is_ok();
    let (kept, seen) = match kept {
        Ok(kept) => (kept, Ok(Sight::Readable)),
        Err(why) => (List::new(), Err(why)),
    };
    bench.look("memory can be set aside", Sight::Readable, seen);
    bed.data(&mut bench);
    bed.refusals(&mut bench);
    bed.places(&mut bench);
    bed.rights(&mut bench);
    bed.ends(&mut bench);
    let now = bed.bar1.usage().taken;
    bench.look("the aperture is as full as before", Sight::Amount(taken), Ok::<_, Sight>(Sight::Amount(now)));
    bench.change("what was in memory is back", Sight::Unchanged, &mut bed, |bed| bed.put_back(&kept));
    Ok(bench.tally)
}

/// What the checks work with.
struct Bed<'a, B, S, F: Format, T, P, O> {
    mmio: &'a mut Mmio<B, S>,
    bar1: &'a mut Bar1<F, T>,
    pool: &'a mut P,
    own: O,
    base: u64,
}

impl<B, S, F, T, P, O> Bed<'_, B, S, F, T, P, O>
where
    B: Bar0 + Clock + Bar1Aperture,
    S: SysPath<B>,
    F: Format,
    P: TablePool,
    O: FnMut(Range<u64>) -> T,
{
    fn page(&self, n: u64) -> u64 {
        self.base + n * PAGE_BYTES
    }

    fn extent(&self, n: u64) -> Extent {
        Extent { to: PhysAddr::vram(self.page(n)), bytes: PAGE_BYTES }
    }

    fn map(&mut self, request: &MapRequest<'_>) -> Result<MappingId, MapFailed<T>> {
        let memory = self.base..self.page(PAGES);
        let backing = (self.own)(memory);
        self.bar1.map(self.mmio, self.pool, backing, "self-test", request)
    }

    /// Maps, does `what`, and unmaps whatever came of it.
    fn mapped(&mut self, request: &MapRequest<'_>, what: impl FnOnce(&mut Self, &MappingId) -> Seen) -> Seen {
        let id = self.map(request)?;
        let seen = what(self, &id);
        self.bar1.unmap(&id, self.mmio, self.pool)?;
        seen
    }

    /// The same for one page, readable and writable.
    fn with_page(&mut self, n: u64, what: impl FnOnce(&mut Self, &MappingId) -> Seen) -> Seen {
        let extents = [self.extent(n)];
        self.mapped(&MapRequest::extents(&extents), what)
    }

    fn write(&mut self, id: &MappingId, offset: u64, width: Width, value: u64) -> Result<(), AccessError> {
        self.bar1.write(id, self.mmio.bar0(), offset, width, value)?;
        // What was posted through one BAR has arrived when a read through it comes back.
        self.bar1.read(id, self.mmio.bar0(), offset, width).map(|_| ())
    }

    fn read(&mut self, id: &MappingId, offset: u64, width: Width) -> Result<u64, AccessError> {
        self.bar1.read(id, self.mmio.bar0(), offset, width)
    }

    fn put(&mut self, at: u64, word: u64) -> Result<(), DeviceError> {
        self.mmio.write_vram(at, Width::W32, word)?;
        self.mmio.drain()
    }

    fn get(&mut self, at: u64) -> Result<u64, DeviceError> {
        self.mmio.read_vram(at, Width::W32)
    }

    fn start(&self, id: &MappingId) -> Result<u64, AccessError> {
        Ok(self.bar1.mapping(id)?.range.start)
    }

    /// The contents of all that may be changed.
    fn set_aside(&mut self) -> Result<List<u64>, Sight> {
        let mut kept = List::new();
        kept.extend_with(WORDS * usize::try_from(PAGES).unwrap_or(0), &0)?;
        for (n, words) in (0..).zip(kept.as_mut_slice().chunks_mut(WORDS)) {
            self.mmio.read_words(TableAddr::vram(self.base + n * PAGE_BYTES), words)?;
        }
        Ok(kept)
    }

    fn put_back(&mut self, kept: &List<u64>) -> Seen {
        for (n, words) in (0..).zip(kept.chunks(WORDS)) {
            self.mmio.write_words(TableAddr::vram(self.page(n)), words)?;
        }
        for (n, words) in (0..).zip(kept.chunks(WORDS)) {
            for (at, &word) in (self.page(n)..).step_by(8).zip(words) {
                let value = self.mmio.read_word(TableAddr::vram(at))?;
                if value != word {
                    return Ok(Sight::Changed { at, value });
                }
            }
        }
        Ok(Sight::Unchanged)
    }

    /// Data on both ways. The first two are checks of Linux' nova-core driver.
    fn data(&mut self, bench: &mut Bench<impl FnMut(&Check)>) {
        let bed = self;
        bench.change("a word from PRAMIN is seen through BAR1", Sight::Word(0xdead_beef), bed, |bed| {
            bed.with_page(0, |bed, id| {
                bed.put(bed.page(0) + 0x100, 0xdead_beef)?;
                Ok(Sight::Word(bed.read(id, 0x100, Width::W32)?))
            })
        });
        bench.change("a word from BAR1 is seen through PRAMIN", Sight::Word(0xcafe_babe), bed, |bed| {
            bed.with_page(0, |bed, id| {
                bed.write(id, 0x200, Width::W32, 0xcafe_babe)?;
                Ok(Sight::Word(bed.get(bed.page(0) + 0x200)?))
            })
        });
        let word = 0x8765_4321_1234_ab5f;
        let expected = Sight::Words([word, word, 0x8765_4321, 0x1234]);
        bench.change("8, 16, 32 and 64 bits through BAR1", expected, bed, |bed| {
            bed.with_page(0, |bed, id| {
                bed.write(id, 0x40, Width::W64, 0x0000_0000_0000_005f)?;
                bed.write(id, 0x41, Width::W8, 0xab)?;
                bed.write(id, 0x42, Width::W16, 0x1234)?;
                bed.write(id, 0x44, Width::W32, 0x8765_4321)?;
                let seen = bed.mmio.read_word(TableAddr::vram(bed.page(0) + 0x40))?;
                let parts = [(0x40, Width::W64), (0x44, Width::W32), (0x42, Width::W16)];
                let [wide, high, low] = parts.map(|(offset, width)| bed.read(id, offset, width));
                Ok(Sight::Words([seen, wide?, high?, low?]))
            })
        });
        let expected = Sight::Words([0x0201_0000_0000_0000, 0x0a09_0807_0605_0403, 0x000d_0c0b, 0]);
        bench.change("a slice of odd length at an odd place", expected, bed, |bed| {
            bed.with_page(0, |bed, id| {
                let at = TableAddr::vram(bed.page(0) + 0x80);
                let mut words = [0; 4];
                bed.mmio.write_words(at, &words)?;
                bed.mmio.drain()?;
                let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13];
                let mut back = [0; 13];
                bed.bar1.write_bytes(id, bed.mmio.bar0(), 0x86, &bytes)?;
                bed.bar1.read_bytes(id, bed.mmio.bar0(), 0x86, &mut back)?;
                bed.mmio.read_words(at, &mut words)?;
                let wrong = back.iter().zip(&bytes).find(|(seen, written)| seen != written);
                Ok(wrong.map_or(Sight::Words(words), |(seen, _)| Sight::Allowed(u64::from(*seen))))
            })
        });
    }

    /// What the library refuses by itself.
    fn refusals(&mut self, bench: &mut Bench<impl FnMut(&Check)>) {
        let bed = self;
        let refused = |result: Result<u64, AccessError>| match result {
            Ok(value) => Sight::Allowed(value),
            Err(AccessError::Device(why)) => why.into(),
            Err(_) => Sight::Refused,
        };
        bench.change("an access beyond its mapping is refused", Sight::Refused, bed, |bed| {
            bed.with_page(0, |bed, id| Ok(refused(bed.read(id, PAGE_BYTES, Width::W8))))
        });
        bench.change("a misaligned access is refused", Sight::Refused, bed, |bed| {
            bed.with_page(0, |bed, id| Ok(refused(bed.read(id, 2, Width::W32))))
        });
        bench.change("a mapping that is gone cannot be used", Sight::Refused, bed, |bed| {
            let extents = [bed.extent(0)];
            let id = bed.map(&MapRequest::extents(&extents))?;
            bed.bar1.unmap(&id, bed.mmio, bed.pool)?;
            Ok::<_, Sight>(refused(bed.read(&id, 0, Width::W32)))
        });
        bench.change("more than the largest hole is refused", Sight::Refused, bed, |bed| {
            let bytes = bed.bar1.largest_hole() + PAGE_BYTES;
            bed.no_room(&MapRequest::extents(&[Extent { to: PhysAddr::vram(0), bytes }]))
        });
        bench.change("a place that is taken is refused", Sight::Refused, bed, |bed| {
            bed.with_page(0, |bed, id| {
                let (at, extents) = (bed.start(id)?, [bed.extent(1)]);
                bed.no_room(&MapRequest::extents(&extents).at(at))
            })
        });
    }

    fn no_room(&mut self, request: &MapRequest<'_>) -> Seen {
        let bed = self;
        match bed.map(request) {
            Ok(id) => {
                let at = bed.start(&id)?;
                bed.bar1.unmap(&id, bed.mmio, bed.pool)?;
                Ok(Sight::Allowed(at))
            }
            Err(MapFailed::Refused { why: MapError::NoRoom { .. }, .. }) => Ok(Sight::Refused),
            Err(why) => Err(why.into()),
        }
    }

    /// Which page is where.
    fn places(&mut self, bench: &mut Bench<impl FnMut(&Check)>) {
        let bed = self;
        let page = PhysAddr::vram(bed.page(3));
        bench.change("the tables say where a page is", Sight::Page(page), bed, |bed| {
            bed.with_page(3, |bed, id| {
                let va = bed.start(id)?;
                match bed.bar1.vmm().read_mapping(bed.mmio, va)?.outcome {
                    Outcome::Mapped { to, .. } => Ok(Sight::Page(to)),
                    _ => Ok(Sight::Leads { va, to: None }),
                }
            })
        });
        bench.change("two mappings at once do not mix", Sight::Pair([0x1111_1111, 0x2222_2222]), bed, |bed| {
            bed.with_page(1, |bed, first| {
                bed.with_page(2, |bed, second| {
                    bed.write(first, 0x20, Width::W32, 0x1111_1111)?;
                    bed.write(second, 0x20, Width::W32, 0x2222_2222)?;
                    bed.pair([1, 2], 0x20)
                })
            })
        });
        bench.change("a page that is mapped twice is one page", Sight::Word(0x5a5a_a5a5), bed, |bed| {
            bed.with_page(1, |bed, first| {
                bed.with_page(1, |bed, second| {
                    bed.write(first, 0x24, Width::W32, 0x5a5a_a5a5)?;
                    Ok(Sight::Word(bed.read(second, 0x24, Width::W32)?))
                })
            })
        });
        let order = [5, 2, 7, 3];
        let marks = order.map(|n| 0x0101_0101_0101_0101 * n);
        bench.change("pages in any order", Sight::Words(marks), bed, |bed| {
            let extents = order.map(|n| bed.extent(n));
            bed.mapped(&MapRequest::extents(&extents), |bed, id| {
                for (at, mark) in (0..).step_by(4096).zip(marks) {
                    bed.write(id, at, Width::W64, mark)?;
                }
                let [a, b, c, d] = order.map(|n| bed.mmio.read_word(TableAddr::vram(bed.page(n))));
                Ok(Sight::Words([a?, b?, c?, d?]))
            })
        });
        if bed.bar1.bytes() > BORDER {
            bench.change("two pages across a 2 MiB border", Sight::Pair([0x0aaa_aaaa, 0x0bbb_bbbb]), bed, Self::across);
        }
        bed.blocks(bench);
    }

    /// Two pages, the first before a border where another table begins.
    fn across(&mut self) -> Seen {
        let bed = self;
        let extents = [bed.extent(9), bed.extent(4)];
        let mut refused = Ok(Sight::NotTried);
        for border in 1..=BORDERS {
            let request = MapRequest::extents(&extents).at(border * BORDER - PAGE_BYTES);
            refused = match bed.map(&request) {
                Ok(id) => {
                    let mut write = || {
                        bed.write(&id, PAGE_BYTES, Width::W32, 0x0bbb_bbbb)?;
                        bed.write(&id, 0, Width::W32, 0x0aaa_aaaa)?;
                        bed.pair([9, 4], 0)
                    };
                    let seen = write();
                    bed.bar1.unmap(&id, bed.mmio, bed.pool)?;
                    return seen;
                }
                // Somebody's mapping lies there: the next one.
                Err(why) => Err(why.into()),
            };
        }
        refused
    }

    fn pair(&mut self, pages: [u64; 2], offset: u64) -> Seen {
        let bed = self;
        let mut words = [0; 2];
        for (word, n) in words.iter_mut().zip(pages) {
            *word = u32::try_from(bed.get(bed.page(n) + offset)?).unwrap_or(u32::MAX);
        }
        Ok(Sight::Pair(words))
    }

    /// The check of nova-core's eighth version: memory in several blocks, around a page that is not its own.
    fn blocks(&mut self, bench: &mut Bench<impl FnMut(&Check)>) {
        let bed = self;
        const BYTES: u64 = 32 << 10;
        let mut room = [vram::Extent::default(); 8];
        let allocated = around_a_hole(bed.base, BYTES, &mut room);
        let found: &[vram::Extent] = allocated.as_ref().map_or(&[], |found| found);
        let seen = allocated.as_ref().map(|found| {
            let bytes = found.iter().map(vram::Extent::bytes).sum();
            Sight::Blocks { blocks: found.len(), bytes }
        });
        bench.look(
            "memory around a hole comes in blocks",
            Sight::Blocks { blocks: 2, bytes: BYTES },
            seen.map_err(Clone::clone),
        );
        bench.change("every page of the blocks is in its place", Sight::AsWritten, bed, |bed| {
            let mut ids = List::new();
            ids.reserve(found.len())?;
            let seen = bed.each_block(found, &mut ids);
            // All of them at once, and all of them out again.
            for id in ids.iter() {
                bed.bar1.unmap(id, bed.mmio, bed.pool)?;
            }
            seen
        });
    }

    fn each_block(&mut self, blocks: &[vram::Extent], ids: &mut List<MappingId>) -> Seen {
        let bed = self;
        let pages = |block: &vram::Extent| (block.start().raw()..block.start().raw() + block.bytes()).step_by(4096);
        for block in blocks {
            let extents = [Extent { to: PhysAddr::vram(block.start().raw()), bytes: block.bytes() }];
            let id = bed.map(&MapRequest::extents(&extents))?;
            for (offset, at) in (0..).step_by(4096).zip(pages(block)) {
                bed.write(&id, offset, Width::W64, at)?;
            }
            let _ = ids.push_within(id);
        }
        for at in blocks.iter().flat_map(pages) {
            let value = bed.mmio.read_word(TableAddr::vram(at))?;
            if value != at {
                return Ok(Sight::Changed { at, value });
            }
        }
        Ok(Sight::AsWritten)
    }

    /// What a mapping allows.
    fn rights(&mut self, bench: &mut Bench<impl FnMut(&Check)>) {
        let bed = self;
        let extents = [bed.extent(6)];
        let request = MapRequest::extents(&extents).flags(Flags { read_only: true, ..Flags::NONE });
        bench.change("a read-only page is read", Sight::Word(0x0123_4567), bed, |bed| {
            bed.mapped(&request, |bed, id| {
                bed.put(bed.page(6) + 0x60, 0x0123_4567)?;
                Ok(Sight::Word(bed.read(id, 0x60, Width::W32)?))
            })
        });
        bench.change("a write to a read-only page is lost", Sight::Unchanged, bed, |bed| {
            bed.mapped(&request, |bed, id| {
                let at = bed.start(id)?;
                bed.lost(at, 6)
            })
        });
    }

    /// Writes past the library's own checks at `offset` of the aperture, and looks whether page `n` changed.
    fn lost(&mut self, offset: u64, n: u64) -> Seen {
        let bed = self;
        let at = bed.page(n) + 0x64;
        bed.put(at, 0x7654_3210)?;
        let aperture = bed.mmio.bar0();
        aperture.write_at(offset + 0x64, Width::W32, 0x0bad_cafe)?;
        aperture.read_at(offset + 0x64, Width::W32)?;
        match bed.get(at)? {
            0x7654_3210 => Ok(Sight::Unchanged),
            value => Ok(Sight::Changed { at, value }),
        }
    }

    /// What is there after a mapping has ended.
    fn ends(&mut self, bench: &mut Bench<impl FnMut(&Check)>) {
        let bed = self;
        bench.change("what is unmapped is not reached", Sight::NotReached, bed, |bed| {
            let offset = bed.gone(8)?;
            // Whatever the bus gives for a fault, it does not follow the memory.
            for word in [0x1357_9bdf, 0xeca8_6420] {
                bed.put(bed.page(8) + 0x68, word)?;
                let seen = bed.mmio.bar0().read_at(offset + 0x68, Width::W32)?;
                if seen == word {
                    return Ok(Sight::Allowed(seen));
                }
            }
            Ok::<_, Sight>(Sight::NotReached)
        });
        bench.change("a write to what is unmapped is lost", Sight::Unchanged, bed, |bed| {
            let offset = bed.gone(8)?;
            bed.lost(offset, 8)
        });
        bench.change("a new mapping leads to the new page", Sight::Word(0x600d_600d), bed, |bed| {
            let offset = bed.gone(8)?;
            bed.put(bed.page(8) + 0x6c, 0x0bad_0bad)?;
            bed.put(bed.page(10) + 0x6c, 0x600d_600d)?;
            let extents = [bed.extent(10)];
            bed.mapped(&MapRequest::extents(&extents).at(offset), |bed, id| {
                Ok(Sight::Word(bed.read(id, 0x6c, Width::W32)?))
            })
        });
    }

    /// Where page `n` was mapped, read and written through BAR1, and is no longer.
    fn gone(&mut self, n: u64) -> Result<u64, Sight> {
        let bed = self;
        let extents = [bed.extent(n)];
        let id = bed.map(&MapRequest::extents(&extents))?;
        let offset = bed.start(&id);
        let used = bed.write(&id, 0x68, Width::W32, 1);
        let value = bed.get(bed.page(n) + 0x68);
        bed.bar1.unmap(&id, bed.mmio, bed.pool)?;
        used?;
        // What was never reached proves nothing when it is not reached afterwards.
        let value = value?;
        if value != 1 {
            return Err(Sight::Changed { at: bed.page(n) + 0x68, value });
        }
        Ok(offset?)
    }
}

/// 32 KiB in the 36 KiB behind the first 64, whose fifth page is somebody else's.
fn around_a_hole(base: u64, bytes: u64, room: &mut [vram::Extent]) -> Result<&[vram::Extent], Sight> {
    let at = |offset: u64| VramAddr::new(base + offset);
    let mut memory = Vram::new(&[at(0)..at(PAGES * PAGE_BYTES)]).map_err(|_| Sight::NotTried)?;
    let hole = Request::new(PAGE_BYTES).within(at(0x1_4000)..at(0x1_5000)).build()?;
    memory.alloc_contiguous(&hole)?;
    let request = Request::new(bytes).within(at(0x1_0000)..at(0x1_9000)).place(Place::Low).build()?;
    Ok(memory.alloc(&request, room)?)
}
