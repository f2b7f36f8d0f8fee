//! `gmmu selftest`: does the way to video memory work, do address spaces, and does BAR1?

use std::ops::Range;
use std::path::{Path, PathBuf};

use gmmu::addr::{TableAddr, VramAddr};
use gmmu::bar1::Bar1;
use gmmu::chip::Chip;
use gmmu::device::{Bar0, Bar1Aperture, Clock, TableMemory, TablePool};
use gmmu::fb::FbLayout;
use gmmu::format::Format;
use gmmu::instance::{self, Instance};
use gmmu::mm::{FbSource, GpuMm};
use gmmu::mmio::Mmio;
use gmmu::pramin::Window;
use gmmu::selftest::{self, BYTES_MIN, Check, Tally};
use gmmu::tlb::Limits;
use gmmu::vmm::{SpaceConfig, Use, Vmm};
use gmmu::vram::{TablePages, Vram};
use gmmu_sim::{Config, Gpu};
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{BAD, Console, GOOD, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::machine::{ModelArgs, no_such_gpu};
use crate::notation::Size;
use crate::num::shown;
#[cfg(target_os = "linux")]
use crate::source::pci::{Opened, device_failure, unknown};
use crate::with_format;

const EXAMPLES: &str = "\
Examples:
  gmmu selftest
  gmmu selftest --chip tu102 --vram 24G --json
  gmmu selftest --pci 0000:01:00.0 --write

Writes and reads through the PRAMIN window as page tables are written; makes an
address space and sees whether its tables say what was asked for, and whether
jobs wait for each other; and sees through BAR1 whether the GPU follows them:
what is mapped, what is read-only, and what is mapped no longer. Where the
window fails, nothing else is tried. What is in the memory that is used is put
back. Exit code 1: a check failed.";

/// Video memory for the tables of the tests.
const TABLE_BYTES: u64 = 1 << 20;

/// Arguments of `gmmu selftest`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Test a real card instead, that no driver is bound to
    #[arg(long, value_name = "BDF", conflicts_with_all = ["chip", "vram"])]
    pci: Option<String>,

    /// Agree that the card is written to, and its PRAMIN window moved
    #[arg(long, requires = "pci")]
    write: bool,

    /// Another sysfs than /sys
    #[arg(long, value_name = "DIR", requires = "pci")]
    sysfs: Option<PathBuf>,
}

/// All that `gmmu selftest` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Report {
    schema: u32,
    /// Which card; none for a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pci: Option<String>,
    chip: &'static str,
    vram: u64,
    checks: Vec<CheckView>,
    passed: u32,
    failed: u32,
}

/// One check.
#[derive(Debug, JsonSchema, Serialize)]
struct CheckView {
    group: &'static str,
    name: &'static str,
    expected: String,
    seen: String,
    passed: bool,
}

impl CheckView {
    fn new(group: &'static str, check: &Check) -> Self {
        let Check { name, expected, seen, passed } = check;
        Self { group, name, expected: expected.to_string(), seen: seen.to_string(), passed: *passed }
    }
}

/// What came of all groups.
#[derive(Debug, Default)]
struct Results {
    checks: Vec<CheckView>,
    tally: Tally,
}

impl Results {
    /// Runs one group of checks.
    fn group<E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        run: impl FnOnce(&mut dyn FnMut(&Check)) -> Result<Tally, E>,
    ) -> Result<(), Failure> {
        let Tally { passed, failed } =
            run(&mut |check| self.checks.push(CheckView::new(name, check))).map_err(Failure::input)?;
        self.tally.passed += passed;
        self.tally.failed += failed;
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// Usage, where there can be no such GPU, or a card may not be written to; those of opening a card.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let report = match &args.pci {
        Some(bdf) if !args.write => {
            return Err(Failure::usage(format_args!("--pci {}: the self-tests write to the card", shown(bdf)))
                .hint("say --write; its memory is put back as it was, but nothing else may use the card meanwhile"));
        }
        Some(bdf) => on_card(bdf, args.sysfs.as_deref().unwrap_or(Path::new("/sys")))?,
        None => on_model(&args.model)?,
    };
    console.show(&report)?;
    Ok(if report.failed == 0 { Exit::Done } else { Exit::Negative })
}

fn on_model(&ModelArgs { chip, vram }: &ModelArgs) -> Result<Report, Failure> {
    if chip.is_integrated() {
        let why =
            format_args!("{} is an integrated GPU: it has no video memory, and no window on it to test", chip.name);
        return Err(Failure::usage(why));
    }
    let mut gpu = Gpu::new(&Config { vram, ..Config::chip(chip.name) }).map_err(|why| no_such_gpu(&why))?;
    // The end of memory needs all bits of the window's register.
    let layout = Layout::at_the_end_of(0..vram).ok_or_else(|| {
        Failure::usage(format_args!(
            "--vram {}: the self-tests need {} of video memory",
            Size(vram),
            Size(BYTES_MIN + TABLE_BYTES)
        ))
    })?;
    let results = with_format!(chip.mmu, all_groups(&mut gpu, &layout))?;
    Ok(Report::new(None, chip, vram, results))
}

/// The tests on a real card, in memory that neither firmware nor display has. What BAR1 was bound to and where the window
/// stood is put back.
#[cfg(target_os = "linux")]
fn on_card(bdf: &str, sysfs: &Path) -> Result<Report, Failure> {
    let opened = Opened::new(bdf, sysfs, true)?;
    let bdf = opened.card.bdf;
    let failed = |error| device_failure(bdf, error);
    let (_alone, bars) = opened.with_bar1(sysfs)?;
    let mut mmio = Mmio::probe(bars).map_err(|why| unknown(bdf, why))?;
    let (chip, vram) = (mmio.chip(), mmio.vram_bytes());
    let stood = instance::bound(mmio.bar0(), chip, instance::Bar::Bar1).map_err(failed)?;
    let mm = GpuMm::probe(&mut mmio, FbSource::Registers, &[])
        .map_err(|why| Failure::input(format_args!("{bdf}: which memory is free cannot be told: {why}")))?;
    let usable = mm.layout().into_iter().flat_map(FbLayout::usable).map(|range| range.start.raw()..range.end.raw());
    let layout =
        usable.max_by_key(|range| range.end - range.start).and_then(Layout::at_the_end_of).ok_or_else(|| {
            let needed = Size(BYTES_MIN + TABLE_BYTES);
            Failure::input(format_args!("{bdf}: firmware leaves no {needed} of video memory for the self-tests"))
        })?;
    let window = mmio.window().map(Window::offset);
    let mut bars = mmio.release().map_err(|(_, error)| failed(error))?;
    let place = window.map(|offset| bars.read32(offset).map(|value| (offset, value))).transpose().map_err(failed)?;
    let results = with_format!(chip.mmu, all_groups(&mut bars, &layout));
    // Whatever came of them. A failed test says more than what follows from it.
    let put_back = instance::bind(&mut bars, chip, instance::Bar::Bar1, stood, Limits::default());
    let window_back = place.map_or(Ok(()), |(offset, value)| bars.write32(offset, value));
    let report = Report::new(Some(bdf.to_string()), chip, vram, results?);
    put_back.map_err(|why| Failure::input(format_args!("{bdf}: what BAR1 went through was not put back: {why}")))?;
    window_back.map_err(failed)?;
    Ok(report)
}

#[cfg(not(target_os = "linux"))]
fn on_card(bdf: &str, _: &Path) -> Result<Report, Failure> {
    Err(Failure::usage(format_args!("--pci {}: cards are reached on Linux alone", shown(bdf))))
}

impl Report {
    fn new(pci: Option<String>, chip: &Chip, vram: u64, results: Results) -> Self {
        let Results { checks, tally: Tally { passed, failed } } = results;
        Self { schema: SCHEMA, pci, chip: chip.name, vram, checks, passed, failed }
    }
}

/// Which memory the tests may use.
#[derive(Debug)]
struct Layout {
    tables: Range<u64>,
    data: Range<u64>,
}

impl Layout {
    /// The end of this memory, where that is enough.
    fn at_the_end_of(memory: Range<u64>) -> Option<Self> {
        let data = memory.end.checked_sub(BYTES_MIN)? & !0xfff;
        let tables = data.checked_sub(TABLE_BYTES).filter(|&start| start >= memory.start)?;
        Some(Self { tables: tables.max(4096)..data, data: data..memory.end })
    }
}

/// Runs the groups on a card of format `F`; the later ones only where what they are built on works.
fn all_groups<F: Format>(gpu: &mut (impl Bar0 + Clock + Bar1Aperture), layout: &Layout) -> Result<Results, Failure> {
    let mut results = Results::default();
    results.group("the PRAMIN window", |report| selftest::pramin::run(&mut *gpu, layout.data.clone(), report))?;
    if results.tally.failed != 0 {
        return Ok(results);
    }
    let mut mmio = Mmio::probe(gpu).map_err(Failure::input)?;
    let tables = VramAddr::new(layout.tables.start)..VramAddr::new(layout.tables.end);
    let mut vram = Vram::new(&[tables]).map_err(Failure::input)?;
    let mut pages = TablePages::for_vram(&vram).map_err(Failure::input)?;
    let mut pool = pages.pool(&mut vram);
    let whole_words = mmio.bar0().has_64bit();
    let space = SpaceConfig { whole_words, ..SpaceConfig::new(mmio.chip(), mmio.vram_bytes(), Use::Channel) };
    results.group("address spaces", |report| {
        selftest::vmm::run::<F, _, _>(&mut mmio, space, &mut pool, layout.data.clone(), report)
    })?;
    let space = SpaceConfig { used_by: Use::Bar, ..space };
    let vmm = Vmm::<F>::create(space, &mut mmio, &mut pool).map_err(Failure::input)?;
    bind_bar1(&mut mmio, &mut pool, vmm.pdb())?;
    let bytes = mmio.bar0().size();
    let mut bar1 = Bar1::new(vmm, bytes).map_err(|(_, why)| Failure::input(why))?;
    results.group("BAR1", |report| {
        selftest::bar1::run(&mut mmio, &mut bar1, &mut pool, layout.data.clone(), |memory| memory, report)
    })?;
    Ok(results)
}

/// Makes the CPU's accesses of BAR1 go through the tables below `pdb`: an instance block that names them, and the register
/// that names that.
fn bind_bar1<D: Bar0 + Clock, P: TablePool>(mmio: &mut Mmio<D>, pool: &mut P, pdb: TableAddr) -> Result<(), Failure> {
    let chip = mmio.chip();
    let block = pool.take(4096, None).map_err(Failure::input)?;
    Instance::new(pdb).write(mmio, chip, block).map_err(Failure::input)?;
    mmio.drain().map_err(Failure::input)?;
    instance::bind(mmio.bar0(), chip, instance::Bar::Bar1, Some(block), Limits::default()).map_err(Failure::input)
}

impl View for Report {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        // What fits beside a name on a line of 80 characters.
        const BESIDE: usize = 30;
        let Self { chip, vram, passed, failed, .. } = self;
        let which = self.pci.as_ref().map_or_else(|| format!("a software {chip}"), |bdf| format!("{bdf}, a {chip}"));
        console.line(format_args!("{STRONG}{which} with {} of video memory{STRONG:#}", Size(*vram)))?;
        let mut before = "";
        for CheckView { group, name, expected, seen, passed } in &self.checks {
            if *group != before {
                console.line(format_args!("{STRONG}{group}{STRONG:#}"))?;
                before = group;
            }
            match (*passed, seen.len() <= BESIDE) {
                (true, true) => console.line(format_args!("{GOOD}ok{GOOD:#}      {name:<42}{seen}"))?,
                (true, false) => console.line(format_args!("{GOOD}ok{GOOD:#}      {name}\n    {seen}"))?,
                (false, _) => console.line(format_args!(
                    "{BAD}FAILED{BAD:#}  {name}\n        expected {expected}\n        seen     {seen}"
                ))?,
            }
        }
        let style = if *failed == 0 { GOOD } else { BAD };
        console.line(format_args!("{style}{passed} passed, {failed} failed{style:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{Color, Streams, Terminal};

    #[test]
    fn a_failed_check_shows_what_was_expected_and_what_was_seen() {
        let check = |group, name, seen: &str| CheckView {
            group,
            name,
            expected: "ef be ad de".to_owned(),
            seen: seen.to_owned(),
            passed: seen == "ef be ad de",
        };
        let checks = vec![check("one", "bytes, one by one", "ef be ad de"), check("two", "a word", "de ad be ef")];
        let report = Report { schema: SCHEMA, pci: None, chip: "gh100", vram: 1 << 30, checks, passed: 1, failed: 1 };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let streams =
            Streams { input: &mut std::io::empty(), out: &mut out, err: &mut err, terminal: Terminal::default() };
        let mut console = Console::new(streams, false, Color::Never);
        console.show(&report).and_then(|()| console.flush()).expect("memory can be written");
        drop(console);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "a software gh100 with 1G of video memory\n\
             one\n\
             ok      bytes, one by one                         ef be ad de\n\
             two\n\
             FAILED  a word\n        expected ef be ad de\n        seen     de ad be ef\n\
             1 passed, 1 failed\n"
        );
    }
}
