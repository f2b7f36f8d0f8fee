//! Jobs that interleave at every access of a register: table stores, moves of the window, triggers and polls, with the
//! planner behind one lock, the hardware behind another, and an engine that looks at any moment.
//!
//! shuttle decides who goes on at each step. Settings: `GMMU_SEED` is the seed of the schedules, `GMMU_SCHEDULES` the
//! number of them for each case, grain and scheduler. Where a case fails, shuttle prints the schedule, which
//! `shuttle::replay` repeats.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod concurrent;

use common::{GIB, MIB};
use concurrent::{data, locked, Area, Beat, Card, Deed, Desk, Grain, Lock, Rig, Wish, Worker, GRAINS};
use gmmu::addr::PageSize;
use gmmu::format::{Format, V2, V3};
use gmmu::vmm::{CloseError, ExecuteError, Live, Span, State};
use gmmu_sim::{Bus, Config};
use shuttle::rand::RngCore;
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::AtomicU32;
use shuttle::sync::Mutex;
use shuttle::thread::{spawn, JoinHandle};
use shuttle::Runner;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

const VA: u64 = 4 * GIB;
const KIB_64: u64 = 64 << 10;
const PAGE: u64 = 4096;

/// Locks at which shuttle's threads wait for each other.
#[derive(Debug)]
struct Shuttled<T>(Mutex<T>);

impl<T> Lock<T> for Shuttled<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
    fn with<R>(&self, what: impl FnOnce(&mut T) -> R) -> R {
        what(&mut self.0.lock().unwrap())
    }
}

type Woven<F> = Rig<F, Shuttled<Desk<F>>, Shuttled<Card>>;

/// A step is an access to an atomic of shuttle's: whoever is to go on is chosen anew, and nobody is put behind.
fn beat(registers: bool) -> Beat {
    let point = AtomicU32::new(0);
    let step = Arc::new(move || {
        point.load(Ordering::SeqCst);
    });
    Beat { step, pause: shuttle::thread::yield_now, quiet: Arc::default(), registers }
}

fn three() -> Arc<Woven<V3>> {
    Arc::new(Rig::new(&Config::chip("gh100"), beat(true)))
}

/// Where a word is two accesses, and engines may look between them.
fn two_on_a_narrow_bus() -> Arc<Woven<V2>> {
    Arc::new(Rig::new(&Config { bus: Bus::Bits32, ..Config::chip("ad102") }, beat(true)))
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn run<S: Scheduler + 'static>(scheduler: S, case: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 20;
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(case)
}

/// Runs `case` under random schedules and such with few changes of who goes on (PCT), for each grain of the hardware's
/// lock.
fn explore(name: &'static str, case: impl Fn(Grain) + Copy + Send + Sync + 'static) {
    let (seed, schedules) = (setting("GMMU_SEED", 1), setting("GMMU_SCHEDULES", 60));
    let schedules = usize::try_from(schedules).unwrap();
    println!("{name}: {schedules} random and {schedules} PCT schedules from seed {seed}, for each of {GRAINS:?}");
    for grain in GRAINS {
        run(RandomScheduler::new_from_seed(seed, schedules), move || case(grain));
        run(PctScheduler::new_from_seed(seed, 4, schedules), move || case(grain));
    }
}

/// Executes and commits in a thread.
fn finish<F: Format>(rig: &Arc<Woven<F>>, deed: Deed, grain: Grain) -> JoinHandle<()> {
    let rig = Arc::clone(rig);
    spawn(move || rig.finish(deed, grain))
}

/// An engine that looks at `pages` again and again.
fn engine<F: Format>(rig: &Arc<Woven<F>>, pages: &[u64]) -> JoinHandle<()> {
    let (rig, pages) = (Arc::clone(rig), pages.to_vec());
    spawn(move || {
        for _ in 0..4 {
            pages.iter().for_each(|&va| rig.look(va));
        }
    })
}

/// Executes all at once while an engine looks, and sees whether everything came out right.
fn all_at_once<F: Format>(rig: &Arc<Woven<F>>, deeds: Vec<Deed>, grain: Grain, pages: &[u64], check: Range<u64>) {
    let looking = engine(rig, pages);
    let threads: Vec<_> = deeds.into_iter().map(|deed| finish(rig, deed, grain)).collect();
    for thread in threads.into_iter().chain([looking]) {
        thread.join().unwrap();
    }
    rig.assert_settled(check.step_by(4096));
}

/// Prepares in this order.
fn prepare<F: Format, const N: usize>(rig: &Woven<F>, wishes: [Wish; N]) -> Vec<Deed> {
    rig.quietly(|rig| wishes.iter().map(|wish| rig.prepare(wish).unwrap()).collect())
}

const fn small(page: u64, pages: u64) -> Wish {
    Wish::map(VA + page * PAGE, data(0) + page * PAGE, pages * PAGE, PageSize::Size4K)
}

const fn big(chunk: u64, chunks: u64) -> Wish {
    Wish::map(VA + chunk * KIB_64, data(1) + chunk * KIB_64, chunks * KIB_64, PageSize::Size64K)
}

fn ranges(wishes: &[Wish; 2], order: [usize; 2]) -> [Wish; 2] {
    order.map(|n| Wish::unmap(wishes[n].range()))
}

/// Each job brings one half of a dual entry; and takes it away again.
#[test]
fn two_halves_of_one_dual_entry_in_both_orders() {
    for order in [[0, 1], [1, 0]] {
        explore("two halves of one dual entry", move |grain| {
            let rig = three();
            let wishes = [small(0, 2), big(1, 2)];
            let pages = [VA, VA + 2 * PAGE, VA + KIB_64, VA + 4 * KIB_64];
            let deeds = prepare(&rig, order.map(|n| wishes[n].clone()));
            all_at_once(&rig, deeds, grain, &pages, VA..VA + 2 * MIB);
            let deeds = prepare(&rig, ranges(&wishes, order));
            all_at_once(&rig, deeds, grain, &pages, VA..VA + 2 * MIB);
            rig.close();
        });
    }
}

/// Guests in both tables of one dual entry wait for nobody.
#[test]
fn guests_of_one_dual_entry_wait_for_nobody() {
    explore("guests of one dual entry", |grain| {
        let rig = three();
        rig.quietly(|rig| [small(0, 1), big(8, 1)].iter().for_each(|wish| rig.change(wish)));
        let wishes = [small(3, 2), small(1, 1), big(9, 1), big(10, 1), Wish::unmap(VA..VA + PAGE)];
        let deeds = prepare(&rig, wishes);
        let looking = engine(&rig, &[VA, VA + PAGE, VA + 3 * PAGE, VA + 9 * KIB_64, VA + 10 * KIB_64]);
        let threads: Vec<_> = deeds
            .into_iter()
            .map(|deed| {
                let rig = Arc::clone(&rig);
                spawn(move || {
                    let receipt = rig.try_execute(deed, grain).map_err(|(_, why)| why).unwrap();
                    rig.commit(receipt);
                })
            })
            .collect();
        threads.into_iter().chain([looking]).for_each(|thread| thread.join().unwrap());
        rig.assert_settled((VA..VA + 2 * MIB).step_by(4096));
        rig.close();
    });
}

/// On a bus of 32 bits a word is two stores. Both halves of these entries say something.
#[test]
fn no_engine_sees_half_a_word() {
    explore("halves of words", |grain| {
        let rig = two_on_a_narrow_bus();
        let there = |page: u64| Wish::map(VA + page * PAGE, data(1) + page * PAGE, 4 * PAGE, PageSize::Size4K);
        rig.quietly(|rig| rig.change(&there(0)));
        let deeds = prepare(&rig, [there(4), Wish::unmap(VA..VA + 4 * PAGE)]);
        let pages: Vec<u64> = (0..8).map(|page| VA + page * PAGE).collect();
        all_at_once(&rig, deeds, grain, &pages, VA..VA + 16 * PAGE);
        rig.close();
    });
}

/// Two jobs take pages out of one large leaf, or one out of it and one gives the rest other attributes.
#[test]
fn two_jobs_cutting_one_large_leaf() {
    let page = |n: u64| VA + n * PAGE..VA + (n + 1) * PAGE;
    for size in [PageSize::Size2M, PageSize::Size64K] {
        explore("two jobs cut one large leaf", move |grain| {
            let rig = three();
            rig.quietly(|rig| rig.change(&Wish::map(VA, data(0), 2 * MIB, size)));
            let read_only = Wish::Protect(Span::new(page(6)).replayable(), true);
            let deeds = prepare(&rig, [Wish::cut(page(5)), read_only, Wish::cut(page(7))]);
            let pages = [VA, page(5).start, page(6).start, page(7).start, VA + KIB_64, VA + 2 * MIB - PAGE];
            all_at_once(&rig, deeds, grain, &pages, VA..VA + 2 * MIB);
            rig.close();
        });
    }
}

/// Two jobs cut what reads as 0 over 2 MiB.
#[test]
fn two_jobs_cutting_one_sparse_entry() {
    explore("two jobs cut one sparse entry", |grain| {
        let rig = three();
        rig.quietly(|rig| rig.change(&Wish::Sparse(Span::new(VA..VA + 4 * MIB))));
        let live = Live::Replayable;
        let map = Wish::Map { va: VA + PAGE, to: data(0), bytes: PAGE, page: None, live };
        let frames = Wish::Late { va: VA + KIB_64, frames: vec![data(1), data(3)], live };
        let end = Wish::Unsparse(Span::new(VA + MIB..VA + 4 * MIB).replayable());
        let deeds = prepare(&rig, [map, frames, end]);
        let pages = [VA, VA + PAGE, VA + KIB_64, VA + MIB, VA + 3 * MIB];
        all_at_once(&rig, deeds, grain, &pages, VA..VA + 4 * MIB);
        rig.close();
    });
}

/// The directories that the first job made are linked by whoever comes first, also where the first never comes.
#[test]
fn a_table_published_by_a_job_that_did_not_make_it() {
    for cancelled in [false, true] {
        explore("a table that another job publishes", move |grain| {
            let rig = three();
            let there = |n: u64| Wish::map(VA + n * 2 * MIB, data(n), PAGE, PageSize::Size4K);
            let mut deeds = prepare(&rig, [there(0), there(1), there(2)]);
            let first = deeds.remove(0);
            let maker = {
                let rig = Arc::clone(&rig);
                spawn(move || {
                    if cancelled {
                        rig.try_cancel(first).unwrap();
                    } else {
                        rig.finish(first, grain);
                    }
                    // Planned while the others are under way: their directories may be linked by now, or not.
                    let late = rig.prepare(&there(3)).unwrap();
                    rig.finish(late, grain);
                })
            };
            let looking = engine(&rig, &[VA, VA + 2 * MIB, VA + 4 * MIB, VA + 6 * MIB]);
            let others: Vec<_> = deeds.into_iter().map(|deed| finish(&rig, deed, grain)).collect();
            others.into_iter().chain([maker, looking]).for_each(|thread| thread.join().unwrap());
            rig.assert_settled((VA..VA + 8 * MIB).step_by(4096));
            rig.close();
        });
    }
}

/// The small table stays while 64K pages cover what it says, and comes back to life: as it is to be, never as it was.
#[test]
fn a_small_table_under_64k_entries_coming_back_to_life() {
    explore("a small table comes back to life", |grain| {
        let rig = three();
        // Chunk 9 keeps both tables in place.
        rig.quietly(|rig| [small(0, 3), small(9 * 16, 1), big(10, 1)].iter().for_each(|wish| rig.change(wish)));
        let cover = Wish::unmap(VA..VA + KIB_64);
        let wishes = [cover.clone(), big(0, 1), cover, small(1, 1)];
        let deeds = prepare(&rig, wishes);
        let pages = [VA, VA + PAGE, VA + 2 * PAGE, VA + 9 * KIB_64, VA + 10 * KIB_64];
        all_at_once(&rig, deeds, grain, &pages, VA..VA + 2 * MIB);
        rig.close();
    });
}

/// A job is cancelled while another executes below directories that both link, whoever made them.
#[test]
fn undo_of_a_job_whose_directory_entry_another_one_uses() {
    for undone in [0, 1] {
        explore("undo of a job whose directory entry another one uses", move |grain| {
            let rig = three();
            let there = |n: u64| Wish::map(VA + n * 2 * MIB, data(n), 2 * PAGE, PageSize::Size4K);
            let mut deeds = prepare(&rig, [there(0), there(1)]);
            let gone = deeds.remove(undone);
            let looking = engine(&rig, &[VA, VA + 2 * MIB]);
            let undoing = {
                let rig = Arc::clone(&rig);
                spawn(move || rig.try_cancel(gone).unwrap())
            };
            let threads: Vec<_> = deeds.into_iter().map(|deed| finish(&rig, deed, grain)).collect();
            threads.into_iter().chain([undoing, looking]).for_each(|thread| thread.join().unwrap());
            rig.assert_settled((VA..VA + 4 * MIB).step_by(4096));
            rig.close();
        });
    }
}

/// A chain of jobs whose last is cancelled while the first executes: what the last would have replaced stays.
#[test]
fn a_cancel_behind_a_job_that_is_under_way() {
    explore("a cancel behind a job that is under way", |grain| {
        let rig = three();
        rig.quietly(|rig| rig.change(&small(0, 2)));
        let large = Wish::map(VA, data(4), 2 * MIB, PageSize::Size2M);
        let mut deeds = prepare(&rig, [Wish::unmap(VA..VA + 2 * PAGE), large]);
        let last = deeds.pop().unwrap();
        let looking = engine(&rig, &[VA, VA + PAGE, VA + MIB]);
        let first = finish(&rig, deeds.remove(0), grain);
        let undoing = {
            let rig = Arc::clone(&rig);
            spawn(move || {
                rig.try_cancel(last).unwrap();
                let again = rig.prepare(&big(0, 1)).unwrap();
                rig.finish(again, grain);
            })
        };
        [first, undoing, looking].into_iter().for_each(|thread| thread.join().unwrap());
        rig.assert_settled((VA..VA + 2 * MIB).step_by(4096));
        rig.close();
    });
}

/// Jobs and receipts are dropped while others plan: nothing is lost, and nothing is taken back twice.
#[test]
fn a_job_or_receipt_is_dropped_while_others_plan() {
    explore("jobs and receipts are dropped", |grain| {
        let rig = three();
        let deeds = prepare(&rig, [small(0, 1), Wish::map(VA + 2 * MIB, data(2), PAGE, PageSize::Size4K)]);
        let [kept, gone]: [Deed; 2] = deeds.try_into().unwrap();
        let receipts = {
            let rig = Arc::clone(&rig);
            spawn(move || drop(rig.execute(kept, grain)))
        };
        let dropping = {
            let rig = Arc::clone(&rig);
            spawn(move || {
                let Deed { job, number, undo, .. } = gone;
                (rig.beat.step)();
                drop(job);
                (rig.beat.step)();
                rig.desk.with(|desk| {
                    desk.sweep(&rig.gpu);
                    desk.forget(number, &undo, &rig.oracle);
                });
            })
        };
        let planning = {
            let rig = Arc::clone(&rig);
            spawn(move || {
                let deed = rig.prepare(&Wish::map(VA + 4 * MIB, data(3), PAGE, PageSize::Size4K)).unwrap();
                rig.finish(deed, grain);
            })
        };
        let looking = engine(&rig, &[VA, VA + 2 * MIB, VA + 4 * MIB]);
        [receipts, dropping, planning, looking].into_iter().for_each(|thread| thread.join().unwrap());
        rig.desk.with(|desk| desk.sweep(&rig.gpu));
        rig.assert_settled((VA..VA + 6 * MIB).step_by(4096));
        rig.close();
    });
}

/// What builds on a job that is dropped half-way is refused and cancelled; the space can still be closed.
#[test]
fn a_job_that_is_dropped_half_way_is_lost_for_those_behind_it() {
    explore("a job is dropped half-way", |_| {
        let rig = three();
        let deeds = prepare(&rig, [small(0, 4), Wish::unmap(VA..VA + PAGE)]);
        let [mut first, behind]: [Deed; 2] = deeds.try_into().unwrap();
        let losing = {
            let rig = Arc::clone(&rig);
            spawn(move || {
                locked(&rig.oracle).begin(first.number);
                rig.hardware.with(|card| first.job.write_some(card, 2)).unwrap();
                drop(first);
            })
        };
        let waiting = {
            let rig = Arc::clone(&rig);
            spawn(move || {
                let mut behind = behind;
                loop {
                    let (back, why) = rig.try_execute(behind, Grain::Word).map(drop).unwrap_err();
                    behind = back;
                    match why {
                        ExecuteError::NotYet => shuttle::thread::yield_now(),
                        why => break assert_eq!(why, ExecuteError::PredecessorLost),
                    }
                }
                rig.try_cancel(behind).unwrap();
            })
        };
        let looking = engine(&rig, &[VA, VA + PAGE, VA + 5 * PAGE]);
        [losing, waiting, looking].into_iter().for_each(|thread| thread.join().unwrap());
        let census = rig.desk.with(|desk| desk.vmm().census());
        assert_eq!((census.jobs, census.quarantined), (1, 1));
        rig.close();
    });
}

/// The space is dropped while its job executes: what the job needs is still there, and nothing of it is given away.
#[test]
fn a_job_that_is_alive_when_its_space_goes() {
    explore("a space is dropped before its job", |grain| {
        let rig = three();
        rig.quietly(|rig| rig.change(&small(0, 1)));
        let deed = prepare(&rig, [Wish::map(VA + 2 * MIB, data(2), 2 * PAGE, PageSize::Size4K)]).remove(0);
        let out = rig.desk.with(|desk| desk.pool.inner().out.clone());
        let going = {
            let rig = Arc::clone(&rig);
            spawn(move || drop(rig.desk.with(|desk| desk.vmm.take())))
        };
        let executing = {
            let rig = Arc::clone(&rig);
            spawn(move || drop(rig.execute(deed, grain)))
        };
        let looking = engine(&rig, &[VA, VA + 2 * MIB, VA + 2 * MIB + PAGE]);
        [going, executing, looking].into_iter().for_each(|thread| thread.join().unwrap());
        for va in [VA, VA + PAGE, VA + 2 * MIB, VA + 2 * MIB + PAGE, VA + 2 * MIB + 2 * PAGE] {
            rig.look(va);
        }
        assert!(locked(&rig.oracle).is_settled());
        assert_eq!(rig.desk.with(|desk| desk.pool.inner().out.clone()), out);
        rig.assert_clean();
    });
}

/// A space is closed as soon as its jobs are over, and not before, however they end.
#[test]
fn a_close_waits_for_the_last_job() {
    for lost in [false, true] {
        explore("a close races with a job", move |grain| {
            let rig = three();
            let mut deed = prepare(&rig, [small(0, 2)]).remove(0);
            let is_over = Arc::new(AtomicBool::new(false));
            let executing = {
                let (rig, is_over) = (Arc::clone(&rig), Arc::clone(&is_over));
                spawn(move || {
                    if lost {
                        locked(&rig.oracle).begin(deed.number);
                        rig.hardware.with(|card| deed.job.write(card)).unwrap();
                        (rig.beat.step)();
                        assert_eq!(deed.job.state(), State::Executing);
                        drop(deed);
                    } else {
                        // Committed by the close.
                        drop(rig.execute(deed, grain));
                    }
                    is_over.store(true, Ordering::Relaxed);
                })
            };
            let closing = {
                let rig = Arc::clone(&rig);
                spawn(move || {
                    while let Err(why) = rig.try_close() {
                        assert_eq!(why, CloseError::Busy);
                        shuttle::thread::yield_now();
                    }
                    assert!(is_over.load(Ordering::Relaxed), "closed while the job was under way");
                })
            };
            [executing, closing].into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
}

/// Execution takes no planner lock: shuttle would find that nobody can go on.
#[test]
fn execution_goes_on_while_somebody_holds_the_planner() {
    explore("execution under a held planner's lock", |grain| {
        let rig = three();
        let deed = prepare(&rig, [Wish::Late { va: VA, frames: vec![data(0), data(7)], live: Live::MustNotFault }]);
        let receipts = rig.desk.with(|_| {
            let looking = engine(&rig, &[VA, VA + PAGE]);
            let executing = {
                let rig = Arc::clone(&rig);
                spawn(move || deed.into_iter().map(|deed| rig.execute(deed, grain)).collect::<Vec<_>>())
            };
            looking.join().unwrap();
            executing.join().unwrap()
        });
        receipts.into_iter().for_each(|receipt| rig.commit(receipt));
        rig.assert_settled((VA..VA + 2 * MIB).step_by(4096));
        rig.close();
    });
}

/// Random work of three threads on a few pages of two domains, which collide all the time.
fn random_work<F: Format>(rig: &Arc<Woven<F>>, steps: u64) {
    let shared = vec![VA, VA + 2 * MIB];
    let threads: Vec<_> = (0..3)
        .map(|n| {
            let rig = Arc::clone(rig);
            let area = Area { shared: shared.clone(), own: VA + 4 * MIB + n * 2 * MIB, few: true };
            // shuttle's own numbers, so that a schedule says them too.
            let mut worker = Worker::new(shuttle::rand::thread_rng().next_u64(), area);
            spawn(move || {
                for _ in 0..steps {
                    worker.step(&rig);
                }
                worker.finish(&rig);
            })
        })
        .collect();
    let looking = {
        let rig = Arc::clone(rig);
        spawn(move || {
            let mut random = common::Random(7);
            for _ in 0..200 {
                rig.look(VA + random.below(4) * MIB + [0, 1, 15, 16, 17, 32, 255][random.index(7)] * PAGE);
            }
        })
    };
    threads.into_iter().chain([looking]).for_each(|thread| thread.join().unwrap());
    rig.assert_settled((VA..VA + 10 * MIB).step_by(4096));
    rig.close();
}

#[test]
fn random_work_of_three_threads() {
    let (seed, schedules) = (setting("GMMU_SEED", 1), setting("GMMU_SCHEDULES", 150));
    println!("random work: {schedules} schedules of each kind from seed {seed}");
    let schedules = usize::try_from(schedules).unwrap();
    let hopper = || random_work::<V3>(&three(), 12);
    let ada = || random_work::<V2>(&two_on_a_narrow_bus(), 12);
    run(RandomScheduler::new_from_seed(seed, schedules), hopper);
    run(PctScheduler::new_from_seed(seed, 5, schedules), hopper);
    run(RandomScheduler::new_from_seed(seed, schedules), ada);
    run(PctScheduler::new_from_seed(seed, 5, schedules), ada);
}

/// Locks that nobody waits for, since all give way outside of them alone.
type Bare = Rig<V3, std::sync::Mutex<Desk<V3>>, std::sync::Mutex<Card>>;

/// All orders of the device calls of two jobs.
fn every_order(name: &str, scene: fn(&Bare) -> [Wish; 2], check: Range<u64>) -> usize {
    let orders = run(DfsScheduler::new(None, false), move || {
        let model = Config { invalidate_polls: 0, ..Config::chip("gh100") };
        let rig: Arc<Bare> = Arc::new(Rig::new(&model, beat(false)));
        let deeds = rig.quietly(|rig| scene(rig).map(|wish| rig.prepare(&wish).unwrap()));
        let receipts = deeds.map(|deed| {
            let rig = Arc::clone(&rig);
            spawn(move || rig.try_execute(deed, Grain::Call).map_err(|(_, why)| why).unwrap())
        });
        for receipt in receipts {
            let receipt = receipt.join().unwrap();
            rig.quietly(|rig| rig.commit(receipt));
        }
        rig.assert_settled(check.clone().step_by(4096));
    });
    println!("{name}: {orders} orders, all of them");
    orders
}

#[test]
fn every_order_of_two_guests_in_one_table() {
    let scene = |rig: &Bare| {
        rig.change(&small(0, 1));
        rig.look(VA + PAGE);
        [small(1, 1), Wish::unmap(VA..VA + PAGE)]
    };
    assert!(every_order("two guests in one table", scene, VA..VA + 16 * PAGE) > 200);
}

#[test]
fn every_order_of_two_jobs_that_link_one_directory() {
    let scene = |rig: &Bare| {
        // Directories down to that of 512 MiB are there; engines know that nothing is below the next.
        rig.change(&Wish::map(VA + 512 * MIB, data(0), PAGE, PageSize::Size4K));
        rig.look(VA);
        [0, 1].map(|n| Wish::map(VA + n * 2 * MIB, data(n), PAGE, PageSize::Size4K))
    };
    assert!(every_order("two jobs that link one directory", scene, VA..VA + 16 * PAGE) > 1000);
}
