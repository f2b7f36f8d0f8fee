//! A card one of whose accesses goes wrong, and a space on it that is ready for a job of one kind.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, missing_docs, missing_debug_implementations, reason = "tests")]

use crate::common::{config, in_use, worst, Pool, GIB, MIB};
use crate::kinds::{self, Armed, Kind, Page, Step};
use gmmu::addr::{PageSize, PhysAddr, TableAddr};
use gmmu::chip::Chip;
use gmmu::device::{Bar0, Clock, DeviceError, NoTableMemory, Run, TablePool, Width};
use gmmu::format::Format;
use gmmu::mmio::Mmio;
use gmmu::vmm::{Backed, Job, MapRequest, PrepareError, Receipt, SpaceConfig, Vmm};
use gmmu::walk::{Cursor, Event, View};
use gmmu_sim::{AccessKind, Client, Config, Gpu, Notes, Watched};
use std::collections::BTreeSet;

/// What can go wrong with one access of BAR0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is not made, and an error is told.
    Refused,
    /// It is made, or half of a run is, and an error is told.
    Torn,
    /// A read answers with one of the bus's error words.
    Poison,
    /// The card leaves the bus: writes go nowhere, reads are all-ones, from then on.
    Gone,
    /// The invalidate that runs, or is asked about, does not end for longer than anybody waits.
    Late,
    /// A write of the window register is lost.
    Unmoved,
}

pub const WRONGS: [Wrong; 6] = [Wrong::Refused, Wrong::Torn, Wrong::Poison, Wrong::Gone, Wrong::Late, Wrong::Unmoved];
pub const ON_PURPOSE: DeviceError = DeviceError::Backend("on purpose");
/// `NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE`, and its trigger.
pub const INVALIDATE: u32 = 0x00b8_30b0;
pub const TRIGGER: u64 = 1 << 31;

/// A card one of whose accesses goes wrong.
pub struct Faulty {
    pub gpu: Gpu,
    pub wrong: Wrong,
    /// Which one, from 1 on; 0 for none.
    pub at: u64,
    pub made: u64,
    pub hit: bool,
    /// Polls that an invalidate still takes, and how many more than usual a late one takes.
    pub late: u32,
    pub delay: u32,
    pub window: u32,
}

impl Faulty {
    pub fn arm(&mut self, wrong: Wrong, at: u64) {
        (self.wrong, self.at, self.made, self.hit, self.late) = (wrong, at, 0, false, 0);
    }

    pub fn is_gone(&self) -> bool {
        self.wrong == Wrong::Gone && self.hit
    }

    /// Counts an access; says whether it goes wrong.
    pub fn counts(&mut self) -> bool {
        self.made += 1;
        self.made == self.at
    }

    pub fn writes(
        &mut self,
        offset: u32,
        half: impl FnOnce(&mut Gpu) -> Result<(), DeviceError>,
    ) -> Option<Result<(), DeviceError>> {
        let now = self.counts();
        if self.is_gone() {
            return Some(Ok(()));
        }
        if !now {
            return None;
        }
        self.hit = matches!(self.wrong, Wrong::Refused | Wrong::Torn | Wrong::Gone)
            || self.wrong == Wrong::Unmoved && offset == self.window;
        match self.wrong {
            _ if !self.hit => None,
            Wrong::Refused => Some(Err(ON_PURPOSE)),
            Wrong::Torn => Some(half(&mut self.gpu).and(Err(ON_PURPOSE))),
            _ => Some(Ok(())),
        }
    }
}

impl Bar0 for Faulty {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        let mask = u64::MAX >> (64 - 8 * width.bytes());
        let now = self.counts();
        if self.is_gone() {
            return Ok(mask);
        }
        if self.late > 0 && offset == INVALIDATE {
            self.late -= 1;
            return Ok(TRIGGER);
        }
        if !now {
            return self.gpu.read(offset, width);
        }
        self.hit = self.wrong != Wrong::Unmoved && (self.wrong != Wrong::Late || offset == INVALIDATE);
        match self.wrong {
            Wrong::Refused => Err(ON_PURPOSE),
            Wrong::Torn => self.gpu.read(offset, width).and(Err(ON_PURPOSE)),
            // The answer is wrong, but it came back behind all stores.
            Wrong::Poison => self.gpu.read(offset, width).map(|_| 0xbadf_1301_badf_1301 & mask),
            Wrong::Gone => Ok(mask),
            Wrong::Late if self.hit => {
                self.late = self.delay;
                Ok(TRIGGER)
            }
            Wrong::Late | Wrong::Unmoved => self.gpu.read(offset, width),
        }
    }

    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        let wrong = self.writes(offset, |gpu| gpu.write(offset, width, value));
        wrong.unwrap_or_else(|| self.gpu.write(offset, width, value))
    }

    fn has_64bit(&self) -> bool {
        self.gpu.has_64bit()
    }

    fn write_run(&mut self, offset: u32, run: Run) -> Result<(), DeviceError> {
        let wrong = self.writes(offset, |gpu| gpu.write_run(offset, run.take(run.count.div_ceil(2))));
        wrong.unwrap_or_else(|| self.gpu.write_run(offset, run))
    }

    fn write_words(&mut self, offset: u32, words: &[u64]) -> Result<(), DeviceError> {
        let wrong = self.writes(offset, |gpu| gpu.write_words(offset, &words[..words.len().div_ceil(2)]));
        wrong.unwrap_or_else(|| self.gpu.write_words(offset, words))
    }
}

impl Clock for Faulty {
    fn now_us(&mut self) -> u64 {
        self.gpu.now_us()
    }
    fn relax(&mut self) {
        self.gpu.relax();
    }
}

/// Table memory whose pages lie together, or each in a megabyte of its own, so that the window has to move for each.
pub struct Pages {
    pub pool: Pool,
    pub apart: u64,
    pub out: BTreeSet<(u64, u64)>,
}

impl TablePool for Pages {
    fn take(&mut self, bytes: u64, _near: Option<TableAddr>) -> Result<TableAddr, NoTableMemory> {
        let at = self.pool.take(bytes, None)?.raw();
        let at = (at >> 12) * self.apart + (at & 0xfff);
        self.out.insert((at, bytes));
        Ok(TableAddr::vram(at))
    }

    fn give(&mut self, at: TableAddr, bytes: u64) {
        assert!(self.out.remove(&(at.raw(), bytes)), "{at} + {bytes} is not out");
        let page = (at.raw() / self.apart) << 12;
        self.pool.give(TableAddr::vram(page + (at.raw() & 0xfff)), bytes);
    }
}

/// What a test runs on.
pub struct Setup {
    pub model: Config,
    /// Distance of table pages.
    pub apart: u64,
}

impl Setup {
    pub fn new(chip: &str) -> Self {
        Self { model: Config::chip(chip), apart: 4096 }
    }

    pub fn apart(self) -> Self {
        Self { apart: MIB + (64 << 10), ..self }
    }

    pub fn chip(&self) -> &'static Chip {
        Chip::by_name(&self.model.chip).unwrap()
    }
}

/// A faulty card with a space on it that is ready for a job of one kind.
pub struct Rig<F: Format> {
    pub mmio: Mmio<Faulty>,
    pub pool: Watched<Pages>,
    pub notes: Notes,
    pub vmm: Vmm<F>,
    pub kind: &'static Kind,
    pub probes: Vec<u64>,
}

impl<F: Format> Rig<F> {
    pub fn new(setup: &Setup, kind: &'static Kind) -> Self {
        let Setup { model, apart } = setup;
        let gpu = worst(model);
        let bar0 = Faulty { gpu, wrong: Wrong::Refused, at: 0, made: 0, hit: false, late: 0, delay: 1500, window: 0 };
        let mut mmio = Mmio::probe(bar0).unwrap();
        mmio.bar0().window = mmio.window().unwrap().offset();
        let pages = Pages { pool: Pool::new(MIB..4 * GIB), apart: *apart, out: BTreeSet::new() };
        let mut pool = Watched::new(pages);
        let notes = pool.notes();
        let root = pool.take(4096, None).unwrap();
        let whole_words = mmio.bar0().has_64bit();
        let config = SpaceConfig { whole_words, ..config(&model.chip, mmio.vram_bytes()) };
        notes.tell(&mut mmio.bar0().gpu);
        let vmm = Vmm::with_root(config, &mut mmio, root).unwrap();
        in_use(&mut mmio.bar0().gpu, root);
        let mut rig = Self { mmio, pool, notes, vmm, kind, probes: kind.probes() };
        for step in kind.before {
            let job = rig.prepare(step).unwrap();
            let frames = kinds::frames(&job);
            let receipt = Armed::new(job, &frames).execute(&mut rig.mmio).unwrap();
            rig.commit(receipt);
        }
        rig
    }

    pub fn tell(&mut self) {
        self.notes.tell(&mut self.mmio.bar0().gpu);
    }

    pub fn prepare(&mut self, step: &Step) -> Result<Job, PrepareError> {
        let plan = step.plan(&mut self.vmm, &mut self.pool)?;
        self.notes.tell(&mut self.mmio.bar0().gpu);
        let job = plan.init(&mut self.mmio);
        self.tell();
        job
    }

    pub fn commit(&mut self, receipt: Receipt) {
        self.vmm.commit(&mut self.pool, receipt).unwrap();
        self.tell();
    }

    /// Everything that the space knows, to be equal before and after: pieces, numbers, tables, and where something
    /// could still be mapped.
    pub fn state(&mut self) -> String {
        let pieces: Vec<_> = self.vmm.pieces().map(|(range, piece)| (range, *piece)).collect();
        let census = self.vmm.census();
        let numbers = (census.directories, census.leaf_tables, census.jobs, census.quarantined);
        let out = self.pool.inner().out.clone();
        let free = |rig: &mut Self, va: u64| {
            let request = MapRequest::frames(1, PageSize::Size4K).within(va..va + 4096);
            let plan = rig.vmm.plan_map(&mut rig.pool, &request).map(drop);
            !matches!(plan, Err(PrepareError::NoVa(_)))
        };
        let probes = self.probes.clone();
        let free: Vec<bool> = probes.into_iter().map(|va| free(self, va)).collect();
        self.tell();
        assert_eq!(self.pool.inner().out, out, "looking changed the tables");
        format!("{pieces:?} {numbers:?} {out:?} {free:?}")
    }

    /// What memory says of `va`, caches aside.
    pub fn peek(&mut self, va: u64) -> Page {
        let pdb = self.vmm.pdb();
        match self.mmio.bar0().gpu.peek_translate(pdb, va) {
            Err(_) => Page::Faults,
            Ok(found) if found.sparse => Page::Zero,
            Ok(found) => Page::Leads { to: found.to.raw, read_only: found.flags.read_only },
        }
    }

    /// What an engine meets, through all caches.
    pub fn access(&mut self, va: u64) -> Page {
        let client = Client::Engine { pdb: self.vmm.pdb() };
        match self.mmio.bar0().gpu.access(client, va, AccessKind::Read, false) {
            Err(_) => Page::Faults,
            Ok(found) if found.sparse => Page::Zero,
            Ok(found) => Page::Leads { to: found.to.raw, read_only: found.flags.read_only },
        }
    }

    pub fn assert_pages(&mut self, after: bool, when: &str) {
        for va in self.probes.clone() {
            let (before, behind) = self.kind.page(va);
            let expected = if after { behind } else { before };
            assert_eq!(self.access(va), expected, "{va:#x} of {:?} {when}", self.kind.name);
        }
        self.assert_clean(when);
    }

    /// In the middle of a job, a page is what it was, or what it becomes, or, where tables change, nothing.
    pub fn assert_halfway(&mut self, rounds: usize, when: &str) {
        for va in self.probes.clone() {
            let (before, behind) = self.kind.page(va);
            let found = self.peek(va);
            let fine = found == before || found == behind || rounds > 1 && found == Page::Faults;
            assert!(fine, "{va:#x} of {:?} {when}: {found:?} between {before:?} and {behind:?}", self.kind.name);
        }
    }

    pub fn assert_clean(&mut self, when: &str) {
        let findings: Vec<String> = self.mmio.bar0().gpu.findings().iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{:?} {when}: {}", self.kind.name, findings.join("\n"));
    }

    /// Pool, mirror and what is linked in memory are the same tables; the records say what each page is.
    pub fn assert_recount(&mut self, when: &str) {
        let mirror: BTreeSet<(u64, u64)> =
            self.vmm.tables().unwrap().iter().map(|(at, bytes)| (at.raw(), *bytes)).collect();
        assert_eq!(self.pool.inner().out, mirror, "{:?} {when}", self.kind.name);
        let (root, sizes) = (self.vmm.pdb(), self.vmm.page_sizes());
        let mut cursor = Cursor::<F>::new(root, sizes, 0..1 << F::VA_BITS, View::Structure, 1 << 20).unwrap();
        let mut linked = BTreeSet::new();
        let gpu = &self.mmio.bar0().gpu;
        while let Some(event) = cursor.next(&mut gpu.peek()).unwrap() {
            if let Event::Enter(table) = event {
                linked.insert(table.at.raw());
            }
        }
        let mirror: BTreeSet<u64> = mirror.into_iter().map(|(at, _)| at).collect();
        assert_eq!(linked, mirror, "{:?} {when}: linked, and in the mirror", self.kind.name);
        for va in &self.probes {
            let booked = self.vmm.pieces().find(|(range, _)| range.contains(va)).map(|(range, piece)| {
                let to = match piece.to {
                    Backed::Memory(PhysAddr { raw, .. }) => Some(raw + va - range.start),
                    Backed::Frames { .. } => None,
                };
                (to, piece.flags.read_only)
            });
            match (self.kind.page(*va).1, booked) {
                (Page::Leads { to, read_only }, Some((found, flag))) => {
                    assert_eq!((found.unwrap_or(to), flag), (to, read_only), "{va:#x} {when}");
                }
                (page, booked) => {
                    assert_eq!((page == Page::Faults || page == Page::Zero, booked), (true, None), "{va:#x}")
                }
            }
        }
    }
}
