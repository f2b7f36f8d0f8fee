//! `gmmu selftest`: does the way to video memory work, do address spaces, and does BAR1?

use std::ops::Range;

use gmmu::addr::{TableAddr, VramAddr};
use gmmu::bar1::Bar1;
use gmmu::device::{Bar0, TableMemory, TablePool};
use gmmu::format::{Format, MmuVersion};
use gmmu::instance::{self, Instance};
use gmmu::mmio::Mmio;
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

const EXAMPLES: &str = "\
Examples:
  gmmu selftest
  gmmu selftest --chip tu102 --vram 24G --json

Writes and reads through the PRAMIN window as page tables are written; makes an
address space and sees whether its tables say what was asked for, and whether
jobs wait for each other; and sees through BAR1 whether the GPU follows them:
what is mapped, what is read-only, and what is mapped no longer. Where the
window fails, nothing else is tried. Exit code 1: a check failed.";

/// Video memory for the tables of the tests.
const TABLE_BYTES: u64 = 1 << 20;

/// Arguments of `gmmu selftest`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Test a real card instead
    #[arg(long, value_name = "BDF", conflicts_with_all = ["chip", "vram"])]
    pci: Option<String>,

    /// Allow writes to the card
    #[arg(long, requires = "pci")]
    write: bool,
}

/// All that `gmmu selftest` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Report {
    schema: u32,
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
/// Usage, where there can be no such GPU.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    if let Some(bdf) = &args.pci {
        return Err(Failure::usage(format_args!("--pci {}: this version of gmmu cannot test cards yet", shown(bdf)))
            .hint("leave it away, and the software GPU is tested"));
    }
    let ModelArgs { chip, vram } = args.model;
    if chip.is_integrated() {
        let why =
            format_args!("{} is an integrated GPU: it has no video memory, and no window on it to test", chip.name);
        return Err(Failure::usage(why));
    }
    let gpu = Gpu::new(&Config { vram, ..Config::chip(chip.name) }).map_err(|why| no_such_gpu(&why))?;
    // The end of memory needs all bits of the window's register.
    let needed = BYTES_MIN + TABLE_BYTES;
    let Some(first) = vram.checked_sub(needed) else {
        return Err(Failure::usage(format_args!(
            "--vram {}: the self-tests need {} of video memory",
            Size(vram),
            Size(needed)
        )));
    };
    let layout = Layout { tables: first.max(4096)..first + TABLE_BYTES, data: first + TABLE_BYTES..vram };
    let Results { checks, tally: Tally { passed, failed } } = match chip.mmu {
        MmuVersion::V2 => all_groups::<gmmu::format::V2>(gpu, &layout)?,
        MmuVersion::V3 => all_groups::<gmmu::format::V3>(gpu, &layout)?,
    };
    console.show(&Report { schema: SCHEMA, chip: chip.name, vram, checks, passed, failed })?;
    Ok(if failed == 0 { Exit::Done } else { Exit::Negative })
}

/// Which memory the tests may use.
#[derive(Debug)]
struct Layout {
    tables: Range<u64>,
    data: Range<u64>,
}

/// Runs the groups on a card of format `F`; the later ones only where what they are built on works.
fn all_groups<F: Format>(mut gpu: Gpu, layout: &Layout) -> Result<Results, Failure> {
    let mut results = Results::default();
    results.group("the PRAMIN window", |report| selftest::pramin::run(&mut gpu, layout.data.clone(), report))?;
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
    let bytes = mmio.bar0().bar1_bytes();
    let mut bar1 = Bar1::new(vmm, bytes).map_err(|(_, why)| Failure::input(why))?;
    results.group("BAR1", |report| {
        selftest::bar1::run(&mut mmio, &mut bar1, &mut pool, layout.data.clone(), |memory| memory, report)
    })?;
    Ok(results)
}

/// Makes the CPU's accesses of BAR1 go through the tables below `pdb`: an instance block that names them, and the register
/// that names that.
fn bind_bar1<P: TablePool>(mmio: &mut Mmio<Gpu>, pool: &mut P, pdb: TableAddr) -> Result<(), Failure> {
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
        console.line(format_args!("{STRONG}a software {chip} with {} of video memory{STRONG:#}", Size(*vram)))?;
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
        let report = Report { schema: SCHEMA, chip: "gh100", vram: 1 << 30, checks, passed: 1, failed: 1 };
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
