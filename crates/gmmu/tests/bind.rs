//! Bind jobs: the cases that DRM GPUVM documents, and a page-wise model.
#![expect(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::{Random, World, DATA, GIB, MIB};
use gmmu::addr::{PageSize, PhysAddr};
use gmmu::format::{Format, V2, V3};
use gmmu::vmm::{Bind, Extent, Job, Live, MapRequest, PrepareError, Region, Step};
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
    fn range(self) -> Range<u64> {
        VA + self.first * PAGE..VA + self.end * PAGE
    }
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

/// A region as `pages object+offset`.
fn told(region: &Region) -> String {
    let page = |va: u64| va.wrapping_sub(VA) / PAGE;
    let (range, offset) = (&region.range, region.offset / PAGE);
    format!("{}..{} {}+{offset}", page(range.start), page(range.end), region.object)
}

/// What an operation would do, step by step.
fn steps<F: Format>(world: &World<F>, operation: &Bind<'_>) -> String {
    let all = world.vmm.bind_steps(operation).unwrap().map(|step| match step {
        Step::Map(region) => format!("map {}", told(&region)),
        Step::Unmap { unmap, keep } => format!("unmap {}{}", told(&unmap), if keep { ", keep" } else { "" }),
        Step::Remap { prev, next, unmap, keep } => {
            let left = [prev, next].map(|left| left.map_or("-".to_owned(), |left| told(&left)));
            format!("{} to {} and {}{}", told(&unmap), left[0], left[1], if keep { ", keep" } else { "" })
        }
    });
    all.collect::<Vec<_>>().join("; ")
}

/// One documented case: what is there, what is asked for, what GPUVM does to the mapping that is there, and what is there
/// afterwards.
fn case(there: Map, asked: Map, step: &str, after: &[(Range<u64>, u64, u64)], rewritten: u64) {
    let mut world = World::<V3>::new("gh100");
    bind(&mut world, there);
    let (extents, map) =
        (asked.extent(), Region { range: asked.range(), object: asked.object, offset: asked.offset * PAGE });
    let told = steps(&world, &Bind::Map(asked.request(&extents)));
    assert_eq!(told, format!("{step}; map {}", self::told(&map)));
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
    case(map(0, 2, 1, 0), map(0, 2, 1, 0), "unmap 0..2 1+0, keep", &[(0..2, 1, 0)], 0);
}
#[test]
fn case_2_identical_but_for_the_offset() {
    case(map(0, 2, 1, 0), map(0, 2, 1, 4), "unmap 0..2 1+0", &[(0..2, 1, 4)], 2);
}
#[test]
fn case_3_identical_but_for_the_object() {
    case(map(0, 2, 1, 0), map(0, 2, 2, 0), "unmap 0..2 1+0", &[(0..2, 2, 0)], 2);
}
#[test]
fn case_4_a_left_aligned_subset_is_kept() {
    case(map(0, 2, 1, 0), map(0, 1, 1, 0), "0..2 1+0 to - and 1..2 1+1, keep", &[(0..2, 1, 0)], 0);
}
#[test]
fn case_5_the_left_part_of_another_object() {
    case(map(0, 2, 1, 0), map(0, 1, 2, 0), "0..2 1+0 to - and 1..2 1+1", &[(0..1, 2, 0), (1..2, 1, 1)], 1);
}
#[test]
fn case_6_the_left_part_with_another_offset() {
    case(map(0, 2, 1, 0), map(0, 1, 1, 4), "0..2 1+0 to - and 1..2 1+1", &[(0..1, 1, 4), (1..2, 1, 1)], 1);
}
#[test]
fn case_7_the_right_part_of_another_object() {
    case(map(0, 2, 1, 0), map(1, 2, 2, 0), "0..2 1+0 to 0..1 1+0 and -", &[(0..1, 1, 0), (1..2, 2, 0)], 1);
}
#[test]
fn case_8_the_right_part_of_the_same_object_is_kept() {
    case(map(0, 2, 1, 0), map(1, 2, 1, 1), "0..2 1+0 to 0..1 1+0 and -, keep", &[(0..2, 1, 0)], 0);
}
#[test]
fn case_9_over_the_end_with_another_object() {
    case(map(0, 2, 1, 0), map(1, 3, 2, 0), "0..2 1+0 to 0..1 1+0 and -", &[(0..1, 1, 0), (1..3, 2, 0)], 2);
}
#[test]
fn case_10_over_the_end_of_the_same_object_writes_what_is_new() {
    case(map(0, 2, 1, 0), map(1, 3, 1, 1), "0..2 1+0 to 0..1 1+0 and -, keep", &[(0..3, 1, 0)], 1);
}
#[test]
fn case_11_the_centre_of_another_object() {
    case(
        map(0, 3, 1, 0),
        map(1, 2, 2, 0),
        "0..3 1+0 to 0..1 1+0 and 2..3 1+2",
        &[(0..1, 1, 0), (1..2, 2, 0), (2..3, 1, 2)],
        1,
    );
}
#[test]
fn case_12_the_centre_of_the_same_object_is_kept() {
    case(map(0, 3, 1, 0), map(1, 2, 1, 1), "0..3 1+0 to 0..1 1+0 and 2..3 1+2, keep", &[(0..3, 1, 0)], 0);
}
#[test]
fn case_13_a_right_aligned_subset_is_replaced() {
    case(map(1, 2, 1, 0), map(0, 2, 2, 0), "unmap 1..2 1+0", &[(0..2, 2, 0)], 2);
}
#[test]
fn case_14_a_centred_subset_is_replaced() {
    case(map(1, 2, 1, 0), map(0, 3, 2, 0), "unmap 1..2 1+0", &[(0..3, 2, 0)], 3);
}
#[test]
fn case_15_over_the_start() {
    case(map(1, 3, 1, 0), map(0, 2, 2, 0), "1..3 1+0 to - and 2..3 1+1", &[(0..2, 2, 0), (2..3, 1, 1)], 2);
}

/// Unmaps of part, all, several and none: what is beside stays.
#[test]
fn unmaps_exact_left_right_both_several_and_none() {
    type Case = (Range<u64>, &'static str, &'static [(Range<u64>, u64, u64)]);
    let cases: [Case; 6] = [
        (0..4, "unmap 0..4 1+0", &[(6..8, 2, 0)]),
        (2..4, "0..4 1+0 to 0..2 1+0 and -", &[(0..2, 1, 0), (6..8, 2, 0)]),
        (0..2, "0..4 1+0 to - and 2..4 1+2", &[(2..4, 1, 2), (6..8, 2, 0)]),
        (1..3, "0..4 1+0 to 0..1 1+0 and 3..4 1+3", &[(0..1, 1, 0), (3..4, 1, 3), (6..8, 2, 0)]),
        (3..7, "0..4 1+0 to 0..3 1+0 and -; 6..8 2+0 to - and 7..8 2+1", &[(0..3, 1, 0), (7..8, 2, 1)]),
        (4..6, "", &[(0..4, 1, 0), (6..8, 2, 0)]),
    ];
    for (gone, step, after) in cases {
        let mut world = World::<V3>::new("gh100");
        bind(&mut world, map(0, 4, 1, 0));
        bind(&mut world, map(6, 8, 2, 0));
        let gone = VA + gone.start * PAGE..VA + gone.end * PAGE;
        assert_eq!(steps(&world, &Bind::Unmap(gone.clone())), step);
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
    let (beside, extents) = (map(2, 4, 2, 0), map(2, 4, 2, 0).extent());
    assert_eq!(steps(&world, &Bind::Map(beside.request(&extents))), "map 2..4 2+0");
    assert_eq!(bind(&mut world, beside), 2 + 3);
    assert_eq!(books(&world), [(0..2, 1, 0), (2..4, 2, 0)]);
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 2 * PAGE }];
    let last = (1 << 57) - 2 * PAGE;
    let job = prepare(&mut world, &[Bind::Map(MapRequest::extents(&extents).at(last))], Live::MustNotFault).unwrap();
    world.finish(job);
    world.assert_maps(last..1 << 57, DATA);
    let beyond = [Bind::Map(MapRequest::extents(&extents).at(last + PAGE))];
    let refused = prepare(&mut world, &beyond, Live::MustNotFault).unwrap_err();
    assert!(matches!(refused, PrepareError::BeyondVa { .. }), "{refused}");
    assert_eq!(world.vmm.bind_steps(&beyond[0]).map(Iterator::count), Err(refused));
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

/// What every page is a part of: an object, and the page of it.
type Parts = BTreeMap<u64, (u64, u64)>;

/// Carries out the steps of an operation on mappings, and asserts that there are not too many, and that exactly what is
/// mapped again as it was in `pages` is kept.
fn step_by_step(mappings: &mut BTreeMap<u64, Region>, pages: &Parts, asked: Option<&Region>, all: &[Step]) {
    let put = |mappings: &mut BTreeMap<u64, Region>, region: &Region| {
        let beside = mappings.range(..region.range.end).next_back();
        assert!(beside.is_none_or(|(_, below)| below.range.end <= region.range.start), "{region:x?} over {beside:x?}");
        assert!(mappings.insert(region.range.start, region.clone()).is_none());
    };
    let remaps = all.iter().filter(|step| matches!(step, Step::Remap { .. })).count();
    assert!(remaps <= 2, "{all:x?}");
    let maps: Vec<&Step> = all.iter().filter(|step| matches!(step, Step::Map(_))).collect();
    assert_eq!(maps.first().copied(), asked.map(|asked| Step::Map(asked.clone())).as_ref());
    assert!(maps.len() <= 1 && (maps.is_empty() || all.last() == Some(maps[0])), "one map, and last: {all:x?}");
    for step in all {
        let (Step::Unmap { unmap, keep } | Step::Remap { unmap, keep, .. }) = step else {
            put(mappings, asked.unwrap());
            continue;
        };
        assert_eq!(mappings.remove(&unmap.range.start).as_ref(), Some(unmap));
        if let Step::Remap { prev, next, .. } = step {
            [prev, next].into_iter().flatten().for_each(|left| put(mappings, left));
        }
        // Every page that is met is as it is to be, or none is.
        let same = asked.map(|asked| {
            let both = asked.range.start.max(unmap.range.start)..asked.range.end.min(unmap.range.end);
            both.step_by(PAGE as usize).all(|va| {
                let (object, page) = pages[&va];
                object != 0 && (object, page) == (asked.object, (asked.offset + (va - asked.range.start)) / PAGE)
            })
        });
        assert_eq!(*keep, same.unwrap_or(false), "{step:x?} for {asked:x?}");
    }
}

/// The steps of random operations, applied to mappings, come to what a map of pages comes to, and to what the records say.
#[test]
fn the_steps_of_random_operations_do_what_a_page_map_does() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut world = World::<V3>::new("gh100");
        let mut pages = Parts::new();
        for _ in 0..60 {
            let size = [1, 1, 16, 512][random.index(4)];
            let first = random.below(PAGES / size) * size;
            let end = (first + (1 + random.below(20)) * size).min(PAGES);
            let offset = if random.one_in(2) { first } else { random.below(64) * size };
            let asked = map(first, end, random.below(3), offset);
            let extents = asked.extent();
            let gone = random.one_in(3);
            let request = MapRequest { page: None, ..asked.request(&extents) };
            let operation = if gone { Bind::Unmap(asked.range()) } else { Bind::Map(request) };
            let all: Vec<Step> = world.vmm.bind_steps(&operation).unwrap().collect();
            let mut mappings = BTreeMap::new();
            // All that there is, by what an unmap of everything would meet.
            for step in world.vmm.bind_steps(&Bind::Unmap(VA..VA + PAGES * PAGE)).unwrap() {
                let Step::Unmap { unmap, keep: false } = step else { panic!("{step:x?}") };
                mappings.insert(unmap.range.start, unmap);
            }
            let region = Region { range: asked.range(), object: asked.object, offset: asked.offset * PAGE };
            step_by_step(&mut mappings, &pages, Some(&region).filter(|_| !gone), &all);
            for va in asked.range().step_by(PAGE as usize) {
                pages.remove(&va);
                if !gone {
                    pages.insert(va, (asked.object, asked.offset + (va - asked.range().start) / PAGE));
                }
            }
            let expand = |range: Range<u64>, object, offset: u64| {
                let page = move |va| (va, (object, (offset + (va - range.start)) / PAGE));
                range.clone().step_by(PAGE as usize).map(page)
            };
            let stepped: Parts =
                mappings.into_values().flat_map(|region| expand(region.range, region.object, region.offset)).collect();
            assert_eq!(stepped, pages, "{operation:x?}");
            let job = prepare(&mut world, &[operation], Live::Quiesced).unwrap();
            world.finish(job);
            let booked = |(range, piece): (Range<u64>, &gmmu::vmm::Piece)| {
                let offset = range.start.wrapping_sub(piece.mapping);
                expand(range, piece.object, offset)
            };
            assert_eq!(world.vmm.pieces().flat_map(booked).collect::<Parts>(), pages);
        }
    }
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
