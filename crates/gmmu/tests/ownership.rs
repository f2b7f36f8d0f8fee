//! Whose a job or receipt is, and what becomes of it where it is used elsewhere, twice or too late, or let go: for every
//! kind of job.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "common/kinds.rs"]
mod kinds;

use common::{World, GIB, MIB};
use gmmu::addr::{PageSize, Pfn};
use gmmu::device::TablePool;
use gmmu::format::{Format, V2, V3};
use gmmu::vmm::{
    flush_all, poll_flush_all, CloseError, CommitError, ExecuteError, Flushed, Job, MapRequest, PrepareError, Receipt,
    State, Vmm,
};
use gmmu_sim::{AccessKind, Client, Config};
use kinds::{Armed, Kind, Page, Step, KINDS};
use std::collections::BTreeSet;

fn prepare<F: Format>(world: &mut World<F>, step: &Step) -> Job {
    world.prepare_with(|vmm, pool| step.plan(vmm, pool)).unwrap()
}

fn execute<F: Format>(world: &mut World<F>, job: Job) -> Receipt {
    let frames = kinds::frames(&job);
    Armed::new(job, &frames).execute(&mut world.mmio).unwrap()
}

fn commit<F: Format>(world: &mut World<F>, receipt: Receipt) {
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    world.notes.tell(world.mmio.bar0());
}

/// A world that is ready for a job of this kind.
fn ready<F: Format>(chip: &str, kind: &Kind) -> World<F> {
    let mut world = World::<F>::new(chip);
    for step in kind.before {
        let job = prepare(&mut world, step);
        let receipt = execute(&mut world, job);
        commit(&mut world, receipt);
    }
    assert_pages(&mut world, kind, |va| kind.page(va).0);
    world
}

fn assert_pages<F: Format>(world: &mut World<F>, kind: &Kind, expected: impl Fn(u64) -> Page) {
    let client = Client::Engine { pdb: world.vmm.pdb() };
    for va in kind.probes() {
        let found = match world.gpu().access(client, va, AccessKind::Read, false) {
            Err(_) => Page::Faults,
            Ok(found) if found.sparse => Page::Zero,
            Ok(found) => Page::Leads { to: found.to.raw, read_only: found.flags.read_only },
        };
        assert_eq!(found, expected(va), "{va:#x} of {:?}", kind.name);
    }
    world.assert_clean();
}

/// What the space and its pool say at this moment, without a call that could change it.
fn books<F: Format>(world: &mut World<F>) -> String {
    let pieces: Vec<_> = world.vmm.pieces().map(|(range, piece)| (range, *piece)).collect();
    let census = world.vmm.census();
    let numbers = (census.directories, census.leaf_tables, census.jobs, census.quarantined);
    let counts = world.mmio.bar0().counts();
    format!("{pieces:?} {numbers:?} {:?} {counts:?}", world.pool.inner().out)
}

/// The same behind calls of the planner, which see to what was let go; and where pages could still be mapped.
fn settled<F: Format>(world: &mut World<F>, kind: &Kind) -> String {
    let mut free = Vec::new();
    for va in kind.probes() {
        let request = MapRequest::frames(1, PageSize::Size4K).within(va..va + 4096);
        let plan = world.vmm.plan_map(&mut world.pool, &request).map(drop);
        free.push(!matches!(plan, Err(PrepareError::NoVa(_))));
    }
    world.notes.tell(world.mmio.bar0());
    let counts = world.gpu().counts();
    world.gpu().reset_counts();
    format!("{} {free:?} {}", books(world), counts.writes)
}

#[test]
fn a_job_of_another_space_is_refused_and_changes_nothing() {
    for kind in KINDS {
        // Both spaces have the same tables and the same open job, with the same number.
        let (mut home, mut other) = (ready::<V3>("gh100", kind), ready::<V3>("gh100", kind));
        let mut third = World::<V2>::new("ga102");
        let (job, own) = (prepare(&mut home, &kind.does), prepare(&mut other, &kind.does));
        let before = [books(&mut home), books(&mut other)];
        let (job, why) = other.vmm.cancel(&mut other.pool, job).unwrap_err();
        assert_eq!(why, CommitError::Foreign);
        let (job, why) = third.vmm.cancel(&mut third.pool, job).unwrap_err();
        assert_eq!((why, job.state()), (CommitError::Foreign, State::Prepared));
        assert_eq!([books(&mut home), books(&mut other)], before, "{}", kind.name);
        let receipt = execute(&mut home, job);
        let (receipt, why) = other.vmm.commit(&mut other.pool, receipt).unwrap_err();
        assert_eq!(why, CommitError::Foreign);
        assert_eq!(books(&mut other), before[1], "{}", kind.name);
        commit(&mut home, receipt);
        let own = execute(&mut other, own);
        commit(&mut other, own);
        for world in [&mut home, &mut other] {
            assert_pages(world, kind, |va| kind.page(va).1);
            world.assert_no_leak();
        }
    }
}

/// Nor does a space take what was another's on the same root, or at the same place in its books.
#[test]
fn a_job_that_outlives_its_space_is_refused() {
    for kind in KINDS {
        let mut world = ready::<V3>("gh100", kind);
        let (job, root) = (prepare(&mut world, &kind.does), world.vmm.pdb());
        let config = *world.vmm.config();
        // Not closed, but dropped: its tables are lost to it.
        let again = Vmm::<V3>::with_root(config, &mut world.mmio, root).unwrap();
        drop(std::mem::replace(&mut world.vmm, again));
        let job =
            world.vmm.cancel(&mut world.pool, job).map_err(|(job, why)| (why == CommitError::Foreign).then_some(job));
        let receipt = execute(&mut world, job.unwrap_err().unwrap());
        let (_, why) = world.vmm.commit(&mut world.pool, receipt).unwrap_err();
        assert_eq!((why, world.vmm.census().jobs), (CommitError::Foreign, 0), "{}", kind.name);
    }
}

/// A job that was begun is not cancelled; one that is done writes nothing any more, and is committed once.
#[test]
fn a_job_is_used_once() {
    for kind in KINDS {
        let mut world = ready::<V3>("gh100", kind);
        let job = prepare(&mut world, &kind.does);
        let frames = kinds::frames(&job);
        let mut job = Armed::new(job, &frames);
        assert_eq!(job.flush(&mut world.mmio), Err(ExecuteError::NotWritten));
        assert_eq!(job.poll_flush(&mut world.mmio), Err(ExecuteError::NotWritten));
        job = job.finish().unwrap_err();
        job.write(&mut world.mmio).unwrap();
        let before = books(&mut world);
        // Written twice is written once.
        job.write(&mut world.mmio).unwrap();
        job = job.finish().unwrap_err();
        assert_eq!(books(&mut world), before, "{}", kind.name);
        while job.flush(&mut world.mmio).unwrap() == Flushed::NextRound {
            job.write(&mut world.mmio).unwrap();
        }
        let before = books(&mut world);
        job.write(&mut world.mmio).unwrap();
        assert_eq!(job.flush(&mut world.mmio), Ok(Flushed::Done));
        assert_eq!(job.poll_flush(&mut world.mmio), Ok(Flushed::Done));
        let (job, why) = world.vmm.cancel(&mut world.pool, job.into_job()).unwrap_err();
        assert_eq!((why, job.state()), (CommitError::Begun, State::Acknowledged));
        assert_eq!(books(&mut world), before, "{}", kind.name);
        commit(&mut world, job.finish().unwrap());
        assert_pages(&mut world, kind, |va| kind.page(va).1);
        world.assert_no_leak();
    }
}

/// Jobs of two spaces do not share an invalidate; nor does one that is not written go along.
#[test]
fn only_written_jobs_of_one_space_share_a_flush() {
    for kind in KINDS {
        let (mut home, mut other) = (ready::<V3>("gh100", kind), World::<V3>::new("gh100"));
        let root = other.pool.take(4096, None).unwrap();
        other.vmm = Vmm::with_root(*other.vmm.config(), &mut other.mmio, root).unwrap();
        let far = Step::Map(kinds::VA + 64 * GIB, 4096, None);
        let jobs = [prepare(&mut home, &kind.does), prepare(&mut home, &far), prepare(&mut other, &far)];
        let [job, near, foreign] = jobs;
        let frames = kinds::frames(&job);
        let mut jobs = vec![Armed::new(job, &frames), Armed::Plain(near)];
        let limits = home.vmm.config().limits;
        jobs[0].write(&mut home.mmio).unwrap();
        home.gpu().reset_counts();
        assert_eq!(poll_flush_all(&mut jobs, &mut home.mmio), Err(ExecuteError::NotWritten), "{}", kind.name);
        assert_eq!(flush_all(&mut jobs, &mut home.mmio, limits), Err(ExecuteError::NotWritten));
        jobs[1].write(&mut home.mmio).unwrap();
        home.gpu().reset_counts();
        jobs.push(Armed::Plain(foreign));
        jobs[2].write(&mut other.mmio).unwrap();
        assert_eq!(poll_flush_all(&mut jobs, &mut home.mmio), Err(ExecuteError::OtherSpace), "{}", kind.name);
        assert_eq!(flush_all(&mut jobs, &mut home.mmio, limits), Err(ExecuteError::OtherSpace));
        assert_eq!(home.gpu().counts().invalidates, 0);
        let foreign = jobs.pop().unwrap();
        let receipt = foreign.execute(&mut other.mmio).unwrap();
        commit(&mut other, receipt);
        flush_all(&mut jobs, &mut home.mmio, limits).unwrap();
        assert_eq!(home.gpu().counts().invalidates, 1);
        for job in jobs {
            let receipt = job.execute(&mut home.mmio).unwrap();
            commit(&mut home, receipt);
        }
        assert_pages(&mut home, kind, |va| kind.page(va).1);
        home.assert_no_leak();
    }
}

/// At that moment a drop changes nothing at all; the next call sees to it.
#[test]
fn what_is_dropped_is_seen_to_at_the_next_call() {
    for kind in KINDS {
        let mut world = ready::<V3>("gh100", kind);
        world.gpu().reset_counts();
        let before = settled(&mut world, kind);
        // A plan, at once.
        drop(kind.does.plan(&mut world.vmm, &mut world.pool).unwrap());
        world.notes.tell(world.mmio.bar0());
        assert_eq!(settled(&mut world, kind), before, "a plan of {}", kind.name);
        // A job.
        let job = prepare(&mut world, &kind.does);
        let planned = books(&mut world);
        drop(job);
        assert_eq!(books(&mut world), planned, "a job of {}", kind.name);
        world.gpu().reset_counts();
        assert_eq!(settled(&mut world, kind), before, "a job of {}", kind.name);
        assert_pages(&mut world, kind, |va| kind.page(va).0);
        // A receipt.
        let job = prepare(&mut world, &kind.does);
        let receipt = execute(&mut world, job);
        let executed = books(&mut world);
        drop(receipt);
        assert_eq!(books(&mut world), executed, "a receipt of {}", kind.name);
        settled(&mut world, kind);
        assert_eq!(world.vmm.census().jobs, 0);
        assert_pages(&mut world, kind, |va| kind.page(va).1);
        world.assert_no_leak();
    }
}

/// Dropped after each step of each round, what the job holds stays until the space is closed.
#[test]
fn a_job_dropped_half_way_frees_nothing_that_can_be_reached() {
    for kind in KINDS {
        for steps in 1.. {
            let mut world = ready::<V3>("gh100", kind);
            let job = prepare(&mut world, &kind.does);
            let frames = kinds::frames(&job);
            let mut job = Armed::new(job, &frames);
            let mut done = false;
            for step in 0..steps {
                done = if step % 2 == 0 {
                    job.write_some(&mut world.mmio, 1).unwrap();
                    false
                } else {
                    while !job.write_some(&mut world.mmio, 7).unwrap() {}
                    job.flush(&mut world.mmio).unwrap() == Flushed::Done
                };
            }
            let out = world.pool.inner().out.clone();
            drop(job);
            if done {
                break;
            }
            let census = world.vmm.census();
            assert_eq!((census.jobs, census.quarantined), (1, 1), "{} after {steps}", kind.name);
            settled(&mut world, kind);
            assert_eq!(world.pool.inner().out, out, "{} after {steps}", kind.name);
            world.assert_clean();
            // The pages of a lost job are nobody's to change.
            let range = kind.does.range();
            if let Ok(next) = world.prepare_sparse(range) {
                let failed = next.execute(&mut world.mmio).unwrap_err();
                assert_eq!(failed.why, ExecuteError::PredecessorLost);
                world.cancel(failed.job);
            }
            let World { mut mmio, mut pool, notes, vmm } = world;
            let root = vmm.pdb();
            vmm.close(&mut mmio, &mut pool).map_err(|(_, why)| why).unwrap();
            notes.tell(mmio.bar0());
            assert_eq!(pool.inner().out, BTreeSet::from([(root.raw(), 4096)]), "{} after {steps}", kind.name);
            assert_eq!(mmio.bar0().findings(), &[]);
        }
    }
}

/// A second job over the same pages waits for the first, keeps it from being cancelled, and is told where it was dropped.
/// Their receipts are committed in any order.
#[test]
fn jobs_of_every_kind_have_dependents() {
    for kind in KINDS {
        let then = Step::Sparse(kind.does.range());
        let mut world = ready::<V3>("gh100", kind);
        world.gpu().reset_counts();
        let before = settled(&mut world, kind);
        let first = prepare(&mut world, &kind.does);
        let second = prepare(&mut world, &then);
        let held = books(&mut world);
        let failed = second.execute(&mut world.mmio).unwrap_err();
        assert_eq!((failed.why, failed.job.state()), (ExecuteError::NotYet, State::Prepared), "{}", kind.name);
        let (first, why) = world.vmm.cancel(&mut world.pool, first).unwrap_err();
        assert_eq!((why, first.state()), (CommitError::HasDependents, State::Prepared), "{}", kind.name);
        assert_eq!(books(&mut world), held, "{}", kind.name);
        drop(first);
        let failed = failed.job.execute(&mut world.mmio).unwrap_err();
        assert_eq!(failed.why, ExecuteError::PredecessorLost);
        world.cancel(failed.job);
        world.gpu().reset_counts();
        assert_eq!(settled(&mut world, kind), before, "{}", kind.name);

        let first = prepare(&mut world, &kind.does);
        let second = prepare(&mut world, &then);
        let first = execute(&mut world, first);
        let second = execute(&mut world, second);
        commit(&mut world, second);
        commit(&mut world, first);
        assert_pages(&mut world, kind, |va| kind.page_then(&then, va));
        world.assert_no_leak();

        let World { mut mmio, mut pool, notes, vmm } = world;
        let mut vmm = vmm;
        let open = vmm.plan_sparse(&mut pool, 64 * GIB..64 * GIB + MIB).unwrap();
        notes.tell(mmio.bar0());
        let open = open.init(&mut mmio).unwrap();
        let (mut vmm, why) = vmm.close(&mut mmio, &mut pool).unwrap_err();
        assert_eq!(why, CloseError::Busy);
        vmm.cancel(&mut pool, open).unwrap();
        let root = vmm.pdb();
        vmm.close(&mut mmio, &mut pool).map_err(|(_, why)| why).unwrap();
        pool.give(root, 4096);
        notes.tell(mmio.bar0());
        assert_eq!(pool.inner().out, BTreeSet::new());
    }
}

/// Origin weakness 7: while the invalidate of an unmap is owed, its addresses go to nobody, and its tables stay.
#[test]
fn origin_7_an_unmap_without_an_acknowledgement_keeps_addresses_and_tables() {
    let model = Config { invalidate_polls: 2500, ..Config::chip("gh100") };
    let mut world = World::<V3>::new("gh100");
    for step in [Step::Map(kinds::VA, 4 * MIB, Some(PageSize::Size4K)), Step::Map(kinds::VA, 4 * MIB, None)] {
        world = World::with(&model);
        let mut map = prepare(&mut world, &step);
        map.write(&mut world.mmio).unwrap();
        while map.poll_flush(&mut world.mmio).unwrap() != Flushed::Done {}
        commit(&mut world, map.finish().unwrap());
        let range = step.range();
        let unmap = prepare(&mut world, &Step::Unmap(range.clone()));
        let out = world.pool.inner().out.clone();
        let mut unmap = unmap.execute(&mut world.mmio).unwrap_err().job;
        for again in 0..2 {
            let anywhere = MapRequest::frames(1, PageSize::Size4K).within(range.clone());
            assert!(matches!(world.prepare(&anywhere), Err(PrepareError::NoVa(_))), "attempt {again}");
            let there = world.prepare(&MapRequest::frames(1, PageSize::Size4K).at(range.start)).unwrap();
            let frames = [Pfn::new(1 << 20)];
            let there = there.with_frames(&frames).unwrap();
            let failed = there.execute(&mut world.mmio).unwrap_err();
            assert_eq!(failed.why, ExecuteError::NotYet);
            world.cancel(failed.job.into_job());
            assert!(world.pool.inner().out.is_superset(&out), "attempt {again}");
            match unmap.execute(&mut world.mmio) {
                Err(failed) => unmap = failed.job,
                Ok(receipt) => {
                    commit(&mut world, receipt);
                    break;
                }
            }
        }
        world.assert_faults(range.clone());
        assert!(world.prepare(&MapRequest::frames(1, PageSize::Size4K).within(range)).is_ok());
        assert_eq!(world.gpu().counts().invalidates, 2, "one for each job, however often it was waited for");
    }
    world.assert_clean();
}

/// Origin weaknesses 8 and 9: a space that is dropped, and not closed, gives back nothing that the GPU may reach.
#[test]
fn origin_8_9_a_dropped_space_frees_nothing() {
    for kind in KINDS {
        let mut world = ready::<V3>("gh100", kind);
        let job = prepare(&mut world, &kind.does);
        let receipt = execute(&mut world, job);
        let World { mut mmio, mut pool, notes, vmm } = world;
        let (out, writes) = (pool.inner().out.clone(), mmio.bar0().counts().writes);
        drop(vmm);
        drop(receipt);
        notes.tell(mmio.bar0());
        assert_eq!((&pool.inner().out, mmio.bar0().counts().writes), (&out, writes), "{}", kind.name);
        assert_eq!(mmio.bar0().findings(), &[]);
    }
}
