//! A card through its BAR0: PRAMIN as the memory of page tables, the invalidate registers, and time.
//!
//! [`Mmio`] puts [`Window`] and [`Tlb`] over one register file, and so makes everything that a job needs out of two
//! small traits. A card that left the bus is remembered: every later call answers at once.
//!
//! Tables may lie in system memory too, or only there: [`Mmio::probe_with`] takes the way to it, and every access goes
//! where its address says. Integrated GPUs have no other way.

use crate::addr::{Pfn, TableAddr};
use crate::chip::{Chip, UnknownChip};
use crate::device::{
    frames_as_words, Bar0, Clock, DeviceError, Encoding, Invalidate, Invalidator, NoSysMemory, Poll, Run, SysPath,
    TableMemory, TableRead, Ticket, Width,
};
use crate::fb::{self, FbError};
use crate::pramin::Window;
use crate::regs;
use crate::tlb::Tlb;

/// A card reached through BAR0, and the system memory beside it where `S` is a way to that.
#[derive(Debug)]
pub struct Mmio<B, S = NoSysMemory> {
    bar0: B,
    sys: S,
    chip: &'static Chip,
    /// None on a chip without video memory.
    window: Option<Window>,
    tlb: Tlb,
    /// The error that showed that the card is gone.
    gone: Option<DeviceError>,
}

/// A card cannot be used through BAR0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// It is none that the library knows.
    #[error(transparent)]
    UnknownChip(#[from] UnknownChip),
    /// It has no PRAMIN window, and so no way to its tables through BAR0.
    #[error("{0} has no video memory and no PRAMIN window: its tables must live in system memory")]
    NoWindow(&'static str),
    /// The size of its memory cannot be told.
    #[error(transparent)]
    Fb(#[from] FbError),
    /// It did not answer.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl<B: Bar0 + Clock> Mmio<B> {
    /// Asks the card behind `bar0` who it is and how much memory it has. Only reads. All tables have to lie in video
    /// memory.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub fn probe(bar0: B) -> Result<Self, ProbeError> {
        let mmio = Self::probe_with(bar0, NoSysMemory)?;
        match mmio.window {
            Some(_) => Ok(mmio),
            None => Err(ProbeError::NoWindow(mmio.chip.name)),
        }
    }
}

impl<B: Bar0 + Clock, S: SysPath<B>> Mmio<B, S> {
    /// Asks the card behind `bar0` who it is and how much memory it has. Only reads. `sys` is the way to tables in
    /// system memory; on a chip without video memory tables can lie nowhere else.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub fn probe_with(mut bar0: B, sys: S) -> Result<Self, ProbeError> {
        let boot_0 = bar0.read32(regs::NV_PMC_BOOT_0)?;
        let boot_42 = bar0.read32(regs::NV_PMC_BOOT_42)?;
        let chip = Chip::identify(boot_0, boot_42)?;
        let window = match chip.window {
            Some(register) => Some(Window::new(register, fb::vram_bytes(&mut bar0, chip)?)),
            None => None,
        };
        Ok(Self { bar0, sys, chip, window, tlb: Tlb::new(chip.invalidate), gone: None })
    }

    /// What the card is.
    #[must_use]
    pub const fn chip(&self) -> &'static Chip {
        self.chip
    }

    /// Bytes of video memory that can be reached; 0 on a chip without.
    #[must_use]
    pub const fn vram_bytes(&self) -> u64 {
        match &self.window {
            Some(window) => window.reach(),
            None => 0,
        }
    }

    /// The registers.
    pub const fn bar0(&mut self) -> &mut B {
        &mut self.bar0
    }

    /// The way to system memory.
    pub const fn sys(&mut self) -> &mut S {
        &mut self.sys
    }

    /// Where the PRAMIN window stands; none on a chip without video memory.
    #[must_use]
    pub const fn window(&self) -> Option<&Window> {
        self.window.as_ref()
    }

    /// Puts the PRAMIN window back to where it stood, and hands the registers back.
    ///
    /// # Errors
    /// What the window register answers; the registers are handed back all the same.
    pub fn release(mut self) -> Result<B, (B, DeviceError)> {
        match self.window.as_mut().map_or(Ok(()), |window| window.restore(&mut self.bar0)) {
            Ok(()) => Ok(self.bar0),
            Err(error) => Err((self.bar0, error)),
        }
    }

    /// Reads `width` at any byte of video memory, through the window.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`], [`BadOffset`](DeviceError::BadOffset) where `at` is not a multiple of the width, or
    /// the device's.
    pub fn read_vram(&mut self, at: u64, width: Width) -> Result<u64, DeviceError> {
        self.alive(|mmio| {
            let (offset, _) = mmio.reach(TableAddr::vram(at), u64::from(width.bytes()))?;
            match width {
                Width::W64 if !mmio.bar0.has_64bit() => read_split(&mut mmio.bar0, offset),
                width => mmio.bar0.read(offset, width),
            }
        })
    }

    /// Writes `width` at any byte of video memory, through the window.
    ///
    /// # Errors
    /// As [`read_vram`](Self::read_vram).
    pub fn write_vram(&mut self, at: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        self.alive(|mmio| {
            let (offset, _) = mmio.reach(TableAddr::vram(at), u64::from(width.bytes()))?;
            match width {
                Width::W64 if !mmio.bar0.has_64bit() => write_split(&mut mmio.bar0, offset, value),
                width => mmio.bar0.write(offset, width, value),
            }
        })
    }

    /// Does `what` unless the card is known to be gone, and remembers it where that turns out.
    fn alive<T>(&mut self, what: impl FnOnce(&mut Self) -> Result<T, DeviceError>) -> Result<T, DeviceError> {
        if let Some(error) = self.gone {
            return Err(error);
        }
        let result = what(self);
        if let Err(error @ DeviceError::Gone { .. }) = result {
            self.gone = Some(error);
        }
        result
    }

    /// Shows `at` in the window, after checking that `bytes` from there are video memory.
    fn reach(&mut self, at: TableAddr, bytes: u64) -> Result<(u32, u64), DeviceError> {
        let (TableAddr::Vram(vram), Some(window)) = (at, &mut self.window) else {
            return Err(DeviceError::WrongAperture { at });
        };
        let end = window.reach();
        if vram.raw().checked_add(bytes).is_none_or(|last| last > end) {
            return Err(DeviceError::OutOfRange { at, bytes, end });
        }
        window.show(&mut self.bar0, vram)
    }

    /// Calls `part` with the BAR0 offset and the number of words for each stretch that one window position shows.
    fn stretches(
        &mut self,
        at: TableAddr,
        words: u32,
        mut part: impl FnMut(&mut B, u32, u32, u32) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        if !at.is_aligned(8) {
            return Err(DeviceError::Unaligned { at, alignment: 8 });
        }
        self.alive(|mmio| {
            let mut done = 0;
            while done < words {
                let here = at.with_raw(at.raw().wrapping_add(u64::from(done) * 8));
                let (offset, room) = mmio.reach(here, u64::from(words - done) * 8)?;
                let count = u32::try_from(room / 8).unwrap_or(u32::MAX).min(words - done);
                part(&mut mmio.bar0, offset, done, count)?;
                done += count.max(1);
            }
            Ok(())
        })
    }
}

/// Writes a table word as two halves where the bus has no 64-bit access. The half that makes it valid goes last when it
/// becomes valid and first when it stops being so; all states of both formats that the hardware follows have one of the
/// low three bits set.
fn write_split<B: Bar0>(bar0: &mut B, offset: u32, word: u64) -> Result<(), DeviceError> {
    let (low, high) = (word & u64::from(u32::MAX), word >> 32);
    let upper = offset.wrapping_add(4);
    if word & 7 != 0 {
        bar0.write(upper, Width::W32, high)?;
        bar0.write(offset, Width::W32, low)
    } else {
        bar0.write(offset, Width::W32, low)?;
        bar0.write(upper, Width::W32, high)
    }
}

fn read_split<B: Bar0>(bar0: &mut B, offset: u32) -> Result<u64, DeviceError> {
    let low = bar0.read(offset, Width::W32)?;
    Ok(bar0.read(offset.wrapping_add(4), Width::W32)? << 32 | low)
}

/// Byte offset of word `n` from `offset`; within the window, so it cannot overflow.
const fn word_at(offset: u32, n: u32) -> u32 {
    offset.wrapping_add(n.wrapping_mul(8))
}

/// The length of a slice of table words; more than 32 bits of them are refused by the range check.
fn len(words: usize) -> u32 {
    u32::try_from(words).unwrap_or(u32::MAX)
}

impl<B: Bar0 + Clock, S: SysPath<B>> TableRead for Mmio<B, S> {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        if !at.is_vram() {
            return self.alive(|mmio| mmio.sys.memory(&mut mmio.bar0).read_words(at, words));
        }
        self.stretches(at, len(words.len()), |bar0, offset, from, count| {
            let wide = bar0.has_64bit();
            for (n, word) in (0..count).zip(words.iter_mut().skip(from as usize)) {
                let offset = word_at(offset, n);
                *word = if wide { bar0.read(offset, Width::W64)? } else { read_split(bar0, offset)? };
            }
            Ok(())
        })
    }
}

impl<B: Bar0 + Clock, S: SysPath<B>> TableMemory for Mmio<B, S> {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        if !at.is_vram() {
            return self.alive(|mmio| mmio.sys.memory(&mut mmio.bar0).write_run(at, run));
        }
        self.stretches(at, run.count, |bar0, offset, from, count| {
            let run = run.skip(from).take(count);
            if bar0.has_64bit() {
                return bar0.write_run(offset, run);
            }
            (0..count).zip(run.words()).try_for_each(|(n, word)| write_split(bar0, word_at(offset, n), word))
        })
    }

    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        if !at.is_vram() {
            return self.alive(|mmio| mmio.sys.memory(&mut mmio.bar0).write_words(at, words));
        }
        self.stretches(at, len(words.len()), |bar0, offset, from, count| {
            let words = words.get(from as usize..).unwrap_or_default();
            let words = words.get(..count as usize).unwrap_or(words);
            if bar0.has_64bit() {
                return bar0.write_words(offset, words);
            }
            (0..count).zip(words).try_for_each(|(n, &word)| write_split(bar0, word_at(offset, n), word))
        })
    }

    fn write_frames(&mut self, at: TableAddr, how: Encoding, frames: &[Pfn]) -> Result<(), DeviceError> {
        if !at.is_vram() {
            return self.alive(|mmio| mmio.sys.memory(&mut mmio.bar0).write_frames(at, how, frames));
        }
        frames_as_words(at, how, frames, |at, words| self.write_words(at, words))
    }

    /// What system memory needs. PRAMIN needs nothing: its stores are uncached and arrive in order.
    fn order(&mut self) -> Result<(), DeviceError> {
        self.alive(|mmio| mmio.sys.memory(&mut mmio.bar0).order())
    }

    /// What system memory needs, and one read through the window, if it was ever used, which pushes all earlier stores
    /// in front of it.
    fn drain(&mut self) -> Result<(), DeviceError> {
        self.alive(|mmio| {
            mmio.sys.memory(&mut mmio.bar0).drain()?;
            match mmio.window.as_ref().and_then(Window::base) {
                Some(_) => mmio.bar0.read(regs::NV_PRAMIN, Width::W32).map(|_| ()),
                None => Ok(()),
            }
        })
    }
}

impl<B: Bar0 + Clock, S: SysPath<B>> Invalidator for Mmio<B, S> {
    fn submit(&mut self, what: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        self.alive(|mmio| mmio.tlb.submit(&mut mmio.bar0, what))
    }

    fn poll(&mut self, ticket: Ticket) -> Result<Poll, DeviceError> {
        self.alive(|mmio| mmio.tlb.poll(&mut mmio.bar0, ticket))
    }
}

impl<B: Bar0 + Clock, S: SysPath<B>> Clock for Mmio<B, S> {
    fn now_us(&mut self) -> u64 {
        self.bar0.now_us()
    }

    fn relax(&mut self) {
        self.bar0.relax();
    }
}
