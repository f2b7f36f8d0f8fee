//! Putting a GPU together, and entering roots: every growth of a record is failed once, and nothing is left behind.
#![cfg(feature = "inject")]
#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "tests")]

use gmmu::addr::TableAddr;
use gmmu::fb::{GspRegion, LayoutError};
use gmmu::format::V3;
use gmmu::mm::{FbSource, GpuMm, MmError, RootError};
use gmmu::mmio::Mmio;
use gmmu::storage::inject::fail_at;
use gmmu::storage::NoMemory;
use gmmu::vmm::{PrepareError, Use};
use gmmu::vram::NewError;
use gmmu_sim::{Config, Gpu};

fn is_no_memory(why: &MmError) -> bool {
    matches!(
        why,
        MmError::NoMemory(_)
            | MmError::Layout(LayoutError::NoMemory(_))
            | MmError::Vram(NewError::NoMemory(_))
            | MmError::Root(RootError::NoMemory(_))
            | MmError::Space(PrepareError::NoMemory(_))
    )
}

#[test]
fn every_failing_growth_is_an_error() {
    let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100")).unwrap()).unwrap();
    let region = |base: u64, limit| GspRegion { base, limit, ..GspRegion::default() };
    let regions = [region(0, (1 << 30) - 1), region(2 << 30, (3 << 30) - 1)];
    let mut failures = 0;
    let mut mm = loop {
        fail_at(failures + 1);
        match GpuMm::probe(&mut card, FbSource::Gsp(&regions), &[]) {
            Ok(mm) => break mm,
            Err(why) => assert!(is_no_memory(&why), "{why:?}"),
        }
        failures += 1;
    };
    assert!(failures >= 8, "claims, edges, regions and the allocator's records all grow: {failures}");

    let free = mm.vram().unwrap().free_bytes();
    let pdb = TableAddr::vram(5 << 30);
    for n in 1..=2 {
        fail_at(n);
        assert_eq!(mm.register(pdb, Use::Channel).unwrap_err(), RootError::NoMemory(NoMemory));
        assert_eq!(mm.roots().count(), 0);
    }
    fail_at(0);
    let config = mm.space_config(Use::Channel);
    let mut failures = 0;
    let space = loop {
        fail_at(failures + 1);
        match mm.create_space::<V3, _>(config, &mut card) {
            Ok(space) => break space,
            Err(why) => assert!(is_no_memory(&why), "{why:?}"),
        }
        assert_eq!((mm.roots().count(), mm.vram().unwrap().free_bytes()), (0, free));
        failures += 1;
    };
    fail_at(0);
    assert!(failures >= 3, "the registry, the root's state and the space's records: {failures}");
    mm.close_space(space, &mut card).map_err(|(_, why)| why).unwrap();
}
