//! What the planner of changes once did wrong, each found by random jobs.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{World, DATA, GIB, MIB};
use gmmu::addr::{Aperture, PageSize, PeerId, Pfn, PhysAddr};
use gmmu::format::{Flags, Format, V2, V3};
use gmmu::vmm::{Extent, FramesError, Live, MapRequest, Protection, Span};
use gmmu_sim::{AccessKind, Client, Translated};

const VA: u64 = 4 * GIB;
const KIB_64: u64 = 64 << 10;
const READ_ONLY: Flags = Flags { read_only: true, ..Flags::NONE };

fn found<F: Format>(world: &mut World<F>, va: u64) -> Translated {
    let pdb = world.vmm.pdb();
    world.gpu().access(Client::Engine { pdb }, va, AccessKind::Read, true).unwrap_or_else(|fault| panic!("{fault}"))
}

fn map_to<F: Format>(world: &mut World<F>, va: u64, to: PhysAddr, bytes: u64, page: Option<PageSize>) {
    let extents = [Extent { to, bytes }];
    let request = MapRequest { page, live: Live::Quiesced, ..MapRequest::extents(&extents).at(va) };
    let job = world.prepare(&request).unwrap();
    world.finish(job);
}

fn peer(raw: u64) -> PhysAddr {
    PhysAddr::new(Aperture::Peer(PeerId::new(2).unwrap()), raw)
}

/// Where three pieces lay in one domain, what replaced the second was cleared in front of the third.
#[test]
fn protect_leaves_no_page_of_several_pieces_out() {
    let mut world = World::<V2>::new("ad102");
    for n in 0..4 {
        world.map(VA + n * 8192, DATA + n * MIB, 8192, Some(PageSize::Size4K));
    }
    let job = world.prepare_protect(VA..VA + 4 * 8192, Protection::flags(READ_ONLY)).unwrap();
    world.finish(job);
    for n in 0..4 {
        world.assert_maps(VA + n * 8192..VA + n * 8192 + 8192, DATA + n * MIB);
        assert!(found(&mut world, VA + n * 8192).flags.read_only);
    }
    world.assert_clean();
}

/// A 64K page over sparse 4K entries came with the end of their table, in one round: valid to valid across sizes.
#[test]
fn a_64k_page_over_small_sparse_entries_takes_a_round_more() {
    for pages in [0, 3] {
        let mut world = World::<V3>::new("gh100");
        // Part of a chunk, so that its entries are small ones; and pages in another chunk that keep the table.
        world.map(VA + 4 * KIB_64, DATA, 4096, Some(PageSize::Size4K));
        world.map(VA + 4 * KIB_64 + 4096, DATA + 4096, 2 * 4096, Some(PageSize::Size4K));
        if pages == 0 {
            world.unmap(VA + 4 * KIB_64..VA + 4 * KIB_64 + 3 * 4096);
        }
        let job = world.prepare_sparse(VA + 4096..VA + 8 * 4096).unwrap();
        world.finish(job);
        assert!(found(&mut world, VA + 4096).sparse);
        let extents = [Extent { to: PhysAddr::vram(DATA + MIB), bytes: KIB_64 }];
        let job = world.prepare(&MapRequest::extents(&extents).at(VA).page(PageSize::Size64K)).unwrap();
        assert_eq!(job.rounds(), 2);
        world.finish(job);
        world.assert_maps(VA..VA + KIB_64, DATA + MIB);
        world.assert_clean();
        world.unmap(VA..VA + KIB_64);
        assert!(found(&mut world, VA + 4096).sparse);
        world.assert_faults(VA..VA + 4096);
        world.assert_clean();
        world.assert_no_leak();
    }
}

/// 4K pages in the place of the last 64K sparse entries came with the end of their table, in one round.
#[test]
fn small_pages_in_the_place_of_64k_sparse_entries_take_a_round_more() {
    let mut world = World::<V2>::new("ad102");
    let job = world.prepare_sparse(VA..VA + 2 * KIB_64).unwrap();
    world.finish(job);
    assert!(found(&mut world, VA).sparse);
    map_to(&mut world, VA, PhysAddr::vram(DATA), 2 * KIB_64, Some(PageSize::Size4K));
    world.assert_maps(VA..VA + 2 * KIB_64, DATA);
    world.assert_clean();
    world.unmap(VA..VA + 2 * KIB_64);
    assert!(found(&mut world, VA + 4096).sparse);
    world.assert_clean();
    world.assert_no_leak();
}

/// Pages of leaf tables that stay where a range becomes sparse were passed over with those of directories: what was planned
/// for the rest of their domain took them for nothing, and made them sparse.
#[test]
fn sparse_leaves_the_pages_that_are_there() {
    for page in [PageSize::Size4K, PageSize::Size64K, PageSize::Size2M] {
        let mut world = World::<V3>::new("gh100");
        let pages = VA..VA + page.bytes();
        world.map(VA, DATA, page.bytes(), Some(page));
        for (sparse, range) in [(true, VA - 4 * MIB..VA + 6 * MIB), (false, VA..VA + 6 * MIB)] {
            let job = if sparse { world.prepare_sparse(range) } else { world.prepare_unsparse(range) };
            let job = job.unwrap();
            world.finish(job);
            world.assert_maps(pages.clone(), DATA);
            assert!(found(&mut world, VA - 4096).sparse);
            assert_eq!(world.access(VA + 4 * MIB).is_ok(), sparse);
        }
        world.unmap(pages.clone());
        world.assert_faults(pages);
        world.assert_clean();
        world.assert_no_leak();
    }
}

/// The entries of v2 grew from one field of a peer's address over the peer's number: pieces that were apart at that border
/// were joined again in the records and in the plan.
#[test]
fn v2_peer_memory_crossing_2_37_is_split() {
    for (page, bytes) in [(PageSize::Size4K, 4096), (PageSize::Size64K, KIB_64), (PageSize::Size2M, 2 * MIB)] {
        let mut world = World::<V2>::new("ad102");
        let to = peer((1 << 37) - 2 * bytes);
        map_to(&mut world, VA, to, 4 * bytes, Some(page));
        let check = |world: &mut World<V2>| {
            for va in (VA..VA + 4 * bytes).step_by(4096) {
                assert_eq!(found(world, va).to, peer(to.raw + (va - VA)), "{va:#x}");
            }
        };
        check(&mut world);
        let job = world.prepare_protect(VA..VA + 4 * bytes, Protection::flags(READ_ONLY)).unwrap();
        world.finish(job);
        check(&mut world);
        assert_eq!(world.vmm.pieces().count(), 2);
        // A hole at the border comes and goes.
        let job = world.prepare_unmap(VA + bytes..VA + 3 * bytes).unwrap();
        world.cancel(job);
        assert_eq!(world.vmm.pieces().count(), 2);
        check(&mut world);
        world.unmap(VA..VA + 4 * bytes);
        world.assert_clean();
        world.assert_no_leak();
    }
}

/// Pages of 256G were cut into halves there, of which no entry was made.
#[test]
fn peer_memory_is_mapped_with_256g_pages() {
    for page in [None, Some(PageSize::Size256G)] {
        let mut world = World::<V3>::new("gb100");
        let (va, bytes) = (1024 * GIB, 512 * GIB);
        map_to(&mut world, va, peer(1 << 40), bytes, page);
        for offset in [0, 4096, 128 * GIB, 256 * GIB - 4096, 384 * GIB, bytes - 4096] {
            let found = found(&mut world, va + offset);
            assert_eq!((found.to, found.page_bytes), (peer((1 << 40) + offset), 256 * GIB));
        }
        world.unmap(va..va + bytes);
        world.assert_clean();
        world.assert_no_leak();
    }
}

/// Frames of two mappings that had begun at one address were all judged by the reach of the first one's.
#[test]
fn frames_are_judged_by_their_own_reach() {
    let mut world = World::<V3>::new("gh100");
    let vram = [Pfn::new(DATA / 4096); 4];
    let bus = [Pfn::new(1 << 38); 2];
    let run = |world: &mut World<V3>, request: &MapRequest<'_>, frames: &[Pfn]| {
        let job = world.prepare(request).unwrap();
        let receipt = job.with_frames(frames).unwrap().execute(&mut world.mmio).unwrap();
        world.vmm.commit(&mut world.pool, receipt).unwrap();
    };
    run(&mut world, &MapRequest::frames(4, PageSize::Size4K).at(VA), &vram);
    world.unmap(VA..VA + 8192);
    run(&mut world, &MapRequest::frames_of(Aperture::SysCoherent, 2, PageSize::Size4K).at(VA), &bus);
    let job = world.prepare_protect(VA..VA + 4 * 4096, Protection::flags(READ_ONLY)).unwrap();
    let wants = job.wants().to_vec();
    assert_eq!(wants.iter().map(|want| (want.va, want.pages)).collect::<Vec<_>>(), [(VA, 2), (VA + 8192, 2)]);
    let beyond = [bus[0], bus[1], vram[0], Pfn::new(1 << 38)];
    let (job, why) = job.with_frames(&beyond).unwrap_err();
    assert_eq!(why, FramesError::BeyondReach { frame: 1 << 38, index: 3, end: wants[1].end });
    let list = [bus[0], bus[1], vram[2], vram[3]];
    let receipt = job.with_frames(&list).unwrap().execute(&mut world.mmio).unwrap();
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    assert_eq!(found(&mut world, VA).to, PhysAddr::new(Aperture::SysCoherent, 1 << 50));
    world.assert_clean();
}

/// Memory that the CPU's caches do not snoop is never cached in the GPU's either.
#[test]
fn non_coherent_system_memory_is_always_volatile() {
    let mut world = World::<V2>::new("tu102");
    let flags = [(Aperture::SysNonCoherent, true), (Aperture::SysCoherent, false), (Aperture::Vram, false)];
    for (n, (aperture, volatile)) in (0..).zip(flags) {
        let (extents, late) = (VA + n * 4 * MIB, VA + n * 4 * MIB + MIB);
        map_to(&mut world, extents, PhysAddr::new(aperture, DATA), KIB_64, None);
        let job = world.prepare(&MapRequest::frames_of(aperture, 1, PageSize::Size64K).at(late)).unwrap();
        let list = [Pfn::new(DATA / 4096)];
        let receipt = job.with_frames(&list).unwrap().execute(&mut world.mmio).unwrap();
        world.vmm.commit(&mut world.pool, receipt).unwrap();
        assert_eq!([extents, late].map(|va| found(&mut world, va).flags.vol), [volatile; 2], "{aperture:?}");
        // Whoever takes all flags off does not take that one off, of parts neither.
        let span = Span::new(extents..extents + 4096).quiesced();
        let job = world.prepare_protect(span, Protection::flags(Flags::NONE)).unwrap();
        world.finish(job);
        let job = world.prepare_protect(late..late + KIB_64, Protection::flags(Flags::NONE)).unwrap();
        let receipt = job.with_frames(&list).unwrap().execute(&mut world.mmio).unwrap();
        world.vmm.commit(&mut world.pool, receipt).unwrap();
        let pages = [extents, extents + 4096, late];
        assert_eq!(pages.map(|va| found(&mut world, va).flags.vol), [volatile; 3], "{aperture:?}");
    }
    world.assert_clean();
    world.assert_no_leak();
}
