//! Real threads that plan behind one lock and execute behind another, and what the types say about that.
//!
//! Settings: `GMMU_SEED` is the first seed, `GMMU_STEPS` the steps of each thread.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod concurrent;

use common::{Random, GIB, MIB};
use concurrent::{data, locked, Area, Beat, Card, Desk, Lock, Rig, Wish, Worker, GRAINS};
use gmmu::addr::PageSize;
use gmmu::format::{Format, V2, V3};
use gmmu::vmm::{Job, Live, Ready, Receipt, State, Vmm};
use gmmu_sim::{Bus, Config};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const VA: u64 = 4 * GIB;
const PAGE: u64 = 4096;

type Real<F> = Rig<F, Mutex<Desk<F>>, Mutex<Card>>;

fn beat() -> Beat {
    Beat { step: Arc::new(|| ()), pause: std::thread::yield_now, quiet: Arc::default(), registers: true }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A job borrows neither its space nor the hardware, and may go to another thread; so may all that comes of it.
const _: () = {
    const fn goes_anywhere<T: Send + 'static>() {}
    const fn goes<T: Send>() {}
    goes_anywhere::<Job>();
    goes_anywhere::<Receipt>();
    goes_anywhere::<Vmm<V2>>();
    goes_anywhere::<Vmm<V3>>();
    goes::<Ready<'_>>();
    // What executes a job is told of no space: hardware and frames are all that it is given.
    const _EXECUTE: fn(Job, &mut Card) -> Result<Receipt, gmmu::vmm::Failed<Job>> = Job::execute;
    const _WRITE: fn(&mut Job, &mut Card) -> Result<(), gmmu::vmm::ExecuteError> = Job::write;
    const _FLUSH: fn(&mut Job, &mut Card) -> Result<gmmu::vmm::Flushed, gmmu::vmm::ExecuteError> = Job::flush;
};

/// A job is executed to its end while another thread sits on the planner's lock and never lets go of it.
#[test]
fn execution_takes_no_planner_lock() {
    for grain in GRAINS {
        let rig: Arc<Real<V3>> = Arc::new(Rig::new(&Config::chip("gh100"), beat()));
        let large = rig.prepare(&Wish::map(VA, data(0), 5 * MIB, PageSize::Size64K)).unwrap();
        let late = Wish::Late { va: VA + 8 * MIB, frames: vec![data(9), data(7), data(8)], live: Live::MustNotFault };
        let late = rig.prepare(&late).unwrap();
        let (done, is_done) = channel();
        let planner = rig.desk.lock().unwrap();
        let executing = {
            let rig = Arc::clone(&rig);
            std::thread::spawn(move || {
                let receipts = [large, late].map(|deed| rig.execute(deed, grain));
                done.send(receipts).unwrap();
            })
        };
        let receipts = is_done.recv_timeout(Duration::from_secs(60)).unwrap();
        // As the engines see it already.
        [VA, VA + 5 * MIB - PAGE, VA + 8 * MIB + 2 * PAGE].iter().for_each(|&va| rig.look(va));
        drop(planner);
        executing.join().unwrap();
        receipts.into_iter().for_each(|receipt| rig.commit(receipt));
        rig.assert_settled((VA..VA + 10 * MIB).step_by(4096));
        rig.close();
    }
}

/// Threads that plan, execute, cancel and let go at random, in addresses that they share and in such of their own, while
/// an engine looks. In the end engines find what a naive list says, on every page.
fn random_work<F: Format>(name: &str, model: &Config, seed: u64, steps: u64) {
    const THREADS: u64 = 4;
    let rig: Arc<Real<F>> = Arc::new(Rig::new(model, beat()));
    // A border of 512 MiB lies in between.
    let shared: Vec<u64> = (0..5).map(|n| VA + 508 * MIB + n * 2 * MIB).collect();
    let first = VA + GIB;
    let is_over = AtomicBool::new(false);
    let workers: Vec<Worker> = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut random = Random(seed);
            while !is_over.load(Ordering::Relaxed) {
                let own = random.below(THREADS);
                let domain = if random.one_in(3) { first + own * 2 * MIB } else { shared[random.index(shared.len())] };
                rig.look(domain + random.below(512) * PAGE);
                std::thread::yield_now();
            }
        });
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let area = Area { shared: shared.clone(), own: first + n * 2 * MIB, few: n % 2 == 1 };
                let mut worker = Worker::new(seed ^ n << 32, area);
                let rig = &rig;
                scope.spawn(move || {
                    for _ in 0..steps {
                        worker.step(rig);
                    }
                    worker.finish(rig);
                    worker
                })
            })
            .collect();
        let workers: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        looking.join().unwrap();
        workers.into_iter().map(Result::unwrap).collect()
    });
    let pages = |start: u64, domains: u64| (start..start + domains * 2 * MIB).step_by(4096);
    rig.assert_settled(pages(shared[0], 5).chain(pages(first, THREADS)));
    let sum = |count: fn(&Worker) -> u64| workers.iter().map(count).sum::<u64>();
    let (looks, between) = locked(&rig.oracle).looks();
    println!(
        "{name}, seed {seed}: {} executed, {} had to wait, {} cancelled, {} dropped; {looks} looks, {between} at changes",
        sum(|worker| worker.executed),
        sum(|worker| worker.refused),
        sum(|worker| worker.cancelled),
        sum(|worker| worker.dropped),
    );
    // How many get through depends on who else is on the machine.
    assert!(sum(|worker| worker.executed) > THREADS * steps / 64);
    rig.close();
}

#[test]
fn random_work_of_four_threads() {
    let (seed, steps) = (setting("GMMU_SEED", 1), setting("GMMU_STEPS", 3000));
    random_work::<V3>("gh100", &Config::chip("gh100"), seed, steps);
    random_work::<V2>("ad102 on a 32-bit bus", &Config { bus: Bus::Bits32, ..Config::chip("ad102") }, seed, steps);
    random_work::<V2>("ga100, slow", &Config { invalidate_polls: 40, ..Config::chip("ga100") }, seed, steps);
}

/// A job goes from thread to thread, one call in each.
#[test]
fn a_job_goes_from_thread_to_thread() {
    let rig: Arc<Real<V3>> = Arc::new(Rig::new(&Config::chip("gh100"), beat()));
    let mut deed = rig.prepare(&Wish::map(VA, data(0), 3 * PAGE, PageSize::Size4K)).unwrap();
    locked(&rig.oracle).begin(deed.number);
    while !std::thread::scope(|scope| {
        scope.spawn(|| rig.hardware.with(|card| deed.job.write_some(card, 1)).unwrap()).join().unwrap()
    }) {
        rig.look(VA + PAGE);
    }
    while deed.job.state() != State::Acknowledged {
        std::thread::scope(|scope| {
            scope.spawn(|| rig.hardware.with(|card| deed.job.poll_flush(card)).unwrap()).join().unwrap()
        });
        rig.look(VA + PAGE);
    }
    locked(&rig.oracle).end(deed.number);
    rig.commit(deed.job.finish().map_err(drop).unwrap());
    rig.assert_settled((VA..VA + 2 * MIB).step_by(4096));
}
