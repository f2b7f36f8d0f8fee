//! Random jobs against a naive page map, judged by the model's decoder and its sanitizer.
//!
//! Jobs wait, are executed in any order that is allowed (and tried in orders that are not), cancelled and dropped. After
//! each step the naive map of executed jobs is what the GPU's MMU finds, page by page. `GMMU_SEED` sets the seed,
//! `GMMU_STEPS` the number of steps; both are printed.
#![expect(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::{Random, World, DATA, GIB, MIB};
use gmmu::addr::{PageSize, Pfn, PhysAddr};
use gmmu::format::{Format, V2, V3};
use gmmu::vmm::{ExecuteError, Extent, Job, MapRequest, PrepareError};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The window in which everything happens: it has a table border of every level below the root inside it.
const WINDOW: Range<u64> = (512 * GIB - 8 * MIB)..(512 * GIB + 8 * MIB);
const WAITING_MAX: usize = 6;

/// What a mapping maps.
#[derive(Clone)]
enum Memory {
    From(u64),
    /// Frames of pages of so many bytes.
    Frames(Vec<Pfn>, u64),
}

impl Memory {
    /// Where byte `offset` of the mapping lies.
    fn at(&self, offset: u64) -> u64 {
        match self {
            Self::From(start) => start + offset,
            Self::Frames(frames, unit) => frames[(offset / unit) as usize].bytes().unwrap() + offset % unit,
        }
    }
}

/// A job that waits, and what it does to the page map.
struct Waiting {
    job: Job,
    number: u64,
    range: Range<u64>,
    /// What it maps; `None` for an unmap.
    to: Option<Memory>,
    /// Numbers of the jobs before it that are known to be in its way, by overlap of pages alone.
    after: BTreeSet<u64>,
}

struct Model<F: Format> {
    world: World<F>,
    random: Random,
    /// What executed jobs left: page to memory.
    pages: BTreeMap<u64, u64>,
    /// Mappings after all prepared jobs.
    mappings: BTreeMap<u64, u64>,
    waiting: Vec<Waiting>,
    prepared: u64,
    refused: u64,
}

impl<F: Format> Model<F> {
    fn new(chip: &str, seed: u64) -> Self {
        let (pages, mappings) = (BTreeMap::new(), BTreeMap::new());
        let (world, random) = (World::new(chip), Random(seed));
        Self { world, random, pages, mappings, waiting: Vec::new(), prepared: 0, refused: 0 }
    }

    fn step(&mut self) {
        match self.random.below(10) {
            0..=3 => self.prepare_map(),
            4 | 5 => self.prepare_unmap(),
            6..=8 => self.execute(),
            _ => self.cancel(),
        }
    }

    fn prepare_map(&mut self) {
        if self.waiting.len() >= WAITING_MAX {
            return;
        }
        let unit = [12, 12, 12, 16, 16, 21][self.random.below(6) as usize];
        let pages = 1 + self.random.below(if unit == 21 { 3 } else { 40 });
        let bytes = pages << unit;
        let start = WINDOW.start + (self.random.below((WINDOW.end - WINDOW.start) >> unit) << unit);
        let page = match (self.random.below(3), unit) {
            (0, _) => None,
            (_, 12) => Some(PageSize::Size4K),
            (_, 16) => Some(PageSize::Size64K),
            _ => Some(PageSize::Size2M),
        };
        // Memory that is aligned like the address or only to the unit, so that large pages are sometimes impossible.
        let to =
            DATA + (self.random.below(64) << 21) + if self.random.below(2) == 0 { start & (2 * MIB - 1) } else { 0 };
        let to = to & !((1 << unit) - 1);
        let extents = [Extent { to: PhysAddr::vram(to), bytes }];
        let (request, memory) = match page.filter(|_| self.random.below(3) == 0) {
            // Frames that come late, in any order, some of them twice.
            Some(page) => {
                let frame = |n: u64| Pfn::new(((to + (n << unit)) / 4096) & !((1 << (unit - 12)) - 1));
                let frames = (0..pages).map(|_| frame(self.random.below(pages))).collect();
                (MapRequest::frames(pages, page), Memory::Frames(frames, 1 << unit))
            }
            None => (MapRequest { page, ..MapRequest::extents(&extents) }, Memory::From(to)),
        };
        let request = request.at(start);
        let range = start..start + bytes;
        let busy = self.mappings.iter().any(|(&at, &end)| at < range.end && range.start < end);
        match self.world.prepare(&request) {
            Ok(job) => {
                assert!(!busy, "{range:x?} was free for the library and not for the model");
                self.mappings.insert(range.start, range.end);
                self.enter(job, range, Some(memory));
            }
            Err(PrepareError::Busy { .. }) => assert!(busy, "{range:x?} was busy for the library alone"),
            Err(other) => panic!("{other}"),
        }
    }

    fn prepare_unmap(&mut self) {
        let count = self.mappings.len() as u64;
        if count == 0 || self.waiting.len() >= WAITING_MAX {
            return;
        }
        let (start, end) = self.mappings.iter().nth(self.random.below(count) as usize).map(|(a, b)| (*a, *b)).unwrap();
        let job = self.world.prepare_unmap(start..end).unwrap();
        self.mappings.remove(&start);
        self.enter(job, start..end, None);
    }

    fn enter(&mut self, job: Job, range: Range<u64>, to: Option<Memory>) {
        self.prepared += 1;
        let meets = |other: &&Waiting| other.range.start < range.end && range.start < other.range.end;
        let after = self.waiting.iter().filter(meets).map(|other| other.number).collect();
        self.waiting.push(Waiting { job, number: self.prepared, range, to, after });
    }

    fn execute(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let index = self.random.below(self.waiting.len() as u64) as usize;
        let Waiting { job, number, range, to, after } = self.waiting.remove(index);
        let earliest = self.waiting.iter().all(|other| other.number > number);
        let executed = match &to {
            Some(Memory::Frames(frames, _)) => {
                let ready = job.with_frames(frames).map_err(|(_, why)| why).unwrap();
                ready.execute(&mut self.world.mmio).map_err(|failed| (failed.job.into_job(), failed.why))
            }
            _ => job.execute(&mut self.world.mmio).map_err(|failed| (failed.job, failed.why)),
        };
        match executed {
            Ok(receipt) => {
                let blocked = self.waiting.iter().any(|other| after.contains(&other.number));
                assert!(!blocked, "job {number} overtook one on the same pages");
                for va in range.clone().step_by(4096) {
                    match &to {
                        Some(to) => self.pages.insert(va, to.at(va - range.start)),
                        None => self.pages.remove(&va),
                    };
                }
                self.world.vmm.commit(&mut self.world.pool, receipt).unwrap();
                self.world.notes.tell(self.world.mmio.bar0());
                self.check(&range);
            }
            Err((job, why)) => {
                assert_eq!(why, ExecuteError::NotYet);
                assert!(!earliest, "the oldest job has nobody to wait for");
                self.refused += 1;
                self.waiting.push(Waiting { job, number, range, to, after });
                self.waiting.sort_by_key(|waiting| waiting.number);
            }
        }
    }

    fn cancel(&mut self) {
        let Some(Waiting { job, number, range, to, after }) = self.waiting.pop() else { return };
        if self.random.below(2) == 0 {
            // The newest job has no dependents.
            self.world.vmm.cancel(&mut self.world.pool, job).unwrap();
            self.world.notes.tell(self.world.mmio.bar0());
        } else {
            drop(job);
        }
        let _ = (number, after);
        match to {
            Some(_) => self.mappings.remove(&range.start),
            None => self.mappings.insert(range.start, range.end),
        };
    }

    /// The GPU's MMU finds what the page map says, around `range` and at its borders.
    fn check(&mut self, range: &Range<u64>) {
        let from = range.start.saturating_sub(MIB).max(WINDOW.start);
        for va in (from..(range.end + MIB)).step_by(4096) {
            let found = self.world.access(va).ok().map(|found| found.to);
            assert_eq!(found, self.pages.get(&va).map(|to| PhysAddr::vram(*to)), "{va:#x}");
        }
    }

    fn finish(mut self) {
        while !self.waiting.is_empty() {
            self.execute();
        }
        let mappings: Vec<(u64, u64)> = self.mappings.iter().map(|(a, b)| (*a, *b)).collect();
        for (start, end) in mappings {
            self.world.unmap(start..end);
        }
        self.pages.clear();
        self.check(&WINDOW);
        self.world.assert_clean();
        self.world.assert_no_leak();
        assert_eq!(self.world.vmm.pieces().count(), 0);
        println!("{} jobs, {} refused for now", self.prepared, self.refused);
        assert!(self.refused > 0 || self.prepared < 100);
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok().map_or(default, |text| text.parse().unwrap());
    println!("{name}={value}");
    value
}

fn run<F: Format>(chips: &[&str]) {
    let (seed, steps) = (setting("GMMU_SEED", 1) + u64::from(F::VA_BITS), setting("GMMU_STEPS", 4000));
    for (n, chip) in (0..).zip(chips) {
        println!("{chip}, seed {}", seed + n);
        let mut model = Model::<F>::new(chip, seed + n);
        for step in 0..steps {
            model.step();
            if step % 256 == 0 {
                model.world.assert_clean();
            }
        }
        model.finish();
    }
}

#[test]
fn random_jobs_on_v2_do_what_a_page_map_does() {
    run::<V2>(&["tu102", "ga100", "ad102"]);
}

#[test]
fn random_jobs_on_v3_do_what_a_page_map_does() {
    run::<V3>(&["gh100", "gb100", "gb202"]);
}
