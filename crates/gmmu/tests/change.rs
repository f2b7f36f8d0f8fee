//! Partial unmaps, cuts, attributes and sparse ranges, judged by the model's MMU.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{World, DATA, GIB, MIB};
use gmmu::addr::{Aperture, PageSize, PeerId, PhysAddr};
use gmmu::format::{Flags, Format, Kind, MmuVersion, V2, V3};
use gmmu::vmm::{Extent, MapRequest, PrepareError, Protection, Span};
use gmmu_sim::{AccessKind, Client, Config, FaultType};

const VA: u64 = 4 * GIB;
const KIB_64: u64 = 64 << 10;

#[test]
fn a_page_is_cut_out_of_every_larger_one() {
    for (page, bytes) in [(PageSize::Size64K, KIB_64), (PageSize::Size2M, 2 * MIB), (PageSize::Size512M, 512 * MIB)] {
        let mut world = World::<V3>::new("gh100");
        world.map(VA, DATA, 2 * bytes, Some(page));
        let hole = VA + 5 * 4096..VA + 6 * 4096;
        let error = world.prepare_unmap(hole.clone()).unwrap_err();
        assert_eq!(error, PrepareError::WouldFault { entry: VA..VA + bytes });
        let before = world.vmm.pieces().map(|(range, piece)| (range, *piece)).collect::<Vec<_>>();
        let job = world.prepare_unmap(Span::new(hole.clone()).quiesced()).unwrap();
        world.cancel(job);
        assert_eq!(before, world.vmm.pieces().map(|(range, piece)| (range, *piece)).collect::<Vec<_>>());
        world.assert_no_leak();
        let job = world.prepare_unmap(Span::new(hole.clone()).quiesced()).unwrap();
        assert_eq!(job.rounds(), 2, "{page}");
        world.finish(job);
        world.assert_maps(VA..hole.start, DATA);
        world.assert_faults(hole.clone());
        world.assert_maps(hole.end..VA + bytes, DATA + 6 * 4096);
        world.assert_maps(VA + bytes..VA + bytes + 16 * 4096, DATA + bytes);
        world.unmap(VA..VA + 2 * bytes);
        world.assert_faults(VA..VA + 2 * MIB);
        world.assert_clean();
        world.assert_no_leak();
    }
}

/// The largest page there is, which only memory of a peer can fill: 256 GiB less one page stay mapped.
#[test]
fn a_page_is_cut_out_of_a_256g_page() {
    let mut world = World::<V3>::new("gb100");
    let (va, page) = (1024 * GIB, 256 * GIB);
    let peer = |raw| PhysAddr::new(Aperture::Peer(PeerId::new(2).unwrap()), raw);
    let extents = [Extent { to: peer(1 << 40), bytes: 2 * page }];
    let job = world.prepare(&MapRequest::extents(&extents).at(va).page(PageSize::Size256G)).unwrap();
    world.finish(job);
    let hole = va + 3 * GIB + 5 * 4096..va + 3 * GIB + 6 * 4096;
    assert_eq!(world.prepare_unmap(hole.clone()).unwrap_err(), PrepareError::WouldFault { entry: va..va + page });
    let job = world.prepare_unmap(Span::new(hole.clone()).quiesced()).unwrap();
    world.cancel(job);
    world.assert_no_leak();
    let job = world.prepare_unmap(Span::new(hole.clone()).quiesced()).unwrap();
    assert_eq!(job.rounds(), 2, "never valid to valid across page sizes");
    world.finish(job);
    world.assert_faults(hole.clone());
    // Each size where it fits, from the hole outwards; the page beside it is whole.
    let sizes = [4096, KIB_64, 2 * MIB, 512 * MIB, page];
    let around = [hole.end, hole.start & !(2 * MIB - 1) | MIB, va + 3 * GIB + 2 * MIB, va, va + page];
    for (at, bytes) in around.into_iter().zip(sizes) {
        let found = world.access(at).unwrap();
        assert_eq!((found.to, found.page_bytes), (peer((1 << 40) + (at - va)), bytes), "{at:#x}");
    }
    world.unmap(va..va + 2 * page);
    assert!(around.into_iter().all(|at| world.access(at).is_err()));
    world.assert_clean();
    world.assert_no_leak();
}

/// Every flag on its own: maps with it, takes it off the page in the middle, and puts it on where it was not.
fn every_flag<F: Format>(chip: &str) {
    let none = gmmu_sim::Flags::default();
    // What the tables say of it, and which access it stops.
    let cases = [
        (
            Flags { read_only: true, ..Flags::NONE },
            gmmu_sim::Flags { read_only: true, ..none },
            Some(FaultType::ReadOnly),
        ),
        (
            Flags { privileged: true, ..Flags::NONE },
            gmmu_sim::Flags { privileged: true, ..none },
            Some(FaultType::Priv),
        ),
        (
            Flags { no_atomic: true, ..Flags::NONE },
            gmmu_sim::Flags { no_atomic: true, ..none },
            Some(FaultType::Atomic),
        ),
        (Flags { volatile: true, ..Flags::NONE }, gmmu_sim::Flags { vol: true, ..none }, None),
        (Flags { no_access_counting: true, ..Flags::NONE }, gmmu_sim::Flags { acd: true, ..none }, None),
    ];
    for ((flags, said, stops), page) in cases
        .into_iter()
        .flat_map(|case| [PageSize::Size4K, PageSize::Size64K, PageSize::Size2M].map(|page| (case, page)))
    {
        let mut world = World::<F>::new(chip);
        let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 3 * page.bytes() }];
        let prepared = world.prepare(&MapRequest::extents(&extents).at(VA).page(page).flags(flags));
        if flags.no_access_counting && F::VERSION == MmuVersion::V2 {
            assert!(matches!(prepared, Err(PrepareError::Encode(_))), "v2 has no such bit");
            continue;
        }
        world.finish(prepared.unwrap());
        let pages = [0, 1, 2].map(|n| VA + n * page.bytes());
        let judge = |world: &mut World<F>, on: [bool; 3]| {
            let pdb = world.vmm.pdb();
            for (va, on) in pages.into_iter().zip(on) {
                let gpu = world.gpu();
                let found = gpu.access(Client::Engine { pdb }, va, AccessKind::Read, true).unwrap();
                assert_eq!((found.to, found.flags), (PhysAddr::vram(DATA + (va - VA)), if on { said } else { none }));
                let stopped = gpu.access(Client::Engine { pdb }, va, AccessKind::Atomic, false).err();
                assert_eq!(stopped.map(|fault| fault.fault), stops.filter(|_| on), "{flags:?} at {va:#x}");
            }
        };
        judge(&mut world, [true; 3]);
        let [_, middle, last] = pages;
        for (flags, on) in [(Flags::NONE, [true, false, true]), (flags, [true; 3])] {
            let job = world.prepare_protect(middle..last, Protection::flags(flags)).unwrap();
            world.finish(job);
            judge(&mut world, on);
        }
        world.unmap(VA..VA + 3 * page.bytes());
        world.assert_clean();
        world.assert_no_leak();
    }
}

#[test]
fn every_flag_is_mapped_protected_and_met() {
    every_flag::<V2>("ad102");
    every_flag::<V3>("gh100");
}

#[test]
fn protect_changes_the_attributes_of_a_part() {
    for page in [PageSize::Size4K, PageSize::Size64K, PageSize::Size2M] {
        let mut world = World::<V2>::new("ad102");
        world.map(VA, DATA, 4 * MIB, Some(page));
        let part = VA + MIB..VA + MIB + 8192;
        let read_only = Protection::flags(Flags { read_only: true, ..Flags::NONE });
        let job = world.prepare_protect(Span::new(part.clone()).replayable(), read_only).unwrap();
        world.finish(job);
        world.assert_maps(VA..VA + 4 * MIB, DATA);
        let pdb = world.vmm.pdb();
        for va in (VA..VA + 4 * MIB).step_by(4096) {
            let written = world.gpu().access(Client::Engine { pdb }, va, AccessKind::Write, false);
            assert_eq!(written.is_err(), part.contains(&va), "{va:#x} with {page}");
        }
        world.unmap(VA..VA + 4 * MIB);
        world.assert_clean();
        world.assert_no_leak();
    }
}

#[test]
fn sparse_ranges_read_as_nothing_around_what_is_mapped() {
    let mut world = World::<V3>::new("gh100");
    let range = VA - 3 * 4096..VA + 1024 * MIB + 5 * 4096;
    let job = world.prepare_sparse(range.clone()).unwrap();
    world.finish(job);
    let sparse = |world: &mut World<V3>, va: u64| world.access(va).is_ok_and(|found| found.sparse);
    for va in [range.start, VA, VA + 700 * MIB, range.end - 4096] {
        assert!(sparse(&mut world, va), "{va:#x}");
    }
    world.assert_faults(range.start - 4096..range.start);
    world.assert_faults(range.end..range.end + 4096);
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 8192 }];
    let request = MapRequest::extents(&extents).at(VA + 3 * MIB);
    assert!(matches!(world.prepare(&request), Err(PrepareError::WouldFault { .. })));
    let job = world.prepare(&request.live(gmmu::vmm::Live::Quiesced)).unwrap();
    world.finish(job);
    world.assert_maps(VA + 3 * MIB..VA + 3 * MIB + 8192, DATA);
    assert!(sparse(&mut world, VA + 3 * MIB - 4096));
    assert!(sparse(&mut world, VA + 3 * MIB + 8192));
    assert!(sparse(&mut world, VA + 900 * MIB));
    world.unmap(VA + 3 * MIB..VA + 3 * MIB + 8192);
    assert!(sparse(&mut world, VA + 3 * MIB));
    let job = world.prepare_unsparse(range.clone()).unwrap();
    world.finish(job);
    for va in [range.start, VA, VA + 3 * MIB, VA + 700 * MIB, range.end - 4096] {
        assert!(world.access(va).is_err(), "{va:#x}");
    }
    world.assert_clean();
    world.assert_no_leak();
}

/// A bus with 32-bit stores: an entry that changes in both halves is cleared in a round before, one that changes in one
/// half is not.
#[test]
fn a_live_entry_is_never_rewritten_in_both_halves() {
    let model = Config { bus: gmmu_sim::Bus::Bits32, ..Config::chip("tu102") };
    let mut world = World::<V2>::with(&model);
    world.map(VA, DATA, 4 * MIB, Some(PageSize::Size64K));
    world.map(VA + 4 * MIB, DATA, 64 << 10, Some(PageSize::Size4K));
    world.map(VA + 8 * MIB, DATA, 2 * MIB, Some(PageSize::Size2M));
    let read_only = Flags { read_only: true, ..Flags::NONE };
    for (va, bytes) in [(VA, 4 * MIB), (VA + 4 * MIB, KIB_64), (VA + 8 * MIB, 2 * MIB)] {
        let job = world.prepare_protect(va..va + bytes, Protection::flags(read_only)).unwrap();
        assert_eq!(job.rounds(), 1, "permissions are in the low half alone");
        world.finish(job);
        // v2 keeps the kind in the high half.
        let both = Protection::flags(Flags::NONE).kind(Kind(0));
        let refused = world.prepare_protect(va..va + bytes, both).unwrap_err();
        assert_eq!(refused, PrepareError::WouldFault { entry: va..va + bytes });
        let job = world.prepare_protect(Span::new(va..va + bytes).quiesced(), both).unwrap();
        assert_eq!(job.rounds(), 2);
        world.finish(job);
        world.assert_maps(va..va + bytes, DATA);
        assert_eq!(world.access(va).unwrap().kind, 0);
    }
    world.assert_clean();
}

/// A 4K page out of a gibibyte of 2M pages: new small pages for the one that is cut, and the transition.
#[test]
fn a_split_writes_544_entries_and_the_transition() {
    let mut world = World::<V3>::new("gh100");
    world.map(VA, DATA, GIB, Some(PageSize::Size2M));
    world.gpu().reset_counts();
    let hole = VA + 300 * MIB + 5 * 4096;
    let job = world.prepare_unmap(Span::new(hole..hole + 4096).quiesced()).unwrap();
    world.finish(job);
    let counts = world.gpu().counts();
    // 32 entries of 64K and 512 of 4K; the dual entry cleared, both of its halves linked; two invalidates of three
    // registers each.
    assert_eq!(counts.writes - counts.window_moves, 544 + 2 + 2 + 2 * 3);
    assert_eq!(counts.invalidates, 2);
    world.assert_clean();
}
