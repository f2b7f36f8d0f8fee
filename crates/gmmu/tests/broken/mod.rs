//! A card whose registers lie, lose writes, or fail at a chosen access.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    missing_docs,
    reason = "each test binary uses a part of it"
)]

use gmmu::device::{Bar0, Clock, DeviceError, Width};
use gmmu_sim::Gpu;

#[derive(Debug)]
pub struct Broken {
    pub gpu: Gpu,
    /// Registers that read something else.
    pub says: Vec<(u32, u32)>,
    /// Registers whose writes are lost.
    pub deaf: Vec<u32>,
    /// Accesses until one fails; 0 for never.
    pub fails_in: u64,
    /// Everything reads all-ones.
    pub gone: bool,
}

impl Broken {
    pub const fn new(gpu: Gpu) -> Self {
        Self { gpu, says: Vec::new(), deaf: Vec::new(), fails_in: 0, gone: false }
    }

    pub fn saying(gpu: Gpu, says: &[(u32, u32)]) -> Self {
        Self { says: says.to_vec(), ..Self::new(gpu) }
    }

    fn count(&mut self) -> Result<(), DeviceError> {
        let fails = self.fails_in == 1;
        self.fails_in = self.fails_in.saturating_sub(1);
        if fails {
            Err(DeviceError::Backend("made to fail"))
        } else {
            Ok(())
        }
    }
}

impl Bar0 for Broken {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        self.count()?;
        if self.gone {
            return Ok(u64::MAX >> (64 - 8 * width.bytes()));
        }
        let said = self.says.iter().find(|(at, _)| *at == offset);
        said.map_or_else(|| self.gpu.read(offset, width), |&(_, value)| Ok(value.into()))
    }
    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        self.count()?;
        if self.gone || self.deaf.contains(&offset) {
            return Ok(());
        }
        self.gpu.write(offset, width, value)
    }
    fn has_64bit(&self) -> bool {
        self.gpu.has_64bit()
    }
}

impl Clock for Broken {
    fn now_us(&mut self) -> u64 {
        self.gpu.now_us()
    }
    fn relax(&mut self) {
        self.gpu.relax();
    }
}
