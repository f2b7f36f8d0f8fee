//! Page tables through a BAR: video memory that BAR1 or BAR2 shows, written with plain 64-bit stores.
//!
//! Faster than the PRAMIN window, which moves, and of another order: what goes through a BAR passes the card's memory
//! system, so that an invalidate has to wait for the card's own flush ([`flush`]). [`BarTables`] is [`Mmio`] with such a
//! stretch beside its window: tables that lie in what the BAR shows go through it, all others through the window, or into
//! system memory where the `Mmio` has a way there. It builds without `alloc`.
//!
//! Source of the flush: `NV_UFLUSH_FB_FLUSH` (`dev_flush.h`), `NV_XAL_EP_UFLUSH_FB_FLUSH` (`dev_xtl_ep_pri.h`), and NVIDIA's
//! `kbusFlush*` family.

use core::ops::Range;
use core::sync::atomic::{fence, Ordering};

use crate::addr::{TableAddr, VramAddr};
use crate::chip::{Chip, WindowRegister};
use crate::device::{
    Bar0, Bar1Aperture, Clock, DeviceError, Invalidate, Invalidator, NoSysMemory, Poll, Run, SysPath, TableMemory,
    TableRead, Ticket, Width,
};
use crate::mmio::Mmio;
use crate::regs;
use crate::tlb::{read_register, wait, Limits};

/// Words that go to the BAR at once.
const CHUNK: usize = 64;

/// A card whose tables are written through a BAR, as far as that shows them.
#[derive(Debug)]
pub struct BarTables<D, S = NoSysMemory> {
    mmio: Mmio<D, S>,
    shown: Range<u64>,
    offset: u64,
    limits: Limits,
}

impl<D, S> BarTables<D, S> {
    /// The card behind `mmio`, whose BAR shows the video memory `shown` from its byte `offset` on, a multiple of 8 as the
    /// start of `shown` is. That it does, and goes on doing so, is the caller's business: a BAR in physical mode, or one that
    /// goes through a space in which nothing of this is changed. A flush may take as long as `limits` say.
    #[must_use]
    pub const fn new(mmio: Mmio<D, S>, shown: Range<VramAddr>, offset: u64, limits: Limits) -> Self {
        Self { mmio, shown: shown.start.raw()..shown.end.raw(), offset, limits }
    }

    /// The card.
    pub const fn mmio(&mut self) -> &mut Mmio<D, S> {
        &mut self.mmio
    }

    /// The card, without the BAR.
    #[must_use]
    pub fn into_mmio(self) -> Mmio<D, S> {
        self.mmio
    }
}

impl<D: Bar0 + Clock + Bar1Aperture, S: SysPath<D>> BarTables<D, S> {
    /// Where in the BAR `words` words at `at` are; none where the BAR does not show them all, or its bus has no 64-bit
    /// stores: the window knows what to do then.
    fn place(&mut self, at: TableAddr, words: usize) -> Option<u64> {
        let TableAddr::Vram(vram) = at else { return None };
        let bytes = u64::try_from(words).ok()?.checked_mul(8)?;
        let inside = vram.raw() >= self.shown.start && vram.raw().checked_add(bytes)? <= self.shown.end;
        let place = self.offset.checked_add(vram.raw().wrapping_sub(self.shown.start))?;
        (inside && vram.is_aligned(8) && place % 8 == 0 && self.mmio.bar0().is_64bit()).then_some(place)
    }

    /// Writes words to the BAR, some at a time.
    fn store(&mut self, place: u64, words: impl Iterator<Item = u64>) -> Result<(), DeviceError> {
        let (mut at, mut used) = (place, 0usize);
        let mut chunk = [0u8; CHUNK * 8];
        for word in words {
            if let Some(slot) = chunk.get_mut(used..).and_then(|rest| rest.first_chunk_mut()) {
                *slot = word.to_le_bytes();
            }
            used = used.wrapping_add(8);
            if used == chunk.len() {
                self.mmio.bar0().write_bytes(at, &chunk)?;
                at = at.wrapping_add(CHUNK as u64 * 8);
                used = 0;
            }
        }
        self.mmio.bar0().write_bytes(at, chunk.get(..used).unwrap_or_default())
    }
}

impl<D: Bar0 + Clock + Bar1Aperture, S: SysPath<D>> TableRead for BarTables<D, S> {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        let Some(place) = self.place(at, words.len()) else { return self.mmio.read_words(at, words) };
        for (offset, word) in (place..).step_by(8).zip(words) {
            *word = self.mmio.bar0().read_at(offset, Width::W64)?;
        }
        Ok(())
    }
}

impl<D: Bar0 + Clock + Bar1Aperture, S: SysPath<D>> TableMemory for BarTables<D, S> {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        match self.place(at, run.count as usize) {
            Some(place) => self.store(place, run.words()),
            None => self.mmio.write_run(at, run),
        }
    }

    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        match self.place(at, words.len()) {
            Some(place) => self.store(place, words.iter().copied()),
            None => self.mmio.write_words(at, words),
        }
    }

    /// Stores of the CPU leave in order: a fence empties what it combined. The bus and the card keep that order.
    fn order(&mut self) -> Result<(), DeviceError> {
        fence(Ordering::SeqCst);
        self.mmio.order()
    }

    /// A fence, and the card's flush: all that came through its BARs is in memory then.
    fn drain(&mut self) -> Result<(), DeviceError> {
        fence(Ordering::SeqCst);
        self.mmio.drain()?;
        let chip = self.mmio.chip();
        flush(self.mmio.bar0(), chip, self.limits)
    }
}

impl<D: Bar0 + Clock, S: SysPath<D>> Invalidator for BarTables<D, S> {
    fn submit(&mut self, what: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        self.mmio.submit(what)
    }

    fn poll(&mut self, ticket: Ticket) -> Result<Poll, DeviceError> {
        self.mmio.poll(ticket)
    }
}

impl<D: Bar0 + Clock, S: SysPath<D>> Clock for BarTables<D, S> {
    fn now_us(&mut self) -> u64 {
        self.mmio.now_us()
    }

    fn relax(&mut self) {
        self.mmio.relax();
    }
}

/// Waits until all that the CPU has stored through the card's BARs has arrived in its memory. Up to Ada a write starts it and
/// it is done when no bit says that it is under way; from Hopper on a read starts it and gives a token, and it is done when
/// the token of the status has come that far, or nothing is under way.
///
/// # Errors
/// [`DeviceError::Timeout`], [`Gone`](DeviceError::Gone), [`Poison`](DeviceError::Poison), or the back end's: what was
/// stored may not have arrived.
pub fn flush<D: Bar0 + Clock>(bar0: &mut D, chip: &Chip, limits: Limits) -> Result<(), DeviceError> {
    match chip.window {
        Some(WindowRegister::Xal { .. }) => {
            let token = read_register(bar0, regs::NV_XAL_EP_UFLUSH_FB_FLUSH)?;
            let token = regs::XAL_FB_FLUSH_TOKEN.get(token.into());
            let at = regs::NV_XAL_EP_UFLUSH_FB_FLUSH_STATUS;
            wait(bar0, limits, at, |bar0| {
                let word = u64::from(read_register(bar0, at)?);
                let ahead = regs::XAL_FB_FLUSH_TOKEN.get(word).wrapping_sub(token) & regs::XAL_FB_FLUSH_TOKEN.max();
                // Tokens wrap around; less than half of them are under way at any time.
                let reached = ahead <= regs::XAL_FB_FLUSH_TOKEN.max() / 2;
                Ok(reached || !regs::XAL_FB_FLUSH_BUSY.is_set(word))
            })
        }
        Some(WindowRegister::Pbus) | None => {
            let at = regs::NV_UFLUSH_FB_FLUSH;
            bar0.write32(at, 1)?;
            wait(bar0, limits, at, |bar0| Ok(!regs::UFLUSH_FB_FLUSH_UNDER_WAY.is_set(read_register(bar0, at)?.into())))
        }
    }
}
