//! Queues of jobs: a hundred thousand of every kind, up to 64 waiting at once, executed and cancelled in every order that
//! is legal and refused in every other. Two naive pictures of the pages are the judges: what all prepared jobs come to is
//! what the records say, and what the executed ones come to is what the model's MMU finds, its sanitizer being silent.
//!
//! Which jobs wait for which is not asked of the library: whoever changes a page after another **must** wait for it, and
//! whoever shares no domain with another **may not**. `GMMU_SEED` is the first seed, `GMMU_SEEDS` the number of them,
//! `GMMU_JOBS` the jobs of each run; all are printed.
#![expect(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;
#[path = "queues/naive.rs"]
mod naive;

use common::{Random, World};
use gmmu::addr::PAGE_BYTES;
use gmmu::format::{Flags, Format, V2, V3};
use gmmu::vmm::{
    Backed, Bind, CommitError, ExecuteError, Job, Live, PrepareError, Protection, Receipt, SpaceConfig, Span, State,
    Vmm,
};
use gmmu_sim::{AccessKind, Bus, Client, Config};
use naive::{all, cell_at, va, Cell, Effect, Op, Pages, CELLS, CLOSE, NARROW};
use std::collections::BTreeMap;
use std::ops::Range;

const WAITING_MAX: usize = 64;

/// What is known of a prepared job without the library.
struct Known {
    number: u64,
    range: Range<u64>,
    effect: Effect,
    /// First addresses of the domains of what was asked for; `None` where empty tables anywhere may go.
    domains: Option<Vec<u64>>,
}

impl Known {
    /// Whether both change a cell.
    fn meets(&self, other: &Self) -> bool {
        let mut others = other.effect.iter().map(|(cell, ..)| cell).peekable();
        self.near(other)
            && self.effect.iter().any(|(cell, ..)| {
                while others.next_if(|other| *other < cell).is_some() {}
                others.peek() == Some(&cell)
            })
    }

    /// Whether one might have to wait for the other.
    fn near(&self, other: &Self) -> bool {
        match (&self.domains, &other.domains) {
            (Some(mine), Some(others)) => mine.iter().any(|domain| others.contains(domain)),
            _ => true,
        }
    }
}

struct Queue<F: Format> {
    world: World<F>,
    random: Random,
    /// After all prepared jobs, and after the executed ones.
    books: Pages,
    done: Pages,
    /// Oldest first.
    waiting: Vec<(Job, Known)>,
    /// Begun, and not at their end.
    running: Vec<(Job, Known)>,
    receipts: Vec<Receipt>,
    /// How many jobs are to wait before some are executed again.
    depth: usize,
    /// Whether jobs wait for others at all.
    waits: bool,
    jobs: u64,
    deepest: usize,
    counts: BTreeMap<&'static str, u64>,
}

impl<F: Format> Queue<F> {
    fn new(chip: &str, seed: u64, waits: bool) -> Self {
        let bus = if seed % 3 == 0 { Bus::Bits32 } else { Bus::Bits64 };
        let mut world = World::with(&Config { bus, ..Config::chip(chip) });
        let config = SpaceConfig { queues: waits, ..*world.vmm.config() };
        world.vmm = Vmm::with_root(config, &mut world.mmio, world.vmm.pdb()).unwrap();
        Self {
            world,
            waits,
            random: Random(chip.bytes().fold(seed, |word, byte| word << 8 ^ u64::from(byte))),
            books: Pages::new(),
            done: Pages::new(),
            waiting: Vec::new(),
            running: Vec::new(),
            receipts: Vec::new(),
            depth: WAITING_MAX,
            jobs: 0,
            deepest: 0,
            counts: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn step(&mut self) {
        match self.random.below(100) {
            _ if self.waiting.is_empty() || self.waits && self.waiting.len() < self.depth => self.prepare(),
            20..=69 if !self.waits => self.prepare(),
            0 => {
                self.depth = 1 + self.random.index(WAITING_MAX);
                self.drop_one();
            }
            1..=5 => self.begin(),
            6..=10 => self.go_on(),
            11..=25 => {
                let newest = self.waiting.len() - 1;
                let index = if self.random.one_in(2) { newest } else { self.random.index(newest + 1) };
                self.cancel(index);
            }
            26..=35 => self.commit_some(),
            _ => {
                let index = if self.random.one_in(3) { 0 } else { self.random.index(self.waiting.len()) };
                self.execute(index);
            }
        }
    }

    fn prepare(&mut self) {
        if self.random.one_in(20) {
            return self.prepare_reclaim();
        }
        let bind = self.random.one_in(4);
        let count = if bind { 1 + self.random.index(6) } else { 1 };
        let chip = self.world.vmm.page_sizes();
        let ops: Vec<Op> = (0..count).map(|_| Op::random(&mut self.random, chip, bind)).collect();
        let refusal = if bind { None } else { ops[0].refusal(&self.books) };
        let prepared = if bind { self.plan_bind(&ops) } else { self.plan(&ops[0]) };
        let effect = if refusal.is_none() { self.books.apply(&ops) } else { Effect::new() };
        let known = Known { number: self.jobs + 1, range: 0..0, effect, domains: Some(naive::domains(&ops)) };
        let (must, may) = self.kept_by(&known, true);
        match (prepared, refusal) {
            (Ok(job), None) => {
                assert!(self.waits || !must, "{ops:x?} has to wait");
                self.count(if bind { "bind" } else { ops[0].name() });
                self.enter(job, known);
            }
            (Err(PrepareError::Pending { .. }), None) => {
                assert!(!self.waits && may, "{ops:x?} has nobody to wait for");
                self.count("pending");
                self.books.undo_all(&known.effect);
            }
            (Err(why), Some(name)) => {
                let fits = matches!(
                    (&why, name),
                    (PrepareError::Busy { .. }, "busy") | (PrepareError::NotMapped { .. }, "not mapped")
                );
                assert!(fits, "{ops:x?}: {why}, not {name}");
                self.count(name);
            }
            (prepared, refusal) => panic!("{ops:x?}: {:?}, not {refusal:?}", prepared.map(|job| job.range())),
        }
    }

    /// Empty tables go, wherever no job is open; pages stay as they are.
    fn prepare_reclaim(&mut self) {
        self.sweep();
        let any = self.world.vmm.reclaimable() > 0;
        let prepared = self.world.prepare_with(|vmm, pool| vmm.plan_reclaim(pool));
        match prepared {
            Ok(job) => {
                assert!(any);
                self.count("reclaim");
                let (number, effect) = (self.jobs + 1, Effect::new());
                self.enter(job, Known { number, range: 0..0, effect, domains: None });
            }
            Err(why) => assert!(!any && matches!(why, PrepareError::NotMapped { .. }), "{why}"),
        }
    }

    fn enter(&mut self, job: Job, known: Known) {
        self.jobs += 1;
        let known = Known { range: job.range(), ..known };
        self.waiting.push((job, known));
        self.deepest = self.deepest.max(self.waiting.len());
    }

    fn plan(&mut self, op: &Op) -> Result<Job, PrepareError> {
        let span = |range: &Range<usize>| Span::new(naive::addresses(range)).quiesced();
        let read_only = Protection::flags(Flags { read_only: true, ..Flags::NONE });
        match op {
            Op::Map { .. } => {
                let extents = op.extents();
                let request = op.request(&extents).live(Live::Quiesced);
                self.world.prepare(&request)
            }
            Op::Unmap(range) => self.world.prepare_unmap(span(range)),
            Op::Protect(range) => self.world.prepare_protect(span(range), read_only),
            Op::Sparse(range) => self.world.prepare_sparse(span(range)),
            Op::Unsparse(range) => self.world.prepare_unsparse(span(range)),
        }
    }

    fn plan_bind(&mut self, ops: &[Op]) -> Result<Job, PrepareError> {
        let extents: Vec<_> = ops.iter().map(Op::extents).collect();
        let binds: Vec<Bind<'_>> = ops.iter().zip(&extents).map(|(op, extents)| op.bind(extents)).collect();
        self.world.prepare_with(|vmm, pool| vmm.plan_bind(pool, &binds, Live::Quiesced))
    }

    /// Whether an open job that was prepared before `known`, or after it, must keep it waiting, and whether one may.
    fn kept_by(&self, known: &Known, earlier: bool) -> (bool, bool) {
        let others = self.waiting.iter().chain(&self.running).map(|(_, other)| other);
        let others = others.filter(|other| other.number != known.number && (other.number < known.number) == earlier);
        others.fold((false, false), |(must, may), other| (must || known.meets(other), may || known.near(other)))
    }

    /// Executes a job that waits, and says whether it could be.
    fn execute(&mut self, index: usize) -> bool {
        let (job, known) = self.waiting.remove(index);
        let (must, may) = self.kept_by(&known, true);
        let before = self.world.gpu().counts();
        match job.execute(&mut self.world.mmio) {
            Ok(receipt) => {
                assert!(!must, "job {} overtook one that changes the same pages", known.number);
                self.executed(&known.effect, receipt);
                true
            }
            Err(failed) => {
                self.count("refused");
                assert!(
                    self.waits && may && failed.why == ExecuteError::NotYet,
                    "job {}: {}",
                    known.number,
                    failed.why
                );
                assert_eq!(self.world.gpu().counts(), before, "a refused job touched the GPU");
                self.put_back(index, failed.job, known);
                false
            }
        }
    }

    /// A refused job is whole.
    fn put_back(&mut self, index: usize, job: Job, known: Known) {
        assert_eq!((job.state(), job.range()), (State::Prepared, known.range.clone()));
        self.waiting.insert(index, (job, known));
    }

    fn executed(&mut self, effect: &Effect, receipt: Receipt) {
        self.count("executed");
        self.done.do_all(effect);
        let step = 1 + effect.len() / 24;
        let first = self.random.index(step);
        let mut cells: Vec<usize> = effect.iter().skip(first).step_by(step).map(|(cell, ..)| *cell).collect();
        for (end, ..) in [effect.first(), effect.last()].into_iter().flatten() {
            cells.extend([end.saturating_sub(1), *end, (end + 1).min(CELLS - 1)]);
        }
        cells.extend([0; 4].map(|_| self.random.index(CELLS)));
        self.look(cells);
        if self.random.one_in(3) {
            drop(receipt);
        } else {
            self.receipts.push(receipt);
        }
    }

    /// Writes a few entries of a job, and leaves it for later.
    fn begin(&mut self) {
        let index = self.random.index(self.waiting.len());
        let (mut job, known) = self.waiting.remove(index);
        let (must, may) = self.kept_by(&known, true);
        let budget = 1 + self.random.below(8);
        match job.write_some(&mut self.world.mmio, budget) {
            Ok(_) => {
                assert!(!must, "job {} overtook one that changes the same pages", known.number);
                self.count("begun");
                self.running.push((job, known));
            }
            Err(why) => {
                assert!(self.waits && may && why == ExecuteError::NotYet, "job {}: {why}", known.number);
                self.put_back(index, job, known);
            }
        }
    }

    /// Carries on a job that was begun, which can no longer be cancelled.
    fn go_on(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let (job, known) = self.running.remove(self.random.index(self.running.len()));
        let (job, why) = self.world.vmm.cancel(&mut self.world.pool, job).unwrap_err();
        assert_eq!((why, job.state()), (CommitError::Begun, State::Executing));
        let receipt = job.execute(&mut self.world.mmio).unwrap();
        self.executed(&known.effect, receipt);
    }

    /// Cancels a job that waits, and says whether it could be.
    fn cancel(&mut self, index: usize) -> bool {
        let (job, known) = self.waiting.remove(index);
        let (must, may) = self.kept_by(&known, false);
        let cancelled = self.world.vmm.cancel(&mut self.world.pool, job);
        self.world.notes.tell(self.world.mmio.bar0());
        match cancelled {
            Ok(()) => {
                assert!(!must, "job {} was cancelled before one that changes the same pages", known.number);
                self.count("cancelled");
                self.books.undo_all(&known.effect);
                true
            }
            Err((job, why)) => {
                assert!(self.waits && may && why == CommitError::HasDependents, "job {}: {why}", known.number);
                self.count("not cancelled");
                self.put_back(index, job, known);
                false
            }
        }
    }

    /// Lets go of a job that waits. What builds on it is refused for good, and cancelled, the newest first.
    fn drop_one(&mut self) {
        let first = self.random.index(self.waiting.len());
        let (job, gone) = self.waiting.remove(first);
        drop(job);
        self.count("dropped");
        for index in (first..self.waiting.len()).rev() {
            let (job, known) = self.waiting.remove(index);
            match job.execute(&mut self.world.mmio) {
                Ok(receipt) => {
                    let must = self.kept_by(&known, true).0 || known.meets(&gone);
                    assert!(!must, "job {} overtook one that changes the same pages", known.number);
                    self.executed(&known.effect, receipt);
                }
                Err(failed) => {
                    let (lost, alone) = (known.near(&gone), !self.kept_by(&known, true).1);
                    let fits = match failed.why {
                        ExecuteError::PredecessorLost => lost,
                        why => why == ExecuteError::NotYet && !(alone && lost),
                    };
                    assert!(fits, "job {}: {}", known.number, failed.why);
                    self.count(if lost { "predecessor lost" } else { "refused" });
                    self.put_back(index, failed.job, known);
                    assert!(self.cancel(index), "all that was prepared later is executed or cancelled");
                }
            }
        }
        self.books.undo_all(&gone.effect);
        self.sweep();
    }

    /// A call that changes nothing itself: it sees to what was dropped.
    fn sweep(&mut self) {
        let nothing = self.world.vmm.plan_unmap(&mut self.world.pool, 0..0).map(drop);
        assert_eq!(nothing, Err(PrepareError::Empty));
        self.world.notes.tell(self.world.mmio.bar0());
    }

    fn commit_some(&mut self) {
        for _ in 0..self.random.below(8) {
            if self.receipts.is_empty() {
                break;
            }
            let index = self.random.index(self.receipts.len());
            let receipt = self.receipts.swap_remove(index);
            self.world.vmm.commit(&mut self.world.pool, receipt).unwrap();
            self.world.notes.tell(self.world.mmio.bar0());
        }
    }

    /// The GPU's MMU finds what executed jobs left, wherever none is half executed.
    fn look(&mut self, cells: impl IntoIterator<Item = usize>) {
        let client = Client::Engine { pdb: self.world.vmm.pdb() };
        for cell in cells {
            let at_work = |known: &Known| known.domains.iter().flatten().any(|at| *at == naive::domain(cell));
            if self.running.iter().any(|(_, known)| at_work(known)) {
                continue;
            }
            let into = self.random.below(naive::bytes(cell) / PAGE_BYTES) * PAGE_BYTES;
            let found = self.world.gpu().access(client, va(cell) + into, AccessKind::Read, false);
            let wanted = self.done.cells[cell];
            let right = match (&found, wanted.to) {
                (Ok(found), Some(to)) => {
                    !found.sparse && found.to.raw == to + into && found.flags.read_only == wanted.read_only
                }
                (Ok(found), None) => wanted.sparse && found.sparse,
                (Err(_), to) => to.is_none() && !wanted.sparse,
            };
            assert!(right, "{:#x} is {found:x?}, not {wanted:x?}", va(cell) + into);
        }
        self.world.assert_clean();
    }

    /// The records are what all prepared jobs come to.
    fn compare_books(&self) {
        let mut found = Pages::new();
        for (range, piece) in self.world.vmm.pieces() {
            let Backed::Memory(to) = piece.to else { panic!("no frames come late here") };
            for cell in cell_at(range.start)..cell_at(range.end - 1) + 1 {
                let (to, read_only) = (Some(to.raw + (va(cell) - range.start)), piece.flags.read_only);
                found.cells[cell] = Cell { to, read_only, sparse: false };
            }
        }
        for (cell, (found, wanted)) in found.cells.iter().zip(&self.books.cells).enumerate() {
            let wanted = Cell { sparse: false, ..*wanted };
            assert_eq!(found, &wanted, "{:#x}", va(cell));
        }
    }

    fn judge(&mut self) {
        self.compare_books();
        self.look(0..NARROW);
        let first = self.random.index(64);
        self.look((NARROW + first..CLOSE).step_by(64));
        self.look(CLOSE..CELLS);
    }

    /// Executes all that waits, unmaps everything, and loses a job.
    fn finish(mut self) -> (u64, usize, BTreeMap<&'static str, u64>) {
        while !self.waiting.is_empty() || !self.running.is_empty() {
            if self.waiting.is_empty() || self.random.one_in(8) {
                self.go_on();
            } else {
                let index = self.random.index(self.waiting.len());
                self.execute(index);
            }
        }
        assert!(self.done.cells == self.books.cells, "all jobs are executed");
        self.judge();
        let job = self.plan_bind(&all().map(|range| [Op::Unmap(range.clone()), Op::Unsparse(range)]).concat()).unwrap();
        self.world.finish(job);
        self.receipts.drain(..).for_each(drop);
        (self.books, self.done) = (Pages::new(), Pages::new());
        self.judge();
        let reclaim = self.world.prepare_with(|vmm, pool| vmm.plan_reclaim(pool)).unwrap();
        self.world.finish(reclaim);
        let census = self.world.vmm.census();
        assert_eq!((census.directories, census.leaf_tables, census.jobs), (1, 0, 0));
        self.judge();
        self.world.assert_no_leak();
        let came_up = (self.jobs, self.deepest, core::mem::take(&mut self.counts));
        self.lose_one();
        came_up
    }

    /// A job that is let go of half-way is lost, and so is all that builds on it; the space can still be closed.
    fn lose_one(mut self) {
        let op = Op::Map { cells: 0..600, to: common::DATA, page: None };
        let mut job = self.plan(&op).unwrap();
        let behind = self.plan(&Op::Unmap(100..200));
        assert_eq!(behind.is_ok(), self.waits);
        assert!(!job.write_some(&mut self.world.mmio, 1).unwrap());
        drop(job);
        if let Ok(behind) = behind {
            let failed = behind.execute(&mut self.world.mmio).unwrap_err();
            assert_eq!(failed.why, ExecuteError::PredecessorLost);
            self.world.cancel(failed.job);
        }
        assert_eq!(self.world.vmm.census().quarantined, 1);
        let World { mut mmio, mut pool, notes, vmm } = self.world;
        let root = vmm.pdb().raw();
        vmm.close(&mut mmio, &mut pool).map_err(|(_, why)| why).unwrap();
        notes.tell(mmio.bar0());
        assert_eq!(pool.inner().out.iter().copied().collect::<Vec<_>>(), [(root, 4096)]);
        assert_eq!(mmio.bar0().findings(), &[]);
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok().map_or(default, |text| text.parse().unwrap());
    println!("{name}={value}");
    value
}

/// Runs queues of `jobs` jobs on these chips, and asserts that all of `everything` came up.
fn queues<F: Format>(chips: &[&str], jobs: u64, waits: bool, everything: &[&str]) {
    let (first, seeds, jobs) = (setting("GMMU_SEED", 1), setting("GMMU_SEEDS", 4), setting("GMMU_JOBS", jobs));
    let (mut all, mut seen) = (0, BTreeMap::<&str, u64>::new());
    for seed in first..first + seeds {
        for chip in chips {
            println!("{chip}, seed {seed}");
            let mut queue = Queue::<F>::new(chip, seed, waits);
            while queue.jobs < jobs {
                queue.step();
                if queue.random.one_in(500) {
                    queue.judge();
                }
            }
            let (jobs, deepest, counts) = queue.finish();
            assert!(!waits || deepest == WAITING_MAX);
            all += jobs;
            counts.into_iter().for_each(|(what, count)| *seen.entry(what).or_default() += count);
        }
    }
    println!("{all} jobs: {seen:?}");
    for what in everything {
        assert!(seen.contains_key(what), "{what} never came up");
    }
}

const CHANGES: [&str; 7] = ["map", "unmap", "protect", "sparse", "unsparse", "bind", "reclaim"];
const FATES: [&str; 9] =
    ["busy", "not mapped", "executed", "begun", "refused", "cancelled", "not cancelled", "dropped", "predecessor lost"];

#[test]
fn queues_on_v2_in_every_legal_order_and_no_other() {
    queues::<V2>(&["tu102", "ga100", "ad102"], 5000, true, &[&CHANGES[..], &FATES[..]].concat());
}

#[test]
fn queues_on_v3_in_every_legal_order_and_no_other() {
    queues::<V3>(&["gh100", "gb100"], 5000, true, &[&CHANGES[..], &FATES[..]].concat());
}

#[test]
fn no_job_waits_for_another_where_jobs_do_not_queue() {
    let fates = ["pending", "executed", "begun", "cancelled", "dropped"];
    queues::<V2>(&["ad102"], 500, false, &[&CHANGES[..6], &fates[..]].concat());
    queues::<V3>(&["gh100"], 500, false, &[&CHANGES[..6], &fates[..]].concat());
}
