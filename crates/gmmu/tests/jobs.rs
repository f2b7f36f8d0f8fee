//! Jobs: who waits for whom, what comes back, and what is left when somebody lets go.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{World, DATA, GIB, MIB};
use gmmu::addr::{PageSize, Pfn, PhysAddr};
use gmmu::device::{DeviceError, Invalidate, Invalidator, Poll, Run, TableMemory, TableRead, Ticket};
use gmmu::format::{V2, V3};
use gmmu::tlb::Limits;
use gmmu::vmm::{flush_all, CloseError, CommitError, ExecuteError, Extent, Job, MapRequest, PrepareError, State};

const VA: u64 = 4 * GIB;

fn prepare(world: &mut World<V3>, va: u64, bytes: u64, page: PageSize) -> Job {
    let extents = [Extent { to: PhysAddr::vram(DATA + (va - VA)), bytes }];
    world.prepare(&MapRequest::extents(&extents).at(va).page(page)).unwrap()
}

fn refused(world: &mut World<V3>, job: Job) -> (Job, ExecuteError) {
    let failed = job.execute(&mut world.mmio).unwrap_err();
    (failed.job, failed.why)
}

/// 4K and 64K pages under one dual entry, in both orders of prepare: the second is refused until the first was
/// executed, and both translate in the end.
#[test]
fn small_and_big_pages_under_one_dual_entry_in_both_orders() {
    let parts = [(VA, 4096 * 3, PageSize::Size4K), (VA + (64 << 10), 128 << 10, PageSize::Size64K)];
    for order in [[0, 1], [1, 0]] {
        let mut world = World::<V3>::new("gh100");
        let [first, second] = order.map(|n| {
            let (va, bytes, page) = parts[n];
            prepare(&mut world, va, bytes, page)
        });
        let (second, why) = refused(&mut world, second);
        assert_eq!(why, ExecuteError::NotYet);
        assert_eq!(second.state(), State::Prepared);
        world.finish(first);
        world.finish(second);
        world.assert_maps(VA..VA + 4096 * 3, DATA);
        world.assert_maps(VA + (64 << 10)..VA + (192 << 10), DATA + (64 << 10));
        world.assert_faults(VA + 4096 * 3..VA + (64 << 10));
        // And apart again, the one that came first first.
        for n in order {
            let (va, bytes, _) = parts[n];
            world.unmap(va..va + bytes);
            world.assert_faults(va..va + bytes);
        }
        world.assert_clean();
        world.assert_no_leak();
    }
}

/// Small pages in a 64 KiB chunk that a 64K table had closed, and closed again when the last of them goes.
#[test]
fn a_64k_slot_opens_for_small_pages_and_closes_behind_the_last() {
    let mut world = World::<V2>::new("ad102");
    let map = |world: &mut World<V2>, va: u64, bytes, page| world.map(va, DATA + (va - VA), bytes, Some(page));
    map(&mut world, VA, 64 << 10, PageSize::Size64K);
    let chunk = VA + (64 << 10);
    world.assert_faults(chunk..chunk + (64 << 10));
    map(&mut world, chunk, 4096, PageSize::Size4K);
    map(&mut world, chunk + 8192, 4096, PageSize::Size4K);
    world.assert_maps(chunk..chunk + 4096, DATA + (64 << 10));
    world.unmap(chunk..chunk + 4096);
    world.assert_maps(chunk + 8192..chunk + 12288, DATA + (64 << 10) + 8192);
    world.unmap(chunk + 8192..chunk + 12288);
    // The slot says "no small pages" again: v2's PRIVILEGE on an invalid entry.
    let walk = world.vmm.read_mapping(&mut world.mmio, chunk).unwrap();
    assert_eq!(walk.last().unwrap().raw[0], 0x20);
    map(&mut world, chunk, 64 << 10, PageSize::Size64K);
    world.assert_maps(chunk..chunk + (64 << 10), DATA + (64 << 10));
    world.unmap(VA..chunk + (64 << 10));
    world.assert_clean();
    world.assert_no_leak();
}

/// A 2M leaf where empty leaf tables are still linked: they go in a round of their own.
#[test]
fn a_large_leaf_over_empty_tables_takes_two_rounds() {
    let mut world = World::<V3>::new("gh100");
    world.map(VA, DATA, 4096, Some(PageSize::Size4K));
    world.unmap(VA..VA + 4096);
    assert_eq!(world.vmm.census().leaf_tables, 1, "clearing one entry is no more than dropping the table");
    world.gpu().reset_counts();
    let job = prepare(&mut world, VA, 2 * MIB, PageSize::Size2M);
    assert_eq!(job.rounds(), 2);
    world.finish(job);
    assert_eq!((world.gpu().counts().invalidates, world.vmm.census().leaf_tables), (2, 0));
    world.assert_maps(VA..VA + 2 * MIB, DATA);
    world.unmap(VA..VA + 2 * MIB);
    world.assert_faults(VA..VA + 2 * MIB);
    world.assert_clean();
    world.assert_no_leak();
}

/// Jobs without common domains execute in any order, and each links the directories that it needs.
#[test]
fn jobs_that_share_only_directories_execute_in_any_order() {
    let mut world = World::<V3>::new("gh100");
    let first = prepare(&mut world, VA, 2 * MIB, PageSize::Size4K);
    let second = prepare(&mut world, VA + 2 * MIB, 2 * MIB, PageSize::Size4K);
    let third = prepare(&mut world, VA + 4 * MIB, 2 * MIB, PageSize::Size2M);
    world.finish(third);
    world.finish(second);
    world.assert_faults(VA..VA + 2 * MIB);
    world.assert_maps(VA + 2 * MIB..VA + 6 * MIB, DATA + 2 * MIB);
    world.cancel(first);
    world.assert_maps(VA + 2 * MIB..VA + 6 * MIB, DATA + 2 * MIB);
    world.assert_clean();
    world.assert_no_leak();
}

/// Origin weaknesses 1 to 3: a job's tables are its own, and cancelling it gives them back.
#[test]
fn origin_1_2_3_a_cancelled_job_leaves_nothing_behind() {
    let mut world = World::<V3>::new("gh100");
    let census = world.vmm.census();
    let jobs: Vec<Job> = (0..3).map(|n| prepare(&mut world, VA + n * GIB, 4096, PageSize::Size4K)).collect();
    for job in jobs {
        world.cancel(job);
    }
    let now = world.vmm.census();
    assert_eq!((now.directories, now.leaf_tables, now.jobs), (census.directories, census.leaf_tables, 0));
    world.assert_no_leak();
    // A job that is merely dropped is taken back at the next call.
    drop(prepare(&mut world, VA, MIB, PageSize::Size4K));
    let again = prepare(&mut world, VA, MIB, PageSize::Size4K);
    assert_eq!(world.vmm.census().jobs, 1);
    world.finish(again);
    world.assert_maps(VA..VA + MIB, DATA);
    world.assert_clean();
}

/// Origin weakness 4: two pages across every table border need more tables than a count of pages says.
#[test]
fn origin_4_two_pages_across_every_border() {
    let mut world = World::<V3>::new("gh100");
    for border in [21, 29, 38, 47, 56] {
        let va = (1u64 << border) - 4096;
        let range = world.map(va, DATA, 8192, Some(PageSize::Size4K));
        world.assert_maps(range.clone(), DATA);
        world.unmap(range.clone());
        world.assert_faults(range);
    }
    world.assert_clean();
    world.assert_no_leak();
}

/// Origin weakness 10: a job or receipt belongs to one space.
#[test]
fn origin_10_a_job_of_another_space_is_refused_whole() {
    let (mut world, mut other) = (World::<V3>::new("gh100"), World::<V3>::new("gh100"));
    let job = prepare(&mut world, VA, MIB, PageSize::Size4K);
    let (job, why) = other.vmm.cancel(&mut other.pool, job).unwrap_err();
    assert_eq!(why, CommitError::Foreign);
    let receipt = job.execute(&mut world.mmio).unwrap();
    let (receipt, why) = other.vmm.commit(&mut other.pool, receipt).unwrap_err();
    assert_eq!(why, CommitError::Foreign);
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    world.assert_maps(VA..VA + MIB, DATA);
}

/// Origin weakness 22: mapped entries are not overwritten.
#[test]
fn origin_22_a_mapped_range_is_busy() {
    let mut world = World::<V3>::new("gh100");
    world.map(VA, DATA, 2 * MIB, None);
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 4096 }];
    let error = world.prepare(&MapRequest::extents(&extents).at(VA + MIB)).unwrap_err();
    assert_eq!(error, PrepareError::Busy { with: VA..VA + 2 * MIB });
    world.assert_maps(VA..VA + 2 * MIB, DATA);
}

/// An explicit range may be prepared again before its unmap is committed, and waits; a chosen one is not handed out.
#[test]
fn addresses_of_an_uncommitted_unmap_wait() {
    let mut world = World::<V3>::new("gh100");
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 2 * MIB }];
    let anywhere = MapRequest::extents(&extents);
    let job = world.prepare(&anywhere).unwrap();
    let range = world.finish(job);
    let unmap = world.prepare_unmap(range.clone()).unwrap();
    let elsewhere = world.prepare(&anywhere).unwrap();
    let again = world.prepare(&anywhere.clone().at(range.start)).unwrap();
    let failed = again.execute(&mut world.mmio).unwrap_err();
    assert_eq!(failed.why, ExecuteError::NotYet);
    let other = world.finish(elsewhere);
    assert!(other.start >= range.end || other.end <= range.start, "{other:x?} was still held");
    let receipt = unmap.execute(&mut world.mmio).unwrap();
    world.finish(failed.job);
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    world.notes.tell(world.mmio.bar0());
    world.assert_maps(range, DATA);
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn a_job_is_cancelled_only_after_those_that_build_on_it() {
    let mut world = World::<V3>::new("gh100");
    let first = prepare(&mut world, VA, 4096, PageSize::Size4K);
    let second = prepare(&mut world, VA + 8192, 4096, PageSize::Size4K);
    let (first, why) = world.vmm.cancel(&mut world.pool, first).unwrap_err();
    assert_eq!(why, CommitError::HasDependents);
    // Dropped, it stays in the books until the other has gone; that one is told.
    drop(first);
    let (second, why) = refused(&mut world, second);
    assert_eq!(why, ExecuteError::PredecessorLost);
    world.cancel(second);
    let third = prepare(&mut world, VA, 4096, PageSize::Size4K);
    world.finish(third);
    assert_eq!(world.vmm.census().jobs, 0);
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn a_dropped_receipt_is_committed_at_the_next_call() {
    let mut world = World::<V3>::new("gh100");
    world.map(VA, DATA, 2 * MIB, Some(PageSize::Size4K));
    let unmap = world.prepare_unmap(VA..VA + 2 * MIB).unwrap();
    let out = world.pool.inner().out.len();
    drop(unmap.execute(&mut world.mmio).unwrap());
    assert_eq!(world.pool.inner().out.len(), out, "dropping gives nothing back");
    let job = prepare(&mut world, VA + GIB, 4096, PageSize::Size4K);
    world.cancel(job);
    world.assert_no_leak();
    world.assert_clean();
}

/// Hardware whose n-th call fails.
struct Failing<'a, H> {
    hardware: &'a mut H,
    left: u64,
}

impl<H> Failing<'_, H> {
    fn step(&mut self) -> Result<&mut H, DeviceError> {
        self.left = self.left.checked_sub(1).ok_or(DeviceError::Backend("failed on purpose"))?;
        Ok(self.hardware)
    }
}

impl<H: TableRead> TableRead for Failing<'_, H> {
    fn read_words(&mut self, at: gmmu::addr::TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        self.step()?.read_words(at, words)
    }
}

impl<H: TableMemory> TableMemory for Failing<'_, H> {
    fn write_run(&mut self, at: gmmu::addr::TableAddr, run: Run) -> Result<(), DeviceError> {
        self.step()?.write_run(at, run)
    }
    fn write_words(&mut self, at: gmmu::addr::TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        self.step()?.write_words(at, words)
    }
    fn order(&mut self) -> Result<(), DeviceError> {
        self.step()?.order()
    }
    fn drain(&mut self) -> Result<(), DeviceError> {
        self.step()?.drain()
    }
}

impl<H: Invalidator> Invalidator for Failing<'_, H> {
    fn submit(&mut self, what: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        self.step()?.submit(what)
    }
    fn poll(&mut self, ticket: Ticket) -> Result<Poll, DeviceError> {
        self.step()?.poll(ticket)
    }
}

impl<H: gmmu::device::Clock> gmmu::device::Clock for Failing<'_, H> {
    fn now_us(&mut self) -> u64 {
        self.hardware.now_us()
    }
    fn relax(&mut self) {
        self.hardware.relax();
    }
}

/// Origin weaknesses 5 to 7: every device call of every step fails once. Afterwards it is nothing, or the job whole,
/// and going on from there gets through.
#[test]
fn origin_5_6_7_every_device_call_fails_once_and_nothing_is_lost() {
    let mut world = World::<V3>::new("gh100");
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 5 * MIB }];
    let request = MapRequest::extents(&extents).at(VA - MIB).page(PageSize::Size64K);
    let mut through = 0;
    for n in 0.. {
        // Prepare: nothing is left behind.
        let plan = world.vmm.plan_map(&mut world.pool, &request).unwrap();
        world.notes.tell(world.mmio.bar0());
        let mut failing = Failing { hardware: &mut world.mmio, left: n };
        let prepared = plan.init(&mut failing);
        let left = failing.left;
        world.notes.tell(world.mmio.bar0());
        let Ok(job) = prepared else {
            assert_eq!(world.vmm.census().jobs, 0);
            world.assert_no_leak();
            continue;
        };
        // Execute: the job comes back whole, and goes on.
        let mut failing = Failing { hardware: &mut world.mmio, left };
        let receipt = match job.execute(&mut failing) {
            Ok(receipt) => {
                through += 1;
                receipt
            }
            Err(failed) => {
                assert_eq!(failed.why, ExecuteError::Device(DeviceError::Backend("failed on purpose")));
                failed.job.execute(&mut world.mmio).unwrap()
            }
        };
        world.vmm.commit(&mut world.pool, receipt).unwrap();
        world.assert_maps(VA - MIB..VA + 4 * MIB, DATA);
        let unmap = world.prepare_unmap(VA - MIB..VA + 4 * MIB).unwrap();
        let mut failing = Failing { hardware: &mut world.mmio, left: n % 8 };
        let receipt = unmap.execute(&mut failing).or_else(|failed| failed.job.execute(&mut world.mmio)).unwrap();
        world.vmm.commit(&mut world.pool, receipt).unwrap();
        world.notes.tell(world.mmio.bar0());
        world.assert_faults(VA - MIB..VA + 4 * MIB);
        world.assert_no_leak();
        world.assert_clean();
        if through > 0 {
            println!("{n} device calls, each failed once");
            assert!(n > 10);
            break;
        }
    }
}

/// Every take of table memory fails once.
#[test]
fn without_table_memory_nothing_changes() {
    let mut world = World::<V3>::new("gh100");
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 5 * MIB + (64 << 10) + 4096 }];
    let request = MapRequest::extents(&extents).at(GIB / 2 - MIB - 4096);
    for n in 0.. {
        world.pool.inner().allowed = n;
        let prepared = world.vmm.plan_map(&mut world.pool, &request).map(drop);
        world.pool.inner().allowed = u64::MAX;
        world.assert_no_leak();
        assert_eq!((world.vmm.census().jobs, world.vmm.census().directories), (0, 1));
        assert_eq!(world.vmm.pieces().count(), 0);
        match prepared {
            Err(PrepareError::NoSpace(_)) => {}
            other => {
                assert_eq!(other, Ok(()));
                assert!(n > 6, "{n} tables");
                break;
            }
        }
    }
}

/// A lost acknowledgement is an error that keeps the debt; a card that is gone is answered at once.
#[test]
fn a_timeout_keeps_the_debt() {
    let model = gmmu_sim::Config { invalidate_polls: 5000, ..gmmu_sim::Config::chip("gh100") };
    let mut world = World::<V3>::with(&model);
    let job = prepare(&mut world, VA, 4096, PageSize::Size4K);
    let mut job = job;
    job.write(&mut world.mmio).unwrap();
    let error = job.flush(&mut world.mmio).unwrap_err();
    assert!(matches!(error, ExecuteError::Device(DeviceError::Timeout { polls: 1000, .. })), "{error}");
    assert_eq!(job.state(), State::Executing);
    let (job, why) = world.vmm.cancel(&mut world.pool, job).unwrap_err();
    assert_eq!(why, CommitError::Begun);
    let mut job = job;
    for _ in 0..6 {
        if job.flush(&mut world.mmio).is_ok() {
            break;
        }
    }
    world.vmm.commit(&mut world.pool, job.finish().unwrap()).unwrap();
    world.assert_maps(VA..VA + 4096, DATA);
    assert_eq!(world.gpu().counts().invalidates, 1, "submitted once, however often it was waited for");
}

#[test]
fn a_job_dropped_half_way_is_kept_in_quarantine() {
    let mut world = World::<V3>::new("gh100");
    let mut job = prepare(&mut world, VA, 4096, PageSize::Size4K);
    job.write(&mut world.mmio).unwrap();
    drop(job);
    let out = world.pool.inner().out.len();
    let other = prepare(&mut world, VA + GIB, 4096, PageSize::Size4K);
    assert_eq!((world.vmm.census().quarantined, world.vmm.census().jobs), (1, 2));
    world.cancel(other);
    assert_eq!(world.pool.inner().out.len(), out, "what the GPU may reach is not given back");
    world.assert_clean();
}

#[test]
fn a_space_is_closed_only_without_jobs_and_gives_everything_back() {
    let mut world = World::<V3>::new("gh100");
    world.map(VA, DATA, 5 * MIB, None);
    let job = prepare(&mut world, VA + GIB, 4096, PageSize::Size4K);
    let World { mut mmio, mut pool, notes, vmm } = world;
    let root = vmm.pdb();
    let (mut vmm, why) = vmm.close(&mut mmio, &mut pool).unwrap_err();
    assert_eq!(why, CloseError::Busy);
    vmm.cancel(&mut pool, job).unwrap();
    vmm.close(&mut mmio, &mut pool).unwrap();
    notes.tell(mmio.bar0());
    // The root was the caller's own.
    assert_eq!(pool.inner().out.iter().copied().collect::<Vec<_>>(), [(root.raw(), 4096)]);
    assert_eq!(mmio.bar0().findings(), &[]);
}

#[test]
fn bad_frames_are_named_by_number() {
    let mut world = World::<V3>::new("gh100");
    let job = world.prepare(&MapRequest::frames(2, PageSize::Size64K).at(VA)).unwrap();
    let (job, why) = job.with_frames(&[Pfn::new(16), Pfn::new(17)]).unwrap_err();
    assert_eq!(why.to_string(), "frame 0x11 (number 1 of the list) is not aligned to 64K pages");
    let (job, why) = job.with_frames(&[Pfn::new(0x180_0000), Pfn::new(0)]).unwrap_err();
    assert_eq!(
        why.to_string(),
        "frame 0x1800000 (number 0 of the list) lies beyond what can be reached, which ends at frame 0x1800000"
    );
    world.cancel(job);
    world.assert_no_leak();
}

/// Several written jobs under one invalidate, as deep and as well acknowledged as any of them needs.
#[test]
fn jobs_of_one_space_share_an_invalidate() {
    let mut world = World::<V3>::new("gh100");
    world.map(VA, DATA, 4 * MIB, Some(PageSize::Size4K));
    world.gpu().reset_counts();
    let mut jobs = [
        prepare(&mut world, VA + 8 * MIB, 4096, PageSize::Size4K),
        prepare(&mut world, VA + 16 * MIB, 2 * MIB, PageSize::Size2M),
        world.prepare_unmap(VA..VA + 4 * MIB).unwrap(),
    ];
    let limits = Limits { timeout_us: 1_000_000, polls: 1000 };
    let unwritten = flush_all(&mut jobs, &mut world.mmio, limits);
    assert_eq!(unwritten, Err(ExecuteError::NotWritten));
    for job in &mut jobs {
        // A few entries at a time, as if others wanted the hardware in between.
        while !job.write_some(&mut world.mmio, 3).unwrap() {}
    }
    flush_all(&mut jobs, &mut world.mmio, limits).unwrap();
    assert_eq!(world.gpu().counts().invalidates, 1);
    for job in jobs {
        let receipt = job.finish().unwrap();
        world.vmm.commit(&mut world.pool, receipt).unwrap();
    }
    world.notes.tell(world.mmio.bar0());
    world.assert_faults(VA..VA + 4 * MIB);
    world.assert_maps(VA + 16 * MIB..VA + 18 * MIB, DATA + 16 * MIB);
    world.assert_clean();
    world.assert_no_leak();
    // Not with those of another space.
    let mut other = World::<V3>::new("gb100");
    let spare = other.pool.inner().out.len();
    let away = other.prepare_unmap(0..GIB).unwrap_err();
    assert!(matches!(away, PrepareError::NotMapped { .. }) && spare == 1);
}

/// A budget never writes more than it says, whatever the job.
#[test]
fn a_budget_bounds_every_call() {
    let mut world = World::<V2>::new("ad102");
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 6 * MIB }];
    let mut job = world.prepare(&MapRequest::extents(&extents).at(VA + 4096).page(PageSize::Size4K)).unwrap();
    let mut calls = 0;
    loop {
        world.gpu().reset_counts();
        let done = job.write_some(&mut world.mmio, 100).unwrap();
        let counts = world.gpu().counts();
        let written = counts.writes - counts.window_moves;
        assert!(written <= 100, "{written} in one call");
        calls += 1;
        if done {
            break;
        }
    }
    assert_eq!(calls, (6 * 256 + 4 + 3) / 100 + 1);
    while job.flush(&mut world.mmio).unwrap() != gmmu::vmm::Flushed::Done {}
    let receipt = job.finish().unwrap();
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    world.assert_maps(VA + 4096..VA + 4096 + 6 * MIB, DATA);
    world.assert_clean();
}
