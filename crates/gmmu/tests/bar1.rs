//! CPU mappings through BAR1: many at once, bounds-checked, and never without their memory.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::allow_attributes,
    reason = "tests"
)]

mod bar_world;
mod common;

use bar_world::{bound_space, config, vram, BarWorld, Fault};
use common::{Random, MIB};
use gmmu::addr::PageSize;
use gmmu::bar1::{AccessError, Bar1, MapError, MapFailed, MappingId, NewError, Owner, UnmapError};
use gmmu::device::{Bar1Aperture, DeviceError, Width};
use gmmu::format::{Flags, Format, V2, V3};
use gmmu::vmm::{Extent, MapRequest, PrepareError, SpaceConfig, Use, Vmm};
use gmmu_sim::{Bus, Client};
use std::rc::Rc;

const DATA: u64 = 128 * MIB;

/// What owns memory: alive as long as somebody holds it.
type Memory = Rc<u64>;

fn extent(at: u64, bytes: u64) -> [Extent; 1] {
    [Extent { to: vram(at), bytes }]
}

fn both(test: fn(BarWorld<V2, Memory>), test3: fn(BarWorld<V3, Memory>)) {
    for bus in [Bus::Bits64, Bus::Bits32] {
        test(BarWorld::new("tu102", bus, 256 * MIB));
        test3(BarWorld::new("gb202", bus, 256 * MIB));
    }
}

fn map<F: Format>(world: &mut BarWorld<F, Memory>, at: u64, bytes: u64, owner: u64) -> MappingId {
    let extents = extent(at, bytes);
    let id = world.bar1.map(&mut world.mmio, &mut world.pool, Rc::new(at), owner, &MapRequest::extents(&extents));
    world.tell();
    id.map_err(|why| why.to_string()).unwrap()
}

fn unmap<F: Format>(world: &mut BarWorld<F, Memory>, id: &MappingId) -> Memory {
    let memory = world.bar1.unmap(id, &mut world.mmio, &mut world.pool).unwrap();
    world.tell();
    memory
}

fn many_at_once<F: Format>(mut world: BarWorld<F, Memory>) {
    let lengths = [4096, 0x3000, 0x1_0000, 0x21_0000, 0x40_0000];
    let mut at = DATA;
    let mut ids = Vec::new();
    for (n, bytes) in (0..).zip(lengths.into_iter().cycle().take(20)) {
        ids.push((map(&mut world, at, bytes, n), at, bytes));
        at += bytes + 4096;
    }
    for (n, (id, _, bytes)) in (0..).zip(&ids) {
        let aperture = world.mmio.bar0();
        world.bar1.write(id, aperture, 0, Width::W32, n).unwrap();
        world.bar1.write(id, aperture, bytes - 8, Width::W64, 0x1122_3344_5566_7700 + n).unwrap();
        world.bar1.write(id, aperture, 6, Width::W16, 0xa55a).unwrap();
        world.bar1.write(id, aperture, 5, Width::W8, 0x77).unwrap();
    }
    for (n, (id, at, bytes)) in (0..).zip(&ids) {
        let mut word = [0; 8];
        world.card().gpu.peek_vram(*at, &mut word);
        assert_eq!(word, [n as u8, 0, 0, 0, 0, 0x77, 0x5a, 0xa5]);
        let aperture = world.mmio.bar0();
        assert_eq!(world.bar1.read(id, aperture, bytes - 8, Width::W64), Ok(0x1122_3344_5566_7700 + n));
        assert_eq!(world.bar1.read(id, aperture, bytes - 2, Width::W16), Ok(0x1122));
        assert_eq!(world.bar1.read(id, aperture, 5, Width::W8), Ok(0x77));
    }
    let usage = world.bar1.usage();
    assert_eq!((usage.mappings, usage.poisoned, usage.bytes), (20, 0, 256 * MIB));
    assert_eq!(usage.taken, ids.iter().map(|(.., bytes)| bytes).sum::<u64>());
    let owners: Vec<_> = world.bar1.owners().collect();
    assert!(owners.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start), "in order, and apart");
    let third = owners.iter().find(|owned| owned.owner == Owner::Number(3)).unwrap();
    assert_eq!(world.bar1.owner_at(third.range.end - 1).as_ref(), Some(third));
    for (id, at, _) in ids.iter().step_by(2).chain(ids.iter().skip(1).step_by(2)) {
        let range = world.bar1.mapping(id).unwrap().range;
        assert_eq!(unmap(&mut world, id), Rc::new(*at));
        for at in range.step_by(4096) {
            assert!(world.card().gpu.bar1_read(at, Width::W8).is_err(), "{at:#x} still translates");
        }
    }
    assert_eq!(world.bar1.usage().taken, 0);
    assert_eq!(world.bar1.largest_hole(), 256 * MIB);
    world.assert_clean();
}

#[test]
fn mappings_live_side_by_side() {
    both(many_at_once, many_at_once);
}

fn slices<F: Format>(mut world: BarWorld<F, Memory>) {
    let mut random = Random(7);
    let id = map(&mut world, DATA, 0x2000, 0);
    let mut model = vec![0u8; 0x2000];
    for _ in 0..300 {
        let start = random.index(0x2000);
        let len = random.index((0x2000 - start).min(80) + 1);
        let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        world.bar1.write_bytes(&id, world.mmio.bar0(), start as u64, &bytes).unwrap();
        model[start..start + len].copy_from_slice(&bytes);
        let (from, mut read) = (random.index(0x1f80), [0; 0x7f]);
        world.bar1.read_bytes(&id, world.mmio.bar0(), from as u64, &mut read).unwrap();
        assert_eq!(read, model[from..from + 0x7f]);
    }
    let mut memory = vec![0; 0x2000];
    world.card().gpu.peek_vram(DATA, &mut memory);
    assert_eq!(memory, model);
    world.assert_clean();
}

#[test]
fn slices_of_any_alignment() {
    both(slices, slices);
}

fn bounds<F: Format>(mut world: BarWorld<F, Memory>) {
    let id = map(&mut world, DATA, 0x2000, 0);
    let beside = map(&mut world, DATA + 0x2000, 0x1000, 1);
    world.card().written.clear();
    let aperture = world.mmio.bar0();
    for (offset, width) in
        [(0x2000, Width::W8), (0x1ffc, Width::W64), (u64::MAX, Width::W8), (u64::MAX - 7, Width::W64)]
    {
        let size = 0x2000;
        let out = AccessError::OutOfRange { offset, bytes: u64::from(width.bytes()), size };
        assert_eq!(world.bar1.read(&id, aperture, offset, width), Err(out.clone()));
        assert_eq!(world.bar1.write(&id, aperture, offset, width, 0), Err(out));
    }
    for (offset, width) in [(1, Width::W16), (2, Width::W32), (0x1ffa, Width::W32), (4, Width::W64)] {
        let refused = Err(AccessError::Unaligned { offset, alignment: u64::from(width.bytes()) });
        assert_eq!(world.bar1.read(&id, aperture, offset, width), refused);
    }
    let wide = world.bar1.write(&id, aperture, 0, Width::W8, 0x100);
    assert_eq!(wide, Err(AccessError::TooWide { value: 0x100, max: 0xff }));
    let mut bytes = [0; 0x21];
    assert!(world.bar1.read_bytes(&id, aperture, 0x1fe0, &mut bytes).is_err());
    assert!(world.bar1.write_bytes(&id, aperture, 0x1fe0, &bytes).is_err());
    assert_eq!(world.bar1.read_bytes(&id, aperture, 0x2000, &mut []), Ok(()));
    assert_eq!(aperture.written, []);
    // A BAR that was resized meanwhile.
    aperture.bar1_bytes = world.bar1.mapping(&beside).unwrap().range.end - 4;
    let cut = world.bar1.read(&beside, aperture, 0xffc, Width::W32);
    assert!(matches!(cut, Err(AccessError::BeyondAperture { .. })), "{cut:?}");
    assert_eq!(world.bar1.read(&beside, aperture, 0xff8, Width::W32), Ok(0));
}

#[test]
fn accesses_stay_in_their_mapping() {
    both(bounds, bounds);
}

#[test]
fn ids_are_of_one_mapping_alone() {
    let mut world = BarWorld::<V3, Memory>::new("gh100", Bus::Bits64, MIB);
    let mut other = BarWorld::<V3, Memory>::new("gh100", Bus::Bits64, MIB);
    let id = map(&mut world, DATA, 4096, 0);
    let foreign = map(&mut other, DATA, 4096, 0);
    let answer = world.bar1.read(&foreign, world.mmio.bar0(), 0, Width::W8);
    assert_eq!(answer, Err(AccessError::Foreign { generation: 1 }));
    let answer = world.bar1.unmap(&foreign, &mut world.mmio, &mut world.pool);
    assert_eq!(answer, Err(UnmapError::Access(AccessError::Foreign { generation: 1 })));
    let range = world.bar1.mapping(&id).unwrap().range;
    unmap(&mut world, &id);
    // The same place, and the same slot in the books.
    let again = map(&mut world, DATA, 4096, 0);
    assert_eq!(world.bar1.mapping(&again).unwrap().range, range);
    assert!(id != again && again != foreign && id == id.clone());
    let stale = AccessError::Stale { generation: 1 };
    assert_eq!(world.bar1.write(&id, world.mmio.bar0(), 0, Width::W8, 0), Err(stale.clone()));
    assert_eq!(world.bar1.backing(&id), Err(stale.clone()));
    assert_eq!(world.bar1.unmap(&id, &mut world.mmio, &mut world.pool), Err(UnmapError::Access(stale)));
    assert_eq!(world.bar1.backing(&again).map(|backing| **backing), Ok(DATA));
}

#[test]
fn read_only_mappings_refuse_writes() {
    let mut world = BarWorld::<V2, Memory>::new("ad102", Bus::Bits64, MIB);
    let extents = extent(DATA, 4096);
    let request = MapRequest::extents(&extents).flags(Flags { read_only: true, ..Flags::NONE });
    let id = world.bar1.map(&mut world.mmio, &mut world.pool, Rc::new(0), "reader", &request).unwrap();
    let range = world.bar1.mapping(&id).unwrap().range;
    let refused = world.bar1.write(&id, world.mmio.bar0(), 0, Width::W32, 1);
    assert_eq!(refused, Err(AccessError::ReadOnly { range: range.clone() }));
    assert_eq!(world.bar1.read(&id, world.mmio.bar0(), 0, Width::W32), Ok(0));
    // And the entries say so too.
    assert!(world.card().gpu.bar1_write(range.start, Width::W32, 1).is_err());
    assert_eq!(
        world.bar1.owners().map(|owned| owned.to_string()).collect::<Vec<_>>(),
        ["0x0..0x1000 reader, read-only"]
    );
}

#[test]
fn no_mapping_ends_beyond_the_aperture_whatever_its_size() {
    for bytes in [4096, 0x1_0000, 0x1_0fff, MIB, 2 * MIB, 3 * MIB, 256 * MIB, 1 << 30] {
        let mut world = BarWorld::<V3, Memory>::new("gb203", Bus::Bits64, bytes);
        let end = bytes & !0xfff;
        assert_eq!((world.bar1.bytes(), world.bar1.largest_hole()), (end, end));
        let piece = (end / 4).max(4096) & !0xfff;
        let extents = extent(DATA, piece);
        let mut ids = Vec::new();
        let refused = loop {
            let request = MapRequest::extents(&extents);
            match world.bar1.map(&mut world.mmio, &mut world.pool, Rc::new(0), 0, &request) {
                Ok(id) => ids.push(id),
                Err(MapFailed::Refused { why, .. }) => break why,
                Err(why) => panic!("{why}"),
            }
        };
        assert_eq!(ids.len() as u64, end / piece, "{bytes:#x}: offset 0 is as good as any other");
        let largest = end % piece;
        assert_eq!(refused, MapError::NoRoom { bytes: piece, largest });
        for id in &ids {
            let range = world.bar1.mapping(id).unwrap().range;
            assert!(range.end <= end, "{bytes:#x}");
            world.bar1.write(id, world.mmio.bar0(), piece - 8, Width::W64, 42).unwrap();
            assert_eq!(world.card().gpu.bar1_read(range.end - 8, Width::W64), Ok(42));
        }
        for (request, beyond) in [
            (MapRequest::extents(&extents).at(end - piece + 4096), end + 4096),
            (MapRequest::extents(&extents).within(0..end + 1), end + 1),
        ] {
            let answer = world.bar1.map(&mut world.mmio, &mut world.pool, Rc::new(0), 0, &request);
            let Err(MapFailed::Refused { why, .. }) = answer else { panic!("{answer:?}") };
            assert_eq!(why, MapError::BeyondAperture { end: beyond, limit: end });
        }
        world.assert_clean();
    }
}

#[test]
fn holes_are_found_and_told() {
    let mut world = BarWorld::<V3, Memory>::new("gh100", Bus::Bits64, 64 << 12);
    let ids: Vec<_> = (0..8).map(|n| map(&mut world, DATA + n * 0x8000, 0x8000, n)).collect();
    assert_eq!(world.bar1.largest_hole(), 0);
    for n in [1, 2, 5] {
        unmap(&mut world, &ids[n]);
    }
    assert_eq!(world.bar1.largest_hole(), 0x1_0000);
    let usage = world.bar1.usage().to_string();
    assert_eq!(usage, "0x28000 of 0x40000 bytes in 5 mappings, 0 of them poisoned; the largest hole has 0x10000");
    let id = map(&mut world, DATA, 0x1_0000, 9);
    assert_eq!(world.bar1.mapping(&id).unwrap().to_string(), "0x8000..0x18000 9");
}

#[test]
fn requests_that_make_no_sense() {
    let mut world = BarWorld::<V3, Memory>::new("gh100", Bus::Bits64, MIB);
    let mut refused = |request: &MapRequest<'_>| {
        let answer = world.bar1.map(&mut world.mmio, &mut world.pool, Rc::new(0), 0, request);
        let Err(MapFailed::Refused { why, .. }) = answer else { panic!("{answer:?}") };
        assert_eq!(world.pool.inner().out.len(), 2, "the root and the instance block");
        why
    };
    assert_eq!(refused(&MapRequest::extents(&[])), MapError::Prepare(PrepareError::Empty));
    assert_eq!(refused(&MapRequest::frames(1, PageSize::Size4K)), MapError::Late);
    let beyond = extent(1024 * MIB - 4096, 8192);
    assert!(matches!(refused(&MapRequest::extents(&beyond)), MapError::Prepare(PrepareError::BeyondVram { .. })));
    let huge = [Extent { to: vram(0), bytes: !0xfff }; 2];
    assert_eq!(refused(&MapRequest::extents(&huge)), MapError::Prepare(PrepareError::Overflow));
    let odd = extent(DATA + 1, 4096);
    assert!(matches!(refused(&MapRequest::extents(&odd)), MapError::Prepare(PrepareError::Unaligned { .. })));
}

#[test]
fn only_an_empty_space_for_bars_will_do() {
    let (mut mmio, mut pool, _, vmm) = bound_space::<V3>(&config("gh100", Bus::Bits64, MIB));
    let Err((mut vmm, why)) = Bar1::<V3, ()>::new(vmm, 4095) else { panic!("too small") };
    assert_eq!(why, NewError::TooSmall { aperture_bytes: 4095 });
    let extents = extent(DATA, 4096);
    vmm.map_pages(&mut mmio, &mut pool, &MapRequest::extents(&extents), &[]).unwrap();
    let used = Bar1::<V3, ()>::new(vmm, MIB).map_err(|(_, why)| why).map(|_| ());
    assert_eq!(used, Err(NewError::InUse { pieces: 1, jobs: 0 }));
    let config = SpaceConfig::new(mmio.chip(), mmio.vram_bytes(), Use::Channel);
    let vmm = Vmm::<V3>::create(config, &mut mmio, &mut pool).unwrap();
    let channels = Bar1::<V3, ()>::new(vmm, MIB).map_err(|(_, why)| why).map(|_| ());
    assert_eq!(channels, Err(NewError::NotForBars));
}

/// Every access of BAR0 fails once, while a mapping is made and while it is unmade: nothing is lost, and no memory is let
/// go before the GPU has forgotten it.
fn every_access_fails_once<F: Format>(chip: &str) {
    let (mut refused, mut poisoned, mut kept) = (0, 0, 0);
    for n in 1.. {
        let mut world = BarWorld::<F, Memory>::new(chip, Bus::Bits64, 256 * MIB);
        let memory: Memory = Rc::new(n.into());
        let extents = extent(DATA + 4096, 0x3000);
        world.card().set(Fault::FailsAt(n));
        let request = MapRequest::extents(&extents);
        let answer = world.bar1.map(&mut world.mmio, &mut world.pool, memory.clone(), "n", &request);
        let mapped = world.card().accesses < n;
        world.tell();
        let id = match answer {
            Ok(id) => id,
            Err(MapFailed::Refused { backing, why }) => {
                refused += 1;
                assert!(matches!(why, MapError::Prepare(PrepareError::Device(DeviceError::Backend(_)))), "{why}");
                assert_eq!((Rc::strong_count(&backing), world.bar1.usage().taken), (2, 0));
                world.assert_clean();
                continue;
            }
            Err(MapFailed::Poisoned { id, .. }) => {
                poisoned += 1;
                let usage = world.bar1.usage();
                assert_eq!((usage.poisoned, usage.taken, Rc::strong_count(&memory)), (1, 0x3000, 2));
                let read = world.bar1.read(&id, world.mmio.bar0(), 0, Width::W8);
                assert!(matches!(read, Err(AccessError::Poisoned { .. })), "{read:?}");
                id
            }
        };
        let done = |world: &mut BarWorld<F, Memory>, memory: &Memory, n| {
            world.tell();
            assert_eq!((Rc::strong_count(memory), world.bar1.usage().taken), (1, 0), "{n}");
            assert!(world.card().gpu.bar1_read(0, Width::W8).is_err());
            world.assert_clean();
        };
        if !mapped {
            assert_eq!(unmap(&mut world, &id), memory);
            done(&mut world, &memory, n);
            continue;
        }
        // The mapping was made: now its unmapping fails.
        world.card().gpu.bar1_read(0, Width::W8).unwrap();
        let already = world.card().accesses;
        match world.bar1.unmap(&id, &mut world.mmio, &mut world.pool) {
            Ok(given) => {
                drop(given);
                assert!(world.card().accesses < n && already > 10);
                assert!(refused > 3 && poisoned > 3 && kept > 3, "{refused} {poisoned} {kept}");
                return done(&mut world, &memory, n);
            }
            Err(UnmapError::Poisoned(_)) => kept += 1,
            Err(why) => panic!("{why}"),
        }
        assert_eq!((world.bar1.usage().poisoned, Rc::strong_count(&memory)), (1, 2));
        let written = world.bar1.write(&id, world.mmio.bar0(), 0, Width::W8, 0);
        assert!(matches!(written, Err(AccessError::Poisoned { .. })));
        // Nobody else gets the place.
        let other = map(&mut world, DATA, 4096, 2);
        assert!(world.bar1.mapping(&other).unwrap().range.start >= 0x3000);
        unmap(&mut world, &other);
        unmap(&mut world, &id);
        done(&mut world, &memory, n);
    }
}

#[test]
fn no_memory_is_let_go_where_the_device_fails() {
    every_access_fails_once::<V2>("tu102");
    every_access_fails_once::<V3>("gb202");
}

#[test]
fn an_unmap_that_is_never_acknowledged_keeps_the_memory() {
    let mut world = BarWorld::<V3, Memory>::new("gh100", Bus::Bits64, MIB);
    let id = map(&mut world, DATA, 4096, 7);
    world.card().set(Fault::NeverAcknowledges);
    for _ in 0..3 {
        let answer = world.bar1.unmap(&id, &mut world.mmio, &mut world.pool);
        assert!(matches!(answer, Err(UnmapError::Poisoned(_))), "{answer:?}");
    }
    assert_eq!(world.bar1.owners().map(|owned| owned.to_string()).collect::<Vec<_>>(), ["0x0..0x1000 7, poisoned"]);
    world.card().set(Fault::Nothing);
    assert_eq!(unmap(&mut world, &id), Rc::new(DATA));
    world.assert_clean();
}

#[test]
fn what_is_dropped_with_mappings_leaks_their_memory() {
    let mut world = BarWorld::<V3, Memory>::new("gh100", Bus::Bits64, MIB);
    let memory: Memory = Rc::new(0);
    let extents = extent(DATA, 4096);
    let request = MapRequest::extents(&extents);
    let id = world.bar1.map(&mut world.mmio, &mut world.pool, memory.clone(), 0, &request).unwrap();
    drop((world, id));
    assert_eq!(Rc::strong_count(&memory), 2);
}

fn closes<F: Format>(mut world: BarWorld<F, Memory>) {
    let ids: Vec<_> = (0..5).map(|n| map(&mut world, DATA + n * 0x2_0000, 0x2_0000, n)).collect();
    world.card().set(Fault::NeverAcknowledges);
    let answer = world.bar1.unmap(&ids[3], &mut world.mmio, &mut world.pool);
    assert!(matches!(answer, Err(UnmapError::Poisoned(_))));
    let BarWorld { mut mmio, mut pool, notes, bar1 } = world;
    let (mut bar1, why) = bar1.close(&mut mmio, &mut pool, |_, _| panic!("nothing is free yet")).unwrap_err();
    assert!(why.to_string().contains("not ready"), "{why}");
    assert!(matches!(bar1.read(&ids[0], mmio.bar0(), 0, Width::W8), Err(AccessError::Poisoned { .. })));
    let extents = extent(DATA, 4096);
    let answer = bar1.map(&mut mmio, &mut pool, Rc::new(9), 9, &MapRequest::extents(&extents));
    assert!(matches!(answer, Err(MapFailed::Refused { why: MapError::Prepare(PrepareError::Closing), .. })));
    assert!(bar1.unmap(&ids[0], &mut mmio, &mut pool).is_err());
    mmio.bar0().set(Fault::Nothing);
    let mut given = Vec::new();
    bar1.close(&mut mmio, &mut pool, |owner, memory| given.push((owner, *memory))).map_err(|(_, why)| why).unwrap();
    assert_eq!(given, (0..5).map(|n| (Owner::Number(n), DATA + n * 0x2_0000)).collect::<Vec<_>>());
    notes.tell(&mut mmio.bar0().gpu);
    assert_eq!(pool.inner().out.len(), 2, "the root, which was the caller's, and the instance block");
    let mut byte = [0];
    assert!(mmio.bar0().gpu.load(Client::Bar1, 0, &mut byte).is_err());
    assert_eq!(mmio.bar0().gpu.findings(), []);
}

#[test]
fn close_gives_everything_back() {
    both(closes, closes);
}

#[test]
fn the_model_checks_its_aperture() {
    let mut world = BarWorld::<V3, Memory>::new("gh100", Bus::Bits32, MIB);
    let gpu = &mut world.card().gpu;
    for (offset, width) in
        [(MIB, Width::W8), (MIB - 2, Width::W32), (1, Width::W16), (0, Width::W64), (u64::MAX, Width::W8)]
    {
        let refused = DeviceError::BadBar1Offset { offset, bytes: width.bytes(), end: MIB };
        assert_eq!(gpu.read_at(offset, width), Err(refused));
        assert_eq!(gpu.write_at(offset, width, 0), Err(refused));
    }
    assert_eq!(gpu.read_at(0, Width::W16), Ok(0xffff), "what is not mapped reads all-ones");
}

/// Random mappings and accesses against plain bytes, and holes counted page by page.
fn random<F: Format>(chip: &str, bus: Bus, seed: u64) {
    const PAGES: u64 = 96;
    let mut random = Random(seed);
    let mut world = BarWorld::<F, Memory>::new(chip, bus, PAGES << 12);
    let mut memory = vec![0u8; 256 << 12];
    let mut live: Vec<(MappingId, u64, u64)> = Vec::new();
    for _ in 0..600 {
        let (pages, first) = (1 + random.below(24), random.below(232));
        let (at, bytes) = (first << 12, pages << 12);
        let hole = world.bar1.largest_hole();
        if random.one_in(3) {
            let extents = extent(DATA + at, bytes);
            let request = MapRequest::extents(&extents).page(PageSize::Size4K);
            match world.bar1.map(&mut world.mmio, &mut world.pool, Rc::new(at), at, &request) {
                Ok(id) => live.push((id, at, bytes)),
                Err(MapFailed::Refused { why: MapError::NoRoom { bytes: wanted, largest }, .. }) => {
                    assert!(wanted == bytes && largest == hole && bytes > hole, "seed {seed}: {bytes:#x} {hole:#x}");
                }
                Err(why) => panic!("seed {seed}: {why}"),
            }
        } else if random.one_in(4) && !live.is_empty() {
            let (id, at, _) = live.swap_remove(random.index(live.len()));
            assert_eq!(*unmap(&mut world, &id), at);
        } else if let Some((id, at, bytes)) = live.get(random.below(1 + live.len() as u64) as usize) {
            let offset = random.below(*bytes);
            let len = (bytes - offset).min(1 + random.below(40)) as usize;
            let place = (at + offset) as usize..(at + offset) as usize + len;
            let mut seen = vec![0; len];
            world.bar1.read_bytes(id, world.mmio.bar0(), offset, &mut seen).unwrap();
            assert_eq!(seen, memory[place.clone()], "seed {seed}");
            seen.fill_with(|| random.next() as u8);
            world.bar1.write_bytes(id, world.mmio.bar0(), offset, &seen).unwrap();
            memory[place].copy_from_slice(&seen);
        }
        let mut taken = [false; PAGES as usize];
        for owned in world.bar1.owners() {
            let pages = owned.range.start >> 12..owned.range.end >> 12;
            for page in pages {
                assert!(!std::mem::replace(&mut taken[page as usize], true), "seed {seed}: page {page} twice");
            }
        }
        let usage = world.bar1.usage();
        let longest = taken.split(|taken| *taken).map(<[bool]>::len).max().unwrap_or(0);
        let count = taken.iter().filter(|taken| **taken).count();
        assert_eq!((usage.largest_hole, usage.taken), ((longest as u64) << 12, (count as u64) << 12), "seed {seed}");
        assert_eq!(usage.mappings, live.len());
    }
    world.tell();
    world.assert_clean();
}

#[test]
fn random_mappings_against_plain_bytes() {
    for seed in 0..8 {
        random::<V2>("tu102", Bus::Bits64, seed);
        random::<V3>("gb202", Bus::Bits32, seed);
    }
}
