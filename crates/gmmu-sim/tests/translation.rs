//! The walk, rule by rule, on words written out by hand.
#![expect(clippy::panic, reason = "tests")]
#![expect(clippy::cast_possible_truncation, reason = "small constants")]

mod common;
use common::*;
use gmmu::addr::{Aperture, PeerId, PhysAddr, SysAddr, TableAddr};
use gmmu_sim::{AccessKind, Client, FaultType, Rule};

#[test]
fn page_sizes_by_chip() {
    // A leaf in PD1 and in PD2, and what the chip makes of it.
    for (chip, pd1, pd2) in [
        ("tu102", false, false),
        ("ga100", true, false),
        ("ad107", true, false),
        ("gh100", true, false),
        ("gb100", true, true),
        ("gb112", true, true),
        ("gb202", true, false),
    ] {
        let mut driver = Driver::with_directories(chip);
        driver.write(PD0_LO, driver.pte(0x20_0000));
        assert_eq!(
            driver.gpu.peek_translate(pdb(), VA + 7).map(|found| (found.to.raw, found.page_bytes)),
            Ok((0x20_0007, 1 << 21))
        );
        driver.write(PD1_SLOT, driver.pte(0x2000_0000));
        let found = driver.gpu.peek_translate(pdb(), VA).map(|found| (found.to.raw, found.page_bytes));
        let fault = found.as_ref().err().map(|fault| (fault.fault, fault.level));
        if pd1 {
            assert_eq!(found, Ok((0x2060_0000, 1 << 29)));
        } else {
            assert_eq!(fault, Some((FaultType::Pde, "PDE1")));
        }
        driver.write(PD2_SLOT, driver.pte(0));
        let found = driver.gpu.peek_translate(pdb(), VA).map(|found| (found.to.raw, found.page_bytes));
        assert_eq!(found.is_ok(), pd2, "{chip}");
        if pd2 {
            assert_eq!(found, Ok((2 << 29 | 3 << 21, 1 << 38)));
        }
        // No chip has leaves above.
        driver.write(ROOT, driver.pte(0));
        assert!(driver.gpu.peek_translate(pdb(), VA).is_err());
    }
}

#[test]
fn big_comes_first() {
    for chip in BOTH {
        let mut driver = Driver::with_directories(chip);
        driver.write(SMALL, driver.pte(0x80_0000));
        driver.link_small();
        driver.link_big();
        let page = |driver: &Driver| {
            driver
                .gpu
                .peek_translate(pdb(), VA)
                .map(|found| (found.to.raw, found.page_bytes))
                .map_err(|fault| fault.fault)
        };
        assert_eq!(page(&driver), Ok((0x80_0000, 4096)), "a big entry of zeros leads on");
        driver.write(BIG, driver.no_4k());
        assert_eq!(page(&driver), Err(FaultType::Pte), "no valid 4K page");
        driver.write(BIG, driver.pte(0x90_0000));
        assert_eq!(page(&driver), Ok((0x90_0000, 0x1_0000)));
        driver.write(BIG, 8);
        assert!(driver.gpu.peek_translate(pdb(), VA).is_ok_and(|found| found.sparse && found.page_bytes == 0x1_0000));
        driver.write(BIG, 0);
        driver.write(SMALL, 0);
        assert_eq!(page(&driver), Err(FaultType::Pte));
        driver.fill(PD0_LO, &[0, 0]);
        assert_eq!(page(&driver), Err(FaultType::Pde));
    }
}

#[test]
fn what_ends_a_walk_and_what_does_not() {
    let cases: [(&str, u64, bool); 6] = [
        ("ga100", 0x28, false),  // VOL and PRIVILEGE on a big entry: no 4K page first.
        ("ga100", 0xff00, true), // Without VALID only VOL and PRIVILEGE are looked at.
        ("ga100", 0x40, true),
        ("gh100", 0x10, false), // PCF 2: mapped nowhere.
        ("gh100", 0x20, false), // PCF 4: undefined.
        ("gh100", 0xf000, true),
    ];
    for (chip, word, leads_on) in cases {
        let mut driver = Driver::with_directories(chip);
        driver.write(SMALL, driver.pte(0x80_0000));
        driver.link_small();
        driver.link_big();
        driver.write(BIG, word);
        assert_eq!(driver.gpu.peek_translate(pdb(), VA).is_ok(), leads_on, "{chip} {word:#x}");
    }
}

#[test]
fn sparse_directories() {
    for chip in BOTH {
        let mut driver = Driver::with_directories(chip);
        let sparse = |driver: &Driver| {
            driver.gpu.peek_translate(pdb(), VA).ok().filter(|found| found.sparse).map(|found| found.page_bytes)
        };
        driver.fill(PD0_LO, &[8, 0]);
        assert_eq!(sparse(&driver), Some(1 << 21));
        driver.fill(PD0_LO, &[0, 8]);
        assert_eq!(sparse(&driver), None, "the small half has no say");
        driver.fill(PD0_LO, &[8, driver.pde(SMALL)]);
        assert_eq!(sparse(&driver), None, "nor is it sparse beside a table");
        driver.write(PD1_SLOT, 8);
        assert_eq!(sparse(&driver), Some(1 << 29));
        driver.write(PD2_SLOT, 8);
        assert_eq!(sparse(&driver), Some(1 << 38));
        // An access reads zeros and loses writes.
        assert_eq!(driver.gpu.store32(engine(), VA, 5), Ok(()));
        assert_eq!(driver.gpu.load32(engine(), VA), Ok(0));
        if driver.v3 {
            driver.write(PD2_SLOT, 0x18);
            assert_eq!(sparse(&driver), Some(1 << 38), "sparse, no ATS");
            driver.write(PD2_SLOT, 0x10);
            assert_eq!(sparse(&driver), None);
        }
    }
}

#[test]
fn nvidias_own_words() {
    // From the tests of NVIDIA's driver: word, where it leads, kind, flags.
    let sys = |raw| PhysAddr::new(Aperture::SysCoherent, raw);
    let peer = PhysAddr::new(Aperture::Peer(PeerId::new(0).unwrap_or_else(|| panic!("a peer"))), 0x5bbb_bbbb_b000);
    let cases: [(&str, u64, PhysAddr, u8, &str); 10] = [
        ("ga100", 0x0639_9999_9999_990d, sys(0x0399_9999_9999_9000), 6, "vol"),
        ("ga100", 0x0600_0001_bbbb_bbc1, PhysAddr::vram(0x1b_bbbb_b000), 6, "noatomic ro"),
        ("ga100", 0x0600_2dd1_bbbb_bbc3, peer, 6, "noatomic ro"),
        ("tu102", 0x0600_0001_bad0_00e9, PhysAddr::vram(0x1b_ad00_0000), 6, "noatomic priv ro vol"),
        ("gh100", 0x0009_9999_9999_968d, sys(0x9_9999_9999_9000), 6, "acd vol"),
        ("gh100", 0x0009_9999_9999_9605, sys(0x9_9999_9999_9000), 6, ""),
        ("gh100", 0x0009_9999_9999_9645, sys(0x9_9999_9999_9000), 6, "noatomic"),
        ("gh100", 0x0009_9999_9999_9665, sys(0x9_9999_9999_9000), 6, "noatomic ro"),
        ("gb100", 0x0000_00bb_bbbb_b661, PhysAddr::vram(0xbb_bbbb_b000), 6, "noatomic ro"),
        ("gb202", 0x0000_002b_ad00_06f9, PhysAddr::vram(0x2b_ad00_0000), 6, "acd noatomic priv ro vol"),
    ];
    for (chip, word, to, kind, flags) in cases {
        let mut driver = Driver::with_directories(chip);
        driver.write(SMALL, word);
        driver.link_small();
        let found = driver.gpu.peek_translate(pdb(), VA).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!((found.to, found.kind), (to, kind), "{word:#018x}");
        assert_eq!(found.flags.names().collect::<Vec<_>>().join(" "), flags, "{word:#018x}");
    }
}

#[test]
fn directories_of_nvidias_own_words() {
    // The dual entry of Hopper's test: big in video memory at 256 bytes, small in system memory.
    let mut driver = Driver::with_directories("gh100");
    driver.fill(PD0_LO, &[0, 0x0009_9999_9999_900c]);
    driver.gpu.load_sys(0x9_9999_9999_9000, &0x8000_0601u64.to_le_bytes());
    assert_eq!(driver.gpu.peek_translate(pdb(), VA).map(|found| found.to.raw), Ok(0x8000_0000));
    driver.write(PD0_LO, 0x0000_00bb_bbbb_bb0a);
    let fault = driver.gpu.peek_translate(pdb(), VA).expect_err("outside this memory");
    assert_eq!((fault.fault, fault.entry), (FaultType::Region, Some(TableAddr::vram(0xbb_bbbb_bb00))));
    // Pascal's, whose big half has its address at bit 4.
    let mut driver = Driver::with_directories("ga100");
    driver.fill(PD0_LO, &[0x0039_9999_9999_999c, 0]);
    let at = 0x0039_9999_9999_9990u64 << 4;
    let fault = driver.gpu.peek_translate(pdb(), VA).expect_err("outside this memory");
    assert_eq!(fault.entry, Some(TableAddr::SysCoherent(SysAddr::new(at & ((1 << 58) - 1)))));
}

#[test]
fn tables_in_system_memory() {
    for chip in BOTH {
        let mut driver = Driver::with_directories(chip);
        let word = driver.pde(0x7000) & !6 | 4 | 8;
        driver.write(PD0_HI, word);
        let pte = driver.pte(0x80_0000);
        driver.gpu.load_sys(0x7000, &pte.to_le_bytes());
        driver.gpu.load_vram(0x7000, &[0; 8]);
        assert_eq!(driver.found(VA), Some(0x80_0000));
        // Caches and the sanitizer know them too.
        driver.gpu.load_sys(0x7000, &[0; 8]);
        assert_eq!(driver.found(VA), Some(0x80_0000));
        assert_eq!(driver.rules(), [Rule::StaleLeaf]);
    }
}

#[test]
fn permissions() {
    // Flags of the word, access, privileged, what comes of it. Bits of v2, and of v3 one lower.
    const PRIV: u64 = 1;
    const RO: u64 = 2;
    const NO_ATOMIC: u64 = 4;
    let cases = [
        (0, AccessKind::Atomic, false, None),
        (PRIV, AccessKind::Read, false, Some(FaultType::Priv)),
        (PRIV, AccessKind::Write, true, None),
        (RO, AccessKind::Read, false, None),
        (RO, AccessKind::Write, false, Some(FaultType::ReadOnly)),
        (RO, AccessKind::Atomic, true, Some(FaultType::ReadOnly)),
        (NO_ATOMIC, AccessKind::Write, false, None),
        (NO_ATOMIC, AccessKind::Atomic, false, Some(FaultType::Atomic)),
        (PRIV | RO | NO_ATOMIC, AccessKind::Atomic, false, Some(FaultType::Priv)),
    ];
    for chip in BOTH {
        for (flags, access, privileged, fault) in cases {
            let mut driver = Driver::with_directories(chip);
            let shift = if driver.v3 { 4 } else { 5 };
            driver.write(PD0_LO, driver.pte(0x80_0000) | flags << shift);
            let got = driver.gpu.access(engine(), VA, access, privileged);
            assert_eq!(got.err().map(|fault| fault.fault), fault, "{chip} {flags} {access:?}");
        }
        let mut driver = Driver::with_directories(chip);
        let kind = if driver.v3 { 0x100 } else { 1 << 56 };
        driver.write(PD0_LO, driver.pte(0x80_0000) | kind);
        assert_eq!(driver.fault(VA), Some(FaultType::UnsupportedKind));
        assert!(driver.gpu.peek_translate(pdb(), VA).is_ok());
    }
}

#[test]
fn addresses_too_wide() {
    for (chip, bits) in [("ga100", 49), ("gh100", 57)] {
        let mut driver = Driver::with_directories(chip);
        assert_eq!(driver.fault((1 << bits) - 1), Some(FaultType::Pde));
        assert_eq!(driver.fault(1 << bits), Some(FaultType::VaLimit));
        assert_eq!(driver.fault(u64::MAX), Some(FaultType::VaLimit));
    }
}

#[test]
fn data_through_the_mmu() {
    for chip in BOTH {
        let mut driver = Driver::with_directories(chip);
        let sys = driver.pte(0x9000) & !6 | 4;
        let peer = driver.pte(0x9000) & !6 | 2;
        driver.fill(SMALL, &[driver.pte(0x80_0000), sys, driver.pte(0x70_0000), peer, driver.pte(1 << 36)]);
        driver.link_small();
        let bytes: Vec<u8> = (0..8192u32).map(|at| (at / 3) as u8).collect();
        driver.gpu.store(engine(), VA + 0x803, &bytes).expect("three pages");
        let mut back = vec![0; 8192];
        driver.gpu.load(engine(), VA + 0x803, &mut back).expect("three pages");
        assert_eq!(bytes, back);
        let mut middle = [0; 4096];
        driver.gpu.peek_sys(0x9000, &mut middle);
        assert_eq!(middle[..], bytes[0x7fd..0x17fd]);
        let fault = |found: Result<u32, gmmu_sim::Fault>| found.err().map(|fault| fault.fault);
        assert_eq!(fault(driver.gpu.load32(engine(), VA + 0x3000)), Some(FaultType::UnsupportedAperture));
        assert_eq!(fault(driver.gpu.load32(engine(), VA + 0x4000)), Some(FaultType::Region), "beyond the memory");
        assert_eq!(fault(driver.gpu.load32(engine(), VA + 0x4ffe)), Some(FaultType::Region));
        assert_eq!(fault(driver.gpu.load32(engine(), VA + 0x5000)), Some(FaultType::Pte));
        assert_eq!(driver.rules(), [Rule::BeyondMemory]);
    }
}

#[test]
fn depth_and_scope_of_an_invalidate() {
    const HUB: u32 = 1 << 2;
    const ALL_PDB: u32 = 1 << 1;
    // What an invalidate of (depth, more bits) makes an engine see of a change at each level: PTE, PDE0, PDE1, PDE2.
    let table: [(u32, u32, [bool; 4]); 10] = [
        (0, 0, [true, true, true, true]),
        (1, 0, [true, false, false, false]),
        (2, 0, [true, true, false, false]),
        (3, 0, [true, true, true, false]),
        (4, 0, [true, true, true, true]),
        (6, 0, [true, true, true, true]),
        (7, 0, [true, true, true, true]),
        (0, HUB, [false; 4]),
        (0, ALL_PDB, [true; 4]),
        (2, ALL_PDB, [true, true, false, false]),
    ];
    for chip in BOTH {
        for (depth, more, seen) in table {
            for (level, seen) in seen.into_iter().enumerate() {
                let mut driver = Driver::with_directories(chip);
                driver.write(SMALL, driver.pte(0x80_0000));
                driver.link_small();
                assert_eq!(driver.found(VA), Some(0x80_0000));
                driver.write([SMALL, PD0_HI, PD1_SLOT, PD2_SLOT][level], 0);
                driver.invalidate_with(depth, more);
                assert_eq!(driver.read(VA).is_err(), seen, "{chip} depth {depth} more {more} level {level}");
            }
        }
        // Without ALL_VA nothing is named; nor by another root.
        let mut driver = Driver::with_directories(chip);
        driver.write(PD0_LO, driver.pte(0x80_0000));
        assert_eq!(driver.found(VA), Some(0x80_0000));
        driver.write(PD0_LO, 0);
        for (register, value) in [(0xb8_30b0, 1 << 31), (0xb8_30a0, 0x99 << 4), (0xb8_30b0, 1 << 31 | 1)] {
            gmmu::device::Bar0::write32(&mut driver.gpu, register, value).expect("a register");
            for _ in 0..3 {
                gmmu::device::Bar0::read32(&mut driver.gpu, 0xb8_30b0).expect("a register");
            }
            assert_eq!(driver.found(VA), Some(0x80_0000));
        }
        driver.invalidate(0);
        assert_eq!(driver.fault(VA), Some(FaultType::Pde));
        assert_ne!(engine(), Client::Bar2);
    }
}

#[test]
fn links_only_scope_is_a_newer_field() {
    for (chip, forgets) in [("tu102", true), ("ga100", false), ("gh100", false)] {
        let mut driver = Driver::with_directories(chip);
        driver.write(PD0_LO, driver.pte(0x80_0000));
        assert_eq!(driver.found(VA), Some(0x80_0000));
        driver.write(PD0_LO, 0);
        driver.invalidate_with(0, 1 << 15);
        assert_eq!(driver.read(VA).is_err(), forgets, "{chip}");
        driver.invalidate_with(0, 2 << 15);
        assert!(driver.read(VA).is_err());
    }
}
