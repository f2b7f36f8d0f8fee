//! What is measured of address spaces: whole jobs and their stages on plain memory, each beside the plain loop over the
//! same bytes that it comes down to. The loops and the jobs take turns, and the least of each counts.
//!
//! Every measurement finds its tables in the caches, written just before: the limits too, which run twice.

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use gmmu::addr::{PageSize, Pfn, PhysAddr, TableAddr, VramAddr, PAGE_BYTES};
use gmmu::chip::Chip;
use gmmu::device::{Encoding, Run, TableMemory};
use gmmu::format::{Format, Leaf, Pte, V3};
use gmmu::vmm::{Bind, Extent, Job, Live, MapRequest, SpaceConfig, Span, Use, Vmm};
use gmmu::vram::{TablePages, Vram};

mod live;

use crate::memory::Memory;
use crate::rows::{Limit, Row, Times};

/// Interleaved rounds, unless somebody asks for others.
pub const ROUNDS: usize = 21;
/// Maps of one bind job.
const BINDS: u64 = 1000;
/// Large pages that are cut, one after the other.
const SPLITS: u64 = 64;
/// Live ranges beside which a single page is mapped.
pub const LIVE: u64 = 1000;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Memory for tables: those of [`LIVE`] ranges need the most.
const MEMORY: u64 = 16 * MIB;
/// Data lies from here on.
const DATA: u64 = 8 * GIB;
const VRAM: u64 = 96 * GIB;
/// Aligned to its length, so that no table is shared.
const VA: u64 = 64 * GIB;
/// What one leaf table of 4K pages covers.
const TABLE: u64 = 2 * MIB;
const PAGES: u64 = GIB / PAGE_BYTES;
/// Where the limits write: about where the leaf tables lie.
const FILLED: TableAddr = TableAddr::vram(32 << 10);

/// Nanoseconds of the stages of one job.
#[derive(Clone, Copy, Debug, Default)]
struct Stages {
    prepare: f64,
    frames: f64,
    execute: f64,
    commit: f64,
}

impl Stages {
    /// The job without the check of its frames.
    fn whole(&self) -> f64 {
        self.prepare + self.execute + self.commit
    }
}

/// More memory than caches hold.
const SWEPT_WORDS: usize = 64 << 17;

/// Runs `what` and says how many nanoseconds it took.
fn timed<T>(what: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let result = what();
    (result, start.elapsed().as_nanos() as f64)
}

/// Memory and its allocator, for one space after the other.
struct Bench {
    memory: Memory,
    vram: Vram,
    pages: TablePages,
    /// All frames of a gibibyte, in disorder.
    frames: Vec<Pfn>,
    swept: Vec<u64>,
}

impl Bench {
    /// With so many bytes for tables.
    fn new(bytes: u64) -> Self {
        let vram = Vram::new(&[VramAddr::new(0)..VramAddr::new(bytes)]).expect("memory");
        let pages = TablePages::for_vram(&vram).expect("memory");
        let memory = Memory::new(usize::try_from(bytes).expect("a few megabytes"));
        // An odd factor reaches every frame once.
        let frames = (0..PAGES).map(|n| Pfn::new(DATA / PAGE_BYTES + n * 7919 % PAGES)).collect();
        Self { memory, vram, pages, frames, swept: vec![1; SWEPT_WORDS] }
    }

    /// Drives everything out of the CPU's caches, where the tables of a GPU are not either.
    fn cool(&mut self) {
        for line in self.swept.chunks_mut(8) {
            line[0] = line[0].wrapping_add(1);
        }
        black_box(&mut self.swept);
    }

    fn space(&mut self) -> Vmm<V3> {
        let chip = Chip::by_name("gh100").expect("a chip");
        let config = SpaceConfig::new(chip, VRAM, Use::Channel);
        Vmm::create(config, &mut self.memory, &mut self.pages.pool(&mut self.vram)).expect("a root")
    }

    fn close(&mut self, vmm: Vmm<V3>) {
        let closed = vmm.close(&mut self.memory, &mut self.pages.pool(&mut self.vram));
        assert!(closed.is_ok() && self.pages.table_bytes() == 0, "all tables come back");
    }

    /// Executes a prepared job and commits it.
    fn finish(&mut self, vmm: &mut Vmm<V3>, (job, prepare): (Job, f64), frames: Option<&[Pfn]>) -> Stages {
        let (receipt, checked, execute) = match frames {
            None => {
                let (receipt, execute) = timed(|| job.execute(&mut self.memory).expect("plain memory"));
                (receipt, 0.0, execute)
            }
            Some(frames) => {
                let (ready, checked) = timed(|| job.with_frames(frames).expect("they fit"));
                let (receipt, execute) = timed(|| ready.execute(&mut self.memory).expect("plain memory"));
                (receipt, checked, execute)
            }
        };
        let mut pool = self.pages.pool(&mut self.vram);
        let (_, commit) = timed(|| vmm.commit(&mut pool, receipt).expect("its receipt"));
        Stages { prepare, frames: checked, execute, commit }
    }

    fn map(&mut self, vmm: &mut Vmm<V3>, request: &MapRequest<'_>, frames: Option<&[Pfn]>) -> Stages {
        let mut pool = self.pages.pool(&mut self.vram);
        let (job, prepare) = timed(|| vmm.prepare_map(&mut self.memory, &mut pool, request).expect("it is free"));
        self.finish(vmm, (job, prepare), frames)
    }

    /// Maps memory from [`DATA`] on.
    fn map_at(&mut self, vmm: &mut Vmm<V3>, range: Range<u64>, page: PageSize) -> Stages {
        let extents = [Extent { to: PhysAddr::vram(DATA), bytes: range.end - range.start }];
        self.map(vmm, &MapRequest::extents(&extents).page(page).at(range.start), None)
    }

    fn unmap(&mut self, vmm: &mut Vmm<V3>, range: Range<u64>) -> Stages {
        let mut pool = self.pages.pool(&mut self.vram);
        let (job, prepare) = timed(|| vmm.prepare_unmap(&mut self.memory, &mut pool, range).expect("it is mapped"));
        self.finish(vmm, (job, prepare), None)
    }

    /// A gibibyte of contiguous pages into new tables, whose memory was written before; and the way back, which leaves
    /// nothing in them.
    fn fresh(&mut self, page: PageSize, cold: bool) -> (Stages, Stages) {
        let mut vmm = self.space();
        let range = VA..VA + GIB;
        self.map_at(&mut vmm, range.clone(), page);
        self.unmap(&mut vmm, range.clone());
        let cool = |bench: &mut Self| {
            if cold {
                bench.cool()
            }
        };
        cool(self);
        let map = self.map_at(&mut vmm, range.clone(), page);
        cool(self);
        let unmap = self.unmap(&mut vmm, range);
        self.close(vmm);
        (map, unmap)
    }

    /// The same into tables that are there, and empty.
    fn there(&mut self) -> Stages {
        let mut vmm = self.space();
        // A single page that goes is cleared, and its table stays.
        for table in (VA..VA + GIB).step_by(2 << 20) {
            self.map_at(&mut vmm, table..table + PAGE_BYTES, PageSize::Size4K);
            self.unmap(&mut vmm, table..table + PAGE_BYTES);
        }
        self.cool();
        let map = self.map_at(&mut vmm, VA..VA + GIB, PageSize::Size4K);
        self.close(vmm);
        map
    }

    /// A gibibyte of 4K pages taken away by a zap: nanoseconds of all of it.
    fn zap(&mut self) -> f64 {
        let mut vmm = self.space();
        let extents = [Extent { to: PhysAddr::vram(DATA), bytes: GIB }];
        let request = MapRequest::extents(&extents).page(PageSize::Size4K).at(VA).evictable();
        self.map(&mut vmm, &request, None);
        let zap = vmm.zap(VA).expect("it is evictable");
        // Another zap clears the same words.
        let [_, all] = [(); 2].map(|()| {
            self.cool();
            timed(|| zap.zap(&mut self.memory).expect("plain memory")).1
        });
        self.close(vmm);
        all
    }

    /// One 4K page taken out of each of some 2M pages of a gibibyte, which cuts them: nanoseconds a job.
    fn split(&mut self) -> f64 {
        let mut vmm = self.space();
        self.map_at(&mut vmm, VA..VA + GIB, PageSize::Size2M);
        // In no order, like the jobs of a driver.
        let pages = (0..SPLITS).map(|n| VA + n * 37 % (GIB / TABLE) * TABLE + 5 * PAGE_BYTES);
        let pages: Vec<u64> = pages.collect();
        let ((), all) = timed(|| {
            let mut pool = self.pages.pool(&mut self.vram);
            for &page in &pages {
                let span = Span::new(page..page + PAGE_BYTES).quiesced();
                black_box(vmm.unmap_pages(&mut self.memory, &mut pool, span).expect("it is mapped"));
            }
        });
        self.close(vmm);
        all / SPLITS as f64
    }

    /// A gibibyte of late frames into new tables.
    fn scattered(&mut self) -> Stages {
        let mut vmm = self.space();
        let frames = std::mem::take(&mut self.frames);
        let request = MapRequest::frames(PAGES, PageSize::Size4K).at(VA);
        self.map(&mut vmm, &request, Some(&frames));
        self.unmap(&mut vmm, VA..VA + GIB);
        self.cool();
        let map = self.map(&mut vmm, &request, Some(&frames));
        self.frames = frames;
        self.close(vmm);
        map
    }

    /// 511 pages out of each of 512 tables, whose last page is somebody else's: nanoseconds of all of it. No mapping spans
    /// such tables, so there is a job for each.
    fn partly(&mut self) -> f64 {
        let mut vmm = self.space();
        let mapping = |table: u64| table..table + TABLE - PAGE_BYTES;
        for table in (VA..VA + GIB).step_by(2 << 20) {
            self.map_at(&mut vmm, mapping(table), PageSize::Size4K);
            self.map_at(&mut vmm, mapping(table).end..table + TABLE, PageSize::Size4K);
        }
        let ((), all) = timed(|| {
            let mut pool = self.pages.pool(&mut self.vram);
            for table in (VA..VA + GIB).step_by(2 << 20) {
                black_box(vmm.unmap_pages(&mut self.memory, &mut pool, mapping(table)).expect("it is mapped"));
            }
        });
        self.close(vmm);
        all
    }

    /// The same as one bind job of 512 unmaps.
    fn partly_at_once(&mut self) -> f64 {
        let mut vmm = self.space();
        let mapping = |table: u64| table..table + TABLE - PAGE_BYTES;
        let tables = (VA..VA + GIB).step_by(2 << 20);
        for table in tables.clone() {
            self.map_at(&mut vmm, mapping(table), PageSize::Size4K);
            self.map_at(&mut vmm, mapping(table).end..table + TABLE, PageSize::Size4K);
        }
        let operations: Vec<Bind<'_>> = tables.map(|table| Bind::Unmap(mapping(table))).collect();
        self.cool();
        let mut pool = self.pages.pool(&mut self.vram);
        let (job, prepare) = timed(|| {
            vmm.prepare_bind(&mut self.memory, &mut pool, &operations, Live::MustNotFault).expect("it is mapped")
        });
        let stages = self.finish(&mut vmm, (job, prepare), None);
        self.close(vmm);
        stages.whole()
    }

    /// A thousand 64K maps in disorder within a gibibyte, as one bind job into new tables: nanoseconds of all of it.
    fn bind(&mut self) -> f64 {
        let mut vmm = self.space();
        let extents: Vec<[Extent; 1]> =
            (0..BINDS).map(|n| [Extent { to: PhysAddr::vram(DATA + n * (64 << 10)), bytes: 64 << 10 }]).collect();
        // An odd factor: each of the 16,384 places at most once, in no order.
        let place = |n: u64| VA + n * 7919 % (GIB >> 16) * (64 << 10);
        let operations: Vec<Bind<'_>> = (0..)
            .zip(&extents)
            .map(|(n, extents)| Bind::Map(MapRequest::extents(extents.as_slice()).at(place(n))))
            .collect();
        let mut pool = self.pages.pool(&mut self.vram);
        let (job, prepare) = timed(|| {
            vmm.prepare_bind(&mut self.memory, &mut pool, &operations, Live::MustNotFault).expect("it is free")
        });
        let stages = self.finish(&mut vmm, (job, prepare), None);
        self.unmap(&mut vmm, VA..VA + GIB);
        self.close(vmm);
        stages.whole()
    }

    /// All tables of a gibibyte of pages written anew from the records.
    fn restored(&mut self) -> Stages {
        let mut vmm = self.space();
        self.map_at(&mut vmm, VA..VA + GIB, PageSize::Size4K);
        self.cool();
        let mut pool = self.pages.pool(&mut self.vram);
        let (job, prepare) = timed(|| vmm.prepare_restore(&mut self.memory, &mut pool).expect("its tables fit"));
        let restored = self.finish(&mut vmm, (job, prepare), None);
        self.close(vmm);
        restored
    }

    /// One page mapped and unmapped beside each of [`LIVE`] mappings of one page: nanoseconds a pair.
    fn pair(&mut self) -> f64 {
        let mut vmm = self.space();
        let place = |n: u64| VA + n * 617 % LIVE * (64 * MIB);
        for n in 0..LIVE {
            self.map_at(&mut vmm, place(n)..place(n) + PAGE_BYTES, PageSize::Size4K);
        }
        let extents = [Extent { to: PhysAddr::vram(DATA), bytes: PAGE_BYTES }];
        let ((), all) = timed(|| {
            let mut pool = self.pages.pool(&mut self.vram);
            for n in 0..LIVE {
                let va = place(n) + 7 * PAGE_BYTES;
                let request = MapRequest::extents(&extents).page(PageSize::Size4K).at(va);
                let mapped = vmm.map_pages(&mut self.memory, &mut pool, &request, &[]);
                let unmapped = vmm.unmap_pages(&mut self.memory, &mut pool, va..va + PAGE_BYTES);
                assert!(mapped.is_ok() && unmapped.is_ok());
            }
        });
        self.close(vmm);
        all / LIVE as f64
    }

    /// Nanoseconds of a fill, of an encoding of the frames, and of a memset of as many words as a gibibyte has pages.
    fn limits(&mut self) -> [f64; 3] {
        let word = |to| V3::encode_pte(&Pte::Leaf(Leaf::new(PhysAddr::vram(to)))).expect("it fits");
        let count = u32::try_from(PAGES).unwrap_or(u32::MAX);
        let step = V3::leaf_step(PAGE_BYTES);
        let how = Encoding { base: word(0), shift: step.trailing_zeros() };
        let run = black_box(Run { first: word(DATA), step, count });
        let zeros = black_box(Run { first: 0, step: 0, count });
        let mut cold = |what: &dyn Fn(&mut Memory, &[Pfn])| {
            self.cool();
            let ((), ns) = timed(|| what(&mut self.memory, black_box(&self.frames)));
            black_box(&mut self.memory);
            ns
        };
        [
            cold(&|memory, _| memory.write_run(FILLED, run).expect("it lies within")),
            cold(&|memory, frames| memory.write_frames(FILLED, how, frames).expect("it lies within")),
            cold(&|memory, _| memory.write_run(FILLED, zeros).expect("it lies within")),
        ]
    }
}

/// The stages of one kind of job, round by round, in nanoseconds a page.
#[derive(Default)]
struct Jobs {
    whole: Times,
    prepare: Times,
    frames: Times,
    execute: Times,
    commit: Times,
}

impl Jobs {
    fn push(&mut self, stages: Stages, pages: u64) {
        let a_page = |ns: f64| Some(ns / pages as f64);
        self.whole.push(a_page(stages.whole()));
        self.prepare.push(a_page(stages.prepare));
        self.frames.push(a_page(stages.frames));
        self.execute.push(a_page(stages.execute));
        self.commit.push(a_page(stages.commit));
    }

    /// Rows for the job and its stages: the ratios are what the whole and its execution are to reach.
    fn rows(&self, name: &str, limit: (&'static str, &Times), [whole, execute]: [Option<f64>; 2]) -> Vec<Row> {
        let part = |stage: &str| format!("{name}: {stage} alone");
        [
            against(name, &self.whole, limit, whole),
            against(&part("prepare"), &self.prepare, limit, None),
            against(&part("execute"), &self.execute, limit, execute),
            against(&part("commit"), &self.commit, limit, None),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A row in nanoseconds a page, beside its limit.
fn against(name: &str, times: &Times, (what, limit): (&'static str, &Times), target: Option<f64>) -> Option<Row> {
    let limit = Limit { what, least: limit.least()?, target };
    let (value, least) = (times.median()?, times.least());
    Some(Row { name: name.to_owned(), unit: "ns", value, least, target: None, peer: None, limit: Some(limit) })
}

/// A row in nanoseconds, beside nothing.
fn plain(name: &str, times: &Times, target: Option<f64>) -> Option<Row> {
    let (value, least) = (times.median()?, times.least());
    Some(Row { name: name.to_owned(), unit: "ns", value, least, target, peer: None, limit: None })
}

/// Makes the process keep what it frees: else every round pays the system for fresh pages of the heap, which the planner's
/// lists do not cost where they live, in a kernel. glibc's malloc goes by the largest piece that was given back so far.
fn keep_the_heap() {
    const LARGEST: usize = 31 << 20;
    black_box(vec![1u8; LARGEST]);
}

/// The rows of address spaces, from `rounds` interleaved rounds: nanoseconds a page, and ratios of the least to the least of
/// the limit.
#[must_use]
pub fn rows(rounds: usize) -> Vec<Row> {
    keep_the_heap();
    let mut bench = Bench::new(MEMORY);
    let [mut fill, mut encode, mut memset, mut partly, mut at_once, mut pair, mut binds] = <[Times; 7]>::default();
    let [mut fresh, mut dropped, mut there, mut scattered, mut big, mut huge, mut restored] = <[Jobs; 7]>::default();
    let mut crowd = live::Crowd::new();
    let (mut zapped, mut split) = (Times::default(), Times::default());
    let a_page = |ns: f64| Some(ns / PAGES as f64);
    for _ in 0..rounds {
        for (times, ns) in [&mut fill, &mut encode, &mut memset].into_iter().zip(bench.limits()) {
            times.push(a_page(ns));
        }
        let (map, unmap) = bench.fresh(PageSize::Size4K, true);
        fresh.push(map, PAGES);
        dropped.push(unmap, PAGES);
        there.push(bench.there(), PAGES);
        scattered.push(bench.scattered(), PAGES);
        restored.push(bench.restored(), PAGES);
        crowd.measure();
        zapped.push(a_page(bench.zap()));
        split.push(Some(bench.split()));
        partly.push(Some(bench.partly() / (PAGES - GIB / TABLE) as f64));
        // Few words a page: what is told here is the planner's own time.
        big.push(bench.fresh(PageSize::Size64K, false).0, GIB >> 16);
        huge.push(bench.fresh(PageSize::Size2M, false).0, GIB >> 21);
        at_once.push(Some(bench.partly_at_once() / (PAGES - GIB / TABLE) as f64));
        pair.push(Some(bench.pair()));
        binds.push(Some(bench.bind() / BINDS as f64));
    }
    let (fill, encode, memset) = (("fill", &fill), ("encode", &encode), ("memset", &memset));
    let limits = [fill, encode, memset].map(|(what, times)| plain(&format!("limit: {what}, a word"), times, None));
    let mut rows: Vec<Row> = limits.into_iter().flatten().collect();
    rows.extend(fresh.rows("map 1G of 4K, fresh tables", fill, [Some(1.8), None]));
    rows.extend(there.rows("map 1G of 4K, tables there", fill, [Some(1.4), Some(1.2)]));
    rows.extend(scattered.rows("map 1G of late 4K, fresh tables", encode, [Some(1.8), Some(1.3)]));
    rows.extend(against("map 1G of late 4K: frames checked", &scattered.frames, encode, None));
    rows.extend(dropped.rows("unmap 1G of 4K, tables dropped", memset, [Some(0.4), Some(0.05)]));
    rows.extend(restored.rows("restore 1G of 4K", fill, [Some(2.0), None]));
    rows.extend(against("unmap 512 times 511 of 4K, tables in use", &partly, memset, Some(1.5)));
    rows.extend(against("unmap 512 times 511 of 4K, in one bind job", &at_once, memset, None));
    rows.extend(plain("unmap one 4K out of 1G of 2M, a job", &split, Some(3000.0)));
    rows.extend(against("zap 1G of 4K", &zapped, memset, Some(1.3)));
    rows.extend(plain("map 1G of 64K, fresh tables, a page", &big.whole, Some(5.0)));
    rows.extend(plain("map 1G of 2M, a page", &huge.whole, Some(8.0)));
    rows.extend(plain("map and unmap one 4K page, 1000 live, pair", &pair, Some(300.0)));
    rows.extend(plain("bind 1000 64K maps in disorder, a map", &binds, Some(100.0)));
    rows.extend(crowd.rows());
    rows
}
