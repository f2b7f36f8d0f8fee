//! A driver small enough to be read at a glance: one table per level, entries as numbers from the manual.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::allow_attributes,
    reason = "each test binary uses a part of it"
)]

use gmmu::addr::TableAddr;
use gmmu::device::Bar0;
use gmmu_sim::{AccessKind, Bus, Client, Config, Fault, FaultType, Gpu, MmuVersion, Rule, Translated};

pub const ROOT: u64 = 0x10_000;
pub const PD3: u64 = 0x11_000;
pub const PD2: u64 = 0x12_000;
pub const PD1: u64 = 0x13_000;
pub const PD0: u64 = 0x14_000;
pub const SMALL: u64 = 0x20_000;
pub const BIG: u64 = 0x21_100;
/// Index 1 in PD2, 2 in PD1, 3 in PD0.
pub const VA: u64 = 1 << 38 | 2 << 29 | 3 << 21;
pub const PD2_SLOT: u64 = PD2 + 8;
pub const PD1_SLOT: u64 = PD1 + 16;
pub const PD0_LO: u64 = PD0 + 48;
pub const PD0_HI: u64 = PD0 + 56;
/// Depth codes of the invalidate register.
pub const PTE_ONLY: u32 = 1;
/// SYS_MEMBAR and ACK_GLOBALLY. Given to `invalidate_with`, they are left out.
pub const ACKNOWLEDGED: u32 = 1 << 6 | 1 << 7;
pub const TO_PDE0: u32 = 2;
pub const TO_PDE1: u32 = 3;
pub const TO_PDE2: u32 = 4;

pub struct Driver {
    pub gpu: Gpu,
    pub v3: bool,
}

impl Driver {
    pub fn new(chip: &str) -> Self {
        Self::with(Config { vram: 1 << 30, ..Config::chip(chip) })
    }

    pub fn with(config: Config) -> Self {
        let gpu = Gpu::new(&config).expect("a good configuration");
        let v3 = gpu.chip().mmu == MmuVersion::V3;
        Self { gpu, v3 }
    }

    /// A driver with directories down to PD0, and a known root.
    pub fn with_directories(chip: &str) -> Self {
        let mut driver = Self::new(chip);
        driver.directories();
        driver
    }

    pub fn directories(&mut self) {
        // On v2 PD3 is the root.
        let above_pd2 = if self.v3 { PD3 } else { ROOT };
        if self.v3 {
            self.write(ROOT, self.pde(PD3));
        }
        self.write(above_pd2, self.pde(PD2));
        self.write(PD2_SLOT, self.pde(PD1));
        self.write(PD1_SLOT, self.pde(PD0));
        self.gpu.note_root(pdb());
    }

    pub fn pde(&self, table: u64) -> u64 {
        if self.v3 {
            table | 0x12
        } else {
            table >> 12 << 8 | 2
        }
    }

    pub fn big_half(&self, table: u64) -> u64 {
        if self.v3 {
            table | 0x12
        } else {
            table >> 8 << 4 | 2
        }
    }

    pub fn pte(&self, page: u64) -> u64 {
        if self.v3 {
            page | 0x601
        } else {
            6 << 56 | page >> 12 << 8 | 1
        }
    }

    pub fn no_4k(&self) -> u64 {
        if self.v3 {
            0x18
        } else {
            0x20
        }
    }

    pub fn link_small(&mut self) {
        self.write(PD0_HI, self.pde(SMALL));
    }

    pub fn link_big(&mut self) {
        self.write(PD0_LO, self.big_half(BIG));
    }

    /// Moves the window to the megabyte of `at`; the offset in BAR0 that shows `at`.
    pub fn show(&mut self, at: u64) -> u32 {
        let register = if self.v3 { 0x10_fd40 } else { 0x1700 };
        let base = u32::try_from(at >> 20 << 4).expect("a base");
        if self.gpu.read32(register) != Ok(base) {
            self.gpu.write32(register, base).expect("a register");
            assert_eq!(self.gpu.read32(register), Ok(base));
        }
        0x70_0000 + u32::try_from(at & 0xf_ffff).expect("an offset")
    }

    pub fn write(&mut self, at: u64, word: u64) {
        let offset = self.show(at);
        self.gpu.write_words(offset, &[word]).expect("in the window");
    }

    pub fn fill(&mut self, at: u64, words: &[u64]) {
        let offset = self.show(at);
        self.gpu.write_words(offset, words).expect("in the window");
    }

    /// Invalidates the test's space to a depth, with other command bits, and waits.
    pub fn invalidate_with(&mut self, depth: u32, more: u32) {
        self.trigger(depth, more);
        let ended = (0..10).any(|_| self.gpu.read32(0xb8_30b0).is_ok_and(|command| command >> 31 == 0));
        assert!(ended, "the invalidate never ended");
    }

    pub fn trigger(&mut self, depth: u32, more: u32) {
        // A read back, so that all stores are there.
        self.gpu.read32(0x70_0000).expect("in the window");
        self.gpu.write32(0xb8_30a0, u32::try_from(ROOT >> 12 << 4).expect("a low root")).expect("a register");
        self.gpu.write32(0xb8_30a4, 0).expect("a register");
        self.gpu.write32(0xb8_30b0, 1 << 31 | depth << 24 | 1 | (more ^ ACKNOWLEDGED)).expect("a register");
    }

    pub fn invalidate(&mut self, depth: u32) {
        self.invalidate_with(depth, 0);
    }

    pub fn read(&mut self, va: u64) -> Result<Translated, Fault> {
        self.gpu.access(engine(), va, AccessKind::Read, false)
    }

    /// The address in video memory that an engine finds at `va`.
    pub fn found(&mut self, va: u64) -> Option<u64> {
        self.read(va).ok().map(|found| found.to.raw)
    }

    pub fn fault(&mut self, va: u64) -> Option<FaultType> {
        self.read(va).err().map(|fault| fault.fault)
    }

    /// The rules broken since the last call.
    pub fn rules(&mut self) -> Vec<Rule> {
        self.gpu.take_findings().iter().map(|finding| finding.rule).collect()
    }
}

pub fn pdb() -> TableAddr {
    TableAddr::vram(ROOT)
}

pub fn engine() -> Client {
    Client::Engine { pdb: pdb() }
}

/// A chip of each version.
pub const BOTH: [&str; 2] = ["ga100", "gh100"];

pub fn on_32_bits(chip: &str) -> Driver {
    Driver::with(Config { bus: Bus::Bits32, vram: 1 << 30, ..Config::chip(chip) })
}
