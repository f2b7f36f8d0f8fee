//! The rules about entries, and about the two halves of them: broken on purpose, and almost broken.

mod common;
use common::*;
use gmmu::addr::TableAddr;
use gmmu::device::{Bar0, Width};
use gmmu_sim::Rule;

const PAGE: u64 = 0x80_0000;

/// Both leaf tables, empty and linked.
fn tables(chip: &str) -> Driver {
    let mut driver = Driver::with_directories(chip);
    driver.fill(SMALL, &[0; 512]);
    driver.fill(BIG, &[0; 32]);
    driver.link_big();
    driver.link_small();
    driver.invalidate(0);
    driver
}

#[test]
fn both_halves_valid() {
    for chip in BOTH {
        let mut driver = tables(chip);
        driver.write(BIG, driver.pte(PAGE));
        driver.write(SMALL + 8, driver.pte(PAGE));
        assert_eq!(driver.found(VA), Some(PAGE));
        assert_eq!(driver.rules(), [Rule::BothHalvesValid]);
        // In another chunk, or while the 64K slot is only closed, both may be there.
        let mut driver = tables(chip);
        driver.write(BIG, driver.pte(PAGE));
        driver.fill(BIG + 8, &[driver.no_4k()]);
        driver.write(SMALL + 8 * 16, driver.pte(PAGE));
        driver.write(SMALL + 8 * 32, driver.pte(PAGE));
        driver.invalidate(PTE_ONLY);
        assert_eq!(driver.found(VA), Some(PAGE));
        assert!(driver.read(VA + 0x1_0000).is_err());
        assert_eq!(driver.found(VA + 0x2_0000), Some(PAGE));
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn stale_4k_uncovered() {
    for chip in BOTH {
        // Closed over a 4K page, a 64K page for a while, and opened again: the old page is back.
        let mut driver = tables(chip);
        let merge = |driver: &mut Driver| {
            driver.write(SMALL, driver.pte(PAGE));
            driver.invalidate(PTE_ONLY);
            driver.write(BIG, driver.no_4k());
            driver.invalidate(PTE_ONLY);
            driver.write(BIG, driver.pte(PAGE));
            driver.invalidate(PTE_ONLY);
            driver.write(BIG, driver.no_4k());
            driver.invalidate(PTE_ONLY);
        };
        merge(&mut driver);
        driver.write(BIG, 0);
        driver.invalidate(PTE_ONLY);
        assert_eq!(driver.rules(), [Rule::StaleSmallUncovered]);
        assert_eq!(driver.found(VA), Some(PAGE));
        // The same where the whole 64K table goes.
        let mut driver = tables(chip);
        merge(&mut driver);
        driver.write(PD0_LO, 0);
        assert_eq!(driver.rules(), [Rule::StaleSmallUncovered]);
        // Written in the meantime, even with the same word, it is what the driver wants.
        let mut driver = tables(chip);
        merge(&mut driver);
        driver.write(SMALL, driver.pte(PAGE));
        driver.write(BIG, 0);
        driver.invalidate(PTE_ONLY);
        assert_eq!(driver.found(VA), Some(PAGE));
        assert_eq!(driver.rules(), []);
        // An empty one comes to no harm.
        driver.write(BIG + 8, driver.no_4k());
        driver.write(BIG + 8, 0);
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn half_cleared() {
    for chip in BOTH {
        let mut driver = Driver::with_directories(chip);
        driver.write(PD0_LO, driver.pte(PAGE));
        driver.link_small();
        assert_eq!(driver.rules(), []);
        driver.write(PD0_LO, 0);
        assert_eq!(driver.rules(), [Rule::HalfCleared]);
        // Both, the high one first; and a leaf that had no other half.
        let mut driver = Driver::with_directories(chip);
        driver.write(PD0_LO, driver.pte(PAGE));
        driver.link_small();
        driver.write(PD0_HI, 0);
        driver.write(PD0_LO, 0);
        driver.link_small();
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn torn_entry() {
    for chip in BOTH {
        let halves = |driver: &mut Driver, word: u64, low_first: bool, look: bool| {
            let offset = driver.show(SMALL);
            for half in if low_first { [0, 1] } else { [1, 0] } {
                let value = word >> (32 * half) & 0xffff_ffff;
                driver.gpu.write(offset + 4 * half, Width::W32, value).expect("in the window");
                if look {
                    let _ = driver.read(VA);
                }
            }
        };
        let start = || {
            let mut driver = Driver::with(gmmu_sim::Config { vram: 32 << 30, ..gmmu_sim::Config::chip(chip) });
            driver.directories();
            driver.fill(SMALL, &[0; 512]);
            driver.link_small();
            driver
        };
        let torn = |driver: &mut Driver| driver.rules().contains(&Rule::TornEntry);
        // A live entry changes in both halves, and an engine looks in between.
        let mut driver = start();
        let (one, two) = (driver.pte(PAGE), driver.pte(0x90_0000));
        let word = if driver.v3 { two | 2 << 32 } else { two & !(6 << 56) };
        driver.write(SMALL, one);
        halves(&mut driver, word, true, true);
        assert!(torn(&mut driver));
        // Nobody looked; and published or retracted in the right order there is nothing to see.
        let mut driver = start();
        driver.write(SMALL, one);
        halves(&mut driver, word, true, false);
        assert!(!torn(&mut driver));
        let mut driver = start();
        halves(&mut driver, word, false, true);
        assert!(!torn(&mut driver), "the high half first");
        driver.invalidate(0);
        assert!(driver.read(VA).is_ok());
        halves(&mut driver, 0, true, true);
        assert!(!torn(&mut driver), "the low half first");
        // Published low half first, it is.
        let mut driver = start();
        let word = if driver.v3 { word } else { one };
        halves(&mut driver, word, true, true);
        assert!(torn(&mut driver));
    }
}

#[test]
fn compressible_4k() {
    for chip in BOTH {
        let mut driver = tables(chip);
        let kind = |driver: &Driver, kind: u64| {
            driver.pte(PAGE) & if driver.v3 { !0xf00 } else { !(0xff << 56) } | kind << if driver.v3 { 8 } else { 56 }
        };
        for code in [0, 6, 0xf] {
            driver.write(SMALL, kind(&driver, code));
        }
        driver.write(BIG + 8, kind(&driver, 8));
        assert_eq!(driver.rules(), []);
        for code in [8, 0xe] {
            driver.write(SMALL, kind(&driver, code));
            assert_eq!(driver.rules(), [Rule::CompressibleSmall], "{code:#x}");
        }
    }
}

#[test]
fn reserved_bits() {
    for chip in BOTH {
        let driver = tables(chip);
        // (word, undefined bits, defined bits that nobody sets).
        let (pte, pde, big, small) = if driver.v3 {
            ((1u64 << 52, 1u64 << 7), (1u64 << 6, 1u64 << 5), (1u64 << 7, 1u64 << 4), (1u64 << 8, 1u64 << 4))
        } else {
            ((1 << 33, 1 << 40), (1 << 4, 1 << 5), (1 << 54, 0), (1 << 5, 0))
        };
        let words = [
            (SMALL, driver.pte(PAGE), pte),
            (PD1_SLOT, driver.pde(PD0), pde),
            (PD0_LO, driver.big_half(BIG), big),
            (PD0_HI, driver.pde(SMALL), small),
        ];
        for (at, word, (undefined, defined)) in words {
            let mut driver = tables(chip);
            driver.write(at, word | defined);
            assert_eq!(driver.rules(), [], "{chip} {at:#x}");
            driver.write(at, word | undefined);
            assert_eq!(driver.rules(), [Rule::ReservedBits], "{chip} {at:#x}");
        }
        // Of what is not used no bit counts.
        let mut driver = tables(chip);
        driver.write(SMALL, 0xf000);
        assert_eq!(driver.rules(), []);
        // No chip has leaves in the root.
        driver.write(ROOT + 8, driver.pte(0));
        assert_eq!(driver.rules(), [Rule::ReservedBits]);
    }
}

#[test]
fn beyond_memory() {
    for chip in BOTH {
        let end = 1 << 30;
        let mut driver = tables(chip);
        driver.write(SMALL, driver.pte(end - 0x1000));
        driver.write(BIG + 8, driver.pte(end - 0x1_0000));
        driver.write(PD0_LO + 16, driver.pte(end - 0x20_0000));
        assert_eq!(driver.rules(), []);
        driver.write(SMALL + 8, driver.pte(end));
        assert_eq!(driver.rules(), [Rule::BeyondMemory]);
        driver.write(PD0_LO + 32, driver.pte(end));
        assert_eq!(driver.rules(), [Rule::BeyondMemory]);
        driver.write(PD0_HI + 48, driver.pde(end));
        assert_eq!(driver.rules(), [Rule::BeyondMemory]);
        // Not yet reachable, and then it is.
        driver.write(SMALL + 0x1000, driver.pte(end));
        assert_eq!(driver.rules(), []);
        driver.write(PD0_HI + 64, driver.pde(SMALL + 0x1000));
        assert_eq!(driver.rules(), [Rule::BeyondMemory]);
    }
}

#[test]
fn misaligned() {
    for chip in BOTH {
        let mut driver = tables(chip);
        driver.write(BIG + 8, driver.pte(PAGE + 0x1_0000));
        driver.write(PD0_LO + 16, driver.pte(PAGE));
        driver.gpu.note_table_taken(TableAddr::vram(0x70_100), 256);
        driver.gpu.note_root(TableAddr::vram(0x71_000));
        assert_eq!(driver.rules(), []);
        driver.write(BIG + 8, driver.pte(PAGE + 0x1000));
        assert_eq!(driver.rules(), [Rule::MisalignedPage]);
        driver.write(PD0_LO + 16, driver.pte(PAGE + 0x10_0000));
        assert_eq!(driver.rules(), [Rule::MisalignedPage]);
        driver.gpu.note_table_taken(TableAddr::vram(0x72_100), 4096);
        assert_eq!(driver.rules(), [Rule::MisalignedTable]);
        driver.gpu.note_root(TableAddr::vram(0x75_040));
        assert_eq!(driver.rules(), [Rule::MisalignedTable]);
    }
}
