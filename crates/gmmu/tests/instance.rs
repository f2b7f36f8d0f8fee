//! Instance blocks and the registers that bind BARs to them, against the model: both layouts, and what goes wrong.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::allow_attributes,
    reason = "tests"
)]

mod broken;
use broken::Broken;
use gmmu::addr::{SysAddr, TableAddr};
use gmmu::chip::{Chip, CHIPS};
use gmmu::device::{Bar0, DeviceError, TableRead, Width};
use gmmu::format::{Format, V2, V3};
use gmmu::instance::{bind, bound, clear, erase, Bar, BarError, Instance};
use gmmu::mm::{BindError, ChannelUse, FbSource, GpuMm, RootError, Space};
use gmmu::mmio::Mmio;
use gmmu::tlb::Limits;
use gmmu::vmm::{Extent, MapRequest, SpaceConfig, Use};
use gmmu::vram::Request;
use gmmu_sim::{Bus, Config, FaultType, Gpu, Mishap, Rule};

const BARS: [Bar; 2] = [Bar::Bar1, Bar::Bar2];
const LIMITS: Limits = Limits { timeout_us: 1_000_000, polls: 100 };
const GONE: fn(u32) -> DeviceError = |offset| DeviceError::Gone { offset, value: u32::MAX };

fn chip(name: &str) -> &'static Chip {
    Chip::by_name(name).unwrap()
}

/// A card with one space that maps 64 KiB at 0, as a BAR sees it, and a page for an instance block.
struct World<F: Format> {
    card: Mmio<Broken>,
    mm: GpuMm,
    space: Space<F>,
    block: TableAddr,
    data: u64,
}

impl<F: Format> World<F> {
    fn new(config: &Config) -> Self {
        let mut card = Mmio::probe(Broken::new(Gpu::new(config).unwrap())).unwrap();
        let mut mm = GpuMm::probe(&mut card, FbSource::Registers, &[]).unwrap();
        let space_config = SpaceConfig { limits: LIMITS, ..mm.space_config(Use::Bar) };
        assert_eq!(space_config.whole_words, config.bus == Bus::Bits64);
        let mut space = mm.create_space::<F, _>(space_config, &mut card).unwrap();
        let mut take = |bytes| {
            let request = Request::new(bytes).align(bytes).build().unwrap();
            mm.vram().unwrap().alloc_contiguous(&request).unwrap().start()
        };
        let (block, data) = (TableAddr::from(take(4096)), take(65536).raw());
        let extents = [Extent { to: gmmu::addr::PhysAddr::vram(data), bytes: 65536 }];
        space.map_pages(&mut card, &mut mm.pool().unwrap(), &MapRequest::extents(&extents).at(0), &[]).unwrap();
        Self { card, mm, space, block, data }
    }

    fn gpu(&mut self) -> &mut Gpu {
        &mut self.card.bar0().gpu
    }

    fn binds(&self) -> u32 {
        self.space.root().binds()
    }

    /// Whether a BAR reads the data that the space maps.
    fn sees(&mut self, bar: Bar, mark: u32) -> bool {
        let data = self.data;
        let gpu = self.gpu();
        gpu.load_vram(data + 0x8010, &mark.to_le_bytes());
        let read = match bar {
            Bar::Bar1 => gpu.bar1_read(0x8010, Width::W32),
            Bar::Bar2 => gpu.bar2_read(0x8010, Width::W32),
        };
        read == Ok(mark.into())
    }

    fn close(mut self) {
        let free = |mm: &mut GpuMm| mm.vram().unwrap().free_bytes();
        self.mm.close_space(self.space, &mut self.card).map_err(|(_, why)| why).unwrap();
        let total = self.mm.layout().unwrap().usable_bytes();
        assert_eq!(free(&mut self.mm), total - 4096 - 65536, "all tables are back");
        // These tests look through BARs that are not bound, on purpose.
        let mut findings = self.card.bar0().gpu.take_findings();
        findings.retain(|finding| finding.rule != Rule::BarUnbound);
        assert_eq!(findings, []);
        self.mm.close().map_err(|(_, why)| why).unwrap();
    }
}

fn both_bars<F: Format>(config: &Config) {
    let mut world = World::<F>::new(config);
    for (bar, mark) in BARS.into_iter().zip([0x1111_2222, 0x3333_4444]) {
        assert!(!world.sees(bar, mark), "{}: not bound yet", config.chip);
        let World { card, mm, space, block, .. } = &mut world;
        let bound = mm.bind_bar(card, bar, *block, space.root(), LIMITS).unwrap();
        assert_eq!(
            (mm.bar(bar), bound.bar(), bound.block(), bound.pdb()),
            (Some(space.pdb()), bar, *block, space.pdb())
        );
        assert!(world.sees(bar, mark), "{}", config.chip);
        assert_eq!(world.binds(), 1);
        let World { card, mm, space, block, .. } = &mut world;
        // One bind at a time.
        let again = mm.bind_bar(card, bar, *block, space.root(), LIMITS).unwrap_err();
        assert!(again.left.is_none() && again.why == BindError::BarTaken { bar, pdb: space.pdb() });
        mm.unbind_bar(card, bound, LIMITS).map_err(|(_, why)| why).unwrap();
        assert_eq!((mm.bar(bar), world.binds()), (None, 0));
        assert!(!world.sees(bar, mark), "{}: bound no more", config.chip);
    }
    world.close();
}

#[test]
fn every_discrete_chip_binds_and_unbinds_both_bars() {
    for chip in CHIPS.iter().filter(|chip| !chip.is_integrated()) {
        for bus in [Bus::Bits64, Bus::Bits32] {
            let config = Config { bus, vram: 2 << 30, bind_polls: 3, ..Config::chip(chip.name) };
            match chip.mmu {
                gmmu::format::MmuVersion::V2 => both_bars::<V2>(&config),
                gmmu::format::MmuVersion::V3 => both_bars::<V3>(&config),
            }
        }
    }
}

/// Runs `test` on a chip of each register layout.
macro_rules! both_layouts {
    ($name:ident, $test:ident) => {
        #[test]
        fn $name() {
            $test::<V2>("tu102", 0xb8_0f40, 0xb8_0f50);
            $test::<V3>("gh100", 0xb8_0f60, 0xb8_0f60);
        }
    };
}

both_layouts!(a_late_bind_counts_until_it_is_undone, late);
fn late<F: Format>(chip: &str, _: u32, status: u32) {
    let mut world = World::<F>::new(&Config { bind_polls: 150, ..Config::chip(chip) });
    let World { card, mm, space, block, .. } = &mut world;
    let failed = mm.bind_bar(card, Bar::Bar1, *block, space.root(), LIMITS).unwrap_err();
    let BindError::Device(DeviceError::Timeout { offset, polls: 100, .. }) = failed.why else {
        panic!("{:?}", failed.why)
    };
    assert_eq!(offset, status);
    let bound = failed.left.unwrap();
    // It may be bound, so the root stays.
    let pdb = space.pdb();
    let (space, why) = world.mm.close_space(world.space, &mut world.card).unwrap_err();
    assert_eq!(why, RootError::Bound { pdb, binds: 1 }.into());
    world.space = space;
    // While it is under way, nothing is written.
    let writes = world.gpu().counts().writes;
    let hasty = Limits { polls: 5, ..LIMITS };
    let hasty = world.mm.retry_bar(&mut world.card, &bound, hasty);
    assert!(matches!(hasty, Err(BindError::Device(DeviceError::Timeout { polls: 5, .. }))));
    assert_eq!(world.gpu().counts().writes, writes);
    // The first bind gets done while the second waits; that takes 150 looks again.
    let retried = world.mm.retry_bar(&mut world.card, &bound, LIMITS);
    assert!(matches!(retried, Err(BindError::Device(DeviceError::Timeout { .. }))));
    let patient = Limits { polls: 1000, ..LIMITS };
    world.mm.retry_bar(&mut world.card, &bound, patient).unwrap();
    assert!(world.sees(Bar::Bar1, 7));
    // An unbind that is late leaves the bind as it was.
    let (bound, _) = world.mm.unbind_bar(&mut world.card, bound, LIMITS).unwrap_err();
    assert_eq!(world.binds(), 1);
    world.mm.unbind_bar(&mut world.card, bound, patient).map_err(|(_, why)| why).unwrap();
    world.close();
}

both_layouts!(a_lost_bind_is_seen, lost);
fn lost<F: Format>(chip: &str, low: u32, _: u32) {
    let mut world = World::<F>::new(&Config::chip(chip));
    let lossy = if low == 0xb8_0f40 { vec![low] } else { vec![low, low + 4] };
    world.card.bar0().deaf = lossy.clone();
    let World { card, mm, space, block, .. } = &mut world;
    let failed = mm.bind_bar(card, Bar::Bar1, *block, space.root(), LIMITS).unwrap_err();
    let wanted = if low == 0xb8_0f40 { 1 << 31 | block.raw() >> 12 } else { block.raw() | 1 << 9 };
    assert_eq!(failed.why, BindError::Bar(BarError::Lost { bar: Bar::Bar1, wanted, found: 0 }));
    let text =
        format!("BAR1 was bound with {wanted:#x}, but its registers read back 0x0: another user, or a lost write");
    assert_eq!(failed.to_string(), text);
    let bound = failed.left.unwrap();
    card.bar0().deaf.clear();
    mm.retry_bar(card, &bound, LIMITS).unwrap();
    // Somebody else binds the BAR meanwhile: the unbind is lost, and says so.
    card.bar0().deaf = lossy;
    let (bound, why) = mm.unbind_bar(card, bound, LIMITS).unwrap_err();
    assert_eq!(why, BindError::Bar(BarError::Lost { bar: Bar::Bar1, wanted: 0, found: wanted }));
    card.bar0().deaf.clear();
    mm.unbind_bar(card, bound, LIMITS).map_err(|(_, why)| why).unwrap();
    world.close();
}

both_layouts!(a_card_that_is_gone_keeps_the_bind, gone);
fn gone<F: Format>(chip: &str, low: u32, status: u32) {
    let mut world = World::<F>::new(&Config::chip(chip));
    let World { card, mm, space, block, .. } = &mut world;
    let bound = mm.bind_bar(card, Bar::Bar1, *block, space.root(), LIMITS).unwrap();
    card.bar0().gone = true;
    let (bound, why) = mm.unbind_bar(card, bound, LIMITS).unwrap_err();
    assert_eq!(why, GONE(status).into());
    card.bar0().gone = false;
    // A register that reads an error word is not taken for a bind that is done.
    card.bar0().says = vec![(low, 0xbadf_1103)];
    let (bound, why) = mm.unbind_bar(card, bound, LIMITS).unwrap_err();
    assert_eq!(why, DeviceError::Poison { offset: low, value: 0xbadf_1103 }.into());
    card.bar0().says.clear();
    mm.unbind_bar(card, bound, LIMITS).map_err(|(_, why)| why).unwrap();
    world.close();
}

both_layouts!(every_access_fails_once_and_the_count_is_right, fails);
fn fails<F: Format>(chip: &str, _: u32, _: u32) {
    let mut n = 0;
    loop {
        n += 1;
        let mut world = World::<F>::new(&Config { vram: 1 << 30, ..Config::chip(chip) });
        world.card.bar0().fails_in = n;
        let World { card, mm, space, block, .. } = &mut world;
        let bound = mm.bind_bar(card, Bar::Bar2, *block, space.root(), LIMITS);
        let struck = std::mem::take(&mut card.bar0().fails_in) == 0;
        let bound = match bound {
            Ok(bound) => Some(bound),
            Err(failed) => {
                assert_eq!(failed.why, BindError::Device(DeviceError::Backend("made to fail")));
                if let Some(bound) = &failed.left {
                    mm.retry_bar(card, bound, LIMITS).unwrap();
                }
                failed.left
            }
        };
        assert_eq!(world.binds(), u32::from(bound.is_some()));
        assert_eq!(world.sees(Bar::Bar2, 9), bound.is_some());
        if let Some(bound) = bound {
            world.mm.unbind_bar(&mut world.card, bound, LIMITS).map_err(|(_, why)| why).unwrap();
        }
        world.close();
        if !struck {
            break;
        }
    }
    assert!(n > 510, "the block is cleared word by word: {n}");
}

#[test]
fn addresses_that_look_like_error_words() {
    // The word of Turing with a block in non-coherent memory at 0xadf1234000, and LOW of Hopper at 0xbadf0000.
    let cases =
        [("tu102", TableAddr::SysNonCoherent(SysAddr::new(0xadf_1234 << 12))), ("gh100", TableAddr::vram(0xbadf_0000))];
    for (name, block) in cases {
        let mut gpu = Gpu::new(&Config { bind_polls: 2, ..Config::chip(name) }).unwrap();
        bind(&mut gpu, chip(name), Bar::Bar1, Some(block), LIMITS).unwrap();
        let low = gpu.read32(if name == "tu102" { 0xb8_0f40 } else { 0xb8_0f60 }).unwrap();
        assert_eq!(low, if name == "tu102" { 0xbadf_1234 } else { 0xbadf_0200 });
        // And from there on to another.
        bind(&mut gpu, chip(name), Bar::Bar1, Some(TableAddr::vram(0x5000)), LIMITS).unwrap();
        bind(&mut gpu, chip(name), Bar::Bar1, None, LIMITS).unwrap();
        gpu.bar1_write(0x1234, Width::W32, 42).unwrap();
        assert_eq!(gpu.read32(0x70_1234), Ok(42), "physical mode");
    }
}

#[test]
fn register_words_are_those_of_the_manual() {
    let block = TableAddr::vram(0xab_cdef_1000);
    // PTR 27:0, TARGET 29:28, DEBUG_CYA 30 off (BAR2 alone), MODE 31.
    let mut gpu = Gpu::new(&Config::chip("ad102")).unwrap();
    for (bar, at, word) in [(Bar::Bar1, 0xb8_0f40, 0x8abc_def1), (Bar::Bar2, 0xb8_0f48, 0xcabc_def1)] {
        bind(&mut gpu, chip("ad102"), bar, Some(block), LIMITS).unwrap();
        assert_eq!(gpu.read32(at), Ok(word));
        bind(&mut gpu, chip("ad102"), bar, None, LIMITS).unwrap();
        assert_eq!(gpu.read32(at), Ok(0));
    }
    // LOW: MODE 9, TARGET 11:10, PTR 31:12; HIGH: the rest of the pointer.
    let mut gpu = Gpu::new(&Config::chip("gb100")).unwrap();
    for (bar, at) in [(Bar::Bar1, 0xb8_0f60), (Bar::Bar2, 0xb8_0f70)] {
        let coherent = TableAddr::SysCoherent(SysAddr::new(block.raw()));
        bind(&mut gpu, chip("gb100"), bar, Some(coherent), LIMITS).unwrap();
        assert_eq!((gpu.read32(at), gpu.read32(at + 4)), (Ok(0xcdef_1a00), Ok(0xab)));
        bind(&mut gpu, chip("gb100"), bar, None, LIMITS).unwrap();
        assert_eq!((gpu.read32(at), gpu.read32(at + 4)), (Ok(0), Ok(0)));
    }
}

#[test]
fn blocks_that_the_registers_cannot_name() {
    let tries = |name, bar, at| bind(&mut Gpu::new(&Config::chip(name)).unwrap(), chip(name), bar, Some(at), LIMITS);
    let beyond = |at, end| Err(BarError::Device(DeviceError::OutOfRange { at, bytes: 4096, end }));
    for bar in BARS {
        let at = TableAddr::vram(0x800);
        let unaligned = Err(BarError::Device(DeviceError::Unaligned { at, alignment: 4096 }));
        assert_eq!(tries("ad102", bar, at), unaligned);
        assert_eq!(tries("gb202", bar, at), unaligned);
        let far = TableAddr::SysCoherent(SysAddr::new(1 << 40));
        assert_eq!(tries("ad102", bar, far), beyond(far, 1 << 40));
        assert_eq!(tries("gb202", bar, far), Ok(()));
    }
    let far = TableAddr::SysCoherent(SysAddr::new(1 << 52));
    assert_eq!(tries("gh100", Bar::Bar2, far), beyond(far, 1 << 52));
}

fn words(gpu: &Gpu, block: TableAddr) -> Vec<u64> {
    let mut words = vec![0; 512];
    gpu.peek().read_words(block, &mut words).unwrap();
    words
}

#[test]
fn blocks_are_those_of_the_manual() {
    // 0x200: TARGET 1:0, VOL 2, FAULT_REPLAY_TEX 4, GCC 5, USE_VER2 10, BIG_PAGE_SIZE 11.
    let root = 0x12_3456_7000;
    let (coherent, not) = (SysAddr::new(root), SysAddr::new(root));
    let roots =
        [(TableAddr::vram(root), 0), (TableAddr::SysCoherent(coherent), 6), (TableAddr::SysNonCoherent(not), 3)];
    for name in ["tu102", "ga100", "gb202"] {
        for (pdb, target) in roots {
            for (replayable, bits) in [(false, 0), (true, 0x30)] {
                let mut card = Mmio::probe(Gpu::new(&Config::chip(name)).unwrap()).unwrap();
                let block = TableAddr::vram(0x20_0000);
                let says = Instance { replayable, ..Instance::new(pdb) };
                says.write(&mut card, chip(name), block).unwrap();
                let mut expected = vec![0; 512];
                expected[0x200 / 8] = root | 0xc00 | bits | target;
                // ADR_LIMIT, on Turing alone: Blackwell keeps something else there.
                expected[0x208 / 8] = if name == "tu102" { (1 << 49) - 1 } else { 0 };
                assert_eq!(words(card.bar0(), block), expected);
            }
        }
    }
}

#[test]
fn a_channel_keeps_what_else_is_in_its_block() {
    let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100")).unwrap()).unwrap();
    let mut mm = GpuMm::probe(&mut card, FbSource::Registers, &[]).unwrap();
    let root = mm.register(TableAddr::vram(0x10_0000), Use::Channel).unwrap();
    let block = TableAddr::vram(0x20_0000);
    let noise: Vec<u8> = (0..4096u32).map(|n| (n % 251) as u8).collect();
    card.bar0().load_vram(block.raw(), &noise);
    let before = words(card.bar0(), block);
    let subcontexts = 1 << 63 | 5;
    let bound = mm.bind_channel(&mut card, block, &root, ChannelUse { subcontexts, replayable: true }).unwrap();
    let word = 0x10_0000 | 0xc30;
    let mut expected = before.clone();
    expected[0x40] = word;
    expected[0x298 / 8] = subcontexts;
    for n in 0..64 {
        expected[0x2a0 / 8 + 2 * n] = if [0, 2, 63].contains(&n) { word } else { 1 << 32 | 1 };
        expected[0x2a0 / 8 + 2 * n + 1] = 0;
    }
    assert_eq!(words(card.bar0(), block), expected);
    assert_eq!((bound.pdb(), bound.block(), root.binds()), (root.pdb(), block, 1));
    bound.unbind(&mut card).map_err(|(_, why)| why).unwrap();
    expected[0x40] = 1;
    expected[0x298 / 8] = 0;
    (0..64).for_each(|n| expected[0x2a0 / 8 + 2 * n] = 1 << 32 | 1);
    assert_eq!(words(card.bar0(), block), expected);

    // Without subcontexts their words are nobody's business.
    card.bar0().load_vram(block.raw(), &noise);
    let bound = mm.bind_channel(&mut card, block, &root, ChannelUse::default()).unwrap();
    bound.unbind(&mut card).map_err(|(_, why)| why).unwrap();
    let mut expected = before;
    expected[0x40] = 1;
    assert_eq!(words(card.bar0(), block), expected);
    erase(&mut card, block).unwrap();
    assert_eq!(words(card.bar0(), block), vec![0; 512]);
    mm.unregister(root).map_err(|(_, why)| why).unwrap();
}

#[test]
fn a_channel_whose_block_could_not_be_written() {
    let mut n = 0;
    loop {
        n += 1;
        let mut card = Mmio::probe(Broken::new(Gpu::new(&Config::chip("tu102")).unwrap())).unwrap();
        let mut mm = GpuMm::probe(&mut card, FbSource::Registers, &[]).unwrap();
        let root = mm.register(TableAddr::vram(0x10_0000), Use::Channel).unwrap();
        card.bar0().fails_in = n;
        let what = ChannelUse { subcontexts: 1, replayable: false };
        let bound = mm.bind_channel(&mut card, TableAddr::vram(0x20_0000), &root, what);
        let struck = std::mem::take(&mut card.bar0().fails_in) == 0;
        // Whatever failed, the block may name the root: the bind counts.
        let bound = bound.or_else(|failed| failed.left.ok_or(failed.why)).unwrap();
        assert_eq!(root.binds(), 1);
        card.bar0().fails_in = 3;
        let (bound, why) = bound.unbind(&mut card).unwrap_err();
        assert_eq!((why, root.binds()), (DeviceError::Backend("made to fail"), 1));
        bound.unbind(&mut card).map_err(|(_, why)| why).unwrap();
        mm.unregister(root).map_err(|(_, why)| why).unwrap();
        if !struck {
            break;
        }
    }
    assert!(n > 60);
}

#[test]
fn roots_and_blocks_that_cannot_be() {
    let mut card = Mmio::probe(Gpu::new(&Config::chip("ga102")).unwrap()).unwrap();
    let mut mm = GpuMm::probe(&mut card, FbSource::Registers, &[]).unwrap();
    let root = mm.register(TableAddr::vram(0x10_0000), Use::Channel).unwrap();
    let tries = |mm: &mut GpuMm, card: &mut _, block| {
        let bar = mm.bind_bar(card, Bar::Bar1, block, &root, LIMITS).unwrap_err();
        let channel = mm.bind_channel(card, block, &root, ChannelUse::default()).unwrap_err();
        assert!(bar.left.is_none() && channel.left.is_none() && bar.why == channel.why);
        bar.why
    };
    let at = TableAddr::vram(0x20_0800);
    assert_eq!(tries(&mut mm, &mut card, at), DeviceError::Unaligned { at, alignment: 4096 }.into());
    let block = TableAddr::vram(0x10_0000);
    assert_eq!(tries(&mut mm, &mut card, block), BindError::BlockIsRoot { block });
    // A space for BARs is for BARs alone: its invalidates reach no engine.
    let bars = mm.register(TableAddr::vram(0x30_0000), Use::Bar).unwrap();
    let failed = mm.bind_channel(&mut card, TableAddr::vram(0x20_0000), &bars, ChannelUse::default()).unwrap_err();
    assert!(failed.left.is_none() && failed.why == BindError::BarSpace { pdb: bars.pdb() } && bars.binds() == 0);
    // A root in system memory is for channels alone.
    let sys = mm.register(TableAddr::SysCoherent(SysAddr::new(0x5000)), Use::Channel).unwrap();
    let failed = mm.bind_bar(&mut card, Bar::Bar1, TableAddr::vram(0x20_0000), &sys, LIMITS).unwrap_err();
    assert_eq!(failed.why, DeviceError::WrongAperture { at: sys.pdb() }.into());
    let bound = mm.bind_channel(&mut card, TableAddr::vram(0x20_0000), &sys, ChannelUse::default()).unwrap();
    assert_eq!((root.binds(), sys.binds(), mm.bar(Bar::Bar1)), (0, 1, None));
    bound.unbind(&mut card).map_err(|(_, why)| why).unwrap();
    // A block whose memory fails names nothing in the registers yet.
    let far = TableAddr::vram(96 << 30);
    let failed = mm.bind_bar(&mut card, Bar::Bar1, far, &root, LIMITS).unwrap_err();
    assert!(failed.left.is_none() && matches!(failed.why, BindError::Device(DeviceError::OutOfRange { .. })));
    assert_eq!((root.binds(), mm.bar(Bar::Bar1)), (0, None));
    assert!(clear(&mut card, far, false).is_err());
}

#[test]
fn tokens_of_another_gpu_are_refused() {
    let config = Config::chip("gh100");
    let (mut one, mut other) = (World::<V3>::new(&config), World::<V3>::new(&config));
    let bound = one.mm.bind_bar(&mut one.card, Bar::Bar1, one.block, one.space.root(), LIMITS).unwrap();
    let failed = other.mm.bind_bar(&mut other.card, Bar::Bar2, other.block, one.space.root(), LIMITS).unwrap_err();
    assert_eq!(failed.why, RootError::Foreign { pdb: one.space.pdb() }.into());
    let (bound, why) = other.mm.unbind_bar(&mut other.card, bound, LIMITS).unwrap_err();
    assert_eq!(why, BindError::Foreign { bar: Bar::Bar1 });
    // Nor does a space close on another GPU.
    let (space, why) = other.mm.close_space(one.space, &mut other.card).unwrap_err();
    one.space = space;
    assert_eq!(why, RootError::Foreign { pdb: one.space.pdb() }.into());
    one.mm.unbind_bar(&mut one.card, bound, LIMITS).map_err(|(_, why)| why).unwrap();
    one.close();
    other.close();
}

#[test]
fn a_bar_without_a_space_faults() {
    let mut world = World::<V3>::new(&Config::chip("gh100"));
    let unbound = world.gpu().bar1_read(0, Width::W32).unwrap_err();
    assert_eq!(unbound.fault, FaultType::UnboundInstBlock);
    world.close();
}

#[test]
fn what_a_bar_is_bound_to_is_read_back_on_every_chip() {
    for chip in CHIPS.iter().filter(|chip| !chip.is_integrated()) {
        let mut gpu = Gpu::new(&Config::chip(chip.name)).unwrap();
        let place = |n: u64| [TableAddr::vram(n), TableAddr::SysCoherent(SysAddr::new(n))];
        for bar in BARS {
            assert_eq!(bound(&mut gpu, chip, bar), Ok(None), "{}", chip.name);
            // The second one has bits in both words of the chips that have two.
            for block in place(0x20_0000).into_iter().chain(place(0x3_fff0_1000)) {
                bind(&mut gpu, chip, bar, Some(block), LIMITS).unwrap();
                assert_eq!(bound(&mut gpu, chip, bar), Ok(Some(block)), "{} {bar}", chip.name);
            }
            bind(&mut gpu, chip, bar, None, LIMITS).unwrap();
            assert_eq!(bound(&mut gpu, chip, bar), Ok(None), "{}", chip.name);
        }
        gpu.inject(Mishap::BusDead, 1, None);
        assert!(matches!(bound(&mut gpu, chip, Bar::Bar1), Err(DeviceError::Gone { .. })), "{}", chip.name);
    }
}
