//! Zaps: pages taken from the GPU under the hardware's lock alone, whatever jobs are about.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;
#[path = "random/flaky.rs"]
#[expect(unreachable_pub, reason = "shared by tests")]
mod flaky;

use common::{frames, Random, World, DATA, GIB, MIB};
use flaky::{Flaky, FAILED};
use gmmu::addr::{PageSize, PhysAddr};
use gmmu::device::{Clock, Poll};
use gmmu::format::{Flags, Format, V2, V3};
use gmmu::vmm::{
    Bind, ExecuteError, Extent, Flushed, Job, Live, MapRequest, PrepareError, Protection, Span, State, Zap, ZapError,
};
use std::collections::BTreeMap;
use std::ops::Range;

const VA: u64 = 4 * GIB;
const KIB64: u64 = 64 << 10;

fn extent(to: u64, bytes: u64) -> [Extent; 1] {
    [Extent { to: PhysAddr::vram(to), bytes }]
}

/// Maps for good, so that it can be zapped.
fn map<F: Format>(world: &mut World<F>, va: u64, to: u64, bytes: u64, page: Option<PageSize>) -> Zap {
    let extents = extent(to, bytes);
    let request = MapRequest { page, ..MapRequest::extents(&extents).at(va).evictable() };
    let job = world.prepare(&request).unwrap();
    world.finish(job);
    world.vmm.zap(va).unwrap()
}

fn prepare_rebind<F: Format>(
    world: &mut World<F>,
    zap: &Zap,
    maps: &[MapRequest<'_>],
    live: Live,
) -> Result<Job, PrepareError> {
    world.prepare_with(|vmm, pool| vmm.plan_rebind(pool, zap, maps, live))
}

fn every_size<F: Format>(chip: &str, sizes: &[PageSize]) {
    let mut world = World::<F>::new(chip);
    for &page in sizes {
        let bytes = 3 * page.bytes();
        let va = 4 * page.bytes().max(GIB);
        // One mapping on each side shares its tables.
        world.map(va - page.bytes(), DATA, page.bytes(), Some(page));
        world.map(va + bytes, DATA, page.bytes(), Some(page));
        let to = 8 * page.bytes().max(GIB);
        let zap = map(&mut world, va, to, bytes, Some(page));
        let probes = [va, va + page.bytes() + 4096 * u64::from(page > PageSize::Size4K), va + bytes - 4096];
        for at in probes {
            assert_eq!(world.access(at).unwrap().to, PhysAddr::vram(to + (at - va)), "{page}");
        }
        let tables = world.vmm.tables().unwrap().len();
        world.gpu().reset_counts();
        zap.zap(&mut world.mmio).unwrap();
        assert_eq!(world.gpu().counts().invalidates, 1);
        for at in probes {
            assert!(world.access(at).is_err(), "{page} at {at:#x}");
        }
        world.assert_maps(va - page.bytes()..va - page.bytes() + 4096, DATA);
        world.assert_maps(va + bytes..va + bytes + 4096, DATA);
        assert!(world.vmm.zapped().map(|(range, _)| range).eq(std::iter::once(va..va + bytes)));
        assert_eq!(world.vmm.tables().unwrap().len(), tables, "a zap frees no table");
        // Protecting and zapping again leave it so.
        let read_only = Protection::flags(Flags { read_only: true, ..Flags::NONE });
        let job = world.prepare_protect(va..va + bytes, read_only).unwrap();
        world.finish(job);
        zap.zap(&mut world.mmio).unwrap();
        assert!(probes.iter().all(|at| world.access(*at).is_err()), "{page}");
        let extents = extent(to + 4 * page.bytes(), bytes);
        let again = MapRequest::extents(&extents).at(va).page(page);
        let job = prepare_rebind(&mut world, &zap, &[again], Live::MustNotFault).unwrap();
        world.finish(job);
        for at in probes {
            assert_eq!(world.access(at).unwrap().to, PhysAddr::vram(to + 4 * page.bytes() + (at - va)), "{page}");
        }
        assert_eq!(world.vmm.zapped().count(), 0);
        world.unmap(va - page.bytes()..va + bytes + page.bytes());
        assert!(world.vmm.zap(va).is_none());
        world.gpu().reset_counts();
        zap.zap(&mut world.mmio).unwrap();
        assert_eq!((world.gpu().counts().writes, world.gpu().counts().invalidates), (0, 0), "unmapped");
        world.assert_clean();
        world.assert_no_leak();
    }
}

#[test]
fn every_page_size_is_zapped_and_bound_again() {
    let usual = [PageSize::Size4K, PageSize::Size64K, PageSize::Size2M];
    every_size::<V2>("tu102", &usual);
    every_size::<V2>("ga100", &[PageSize::Size4K, PageSize::Size2M, PageSize::Size512M]);
    every_size::<V3>("gh100", &[PageSize::Size4K, PageSize::Size64K, PageSize::Size2M, PageSize::Size512M]);
}

#[test]
fn a_pending_mapping_has_nothing_to_clear_and_its_job_is_refused() {
    let mut world = World::<V3>::new("gh100");
    let extents = extent(DATA, MIB);
    let request = MapRequest::extents(&extents).at(VA).evictable();
    let job = world.prepare(&request).unwrap();
    let zap = world.vmm.zap(VA).unwrap();
    world.gpu().reset_counts();
    zap.zap(&mut world.mmio).unwrap();
    assert_eq!((world.gpu().counts().writes, world.gpu().counts().invalidates), (0, 0));
    let failed = job.execute(&mut world.mmio).unwrap_err();
    assert_eq!((failed.why, failed.job.state()), (ExecuteError::Zapped, State::Prepared));
    assert_eq!(world.gpu().counts().writes, 0);
    world.cancel(failed.job);
    assert!(world.vmm.zap(VA).is_none());
    world.assert_no_leak();
    // The next mapping there knows nothing of it.
    map(&mut world, VA, DATA, MIB, None);
    world.assert_maps(VA..VA + MIB, DATA);
    // A mapping that is not evictable has no zap.
    world.map(VA + GIB, DATA, 4096, None);
    assert!(world.vmm.zap(VA + GIB).is_none() && world.vmm.zap(VA + 2 * GIB).is_none());
    world.assert_clean();
}

/// A page is cut out of a 2M page, in two rounds; the mapping is zapped before round `at`, or in the midst of the last.
fn zapped_between_rounds<F: Format>(chip: &str, at: usize, budget: u64) {
    let mut world = World::<F>::new(chip);
    let zap = map(&mut world, VA, DATA, 4 * MIB, Some(PageSize::Size2M));
    let hole = VA + 5 * 4096..VA + 6 * 4096;
    let mut job = world.prepare_unmap(Span::new(hole.clone()).quiesced()).unwrap();
    assert_eq!(job.rounds(), 2);
    for _ in 0..at {
        job.write(&mut world.mmio).unwrap();
        assert_eq!(job.flush(&mut world.mmio), Ok(Flushed::NextRound));
    }
    if budget > 0 {
        assert_eq!(job.write_some(&mut world.mmio, budget), Ok(false));
    }
    zap.zap(&mut world.mmio).unwrap();
    world.assert_faults(VA..VA + 4 * MIB);
    assert_eq!(job.write(&mut world.mmio), Err(ExecuteError::Zapped));
    if at + usize::try_from(budget).unwrap() == 0 {
        // It can be cancelled, and prepared anew.
        world.cancel(job);
        job = world.prepare_unmap(Span::new(hole.clone()).quiesced()).unwrap();
    } else {
        job.skip_zapped();
    }
    world.finish(job);
    world.assert_faults(VA..VA + 4 * MIB);
    assert_eq!(world.vmm.zapped().map(|(range, _)| range.end - range.start).sum::<u64>(), 4 * MIB - 4096);
    // Bound again in two parts, around the hole.
    let (low, high) = (extent(DATA + GIB, 5 * 4096), extent(DATA + GIB + 6 * 4096, 4 * MIB - 6 * 4096));
    let maps = [MapRequest::extents(&low).at(VA), MapRequest::extents(&high).at(hole.end)];
    let part = prepare_rebind(&mut world, &zap, &maps[..1], Live::Quiesced).unwrap_err();
    assert_eq!(part, PrepareError::BindsPart { bytes: 5 * 4096, of: 4 * MIB - 4096 });
    let job = prepare_rebind(&mut world, &zap, &maps, Live::Quiesced).unwrap();
    world.finish(job);
    world.assert_maps(VA..hole.start, DATA + GIB);
    world.assert_faults(hole.clone());
    world.assert_maps(hole.end..VA + 4 * MIB, DATA + GIB + 6 * 4096);
    zap.zap(&mut world.mmio).unwrap();
    world.assert_faults(VA..VA + 4 * MIB);
    world.unmap(VA..VA + 4 * MIB);
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn a_job_that_is_zapped_half_way_goes_on_without_the_pages() {
    for (at, budget) in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 20), (1, 40)] {
        zapped_between_rounds::<V3>("gh100", at, budget);
        zapped_between_rounds::<V2>("ad102", at, budget);
    }
}

#[test]
fn jobs_of_one_evictable_mapping_wait_for_one_another() {
    let mut world = World::<V3>::new("gh100");
    let zap = map(&mut world, VA, DATA, MIB, Some(PageSize::Size4K));
    let first = world.prepare_unmap(VA..VA + 4096).unwrap();
    let second = world.prepare_unmap(VA + 8192..VA + 12288).unwrap();
    let failed = second.execute(&mut world.mmio).unwrap_err();
    assert_eq!(failed.why, ExecuteError::NotYet);
    // Unmaps are not refused by a zap: they write no page.
    zap.zap(&mut world.mmio).unwrap();
    world.finish(first);
    world.finish(failed.job);
    world.assert_faults(VA..VA + MIB);
    // What becomes of the pages' addresses is no concern of the zap's any more.
    world.map(VA, DATA + GIB, 4096, None);
    zap.zap(&mut world.mmio).unwrap();
    world.assert_maps(VA..VA + 4096, DATA + GIB);
    world.assert_clean();
}

#[test]
fn an_unmap_that_is_not_acknowledged_yet_is_waited_for() {
    let mut world = World::<V3>::new("gh100");
    let zap = map(&mut world, VA, DATA, 4 * MIB, Some(PageSize::Size4K));
    world.assert_maps(VA..VA + MIB, DATA);
    let mut job = world.prepare_unmap(VA..VA + 4 * MIB).unwrap();
    job.write(&mut world.mmio).unwrap();
    world.gpu().reset_counts();
    // The GPU may still have the pages, and the tables that are dropped, in its caches.
    zap.zap(&mut world.mmio).unwrap();
    assert_eq!(world.gpu().counts().invalidates, 1);
    world.assert_faults(VA..VA + 4 * MIB);
    assert_eq!(job.flush(&mut world.mmio), Ok(Flushed::Done));
    world.vmm.commit(&mut world.pool, job.finish().unwrap()).unwrap();
    world.notes.tell(world.mmio.bar0());
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn frames_that_come_late_are_asked_for_when_it_is_bound_again() {
    let mut world = World::<V3>::new("gh100");
    let request = MapRequest::frames(3, PageSize::Size64K).at(VA).evictable();
    let list = frames(&[DATA, DATA + MIB, DATA + 2 * MIB]);
    let job = world.prepare(&request).unwrap();
    let zap = world.vmm.zap(VA).unwrap();
    let receipt = job.with_frames(&list).unwrap().execute(&mut world.mmio).unwrap();
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    world.assert_maps(VA + KIB64..VA + 2 * KIB64, DATA + MIB);
    zap.zap(&mut world.mmio).unwrap();
    world.assert_faults(VA..VA + 3 * KIB64);
    // What has no pages wants no frames.
    let read_only = Protection::flags(Flags { read_only: true, ..Flags::NONE });
    let job = world.prepare_protect(VA..VA + 3 * KIB64, read_only).unwrap();
    assert!(job.wants().is_empty());
    world.finish(job);
    let again = MapRequest::frames(3, PageSize::Size64K).at(VA);
    let job = prepare_rebind(&mut world, &zap, &[again], Live::MustNotFault).unwrap();
    let list = frames(&[DATA + GIB, DATA + GIB + MIB, DATA + GIB + 2 * MIB]);
    let receipt = job.with_frames(&list).unwrap().execute(&mut world.mmio).unwrap();
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    world.assert_maps(VA + KIB64..VA + 2 * KIB64, DATA + GIB + MIB);
    world.assert_clean();
}

#[test]
fn what_is_restored_stays_zapped_and_zaps_know_the_new_tables() {
    let mut world = World::<V3>::new("gh100");
    let zapped = map(&mut world, VA, DATA, 4 * MIB, Some(PageSize::Size64K));
    let other = map(&mut world, VA + GIB, DATA + GIB, 4 * MIB, None);
    zapped.zap(&mut world.mmio).unwrap();
    let mut begun = world.prepare_protect(VA + GIB..VA + GIB + 2 * MIB, Protection::flags(Flags::NONE)).unwrap();
    begun.write(&mut world.mmio).unwrap();
    let plan = world.vmm.plan_restore(&mut world.pool).unwrap();
    world.mmio.bar0().reset_counts();
    // Its tables are gone already.
    other.zap(&mut world.mmio).unwrap();
    assert_eq!(world.mmio.bar0().counts().writes, 0);
    drop(plan);
    let job = world.prepare_with(|vmm, pool| vmm.plan_restore(pool)).unwrap();
    world.finish(job);
    world.assert_faults(VA..VA + 4 * MIB);
    // That one was zapped while there were no tables.
    assert_eq!(world.vmm.zapped().count(), 2);
    let extents = extent(DATA + GIB, 4 * MIB);
    let again = MapRequest::extents(&extents).at(VA + GIB);
    let job = prepare_rebind(&mut world, &other, &[again], Live::MustNotFault).unwrap();
    world.finish(job);
    world.assert_maps(VA + GIB..VA + GIB + 4 * MIB, DATA + GIB);
    other.zap(&mut world.mmio).unwrap();
    world.assert_faults(VA + GIB..VA + GIB + 4 * MIB);
    world.assert_no_leak();
    drop(begun);
    // Behind the end of the space there is nothing to clear.
    let World { vmm, mut mmio, mut pool, .. } = world;
    vmm.close(&mut mmio, &mut pool).unwrap();
    mmio.bar0().reset_counts();
    other.zap(&mut mmio).unwrap();
    assert_eq!(mmio.bar0().counts().writes, 0);
}

#[test]
fn memory_that_two_mappings_share_is_not_kept_from_one_to_the_other() {
    let mut world = World::<V3>::new("gh100");
    let old = map(&mut world, VA, DATA, MIB, Some(PageSize::Size4K));
    let extents = extent(DATA + KIB64, KIB64);
    let request = MapRequest::extents(&extents).at(VA + KIB64).page(PageSize::Size4K).evictable();
    let operations = [Bind::Map(request)];
    let job = world.prepare_with(|vmm, pool| vmm.plan_bind(pool, &operations, Live::Quiesced)).unwrap();
    let new = world.vmm.zap(VA + KIB64).unwrap();
    // The old mapping goes while the job waits; the pages are the new one's by then.
    old.zap(&mut world.mmio).unwrap();
    world.finish(job);
    world.assert_maps(VA + KIB64..VA + 2 * KIB64, DATA + KIB64);
    world.assert_faults(VA..VA + KIB64);
    old.zap(&mut world.mmio).unwrap();
    world.assert_maps(VA + KIB64..VA + 2 * KIB64, DATA + KIB64);
    new.zap(&mut world.mmio).unwrap();
    world.assert_faults(VA..VA + MIB);
    world.assert_clean();
}

/// One zap through hardware that fails from its call number `left` on.
fn flaky_zap<F: Format>(world: &mut World<F>, zap: &Zap, left: u64) -> Result<(), ZapError> {
    let mut hardware = Flaky { hardware: &mut world.mmio, left };
    zap.write(&mut hardware)?;
    for _ in 0..100 {
        if zap.poll_flush(&mut hardware)? == Poll::Done {
            return Ok(());
        }
        hardware.hardware.relax();
    }
    panic!("no end of the invalidate");
}

#[test]
fn a_zap_that_fails_anywhere_is_made_again() {
    let mut world = World::<V3>::new("gh100");
    let mut left = 0;
    loop {
        let zap = map(&mut world, VA, DATA, 3 * MIB, Some(PageSize::Size4K));
        world.assert_maps(VA..VA + MIB, DATA);
        let done = flaky_zap(&mut world, &zap, left);
        if done.is_err() {
            assert_eq!(done, Err(ZapError::Device(FAILED)));
            // Jobs know already: nothing of what the failed zap left can be cut or protected back to life.
            assert_eq!(world.vmm.zapped().count(), 1);
            zap.zap(&mut world.mmio).unwrap();
        }
        world.assert_faults(VA..VA + 3 * MIB);
        world.unmap(VA..VA + 3 * MIB);
        world.assert_clean();
        if done.is_ok() {
            break;
        }
        left += 1;
    }
    assert!(left >= 4, "only {left} calls can fail");
}

/// What a job that waits does to each page: nothing there, or memory and the mapping that can take it away.
struct Waiting {
    job: Job,
    pages: Vec<(u64, Option<(u64, usize)>)>,
    /// The records before it, and the generations of mappings that it writes pages of.
    before: (BTreeMap<u64, (u64, usize)>, Vec<u64>),
    writes: Vec<(usize, u64)>,
}

/// Mappings by number, pages by address, zaps counted: the naive model of evictable mappings.
struct Naive<F: Format> {
    world: World<F>,
    zaps: Vec<Zap>,
    /// How often each was zapped, and the count at which its pages were bound.
    zapped: Vec<u64>,
    bound: Vec<u64>,
    /// After all jobs that were prepared, and what the GPU has.
    records: BTreeMap<u64, (u64, usize)>,
    hardware: BTreeMap<u64, (u64, usize)>,
    waiting: Vec<Waiting>,
    rebinds: u64,
    tally: BTreeMap<&'static str, u64>,
}

const SPAN: u64 = 6 * MIB;

impl<F: Format> Naive<F> {
    fn new(chip: &str) -> Self {
        let (records, hardware) = (BTreeMap::new(), BTreeMap::new());
        let (zaps, zapped, bound, waiting) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            world: World::new(chip),
            zaps,
            zapped,
            bound,
            records,
            hardware,
            waiting,
            rebinds: 0,
            tally: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Takes the job of a change after which `range` of the records is `new`; pages beside it that were cut are in `job`.
    /// `only` says whose pages alone it changes.
    fn wait(
        &mut self,
        job: Job,
        bound: Vec<u64>,
        range: Range<u64>,
        only: Option<usize>,
        new: impl Fn(u64) -> Option<(u64, usize)>,
    ) {
        let before = (self.records.clone(), std::mem::replace(&mut self.bound, bound));
        let span = job.range().start.min(range.start)..job.range().end.max(range.end);
        for va in range.step_by(4096) {
            match new(va) {
                Some(page) => self.records.insert(va, page),
                None => self.records.remove(&va),
            };
        }
        let mut writes = Vec::new();
        let mut pages = Vec::new();
        for va in span.step_by(4096) {
            let page = self.records.get(&va).copied();
            if only.is_some_and(|only| page.is_none_or(|page| page.1 != only)) {
                continue;
            }
            let there = page.filter(|(_, owner)| self.bound[*owner] == self.zapped[*owner]);
            if let Some((_, owner)) = there {
                writes.push((owner, self.zapped[owner]));
            }
            pages.push((va, there));
        }
        writes.sort_unstable();
        writes.dedup();
        self.waiting.push(Waiting { job, pages, before, writes });
    }

    fn prepare(&mut self, random: &mut Random) {
        let page = [4096, KIB64, 2 * MIB][random.index(3)];
        let start = VA + random.below(SPAN / page) * page;
        let bytes = page * (1 + random.below(((VA + SPAN - start) / page).min(40)));
        let range = start..start + bytes;
        let to = DATA + random.below(64) * 2 * MIB + (start & (2 * MIB - 1));
        let memory = |va: u64| to + (va - start);
        let extents = extent(to, bytes);
        let mut bound = self.bound.clone();
        match random.below(4) {
            0 | 1 => {
                let number = self.zaps.len();
                let operations = [Bind::Map(MapRequest::extents(&extents).at(start).evictable())];
                let plan = self.world.prepare_with(|vmm, pool| vmm.plan_bind(pool, &operations, Live::Quiesced));
                self.zaps.push(self.world.vmm.zap(start).unwrap());
                self.zapped.push(0);
                self.bound.push(0);
                bound.push(0);
                self.count("map");
                self.wait(plan.unwrap(), bound, range, None, |va| Some((memory(va), number)));
            }
            2 => {
                let Ok(job) = self.world.prepare_unmap(Span::new(range.clone()).quiesced()) else { return };
                self.count("unmap");
                self.wait(job, bound, range, None, |_| None);
            }
            _ => {
                // All pages of one mapping elsewhere.
                let Some((_, (_, owner))) = self.records.range(start..).next().map(|(va, page)| (*va, *page)) else {
                    return;
                };
                let mine: Vec<u64> =
                    self.records.iter().filter(|(_, page)| page.1 == owner).map(|(va, _)| *va).collect();
                // Never to where they are: such pages would be kept, and not written.
                self.rebinds += 1;
                let elsewhere = DATA + 3 * GIB + self.rebinds * 8 * MIB;
                let shift = move |va: u64| elsewhere + (va - VA);
                let extents: Vec<_> = mine.iter().map(|va| extent(shift(*va), 4096)).collect();
                let maps: Vec<_> =
                    mine.iter().zip(&extents).map(|(va, extent)| MapRequest::extents(extent).at(*va)).collect();
                let zap = self.zaps[owner].clone();
                let job = prepare_rebind(&mut self.world, &zap, &maps, Live::Quiesced).unwrap();
                bound[owner] = self.zapped[owner];
                self.count("rebind");
                let old = self.records.clone();
                let hull = mine[0]..mine[mine.len() - 1] + 4096;
                self.wait(job, bound, hull, Some(owner), |va| match old.get(&va) {
                    Some(page) if page.1 == owner => Some((shift(va), owner)),
                    page => page.copied(),
                });
            }
        }
    }

    fn zap(&mut self, random: &mut Random) {
        if self.zaps.is_empty() {
            return;
        }
        let number = random.index(self.zaps.len().min(6)) + self.zaps.len().saturating_sub(6);
        self.zaps[number].zap(&mut self.world.mmio).unwrap();
        self.zapped[number] += 1;
        self.hardware.retain(|_, page| page.1 != number);
        self.count("zap");
    }

    /// Executes the oldest job, with a zap in the midst of it now and then.
    fn execute(&mut self, random: &mut Random) {
        if self.waiting.is_empty() {
            return;
        }
        let mut first = self.waiting.remove(0);
        let mut begun = false;
        loop {
            let stale = first.writes.iter().any(|(owner, at)| self.zapped[*owner] != *at);
            let wrote = first.job.write_some(&mut self.world.mmio, 1 + random.below(300));
            if wrote == Err(ExecuteError::Zapped) {
                assert!(stale, "nothing that the job writes was zapped");
                self.count("zapped");
                if !begun && first.job.state() == State::Prepared {
                    self.waiting.insert(0, first);
                    return self.cancel_all();
                }
                first.job.skip_zapped();
                first.writes.retain(|(owner, at)| self.zapped[*owner] == *at);
                continue;
            }
            assert!(!stale, "a zap went unseen");
            begun = true;
            if wrote.unwrap() {
                if self.flush(&mut first) {
                    break;
                }
            } else if random.one_in(3) {
                self.zap(random);
                self.count("midway");
            }
        }
        for (va, page) in first.pages {
            // What was zapped since the job was prepared has no page.
            match page.filter(|(_, owner)| self.zapped[*owner] == first_bound(&first.writes, *owner)) {
                Some(page) => self.hardware.insert(va, page),
                None => self.hardware.remove(&va),
            };
        }
        let receipt = first.job.finish().unwrap();
        self.world.vmm.commit(&mut self.world.pool, receipt).unwrap();
        self.world.notes.tell(self.world.mmio.bar0());
    }

    fn flush(&mut self, first: &mut Waiting) -> bool {
        first.job.flush(&mut self.world.mmio).unwrap() == Flushed::Done
    }

    fn cancel_all(&mut self) {
        while let Some(Waiting { job, before: (records, bound), .. }) = self.waiting.pop() {
            self.world.cancel(job);
            self.records = records;
            let known = self.bound.len();
            self.bound = bound;
            self.bound.resize(known, 0);
            self.count("cancel");
        }
    }

    fn judge(&mut self) {
        for va in (VA..VA + SPAN).step_by(4096) {
            let found = self.world.access(va).ok().map(|found| found.to);
            let expected = self.hardware.get(&va).map(|page| PhysAddr::vram(page.0));
            assert_eq!(found, expected, "{va:#x}");
        }
        self.world.assert_clean();
        if self.waiting.is_empty() {
            self.world.assert_no_leak();
        }
    }
}

/// The zap count with which a job may write pages of a mapping; none equals `u64::MAX`.
fn first_bound(writes: &[(usize, u64)], owner: usize) -> u64 {
    writes.iter().find(|(mapping, _)| *mapping == owner).map_or(u64::MAX, |(_, at)| *at)
}

fn random_zaps<F: Format>(chip: &str, seed: u64, steps: usize) -> BTreeMap<&'static str, u64> {
    let mut random = Random(seed);
    let mut naive = Naive::<F>::new(chip);
    for step in 0..steps {
        match random.below(8) {
            0..=2 => naive.prepare(&mut random),
            3..=5 => naive.execute(&mut random),
            6 => naive.zap(&mut random),
            _ if random.one_in(4) => naive.cancel_all(),
            _ => {}
        }
        if step % 4 == 0 {
            naive.judge();
        }
    }
    while !naive.waiting.is_empty() {
        naive.execute(&mut random);
    }
    naive.judge();
    naive.tally
}

#[test]
fn random_zaps_and_jobs_do_what_the_naive_model_says() {
    let mut sum = BTreeMap::new();
    for seed in 0..16 {
        println!("seed {seed}");
        for (what, times) in
            random_zaps::<V3>("gh100", seed, 120).into_iter().chain(random_zaps::<V2>("ad102", seed, 120))
        {
            *sum.entry(what).or_insert(0) += times;
        }
    }
    println!("{sum:?}");
    for what in ["map", "unmap", "rebind", "zap", "zapped", "midway", "cancel"] {
        assert!(sum.get(what).is_some_and(|times| *times > 20), "{what}: {sum:?}");
    }
}
