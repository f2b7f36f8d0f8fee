//! Tables and pages in system memory and at peers: what the model does with them, and the rules about them, each
//! broken on purpose and almost broken.
#![expect(clippy::panic, reason = "tests")]

mod common;
use common::{BIG, PD0, PD1, PD2, PD3, ROOT, SMALL};
use common::{BOTH, PD0_HI, PD0_LO, PD1_SLOT, PD2_SLOT, PTE_ONLY, TO_PDE0, VA};
use gmmu::addr::{Aperture, PeerId, PhysAddr, SysAddr, TableAddr};
use gmmu::device::{Bar0, DeviceError, Run, TableMemory, TablePool, TableRead, Width};
use gmmu_sim::{AccessKind, Client, Config, Counts, Fault, FaultType, Gpu, MmuVersion, Rule, SysPool, Translated};

/// `VOL`, and bit 0 of `PCF`.
const VOL: u64 = 8;
const COHERENT: u64 = 2 << 1;
const NON_COHERENT: u64 = 3 << 1;
/// Integrated chips, which have nothing else, and one of each version that has.
const ALL: [&str; 5] = ["gb10b", "gb20b", "gb20c", "ga100", "gh100"];

fn sys(raw: u64) -> TableAddr {
    TableAddr::SysCoherent(SysAddr::new(raw))
}

fn peer(id: u8) -> PeerId {
    PeerId::new(id).unwrap_or_else(|| panic!("a peer"))
}

/// The driver of the other tests, with all its tables in system memory.
struct Driver {
    gpu: Gpu,
    v3: bool,
}

impl Driver {
    fn new(chip: &str) -> Self {
        Self::with(&Config::chip(chip))
    }

    fn with(config: &Config) -> Self {
        let gpu = Gpu::new(config).expect("a good configuration");
        let v3 = gpu.chip().mmu == MmuVersion::V3;
        let mut driver = Self { gpu, v3 };
        let above_pd2 = if v3 { PD3 } else { ROOT };
        if v3 {
            driver.write(ROOT, driver.entry(PD3, COHERENT | VOL));
        }
        driver.write(above_pd2, driver.entry(PD2, COHERENT | VOL));
        driver.write(PD2_SLOT, driver.entry(PD1, COHERENT | VOL));
        driver.write(PD1_SLOT, driver.entry(PD0, COHERENT | VOL));
        driver.gpu.note_root(sys(ROOT));
        driver
    }

    /// A directory entry, or the small half of one.
    fn entry(&self, to: u64, bits: u64) -> u64 {
        bits | if self.v3 { to } else { to >> 12 << 8 }
    }

    fn big_half(&self, to: u64, bits: u64) -> u64 {
        bits | if self.v3 { to } else { to >> 8 << 4 }
    }

    fn pte(&self, to: u64, bits: u64) -> u64 {
        1 | bits | if self.v3 { to | 0x600 } else { 6 << 56 | to >> 12 << 8 }
    }

    fn write(&mut self, at: u64, word: u64) {
        self.gpu.cpu().write_word(sys(at), word).expect("system memory");
    }

    fn invalidate(&mut self, depth: u32) {
        self.gpu.cpu().drain().expect("a fence");
        self.trigger(depth, 1 << 1);
    }

    /// Names the root in an aperture, which is bit 1 of the register.
    fn trigger(&mut self, depth: u32, aperture: u32) {
        let pdb = u32::try_from(ROOT >> 12 << 4).expect("a low root");
        self.gpu.write32(0xb8_30a0, pdb | aperture).expect("a register");
        self.gpu.write32(0xb8_30a4, 0).expect("a register");
        self.gpu.write32(0xb8_30b0, 1 << 31 | depth << 24 | 1 | 3 << 6).expect("a register");
        let ended = (0..10).any(|_| self.gpu.read32(0xb8_30b0).is_ok_and(|command| command >> 31 == 0));
        assert!(ended, "the invalidate never ended");
    }

    fn engine() -> Client {
        Client::Engine { pdb: sys(ROOT) }
    }

    fn read(&mut self, va: u64) -> Result<Translated, Fault> {
        self.gpu.access(Self::engine(), va, AccessKind::Read, false)
    }

    fn found(&mut self, va: u64) -> Option<PhysAddr> {
        self.read(va).ok().map(|found| found.to)
    }

    fn rules(&mut self) -> Vec<Rule> {
        self.gpu.take_findings().iter().map(|finding| finding.rule).collect()
    }
}

#[test]
fn an_integrated_gpu_walks_tables_in_system_memory_and_reaches_pages_there() {
    for chip in ALL {
        let mut driver = Driver::new(chip);
        driver.write(SMALL, driver.pte(0x80_0000, COHERENT));
        driver.write(SMALL + 8, driver.pte(0x90_0000, NON_COHERENT | VOL));
        driver.write(BIG + 8, driver.pte(0xa0_0000, COHERENT | VOL));
        driver.write(PD0_HI, driver.entry(SMALL, COHERENT | VOL));
        driver.write(PD0_LO, driver.big_half(BIG, COHERENT | VOL));
        driver.write(PD0_LO + 16, driver.pte(0xc0_0000, COHERENT));
        driver.invalidate(0);
        assert_eq!(driver.found(VA + 4), Some(PhysAddr::new(Aperture::SysCoherent, 0x80_0004)), "{chip}");
        assert_eq!(driver.found(VA + 0x1000), Some(PhysAddr::new(Aperture::SysNonCoherent, 0x90_0000)));
        assert_eq!(driver.read(VA + 0x1_0000).map(|found| (found.to.raw, found.page_bytes)), Ok((0xa0_0000, 1 << 16)));
        assert_eq!(driver.read(VA + (1 << 21)).map(|found| (found.to.raw, found.page_bytes)), Ok((0xc0_0000, 1 << 21)));
        // What an engine writes is what the CPU reads, in either aperture, and the other way round.
        let bytes: Vec<u8> = (0..=255).cycle().take(0x1800).collect();
        driver.gpu.store(Driver::engine(), VA, &bytes).expect("two pages");
        let mut here = [0; 8];
        driver.gpu.peek_sys(0x90_0000, &mut here);
        assert_eq!(here[..], bytes[0x1000..0x1008]);
        driver.gpu.load_sys(0xa0_0000, &7u32.to_le_bytes());
        assert_eq!(driver.gpu.load32(Driver::engine(), VA + 0x1_0000), Ok(7));
        assert_eq!(driver.rules(), []);
        // Its tables are nobody's data.
        driver.write(SMALL + 16, driver.pte(SMALL, COHERENT | VOL));
        driver.gpu.store32(Driver::engine(), VA + 0x2000, 0).expect("a page");
        assert_eq!(driver.rules(), [Rule::TableWrittenAsData]);
    }
}

#[test]
fn what_an_integrated_gpu_lacks() {
    let mut driver = Driver::new("gb20b");
    let gpu = &mut driver.gpu;
    assert_eq!(gpu.vram_bytes(), 0);
    assert_eq!(gpu.read32(0x11_83a4), Ok(0), "no video memory");
    gpu.write32(0x10_fd40, 0x10).expect("an offset of BAR0");
    assert_eq!((gpu.read32(0x10_fd40), gpu.counts().window_moves), (Ok(0), 0), "no window");
    assert_eq!(gpu.read(0x70_0000, Width::W64), Ok(u64::MAX));
    // An entry that names video memory leads nowhere.
    driver.write(PD0_HI, driver.entry(SMALL, 2 | VOL));
    assert_eq!(driver.read(VA).err().map(|fault| fault.fault), Some(FaultType::Region));
    driver.write(PD0_LO + 16, driver.pte(0x20_0000, 0));
    let data = driver.gpu.load32(Driver::engine(), VA + (1 << 21));
    assert_eq!(data.err().map(|fault| fault.fault), Some(FaultType::Region));
}

#[test]
fn system_memory_ends_where_the_machine_or_the_chip_does() {
    let end = |config: &Config| Gpu::new(config).map(|gpu| gpu.sys_end());
    assert_eq!(end(&Config::chip("tu102")), Ok(1 << 47));
    assert_eq!(end(&Config::chip("gh100")), Ok(1 << 52));
    assert_eq!(end(&Config::chip("gb10b")), Ok(1 << 41));
    let small = Config { sys: 1 << 24, ..Config::chip("gb10b") };
    assert_eq!(end(&small), Ok(1 << 24));
    let mut driver = Driver::with(&small);
    let beyond = sys(1 << 24);
    assert_eq!(
        driver.gpu.cpu().write_word(beyond, 0),
        Err(DeviceError::OutOfRange { at: beyond, bytes: 8, end: 1 << 24 })
    );
    assert_eq!(driver.gpu.cpu().read_word(sys(4)), Err(DeviceError::Unaligned { at: sys(4), alignment: 8 }));
    let vram = TableAddr::vram(0x1000);
    assert_eq!(driver.gpu.cpu().read_word(vram), Err(DeviceError::WrongAperture { at: vram }));
    driver.write(PD0_HI, driver.entry(1 << 24, COHERENT | VOL));
    assert_eq!(driver.read(VA).err().map(|fault| fault.fault), Some(FaultType::Region));
}

#[test]
fn peers_have_memory_of_their_own() {
    for chip in BOTH {
        let mut peers = [0; 8];
        (peers[0], peers[5]) = (1 << 30, 1 << 20);
        let mut driver = Driver::with(&Config { peers, ..Config::chip(chip) });
        // ADDRESS_VID_PEER 35:33, or PEER_ID 63:61.
        let at = if driver.v3 { 61 } else { 33 };
        for (slot, id) in [(0, 0), (1, 5), (2, 6)] {
            driver.write(SMALL + 8 * slot, driver.pte(0x9000, 1 << 1) | id << at);
        }
        driver.write(SMALL + 24, driver.pte(1 << 20, 1 << 1) | 5 << at);
        driver.write(PD0_HI, driver.entry(SMALL, COHERENT | VOL));
        assert_eq!(driver.found(VA + 0x1000), Some(PhysAddr::new(Aperture::Peer(peer(5)), 0x9000)));
        driver.gpu.store32(Driver::engine(), VA, 1).expect("peer 0");
        driver.gpu.store32(Driver::engine(), VA + 0x1000, 2).expect("peer 5");
        let mut bytes = [0; 4];
        for (id, value) in [(0, 1), (5, 2)] {
            driver.gpu.peek_peer(peer(id), 0x9000, &mut bytes);
            assert_eq!(u32::from_le_bytes(bytes), value);
        }
        driver.gpu.peek_sys(0x9000, &mut bytes);
        assert_eq!(bytes, [0; 4]);
        driver.gpu.load_peer(peer(0), 0x9000, &9u32.to_le_bytes());
        assert_eq!(driver.gpu.load32(Driver::engine(), VA), Ok(9));
        let fault = |found: Result<u32, Fault>| found.err().map(|fault| fault.fault);
        let missing = driver.gpu.load32(Driver::engine(), VA + 0x2000);
        assert_eq!(fault(missing), Some(FaultType::UnsupportedAperture), "no link");
        let beyond = driver.gpu.load32(Driver::engine(), VA + 0x3000);
        assert_eq!(fault(beyond), Some(FaultType::Region), "beyond the peer's memory");
        assert_eq!(driver.gpu.vram_pages().count(), 0, "a peer's pages are not this GPU's");
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn an_invalidate_names_the_aperture_of_the_root() {
    for chip in BOTH {
        let mut driver = Driver::new(chip);
        driver.write(SMALL, driver.pte(0x80_0000, COHERENT));
        driver.write(PD0_HI, driver.entry(SMALL, COHERENT | VOL));
        assert!(driver.found(VA).is_some());
        driver.write(SMALL, driver.pte(0x90_0000, COHERENT));
        driver.gpu.cpu().drain().expect("a fence");
        // The same address in video memory is another root.
        driver.trigger(PTE_ONLY, 0);
        assert_eq!(driver.found(VA).map(|to| to.raw), Some(0x80_0000));
        assert_eq!(driver.rules(), [Rule::InvalidateWrongPdb]);
        driver.trigger(PTE_ONLY, 1 << 1);
        assert_eq!(driver.found(VA).map(|to| to.raw), Some(0x90_0000));
        assert_eq!(driver.rules(), []);
    }
}

/// The rules of tables in video memory hold in system memory: freed while linked or cached, published as garbage.
#[test]
fn the_old_rules_hold() {
    for chip in ALL {
        let mut driver = Driver::new(chip);
        let mut pool = SysPool::non_coherent(SMALL..1 << 30);
        let table = pool.take(4096, None).expect("a table");
        driver.gpu.note_table_taken(table, 4096);
        driver.write(PD0_HI, driver.entry(SMALL, NON_COHERENT | VOL));
        let finding = driver.gpu.findings().first().cloned().unwrap_or_else(|| panic!("no finding"));
        assert_eq!((finding.rule, finding.entry), (Rule::PublishedUninitialised, Some(table)), "{chip}");
        driver.rules();
        driver.gpu.cpu().write_run(table, Run { first: 0, step: 0, count: 512 }).expect("a table");
        driver.invalidate(0);
        assert!(driver.found(VA).is_none());
        driver.gpu.note_table_freed(table, 4096);
        let entries: Vec<_> = driver.gpu.take_findings().iter().map(|found| (found.rule, found.entry)).collect();
        assert_eq!(entries, [(Rule::TableFreedReachable, Some(table))]);
        driver.write(PD0_HI, 0);
        driver.gpu.note_table_freed(table, 4096);
        assert_eq!(driver.rules(), [Rule::TableFreedReachable], "cached");
        driver.invalidate(TO_PDE0);
        driver.gpu.note_table_freed(table, 4096);
        // A page where there was a table, with nothing between, changes its size.
        driver.write(SMALL, driver.pte(0x80_0000, COHERENT));
        driver.write(PD0_HI, driver.entry(SMALL, COHERENT | VOL));
        driver.write(PD0_LO, driver.pte(0x80_0000, COHERENT));
        assert_eq!(driver.rules(), [Rule::ValidToValid]);
    }
}

#[test]
fn cached_sys_table() {
    for chip in ALL {
        for aperture in [COHERENT, NON_COHERENT] {
            // Stored into a live directory, at every level.
            let mut driver = Driver::new(chip);
            driver.write(PD0_HI, driver.entry(SMALL, aperture));
            driver.write(PD0_LO, driver.big_half(BIG, aperture));
            driver.write(PD1_SLOT + 8, driver.entry(PD0 + 0x1_0000, aperture));
            driver.write(PD2_SLOT + 8, driver.entry(PD1 + 0x1_0000, aperture));
            assert_eq!(driver.rules(), [Rule::CachedSysTable; 4], "{chip} {aperture}");
            // Another word for the same table, and only that is wrong.
            driver.write(PD0_HI, driver.entry(SMALL, aperture | VOL));
            driver.write(PD0_HI, driver.entry(SMALL, aperture));
            let finding = driver.gpu.findings().first().cloned().unwrap_or_else(|| panic!("no finding"));
            assert_eq!((finding.entry, finding.va), (Some(sys(PD0_HI)), Some(VA)));
            assert_eq!(driver.rules(), [Rule::CachedSysTable]);
            // Hidden by a large leaf, until that goes.
            let mut driver = Driver::new(chip);
            driver.write(PD0_LO, driver.pte(0x80_0000, COHERENT));
            driver.write(PD0_HI, driver.entry(SMALL, aperture));
            assert_eq!(driver.rules(), []);
            driver.write(PD0_LO, 0);
            assert_eq!(driver.rules(), [Rule::HalfCleared, Rule::CachedSysTable]);
            // In a directory that becomes live, said once.
            let mut driver = Driver::new(chip);
            let apart = PD0 + 0x1_0000;
            for slot in 0..4 {
                driver.write(apart + 8 * slot, driver.entry(SMALL + 0x1000 * slot, aperture));
            }
            assert_eq!(driver.rules(), []);
            driver.write(PD1_SLOT + 8, driver.entry(apart, COHERENT | VOL));
            assert_eq!(driver.rules(), [Rule::CachedSysTable]);
        }
    }
}

#[test]
fn cached_sys_table_close() {
    for chip in ALL {
        let mut driver = Driver::new(chip);
        driver.write(PD0_HI, driver.entry(SMALL, NON_COHERENT | VOL));
        driver.write(PD0_LO, driver.big_half(BIG, COHERENT | VOL));
        // Nothing points to this directory.
        driver.write(PD0 + 0x1_0000, driver.entry(SMALL, COHERENT));
        assert_eq!(driver.rules(), [], "{chip}");
    }
    // In video memory the bit is a matter of taste.
    for chip in BOTH {
        let mut driver = common::Driver::with_directories(chip);
        driver.link_small();
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn cached_noncoherent_page() {
    for chip in ALL {
        let mut driver = Driver::new(chip);
        driver.write(PD0_HI, driver.entry(SMALL, COHERENT | VOL));
        driver.write(PD0_LO, driver.big_half(BIG, COHERENT | VOL));
        driver.write(SMALL, driver.pte(0x80_0000, NON_COHERENT));
        driver.write(BIG + 8, driver.pte(0x80_0000, NON_COHERENT));
        driver.write(PD0_LO + 16, driver.pte(0x80_0000, NON_COHERENT));
        assert_eq!(driver.rules(), [Rule::CachedNonCoherentPage; 3], "{chip}");
        // One that was right is made wrong.
        driver.write(SMALL, driver.pte(0x80_0000, NON_COHERENT | VOL));
        driver.write(SMALL, driver.pte(0x80_0000, NON_COHERENT));
        let finding = driver.gpu.findings().first().cloned().unwrap_or_else(|| panic!("no finding"));
        assert_eq!((finding.entry, finding.va), (Some(sys(SMALL)), Some(VA)));
        assert_eq!(driver.rules(), [Rule::CachedNonCoherentPage]);
        // A run of them is said once, also where the table is linked last.
        let mut driver = Driver::new(chip);
        driver.write(PD0_HI, driver.entry(SMALL, COHERENT | VOL));
        let run = Run { first: driver.pte(0x80_0000, NON_COHERENT), step: 0, count: 512 };
        driver.gpu.cpu().write_run(sys(SMALL), run).expect("a table");
        assert_eq!(driver.rules(), [Rule::CachedNonCoherentPage]);
        driver.gpu.cpu().write_run(sys(SMALL + 0x2000), run).expect("a table");
        assert_eq!(driver.rules(), []);
        driver.write(PD0_HI + 32, driver.entry(SMALL + 0x2000, COHERENT | VOL));
        assert_eq!(driver.rules(), [Rule::CachedNonCoherentPage]);
    }
}

#[test]
fn cached_noncoherent_page_close() {
    for chip in ALL {
        let mut driver = Driver::new(chip);
        driver.write(PD0_HI, driver.entry(SMALL, COHERENT | VOL));
        driver.write(SMALL, driver.pte(0x80_0000, NON_COHERENT | VOL));
        driver.write(SMALL + 8, driver.pte(0x80_0000, COHERENT));
        driver.write(SMALL + 16, driver.pte(0x80_0000, 1 << 1));
        // Not valid, so it is no page.
        driver.write(SMALL + 24, driver.pte(0x80_0000, NON_COHERENT) & !1);
        driver.write(PD0_LO + 16, driver.pte(0x80_0000, NON_COHERENT | VOL));
        assert_eq!(driver.rules(), [], "{chip}");
    }
}

/// Binds BAR1 to the space below ROOT, in video or system memory.
fn bind(gpu: &mut Gpu, v3: bool, target: u64) {
    let word = ROOT | 1 << 11 | 1 << 10 | target;
    if v3 {
        gpu.load_vram(0x30_0200, &word.to_le_bytes());
        gpu.write32(0xb8_0f60, 0x30_0000 | 1 << 9).expect("a register");
        gpu.write32(0xb8_0f64, 0).expect("a register");
        while gpu.read32(0xb8_0f60).is_ok_and(|status| status & 3 != 0) {}
    } else {
        gpu.load_vram(0x30_0200, &word.to_le_bytes());
        gpu.write32(0xb8_0f40, 0x300 | 1 << 31).expect("a register");
        while gpu.read32(0xb8_0f50).is_ok_and(|status| status & 3 != 0) {}
    }
}

#[test]
fn bar_table_in_sysmem() {
    for chip in BOTH {
        let mut driver = Driver::new(chip);
        bind(&mut driver.gpu, driver.v3, 2);
        let entries: Vec<_> = driver.gpu.take_findings().iter().map(|found| (found.rule, found.entry)).collect();
        assert_eq!(entries, [(Rule::BarTableInSysMem, Some(sys(ROOT)))], "{chip}");
        assert!(driver.gpu.bar1_read(0, Width::W32).is_err());
        assert_eq!(driver.rules(), [], "said once");

        // A leaf table below directories in video memory.
        let mut driver = common::Driver::with_directories(chip);
        driver.write(PD2, driver.pde(PD1));
        driver.write(PD1, driver.pde(PD0));
        let v3 = driver.v3;
        driver.write(PD0 + 8, if v3 { 0x7000 } else { 0x7000 >> 12 << 8 } | COHERENT | VOL);
        bind(&mut driver.gpu, v3, 0);
        assert_eq!(driver.rules(), []);
        assert!(driver.gpu.bar1_read(0, Width::W32).is_err());
        let entries: Vec<_> = driver.gpu.take_findings().iter().map(|found| (found.rule, found.entry)).collect();
        assert_eq!(entries, [(Rule::BarTableInSysMem, Some(sys(0x7000)))], "{chip}");
    }
}

#[test]
fn bar_table_in_sysmem_close() {
    for chip in BOTH {
        let mut driver = common::Driver::with_directories(chip);
        driver.write(PD2, driver.pde(PD1));
        driver.write(PD1, driver.pde(PD0));
        // A page in system memory may be: only tables may not.
        driver.write(SMALL, driver.pte(0x80_0000) & !6 | COHERENT);
        driver.write(PD0 + 8, driver.pde(SMALL));
        let v3 = driver.v3;
        driver.write(PD0 + 16 + 8, if v3 { 0x7000 } else { 0x7000 >> 12 << 8 } | COHERENT | VOL);
        bind(&mut driver.gpu, v3, 0);
        assert_eq!(driver.gpu.bar1_read(0, Width::W32), Ok(0));
        // The engine that uses the same space may find its own tables in system memory.
        let client = common::engine();
        assert!(driver.gpu.load32(client, 1 << 21).is_err());
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn published_unordered() {
    for chip in ALL {
        for (at, bytes) in [(SMALL, 4096), (BIG, 256)] {
            for order in [false, true] {
                let mut driver = Driver::new(chip);
                driver.gpu.note_table_taken(sys(at), bytes);
                let run = Run { first: 0, step: 0, count: u32::try_from(bytes / 8).expect("few") };
                driver.gpu.cpu().write_run(sys(at), run).expect("a table");
                if order {
                    driver.gpu.cpu().order().expect("a fence");
                }
                // What is written over something, and what lies beside the table, may come late.
                driver.write(at + 16, driver.pte(0x80_0000, COHERENT));
                driver.gpu.note_table_taken(sys(at + bytes), 256);
                driver.write(at + bytes, 0);
                if bytes == 256 {
                    driver.write(PD0_LO, driver.big_half(at, COHERENT | VOL));
                } else {
                    driver.write(PD0_HI, driver.entry(at, COHERENT | VOL));
                }
                let found: Vec<_> = driver.gpu.take_findings().iter().map(|found| (found.rule, found.entry)).collect();
                let expected = [(Rule::PublishedUnordered, Some(sys(at)))];
                assert_eq!(found, if order { &[][..] } else { &expected }, "{chip} {at:#x}");
            }
        }
    }
}

#[test]
fn undrained_stores() {
    for chip in ALL {
        let mut driver = Driver::new(chip);
        driver.trigger(0, 1 << 1);
        assert_eq!(driver.rules(), [Rule::UndrainedStores], "{chip}");
        driver.trigger(0, 1 << 1);
        assert_eq!(driver.rules(), [], "said once");
        driver.write(SMALL, 0);
        driver.gpu.cpu().order().expect("a fence");
        driver.trigger(0, 1 << 1);
        assert_eq!(driver.rules(), [Rule::UndrainedStores], "order is not enough");
        driver.write(SMALL, 0);
        driver.invalidate(0);
        // What another CPU wrote is none of this driver's stores.
        driver.gpu.load_sys(SMALL, &[0; 8]);
        driver.trigger(0, 1 << 1);
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn accesses_of_system_memory_are_counted() {
    let mut gpu = Gpu::new(&Config { bus: gmmu_sim::Bus::Bits32, ..Config::chip("ad102") }).expect("a chip");
    let mut cpu = gpu.cpu();
    cpu.write_run(sys(0x1000), Run { first: 7, step: 1, count: 512 }).expect("a page");
    cpu.write_words(sys(0x2000), &[1, 2, 3]).expect("a page");
    let mut words = [0; 4];
    cpu.read_words(sys(0x1ff0), &mut words).expect("two pages");
    assert_eq!(words, [517, 518, 1, 2]);
    cpu.order().expect("a fence");
    cpu.drain().expect("a fence");
    let expected = Counts { sys_reads: 4, sys_writes: 515, fences: 1, drains: 1, ..Counts::default() };
    assert_eq!(gpu.counts(), expected);
    assert_eq!(gpu.op(), 519);
}

#[test]
fn a_pool_of_system_memory() {
    let mut pool = SysPool::coherent(0x1001..0x4fff);
    let pages: Vec<_> = (0..3).filter_map(|_| pool.take(4096, None).ok()).collect();
    assert_eq!(pages, [sys(0x2000), sys(0x3000)]);
    assert!(pool.take(512, None).is_err());
    pool.give(sys(0x2000), 4096);
    let pieces: Vec<_> = (0..17).filter_map(|_| pool.take(256, None).ok()).collect();
    assert_eq!(pieces.len(), 16);
    assert_eq!((pieces.first(), pieces.last()), (Some(&sys(0x2000)), Some(&sys(0x2f00))));
    pool.give(sys(0x2300), 256);
    assert_eq!(pool.take(256, None), Ok(sys(0x2300)));
    assert_eq!(pool.out().count(), 17);
    for piece in pieces {
        pool.give(piece, 256);
    }
    assert_eq!(pool.take(4096, None), Ok(sys(0x2000)), "whole again");
    assert_eq!(pool.out().map(|(at, _)| at).collect::<Vec<_>>(), [sys(0x2000), sys(0x3000)]);
}
