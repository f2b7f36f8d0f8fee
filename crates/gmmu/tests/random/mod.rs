//! Random jobs of every kind against a naive page map, judged by the model's MMU and its sanitizer.
//!
//! The naive map is kept twice: as the books have it, after all prepared jobs, and as executed jobs left it. Jobs wait, are
//! executed in any order that is allowed (and tried in orders that are not), a few words at a time and with others in
//! between, cancelled, dropped, committed late or never. After each step the GPU's MMU finds what the naive map of executed
//! jobs says, in and around whatever was touched: memory, page size, kind, flags, and what is sparse.
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses a part of it")]

mod changes;
mod flaky;
mod jobs;
mod judge;
mod pages;
mod wishes;

use crate::common::{Random, World, MIB};
use gmmu::addr::{PageSize, Pfn, PAGE_BYTES};
use gmmu::format::{Format, MmuVersion, V2, V3};
use gmmu::vmm::{Job, Live, Receipt};
use gmmu_sim::{Bus, Config};
use judge::Snapshot;
use pages::{Pages, Part, Spans};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

#[cfg(feature = "inject")]
use gmmu::storage::inject::fail_at;

/// Without the feature no growth of a record fails.
#[cfg(not(feature = "inject"))]
const fn fail_at(_growth: u64) {}

/// What is printed where a test fails.
const LINES: usize = 60;
const WAITING_MAX: usize = 10;
const DOMAIN: u64 = 2 * MIB;

/// What a job does to the naive map: what was in its range, and what will be.
enum Change {
    Pages { before: Vec<Part>, after: Vec<Part> },
    Sparse { before: Vec<Range<u64>>, after: Vec<Range<u64>> },
}

/// A job that waits, and all that is needed to carry it out.
struct Waiting {
    job: Job,
    number: u64,
    range: Range<u64>,
    change: Change,
    frames: Vec<Pfn>,
    /// Whether its neighbours must not fault while it is executed.
    calm: bool,
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

pub struct Model<F: Format> {
    world: World<F>,
    random: Random,
    /// The chip's page sizes, smallest first.
    sizes: Vec<PageSize>,
    /// Pages and sparse ranges after all prepared jobs.
    books: Pages,
    sparse: Spans,
    /// Those that executed jobs left.
    done: Pages,
    done_sparse: Spans,
    /// Oldest first.
    waiting: Vec<Waiting>,
    /// Ranges of jobs that are half executed, and whether those are calm.
    running: Vec<(Range<u64>, bool)>,
    /// Not committed yet.
    receipts: Vec<Receipt>,
    /// Domains in which leaf tables may have been.
    touched: BTreeSet<u64>,
    /// Whether memory runs out now and then.
    short: bool,
    /// Whether the bus has 32-bit stores alone.
    half_stores: bool,
    /// Whether nearly all happens in sixteen chunks on either side of a border.
    crowded: bool,
    /// Whether nothing becomes sparse.
    plain: bool,
    /// No other job is begun while one is half executed.
    quiet: bool,
    pub jobs: u64,
    pub counts: BTreeMap<&'static str, u64>,
    log: Log,
}

impl<F: Format> Model<F> {
    pub fn new(chip: &str, seed: u64, short: bool) -> Self {
        let bus = if seed % 3 == 0 { Bus::Bits32 } else { Bus::Bits64 };
        let world = World::<F>::with(&Config { bus, ..Config::chip(chip) });
        let has = world.vmm.page_sizes();
        // Another course on each chip.
        let random = Random(chip.bytes().fold(seed, |word, byte| word << 8 ^ u64::from(byte)));
        Self {
            world,
            random,
            sizes: PageSize::ALL.into_iter().filter(|page| has.has(*page)).collect(),
            books: Pages::default(),
            sparse: Spans::default(),
            done: Pages::default(),
            done_sparse: Spans::default(),
            waiting: Vec::new(),
            running: Vec::new(),
            receipts: Vec::new(),
            touched: BTreeSet::new(),
            short,
            half_stores: bus == Bus::Bits32,
            crowded: seed % 2 == 0,
            plain: seed % 5 == 0,
            quiet: false,
            jobs: 0,
            counts: BTreeMap::new(),
            log: Log::default(),
        }
    }

    const fn limit() -> u64 {
        1 << F::VA_BITS
    }

    fn is_v2() -> bool {
        F::VERSION == MmuVersion::V2
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

    pub fn step(&mut self) {
        match self.random.below(64) {
            0..=35 => self.prepare(),
            36..=54 => self.execute(),
            55..=57 => self.execute_together(),
            58 | 59 => self.cancel(),
            60 => self.drop_one(),
            _ => self.commit_some(),
        }
        if self.random.one_in(4) {
            self.compare_books();
        }
        if self.world.vmm.census().jobs == 0 {
            self.world.assert_no_leak();
        }
    }

    /// Something small while another job is half executed.
    fn step_between(&mut self) {
        match self.random.below(4) {
            0 => self.prepare(),
            1 | 2 => self.execute(),
            _ => self.cancel(),
        }
    }

    /// Enters a job that was prepared for `range`; some are cancelled at once, which leaves everything as in `before`.
    fn enter(&mut self, job: Job, range: Range<u64>, change: Change, live: Live, before: Option<Snapshot>) {
        self.jobs += 1;
        if job.rounds() > 1 {
            self.count("two rounds");
        }
        assert_eq!(job.range(), range, "the range of the job");
        for border in [range.start, range.end - 1] {
            self.touched.insert(border & !(DOMAIN - 1));
        }
        if range.end - range.start <= 64 * MIB {
            self.touched.extend((range.start & !(DOMAIN - 1)..range.end).step_by(DOMAIN as usize));
        }
        match &change {
            Change::Pages { after, .. } => self.books.set(&range, after),
            Change::Sparse { after, .. } => self.sparse.set(&range, after),
        }
        let frames = self.frames_of(&job);
        let (number, calm) = (self.jobs, live == Live::MustNotFault);
        self.note(format!("  is job {number}: {range:x?}, {} rounds, {} frames", job.rounds(), frames.len()));
        self.waiting.push(Waiting { job, number, range, change, frames, calm });
        if let Some(before) = before {
            assert!(self.cancel_at(self.waiting.len() - 1) || self.short, "nothing builds on the newest job");
            if self.waiting.last().is_none_or(|last| last.number != number) {
                self.snapshot().assert_is(&before, "what a cancelled job left");
            }
        }
    }

    /// The frames that a job wants, as the naive map remembers them.
    fn frames_of(&self, job: &Job) -> Vec<Pfn> {
        let mut frames = Vec::new();
        for want in job.wants() {
            for va in (0..want.pages).map(|page| want.va + page * want.page.bytes()) {
                let parts = self.books.within(&(va..va + want.page.bytes()));
                let late = parts.iter().find(|(_, run)| run.late == Some(want.page));
                let (part, run) = late.unwrap_or_else(|| panic!("a frame is wanted for {va:#x}"));
                frames.push(Pfn::new((run.to.raw - (part.start - va)) / PAGE_BYTES));
            }
        }
        frames
    }
}

pub fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok().map_or(default, |text| text.parse().unwrap());
    println!("{name}={value}");
    value
}

/// Runs `steps` random steps on a GPU of its own, to the end. Returns the number of jobs.
pub fn run<F: Format>(chip: &str, seed: u64, steps: u64, short: bool) -> u64 {
    println!("{chip}, seed {seed}{}", if short { ", memory runs out" } else { "" });
    let mut model = Model::<F>::new(chip, seed, short);
    for _ in 0..steps {
        model.step();
    }
    let (jobs, counts) = model.finish();
    println!("  {jobs} jobs: {counts:?}");
    jobs
}

/// Runs the steps that `bytes` spell: the first says the chip and what runs out, each two that follow a step.
pub fn spelled(bytes: &[u8]) {
    const STEPS: usize = 300;
    let Some((first, rest)) = bytes.split_first() else { return };
    let (seed, short) = (u64::from(first >> 3), first & 4 != 0);
    match first & 3 {
        0 => spell::<V2>("tu102", seed, short, rest, STEPS),
        1 => spell::<V2>("ga100", seed, short, rest, STEPS),
        2 => spell::<V3>("gh100", seed, short, rest, STEPS),
        _ => spell::<V3>("gb100", seed, short, rest, STEPS),
    }
}

fn spell<F: Format>(chip: &str, seed: u64, short: bool, bytes: &[u8], most: usize) {
    let mut model = Model::<F>::new(chip, seed, short);
    for step in bytes.chunks_exact(2).take(most) {
        model.random = Random(step.iter().fold(1, |word, byte| word << 8 | u64::from(*byte)));
        model.step();
    }
    model.finish();
}
