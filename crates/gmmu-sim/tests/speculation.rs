//! Caches that do more than they were asked for: the worst case, chance from a seed, and neither where it is off.

mod common;
use common::*;
use gmmu::addr::TableAddr;
use gmmu_sim::{Config, FaultType, Rule, Speculation};

fn driver(chip: &str, speculation: Speculation) -> Driver {
    let mut driver = Driver::with(Config { vram: 1 << 30, speculation, ..Config::chip(chip) });
    driver.directories();
    driver.fill(SMALL, &[0; 512]);
    driver.fill(BIG, &[0; 32]);
    // The first access: the space is in use from here on.
    assert_eq!(driver.fault(VA), Some(FaultType::Pde));
    driver
}

fn worst(chip: &str) -> Driver {
    driver(chip, Speculation::Worst)
}

#[test]
fn a_miss_that_nobody_looked_at_is_cached() {
    for chip in BOTH {
        let story = |speculation| {
            let mut driver = driver(chip, speculation);
            driver.link_small();
            driver.invalidate(0);
            driver.write(SMALL + 8, driver.pte(0x80_0000));
            (driver.found(VA + 4096), driver.rules())
        };
        assert_eq!(story(Speculation::Off), (Some(0x80_0000), vec![]));
        assert_eq!(story(Speculation::Worst), (None, vec![Rule::StaleInvalid]));
    }
}

#[test]
fn what_was_there_for_a_moment_is_cached() {
    for chip in BOTH {
        let mut driver = worst(chip);
        driver.write(SMALL, driver.pte(0x80_0000));
        driver.link_small();
        driver.invalidate(0);
        // There and back: the first value is right again, the one in between is not.
        driver.write(SMALL, driver.pte(0x90_0000));
        driver.write(SMALL, driver.pte(0x80_0000));
        assert_eq!(driver.found(VA), Some(0x90_0000));
        assert_eq!(driver.rules(), [Rule::StaleLeaf]);
        driver.invalidate(PTE_ONLY);
        assert_eq!(driver.found(VA), Some(0x80_0000));
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn tables_that_were_linked_for_a_moment_are_cached() {
    for chip in BOTH {
        // Linked, unlinked and freed before any access.
        let mut driver = worst(chip);
        driver.link_small();
        driver.write(PD0_HI, 0);
        driver.gpu.note_table_freed(TableAddr::vram(SMALL), 4096);
        assert_eq!(driver.rules(), [Rule::TableFreedReachable]);
        let mut driver = worst(chip);
        driver.link_small();
        driver.write(PD0_HI, 0);
        driver.invalidate(TO_PDE0);
        driver.gpu.note_table_freed(TableAddr::vram(SMALL), 4096);
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn an_invalidate_of_the_leaves_leaves_the_directories() {
    for chip in BOTH {
        for (depth, rules) in [(PTE_ONLY, vec![Rule::InvalidateTooShallow]), (TO_PDE0, vec![])] {
            let mut driver = worst(chip);
            driver.write(SMALL, driver.pte(0x80_0000));
            driver.write(SMALL + 0x2000, driver.pte(0x90_0000));
            driver.link_small();
            driver.invalidate(0);
            driver.write(PD0_HI, driver.pde(SMALL + 0x2000));
            driver.invalidate(depth);
            let expected = if depth == PTE_ONLY { 0x80_0000 } else { 0x90_0000 };
            assert_eq!(driver.found(VA), Some(expected));
            assert_eq!(driver.rules(), rules);
        }
    }
}

#[test]
fn a_half_written_entry_is_always_seen() {
    for chip in BOTH {
        for (first, torn) in [(0, true), (4, false)] {
            let mut driver = worst(chip);
            driver.link_small();
            driver.invalidate(0);
            let (word, offset) = (driver.pte(0x80_0000) | if driver.v3 { 1 << 61 } else { 0 }, driver.show(SMALL));
            for half in [first, 4 - first] {
                let value = word >> (8 * half) & 0xffff_ffff;
                gmmu::device::Bar0::write(&mut driver.gpu, offset + half, gmmu::device::Width::W32, value)
                    .expect("in the window");
            }
            assert_eq!(driver.rules().contains(&Rule::TornEntry), torn, "{chip}");
        }
    }
}

#[test]
fn a_right_driver_has_nothing_to_fear() {
    for chip in BOTH {
        let modes = (0..50).map(Speculation::Random).chain([Speculation::Worst, Speculation::Off]);
        for mode in modes {
            let mut driver = driver(chip, mode);
            let pages: Vec<u64> = (0..64).map(|page| driver.pte(0x80_0000 + 4096 * page)).collect();
            driver.fill(SMALL, &pages);
            driver.link_small();
            driver.link_big();
            driver.invalidate(TO_PDE0);
            assert!((0..64).all(|page| driver.found(VA + 4096 * page) == Some(0x80_0000 + 4096 * page)), "{mode:?}");
            // A 64K page over the first of them, then a 2M page over all, then nothing.
            driver.write(BIG, driver.no_4k());
            driver.invalidate(PTE_ONLY);
            driver.fill(SMALL, &[0; 16]);
            driver.write(BIG, driver.pte(0xa0_0000));
            driver.invalidate(PTE_ONLY);
            assert_eq!(driver.found(VA + 4096), Some(0xa0_1000), "{mode:?}");
            driver.fill(PD0_LO, &[0, 0]);
            driver.invalidate(TO_PDE0);
            driver.gpu.note_table_freed(TableAddr::vram(SMALL), 4096);
            driver.write(PD0_LO, driver.pte(0xc0_0000));
            driver.invalidate(TO_PDE0);
            assert_eq!(driver.found(VA + 0x1_2345), Some(0xc1_2345), "{mode:?}");
            driver.write(PD0_LO, 0);
            driver.invalidate(TO_PDE0);
            assert_eq!(driver.fault(VA), Some(FaultType::Pde), "{mode:?}");
            assert_eq!(driver.rules(), [], "{mode:?}");
        }
    }
}

#[test]
fn chance_finds_a_missing_invalidate_for_some_seeds_and_not_for_others() {
    let found = |seed| {
        let mut driver = driver("gh100", Speculation::Random(seed));
        driver.link_small();
        driver.invalidate(0);
        for page in 0..8 {
            driver.write(SMALL + 8 * page, driver.pte(0x80_0000));
        }
        let mapped = (0..8).filter(|page| driver.found(VA + 4096 * page).is_some()).count();
        (mapped, driver.rules().len())
    };
    let all: Vec<_> = (0..40).map(found).collect();
    assert!(all.iter().all(|&(mapped, missed)| mapped + missed == 8), "{all:?}");
    assert!(all.iter().any(|&(mapped, _)| mapped == 8) && all.iter().any(|&(mapped, _)| mapped < 8), "{all:?}");
    assert_eq!(all, (0..40).map(found).collect::<Vec<_>>(), "the seed decides");
}

/// Bookkeeping under random stores and invalidates: what the worst case holds of directories is counted right, so
/// that after an invalidate of everything nothing points into tables that are gone.
#[test]
fn the_worst_case_forgets_what_is_covered() {
    for chip in BOTH {
        for seed in 0..30u64 {
            let mut driver = worst(chip);
            let mut state = seed;
            let mut next = |limit: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % limit
            };
            let tables: Vec<u64> = (0..6).map(|table| SMALL + 0x2_0000 + 0x1000 * table).collect();
            for &table in &tables {
                driver.fill(table, &[0; 512]);
            }
            for _ in 0..60 {
                let slot = PD0_LO + 16 * next(3);
                match next(5) {
                    0 => driver.write(slot + 8, 0),
                    1 => driver.invalidate(1 + u32::try_from(next(3)).expect("small")),
                    2 => driver.write(slot, driver.big_half(SMALL + 0x2_0000 + 0x1000 * next(6))),
                    3 => driver.write(slot, 0),
                    _ => driver.write(slot + 8, driver.pde(SMALL + 0x2_0000 + 0x1000 * next(6))),
                }
            }
            for slot in 0..6 {
                driver.write(PD0_LO + 8 * slot, 0);
            }
            driver.invalidate(0);
            driver.rules();
            for &table in &tables {
                driver.gpu.note_table_freed(TableAddr::vram(table), 4096);
            }
            assert_eq!(driver.rules(), [], "{chip} seed {seed}");
        }
    }
}

#[test]
fn a_root_that_was_cleared_and_flushed_goes_with_its_memory() {
    for chip in BOTH {
        for (cleared, flushed) in [(false, true), (true, false), (true, true)] {
            let mut driver = worst(chip);
            driver.link_small();
            driver.invalidate(0);
            if cleared {
                driver.write(ROOT, 0);
            }
            if flushed {
                driver.invalidate(0);
            }
            driver.gpu.note_table_freed(pdb(), 4096);
            let clean = cleared && flushed;
            assert_eq!(driver.rules(), if clean { vec![] } else { vec![Rule::TableFreedReachable] }, "{chip}");
        }
    }
}
