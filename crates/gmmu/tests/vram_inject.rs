//! Construction is the only moment that needs memory of the host: every growth that it makes is failed once.
#![cfg(feature = "inject")]

use gmmu::addr::VramAddr;
use gmmu::storage::inject::fail_at;
use gmmu::storage::NoMemory;
use gmmu::vram::{NewError, Request, TablePages, Vram};

#[test]
fn every_failing_growth_is_an_error() {
    let regions = [VramAddr::new(0)..VramAddr::new(1 << 30), VramAddr::new(2 << 30)..VramAddr::new(3 << 30)];
    let mut failures = 0;
    let mut vram = loop {
        fail_at(failures + 1);
        match Vram::new(&regions) {
            Ok(vram) => break vram,
            Err(error) => assert_eq!(error, NewError::NoMemory(NoMemory)),
        }
        failures += 1;
    };
    assert!(failures >= 5, "regions, cells, leaves, sets, tree and retired pages all grow: {failures}");
    // Nothing grows later: the counter that is armed now never strikes.
    fail_at(1);
    let request = Request::new(3 << 20).build().expect("valid");
    for _ in 0..100 {
        vram.alloc_contiguous(&request).expect("room");
    }
    vram.check().expect("invariants");
    assert!(matches!(TablePages::new(16), Err(NoMemory)), "it strikes here");
    assert!(TablePages::new(16).is_ok());
    fail_at(0);
}
