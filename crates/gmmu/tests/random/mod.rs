//! Random jobs of every kind against a naive page map, judged by the model's MMU and its sanitizer.
//!
//! The naive map is kept twice: as the books have it, after all prepared jobs, and as executed jobs left it. Jobs wait, are
//! executed in any order that is allowed (and tried in orders that are not), a few words at a time and with others in
//! between, cancelled, dropped, committed late or never. After each step the GPU's MMU finds what the naive map of executed
//! jobs says, in and around whatever was touched: memory, page size, kind, flags, and what is sparse.
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses a part of it")]

mod flaky;
mod pages;
mod wishes;

use crate::common::{Pool, Random, World, MIB};
use flaky::{Flaky, FAILED};
use gmmu::addr::{PageSize, Pfn, PAGE_BYTES};
use gmmu::device::{Invalidator, Poll, TableMemory};
use gmmu::format::{Format, MmuVersion};
use gmmu::mmio::Mmio;
use gmmu::storage::NoMemory;
use gmmu::vmm::{
    poll_flush_all, Backed, Census, CommitError, ExecuteError, Flushed, Job, Live, MapRequest, Piece, Plan,
    PrepareError, Ready, Receipt, State, Vmm,
};
use gmmu_sim::{AccessKind, Bus, Client, Config, Gpu, Translated, Watched};
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

/// All that a prepare that fails, or a job that is cancelled, has to leave as it was.
#[derive(PartialEq, Debug)]
struct Snapshot {
    pieces: Vec<(Range<u64>, Piece)>,
    census: Census,
    tables: Vec<(u64, u64)>,
    out: BTreeSet<(u64, u64)>,
}

impl Snapshot {
    fn assert_is(&self, before: &Self, what: &str) {
        let news: Vec<_> = self.pieces.iter().filter(|piece| !before.pieces.contains(piece)).collect();
        let gone: Vec<_> = before.pieces.iter().filter(|piece| !self.pieces.contains(piece)).collect();
        assert!(news.is_empty() && gone.is_empty(), "{what}: {news:x?} for {gone:x?}");
        assert_eq!((self.census, &self.tables, &self.out), (before.census, &before.tables, &before.out), "{what}");
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

/// A job on its way, with its frames or without.
enum Running<'f> {
    Plain(Job),
    Late(Ready<'f>),
}

impl AsMut<Job> for Running<'_> {
    fn as_mut(&mut self) -> &mut Job {
        match self {
            Self::Plain(job) => job,
            Self::Late(ready) => ready.as_mut(),
        }
    }
}

impl<'f> Running<'f> {
    fn new(job: Job, frames: &'f [Pfn]) -> Self {
        if frames.is_empty() {
            return Self::Plain(job);
        }
        Self::Late(job.with_frames(frames).map_err(|(_, why)| why).unwrap())
    }

    fn write_some<M: TableMemory>(&mut self, memory: &mut M, budget: u64) -> Result<bool, ExecuteError> {
        match self {
            Self::Plain(job) => job.write_some(memory, budget),
            Self::Late(ready) => ready.write_some(memory, budget),
        }
    }

    fn poll_flush<I: Invalidator>(&mut self, invalidator: &mut I) -> Result<Flushed, ExecuteError> {
        match self {
            Self::Plain(job) => job.poll_flush(invalidator),
            Self::Late(ready) => ready.poll_flush(invalidator),
        }
    }

    fn finish(self) -> Receipt {
        match self {
            Self::Plain(job) => job.finish().unwrap(),
            Self::Late(ready) => ready.finish().unwrap(),
        }
    }

    fn into_job(self) -> Job {
        match self {
            Self::Plain(job) => job,
            Self::Late(ready) => ready.into_job(),
        }
    }
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

    fn snapshot(&mut self) -> Snapshot {
        let vmm = &self.world.vmm;
        let pieces = vmm.pieces().map(|(range, piece)| (range, *piece)).collect();
        let mut tables: Vec<_> = vmm.tables().unwrap().iter().map(|(at, bytes)| (at.raw(), *bytes)).collect();
        tables.sort_unstable();
        // Heap is kept for the next one.
        let census = Census { mirror_bytes: 0, ..vmm.census() };
        Snapshot { pieces, census, tables, out: self.world.pool.inner().out.clone() }
    }

    /// The pieces in the library's records are the naive pages.
    fn compare_books(&mut self) {
        let mut covered = 0;
        for (range, piece) in self.world.vmm.pieces() {
            for (part, run) in self.books.within(&range) {
                let same = (run.page, run.kind, run.flags) == (piece.page, piece.kind, piece.flags);
                let there = match piece.to {
                    Backed::Memory(to) => {
                        run.late.is_none() && to.checked_add(part.start - range.start) == Some(run.to)
                    }
                    Backed::Frames { aperture, page } => run.late == Some(page) && run.to.aperture == aperture,
                };
                assert!(same && there, "{part:x?} of {range:x?} is {run:x?}, in the records {piece:x?}");
                covered += part.end - part.start;
            }
            assert_eq!(range.start % piece.page.bytes() | range.end % piece.page.bytes(), 0, "{range:x?} {piece:x?}");
            covered -= range.end - range.start;
        }
        assert_eq!(covered, 0, "the records hold what the naive map does not");
        let bytes = |parts: &mut dyn Iterator<Item = Range<u64>>| parts.map(|part| part.end - part.start).sum::<u64>();
        let naive = bytes(&mut self.books.iter().map(|(range, _)| range));
        assert_eq!(naive, bytes(&mut self.world.vmm.pieces().map(|(range, _)| range)), "bytes in the records");
    }

    fn execute(&mut self) {
        if !self.waiting.is_empty() {
            let index = if self.random.one_in(3) { 0 } else { self.random.index(self.waiting.len()) };
            self.execute_at(index);
        }
    }

    /// Executes a job that waits, and says whether it could be.
    fn execute_at(&mut self, index: usize) -> bool {
        let Waiting { job, number, range, change, frames, calm } = self.waiting.remove(index);
        let points = self.points(&range);
        self.look(&points);
        let mut job = Running::new(job, &frames);
        let alone = index == 0 && self.running.is_empty();
        let meets = |other: &Range<u64>| other.start < range.end && range.start < other.end;
        let blocked = self.running.iter().any(|(other, _)| meets(other))
            || self.waiting.iter().any(|other| other.number < number && meets(&other.range));
        self.running.push((range.clone(), calm));
        if let Err(why) = self.run(&mut job, number, &points) {
            match why {
                ExecuteError::NotYet => {
                    assert!(!alone, "the oldest job has nobody to wait for");
                    let earlier = |other: &&Waiting| other.number < number;
                    let ranges = self.waiting.iter().filter(earlier).map(|other| &other.range);
                    let near = ranges
                        .chain(self.running.iter().rev().skip(1).map(|(range, _)| range))
                        .any(|other| meet(other, &range));
                    assert!(near || !self.plain, "{number} waits for nobody");
                }
                why => assert_eq!(why, ExecuteError::PredecessorLost),
            }
            self.running.pop();
            self.count("refused");
            self.waiting.insert(index, Waiting { job: job.into_job(), number, range, change, frames, calm });
            return false;
        }
        assert!(!blocked, "job {number} overtook one on the same pages");
        let receipt = job.finish();
        self.running.pop();
        self.executed(number, &range, &change, receipt);
        self.look(&points);
        true
    }

    /// What an executed job has done.
    fn executed(&mut self, number: u64, range: &Range<u64>, change: &Change, receipt: Receipt) {
        self.count("executed");
        self.note(format!("  {number} was executed"));
        match change {
            Change::Pages { after, .. } => self.done.set(range, after),
            Change::Sparse { after, .. } => self.done_sparse.set(range, after),
        }
        if self.random.one_in(4) {
            let points = self.points(range);
            self.look(&points);
        }
        match self.random.below(4) {
            0 => drop(receipt),
            1 => self.receipts.push(receipt),
            _ => self.commit(receipt),
        }
    }

    /// Writes a round of several jobs each, and flushes all of them under one invalidate.
    fn execute_together(&mut self) {
        let count = (2 + self.random.index(3)).min(self.waiting.len());
        let (mut jobs, mut rest) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let Waiting { job, number, range, change, frames, calm } =
                self.waiting.remove(self.random.index(self.waiting.len()));
            jobs.push(job);
            rest.push((number, range, change, frames, calm));
        }
        let mut points = Vec::new();
        for (_, range, ..) in &rest {
            points.extend(self.points(range));
        }
        self.look(&points);
        let (mut begun, mut refused) = (Vec::new(), Vec::new());
        for (n, job) in jobs.into_iter().enumerate() {
            let (_, range, _, frames, calm) = &rest[n];
            let mut job = Running::new(job, frames);
            match job.write_some(&mut self.world.mmio, u64::MAX) {
                Ok(written) => {
                    assert!(written);
                    self.running.push((range.clone(), *calm));
                    begun.push((n, job));
                }
                Err(why) => {
                    assert!(matches!(why, ExecuteError::NotYet | ExecuteError::PredecessorLost), "{why}");
                    refused.push((n, job.into_job()));
                }
            }
        }
        let (numbers, mut begun): (Vec<usize>, Vec<Running<'_>>) = begun.into_iter().unzip();
        loop {
            while poll_flush_all(&mut begun, &mut self.world.mmio).unwrap() == Poll::Pending {
                self.look(&points);
            }
            let mut open = false;
            for job in &mut begun {
                if job.as_mut().state() != State::Acknowledged {
                    assert!(job.write_some(&mut self.world.mmio, u64::MAX).unwrap());
                    open = true;
                }
            }
            if !open {
                break;
            }
            self.look(&points);
        }
        self.running.truncate(self.running.len() - begun.len());
        let receipts: Vec<Receipt> = begun.into_iter().map(Running::finish).collect();
        // All have happened before anybody looks.
        for n in &numbers {
            match &rest[*n] {
                (_, range, Change::Pages { after, .. }, ..) => self.done.set(range, after),
                (_, range, Change::Sparse { after, .. }, ..) => self.done_sparse.set(range, after),
            }
        }
        for (n, receipt) in numbers.into_iter().zip(receipts) {
            let (number, range, change, ..) = &rest[n];
            self.count("together");
            self.executed(*number, range, change, receipt);
        }
        for (n, (number, range, change, frames, calm)) in rest.into_iter().enumerate() {
            if let Some(at) = refused.iter().position(|(refused, _)| *refused == n) {
                let (_, job) = refused.swap_remove(at);
                self.waiting.push(Waiting { job, number, range, change, frames, calm });
            }
        }
        self.waiting.sort_by_key(|waiting| waiting.number);
        self.look(&points);
    }

    /// Writes and flushes all rounds, a few words at a time, and looks around in between.
    fn run(&mut self, job: &mut Running<'_>, number: u64, points: &[u64]) -> Result<(), ExecuteError> {
        let slow = self.random.one_in(4);
        loop {
            let budget = match self.random.below(3) {
                _ if !slow => u64::MAX,
                0 => self.random.below(4),
                1 => self.random.below(40),
                _ => self.random.below(1000),
            };
            let written = self.on_hardware(|hardware| job.write_some(hardware, budget))?.unwrap_or(false);
            while written {
                match self.on_hardware(|hardware| job.poll_flush(hardware))? {
                    Some(Flushed::Done) => return Ok(()),
                    Some(Flushed::NextRound) => break,
                    Some(Flushed::Pending) | None => self.pause(slow, number, points),
                }
            }
            self.pause(slow, number, points);
        }
    }

    /// What comes of a call on hardware that fails now and then; `None` where it did.
    fn on_hardware<T>(
        &mut self,
        call: impl FnOnce(&mut Flaky<'_, Mmio<Gpu>>) -> Result<T, ExecuteError>,
    ) -> Result<Option<T>, ExecuteError> {
        let left = if self.short && self.random.one_in(6) { self.random.below(12) } else { u64::MAX };
        match call(&mut Flaky { hardware: &mut self.world.mmio, left }) {
            Err(ExecuteError::Device(why)) => {
                assert_eq!(why, FAILED);
                self.count("hardware failed");
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// Prepares what `plan` plans, on hardware that fails now and then; some plans are let go of.
    fn plan(
        &mut self,
        plan: impl for<'a> FnOnce(&'a mut Vmm<F>, &'a mut Watched<Pool>) -> Result<Plan<'a, F, Watched<Pool>>, PrepareError>,
    ) -> Result<Job, PrepareError> {
        let World { mmio, pool, notes, vmm } = &mut self.world;
        let plan = plan(vmm, pool)?;
        notes.tell(mmio.bar0());
        let left = if self.short && self.random.one_in(6) { self.random.below(20) } else { u64::MAX };
        if self.short && self.random.one_in(20) {
            drop(plan);
            notes.tell(mmio.bar0());
            return Err(PrepareError::NoMemory(NoMemory));
        }
        let job = plan.init(&mut Flaky { hardware: &mut *mmio, left });
        notes.tell(mmio.bar0());
        job
    }

    /// While a job is half executed: its neighbours are what they were, and other jobs go on.
    fn pause(&mut self, slow: bool, number: u64, points: &[u64]) {
        if slow && !self.quiet && self.running.len() < 3 && self.random.one_in(8) {
            self.note(format!("  while {number} is half executed:"));
            self.count("in between");
            self.step_between();
        }
        if self.random.one_in(4) {
            self.look(points);
        }
    }

    fn commit(&mut self, receipt: Receipt) {
        self.world.vmm.commit(&mut self.world.pool, receipt).unwrap();
        self.world.notes.tell(self.world.mmio.bar0());
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
        let Waiting { job, number, range, change, frames, calm } = self.waiting.remove(index);
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
                self.withdraw(&range, &change);
                let points = self.points(&range);
                self.look(&points);
                true
            }
            Err((job, why)) => {
                match why {
                    CommitError::HasDependents => {
                        assert!(!newest, "nothing builds on the newest job");
                        let later = self.waiting.iter().filter(|other| other.number > number);
                        let near = later.map(|other| &other.range).any(|other| meet(other, &range));
                        assert!(near || !self.plain, "nothing builds on {number}");
                    }
                    why => assert!(self.short && matches!(why, CommitError::NoMemory(_)), "{why}"),
                }
                self.count("not cancelled");
                self.waiting.insert(index, Waiting { job, number, range, change, frames, calm });
                false
            }
        }
    }

    /// The books without a job on which no other builds.
    fn withdraw(&mut self, range: &Range<u64>, change: &Change) {
        match change {
            Change::Pages { before, .. } => self.books.set(range, before),
            Change::Sparse { before, .. } => self.sparse.set(range, before),
        }
    }

    /// Drops a job that waits. Those behind it are executed where they can be, else cancelled, the newest first; then the
    /// next call takes the dropped one back.
    fn drop_one(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let dropped = self.random.index(self.waiting.len());
        let Waiting { job, number, range, change, .. } = self.waiting.remove(dropped);
        drop(job);
        self.count("dropped");
        self.note(format!("  {number} was dropped"));
        self.quiet = true;
        for index in (dropped..self.waiting.len()).rev() {
            if self.random.one_in(2) && self.execute_at(index) {
                continue;
            }
            while !self.cancel_at(index) {}
        }
        self.quiet = false;
        self.withdraw(&range, &change);
        self.sweep();
        let points = self.points(&range);
        self.look(&points);
    }

    /// A call that changes nothing itself: whatever was dropped is seen to.
    fn sweep(&mut self) {
        let nothing = self.world.vmm.plan_unmap(&mut self.world.pool, 0..0).map(drop);
        assert_eq!(nothing, Err(PrepareError::Empty));
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

    /// Addresses in and around `range`, at borders of pages, and anywhere.
    fn points(&mut self, range: &Range<u64>) -> Vec<u64> {
        let mut points = Vec::new();
        let mut borders = vec![range.start, range.end];
        for _ in 0..3 {
            borders.push(self.address(PAGE_BYTES));
            borders.push(range.start + pages::floor(self.random.below(range.end - range.start)));
            borders.push((range.start & !(DOMAIN - 1)) + pages::floor(self.random.below(3 * DOMAIN)));
        }
        for (part, _) in self.done.within(range).into_iter().chain(self.books.within(range)).take(64) {
            if self.random.one_in(3) {
                borders.extend([part.start, part.end]);
            }
        }
        for border in borders {
            points.extend([border, border.wrapping_sub(PAGE_BYTES)]);
            for page in PageSize::ALL {
                if self.random.one_in(4) {
                    let start = border & !(page.bytes() - 1);
                    points.extend([start, start.wrapping_sub(PAGE_BYTES), start + page.bytes()]);
                }
            }
        }
        points.retain(|&va| va < Self::limit());
        points
    }

    fn peek(&mut self, va: u64) -> Option<Translated> {
        let pdb = self.world.vmm.pdb();
        self.world.gpu().peek_translate(pdb, va).ok()
    }

    /// The GPU's MMU finds what executed jobs left, wherever no job is at work.
    fn look(&mut self, points: &[u64]) {
        let pdb = self.world.vmm.pdb();
        for &va in points {
            let page = self.done.get(va);
            let sparse = page.is_none() && self.done_sparse.has(va);
            if self.running.iter().any(|(range, calm)| range.contains(&va) || sparse && !calm) {
                continue;
            }
            let found = self.world.gpu().access(Client::Engine { pdb }, va, AccessKind::Read, true);
            let right = match (&found, &page) {
                (Ok(found), Some((range, run))) => {
                    let flags = run.flags;
                    let same = gmmu_sim::Flags {
                        vol: flags.volatile,
                        encrypted: flags.encrypted,
                        privileged: flags.privileged,
                        read_only: flags.read_only,
                        no_atomic: flags.no_atomic,
                        acd: flags.no_access_counting,
                    };
                    !found.sparse
                        && found.to == run.to_at(va - range.start)
                        && (found.page_bytes, found.kind, found.flags) == (run.page.bytes(), run.kind.0, same)
                }
                (Ok(found), None) => sparse && found.sparse,
                (Err(_), None) => !sparse,
                (Err(_), Some(_)) => false,
            };
            if !right {
                let walk = self.world.vmm.read_mapping(&mut self.world.mmio, va);
                panic!("{va:#x} leads to {found:x?} and not to {page:x?}, sparse {sparse}: {walk:x?}");
            }
        }
        self.world.assert_clean();
    }

    /// Executes all, unmaps all, closes: nothing is left.
    pub fn finish(mut self) -> (u64, BTreeMap<&'static str, u64>) {
        while !self.waiting.is_empty() {
            self.execute();
        }
        while !self.receipts.is_empty() {
            self.commit_some();
        }
        self.compare_books();
        let everything: Vec<u64> =
            self.done.iter().flat_map(|(part, _)| [part.start, part.end - 4096, part.end]).collect();
        self.look(&everything.iter().copied().filter(|&va| va < Self::limit()).collect::<Vec<_>>());
        for window in self.narrow() {
            self.look(&window.step_by(4096).collect::<Vec<_>>());
        }
        let all = 0..Self::limit();
        if self.books.len() > 0 {
            self.world.unmap(all.clone());
        }
        self.done = Pages::default();
        self.look(&everything.iter().copied().filter(|&va| va < Self::limit()).collect::<Vec<_>>());
        if self.sparse.iter().next().is_some() {
            let job = self.world.prepare_unsparse(all).unwrap();
            self.world.finish(job);
        }
        self.done_sparse = Spans::default();
        for window in self.narrow() {
            self.look(&window.step_by(4096).collect::<Vec<_>>());
        }
        self.world.assert_no_leak();
        assert_eq!((self.world.vmm.pieces().count(), self.world.vmm.census().jobs), (0, 0));
        self.recount();
        self.lose_one();
        let World { mut mmio, mut pool, notes, vmm } = self.world;
        let root = vmm.pdb().raw();
        vmm.close(&mut mmio, &mut pool).map_err(|(_, why)| why).unwrap();
        notes.tell(mmio.bar0());
        assert_eq!(pool.inner().out.iter().copied().collect::<Vec<_>>(), [(root, 4096)]);
        assert_eq!(mmio.bar0().findings(), &[]);
        (self.jobs, self.counts)
    }

    /// Leaf tables whose account is right go with the last pages in them: where a domain was filled and emptied once more,
    /// none is left.
    fn recount(&mut self) {
        for domain in core::mem::take(&mut self.touched) {
            for page in [PageSize::Size4K, PageSize::Size64K] {
                let range = self.world.map(domain, crate::common::DATA, DOMAIN, Some(page));
                self.world.unmap(range);
            }
        }
        self.world.assert_clean();
        self.world.assert_no_leak();
        assert_eq!(self.world.vmm.census().leaf_tables, 0, "leaf tables that nothing is in");
    }

    /// Half-way through, a job is lost in some runs: what it held is given back at the end.
    fn lose_one(&mut self) {
        if self.random.one_in(3) {
            let request = MapRequest::frames(4, PageSize::Size64K).at(1 << 45);
            let job = self.world.prepare(&request).unwrap();
            let list = [Pfn::new(1 << 20); 4];
            let mut ready = job.with_frames(&list).map_err(|(_, why)| why).unwrap();
            let _ = ready.write_some(&mut self.world.mmio, 1 + self.random.below(5)).unwrap();
            drop(ready);
            assert_eq!(self.world.vmm.census().quarantined, 1);
        }
    }
}

/// Whether there is a domain that both touch.
fn meet(a: &Range<u64>, b: &Range<u64>) -> bool {
    let [a, b] = [a, b].map(|range| range.start / DOMAIN..range.end.div_ceil(DOMAIN));
    a.start < b.end && b.start < a.end
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
