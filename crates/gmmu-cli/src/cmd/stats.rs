//! `gmmu stats`: what the page tables of an address space cost, and what could be cheaper.

mod memory;
mod promote;

use std::collections::BTreeMap;

use gmmu::addr::{PageSize, TableAddr};
use gmmu::format::Format;
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{Console, FAINT, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::machine::{Bar1MappingView, Bar1View};
use crate::notation::{Bytes, RoughSize, Text};
use crate::num::number;
use crate::ranges::{Mapped, What, span_name};
use crate::scan::Barren;
use crate::source::{Source, SourceArgs};
use crate::stream::Stream;
use crate::survey::{Seen, survey};
use crate::with_format;
use memory::{MemoryUse, Spans};
use promote::{Candidate, Promotion};

const EXAMPLES: &str = "\
Examples:
  gmmu stats --file vram.img --chip gh100 --root 0x10000
  gmmu stats --file tables.gmmu --json
  gmmu stats --script examples/two-sizes.gmmu
  gmmu stats --file tables.gmmu --bar1 256M      how full is BAR1?

A run of pages could be larger ones where addresses and memory go on together
and are equally aligned, on a chip that has the size. How much of the video
memory is free is said where its size is known: for scripts, and for images and
snapshots of 64M and more.
Exit code 1: there were more tables than may be read.";

/// Arguments of `gmmu stats`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// The address space is BAR1's, an aperture of that size: how full is it?
    #[arg(long, value_name = "SIZE", value_parser = number)]
    bar1: Option<u64>,
}

/// All that `gmmu stats` says. Sizes are bytes.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Stats {
    schema: u32,
    mmu: &'static str,
    root: Text<TableAddr>,
    tables: Vec<LevelStats>,
    table_bytes: u64,
    /// Mapped to memory: of addresses.
    mapped: u64,
    sparse: u64,
    /// Bytes of tables for each GiB that is mapped; none where nothing is.
    table_bytes_per_gib: Option<u64>,
    pages: Vec<PageStats>,
    promotion: Promotion,
    vram: MemoryUse,
    /// How full BAR1 is, where the source knows, or its size was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    bar1: Option<Bar1View>,
    /// Mapped bytes that lie in other memory, by which.
    elsewhere: BTreeMap<String, u64>,
    bad: u64,
    truncated: bool,
}

/// The tables of one level.
#[derive(Clone, Copy, Debug, Default, JsonSchema, Serialize)]
struct LevelStats {
    level: &'static str,
    span: u64,
    tables: u64,
    bytes: u64,
    entries: u64,
    used: u64,
    /// Tables without an entry that is not 0.
    empty: u64,
}

/// The entries of one size.
#[derive(Debug, JsonSchema, Serialize)]
struct PageStats {
    page: String,
    pages: u64,
    bytes: u64,
    sparse: u64,
}

/// Runs the command.
///
/// # Errors
/// Those of the source.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let mut source = args.source.open(console)?;
    let (tables, cut) = with_format!(source.mmu, tables(&mut source, console))?;
    let mut aperture = args.bar1.map(Aperture::new);
    let mut stats = mappings(&mut source, aperture.as_mut(), console)?;
    let beyond = aperture.as_ref().map_or(0, |aperture| aperture.beyond);
    stats.bar1 = match aperture {
        Some(aperture) => Some(aperture.view(&source.root.to_string())),
        None => source.memory.bar1().cloned(),
    };
    stats.truncated |= cut;
    stats.table_bytes = tables.iter().map(|level| level.bytes).sum();
    stats.tables = tables;
    let per_gib = u128::from(stats.table_bytes) << 30;
    stats.table_bytes_per_gib = per_gib.checked_div(u128::from(stats.mapped)).and_then(|bytes| bytes.try_into().ok());
    console.show(&stats)?;
    if beyond > 0 {
        console.note(format_args!(
            "{} are mapped behind the end of a BAR1 of this size: is it larger, or this the space of something else?",
            Bytes(beyond)
        ));
    }
    if stats.truncated {
        console.note(format_args!("cut short: more tables or ranges than are read; the numbers are of a part"));
        return Ok(Exit::Negative);
    }
    Ok(Exit::Done)
}

/// Mappings of BAR1 that are told one by one, and of these, in text.
const MAPPINGS_MAX: usize = 1024;
const MAPPINGS_SHOWN: usize = 16;

/// BAR1's aperture, as its mappings go by in the order of their addresses.
struct Aperture {
    bytes: u64,
    /// Behind the last mapping so far.
    end: u64,
    taken: u64,
    hole: u64,
    /// Mapped behind the end of the aperture, where the CPU does not reach.
    beyond: u64,
    mappings: Vec<Bar1MappingView>,
}

impl Aperture {
    const fn new(bytes: u64) -> Self {
        Self { bytes, end: 0, taken: 0, hole: 0, beyond: 0, mappings: Vec::new() }
    }

    fn add(&mut self, va: u64, bytes: u64) {
        let (start, end) = (va.min(self.bytes), va.saturating_add(bytes).min(self.bytes));
        self.beyond = self.beyond.saturating_add(bytes.saturating_sub(end - start));
        if start < end {
            self.hole = self.hole.max(start.saturating_sub(self.end));
            (self.taken, self.end) = (self.taken + (end - start), end);
            if self.mappings.len() < MAPPINGS_MAX {
                self.mappings.push(Bar1MappingView::nameless(start..end));
            }
        }
    }

    fn view(self, space: &str) -> Bar1View {
        let largest_hole = self.hole.max(self.bytes - self.end);
        let Self { bytes, taken, mappings, .. } = self;
        Bar1View { space: space.to_owned(), bytes, taken, free: bytes.saturating_sub(taken), largest_hole, mappings }
    }
}

/// Counts tables by level, the outer ones first.
fn tables<F: Format>(source: &mut Source, console: &Console<'_>) -> Result<(Vec<LevelStats>, bool), Failure> {
    let mut levels: BTreeMap<std::cmp::Reverse<u32>, LevelStats> = BTreeMap::new();
    let cut = survey::<F>(source, console.terminal(), |_, seen| {
        if let Seen::End { table, used, .. } = seen {
            let level = table.level;
            let stats = levels.entry(std::cmp::Reverse(level.shift)).or_default();
            (stats.level, stats.span) = (level.name, level.span());
            stats.tables += 1;
            stats.bytes += level.table_bytes();
            stats.entries += level.entries();
            stats.used += used;
            stats.empty += u64::from(used == 0);
        }
        Ok(())
    })?;
    Ok((levels.into_values().collect(), cut))
}

/// Goes through the mappings.
fn mappings(source: &mut Source, mut aperture: Option<&mut Aperture>, console: &Console<'_>) -> Result<Stats, Failure> {
    let known = source.vram_bytes();
    let (mmu, root, sizes) = (source.mmu.name(), Text(source.root), source.sizes);
    let mut sums: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let (mut promotion, mut spans, mut elsewhere) = (Promotion::default(), Spans::default(), BTreeMap::new());
    let mut barren = Barren::default();
    let mut stream = Stream::new(source, &mut barren, console.terminal())?;
    while let Some(range) = stream.next_range()? {
        let Mapped { bytes, page, what, .. } = range;
        let sum = sums.entry(page).or_default();
        match what {
            What::Sparse => sum.1 += bytes,
            What::Leaf(leaf) => {
                if let Some(aperture) = &mut aperture {
                    aperture.add(range.va, bytes);
                }
                sum.0 += bytes;
                promotion.add(&range, leaf.to.raw, sizes);
                if leaf.to.aperture == gmmu::addr::Aperture::Vram {
                    spans.add(leaf.to.raw, bytes);
                } else {
                    let name = leaf.to.to_string();
                    let name = name.split(':').next().unwrap_or_default().to_owned();
                    *elsewhere.entry(name).or_default() += bytes;
                }
            }
        }
    }
    let (bad, truncated) = (stream.bad(), stream.truncated() || spans.truncated());
    let pages = sums.iter().map(|(&page, &(bytes, sparse))| PageStats {
        page: span_name(page),
        pages: bytes / page.max(1),
        bytes,
        sparse,
    });
    Ok(Stats {
        schema: SCHEMA,
        mmu,
        root,
        tables: Vec::new(),
        table_bytes: 0,
        mapped: sums.values().map(|sum| sum.0).sum(),
        sparse: sums.values().map(|sum| sum.1).sum(),
        table_bytes_per_gib: None,
        pages: pages.collect(),
        promotion,
        vram: spans.usage(known),
        bar1: None,
        elsewhere,
        bad,
        truncated,
    })
}

impl View for Stats {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        console.line(format_args!("{STRONG}MMU {}, top table {}{STRONG:#}", self.mmu, self.root))?;
        console.line(format_args!("\n{STRONG}tables        number       bytes  entries used{STRONG:#}"))?;
        for LevelStats { level, span, tables, bytes, entries, used, empty } in &self.tables {
            let name = if *level == "PTE" { format!("PTE {}", span_name(*span)) } else { (*level).to_owned() };
            let empty = if *empty > 0 { format!(", {empty} empty") } else { String::new() };
            let bytes = Bytes(*bytes).to_string();
            console.line(format_args!("{name:<8}  {tables:>10}  {bytes:>10}  {used} of {entries}{empty}"))?;
        }
        let per_gib = self
            .table_bytes_per_gib
            .map_or_else(String::new, |per_gib| format!(": {} of tables for each GiB mapped", Bytes(per_gib)));
        console.line(format_args!("all       {:>22}{per_gib}", Bytes(self.table_bytes).to_string()))?;
        console.line(format_args!("\n{STRONG}pages         number      mapped      sparse{STRONG:#}"))?;
        for PageStats { page, pages, bytes, sparse } in &self.pages {
            let (bytes, sparse) = (Bytes(*bytes).to_string(), Bytes(*sparse).to_string());
            console.line(format_args!("{page:<8}  {pages:>10}  {bytes:>10}  {sparse:>10}"))?;
        }
        self.promotion_text(console)?;
        self.memory_text(console)?;
        if self.bad > 0 {
            console.line(format_args!("\n{} entries cannot be followed; `gmmu check` tells of them", self.bad))?;
        }
        Ok(())
    }
}

impl Stats {
    fn promotion_text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        console.line(format_args!("\n{STRONG}could be larger pages{STRONG:#}"))?;
        let Promotion { entries_saved, table_bytes_saved, ranges, largest } = &self.promotion;
        if *ranges == 0 {
            return console.line(format_args!("none"));
        }
        for Candidate { va, bytes, from, to, entries_saved } in largest {
            let (from, to) = (PageSize::name(*from), PageSize::name(*to));
            console.line(format_args!(
                "{va}  {:>8}  {from} to {to}  {entries_saved} entries less",
                Bytes(*bytes).to_string()
            ))?;
        }
        let shown = largest.len() as u64;
        if *ranges > shown {
            console.line(format_args!("{FAINT}and {} more{FAINT:#}", ranges - shown))?;
        }
        console.line(format_args!("all: {entries_saved} entries and {} of tables less", Bytes(*table_bytes_saved)))
    }

    fn memory_text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        let vram = &self.vram;
        console.line(format_args!("\n{STRONG}memory{STRONG:#}"))?;
        console.line(format_args!(
            "video memory  {} mapped in {} pieces, {} of it more than once",
            Bytes(vram.mapped),
            vram.pieces,
            Bytes(vram.aliased)
        ))?;
        if let (Some(lowest), Some(end)) = (vram.lowest, vram.end) {
            console.line(format_args!("              from {lowest} to {end}"))?;
        }
        if let (Some(bytes), Some(free), Some(hole)) = (vram.bytes, vram.unmapped, vram.largest_hole) {
            console.line(format_args!("              of {}; not mapped here: {}", Bytes(bytes), RoughSize(free)))?;
            console.line(format_args!("              the largest hole: {}", RoughSize(hole)))?;
        }
        for (memory, bytes) in &self.elsewhere {
            console.line(format_args!("{memory:<12}  {} mapped", Bytes(*bytes)))?;
        }
        if let Some(bar1) = &self.bar1 {
            console.line(format_args!("\n{STRONG}BAR1{STRONG:#} through {}: {}", bar1.space, bar1.says()))?;
            for mapping in bar1.mappings.iter().take(MAPPINGS_SHOWN) {
                console.line(format_args!("{}", mapping.says()))?;
            }
            if let more @ 1.. = bar1.mappings.len().saturating_sub(MAPPINGS_SHOWN) {
                console.line(format_args!("{FAINT}and {more} more{FAINT:#}"))?;
            }
        }
        Ok(())
    }
}
