//! What is in video memory: the registers of the model and of cards that lie, the firmware's list, and a naive model of
//! who has which page.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::allow_attributes, reason = "tests")]

mod broken;
use broken::Broken;
use gmmu::addr::{VramAddr, PAGE_BYTES};
use gmmu::chip::{Chip, CHIPS};
use gmmu::device::DeviceError;
use gmmu::fb::{carveouts, vram_bytes, Carveouts, FbError, FbLayout, FbUse, GspRegion, Keep, LayoutError, LayoutInput};
use gmmu_sim::{Config, Gpu};
use proptest::prelude::*;
use std::ops::Range;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn range(bytes: Range<u64>) -> Range<VramAddr> {
    VramAddr::new(bytes.start)..VramAddr::new(bytes.end)
}

fn found(config: &Config) -> Carveouts {
    let mut gpu = Gpu::new(config).unwrap();
    let chip = Chip::by_name(&config.chip).unwrap();
    let total = vram_bytes(&mut gpu, chip).unwrap();
    carveouts(&mut gpu, chip, total).unwrap()
}

fn read(chip: &str, says: &[(u32, u32)]) -> Result<Carveouts, FbError> {
    let gpu = Gpu::new(&Config { vram: 8 * GIB, ..Config::chip(chip) }).unwrap();
    carveouts(&mut Broken::saying(gpu, says), Chip::by_name(chip).unwrap(), 8 * GIB)
}

#[test]
fn every_chip_tells_its_carveouts() {
    for chip in CHIPS.iter().filter(|chip| !chip.is_integrated()) {
        let old = chip.architecture < 0x18 || chip.architecture == 0x19;
        let mut config = Config { vram: 8 * GIB, ..Config::chip(chip.name) };
        let vga = |from: u64| Some(range(8 * GIB - from..8 * GIB));
        let nothing = Carveouts { vga: vga(if old { MIB } else { 128 * KIB }), ..Carveouts::default() };
        assert_eq!(found(&config), nothing, "{}", chip.name);

        let (wpr2, lock) = (7 * GIB + 4096..8 * GIB - 2 * MIB, 6 * GIB..6 * GIB + 8192);
        config.carveouts.wpr2 = Some(wpr2.clone());
        config.carveouts.mmu_lock = Some(lock.clone());
        config.carveouts.vga = Some(8 * GIB - 320 * KIB);
        // Pascal has no protected region, and nothing before Ampere can be locked.
        let pascal = chip.architecture == 0x13;
        let all = Carveouts {
            wpr2: (!pascal).then(|| range(wpr2)),
            vga: vga(if old { 320 * KIB } else { 128 * KIB }),
            mmu_lock: (chip.architecture > 0x16).then(|| range(lock)),
        };
        assert_eq!(found(&config), all, "{}", chip.name);
        // Below the last mebibyte: NVIDIA's driver takes the last 128 KiB then.
        config.carveouts.vga = Some(8 * GIB - 2 * MIB);
        assert_eq!(found(&config).vga, vga(128 * KIB), "{}", chip.name);
        config.carveouts.vga = Some(8 * GIB - MIB);
        assert_eq!(found(&config).vga, vga(if old { MIB } else { 128 * KIB }), "{}", chip.name);
    }
}

#[test]
fn integrated_chips_are_not_asked() {
    let gpu = Gpu::new(&Config::chip("gb10b")).unwrap();
    let mut broken = Broken { gone: true, ..Broken::new(gpu) };
    assert_eq!(carveouts(&mut broken, Chip::by_name("gb10b").unwrap(), 0), Ok(Carveouts::default()));
}

#[test]
fn registers_that_make_no_sense() {
    let pages = |at: u64| (at >> 12 << 4) as u32;
    let (lo, hi) = (0x1f_a824, 0x1f_a828);
    let at = VramAddr::new;
    // The high end says whether there is a region, whatever the low one reads.
    assert_eq!(read("ga102", &[(lo, 0x10), (hi, 0xf)]).unwrap().wpr2, None);
    let backwards = |lo, hi| Err(FbError::Backwards { what: "WPR2", lo: at(lo), hi: at(hi) });
    assert_eq!(read("ga102", &[(lo, pages(2 * GIB)), (hi, pages(GIB))]), backwards(2 * GIB, GIB));
    assert_eq!(read("gh100", &[(lo, pages(GIB)), (hi, pages(GIB))]), backwards(GIB, GIB));
    assert_eq!(read("gb100", &[(0x88_a824, pages(GIB)), (0x88_a828, pages(MIB))]), backwards(GIB, MIB));
    let beyond = |what, end| Err(FbError::BeyondMemory { what, end: at(end), total: 8 * GIB });
    assert_eq!(read("ad102", &[(lo, pages(GIB)), (hi, pages(9 * GIB))]), beyond("WPR2", 9 * GIB));
    assert_eq!(read("tu102", &[(0x62_5f04, 0x2_0000 << 8 | 8)]), beyond("the VGA workspace", 8 * GIB));
    let locked = read("ga100", &[(0x1f_a82c, pages(GIB)), (0x1f_a830, pages(8 * GIB))]);
    assert_eq!(locked, beyond("the region that the MMU locks", 8 * GIB + 4096));
    assert_eq!(
        locked.unwrap_err().to_string(),
        "the region that the MMU locks reaches to vram:0x000200001000, but video memory ends at 0x200000000"
    );
    // A locked region of one page: its two ends name the same.
    let one = read("ga100", &[(0x1f_a82c, pages(GIB)), (0x1f_a830, pages(GIB))]).unwrap();
    assert_eq!(one.mmu_lock, Some(range(GIB..GIB + 4096)));
}

#[test]
fn registers_that_do_not_answer() {
    let gone = |offset| Err(FbError::Device(DeviceError::Gone { offset, value: u32::MAX }));
    for offset in [0x1f_a828, 0x62_5f04, 0x1f_a7c8, 0x1f_a82c, 0x1f_a830] {
        assert_eq!(read("ga102", &[(offset, u32::MAX)]), gone(offset), "{offset:#x}");
    }
    let poison = |offset, value| Err(FbError::Device(DeviceError::Poison { offset, value }));
    assert_eq!(read("gh100", &[(0x1f_a828, 0xbadf_5040)]), poison(0x1f_a828, 0xbadf_5040));
    // No display: the last mebibyte. No lock, or none that the CPU may see: no region.
    let last = Some(range(8 * GIB - MIB..8 * GIB));
    assert_eq!(read("ga100", &[(0x62_5f04, 0xbadf_1100)]).unwrap().vga, last);
    for unreadable in [0, 0xfe, 0xbadf_1100] {
        let says = [(0x1f_a7c8, unreadable), (0x1f_a82c, 0), (0x1f_a830, 0x1000)];
        assert_eq!(read("ad102", &says).unwrap().mmu_lock, None);
    }
}

fn input<'a>(total: u64, carveouts: &'a Carveouts, keep: &'a [Keep]) -> LayoutInput<'a> {
    LayoutInput { total, reach: u64::MAX, carveouts, keep }
}

fn region(bytes: Range<u64>) -> GspRegion {
    let traits = GspRegion { supports_compressed: true, supports_iso: true, ..GspRegion::default() };
    GspRegion { base: bytes.start, limit: bytes.end.wrapping_sub(1), ..traits }
}

#[test]
fn a_table_that_an_engineer_can_read() {
    let carveouts = Carveouts {
        wpr2: Some(range(23 * GIB + 640 * MIB..24 * GIB - 4 * MIB)),
        vga: Some(range(24 * GIB - 128 * KIB..24 * GIB)),
        mmu_lock: None,
    };
    let keep = [Keep { range: range(16 * MIB..48 * MIB + 4 * KIB), what: "console of the boot loader" }];
    let regions = [
        region(2 * MIB..22 * GIB),
        GspRegion { supports_iso: false, ..region(22 * GIB..23 * GIB) },
        GspRegion { reserved: 512 * MIB, ..region(23 * GIB..23 * GIB + 512 * MIB) },
        GspRegion { protected: true, ..region(23 * GIB + 512 * MIB..23 * GIB + 640 * MIB) },
        GspRegion { reserved: 0x18_0000, ..region(23 * GIB + 640 * MIB..24 * GIB) },
    ];
    let layout = FbLayout::from_gsp(&input(24 * GIB, &carveouts, &keep), &regions).unwrap();
    let expected = "\
24 GiB of video memory, 22.96 GiB of it usable
0x0005fffe0000..0x000600000000    128 KiB  VGA workspace
0x0005ffc00000..0x0005fffe0000   3968 KiB  reserved by the GSP (region 4)
0x0005e8000000..0x0005ffc00000    380 MiB  WPR2: firmware
0x0005e0000000..0x0005e8000000    128 MiB  protected, says the GSP (region 3)
0x0005c0000000..0x0005e0000000    512 MiB  reserved by the GSP (region 2)
0x000580000000..0x0005c0000000      1 GiB  usable, not scanned out
0x000003001000..0x000580000000  21.95 GiB  usable
0x000001000000..0x000003001000  32772 KiB  console of the boot loader
0x000000200000..0x000001000000     14 MiB  usable
0x000000000000..0x000000200000      2 MiB  unclaimed";
    assert_eq!(layout.to_string(), expected);
    assert_eq!(layout.at(VramAddr::new(22 * GIB)).unwrap().used_for, FbUse::Usable { compressed: true, iso: false });
    assert_eq!(layout.at(VramAddr::new(24 * GIB)), None);
}

#[test]
fn lists_that_make_no_sense_are_refused_whole() {
    let none = Carveouts::default();
    let make = |regions: &[GspRegion]| FbLayout::from_gsp(&input(GIB, &none, &[]), regions).map(|_| ());
    let good = region(0..MIB);
    let overlap = |first, second, at| Err(LayoutError::GspOverlap { first, second, at: VramAddr::new(at) });
    assert_eq!(make(&[good]), Ok(()));
    assert_eq!(make(&[]), Err(LayoutError::NothingUsable { total: GIB }));
    assert_eq!(make(&[GspRegion { reserved: 1, ..good }]), Err(LayoutError::NothingUsable { total: GIB }));
    // The whole page that it is made of is not aligned.
    assert_eq!(make(&[region(100..8191)]), Err(LayoutError::NothingUsable { total: GIB }));
    let backwards = GspRegion { base: 5, limit: 4, ..good };
    assert_eq!(make(&[good, backwards]), Err(LayoutError::GspBackwards { index: 1, base: 5, limit: 4 }));
    for limit in [GIB, u64::MAX] {
        let beyond = GspRegion { base: MIB, limit, ..good };
        assert_eq!(make(&[good, beyond]), Err(LayoutError::GspBeyondMemory { index: 1, limit, total: GIB }));
    }
    assert_eq!(make(&[region(MIB..2 * MIB), region(0..MIB + 1)]), overlap(1, 0, MIB));
    // Regions that nobody may use are judged too.
    let reserved = GspRegion { reserved: 1, ..region(0..4 * MIB) };
    assert_eq!(make(&[good, reserved]), overlap(0, 1, 0));
}

#[test]
fn what_is_kept_must_be_memory() {
    let none = Carveouts::default();
    let make = |bytes: Range<u64>| {
        let keep = [Keep { range: range(bytes), what: "a heap" }];
        FbLayout::from_registers(&input(GIB, &none, &keep)).map(|layout| layout.usable_bytes())
    };
    assert_eq!(make(MIB..MIB), Ok(GIB));
    let (start, end) = (VramAddr::new(2), VramAddr::new(1));
    #[expect(clippy::reversed_empty_ranges, reason = "that is the test")]
    let backwards = make(2..1);
    assert_eq!(backwards, Err(LayoutError::Backwards { what: "a heap", start, end }));
    let end = VramAddr::new(GIB + 1);
    assert_eq!(make(0..GIB + 1), Err(LayoutError::BeyondMemory { what: "a heap", end, total: GIB }));
    // Carveouts that somebody made up are judged as well.
    let made_up = Carveouts { wpr2: Some(range(0..2 * GIB)), ..none };
    let end = VramAddr::new(2 * GIB);
    let refused = FbLayout::from_registers(&input(GIB, &made_up, &[])).map(|_| ());
    assert_eq!(refused, Err(LayoutError::BeyondMemory { what: "WPR2", end, total: GIB }));
}

#[test]
fn registers_alone_leave_everything_above_the_lowest_carveout() {
    let carveouts = Carveouts {
        wpr2: Some(range(900 * MIB..1000 * MIB)),
        vga: Some(range(GIB - MIB..GIB)),
        mmu_lock: Some(range(800 * MIB..801 * MIB)),
    };
    let input = LayoutInput { reach: 1001 * MIB, ..input(GIB, &carveouts, &[]) };
    let layout = FbLayout::from_registers(&input).unwrap();
    assert_eq!(layout.usable().collect::<Vec<_>>(), [range(0..800 * MIB)]);
    let uses: Vec<FbUse> = layout.regions().iter().map(|region| region.used_for).collect();
    use FbUse::{MmuLock, OutOfReach, Unclaimed, Usable, VgaWorkspace, Wpr2};
    let usable = Usable { compressed: true, iso: true };
    assert_eq!(uses, [usable, MmuLock, Unclaimed, Wpr2, Unclaimed, OutOfReach, VgaWorkspace]);
}

/// Pages in the model's memory.
const PAGES: u64 = 48;

fn some_range() -> impl Strategy<Value = Range<u64>> {
    (0..PAGES, 1..12u64).prop_map(|(start, len)| start..(start + len).min(PAGES))
}

fn bytes(pages: &Range<u64>) -> Range<u64> {
    pages.start * PAGE_BYTES..pages.end * PAGE_BYTES
}

/// A region of the firmware's list, most often behind the one before.
type Spec = (u64, u64, bool, bool, bool);

fn build(specs: &[Spec]) -> Vec<GspRegion> {
    let mut next = 0;
    let make = |&(gap, len, reserved, protected, iso): &Spec| {
        let start = next + gap % 4 - u64::from(gap == 7 && next > 0);
        next = start + len;
        let region = region(bytes(&(start..next)));
        GspRegion { reserved: reserved.into(), protected, supports_iso: iso, ..region }
    };
    specs.iter().map(make).collect()
}

proptest! {
    #[test]
    fn every_page_is_what_a_naive_model_says(
        specs in proptest::collection::vec((0..8u64, 1..12u64, any::<bool>(), any::<bool>(), any::<bool>()), 0..6),
        wpr2 in proptest::option::of(some_range()), vga in proptest::option::of(some_range()),
        lock in proptest::option::of(some_range()), keep in some_range(), reach in 0..2 * PAGES, descending in any::<bool>(),
    ) {
        let mut regions = build(&specs);
        if descending {
            regions.reverse();
        }
        let as_range = |pages: &Option<Range<u64>>| pages.as_ref().map(|pages| range(bytes(pages)));
        let carveouts = Carveouts { wpr2: as_range(&wpr2), vga: as_range(&vga), mmu_lock: as_range(&lock) };
        let keep_list = [Keep { range: range(bytes(&keep)), what: "kept" }];
        let total = PAGES * PAGE_BYTES;
        let input = LayoutInput { total, reach: reach * PAGE_BYTES, carveouts: &carveouts, keep: &keep_list };
        let layout = FbLayout::from_gsp(&input, &regions);

        let in_region = |page: u64, region: &GspRegion| (region.base..=region.limit).contains(&(page * PAGE_BYTES));
        let bad = regions.iter().any(|region| region.limit >= total)
            || (0..2 * PAGES).any(|page| regions.iter().filter(|region| in_region(page, region)).count() > 1);
        let naive = |page: u64| {
            let has = |pages: &Option<Range<u64>>| pages.as_ref().is_some_and(|pages| pages.contains(&page));
            let found = regions.iter().position(|region| in_region(page, region));
            match (has(&lock), has(&wpr2), has(&vga), keep.contains(&page), found.map(|n| (n, regions[n]))) {
                (true, ..) => FbUse::MmuLock,
                (_, true, ..) => FbUse::Wpr2,
                (_, _, true, ..) => FbUse::VgaWorkspace,
                (_, _, _, true, _) => FbUse::Kept("kept"),
                (.., Some((index, region))) if region.reserved != 0 => FbUse::GspReserved { index, bytes: 1 },
                (.., Some((index, region))) if region.protected => FbUse::GspProtected { index },
                _ if page >= reach => FbUse::OutOfReach,
                (.., Some((_, region))) => FbUse::Usable { compressed: true, iso: region.supports_iso },
                (.., None) => FbUse::Unclaimed,
            }
        };
        let usable = (0..PAGES).filter(|&page| naive(page).is_usable()).count() as u64;
        match layout {
            Ok(layout) => {
                prop_assert!(!bad);
                for page in 0..PAGES {
                    let found = layout.at(VramAddr::new(page * PAGE_BYTES + page % PAGE_BYTES)).unwrap();
                    prop_assert_eq!(found.used_for, naive(page), "page {}", page);
                }
                prop_assert_eq!(layout.usable_bytes(), usable * PAGE_BYTES);
                prop_assert_eq!(layout.regions().iter().map(|region| region.bytes()).sum::<u64>(), total);
                prop_assert!(layout.regions().windows(2).all(|two| two[0].range.end == two[1].range.start));
                prop_assert_eq!(layout.to_string().lines().count(), layout.regions().len() + 1);
            }
            Err(LayoutError::NothingUsable { .. }) => prop_assert!(!bad && usable == 0),
            Err(_) => prop_assert!(bad),
        }
    }

    #[test]
    fn hostile_lists_never_panic(regions in proptest::collection::vec(any::<(u64, u64, u64, bool)>(), 0..5), total: u64) {
        let list: Vec<GspRegion> = regions
            .iter()
            .map(|&(base, limit, reserved, protected)| GspRegion { base, limit, reserved, protected, ..GspRegion::default() })
            .collect();
        let none = Carveouts::default();
        if let Ok(layout) = FbLayout::from_gsp(&input(total, &none, &[]), &list) {
            prop_assert!(layout.usable_bytes() <= total && !layout.to_string().is_empty());
        }
    }
}
