//! Two BARs of a card as one device: its registers, and an aperture behind which the GPU's MMU translates.

use gmmu::device::{Bar0, Bar1Aperture, Clock, DeviceError, Width};

use crate::map::Mapping;

/// BAR0, and BAR1 or BAR2 beside it.
#[derive(Debug)]
pub struct Bars {
    /// The registers.
    pub bar0: Mapping,
    /// The aperture: of [`Card::aperture`](crate::Card::aperture) 1 or 2.
    pub aperture: Mapping,
}

impl Bar0 for Bars {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        self.bar0.read(offset, width)
    }

    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        self.bar0.write(offset, width, value)
    }

    fn has_64bit(&self) -> bool {
        self.bar0.has_64bit()
    }
}

impl Clock for Bars {
    fn now_us(&mut self) -> u64 {
        self.bar0.now_us()
    }

    fn relax(&mut self) {
        self.bar0.relax();
    }
}

impl Bar1Aperture for Bars {
    fn size(&self) -> u64 {
        self.aperture.size()
    }

    fn is_64bit(&self) -> bool {
        self.aperture.is_64bit()
    }

    fn read_at(&mut self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        self.aperture.read_at(offset, width)
    }

    fn write_at(&mut self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        self.aperture.write_at(offset, width, value)
    }

    fn read_bytes(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.aperture.read_bytes(offset, bytes)
    }

    fn write_bytes(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.aperture.write_bytes(offset, bytes)
    }
}
