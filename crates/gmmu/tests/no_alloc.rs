//! Writing and flushing a job makes no call to the heap. One test in a binary of its own: the counters belong to the
//! process.
#![expect(clippy::unwrap_used, reason = "tests")]

use gmmu::addr::{PageSize, Pfn, PhysAddr, TableAddr};
use gmmu::chip::Chip;
use gmmu::device::{
    Clock, DeviceError, Invalidate, Invalidator, NoTableMemory, Poll, Run, TableMemory, TablePool, TableRead, Ticket,
};
use gmmu::format::V3;
use gmmu::vmm::{Extent, MapRequest, SpaceConfig, Use, Vmm};
use stats_alloc::{Region, StatsAlloc, INSTRUMENTED_SYSTEM};
use std::alloc::System;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Table memory that only counts, and so allocates nothing by itself.
#[derive(Default)]
struct Counter {
    words: u64,
    invalidates: u64,
}

impl TableRead for Counter {
    fn read_words(&mut self, _: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        words.fill(0);
        Ok(())
    }
}

impl TableMemory for Counter {
    fn write_run(&mut self, _: TableAddr, run: Run) -> Result<(), DeviceError> {
        self.words += u64::from(run.count);
        Ok(())
    }
    fn write_words(&mut self, _: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        self.words += words.len() as u64;
        Ok(())
    }
    fn order(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
    fn drain(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

impl Invalidator for Counter {
    fn submit(&mut self, _: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        self.invalidates += 1;
        Ok(Some(Ticket(self.invalidates)))
    }
    fn poll(&mut self, _: Ticket) -> Result<Poll, DeviceError> {
        Ok(Poll::Done)
    }
}

impl Clock for Counter {
    fn now_us(&mut self) -> u64 {
        0
    }
    fn relax(&mut self) {}
}

struct Bump(u64);

impl TablePool for Bump {
    fn take(&mut self, bytes: u64, _: Option<TableAddr>) -> Result<TableAddr, NoTableMemory> {
        self.0 = self.0.next_multiple_of(bytes) + bytes;
        Ok(TableAddr::vram(self.0 - bytes))
    }
    fn give(&mut self, _: TableAddr, _: u64) {}
}

/// Without the test harness, whose own thread allocates when it likes.
fn main() {
    write_and_flush_never_call_the_heap();
    println!("test write_and_flush_never_call_the_heap ... ok");
}

fn write_and_flush_never_call_the_heap() {
    let chip = Chip::by_name("gh100").unwrap();
    let config = SpaceConfig::new(chip, 1 << 36, Use::Channel);
    let (mut hardware, mut pool) = (Counter::default(), Bump(0));
    let mut space = Vmm::<V3>::create(config, &mut hardware, &mut pool).unwrap();

    // Extents with every page size, then late frames, then the unmap of both.
    let extents = [Extent { to: PhysAddr::vram((1 << 34) - 4096), bytes: (1 << 30) + 8192 }];
    let job = space.prepare_map(&mut hardware, &mut pool, &MapRequest::extents(&extents).at((1 << 35) - 4096)).unwrap();
    let region = Region::new(HEAP);
    let receipt = job.execute(&mut hardware).unwrap();
    let extents_stats = region.change();
    let first = space.commit(&mut pool, receipt).unwrap().range;

    let frames: Vec<Pfn> = (0..5000).map(|n| Pfn::new((n * 7919) % 5000)).collect();
    let job = space.prepare_map(&mut hardware, &mut pool, &MapRequest::frames(5000, PageSize::Size4K)).unwrap();
    let region = Region::new(HEAP);
    let receipt = job.with_frames(&frames).unwrap().execute(&mut hardware).unwrap();
    let frames_stats = region.change();
    let second = space.commit(&mut pool, receipt).unwrap().range;

    let mut unmaps = Vec::new();
    for range in [first, second] {
        let mut job = space.prepare_unmap(&mut hardware, &mut pool, range).unwrap();
        let region = Region::new(HEAP);
        job.write(&mut hardware).unwrap();
        job.flush(&mut hardware).unwrap();
        let receipt = job.finish().unwrap();
        unmaps.push(region.change());
        space.commit(&mut pool, receipt).unwrap();
    }
    assert!(hardware.words > 5000);
    for stats in [extents_stats, frames_stats].iter().chain(&unmaps) {
        assert_eq!((stats.allocations, stats.reallocations, stats.deallocations), (0, 0, 0), "{stats:?}");
    }
}
