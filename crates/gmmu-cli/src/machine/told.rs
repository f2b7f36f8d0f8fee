//! The GPU as the library reaches it, where the sanitizer hears of every table before anything is written to it.

use gmmu::addr::{Pfn, TableAddr};
use gmmu::device::{Clock, DeviceError, Encoding, Invalidate, Invalidator, Poll, Run, TableMemory, TableRead, Ticket};
use gmmu::mmio::Mmio;
use gmmu_sim::{CpuPath, Gpu, Notes};

/// Tells the card what became of table memory before it does anything else.
pub(super) struct Told<'m> {
    pub(super) mmio: &'m mut Mmio<Gpu, CpuPath>,
    pub(super) notes: Notes,
}

impl Told<'_> {
    fn mmio(&mut self) -> &mut Mmio<Gpu, CpuPath> {
        self.notes.tell(self.mmio.bar0());
        self.mmio
    }
}

impl TableRead for Told<'_> {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        self.mmio().read_words(at, words)
    }
}

impl TableMemory for Told<'_> {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        self.mmio().write_run(at, run)
    }
    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        self.mmio().write_words(at, words)
    }
    fn write_frames(&mut self, at: TableAddr, how: Encoding, frames: &[Pfn]) -> Result<(), DeviceError> {
        self.mmio().write_frames(at, how, frames)
    }
    fn order(&mut self) -> Result<(), DeviceError> {
        self.mmio().order()
    }
    fn drain(&mut self) -> Result<(), DeviceError> {
        self.mmio().drain()
    }
}

impl Invalidator for Told<'_> {
    fn submit(&mut self, what: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        self.mmio().submit(what)
    }
    fn poll(&mut self, ticket: Ticket) -> Result<Poll, DeviceError> {
        self.mmio().poll(ticket)
    }
}

impl Clock for Told<'_> {
    fn now_us(&mut self) -> u64 {
        self.mmio.now_us()
    }
    fn relax(&mut self) {
        self.mmio.relax();
    }
}
