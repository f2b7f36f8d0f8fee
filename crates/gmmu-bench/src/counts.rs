//! What jobs cost where every access is counted: through the PRAMIN window of a model. Exact numbers, the same on every
//! machine.

use gmmu::addr::{PageSize, PhysAddr, VramAddr, PAGE_BYTES};
use gmmu::chip::Chip;
use gmmu::format::V3;
use gmmu::mmio::Mmio;
use gmmu::vmm::{Bind, Extent, Job, Live, MapRequest, SpaceConfig, Use, Vmm};
use gmmu::vram::{TablePages, Vram};
use gmmu_sim::{Bus, Config, Counts, Gpu};

use crate::rows::Row;

const GIB: u64 = 1 << 30;
/// Data lies from here on, tables below.
const DATA: u64 = 8 * GIB;
/// Aligned to its length and to every table's, so that no table is shared.
const VA: u64 = 64 * GIB;
/// Maps of one bind job, and their size.
const BINDS: u64 = 1000;
const BIG: u64 = 64 << 10;
/// Pages of 4K in a gibibyte, and the leaf tables that hold their entries.
const PAGES: u64 = GIB / PAGE_BYTES;
const TABLES: u64 = PAGES / 512;
/// What a gibibyte needs of directories in a space of MMU v3 that has only its root: three levels of one, and two of 512
/// MiB each.
const DIRECTORIES: u64 = 3 + 2;
const DIRECTORY_WORDS: u64 = 512;
/// Writes that an invalidate takes: directory, upper half, trigger.
const INVALIDATE_WRITES: u64 = 3;
/// Reads that an invalidate takes where it is done at once: idle before, done after.
const INVALIDATE_READS: u64 = 2;

/// A model, and a space on it that has only its root.
struct World {
    mmio: Mmio<Gpu>,
    vram: Vram,
    pages: TablePages,
    vmm: Vmm<V3>,
}

impl World {
    fn new() -> Self {
        let chip = Chip::by_name("gh100").expect("a chip");
        let model = Config { bus: Bus::Bits64, invalidate_polls: 0, ..Config::chip("gh100") };
        let mut mmio = Mmio::probe(Gpu::new(&model).expect("a model")).expect("it answers");
        let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(64 << 20)]).expect("memory");
        let mut pages = TablePages::new(64).expect("memory");
        let vram_bytes = mmio.vram_bytes();
        let config = SpaceConfig::new(chip, vram_bytes, Use::Channel);
        let vmm = Vmm::create(config, &mut mmio, &mut pages.pool(&mut vram)).expect("a root");
        Self { mmio, vram, pages, vmm }
    }

    /// Maps `bytes` from `va` on and says what it cost.
    fn map(&mut self, va: u64, bytes: u64, page: PageSize) -> Cost {
        let extents = [Extent { to: PhysAddr::vram(DATA + (va & (GIB - 1))), bytes }];
        let request = MapRequest::extents(&extents).page(page).at(va);
        self.mmio.bar0().reset_counts();
        let mut pool = self.pages.pool(&mut self.vram);
        self.vmm.map_pages(&mut self.mmio, &mut pool, &request, &[]).expect("it is free");
        Cost::of(self.mmio.bar0().counts())
    }

    fn unmap(&mut self, va: u64, bytes: u64) -> Cost {
        self.mmio.bar0().reset_counts();
        let mut pool = self.pages.pool(&mut self.vram);
        self.vmm.unmap_pages(&mut self.mmio, &mut pool, va..va + bytes).expect("it is mapped");
        Cost::of(self.mmio.bar0().counts())
    }

    /// Maps a gibibyte of 4K pages, takes it away by a zap, writes all tables again, and says what the last two cost.
    fn zap_and_restore(&mut self) -> [Cost; 2] {
        let extents = [Extent { to: PhysAddr::vram(DATA), bytes: GIB }];
        let request = MapRequest::extents(&extents).page(PageSize::Size4K).at(VA);
        let mut pool = self.pages.pool(&mut self.vram);
        self.vmm.map_pages(&mut self.mmio, &mut pool, &request.clone().evictable(), &[]).expect("it is free");
        let zap = self.vmm.zap(VA).expect("it is evictable");
        self.mmio.bar0().reset_counts();
        zap.zap(&mut self.mmio).expect("the model answers");
        let zapped = Cost::of(self.mmio.bar0().counts());
        let again = [request];
        let bound = self.vmm.prepare_rebind(&mut self.mmio, &mut pool, &zap, &again, Live::MustNotFault);
        self.finish(bound.expect("it was zapped"));
        self.mmio.bar0().reset_counts();
        let mut pool = self.pages.pool(&mut self.vram);
        let restored = self.vmm.prepare_restore(&mut self.mmio, &mut pool).expect("there is memory");
        self.finish(restored);
        [zapped, Cost::of(self.mmio.bar0().counts())]
    }

    /// A thousand maps of 64K scattered within a gibibyte, as one bind job: what it cost, and in how many tables they lie.
    fn bind(&mut self) -> (Cost, u64) {
        let extents: Vec<[Extent; 1]> =
            (0..BINDS).map(|n| [Extent { to: PhysAddr::vram(DATA + n * BIG), bytes: BIG }]).collect();
        let place = |n: u64| VA + n * 7919 % (GIB / BIG) * BIG;
        let operations: Vec<Bind<'_>> = (0..)
            .zip(&extents)
            .map(|(n, extents)| Bind::Map(MapRequest::extents(extents.as_slice()).at(place(n))))
            .collect();
        self.mmio.bar0().reset_counts();
        let mut pool = self.pages.pool(&mut self.vram);
        let job = self.vmm.prepare_bind(&mut self.mmio, &mut pool, &operations, Live::MustNotFault);
        self.finish(job.expect("it is free"));
        (Cost::of(self.mmio.bar0().counts()), self.vmm.census().leaf_tables as u64)
    }

    fn finish(&mut self, job: Job) {
        let receipt = job.execute(&mut self.mmio).expect("the model answers");
        self.vmm.commit(&mut self.pages.pool(&mut self.vram), receipt).expect("its receipt");
    }

    /// Bytes of video memory that are taken for tables.
    fn table_bytes(&self) -> u64 {
        self.vram.total_bytes() - self.vram.free_bytes()
    }
}

/// What a job cost, without the registers of the window and of the invalidate.
#[derive(Clone, Copy, Debug)]
struct Cost {
    entries: u64,
    reads: u64,
    window_moves: u64,
}

impl Cost {
    fn of(counts: Counts) -> Self {
        let Counts { reads, writes, window_moves, invalidates, .. } = counts;
        Self {
            entries: writes - window_moves - INVALIDATE_WRITES * invalidates,
            reads: reads - INVALIDATE_READS * invalidates,
            window_moves,
        }
    }
}

/// `value`, which is to be `least` and at most some hundredths above it.
fn row(name: &str, unit: &'static str, value: u64, least: u64, hundredths: u64) -> Row {
    let target = Some((least + least * hundredths / 100) as f64);
    Row { name: name.to_owned(), unit, value: value as f64, least: None, target, peer: None, limit: None }
}

/// The counts beside the least that the design allows.
#[must_use]
pub fn rows() -> Vec<Row> {
    let mut world = World::new();
    let map = world.map(VA, GIB, PageSize::Size4K);
    // Every entry, the links of tables and directories, and the directories' initialisation: they are partly covered.
    let least = PAGES + TABLES + DIRECTORIES + DIRECTORIES * DIRECTORY_WORDS;
    let small_bytes = world.table_bytes();
    let unmap = world.unmap(VA, GIB);

    let mut other = World::new();
    other.map(VA, GIB, PageSize::Size64K);
    let big_bytes = other.table_bytes();

    let mut third = World::new();
    third.map(VA, PAGE_BYTES, PageSize::Size4K);
    let single = third.map(VA + 7 * PAGE_BYTES, PAGE_BYTES, PageSize::Size4K);
    let removed = third.unmap(VA + 7 * PAGE_BYTES, PAGE_BYTES);

    let [zap, restore] = World::new().zap_and_restore();
    let (bind, bind_tables) = World::new().bind();

    let directory_bytes = (1 + DIRECTORIES) * PAGE_BYTES;
    vec![
        row("PRAMIN, map 1G of 4K: entries written", "writes", map.entries, least, 1),
        // The directories lie in front of the tables, and the window goes back to them once.
        row("PRAMIN, map 1G of 4K: window moves", "moves", map.window_moves, 4, 0),
        row("PRAMIN, map one page, tables there: entries written", "writes", single.entries, 1, 0),
        row("PRAMIN, map one page, tables there: reads", "reads", single.reads, 1, 0),
        row("PRAMIN, unmap one page, table in use: entries written", "writes", removed.entries, 1, 0),
        row("PRAMIN, unmap 1G of 4K alone in its tables: entries written", "writes", unmap.entries, TABLES, 0),
        row("PRAMIN, zap 1G of 4K: entries written", "writes", zap.entries, PAGES, 0),
        row("PRAMIN, zap 1G of 4K: window moves", "moves", zap.window_moves, 3, 0),
        // The root is written anew too.
        row("PRAMIN, restore 1G of 4K: entries written", "writes", restore.entries, least + DIRECTORY_WORDS, 1),
        // New tables of 32 entries are written whole, most of them before they are linked.
        row(
            "PRAMIN, bind 1000 scattered 64K: entries written",
            "writes",
            bind.entries,
            bind_tables * (32 + 1) + DIRECTORIES * (DIRECTORY_WORDS + 1),
            0,
        ),
        row("memory for the tables of 1G of 4K", "bytes", small_bytes, PAGES * 8 + directory_bytes, 2),
        row("memory for the tables of 1G of 64K", "bytes", big_bytes, PAGES / 16 * 8 + directory_bytes, 2),
    ]
}
