//! Mapping and unmapping on the software GPU, judged by the model's own MMU and its sanitizer.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{World, DATA, GIB, MIB};
use gmmu::addr::{PageSize, PhysAddr};
use gmmu::format::{V2, V3};
use gmmu::vmm::{ExecuteError, Extent, MapRequest, PrepareError};
use gmmu_sim::{Bus, Config};

/// The chips of either version that stand for their families.
const DISCRETE: [&str; 26] = [
    "tu102", "tu104", "tu106", "tu117", "tu116", "ga100", "ga102", "ga103", "ga104", "ga106", "ga107", "gh100",
    "ad102", "ad103", "ad104", "ad106", "ad107", "gb100", "gb102", "gb110", "gb112", "gb202", "gb203", "gb205",
    "gb206", "gb207",
];

macro_rules! on_chip {
    ($chip:expr, $F:ident => $body:expr) => {
        match gmmu::chip::Chip::by_name($chip).unwrap().mmu {
            gmmu::format::MmuVersion::V2 => {
                type $F = V2;
                $body
            }
            gmmu::format::MmuVersion::V3 => {
                type $F = V3;
                $body
            }
        }
    };
}

fn a_few_pages<F: gmmu::format::Format>(chip: &str, page: PageSize) {
    let mut world = World::<F>::new(chip);
    let bytes = page.bytes() * 3;
    let va = 16 * page.bytes().max(GIB);
    let range = world.map(va, DATA, bytes, Some(page));
    assert_eq!(range, va..va + bytes);
    let step = page.bytes().min(64 << 10) as usize;
    for at in range.clone().step_by(step) {
        let found = world.access(at).unwrap();
        assert_eq!((found.to, found.page_bytes), (PhysAddr::vram(DATA + at - va), page.bytes()), "{chip} {page}");
    }
    assert!(world.access(va - 1).is_err() && world.access(va + bytes).is_err());
    world.unmap(range.clone());
    for at in range.step_by(step) {
        assert!(world.access(at).is_err(), "{chip} {page} {at:#x}");
    }
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn every_page_size_of_every_discrete_chip_maps_and_unmaps() {
    for chip in DISCRETE {
        let sizes = gmmu::chip::Chip::by_name(chip).unwrap().page_sizes;
        for page in sizes.iter().filter(|page| *page < PageSize::Size256G) {
            on_chip!(chip, F => a_few_pages::<F>(chip, page));
        }
    }
}

/// GA100 wants a 512M leaf straight over a pointer to empty tables; in two halves the pointer would for a moment lead
/// somewhere else.
#[test]
fn ga100_has_no_512m_pages_on_a_bus_that_splits_words() {
    for (bus, largest) in [(Bus::Bits64, 512 * MIB), (Bus::Bits32, 2 * MIB)] {
        let mut world = World::<V2>::with(&Config { bus, ..Config::chip("ga100") });
        assert_eq!(world.vmm.page_sizes().has(PageSize::Size512M), bus == Bus::Bits64);
        let before = world.map(0, DATA, 4096, Some(PageSize::Size4K));
        world.unmap(before);
        world.map(0, 16 * GIB, 512 * MIB, None);
        assert_eq!(world.access(0x1234_5678).map(|found| found.page_bytes), Ok(largest));
        world.assert_clean();
    }
}

/// What `map --size 1G --page 4K` has to reach, on a bus with 64-bit accesses and one without.
fn gigabyte<F: gmmu::format::Format>(chip: &str, bus: Bus) {
    let mut world = World::<F>::with(&Config { bus, ..Config::chip(chip) });
    let range = world.map(64 * GIB, DATA, GIB, Some(PageSize::Size4K));
    let counts = world.gpu().counts();
    let pages = GIB / 4096;
    let per_page = counts.writes as f64 / pages as f64;
    println!("{chip} {bus:?}: {counts:?}, {per_page:.4} writes a page");
    assert!(per_page <= if bus == Bus::Bits64 { 1.02 } else { 2.04 }, "{per_page}");
    assert!(counts.reads <= 64 && counts.window_moves <= 8 && counts.invalidates == 1, "{counts:?}");
    world.assert_maps(range.clone(), DATA);
    world.gpu().reset_counts();
    world.unmap(range.clone());
    let counts = world.gpu().counts();
    println!("{chip} {bus:?}: unmap {counts:?}");
    assert!(counts.writes <= 2 * 512 + 32 && counts.invalidates == 1, "512 tables are dropped: {counts:?}");
    world.assert_faults(range);
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn a_gigabyte_of_4k_pages_costs_a_write_a_page_and_one_invalidate() {
    for chip in DISCRETE {
        on_chip!(chip, F => gigabyte::<F>(chip, Bus::Bits64));
    }
    for chip in ["tu102", "ga100", "ad102", "gh100", "gb202"] {
        on_chip!(chip, F => gigabyte::<F>(chip, Bus::Bits32));
    }
}

/// Section 3 rule 9: a 512M leaf of GA100 takes a round of invalid tables first.
#[test]
fn ga100_links_invalid_tables_before_a_512m_leaf() {
    let mut world = World::<V2>::new("ga100");
    let range = world.map(4 * GIB, DATA, GIB, Some(PageSize::Size512M));
    assert_eq!(world.gpu().counts().invalidates, 2);
    world.assert_maps(range.start..range.start + MIB, DATA);
    world.unmap(range);
    world.assert_clean();
    world.assert_no_leak();

    let mut other = World::<V2>::new("ga102");
    other.map(4 * GIB, DATA, GIB, Some(PageSize::Size512M));
    assert_eq!(other.gpu().counts().invalidates, 1);
}

#[test]
fn the_largest_pages_that_fit_are_taken_piece_by_piece() {
    let mut world = World::<V3>::new("gh100");
    let start = GIB - 12 * 4096 - 3 * (64 << 10);
    let bytes = GIB + 5 * MIB;
    world.map(start, DATA + (start & (GIB - 1)), bytes, None);
    let sizes: Vec<PageSize> = world.vmm.pieces().map(|(_, piece)| piece.page).collect();
    use PageSize::{Size2M, Size4K, Size512M, Size64K};
    assert_eq!(sizes, [Size4K, Size64K, Size512M, Size2M, Size64K, Size4K]);
    world.assert_maps(start..start + bytes, DATA + (start & (GIB - 1)));
    world.unmap(start..start + bytes);
    world.assert_faults(start..start + bytes);
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn scattered_frames_come_between_prepare_and_execute() {
    let mut world = World::<V3>::new("gh100");
    for page in [PageSize::Size4K, PageSize::Size64K, PageSize::Size2M] {
        let list: Vec<u64> = (0..700).map(|n| DATA + (n * 7919 % 700) * page.bytes()).collect();
        let frames = common::frames(&list);
        let va = 4 * GIB;
        let job = world.prepare(&MapRequest::frames(700, page).at(va)).unwrap();
        let failed = job.execute(&mut world.mmio).unwrap_err();
        assert_eq!(failed.why, ExecuteError::FramesMissing);
        let (job, why) = failed.job.with_frames(&frames[1..]).unwrap_err();
        assert_eq!(why.to_string(), "699 frames for 700 pages");
        let receipt = job.with_frames(&frames).unwrap().execute(&mut world.mmio).unwrap();
        let range = world.vmm.commit(&mut world.pool, receipt).unwrap().range;
        for (n, to) in (0..).zip(&list) {
            let found = world.access(va + n * page.bytes()).unwrap();
            assert_eq!((found.to, found.page_bytes), (PhysAddr::vram(*to), page.bytes()));
        }
        world.notes.tell(world.mmio.bar0());
        world.unmap(range);
    }
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn bad_requests_name_the_value_and_the_limit_and_change_nothing() {
    let mut world = World::<V2>::new("tu102");
    world.map(2 * GIB, DATA, MIB, None);
    let before = (format!("{:?}", world.vmm.census()), world.pool.inner().out.clone());
    let extent = |to, bytes| Extent { to: PhysAddr::vram(to), bytes };
    let mut refused = |extents: &[Extent], va: u64, page: Option<PageSize>| {
        let request = MapRequest { page, ..MapRequest::extents(extents).at(va) };
        world.prepare(&request).unwrap_err().to_string()
    };
    let vram = 96 * GIB;
    let ok = extent(DATA, MIB);
    assert_eq!(refused(&[], 0, None), "the range is empty");
    assert_eq!(refused(&[extent(DATA, 0)], 0, None), "the range is empty");
    assert_eq!(refused(&[extent(DATA, 100)], 0, None), "length 0x64 is not a multiple of 0x1000");
    assert_eq!(refused(&[extent(DATA + 8, 4096)], 0, None), "memory address 0x200000008 is not a multiple of 0x1000");
    assert_eq!(refused(&[ok], 0x1234, None), "address 0x1234 is not a multiple of 0x1000");
    assert_eq!(
        refused(&[ok], 1 << 49, None),
        "the range ends at 0x2000000100000, the address space at 0x2000000000000"
    );
    assert_eq!(
        refused(&[ok], (1 << 49) - 4096, None),
        "the range ends at 0x20000000ff000, the address space at 0x2000000000000"
    );
    assert_eq!(refused(&[ok], u64::MAX - 4095, None), "the length overflows");
    assert_eq!(
        refused(&[extent(vram - 4096, 8192)], 0, None),
        "the memory ends at vram:0x1800001000, video memory at 0x1800000000"
    );
    assert_eq!(refused(&[extent(0, GIB)], 0, Some(PageSize::Size512M)), "tu102 has no 512M pages, only 4K 64K 2M");
    assert_eq!(refused(&[ok], 2 * GIB + MIB / 2, None), "0x80000000..0x80100000 is mapped already");
    assert_eq!(refused(&[extent(u64::MAX - 4095, 4096)], 0, None), "the length overflows");
    let unmap = world.prepare_unmap(0..GIB).unwrap_err();
    assert_eq!(unmap, PrepareError::NotMapped { range: 0..GIB });
    let cut = world.prepare_unmap(2 * GIB..2 * GIB + 4096).unwrap_err();
    assert_eq!(
        cut.to_string(),
        "the change cuts what is one entry over 0x80000000..0x80010000: accesses to the rest would fault meanwhile; \
         say that they are quiesced or replayable, or map with smaller pages"
    );
    assert_eq!(before, (format!("{:?}", world.vmm.census()), world.pool.inner().out.clone()));
    world.assert_clean();
}

/// A compressible kind has no 4K pages to fall back on: what 64K pages cannot map is refused, never rounded.
#[test]
fn compressible_memory_is_aligned_or_refused() {
    let mut world = World::<V3>::new("gh100");
    let kind = gmmu::format::Kind(8);
    let mut map = |to, bytes, va: Option<u64>| {
        let extents = [Extent { to: PhysAddr::vram(to), bytes }];
        let request = MapRequest::extents(&extents).kind(kind);
        let request = va.map_or(request.clone(), |va| request.at(va));
        world.prepare(&request).map(|job| world.finish(job)).map_err(|why| why.to_string())
    };
    assert_eq!(
        map(DATA + 4096, 65536, None),
        Err("memory address 0x200001000 is not a multiple of 0x10000".to_owned())
    );
    assert_eq!(map(DATA, 68 << 10, None), Err("length 0x11000 is not a multiple of 0x10000".to_owned()));
    assert_eq!(map(DATA, 2 * MIB, Some(GIB + 4096)), Err("address 0x40001000 is not a multiple of 0x10000".to_owned()));
    let range = map(DATA + (64 << 10), 4 * MIB, None).unwrap();
    world.assert_maps(range, DATA + (64 << 10));
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 65536 }];
    let small = MapRequest::extents(&extents).kind(kind).page(PageSize::Size4K);
    assert_eq!(world.prepare(&small).unwrap_err(), PrepareError::KindForbids4K { kind });
    world.assert_clean();
}

/// 256G pages, where the chip has them and enough memory.
#[test]
fn a_256g_page_maps_and_unmaps() {
    let mut world = World::<V3>::with(&Config { vram: 288 * GIB, ..Config::chip("gb100") });
    let range = world.map(1 << 50, 0, 256 * GIB, Some(PageSize::Size256G));
    for va in range.clone().step_by(1 << 30) {
        let found = world.access(va + 0x123).unwrap();
        assert_eq!((found.to, found.page_bytes), (PhysAddr::vram(va - range.start + 0x123), 256 * GIB));
    }
    world.unmap(range.clone());
    assert!(world.access(range.start).is_err() && world.access(range.end - 1).is_err());
    world.assert_clean();
    world.assert_no_leak();
}

#[test]
fn a_mirror_of_64_gib_takes_64_bytes_a_leaf_table() {
    let mut world = World::<V3>::new("gh100");
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 64 * GIB }];
    let request = MapRequest::extents(&extents).at(1 << 40).page(PageSize::Size4K);
    let job = world.prepare(&request).unwrap();
    let census = world.vmm.census();
    println!("{census:?}");
    assert_eq!(census.leaf_tables, 32768);
    assert!(census.mirror_bytes <= census.leaf_tables * 64 + census.directories * 2560 + 32 * 1024);
    world.cancel(job);
    world.assert_no_leak();
    assert_eq!(world.vmm.census().leaf_tables, 0);
}
