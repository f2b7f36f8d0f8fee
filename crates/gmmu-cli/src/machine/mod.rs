//! The software GPU as the commands use it: the card, its memory, and whatever the library and the sanitizer need to
//! know of each other.

mod data;
mod image;
mod report;
mod spaces;
mod tables;
mod told;

pub use data::Data;
pub use image::write_vram;
pub use report::{Bar1MappingView, Bar1View, CountsView, FindingView, SpaceView};
pub use spaces::{Bound, Channel, InstError};
pub use tables::Tables;

use std::ops::Range;

use gmmu::addr::{PAGE_BYTES, PageSize, TableAddr, VramAddr};
use gmmu::chip::Chip;
use gmmu::fb::{Carveouts, FbLayout, GspRegion, Keep, LayoutInput};
use gmmu::format::Format;
use gmmu::mm::GpuMm;
use gmmu::mmio::Mmio;
use gmmu::vmm::{
    Bind, CommitError, Job, Live, MapRequest, Mapping, PrepareError, Protection, Receipt, SpaceConfig, Span, Vmm, Zap,
};
use gmmu::vram::{Contiguous, Place, Request, State};
use gmmu_sim::{Client, Config, ConfigError, CpuPath, Gpu, Notes, Speculation, SysPool, Watched};

use crate::exit::Failure;
use crate::notation::{Bytes, Size};
use crate::num::number;
use crate::snapshot::{self, NamedRoot, SnapshotInfo};
use crate::source::chip;
use data::SysData;
use spaces::{BoundBar1, OwnRoot};
use tables::{Pool, sys_pool};
use told::Told;

/// Video memory below this is never handed out: address 0 is no place for a table.
const FIRST_BYTES: u64 = 1 << 20;

/// The options of the commands that make a model.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArgs {
    /// The GPU to model, such as gh100, tu102, gb202
    #[arg(long, value_name = "CHIP", value_parser = chip, default_value = "gh100", help_heading = "Model")]
    pub chip: &'static Chip,

    /// Its video memory
    #[arg(long, value_name = "SIZE", value_parser = number, default_value = "96G", help_heading = "Model")]
    pub vram: u64,
}

/// Reads what translation caches do by themselves.
///
/// # Errors
/// What there is.
pub fn speculation(text: &str) -> Result<Speculation, String> {
    match (text, text.strip_prefix("random=")) {
        ("off", _) => Ok(Speculation::Off),
        ("worst", _) => Ok(Speculation::Worst),
        ("random", _) => Ok(Speculation::Random(0)),
        (_, Some(seed)) => number(seed).map(Speculation::Random).map_err(|why| why.to_string()),
        _ => Err("there are off, worst, random and random=SEED".to_owned()),
    }
}

/// A change of an address space.
#[derive(Clone, Debug)]
pub enum Asked<'a> {
    /// A new mapping.
    Map(&'a MapRequest<'a>),
    /// Nothing is mapped there any more.
    Unmap(Span),
    /// Other attributes for what is mapped there.
    Protect(Span, Protection),
    /// Reads give 0 where nothing is mapped.
    Sparse(Span),
    /// Accesses fault again where nothing is mapped.
    Unsparse(Span),
    /// All of these, one after the other, as one change.
    Bind(&'a [Bind<'a>], Live),
    /// A mapping that can be zapped gets other memory.
    Rebind(&'a Zap, &'a [MapRequest<'a>], Live),
    /// Pages become as large as that, where their memory goes on.
    Defragment(Span, PageSize),
    /// Empty tables are given back.
    Reclaim,
    /// All tables are written again.
    Restore,
}

/// The default of `--vram`; on a chip without video memory it means none.
const VRAM_DEFAULT: u64 = 96 << 30;

/// A software GPU, the allocators of its memory, and the sanitizer's ear for them.
#[derive(Debug)]
pub struct Machine {
    mmio: Mmio<Gpu, CpuPath>,
    /// Who has which part of video memory, and who uses which root.
    mm: GpuMm,
    sys: SysPool,
    sys_data: SysData,
    notes: Notes,
    /// The spaces that were made here.
    roots: Vec<OwnRoot>,
    bar1: Option<BoundBar1>,
    /// What becomes of the configuration of each space.
    tune: fn(SpaceConfig) -> SpaceConfig,
}

impl Machine {
    /// Makes a GPU. `foreign` memory is never handed out: it is the user's own. A chip without video memory gets none
    /// where `vram_bytes` is the default of `--vram`.
    ///
    /// # Errors
    /// Exit code 2 and why, where there can be no such GPU.
    pub fn new(chip: &Chip, vram_bytes: u64, foreign: &[Range<u64>]) -> Result<Self, Failure> {
        Self::with(chip, Config { vram: vram_bytes, ..Config::default() }, foreign)
    }

    /// The same, with a seed, a BAR1 and whatever else the model has, as `config` says; `chip` takes the place of its.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(chip: &Chip, config: Config, foreign: &[Range<u64>]) -> Result<Self, Failure> {
        let vram = if chip.is_integrated() && config.vram == VRAM_DEFAULT { 0 } else { config.vram };
        let config = Config { chip: chip.name.to_owned(), vram, ..config };
        let gpu = Gpu::new(&config).map_err(|why| no_such_gpu(&why))?;
        let foreign = sorted(foreign);
        let sys = sys_pool(&gpu, &foreign);
        let mut mmio = Mmio::probe_with(gpu, CpuPath).map_err(Failure::usage)?;
        let layout = if chip.is_integrated() { None } else { Some(video_memory(mmio.vram_bytes(), &foreign)?) };
        let mm = GpuMm::new(mmio.chip(), layout).map_err(no_room)?;
        let sys_data = SysData::new(mmio.bar0(), foreign);
        Ok(Self {
            mmio,
            mm,
            sys,
            sys_data,
            notes: Notes::default(),
            roots: Vec::new(),
            bar1: None,
            tune: |config| config,
        })
    }

    /// From here on, spaces are made with what `tune` makes of the usual configuration.
    #[must_use]
    pub const fn tuned(mut self, tune: fn(SpaceConfig) -> SpaceConfig) -> Self {
        self.tune = tune;
        self
    }

    /// The GPU itself.
    pub const fn gpu(&mut self) -> &mut Gpu {
        self.mmio.bar0()
    }

    /// The GPU, as the library reaches it.
    pub const fn mmio(&mut self) -> &mut Mmio<Gpu, CpuPath> {
        &mut self.mmio
    }

    /// The GPU alone, when all is done.
    #[must_use]
    pub fn into_gpu(self) -> Gpu {
        match self.mmio.release() {
            Ok(gpu) | Err((gpu, _)) => gpu,
        }
    }

    /// Bytes of video memory.
    #[must_use]
    pub const fn vram_bytes(&self) -> u64 {
        self.mmio.vram_bytes()
    }

    /// Takes contiguous video memory for data, as far from the tables as it can be.
    ///
    /// # Errors
    /// A message for exit code 2, where there is not so much.
    pub fn take_data(&mut self, bytes: u64, align: u64) -> Result<Contiguous, Failure> {
        let request = Request::new(bytes).align(align).place(Place::High).contiguous().build();
        let request = request.map_err(Failure::usage)?;
        let chip = self.mmio.chip().name;
        let Some(vram) = self.mm.vram() else {
            return Err(Failure::usage(format_args!(
                "{chip} is an integrated GPU without video memory: its pages lie in system memory"
            ))
            .hint("say where: sys-coh:ADDR or sys-ncoh:ADDR"));
        };
        vram.alloc_contiguous(&request).map_err(|why| {
            Failure::usage(format_args!("{} of contiguous video memory: {why}", Bytes(bytes)))
                .hint(self.room_hint(bytes, align))
        })
    }

    /// Takes contiguous video memory for data in pages of one size, or of all that fit: as aligned as the largest page
    /// of the chip that `bytes` can use, and less aligned, down to the page's own size, where there is no room for that.
    ///
    /// # Errors
    /// A message for exit code 2, where the chip has no such pages or there is not so much memory.
    pub fn take_data_for(&mut self, bytes: u64, page: Option<PageSize>) -> Result<Contiguous, Failure> {
        let chip = self.mmio.chip();
        has_page(chip, page)?;
        let own = page.map_or(PAGE_BYTES, PageSize::bytes);
        let larger =
            chip.page_sizes.iter().rev().map(PageSize::bytes).filter(|align| (own + 1..=bytes).contains(align));
        let taken = larger.into_iter().find_map(|align| self.take_data(bytes, align).ok());
        // The last try says what is wrong: nothing but the page itself asks for its alignment.
        taken.map_or_else(|| self.take_data(bytes, own), Ok)
    }

    /// The same, in coherent system memory where the chip has no video memory.
    ///
    /// # Errors
    /// As [`take_data_for`](Self::take_data_for).
    pub fn take_pages(&mut self, bytes: u64, page: Option<PageSize>) -> Result<Data, Failure> {
        if self.mm.vram().is_some() {
            return self.take_data_for(bytes, page).map(Data::Vram);
        }
        let chip = self.mmio.chip();
        has_page(chip, page)?;
        let own = page.map_or(PAGE_BYTES, PageSize::bytes);
        let sizes = chip.page_sizes.iter().map(PageSize::bytes);
        let align = sizes.filter(|size| (own..=bytes).contains(size)).max().unwrap_or(own);
        let taken = self.sys_data.take(bytes, align);
        taken.map(Data::Sys).ok_or_else(|| {
            Failure::usage(format_args!("{} of contiguous system memory: there is not so much left", Bytes(bytes)))
        })
    }

    /// Gives the memory of pages back.
    pub fn give_pages(&mut self, data: Data) {
        match data {
            Data::Vram(data) => self.give_data(data),
            Data::Sys(range) => self.sys_data.give(range),
        }
    }

    /// What to do where `bytes` of memory cannot be had.
    fn room_hint(&self, bytes: u64, align: u64) -> String {
        let (name, total) = (self.mmio.chip().name, self.mmio.vram_bytes());
        let most = Gpu::chips().iter().find(|chip| chip.name == name).map_or(total, gmmu_sim::ChipModel::vram_max);
        if align >= PageSize::Size256G.bytes() && bytes >= align {
            // The allocator keeps the first megabyte, and no chip has room behind the first 256G page.
            return format!(
                "only the memory from 0 on has room for such a page: --pa vram:0 with --vram {}",
                Size(most)
            );
        }
        let total = Size(total);
        if total.0 < most && bytes < most {
            format!("the GPU has {total}; give it more with --vram, up to {}, or take less", Size(most))
        } else {
            format!("the GPU has {total}, and a {name} {} at most: take less", Size(most))
        }
    }

    /// Gives data memory back.
    pub fn give_data(&mut self, data: Contiguous) {
        if let Some(vram) = self.mm.vram() {
            let given = vram.free(data.extent(), State::Dirty);
            debug_assert!(given.is_ok(), "{given:?}");
        }
    }

    /// Prepares a change.
    ///
    /// # Errors
    /// What the library says.
    pub fn prepare<F: Format>(&mut self, vmm: &mut Vmm<F>, asked: Asked<'_>) -> Result<Job, PrepareError> {
        let (mut pool, mut hardware) = self.parts(Tables::holding(vmm.pdb()));
        let plan = match asked {
            Asked::Map(request) => vmm.plan_map(&mut pool, request),
            Asked::Unmap(span) => vmm.plan_unmap(&mut pool, span),
            Asked::Protect(span, protection) => vmm.plan_protect(&mut pool, span, protection),
            Asked::Sparse(span) => vmm.plan_sparse(&mut pool, span),
            Asked::Unsparse(span) => vmm.plan_unsparse(&mut pool, span),
            Asked::Bind(operations, live) => vmm.plan_bind(&mut pool, operations, live),
            Asked::Rebind(zap, maps, live) => vmm.plan_rebind(&mut pool, zap, maps, live),
            Asked::Defragment(span, largest) => vmm.plan_defragment(&mut pool, span, largest),
            Asked::Reclaim => vmm.plan_reclaim(&mut pool),
            Asked::Restore => vmm.plan_restore(&mut pool),
        };
        let job = plan.and_then(|plan| plan.init(&mut hardware));
        self.tell();
        job
    }

    /// Prepares a mapping.
    ///
    /// # Errors
    /// What the library says.
    pub fn prepare_map<F: Format>(&mut self, vmm: &mut Vmm<F>, request: &MapRequest<'_>) -> Result<Job, PrepareError> {
        self.prepare(vmm, Asked::Map(request))
    }

    /// Prepares to unmap.
    ///
    /// # Errors
    /// What the library says.
    pub fn prepare_unmap<F: Format>(&mut self, vmm: &mut Vmm<F>, range: Range<u64>) -> Result<Job, PrepareError> {
        self.prepare(vmm, Asked::Unmap(range.into()))
    }

    /// Lets the memory for tables run out: at table number `at` from now, and for `times` tables, or for good.
    pub fn exhaust_tables(&mut self, at: u64, times: Option<u64>) {
        self.notes.exhaust(at, times);
    }

    /// Closes the books on an executed job.
    ///
    /// # Errors
    /// The receipt, and what the library says.
    pub fn commit<F: Format>(&mut self, vmm: &mut Vmm<F>, receipt: Receipt) -> Result<Mapping, (Receipt, CommitError)> {
        let mapping = vmm.commit(&mut self.parts(Tables::holding(vmm.pdb())).0, receipt);
        self.tell();
        mapping
    }

    /// Takes a job back.
    ///
    /// # Errors
    /// The job, and what the library says.
    pub fn cancel<F: Format>(&mut self, vmm: &mut Vmm<F>, job: Job) -> Result<(), (Job, CommitError)> {
        let cancelled = vmm.cancel(&mut self.parts(Tables::holding(vmm.pdb())).0, job);
        self.tell();
        cancelled
    }

    /// Writes a snapshot of the page tables below `roots`.
    ///
    /// # Errors
    /// A failure that names the file.
    pub fn snapshot<'n>(
        &mut self,
        path: &std::path::Path,
        roots: impl Iterator<Item = (&'n str, TableAddr)>,
    ) -> Result<(), Failure> {
        let roots = roots.map(|(name, at)| NamedRoot { name: name.to_owned(), at }).collect();
        let blocks = self.gpu().instances().collect();
        let info = SnapshotInfo { blocks, ..SnapshotInfo::of_chip(self.mmio.chip(), self.vram_bytes(), roots) };
        snapshot::write(path, &info, &mut self.gpu().peek())?;
        Ok(())
    }

    /// Everything that the sanitizer found.
    #[must_use]
    pub fn findings(&mut self) -> Vec<FindingView> {
        self.gpu().findings().iter().map(FindingView::from).collect()
    }

    /// The pool of one memory's tables, and the GPU beside it. All tables of a space come from the memory of its root.
    fn parts(&mut self, tables: Tables) -> (Watched<Pool<'_>>, Told<'_>) {
        let pool = match tables {
            Tables::Sys => Pool::Sys(&mut self.sys),
            Tables::Vram => self.mm.pool().map_or(Pool::None, Pool::Vram),
        };
        (Watched::sharing(pool, self.notes.clone()), Told { mmio: &mut self.mmio, notes: self.notes.clone() })
    }

    /// Tells the sanitizer what became of table memory.
    fn tell(&mut self) {
        self.notes.tell(self.mmio.bar0());
    }
}

/// What is where in `bytes` of video memory: the first of them and what is foreign belong to others.
fn video_memory(bytes: u64, foreign: &[Range<u64>]) -> Result<FbLayout, Failure> {
    let part = |range: &Range<u64>| VramAddr::new(range.start.min(bytes))..VramAddr::new(range.end.min(bytes));
    let keep = |range: &Range<u64>, what| Keep { range: part(range), what };
    let keep: Vec<Keep> = std::iter::once(keep(&(0..FIRST_BYTES), "kept from the allocators"))
        .chain(foreign.iter().filter(|range| range.start < range.end).map(|range| keep(range, "the user's own")))
        .collect();
    // The model keeps nothing for itself, and so its firmware says.
    let all = GspRegion { limit: bytes.saturating_sub(1), ..GspRegion::default() };
    let input = LayoutInput { total: bytes, reach: bytes, carveouts: &Carveouts::default(), keep: &keep };
    FbLayout::from_gsp(&input, &[all]).map_err(no_room)
}

/// That there is no memory for tables.
fn no_room(why: impl std::fmt::Display) -> Failure {
    Failure::usage(format_args!("no video memory is left for page tables: {why}"))
}

/// Makes sure that the chip has the page size, before anything is done with it.
///
/// # Errors
/// Exit code 2, with the sizes that there are.
pub fn has_page(chip: &Chip, page: Option<PageSize>) -> Result<(), Failure> {
    match page {
        Some(page) if !chip.page_sizes.has(page) => {
            Err(Failure::usage(format_args!("{} has no {page} pages, only {}", chip.name, chip.page_sizes)))
        }
        _ => Ok(()),
    }
}

/// Why there is no such GPU, with sizes as they are typed.
#[must_use]
pub fn no_such_gpu(why: &ConfigError) -> Failure {
    match why {
        ConfigError::VramNotMebibytes { bytes } => Failure::usage(format_args!(
            "{} of video memory: it must be a multiple of 1M, and more than 0",
            Bytes(*bytes)
        )),
        ConfigError::VramTooLarge { name, bytes, max } => {
            Failure::usage(format_args!("{} of video memory: {name} reaches {} at most", Bytes(*bytes), Bytes(*max)))
        }
        ConfigError::VramNotExpressible { name, bytes } => Failure::usage(format_args!(
            "{} of video memory: the size register of {name} holds only 1 to 63 times a power of two of 1M",
            Bytes(*bytes)
        )),
        ConfigError::Integrated { name, bytes } => Failure::usage(format_args!(
            "{} of video memory: {name} is an integrated GPU and has none of its own",
            Bytes(*bytes)
        )),
        _ => Failure::usage(why),
    }
}

/// The engine that translates through a space.
#[must_use]
pub const fn engine<F: Format>(vmm: &Vmm<F>) -> Client {
    Client::Engine { pdb: vmm.pdb() }
}

/// Ranges by their start.
fn sorted(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut ranges = ranges.to_vec();
    ranges.sort_by_key(|range| range.start);
    ranges
}

#[cfg(test)]
mod tests;
