//! Address spaces that firmware made: what is found in them, what is busy, and what stays.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    clippy::cloned_ref_to_slice_refs,
    clippy::allow_attributes,
    reason = "tests"
)]

mod common;
mod firmware;
#[path = "random/flaky.rs"]
mod flaky;

use common::{config, Random, World, DATA, GIB};
use firmware::{closed, leaf, Adopted, Hand, Image, LIMIT};
use gmmu::addr::{PageSize, PhysAddr, SysAddr, TableAddr};
use gmmu::chip::PageSizes;
use gmmu::device::DeviceError;
use gmmu::format::{Flags, Format, Link, Slot, V2, V3};
use gmmu::vmm::{AdoptError, Bind, CloseError, Extent, Live, MapRequest, PrepareError, Protection, Span, Vmm};
use gmmu::walk::{Cursor, Event, View};
use gmmu_sim::{AccessKind, Client, Config};
use std::ops::Range;

const K4: u64 = 4 << 10;
const K64: u64 = 64 << 10;
const M2: u64 = 2 << 20;
const M512: u64 = 512 << 20;
const VA: u64 = 4 * GIB;

fn both(test2: fn(&str), test3: fn(&str)) {
    test2("ga100");
    test3("gh100");
}

fn foreign<F: Format>(vmm: &Vmm<F>) -> Vec<Range<u64>> {
    vmm.foreign().collect()
}

// What is found.

fn image_of(bytes: &[u8], root: u64) -> Image {
    let mut image = Image { root, ..Image::default() };
    for (at, word) in (0..).step_by(8).zip(bytes.chunks_exact(8)) {
        image.set(at, u64::from_le_bytes(word.try_into().unwrap()));
    }
    image
}

/// All that translates under the root, neighbours together.
fn translations<F: Format>(image: &mut Image) -> Vec<Range<u64>> {
    let (all, root) = (0..1 << F::VA_BITS, TableAddr::vram(image.root));
    let mut cursor = Cursor::<F>::new(root, PageSizes::UP_TO_256G, all, View::Translations, 10_000).unwrap();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    while let Some(event) = cursor.next(image).unwrap() {
        let Event::Entry { va, step } = event else { continue };
        match ranges.last_mut() {
            Some(last) if last.end == va => last.end += step.level.span(),
            _ => ranges.push(va..va + step.level.span()),
        }
    }
    ranges
}

fn nvidia<F: Format>(chip: &str, bytes: &[u8]) {
    let mut image = image_of(bytes, 0x10000);
    let vmm = image.try_adopt::<F>(chip, LIMIT).unwrap();
    let expected = translations::<F>(&mut image);
    assert!(expected.len() > 30);
    assert_eq!(foreign(&vmm), expected);
}

#[test]
fn page_tables_that_nvidias_walker_wrote_are_found_exactly() {
    nvidia::<V2>("ga100", include_bytes!("data/nv-v2-12.img"));
    nvidia::<V3>("gb100", include_bytes!("data/nv-v3-12.img"));
}

/// Pages of every size that all chips of the tests have, and sparse ranges of every size.
const SPOTS: [Range<u64>; 8] = [
    VA..VA + 3 * K4,
    VA + K64..VA + 3 * K64,
    VA + 2 * M2..VA + 4 * M2,
    VA + M512..VA + 2 * M512,
    VA + 8 * M2 + K4..VA + 8 * M2 + 3 * K4,
    VA + 9 * M2..VA + 9 * M2 + K64,
    VA + 10 * M2..VA + 11 * M2,
    VA + 4 * M512..VA + 5 * M512,
];

fn spots<F: Format>(chip: &str) -> Adopted<F> {
    let mut world = World::<F>::new(chip);
    for (n, page) in (0..).zip([PageSize::Size4K, PageSize::Size64K, PageSize::Size2M, PageSize::Size512M]) {
        let Range { start, end } = SPOTS[n];
        world.map(start, DATA + n as u64 * GIB, end - start, Some(page));
    }
    for range in &SPOTS[4..] {
        let job = world.prepare_sparse(range.clone()).unwrap();
        world.finish(job);
    }
    Image::of(&mut world).adopted(&Config::chip(chip))
}

fn tells_what_is_firmwares<F: Format>(chip: &str) {
    let mut space = spots::<F>(chip);
    let mut expected = SPOTS.to_vec();
    expected.sort_by_key(|range| range.start);
    assert_eq!(foreign(&space.world.vmm), expected);
    let census = space.world.vmm.census();
    let tables = space.world.vmm.foreign_tables().unwrap();
    assert_eq!(census.foreign_tables, census.directories + census.leaf_tables);
    assert_eq!(tables.len(), census.foreign_tables);
    assert!(tables.iter().any(|(at, bytes)| (at.raw(), *bytes) == (space.image.root, 4096)));
    assert!(space.world.vmm.tables().unwrap().is_empty());
    assert_eq!((space.world.vmm.pieces().count(), census.jobs, space.world.vmm.reclaimable()), (0, 0, 0));
    // A page in a table of firmware's, and one that needs tables of ours.
    space.world.map(VA + 3 * K4, DATA, K4, None);
    assert_eq!(space.world.vmm.census().directories + space.world.vmm.census().leaf_tables, tables.len());
    space.world.map(1 << 46, DATA, K4, None);
    space.world.assert_no_leak();
    assert_eq!(space.world.vmm.census().foreign_tables, tables.len());
    assert_eq!(space.world.vmm.pieces().count(), 2);
    space.close();
}

#[test]
fn firmwares_part_is_told_apart() {
    both(tells_what_is_firmwares::<V2>, tells_what_is_firmwares::<V3>);
}

// What is busy.

/// Everything that a refused job must leave as it was.
fn state<F: Format>(space: &mut Adopted<F>) -> String {
    let vmm = &space.world.vmm;
    let pieces: Vec<_> = vmm.pieces().collect();
    let census = gmmu::vmm::Census { mirror_bytes: 0, ..vmm.census() };
    format!("{pieces:?} {census:?} {:?} {:?}", vmm.tables().unwrap().to_vec(), space.world.pool.inner().out)
}

/// Asserts that a prepare is busy with something in `range`, and changes nothing.
fn assert_busy<F: Format>(
    space: &mut Adopted<F>,
    what: &str,
    range: &Range<u64>,
    prepare: impl FnOnce(&mut World<F>) -> Result<gmmu::vmm::Job, PrepareError>,
) {
    let before = state(space);
    match prepare(&mut space.world).map(drop) {
        Err(PrepareError::Busy { with }) => {
            assert!(with.start < range.end && range.start < with.end, "{what} {range:x?}: {with:x?}");
        }
        other => panic!("{what} {range:x?}: {other:?}"),
    }
    assert_eq!(state(space), before, "{what} {range:x?}");
}

fn all_jobs_are_busy<F: Format>(space: &mut Adopted<F>, range: &Range<u64>) {
    let Range { start, end } = *range;
    let extents = [Extent { to: PhysAddr::vram(DATA + (start & (M512 - 1))), bytes: end - start }];
    let map = MapRequest::extents(&extents).at(start);
    let span = || Span::new(range.clone()).quiesced();
    let late = MapRequest::frames((end - start) / K4, PageSize::Size4K).at(start);
    assert_busy(space, "map", range, |world| world.prepare(&map));
    assert_busy(space, "map late", range, |world| world.prepare(&late));
    assert_busy(space, "unmap", range, |world| world.prepare_unmap(span()));
    assert_busy(space, "unmap", range, |world| world.prepare_unmap(range.clone()));
    let flags = Flags { read_only: true, ..Flags::NONE };
    assert_busy(space, "protect", range, |world| world.prepare_protect(span(), Protection::flags(flags)));
    assert_busy(space, "sparse", range, |world| world.prepare_sparse(span()));
    assert_busy(space, "unsparse", range, |world| world.prepare_unsparse(span()));
    assert_busy(space, "defragment", range, |world| {
        world.prepare_with(|vmm, pool| vmm.plan_defragment(pool, span(), PageSize::Size2M))
    });
    for operation in
        [Bind::Map(map.clone()), Bind::Unmap(range.clone()), Bind::Sparse(range.clone()), Bind::Unsparse(range.clone())]
    {
        let before = Bind::Unmap(0..K4);
        let operations = [before, operation];
        assert_busy(space, "bind", range, |world| {
            world.prepare_with(|vmm, pool| vmm.plan_bind(pool, &operations, Live::Quiesced))
        });
    }
}

fn every_job_on_firmwares_pages_is_busy<F: Format>(chip: &str) {
    let mut space = spots::<F>(chip);
    for range in SPOTS {
        // The whole, a page of it, and what reaches in from below and above, where pages of ours may be.
        let last = range.end - K4;
        for part in [range.clone(), range.start..range.start + K4, last..range.end] {
            all_jobs_are_busy(&mut space, &part);
        }
        let free = |range: &Range<u64>| SPOTS.iter().all(|spot| spot.end <= range.start || range.end <= spot.start);
        for (page, both) in [
            (range.start - K4..range.start, range.start - K4..range.start + K4),
            (range.end..range.end + K4, last..range.end + K4),
        ] {
            all_jobs_are_busy(&mut space, &both);
            if free(&page) {
                space.world.map(page.start, DATA, K4, None);
                all_jobs_are_busy(&mut space, &both);
                space.world.unmap(page);
            }
        }
    }
    let everything = 0..1 << F::VA_BITS;
    assert_busy(&mut space, "sparse", &everything, |world| world.prepare_sparse(everything.clone()));
    assert_busy(&mut space, "unmap", &everything, |world| world.prepare_unmap(everything.clone()));
    let refused = space.world.prepare_with(|vmm, pool| vmm.plan_restore(pool)).map(drop);
    assert_eq!(refused, Err(PrepareError::Adopted));
    space.assert_untouched();
    space.world.assert_clean();
    space.close();
}

#[test]
fn every_job_that_touches_firmwares_pages_is_busy() {
    both(every_job_on_firmwares_pages_is_busy::<V2>, every_job_on_firmwares_pages_is_busy::<V3>);
}

fn free_addresses_are_found<F: Format>(chip: &str) {
    let mut space = spots::<F>(chip);
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 2 * K4 }];
    let request = MapRequest::extents(&extents);
    // Pages between those of firmware's, until none is left.
    let window = VA..VA + 2 * K64;
    for n in 0..6 {
        let job = space.world.prepare(&request.clone().within(window.clone())).unwrap();
        assert_eq!(job.range(), VA + (3 + 2 * n) * K4..VA + (5 + 2 * n) * K4);
        space.world.finish(job);
    }
    let full = space.world.prepare(&request.clone().within(window)).map(drop);
    assert!(matches!(full, Err(PrepareError::NoVa(_))), "{full:?}");
    let full = space.world.prepare(&request.within(SPOTS[3].clone())).map(drop);
    assert!(matches!(full, Err(PrepareError::NoVa(_))), "{full:?}");
    space.world.assert_clean();
    space.close();
}

#[test]
fn free_addresses_are_found_between_firmwares() {
    both(free_addresses_are_found::<V2>, free_addresses_are_found::<V3>);
}

fn large_pages_give_way<F: Format>(chip: &str) {
    let mut hand = Hand::default();
    // Tables that are empty: leaf tables in one domain, a directory over the next 512 MiB.
    hand.leaf_tables::<F>(VA + 2 * M2);
    hand.dual::<F>(VA + M512);
    let mut space = hand.image.adopted::<F>(&Config::chip(chip));
    assert_eq!(foreign(&space.world.vmm), []);
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: M512 }];
    let part = |bytes| [Extent { bytes, ..extents[0] }];
    let large = |extents, page| MapRequest { page: Some(page), ..MapRequest::extents(extents) };
    // Asked for, they are busy with the table; and so as parts of a bind job.
    let (two, wide) = (part(M2), part(M512));
    let request = large(&two, PageSize::Size2M).at(VA + 2 * M2);
    assert_busy(&mut space, "2M", &(VA + 2 * M2..VA + 3 * M2), |world| world.prepare(&request));
    assert_busy(&mut space, "2M", &(VA + 2 * M2..VA + 3 * M2), |world| {
        world.prepare_with(|vmm, pool| vmm.plan_bind(pool, &[Bind::Map(request.clone())], Live::Quiesced))
    });
    for va in [VA, VA + M512] {
        let request = large(&wide, PageSize::Size512M).at(va);
        assert_busy(&mut space, "512M", &(va..va + M512), |world| world.prepare(&request));
    }
    // Elsewhere they are not.
    for (extents, page, within, found) in [
        (&two, PageSize::Size2M, VA + 2 * M2..VA + 8 * M2, VA + 3 * M2),
        (&wide, PageSize::Size512M, VA..VA + 8 * M512, VA + 2 * M512),
    ] {
        let job = space.world.prepare(&large(extents, page).within(within)).unwrap();
        assert_eq!(job.range().start, found);
        let range = space.world.finish(job);
        space.world.unmap(range);
    }
    // Left the choice, the space takes smaller ones: 64K where leaf tables are, 2M in the directory.
    for (va, bytes, pages) in [(VA + M2, 4 * M2, vec![PageSize::Size64K]), (VA + M512, M512, vec![PageSize::Size2M])] {
        let range = space.world.map(va, DATA, bytes, None);
        let found: Vec<_> = space.world.vmm.pieces().map(|(_, piece)| piece.page).collect();
        assert_eq!(found, pages);
        space.world.assert_maps(range.start..range.start + 4 * M2, DATA);
        space.assert_untouched();
        space.world.unmap(range);
    }
    space.world.assert_clean();
    space.close();
}

#[test]
fn no_page_takes_the_place_of_a_table_of_firmwares() {
    both(large_pages_give_way::<V2>, large_pages_give_way::<V3>);
}

// What stays.

fn tables_stay<F: Format>(chip: &str) {
    let mut hand = Hand::default();
    hand.leaf_tables::<F>(VA);
    let mut space = hand.image.adopted::<F>(&Config::chip(chip));
    let tables = space.world.vmm.census().foreign_tables;
    // Whole tables come and go, of either size, a few pages, and sparse ranges over all of it.
    for page in [PageSize::Size4K, PageSize::Size64K] {
        for bytes in [M2, page.bytes(), 3 * page.bytes()] {
            let range = space.world.map(VA, DATA, bytes, Some(page));
            space.world.assert_maps(range.clone(), DATA);
            space.world.unmap(range.clone());
            space.world.assert_faults(range);
        }
    }
    for range in [VA..VA + M2, VA + K4..VA + 3 * K64, VA..VA + M512] {
        let job = space.world.prepare_sparse(range.clone()).unwrap();
        space.world.finish(job);
        assert!(space.world.access(range.start + K4).unwrap().sparse);
        let job = space.world.prepare_unsparse(range.clone()).unwrap();
        space.world.finish(job);
        space.world.assert_faults(range.start..range.start + K64);
    }
    // A job of ours is taken back.
    let job = space.world.prepare(&MapRequest::frames(512, PageSize::Size4K).at(VA)).unwrap();
    space.world.cancel(job);
    assert_eq!(space.world.vmm.census().foreign_tables, tables);
    assert_eq!(space.world.vmm.reclaimable(), space.world.vmm.tables().unwrap().iter().map(|(_, bytes)| bytes).sum());
    while let Ok(job) = space.world.prepare_with(|vmm, pool| vmm.plan_reclaim(pool)) {
        space.world.finish(job);
    }
    assert!(space.world.vmm.tables().unwrap().is_empty() && space.world.pool.inner().out.is_empty());
    space.assert_untouched();
    space.world.assert_clean();
    space.close();
}

#[test]
fn empty_tables_of_firmwares_are_used_and_never_dropped() {
    both(tables_stay::<V2>, tables_stay::<V3>);
}

/// A 64K table of firmware's whose slots are open over nothing, closed over nothing, open over pages, closed over pages that
/// nobody sees.
fn mixed_slots<F: Format>(chip: &str, with_small: bool) {
    let mut hand = Hand::default();
    let [big, small] = hand.leaf_tables::<F>(VA);
    if !with_small {
        let dual = hand.dual::<F>(VA);
        hand.image.set(dual + 8, 0);
    }
    hand.image.set(big + 8, closed::<F>());
    hand.image.set(big + 3 * 8, closed::<F>());
    hand.image.set(big + 4 * 8, leaf::<F>(DATA + 4 * K64));
    for page in [2 * 16 + 5, 3 * 16 + 5, 4 * 16 + 5] {
        hand.image.set(small + page * 8, leaf::<F>(DATA + GIB + page * K4));
    }
    let mut space = hand.image.adopted::<F>(&Config::chip(chip));
    let open = VA + 2 * K64 + 5 * K4..VA + 2 * K64 + 6 * K4;
    let hidden = VA + 3 * K64..VA + 5 * K64;
    let expected = if with_small { vec![open.clone(), hidden.clone()] } else { vec![VA + 4 * K64..VA + 5 * K64] };
    assert_eq!(foreign(&space.world.vmm), expected);
    // Pages of either size go into open and closed slots, and leave them.
    for start in [VA, VA + K64, VA + 8 * K64] {
        for page in [PageSize::Size4K, PageSize::Size64K, PageSize::Size4K] {
            let range = space.world.map(start, DATA, K64, Some(page));
            space.world.assert_maps(range.clone(), DATA);
            // Small ones one half after the other.
            let middle = if page == PageSize::Size4K { range.start + K64 / 2 } else { range.end };
            space.world.unmap(range.start..middle);
            if middle < range.end {
                space.world.assert_maps(middle..range.end, DATA + K64 / 2);
                space.world.unmap(middle..range.end);
            }
            space.world.assert_faults(range);
        }
    }
    if with_small {
        // Beside pages of firmware's, small ones only; the slot stays open when they go.
        let beside = VA + 2 * K64..VA + 2 * K64 + 5 * K4;
        let firmwares = PhysAddr::vram(DATA + GIB + (2 * 16 + 5) * K4);
        space.world.map(beside.start, DATA, beside.end - beside.start, None);
        assert_eq!(space.world.access(open.start).unwrap().to, firmwares);
        space.world.unmap(beside.clone());
        assert_eq!(space.world.access(open.start).unwrap().to, firmwares);
        space.world.assert_faults(beside);
        // What nobody could see stays so.
        space.world.assert_faults(hidden.start..hidden.start + K64);
    }
    space.world.assert_clean();
    space.assert_untouched();
    space.world.map(VA, DATA, 2 * K64, Some(PageSize::Size4K));
    space.close();
}

#[test]
fn slots_of_a_64k_table_are_open_or_closed_as_they_were() {
    for with_small in [false, true] {
        mixed_slots::<V2>("tu102", with_small);
        mixed_slots::<V3>("gh100", with_small);
    }
}

fn half_of_a_dual_entry<F: Format>(chip: &str) {
    for half in [0, 1] {
        let mut hand = Hand::default();
        let tables = hand.leaf_tables::<F>(VA);
        let dual = hand.dual::<F>(VA);
        hand.image.set(dual + 8 * (1 - half), 0);
        let page = if half == 0 { K64 } else { K4 };
        hand.image.set(tables[half as usize] + 8, leaf::<F>(DATA));
        let mut space = hand.image.adopted::<F>(&Config::chip(chip));
        let theirs = VA + page..VA + 2 * page;
        assert_eq!(foreign(&space.world.vmm), [theirs.clone()]);
        // The other table is ours: it comes, and goes, by itself.
        let size = if half == 0 { PageSize::Size4K } else { PageSize::Size64K };
        let ours = space.world.map(VA + 4 * K64, DATA + GIB, 4 * K64, Some(size));
        let word = |space: &mut Adopted<F>, at| space.world.gpu().peek_word(TableAddr::vram(at));
        assert_ne!(word(&mut space, dual + 8 * (1 - half)), 0);
        space.world.assert_maps(theirs.clone(), DATA);
        space.world.unmap(ours.clone());
        assert_eq!(word(&mut space, dual + 8 * (1 - half)), 0);
        space.world.assert_maps(theirs.clone(), DATA);
        space.world.assert_faults(ours.clone());
        space.world.map(ours.start, DATA + GIB, K64, Some(size));
        space.assert_untouched();
        let pdb = space.world.vmm.pdb();
        space.world.assert_clean();
        let mut mmio = space.close();
        for va in theirs.clone().step_by(4096) {
            let found = mmio.bar0().access(Client::Engine { pdb }, va, AccessKind::Read, false).unwrap();
            assert_eq!(found.to, PhysAddr::vram(DATA + (va - theirs.start)));
        }
        assert!(mmio.bar0().access(Client::Engine { pdb }, ours.start, AccessKind::Read, false).is_err());
        assert_eq!(mmio.bar0().findings(), &[]);
    }
}

#[test]
fn one_half_of_a_dual_entry_is_firmwares_and_the_other_ours() {
    both(half_of_a_dual_entry::<V2>, half_of_a_dual_entry::<V3>);
}

/// Accesses fail one after the other while a space is closed: it comes back, and the next close leaves all as it was.
fn close_fails<F: Format>(chip: &str) {
    for left in 0.. {
        let mut space = spots::<F>(chip);
        for (va, page) in
            [(VA + 4 * K64, PageSize::Size64K), (VA + 16 * K64, PageSize::Size4K), (1 << 46, PageSize::Size4K)]
        {
            space.world.map(va, DATA, 2 * K64, Some(page));
        }
        let job = space.world.prepare_sparse(VA + M512 - M2..VA + M512).unwrap();
        space.world.finish(job);
        let Adopted { world, image, found } = space;
        let World { mut mmio, mut pool, notes, vmm } = world;
        let mut flaky = flaky::Flaky { hardware: &mut mmio, left };
        let closed = vmm.close(&mut flaky, &mut pool);
        notes.tell(mmio.bar0());
        assert_eq!(mmio.bar0().findings(), &[], "after {left} calls");
        let Err((vmm, why)) = closed else {
            assert!(left > 12 && pool.inner().out.is_empty(), "{left}");
            break;
        };
        assert_eq!(why, CloseError::Device(flaky::FAILED));
        assert!(!pool.inner().out.is_empty(), "{left}: given back too early");
        Adopted { world: World { mmio, pool, notes, vmm }, image, found }.close();
    }
}

#[test]
fn a_close_that_fails_goes_on() {
    both(close_fails::<V2>, close_fails::<V3>);
}

// What is not to be believed.

fn adopt<F: Format>(hand: &mut Hand, chip: &str) -> Vmm<F> {
    hand.image.try_adopt(chip, LIMIT).unwrap()
}

fn entries_that_lead_nowhere<F: Format>(chip: &str) {
    let dual = F::LEVELS.len() - 1;
    let words = [
        u64::MAX,
        0xbadf_1301_badf_1301,
        // Beyond video memory, in system memory that nobody has here, and at the end of all addresses.
        F::encode_link(Slot::Pde, &Link::table(TableAddr::vram(17 * GIB))).unwrap(),
        F::encode_link(Slot::Pde, &Link::table(TableAddr::SysCoherent(SysAddr::new(GIB)))).unwrap(),
        F::encode_link(Slot::Pde, &Link::SPARSE).unwrap(),
        leaf::<F>(DATA),
        1 << 63,
        6,
    ];
    for word in words {
        // In a directory: all that the entry spans is foreign, and nothing else.
        for (n, level) in F::LEVELS.iter().enumerate().skip(1) {
            let mut hand = Hand::default();
            let at = hand.entry::<F>(n, VA);
            let halves = if n == dual { 2 } else { 1 };
            for half in 0..halves {
                let mut hand = hand.clone();
                hand.image.set(at + 8 * half, word);
                let vmm = adopt::<F>(&mut hand, chip);
                let start = VA & !(level.span() - 1);
                assert_eq!(foreign(&vmm), [start..start + level.span()], "{word:#x} at {}", level.name);
            }
        }
        // In a leaf table: one page.
        let mut hand = Hand::default();
        let [big, small] = hand.leaf_tables::<F>(VA);
        hand.image.set(big + 31 * 8, word);
        hand.image.set(small + 8, word);
        let vmm = adopt::<F>(&mut hand, chip);
        let expected = [VA + K4..VA + 2 * K4, VA + 31 * K64..VA + M2];
        assert_eq!(foreign(&vmm), expected, "{word:#x}");
    }
}

#[test]
fn what_means_nothing_is_foreign_over_all_that_it_spans() {
    both(entries_that_lead_nowhere::<V2>, entries_that_lead_nowhere::<V3>);
}

fn tables_reached_twice<F: Format>(chip: &str) {
    let dual = F::LEVELS.len() - 1;
    // Two entries of one directory, at every level; two dual entries with one table.
    for (n, level) in F::LEVELS.iter().enumerate().skip(2) {
        let mut hand = Hand::default();
        hand.entry::<F>(n, VA);
        let (first, second) = (hand.entry::<F>(n - 1, VA), hand.entry::<F>(n - 1, VA) + 3 * 8);
        let word = hand.image.word(first);
        hand.image.set(second, word);
        let span = level.span() << level.bits;
        let (a, b) = (VA & !(span - 1), (VA & !(span - 1)) + 3 * span);
        let expected = [a..a + span, b..b + span];
        assert_eq!(foreign(&adopt::<F>(&mut hand, chip)), expected, "{}", level.name);
    }
    for half in 0..2 {
        let mut hand = Hand::default();
        let (first, second) = (hand.dual::<F>(VA) + 8 * half, hand.dual::<F>(VA + 5 * M2) + 8 * half);
        let (slot, table) = ([Slot::Big, Slot::Small][half as usize], hand.page());
        hand.link::<F>(first, slot, table);
        hand.link::<F>(second, slot, table);
        let expected = [VA..VA + M2, VA + 5 * M2..VA + 6 * M2];
        assert_eq!(foreign(&adopt::<F>(&mut hand, chip)), expected);
        // A 64K table in a page that is a directory elsewhere.
        let mut hand = Hand::default();
        let (dual, other) = (hand.dual::<F>(VA), hand.dual::<F>(VA + M512));
        hand.link::<F>(dual, Slot::Big, (other & !0xfff) + 0xf00);
        let vmm = adopt::<F>(&mut hand, chip);
        let spans: Vec<_> = foreign(&vmm);
        assert!(spans.contains(&(VA..VA + M2)) && spans.iter().any(|span| span.contains(&(VA + M512))), "{spans:x?}");
    }
    // A way back up, from each level to each above it: what the table above translates is foreign, and so is all of it
    // where that is the root.
    for n in 1..dual {
        for above in 0..=n {
            let mut hand = Hand::default();
            let from = hand.entry::<F>(n, VA);
            let to = hand.entry::<F>(above, VA) & !0xfff;
            hand.link::<F>(from, Slot::Pde, to);
            let vmm = adopt::<F>(&mut hand, chip);
            let level = &F::LEVELS[above];
            let span = level.span() << level.bits;
            let start = VA & !(span - 1);
            assert_eq!(foreign(&vmm), [start..start + span], "{n} to {above}");
        }
    }
}

#[test]
fn a_table_that_is_reached_twice_is_foreign_in_both_places() {
    both(tables_reached_twice::<V2>, tables_reached_twice::<V3>);
}

fn more_tables_than_allowed<F: Format>(chip: &str) {
    // Each directory leads to the next from all of its entries: more ways than anybody can go.
    let mut hand = Hand::default();
    let mut table = hand.entry::<F>(0, 0);
    for level in &F::LEVELS[..F::LEVELS.len() - 1] {
        let next = hand.page();
        for entry in 0..level.entries() {
            hand.link::<F>(table + entry * 8, Slot::Pde, next);
        }
        table = next;
    }
    for limit in [1, 10, 3000] {
        let failed = hand.image.try_adopt::<F>(chip, limit).map(drop);
        assert_eq!(failed, Err(AdoptError::TooManyTables { limit }));
        assert!(hand.image.reads <= 512 * (limit as u64 + 1), "{} words for {limit} tables", hand.image.reads);
    }
    // Exactly as many as there are.
    let mut hand = Hand::default();
    hand.leaf_tables::<F>(VA);
    let tables = F::LEVELS.len() + 2;
    assert!(hand.image.try_adopt::<F>(chip, tables).is_ok());
    let failed = hand.image.try_adopt::<F>(chip, tables - 1).map(drop);
    assert_eq!(failed, Err(AdoptError::TooManyTables { limit: tables - 1 }));
}

#[test]
fn no_more_tables_are_read_than_allowed() {
    both(more_tables_than_allowed::<V2>, more_tables_than_allowed::<V3>);
}

fn bad_roots<F: Format>(chip: &str) {
    for word in [u64::MAX, 0xbadf_1301_badf_1301] {
        let mut hand = Hand::default();
        hand.image.set(0x1000, word);
        let failed = hand.image.try_adopt::<F>(chip, LIMIT).map(drop);
        assert!(matches!(failed, Err(AdoptError::NotThere { .. })), "{failed:?}");
    }
    let at = |raw| Image { root: raw, ..Image::default() };
    let failed = at(0x1100).try_adopt::<F>(chip, LIMIT).map(drop);
    assert!(matches!(failed, Err(AdoptError::Space(PrepareError::Unaligned { .. }))), "{failed:?}");
    let failed = at(16 * GIB).try_adopt::<F>(chip, LIMIT).map(drop);
    let beyond = |why: &DeviceError| matches!(why, DeviceError::OutOfRange { .. });
    assert!(matches!(&failed, Err(AdoptError::Space(PrepareError::Device(why))) if beyond(why)), "{failed:?}");
    let other = if chip == "gh100" { "tu102" } else { "gh100" };
    let failed = at(0x1000).try_adopt::<F>(other, LIMIT).map(drop);
    assert!(matches!(failed, Err(AdoptError::Space(PrepareError::WrongFormat { .. }))), "{failed:?}");
    // Nothing in it at all.
    assert_eq!(foreign(&at(0x1000).try_adopt::<F>(chip, 1).unwrap()), []);
}

#[test]
fn a_root_that_is_not_there_is_an_error() {
    both(bad_roots::<V2>, bad_roots::<V3>);
}

/// Memory full of random words, of links that are likely, or of both.
fn random_images<F: Format>(chip: &str) {
    let (mut refused, mut found) = (0, 0);
    for seed in 0..300 {
        let mut random = Random(seed);
        let (pages, links) = (1 + random.below(40), random.below(4));
        let dense = [1, 4, 50, 400][random.index(4)];
        let mut hand = Hand::default();
        for word in (0x1000..0x1000 * (pages + 1)).step_by(8) {
            if !random.one_in(dense) {
                continue;
            }
            let to = 0x1000 * (1 + random.below(pages + 1));
            match random.below(4) {
                n if n < links => hand.link::<F>(word, [Slot::Pde, Slot::Big, Slot::Small][random.index(3)], to),
                _ => {
                    let value = random.next();
                    hand.image.set(word, if random.one_in(2) { value } else { value & 0xff });
                }
            }
        }
        let adopted = hand.image.try_adopt::<F>(chip, 2000);
        assert!(hand.image.reads <= 512 * 2001, "seed {seed}: {} words", hand.image.reads);
        match adopted {
            Err(AdoptError::TooManyTables { .. } | AdoptError::NotThere { .. }) => refused += 1,
            Err(why) => panic!("seed {seed}: {why}"),
            Ok(vmm) => {
                // Nothing that translates was overlooked.
                let known = foreign(&vmm);
                assert!(known.windows(2).all(|pair| pair[0].end < pair[1].start), "seed {seed}");
                for _ in 0..200 {
                    let level = &F::LEVELS[random.index(F::LEVELS.len())];
                    let va = [random.next() >> (64 - F::VA_BITS), random.below(8) * level.span() + random.below(M2)];
                    let va = va[random.index(2)] & ((1 << F::VA_BITS) - 1);
                    let walk = vmm.read_mapping(&mut hand.image, va).unwrap();
                    if walk.outcome != gmmu::walk::Outcome::Unmapped {
                        let is_foreign = known.iter().any(|range| range.contains(&va));
                        assert!(is_foreign, "seed {seed}: {va:#x} is {:?}", walk.outcome);
                    }
                }
                found += 1;
            }
        }
    }
    assert!(refused > 5 && found > 50, "{refused} refused, {found} adopted");
}

#[test]
fn random_memory_is_adopted_or_refused_within_bounds() {
    both(random_images::<V2>, random_images::<V3>);
}

/// Every read fails once.
fn reads_fail<F: Format>(chip: &str) {
    let space = spots::<F>(chip);
    let root = space.world.vmm.pdb();
    let expected = foreign(&space.world.vmm);
    let mut mmio = space.image.card(&Config::chip(chip));
    for left in 0.. {
        let mut flaky = flaky::Flaky { hardware: &mut mmio, left };
        match Vmm::<F>::adopt(config(chip, 16 * GIB), &mut flaky, root, LIMIT) {
            Err(why) => assert_eq!(why, AdoptError::Space(PrepareError::Device(flaky::FAILED))),
            Ok(vmm) => {
                assert!(left > 100, "{left}");
                assert_eq!(foreign(&vmm), expected);
                break;
            }
        }
    }
    // Nothing was written but where the window is.
    let counts = mmio.bar0().counts();
    assert_eq!(counts.writes, counts.window_moves);
}

#[test]
fn every_read_fails_once() {
    both(reads_fail::<V2>, reads_fail::<V3>);
}
