//! A software GPU with one address space on it, and a judge: the model's own MMU.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test binary uses a part of it")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    missing_docs,
    reason = "tests"
)]

use gmmu::addr::{PageSize, Pfn, PhysAddr, TableAddr};
use gmmu::chip::Chip;
use gmmu::device::{Bar0, NoTableMemory, TablePool};
use gmmu::format::Format;
use gmmu::mmio::Mmio;
use gmmu::tlb::Limits;
use gmmu::vmm::{Extent, Job, MapRequest, Plan, PrepareError, Protection, SpaceConfig, Span, Use, Vmm};
use gmmu_sim::{AccessKind, Client, Config, Fault, Gpu, Notes, Speculation, Translated, Watched};
use std::collections::BTreeSet;
use std::ops::Range;

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
/// Data in the tests lies from here on; tables lie below.
pub const DATA: u64 = 8 * GIB;

/// Table memory from a range, lowest first.
#[derive(Debug)]
pub struct Pool {
    free: BTreeSet<u64>,
    pieces: BTreeSet<u64>,
    next: u64,
    end: u64,
    /// What is out: (address, bytes).
    pub out: BTreeSet<(u64, u64)>,
    /// Fails from this many takes on.
    pub allowed: u64,
}

impl Pool {
    pub fn new(range: Range<u64>) -> Self {
        Self {
            free: BTreeSet::new(),
            pieces: BTreeSet::new(),
            next: range.start,
            end: range.end,
            out: BTreeSet::new(),
            allowed: u64::MAX,
        }
    }

    fn page(&mut self) -> Option<u64> {
        self.free.pop_first().or_else(|| {
            let at = self.next;
            (at < self.end).then(|| {
                self.next += 4096;
                at
            })
        })
    }
}

impl TablePool for Pool {
    fn take(&mut self, bytes: u64, _near: Option<TableAddr>) -> Result<TableAddr, NoTableMemory> {
        let none = NoTableMemory { bytes };
        self.allowed = self.allowed.checked_sub(1).ok_or(none)?;
        let at = if bytes == 256 {
            if self.pieces.is_empty() {
                let page = self.page().ok_or(none)?;
                self.pieces.extend((0..16).map(|n| page + n * 256));
            }
            self.pieces.pop_first().ok_or(none)?
        } else {
            assert_eq!(bytes, 4096);
            self.page().ok_or(none)?
        };
        assert!(self.out.insert((at, bytes)));
        Ok(TableAddr::vram(at))
    }

    fn give(&mut self, at: TableAddr, bytes: u64) {
        assert!(at.is_vram());
        assert!(self.out.remove(&(at.raw(), bytes)), "{at} + {bytes} is not out");
        if bytes == 256 {
            self.pieces.insert(at.raw())
        } else {
            self.free.insert(at.raw())
        };
    }
}

/// A GPU, its table memory, and one address space.
#[derive(Debug)]
pub struct World<F: Format> {
    pub mmio: Mmio<Gpu>,
    pub pool: Watched<Pool>,
    pub notes: Notes,
    pub vmm: Vmm<F>,
}

/// A card whose caches hold all that they may.
pub fn worst(model: &Config) -> Gpu {
    Gpu::new(&Config { speculation: Speculation::Worst, ..model.clone() }).unwrap()
}

/// An engine uses the space below `root` from now on: its caches fill.
pub fn in_use(gpu: &mut Gpu, root: TableAddr) {
    gpu.note_root(root);
    assert!(gpu.access(Client::Engine { pdb: root }, 0, AccessKind::Read, false).is_err(), "nothing is mapped yet");
}

pub fn config(name: &str, vram_bytes: u64) -> SpaceConfig {
    let chip = Chip::by_name(name).unwrap();
    let limits = Limits { timeout_us: 1_000_000, polls: 1000 };
    SpaceConfig { limits, ..SpaceConfig::new(chip, vram_bytes, Use::Channel) }
}

impl<F: Format> World<F> {
    pub fn new(chip: &str) -> Self {
        Self::with(&Config::chip(chip))
    }

    pub fn with(model: &Config) -> Self {
        let mut mmio = Mmio::probe(worst(model)).unwrap();
        let mut pool = Watched::new(Pool::new(MIB..4 * GIB));
        let notes = pool.notes();
        let whole_words = mmio.bar0().has_64bit();
        let config = SpaceConfig { whole_words, ..config(&model.chip, mmio.vram_bytes()) };
        let root = pool.take(4096, None).unwrap();
        notes.tell(mmio.bar0());
        let vmm = Vmm::with_root(config, &mut mmio, root).unwrap();
        in_use(mmio.bar0(), root);
        mmio.bar0().reset_counts();
        Self { mmio, pool, notes, vmm }
    }

    pub fn gpu(&mut self) -> &mut Gpu {
        self.mmio.bar0()
    }

    /// Prepares what `plan` plans, the model being told of every table first.
    pub fn prepare_with(
        &mut self,
        plan: impl for<'a> FnOnce(&'a mut Vmm<F>, &'a mut Watched<Pool>) -> Result<Plan<'a, F, Watched<Pool>>, PrepareError>,
    ) -> Result<Job, PrepareError> {
        let plan = plan(&mut self.vmm, &mut self.pool)?;
        self.notes.tell(self.mmio.bar0());
        let job = plan.init(&mut self.mmio);
        self.notes.tell(self.mmio.bar0());
        job
    }

    pub fn prepare(&mut self, request: &MapRequest<'_>) -> Result<Job, PrepareError> {
        self.prepare_with(|vmm, pool| vmm.plan_map(pool, request))
    }

    pub fn prepare_unmap(&mut self, span: impl Into<Span>) -> Result<Job, PrepareError> {
        self.prepare_with(|vmm, pool| vmm.plan_unmap(pool, span))
    }

    pub fn prepare_protect(&mut self, span: impl Into<Span>, to: Protection) -> Result<Job, PrepareError> {
        self.prepare_with(|vmm, pool| vmm.plan_protect(pool, span, to))
    }

    pub fn prepare_sparse(&mut self, span: impl Into<Span>) -> Result<Job, PrepareError> {
        self.prepare_with(|vmm, pool| vmm.plan_sparse(pool, span))
    }

    pub fn prepare_unsparse(&mut self, span: impl Into<Span>) -> Result<Job, PrepareError> {
        self.prepare_with(|vmm, pool| vmm.plan_unsparse(pool, span))
    }

    /// Executes and commits.
    pub fn finish(&mut self, job: Job) -> Range<u64> {
        let receipt = job.execute(&mut self.mmio).unwrap();
        let mapping = self.vmm.commit(&mut self.pool, receipt).unwrap();
        self.notes.tell(self.mmio.bar0());
        mapping.range
    }

    pub fn cancel(&mut self, job: Job) {
        self.vmm.cancel(&mut self.pool, job).unwrap();
        self.notes.tell(self.mmio.bar0());
    }

    /// Maps contiguous video memory at `va` for good.
    pub fn map(&mut self, va: u64, to: u64, bytes: u64, page: Option<PageSize>) -> Range<u64> {
        let extents = [Extent { to: PhysAddr::vram(to), bytes }];
        let request = MapRequest { page, ..MapRequest::extents(&extents).at(va) };
        let job = self.prepare(&request).unwrap();
        self.finish(job)
    }

    pub fn unmap(&mut self, range: Range<u64>) {
        let job = self.prepare_unmap(range).unwrap();
        self.finish(job);
    }

    /// What an engine gets at `va`, through the model's TLB.
    pub fn access(&mut self, va: u64) -> Result<Translated, Fault> {
        let pdb = self.vmm.pdb();
        self.gpu().access(Client::Engine { pdb }, va, AccessKind::Read, false)
    }

    /// Asserts that `range` leads to contiguous memory from `to` on, page by page.
    pub fn assert_maps(&mut self, range: Range<u64>, to: u64) {
        for va in range.clone().step_by(4096) {
            let found = self.access(va).unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!(found.to, PhysAddr::vram(to + (va - range.start)), "{va:#x}");
        }
    }

    /// Asserts that every page of `range` faults.
    pub fn assert_faults(&mut self, range: Range<u64>) {
        for va in range.step_by(4096) {
            assert!(self.access(va).is_err(), "{va:#x} still translates");
        }
    }

    /// Asserts that the sanitizer is silent.
    pub fn assert_clean(&mut self) {
        let findings: Vec<String> = self.gpu().findings().iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }

    /// Asserts that the tables that are out of the pool are those of the mirror, and no others.
    pub fn assert_no_leak(&mut self) {
        let mirror: BTreeSet<(u64, u64)> =
            self.vmm.tables().unwrap().iter().map(|(at, bytes)| (at.raw(), *bytes)).collect();
        assert_eq!(self.pool.inner().out, mirror);
    }
}

pub fn frames(list: &[u64]) -> Vec<Pfn> {
    list.iter().map(|address| Pfn::new(address / 4096)).collect()
}

/// Numbers that a seed alone decides (splitmix64).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }
    pub fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}
