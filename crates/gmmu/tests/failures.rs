//! Every kind of job, and every way in which table memory or the device fails under it, one failure at a time, until
//! none is left: afterwards it is all, nothing, or in quarantine and said so, and the job that came back gets through.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;
mod faulty;
#[path = "common/kinds.rs"]
mod kinds;

use common::GIB;
use faulty::{Rig, Setup, Wrong, ON_PURPOSE, WRONGS};
use gmmu::addr::PageSize;
use gmmu::device::DeviceError;
use gmmu::format::{Format, V2, V3};
use gmmu::vmm::{flush_all, CloseError, ExecuteError, Flushed, Job, PrepareError};
use gmmu_sim::{Bus, Config};
use kinds::{Armed, Kind, Page, Step, KINDS};
use std::collections::BTreeSet;

/// What became of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// The failure was not reached any more.
    Through,
    /// It was met, and went unnoticed or was overcome.
    Anyway,
    Unprepared,
    Unexecuted,
}

/// The `n`-th access of one job goes wrong. Where the job came back, it is executed again, or dropped.
fn attempt<F: Format>(setup: &Setup, kind: &'static Kind, wrong: Wrong, n: u64, again: bool) -> Came {
    let when = format!("when access {n} is {wrong:?}");
    let mut rig = Rig::<F>::new(setup, kind);
    // Caches know what was before.
    rig.assert_pages(false, "before");
    let before = rig.state();
    rig.mmio.bar0().arm(wrong, n);
    let job = match rig.prepare(&kind.does) {
        Ok(job) => job,
        Err(why) => {
            assert!(matches!(why, PrepareError::Device(_)), "{when}: {why}");
            assert_eq!(rig.state(), before, "{} {when}", kind.name);
            rig.assert_pages(false, &when);
            if wrong != Wrong::Gone {
                rig.mmio.bar0().arm(wrong, 0);
                let job = rig.prepare(&kind.does).unwrap();
                complete(&mut rig, job, &when);
            }
            return Came::Unprepared;
        }
    };
    let planned = rig.state();
    let rounds = job.rounds();
    let frames = kinds::frames(&job);
    match Armed::new(job, &frames).execute(&mut rig.mmio) {
        Ok(receipt) => {
            let hit = rig.mmio.bar0().hit;
            assert!(!rig.mmio.bar0().is_gone(), "{} {when}: not noticed", kind.name);
            rig.commit(receipt);
            rig.assert_pages(true, &when);
            rig.assert_recount(&when);
            if hit {
                Came::Anyway
            } else {
                Came::Through
            }
        }
        Err(failed) => {
            check_failure(wrong, failed.why, &when);
            rig.assert_halfway(rounds, &when);
            rig.assert_clean(&when);
            if wrong == Wrong::Gone {
                stays_gone(rig, failed.job, failed.why);
            } else if again {
                assert_eq!(rig.state(), planned, "{} {when}", kind.name);
                rig.mmio.bar0().at = 0;
                let receipt = match failed.job.execute(&mut rig.mmio) {
                    // The rest of a late invalidate takes longer than one wait.
                    Err(failed) if wrong == Wrong::Late => failed.job.execute(&mut rig.mmio).unwrap(),
                    other => other.unwrap(),
                };
                rig.commit(receipt);
                rig.assert_pages(true, &when);
                rig.assert_recount(&when);
            } else {
                let job = failed.job.into_job();
                let begun = kinds::is_begun(&job);
                drop(job);
                rig.mmio.bar0().arm(wrong, 0);
                let_go(rig, begun, &before, &when);
            }
            Came::Unexecuted
        }
    }
}

fn complete<F: Format>(rig: &mut Rig<F>, job: Job, when: &str) {
    let frames = kinds::frames(&job);
    let receipt = Armed::new(job, &frames).execute(&mut rig.mmio).unwrap();
    rig.commit(receipt);
    rig.assert_pages(true, when);
    rig.assert_recount(when);
}

fn check_failure(wrong: Wrong, why: ExecuteError, when: &str) {
    let ExecuteError::Device(why) = why else { panic!("{when}: {why}") };
    let fine = match wrong {
        Wrong::Refused | Wrong::Torn => why == ON_PURPOSE,
        Wrong::Poison => matches!(why, DeviceError::Poison { .. } | DeviceError::WindowLost { .. }),
        Wrong::Gone => matches!(why, DeviceError::Gone { .. }),
        Wrong::Late => matches!(why, DeviceError::Timeout { polls: 1000, .. }),
        Wrong::Unmoved => matches!(why, DeviceError::WindowLost { .. }),
    };
    assert!(fine, "{when}: {why}");
}

/// A card that left is answered for without another access, and everything that it may reach stays where it is.
fn stays_gone<F: Format>(mut rig: Rig<F>, job: Armed<'_>, why: ExecuteError) {
    let out = rig.pool.inner().out.clone();
    let made = rig.mmio.bar0().made;
    let failed = job.execute(&mut rig.mmio).unwrap_err();
    assert_eq!(failed.why, why);
    let begun = kinds::is_begun(&failed.job.into_job());
    let before = rig.vmm.census().jobs;
    assert_eq!((before, rig.vmm.census().quarantined), (1, usize::from(begun)));
    let (vmm, close) = rig.vmm.close(&mut rig.mmio, &mut rig.pool).unwrap_err();
    assert_eq!(Err(close), if let ExecuteError::Device(why) = why { Err(CloseError::Device(why)) } else { Ok(()) });
    assert_eq!(rig.mmio.bar0().made, made, "the bus was touched");
    assert_eq!(vmm.census().quarantined, usize::from(begun));
    if begun {
        assert_eq!(rig.pool.inner().out, out);
    }
}

/// The job was dropped: taken back if it was not begun, else kept until the space is closed.
fn let_go<F: Format>(mut rig: Rig<F>, begun: bool, before: &str, when: &str) {
    let out = rig.pool.inner().out.clone();
    let after = rig.state();
    if begun {
        let census = rig.vmm.census();
        assert_eq!((census.jobs, census.quarantined), (1, 1), "{when}");
        assert!(rig.pool.inner().out.is_superset(&out), "{when}");
    } else {
        assert_eq!(after, before, "{when}");
    }
    let root = rig.vmm.pdb();
    rig.mmio.bar0().late = 0;
    rig.vmm.close(&mut rig.mmio, &mut rig.pool).map_err(|(_, why)| why).unwrap();
    rig.notes.tell(&mut rig.mmio.bar0().gpu);
    assert_eq!(rig.pool.inner().out, BTreeSet::from([(root.raw(), 4096)]), "{} {when}", rig.kind.name);
    let findings: Vec<String> = rig.mmio.bar0().gpu.findings().iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{:?} {when}: {}", rig.kind.name, findings.join("\n"));
}

/// Every access of every job that the chip can do goes wrong once in this way.
fn every_access<F: Format>(setup: &Setup, wrong: Wrong) {
    let chip = setup.chip();
    let mut met = [0; 4];
    for kind in KINDS.iter().filter(|kind| kind.fits(chip)) {
        let mut n = 1;
        loop {
            let came = attempt::<F>(setup, kind, wrong, n, true);
            met[came as usize] += 1;
            if came == Came::Through && !goes_on::<F>(setup, kind, n) {
                break;
            }
            if came == Came::Unexecuted && wrong != Wrong::Gone {
                attempt::<F>(setup, kind, wrong, n, false);
            }
            // A 32-bit bus has an access for every half of every word: the middles of long runs are much the same.
            n += if n < 24 { 1 } else { 1 + n / 12 };
        }
    }
    println!("{} {wrong:?}: {met:?}", chip.name);
    assert!(met[Came::Unexecuted as usize] > 0 && met[Came::Through as usize] > 0);
}

/// A job written three entries at a time, and looked after without waiting: the step that goes wrong is repeated. Whether
/// the job made `n` accesses or more.
fn attempt_in_steps<F: Format>(setup: &Setup, kind: &'static Kind, wrong: Wrong, n: u64) -> bool {
    let when = format!("when access {n} of a job in steps is {wrong:?}");
    let mut rig = Rig::<F>::new(setup, kind);
    rig.assert_pages(false, "before");
    let job = rig.prepare(&kind.does).unwrap();
    let rounds = job.rounds();
    let frames = kinds::frames(&job);
    let mut job = Armed::new(job, &frames);
    rig.mmio.bar0().arm(wrong, n);
    let mut failures = 0;
    let mut written = false;
    loop {
        let step = if written {
            job.poll_flush(&mut rig.mmio).map(|flushed| match flushed {
                Flushed::Pending => false,
                Flushed::NextRound | Flushed::Done => {
                    written = false;
                    flushed == Flushed::Done
                }
            })
        } else {
            job.write_some(&mut rig.mmio, 3).map(|all| {
                written = all;
                false
            })
        };
        match step {
            Ok(true) => break,
            Ok(false) => {}
            Err(why) => {
                failures += 1;
                check_failure(wrong, why, &when);
                rig.assert_halfway(rounds, &when);
                rig.mmio.bar0().at = 0;
            }
        }
    }
    let made = rig.mmio.bar0().made;
    assert!(failures <= 1, "{when}");
    let receipt = job.finish().unwrap();
    rig.commit(receipt);
    rig.assert_pages(true, &when);
    rig.assert_recount(&when);
    made >= n
}

#[test]
fn every_step_of_a_job_goes_wrong_once() {
    let setup = Setup::new("gh100").apart();
    for wrong in [Wrong::Refused, Wrong::Torn, Wrong::Poison, Wrong::Late, Wrong::Unmoved] {
        for kind in KINDS {
            let mut n = 1;
            while attempt_in_steps::<V3>(&setup, kind, wrong, n) {
                n += if n < 24 { 1 } else { 1 + n / 12 };
            }
        }
    }
}

/// Two written jobs under one invalidate, whose `n`-th access goes wrong: it stays owed by both.
fn attempt_together<F: Format>(setup: &Setup, kind: &'static Kind, wrong: Wrong, n: u64) -> Came {
    let when = format!("when access {n} of both is {wrong:?}");
    let mut rig = Rig::<F>::new(setup, kind);
    rig.assert_pages(false, "before");
    let far = Step::Map(kinds::VA + 64 * GIB, 3 * 4096, Some(PageSize::Size4K));
    let jobs = [rig.prepare(&kind.does).unwrap(), rig.prepare(&far).unwrap()];
    let frames = jobs.each_ref().map(kinds::frames);
    let mut jobs: Vec<Armed<'_>> = jobs.into_iter().zip(&frames).map(|(job, frames)| Armed::new(job, frames)).collect();
    for job in &mut jobs {
        job.write(&mut rig.mmio).unwrap();
    }
    rig.mmio.bar0().arm(wrong, n);
    // Each of the two may look.
    rig.mmio.bar0().delay = 2500;
    let limits = rig.vmm.config().limits;
    let mut came = Came::Through;
    while let Err(why) = flush_all(&mut jobs, &mut rig.mmio, limits) {
        came = Came::Unexecuted;
        check_failure(wrong, why, &when);
        jobs = jobs.into_iter().map(|job| job.finish().unwrap_err()).collect();
        if wrong == Wrong::Gone {
            let made = rig.mmio.bar0().made;
            assert_eq!(flush_all(&mut jobs, &mut rig.mmio, limits), Err(why));
            assert_eq!(rig.mmio.bar0().made, made, "the bus was touched");
            return came;
        }
        rig.mmio.bar0().at = 0;
    }
    rig.mmio.bar0().arm(wrong, 0);
    for job in jobs {
        let receipt = job.execute(&mut rig.mmio).unwrap();
        rig.commit(receipt);
    }
    rig.assert_pages(true, &when);
    rig.assert_recount(&when);
    assert!(matches!(rig.access(kinds::VA + 64 * GIB), Page::Leads { .. }));
    came
}

#[test]
fn every_access_of_a_shared_flush_goes_wrong_once() {
    let setup = Setup::new("gh100");
    for wrong in [Wrong::Refused, Wrong::Torn, Wrong::Poison, Wrong::Gone, Wrong::Late] {
        let mut met = 0;
        for kind in KINDS {
            // A read and three writes to start it, and three looks.
            for n in 1..=7 {
                met += u64::from(attempt_together::<V3>(&setup, kind, wrong, n) == Came::Unexecuted);
            }
            assert_eq!(attempt_together::<V3>(&setup, kind, wrong, 12), Came::Through);
        }
        println!("{wrong:?}: {met}");
        assert!(met >= KINDS.len() as u64 * 3);
    }
}

/// Whether the job makes `n` accesses or more. Not every access can go wrong in every way.
fn goes_on<F: Format>(setup: &Setup, kind: &'static Kind, n: u64) -> bool {
    let mut rig = Rig::<F>::new(setup, kind);
    rig.mmio.bar0().arm(Wrong::Refused, 0);
    let job = rig.prepare(&kind.does).unwrap();
    complete_quietly(&mut rig, job);
    rig.mmio.bar0().made >= n
}

fn complete_quietly<F: Format>(rig: &mut Rig<F>, job: Job) {
    let frames = kinds::frames(&job);
    let receipt = Armed::new(job, &frames).execute(&mut rig.mmio).unwrap();
    rig.commit(receipt);
}

#[test]
fn every_kind_does_what_its_line_says() {
    for setup in [Setup::new("gh100"), Setup::new("gb100")] {
        every_kind::<V3>(&setup);
    }
    for setup in [Setup::new("tu102"), Setup::new("ga100"), Setup::new("ad102")] {
        every_kind::<V2>(&setup);
    }
}

fn every_kind<F: Format>(setup: &Setup) {
    for kind in KINDS.iter().filter(|kind| kind.fits(setup.chip())) {
        untroubled::<F>(setup, kind);
    }
}

fn untroubled<F: Format>(setup: &Setup, kind: &'static Kind) {
    let mut rig = Rig::<F>::new(setup, kind);
    rig.assert_pages(false, "before");
    let job = rig.prepare(&kind.does).unwrap();
    complete(&mut rig, job, "without trouble");
}

#[test]
fn every_access_of_gh100_goes_wrong_once() {
    for wrong in [Wrong::Refused, Wrong::Torn, Wrong::Poison, Wrong::Gone, Wrong::Late] {
        every_access::<V3>(&Setup::new("gh100"), wrong);
    }
}

#[test]
fn every_access_of_ga100_goes_wrong_once() {
    for wrong in [Wrong::Refused, Wrong::Torn, Wrong::Poison, Wrong::Gone, Wrong::Late] {
        every_access::<V2>(&Setup::new("ga100"), wrong);
    }
}

/// Where each table takes a move of the window.
#[test]
fn every_access_through_a_window_that_moves_goes_wrong_once() {
    for wrong in WRONGS {
        every_access::<V3>(&Setup::new("gh100").apart(), wrong);
        every_access::<V2>(&Setup::new("tu102").apart(), wrong);
    }
}

#[test]
fn accesses_of_a_32_bit_bus_go_wrong_once() {
    for wrong in [Wrong::Refused, Wrong::Torn, Wrong::Gone] {
        let setup = Setup::new("tu102");
        let model = Config { bus: Bus::Bits32, ..setup.model };
        every_access::<V2>(&Setup { model, ..setup }, wrong);
    }
}

/// Every take of table memory fails, and all after it.
#[test]
fn without_table_memory_nothing_changes() {
    let setup = Setup::new("gh100");
    let mut failed = 0;
    for kind in KINDS {
        let mut rig = Rig::<V3>::new(&setup, kind);
        let before = rig.state();
        for n in 0.. {
            rig.pool.inner().pool.allowed = n;
            let prepared = kind.does.plan(&mut rig.vmm, &mut rig.pool).map(drop);
            rig.pool.inner().pool.allowed = u64::MAX;
            rig.tell();
            assert_eq!(rig.state(), before, "{} with {n} tables", kind.name);
            match prepared {
                Ok(()) => break,
                Err(why) => assert!(matches!(why, PrepareError::NoSpace(_)), "{}: {why}", kind.name),
            }
            failed += 1;
        }
        let job = rig.prepare(&kind.does).unwrap();
        complete(&mut rig, job, "behind it");
    }
    println!("{failed} times without memory");
    assert!(failed > 100);
}

/// A 64K table whose last pages are cut into 4K pages, and a 4K table whose entries become 64K ones, were once dropped
/// in the round that writes the others: from valid to valid, with nothing in between.
#[test]
fn a_table_goes_in_a_round_before_what_takes_its_place() {
    let names = [
        "unmap, cutting both of 64K",
        "unsparse, cutting 64K",
        "map 64K over sparse 4K",
        "map 64K over some sparse 4K",
    ];
    for name in names {
        let kind = KINDS.iter().find(|kind| kind.name == name).unwrap();
        let mut rig = Rig::<V3>::new(&Setup::new("gh100"), kind);
        let job = rig.prepare(&kind.does).unwrap();
        assert_eq!(job.rounds(), 2, "{name}");
        complete(&mut rig, job, "in two rounds");
    }
}
