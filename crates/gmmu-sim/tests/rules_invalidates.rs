//! The rules about invalidates and what comes before and after them: broken on purpose, and almost broken.
#![expect(clippy::panic, reason = "tests")]

mod common;
use common::*;
use gmmu::addr::TableAddr;
use gmmu::device::{Bar0, Width};
use gmmu_sim::{Finding, Rule, Severity};

/// A page of 4K that an engine has used.
fn used(chip: &str) -> Driver {
    let mut driver = Driver::with_directories(chip);
    driver.fill(SMALL, &[0; 512]);
    driver.write(SMALL, driver.pte(0x80_0000));
    driver.link_small();
    driver.invalidate(0);
    assert_eq!(driver.found(VA), Some(0x80_0000));
    driver
}

/// Makes the root in the invalidate registers another one, and pulls the trigger.
fn invalidate_of(driver: &mut Driver, root: u64) {
    driver.gpu.read32(0x70_0000).expect("in the window");
    driver.gpu.write32(0xb8_30a0, u32::try_from(root >> 12 << 4).expect("a low root")).expect("a register");
    driver.gpu.write32(0xb8_30b0, 1 << 31 | 1 | ACKNOWLEDGED).expect("a register");
    while driver.gpu.read32(0xb8_30b0).is_ok_and(|word| word >> 31 != 0) {}
}

fn only(driver: &mut Driver) -> Finding {
    match driver.gpu.take_findings().as_slice() {
        [finding] => finding.clone(),
        findings => panic!("{findings:?}"),
    }
}

#[test]
fn the_table_of_rules_is_whole() {
    for (row, info) in Rule::ALL.iter().enumerate() {
        assert_eq!(info.rule.info(), info);
        assert_eq!(Rule::by_id(info.id), Some(info.rule));
        assert!(Rule::ALL.iter().skip(row + 1).all(|other| other.id != info.id && other.name != info.name));
        assert!(info.id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{}", info.id);
        assert!(info.explanation.ends_with('.') && !info.instead.ends_with('.'), "{}", info.id);
    }
    assert_eq!(Rule::by_id("no-such-rule"), None);
    assert_eq!(Rule::StaleInvalid.severity(), Severity::Warning);
}

#[test]
fn invalidate_wrong_pdb() {
    for chip in BOTH {
        let mut driver = used(chip);
        driver.write(SMALL, driver.pte(0x90_0000));
        invalidate_of(&mut driver, PD0);
        assert_eq!(driver.found(VA), Some(0x80_0000));
        let finding = only(&mut driver);
        assert_eq!(finding.rule, Rule::InvalidateWrongPdb);
        assert!(finding.changed_op < finding.missed_op && finding.missed_op < Some(finding.op), "{finding:?}");
        // Two spaces, and each has its own.
        let other = 0x80_000;
        driver.gpu.note_root(TableAddr::vram(other));
        driver.invalidate(0);
        invalidate_of(&mut driver, other);
        assert_eq!(driver.found(VA), Some(0x90_0000));
        assert_eq!(driver.rules(), []);
        // One that came before the change is not to blame.
        invalidate_of(&mut driver, other);
        driver.write(SMALL, driver.pte(0xa0_0000));
        assert_eq!(driver.found(VA), Some(0x90_0000));
        assert_eq!(driver.rules(), [Rule::StaleLeaf]);
    }
}

#[test]
fn invalidate_hub_only() {
    for chip in BOTH {
        let mut driver = used(chip);
        driver.write(SMALL, driver.pte(0x90_0000));
        driver.invalidate_with(PTE_ONLY, 1 << 2);
        assert_eq!(driver.found(VA), Some(0x80_0000));
        assert_eq!(driver.rules(), [Rule::InvalidateHubOnly]);
        driver.invalidate(PTE_ONLY);
        assert_eq!(driver.found(VA), Some(0x90_0000));
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn invalidate_unacknowledged() {
    for chip in BOTH {
        // Another page, fewer rights, nothing at all; the acknowledgement, the membar, or both left out.
        let read_only = if chip == "gh100" { 1 << 5 } else { 1 << 6 };
        for left_out in [1 << 6, 1 << 7, ACKNOWLEDGED] {
            let driver = used(chip);
            for word in [driver.pte(0x90_0000), driver.pte(0x80_0000) | read_only, 0] {
                let mut driver = used(chip);
                driver.write(SMALL, word);
                driver.invalidate_with(PTE_ONLY, left_out);
                assert_eq!(driver.found(VA), Some(0x80_0000));
                assert_eq!(driver.rules(), [Rule::InvalidateUnacknowledged], "{word:#x}");
                driver.invalidate(PTE_ONLY);
                assert_ne!(driver.read(VA).ok(), used(chip).read(VA).ok());
                assert_eq!(driver.rules(), []);
            }
        }
        // Where something is only added there is nothing to wait for.
        let mut driver = used(chip);
        assert!(driver.read(VA + 4096).is_err());
        driver.write(SMALL + 8, driver.pte(0x90_0000));
        driver.invalidate_with(PTE_ONLY, ACKNOWLEDGED);
        assert_eq!(driver.found(VA + 4096), Some(0x90_0000));
        driver.write(SMALL, driver.pte(0x80_0000) | read_only);
        driver.invalidate(PTE_ONLY);
        driver.write(SMALL, driver.pte(0x80_0000));
        driver.invalidate_with(PTE_ONLY, ACKNOWLEDGED);
        assert!(driver.read(VA).is_ok_and(|found| !found.flags.read_only));
        assert_eq!(driver.rules(), []);
        // A table that went, as far as the free goes.
        driver.write(PD0_HI, 0);
        driver.invalidate_with(TO_PDE0, ACKNOWLEDGED);
        driver.gpu.note_table_freed(TableAddr::vram(SMALL), 4096);
        assert_eq!(driver.rules(), [Rule::TableFreedReachable]);
    }
}

#[test]
fn an_invalidate_before_the_stores_have_arrived() {
    for chip in BOTH {
        let mut driver = used(chip);
        let trigger = |driver: &mut Driver| {
            driver.gpu.write32(0xb8_30b0, 1 << 31 | 1 | ACKNOWLEDGED).expect("a register");
            while driver.gpu.read32(0xb8_30b0).is_ok_and(|word| word >> 31 != 0) {}
        };
        driver.write(SMALL, driver.pte(0x90_0000));
        trigger(&mut driver);
        assert_eq!(driver.found(VA), Some(0x80_0000), "read again before the store came");
        assert_eq!(driver.rules(), [Rule::UndrainedStores]);
        driver.gpu.read32(0x70_0000).expect("in the window");
        trigger(&mut driver);
        assert_eq!(driver.found(VA), Some(0x90_0000));
        assert_eq!(driver.rules(), []);
        // A store after the trigger, that somebody else waits for, is not covered either.
        driver.trigger(PTE_ONLY, 0);
        driver.write(SMALL, driver.pte(0xa0_0000));
        while driver.gpu.read32(0xb8_30b0).is_ok_and(|word| word >> 31 != 0) {}
        assert_eq!(driver.found(VA), Some(0x90_0000));
        assert_eq!(driver.rules(), [Rule::StaleLeaf]);
    }
}

#[test]
fn stores_through_bar2_need_the_flush_register() {
    for (chip, start, status) in [("ga100", 0x7_0000, 0x7_0000), ("gh100", 0x10_f800, 0x10_f804)] {
        let mut driver = used(chip);
        // BAR2 in physical mode shows video memory as it is.
        let (low, high) = if driver.v3 { (0xb8_0f70, 0xb8_0f74) } else { (0xb8_0f48, 0xb8_0f48) };
        driver.gpu.write32(low, 0).expect("a register");
        driver.gpu.write32(high, 0).expect("a register");
        while driver.gpu.read32(if driver.v3 { low } else { 0xb8_0f50 }).expect("a register") & 0xf != 0 {}
        for flush in [false, true] {
            let page = if flush { 0xa0_0000 } else { 0x90_0000 };
            driver.gpu.bar2_write(SMALL, Width::W64, driver.pte(page)).expect("physical");
            if flush {
                let _ = if driver.v3 { driver.gpu.read32(start).map(drop) } else { driver.gpu.write32(start, 1) };
                while driver.gpu.read32(status).is_ok_and(|word| word & 1 << 31 != 0 || !driver.v3 && word & 3 != 0) {}
            }
            driver.invalidate(PTE_ONLY);
            let found = driver.found(VA);
            assert_eq!(found == Some(page), flush, "{chip}: {found:x?}");
            assert_eq!(driver.rules().first().copied(), (!flush).then_some(Rule::UndrainedStores));
        }
    }
}

#[test]
fn window_moving() {
    for chip in BOTH {
        let mut driver = Driver::new(chip);
        let register = if driver.v3 { 0x10_fd40 } else { 0x1700 };
        driver.gpu.write32(register, 0x10).expect("a register");
        driver.gpu.write_words(0x70_0000, &[1, 2]).expect("in the window");
        driver.gpu.read(0x70_0000, Width::W64).expect("in the window");
        assert_eq!(driver.rules(), [Rule::WindowMoving], "said once for each move");
        driver.gpu.write32(register, 0x20).expect("a register");
        assert_eq!(driver.gpu.read32(register), Ok(0x20));
        driver.gpu.write(0x70_0000, Width::W64, 1).expect("in the window");
        // Where it stands already it does not move.
        driver.gpu.write32(register, 0x20).expect("a register");
        driver.gpu.write(0x70_0000, Width::W64, 2).expect("in the window");
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn bar_unbound() {
    for chip in BOTH {
        let mut driver = used(chip);
        assert!(driver.gpu.bar1_read(0, Width::W32).is_err());
        assert_eq!(driver.rules(), [Rule::BarUnbound]);
        let bind = |driver: &mut Driver| {
            let (low, word) = if driver.v3 { (0xb8_0f60, 0) } else { (0xb8_0f40, 0) };
            driver.gpu.write32(low, word).expect("a register");
            driver.gpu.write32(0xb8_0f64, 0).expect("a register");
        };
        bind(&mut driver);
        assert!(driver.gpu.bar1_read(0, Width::W32).is_err(), "the bind is under way");
        assert_eq!(driver.rules(), [Rule::BarUnbound]);
        let status = if driver.v3 { 0xb8_0f60 } else { 0xb8_0f50 };
        while driver.gpu.read32(status).expect("a register") & 3 != 0 {}
        assert!(driver.gpu.bar1_read(0, Width::W32).is_ok());
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn root_freed_bound() {
    let mut driver = Driver::with_directories("gh100");
    let bind = |driver: &mut Driver, mode: u32| {
        driver.gpu.write32(0xb8_0f60, 0x50_000 | mode).expect("a register");
        driver.gpu.write32(0xb8_0f64, 0).expect("a register");
        while driver.gpu.read32(0xb8_0f60).expect("a register") & 3 != 0 {}
    };
    driver.write(0x50_200, ROOT | 1 << 11);
    bind(&mut driver, 1 << 9);
    driver.gpu.note_table_freed(pdb(), 4096);
    assert_eq!(driver.rules().first(), Some(&Rule::RootFreedBound));
    driver.gpu.note_table_taken(pdb(), 4096);
    driver.rules();
    bind(&mut driver, 0);
    driver.invalidate(0);
    driver.gpu.note_table_freed(pdb(), 4096);
    assert_eq!(driver.rules(), []);
}

#[test]
fn the_story_has_the_callers_labels() {
    let mut driver = Driver::with_directories("gh100");
    driver.gpu.label("map a");
    driver.write(SMALL, driver.pte(0x80_0000));
    driver.link_small();
    driver.gpu.label("draw");
    assert!(driver.read(VA).is_ok());
    driver.gpu.label("unmap a");
    driver.write(SMALL, 0);
    driver.gpu.label("flush too little");
    driver.invalidate_with(PTE_ONLY, 1 << 2);
    driver.gpu.label("free");
    driver.gpu.note_table_freed(TableAddr::vram(SMALL), 4096);
    driver.gpu.label("draw again");
    assert!(driver.read(VA).is_ok());
    let findings = driver.gpu.take_findings();
    let story: Vec<_> = findings[1].story.iter().map(|event| (event.what, event.label.as_deref())).collect();
    assert_eq!(
        story,
        [
            ("cached", Some("draw")),
            ("cleared", Some("unmap a")),
            ("invalidated", Some("flush too little")),
            ("freed", Some("free")),
            ("found", Some("draw again"))
        ]
    );
    let says = findings[1].says();
    assert!(says.contains("(draw), cleared at op") && says.contains("(unmap a), invalidated at op"), "{says}");
    assert!(says.ends_with("no covering invalidate since"), "{says}");
    // So many labels are remembered, and no more.
    for number in 0..10_000 {
        driver.gpu.label(&number.to_string());
    }
    assert!(driver.read(VA).is_ok());
    let story = driver.gpu.take_findings().remove(0).story;
    assert!(story.iter().any(|event| event.label.is_none()) && story.iter().any(|event| event.label.is_some()));
}

/// A driver that tells of nothing clears a top table before its memory becomes something else.
#[test]
fn an_emptied_root_is_forgotten_unless_somebody_spoke_of_it() {
    for chip in BOTH {
        for noted in [false, true] {
            let mut driver = Driver::new(chip);
            let root = TableAddr::vram(0x90_0000);
            if noted {
                driver.gpu.note_root(root);
            }
            let knows = |driver: &Driver| driver.gpu.roots().any(|known| known == root);
            driver.write(root.raw(), driver.pde(PD0));
            invalidate_of(&mut driver, root.raw());
            assert!(knows(&driver), "{chip}");
            driver.write(root.raw(), 0);
            invalidate_of(&mut driver, root.raw());
            assert_eq!(knows(&driver), noted, "{chip}");
            assert_eq!(driver.rules(), []);
            // A leaf, where a root has none.
            driver.write(root.raw(), 1);
            assert_eq!(driver.rules().is_empty(), !noted, "{chip}");
        }
    }
}
