//! What a review of the planner found, one test each.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{World, DATA, GIB, MIB};
use gmmu::addr::{Aperture, PageSize, PhysAddr};
use gmmu::format::V3;
use gmmu::vmm::{Backing, Bind, ExecuteError, Extent, Job, Live, MapRequest, Place, PrepareError, Protection};
use gmmu_sim::Config;
use std::time::{Duration, Instant};

const VA: u64 = 4 * GIB;
const PAGE: u64 = 4096;

fn bind(world: &mut World<V3>, ops: &[Bind<'_>], live: Live) -> Result<Job, PrepareError> {
    world.prepare_with(|vmm, pool| vmm.plan_bind(pool, ops, live))
}

const fn memory(to: u64, bytes: u64) -> [Extent; 1] {
    [Extent { to: PhysAddr::vram(to), bytes }]
}

/// A list without operations asks for nothing, like a range without addresses.
#[test]
fn a_bind_job_without_operations_is_refused() {
    let mut world = World::<V3>::new("gh100");
    let refused = bind(&mut world, &[], Live::MustNotFault);
    assert!(matches!(refused, Err(PrepareError::Empty)), "{refused:?}");
    assert_eq!(world.vmm.census().jobs, 0);
}

/// Frames of another object in the place of the first one's: the words may differ in both halves, which the records cannot
/// know, so on a bus of 32 bits the entries are cleared in a round before.
#[test]
fn frames_of_another_object_are_not_torn_on_a_bus_of_32_bits() {
    let mut config = Config::chip("gh100");
    config.bus = gmmu_sim::Bus::Bits32;
    let aperture = Aperture::SysCoherent;
    let late = |object| MapRequest {
        backing: Backing::Late { pages: 2, page: PageSize::Size4K, aperture },
        ..MapRequest::extents(&[]).at(VA).object(object, 0)
    };
    for (first, second) in [(1, 2), (0, 0)] {
        let mut world = World::<V3>::with(&config);
        let job = bind(&mut world, &[Bind::Map(late(first))], Live::MustNotFault).unwrap();
        let frames = common::frames(&[0x12_3456_7000, 0x77_0000_1000]);
        let receipt = job.with_frames(&frames).unwrap().execute(&mut world.mmio).unwrap();
        world.vmm.commit(&mut world.pool, receipt).unwrap();
        let refused = bind(&mut world, &[Bind::Map(late(second))], Live::MustNotFault);
        assert!(matches!(refused, Err(PrepareError::WouldFault { .. })), "{refused:?}");
        let job = bind(&mut world, &[Bind::Map(late(second))], Live::Quiesced).unwrap();
        assert_eq!(job.rounds(), 2);
        let frames = common::frames(&[0x65_4321_0000, 0x11_ffff_2000]);
        let receipt = job.with_frames(&frames).unwrap().execute(&mut world.mmio).unwrap();
        world.vmm.commit(&mut world.pool, receipt).unwrap();
        assert_eq!(world.access(VA).unwrap().to, PhysAddr::new(aperture, 0x65_4321_0000));
        world.assert_clean();
        // The same list under other attributes: the frames are those that are there, and nothing is torn.
        let read_only = gmmu::format::Flags { read_only: true, ..gmmu::format::Flags::NONE };
        let job = world.prepare_protect(VA..VA + PAGE, Protection::flags(read_only)).unwrap();
        assert_eq!(job.rounds(), 1);
        world.cancel(job);
    }
}

/// Jobs without common domains are executed and cancelled in any order, also where one lies in a gap of a bind job.
#[test]
fn a_job_in_a_gap_of_a_bind_job_neither_waits_nor_is_waited_for() {
    let (far, near) = (memory(DATA, PAGE), memory(DATA + MIB, PAGE));
    let ends = || [Bind::Map(MapRequest::extents(&far).at(VA)), Bind::Map(MapRequest::extents(&far).at(VA + 8 * MIB))];
    let between = || MapRequest::extents(&near).at(VA + 4 * MIB);
    for bind_first in [false, true] {
        for cancel in [false, true] {
            let mut world = World::<V3>::new("gh100");
            let (first, second) = if bind_first {
                let first = bind(&mut world, &ends(), Live::MustNotFault).unwrap();
                (first, world.prepare(&between()).unwrap())
            } else {
                let first = world.prepare(&between()).unwrap();
                (first, bind(&mut world, &ends(), Live::MustNotFault).unwrap())
            };
            if cancel {
                world.cancel(first);
                world.finish(second);
            } else {
                world.finish(second);
                world.finish(first);
            }
            assert_eq!(world.access(VA).is_ok(), !(cancel && bind_first));
            assert_eq!(world.access(VA + 4 * MIB).is_ok(), !cancel || bind_first);
            world.assert_clean();
            world.assert_no_leak();
        }
    }
}

/// Nothing under a table of a lost job can be executed: addresses that the space chooses lie elsewhere.
#[test]
fn addresses_are_not_chosen_in_the_domain_of_a_lost_job() {
    let mut world = World::<V3>::new("gh100");
    let extents = memory(DATA, PAGE);
    let mut lost = world.prepare(&MapRequest::extents(&extents)).unwrap();
    lost.write(&mut world.mmio).unwrap();
    drop(lost);
    assert_eq!(world.vmm.census().quarantined, 1);
    let job = world.prepare(&MapRequest::extents(&extents)).unwrap();
    let range = job.range();
    if let Err(failed) = job.execute(&mut world.mmio) {
        assert_ne!(failed.why, ExecuteError::PredecessorLost, "{range:x?} is where nothing can be executed any more");
    }
}

/// What reads as 0 before and after must not fault in between, whatever was said to be unmapped there.
#[test]
fn unmapping_nothing_does_not_let_sparse_neighbours_fault() {
    let mut world = World::<V3>::new("gh100");
    let job = world.prepare_sparse(VA..VA + 2 * MIB).unwrap();
    world.finish(job);
    let extents = memory(DATA, PAGE);
    let ops = [Bind::Unmap(VA..VA + 2 * MIB), Bind::Map(MapRequest::extents(&extents).at(VA))];
    let refused = bind(&mut world, &ops, Live::MustNotFault);
    assert!(matches!(refused, Err(PrepareError::WouldFault { .. })), "{refused:?}");
}

/// A large page that is mapped once more, to the same memory, and then cut in the same job is cut all the same.
#[test]
fn a_large_page_mapped_again_and_cut_in_one_job_would_fault() {
    let mut world = World::<V3>::new("gh100");
    world.map(VA, DATA, 2 * MIB, Some(PageSize::Size2M));
    let extents = memory(DATA, 2 * MIB);
    let ops = [Bind::Map(MapRequest::extents(&extents).at(VA)), Bind::Unmap(VA..VA + PAGE)];
    let refused = bind(&mut world, &ops, Live::MustNotFault);
    assert!(matches!(refused, Err(PrepareError::WouldFault { .. })), "{refused:?}");
}

/// Unmapping everything, whatever there is, does not keep the whole space from others until it is committed.
#[test]
fn unmapping_all_addresses_leaves_room_for_others() {
    let mut world = World::<V3>::new("gh100");
    world.map(VA, DATA, 2 * MIB, Some(PageSize::Size2M));
    let all = bind(&mut world, &[Bind::Unmap(0..1 << 57)], Live::MustNotFault).unwrap();
    let extents = memory(DATA, PAGE);
    let job = world.prepare(&MapRequest::extents(&extents)).unwrap();
    world.finish(job);
    world.finish(all);
    world.assert_clean();
}

/// Planning takes time in proportion to the pieces, on a bus of 32 bits too.
#[test]
fn a_fragmented_mapping_is_protected_in_proportion_to_its_pieces() {
    let mut config = Config::chip("gh100");
    config.bus = gmmu_sim::Bus::Bits32;
    let mut times = Vec::new();
    for pages in [2_000u64, 32_000] {
        let mut world = World::<V3>::with(&config);
        let extents: Vec<Extent> =
            (0..pages).map(|page| Extent { to: PhysAddr::vram(DATA + page * 2 * PAGE), bytes: PAGE }).collect();
        world.vmm.map_pages(&mut world.mmio, &mut world.pool, &MapRequest::extents(&extents).at(VA), &[]).unwrap();
        let began = Instant::now();
        let read_only = gmmu::format::Flags { read_only: true, ..gmmu::format::Flags::NONE };
        let job = world.prepare_protect(VA..VA + pages * PAGE, Protection::flags(read_only)).unwrap();
        times.push(began.elapsed());
        world.cancel(job);
    }
    println!("{times:?}");
    assert!(times[1] < times[0] * 64 + Duration::from_millis(50), "16 times the pieces: {times:?}");
}

/// Windows that make no sense are refused.
#[test]
fn strange_windows_are_refused() {
    let mut world = World::<V3>::new("gh100");
    let extents = memory(DATA, PAGE);
    #[expect(clippy::reversed_empty_ranges, reason = "hostile")]
    for window in [5..5, 0x5000..0x1000, u64::MAX - 4096..u64::MAX, 1..4097, 0..0, 1 << 57..u64::MAX] {
        let request = MapRequest { place: Place::Within(window.clone()), ..MapRequest::extents(&extents) };
        let refused = world.prepare(&request);
        assert!(refused.is_err(), "{window:x?}");
    }
    for range in [0..u64::MAX, u64::MAX - 4095..u64::MAX, (1 << 57) - PAGE..(1 << 57) + PAGE, 1 << 57..1 << 58] {
        for op in [Bind::Unmap(range.clone()), Bind::Sparse(range.clone()), Bind::Unsparse(range.clone())] {
            assert!(bind(&mut world, &[op], Live::Quiesced).is_err(), "{range:x?}");
        }
    }
    for va in [!4095, 1 << 57, u64::MAX - 8191] {
        assert!(bind(&mut world, &[Bind::Map(MapRequest::extents(&extents).at(va))], Live::Quiesced).is_err());
        assert!(world.prepare(&MapRequest::extents(&extents).at(va)).is_err());
    }
    let late = MapRequest::frames(u64::MAX >> 12, PageSize::Size4K).at(PAGE);
    assert!(bind(&mut world, &[Bind::Map(late)], Live::Quiesced).is_err());
    assert_eq!(world.vmm.census().jobs, 0);
    world.assert_no_leak();
}
