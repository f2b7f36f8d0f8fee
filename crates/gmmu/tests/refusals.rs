//! What cannot be done is refused with an error that names the value and the limit, and nothing has changed: for every
//! kind of change, and for the frames that come late.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "common/kinds.rs"]
mod kinds;

use common::{World, DATA, GIB, MIB};
use gmmu::addr::{Aperture, PageSize, PeerId, Pfn, PhysAddr, SysAddr, TableAddr};
use gmmu::chip::Chip;
use gmmu::format::{Flags, Format, Kind, V2, V3};
use gmmu::vmm::{
    Backing, Extent, FramesError, Job, Live, MapRequest, PrepareError, Protection, SpaceConfig, Span, Vmm,
};
use kinds::{Armed, KINDS};
use std::ops::Range;

const VA: u64 = 4 * GIB;
const K4: u64 = 4 << 10;
const K64: u64 = 64 << 10;
const COMPRESSIBLE: Kind = Kind(8);

/// A space with 4K pages at `VA`, a compressible 64K and a compressible 2M page behind them, frames that came late behind
/// those, and a sparse range.
fn furnished<F: Format>(chip: &str) -> World<F> {
    let mut world = World::<F>::new(chip);
    world.map(VA, DATA, 8 * K4, Some(PageSize::Size4K));
    for (va, page) in [(VA + MIB, PageSize::Size64K), (VA + 2 * MIB, PageSize::Size2M)] {
        let extents = [Extent { to: PhysAddr::vram(DATA + (va - VA)), bytes: page.bytes() }];
        let job = world.prepare(&MapRequest::extents(&extents).at(va).page(page).kind(COMPRESSIBLE)).unwrap();
        world.finish(job);
    }
    let job = world.prepare(&MapRequest::frames(4, PageSize::Size64K).at(VA + 4 * MIB)).unwrap();
    let frames: Vec<Pfn> = (0..4).map(|n| Pfn::new(DATA / K4 + 16 * n)).collect();
    let receipt = job.with_frames(&frames).unwrap().execute(&mut world.mmio).unwrap();
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    let job = world.prepare_sparse(VA + 16 * MIB..VA + 18 * MIB).unwrap();
    world.finish(job);
    world
}

fn state<F: Format>(world: &mut World<F>) -> String {
    let pieces: Vec<_> = world.vmm.pieces().map(|(range, piece)| (range, *piece)).collect();
    let counts = world.gpu().counts();
    format!("{pieces:?} {:?} {:?} {:?}", world.vmm.census(), world.pool.inner().out, counts)
}

/// The error of a prepare that has to be refused, before which and after which all is the same; no register was touched.
fn refused<F: Format>(
    world: &mut World<F>,
    prepare: impl FnOnce(&mut World<F>) -> Result<Job, PrepareError>,
) -> PrepareError {
    let before = state(world);
    let why = prepare(world).map(|job| job.range()).unwrap_err();
    assert_eq!(state(world), before, "{why}");
    why
}

/// Ranges that no change of a range takes, and what is said of them on MMU v3.
const BAD_RANGES: &[(Range<u64>, &str)] = &[
    (VA..VA, "the range is empty"),
    (0..0, "the range is empty"),
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    (VA + K4..VA, "the range is empty"),
    (u64::MAX..u64::MAX, "the range is empty"),
    (VA + 8..VA + K4, "address 0x100000008 is not a multiple of 0x1000"),
    (VA..VA + 0x1001, "end 0x100001001 is not a multiple of 0x1000"),
    (VA..u64::MAX, "end 0xffffffffffffffff is not a multiple of 0x1000"),
    (VA..u64::MAX - 0xfff, "the range ends at 0xfffffffffffff000, the address space at 0x200000000000000"),
    (VA..(1 << 57) + K4, "the range ends at 0x200000000001000, the address space at 0x200000000000000"),
    (1 << 57..(1 << 57) + K4, "the range ends at 0x200000000001000, the address space at 0x200000000000000"),
];

#[test]
fn bad_ranges_are_refused_by_every_change_of_a_range() {
    let mut world = furnished::<V3>("gh100");
    let read_only = Protection::flags(Flags { read_only: true, ..Flags::NONE });
    for (range, says) in BAD_RANGES {
        for live in [Live::MustNotFault, Live::Quiesced, Live::Replayable] {
            let span = Span { range: range.clone(), live };
            let whys = [
                refused(&mut world, |world| world.prepare_unmap(span.clone())),
                refused(&mut world, |world| world.prepare_protect(span.clone(), read_only)),
                refused(&mut world, |world| world.prepare_sparse(span.clone())),
                refused(&mut world, |world| world.prepare_unsparse(span.clone())),
            ];
            for why in whys {
                assert_eq!(why.to_string(), *says, "{range:x?}");
            }
        }
    }
    world.assert_clean();
}

#[test]
fn holes_and_cuts_are_refused_and_named() {
    let mut world = furnished::<V3>("gh100");
    let not_mapped = |range| PrepareError::NotMapped { range };
    for range in [0..K4, VA + 8 * K4..VA + MIB, VA + 16 * MIB..VA + 18 * MIB] {
        assert_eq!(refused(&mut world, |world| world.prepare_unmap(range.clone())), not_mapped(range));
    }
    let nothing = Protection::default();
    for (range, hole) in [
        (VA - K4..VA + K4, VA - K4..VA),
        (VA..VA + 9 * K4, VA + 8 * K4..VA + 9 * K4),
        (VA..VA + 2 * MIB, VA + 8 * K4..VA + MIB),
        (VA + 16 * MIB..VA + 17 * MIB, VA + 16 * MIB..VA + 17 * MIB),
    ] {
        assert_eq!(refused(&mut world, |world| world.prepare_protect(range, nothing)), not_mapped(hole));
    }
    // Cuts that were not allowed: of a page by unmap and protect, of a sparse entry by map and unsparse.
    let (big, sparse) = (VA + 2 * MIB..VA + 4 * MIB, VA + 16 * MIB..VA + 18 * MIB);
    let would_fault = |entry: &Range<u64>| PrepareError::WouldFault { entry: entry.clone() };
    let part = VA + 2 * MIB..VA + 3 * MIB;
    assert_eq!(refused(&mut world, |world| world.prepare_unmap(part.clone())), would_fault(&big));
    assert_eq!(refused(&mut world, |world| world.prepare_protect(part, nothing)), would_fault(&big));
    let part = VA + 16 * MIB..VA + 17 * MIB;
    assert_eq!(refused(&mut world, |world| world.prepare_unsparse(part.clone())), would_fault(&sparse));
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: MIB }];
    let request = MapRequest::extents(&extents).at(part.start);
    assert_eq!(refused(&mut world, |world| world.prepare(&request)), would_fault(&sparse));
    // What is mapped is not mapped over.
    let busy = refused(&mut world, |world| world.prepare(&MapRequest::extents(&extents).at(VA)));
    assert_eq!(busy.to_string(), "0x100000000..0x100008000 is mapped already");
    world.assert_clean();
}

#[test]
fn kinds_that_forbid_4k_pages_are_refused_by_map_protect_and_cut() {
    let mut world = furnished::<V3>("gh100");
    let says = "kind 0x8 is compressible and needs pages of at least 64K";
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: K64 }];
    let map = MapRequest::extents(&extents).at(VA + 8 * MIB).kind(COMPRESSIBLE);
    let late = MapRequest::frames(16, PageSize::Size4K).at(VA + 8 * MIB).kind(COMPRESSIBLE);
    for request in [map.clone().page(PageSize::Size4K), map.clone().largest(PageSize::Size4K), late] {
        assert_eq!(refused(&mut world, |world| world.prepare(&request)).to_string(), says);
    }
    let kind = Protection::default().kind(COMPRESSIBLE);
    for range in [VA..VA + 8 * K4, VA..VA + K4] {
        assert_eq!(refused(&mut world, |world| world.prepare_protect(range, kind)).to_string(), says);
    }
    // A cut of a compressible page, and one that becomes so.
    let quiesced = |range: Range<u64>| Span::new(range).quiesced();
    for range in [VA + MIB..VA + MIB + K4, VA + 2 * MIB + K4..VA + 4 * MIB, VA + 2 * MIB..VA + 3 * MIB + K4] {
        let span = quiesced(range);
        assert_eq!(refused(&mut world, |world| world.prepare_unmap(span.clone())).to_string(), says);
        assert_eq!(refused(&mut world, |world| world.prepare_protect(span, kind)).to_string(), says);
    }
    let late_part = quiesced(VA + 4 * MIB..VA + 4 * MIB + K4);
    assert_eq!(refused(&mut world, |world| world.prepare_protect(late_part, kind)).to_string(), says);
    // Along the borders of 64K it goes.
    let job = world.prepare_unmap(quiesced(VA + 2 * MIB..VA + 2 * MIB + K64)).unwrap();
    world.finish(job);
    world.assert_maps(VA + 2 * MIB + K64..VA + 4 * MIB, DATA + 2 * MIB + K64);
    let wide = refused(&mut world, |world| world.prepare(&map.clone().kind(Kind(0x16))));
    assert_eq!(wide.to_string(), "MMU v3: 0x16 does not fit the 4 bits of KIND");
    let wide = Protection::default().kind(Kind(0x16));
    let wide = refused(&mut world, |world| world.prepare_protect(VA..VA + K4, wide));
    assert_eq!(wide.to_string(), "MMU v3: 0x16 does not fit the 4 bits of KIND");
    world.assert_clean();
}

/// Memory that ends behind what the chip reaches of an aperture, and memory that just does not.
fn memory_is_bounded<F: Format>(chip: &str) {
    let mut world = furnished::<F>(chip);
    let model = Chip::by_name(chip).unwrap();
    let peer = Aperture::Peer(PeerId::new(7).unwrap());
    let va = VA + 8 * MIB;
    for aperture in [Aperture::Vram, Aperture::SysCoherent, Aperture::SysNonCoherent, peer] {
        let reach = model.reach(aperture);
        let end = if aperture == Aperture::Vram { 96 * GIB } else { reach };
        let extent = |to: u64, bytes| [Extent { to: PhysAddr::new(aperture, to), bytes }];
        let fits = extent(end - 2 * K4, 2 * K4);
        let job = world.prepare(&MapRequest::extents(&fits).at(va)).unwrap();
        world.cancel(job);
        for (to, bytes, behind) in [(end - K4, 2 * K4, end + K4), (end, K4, end + K4), (1 << 62, K4, (1 << 62) + K4)] {
            let extents = extent(to, bytes);
            let why = refused(&mut world, |world| world.prepare(&MapRequest::extents(&extents).at(va)));
            let expected = match aperture {
                Aperture::Vram => PrepareError::BeyondVram { end: behind, limit: end },
                _ => {
                    let end = PhysAddr::new(aperture, behind);
                    PrepareError::BeyondReach { end, chip: model.name, limit: reach }
                }
            };
            assert_eq!(why, expected);
            let limit = format!("{end:#x}");
            assert!(why.to_string().contains(&limit) && why.to_string().contains(&format!("{behind:x}")), "{why}");
        }
        let over = extent(u64::MAX - K4 + 1, K4);
        let why = refused(&mut world, |world| world.prepare(&MapRequest::extents(&over).at(va)));
        assert_eq!(why, PrepareError::Overflow);
        // Frames of the same memory.
        for page in [PageSize::Size4K, PageSize::Size64K, PageSize::Size2M] {
            let job = world.prepare(&MapRequest::frames_of(aperture, 2, page).at(va)).unwrap();
            let per_page = page.bytes() / K4;
            let end = job.wants().first().unwrap().end;
            assert!(end <= reach / K4, "{aperture:?}");
            let last = Pfn::new(end - per_page);
            let mut job = job;
            for frame in [end, end - per_page + 1, (u64::MAX / K4) & !(per_page - 1), u64::MAX - per_page + 1] {
                let (back, why) = job.with_frames(&[last, Pfn::new(frame)]).unwrap_err();
                let (says, index) = (why.to_string(), "(number 1 of the list)");
                assert!(says.contains(&format!("{frame:#x}")) && says.contains(index), "{says}");
                assert_eq!(
                    matches!(why, FramesError::Unaligned { .. }),
                    frame % per_page != 0,
                    "{aperture:?} {page} {says}"
                );
                job = back;
            }
            let receipt = job.with_frames(&[last, last]).unwrap().execute(&mut world.mmio).unwrap();
            world.vmm.commit(&mut world.pool, receipt).unwrap();
            world.notes.tell(world.mmio.bar0());
            let found = world.access(va).unwrap();
            assert_eq!(found.to, PhysAddr::new(aperture, last.raw() * K4));
            world.unmap(va..va + 2 * page.bytes());
        }
    }
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn memory_beyond_what_is_reached_is_refused_in_every_aperture() {
    for chip in ["tu102", "ga100", "ad102"] {
        memory_is_bounded::<V2>(chip);
    }
    for chip in ["gh100", "gb100"] {
        memory_is_bounded::<V3>(chip);
    }
}

#[test]
fn lengths_and_places_that_overflow_are_refused() {
    let mut world = furnished::<V3>("gh100");
    let extent = |bytes| Extent { to: PhysAddr::new(Aperture::Peer(PeerId::new(0).unwrap()), 0), bytes };
    let half = [extent(1 << 63), extent(1 << 63)];
    let pages = |pages, page| MapRequest::frames(pages, page);
    let ok = [Extent { to: PhysAddr::vram(DATA), bytes: K4 }];
    let at = |va| MapRequest::extents(&ok).at(va);
    let within = |range| MapRequest::extents(&ok).within(range);
    let late =
        MapRequest { backing: Backing::Late { pages: 0, page: PageSize::Size4K, aperture: Aperture::Vram }, ..at(0) };
    for (request, says) in [
        (MapRequest::extents(&half), "the length overflows"),
        (MapRequest::extents(&[]), "the range is empty"),
        (late, "the range is empty"),
        (pages(0, PageSize::Size2M), "the range is empty"),
        (pages(1 << 52, PageSize::Size4K), "the length overflows"),
        (pages(1 << 43, PageSize::Size2M), "the length overflows"),
        (pages(u64::MAX, PageSize::Size4K), "the length overflows"),
        (
            pages(1 << 46, PageSize::Size4K).at(0),
            "the range ends at 0x400000000000000, the address space at 0x200000000000000",
        ),
        (pages(3, PageSize::Size256G).at(0), "gh100 has no 256G pages, only 4K 64K 2M 512M"),
        (at(0).page(PageSize::Size256G), "gh100 has no 256G pages, only 4K 64K 2M 512M"),
        (at(0).largest(PageSize::Size256G), "gh100 has no 256G pages, only 4K 64K 2M 512M"),
        (at(VA + 1), "address 0x100000001 is not a multiple of 0x1000"),
        (at(u64::MAX), "address 0xffffffffffffffff is not a multiple of 0x1000"),
        (at(u64::MAX - 0xfff), "the length overflows"),
        (at(1 << 57), "the range ends at 0x200000000001000, the address space at 0x200000000000000"),
        (at(VA + K4).page(PageSize::Size64K), "memory address"),
        (pages(1, PageSize::Size2M).at(VA + MIB), "address 0x100100000 is not a multiple of 0x200000"),
        (within(VA..VA + K4), "no addresses"),
        (within(VA..VA), "no addresses"),
        (within(VA..VA + 1), "no addresses"),
        (within(1 << 57..u64::MAX), "no addresses"),
        (pages(1 << 46, PageSize::Size4K), "no addresses"),
    ] {
        let why = refused(&mut world, |world| world.prepare(&request));
        if says == "memory address" {
            // Length and memory are checked before the place.
            assert_eq!(why.to_string(), "length 0x1000 is not a multiple of 0x10000");
        } else {
            assert!(why.to_string().starts_with(says), "{request:?}: {why}");
        }
    }
    world.assert_clean();
}

/// Address 0 is an address like any other for those who name it, and given to nobody who does not.
#[test]
fn address_0_is_only_for_those_who_ask_for_it() {
    let mut world = World::<V2>::new("ga102");
    let extents = [Extent { to: PhysAddr::vram(0), bytes: 2 * MIB }];
    let anywhere = MapRequest::extents(&extents);
    let first = world.prepare(&anywhere).unwrap();
    let first = world.finish(first);
    assert!(first.start >= 2 * MIB, "{first:x?}");
    let job = world.prepare(&anywhere.clone().at(0)).unwrap();
    assert_eq!(world.finish(job), 0..2 * MIB);
    world.assert_maps(0..2 * MIB, 0);
    let read_only = Protection::flags(Flags { read_only: true, ..Flags::NONE });
    let job = world.prepare_protect(Span::new(0..K4).quiesced(), read_only).unwrap();
    world.finish(job);
    world.assert_maps(0..2 * MIB, 0);
    world.unmap(0..2 * MIB);
    world.assert_faults(0..2 * MIB);
    let job = world.prepare_sparse(0..K4).unwrap();
    world.finish(job);
    assert!(world.access(0).unwrap().sparse);
    let job = world.prepare_unsparse(0..K4).unwrap();
    world.finish(job);
    world.assert_faults(0..2 * MIB);
    world.assert_clean();
    world.assert_no_leak();
}

/// Where jobs do not queue, a change that would have to wait for one is refused, of whatever kind either is.
#[test]
fn what_would_wait_is_refused_where_jobs_do_not_queue() {
    for kind in KINDS {
        let mut world = World::<V3>::new("gh100");
        let config = SpaceConfig { queues: false, ..*world.vmm.config() };
        world.vmm = Vmm::with_root(config, &mut world.mmio, world.vmm.pdb()).unwrap();
        let finish = |world: &mut World<V3>, job: Job| {
            let frames = kinds::frames(&job);
            let receipt = Armed::new(job, &frames).execute(&mut world.mmio).unwrap();
            world.vmm.commit(&mut world.pool, receipt).unwrap();
            world.notes.tell(world.mmio.bar0());
        };
        for step in kind.before {
            let job = world.prepare_with(|vmm, pool| step.plan(vmm, pool)).unwrap();
            finish(&mut world, job);
        }
        let job = world.prepare_with(|vmm, pool| kind.does.plan(vmm, pool)).unwrap();
        let range = kind.does.range();
        let span = Span::new(range.start..range.start + K4).quiesced();
        // What was planned and taken back leaves room for the next plan, once.
        let first = world.prepare_sparse(span.clone()).map(|job| job.range());
        let why = refused(&mut world, |world| world.prepare_sparse(span.clone()));
        assert_eq!(first, Err(why.clone()));
        assert_eq!(why, PrepareError::Pending { range: job.range() }, "{}", kind.name);
        let Range { start, end } = job.range();
        assert_eq!(why.to_string(), format!("a job that changes {start:#x}..{end:#x} has to be executed first"));
        let elsewhere = world.prepare_sparse(1 << 48..(1 << 48) + K4).unwrap();
        finish(&mut world, elsewhere);
        finish(&mut world, job);
        let job = world.prepare_sparse(span).unwrap();
        finish(&mut world, job);
        world.assert_clean();
        world.assert_no_leak();
    }
}

/// Whatever is wrong with a list, the job comes back whole and takes the right one; what is written first is checked
/// first.
#[test]
fn wrong_lists_leave_every_job_whole() {
    for kind in KINDS {
        let mut world = World::<V3>::new("gh100");
        for step in kind.before {
            let job = world.prepare_with(|vmm, pool| step.plan(vmm, pool)).unwrap();
            let frames = kinds::frames(&job);
            let receipt = Armed::new(job, &frames).execute(&mut world.mmio).unwrap();
            world.vmm.commit(&mut world.pool, receipt).unwrap();
            world.notes.tell(world.mmio.bar0());
        }
        let mut job = world.prepare_with(|vmm, pool| kind.does.plan(vmm, pool)).unwrap();
        let frames = kinds::frames(&job);
        let before = state(&mut world);
        let wanted = frames.len() as u64;
        let first = job.wants().first().copied();
        let mut wrong = vec![(vec![], 0), (frames.clone(), 1)];
        if let Some(want) = first {
            let shifted = |by: u64| frames.iter().map(move |frame| Pfn::new(frame.raw().wrapping_add(by))).collect();
            wrong = vec![(vec![], 0), (frames[1..].to_vec(), 0), (frames.clone(), 1), (frames.clone(), 9)];
            wrong.push((shifted(want.end), 0));
            if want.page > PageSize::Size4K {
                wrong.push((shifted(1), 0));
            }
        }
        for (mut list, more) in wrong {
            list.extend((0..more).map(|_| Pfn::new(0)));
            let (back, why) = job.with_frames(&list).unwrap_err();
            match why {
                FramesError::NotWanted => assert_eq!(wanted, 0, "{}", kind.name),
                FramesError::Count { given, wanted: said } => assert_eq!((given, said), (list.len(), wanted)),
                FramesError::Unaligned { frame, index, .. } => assert_eq!((frame, index), (list[0].raw(), 0)),
                FramesError::BeyondReach { frame, index, end } => {
                    assert_eq!((frame, index, end), (list[0].raw(), 0, first.unwrap().end));
                }
                other => unreachable!("{other}"),
            }
            assert_eq!(state(&mut world), before, "{}", kind.name);
            job = back;
        }
        let receipt = Armed::new(job, &frames).execute(&mut world.mmio).unwrap();
        world.vmm.commit(&mut world.pool, receipt).unwrap();
        world.notes.tell(world.mmio.bar0());
        world.assert_clean();
        world.assert_no_leak();
    }
}

#[test]
fn spaces_that_cannot_be_are_refused() {
    let mut world = World::<V3>::new("gh100");
    let config = common::config("gh100", world.mmio.vram_bytes());
    let refused = |why: PrepareError| why.to_string();
    let wrong = Vmm::<V2>::with_root(config, &mut world.mmio, TableAddr::vram(MIB)).map(drop).map_err(refused);
    assert_eq!(wrong, Err("gh100 has MMU v3, not v2".to_owned()));
    let odd = Vmm::<V3>::with_root(config, &mut world.mmio, TableAddr::vram(MIB + 256)).map(drop).map_err(refused);
    assert_eq!(odd, Err("root address 0x100100 is not a multiple of 0x1000".to_owned()));
    let system = TableAddr::SysCoherent(SysAddr::new(MIB));
    let system = Vmm::<V3>::with_root(config, &mut world.mmio, system).map(drop).map_err(refused);
    assert_eq!(system, Err("sys-coh:0x000000100000 is in an aperture that this memory does not reach".to_owned()));
}
