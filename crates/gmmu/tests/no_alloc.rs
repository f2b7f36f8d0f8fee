//! Writing and flushing a job makes no call to the heap. One test in a binary of its own: the counters belong to the
//! process.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "common/kinds.rs"]
mod kinds;

use gmmu::addr::{PageSize, Pfn, PhysAddr, TableAddr};
use gmmu::chip::Chip;
use gmmu::device::{
    Clock, DeviceError, Invalidate, Invalidator, NoTableMemory, Poll, Run, TableMemory, TablePool, TableRead, Ticket,
};
use gmmu::format::{Format, V2, V3};
use gmmu::tlb::Limits;
use gmmu::vmm::{
    flush_all, poll_flush_all, ExecuteError, Extent, Flushed, Job, MapRequest, Receipt, SpaceConfig, Span, Use, Vmm,
};
use kinds::{Armed, Kind, KINDS};
use stats_alloc::{Region, Stats, StatsAlloc, INSTRUMENTED_SYSTEM};
use std::alloc::System;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Table memory that only counts, and so allocates nothing by itself.
#[derive(Default)]
struct Counter {
    words: u64,
    invalidates: u64,
    /// Looks at an invalidate that find it running.
    pending: u32,
    /// Calls until one fails; 0 for none.
    fails: u64,
}

impl Counter {
    fn step(&mut self) -> Result<(), DeviceError> {
        self.fails = self.fails.saturating_sub(1);
        if self.fails == 1 {
            return Err(DeviceError::Backend("on purpose"));
        }
        Ok(())
    }
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
        self.step()
    }
    fn write_words(&mut self, _: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        self.words += words.len() as u64;
        self.step()
    }
    fn order(&mut self) -> Result<(), DeviceError> {
        self.step()
    }
    fn drain(&mut self) -> Result<(), DeviceError> {
        self.step()
    }
}

impl Invalidator for Counter {
    fn submit(&mut self, _: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        self.step()?;
        self.invalidates += 1;
        self.pending = 2;
        Ok(Some(Ticket(self.invalidates)))
    }
    fn poll(&mut self, _: Ticket) -> Result<Poll, DeviceError> {
        self.step()?;
        if self.pending > 0 {
            self.pending -= 1;
            return Ok(Poll::Pending);
        }
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
    no_kind_of_job_calls_the_heap();
    println!("test no_kind_of_job_calls_the_heap ... ok");
    zaps_never_call_the_heap();
    println!("test zaps_never_call_the_heap ... ok");
    a_heap_call_would_be_counted();
    println!("test a_heap_call_would_be_counted ... ok");
}

/// A way in which a job is carried out.
type Way = fn(Armed<'_>, &mut Counter) -> Receipt;

/// At one go.
fn at_once(job: Armed<'_>, hardware: &mut Counter) -> Receipt {
    job.execute(hardware).unwrap()
}

/// Round by round.
fn in_rounds(mut job: Armed<'_>, hardware: &mut Counter) -> Receipt {
    loop {
        job.write(hardware).unwrap();
        if job.flush(hardware).unwrap() == Flushed::Done {
            return job.finish().unwrap();
        }
    }
}

/// A few entries at a time, without ever waiting, and asking for the receipt too early.
fn in_steps(mut job: Armed<'_>, hardware: &mut Counter) -> Receipt {
    loop {
        assert_eq!(job.poll_flush(hardware), Err(ExecuteError::NotWritten));
        while !job.write_some(hardware, 3).unwrap() {}
        job = job.finish().unwrap_err();
        loop {
            match job.poll_flush(hardware).unwrap() {
                Flushed::Pending => {}
                Flushed::NextRound => break,
                Flushed::Done => return job.finish().unwrap(),
            }
        }
    }
}

/// With the flushes for several jobs at once, waiting for one round and looking at the other.
fn together(mut job: Armed<'_>, hardware: &mut Counter) -> Receipt {
    for round in 0.. {
        job.write(hardware).unwrap();
        let jobs = std::slice::from_mut(&mut job);
        if round % 2 == 0 {
            flush_all(jobs, hardware, Limits::default()).unwrap();
        } else {
            while poll_flush_all(jobs, hardware).unwrap() == Poll::Pending {}
        }
        match job.finish() {
            Ok(receipt) => return receipt,
            Err(back) => job = back,
        }
    }
    unreachable!("a job has a limited number of rounds")
}

/// With every call of the device failing once.
fn with_failures(mut job: Armed<'_>, hardware: &mut Counter) -> Receipt {
    for n in 2.. {
        hardware.fails = n;
        match job.execute(hardware) {
            Ok(receipt) => {
                hardware.fails = 0;
                return receipt;
            }
            Err(failed) => job = failed.job,
        }
    }
    unreachable!("a job makes a limited number of calls")
}

fn no_kind_of_job_calls_the_heap() {
    let ways: [(&str, Way); 5] = [
        ("at once", at_once),
        ("in rounds", in_rounds),
        ("in steps", in_steps),
        ("together", together),
        ("with failures", with_failures),
    ];
    for kind in KINDS {
        for (name, way) in ways {
            let v3 = heap_calls::<V3>("gh100", kind, way);
            assert_eq!(v3, [0; 3], "{} {name}: allocations, reallocations, deallocations", kind.name);
            if kind.fits(Chip::by_name("ga100").unwrap()) {
                assert_eq!(heap_calls::<V2>("ga100", kind, way), [0; 3], "{} {name} on v2", kind.name);
            }
        }
    }
}

/// Heap calls of one job from its frames to its receipt.
fn heap_calls<F: Format>(chip: &str, kind: &Kind, way: Way) -> [usize; 3] {
    let chip = Chip::by_name(chip).unwrap();
    let config = SpaceConfig::new(chip, 1 << 36, Use::Channel);
    let (mut hardware, mut pool) = (Counter::default(), Bump(0));
    let mut space = Vmm::<F>::create(config, &mut hardware, &mut pool).unwrap();
    for step in kind.before {
        let job = step.plan(&mut space, &mut pool).unwrap().init(&mut hardware).unwrap();
        let frames = kinds::frames(&job);
        let receipt = Armed::new(job, &frames).execute(&mut hardware).unwrap();
        space.commit(&mut pool, receipt).unwrap();
    }
    let job: Job = kind.does.plan(&mut space, &mut pool).unwrap().init(&mut hardware).unwrap();
    let frames = kinds::frames(&job);
    hardware.words = 0;
    let region = Region::new(HEAP);
    let receipt = way(Armed::new(job, &frames), &mut hardware);
    let calls = calls(region.change());
    assert!(hardware.words > 0, "{} writes nothing", kind.name);
    space.commit(&mut pool, receipt).unwrap();
    calls
}

fn calls(stats: Stats) -> [usize; 3] {
    [stats.allocations, stats.reallocations, stats.deallocations]
}

/// Zaps at every moment of a job that cuts their mapping, and that job with them.
fn zaps_never_call_the_heap() {
    let chip = Chip::by_name("gh100").unwrap();
    let config = SpaceConfig::new(chip, 1 << 36, Use::Channel);
    for budget in [0, 1, 7, 100, u64::MAX] {
        let (mut hardware, mut pool) = (Counter::default(), Bump(0));
        let mut space = Vmm::<V3>::create(config, &mut hardware, &mut pool).unwrap();
        let extents = [Extent { to: PhysAddr::vram(1 << 34), bytes: 8 << 20 }];
        let request = MapRequest::extents(&extents).at(1 << 35).evictable();
        space.map_pages(&mut hardware, &mut pool, &request, &[]).unwrap();
        let zap = space.zap(1 << 35).unwrap();
        let hole = Span::new((1 << 35) + 4096..(1 << 35) + 8192).quiesced();
        let mut job = space.prepare_unmap(&mut hardware, &mut pool, hole).unwrap();
        job.write(&mut hardware).unwrap();
        job.flush(&mut hardware).unwrap();
        hardware.words = 0;
        let region = Region::new(HEAP);
        job.write_some(&mut hardware, budget).unwrap();
        zap.zap(&mut hardware).unwrap();
        job.skip_zapped();
        job.write(&mut hardware).unwrap();
        zap.clone().zap(&mut hardware).unwrap();
        job.flush(&mut hardware).unwrap();
        let receipt = job.finish().unwrap();
        let calls = calls(region.change());
        assert_eq!(calls, [0; 3], "budget {budget}");
        assert!(hardware.words > 30, "budget {budget} writes {} words", hardware.words);
        space.commit(&mut pool, receipt).unwrap();
    }
}

/// The counter counts, or zero would say nothing.
fn a_heap_call_would_be_counted() {
    let dropped: Way = |job, hardware| {
        drop(vec![0u8; 100]);
        at_once(job, hardware)
    };
    let kind = KINDS.iter().find(|kind| kind.name == "map 4K").unwrap();
    let [allocations, _, deallocations] = heap_calls::<V3>("gh100", kind, dropped);
    assert!(allocations > 0 && deallocations > 0);
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
