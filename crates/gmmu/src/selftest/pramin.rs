//! Self-tests of the way to video memory: does what is written through the PRAMIN window arrive, whole and in order?
//!
//! [`run`] does to a card what page tables will have done to them, and reports each [`Check`] as data: what was
//! expected and what was seen. It writes only to memory that the caller names, sets the contents aside first and puts
//! them back, and leaves the window where it was.

use core::ops::Range;

use super::{base_of, refused, Bench, Check, Seen, SelftestError, Sight, Tally};
use crate::addr::TableAddr;
use crate::device::{Bar0, Clock, DeviceError, Run, TableMemory, TableRead, Width};
use crate::mmio::{Mmio, ProbeError};
use crate::regs;
use crate::tlb::read_register;

/// How far the two words of the check on moves lie apart.
const APART: u64 = 2 << 20;
/// Words at the start of the memory that may be changed, even by accesses that should be refused.
const START: usize = 32;
/// Words of a round trip over the border of the window: half of them on either side.
const ACROSS: usize = 4;
/// Words that become valid and words that stop being so are stored in different order where the bus is narrow: both.
const PATTERN: [u64; ACROSS] =
    [0x0123_4567_89ab_cde1, 0xfedc_ba98_7654_3210, 0x00ff_00ff_ff00_ff07, 0x8000_0001_7fff_fff8];

/// Runs every check on the card behind `bar0`, and hands each result to `report`.
///
/// Writes only to `memory`, byte addresses of video memory that nobody else uses: [`BYTES_MIN`](super::BYTES_MIN) at
/// least. Moves the PRAMIN window, and so needs the card for itself. Nothing is written where the contents could not be read before.
///
/// # Errors
/// [`SelftestError`] where no check could be made. A card that fails a check, or stops answering, is no error.
pub fn run<B: Bar0 + Clock>(bar0: B, memory: Range<u64>, report: impl FnMut(&Check)) -> Result<Tally, SelftestError> {
    let mut mmio = Mmio::probe(Watch { bar0, moves: 0 })?;
    let vram_bytes = mmio.vram_bytes();
    // So that the window begins where the memory does.
    let base = base_of(memory, vram_bytes, 1 << regs::BAR0_WINDOW_BASE_SHIFT)?;
    let register = mmio.window().ok_or(ProbeError::NoWindow(mmio.chip().name))?.offset();
    let stood = read_register(mmio.bar0(), register)?;

    let mut bench = Bench::new(report);
    let kept = bench.set_aside(&mut mmio, base);
    bench.origin(&mut mmio, base);
    bench.refusals(&mut mmio, base);
    bench.words(&mut mmio, base + regs::NV_PRAMIN_BYTES, base);
    bench.window(&mut mmio, register, base);
    let last = |mmio: &mut Mmio<Watch<B>>| {
        mmio.read_vram(vram_bytes - 1, Width::W8)?;
        mmio.read_word(TableAddr::vram(vram_bytes - 8)).map(|_| Sight::Readable)
    };
    bench.look("the last bytes of video memory", Sight::Readable, last(&mut mmio));
    bench.put_back(&mut mmio, kept);
    let stands = match mmio.release() {
        Ok(mut watch) => watch.read32(register).map(Sight::Register),
        Err((_, error)) => Err(error),
    };
    bench.look("the window is where it was before", Sight::Register(stood), stands);
    Ok(bench.tally)
}

/// A register file that counts the moves of the window: nothing else is written outside of it.
#[derive(Debug)]
struct Watch<B> {
    bar0: B,
    moves: u32,
}

impl<B> Watch<B> {
    fn note(&mut self, offset: u32) {
        if u64::from(offset.wrapping_sub(regs::NV_PRAMIN)) >= regs::NV_PRAMIN_BYTES {
            self.moves = self.moves.saturating_add(1);
        }
    }
}

impl<B: Bar0> Bar0 for Watch<B> {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        self.bar0.read(offset, width)
    }
    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        self.note(offset);
        self.bar0.write(offset, width, value)
    }
    fn has_64bit(&self) -> bool {
        self.bar0.has_64bit()
    }
    fn write_run(&mut self, offset: u32, run: Run) -> Result<(), DeviceError> {
        self.note(offset);
        self.bar0.write_run(offset, run)
    }
    fn write_words(&mut self, offset: u32, words: &[u64]) -> Result<(), DeviceError> {
        self.note(offset);
        self.bar0.write_words(offset, words)
    }
}

impl<B: Clock> Clock for Watch<B> {
    fn now_us(&mut self) -> u64 {
        self.bar0.now_us()
    }
    fn relax(&mut self) {
        self.bar0.relax();
    }
}

/// What was in memory before: three places of it.
#[derive(Clone, Copy, Debug)]
struct Kept {
    start: (u64, [u64; START]),
    across: (u64, [u64; ACROSS]),
    apart: (u64, [u64; 1]),
}

impl Kept {
    /// The words that lie over the border of a window that begins at `base`.
    const fn across(base: u64) -> u64 {
        base + regs::NV_PRAMIN_BYTES - ACROSS as u64 / 2 * 8
    }

    fn read<B: Bar0 + Clock>(mmio: &mut Mmio<B>, base: u64) -> Result<Self, DeviceError> {
        let mut kept = Self {
            start: (base, [0; START]),
            across: (Self::across(base), [0; ACROSS]),
            apart: (base + APART, [0; 1]),
        };
        for (at, words) in kept.places() {
            mmio.read_words(TableAddr::vram(at), words)?;
        }
        Ok(kept)
    }

    fn places(&mut self) -> [(u64, &mut [u64]); 3] {
        let Self { start, across, apart } = self;
        [(start.0, &mut start.1), (across.0, &mut across.1), (apart.0, &mut apart.1)]
    }
}

impl<R: FnMut(&Check)> Bench<R> {
    fn set_aside<B: Bar0 + Clock>(&mut self, mmio: &mut Mmio<B>, base: u64) -> Option<Kept> {
        let kept = Kept::read(mmio, base);
        self.saved = kept.is_ok();
        self.look("memory can be set aside", Sight::Readable, kept.map(|_| Sight::Readable));
        kept.ok()
    }

    /// The checks of Linux' nova-core driver that move data.
    fn origin<B: Bar0 + Clock>(&mut self, mmio: &mut Mmio<B>, base: u64) {
        let bytes = [0xa0, 0xa1, 0xa2, 0xa3];
        self.change("bytes, one by one", Sight::Bytes(bytes), mmio, |mmio| {
            for (at, byte) in (base + 1..).zip(bytes) {
                mmio.write_vram(at, Width::W8, u64::from(byte))?;
            }
            read_bytes(mmio, base + 1)
        });
        let word = 0xdead_beef_u32;
        let expected = Sight::Bytes([0xef, 0xbe, 0xad, 0xde]);
        self.change("a 32-bit word is little-endian", expected, mmio, |mmio| {
            mmio.write_vram(base + 0x10, Width::W32, u64::from(word))?;
            read_bytes(mmio, base + 0x10)
        });
        let pair = [0x1111_1111, 0x2222_2222];
        self.change("two words 2 MiB apart", Sight::Pair(pair), mmio, |mmio| {
            let places = [base, base + APART];
            for (at, word) in places.into_iter().zip(pair) {
                mmio.write_vram(at, Width::W32, u64::from(word))?;
            }
            let [near, far] = places;
            Ok(Sight::Pair([read32(mmio, near)?, read32(mmio, far)?]))
        });
    }

    fn refusals<B: Bar0 + Clock>(&mut self, mmio: &mut Mmio<B>, base: u64) {
        let end = mmio.vram_bytes();
        let beyond = [end, u64::MAX - 3].map(|at| refused(mmio.read_vram(at, Width::W32)));
        let worst = beyond.into_iter().find(|seen| *seen != Sight::Refused).unwrap_or(Sight::Refused);
        self.look("a read beyond video memory is refused", Sight::Refused, Ok::<_, DeviceError>(worst));
        for (name, at, width) in [
            ("a misaligned 16-bit write is refused", base + 0x21, Width::W16),
            ("a misaligned 32-bit write is refused", base + 0x32, Width::W32),
        ] {
            self.change(name, Sight::Refused, mmio, |mmio| Ok(refused(mmio.write_vram(at, width, 0).map(|()| 0))));
        }
        // A bus without 64-bit accesses is never asked for one.
        let wide = mmio.bar0().has_64bit();
        let at = base + 0x44;
        let seen = if wide { mmio.read_vram(at, Width::W64) } else { mmio.read_word(TableAddr::vram(at)) };
        self.look("a misaligned 64-bit read is refused", Sight::Refused, Ok::<_, DeviceError>(refused(seen)));
    }

    /// Words of page tables over the border of the window.
    fn words<B: Bar0 + Clock>(&mut self, mmio: &mut Mmio<B>, border: u64, base: u64) {
        let at = TableAddr::vram(Kept::across(base));
        let here = |mmio: &mut Mmio<B>| {
            // The far word first: then the window moves to begin at the base.
            mmio.read_word(TableAddr::vram(base + APART))?;
            mmio.read_word(TableAddr::vram(base))
        };
        self.change("64-bit words across the window's border", Sight::Words(PATTERN), mmio, |mmio| {
            here(mmio)?;
            mmio.write_words(at, &PATTERN)?;
            here(mmio)?;
            read_words(mmio, at)
        });
        let [low, high] = [0x8765_4321, 0x1234_5678];
        self.change("the low half of a word comes first", Sight::Pair([low, high]), mmio, |mmio| {
            mmio.write_word(TableAddr::vram(border), u64::from(high) << 32 | u64::from(low))?;
            Ok(Sight::Pair([read32(mmio, border)?, read32(mmio, border + 4)?]))
        });
        let run = Run { first: 0x0000_0001_0000_0001, step: 0x0000_0010_0000_1000, count: 4 };
        let mut words = [0; ACROSS];
        for (place, word) in words.iter_mut().zip(run.words()) {
            *place = word;
        }
        self.change("a run of words across the window's border", Sight::Words(words), mmio, |mmio| {
            here(mmio)?;
            mmio.write_run(at, run)?;
            here(mmio)?;
            read_words(mmio, at)
        });
    }

    fn window<B: Bar0 + Clock>(&mut self, mmio: &mut Mmio<Watch<B>>, register: u32, base: u64) {
        let mut touch = || {
            mmio.read_word(TableAddr::vram(base + APART))?;
            mmio.read_word(TableAddr::vram(base))?;
            let (moves, stands) = (mmio.bar0().moves, mmio.bar0().read32(register)?);
            for at in [base + regs::NV_PRAMIN_BYTES - 4, base + regs::NV_PRAMIN_BYTES / 2, base] {
                mmio.read_vram(at, Width::W32)?;
            }
            let now = mmio.bar0().read32(register)?;
            Ok::<_, DeviceError>((mmio.bar0().moves.saturating_sub(moves), stands, now))
        };
        let touched = touch();
        let moves = touched.map(|(moves, ..)| Sight::Moves(moves));
        self.look("no move within the window's megabyte", Sight::Moves(0), moves);
        let stands = touched.map_or(0, |(_, stands, _)| stands);
        let now = touched.map(|(.., now)| Sight::Register(now));
        self.look("the window stays where it was put", Sight::Register(stands), now);
    }

    fn put_back<B: Bar0 + Clock>(&mut self, mmio: &mut Mmio<B>, kept: Option<Kept>) {
        self.change("what was in memory is back", Sight::Unchanged, mmio, |mmio| {
            let Some(mut kept) = kept else { return Ok(Sight::NotTried) };
            for (at, words) in kept.places() {
                mmio.write_words(TableAddr::vram(at), words)?;
            }
            for (at, words) in kept.places() {
                for (at, &mut word) in (at..).step_by(8).zip(words) {
                    let value = mmio.read_word(TableAddr::vram(at))?;
                    if value != word {
                        return Ok(Sight::Changed { at, value });
                    }
                }
            }
            Ok(Sight::Unchanged)
        });
    }
}

fn read_bytes<B: Bar0 + Clock>(mmio: &mut Mmio<B>, at: u64) -> Seen {
    let mut bytes = [0; 4];
    for (place, at) in bytes.iter_mut().zip(at..) {
        let [byte, ..] = mmio.read_vram(at, Width::W8)?.to_le_bytes();
        *place = byte;
    }
    Ok(Sight::Bytes(bytes))
}

fn read32<B: Bar0 + Clock>(mmio: &mut Mmio<B>, at: u64) -> Result<u32, DeviceError> {
    let [a, b, c, d, ..] = mmio.read_vram(at, Width::W32)?.to_le_bytes();
    Ok(u32::from_le_bytes([a, b, c, d]))
}

fn read_words<B: Bar0 + Clock>(mmio: &mut Mmio<B>, at: TableAddr) -> Seen {
    let mut words = [0; ACROSS];
    mmio.read_words(at, &mut words)?;
    Ok(Sight::Words(words))
}
