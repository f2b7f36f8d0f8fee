//! A back end of one's own: page tables in memory that the CPU stores to directly, such as a mapped BAR.
//!
//! ```text
//! cargo run -p gmmu --example own_backend
//! ```
//! Five small traits are all that the library asks for. Here memory is a vector and the invalidate a counter; a driver
//! puts its mapping and its registers in their places.

use gmmu::addr::{PhysAddr, TableAddr};
use gmmu::chip::Chip;
use gmmu::device::{
    Clock, DeviceError, Invalidate, Invalidator, NoTableMemory, Poll, Run, TableMemory, TablePool, TableRead, Ticket,
};
use gmmu::format::V2;
use gmmu::vmm::{Extent, MapRequest, SpaceConfig, Use, Vmm};
use std::error::Error;

struct Memory {
    words: Vec<u64>,
    invalidates: u64,
    ticks: u64,
}

impl Memory {
    fn slot(&mut self, at: TableAddr, words: usize) -> Result<&mut [u64], DeviceError> {
        let TableAddr::Vram(vram) = at else { return Err(DeviceError::WrongAperture { at }) };
        let missing = DeviceError::OutOfRange { at, bytes: words as u64 * 8, end: self.words.len() as u64 * 8 };
        let from = usize::try_from(vram.raw() / 8).map_err(|_| missing)?;
        self.words.get_mut(from..).and_then(|rest| rest.get_mut(..words)).ok_or(missing)
    }
}

impl TableRead for Memory {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        words.copy_from_slice(self.slot(at, words.len())?);
        Ok(())
    }
}

impl TableMemory for Memory {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        // A driver stores volatile here, or copies a run with streaming stores.
        for (slot, word) in self.slot(at, run.count as usize)?.iter_mut().zip(run.words()) {
            *slot = word;
        }
        Ok(())
    }
    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        self.slot(at, words.len())?.copy_from_slice(words);
        Ok(())
    }
    fn order(&mut self) -> Result<(), DeviceError> {
        Ok(()) // a store fence, on write-combined memory
    }
    fn drain(&mut self) -> Result<(), DeviceError> {
        Ok(()) // the BAR flush
    }
}

impl Invalidator for Memory {
    fn submit(&mut self, what: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        self.invalidates += 1;
        println!("invalidate {} {:?}, acknowledge {:?}", what.pdb, what.depth, what.ack);
        Ok(Some(Ticket(self.invalidates)))
    }
    fn poll(&mut self, _: Ticket) -> Result<Poll, DeviceError> {
        Ok(Poll::Done)
    }
}

impl Clock for Memory {
    fn now_us(&mut self) -> u64 {
        self.ticks
    }
    fn relax(&mut self) {
        self.ticks += 1;
    }
}

/// Table memory from the bottom up, never reused: enough for an example.
struct Bump(u64);

impl TablePool for Bump {
    fn take(&mut self, bytes: u64, _near: Option<TableAddr>) -> Result<TableAddr, NoTableMemory> {
        let at = self.0.next_multiple_of(bytes);
        self.0 = at + bytes;
        Ok(TableAddr::vram(at))
    }
    fn give(&mut self, at: TableAddr, bytes: u64) {
        println!("{at} + {bytes} is free again");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut memory = Memory { words: vec![0; 1 << 20], invalidates: 0, ticks: 0 };
    let mut pool = Bump(4096);
    let chip = Chip::by_name("ad102").ok_or("a chip that the library knows")?;
    let config = SpaceConfig::new(chip, 24 << 30, Use::Bar);
    let mut space = Vmm::<V2>::create(config, &mut memory, &mut pool)?;
    let extents = [Extent { to: PhysAddr::vram(1 << 30), bytes: 3 << 20 }];
    let request = MapRequest::extents(&extents).at(0x4000_0000);
    let range = space.map_pages(&mut memory, &mut pool, &request, &[])?.range;
    let walk = space.read_mapping(&mut memory, range.start + 0x123)?;
    println!("{:?}", walk.outcome);
    space.unmap_pages(&mut memory, &mut pool, range)?;
    Ok(())
}
