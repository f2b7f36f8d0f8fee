//! Every growth of a record fails once, in every call of the planner: afterwards nothing has changed. A binary of its own:
//! the countdown belongs to the process.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "common/kinds.rs"]
mod kinds;

use common::{World, DATA, GIB, MIB};
use gmmu::addr::{PageSize, PhysAddr};
use gmmu::chip::Chip;
use gmmu::format::{Format, V2, V3};
use gmmu::storage::inject::fail_at;
use gmmu::vmm::{CommitError, Extent, Job, MapRequest, PrepareError};
use gmmu_sim::{AccessKind, Client};
use kinds::{Armed, Kind, Page, KINDS};

const VA: u64 = 4 * GIB;

/// Pieces, tables and numbers, to be equal before and after.
fn state<F: Format>(world: &mut World<F>) -> String {
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

/// All tables anew, every growth failing once: the space asks for another restore until one was made.
fn restore_with_failures() {
    let mut world = World::<V3>::new("gh100");
    world.map(VA, DATA, 5 * MIB, None);
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 64 << 10 }];
    let job = world.prepare(&MapRequest::extents(&extents).at(VA + GIB).evictable()).unwrap();
    world.finish(job);
    let waiting = world.prepare_unmap(VA..VA + MIB * 2).unwrap();
    let mut grown = 0;
    let job = loop {
        fail_at(grown + 1);
        let planned = world.prepare_with(|vmm, pool| vmm.plan_restore(pool));
        fail_at(0);
        match planned {
            Ok(job) => break job,
            Err(why) => assert_eq!(why, PrepareError::NoMemory(gmmu::storage::NoMemory), "growth {grown}"),
        }
        let refused = world.prepare_unmap(VA..VA + 4096).unwrap_err();
        assert_eq!(refused, PrepareError::NotRestored, "growth {grown}");
        grown += 1;
    };
    println!("restore: {grown} growths");
    assert!(grown > 8);
    drop(waiting);
    world.finish(job);
    world.assert_maps(VA..VA + 5 * MIB, DATA);
    world.assert_maps(VA + GIB..VA + GIB + (64 << 10), DATA);
    world.assert_no_leak();
}

/// One test: the countdown is shared.
#[test]
fn without_memory_for_records_nothing_changes() {
    restore_with_failures();
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
    every_growth_of_every_kind_fails_once();
}

/// Pieces, tables and numbers, and where a page could still be mapped: what is sparse, or held by a job, is passed over.
fn state_with_room<F: Format>(world: &mut World<F>, kind: &Kind) -> String {
    let mut free = Vec::new();
    for va in kind.probes() {
        let request = MapRequest::frames(1, PageSize::Size4K).within(va..va + 4096);
        let plan = world.vmm.plan_map(&mut world.pool, &request).map(drop);
        free.push(!matches!(plan, Err(PrepareError::NoVa(_))));
    }
    world.notes.tell(world.mmio.bar0());
    format!("{} {free:?}", state(world))
}

fn execute<F: Format>(world: &mut World<F>, job: Job) {
    let frames = kinds::frames(&job);
    let receipt = Armed::new(job, &frames).execute(&mut world.mmio).unwrap();
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    world.notes.tell(world.mmio.bar0());
}

fn assert_pages<F: Format>(world: &mut World<F>, kind: &Kind, after: bool) {
    let client = Client::Engine { pdb: world.vmm.pdb() };
    for va in kind.probes() {
        let (before, behind) = kind.page(va);
        let found = match world.gpu().access(client, va, AccessKind::Read, false) {
            Err(_) => Page::Faults,
            Ok(found) if found.sparse => Page::Zero,
            Ok(found) => Page::Leads { to: found.to.raw, read_only: found.flags.read_only },
        };
        assert_eq!(found, if after { behind } else { before }, "{va:#x} of {:?}", kind.name);
    }
    world.assert_clean();
}

/// Every growth in the prepare and in the cancel of every kind of job.
fn every_growth_of_every_kind_fails_once() {
    for kind in KINDS {
        let grown = every_growth::<V3>("gh100", kind);
        assert!(grown > 3, "{}: {grown}", kind.name);
        if kind.fits(Chip::by_name("ga100").unwrap()) {
            every_growth::<V2>("ga100", kind);
        }
    }
}

fn every_growth<F: Format>(chip: &str, kind: &'static Kind) -> u64 {
    let mut failures = 0;
    for growth in 1.. {
        // A world for each: what has grown once stays grown.
        let mut world = World::<F>::new(chip);
        for step in kind.before {
            let job = world.prepare_with(|vmm, pool| step.plan(vmm, pool)).unwrap();
            execute(&mut world, job);
        }
        assert_pages(&mut world, kind, false);
        let before = state_with_room(&mut world, kind);
        fail_at(growth);
        let prepared = world.prepare_with(|vmm, pool| kind.does.plan(vmm, pool));
        fail_at(0);
        let through = prepared.is_ok();
        let job = match prepared {
            Ok(job) => job,
            Err(why) => {
                failures += 1;
                let when = format!("{} at growth {growth}", kind.name);
                assert_eq!(why, PrepareError::NoMemory(gmmu::storage::NoMemory), "{when}");
                assert_eq!(state_with_room(&mut world, kind), before, "{when}");
                world.prepare_with(|vmm, pool| kind.does.plan(vmm, pool)).unwrap()
            }
        };
        // Cancelled, the same: all, or whole.
        let planned = state_with_room(&mut world, kind);
        let mut job = Some(job);
        for growth in 1.. {
            fail_at(growth);
            let cancelled = world.vmm.cancel(&mut world.pool, job.take().unwrap());
            fail_at(0);
            match cancelled {
                Ok(()) => break,
                Err((back, why)) => {
                    failures += 1;
                    assert!(matches!(why, CommitError::NoMemory(_)), "{}: {why}", kind.name);
                    assert_eq!(state_with_room(&mut world, kind), planned, "{}", kind.name);
                    job = Some(back);
                }
            }
        }
        world.notes.tell(world.mmio.bar0());
        assert_eq!(state_with_room(&mut world, kind), before, "{}", kind.name);
        // Dropped while memory is short, it is taken back at the first call that finds some.
        drop(world.prepare_with(|vmm, pool| kind.does.plan(vmm, pool)).unwrap());
        for growth in (1..4).rev() {
            fail_at(growth);
            let _ = world.vmm.plan_sparse(&mut world.pool, 0..4096).map(drop);
            fail_at(0);
        }
        assert_eq!(state_with_room(&mut world, kind), before, "{}", kind.name);
        // Executed and committed without any memory at all.
        let job = world.prepare_with(|vmm, pool| kind.does.plan(vmm, pool)).unwrap();
        let frames = kinds::frames(&job);
        fail_at(1);
        let receipt = Armed::new(job, &frames).execute(&mut world.mmio).unwrap();
        world.vmm.commit(&mut world.pool, receipt).unwrap();
        fail_at(0);
        world.notes.tell(world.mmio.bar0());
        assert_pages(&mut world, kind, true);
        world.assert_no_leak();
        if through {
            break;
        }
    }
    failures
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
