//! Tables through BAR2, under the sanitizer: every page through the GPU's MMU, and nothing through the window.
#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "tests")]

use gmmu::addr::{PageSize, PhysAddr, TableAddr, VramAddr};
use gmmu::bar_tables::{flush, BarTables};
use gmmu::chip::{Chip, CHIPS};
use gmmu::device::{
    Bar0, Bar1Aperture, Clock, DeviceError, Invalidate, Invalidator, Poll, Run, TableMemory, TableRead, Ticket, Width,
};
use gmmu::format::{Format, MmuVersion, V2, V3};
use gmmu::instance::{bind, Bar};
use gmmu::mmio::Mmio;
use gmmu::tlb::Limits;
use gmmu::vmm::{Extent, MapRequest, SpaceConfig, Use, Vmm};
use gmmu::vram::{TablePages, Vram};
use gmmu_sim::{AccessKind, Bus, Client, Config, Gpu, Mishap, Rule};

/// What BAR2 shows.
const SHOWN: u64 = 32 << 20;
const LIMITS: Limits = Limits { timeout_us: 1_000_000, polls: 100 };
const VA: u64 = 0x40_0000_0000;
const DATA: u64 = 1 << 30;
const BYTES: u64 = 64 << 20;

/// A software GPU whose aperture is BAR2.
struct ThroughBar2(Gpu);

impl Bar0 for ThroughBar2 {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        self.0.read(offset, width)
    }
    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        self.0.write(offset, width, value)
    }
    fn has_64bit(&self) -> bool {
        self.0.has_64bit()
    }
}

impl Clock for ThroughBar2 {
    fn now_us(&mut self) -> u64 {
        self.0.now_us()
    }
    fn relax(&mut self) {
        self.0.relax();
    }
}

impl Bar1Aperture for ThroughBar2 {
    fn size(&self) -> u64 {
        SHOWN
    }
    fn is_64bit(&self) -> bool {
        self.0.is_64bit()
    }
    fn read_at(&mut self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        Ok(self.0.bar2_read(offset, width).unwrap_or(u64::MAX))
    }
    fn write_at(&mut self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        let _ = self.0.bar2_write(offset, width, value);
        Ok(())
    }
}

/// A memory that forgets the flush.
struct Hasty(BarTables<ThroughBar2>);

impl TableRead for Hasty {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        self.0.read_words(at, words)
    }
}

impl TableMemory for Hasty {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        self.0.write_run(at, run)
    }
    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        self.0.write_words(at, words)
    }
    fn order(&mut self) -> Result<(), DeviceError> {
        self.0.order()
    }
    fn drain(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

impl Invalidator for Hasty {
    fn submit(&mut self, what: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        self.0.submit(what)
    }
    fn poll(&mut self, ticket: Ticket) -> Result<Poll, DeviceError> {
        self.0.poll(ticket)
    }
}

impl Clock for Hasty {
    fn now_us(&mut self) -> u64 {
        self.0.now_us()
    }
    fn relax(&mut self) {
        self.0.relax();
    }
}

/// A memory of the tests, and whether it waits as it should.
trait Flushing: TableMemory + Invalidator + Clock {
    const FLUSHES: bool;
}

impl Flushing for BarTables<ThroughBar2> {
    const FLUSHES: bool = true;
}

impl Flushing for Hasty {
    const FLUSHES: bool = false;
}

/// A card whose BAR2 shows the start of video memory, as after a bind to nothing.
fn card(config: &Config) -> BarTables<ThroughBar2> {
    let mut gpu = Gpu::new(config).unwrap();
    let chip = gpu.chip().name;
    bind(&mut gpu, Chip::by_name(chip).unwrap(), Bar::Bar2, None, LIMITS).unwrap();
    let mmio = Mmio::probe(ThroughBar2(gpu)).unwrap();
    BarTables::new(mmio, VramAddr::new(0)..VramAddr::new(SHOWN), 0, LIMITS)
}

/// Maps, uses, remaps and unmaps on `device`, tables in `tables`; gives what `gpu` gets at to look at after each step.
fn work<F: Format, D: Flushing>(
    device: &mut D,
    tables: std::ops::Range<u64>,
    chip: &'static Chip,
    vram_bytes: u64,
    gpu: fn(&mut D) -> &mut Gpu,
) {
    let mut vram = Vram::new(&[VramAddr::new(tables.start)..VramAddr::new(tables.end)]).unwrap();
    let mut pages = TablePages::for_vram(&vram).unwrap();
    let mut pool = pages.pool(&mut vram);
    let config = SpaceConfig { limits: LIMITS, ..SpaceConfig::new(chip, vram_bytes, Use::Channel) };
    let mut space = Vmm::<F>::create(config, device, &mut pool).unwrap();
    let engine = Client::Engine { pdb: space.pdb() };
    for round in 0..2 {
        let to = PhysAddr::vram(DATA + round * BYTES);
        let extents = [Extent { to, bytes: BYTES }];
        let request = MapRequest::extents(&extents).at(VA).page(PageSize::Size4K);
        space.map_pages(device, &mut pool, &request, &[]).unwrap();
        for offset in (0..BYTES).step_by(1 << 16) {
            let found = gpu(device).access(engine, VA + offset, AccessKind::Write, false).unwrap();
            assert!(found.to == to.checked_add(offset).unwrap() || !D::FLUSHES);
        }
        space.unmap_pages(device, &mut pool, VA..VA + BYTES).unwrap();
        let gone = gpu(device).access(engine, VA, AccessKind::Read, false).is_err();
        assert_eq!(gone, D::FLUSHES, "what is unmapped faults, unless the invalidate came too early");
    }
    space.close(device, &mut pool).map_err(|(_, why)| why).unwrap();
}

fn work_on<D: Flushing>(
    device: &mut D,
    tables: std::ops::Range<u64>,
    chip: &'static Chip,
    gpu: fn(&mut D) -> &mut Gpu,
) {
    match chip.mmu {
        MmuVersion::V2 => work::<V2, D>(device, tables, chip, 16 << 30, gpu),
        MmuVersion::V3 => work::<V3, D>(device, tables, chip, 16 << 30, gpu),
    }
}

fn discrete() -> impl Iterator<Item = (&'static Chip, Config)> {
    let chips = CHIPS.iter().filter(|chip| !chip.is_integrated());
    chips.map(|chip| (chip, Config { vram: 16 << 30, ..Config::chip(chip.name) }))
}

#[test]
fn tables_go_through_the_bar_alone_on_every_chip() {
    for (chip, config) in discrete() {
        let mut card = card(&config);
        card.mmio().bar0().0.reset_counts();
        work_on(&mut card, 1 << 20..SHOWN, chip, |card| &mut card.mmio().bar0().0);
        let gpu = &mut card.mmio().bar0().0;
        assert!(gpu.findings().is_empty(), "{}: {:?}", chip.name, gpu.findings());
        // Registers alone: invalidates and flushes.
        let counts = gpu.counts();
        assert_eq!(counts.window_moves, 0, "{}", chip.name);
        assert!(counts.writes < 64 && counts.invalidates > 0, "{}: {counts:?}", chip.name);
    }
}

#[test]
fn what_the_bar_does_not_show_goes_through_the_window() {
    for (chip, config) in discrete().filter(|(chip, _)| matches!(chip.name, "gh100" | "tu102")) {
        // Half of the tables lie behind the end of what is shown.
        let mut across = card(&config);
        work_on(&mut across, SHOWN - (64 << 10)..SHOWN + (1 << 20), chip, |card| &mut card.mmio().bar0().0);
        let gpu = &mut across.mmio().bar0().0;
        assert!(gpu.findings().is_empty(), "{:?}", gpu.findings());
        assert!(gpu.counts().window_moves > 0);
        // A bus without 64-bit stores has the window alone.
        let mut narrow = card(&Config { bus: Bus::Bits32, ..config.clone() });
        let word = TableAddr::vram(0x10_0000);
        narrow.write_word(word, 0x1122_3344_5566_7788).unwrap();
        assert_eq!(narrow.read_word(word), Ok(0x1122_3344_5566_7788));
        assert!(narrow.mmio().bar0().0.counts().window_moves > 0);
        let mut wide = card(&config);
        for (at, words) in [(SHOWN - 8, 1), (SHOWN - 8, 2), (SHOWN, 1), (0, 200)] {
            let put: Vec<u64> = (0..words).map(|n| at << 8 | n).collect();
            wide.write_words(TableAddr::vram(at), &put).unwrap();
            let mut got = vec![0; put.len()];
            wide.read_words(TableAddr::vram(at), &mut got).unwrap();
            assert_eq!(got, put);
            wide.drain().unwrap();
            wide.mmio().read_words(TableAddr::vram(at), &mut got).unwrap();
            assert_eq!(got, put, "the same memory through the window");
        }
    }
}

#[test]
fn without_its_flush_an_invalidate_comes_too_early() {
    for (chip, config) in discrete().filter(|(chip, _)| matches!(chip.name, "gh100" | "tu102" | "gb202")) {
        let mut hasty = Hasty(card(&config));
        work_on(&mut hasty, 1 << 20..SHOWN, chip, |hasty| &mut hasty.0.mmio().bar0().0);
        let found = hasty.0.mmio().bar0().0.findings().iter().any(|finding| finding.rule == Rule::UndrainedStores);
        assert!(found, "{}", chip.name);
    }
}

#[test]
fn a_flush_ends_on_a_card_that_does_not() {
    for (chip, config) in discrete() {
        let mut gpu = Gpu::new(&config).unwrap();
        flush(&mut gpu, chip, LIMITS).unwrap();
        gpu.inject(Mishap::BusDead, 1, None);
        assert!(matches!(flush(&mut gpu, chip, LIMITS), Err(DeviceError::Gone { .. })), "{}", chip.name);
        let mut stuck = Stuck { polls: 0 };
        let late = flush(&mut stuck, chip, Limits { timeout_us: u64::MAX, polls: 50 });
        assert!(matches!(late, Err(DeviceError::Timeout { polls: 50, .. })), "{}: {late:?}", chip.name);
    }
}

/// Registers of a card that is always busy.
struct Stuck {
    polls: u32,
}

impl Bar0 for Stuck {
    fn read(&mut self, offset: u32, _: Width) -> Result<u64, DeviceError> {
        self.polls += 1;
        // The token is one ahead of what the status has reached.
        Ok(if offset == gmmu::regs::NV_XAL_EP_UFLUSH_FB_FLUSH { 8 } else { 1 << 31 | 7 })
    }
    fn write(&mut self, _: u32, _: Width, _: u64) -> Result<(), DeviceError> {
        Ok(())
    }
    fn has_64bit(&self) -> bool {
        true
    }
}

impl Clock for Stuck {
    fn now_us(&mut self) -> u64 {
        self.polls.into()
    }
    fn relax(&mut self) {}
}
