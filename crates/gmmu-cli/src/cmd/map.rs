//! `gmmu map`: builds an address space on a software GPU, and verifies every page through the GPU's own MMU.

mod memory;

use std::path::PathBuf;

use gmmu::addr::{PAGE_BYTES, PageSize, PhysAddr};
use gmmu::format::{Flags, Format, Kind};
use gmmu::vmm::{Extent, Job, MapRequest, Receipt, Use, Vmm};
use gmmu_sim::{AccessKind, Config, Speculation};
use schemars::JsonSchema;
use serde::Serialize;

use memory::Memory;

use crate::console::{BAD, Console, GOOD, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::machine::{CountsView, FindingView, Machine, ModelArgs, SpaceView, engine, speculation, write_vram};
use crate::notation::{self, Address, Bytes, Counted, PageChoice, Text, Word};
use crate::num::number;
use crate::progress::Progress;
use crate::ranges::{self, RangeView};
use crate::scan::{Barren, Scan, Space};
use crate::with_format;

const EXAMPLES: &str = "\
Examples:
  gmmu map --size 1G
  gmmu map --size 64M --chip tu102 --page auto --va 0x1000000000
  gmmu map --size 1G --page 4K --scatter 7 --json
  gmmu map --size 16M --flags ro,vol --vram-out vram.img --keep

Chips: gp107 tu102 tu104 tu106 tu116 tu117 ga100 ga102 ga102f ga103 ga104 ga106
ga107 ad102 ad103 ad104 ad106 ad107 gh100 gb100 gb102 gb110 gb112 gb202 gb203
gb205 gb206 gb207; without video memory gb10b gb20b gb20c. Everything runs on a
model: no GPU is needed or touched.
Exit code 1: a page was wrong, or the sanitizer found something.";

/// Every 4 KiB is looked up, whatever the page size.
const PAGE_STEP: usize = 4096;
const _: () = assert!(PAGE_STEP as u64 == PAGE_BYTES);

/// How many ranges are shown before the rest is only counted.
const RANGES_SHOWN: usize = 16;

/// Arguments of `gmmu map`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// How much to map
    #[arg(long, value_name = "SIZE", value_parser = number)]
    size: u64,

    /// The page size, or auto for the largest that fits
    #[arg(long, value_name = "PAGE", value_parser = notation::page, default_value = "4K")]
    page: PageChoice,

    /// Map it here instead of where there is room
    #[arg(long, value_name = "ADDR", value_parser = number)]
    va: Option<u64>,

    /// Map this memory instead of what the allocator gives
    #[arg(long, value_name = "MEM", value_parser = notation::memory)]
    pa: Option<PhysAddr>,

    /// Shuffle the pages of the memory, in an order made from this seed
    #[arg(long, value_name = "SEED", value_parser = number)]
    scatter: Option<u64>,

    /// Flags of the pages: any of acd encrypted noatomic priv ro vol
    #[arg(long, value_name = "FLAG", value_delimiter = ',')]
    flags: Vec<String>,

    /// Surface kind of the pages
    #[arg(long, value_name = "KIND", value_parser = number, default_value = "6")]
    kind: u64,

    /// What the GPU's translation caches fetch by themselves: off, worst (all that they may), random[=SEED]
    #[arg(long, value_name = "HOW", value_parser = speculation, default_value = "off", help_heading = "Model")]
    speculation: Speculation,

    /// Write the GPU's memory to a file, a raw image, while the mapping is there
    #[arg(long, value_name = "FILE")]
    vram_out: Option<PathBuf>,

    /// Write a snapshot of the page tables to a file, while the mapping is there
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,

    /// Do not unmap in the end
    #[arg(long)]
    keep: bool,
}

/// All that `gmmu map` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Report {
    schema: u32,
    chip: &'static str,
    counts: CountsView,
    tables: usize,
    verified_pages: u64,
    /// The first page that is not as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong: Option<String>,
    root: Text<gmmu::addr::TableAddr>,
    spaces: Vec<SpaceView>,
    findings: Vec<FindingView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unmap_counts: Option<CountsView>,
    #[serde(skip)]
    ranges: Vec<RangeView>,
    #[serde(skip)]
    more_ranges: usize,
    #[serde(skip)]
    pages: u64,
    #[serde(skip)]
    page: String,
    #[serde(skip)]
    bytes: u64,
    #[serde(skip)]
    directories: usize,
    #[serde(skip)]
    table_bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// Exit code 2 where the options do not fit the chip or its memory; those of the files.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    with_format!(args.model.chip.mmu, run_on(args, console))
}

fn run_on<F: Format>(args: &Args, console: &mut Console<'_>) -> Outcome {
    let plan = Memory::choose(args)?;
    let foreign: Vec<_> = args.pa.iter().map(|pa| pa.raw..pa.raw.saturating_add(args.size)).collect();
    let config = Config { vram: args.model.vram, speculation: args.speculation, ..Config::default() };
    let mut machine = Machine::with(args.model.chip, config, &foreign)?;
    let memory = plan.take(args, &mut machine)?;
    let mut vmm = machine.create_space::<F>(None, Use::Channel).map_err(Failure::usage)?;

    machine.gpu().reset_counts();
    let range = map(args, &memory, &mut machine, &mut vmm)?;
    let counts = CountsView::from(machine.gpu().counts());
    let report = conclude(args, console, &mut machine, &mut vmm, &Mapped { memory, range, counts })?;
    console.show(&report)?;
    let failed = report.wrong.is_some() || report.findings.iter().any(FindingView::counts);
    Ok(if failed { Exit::Negative } else { Exit::Done })
}

/// What was mapped, and where.
struct Mapped {
    memory: Memory,
    range: std::ops::Range<u64>,
    counts: CountsView,
}

/// Verifies the mapping, writes the files, unmaps, and verifies that. Stops at the first page that is wrong, but never
/// before the files are written: they are the evidence.
fn conclude<F: Format>(
    args: &Args,
    console: &Console<'_>,
    machine: &mut Machine,
    vmm: &mut Vmm<F>,
    mapped: &Mapped,
) -> Result<Report, Failure> {
    let pages = args.size / PAGE_BYTES;
    let mut progress = Progress::new(console.terminal(), "verifying", Some(pages));
    let verified = verify(machine, vmm, mapped, args, &mut progress);
    drop(progress);
    if let Some(path) = &args.vram_out {
        write_vram(machine.gpu(), path)?;
    }
    if let Some(path) = &args.snapshot {
        machine.snapshot(path, std::iter::once(("map", vmm.pdb())))?;
    }
    let mut report = report(args, machine, vmm, mapped.counts)?;
    (report.verified_pages, report.wrong) = (verified.pages, verified.wrong);
    if !args.keep && report.wrong.is_none() {
        machine.gpu().reset_counts();
        unmap(machine, vmm, mapped.range.clone())?;
        report.unmap_counts = Some(machine.gpu().counts().into());
        let mut progress = Progress::new(console.terminal(), "verifying the unmap", Some(pages));
        report.wrong = verify_gone(machine, vmm, mapped.range.clone(), &mut progress);
    }
    report.findings = machine.findings();
    Ok(report)
}

impl Args {
    fn page_size(&self) -> Option<PageSize> {
        match (self.page, self.scatter) {
            (PageChoice::Size(page), _) => Some(page),
            // Shuffled pages have one size.
            (PageChoice::Auto, Some(_)) => Some(PageSize::Size4K),
            (PageChoice::Auto, None) => None,
        }
    }

    fn leaf_flags(&self) -> Result<Flags, Failure> {
        Flags::from_names(self.flags.iter().map(String::as_str)).map_err(|name| {
            Failure::usage(format_args!("--flags {name}: no such flag"))
                .hint("any of acd encrypted noatomic priv ro vol")
        })
    }
}

/// Maps `memory` through all stages of a job.
fn map<F: Format>(
    args: &Args,
    memory: &Memory,
    machine: &mut Machine,
    vmm: &mut Vmm<F>,
) -> Result<std::ops::Range<u64>, Failure> {
    let kind = u8::try_from(args.kind)
        .map(Kind)
        .map_err(|_| Failure::usage(format_args!("--kind {}: a kind has 8 bits at most", args.kind)))?;
    let extents;
    let request = match memory {
        Memory::Contiguous(start) => {
            extents = [Extent { to: *start, bytes: args.size }];
            MapRequest { page: args.page_size(), ..MapRequest::extents(&extents) }
        }
        Memory::Frames(aperture, frames) => {
            MapRequest::frames_of(*aperture, frames.len() as u64, args.page_size().unwrap_or(PageSize::Size4K))
        }
    };
    let request = request.kind(kind).flags(args.leaf_flags()?);
    let request = match args.va {
        Some(va) => request.at(va),
        None => request,
    };
    let job = machine.prepare_map(vmm, &request).map_err(Failure::usage)?;
    let receipt = execute(machine, job, memory)?;
    let mapping = machine.commit(vmm, receipt).map_err(|(_, why)| Failure::input(why))?;
    Ok(mapping.range)
}

fn execute(machine: &mut Machine, job: Job, memory: &Memory) -> Result<Receipt, Failure> {
    match memory {
        Memory::Contiguous(_) => job.execute(machine.mmio()).map_err(|failed| Failure::input(failed.why)),
        Memory::Frames(_, frames) => {
            let ready = job.with_frames(frames).map_err(|(_, why)| Failure::usage(why))?;
            ready.execute(machine.mmio()).map_err(|failed| Failure::input(failed.why))
        }
    }
}

fn unmap<F: Format>(machine: &mut Machine, vmm: &mut Vmm<F>, range: std::ops::Range<u64>) -> Result<(), Failure> {
    let job = machine.prepare_unmap(vmm, range).map_err(Failure::input)?;
    let receipt = job.execute(machine.mmio()).map_err(|failed| Failure::input(failed.why))?;
    machine.commit(vmm, receipt).map_err(|(_, why)| Failure::input(why))?;
    Ok(())
}

/// How far a verification came.
struct Verified {
    /// Pages of 4 KiB that are right.
    pages: u64,
    /// What is wrong with the next one; none where all are right.
    wrong: Option<String>,
}

/// Looks every 4 KiB up as an engine would, up to the first that is wrong.
fn verify<F: Format>(
    machine: &mut Machine,
    vmm: &Vmm<F>,
    mapped: &Mapped,
    args: &Args,
    progress: &mut Progress,
) -> Verified {
    let client = engine(vmm);
    let va = mapped.range.start;
    let unit = args.page_size().map_or(PAGE_BYTES, PageSize::bytes);
    let privileged = args.flags.iter().any(|flag| flag == "priv");
    let mut pages = 0;
    for offset in (0..args.size).step_by(PAGE_STEP) {
        progress.advance(1);
        let wanted = mapped.memory.at(offset, unit);
        let wrong = match machine.gpu().access(client, va + offset, AccessKind::Read, privileged) {
            Ok(found) if found.to == wanted => {
                pages += 1;
                continue;
            }
            Ok(found) => format!("{} leads to {}, not to {wanted}", Address(va + offset), found.to),
            Err(fault) => {
                let entry = fault.entry.map(|at| format!(", entry {at} = {}", Word(fault.raw))).unwrap_or_default();
                format!("{}: fault {} at {}{entry}", Address(va + offset), fault.fault.name(), fault.level)
            }
        };
        return Verified { pages, wrong: Some(wrong) };
    }
    Verified { pages, wrong: None }
}

/// Looks every 4 KiB up again, now that nothing should be there.
fn verify_gone<F: Format>(
    machine: &mut Machine,
    vmm: &Vmm<F>,
    range: std::ops::Range<u64>,
    progress: &mut Progress,
) -> Option<String> {
    let client = engine(vmm);
    for va in range.step_by(PAGE_STEP) {
        progress.advance(1);
        if let Ok(found) = machine.gpu().access(client, va, AccessKind::Read, true) {
            return Some(format!("{} still leads to {} after the unmap", Address(va), found.to));
        }
    }
    None
}

fn report<F: Format>(args: &Args, machine: &mut Machine, vmm: &Vmm<F>, counts: CountsView) -> Result<Report, Failure> {
    let census = vmm.census();
    let (ranges, more_ranges) = ranges(machine, vmm)?;
    let pages: u64 = vmm.pieces().map(|(range, piece)| (range.end - range.start) / piece.page.bytes()).sum();
    let mut names: Vec<&str> = vmm.pieces().map(|(_, piece)| piece.page.name()).collect();
    names.dedup();
    let table_bytes = vmm.tables().map_err(Failure::input)?.iter().map(|(_, bytes)| bytes).sum();
    let root = Text(vmm.pdb());
    Ok(Report {
        schema: SCHEMA,
        chip: args.model.chip.name,
        counts,
        tables: census.directories + census.leaf_tables,
        verified_pages: 0,
        wrong: None,
        root,
        spaces: vec![SpaceView { name: "map".to_owned(), mmu: F::VERSION.name(), root }],
        findings: machine.findings(),
        unmap_counts: None,
        ranges,
        more_ranges,
        pages,
        page: names.join("+"),
        bytes: args.size,
        directories: census.directories,
        table_bytes,
    })
}

/// The mapped ranges as the tables in memory say them.
fn ranges<F: Format>(machine: &mut Machine, vmm: &Vmm<F>) -> Result<(Vec<RangeView>, usize), Failure> {
    let space = Space { root: vmm.pdb(), sizes: vmm.page_sizes(), tables_max: u64::MAX };
    let mut barren = Barren::default();
    let mut scan = Scan::<F>::new(space, 0..1 << F::VA_BITS, &mut barren).map_err(Failure::input)?;
    let mut memory = machine.gpu().peek();
    let (mut shown, mut more, mut open): (Vec<RangeView>, usize, Option<ranges::Mapped>) = (Vec::new(), 0, None);
    let mut close = |mapped: Option<ranges::Mapped>| match mapped {
        Some(mapped) if shown.len() < RANGES_SHOWN => shown.push(RangeView::from(&mapped)),
        Some(_) => more += 1,
        None => {}
    };
    while let Some((va, step)) = scan.next(&mut memory).map_err(Failure::input)? {
        let Some(next) = ranges::Mapped::of(va, &step) else { continue };
        match &mut open {
            Some(range) if range.goes_on_with(&next) => range.bytes += next.bytes,
            _ => close(open.replace(next)),
        }
    }
    close(open);
    Ok((shown, more))
}

impl View for Report {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        let Self { chip, pages, page, bytes, .. } = self;
        let mmu = self.spaces.first().map_or("", |space| space.mmu);
        console.line(format_args!(
            "{STRONG}{} in {} of {page}{STRONG:#} on a software {chip} (MMU {mmu}), root {}",
            Bytes(*bytes),
            Counted(*pages, "page", "pages"),
            self.root
        ))?;
        console.line(format_args!(""))?;
        console.line(format_args!("{STRONG}{}{STRONG:#}", RangeView::HEADING))?;
        for range in &self.ranges {
            console.line(format_args!("{}", range.line()))?;
        }
        if self.more_ranges > 0 {
            console.line(format_args!("… and {} more", Counted(self.more_ranges as u64, "range", "ranges")))?;
        }
        console.line(format_args!(""))?;
        let leaf_tables = self.tables - self.directories;
        console.line(format_args!(
            "tables    {}, {}, {} together",
            Counted(self.directories as u64, "directory", "directories"),
            Counted(leaf_tables as u64, "leaf table", "leaf tables"),
            Bytes(self.table_bytes)
        ))?;
        cost(console, "mapping", &self.counts, *pages)?;
        let style = if self.wrong.is_some() && self.unmap_counts.is_none() { BAD } else { GOOD };
        console.line(format_args!("verified  {style}{} × 4K through the GPU's MMU{style:#}", self.verified_pages))?;
        if let Some(counts) = &self.unmap_counts {
            cost(console, "unmapping", counts, *pages)?;
            if self.wrong.is_none() {
                console.line(format_args!("verified  {GOOD}every page faults again{GOOD:#}"))?;
            }
        }
        if let Some(wrong) = &self.wrong {
            console.line(format_args!("wrong     {BAD}{wrong}{BAD:#}"))?;
        }
        FindingView::list(&self.findings, console)
    }
}

fn cost(console: &mut Console<'_>, what: &str, counts: &CountsView, pages: u64) -> Result<(), Failure> {
    let CountsView { reads, writes, window_moves, invalidates, sys_writes, .. } = *counts;
    // Thousandths, rounded; the numbers are exact integers.
    let thousandths =
        ((u128::from(writes) + u128::from(sys_writes)) * 1000 + u128::from(pages) / 2) / u128::from(pages.max(1));
    console.line(format_args!(
        "{what:<9} {} ({}.{:03} a page), {}, {}, {}",
        counts.written(),
        thousandths / 1000,
        thousandths % 1000,
        Counted(reads, "read", "reads"),
        Counted(window_moves, "window move", "window moves"),
        Counted(invalidates, "invalidate", "invalidates")
    ))
}

#[cfg(test)]
mod tests;
