//! The BAR1 aperture as a driver's CPU has it: faults are the GPU's to report, and the CPU is told nothing.

use crate::config::Bus;
use crate::gpu::Gpu;
use gmmu::device::{Bar1Aperture, DeviceError, Width};

impl Gpu {
    fn check_bar1(&self, offset: u64, width: Width) -> Result<(), DeviceError> {
        let (bytes, end) = (width.bytes(), self.bar1_bytes);
        let inside = offset.checked_add(u64::from(bytes)).is_some_and(|last| last <= end);
        let wide = width != Width::W64 || self.bus == Bus::Bits64;
        if inside && wide && offset % u64::from(bytes) == 0 {
            Ok(())
        } else {
            Err(DeviceError::BadBar1Offset { offset, bytes, end })
        }
    }
}

impl Bar1Aperture for Gpu {
    fn size(&self) -> u64 {
        self.bar1_bytes
    }

    fn is_64bit(&self) -> bool {
        self.bus == Bus::Bits64
    }

    /// All-ones where the access faults.
    fn read_at(&mut self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        self.check_bar1(offset, width)?;
        Ok(self.bar1_read(offset, width).unwrap_or(u64::MAX >> (64 - 8 * width.bytes())))
    }

    /// Lost where the access faults.
    fn write_at(&mut self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        self.check_bar1(offset, width)?;
        let _ = self.bar1_write(offset, width, value);
        Ok(())
    }
}
