//! System memory as the CPU has it: plain 64-bit loads and stores beside BAR0, counted, and with ordering points.
//!
//! The model stores at once and in order, so an ordering point changes nothing but its count. The sanitizer knows
//! what a weaker order would have made of the stores: whether tables were published behind one, and whether stores were
//! waited for before an invalidate.

use crate::gpu::Gpu;
use crate::memory::Space;
use crate::order::Path;
use crate::store::{Origin, Source};
use gmmu::addr::TableAddr;
use gmmu::device::{DeviceError, Run, SysPath, TableMemory, TableRead};

/// Model time of a load or store of the CPU's own memory.
const ACCESS_NS: u64 = 1;
/// Model time of an ordering point.
const FENCE_NS: u64 = 20;

/// System memory, as the driver's CPU reads and writes tables in it. Video memory is
/// [`WrongAperture`](DeviceError::WrongAperture) here.
#[derive(Debug)]
pub struct CpuMemory<'a>(&'a mut Gpu);

/// The way to a GPU's system memory for a driver that owns the whole GPU as its BAR0.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuPath;

impl SysPath<Gpu> for CpuPath {
    type Memory<'a> = CpuMemory<'a>;

    fn memory<'a>(&'a mut self, bar0: &'a mut Gpu) -> CpuMemory<'a> {
        bar0.cpu()
    }
}

impl Gpu {
    /// System memory, as the CPU stores tables to it.
    pub const fn cpu(&mut self) -> CpuMemory<'_> {
        CpuMemory(self)
    }
}

impl CpuMemory<'_> {
    /// Checks an access and lets its time pass.
    fn begin(&mut self, at: TableAddr, words: usize) -> Result<(), DeviceError> {
        let (words, end) = (words as u64, self.0.sys_end());
        let bytes = words.saturating_mul(8);
        if at.is_vram() {
            return Err(DeviceError::WrongAperture { at });
        }
        if !at.is_aligned(8) {
            return Err(DeviceError::Unaligned { at, alignment: 8 });
        }
        if at.raw().checked_add(bytes).is_none_or(|last| last > end) {
            return Err(DeviceError::OutOfRange { at, bytes, end });
        }
        self.0.model.op += words;
        self.pass(words.saturating_mul(ACCESS_NS));
        Ok(())
    }

    fn pass(&mut self, ns: u64) {
        self.0.time_ns = self.0.time_ns.saturating_add(ns);
    }

    fn store(&mut self, at: TableAddr, source: Source<'_>) -> Result<(), DeviceError> {
        self.begin(at, source.len())?;
        self.0.counts.sys_writes += source.len() as u64;
        self.0.model.undrained |= source.len() > 0;
        self.0.model.store_words(Origin::Tables(Path::Cpu), Space::Sys, at.raw(), source);
        Ok(())
    }
}

impl TableRead for CpuMemory<'_> {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        self.begin(at, words.len())?;
        self.0.counts.sys_reads += words.len() as u64;
        for (word, raw) in words.iter_mut().zip((at.raw()..).step_by(8)) {
            *word = self.0.peek_word(at.with_raw(raw));
        }
        Ok(())
    }
}

impl TableMemory for CpuMemory<'_> {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        self.store(at, Source::Run(run))
    }

    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        self.store(at, Source::Words(words))
    }

    fn order(&mut self) -> Result<(), DeviceError> {
        self.0.counts.fences += 1;
        self.0.model.fence += 1;
        self.pass(FENCE_NS);
        Ok(())
    }

    fn drain(&mut self) -> Result<(), DeviceError> {
        self.0.counts.drains += 1;
        self.0.model.fence += 1;
        self.0.model.undrained = false;
        self.0.model.drained.wait(Path::Cpu, self.0.model.op);
        self.pass(FENCE_NS);
        Ok(())
    }
}
