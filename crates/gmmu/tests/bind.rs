//! Bind jobs: the cases that DRM GPUVM documents, and a page-wise model.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Random, World, DATA, GIB, MIB};
use gmmu::addr::{PageSize, PhysAddr};
use gmmu::format::{Format, V2, V3};
use gmmu::vmm::{Bind, Extent, Job, Live, MapRequest, PrepareError};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const VA: u64 = 4 * GIB;
const PAGE: u64 = 4096;
/// Memory of an object: as far from the next one as no test reaches.
const OBJECT: u64 = GIB;

/// Maps pages `first..end` (numbers from [`VA`] on) of an object, from page `offset` of it on.
#[derive(Clone, Copy, Debug)]
struct Map {
    first: u64,
    end: u64,
    object: u64,
    offset: u64,
}

const fn map(first: u64, end: u64, object: u64, offset: u64) -> Map {
    Map { first, end, object, offset }
}

impl Map {
    fn extent(self) -> [Extent; 1] {
        let to = DATA + self.object * OBJECT + self.offset * PAGE;
        [Extent { to: PhysAddr::vram(to), bytes: (self.end - self.first) * PAGE }]
    }
    fn request(self, extents: &[Extent]) -> MapRequest<'_> {
        MapRequest::extents(extents)
            .at(VA + self.first * PAGE)
            .page(PageSize::Size4K)
            .object(self.object, self.offset * PAGE)
    }
}

fn prepare<F: Format>(world: &mut World<F>, ops: &[Bind<'_>], live: Live) -> Result<Job, PrepareError> {
    world.prepare_with(|vmm, pool| vmm.plan_bind(pool, ops, live))
}

fn bind(world: &mut World<V3>, request: Map) -> u64 {
    let extents = request.extent();
    let job = prepare(world, &[Bind::Map(request.request(&extents))], Live::MustNotFault).unwrap();
    assert_eq!(job.rounds(), 1, "4K over 4K needs no round in between");
    world.gpu().reset_counts();
    world.finish(job);
    let counts = world.gpu().counts();
    assert_eq!(counts.invalidates, 1);
    counts.writes
}

/// What is mapped, as (pages, object, offset), mapping by mapping.
fn books<F: Format>(world: &World<F>) -> Vec<(Range<u64>, u64, u64)> {
    let piece = |(range, piece): (Range<u64>, &gmmu::vmm::Piece)| {
        let page = |va: u64| (va - VA) / PAGE;
        (page(range.start)..page(range.end), piece.object, range.start.wrapping_sub(piece.mapping) / PAGE)
    };
    world.vmm.pieces().map(piece).collect()
}

/// One documented case: what is there, what is asked for, and what is there afterwards.
fn case(there: Map, asked: Map, after: &[(Range<u64>, u64, u64)], rewritten: u64) {
    let mut world = World::<V3>::new("gh100");
    bind(&mut world, there);
    let writes = bind(&mut world, asked);
    assert_eq!(books(&world), after);
    for (pages, object, offset) in after {
        let range = VA + pages.start * PAGE..VA + pages.end * PAGE;
        world.assert_maps(range, DATA + object * OBJECT + offset * PAGE);
    }
    // Entries that say already what they are to say are not written; an invalidate takes three.
    assert_eq!(writes, rewritten + 3, "{there:?} {asked:?}");
    world.assert_clean();
    world.unmap(VA..VA + MIB);
    world.assert_no_leak();
}

#[test]
fn case_1_identical_is_kept() {
    case(map(0, 2, 1, 0), map(0, 2, 1, 0), &[(0..2, 1, 0)], 0);
}
#[test]
fn case_2_identical_but_for_the_offset() {
    case(map(0, 2, 1, 0), map(0, 2, 1, 4), &[(0..2, 1, 4)], 2);
}
#[test]
fn case_3_identical_but_for_the_object() {
    case(map(0, 2, 1, 0), map(0, 2, 2, 0), &[(0..2, 2, 0)], 2);
}
#[test]
fn case_4_a_left_aligned_subset_is_kept() {
    case(map(0, 2, 1, 0), map(0, 1, 1, 0), &[(0..2, 1, 0)], 0);
}
#[test]
fn case_5_the_left_part_of_another_object() {
    case(map(0, 2, 1, 0), map(0, 1, 2, 0), &[(0..1, 2, 0), (1..2, 1, 1)], 1);
}
#[test]
fn case_6_the_left_part_with_another_offset() {
    case(map(0, 2, 1, 0), map(0, 1, 1, 4), &[(0..1, 1, 4), (1..2, 1, 1)], 1);
}
#[test]
fn case_7_the_right_part_of_another_object() {
    case(map(0, 2, 1, 0), map(1, 2, 2, 0), &[(0..1, 1, 0), (1..2, 2, 0)], 1);
}
#[test]
fn case_8_the_right_part_of_the_same_object_is_kept() {
    case(map(0, 2, 1, 0), map(1, 2, 1, 1), &[(0..2, 1, 0)], 0);
}
#[test]
fn case_9_over_the_end_with_another_object() {
    case(map(0, 2, 1, 0), map(1, 3, 2, 0), &[(0..1, 1, 0), (1..3, 2, 0)], 2);
}
#[test]
fn case_10_over_the_end_of_the_same_object_writes_what_is_new() {
    case(map(0, 2, 1, 0), map(1, 3, 1, 1), &[(0..3, 1, 0)], 1);
}
#[test]
fn case_11_the_centre_of_another_object() {
    case(map(0, 3, 1, 0), map(1, 2, 2, 0), &[(0..1, 1, 0), (1..2, 2, 0), (2..3, 1, 2)], 1);
}
#[test]
fn case_12_the_centre_of_the_same_object_is_kept() {
    case(map(0, 3, 1, 0), map(1, 2, 1, 1), &[(0..3, 1, 0)], 0);
}
#[test]
fn case_13_a_right_aligned_subset_is_replaced() {
    case(map(1, 2, 1, 0), map(0, 2, 2, 0), &[(0..2, 2, 0)], 2);
}
#[test]
fn case_14_a_centred_subset_is_replaced() {
    case(map(1, 2, 1, 0), map(0, 3, 2, 0), &[(0..3, 2, 0)], 3);
}
#[test]
fn case_15_over_the_start() {
    case(map(1, 3, 1, 0), map(0, 2, 2, 0), &[(0..2, 2, 0), (2..3, 1, 1)], 2);
}

/// Unmaps of part, all, several and none: what is beside stays.
#[test]
fn unmaps_exact_left_right_both_several_and_none() {
    type Case = (Range<u64>, &'static [(Range<u64>, u64, u64)]);
    let cases: [Case; 6] = [
        (0..4, &[(6..8, 2, 0)]),
        (2..4, &[(0..2, 1, 0), (6..8, 2, 0)]),
        (0..2, &[(2..4, 1, 2), (6..8, 2, 0)]),
        (1..3, &[(0..1, 1, 0), (3..4, 1, 3), (6..8, 2, 0)]),
        (3..7, &[(0..3, 1, 0), (7..8, 2, 1)]),
        (4..6, &[(0..4, 1, 0), (6..8, 2, 0)]),
    ];
    for (gone, after) in cases {
        let mut world = World::<V3>::new("gh100");
        bind(&mut world, map(0, 4, 1, 0));
        bind(&mut world, map(6, 8, 2, 0));
        let gone = VA + gone.start * PAGE..VA + gone.end * PAGE;
        let job = prepare(&mut world, &[Bind::Unmap(gone.clone())], Live::MustNotFault).unwrap();
        world.finish(job);
        assert_eq!(books(&world), after);
        world.assert_faults(gone);
        world.assert_clean();
    }
}

/// Neighbours that only touch are left alone, and a range may end at the end of the space.
#[test]
fn touching_neighbours_and_the_end_of_the_space() {
    let mut world = World::<V3>::new("gh100");
    bind(&mut world, map(0, 2, 1, 0));
    assert_eq!(bind(&mut world, map(2, 4, 2, 0)), 2 + 3);
    assert_eq!(books(&world), [(0..2, 1, 0), (2..4, 2, 0)]);
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 2 * PAGE }];
    let last = (1 << 57) - 2 * PAGE;
    let job = prepare(&mut world, &[Bind::Map(MapRequest::extents(&extents).at(last))], Live::MustNotFault).unwrap();
    world.finish(job);
    world.assert_maps(last..1 << 57, DATA);
    let beyond = [Bind::Map(MapRequest::extents(&extents).at(last + PAGE))];
    let refused = prepare(&mut world, &beyond, Live::MustNotFault).unwrap_err();
    assert!(matches!(refused, PrepareError::BeyondVa { .. }), "{refused}");
    world.assert_clean();
}

/// Operations see what those before them did, and all is one job with one invalidate.
#[test]
fn operations_go_in_order_under_one_invalidate() {
    let mut world = World::<V3>::new("gh100");
    let (a, b) = (map(0, 512, 1, 0), map(100, 200, 2, 7));
    let (first, second) = (a.extent(), b.extent());
    let ops = [
        Bind::Sparse(VA..VA + 4 * MIB),
        Bind::Map(a.request(&first)),
        Bind::Unmap(VA + 50 * PAGE..VA + 150 * PAGE),
        Bind::Map(b.request(&second)),
        Bind::Unsparse(VA + 2 * MIB..VA + 4 * MIB),
    ];
    let job = prepare(&mut world, &ops, Live::MustNotFault).unwrap();
    assert_eq!(job.rounds(), 1);
    world.finish(job);
    assert_eq!(books(&world), [(0..50, 1, 0), (100..200, 2, 7), (200..512, 1, 200)]);
    world.assert_maps(VA..VA + 50 * PAGE, DATA + OBJECT);
    world.assert_maps(VA + 100 * PAGE..VA + 200 * PAGE, DATA + 2 * OBJECT + 7 * PAGE);
    for va in (VA + 50 * PAGE..VA + 100 * PAGE).step_by(4096) {
        assert!(world.access(va).unwrap().sparse, "{va:#x}");
    }
    world.assert_faults(VA + 2 * MIB..VA + 2 * MIB + 16 * PAGE);
    world.assert_clean();
    let job = prepare(&mut world, &[Bind::Unmap(VA..VA + 4 * MIB), Bind::Unsparse(VA..VA + 4 * MIB)], Live::Quiesced);
    let job = job.unwrap();
    world.finish(job);
    world.assert_faults(VA..VA + 4 * MIB);
    world.assert_clean();
    world.assert_no_leak();
}

/// Pages that stay as they are become a piece of their own and one with their neighbours again, and once more where the
/// plan is taken back.
#[test]
fn a_job_of_many_parts_that_finds_no_table_leaves_the_records_as_they_were() {
    for parts in 1..40 {
        let mut world = World::<V3>::new("gh100");
        bind(&mut world, map(0, 512, 1, 0));
        let before = books(&world);
        let kept: Vec<Map> = (0..parts).map(|n| map(4 * n + 1, 4 * n + 3, 1, 4 * n + 1)).collect();
        let extents: Vec<_> = kept.iter().map(|kept| kept.extent()).collect();
        let far = MapRequest::extents(&extents[0]).at(VA + 8 * GIB);
        let ops = kept.iter().zip(&extents).map(|(kept, extents)| kept.request(extents));
        let ops: Vec<Bind<'_>> = ops.chain([far]).map(Bind::Map).collect();
        world.pool.inner().allowed = 0;
        let refused = prepare(&mut world, &ops, Live::MustNotFault).unwrap_err();
        assert!(matches!(refused, PrepareError::NoSpace(_)), "{refused}");
        assert_eq!(books(&world), before, "{parts} parts");
        world.pool.inner().allowed = u64::MAX;
        let job = prepare(&mut world, &ops, Live::MustNotFault).unwrap();
        world.cancel(job);
        assert_eq!(books(&world), before, "{parts} parts, cancelled");
    }
}

/// What a page leads to: memory, or nothing; and whether nothing reads as 0.
#[derive(Clone, Default)]
struct Pages {
    mapped: BTreeMap<u64, u64>,
    sparse: BTreeSet<u64>,
}

const PAGES: u64 = 2560;

/// A random operation, carried out on the pages too.
fn operation<'e>(random: &mut Random, pages: &mut Pages, extents: &'e mut [Extent; 1]) -> Bind<'e> {
    let size = [1, 1, 16, 512][random.index(4)];
    let first = random.below(PAGES / size) * size;
    let end = (first + (1 + random.below(20)) * size).min(PAGES);
    let range = VA + first * PAGE..VA + end * PAGE;
    match random.below(8) {
        0 | 1 => {
            pages.mapped.retain(|page, _| !(first..end).contains(page));
            Bind::Unmap(range)
        }
        2 => {
            pages.sparse.extend(first..end);
            Bind::Sparse(range)
        }
        3 => {
            pages.sparse.retain(|page| !(first..end).contains(page));
            Bind::Unsparse(range)
        }
        _ => {
            let object = 1 + random.below(3);
            let offset = if random.one_in(3) { first } else { random.below(64) * size };
            *extents = map(first, end, object, offset).extent();
            pages.mapped.extend((first..end).map(|page| (page, extents[0].to.raw + (page - first) * PAGE)));
            Bind::Map(MapRequest::extents(extents).at(range.start).object(object, offset * PAGE))
        }
    }
}

/// Random bind jobs of many operations, with pages of all sizes, against a map of pages.
fn against_a_page_map<F: Format>(chip: &str, seed: u64) {
    println!("{chip}, seed {seed}");
    let mut random = Random(seed);
    let mut world = World::<F>::new(chip);
    let mut model = Pages::default();
    for _ in 0..30 {
        let mut after = model.clone();
        let mut extents = [[Extent { to: PhysAddr::vram(0), bytes: 0 }]; 8];
        let count = 1 + random.index(8);
        let ops: Vec<Bind<'_>> =
            extents.iter_mut().take(count).map(|extents| operation(&mut random, &mut after, extents)).collect();
        let before = world.vmm.pieces().map(|(range, piece)| (range, *piece)).collect::<Vec<_>>();
        let job = prepare(&mut world, &ops, Live::Quiesced).unwrap();
        assert!(job.rounds() <= 2);
        if random.one_in(4) {
            world.cancel(job);
            assert_eq!(before, world.vmm.pieces().map(|(range, piece)| (range, *piece)).collect::<Vec<_>>());
        } else {
            world.finish(job);
            model = after;
        }
        for page in 0..PAGES {
            let found = world.access(VA + page * PAGE).ok().map(|found| (!found.sparse).then_some(found.to.raw));
            let sparse = model.sparse.contains(&page).then_some(None);
            let wanted = model.mapped.get(&page).map(|to| Some(*to)).or(sparse);
            assert_eq!(found, wanted, "page {page} after {ops:x?}\nover {before:x?}");
        }
        world.assert_clean();
    }
    let all = VA..VA + PAGES * PAGE;
    let job = prepare(&mut world, &[Bind::Unmap(all.clone()), Bind::Unsparse(all.clone())], Live::Quiesced).unwrap();
    world.finish(job);
    world.assert_faults(all);
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn random_bind_jobs_do_what_a_page_map_does() {
    for seed in 0..25 {
        against_a_page_map::<V3>("gh100", seed);
        against_a_page_map::<V2>("ad102", seed);
    }
}
