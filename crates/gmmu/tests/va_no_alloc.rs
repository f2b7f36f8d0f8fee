//! After `reserve` nothing allocates. A binary of its own: the counters belong to the process.

use std::alloc::System;

use gmmu::va::{InsertError, VaRequest, VaSpace};
use stats_alloc::{Region, StatsAlloc, INSTRUMENTED_SYSTEM};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PAGE: u64 = 4096;

/// Uses up all of the room in an order that splits and joins nodes at every level.
fn work(space: &mut VaSpace<u64>, room: u64, seed: u64) {
    let mut state = seed | 1;
    for step in 0..room {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let bytes = PAGE * (1 + state % 9);
        let lo = (2 << 20) + state % (1 << 40);
        match step % 4 {
            0 => {
                let va = lo & !(PAGE - 1);
                let inside = space.get(va).is_some_and(|(range, _)| range.start < va);
                if inside {
                    space.split(va, |value, offset| *value + offset).expect("room was reserved");
                    continue;
                }
            }
            1 => {
                let some = space.next(lo).map(|(range, _)| range.start);
                some.map(|start| space.remove(start));
            }
            _ => {}
        }
        let request = VaRequest::new(bytes).within(lo..1 << 57);
        let va = space.find(&request).expect("nearly everything is free").raw();
        space.insert(va..va + bytes, step).expect("room was reserved");
        space.replace(va, step).expect("live");
    }
    assert_eq!(space.insert(0..PAGE, 0), Err((InsertError::NoRoom, 0)), "the promise was for so many");
}

/// Without the test harness, whose own thread allocates when it likes.
fn main() {
    nothing_allocates_after_reserve();
    println!("test nothing_allocates_after_reserve ... ok");
}

fn nothing_allocates_after_reserve() {
    let region = Region::new(ALLOCATOR);
    let mut space = VaSpace::new(0..1 << 57).expect("limits");
    assert_eq!(region.change().allocations, 0, "an empty space has no heap");
    for (seed, room) in (1..).zip([1, 1, 2, 15, 16, 17, 300, 1, 5000, 50_000, 7, 1000]) {
        space.reserve(room).expect("memory");
        let region = Region::new(ALLOCATOR);
        work(&mut space, room as u64, seed);
        let change = region.change();
        assert_eq!((change.allocations, change.reallocations, change.deallocations), (0, 0, 0), "room {room}");
        assert_eq!(space.check(), Ok(()));
    }
    let region = Region::new(ALLOCATOR);
    while let Some(start) = space.next(0).map(|(range, _)| range.start) {
        space.remove(start).expect("live");
    }
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations, change.deallocations), (0, 0, 0));
    assert_eq!(space.check(), Ok(()));
}
