//! What a driver makes of the library where it may not allocate: jobs' writes and flushes over a card's registers. Only
//! the names in its object file matter.
#![no_std]

use core::sync::atomic::{AtomicU32, Ordering};
use gmmu::addr::Pfn;
use gmmu::device::{Bar0, Clock, DeviceError, Poll, Width};
use gmmu::mmio::Mmio;
use gmmu::tlb::Limits;
use gmmu::vmm::execute::{initialise, Cursor, Flush, Round, Write};

/// Registers as plain memory.
pub struct Registers(&'static [AtomicU32]);

impl Registers {
    fn at(&self, offset: u32, width: Width) -> Result<&AtomicU32, DeviceError> {
        let bad = DeviceError::BadOffset { offset, bytes: width.bytes() };
        self.0.get(offset as usize / 4).ok_or(bad)
    }
}

impl Bar0 for Registers {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        Ok(u64::from(self.at(offset, width)?.load(Ordering::Relaxed)))
    }
    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        self.at(offset, width)?.store(value as u32, Ordering::Relaxed);
        Ok(())
    }
    fn has_64bit(&self) -> bool {
        false
    }
}

impl Clock for Registers {
    fn now_us(&mut self) -> u64 {
        0
    }
    fn relax(&mut self) {}
}

pub fn init(card: &mut Mmio<Registers>, writes: &[Write]) -> Result<(), DeviceError> {
    initialise(card, writes)
}

pub fn write(card: &mut Mmio<Registers>, round: Round<'_>, frames: &[Pfn], budget: u64) -> Result<bool, DeviceError> {
    let mut cursor = Cursor::default();
    round.write(card, frames, &mut cursor, budget)?;
    Ok(cursor.is_done())
}

pub fn flush(card: &mut Mmio<Registers>, flush: &mut Flush) -> Result<(), DeviceError> {
    flush.finish(card, Limits::default())
}

pub fn poll(card: &mut Mmio<Registers>, flush: &mut Flush) -> Result<Poll, DeviceError> {
    flush.poll(card)
}
