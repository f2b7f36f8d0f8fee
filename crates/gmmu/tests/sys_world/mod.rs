//! A software GPU whose driver has tables in system memory.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::allow_attributes, reason = "a part of the tests")]

use crate::common::{config, in_use, worst, GIB};
use gmmu::addr::{Aperture, PageSize, PhysAddr, TableAddr};
use gmmu::device::TablePool;
use gmmu::format::Format;
use gmmu::mmio::Mmio;
use gmmu::vmm::{Extent, Job, MapRequest, PrepareError, Vmm};
use gmmu_sim::{AccessKind, Client, Config, CpuPath, Fault, Gpu, Notes, SysPool, Translated, Watched};
use std::collections::BTreeSet;
use std::ops::Range;

/// Table memory in system memory: beyond 4 GiB, so that no address is cut to 32 bits unseen.
pub const TABLES: Range<u64> = 5 * GIB..6 * GIB;

/// A GPU whose driver stores to system memory by itself, and one address space with its tables there.
pub struct World<F: Format, P> {
    pub mmio: Mmio<Gpu, CpuPath>,
    pub pool: Watched<P>,
    pub notes: Notes,
    pub vmm: Vmm<F>,
}

pub fn hardware(chip: &str) -> Mmio<Gpu, CpuPath> {
    Mmio::probe_with(Gpu::new(&Config::chip(chip)).unwrap(), CpuPath).unwrap()
}

pub fn coherent() -> SysPool {
    SysPool::coherent(TABLES)
}

impl<F: Format, P: TablePool> World<F, P> {
    pub fn new(chip: &str, pool: P) -> Self {
        Self::with(&Config::chip(chip), pool)
    }

    pub fn with(model: &Config, pool: P) -> Self {
        let mut mmio = Mmio::probe_with(worst(model), CpuPath).unwrap();
        let mut pool = Watched::new(pool);
        let notes = pool.notes();
        let root = pool.take(4096, None).unwrap();
        notes.tell(mmio.bar0());
        let vmm = Vmm::with_root(config(&model.chip, mmio.vram_bytes()), &mut mmio, root).unwrap();
        in_use(mmio.bar0(), root);
        mmio.bar0().reset_counts();
        Self { mmio, pool, notes, vmm }
    }

    pub fn gpu(&mut self) -> &mut Gpu {
        self.mmio.bar0()
    }

    pub fn prepare(&mut self, request: &MapRequest<'_>) -> Result<Job, PrepareError> {
        let plan = self.vmm.plan_map(&mut self.pool, request)?;
        self.notes.tell(self.mmio.bar0());
        let job = plan.init(&mut self.mmio);
        self.notes.tell(self.mmio.bar0());
        job
    }

    pub fn finish(&mut self, job: Job) -> Range<u64> {
        let receipt = job.execute(&mut self.mmio).unwrap();
        let mapping = self.vmm.commit(&mut self.pool, receipt).unwrap();
        self.notes.tell(self.mmio.bar0());
        mapping.range
    }

    pub fn map(&mut self, va: u64, to: PhysAddr, bytes: u64, page: Option<PageSize>) -> Range<u64> {
        let extents = [Extent { to, bytes }];
        let job = self.prepare(&MapRequest { page, ..MapRequest::extents(&extents).at(va) }).unwrap();
        self.finish(job)
    }

    pub fn unmap(&mut self, range: Range<u64>) {
        let job = self.vmm.plan_unmap(&mut self.pool, range).unwrap().init(&mut self.mmio).unwrap();
        self.finish(job);
    }

    /// What an engine gets at `va`, through the model's TLB.
    pub fn access(&mut self, va: u64) -> Result<Translated, Fault> {
        let pdb = self.vmm.pdb();
        self.gpu().access(Client::Engine { pdb }, va, AccessKind::Read, false)
    }

    pub fn assert_maps(&mut self, range: Range<u64>, to: PhysAddr, page: PageSize) {
        for va in range.clone().step_by(4096) {
            let found = self.access(va).unwrap_or_else(|fault| panic!("{fault}"));
            let wanted = to.checked_add(va - range.start).unwrap();
            assert_eq!((found.to, found.page_bytes), (wanted, page.bytes()), "{va:#x}");
        }
    }

    /// Asserts that what an engine writes at `va` arrives at `to`, and that it reads what is there.
    pub fn assert_reaches(&mut self, va: u64, to: PhysAddr) {
        let client = Client::Engine { pdb: self.vmm.pdb() };
        let gpu = self.gpu();
        let (written, mut bytes) = (u32::try_from(va >> 4 & 0xffff_ffff).unwrap() ^ 0x5555_5555, [0; 4]);
        gpu.store32(client, va, written).unwrap();
        match to.aperture {
            Aperture::Vram => gpu.peek_vram(to.raw, &mut bytes),
            Aperture::SysCoherent | Aperture::SysNonCoherent => gpu.peek_sys(to.raw, &mut bytes),
            Aperture::Peer(id) => gpu.peek_peer(id, to.raw, &mut bytes),
        }
        assert_eq!(u32::from_le_bytes(bytes), written, "{va:#x} does not reach {to}");
        assert_eq!(gpu.load32(client, va), Ok(written));
    }

    pub fn assert_faults(&mut self, range: Range<u64>) {
        for va in range.step_by(4096) {
            assert!(self.access(va).is_err(), "{va:#x} still translates");
        }
    }

    pub fn assert_clean(&mut self) {
        let findings: Vec<String> = self.gpu().findings().iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }
}

impl<F: Format> World<F, SysPool> {
    /// The tables that are out of the pool are those of the mirror; after `close` the root is left.
    pub fn assert_no_leak(&mut self) {
        let mirror: BTreeSet<(TableAddr, u64)> = self.vmm.tables().unwrap().iter().copied().collect();
        assert_eq!(self.pool.inner().out().collect::<BTreeSet<_>>(), mirror);
    }

    pub fn close(self) {
        let Self { mut mmio, mut pool, notes, vmm } = self;
        let root = vmm.pdb();
        if let Err((_, why)) = vmm.close(&mut mmio, &mut pool) {
            panic!("{why}");
        }
        notes.tell(mmio.bar0());
        assert_eq!(pool.inner().out().collect::<Vec<_>>(), [(root, 4096)], "the root is the caller's");
        pool.give(root, 4096);
        notes.tell(mmio.bar0());
        assert_eq!(mmio.bar0().findings(), []);
    }
}
