//! Pages that were cut become large again where that can be.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{frames, Random, World, DATA, GIB, MIB};
use gmmu::addr::{PageSize, PhysAddr};
use gmmu::format::{Flags, Format, V2, V3};
use gmmu::vmm::{Bind, Extent, Job, Live, MapRequest, PrepareError, Protection, Span};
use std::collections::BTreeMap;

const VA: u64 = 4 * GIB;
const KIB64: u64 = 64 << 10;

fn prepare<F: Format>(world: &mut World<F>, span: Span, largest: PageSize) -> Result<Job, PrepareError> {
    world.prepare_with(|vmm, pool| vmm.plan_defragment(pool, span, largest))
}

fn read_only(on: bool) -> Protection {
    Protection::flags(Flags { read_only: on, ..Flags::NONE })
}

#[test]
fn a_page_that_was_cut_becomes_one_again() {
    let mut world = World::<V3>::new("gh100");
    world.map(VA, DATA, 6 * MIB, Some(PageSize::Size2M));
    let tables = world.vmm.tables().unwrap().len();
    let page = VA + 2 * MIB + 5 * 4096..VA + 2 * MIB + 6 * 4096;
    for on in [true, false] {
        let job = world.prepare_protect(Span::new(page.clone()).quiesced(), read_only(on)).unwrap();
        world.finish(job);
    }
    assert_eq!(world.vmm.tables().unwrap().len(), tables + 2);
    let all = || Span::new(VA..VA + 6 * MIB);
    let entry = VA + 2 * MIB..VA + 4 * MIB;
    let refused = prepare(&mut world, all(), PageSize::Size2M).unwrap_err();
    assert_eq!(refused, PrepareError::WouldFault { entry: entry.clone() });
    // The whole page has to lie in the range; what does becomes as large as it can.
    let most = Span::new(VA..entry.end - 4096).quiesced();
    let job = prepare(&mut world, most, PageSize::Size2M).unwrap();
    assert_eq!(job.range(), entry.start..entry.start + KIB64);
    world.cancel(job);
    let job = prepare(&mut world, all().quiesced(), PageSize::Size2M).unwrap();
    assert_eq!((job.range(), job.rounds()), (entry.clone(), 2));
    world.finish(job);
    world.assert_maps(VA..VA + 6 * MIB, DATA);
    assert!(world.vmm.pieces().map(|(range, piece)| (range, piece.page)).eq([(VA..VA + 6 * MIB, PageSize::Size2M)]));
    assert_eq!(world.vmm.tables().unwrap().len(), tables);
    let refused = prepare(&mut world, all().quiesced(), PageSize::Size2M).unwrap_err();
    assert_eq!(refused, PrepareError::NothingToMerge { range: VA..VA + 6 * MIB });
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn frames_that_come_late_and_other_mappings_stay_as_they_are() {
    let mut world = World::<V3>::new("gh100");
    let list: Vec<u64> = (0..16).map(|n| DATA + n * 4096).collect();
    let job = world.prepare(&MapRequest::frames(16, PageSize::Size4K).at(VA)).unwrap();
    let receipt = job.with_frames(&frames(&list)).unwrap().execute(&mut world.mmio).unwrap();
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    // Two mappings side by side, of two objects.
    world.map(VA + MIB, DATA + MIB, KIB64 / 2, Some(PageSize::Size4K));
    world.map(VA + MIB + KIB64 / 2, DATA + MIB + KIB64 / 2, KIB64 / 2, Some(PageSize::Size4K));
    let refused = prepare(&mut world, Span::new(VA..VA + 2 * MIB).quiesced(), PageSize::Size2M).unwrap_err();
    assert_eq!(refused, PrepareError::NothingToMerge { range: VA..VA + 2 * MIB });
}

/// What is mapped, page by page: whether read-only.
type Naive = BTreeMap<u64, bool>;

/// The largest page that the page at `va` can be part of: all of it mapped, alike.
fn largest(naive: &Naive, va: u64) -> PageSize {
    let alike = |page: &PageSize| {
        let start = va & !(page.bytes() - 1);
        (start..start + page.bytes()).step_by(4096).all(|at| naive.get(&at) == naive.get(&va))
    };
    [PageSize::Size2M, PageSize::Size64K].into_iter().find(alike).unwrap_or(PageSize::Size4K)
}

fn random<F: Format>(chip: &str, seed: u64) {
    const SPAN: u64 = 8 * MIB;
    let mut world = World::<F>::new(chip);
    let mut random = Random(seed);
    let mut naive = Naive::new();
    for round in 0..30 {
        for _ in 0..random.below(5) {
            let unit = [4096, KIB64, 2 * MIB][random.index(3)];
            let start = VA + random.below(SPAN / unit) * unit;
            let end = (start + unit * (1 + random.below(40))).min(VA + SPAN);
            let span = Span::new(start..end).quiesced();
            let job = match random.below(5) {
                0 => {
                    naive.retain(|va, _| !(start..end).contains(va));
                    world.prepare_unmap(span)
                }
                1 => {
                    let job = world.prepare_protect(span, read_only(true));
                    if job.is_ok() {
                        naive.range_mut(start..end).for_each(|(_, read_only)| *read_only = true);
                    }
                    job
                }
                _ => {
                    naive.extend((start..end).step_by(4096).map(|va| (va, false)));
                    let extents = [Extent { to: PhysAddr::vram(DATA + start - VA), bytes: end - start }];
                    let page = [None, Some(PageSize::Size4K)][random.index(2)];
                    let request = MapRequest { page, ..MapRequest::extents(&extents).at(start).object(1, start - VA) };
                    world.prepare_with(|vmm, pool| vmm.plan_bind(pool, &[Bind::Map(request)], Live::Quiesced))
                }
            };
            match job {
                Ok(job) => drop(world.finish(job)),
                Err(why) => assert!(matches!(why, PrepareError::NotMapped { .. }), "{why}"),
            }
        }
        let all = Span::new(VA..VA + SPAN).quiesced();
        let top = [PageSize::Size2M, PageSize::Size64K][random.index(2)];
        match prepare(&mut world, all, top) {
            Ok(job) if round % 5 == 4 => world.cancel(job),
            Ok(job) => drop(world.finish(job)),
            Err(why) => assert!(matches!(why, PrepareError::NothingToMerge { .. }), "{why}"),
        }
        for va in (VA..VA + SPAN).step_by(4096) {
            let found = world.access(va).ok().map(|found| (found.to, found.flags.read_only));
            let expected = naive.get(&va).map(|read_only| (PhysAddr::vram(DATA + va - VA), *read_only));
            assert_eq!(found, expected, "seed {seed}, {va:#x}");
        }
        if round % 5 != 4 {
            for (range, piece) in world.vmm.pieces() {
                for va in range.step_by(4096) {
                    let largest = largest(&naive, va);
                    assert!(piece.page >= largest.min(top), "seed {seed}, {va:#x}: {} for {largest}", piece.page);
                }
            }
        }
        world.assert_clean();
        world.assert_no_leak();
    }
}

#[test]
fn random_spaces_keep_what_they_map_in_the_largest_pages() {
    for seed in 0..4 {
        random::<V3>("gh100", seed);
        random::<V2>("ad102", seed);
    }
}
