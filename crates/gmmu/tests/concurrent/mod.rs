//! One space that several threads plan for and execute on: the locks, what engines may see at any moment, and random work.
//!
//! The locks are a parameter, so that the same code runs on shuttle's threads, which give way where [`Beat::step`] says
//! so, and on real ones. Lock order: the desk (the planner and its pool), then the hardware; the card and the oracle are
//! locked innermost, for single steps.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod desk;
mod oracle;
mod work;

pub use desk::{Deed, Desk, Wish};
pub use oracle::{Oracle, Seen};
pub use work::{Area, Worker};

use crate::common::{config, in_use, worst, Pool, DATA, GIB, MIB};
use gmmu::addr::TableAddr;
use gmmu::device::{
    Bar0, Clock, DeviceError, Invalidate, Invalidator, Poll, Run, TableMemory, TablePool, TableRead, Ticket, Width,
};
use gmmu::format::Format;
use gmmu::mmio::Mmio;
use gmmu::vmm::{CloseError, ExecuteError, Failed, Flushed, Job, Ready, Receipt, Vmm};
use gmmu_sim::{AccessKind, Client, Config, Gpu, Watched};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A lock, shuttle's or a real one.
pub trait Lock<T> {
    fn new(value: T) -> Self;
    fn with<R>(&self, what: impl FnOnce(&mut T) -> R) -> R;
}

impl<T> Lock<T> for Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }
    fn with<R>(&self, what: impl FnOnce(&mut T) -> R) -> R {
        what(&mut locked(self))
    }
}

/// A lock that is held for single steps, in which no thread gives way.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where threads give way to one another.
#[derive(Clone)]
pub struct Beat {
    /// Before each step that others may see, or that depends on them.
    pub step: Arc<dyn Fn() + Send + Sync>,
    /// Where nothing can be done until others have.
    pub pause: fn(),
    /// Nobody gives way at `step` as long as this is set: while a test sets its scene.
    pub quiet: Arc<AtomicBool>,
    /// Whether every access of a register is a step, or each call of the device's traits alone.
    pub registers: bool,
}

impl Beat {
    fn step(&self) {
        if !self.quiet.load(Ordering::Relaxed) {
            (self.step)();
        }
    }
}

/// More words than this at once initialise a table that nobody can reach: one step.
const WORDS: u32 = 32;

/// The registers of a card that engines use at the same time.
#[derive(Clone)]
pub struct Registers {
    gpu: Arc<Mutex<Gpu>>,
    beat: Beat,
}

impl Registers {
    fn step(&self) -> MutexGuard<'_, Gpu> {
        if self.beat.registers {
            self.beat.step();
        }
        locked(&self.gpu)
    }
}

impl Bar0 for Registers {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        self.step().read(offset, width)
    }
    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        self.step().write(offset, width, value)
    }
    fn has_64bit(&self) -> bool {
        locked(&self.gpu).has_64bit()
    }
    fn write_run(&mut self, offset: u32, run: Run) -> Result<(), DeviceError> {
        if run.count > WORDS {
            return self.step().write_run(offset, run);
        }
        (offset..).step_by(8).zip(run.words()).try_for_each(|(at, word)| self.write(at, Width::W64, word))
    }
}

impl Clock for Registers {
    fn now_us(&mut self) -> u64 {
        locked(&self.gpu).now_us()
    }
    fn relax(&mut self) {
        locked(&self.gpu).relax();
        (self.beat.pause)();
    }
}

pub type Card = Mmio<Registers>;

/// The card, its lock taken anew for each call.
struct PerCall<'a, H> {
    hardware: &'a H,
    beat: &'a Beat,
}

impl<H: Lock<Card>> PerCall<'_, H> {
    fn call<R>(&self, what: impl FnOnce(&mut Card) -> R) -> R {
        self.beat.step();
        self.hardware.with(what)
    }
}

impl<H: Lock<Card>> TableRead for PerCall<'_, H> {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        self.call(|card| card.read_words(at, words))
    }
}

impl<H: Lock<Card>> TableMemory for PerCall<'_, H> {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        let words = (at.raw()..).step_by(8).zip(run.words());
        words.into_iter().try_for_each(|(raw, word)| self.call(|card| card.write_word(at.with_raw(raw), word)))
    }
    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        let words = (at.raw()..).step_by(8).zip(words);
        words.into_iter().try_for_each(|(raw, word)| self.call(|card| card.write_word(at.with_raw(raw), *word)))
    }
    fn order(&mut self) -> Result<(), DeviceError> {
        self.call(TableMemory::order)
    }
    fn drain(&mut self) -> Result<(), DeviceError> {
        self.call(TableMemory::drain)
    }
}

impl<H: Lock<Card>> Invalidator for PerCall<'_, H> {
    fn submit(&mut self, what: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        self.call(|card| card.submit(what))
    }
    fn poll(&mut self, ticket: Ticket) -> Result<Poll, DeviceError> {
        self.call(|card| card.poll(ticket))
    }
}

impl<H: Lock<Card>> Clock for PerCall<'_, H> {
    fn now_us(&mut self) -> u64 {
        self.hardware.with(Clock::now_us)
    }
    fn relax(&mut self) {
        self.hardware.with(Clock::relax);
    }
}

/// For how long an execution holds the hardware's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// For a whole `write`, and for a whole `flush`.
    Round,
    /// For one word of `write_some`, and for one `poll_flush`.
    Word,
    /// For one call of the device's traits: one store, ordering point, trigger or poll.
    Call,
}

pub const GRAINS: [Grain; 3] = [Grain::Round, Grain::Word, Grain::Call];

/// What is common to a job with and without late frames.
pub trait Begun: Sized {
    fn write_some<M: TableMemory>(&mut self, memory: &mut M, budget: u64) -> Result<bool, ExecuteError>;
    fn flush(&mut self, card: &mut Card) -> Result<Flushed, ExecuteError>;
    fn poll_flush<I: Invalidator>(&mut self, invalidator: &mut I) -> Result<Flushed, ExecuteError>;
    fn receipt(self) -> Receipt;
    fn job(self) -> Job;
}

macro_rules! begun {
    ($type:ty, $job:expr) => {
        impl Begun for $type {
            fn write_some<M: TableMemory>(&mut self, memory: &mut M, budget: u64) -> Result<bool, ExecuteError> {
                <$type>::write_some(self, memory, budget)
            }
            fn flush(&mut self, card: &mut Card) -> Result<Flushed, ExecuteError> {
                <$type>::flush(self, card)
            }
            fn poll_flush<I: Invalidator>(&mut self, invalidator: &mut I) -> Result<Flushed, ExecuteError> {
                <$type>::poll_flush(self, invalidator)
            }
            fn receipt(self) -> Receipt {
                self.finish().map_err(drop).unwrap()
            }
            fn job(self) -> Job {
                $job(self)
            }
        }
    };
}
begun!(Job, |job| job);
begun!(Ready<'_>, Ready::into_job);

/// Writes and flushes all rounds. The planner is not asked.
#[allow(clippy::result_large_err, reason = "as in the library")]
pub fn carry_out<J: Begun, H: Lock<Card>>(
    hardware: &H,
    beat: &Beat,
    grain: Grain,
    mut job: J,
) -> Result<Receipt, Failed<Job>> {
    let mut each = PerCall { hardware, beat };
    loop {
        let written = match grain {
            Grain::Round => hardware.with(|card| job.write_some(card, u64::MAX)),
            Grain::Word => hardware.with(|card| job.write_some(card, 1)),
            Grain::Call => job.write_some(&mut each, u64::MAX),
        };
        match written {
            Ok(false) => continue,
            Ok(true) => {}
            Err(why) => return Err(Failed { job: job.job(), why }),
        }
        loop {
            let flushed = match grain {
                Grain::Round => hardware.with(|card| job.flush(card)),
                Grain::Word => hardware.with(|card| job.poll_flush(card)),
                Grain::Call => job.poll_flush(&mut each),
            };
            match flushed {
                Ok(Flushed::Pending) => (beat.pause)(),
                Ok(Flushed::NextRound) => break,
                Ok(Flushed::Done) => return Ok(job.receipt()),
                Err(why) => return Err(Failed { job: job.job(), why }),
            }
        }
    }
}

/// A card, one space on it, and what is known of both.
pub struct Rig<F: Format, D, H> {
    pub desk: D,
    pub hardware: H,
    pub gpu: Arc<Mutex<Gpu>>,
    pub oracle: Mutex<Oracle>,
    pub beat: Beat,
    pub pdb: TableAddr,
    format: std::marker::PhantomData<fn() -> F>,
}

impl<F: Format, D: Lock<Desk<F>>, H: Lock<Card>> Rig<F, D, H> {
    pub fn new(model: &Config, beat: Beat) -> Self {
        let gpu = Arc::new(Mutex::new(worst(model)));
        let mut card = Mmio::probe(Registers { gpu: Arc::clone(&gpu), beat: beat.clone() }).unwrap();
        let mut pool = Watched::new(Pool::new(MIB..4 * GIB));
        let notes = pool.notes();
        let root = pool.take(4096, None).unwrap();
        notes.tell(&mut locked(&gpu));
        let vmm = Vmm::with_root(config(&model.chip, card.vram_bytes()), &mut card, root).unwrap();
        in_use(&mut locked(&gpu), root);
        let (desk, hardware) = (D::new(Desk::new(vmm, pool, notes)), H::new(card));
        let (oracle, format) = (Mutex::new(Oracle::default()), std::marker::PhantomData);
        Self { desk, hardware, gpu, oracle, beat, pdb: root, format }
    }

    /// Nobody gives way while `what` sets the scene.
    pub fn quietly<R>(&self, what: impl FnOnce(&Self) -> R) -> R {
        self.beat.quiet.store(true, Ordering::Relaxed);
        let result = what(self);
        self.beat.quiet.store(false, Ordering::Relaxed);
        result
    }

    /// Prepares, and tells the oracle what is to come.
    pub fn prepare(&self, wish: &Wish) -> Result<Deed, gmmu::vmm::PrepareError> {
        self.desk.with(|desk| desk.prepare(wish, &self.hardware, &self.gpu, &self.oracle))
    }

    /// Executes once, if predecessors allow.
    #[allow(clippy::result_large_err, reason = "as in the library")]
    pub fn try_execute(&self, deed: Deed, grain: Grain) -> Result<Receipt, (Deed, ExecuteError)> {
        let Deed { job, number, frames, undo } = deed;
        locked(&self.oracle).begin(number);
        let done = match &frames {
            None => carry_out(&self.hardware, &self.beat, grain, job),
            Some(frames) => match job.with_frames(frames) {
                Ok(ready) => carry_out(&self.hardware, &self.beat, grain, ready),
                Err((_, why)) => panic!("{why}"),
            },
        };
        match done {
            Ok(receipt) => {
                locked(&self.oracle).end(number);
                Ok(receipt)
            }
            Err(Failed { job, why }) => {
                assert!(matches!(why, ExecuteError::NotYet | ExecuteError::PredecessorLost), "{why}");
                locked(&self.oracle).hold_back(number);
                Err((Deed { job, number, frames, undo }, why))
            }
        }
    }

    /// Executes as soon as predecessors allow.
    pub fn execute(&self, deed: Deed, grain: Grain) -> Receipt {
        let mut deed = deed;
        loop {
            match self.try_execute(deed, grain) {
                Ok(receipt) => return receipt,
                Err((back, why)) => {
                    assert_eq!(why, ExecuteError::NotYet);
                    deed = back;
                    (self.beat.pause)();
                }
            }
        }
    }

    pub fn commit(&self, receipt: Receipt) {
        self.desk.with(|desk| desk.commit(receipt, &self.gpu));
    }

    /// Executes and commits.
    pub fn finish(&self, deed: Deed, grain: Grain) {
        let receipt = self.execute(deed, grain);
        self.commit(receipt);
    }

    /// All of it at once.
    pub fn change(&self, wish: &Wish) {
        let deed = self.prepare(wish).unwrap();
        self.finish(deed, Grain::Round);
    }

    /// Cancels, where no other job builds on it.
    #[allow(clippy::result_large_err, reason = "as in the library")]
    pub fn try_cancel(&self, deed: Deed) -> Result<(), Deed> {
        self.desk.with(|desk| desk.cancel(deed, &self.gpu, &self.oracle))
    }

    /// An engine looks at a page, and must find what it may.
    pub fn look(&self, va: u64) {
        self.beat.step();
        let mut gpu = locked(&self.gpu);
        // What it finds is judged before anybody can store or poll.
        let mut oracle = locked(&self.oracle);
        oracle.keep(gpu.take_findings());
        let found = gpu.access(Client::Engine { pdb: self.pdb }, va, AccessKind::Read, false);
        oracle.judge(va, found, gpu.take_findings());
    }

    /// The sanitizer is silent.
    pub fn assert_clean(&self) {
        let mut gpu = locked(&self.gpu);
        let mut oracle = locked(&self.oracle);
        oracle.keep(gpu.take_findings());
        oracle.assert_clean();
    }

    /// All is executed, and nothing is left behind: engines find what the books say, on each of `pages`.
    pub fn assert_settled(&self, pages: impl IntoIterator<Item = u64>) {
        self.quietly(|rig| {
            assert!(locked(&rig.oracle).is_settled());
            for va in pages {
                rig.look(va);
            }
            rig.assert_clean();
            rig.desk.with(|desk| {
                assert_eq!(desk.vmm().census().jobs, 0);
                let mirror: BTreeSet<(u64, u64)> =
                    desk.vmm().tables().unwrap().iter().map(|(at, bytes)| (at.raw(), *bytes)).collect();
                assert_eq!(desk.pool.inner().out, mirror, "tables that are out, and those of the mirror");
                desk.assert_books();
            });
        });
    }

    /// Closes the space, if its jobs are over: then only the root is out.
    pub fn try_close(&self) -> Result<(), CloseError> {
        self.desk.with(|desk| {
            let vmm = desk.vmm.take().unwrap();
            #[allow(clippy::result_large_err, reason = "as in the library")]
            let closed = self.hardware.with(|card| vmm.close(card, &mut desk.pool));
            desk.notes.tell(&mut locked(&self.gpu));
            if let Err((vmm, why)) = closed {
                desk.vmm = Some(vmm);
                return Err(why);
            }
            assert_eq!(desk.pool.inner().out.iter().copied().collect::<Vec<_>>(), [(self.pdb.raw(), 4096)]);
            self.assert_clean();
            Ok(())
        })
    }

    pub fn close(&self) {
        self.quietly(|rig| rig.try_close().unwrap());
    }
}

/// Memory for data: 2 MiB after 2 MiB of it, every second beyond what one half of an entry of v2 can name.
pub const fn data(number: u64) -> u64 {
    DATA + number * 2 * MIB + (number % 2) * 64 * GIB
}
