//! BAR0 as the bus sees it: counted accesses, the window, and the registers behind it.

use crate::chip::{FbSize, Layout};
use crate::config::Bus;
use crate::fault::low;
use crate::gpu::Gpu;
use crate::mishap::{Meets, POISON};
use crate::order::Path;
use crate::pramin::Window;
use crate::regs;
use crate::sanitizer::Rule;
use crate::store::{Origin, Source};
use gmmu::device::{Bar0, Clock, DeviceError, Run, Width};

/// Model time of a read: a round trip over the bus.
const READ_NS: u64 = 500;
/// Model time of a posted write.
const WRITE_NS: u64 = 50;
/// Model time of [`Clock::relax`].
const RELAX_NS: u64 = 1000;

/// Offset within the window, where a register offset lies in it.
const fn in_window(offset: u32) -> Option<u32> {
    if offset >= regs::PRAMIN && offset < regs::PRAMIN + regs::PRAMIN_BYTES {
        Some(offset - regs::PRAMIN)
    } else {
        None
    }
}

const fn mask(width: Width) -> u64 {
    u64::MAX >> (64 - 8 * width.bytes())
}

impl Bar0 for Gpu {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        regs::check(offset, width.bytes())?;
        if width == Width::W64 && self.bus == Bus::Bits32 {
            let low = self.read_once(offset, Width::W32);
            return Ok(low | self.read_once(offset + 4, Width::W32) << 32);
        }
        Ok(self.read_once(offset, width))
    }

    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        regs::check(offset, width.bytes())?;
        if width == Width::W64 && self.bus == Bus::Bits32 {
            self.write_once(offset, Width::W32, value & 0xffff_ffff);
            self.write_once(offset + 4, Width::W32, value >> 32);
        } else {
            self.write_once(offset, width, value & mask(width));
        }
        Ok(())
    }

    fn has_64bit(&self) -> bool {
        self.bus == Bus::Bits64
    }

    fn write_run(&mut self, offset: u32, run: Run) -> Result<(), DeviceError> {
        self.write_source(offset, Source::Run(run))
    }

    fn write_words(&mut self, offset: u32, words: &[u64]) -> Result<(), DeviceError> {
        self.write_source(offset, Source::Words(words))
    }
}

impl Clock for Gpu {
    fn now_us(&mut self) -> u64 {
        self.time_ns / 1000
    }

    fn relax(&mut self) {
        self.time_ns = self.time_ns.saturating_add(RELAX_NS);
    }
}

impl Gpu {
    /// Stores a run as one piece where all of it goes through the window, else word by word.
    fn write_source(&mut self, offset: u32, source: Source<'_>) -> Result<(), DeviceError> {
        let words = source.len() as u64;
        let room = in_window(offset).map_or(0, |at| u64::from((regs::PRAMIN_BYTES - at) / 8));
        if words > room || offset % 8 != 0 || self.bus == Bus::Bits32 || self.counts_accesses() {
            let mut at = offset;
            for word in source.words() {
                self.write(at, Width::W64, word)?;
                at = at.saturating_add(8);
            }
            return Ok(());
        }
        self.counts.writes += words;
        self.model.op += words;
        self.time_ns = self.time_ns.saturating_add(words.saturating_mul(WRITE_NS));
        self.judge_window();
        if let Some((space, raw)) = self.window.place(self.chip, offset - regs::PRAMIN) {
            self.model.store_words(Origin::Tables(Path::Window), space, raw, source);
        }
        Ok(())
    }

    /// Memory is accessed through the window: it should be known where that stands.
    fn judge_window(&mut self) {
        if std::mem::take(&mut self.window_moves) {
            let what = "memory was accessed through the window before its new position was read back";
            let finding = self.model.finding(Rule::WindowMoving, what);
            self.model.report.add(finding);
        }
    }

    fn read_once(&mut self, offset: u32, width: Width) -> u64 {
        self.counts.reads += 1;
        self.model.op += 1;
        self.time_ns = self.time_ns.saturating_add(READ_NS);
        match self.meet(true) {
            Meets::DeadBus => return mask(width),
            Meets::Poison => return POISON & mask(width),
            Meets::Nothing => {}
        }
        if let Some(at) = in_window(offset) {
            self.judge_window();
            // A read brings all stores before it home.
            self.model.drained.wait(Path::Window, self.model.op);
            let mut bytes = [0xff; 8];
            if let Some((space, raw)) = self.window.place(self.chip, at) {
                self.model.memory.read(space, raw, &mut bytes);
            }
            return u64::from_le_bytes(bytes) & mask(width);
        }
        match width {
            Width::W64 => u64::from(self.register(offset)) | u64::from(self.register(offset + 4)) << 32,
            // A part of a register, as the 32-bit register bus delivers it.
            _ => u64::from(self.register(offset & !3)) >> (8 * (offset & 3)) & mask(width),
        }
    }

    fn write_once(&mut self, offset: u32, width: Width, value: u64) {
        self.counts.writes += 1;
        self.model.op += 1;
        self.time_ns = self.time_ns.saturating_add(WRITE_NS);
        if self.meet(false) == Meets::DeadBus {
            return;
        }
        if let Some(at) = in_window(offset) {
            self.judge_window();
            let Some((space, raw)) = self.window.place(self.chip, at) else { return };
            if width == Width::W64 {
                self.model.store_words(Origin::Tables(Path::Window), space, raw, Source::Words(&[value]));
            } else {
                let bytes = value.to_le_bytes();
                let used = bytes.get(..width.bytes() as usize).unwrap_or_default();
                self.model.store_bytes(Origin::Tables(Path::Window), space, raw, used);
            }
            return;
        }
        let low = (value & 0xffff_ffff) as u32;
        match width {
            Width::W64 => {
                self.set_register(offset, low);
                self.set_register(offset + 4, (value >> 32) as u32);
            }
            Width::W32 => self.set_register(offset, low),
            // Registers take whole words only.
            Width::W8 | Width::W16 => {}
        }
    }

    fn register(&mut self, offset: u32) -> u32 {
        let Some(offset) = self.chip.register(offset) else { return self.plain_word(offset) };
        if offset == Window::register(self.chip) && !self.chip.integrated {
            self.window_moves = false;
            return self.window.read();
        }
        if let Some(value) = self.bars.read(self.chip.layout, offset) {
            return value;
        }
        if let Some(value) = self.carveouts.read(self.chip, offset) {
            return value;
        }
        match offset {
            regs::BOOT_0 => self.chip.boot_0(),
            regs::BOOT_42 => self.chip.boot_42(),
            regs::LOCAL_MEMORY_RANGE if self.chip.fb_size == FbSize::LocalMemoryRange => self.fb_size,
            regs::USABLE_FB_SIZE_IN_MB if self.chip.fb_size == FbSize::UsableMb => self.fb_size,
            // The lowest five bits do not count.
            regs::PTIMER_TIME_0 => low(self.time_ns) & !0x1f,
            regs::PTIMER_TIME_1 => low(self.time_ns >> 32),
            regs::GFW_BOOT => 0xff,
            regs::GFW_BOOT_PLM => 0xff,
            regs::UFLUSH_FB_FLUSH | regs::XAL_FB_FLUSH | regs::XAL_FB_FLUSH_STATUS => {
                let word = self.flush.read(self.chip.layout, offset);
                if std::mem::take(&mut self.flush.done) {
                    let op = self.model.op;
                    self.model.drained.wait(Path::Window, op);
                    self.model.drained.wait(Path::Bar2, op);
                }
                word
            }
            regs::INVALIDATE_PDB | regs::INVALIDATE_UPPER_PDB | regs::INVALIDATE => {
                let has_scope = self.has_invalidate_scope();
                let word = self.invalidate.read(&mut self.model, offset, has_scope);
                self.acknowledged(offset, word)
            }
            regs::MMU_CTRL if !self.chip.has_virtual_functions() => self.invalidates_waiting(),
            regs::FAULT_ADDR_LO..=regs::FAULT_INFO => self.last_fault_word(offset),
            _ => match self.fault_buffer(offset) {
                Some((buffer, register)) => buffer.read(register),
                None => self.plain_word(offset),
            },
        }
    }

    fn set_register(&mut self, offset: u32, value: u32) {
        let chip = self.chip;
        let Some(offset) = chip.register(offset) else { return self.set_plain_word(offset, value) };
        if self.loses(offset, value) {
            return;
        }
        if offset == Window::register(chip) && !chip.integrated {
            let moved = self.window.write(chip, value);
            self.window_moves |= moved;
            self.counts.window_moves += u64::from(moved);
            return;
        }
        if self.bars.write(&mut self.model, (chip.layout, chip.mmu), (offset, value), self.bind_polls) {
            return;
        }
        match offset {
            regs::UFLUSH_FB_FLUSH => self.flush.write(chip.layout, value),
            regs::INVALIDATE_PDB | regs::INVALIDATE_UPPER_PDB | regs::INVALIDATE => {
                let started = self.invalidate.write(&mut self.model, offset, value, self.invalidate_polls);
                if started {
                    if self.misdirects() {
                        self.invalidate.misdirect();
                    }
                    self.model.judge_drained();
                }
                self.counts.invalidates += u64::from(started);
            }
            _ => match self.fault_buffer(offset) {
                Some((buffer, register)) => buffer.write(register, value),
                None => self.set_plain_word(offset, value),
            },
        }
    }
}

impl Gpu {
    /// `NV_PFB_PRI_MMU_CTRL` before Turing: the model's FIFO has room for one invalidate. Looking is a poll.
    fn invalidates_waiting(&mut self) -> u32 {
        let runs = self.register(regs::PFB_INVALIDATE) >> 31 != 0;
        if runs {
            0
        } else {
            regs::PRI_FIFO_EMPTY | 1 << regs::PRI_FIFO_SPACE_SHIFT
        }
    }
}

impl<'a> Source<'a> {
    fn words(self) -> impl Iterator<Item = u64> + use<'a> {
        (0..self.len()).map(move |at| self.get(at))
    }
}

/// The flush registers: memory is always in order here, so only the protocol is modelled.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flush {
    token: u32,
    pending: bool,
    /// One was started, and a read of the status has found it done.
    done: bool,
    started: bool,
}

impl Flush {
    /// Up to Ada a flush is pending for one look; from Hopper on a read starts one, and it takes one look too.
    fn read(&mut self, layout: Layout, offset: u32) -> u32 {
        match (layout, offset) {
            // PENDING and OUTSTANDING: some look at the one, some at the other.
            (Layout::Bus, regs::UFLUSH_FB_FLUSH) => 3 * u32::from(self.look()),
            (Layout::Xal, regs::XAL_FB_FLUSH) => {
                self.token = (self.token + 1) & 0x7fff_ffff;
                (self.pending, self.started) = (true, true);
                self.token
            }
            (Layout::Xal, regs::XAL_FB_FLUSH_STATUS) => {
                let running = self.look();
                u32::from(running) << 31 | self.token.saturating_sub(u32::from(running))
            }
            _ => 0,
        }
    }

    fn write(&mut self, layout: Layout, value: u32) {
        self.pending = layout == Layout::Bus && value & 1 != 0;
        self.started |= self.pending;
    }

    /// A look at the status: whether a flush still runs. It is done at the next one.
    fn look(&mut self) -> bool {
        let running = std::mem::take(&mut self.pending);
        self.done = !running && std::mem::take(&mut self.started);
        running
    }
}
