//! Random jobs, rougher than in `model`: pages up to 512M, mappings of mixed extents and of late frames, unmaps of several
//! mappings at once, up to a dozen jobs that wait, any of which is cancelled or dropped, receipts that are committed late
//! or never, and, in every second run, table memory and memory for records that run out.
//!
//! After every step the books are those of a naive list of mappings; after every executed or withdrawn job the GPU's MMU
//! finds what that list says, and the sanitizer is silent. Settings, all printed: `GMMU_SEED` is the first seed,
//! `GMMU_SEEDS` the number of them, `GMMU_STEPS` the steps of each run. Memory for records runs out only with the feature
//! `inject`, whose countdown belongs to the process: hence a single test.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{frames, Random, World, DATA, GIB, MIB};
use gmmu::addr::{PageSize, Pfn, PhysAddr};
use gmmu::format::{Format, V2, V3};
use gmmu::vmm::{CommitError, ExecuteError, Extent, Job, MapRequest, PrepareError, Receipt};
use std::collections::BTreeMap;
use std::ops::Range;

#[cfg(feature = "inject")]
use gmmu::storage::inject::fail_at;

/// Without the feature no growth of a record fails.
#[cfg(not(feature = "inject"))]
const fn fail_at(_growth: u64) {}

const KIB_64: u64 = 64 << 10;
const LARGE: u64 = 512 * MIB;
/// What is printed where a test fails.
const LINES: usize = 60;
const WAITING_MAX: usize = 12;
/// Where a table border of every level below the root lies.
const BORDER: Range<u64> = (512 * GIB - 4 * MIB)..(512 * GIB + 4 * MIB);
/// Three 512M pages around another border.
const WIDE: Range<u64> = (1024 * GIB - LARGE)..(1024 * GIB + 2 * LARGE);

/// A stretch of a mapping: addresses that lead to contiguous memory.
#[derive(Clone, Copy)]
struct Part {
    va: u64,
    bytes: u64,
    to: u64,
}

/// What a job does to the mappings.
enum Effect {
    Map(Vec<Part>),
    /// Start and end of the mappings that go.
    Unmap(Vec<(u64, u64)>),
}

/// A job that waits, and all that is needed to carry it out.
struct Waiting {
    job: Job,
    number: u64,
    range: Range<u64>,
    effect: Effect,
    frames: Option<Vec<Pfn>>,
}

/// What has happened; its end is printed where a test fails.
#[derive(Default)]
struct Log(Vec<String>);

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.0.iter().rev().take(LINES).rev() {
                println!("{line}");
            }
        }
    }
}

/// A mapping that a random request asks for.
struct Wish {
    name: &'static str,
    start: u64,
    page: Option<PageSize>,
    parts: Vec<Part>,
    extents: Vec<Extent>,
    frames: Option<Vec<Pfn>>,
}

struct Model<F: Format> {
    world: World<F>,
    random: Random,
    /// What executed jobs left: start to end and parts.
    executed: BTreeMap<u64, (u64, Vec<Part>)>,
    /// Mappings after all prepared jobs: start to end.
    prepared: BTreeMap<u64, u64>,
    /// Oldest first.
    waiting: Vec<Waiting>,
    /// Not committed yet.
    receipts: Vec<Receipt>,
    jobs: u64,
    counts: BTreeMap<&'static str, u64>,
    has_512m: bool,
    /// Whether memory runs out now and then.
    short: bool,
    log: Log,
}

impl<F: Format> Model<F> {
    fn new(chip: &str, seed: u64, short: bool) -> Self {
        let world = World::<F>::new(chip);
        let has_512m = world.vmm.config().chip.page_sizes.has(PageSize::Size512M);
        // Another course on each chip.
        let random = Random(chip.bytes().fold(seed, |word, byte| word << 8 ^ u64::from(byte)));
        let (executed, prepared) = (BTreeMap::new(), BTreeMap::new());
        let (waiting, receipts, counts) = (Vec::new(), Vec::new(), BTreeMap::new());
        let log = Log::default();
        Self { world, random, executed, prepared, waiting, receipts, jobs: 0, counts, has_512m, short, log }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn note(&mut self, what: String) {
        self.log.0.push(what);
    }

    /// Lets memory run out soon, sometimes.
    fn run_short(&mut self) {
        if self.short && self.random.one_in(4) {
            fail_at(1 + self.random.below(12));
        }
        if self.short && self.random.one_in(5) {
            self.world.pool.inner().allowed = self.random.below(8);
        }
    }

    fn have_enough(&mut self) {
        fail_at(0);
        self.world.pool.inner().allowed = u64::MAX;
    }

    fn step(&mut self) {
        match self.random.below(12) {
            0..=3 => self.prepare_map(),
            4 | 5 => self.prepare_unmap(),
            6..=8 => self.execute(),
            9 => self.cancel(),
            10 => self.drop_one(),
            _ => self.commit_some(),
        }
        let mut books: BTreeMap<u64, u64> = BTreeMap::new();
        for (range, piece) in self.world.vmm.pieces() {
            let end = books.entry(piece.mapping).or_insert(range.end);
            *end = range.end.max(*end);
        }
        assert_eq!(books, self.prepared, "mappings in the books, and in the model");
        if self.world.vmm.census().jobs == 0 {
            self.world.assert_no_leak();
        }
    }

    /// An address for a page of `unit` bytes.
    fn address(&mut self, unit: u64) -> u64 {
        if unit == LARGE {
            return WIDE.start + self.random.below(3) * LARGE;
        }
        let window = match self.random.below(4) {
            0 | 1 => BORDER,
            2 => WIDE.start + LARGE..WIDE.start + 2 * LARGE,
            _ => WIDE,
        };
        (window.start + self.random.below(window.end - window.start)) & !(unit - 1)
    }

    /// Up to six extents of pages of several sizes, aligned like their addresses or not.
    fn mixed_wish(&mut self) -> Wish {
        let start = self.address(4096);
        let (mut parts, mut extents, mut va) = (Vec::new(), Vec::new(), start);
        for _ in 0..=self.random.below(6) {
            let unit = [4096, 4096, KIB_64, 2 * MIB][self.random.index(4)];
            let bytes = unit * (1 + self.random.below(5));
            let inside = if self.random.one_in(3) { 4096 * self.random.below(512) } else { va & (2 * MIB - 1) };
            let to = DATA + self.random.below(64) * 2 * MIB + inside;
            extents.push(Extent { to: PhysAddr::vram(to), bytes });
            parts.push(Part { va, bytes, to });
            va += bytes;
        }
        Wish { name: "mixed", start, page: None, parts, extents, frames: None }
    }

    /// Pages of one size, in one piece of memory or in frames that come late.
    fn plain_wish(&mut self, unit: u64) -> Wish {
        let start = self.address(unit);
        let (size, pages_max) = match unit {
            4096 => (PageSize::Size4K, 700),
            KIB_64 => (PageSize::Size64K, 40),
            LARGE => (PageSize::Size512M, 2),
            _ => (PageSize::Size2M, 4),
        };
        let pages = 1 + self.random.below(pages_max);
        if self.random.one_in(3) {
            let places = if unit == LARGE { 8 } else { 100 };
            let list: Vec<u64> = (0..pages).map(|_| DATA + self.random.below(places) * unit).collect();
            let parts = (0..).zip(&list).map(|(n, &to)| Part { va: start + n * unit, bytes: unit, to }).collect();
            let (page, frames) = (Some(size), Some(frames(&list)));
            return Wish { name: "late frames", start, page, parts, extents: Vec::new(), frames };
        }
        let page = if self.random.one_in(2) { None } else { Some(size) };
        let inside = if self.random.one_in(2) { start & (LARGE - 1) } else { 0 };
        let (to, bytes) = (DATA + self.random.below(16) * LARGE + inside, pages * unit);
        let extents = vec![Extent { to: PhysAddr::vram(to), bytes }];
        let name = if unit == LARGE { "512M" } else { "map" };
        Wish { name, start, page, parts: vec![Part { va: start, bytes, to }], extents, frames: None }
    }

    fn prepare_map(&mut self) {
        if self.waiting.len() >= WAITING_MAX {
            return;
        }
        let wish = match self.random.below(14) {
            0..=4 => self.plain_wish(4096),
            5..=7 => self.plain_wish(KIB_64),
            8..=10 => self.plain_wish(2 * MIB),
            11 if self.has_512m => self.plain_wish(LARGE),
            11 => self.plain_wish(4096),
            _ => self.mixed_wish(),
        };
        let Wish { name, start, page, parts, extents, frames } = wish;
        let request = match (&frames, page) {
            (Some(frames), Some(page)) => MapRequest::frames(frames.len() as u64, page),
            _ => MapRequest { page, ..MapRequest::extents(&extents) },
        };
        let range = start..parts.last().map(|part| part.va + part.bytes).unwrap();
        let busy = self.prepared.iter().any(|(&at, &end)| at < range.end && range.start < end);
        self.run_short();
        let prepared = self.world.prepare(&request.clone().at(start));
        self.have_enough();
        match prepared {
            Ok(job) => {
                assert!(!busy, "{range:x?} was free for the library and not for the model");
                self.count(name);
                if job.rounds() > 1 {
                    self.count("two rounds");
                }
                self.prepared.insert(range.start, range.end);
                self.enter(job, range, Effect::Map(parts), frames);
            }
            Err(PrepareError::Busy { .. }) => assert!(busy, "{range:x?} was busy for the library alone"),
            Err(PrepareError::NoMemory(_) | PrepareError::NoSpace(_)) if self.short => self.count("map without memory"),
            Err(other) => panic!("{other}: {request:x?}"),
        }
    }

    fn prepare_unmap(&mut self) {
        if self.prepared.is_empty() || self.waiting.len() >= WAITING_MAX {
            return;
        }
        let from = self.random.index(self.prepared.len());
        let count = if self.random.one_in(3) { 1 + self.random.index(3) } else { 1 };
        let gone: Vec<(u64, u64)> = self.prepared.iter().skip(from).take(count).map(|(a, b)| (*a, *b)).collect();
        let range = gone[0].0..gone[gone.len() - 1].1;
        self.run_short();
        let prepared = self.world.prepare_unmap(range.clone());
        self.have_enough();
        match prepared {
            Ok(job) => {
                self.count("unmap");
                for (start, _) in &gone {
                    self.prepared.remove(start);
                }
                self.enter(job, range, Effect::Unmap(gone), None);
            }
            Err(PrepareError::NoMemory(_)) if self.short => self.count("unmap without memory"),
            Err(other) => panic!("{other}: unmap {range:x?}"),
        }
    }

    fn enter(&mut self, job: Job, range: Range<u64>, effect: Effect, frames: Option<Vec<Pfn>>) {
        self.jobs += 1;
        let what = if matches!(effect, Effect::Map(_)) { "map" } else { "unmap" };
        let late = if frames.is_some() { ", late frames" } else { "" };
        self.note(format!("{} {what} {range:x?}{late}", self.jobs));
        self.waiting.push(Waiting { job, number: self.jobs, range, effect, frames });
    }

    fn execute(&mut self) {
        if !self.waiting.is_empty() {
            let index = self.random.index(self.waiting.len());
            self.execute_at(index);
        }
    }

    /// Executes a job that waits, and says whether it could be.
    fn execute_at(&mut self, index: usize) -> bool {
        let Waiting { job, number, range, effect, frames } = self.waiting.remove(index);
        let executed = match &frames {
            Some(frames) => {
                let ready = job.with_frames(frames).map_err(|(_, why)| why).unwrap();
                ready.execute(&mut self.world.mmio).map_err(|failed| (failed.job.into_job(), failed.why))
            }
            None => job.execute(&mut self.world.mmio).map_err(|failed| (failed.job, failed.why)),
        };
        let receipt = match executed {
            Ok(receipt) => receipt,
            Err((job, why)) => {
                match why {
                    ExecuteError::NotYet => assert!(index > 0, "the oldest job has nobody to wait for"),
                    why => assert_eq!(why, ExecuteError::PredecessorLost),
                }
                self.count("refused");
                self.waiting.insert(index, Waiting { job, number, range, effect, frames });
                return false;
            }
        };
        self.count("executed");
        self.note(format!("  {number} was executed"));
        self.apply(&range, effect);
        match self.random.below(4) {
            0 => drop(receipt),
            1 => self.receipts.push(receipt),
            _ => self.commit(receipt),
        }
        self.check(&range);
        true
    }

    fn apply(&mut self, range: &Range<u64>, effect: Effect) {
        match effect {
            Effect::Map(parts) => {
                let meets = |(&start, (end, _)): (&u64, &(u64, Vec<Part>))| start < range.end && range.start < *end;
                assert!(!self.executed.iter().any(meets), "{range:x?} was executed over a live mapping");
                self.executed.insert(range.start, (range.end, parts));
            }
            Effect::Unmap(gone) => {
                for (start, _) in gone {
                    assert!(self.executed.remove(&start).is_some(), "{start:#x} was unmapped before it was mapped");
                }
            }
        }
    }

    fn commit(&mut self, receipt: Receipt) {
        self.world.vmm.commit(&mut self.world.pool, receipt).unwrap();
        self.world.notes.tell(self.world.mmio.bar0());
    }

    /// The mappings after all prepared jobs, without this one.
    fn withdraw(&mut self, range: &Range<u64>, effect: &Effect) {
        match effect {
            Effect::Map(_) => drop(self.prepared.remove(&range.start)),
            Effect::Unmap(gone) => self.prepared.extend(gone.iter().copied()),
        }
    }

    fn cancel(&mut self) {
        if !self.waiting.is_empty() {
            let newest = self.waiting.len() - 1;
            let index = if self.random.one_in(2) { newest } else { self.random.index(newest + 1) };
            self.cancel_at(index);
        }
    }

    /// Cancels a job that waits, and says whether it could be.
    fn cancel_at(&mut self, index: usize) -> bool {
        let newest = index + 1 == self.waiting.len();
        let Waiting { job, number, range, effect, frames } = self.waiting.remove(index);
        if self.short && self.random.one_in(4) {
            fail_at(1);
        }
        let cancelled = self.world.vmm.cancel(&mut self.world.pool, job);
        fail_at(0);
        self.world.notes.tell(self.world.mmio.bar0());
        match cancelled {
            Ok(()) => {
                self.count("cancelled");
                self.note(format!("  {number} was cancelled"));
                self.withdraw(&range, &effect);
                self.check(&range);
                true
            }
            Err((job, why)) => {
                match why {
                    CommitError::HasDependents => assert!(!newest, "nothing builds on the newest job"),
                    why => assert!(matches!(why, CommitError::NoMemory(_)), "{why}"),
                }
                self.count("not cancelled");
                self.waiting.insert(index, Waiting { job, number, range, effect, frames });
                false
            }
        }
    }

    /// Drops a job that waits. Those behind it are executed where they can be, else cancelled, the newest first; then the
    /// next call takes the dropped one back.
    fn drop_one(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let dropped = self.random.index(self.waiting.len());
        let Waiting { job, number, range, effect, .. } = self.waiting.remove(dropped);
        drop(job);
        self.count("dropped");
        self.note(format!("  {number} was dropped"));
        for index in (dropped..self.waiting.len()).rev() {
            if self.random.one_in(2) && self.execute_at(index) {
                continue;
            }
            while !self.cancel_at(index) {}
        }
        self.withdraw(&range, &effect);
        self.sweep();
        self.check(&range);
    }

    /// A call that changes nothing itself: whatever was dropped is seen to.
    fn sweep(&mut self) {
        let nothing = self.world.vmm.plan_unmap(&mut self.world.pool, 0..4096).map(drop);
        assert!(matches!(nothing, Err(PrepareError::NotMapped { .. })));
        self.world.notes.tell(self.world.mmio.bar0());
    }

    /// Commits receipts that wait, in any order.
    fn commit_some(&mut self) {
        while !self.receipts.is_empty() {
            let index = self.random.index(self.receipts.len());
            let receipt = self.receipts.remove(index);
            self.commit(receipt);
            if self.random.one_in(3) {
                break;
            }
        }
    }

    /// Where `va` leads after the executed jobs.
    fn expected(&self, va: u64) -> Option<u64> {
        let (_, (_, parts)) = self.executed.range(..=va).next_back().filter(|(_, (end, _))| va < *end)?;
        parts.iter().find(|part| part.va <= va && va < part.va + part.bytes).map(|part| part.to + (va - part.va))
    }

    /// The GPU's MMU finds what the executed jobs left: at the borders of `range`, around it, and at random.
    fn check(&mut self, range: &Range<u64>) {
        let mut points = vec![range.start, range.end, range.start - 4096, range.end - 4096];
        for _ in 0..24 {
            let near = (range.start & !(2 * MIB - 1)) + self.random.below(range.end - range.start + 4 * MIB);
            points.extend([near & !4095, self.address(4096)]);
        }
        let edges = |(start, (end, parts)): (&u64, &(u64, Vec<Part>))| {
            [*start - 4096, *start, parts[parts.len() / 2].va, *end - 4096, *end]
        };
        let edges: Vec<u64> = self.executed.iter().flat_map(edges).collect();
        for _ in 0..30 {
            if !edges.is_empty() {
                points.push(edges[self.random.index(edges.len())]);
            }
        }
        for va in points {
            let found = self.world.access(va).ok().map(|found| found.to);
            let expected = self.expected(va).map(PhysAddr::vram);
            if found != expected {
                let walk = self.world.vmm.read_mapping(&mut self.world.mmio, va);
                panic!("{va:#x} leads to {found:x?} and not to {expected:x?}: {walk:x?}");
            }
        }
        self.world.assert_clean();
    }

    /// Executes all, unmaps all, closes: nothing is left.
    fn finish(mut self) {
        while !self.waiting.is_empty() {
            self.execute();
        }
        while !self.receipts.is_empty() {
            self.commit_some();
        }
        let mappings: Vec<(u64, u64)> = self.prepared.iter().map(|(a, b)| (*a, *b)).collect();
        for (start, end) in mappings {
            self.world.unmap(start..end);
        }
        self.executed.clear();
        self.sweep();
        self.check(&BORDER);
        self.world.assert_no_leak();
        assert_eq!((self.world.vmm.pieces().count(), self.world.vmm.census().jobs), (0, 0));
        println!("  {:?}", self.counts);
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

fn run<F: Format>(chip: &str, seed: u64, steps: u64) {
    for short in [false, true] {
        println!("{chip}, seed {seed}{}", if short { ", memory runs out" } else { "" });
        let mut model = Model::<F>::new(chip, seed, short);
        for _ in 0..steps {
            model.step();
        }
        model.finish();
    }
}

/// One test: the countdown to a failing growth is shared.
#[test]
fn whatever_becomes_of_jobs_the_gpu_finds_what_was_executed() {
    let (first, seeds, steps) = (setting("GMMU_SEED", 1), setting("GMMU_SEEDS", 25), setting("GMMU_STEPS", 1500));
    for seed in first..first + seeds {
        for chip in ["tu102", "ga100"] {
            run::<V2>(chip, seed, steps);
        }
        for chip in ["gh100", "gb100"] {
            run::<V3>(chip, seed, steps);
        }
    }
}
