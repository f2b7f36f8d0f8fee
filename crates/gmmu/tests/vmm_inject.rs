//! Every growth of a record fails once, in every call of the planner: afterwards nothing has changed. A binary of its own:
//! the countdown belongs to the process.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{World, DATA, GIB, MIB};
use gmmu::addr::{PageSize, PhysAddr};
use gmmu::format::V3;
use gmmu::storage::inject::fail_at;
use gmmu::vmm::{CommitError, Extent, Job, MapRequest, PrepareError};

const VA: u64 = 4 * GIB;

/// Pieces, tables and numbers, to be equal before and after.
fn state(world: &mut World<V3>) -> String {
    let pieces: Vec<_> = world.vmm.pieces().map(|(range, piece)| (range, *piece)).collect();
    let census = world.vmm.census();
    let tables = (census.directories, census.leaf_tables, census.jobs);
    format!("{pieces:?} {tables:?} {:?}", world.pool.inner().out)
}

/// Prepares with the n-th growth failing, for every n until it gets through.
fn prepare_with_failures(
    world: &mut World<V3>,
    mut prepare: impl FnMut(&mut World<V3>) -> Result<Job, PrepareError>,
) -> (Job, u64) {
    let before = state(world);
    for n in 1.. {
        fail_at(n);
        let prepared = prepare(world);
        fail_at(0);
        match prepared {
            Ok(job) => return (job, n - 1),
            Err(why) => {
                assert_eq!(why, PrepareError::NoMemory(gmmu::storage::NoMemory), "growth {n}");
                assert_eq!(state(world), before, "growth {n}");
            }
        }
    }
    unreachable!("a prepare grows its records a limited number of times")
}

/// One test: the countdown is shared.
#[test]
fn without_memory_for_records_nothing_changes() {
    let mut world = World::<V3>::new("gh100");
    // A neighbour, so that tables are partly shared, and an empty table that a 2M leaf will drop.
    world.map(VA + 2 * MIB - 8192, DATA, 4096, Some(PageSize::Size4K));
    world.map(VA + 8 * MIB, DATA, 4096, Some(PageSize::Size4K));
    world.unmap(VA + 8 * MIB..VA + 8 * MIB + 4096);

    let extents = [Extent { to: PhysAddr::vram(DATA - 4096), bytes: 9 * MIB }];
    let request = MapRequest::extents(&extents).at(VA + 2 * MIB - 4096);
    let (map, grown) = prepare_with_failures(&mut world, |world| world.prepare(&request));
    println!("map: {grown} growths");
    assert!(grown > 8);

    // A second job that waits for the first, and cancels while memory is short.
    let other = [Extent { to: PhysAddr::vram(DATA), bytes: 4096 }];
    let near = MapRequest::extents(&other).at(VA).page(PageSize::Size4K);
    let (second, grown) = prepare_with_failures(&mut world, |world| world.prepare(&near));
    println!("map that waits: {grown} growths");
    world.cancel(second);

    let range = world.finish(map);
    world.assert_maps(range.clone(), DATA - 4096);
    let (unmap, grown) = prepare_with_failures(&mut world, |world| world.prepare_unmap(range.clone()));
    println!("unmap: {grown} growths");

    // Cancelling an unmap may need room for its records: without it, the job comes back whole.
    let mut unmap = Some(unmap);
    for n in 1.. {
        fail_at(n);
        let cancelled = world.vmm.cancel(&mut world.pool, unmap.take().unwrap());
        fail_at(0);
        match cancelled {
            Ok(()) => break,
            Err((job, why)) => {
                assert!(matches!(why, CommitError::NoMemory(_)), "{why}");
                unmap = Some(job);
            }
        }
    }
    world.assert_maps(range.clone(), DATA - 4096);
    world.unmap(range.clone());
    world.assert_faults(range);
    world.assert_clean();
    world.assert_no_leak();
    a_failed_unmap_keeps_the_counts_of_its_tables();
}

/// An unmap whose records could not grow once left the counts of its tables too low: a later unmap of the same mapping
/// dropped tables in which others still lived.
fn a_failed_unmap_keeps_the_counts_of_its_tables() {
    const K64: u64 = 64 << 10;
    for growth in 1.. {
        let mut world = World::<V3>::new("gh100");
        // 64K pages at the end of the same 2 MiB.
        let neighbour = VA + 20 * K64..VA + 24 * K64;
        world.map(neighbour.start, DATA + 20 * K64, 4 * K64, Some(PageSize::Size64K));
        // Every third is a 64K page, those between are 4K pages.
        let shift = |n: u64| if n % 3 == 0 { 0 } else { 4096 * (1 + n) };
        let extents = (0..11).map(|n| Extent { to: PhysAddr::vram(DATA + n * 2 * K64 + shift(n)), bytes: K64 });
        let extents: Vec<Extent> = extents.collect();
        let job = world.prepare(&MapRequest::extents(&extents).at(VA)).unwrap();
        let range = world.finish(job);
        let pieces = world.vmm.pieces().count();
        fail_at(growth);
        let failed = world.vmm.plan_unmap(&mut world.pool, range.clone()).map(drop).is_err();
        fail_at(0);
        assert_eq!(world.vmm.pieces().count(), pieces);
        world.unmap(range);
        world.assert_maps(neighbour.clone(), DATA + 20 * K64);
        world.unmap(neighbour);
        world.assert_clean();
        world.assert_no_leak();
        if !failed {
            assert!(growth > 3, "{growth}");
            break;
        }
    }
}
