//! The software GPU as the commands use it: the card, its memory, and whatever the library and the sanitizer need to
//! know of each other.

mod data;
mod image;
mod report;
mod tables;

pub use data::Data;
pub use image::write_vram;
pub use report::{CountsView, FindingView, SpaceView};
pub use tables::Tables;

use std::ops::Range;

use gmmu::addr::{PAGE_BYTES, PageSize, TableAddr, VramAddr};
use gmmu::chip::Chip;
use gmmu::device::{Bar0, DeviceError, TablePool};
use gmmu::format::Format;
use gmmu::mmio::Mmio;
use gmmu::vmm::{
    CommitError, Job, MapRequest, Mapping, PrepareError, Protection, Receipt, SpaceConfig, Span, Use, Vmm,
};
use gmmu::vram::{Contiguous, Place, Request, State, TablePages, Vram};
use gmmu_sim::{Client, Config, ConfigError, CpuPath, Gpu, Notes, SysPool, Watched};

use crate::exit::Failure;
use crate::notation::{Bytes, Size};
use crate::num::number;
use crate::snapshot::{self, NamedRoot, SnapshotInfo};
use crate::source::chip;
use data::SysData;
use tables::{Pool, sys_pool};

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
}

/// The default of `--vram`; on a chip without video memory it means none.
const VRAM_DEFAULT: u64 = 96 << 30;

/// A software GPU, the allocators of its memory, and the sanitizer's ear for them.
#[derive(Debug)]
pub struct Machine {
    mmio: Mmio<Gpu, CpuPath>,
    /// None on a chip without video memory.
    vram: Option<(Vram, TablePages)>,
    sys: SysPool,
    sys_data: SysData,
    notes: Notes,
}

impl Machine {
    /// Makes a GPU. `foreign` memory is never handed out: it is the user's own. A chip without video memory gets none
    /// where `vram_bytes` is the default of `--vram`.
    ///
    /// # Errors
    /// Exit code 2 and why, where there can be no such GPU.
    pub fn new(chip: &Chip, vram_bytes: u64, foreign: &[Range<u64>]) -> Result<Self, Failure> {
        Self::seeded(chip, vram_bytes, foreign, 0)
    }

    /// The same, with the seed of everything that is arbitrary in the model.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn seeded(chip: &Chip, vram_bytes: u64, foreign: &[Range<u64>], seed: u64) -> Result<Self, Failure> {
        let vram_bytes = if chip.is_integrated() && vram_bytes == VRAM_DEFAULT { 0 } else { vram_bytes };
        let config = Config { vram: vram_bytes, seed, ..Config::chip(chip.name) };
        let gpu = Gpu::new(&config).map_err(|why| no_such_gpu(&why))?;
        let foreign = sorted(foreign);
        let sys = sys_pool(&gpu, &foreign);
        let mut mmio = Mmio::probe_with(gpu, CpuPath).map_err(Failure::usage)?;
        let vram = if chip.is_integrated() { None } else { Some(video_memory(mmio.vram_bytes(), &foreign)?) };
        let sys_data = SysData::new(mmio.bar0(), foreign);
        Ok(Self { mmio, vram, sys, sys_data, notes: Notes::default() })
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
        let Some((vram, _)) = &mut self.vram else {
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
        if self.vram.is_some() {
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
        if let Some((vram, _)) = &mut self.vram {
            let given = vram.free(data.extent(), State::Dirty);
            debug_assert!(given.is_ok(), "{given:?}");
        }
    }

    /// Makes an address space, its root where the user wants it or anywhere, its tables where the chip has them.
    ///
    /// # Errors
    /// What the library says.
    pub fn create_space<F: Format>(&mut self, root: Option<u64>, used_by: Use) -> Result<Vmm<F>, PrepareError> {
        self.create_space_in(Tables::of(self.mmio.chip()), root, used_by)
    }

    /// The same, with the root and all later tables in the memory that the caller chooses.
    ///
    /// # Errors
    /// What the library says.
    pub fn create_space_in<F: Format>(
        &mut self,
        tables: Tables,
        root: Option<u64>,
        used_by: Use,
    ) -> Result<Vmm<F>, PrepareError> {
        if (used_by, tables) == (Use::Bar, Tables::Sys) {
            // As the library refuses every other table of such a space.
            return Err(DeviceError::WrongAperture { at: tables.at(root.unwrap_or(0)) }.into());
        }
        let whole_words = self.mmio.bar0().has_64bit();
        let config = SpaceConfig { whole_words, ..SpaceConfig::new(self.mmio.chip(), self.mmio.vram_bytes(), used_by) };
        let made = match root {
            Some(root) => {
                let root = tables.at(root);
                self.gpu().note_table_taken(root, 4096);
                Vmm::with_root(config, &mut self.mmio, root)
            }
            None => {
                let root = self.parts(tables).0.take(4096, None)?;
                self.tell();
                Vmm::with_root(config, &mut self.mmio, root)
            }
        };
        if let Ok(vmm) = &made {
            self.gpu().note_root(vmm.pdb());
        }
        made
    }

    /// Prepares a change.
    ///
    /// # Errors
    /// What the library says.
    pub fn prepare<F: Format>(&mut self, vmm: &mut Vmm<F>, asked: Asked<'_>) -> Result<Job, PrepareError> {
        let notes = self.notes.clone();
        let (mut pool, mmio) = self.parts(Tables::holding(vmm.pdb()));
        let plan = match asked {
            Asked::Map(request) => vmm.plan_map(&mut pool, request),
            Asked::Unmap(span) => vmm.plan_unmap(&mut pool, span),
            Asked::Protect(span, protection) => vmm.plan_protect(&mut pool, span, protection),
            Asked::Sparse(span) => vmm.plan_sparse(&mut pool, span),
            Asked::Unsparse(span) => vmm.plan_unsparse(&mut pool, span),
        };
        // The sanitizer hears of new tables before anything is written to them.
        notes.tell(mmio.bar0());
        let job = plan?.init(mmio);
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
        let info = SnapshotInfo::of_chip(self.mmio.chip(), self.vram_bytes(), roots);
        snapshot::write(path, &info, &mut self.gpu().peek())?;
        Ok(())
    }

    /// Everything that the sanitizer found.
    #[must_use]
    pub fn findings(&mut self) -> Vec<FindingView> {
        self.gpu().findings().iter().map(FindingView::from).collect()
    }

    /// The pool of one memory's tables, and the GPU beside it. All tables of a space come from the memory of its root.
    fn parts(&mut self, tables: Tables) -> (Watched<Pool<'_>>, &mut Mmio<Gpu, CpuPath>) {
        let pool = match (tables, &mut self.vram) {
            (Tables::Sys, _) => Pool::Sys(&mut self.sys),
            (Tables::Vram, Some((vram, pages))) => Pool::Vram(pages.pool(vram)),
            (Tables::Vram, None) => Pool::None,
        };
        (Watched::sharing(pool, self.notes.clone()), &mut self.mmio)
    }

    /// Tells the sanitizer what became of table memory.
    fn tell(&mut self) {
        self.notes.tell(self.mmio.bar0());
    }
}

/// The allocator of `bytes` of video memory without what is foreign, sorted by its start.
fn video_memory(bytes: u64, foreign: &[Range<u64>]) -> Result<(Vram, TablePages), Failure> {
    let end = VramAddr::new(bytes);
    let mut regions = Vec::new();
    let mut start = FIRST_BYTES;
    for range in foreign {
        if range.start > start {
            regions.push(VramAddr::new(start)..VramAddr::new(range.start.min(end.raw())));
        }
        start = start.max(range.end);
    }
    regions.push(VramAddr::new(start.min(end.raw()))..end);
    regions.retain(|region| region.start < region.end);
    let vram = Vram::new(&regions)
        .map_err(|why| Failure::usage(format_args!("no video memory is left for page tables: {why}")))?;
    let pages = TablePages::for_vram(&vram).map_err(Failure::input)?;
    Ok((vram, pages))
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
mod tests {
    use super::*;
    use gmmu::addr::PhysAddr;
    use gmmu::format::{V2, V3};
    use gmmu::vmm::Extent;
    use gmmu_sim::AccessKind;

    /// A space with its tables in system memory, beside one with its tables in video memory.
    fn both<F: Format>(name: &str) {
        let mut machine = Machine::new(chip(name).expect("a chip"), 1 << 30, &[]).expect("a machine");
        let data = machine.take_data(4 << 20, 2 << 20).expect("memory");
        let extents = [Extent { to: PhysAddr::vram(data.start().raw()), bytes: 4 << 20 }];
        for tables in [Tables::Sys, Tables::Vram] {
            let mut vmm = machine.create_space_in::<F>(tables, None, Use::Channel).expect("a space");
            assert_eq!(Tables::holding(vmm.pdb()), tables);
            for page in [PageSize::Size4K, PageSize::Size64K, PageSize::Size2M] {
                machine.gpu().reset_counts();
                let request = MapRequest { page: Some(page), ..MapRequest::extents(&extents).at(1 << 32) };
                let job = machine.prepare_map(&mut vmm, &request).expect("prepares");
                let receipt = job.execute(machine.mmio()).expect("executes");
                let range = machine.commit(&mut vmm, receipt).expect("commits").range;
                let stores = machine.gpu().counts().sys_writes;
                assert_eq!(stores > 0, tables == Tables::Sys);
                for va in range.clone().step_by(4096) {
                    let found = machine.gpu().access(engine(&vmm), va, AccessKind::Read, false).expect("mapped");
                    assert_eq!(found.to.raw, data.start().raw() + va - range.start);
                }
                let job = machine.prepare_unmap(&mut vmm, range.clone()).expect("prepares");
                let receipt = job.execute(machine.mmio()).expect("executes");
                machine.commit(&mut vmm, receipt).expect("commits");
                assert!(machine.gpu().access(engine(&vmm), range.start, AccessKind::Read, false).is_err());
            }
        }
        assert_eq!(machine.gpu().findings(), []);
    }

    #[test]
    fn tables_lie_where_the_space_says() {
        both::<V2>("tu102");
        both::<V3>("gh100");
    }

    #[test]
    fn bar_spaces_have_no_tables_in_system_memory() {
        let mut machine = Machine::new(chip("gh100").expect("a chip"), 1 << 30, &[]).expect("a machine");
        let refused = machine.create_space_in::<V3>(Tables::Sys, None, Use::Bar).map(|vmm| vmm.pdb());
        assert!(matches!(refused, Err(PrepareError::Device(DeviceError::WrongAperture { .. }))), "{refused:?}");
    }

    #[test]
    fn tables_in_system_memory_lie_outside_of_what_is_foreign() {
        let foreign = [0x1000..0x2000, 1 << 40..(1 << 40) + 0x5000];
        let mut machine = Machine::new(chip("gb10b").expect("a chip"), VRAM_DEFAULT, &foreign).expect("a machine");
        let vmm = machine.create_space::<V3>(None, Use::Channel).expect("a space");
        assert_eq!(vmm.pdb(), Tables::Sys.at((1 << 40) + 0x5000));
        assert_eq!(machine.vram_bytes(), 0);
        assert!(machine.take_data(4096, 4096).is_err());
        let first = machine.take_pages(0x3000, None).expect("memory");
        let second = machine.take_pages(4 << 20, Some(PageSize::Size4K)).expect("memory");
        assert_eq!(
            [first.start(), second.start()].map(|at| at.to_string()),
            ["sys-coh:0x000100000000", "sys-coh:0x000100200000"]
        );
        machine.give_pages(second);
        assert_eq!(machine.take_pages(4096, None).expect("memory").start().raw, (1 << 32) + (2 << 20));
        assert!(machine.take_pages(1 << 50, None).is_err());
    }
}
