//! After construction the allocator never calls the heap again. The counter is the whole process's, so this binary has one
//! test only.

use gmmu::addr::{TableAddr, VramAddr};
use gmmu::device::TablePool;
use gmmu::vram::{Cleared, Extent, Place, Request, State, TablePages, Vram};
use stats_alloc::{Region, StatsAlloc, INSTRUMENTED_SYSTEM};
use std::alloc::System;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn requests() -> Vec<Request> {
    let window = VramAddr::new(3 << 20)..VramAddr::new(200 << 20);
    let places = [Place::Best, Place::Low, Place::High, Place::Near(VramAddr::new(77 << 20))];
    let clears = [Cleared::Any, Cleared::Prefer, Cleared::Require];
    let mut requests = Vec::new();
    for bytes in [4096, 12 << 10, 64 << 10, 2 << 20, 5 << 20] {
        for (place, cleared) in places.iter().flat_map(|&place| clears.map(|cleared| (place, cleared))) {
            let base = Request::new(bytes).place(place).cleared(cleared);
            let kinds = [base, base.contiguous(), base.align(64 << 10), base.within(window.clone()), base.at_most(3)];
            requests.extend(kinds.iter().filter_map(|kind| kind.build().ok()));
        }
    }
    requests
}

/// Without the test harness, whose own thread allocates when it likes.
fn main() {
    no_heap_calls_after_construction();
    println!("test no_heap_calls_after_construction ... ok");
}

fn no_heap_calls_after_construction() {
    let requests = requests();
    let mut pieces = [Extent::default(); 64];
    let mut live: Vec<Extent> = Vec::with_capacity(1 << 16);
    let mut tables: Vec<(TableAddr, u64)> = Vec::with_capacity(1 << 12);
    let mut vram = Vram::new(&[VramAddr::new(4096)..VramAddr::new(256 << 20)]).expect("memory");
    let mut pages = TablePages::new(8).expect("memory");
    let before_any = HEAP.stats();
    assert!(before_any.allocations > 0, "the counter counts");

    let region = Region::new(HEAP);
    let mut failed = 0;
    for round in 0..2000usize {
        let request = &requests[(round * 7919) % requests.len()];
        match vram.alloc(request, &mut pieces) {
            Ok(got) => live.extend_from_slice(got),
            Err(_) => failed += 1,
        }
        if round % 3 == 0 {
            let index = (round * 31) % live.len();
            let state = if round % 2 == 0 { State::Cleared } else { State::Dirty };
            vram.free(live.swap_remove(index), state).expect("live");
        }
        let bytes = if round % 4 == 0 { 4096 } else { 256 };
        if let Ok(table) = pages.pool(&mut vram).take(bytes, tables.last().map(|table| table.0)) {
            tables.push((table, bytes));
        }
        if round % 5 == 0 {
            let (table, bytes) = tables.swap_remove((round * 17) % tables.len());
            pages.pool(&mut vram).give(table, bytes);
        }
        if round % 50 == 0 {
            let at = VramAddr::new((round as u64) << 12);
            failed += usize::from(vram.retire(at).is_err()) + usize::from(vram.reserve(at..at).is_err());
            assert!(vram.free(Extent::new(at, 3), State::Dirty).is_err());
            vram.settle(64);
            vram.note_cleared(at..VramAddr::new(at.raw() + (1 << 20)));
            vram.reset_clear(round % 100 == 0);
        }
        if live.len() > 300 {
            let extent = live.swap_remove(0);
            let held = vram.quarantine(extent).expect("live");
            vram.release(held, State::Dirty).expect("still there");
        }
    }
    assert!(vram.check().is_ok() && vram.stats().free == vram.free_bytes());
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations, change.deallocations), (0, 0, 0));
    assert!(failed > 0 && !live.is_empty() && tables.len() > 1000, "every kind of outcome was seen");
}
