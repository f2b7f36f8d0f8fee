//! Page tables in system memory, from end to end on the software GPU: on chips that have nothing else, and on chips
//! that could have them in video memory.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;
mod sys_world;

use common::{config, DATA, GIB, MIB};
use gmmu::addr::{Aperture, PageSize, PeerId, Pfn, PhysAddr, SysAddr, TableAddr};
use gmmu::chip::Chip;
use gmmu::device::{DeviceError, NoTableMemory, Run, SysPath, TableMemory, TablePool, TableRead};
use gmmu::format::{Format, MmuVersion, V2, V3};
use gmmu::mmio::{Mmio, ProbeError};
use gmmu::vmm::{Extent, Job, MapRequest, PrepareError, Receipt, SpaceConfig, Span, Use, Vmm, Want};
use gmmu::walk::{self, Outcome};
use gmmu_sim::{AccessKind, Client, Config, Counts, CpuMemory, CpuPath, Gpu, Rule, SysPool};
use std::collections::BTreeMap;
use sys_world::{coherent, hardware, World, TABLES};

const INTEGRATED: [&str; 3] = ["gb10b", "gb20b", "gb20c"];
const DISCRETE: [&str; 6] = ["tu102", "ga100", "ad102", "gh100", "gb100", "gb202"];
macro_rules! on_chip {
    ($chip:expr, $F:ident => $body:expr) => {
        match Chip::by_name($chip).unwrap().mmu {
            MmuVersion::V2 => {
                type $F = V2;
                $body
            }
            MmuVersion::V3 => {
                type $F = V3;
                $body
            }
        }
    };
}

fn pages_in_vram<F: Format>(chip: &str, pool: SysPool, page: PageSize) {
    let mut world = World::<F, _>::new(chip, pool);
    let bytes = page.bytes() * 3;
    let va = 16 * page.bytes().max(GIB);
    let range = world.map(va, PhysAddr::vram(DATA), bytes, Some(page));
    world.assert_maps(range.start..range.start + bytes.min(8 * MIB), PhysAddr::vram(DATA), page);
    assert!(world.access(va - 1).is_err() && world.access(va + bytes).is_err());
    world.unmap(range.clone());
    world.assert_faults(range.start..range.start + bytes.min(8 * MIB));
    world.assert_clean();
    world.assert_no_leak();
    let gpu = world.gpu();
    assert_eq!(gpu.vram_pages().count(), 0, "no table is in video memory");
    assert_eq!(gpu.counts().window_moves, 0);
    world.close();
}

#[test]
fn every_page_size_of_discrete_chips_maps_and_unmaps_through_tables_in_system_memory() {
    for chip in DISCRETE {
        let sizes = Chip::by_name(chip).unwrap().page_sizes;
        for page in sizes.iter().filter(|page| *page < PageSize::Size256G) {
            on_chip!(chip, F => pages_in_vram::<F>(chip, coherent(), page));
            on_chip!(chip, F => pages_in_vram::<F>(chip, SysPool::non_coherent(TABLES), page));
        }
    }
}

fn through_the_simple_calls<F: Format>(chip: &str) {
    let mut mmio = hardware(chip);
    let mut pool = coherent();
    let mut vmm = Vmm::<F>::create(config(chip, mmio.vram_bytes()), &mut mmio, &mut pool).unwrap();
    let (pdb, frames) = (vmm.pdb(), [DATA, DATA + 5 * MIB, DATA + 64 * 1024].map(|at| Pfn::new(at / 4096)));
    assert!(!pdb.is_vram());
    let request = MapRequest::frames(3, PageSize::Size4K).at(GIB);
    let mapping = vmm.map_pages(&mut mmio, &mut pool, &request, &frames).unwrap();
    for (va, frame) in mapping.range.clone().step_by(4096).zip(frames) {
        let found = mmio.bar0().access(Client::Engine { pdb }, va, AccessKind::Write, false).unwrap();
        assert_eq!(found.to, PhysAddr::vram(frame.bytes().unwrap()));
        let read = walk::walk::<F, _>(&mut mmio, pdb, vmm.page_sizes(), va).unwrap();
        assert!(matches!(read.outcome, Outcome::Mapped { .. }), "{read:?}");
    }
    vmm.unmap_pages(&mut mmio, &mut pool, mapping.range.clone()).unwrap();
    assert!(mmio.bar0().access(Client::Engine { pdb }, mapping.range.start, AccessKind::Read, false).is_err());
    if let Err((_, why)) = vmm.close(&mut mmio, &mut pool) {
        panic!("{why}");
    }
    assert_eq!(pool.out().count(), 0);
    assert_eq!(mmio.bar0().findings(), []);
}

#[test]
fn map_pages_unmap_pages_and_close_need_no_window() {
    for chip in DISCRETE {
        on_chip!(chip, F => through_the_simple_calls::<F>(chip));
    }
}

/// A word a page, a link to each of the leaf tables and directories, and the new directories cleared: one of every level
/// below the root, and a second PD0. BAR0 sees the invalidate and its polls.
fn mapping_cost<F: Format>() -> Counts {
    let directories = F::LEVELS.len() as u64;
    let links = 512 + directories;
    Counts {
        reads: 4,
        writes: 3,
        invalidates: 1,
        sys_writes: GIB / 4096 + links + 512 * directories,
        fences: 2,
        drains: 1,
        ..Counts::default()
    }
}

/// What `1G` of 4K pages has to cost: every store is one of system memory, and BAR0 sees the invalidate alone.
fn gigabyte<F: Format>(chip: &str) {
    let mut world = World::<F, _>::new(chip, coherent());
    let range = world.map(64 * GIB, PhysAddr::vram(DATA), GIB, Some(PageSize::Size4K));
    assert_eq!(world.gpu().counts(), mapping_cost::<F>(), "{chip}");
    world.assert_maps(range.clone(), PhysAddr::vram(DATA), PageSize::Size4K);
    world.gpu().reset_counts();
    world.unmap(range.clone());
    let expected =
        Counts { reads: 4, writes: 3, invalidates: 1, sys_writes: 512, fences: 1, drains: 1, ..Counts::default() };
    assert_eq!(world.gpu().counts(), expected, "{chip}: 512 tables are dropped");
    world.assert_faults(range);
    world.assert_clean();
    world.close();
}

#[test]
fn a_gigabyte_of_4k_pages_costs_a_store_a_page_and_three_writes_of_bar0() {
    for chip in DISCRETE {
        on_chip!(chip, F => gigabyte::<F>(chip));
    }
}

/// A pool that takes every other table from video memory.
struct Mixed {
    vram: common::Pool,
    sys: SysPool,
    taken: u32,
}

impl TablePool for Mixed {
    fn take(&mut self, bytes: u64, near: Option<TableAddr>) -> Result<TableAddr, NoTableMemory> {
        self.taken += 1;
        if self.taken % 2 == 0 {
            self.vram.take(bytes, near)
        } else {
            self.sys.take(bytes, near)
        }
    }

    fn give(&mut self, at: TableAddr, bytes: u64) {
        if at.is_vram() {
            self.vram.give(at, bytes);
        } else {
            self.sys.give(at, bytes);
        }
    }
}

fn mixed<F: Format>(chip: &str) {
    // Once with the root in system memory, once in video memory.
    for taken in [0, 1] {
        let pool = Mixed { vram: common::Pool::new(MIB..GIB), sys: coherent(), taken };
        let mut world = World::<F, _>::new(chip, pool);
        assert_eq!(world.vmm.pdb().is_vram(), taken == 1);
        let mut ranges = Vec::new();
        for (n, page) in [PageSize::Size4K, PageSize::Size64K, PageSize::Size2M].into_iter().enumerate() {
            let (va, to) = (GIB + n as u64 * 16 * MIB, PhysAddr::vram(DATA + n as u64 * 16 * MIB));
            let range = world.map(va, to, 6 * MIB, Some(page));
            world.assert_maps(range.clone(), to, page);
            ranges.push(range);
        }
        assert!(world.gpu().vram_pages().count() > 0 && world.gpu().counts().sys_writes > 0);
        for range in ranges {
            world.unmap(range.clone());
            world.assert_faults(range);
        }
        world.assert_clean();
    }
}

#[test]
fn tables_of_one_space_may_lie_in_both_memories() {
    for chip in DISCRETE {
        on_chip!(chip, F => mixed::<F>(chip));
    }
}

#[test]
fn bar_spaces_refuse_tables_in_system_memory() {
    let mut mmio = hardware("gh100");
    let mut pool = coherent();
    let config = SpaceConfig { used_by: Use::Bar, ..config("gh100", mmio.vram_bytes()) };
    let mut vmm = Vmm::<V3>::with_root(config, &mut mmio, TableAddr::vram(MIB)).unwrap();
    let extents = [Extent { to: PhysAddr::vram(DATA), bytes: MIB }];
    let refused = vmm.prepare_map(&mut mmio, &mut pool, &MapRequest::extents(&extents).at(GIB)).unwrap_err();
    assert!(matches!(refused, PrepareError::Device(DeviceError::WrongAperture { .. })), "{refused}");
    assert_eq!(pool.out().count(), 0);
}

#[test]
fn integrated_chips_need_a_way_to_system_memory() {
    for chip in INTEGRATED {
        let gpu = || Gpu::new(&Config::chip(chip)).unwrap();
        assert_eq!(Mmio::probe(gpu()).err(), Some(ProbeError::NoWindow(chip)));
        let mut mmio = Mmio::probe_with(gpu(), CpuPath).unwrap();
        assert!(mmio.vram_bytes() == 0 && mmio.window().is_none());
        mmio.bar0().reset_counts();
        let at = TableAddr::vram(0x1000);
        let wrong = DeviceError::WrongAperture { at };
        let run = Run { first: 0, step: 0, count: 4 };
        assert_eq!(mmio.read_word(at), Err(wrong));
        assert_eq!(mmio.write_run(at, run), Err(wrong));
        assert_eq!(mmio.write_words(at, &[1]), Err(wrong));
        assert_eq!(mmio.drain(), Ok(()));
        assert_eq!(mmio.bar0().counts(), Counts { drains: 1, ..Counts::default() }, "BAR0 was not touched");
        assert!(mmio.release().is_ok());
    }
}

/// What can be done with a space on a chip without video memory whatever pages it maps: prepare, cancel, close.
#[test]
fn spaces_on_integrated_chips_are_made_and_closed() {
    for chip in INTEGRATED {
        let mut world = World::<V3, _>::new(chip, coherent());
        for (pages, page) in [(700, PageSize::Size4K), (40, PageSize::Size64K), (3, PageSize::Size2M)] {
            let job = world.prepare(&MapRequest::frames(pages, page).at(4 * GIB)).unwrap();
            world.vmm.cancel(&mut world.pool, job).unwrap();
            world.notes.tell(world.mmio.bar0());
        }
        world.assert_no_leak();
        assert!(world.access(4 * GIB).is_err());
        let extents = [Extent { to: PhysAddr::vram(0), bytes: MIB }];
        let refused = world.prepare(&MapRequest::extents(&extents)).unwrap_err();
        assert_eq!(refused, PrepareError::BeyondVram { end: MIB, limit: 0 });
        let counts = world.gpu().counts();
        assert_eq!((counts.reads, counts.writes), (0, 0), "{counts:?}");
        world.assert_clean();
        world.close();
    }
}

/// Pages of `aperture` from `start` on, as extents and as late frames, through the model's TLB and down to the bytes.
fn pages_in<F: Format>(model: &Config, pool: SysPool, aperture: Aperture, page: PageSize) {
    let mut world = World::<F, _>::with(model, pool);
    let to = PhysAddr::new(aperture, 8 * GIB);
    let bytes = 3 * page.bytes();
    let range = world.map(16 * GIB, to, bytes, Some(page));
    world.assert_maps(range.clone(), to, page);
    let (pdb, sizes) = (world.vmm.pdb(), world.vmm.page_sizes());
    for va in [range.start, range.end - 4096] {
        world.assert_reaches(va + 8, to.checked_add(va + 8 - range.start).unwrap());
        let read = walk::walk::<F, _>(&mut world.mmio, pdb, sizes, va).unwrap();
        let Outcome::Mapped { leaf, .. } = read.outcome else { panic!("{read:?}") };
        assert_eq!(leaf.to.aperture, aperture);
        assert_eq!(leaf.flags.volatile, aperture == Aperture::SysNonCoherent);
    }
    world.unmap(range.clone());
    world.assert_faults(range);

    let list: Vec<Pfn> = (0..40).map(|n| Pfn::new((to.raw + n * 17 % 40 * page.bytes()) / 4096)).collect();
    let job = world.prepare(&MapRequest::frames_of(aperture, 40, page).at(32 * GIB)).unwrap();
    let receipt = job.with_frames(&list).unwrap().execute(&mut world.mmio).unwrap();
    let range = world.vmm.commit(&mut world.pool, receipt).unwrap().range;
    world.notes.tell(world.mmio.bar0());
    for (va, frame) in (range.start..).step_by(usize::try_from(page.bytes()).unwrap()).zip(&list) {
        world.assert_reaches(va + 16, PhysAddr::new(aperture, frame.bytes().unwrap() + 16));
    }
    // A page is cut out of the middle of what may be large.
    let hole = range.start + page.bytes() + 5 * 4096..range.start + page.bytes() + 6 * 4096;
    let cut = page > PageSize::Size4K;
    if cut {
        let span = Span::new(hole.clone()).quiesced();
        let job = world.vmm.plan_unmap(&mut world.pool, span).unwrap();
        world.notes.tell(world.mmio.bar0());
        let job = job.init(&mut world.mmio).unwrap();
        let wanted: Vec<Pfn> = job.wants().iter().flat_map(|want| frames_of(want, range.start, &list)).collect();
        let receipt = job.with_frames(&wanted).unwrap().execute(&mut world.mmio).unwrap();
        world.vmm.commit(&mut world.pool, receipt).unwrap();
        world.notes.tell(world.mmio.bar0());
        world.assert_faults(hole.clone());
        let frame = list[1].bytes().unwrap();
        world.assert_reaches(hole.end + 24, PhysAddr::new(aperture, frame + 6 * 4096 + 24));
    }
    world.unmap(range.clone());
    world.assert_faults(range.start..range.start + 4 * page.bytes());
    world.assert_clean();
    world.assert_no_leak();
    world.close();
}

/// The part of `list` that a job wants again.
fn frames_of(want: &Want, mapping: u64, list: &[Pfn]) -> Vec<Pfn> {
    let first = usize::try_from((want.va - mapping) / want.page.bytes()).unwrap();
    list[first..first + usize::try_from(want.pages).unwrap()].to_vec()
}

#[test]
fn integrated_chips_map_pages_of_system_memory_through_tables_there() {
    for chip in INTEGRATED {
        for page in [PageSize::Size4K, PageSize::Size64K, PageSize::Size2M] {
            for aperture in [Aperture::SysCoherent, Aperture::SysNonCoherent] {
                pages_in::<V3>(&Config::chip(chip), coherent(), aperture, page);
                pages_in::<V3>(&Config::chip(chip), SysPool::non_coherent(TABLES), aperture, page);
            }
        }
    }
}

#[test]
fn discrete_chips_map_system_memory_and_peers_through_tables_in_system_memory() {
    for chip in DISCRETE {
        let config = Config { peers: [0, 0, 0, 0, 0, 64 * GIB, 0, 0], ..Config::chip(chip) };
        let peer = Aperture::Peer(PeerId::new(5).unwrap());
        for page in [PageSize::Size4K, PageSize::Size64K, PageSize::Size2M] {
            for aperture in [Aperture::SysCoherent, Aperture::SysNonCoherent, peer] {
                on_chip!(chip, F => pages_in::<F>(&config, coherent(), aperture, page));
            }
        }
    }
}

/// What a gigabyte of 4K pages of system memory costs where there is nothing else: as much as on any chip.
#[test]
fn a_gigabyte_on_an_integrated_chip_costs_a_store_a_page() {
    for aperture in [Aperture::SysCoherent, Aperture::SysNonCoherent] {
        let mut world = World::<V3, _>::new("gb10b", coherent());
        let to = PhysAddr::new(aperture, 8 * GIB);
        let range = world.map(64 * GIB, to, GIB, Some(PageSize::Size4K));
        assert_eq!(world.gpu().counts(), mapping_cost::<V3>());
        world.assert_maps(range.clone(), to, PageSize::Size4K);
        world.unmap(range.clone());
        world.assert_faults(range);
        world.assert_clean();
        world.close();
    }
}

/// Memory of the driver's own, which the GPU of this test does not look at.
#[derive(Default)]
struct Own {
    words: BTreeMap<u64, u64>,
    ordered: u32,
    drained: u32,
}

impl TableRead for Own {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        for (word, at) in words.iter_mut().zip((at.raw()..).step_by(8)) {
            *word = self.words.get(&at).copied().unwrap_or(0);
        }
        Ok(())
    }
}

impl TableMemory for Own {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        self.words.extend((at.raw()..).step_by(8).zip(run.words()));
        Ok(())
    }
    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        self.words.extend((at.raw()..).step_by(8).zip(words.iter().copied()));
        Ok(())
    }
    fn order(&mut self) -> Result<(), DeviceError> {
        self.ordered += 1;
        Ok(())
    }
    fn drain(&mut self) -> Result<(), DeviceError> {
        self.drained += 1;
        Ok(())
    }
}

#[test]
fn any_table_memory_is_a_way_to_system_memory() {
    let mut mmio = Mmio::probe_with(Gpu::new(&Config::chip("ad102")).unwrap(), Own::default()).unwrap();
    let sys = TableAddr::SysNonCoherent(SysAddr::new(0x1000));
    let vram = TableAddr::vram(0x1000);
    mmio.write_word(sys, 1).unwrap();
    mmio.write_word(vram, 2).unwrap();
    assert_eq!((mmio.read_word(sys), mmio.read_word(vram)), (Ok(1), Ok(2)));
    mmio.bar0().reset_counts();
    mmio.order().unwrap();
    assert_eq!(mmio.bar0().counts(), Counts::default());
    mmio.drain().unwrap();
    assert_eq!(mmio.bar0().counts(), Counts { reads: 1, ..Counts::default() }, "the window was used");
    assert_eq!((mmio.sys().ordered, mmio.sys().drained), (1, 1));
    assert_eq!(mmio.sys().words, BTreeMap::from([(0x1000, 1)]));
}

/// The sanitizer is not silent because it looks away: a job whose tables the driver forgot to drain.
#[test]
fn a_missing_drain_is_found() {
    let mut mmio = hardware("gb20b");
    let root = TableAddr::SysCoherent(SysAddr::new(TABLES.start));
    mmio.write_run(root, Run { first: 0, step: 0, count: 512 }).unwrap();
    let what = gmmu::device::Invalidate {
        pdb: root,
        depth: gmmu::device::Depth::UpToPde4,
        scope: gmmu::device::Scope::All,
        ack: gmmu::device::Acknowledge::Globally,
    };
    gmmu::device::Invalidator::submit(&mut mmio, &what).unwrap().unwrap();
    let rules: Vec<Rule> = mmio.bar0().take_findings().iter().map(|finding| finding.rule).collect();
    assert_eq!(rules, [Rule::UndrainedStores]);
}

/// The CPU's way to system memory, of which one call fails.
struct Flaky {
    /// Calls that still go well before the one that does not; it fails once.
    good: u32,
}

struct FlakyMemory<'a> {
    cpu: CpuMemory<'a>,
    good: &'a mut u32,
}

impl SysPath<Gpu> for Flaky {
    type Memory<'a> = FlakyMemory<'a>;

    fn memory<'a>(&'a mut self, bar0: &'a mut Gpu) -> FlakyMemory<'a> {
        FlakyMemory { cpu: bar0.cpu(), good: &mut self.good }
    }
}

impl FlakyMemory<'_> {
    fn call(&mut self) -> Result<&mut Self, DeviceError> {
        match self.good.checked_sub(1) {
            Some(left) => {
                *self.good = left;
                Ok(self)
            }
            None => {
                *self.good = u32::MAX;
                Err(DeviceError::Backend("lost"))
            }
        }
    }
}

impl TableRead for FlakyMemory<'_> {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        self.call()?.cpu.read_words(at, words)
    }
}

impl TableMemory for FlakyMemory<'_> {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        self.call()?.cpu.write_run(at, run)
    }
    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        self.call()?.cpu.write_words(at, words)
    }
    fn order(&mut self) -> Result<(), DeviceError> {
        self.call()?.cpu.order()
    }
    fn drain(&mut self) -> Result<(), DeviceError> {
        self.call()?.cpu.drain()
    }
}

/// Executes, and once more where that fails.
fn execute(job: Job, mmio: &mut Mmio<Gpu, Flaky>) -> Receipt {
    match job.execute(mmio) {
        Ok(receipt) => receipt,
        Err(failed) => failed.job.execute(mmio).unwrap(),
    }
}

/// Maps and unmaps with call `good` of system memory failing; whether it came to that.
fn with_a_lost_call(good: u32) -> bool {
    let mut mmio = Mmio::probe_with(Gpu::new(&Config::chip("gb20b")).unwrap(), Flaky { good: u32::MAX }).unwrap();
    let mut pool = coherent();
    let mut vmm = Vmm::<V3>::create(config("gb20b", 0), &mut mmio, &mut pool).unwrap();
    let client = Client::Engine { pdb: vmm.pdb() };
    let to = PhysAddr::new(Aperture::SysCoherent, 8 * GIB);
    let extents = [Extent { to, bytes: 5 * MIB }];
    let request = MapRequest::extents(&extents).at(GIB);
    mmio.sys().good = good;
    let held = pool.out().count();
    let job = match vmm.prepare_map(&mut mmio, &mut pool, &request) {
        Ok(job) => job,
        Err(why) => {
            assert_eq!(why, PrepareError::Device(DeviceError::Backend("lost")));
            assert_eq!(pool.out().count(), held, "call {good}");
            vmm.prepare_map(&mut mmio, &mut pool, &request).unwrap()
        }
    };
    let receipt = execute(job, &mut mmio);
    let range = vmm.commit(&mut pool, receipt).unwrap().range;
    for va in range.clone().step_by(4096) {
        let found = mmio.bar0().access(client, va, AccessKind::Read, false).unwrap();
        assert_eq!(Some(found.to), to.checked_add(va - range.start), "call {good}");
    }
    let job = match vmm.prepare_unmap(&mut mmio, &mut pool, range.clone()) {
        Ok(job) => job,
        Err(_) => vmm.prepare_unmap(&mut mmio, &mut pool, range.clone()).unwrap(),
    };
    let receipt = execute(job, &mut mmio);
    vmm.commit(&mut pool, receipt).unwrap();
    assert!(range.step_by(4096).all(|va| mmio.bar0().access(client, va, AccessKind::Read, false).is_err()));
    let lost = mmio.sys().good > good;
    if let Err((vmm, _)) = vmm.close(&mut mmio, &mut pool) {
        assert!(vmm.close(&mut mmio, &mut pool).is_ok(), "call {good}");
    }
    assert_eq!(pool.out().count(), 0, "call {good}");
    assert_eq!(mmio.bar0().findings(), [], "call {good}");
    lost
}

#[test]
fn every_call_of_system_memory_fails_once_and_nothing_is_lost() {
    let calls = (0..).take_while(|&good| with_a_lost_call(good)).count();
    assert!(calls > 10, "{calls}");
}
