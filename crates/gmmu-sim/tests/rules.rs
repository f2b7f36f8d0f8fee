//! Every rule of the sanitizer: broken on purpose, and almost broken.
#![expect(clippy::panic, reason = "tests")]
#![expect(clippy::cast_possible_truncation, reason = "small constants")]

mod common;
use common::*;
use gmmu::addr::TableAddr;
use gmmu::device::{Bar0, Width};
use gmmu_sim::{AccessKind, Client, FaultType, Rule};

/// A page that an engine has used.
fn used_page(chip: &str) -> Driver {
    let mut driver = Driver::with_directories(chip);
    driver.write(SMALL, driver.pte(0x80_0000));
    driver.link_small();
    driver.invalidate(0);
    assert_eq!(driver.found(VA), Some(0x80_0000));
    driver
}

#[test]
fn stale_leaf() {
    for chip in BOTH {
        let mut driver = used_page(chip);
        driver.write(SMALL, driver.pte(0x90_0000));
        assert_eq!(driver.found(VA), Some(0x80_0000), "the cache keeps the old page");
        let finding = driver.gpu.findings().first().cloned().unwrap_or_else(|| panic!("no finding"));
        assert_eq!(finding.rule, Rule::StaleLeaf);
        assert_eq!(finding.entry, Some(TableAddr::vram(SMALL)));
        assert_eq!((finding.cached, finding.raw), (Some(driver.pte(0x80_0000)), Some(driver.pte(0x90_0000))));
        assert!(finding.cached_op < finding.changed_op && finding.changed_op < Some(finding.op));
        assert!(finding.says().contains("[stale-leaf]"), "{finding}");
    }
}

#[test]
fn stale_leaf_close() {
    for chip in BOTH {
        let mut driver = used_page(chip);
        driver.write(SMALL, driver.pte(0x90_0000));
        driver.invalidate(PTE_ONLY);
        assert_eq!(driver.found(VA), Some(0x90_0000));
        // Changed and changed back: nothing is wrong for whoever looks now.
        driver.write(SMALL, 0);
        driver.write(SMALL, driver.pte(0x90_0000));
        assert_eq!(driver.found(VA), Some(0x90_0000));
        // A page beside the changed one was never looked at.
        driver.write(SMALL + 8, driver.pte(0xa0_0000));
        assert_eq!(driver.found(VA + 4096), Some(0xa0_0000));
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn a_cached_invalid_entry_is_stale_too() {
    for chip in BOTH {
        let mut driver = used_page(chip);
        assert_eq!(driver.fault(VA + 4096), Some(FaultType::Pte));
        driver.write(SMALL + 8, driver.pte(0x90_0000));
        assert_eq!(driver.fault(VA + 4096), Some(FaultType::Pte), "the miss was cached");
        assert_eq!(driver.rules(), [Rule::StaleInvalid]);
        driver.invalidate(PTE_ONLY);
        assert_eq!(driver.found(VA + 4096), Some(0x90_0000));
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn stale_directory() {
    for chip in BOTH {
        let mut driver = used_page(chip);
        driver.write(PD0_HI, 0);
        assert_eq!(driver.found(VA), Some(0x80_0000));
        assert_eq!(driver.rules(), [Rule::StaleDirectory]);
        driver.invalidate(PTE_ONLY);
        assert_eq!(driver.found(VA), Some(0x80_0000), "PTE_ONLY leaves the directory entry");
        assert_eq!(driver.rules(), [Rule::InvalidateTooShallow]);
        driver.invalidate(TO_PDE0);
        assert_eq!(driver.fault(VA), Some(FaultType::Pde));
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn a_large_leaf_is_a_leaf_but_needs_the_depth_of_its_directory() {
    for chip in BOTH {
        let mut driver = Driver::with_directories(chip);
        driver.write(PD0_LO, driver.pte(0x80_0000));
        driver.invalidate(0);
        assert_eq!(driver.found(VA + 5), Some(0x80_0005));
        driver.write(PD0_LO, driver.pte(0xc0_0000));
        driver.invalidate(PTE_ONLY);
        assert_eq!(driver.found(VA), Some(0x80_0000));
        assert_eq!(driver.rules(), [Rule::InvalidateTooShallow]);
        driver.invalidate(TO_PDE0);
        assert_eq!(driver.found(VA), Some(0xc0_0000));
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn table_freed_while_linked() {
    for chip in BOTH {
        let mut driver = used_page(chip);
        driver.gpu.note_table_freed(TableAddr::vram(SMALL), 4096);
        assert_eq!(driver.rules(), [Rule::TableFreedReachable]);
    }
}

#[test]
fn table_freed_while_cached() {
    for chip in BOTH {
        for depth in [None, Some(PTE_ONLY)] {
            let mut driver = used_page(chip);
            driver.write(PD0_HI, 0);
            if let Some(depth) = depth {
                driver.invalidate(depth);
            }
            driver.gpu.note_table_freed(TableAddr::vram(SMALL), 4096);
            assert_eq!(driver.rules(), [Rule::TableFreedReachable], "depth {depth:?}");
        }
        // The hub's caches are not those of the engines.
        let mut driver = used_page(chip);
        driver.write(PD0_HI, 0);
        driver.invalidate_with(TO_PDE0, 1 << 2);
        driver.gpu.note_table_freed(TableAddr::vram(SMALL), 4096);
        assert_eq!(driver.rules(), [Rule::TableFreedReachable]);
    }
}

#[test]
fn table_freed_close() {
    for chip in BOTH {
        let mut driver = used_page(chip);
        // The neighbour in the same page stays linked.
        driver.write(PD0 + 64, driver.big_half(BIG + 0x100));
        driver.write(PD0_LO, driver.big_half(BIG));
        driver.invalidate(TO_PDE0);
        assert!(driver.read(VA).is_ok() && driver.read(VA + (1 << 21)).is_err());
        driver.fill(PD0_LO, &[0, 0]);
        driver.invalidate(TO_PDE0);
        driver.gpu.note_table_freed(TableAddr::vram(SMALL), 4096);
        driver.gpu.note_table_freed(TableAddr::vram(BIG), 256);
        assert_eq!(driver.rules(), []);
        assert!(driver.read(VA + (1 << 21)).is_err());
        driver.gpu.note_table_freed(TableAddr::vram(BIG + 0x100), 256);
        assert_eq!(driver.rules(), [Rule::TableFreedReachable]);
    }
}

#[test]
fn a_root_goes_with_its_memory() {
    for chip in BOTH {
        let mut driver = used_page(chip);
        driver.invalidate(0);
        driver.gpu.note_table_freed(pdb(), 4096);
        driver.gpu.note_table_freed(TableAddr::vram(SMALL), 4096);
        assert_eq!(driver.rules(), []);
        // Naming it once more in an invalidate does not bring it back.
        driver.invalidate(0);
        driver.gpu.note_table_taken(TableAddr::vram(PD1), 4096);
        assert_eq!(driver.rules(), []);
        // But the driver can, with the table below it that is fresh and unwritten by now.
        driver.gpu.note_root(pdb());
        assert_eq!(driver.rules(), [Rule::PublishedUninitialised]);
        driver.gpu.note_table_freed(TableAddr::vram(PD2), 4096);
        assert_eq!(driver.rules(), [Rule::TableFreedReachable]);
    }
}

#[test]
fn a_forgotten_root_reaches_nothing() {
    for chip in BOTH {
        let mut driver = used_page(chip);
        driver.gpu.forget_root(pdb());
        driver.gpu.note_table_freed(TableAddr::vram(SMALL), 4096);
        assert_eq!(driver.rules(), [Rule::TableFreedReachable], "caches keep what they have");
        driver.invalidate(0);
        driver.gpu.forget_root(pdb());
        for table in [SMALL, PD0, PD1, PD2, PD3, ROOT] {
            driver.gpu.note_table_freed(TableAddr::vram(table), 4096);
        }
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn a_table_taken_while_in_use() {
    let mut driver = used_page("gh100");
    driver.gpu.note_table_taken(TableAddr::vram(SMALL), 4096);
    assert_eq!(driver.rules(), [Rule::TableFreedReachable]);
    assert_eq!(driver.found(VA), Some(0x80_0000), "its contents were left alone");
}

#[test]
fn a_table_written_as_data() {
    for chip in BOTH {
        let mut driver = used_page(chip);
        driver.write(SMALL + 8, driver.pte(SMALL));
        driver.write(SMALL + 16, driver.pte(0x30_0000));
        driver.invalidate(PTE_ONLY);
        driver.gpu.store32(engine(), VA + 0x2000, 1).expect("mapped");
        assert_eq!(driver.rules(), []);
        driver.gpu.store32(engine(), VA + 0x1ff0, 1).expect("mapped");
        assert_eq!(driver.rules(), [Rule::TableWrittenAsData]);
        driver.gpu.load32(engine(), VA + 0x1ff0).expect("mapped");
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn published_uninitialised() {
    for chip in BOTH {
        let mut driver = Driver::with_directories(chip);
        driver.gpu.note_table_taken(TableAddr::vram(SMALL), 4096);
        driver.fill(SMALL, &[0; 511]);
        driver.link_small();
        let findings = driver.gpu.take_findings();
        assert_eq!(findings.iter().map(|found| found.rule).collect::<Vec<_>>(), [Rule::PublishedUninitialised]);
        assert_eq!(findings[0].entry, Some(TableAddr::vram(SMALL + 511 * 8)));
        assert_eq!(findings[0].va, Some(VA + 511 * 4096));
        // A directory above brings all that lies below.
        let mut driver = Driver::with_directories(chip);
        driver.write(PD1_SLOT, 0);
        driver.gpu.note_table_taken(TableAddr::vram(BIG), 256);
        driver.link_big();
        assert_eq!(driver.rules(), []);
        driver.write(PD1_SLOT, driver.pde(PD0));
        assert_eq!(driver.rules(), [Rule::PublishedUninitialised]);
    }
}

#[test]
fn published_uninitialised_close() {
    for chip in BOTH {
        let mut driver = Driver::with_directories(chip);
        // Written whole, in any order, through halves too.
        driver.gpu.note_table_taken(TableAddr::vram(SMALL), 4096);
        driver.fill(SMALL + 8, &[0; 511]);
        let offset = driver.show(SMALL);
        driver.gpu.write32(offset + 4, 0).expect("in the window");
        driver.gpu.write32(offset, 0).expect("in the window");
        driver.link_small();
        // Sixteen tables in a page: only the linked one must be written.
        driver.gpu.note_table_taken(TableAddr::vram(BIG & !0xfff), 4096);
        driver.fill(BIG, &[0; 32]);
        driver.link_big();
        assert_eq!(driver.rules(), []);
        driver.write(PD0_LO + 16, driver.big_half(BIG - 0x100));
        assert_eq!(driver.rules(), [Rule::PublishedUninitialised]);
    }
}

#[test]
fn half_a_word_is_not_a_word() {
    let mut driver = Driver::with_directories("gh100");
    driver.gpu.note_table_taken(TableAddr::vram(SMALL), 4096);
    driver.fill(SMALL + 8, &[0; 511]);
    let offset = driver.show(SMALL);
    driver.gpu.write32(offset, 0).expect("in the window");
    driver.link_small();
    assert_eq!(driver.rules(), [Rule::PublishedUninitialised]);
}

#[test]
fn publishing_in_two_halves() {
    for chip in BOTH {
        // High, then low: no half-written entry is ever valid.
        let mut driver = on_32_bits(chip);
        driver.directories();
        let high = 0x3f00_0000;
        driver.gpu.note_table_taken(TableAddr::vram(high), 4096);
        driver.fill(high, &[0; 512]);
        let word = driver.pde(high);
        let offset = driver.show(PD0_HI);
        driver.gpu.write32(offset + 4, (word >> 32) as u32).expect("in the window");
        driver.gpu.write32(offset, word as u32).expect("in the window");
        assert_eq!(driver.rules(), []);
    }
}

/// Brings the space into a state with one page size at `VA`, used and settled.
fn settled(chip: &str, bytes: u64) -> Driver {
    let mut driver = Driver::with_directories(chip);
    driver.fill(SMALL, &[0; 512]);
    driver.fill(BIG, &[0; 32]);
    match bytes {
        0x1000 => {
            driver.write(SMALL, driver.pte(0x80_0000));
            driver.link_big();
            driver.link_small();
        }
        0x1_0000 => {
            driver.write(BIG, driver.pte(0x80_0000));
            driver.link_big();
            driver.link_small();
        }
        0x20_0000 => driver.write(PD0_LO, driver.pte(0x80_0000)),
        _ => driver.write(PD1_SLOT, driver.pte(0x2000_0000)),
    }
    driver.invalidate(0);
    assert_eq!(driver.read(VA).map(|found| found.page_bytes), Ok(bytes));
    assert_eq!(driver.rules(), []);
    driver
}

#[test]
fn split_2m() {
    for chip in BOTH {
        // At once.
        let mut driver = settled(chip, 0x20_0000);
        driver.write(SMALL, driver.pte(0x80_0000));
        driver.fill(PD0_LO, &[0, driver.pde(SMALL)]);
        assert_eq!(driver.rules(), [Rule::ValidToValid]);
        // Without the invalidate between, or with one that is too shallow.
        for depth in [None, Some(PTE_ONLY)] {
            let mut driver = settled(chip, 0x20_0000);
            driver.write(SMALL, driver.pte(0x80_0000));
            driver.fill(PD0_LO, &[0, 0]);
            if let Some(depth) = depth {
                driver.invalidate(depth);
            }
            driver.link_small();
            assert_eq!(driver.rules(), [Rule::ValidToValid], "depth {depth:?}");
        }
        // As it should be.
        let mut driver = settled(chip, 0x20_0000);
        driver.write(SMALL, driver.pte(0x80_0000));
        driver.fill(PD0_LO, &[0, 0]);
        driver.invalidate(TO_PDE0);
        driver.link_small();
        driver.invalidate(TO_PDE0);
        assert_eq!(driver.read(VA).map(|found| found.page_bytes), Ok(4096));
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn an_empty_table_below_a_recent_leaf_is_no_page() {
    for chip in BOTH {
        let mut driver = settled(chip, 0x20_0000);
        driver.fill(PD0_LO, &[0, driver.pde(SMALL)]);
        assert_eq!(driver.rules(), []);
        driver.write(SMALL + 8, driver.pte(0x90_0000));
        assert_eq!(driver.rules(), [Rule::ValidToValid]);
        driver.invalidate(TO_PDE0);
        driver.write(SMALL + 16, driver.pte(0xa0_0000));
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn merge_to_2m() {
    for chip in BOTH {
        for from in [0x1000, 0x1_0000] {
            let mut driver = settled(chip, from);
            driver.fill(PD0_LO, &[driver.pte(0x80_0000), 0]);
            assert_eq!(driver.rules(), [Rule::ValidToValid], "from {from:#x}");
            let mut driver = settled(chip, from);
            driver.fill(PD0_LO, &[0, 0]);
            driver.write(PD0_LO, driver.pte(0x80_0000));
            assert_eq!(driver.rules(), [Rule::ValidToValid], "from {from:#x}");
            // Sparse is a translation too.
            let mut driver = settled(chip, from);
            driver.fill(PD0_LO, &[8, 0]);
            driver.fill(PD0_LO, &[8, 0]);
            assert_eq!(driver.rules(), [Rule::ValidToValid], "from {from:#x}");
            let mut driver = settled(chip, from);
            driver.fill(PD0_LO, &[0, 0]);
            driver.invalidate(TO_PDE0);
            driver.write(PD0_LO, driver.pte(0x80_0000));
            driver.invalidate(TO_PDE0);
            assert_eq!(driver.found(VA), Some(0x80_0000));
            assert_eq!(driver.rules(), []);
        }
    }
}

#[test]
fn split_64k() {
    for chip in BOTH {
        let mut driver = settled(chip, 0x1_0000);
        driver.write(SMALL, driver.pte(0x80_0000));
        assert_eq!(driver.rules(), [], "hidden by the 64K entry");
        driver.write(BIG, 0);
        assert_eq!(driver.rules(), [Rule::ValidToValid]);

        let mut driver = settled(chip, 0x1_0000);
        driver.write(SMALL, driver.pte(0x80_0000));
        driver.write(BIG, driver.no_4k());
        driver.write(BIG, 0);
        assert_eq!(driver.rules(), [Rule::ValidToValid], "no invalidate in between");

        let mut driver = settled(chip, 0x1_0000);
        driver.write(SMALL, driver.pte(0x80_0000));
        driver.write(BIG, driver.no_4k());
        driver.invalidate(PTE_ONLY);
        driver.write(BIG, 0);
        driver.invalidate(PTE_ONLY);
        assert_eq!(driver.read(VA).map(|found| found.page_bytes), Ok(4096));
        assert_eq!(driver.rules(), []);
        // Another chunk of the same entry has nothing to do with it.
        driver.write(BIG + 8, driver.pte(0x90_0000));
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn merge_to_64k() {
    for chip in BOTH {
        let mut driver = settled(chip, 0x1000);
        driver.write(BIG, driver.pte(0x80_0000));
        assert_eq!(driver.rules(), [Rule::ValidToValid]);

        let mut driver = settled(chip, 0x1000);
        driver.write(SMALL, 0);
        driver.write(BIG, driver.pte(0x80_0000));
        assert_eq!(driver.rules(), [Rule::ValidToValid], "cleared, but caches may know");

        let mut driver = settled(chip, 0x1000);
        driver.write(BIG, driver.no_4k());
        driver.invalidate(PTE_ONLY);
        driver.write(BIG, driver.pte(0x80_0000));
        driver.write(BIG + 8, driver.pte(0x80_0000));
        driver.invalidate(PTE_ONLY);
        assert_eq!(driver.read(VA).map(|found| found.page_bytes), Ok(0x1_0000));
        assert_eq!(driver.rules(), [Rule::BothHalvesValid]);
        driver.write(SMALL, 0);
        assert_eq!(driver.read(VA).map(|found| found.page_bytes), Ok(0x1_0000));
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn two_tables_of_one_entry_with_pages_side_by_side() {
    for chip in BOTH {
        let mut driver = settled(chip, 0x1000);
        driver.write(PD0_LO, 0);
        driver.fill(BIG, &[0, driver.pte(0x90_0000)]);
        driver.link_big();
        driver.write(PD0_HI, 0);
        driver.link_small();
        assert_eq!(driver.rules(), []);
        // And with a page in the chunk of the 4K page.
        driver.write(PD0_LO, 0);
        driver.write(BIG, driver.pte(0x90_0000));
        driver.link_big();
        assert_eq!(driver.rules(), [Rule::ValidToValid]);
    }
}

#[test]
fn large_leaves_above() {
    for chip in BOTH {
        // 512M over tables with a page, at once and cleared too late.
        let mut driver = settled(chip, 0x1000);
        driver.write(PD1_SLOT, driver.pte(0x2000_0000));
        assert_eq!(driver.rules(), [Rule::ValidToValid]);
        let mut driver = settled(chip, 0x1000);
        driver.write(PD1_SLOT, 0);
        driver.write(PD1_SLOT, driver.pte(0x2000_0000));
        assert_eq!(driver.rules(), [Rule::ValidToValid]);
        let mut driver = settled(chip, 0x1000);
        driver.write(SMALL, 0);
        driver.write(PD1_SLOT, driver.pte(0x2000_0000));
        assert_eq!(driver.rules(), [Rule::ValidToValid], "the cleared 4K page");
        // The other way round.
        let mut driver = settled(chip, 0x2000_0000);
        driver.write(PD0_LO, driver.pte(0x80_0000));
        driver.write(PD1_SLOT, driver.pde(PD0));
        assert_eq!(driver.rules(), [Rule::ValidToValid]);
        let mut driver = settled(chip, 0x2000_0000);
        driver.write(PD1_SLOT, driver.pde(PD0));
        driver.invalidate(TO_PDE0);
        assert_eq!(driver.rules(), []);
        driver.write(PD0_LO, driver.pte(0x80_0000));
        assert_eq!(driver.rules(), [Rule::ValidToValid], "the invalidate did not reach PD1");
    }
}

#[test]
fn large_leaves_above_close() {
    for chip in BOTH {
        // The way that GA100 needs: a PD0 full of empty tables, invalidate, then the leaf.
        let mut driver = settled(chip, 0x1000);
        driver.write(SMALL, 0);
        for entry in 0..256 {
            driver.fill(PD0 + 16 * entry, &[0, driver.pde(SMALL)]);
        }
        driver.invalidate(TO_PDE0);
        driver.write(PD1_SLOT, driver.pte(0x2000_0000));
        driver.invalidate(TO_PDE1);
        assert_eq!(driver.found(VA), Some(0x2000_0000 + (3 << 21)));
        // Back again.
        driver.write(PD1_SLOT, 0);
        driver.invalidate(TO_PDE1);
        driver.write(SMALL, driver.pte(0x80_0000));
        driver.write(PD1_SLOT, driver.pde(PD0));
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn an_invalidate_of_the_hub_is_enough_for_a_bar_space_only() {
    let split = |driver: &mut Driver, more| {
        driver.fill(PD0_LO, &[0, 0]);
        driver.invalidate_with(TO_PDE0, more);
        driver.write(SMALL, driver.pte(0x80_0000));
        driver.link_small();
        driver.rules()
    };
    let mut driver = settled("gh100", 0x20_0000);
    assert_eq!(split(&mut driver, 1 << 2), [Rule::ValidToValid]);

    let mut driver = Driver::with_directories("gh100");
    driver.write(0x50_200, ROOT | 1 << 11);
    driver.gpu.write32(0xb8_0f60, 0x50_000 | 1 << 9).expect("a register");
    driver.gpu.write32(0xb8_0f64, 0).expect("a register");
    while driver.gpu.read32(0xb8_0f60).expect("a register") & 3 != 0 {}
    driver.write(PD0_LO, driver.pte(0x80_0000));
    assert_eq!(driver.gpu.bar1_read(VA & 0xff_ffff, Width::W32).map_err(|fault| fault.fault), Err(FaultType::Pde));
    assert_eq!(split(&mut driver, 1 << 2), []);
}

#[test]
fn an_invalidate_while_one_runs() {
    let mut driver = used_page("gh100");
    driver.trigger(0, 0);
    driver.trigger(0, 0);
    assert_eq!(driver.rules(), [Rule::InvalidateWhileRunning]);
    assert_eq!(driver.gpu.counts().invalidates, 2, "the one of the set-up and the first of these");
    // Writing the root's registers in the meantime is not yet wrong.
    driver.gpu.write32(0xb8_30a0, 0).expect("a register");
    assert_eq!(driver.rules(), []);
}

#[test]
fn findings_are_bounded() {
    let mut driver = used_page("gh100");
    driver.write(SMALL, 0);
    for _ in 0..2000 {
        assert!(driver.gpu.access(engine(), VA, AccessKind::Read, false).is_ok());
    }
    assert_eq!(driver.gpu.findings().len() as u64 + driver.gpu.suppressed_findings(), 2000);
    assert_eq!(driver.gpu.findings().len(), 1024);
    driver.gpu.take_findings();
    assert_eq!(driver.gpu.suppressed_findings(), 0);
    assert_ne!(Client::Bar1, engine());
}
