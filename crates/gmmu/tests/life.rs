//! What becomes of a space's tables over its life: empty ones are reclaimed, lost ones restored.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "random/flaky.rs"]
#[expect(unreachable_pub, reason = "shared by tests")]
mod flaky;

use common::{frames, World, DATA, GIB, MIB};
use flaky::{Flaky, FAILED};
use gmmu::addr::{PageSize, PhysAddr, TableAddr};
use gmmu::format::{Flags, Format, V2, V3};
use gmmu::vmm::{CommitError, ExecuteError, Extent, Flushed, Job, MapRequest, PrepareError, Protection};

const VA: u64 = 4 * GIB;

fn prepare_reclaim<F: Format>(world: &mut World<F>) -> Result<Job, PrepareError> {
    world.prepare_with(|vmm, pool| vmm.plan_reclaim(pool))
}

#[test]
fn empty_tables_are_given_back_and_used_ones_stay() {
    let mut world = World::<V3>::new("gh100");
    assert_eq!(world.vmm.reclaimable(), 0);
    assert!(matches!(prepare_reclaim(&mut world), Err(PrepareError::NotMapped { .. })));
    // Single pages that go leave their tables.
    for n in 0..8 {
        world.map(VA + n * 2 * MIB, DATA, 4096, Some(PageSize::Size4K));
        world.map(VA + 600 * GIB + n * 2 * MIB, DATA, 4096, Some(PageSize::Size4K));
    }
    for n in 0..8 {
        world.unmap(VA + 600 * GIB + n * 2 * MIB..VA + 600 * GIB + n * 2 * MIB + 4096);
        if n > 0 {
            world.unmap(VA + n * 2 * MIB..VA + n * 2 * MIB + 4096);
        }
    }
    // Seven tables beside one in use; eight with the two directories over them alone.
    assert_eq!(world.vmm.reclaimable(), 7 * 4096 + 8 * 4096 + 2 * 4096);
    let job = prepare_reclaim(&mut world).unwrap();
    world.cancel(job);
    assert_eq!(world.vmm.census().leaf_tables, 16);
    let job = prepare_reclaim(&mut world).unwrap();
    world.gpu().reset_counts();
    world.finish(job);
    assert_eq!(world.gpu().counts().invalidates, 1);
    assert_eq!((world.vmm.census().leaf_tables, world.vmm.reclaimable()), (1, 0));
    world.assert_maps(VA..VA + 4096, DATA);
    world.assert_faults(VA + 600 * GIB..VA + 600 * GIB + 8192);
    world.assert_no_leak();
    // And what was given back is made again where it is needed.
    world.map(VA + 600 * GIB, DATA, 4 * MIB, Some(PageSize::Size4K));
    world.assert_maps(VA + 600 * GIB..VA + 600 * GIB + 4 * MIB, DATA);
    world.unmap(VA + 600 * GIB..VA + 600 * GIB + 4 * MIB);
    world.unmap(VA..VA + 4096);
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn tables_of_waiting_jobs_are_not_reclaimed() {
    let mut world = World::<V2>::new("ad102");
    world.map(VA, DATA, 4096, Some(PageSize::Size4K));
    world.unmap(VA..VA + 4096);
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 4096 }];
    let job = world.prepare(&MapRequest::extents(&extents).at(VA + 8192)).unwrap();
    assert_eq!(world.vmm.reclaimable(), 0);
    world.cancel(job);
    assert!(world.vmm.reclaimable() > 0);
    let job = prepare_reclaim(&mut world).unwrap();
    // A mapping that is prepared behind it brings tables of its own, and waits.
    let behind = world.prepare(&MapRequest::extents(&extents).at(VA)).unwrap();
    let failed = behind.execute(&mut world.mmio).unwrap_err();
    assert_eq!(failed.why, ExecuteError::NotYet);
    world.finish(job);
    world.finish(failed.job);
    world.assert_maps(VA..VA + 4096, DATA);
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn mapping_reclaims_where_memory_for_tables_runs_out() {
    let mut world = World::<V3>::new("gh100");
    for n in 0..4 {
        let va = VA + n * 2 * MIB;
        world.map(va, DATA, 4096, Some(PageSize::Size4K));
        world.unmap(va..va + 4096);
    }
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 4096 }];
    let request = MapRequest::extents(&extents).at(VA + 64 * MIB);
    // The pool of the tests counts takes; a small one over the same memory is short instead.
    world.pool.inner().allowed = 0;
    let refused = world.vmm.map_pages(&mut world.mmio, &mut world.pool, &request, &[]);
    assert!(refused.is_err());
    assert_eq!(world.vmm.census().leaf_tables, 0, "what could be given back was");
    world.pool.inner().allowed = u64::MAX;
    world.notes.tell(world.mmio.bar0());
    world.assert_clean();
    world.assert_no_leak();
}

/// Everything that a space can hold, with tables that are then lost.
fn restored<F: Format>(chip: &str) {
    let mut world = World::<F>::new(chip);
    world.map(VA, DATA, 5 * MIB, None);
    world.map(VA + 64 * MIB, DATA + GIB, 20 * 4096, Some(PageSize::Size4K));
    let job = world.prepare_sparse(VA + 128 * MIB..VA + 129 * MIB).unwrap();
    world.finish(job);
    let read_only = Protection::flags(Flags { read_only: true, ..Flags::NONE });
    let job = world.prepare_protect(VA..VA + 2 * MIB, read_only).unwrap();
    world.finish(job);
    let late = frames(&[DATA + 7 * MIB, DATA + 3 * MIB]);
    let request = MapRequest::frames(2, PageSize::Size64K).at(VA + 256 * MIB);
    let job = world.prepare(&request).unwrap();
    let receipt = job.with_frames(&late).unwrap().execute(&mut world.mmio).unwrap();
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    // One job waits, another was unmapping.
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 4096 }];
    let waiting = world.prepare(&MapRequest::extents(&extents).at(VA + 512 * MIB)).unwrap();
    let mut unmapping = world.prepare_unmap(VA + 64 * MIB..VA + 64 * MIB + 4096).unwrap();
    unmapping.write(&mut world.mmio).unwrap();

    // The GPU is reset, and its memory full of garbage.
    let tables: Vec<(TableAddr, u64)> = world.vmm.tables().unwrap().iter().copied().collect();
    world.mmio = World::<F>::new(chip).mmio;
    let root = world.vmm.pdb();
    world.gpu().forget_root(root);
    for (at, bytes) in tables {
        world.gpu().load_vram(at.raw(), &vec![0x5a; usize::try_from(bytes).unwrap()]);
    }
    let job = world.prepare_with(|vmm, pool| vmm.plan_restore(pool)).unwrap();
    world.gpu().note_root(root);
    // It wants the frames that came late, and what waited is lost.
    let wants: Vec<_> = job.wants().iter().map(|want| (want.va, want.pages, want.page)).collect();
    assert_eq!(wants, [(VA + 256 * MIB, 2, PageSize::Size64K)]);
    assert_eq!(unmapping.flush(&mut world.mmio), Err(ExecuteError::Lost));
    let failed = waiting.execute(&mut world.mmio).unwrap_err();
    assert_eq!(failed.why, ExecuteError::Lost);
    let (_, why) = world.vmm.cancel(&mut world.pool, failed.job).unwrap_err();
    assert_eq!(why, CommitError::Foreign);
    let receipt = job.with_frames(&late).unwrap().execute(&mut world.mmio).unwrap();
    world.vmm.commit(&mut world.pool, receipt).unwrap();

    world.assert_maps(VA..VA + 5 * MIB, DATA);
    world.assert_maps(VA + 64 * MIB..VA + 64 * MIB + 20 * 4096, DATA + GIB);
    world.assert_maps(VA + 256 * MIB..VA + 256 * MIB + (64 << 10), DATA + 7 * MIB);
    world.assert_maps(VA + 256 * MIB + (64 << 10)..VA + 256 * MIB + (128 << 10), DATA + 3 * MIB);
    assert!(world.access(VA + 128 * MIB).unwrap().sparse);
    assert!(world.access(VA + MIB).unwrap().flags.read_only && !world.access(VA + 3 * MIB).unwrap().flags.read_only);
    world.assert_faults(VA + 512 * MIB..VA + 512 * MIB + 4096);
    world.assert_clean();
    world.assert_no_leak();
    // The space goes on as if nothing had happened.
    world.map(VA + 512 * MIB, DATA, 2 * MIB, None);
    world.unmap(VA..VA + 5 * MIB);
    world.assert_faults(VA..VA + 5 * MIB);
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn lost_tables_are_written_again_from_the_records() {
    restored::<V3>("gh100");
    restored::<V2>("ad102");
}

#[test]
fn a_restore_that_is_let_go_has_to_be_made_again() {
    let mut world = World::<V3>::new("gh100");
    world.map(VA, DATA, 2 * MIB, Some(PageSize::Size4K));
    let job = world.prepare_with(|vmm, pool| vmm.plan_restore(pool)).unwrap();
    world.cancel(job);
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 4096 }];
    let refused = world.prepare(&MapRequest::extents(&extents)).unwrap_err();
    assert_eq!(refused, PrepareError::NotRestored);
    world.pool.inner().allowed = 2;
    let short = world.prepare_with(|vmm, pool| vmm.plan_restore(pool)).unwrap_err();
    assert!(matches!(short, PrepareError::NoSpace(_)), "{short}");
    assert_eq!(world.prepare(&MapRequest::extents(&extents)).unwrap_err(), PrepareError::NotRestored);
    world.pool.inner().allowed = u64::MAX;
    let job = world.prepare_with(|vmm, pool| vmm.plan_restore(pool)).unwrap();
    world.finish(job);
    world.assert_maps(VA..VA + 2 * MIB, DATA);
    world.assert_no_leak();
    // An empty space can be restored too.
    world.unmap(VA..VA + 2 * MIB);
    let job = world.prepare_with(|vmm, pool| vmm.plan_restore(pool)).unwrap();
    world.finish(job);
    world.assert_faults(VA..VA + 4096);
    world.assert_no_leak();
}

/// Every access of a restore fails once: it is prepared again, or goes on, and everything is there in the end.
fn restored_through_failures<F: Format>(chip: &str) {
    for left in 0.. {
        let mut world = World::<F>::new(chip);
        world.map(VA, DATA, 5 * MIB, None);
        let job = world.prepare_sparse(VA + 128 * MIB..VA + 130 * MIB).unwrap();
        world.finish(job);
        world.mmio = World::<F>::new(chip).mmio;
        let prepared = {
            let plan = world.vmm.plan_restore(&mut world.pool).unwrap();
            world.notes.tell(world.mmio.bar0());
            plan.init(&mut Flaky { hardware: &mut world.mmio, left })
        };
        let in_prepare = prepared.is_err();
        let mut job = match prepared {
            Ok(job) => job,
            Err(why) => {
                assert_eq!(why, PrepareError::Device(FAILED), "{left}");
                let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 4096 }];
                assert_eq!(world.prepare(&MapRequest::extents(&extents)).unwrap_err(), PrepareError::NotRestored);
                world.prepare_with(|vmm, pool| vmm.plan_restore(pool)).unwrap()
            }
        };
        let root = world.vmm.pdb();
        world.gpu().note_root(root);
        let wrote = job.write(&mut Flaky { hardware: &mut world.mmio, left });
        if !in_prepare && wrote.is_err() {
            assert_eq!(wrote, Err(ExecuteError::Device(FAILED)), "{left}");
        }
        job.write(&mut world.mmio).unwrap();
        assert_eq!(job.flush(&mut world.mmio), Ok(Flushed::Done));
        world.vmm.commit(&mut world.pool, job.finish().unwrap()).unwrap();
        world.notes.tell(world.mmio.bar0());
        world.assert_maps(VA..VA + 5 * MIB, DATA);
        assert!(world.access(VA + 128 * MIB).unwrap().sparse);
        world.assert_no_leak();
        if wrote.is_ok() {
            assert!(left > 4, "only {left} accesses can fail");
            break;
        }
    }
}

#[test]
fn a_restore_that_fails_anywhere_is_made_again_or_goes_on() {
    restored_through_failures::<V3>("gh100");
    restored_through_failures::<V2>("ad102");
}
