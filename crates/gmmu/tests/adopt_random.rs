//! Random jobs in spaces that firmware made at random, page by page against a naive map: what was firmware's translates as
//! ever, no word of its tables changes, and whatever touches it is busy. `GMMU_SEED` is the first seed, `GMMU_SEEDS` the
//! number of seeds, `GMMU_STEPS` the steps of each run.
#![expect(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;
mod firmware;

use common::{Random, World, DATA, GIB, MIB};
use firmware::{closed, Adopted, Image};
use gmmu::addr::{PageSize, Pfn, PhysAddr, TableAddr};
use gmmu::format::{Flags, Format, V2, V3};
use gmmu::vmm::{Bind, Extent, Job, Live, MapRequest, PrepareError, Protection, Span};
use gmmu_sim::{AccessKind, Bus, Client, Config, Fault, Gpu, Rule, Translated};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

const PAGE: u64 = 4096;
const K64: u64 = 64 << 10;
const M2: u64 = 2 * MIB;
/// Where all happens; each lies across a border of tables, or at the start of the space.
const WINDOWS: [Range<u64>; 3] = [0..2 * M2, 512 * GIB - 2 * M2..512 * GIB + 2 * M2, (1 << 47) - M2..(1 << 47) + M2];

/// What the sanitizer finds of ours: firmware's garbage leaves both halves of entries valid.
fn ours(gpu: &Gpu) -> String {
    let findings = gpu.findings().iter().filter(|finding| finding.rule != Rule::BothHalvesValid);
    findings.map(|finding| format!("{finding}\n")).collect()
}

/// A page of ours: where it leads to, whether it is read-only, and the size of the frames where it came as such.
type Page = (u64, bool, Option<PageSize>);

/// What is ours, and which pages read as 0 where there is none.
#[derive(Clone, Default)]
struct Naive {
    pages: BTreeMap<u64, Page>,
    sparse: BTreeSet<u64>,
}

fn pages(range: &Range<u64>) -> impl Iterator<Item = u64> {
    range.clone().step_by(PAGE as usize)
}

/// A job that waits, what comes of it, and its frames.
struct Waiting {
    job: Job,
    after: Naive,
    frames: Vec<Pfn>,
    range: Range<u64>,
}

struct Model<F: Format> {
    space: Adopted<F>,
    random: Random,
    /// What firmware's pages lead to.
    before: BTreeMap<u64, Translated>,
    foreign: BTreeSet<u64>,
    /// After all prepared jobs, and after all executed ones.
    books: Naive,
    done: Naive,
    waiting: VecDeque<Waiting>,
    counts: BTreeMap<&'static str, u64>,
}

fn window(random: &mut Random) -> Range<u64> {
    WINDOWS[random.index(WINDOWS.len())].clone()
}

fn some_range(random: &mut Random) -> Range<u64> {
    let window = window(random);
    let unit = [PAGE, PAGE, PAGE, K64, K64, M2][random.index(6)];
    let start = (window.start + random.below(window.end - window.start)) & !(unit - 1);
    let end = start + unit * (1 + random.below(if unit == M2 { 2 } else { 40 }));
    start..end.min(window.end)
}

/// Memory for a range, which larger pages fit or not.
fn memory(random: &mut Random, range: &Range<u64>) -> u64 {
    let like = DATA + random.below(64) * M2 + (range.start & (M2 - 1));
    like + [0, 0, 0, K64, PAGE][random.index(5)]
}

/// A space with whatever firmware might have in it: pages of all sizes, sparse ranges, and tables that are empty.
fn made_by_firmware<F: Format>(chip: &str, random: &mut Random) -> Image {
    let mut world = World::<F>::new(chip);
    for _ in 0..random.below(40) {
        let range = some_range(random);
        let extents = [Extent { to: PhysAddr::vram(memory(random, &range)), bytes: range.end - range.start }];
        let job = match random.below(8) {
            0..=4 => world.prepare(&MapRequest::extents(&extents).at(range.start).live(Live::Quiesced)),
            5 => world.prepare_sparse(Span::new(range).quiesced()),
            6 => world.prepare_unsparse(Span::new(range).quiesced()),
            _ => world.prepare_unmap(Span::new(range).quiesced()),
        };
        if let Ok(job) = job {
            world.finish(job);
        }
    }
    for _ in 0..random.below(4) {
        // A page that came and went leaves its table.
        let window = window(random);
        let va = window.start + random.below((window.end - window.start) / PAGE) * PAGE;
        let request = MapRequest::frames(1, PageSize::Size4K).at(va).live(Live::Quiesced);
        if let Ok(job) = world.prepare(&request) {
            let frames = [Pfn::new(1 << 20)];
            let receipt = job.with_frames(&frames).map_err(|(_, why)| why).unwrap().execute(&mut world.mmio).unwrap();
            world.vmm.commit(&mut world.pool, receipt).unwrap();
            world.unmap(va..va + PAGE);
        }
    }
    if random.one_in(4) {
        world.map(3 << 39, DATA, 512 * MIB, Some(PageSize::Size2M));
    }
    assert_eq!(ours(world.gpu()), "");
    Image::of(&mut world)
}

/// Lets firmware be careless: 64K slots that are open over nothing, pages below slots that say there are none, junk.
fn spoil<F: Format>(image: &mut Image, tables: &[(TableAddr, u64)], random: &mut Random) {
    let junk = [u64::MAX, 0xbadf_1301_badf_1301, 1 << 40, closed::<F>(), 0x08, 0x28, 1, 0];
    for (at, bytes) in tables {
        for slot in (at.raw()..at.raw() + bytes).step_by(8) {
            let word = image.word(slot);
            if *bytes == 256 && word == closed::<F>() && random.one_in(3) {
                image.set(slot, 0);
            }
            if *bytes == 256 && random.one_in(40) {
                image.set(slot, closed::<F>());
            }
            // The first words of a root are nearly the whole space.
            if slot >= at.raw() + 64 && random.one_in(300) {
                image.set(slot, junk[random.index(junk.len())]);
            }
        }
    }
}

impl<F: Format> Model<F> {
    fn new(chip: &str, seed: u64) -> Self {
        let mut random = Random(chip.bytes().fold(seed, |word, byte| word << 8 ^ u64::from(byte)));
        let mut image = made_by_firmware::<F>(chip, &mut random);
        let bus = if random.one_in(3) { Bus::Bits32 } else { Bus::Bits64 };
        let model = Config { bus, ..Config::chip(chip) };
        let tidy = random.one_in(2);
        if !tidy {
            let tables: Vec<_> = image.clone().adopted::<F>(&model).world.vmm.foreign_tables().unwrap().to_vec();
            spoil::<F>(&mut image, &tables, &mut random);
        }
        let mut space = image.adopted::<F>(&model);
        let (mut before, mut foreign) = (BTreeMap::new(), BTreeSet::new());
        let pdb = space.world.vmm.pdb();
        for va in WINDOWS.iter().flat_map(pages) {
            if let Ok(found) = space.world.gpu().peek_translate(pdb, va) {
                before.insert(va, found);
            }
            if space.world.vmm.foreign().any(|range| range.contains(&va)) {
                foreign.insert(va);
            }
        }
        assert!(before.keys().all(|va| foreign.contains(va)), "a page of firmware's was overlooked");
        assert!(!tidy || before.len() == foreign.len(), "what maps nothing is taken for firmware's");
        let (books, done) = (Naive::default(), Naive::default());
        Self { space, random, before, foreign, books, done, waiting: VecDeque::new(), counts: BTreeMap::new() }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn touches_firmware(&self, range: &Range<u64>) -> bool {
        self.foreign.range(range.clone()).next().is_some()
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..=8 if self.waiting.len() < 5 => self.prepare(),
            9 => self.cancel(),
            10 if self.random.one_in(2) => self.zap(),
            10 => self.reclaim(),
            _ => self.execute(),
        }
        if self.waiting.is_empty() {
            self.space.world.assert_no_leak();
        }
    }

    /// A range; mostly one that does not touch what is firmware's, and has pages or none, as it is said.
    fn range(&mut self, with_pages: bool) -> Range<u64> {
        let mut range = some_range(&mut self.random);
        for _ in 0..12 {
            let has = self.books.pages.range(range.clone()).next().is_some();
            if (has == with_pages && !self.touches_firmware(&range)) || self.random.one_in(40) {
                break;
            }
            range = some_range(&mut self.random);
        }
        range
    }

    /// Some of the pages that are there, and perhaps more.
    fn mapped_range(&mut self) -> Range<u64> {
        let range = self.range(true);
        let first = self.books.pages.range(range.clone()).next().map_or(range.start, |(va, _)| *va);
        let mut end = first + PAGE;
        while self.books.pages.contains_key(&end) && !self.random.one_in(20) {
            end += PAGE;
        }
        if self.random.one_in(2) {
            first..end
        } else {
            range
        }
    }

    fn prepare(&mut self) {
        match self.random.below(16) {
            0..=6 => self.prepare_map(),
            7 | 8 => self.prepare_late(),
            9..=11 => self.prepare_unmap(),
            12 => self.prepare_protect(),
            13 if self.random.one_in(2) => self.prepare_defragment(),
            13 => self.prepare_sparse(),
            _ => self.prepare_bind(),
        }
    }

    /// Judges what came of a prepare: `Busy` where it has to be, and `after` otherwise.
    fn enter(
        &mut self,
        what: &'static str,
        range: Range<u64>,
        prepared: Result<Job, PrepareError>,
        expected: Result<Naive, PrepareError>,
        large: bool,
        list: Vec<Pfn>,
    ) {
        if self.touches_firmware(&range) {
            let Err(PrepareError::Busy { with }) = prepared else { panic!("{what} {range:x?}: {prepared:?}") };
            assert!(with.start < range.end && range.start < with.end, "{what} {range:x?}: {with:x?}");
            return self.count("touches firmware's");
        }
        match (prepared, expected) {
            (Ok(job), Ok(after)) => {
                self.books = after.clone();
                self.count(what);
                self.waiting.push_back(Waiting { job, after, frames: list, range });
            }
            // Only what asks for large pages can stand in the way of a table of firmware's.
            (Err(PrepareError::Busy { .. }), Ok(_)) if large => self.count("a table in the way"),
            (Err(PrepareError::Busy { .. }), Err(PrepareError::Busy { .. }))
            | (Err(PrepareError::NotMapped { .. }), Err(PrepareError::NotMapped { .. })) => self.count("refused"),
            (prepared, expected) => panic!("{what} {range:x?}: {prepared:?}, {:?}", expected.map(drop)),
        }
    }

    /// The books with pages in `range`, or why not.
    fn mapped(
        &self,
        range: &Range<u64>,
        late: Option<PageSize>,
        to: impl Fn(u64) -> u64,
    ) -> Result<Naive, PrepareError> {
        if self.books.pages.range(range.clone()).next().is_some() {
            return Err(PrepareError::Busy { with: range.clone() });
        }
        let mut after = self.books.clone();
        after.pages.extend(pages(range).map(|va| (va, (to(va), false, late))));
        Ok(after)
    }

    fn prepare_map(&mut self) {
        let range = self.range(false);
        let to = memory(&mut self.random, &range);
        let fits = |page: PageSize| (range.start | range.end | to) % page.bytes() == 0;
        let sizes = [None, None, Some(PageSize::Size4K), Some(PageSize::Size64K), Some(PageSize::Size2M)];
        let choice = if range.start % M2 == 0 && self.random.one_in(2) { 4 } else { self.random.index(5) };
        let page = sizes[choice].filter(|page| fits(*page));
        let extents = [Extent { to: PhysAddr::vram(to), bytes: range.end - range.start }];
        let request = MapRequest { page, ..MapRequest::extents(&extents).at(range.start).live(Live::Quiesced) };
        let request = if self.random.one_in(3) { request.evictable() } else { request };
        let prepared = self.space.world.prepare(&request);
        let expected = self.mapped(&range, None, |va| to + (va - range.start));
        self.enter("map", range, prepared, expected, page == Some(PageSize::Size2M), Vec::new());
    }

    fn prepare_late(&mut self) {
        let range = self.range(false);
        let page = [PageSize::Size4K, PageSize::Size64K, PageSize::Size2M][self.random.index(3)];
        if (range.start | range.end) % page.bytes() != 0 {
            return;
        }
        let count = (range.end - range.start) / page.bytes();
        let list: Vec<u64> = (0..count).map(|_| DATA + self.random.below(500) * page.bytes()).collect();
        let request = MapRequest::frames(count, page).at(range.start).live(Live::Quiesced);
        let prepared = self.space.world.prepare(&request);
        let to = |va: u64| {
            let offset = va - range.start;
            list[(offset / page.bytes()) as usize] + offset % page.bytes()
        };
        let expected = self.mapped(&range, Some(page), to);
        let frames = common::frames(&list);
        self.enter("map, late", range.clone(), prepared, expected, page == PageSize::Size2M, frames);
    }

    /// Frames for a job that wants some again, as the books have them.
    fn wanted(&self, prepared: &Result<Job, PrepareError>) -> Vec<Pfn> {
        let mut list = Vec::new();
        for want in prepared.iter().flat_map(|job| job.wants()) {
            for va in (0..want.pages).map(|page| want.va + page * want.page.bytes()) {
                let mut near = self.books.pages.range(va..va + want.page.bytes());
                let near = near.find(|(_, page)| page.2 == Some(want.page));
                let (at, (to, ..)) = near.unwrap_or_else(|| panic!("a frame is wanted for {va:#x}"));
                list.push(Pfn::new((to - (at - va)) / PAGE));
            }
        }
        list
    }

    fn prepare_unmap(&mut self) {
        let range = if self.random.one_in(20) { window(&mut self.random) } else { self.mapped_range() };
        let prepared = self.space.world.prepare_unmap(Span::new(range.clone()).quiesced());
        let list = self.wanted(&prepared);
        let mut after = self.books.clone();
        after.pages.retain(|va, _| !range.contains(va));
        let none = after.pages.len() == self.books.pages.len();
        let expected = if none { Err(PrepareError::NotMapped { range: range.clone() }) } else { Ok(after) };
        self.enter("unmap", range, prepared, expected, false, list);
    }

    fn prepare_protect(&mut self) {
        let range = self.mapped_range();
        let to = Protection::flags(Flags { read_only: true, ..Flags::NONE });
        let prepared = self.space.world.prepare_protect(Span::new(range.clone()).quiesced(), to);
        let list = self.wanted(&prepared);
        let mut after = self.books.clone();
        let mut whole = true;
        for va in pages(&range) {
            let page = after.pages.get_mut(&va);
            whole &= page.is_some();
            if let Some(page) = page {
                page.1 = true;
            }
        }
        let expected = if whole { Ok(after) } else { Err(PrepareError::NotMapped { range: range.clone() }) };
        self.enter("protect", range, prepared, expected, false, list);
    }

    fn prepare_sparse(&mut self) {
        let (range, on) = (self.range(true), self.random.one_in(2));
        let span = Span::new(range.clone()).quiesced();
        let world = &mut self.space.world;
        let prepared = if on { world.prepare_sparse(span) } else { world.prepare_unsparse(span) };
        let after = self.switched(self.books.clone(), &range, on);
        self.enter("sparse", range, prepared, Ok(after), false, Vec::new());
    }

    fn switched(&self, mut after: Naive, range: &Range<u64>, on: bool) -> Naive {
        for va in pages(range) {
            if on {
                after.sparse.insert(va);
            } else {
                after.sparse.remove(&va);
            }
        }
        after
    }

    /// An unmap, a map over whatever is there, and something sparse, all near each other.
    fn prepare_bind(&mut self) {
        let [gone, new, sparse] = [true, false, true].map(|with_pages| self.range(with_pages));
        let (to, on) = (memory(&mut self.random, &new), self.random.one_in(2));
        let extents = [Extent { to: PhysAddr::vram(to), bytes: new.end - new.start }];
        let operations = [
            Bind::Unmap(gone.clone()),
            Bind::Map(MapRequest::extents(&extents).at(new.start)),
            if on { Bind::Sparse(sparse.clone()) } else { Bind::Unsparse(sparse.clone()) },
        ];
        let prepared = self.space.world.prepare_with(|vmm, pool| vmm.plan_bind(pool, &operations, Live::Quiesced));
        let list = self.wanted(&prepared);
        let mut after = self.books.clone();
        after.pages.retain(|va, _| !gone.contains(va));
        after.pages.extend(pages(&new).map(|va| (va, (to + (va - new.start), false, None))));
        let after = self.switched(after, &sparse, on);
        let touched = [gone, new, sparse].into_iter().find(|range| self.touches_firmware(range));
        self.enter("bind", touched.unwrap_or(0..0), prepared, Ok(after), false, list);
    }

    fn prepare_defragment(&mut self) {
        let range = if self.random.one_in(3) { self.range(true) } else { self.mapped_range() };
        let span = Span::new(range.clone()).quiesced();
        let prepared = self.space.world.prepare_with(|vmm, pool| vmm.plan_defragment(pool, span, PageSize::Size512M));
        if !matches!(prepared, Err(PrepareError::NothingToMerge { .. })) {
            self.enter("defragment", range, prepared, Ok(self.books.clone()), false, Vec::new());
        }
    }

    /// Zaps a mapping, and unmaps what is left of it in the records.
    fn zap(&mut self) {
        let vmm = &self.space.world.vmm;
        let evictable: Vec<u64> =
            vmm.pieces().filter(|(_, piece)| piece.is_evictable()).map(|(range, _)| range.start).collect();
        if evictable.is_empty() || !self.waiting.is_empty() {
            return;
        }
        let zap = vmm.zap(evictable[self.random.index(evictable.len())]).unwrap();
        zap.zap(&mut self.space.world.mmio).unwrap();
        let zapped: Vec<_> = self.space.world.vmm.zapped().map(|(range, _)| range).collect();
        assert!(!zapped.is_empty());
        self.count("zap");
        for range in &zapped {
            self.done.pages.retain(|va, _| !range.contains(va));
        }
        self.books = self.done.clone();
        // What was sparse below is no more, until the pages are unmapped.
        let near: Vec<u64> = WINDOWS.iter().flat_map(pages).step_by(17).collect();
        let near: Vec<u64> = near.into_iter().filter(|va| !zapped.iter().any(|range| range.contains(va))).collect();
        self.look(&near);
        self.space.assert_untouched();
        for range in zapped {
            let job = self.space.world.prepare_unmap(range.clone()).unwrap();
            self.space.world.finish(job);
            let near: Vec<u64> = pages(&range).collect();
            self.look(&near);
        }
    }

    fn reclaim(&mut self) {
        let prepared = self.space.world.prepare_with(|vmm, pool| vmm.plan_reclaim(pool));
        match prepared {
            Ok(job) => {
                self.count("reclaim");
                let after = self.books.clone();
                self.waiting.push_back(Waiting { job, after, frames: Vec::new(), range: 0..0 });
            }
            Err(why) => assert!(matches!(why, PrepareError::NotMapped { .. }), "{why}"),
        }
    }

    fn cancel(&mut self) {
        if let Some(waiting) = self.waiting.pop_back() {
            self.space.world.cancel(waiting.job);
            self.books = self.waiting.back().map_or(&self.done, |waiting| &waiting.after).clone();
            self.count("cancel");
        }
    }

    fn execute(&mut self) {
        let Some(Waiting { job, after, frames, range }) = self.waiting.pop_front() else { return };
        let mut near: Vec<u64> = pages(&range).take(600).collect();
        near.extend((0..100).map(|_| some_range(&mut self.random).start));
        self.look(&near);
        let world = &mut self.space.world;
        let receipt = if frames.is_empty() {
            job.execute(&mut world.mmio).unwrap()
        } else {
            job.with_frames(&frames).map_err(|(_, why)| why).unwrap().execute(&mut world.mmio).unwrap()
        };
        world.vmm.commit(&mut world.pool, receipt).unwrap();
        world.notes.tell(world.mmio.bar0());
        self.done = after;
        self.look(&near);
        self.space.assert_untouched();
    }

    fn access(&mut self, va: u64) -> Result<Translated, Fault> {
        let pdb = self.space.world.vmm.pdb();
        self.space.world.gpu().access(Client::Engine { pdb }, va, AccessKind::Read, true)
    }

    /// The MMU finds firmware's pages, ours, and no others.
    fn look(&mut self, points: &[u64]) {
        for &va in points {
            let found = self.access(va).ok();
            let right = match (self.before.get(&va), self.done.pages.get(&va)) {
                (before, _) if self.foreign.contains(&va) => found.as_ref() == before,
                (_, Some((to, read_only, _))) => found.as_ref().is_some_and(|found| {
                    !found.sparse && found.to == PhysAddr::vram(*to) && found.flags.read_only == *read_only
                }),
                (_, None) if self.done.sparse.contains(&va) => found.as_ref().is_some_and(|found| found.sparse),
                _ => found.is_none(),
            };
            if !right {
                let walk = self.space.world.vmm.read_mapping(&mut self.space.world.mmio, va);
                let (before, page) = (self.before.get(&va), self.done.pages.get(&va));
                panic!(
                    "{va:#x} leads to {found:x?} and not to {before:x?}, {page:x?}: {:x?}",
                    walk.map(|walk| walk.steps().copied().collect::<Vec<_>>())
                );
            }
        }
        assert_eq!(ours(self.space.world.gpu()), "");
    }

    fn finish(mut self) -> BTreeMap<&'static str, u64> {
        while !self.waiting.is_empty() {
            self.execute();
        }
        let all: Vec<u64> = WINDOWS.iter().flat_map(pages).collect();
        self.look(&all);
        if self.random.one_in(3) {
            self.lose_one();
        }
        let Self { space, before, counts, .. } = self;
        let pdb = space.world.vmm.pdb();
        let mut mmio = space.close();
        for va in all {
            let found = mmio.bar0().access(Client::Engine { pdb }, va, AccessKind::Read, true);
            assert_eq!(found.ok().as_ref(), before.get(&va), "{va:#x} after close");
        }
        assert_eq!(ours(mmio.bar0()), "");
        counts
    }

    /// A job that is lost half-way: what it has written ends with the space.
    fn lose_one(&mut self) {
        for _ in 0..20 {
            let range = some_range(&mut self.random);
            let count = (range.end - range.start) / PAGE;
            let request = MapRequest::frames(count, PageSize::Size4K).at(range.start).live(Live::Quiesced);
            let Ok(job) = self.space.world.prepare(&request) else { continue };
            let list = vec![Pfn::new(1 << 20); count as usize];
            let mut ready = job.with_frames(&list).map_err(|(_, why)| why).unwrap();
            let _ = ready.write_some(&mut self.space.world.mmio, 1 + self.random.below(40)).unwrap();
            drop(ready);
            assert_eq!(self.space.world.vmm.census().quarantined, 1);
            return self.count("lost");
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok().map_or(default, |text| text.parse().unwrap());
    println!("{name}={value}");
    value
}

fn runs<F: Format>(chips: &[&str]) {
    let (first, seeds, steps) = (setting("GMMU_SEED", 1), setting("GMMU_SEEDS", 40), setting("GMMU_STEPS", 300));
    let mut all = BTreeMap::<&'static str, u64>::new();
    for seed in first..first + seeds {
        for chip in chips {
            println!("{chip}, seed {seed}");
            let mut model = Model::<F>::new(chip, seed);
            for _ in 0..steps {
                model.step();
            }
            for (what, count) in model.finish() {
                *all.entry(what).or_default() += count;
            }
        }
    }
    println!("{all:?}");
    let kinds = [
        "map",
        "map, late",
        "unmap",
        "protect",
        "sparse",
        "bind",
        "defragment",
        "zap",
        "reclaim",
        "cancel",
        "touches firmware's",
    ];
    assert!(kinds.iter().all(|kind| all.contains_key(kind)) || seeds < 40 || steps < 300, "{all:?}");
}

#[test]
fn firmware_never_notices_random_jobs_on_v2() {
    runs::<V2>(&["tu102", "ga100"]);
}

#[test]
fn firmware_never_notices_random_jobs_on_v3() {
    runs::<V3>(&["gh100"]);
}
