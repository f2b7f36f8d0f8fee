//! The sabotage table: the library behind a BAR0 that does one thing wrong, and the rule that says so. With
//! `-- --nocapture` the table is printed.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
use common::{config, in_use, worst, Pool, DATA, GIB, MIB};
use gmmu::addr::{Aperture, PageSize, PhysAddr, TableAddr};
use gmmu::device::{Bar0, Clock, DeviceError, TablePool, Width};
use gmmu::format::{Flags, Format, V2, V3};
use gmmu::mmio::Mmio;
use gmmu::vmm::{Extent, Live, MapRequest, Plan, PrepareError, Protection, SpaceConfig, Span, Vmm};
use gmmu_sim::{AccessKind, Bus, Client, Config, Gpu, Notes, Rule, Watched};
use std::ops::Range;

const INVALIDATE: u32 = 0xb8_30b0;
const PDB: u32 = 0xb8_30a0;
const TRIGGER: u64 = 1 << 31;
const PRAMIN: Range<u32> = 0x70_0000..0x80_0000;
const WINDOWS: [u32; 2] = [0x1700, 0x10_fd40];
const LEVEL: u64 = 7 << 24;
const PTE_ONLY: u64 = 1 << 24;

/// What the BAR0 does wrong.
#[derive(Clone, Copy)]
enum Sabotage {
    /// Bits of the invalidate command are cleared and set.
    Command { clear: u64, set: u64 },
    /// The trigger is not pulled.
    NoFlush,
    /// It is pulled twice.
    TwoFlushes,
    /// Another space is named.
    OtherSpace,
    /// Nobody waits for the invalidate.
    NoWait,
    /// The stores are not read back before the invalidate.
    NoReadBack,
    /// Moves of the window are not read back.
    NoWindowReadBack,
    /// What becomes of the words that are stored through the window; `None` where they are lost.
    Words(fn(u64, u64) -> Option<u64>),
    /// The low half of a word always goes first, and whatever uses the word sees it.
    LowFirst,
    /// The high half of a word is forgotten.
    NoHighHalf,
    /// Tables are given back when the trigger is pulled, and not when that is done.
    FreedBeforeFlush,
}

/// The BAR0, and what it is about to do wrong.
struct Hand {
    gpu: Gpu,
    sabotage: Option<Sabotage>,
    window: u64,
    upper: Option<(u32, u64)>,
    /// Tables to be given back too early.
    tables: Vec<u64>,
}

impl Bar0 for Hand {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        match self.sabotage {
            Some(Sabotage::NoWait) if offset == INVALIDATE => Ok(0),
            Some(Sabotage::NoReadBack) if PRAMIN.contains(&offset) => Ok(0),
            Some(Sabotage::NoWindowReadBack) if WINDOWS.contains(&offset) => Ok(self.window),
            _ => self.gpu.read(offset, width),
        }
    }

    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        let mut value = value;
        if WINDOWS.contains(&offset) {
            self.window = value;
        }
        let is_trigger = offset == INVALIDATE && value & TRIGGER != 0;
        match self.sabotage {
            Some(Sabotage::Command { clear, set }) if is_trigger => value = value & !clear | set,
            Some(Sabotage::NoFlush) if is_trigger => return Ok(()),
            Some(Sabotage::TwoFlushes) if is_trigger => self.gpu.write(offset, width, value)?,
            Some(Sabotage::OtherSpace) if offset == PDB => value ^= 0x10,
            Some(Sabotage::FreedBeforeFlush) if is_trigger => {
                for table in self.tables.drain(..) {
                    self.gpu.note_table_freed(TableAddr::vram(table), 4096);
                }
            }
            Some(Sabotage::Words(becomes)) if PRAMIN.contains(&offset) => {
                let at = (self.window << 16) + u64::from(offset - PRAMIN.start);
                match becomes(at, value) {
                    Some(word) => value = word,
                    None => return Ok(()),
                }
            }
            Some(Sabotage::NoHighHalf) if PRAMIN.contains(&offset) && offset % 8 == 4 => return Ok(()),
            Some(Sabotage::LowFirst) if PRAMIN.contains(&offset) && width == Width::W32 => {
                if offset % 8 == 4 {
                    self.upper = Some((offset, value));
                    return Ok(());
                }
                self.gpu.write(offset, width, value)?;
                return self.upper.take().map_or(Ok(()), |(upper, value)| self.gpu.write(upper, width, value));
            }
            _ => {}
        }
        self.gpu.write(offset, width, value)
    }

    fn has_64bit(&self) -> bool {
        self.gpu.has_64bit()
    }
}

impl Clock for Hand {
    fn now_us(&mut self) -> u64 {
        self.gpu.now_us()
    }
    fn relax(&mut self) {
        self.gpu.relax();
    }
}

/// The life of a space, in the order in which it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Two 4K pages at `A`, in a new table.
    Map,
    /// A third.
    Add,
    /// The first one becomes read-only.
    Protect,
    /// It goes.
    UnmapOne,
    /// The others go, and the table.
    Drop,
    /// A 2M page at `B`.
    MapLarge,
    /// It is cut.
    Cut,
    /// A 2M page at `C` comes and goes.
    UnmapLarge,
    /// A 64K page beside a 4K page at `D`; it goes.
    UnmapBig,
    /// 4K pages in its place.
    MapSmall,
    /// Non-coherent system memory at `E`.
    MapSys,
}

const A: u64 = 1 << 32;
const B: u64 = A + (1 << 30);
const C: u64 = B + (1 << 30);
const D: u64 = C + (1 << 30);
const E: u64 = D + (1 << 30);
const SIZE_2M: u64 = 2 * MIB;

struct Rig<F: Format> {
    mmio: Mmio<Hand>,
    pool: Watched<Pool>,
    notes: Notes,
    vmm: Vmm<F>,
    sabotage: (Stage, Option<Sabotage>),
}

impl<F: Format> Rig<F> {
    fn new(model: &Config, sabotage: (Stage, Option<Sabotage>)) -> Self {
        let hand = Hand { gpu: worst(model), sabotage: None, window: 0, upper: None, tables: Vec::new() };
        let mut mmio = Mmio::probe(hand).unwrap();
        let mut pool = Watched::new(Pool::new(MIB..GIB));
        let notes = pool.notes();
        let whole_words = mmio.bar0().has_64bit();
        let config = SpaceConfig { whole_words, ..config(&model.chip, mmio.vram_bytes()) };
        let root = pool.take(4096, None).unwrap();
        notes.tell(&mut mmio.bar0().gpu);
        let vmm = Vmm::with_root(config, &mut mmio, root).unwrap();
        in_use(&mut mmio.bar0().gpu, root);
        // The window stands somewhere else, so that the first job moves it.
        let register = mmio.window().unwrap().offset();
        mmio.bar0().window = mmio.bar0().gpu.read32(register).unwrap().into();
        mmio.write_vram(GIB, Width::W32, 0).unwrap();
        Self { mmio, pool, notes, vmm, sabotage }
    }

    /// Does a job of a stage, which goes wrong where that stage is the one.
    fn job(
        &mut self,
        stage: Stage,
        plan: impl for<'a> FnOnce(&'a mut Vmm<F>, &'a mut Watched<Pool>) -> Result<Plan<'a, F, Watched<Pool>>, PrepareError>,
    ) {
        let tables = self.pool.inner().out.iter().filter(|&&(_, bytes)| bytes == 4096).map(|&(at, _)| at).max();
        let sabotage = self.sabotage.1.filter(|_| self.sabotage.0 == stage);
        let plan = plan(&mut self.vmm, &mut self.pool).unwrap();
        self.notes.tell(&mut self.mmio.bar0().gpu);
        self.mmio.bar0().sabotage = sabotage;
        self.mmio.bar0().tables = tables.into_iter().collect();
        let job = plan.init(&mut self.mmio).unwrap();
        let receipt = job.execute(&mut self.mmio).unwrap();
        self.mmio.bar0().sabotage = None;
        self.vmm.commit(&mut self.pool, receipt).unwrap();
        self.look();
        self.notes.tell(&mut self.mmio.bar0().gpu);
    }

    /// An engine looks at everything that the life is about, and writes to what it can.
    fn look(&mut self) {
        let client = Client::Engine { pdb: self.vmm.pdb() };
        let gpu = &mut self.mmio.bar0().gpu;
        for from in [A, B, C, D, E] {
            for page in 0..20 {
                let va = from + 4096 * page;
                if gpu.access(client, va, AccessKind::Write, false).is_ok() {
                    let _ = gpu.store32(client, va, 7);
                }
            }
        }
    }

    fn map(&mut self, stage: Stage, va: u64, to: PhysAddr, bytes: u64, page: PageSize) {
        let extents = [Extent { to, bytes }];
        let request = MapRequest { page: Some(page), ..MapRequest::extents(&extents).at(va) };
        self.job(stage, |vmm, pool| vmm.plan_map(pool, &request));
    }

    fn unmap(&mut self, stage: Stage, range: Range<u64>) {
        let span = Span { range, live: Live::Quiesced };
        self.job(stage, |vmm, pool| vmm.plan_unmap(pool, span));
    }

    /// All stages; the rules that were broken.
    fn live(mut self) -> Vec<Rule> {
        let data = PhysAddr::vram;
        self.map(Stage::Map, A, data(DATA), 0x2000, PageSize::Size4K);
        self.map(Stage::Add, A + 0x2000, data(DATA + 0x2000), 0x1000, PageSize::Size4K);
        let read_only = Protection::flags(Flags { read_only: true, ..Flags::NONE });
        self.job(Stage::Protect, |vmm, pool| vmm.plan_protect(pool, A..A + 0x1000, read_only));
        self.unmap(Stage::UnmapOne, A..A + 0x1000);
        self.unmap(Stage::Drop, A + 0x1000..A + 0x3000);
        self.map(Stage::MapLarge, B, data(DATA), SIZE_2M, PageSize::Size2M);
        self.unmap(Stage::Cut, B + 0x1000..B + 0x2000);
        self.map(Stage::MapLarge, C, data(DATA + SIZE_2M), SIZE_2M, PageSize::Size2M);
        self.unmap(Stage::UnmapLarge, C..C + SIZE_2M);
        self.map(Stage::UnmapBig, D + 0x10_0000, data(DATA), 0x1000, PageSize::Size4K);
        self.map(Stage::UnmapBig, D, data(DATA), 0x1_0000, PageSize::Size64K);
        self.unmap(Stage::UnmapBig, D..D + 0x1_0000);
        self.map(Stage::MapSmall, D, data(DATA), 0x4000, PageSize::Size4K);
        self.map(Stage::MapSys, E, PhysAddr::new(Aperture::SysNonCoherent, DATA), 0x1000, PageSize::Size4K);
        let mut rules: Vec<Rule> = Vec::new();
        for finding in self.mmio.bar0().gpu.take_findings() {
            if !rules.contains(&finding.rule) {
                rules.push(finding.rule);
            }
        }
        rules
    }
}

/// What a word of version 3 is.
const fn is_leaf(word: u64) -> bool {
    word & 1 == 1
}
const fn is_table(word: u64) -> bool {
    word & 7 == 2
}

/// What is done wrong, in which stage, and the rule that has to say so.
type Row = (&'static str, Stage, Sabotage, Rule);

const fn command(clear: u64, set: u64) -> Sabotage {
    Sabotage::Command { clear, set }
}

const TABLE: &[Row] = &[
    ("no flush after adding a page", Stage::Add, Sabotage::NoFlush, Rule::StaleInvalid),
    ("no flush after taking rights away", Stage::Protect, Sabotage::NoFlush, Rule::StaleLeaf),
    ("no flush after clearing an entry", Stage::UnmapOne, Sabotage::NoFlush, Rule::StaleLeaf),
    ("no flush after dropping a table", Stage::Drop, Sabotage::NoFlush, Rule::StaleDirectory),
    ("no flush before a table is freed", Stage::Drop, Sabotage::NoFlush, Rule::TableFreedReachable),
    ("no flush after a 2M page", Stage::UnmapLarge, Sabotage::NoFlush, Rule::StaleLeaf),
    ("no flush within a cut", Stage::Cut, Sabotage::NoFlush, Rule::ValidToValid),
    ("no flush between 64K and 4K", Stage::UnmapBig, Sabotage::NoFlush, Rule::ValidToValid),
    ("too shallow for a table", Stage::Drop, command(LEVEL, PTE_ONLY), Rule::InvalidateTooShallow),
    ("too shallow for new directories", Stage::Map, command(LEVEL, PTE_ONLY), Rule::InvalidateTooShallow),
    ("too shallow for a 2M page", Stage::UnmapLarge, command(LEVEL, PTE_ONLY), Rule::InvalidateTooShallow),
    ("too shallow within a cut", Stage::Cut, command(LEVEL, PTE_ONLY), Rule::ValidToValid),
    ("hub alone after an unmap", Stage::UnmapOne, command(0, 1 << 2), Rule::InvalidateHubOnly),
    ("hub alone after a map", Stage::Add, command(0, 1 << 2), Rule::InvalidateHubOnly),
    ("no acknowledgement", Stage::UnmapOne, command(3 << 7, 0), Rule::InvalidateUnacknowledged),
    ("no membar", Stage::UnmapOne, command(1 << 6, 0), Rule::InvalidateUnacknowledged),
    ("neither, of lost rights", Stage::Protect, command(7 << 6, 0), Rule::InvalidateUnacknowledged),
    ("freed without acknowledgement", Stage::Drop, command(3 << 7, 0), Rule::TableFreedReachable),
    ("wrong space, unmap", Stage::UnmapOne, Sabotage::OtherSpace, Rule::InvalidateWrongPdb),
    ("wrong space, map", Stage::Add, Sabotage::OtherSpace, Rule::InvalidateWrongPdb),
    ("two flushes at once", Stage::UnmapOne, Sabotage::TwoFlushes, Rule::InvalidateWhileRunning),
    ("no wait for the flush", Stage::UnmapOne, Sabotage::NoWait, Rule::StaleLeaf),
    ("freed while the flush runs", Stage::Drop, Sabotage::NoWait, Rule::TableFreedReachable),
    ("freed before the flush", Stage::Drop, Sabotage::FreedBeforeFlush, Rule::TableFreedReachable),
    ("no second ordering point, unmap", Stage::UnmapOne, Sabotage::NoReadBack, Rule::UndrainedStores),
    ("no second ordering point, map", Stage::Add, Sabotage::NoReadBack, Rule::UndrainedStores),
    ("window not read back", Stage::Map, Sabotage::NoWindowReadBack, Rule::WindowMoving),
    (
        "new tables not cleared",
        Stage::Map,
        Sabotage::Words(|_, word| (word != 0).then_some(word)),
        Rule::PublishedUninitialised,
    ),
    (
        "half of each table not written",
        Stage::Map,
        Sabotage::Words(|at, word| (at & 0x800 == 0).then_some(word)),
        Rule::PublishedUninitialised,
    ),
    ("unlinked in the books alone", Stage::Drop, Sabotage::Words(|_, _| None), Rule::TableFreedReachable),
    (
        "cut without clearing first",
        Stage::Cut,
        Sabotage::Words(|at, word| (word != 0 || at & 0xfff != 0).then_some(word)),
        Rule::ValidToValid,
    ),
    (
        "undefined bit in a leaf",
        Stage::Map,
        Sabotage::Words(|_, word| Some(if is_leaf(word) { word | 1 << 52 } else { word })),
        Rule::ReservedBits,
    ),
    (
        "undefined bit in a directory",
        Stage::Map,
        Sabotage::Words(|_, word| Some(if is_table(word) { word | 1 << 6 } else { word })),
        Rule::ReservedBits,
    ),
    (
        "page beyond the memory",
        Stage::Map,
        Sabotage::Words(|_, word| Some(if is_leaf(word) { word | 1 << 44 } else { word })),
        Rule::BeyondMemory,
    ),
    (
        "table beyond the memory",
        Stage::Map,
        Sabotage::Words(|_, word| Some(if is_table(word) { word | 1 << 44 } else { word })),
        Rule::BeyondMemory,
    ),
    (
        "2M page at 4K",
        Stage::MapLarge,
        Sabotage::Words(|_, word| Some(if is_leaf(word) { word + 0x1000 } else { word })),
        Rule::MisalignedPage,
    ),
    (
        "compressible 4K page",
        Stage::Map,
        Sabotage::Words(|_, word| Some(if is_leaf(word) { word & !0xf00 | 0x800 } else { word })),
        Rule::CompressibleSmall,
    ),
    (
        "table mapped as a page",
        Stage::Map,
        Sabotage::Words(|_, word| Some(if is_leaf(word) { word & 0xfff | MIB } else { word })),
        Rule::TableWrittenAsData,
    ),
    (
        "non-coherent page cached",
        Stage::MapSys,
        Sabotage::Words(|_, word| Some(if is_leaf(word) { word & !8 } else { word })),
        Rule::CachedNonCoherentPage,
    ),
    (
        "table said to be in system memory",
        Stage::Map,
        Sabotage::Words(|_, word| Some(if is_table(word) { word & !0xe | 4 } else { word })),
        Rule::CachedSysTable,
    ),
];

/// On a bus of 32 bits.
const NARROW: &[Row] = &[
    ("low half first", Stage::Add, Sabotage::LowFirst, Rule::TornEntry),
    ("high half forgotten", Stage::Map, Sabotage::NoHighHalf, Rule::PublishedUninitialised),
];

fn model(bus: Bus, chip: &str) -> Config {
    Config { bus, invalidate_polls: 3, ..Config::chip(chip) }
}

#[test]
fn without_sabotage_there_is_nothing_to_say() {
    assert_eq!(Rig::<V3>::new(&model(Bus::Bits64, "gh100"), (Stage::Map, None)).live(), []);
    assert_eq!(Rig::<V2>::new(&model(Bus::Bits32, "ga100"), (Stage::Map, None)).live(), []);
}

#[test]
fn every_sabotage_is_reported_by_its_rule() {
    let wide = TABLE.iter().map(|&(what, stage, sabotage, rule)| {
        let rig = Rig::<V3>::new(&model(Bus::Bits64, "gh100"), (stage, Some(sabotage)));
        (what, stage, rule, rig.live())
    });
    let narrow = NARROW.iter().map(|&(what, stage, sabotage, rule)| {
        let rig = Rig::<V2>::new(&model(Bus::Bits32, "ga100"), (stage, Some(sabotage)));
        (what, stage, rule, rig.live())
    });
    let mut missed = Vec::new();
    let mut count = 0;
    for (what, stage, rule, found) in wide.chain(narrow) {
        let others: Vec<_> = found.iter().filter(|&&other| other != rule).map(|rule| rule.id()).collect();
        let verdict = if found.contains(&rule) { "found" } else { "MISSED" };
        println!("{what:36} {:12} {:26} {verdict:8} {}", format!("{stage:?}"), rule.id(), others.join(" "));
        if !found.contains(&rule) {
            missed.push(what);
        }
        count += 1;
    }
    assert!(count >= 30 && missed.is_empty(), "{missed:?} of {count}");
}
