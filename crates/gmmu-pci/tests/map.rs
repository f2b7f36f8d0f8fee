//! BARs mapped from plain files in a made-up sysfs.
#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a failed expectation is a failed test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use gmmu::chip::{Chip, UnknownChip};
use gmmu::device::{Bar0, Bar1Aperture, DeviceError, Width};
use gmmu::regs::{NV_PMC_BOOT_0, NV_PMC_BOOT_42};
use gmmu_pci::map::{MapError, Mapping};
use gmmu_pci::{Card, Cards};

/// The first card of the machine `server`, with a `resource0` of that length.
fn card(test: &str, bytes: u64) -> (PathBuf, Card, PathBuf) {
    let sys = common::unpack("server", &Path::new(env!("CARGO_TARGET_TMPDIR")).join("map").join(test)).join("sys");
    let card = Cards::read(&sys).expect("there is a sysfs").cards[0].clone();
    let path = sys.join(format!("bus/pci/devices/{}/resource0", card.bdf));
    fs::File::create(&path).and_then(|file| file.set_len(bytes)).expect("the folder is ours");
    (sys, card, path)
}

#[test]
fn accesses_of_every_width_reach_the_file_and_stay_inside() {
    let (sys, card, path) = card("widths", 16 << 20);
    let mut bar = Mapping::open(&sys, &card, 0, true).expect("is as long as the BAR");
    assert_eq!(bar.bytes(), 16 << 20);
    for (offset, width) in [(1, Width::W8), (2, Width::W16), (4, Width::W32), (8, Width::W64)] {
        bar.write(offset, width, 0x8877_6655_4433_2211).expect("is inside");
        assert_eq!(bar.read(offset, width), Ok(0x8877_6655_4433_2211 & (u64::MAX >> (64 - 8 * width.bytes()))));
    }
    for (offset, width) in [(2, Width::W32), (4, Width::W64), (16 << 20, Width::W8), (u32::MAX, Width::W8)] {
        let bad = DeviceError::BadOffset { offset, bytes: width.bytes() };
        assert_eq!((bar.read(offset, width), bar.write(offset, width, 0)), (Err(bad), Err(bad)));
    }
    drop(bar);
    let bytes = fs::read(path).expect("is still there");
    assert_eq!(bytes[..12], [0, 0x11, 0x11, 0x22, 0x11, 0x22, 0x33, 0x44, 0x11, 0x22, 0x33, 0x44]);
}

#[test]
fn a_mapping_for_reading_refuses_writes_and_tells_the_chip() {
    let (sys, card, path) = card("reading", 16 << 20);
    let mut bar = Mapping::open(&sys, &card, 0, true).expect("is as long as the BAR");
    bar.write32(NV_PMC_BOOT_0, 0x1800_00a1).and_then(|()| bar.write32(NV_PMC_BOOT_42, 0x1800_0000)).expect("inside");
    drop(bar);
    let before = fs::read(&path).expect("is there");
    let mut bar = Mapping::open(&sys, &card, 0, false).expect("is as long as the BAR");
    assert!(matches!(bar.write32(0, 0), Err(DeviceError::Backend(_))));
    let words = (bar.read32(NV_PMC_BOOT_0).expect("inside"), bar.read32(NV_PMC_BOOT_42).expect("inside"));
    assert_eq!(Chip::identify(words.0, words.1).map(|chip| chip.name), Ok("gh100"));
    drop(bar);
    assert!(fs::read(&path).expect("is there") == before, "nothing was written");
}

#[test]
fn all_ones_and_poison_are_no_chip() {
    let (sys, card, _) = card("dead", 16 << 20);
    let mut bar = Mapping::open(&sys, &card, 0, true).expect("is as long as the BAR");
    for word in [u32::MAX, 0xbadf_5040] {
        bar.write32(NV_PMC_BOOT_0, word).expect("is inside");
        let boot_0 = bar.read32(NV_PMC_BOOT_0).expect("is inside");
        assert!(matches!(Chip::identify(boot_0, 0), Err(UnknownChip::NotThere { .. })), "{word:#x}");
    }
}

#[test]
fn what_cannot_be_mapped_is_said() {
    for bytes in [0, 4096, (16 << 20) - 1, 32 << 20] {
        let (sys, card, _) = card("length", bytes);
        let error = Mapping::open(&sys, &card, 0, false).expect_err("is not as long as the BAR");
        assert!(matches!(error, MapError::Length { found, .. } if found == bytes), "{error}");
    }
    let (sys, mut card, path) = card("refused", 16 << 20);
    assert!(matches!(Mapping::open(&sys, &card, 1, false), Err(MapError::NoBar(1))));
    card.bars[0].assigned = false;
    assert!(matches!(Mapping::open(&sys, &card, 0, false), Err(MapError::Unassigned(0))));
    card.bars[0] = gmmu_pci::card::Bar { assigned: true, memory: false, ..card.bars[0] };
    assert!(matches!(Mapping::open(&sys, &card, 0, false), Err(MapError::NotMemory(0))));
    card.bars[0] = gmmu_pci::card::Bar { memory: true, bytes: u64::MAX, ..card.bars[0] };
    assert!(matches!(Mapping::open(&sys, &card, 0, false), Err(MapError::Length { .. })));
    card.bars[0].bytes = 16 << 20;
    fs::remove_file(path).expect("is ours");
    assert!(matches!(Mapping::open(&sys, &card, 0, false), Err(MapError::System { .. })));
    card.power.state = Some("D3hot");
    assert!(matches!(Mapping::open(&sys, &card, 0, false), Err(MapError::Asleep)));
}

#[test]
fn an_aperture_is_copied_in_and_out_at_any_place() {
    let (sys, card, path) = card("aperture", 16 << 20);
    let mut bar = Mapping::open(&sys, &card, 0, true).expect("is as long as the BAR");
    let data: Vec<u8> = (0..64).map(|n| n + 1).collect();
    for offset in 0..9u64 {
        for length in 0..40 {
            let place = 4096 + offset;
            bar.write_bytes(4088, &[0; 80]).expect("inside");
            bar.write_bytes(place, &data[..length]).expect("inside");
            let mut back = vec![0; length];
            bar.read_bytes(place, &mut back).expect("inside");
            assert_eq!(back, data[..length]);
            // Nothing beside it was touched, by the file itself.
            let file = fs::read(&path).expect("is there");
            let start = usize::try_from(place).expect("fits");
            assert!(file[4088..start].iter().all(|&byte| byte == 0) && file[start..start + length] == data[..length]);
            assert!(file[start + length..4168].iter().all(|&byte| byte == 0));
        }
    }
    for (offset, length) in [((16 << 20) - 7, 8), (16 << 20, 1), (u64::MAX, 2), (u64::MAX - 7, 8)] {
        let mut bytes = vec![0; length];
        let bad = |result| assert!(matches!(result, Err(DeviceError::BadBar1Offset { .. })), "{offset:#x}");
        bad(bar.write_bytes(offset, &bytes));
        bad(bar.read_bytes(offset, &mut bytes));
    }
    assert_eq!((bar.size(), bar.read_at(1 << 24, Width::W8).is_err()), (16 << 20, true));
    let mut reader = Mapping::open(&sys, &card, 0, false).expect("is as long as the BAR");
    assert!(matches!(reader.write_bytes(0, &[1]), Err(DeviceError::Backend(_))));
    assert!(matches!(reader.write_at(0, Width::W64, 1), Err(DeviceError::Backend(_))));
}
