//! The parts of one GPU, put together: memory from registers and firmware, roots and spaces, and who keeps whom.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::allow_attributes,
    reason = "tests"
)]

mod broken;
use broken::Broken;
use gmmu::addr::{PageSize, PhysAddr, SysAddr, TableAddr, VramAddr};
use gmmu::chip::CHIPS;
use gmmu::device::{DeviceError, TableRead};
use gmmu::fb::{FbUse, GspRegion, Keep, LayoutError};
use gmmu::format::{MmuVersion, V2, V3};
use gmmu::instance::Bar;
use gmmu::mm::{Busy, ChannelBind, ChannelUse, CloseSpaceError, FbSource, GpuMm, MmError, Root, RootError};
use gmmu::mmio::Mmio;
use gmmu::tlb::Limits;
use gmmu::vmm::{CloseError, Extent, MapRequest, SpaceConfig, Use};
use gmmu::vram::{AllocError, Request};
use gmmu_sim::{Carveouts, Config, CpuPath, Gpu, SysPool};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn card(config: &Config) -> Mmio<Gpu> {
    Mmio::probe(Gpu::new(config).unwrap()).unwrap()
}

fn made(chip: &str) -> (Mmio<Gpu>, GpuMm) {
    let mut card = card(&Config::chip(chip));
    let mm = GpuMm::probe(&mut card, FbSource::Registers, &[]).unwrap();
    (card, mm)
}

fn region(bytes: Range<u64>, reserved: u64) -> GspRegion {
    GspRegion { base: bytes.start, limit: bytes.end - 1, reserved, ..GspRegion::default() }
}

fn range(bytes: Range<u64>) -> Range<VramAddr> {
    VramAddr::new(bytes.start)..VramAddr::new(bytes.end)
}

#[test]
fn every_chip_is_put_together() {
    for chip in CHIPS {
        let gpu = Gpu::new(&Config::chip(chip.name)).unwrap();
        let mut card = Mmio::probe_with(gpu, CpuPath).unwrap();
        let mut mm = GpuMm::probe(&mut card, FbSource::Registers, &[]).unwrap();
        assert_eq!(mm.chip(), chip);
        if chip.is_integrated() {
            assert!(mm.layout().is_none() && mm.vram().is_none() && mm.pool().is_none() && mm.vram_bytes() == 0);
            continue;
        }
        let usable = mm.layout().unwrap().usable_bytes();
        let top = if chip.mmu == MmuVersion::V2 { MIB } else { 128 << 10 };
        assert_eq!((mm.vram_bytes(), usable), (96 * GIB, 96 * GIB - top), "{}", chip.name);
        assert_eq!(mm.vram().unwrap().total_bytes(), usable);
    }
}

#[test]
fn the_allocator_has_all_usable_regions_and_nothing_else() {
    let carveouts = Carveouts { wpr2: Some(5 * GIB..6 * GIB), vga: None, mmu_lock: Some(GIB..GIB + 8192) };
    let mut card = card(&Config { vram: 8 * GIB, carveouts, ..Config::chip("ga102") });
    let regions = [
        region(0..2 * GIB, 0),
        region(2 * GIB..3 * GIB, MIB),
        GspRegion { protected: true, ..region(3 * GIB..4 * GIB, 0) },
        region(4 * GIB..8 * GIB, 0),
    ];
    let keep = [Keep { range: range(7 * GIB..7 * GIB + 64 * MIB), what: "console" }];
    let mut mm = GpuMm::probe(&mut card, FbSource::Gsp(&regions), &keep).unwrap();
    let expected = [0..GIB, GIB + 8192..2 * GIB, 4 * GIB..5 * GIB, 6 * GIB..7 * GIB, 7 * GIB + 64 * MIB..8 * GIB - MIB];
    let expected: Vec<_> = expected.into_iter().map(range).collect();
    assert_eq!(mm.layout().unwrap().usable().collect::<Vec<_>>(), expected);
    assert_eq!(mm.vram().unwrap().regions().collect::<Vec<_>>(), expected);
    // All of it can be had, and every page is usable.
    let request = Request::new(2 * MIB).build().unwrap();
    let mut got = 0;
    loop {
        match mm.vram().unwrap().alloc_contiguous(&request) {
            Ok(piece) => {
                let place = mm.layout().unwrap().at(piece.start()).unwrap();
                assert!(place.used_for.is_usable() && piece.start().raw() + 2 * MIB <= place.range.end.raw());
                got += 2 * MIB;
            }
            Err(AllocError::NoSpace { .. }) => break,
            Err(why) => panic!("{why}"),
        }
    }
    assert!(mm.layout().unwrap().usable_bytes() - got < 5 * 2 * MIB);
}

#[test]
fn memory_that_makes_no_sense_is_refused_with_the_numbers() {
    let mut card = card(&Config { vram: 8 * GIB, ..Config::chip("gh100") });
    let mut probe =
        |regions: &[GspRegion]| GpuMm::probe(&mut card, FbSource::Gsp(regions), &[]).map(|_| ()).unwrap_err();
    let beyond = LayoutError::GspBeyondMemory { index: 0, limit: 8 * GIB, total: 8 * GIB };
    assert_eq!(probe(&[region(0..8 * GIB + 1, 0)]), beyond.into());
    assert_eq!(probe(&[]), LayoutError::NothingUsable { total: 8 * GIB }.into());
    // Usable by the list, but all of it is the VGA workspace.
    assert_eq!(probe(&[region(8 * GIB - 65536..8 * GIB, 0)]), LayoutError::NothingUsable { total: 8 * GIB }.into());
}

#[test]
fn what_entries_cannot_name_is_not_used() {
    // A list for 200 GiB on a chip whose entries have 37 bits: no such card, but no such page either.
    let carveouts = gmmu::fb::Carveouts::default();
    let chip = gmmu::chip::Chip::by_name("ga100").unwrap();
    let reach = chip.reach(gmmu::addr::Aperture::Vram);
    let input = gmmu::fb::LayoutInput { total: 200 * GIB, reach, carveouts: &carveouts, keep: &[] };
    let layout = gmmu::fb::FbLayout::from_gsp(&input, &[region(0..200 * GIB, 0)]).unwrap();
    assert_eq!(layout.at(VramAddr::new(128 * GIB)).unwrap().used_for, FbUse::OutOfReach);
    assert_eq!(GpuMm::new(chip, Some(layout)).unwrap().vram().unwrap().total_bytes(), 128 * GIB);
    // Nor is it where the size register says so.
    let gpu = Gpu::new(&Config::chip("ga102")).unwrap();
    let mut card = Mmio::probe(Broken::saying(gpu, &[(0x11_83a4, 200 << 10)])).unwrap();
    let mut mm = GpuMm::probe(&mut card, FbSource::Registers, &[]).unwrap();
    assert_eq!((mm.vram_bytes(), mm.vram().unwrap().total_bytes()), (200 * GIB, 128 * GIB));
}

#[test]
fn one_space_per_root() {
    let (mut card, mut mm) = made("gh100");
    let config = mm.space_config(Use::Channel);
    let space = mm.create_space::<V3, _>(config, &mut card).unwrap();
    let pdb = space.pdb();
    let taken: MmError = RootError::Taken { pdb }.into();
    assert_eq!(mm.space_at::<V3, _>(config, &mut card, pdb).unwrap_err(), taken);
    assert_eq!(mm.register(pdb, Use::Channel).unwrap_err(), RootError::Taken { pdb });
    assert_eq!(taken.to_string(), format!("an address space with the root {pdb} is live: one space per root"));
    // A page of system memory has two names.
    let (coherent, not) =
        (TableAddr::SysCoherent(SysAddr::new(0x7000)), TableAddr::SysNonCoherent(SysAddr::new(0x7000)));
    let root = mm.register(coherent, Use::Channel).unwrap();
    assert_eq!(mm.register(not, Use::Channel).unwrap_err(), RootError::Taken { pdb: not });
    assert_eq!(mm.roots().collect::<Vec<_>>(), [(pdb, 0), (coherent, 0)]);
    mm.unregister(root).map_err(|(_, why)| why).unwrap();
    let root = mm.register(not, Use::Channel).unwrap();
    mm.unregister(root).map_err(|(_, why)| why).unwrap();
    mm.close_space(space, &mut card).map_err(|(_, why)| why).unwrap();
    // The root is free for another space.
    let again = mm.create_space::<V3, _>(config, &mut card).unwrap();
    assert_eq!(again.pdb(), pdb);
}

#[test]
fn roots_that_cannot_be() {
    let (mut card, mut mm) = made("tu102");
    let at = TableAddr::vram;
    assert_eq!(mm.register(at(0x800), Use::Channel).unwrap_err(), RootError::Unaligned { pdb: at(0x800) });
    let pdb = at(96 * GIB);
    assert_eq!(mm.register(pdb, Use::Channel).unwrap_err(), RootError::BeyondReach { pdb, end: 96 * GIB });
    let pdb = TableAddr::SysCoherent(SysAddr::new(1 << 47));
    assert_eq!(mm.register(pdb, Use::Channel).unwrap_err(), RootError::BeyondReach { pdb, end: 1 << 47 });
    let other = SpaceConfig::new(gmmu::chip::Chip::by_name("ga102").unwrap(), GIB, Use::Channel);
    let refused = mm.create_space::<V2, _>(other, &mut card).unwrap_err();
    assert_eq!(refused, MmError::OtherChip { chip: "tu102", wanted: "ga102" });
    // The wrong format is refused by the space, and leaves nothing behind.
    let free = mm.vram().unwrap().free_bytes();
    assert!(matches!(mm.create_space::<V3, _>(mm.space_config(Use::Channel), &mut card), Err(MmError::Space(_))));
    assert_eq!((mm.roots().count(), mm.vram().unwrap().free_bytes()), (0, free));
}

#[test]
fn a_space_with_open_jobs_is_busy_and_stays_whole() {
    let (mut card, mut mm) = made("ga102");
    let mut space = mm.create_space::<V2, _>(mm.space_config(Use::Channel), &mut card).unwrap();
    let extents = [Extent { to: PhysAddr::vram(GIB), bytes: 4096 }];
    let request = MapRequest::extents(&extents).at(0x5000);
    let job = space.prepare_map(&mut card, &mut mm.pool().unwrap(), &request).unwrap();
    let (mut space, why) = mm.close_space(space, &mut card).unwrap_err();
    assert_eq!(why, CloseSpaceError::Close(CloseError::Busy));
    let receipt = job.execute(&mut card).map_err(|failed| failed.why).unwrap();
    space.commit(&mut mm.pool().unwrap(), receipt).map_err(|(_, why)| why).unwrap();
    assert!(card.bar0().peek_translate(space.pdb(), 0x5000).is_ok_and(|found| found.to == PhysAddr::vram(GIB)));
    let (back, busy) = mm.close().unwrap_err();
    mm = back;
    assert_eq!(busy, Busy { roots: 1, binds: 0 });
    mm.close_space(space, &mut card).map_err(|(_, why)| why).unwrap();
    assert_eq!(mm.vram().unwrap().free_bytes(), mm.layout().unwrap().usable_bytes());
    assert!(card.bar0().findings().is_empty());
    mm.close().map_err(|(_, why)| why).unwrap();
}

#[test]
fn a_close_that_the_device_fails_keeps_the_root() {
    let mut card = card(&Config { invalidate_polls: 50, ..Config::chip("gh100") });
    let mut mm = GpuMm::probe(&mut card, FbSource::Registers, &[]).unwrap();
    let limits = Limits { timeout_us: 1_000_000, polls: 20 };
    let config = SpaceConfig { limits, ..mm.space_config(Use::Channel) };
    let mut space = mm.create_space::<V3, _>(config, &mut card).unwrap();
    let mut tries = 0;
    loop {
        let (back, why) = match mm.close_space(space, &mut card) {
            Ok(()) => break,
            Err(failed) => failed,
        };
        assert!(matches!(why, CloseSpaceError::Close(CloseError::Device(DeviceError::Timeout { .. }))), "{why}");
        assert_eq!(mm.register(back.pdb(), Use::Channel).unwrap_err(), RootError::Taken { pdb: back.pdb() });
        (space, tries) = (back, tries + 1);
    }
    assert!(tries >= 2 && mm.roots().count() == 0);
}

#[test]
fn swapped_spaces_do_not_close() {
    let (mut card, mut mm) = made("gh100");
    let config = mm.space_config(Use::Channel);
    let mut one = mm.create_space::<V3, _>(config, &mut card).unwrap();
    let mut two = mm.create_space::<V3, _>(config, &mut card).unwrap();
    std::mem::swap(&mut *one, &mut *two);
    let (mut one, why) = mm.close_space(one, &mut card).unwrap_err();
    assert_eq!(why, RootError::Foreign { pdb: one.root().pdb() }.into());
    std::mem::swap(&mut *one, &mut *two);
    mm.close_space(one, &mut card).map_err(|(_, why)| why).unwrap();
    mm.close_space(two, &mut card).map_err(|(_, why)| why).unwrap();
}

#[test]
fn an_integrated_gpu_names_its_own_pool() {
    let mut card = Mmio::probe_with(Gpu::new(&Config::chip("gb20b")).unwrap(), CpuPath).unwrap();
    let mut mm = GpuMm::probe(&mut card, FbSource::Registers, &[]).unwrap();
    let config = mm.space_config(Use::Channel);
    let refused = mm.create_space::<V3, _>(config, &mut card).unwrap_err();
    assert_eq!(refused, MmError::NoPool { chip: "gb20b" });
    let pdb = TableAddr::vram(0x1000);
    assert_eq!(mm.register(pdb, Use::Channel).unwrap_err(), RootError::BeyondReach { pdb, end: 0 });
    let mut pool = SysPool::coherent(MIB..64 * MIB);
    let mut space = mm.create_space_in::<V3, _, _>(config, &mut card, &mut pool).unwrap();
    let block = TableAddr::SysCoherent(SysAddr::new(0x9000));
    let bound = mm.bind_channel(&mut card, block, space.root(), ChannelUse::default()).unwrap();
    assert_eq!(card.bar0().peek_word(block.checked_add(0x200).unwrap()), space.pdb().raw() | 0xc06);
    let frames = [gmmu::addr::Pfn::new(0x1234)];
    let request = MapRequest::frames_of(gmmu::addr::Aperture::SysCoherent, 1, PageSize::Size4K).at(0x4000);
    space.map_pages(&mut card, &mut pool, &request, &frames).unwrap();
    let (space, why) = mm.close_space_in(space, &mut card, &mut pool).unwrap_err();
    assert!(matches!(why, CloseSpaceError::Root(RootError::Bound { binds: 1, .. })));
    let (space, why) = mm.close_space(space, &mut card).unwrap_err();
    assert_eq!(why, CloseSpaceError::NoPool { chip: "gb20b" });
    bound.unbind(&mut card).map_err(|(_, why)| why).unwrap();
    mm.close_space_in(space, &mut card, &mut pool).map_err(|(_, why)| why).unwrap();
    mm.close().map_err(|(_, why)| why).unwrap();
}

#[test]
fn dropped_tokens_keep_what_they_stand_for() {
    let (mut card, mut mm) = made("tu102");
    let space = mm.create_space::<V2, _>(mm.space_config(Use::Bar), &mut card).unwrap();
    let pdb = space.pdb();
    drop(mm.bind_bar(&mut card, Bar::Bar1, TableAddr::vram(GIB), space.root(), Limits::default()).unwrap());
    assert_eq!((mm.bar(Bar::Bar1), space.root().binds()), (Some(pdb), 1));
    drop(space);
    assert_eq!(mm.register(pdb, Use::Channel).unwrap_err(), RootError::Taken { pdb });
    let (_, busy) = mm.close().unwrap_err();
    assert_eq!(busy.to_string(), "address spaces are live: 1 roots, named by instance blocks 1 times");
}

#[derive(Clone, Debug)]
enum Step {
    Register(u64),
    Unregister(u64),
    Bind(u64, u64),
    Unbind(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let page = || 0..6u64;
    prop_oneof![
        3 => page().prop_map(Step::Register),
        2 => page().prop_map(Step::Unregister),
        3 => (page(), 6..12u64).prop_map(|(root, block)| Step::Bind(root, block)),
        2 => any::<usize>().prop_map(Step::Unbind),
    ]
}

proptest! {
    #[test]
    fn books_of_roots_are_those_of_a_naive_model(steps in proptest::collection::vec(step(), 0..60)) {
        let mut card = card(&Config { vram: 64 * MIB, ..Config::chip("gh100") });
        let mut mm = GpuMm::probe(&mut card, FbSource::Registers, &[]).unwrap();
        let at = |page: u64| TableAddr::vram(MIB + page * 4096);
        let mut roots: BTreeMap<u64, Root> = BTreeMap::new();
        let mut binds: Vec<(u64, ChannelBind)> = Vec::new();
        for step in steps {
            match step {
                Step::Register(page) => match mm.register(at(page), Use::Channel) {
                    Ok(root) => prop_assert!(roots.insert(page, root).is_none()),
                    Err(why) => {
                        prop_assert_eq!(why, RootError::Taken { pdb: at(page) });
                        prop_assert!(roots.contains_key(&page));
                    },
                },
                Step::Unregister(page) => {
                    let Some(root) = roots.remove(&page) else { continue };
                    let count = binds.iter().filter(|(of, _)| *of == page).count() as u32;
                    match mm.unregister(root) {
                        Ok(()) => prop_assert_eq!(count, 0),
                        Err((root, why)) => {
                            prop_assert_eq!(why, RootError::Bound { pdb: at(page), binds: count });
                            roots.insert(page, root);
                        }
                    }
                }
                Step::Bind(page, block) => {
                    let Some(root) = roots.get(&page) else { continue };
                    let bound = mm.bind_channel(&mut card, at(block), root, ChannelUse::default()).unwrap();
                    let mut word = [0];
                    card.read_words(at(block).checked_add(0x200).unwrap(), &mut word).unwrap();
                    prop_assert_eq!(word[0] & !0xfff, at(page).raw());
                    binds.push((page, bound));
                }
                Step::Unbind(index) => {
                    if binds.is_empty() {
                        continue;
                    }
                    let (_, bound) = binds.swap_remove(index % binds.len());
                    bound.unbind(&mut card).map_err(|(_, why)| why).unwrap();
                }
            }
            let naive: Vec<(TableAddr, u32)> = roots
                .keys()
                .map(|&page| (at(page), binds.iter().filter(|(of, _)| *of == page).count() as u32))
                .collect();
            prop_assert_eq!(mm.roots().collect::<Vec<_>>(), naive);
        }
    }
}
