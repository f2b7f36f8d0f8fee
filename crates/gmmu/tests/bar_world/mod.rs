//! A card with both BARs and a fault of one's choice, and BAR1 bound to a space of ours.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs, reason = "tests")]

use crate::common::{Pool, MIB};
use gmmu::addr::PhysAddr;
use gmmu::bar1::Bar1;
use gmmu::device::{Bar0, Bar1Aperture, Clock, DeviceError, Run, TableMemory, TablePool, Width};
use gmmu::format::Format;
use gmmu::mmio::Mmio;
use gmmu::tlb::Limits;
use gmmu::vmm::{SpaceConfig, Use, Vmm};
use gmmu_sim::{AccessKind, Bus, Client, Config, Gpu, Notes, Watched};

pub const INVALIDATE: u32 = 0xb8_30b0;
const WINDOW: std::ops::Range<u32> = 0x70_0000..0x80_0000;

/// In which way a card is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    /// The n-th access of BAR0 from now fails, once.
    FailsAt(u32),
    /// Invalidates never end.
    NeverAcknowledges,
    /// Invalidates are never begun, and count as done.
    NoInvalidate,
    /// Bit 0 of every byte reads as 1 through BAR1.
    BitStuck,
    /// Bit 4 of every byte reads as 1 through PRAMIN.
    WindowBitStuck,
    /// Stores through BAR1 are lost.
    StoresLost,
    /// Stores through PRAMIN are lost from the n-th on.
    WindowStoresLost(u32),
    /// The PRAMIN window stays where it is, and says that it moved.
    WindowStuck,
    /// BAR1 writes to read-only pages all the same.
    ReadOnlyIgnored,
    /// Narrow stores through BAR1 write all of their 32-bit word.
    NarrowStoresWide,
    /// The halves of 64-bit accesses of BAR1 are turned round.
    HalvesTurned,
    /// Every access of BAR1 goes to the first page of the aperture's 64K.
    PagesAlias,
}

/// A software GPU with both BARs.
#[derive(Debug)]
pub struct Card {
    pub gpu: Gpu,
    pub fault: Fault,
    pub accesses: u32,
    stores: u32,
    moved: u32,
    /// Where BAR1 stores went to, and window stores: what was written at all.
    pub window_base: u64,
    pub written: Vec<u64>,
    pub bar1_bytes: u64,
    /// What becomes of table memory: told before the next access.
    pub notes: Notes,
}

impl Card {
    pub fn new(config: &Config, notes: Notes) -> Self {
        let gpu = Gpu::new(config).unwrap();
        let bar1_bytes = gpu.bar1_bytes();
        let fault = Fault::Nothing;
        Self { gpu, fault, accesses: 0, stores: 0, moved: 0, window_base: 0, written: Vec::new(), bar1_bytes, notes }
    }

    pub fn set(&mut self, fault: Fault) {
        (self.fault, self.accesses, self.stores) = (fault, 0, 0);
    }

    fn count(&mut self) -> Result<(), DeviceError> {
        self.notes.tell(&mut self.gpu);
        self.accesses += 1;
        match self.fault {
            Fault::FailsAt(n) if n == self.accesses => Err(DeviceError::Backend("as the test wants it")),
            _ => Ok(()),
        }
    }

    fn is_move(&self, offset: u32) -> bool {
        matches!(offset, 0x1700 | 0x10_fd40)
    }
}

impl Bar0 for Card {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        self.count()?;
        if self.fault == Fault::WindowStuck && self.is_move(offset) {
            return Ok(u64::from(self.moved));
        }
        let value = self.gpu.read(offset, width)?;
        Ok(match self.fault {
            Fault::NeverAcknowledges if offset == INVALIDATE => value | 1 << 31,
            Fault::WindowBitStuck if WINDOW.contains(&offset) => {
                value | 0x1010_1010_1010_1010 & u64::MAX >> (64 - 8 * width.bytes())
            }
            _ => value,
        })
    }

    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        self.count()?;
        if self.fault == Fault::NoInvalidate && offset == INVALIDATE {
            return Ok(());
        }
        if self.is_move(offset) {
            if self.fault == Fault::WindowStuck {
                self.moved = value as u32;
                return Ok(());
            }
            self.window_base = (value & 0xff_ffff) << 16;
        }
        if WINDOW.contains(&offset) {
            self.stores += 1;
            if matches!(self.fault, Fault::WindowStoresLost(n) if self.stores > n) {
                return Ok(());
            }
            self.written.push(self.window_base + u64::from(offset - WINDOW.start));
        }
        self.gpu.write(offset, width, value)
    }

    fn has_64bit(&self) -> bool {
        self.gpu.has_64bit()
    }

    fn write_run(&mut self, offset: u32, run: Run) -> Result<(), DeviceError> {
        (0..).zip(run.words()).try_for_each(|(n, word)| self.write(offset + 8 * n, Width::W64, word))
    }
}

impl Clock for Card {
    fn now_us(&mut self) -> u64 {
        self.gpu.now_us()
    }
    fn relax(&mut self) {
        self.gpu.relax();
    }
}

impl Bar1Aperture for Card {
    fn size(&self) -> u64 {
        self.bar1_bytes
    }

    fn is_64bit(&self) -> bool {
        self.gpu.is_64bit()
    }

    fn read_at(&mut self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        let offset = if self.fault == Fault::PagesAlias { offset & !0xf000 } else { offset };
        let value = self.gpu.read_at(offset, width)?;
        Ok(match (self.fault, width) {
            (Fault::BitStuck, _) => value | 0x0101_0101_0101_0101 & u64::MAX >> (64 - 8 * width.bytes()),
            (Fault::HalvesTurned, Width::W64) => value.rotate_left(32),
            _ => value,
        })
    }

    fn write_at(&mut self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        let offset = if self.fault == Fault::PagesAlias { offset & !0xf000 } else { offset };
        if let Ok(found) = self.gpu.access(Client::Bar1, offset, AccessKind::Read, true) {
            self.written.push(found.to.raw);
            if self.fault == Fault::ReadOnlyIgnored {
                self.gpu.load_vram(found.to.raw, &value.to_le_bytes()[..width.bytes() as usize]);
                return Ok(());
            }
        }
        match (self.fault, width) {
            (Fault::StoresLost, _) => Ok(()),
            (Fault::NarrowStoresWide, Width::W8 | Width::W16) => self.gpu.write_at(offset & !3, Width::W32, value),
            (Fault::HalvesTurned, Width::W64) => self.gpu.write_at(offset, width, value.rotate_left(32)),
            _ => self.gpu.write_at(offset, width, value),
        }
    }
}

/// A card whose BAR1 is bound to a space with mappings of `T`.
#[derive(Debug)]
pub struct BarWorld<F: Format, T> {
    pub mmio: Mmio<Card>,
    pub pool: Watched<Pool>,
    pub notes: Notes,
    pub bar1: Bar1<F, T>,
}

pub fn config(chip: &str, bus: Bus, bar1_bytes: u64) -> Config {
    Config { bus, bar1_bytes, vram: 1024 * MIB, speculation: gmmu_sim::Speculation::Worst, ..Config::chip(chip) }
}

/// An empty space for BAR1, bound.
pub fn bound_space<F: Format>(config: &Config) -> (Mmio<Card>, Watched<Pool>, Notes, Vmm<F>) {
    let mut pool = Watched::new(Pool::new(MIB..64 * MIB));
    let notes = pool.notes();
    let mut mmio = Mmio::probe(Card::new(config, notes.clone())).unwrap();
    let whole_words = mmio.bar0().has_64bit();
    let limits = Limits { timeout_us: 1_000_000, polls: 50 };
    let space = SpaceConfig::new(mmio.chip(), mmio.vram_bytes(), Use::Bar);
    let space = SpaceConfig { whole_words, limits, ..space };
    let root = pool.take(4096, None).unwrap();
    let instance = pool.take(4096, None).unwrap().raw();
    notes.tell(&mut mmio.bar0().gpu);
    let vmm = Vmm::with_root(space, &mut mmio, root).unwrap();
    mmio.write_word(gmmu::addr::TableAddr::vram(instance + 0x200), root.raw() | 3 << 10).unwrap();
    bind(&mut mmio.bar0().gpu, F::VA_BITS > 49, instance);
    (mmio, pool, notes, vmm)
}

/// Binds BAR1 to the instance block at `instance`, by the chip's registers.
fn bind(gpu: &mut Gpu, is_v3: bool, instance: u64) {
    let status = if is_v3 {
        gpu.write32(0xb8_0f60, instance as u32 | 1 << 9).unwrap();
        gpu.write32(0xb8_0f64, 0).unwrap();
        0xb8_0f60
    } else {
        // The only names on Pascal, and aliases later.
        gpu.write32(0x1704, 1 << 31 | (instance >> 12) as u32).unwrap();
        0x1710
    };
    while gpu.read32(status).unwrap() & 3 != 0 {}
}

impl<F: Format, T> BarWorld<F, T> {
    pub fn new(chip: &str, bus: Bus, bar1_bytes: u64) -> Self {
        Self::with(&config(chip, bus, bar1_bytes))
    }

    pub fn with(config: &Config) -> Self {
        let (mmio, pool, notes, vmm) = bound_space(config);
        let bar1 = Bar1::new(vmm, config.bar1_bytes).map_err(|(_, why)| why).unwrap();
        Self { mmio, pool, notes, bar1 }
    }

    pub fn card(&mut self) -> &mut Card {
        self.mmio.bar0()
    }

    pub fn tell(&mut self) {
        self.notes.tell(&mut self.mmio.bar0().gpu);
    }

    pub fn assert_clean(&mut self) {
        let findings: Vec<String> = self.card().gpu.findings().iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }
}

pub fn vram(raw: u64) -> PhysAddr {
    PhysAddr::vram(raw)
}
