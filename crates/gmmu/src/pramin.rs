//! The PRAMIN window: 1 MiB of BAR0 through which the CPU reaches all of video memory, before any page table exists.
//!
//! The window moves in steps of 64 KiB, shows a whole megabyte and is shared by everybody on the card. [`Window`]
//! remembers where it stands, moves it only when an access lies outside, and reads every move back: a lost write, or
//! somebody else's move, would send page tables into foreign memory.

use crate::addr::VramAddr;
use crate::chip::WindowRegister;
use crate::device::{Bar0, DeviceError};
use crate::regs;
use crate::tlb::read_register;

/// Where the window stands, as far as this owner knows. A lock around it is the caller's business.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    register: WindowRegister,
    /// Bytes of video memory.
    vram_bytes: u64,
    /// First address shown; `None` before the first move.
    base: Option<u64>,
    /// The register's value before the first move.
    original: Option<u32>,
}

impl Window {
    /// A window that has not been moved yet, over `vram_bytes` of video memory.
    #[must_use]
    pub const fn new(register: WindowRegister, vram_bytes: u64) -> Self {
        let reach = register.reach();
        let vram_bytes = if vram_bytes < reach { vram_bytes } else { reach };
        Self { register, vram_bytes, base: None, original: None }
    }

    /// Bytes of video memory that can be reached.
    #[must_use]
    pub const fn reach(&self) -> u64 {
        self.vram_bytes
    }

    /// The first address that the window shows now; `None` before the first move.
    #[must_use]
    pub const fn base(&self) -> Option<u64> {
        self.base
    }

    /// Makes `at` visible, moving the window only where it has to. Returns its offset in BAR0 and how many bytes are
    /// visible from there on.
    ///
    /// Costs nothing while `at` is visible, else one write and one read (and another read, once, to remember where the
    /// window stood).
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`], [`WindowLost`](DeviceError::WindowLost), or what the register answers.
    pub fn show<B: Bar0>(&mut self, bar0: &mut B, at: VramAddr) -> Result<(u32, u64), DeviceError> {
        if at.raw() >= self.vram_bytes {
            return Err(DeviceError::OutOfRange { at: at.into(), bytes: 1, end: self.vram_bytes });
        }
        let base = match self.base {
            Some(base) if at.raw().wrapping_sub(base) < regs::NV_PRAMIN_BYTES => base,
            _ => self.move_to(bar0, at)?,
        };
        let inside = at.raw().wrapping_sub(base);
        let shown = regs::NV_PRAMIN_BYTES.min(self.vram_bytes.wrapping_sub(base));
        let offset = u32::try_from(inside).map_or(regs::NV_PRAMIN, |inside| regs::NV_PRAMIN.wrapping_add(inside));
        Ok((offset, shown.wrapping_sub(inside)))
    }

    /// Puts the window back to where it stood before the first move, for those who share it.
    ///
    /// # Errors
    /// As [`show`](Self::show); the window is then where it was.
    pub fn restore<B: Bar0>(&mut self, bar0: &mut B) -> Result<(), DeviceError> {
        let Some(original) = self.original else { return Ok(()) };
        self.base = None;
        self.set(bar0, original)?;
        self.original = None;
        Ok(())
    }

    /// Moves the window so that `at` is near its start, and the whole megabyte lies in memory where it can.
    fn move_to<B: Bar0>(&mut self, bar0: &mut B, at: VramAddr) -> Result<u64, DeviceError> {
        let step = 1u64 << regs::BAR0_WINDOW_BASE_SHIFT;
        let last = self.vram_bytes.saturating_sub(regs::NV_PRAMIN_BYTES) & !(step - 1);
        let base = (at.raw() & !(step - 1)).min(last);
        if self.original.is_none() {
            self.original = Some(read_register(bar0, self.offset())?);
        }
        let units = base >> regs::BAR0_WINDOW_BASE_SHIFT;
        let field_max = (self.register.reach() >> regs::BAR0_WINDOW_BASE_SHIFT).wrapping_sub(1);
        // The base fits: memory beyond the register's reach was cut off in `new`. The target stays 0, video memory.
        let value = u32::try_from(units.min(field_max)).unwrap_or(u32::MAX);
        self.base = None;
        self.set(bar0, value)?;
        self.base = Some(base);
        Ok(base)
    }

    fn set<B: Bar0>(&self, bar0: &mut B, value: u32) -> Result<(), DeviceError> {
        bar0.write32(self.offset(), value)?;
        let found = read_register(bar0, self.offset())?;
        if found != value {
            let address = |value: u32| u64::from(value) << regs::BAR0_WINDOW_BASE_SHIFT;
            return Err(DeviceError::WindowLost { wanted: address(value), found: address(found) });
        }
        Ok(())
    }

    /// Byte offset in BAR0 of the register that moves the window.
    #[must_use]
    pub const fn offset(&self) -> u32 {
        match self.register {
            WindowRegister::Pbus => regs::NV_PBUS_BAR0_WINDOW,
            WindowRegister::Xal { .. } => regs::NV_XAL_EP_ZB_BAR0_WINDOW,
        }
    }
}
