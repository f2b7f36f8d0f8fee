//! `gmmu run`: a script on the software GPU, under the sanitizer.

use std::path::PathBuf;

use gmmu::addr::TableAddr;
use gmmu::chip::Chip;
use gmmu::format::Format;
use serde::Serialize;

use crate::console::{BAD, Console, GOOD, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::machine::{CountsView, FindingView, Machine, SpaceView, write_vram};
use crate::notation::{Counted, Size, Text};
use crate::num::number;
use crate::progress::Progress;
use crate::script::{Broken, Ran, Runner, Script};
use crate::source::chip;
use crate::with_format;

const EXAMPLES: &str = "\
Examples:
  gmmu run mapping.gmmu
  gmmu run mapping.gmmu --chip tu102 --keep-going --json
  echo 'space a; map a va=0x1000000 len=64K' | gmmu run -

A script has one operation a line: gpu, space, map, unmap, prepare, execute,
commit, cancel, expect, write, read, refuse, snapshot.

refuse NAME OPERATION: the operation has to fail with that error. Names are
  map, unmap  Busy NoSpace NoVa NoMemory Empty Overflow Unaligned BeyondVa
              BeyondVram NoSuchPage KindForbids4K NotInFormat TooWide
              NotMapped WouldFault BeyondReach
  execute     NotYet PredecessorLost Count BeyondVram Unaligned Timeout Gone
  commit      NotExecuted Foreign
  cancel      Begun HasDependents NoMemory
  read, write FAULT_PDE FAULT_PTE FAULT_RO_VIOLATION … as in kernel logs

Exit code 1: an operation did not go as the script says, or the sanitizer found
something.";

/// Arguments of `gmmu run`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The script, or - for standard input
    #[arg(value_name = "SCRIPT")]
    script: PathBuf,

    /// The GPU to model, where the script has no gpu line [default: gh100]
    #[arg(long, value_name = "CHIP", value_parser = chip)]
    chip: Option<&'static Chip>,

    /// Its video memory, where the script does not say [default: 96G]
    #[arg(long, value_name = "SIZE", value_parser = number)]
    vram: Option<u64>,

    /// Write the GPU's memory to a file in the end, a raw image
    #[arg(long, value_name = "FILE")]
    vram_out: Option<PathBuf>,

    /// Write a snapshot of the page tables to a file in the end
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,

    /// Go on after an operation that did not go as the script says
    #[arg(long)]
    keep_going: bool,

    /// Where everything arbitrary in the model comes from
    #[arg(long, value_name = "N", value_parser = number, default_value = "0")]
    seed: u64,
}

/// All that `gmmu run` says.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    chip: &'static str,
    counts: CountsView,
    tables: usize,
    verified_pages: u64,
    root: Option<Text<TableAddr>>,
    spaces: Vec<SpaceView>,
    findings: Vec<FindingView>,
    operations: usize,
    broken: Vec<BrokenView>,
    /// Where the script came from, for messages.
    #[serde(skip)]
    script: String,
}

#[derive(Debug, Serialize)]
struct BrokenView {
    line: usize,
    operation: String,
    says: String,
}

/// Runs the command.
///
/// # Errors
/// Exit code 2 where the script does not parse or does not fit the options; 3 where files cannot be read or written.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    if let (Some(image), Some(snapshot)) = (&args.vram_out, &args.snapshot)
        && files::same(image, snapshot)
    {
        return Err(Failure::usage("--vram-out and --snapshot name the same file"));
    }
    let name = args.script.display().to_string();
    let text = files::read_text(&args.script, console)?;
    let script = Script::read(&name, &text)?;
    let (chip, vram) = model(args.chip, args.vram, &script, &name)?;
    with_format!(chip.mmu, run_on(args, chip, vram, &script, console))
}

/// The GPU of a script: its own `gpu` line, or the options; a conflict of the two is a usage error.
///
/// # Errors
/// Exit code 2.
pub fn model(
    chip_option: Option<&'static Chip>,
    vram_option: Option<u64>,
    script: &Script,
    name: &str,
) -> Result<(&'static Chip, u64), Failure> {
    let scripted = script.chip;
    if let (Some(scripted), Some(option)) = (scripted, chip_option)
        && scripted != option
    {
        let why = format!("--chip {} but {name} has gpu {}", option.name, scripted.name);
        return Err(Failure::usage(why).hint("leave --chip out, or the gpu line"));
    }
    if let (Some(scripted), Some(option)) = (script.vram, vram_option)
        && scripted != option
    {
        let why = format!("--vram {} but {name} has vram={}", Size(option), Size(scripted));
        return Err(Failure::usage(why).hint("leave --vram out, or the vram= of the gpu line"));
    }
    let default = || chip("gh100").map_err(Failure::usage);
    let chip = scripted.or(chip_option).map_or_else(default, Ok)?;
    Ok((chip, script.vram.or(vram_option).unwrap_or(96 << 30)))
}

fn run_on<F: Format>(
    args: &Args,
    chip: &'static Chip,
    vram: u64,
    script: &Script,
    console: &mut Console<'_>,
) -> Outcome {
    let machine = Machine::seeded(chip, vram, &script.named_memory(), args.seed)?;
    let mut runner = Runner::<F>::new(machine);
    let mut progress = Progress::new(console.terminal(), "running", Some(script.lines.len() as u64));
    let mut broken = Vec::new();
    let mut operations = 0;
    for (number, line) in &script.lines {
        progress.advance(1);
        operations += 1;
        if let Ran::Broken(Broken { line, text, why }) = runner.run(*number, line)? {
            broken.push(BrokenView { line, operation: text, says: why });
            if !args.keep_going {
                break;
            }
        }
    }
    drop(progress);
    if let Some(path) = &args.vram_out {
        write_vram(runner.machine().gpu(), path)?;
    }
    if let Some(path) = &args.snapshot {
        let roots: Vec<_> = runner.spaces().iter().map(|(name, vmm)| (name.clone(), vmm.pdb())).collect();
        runner.machine().snapshot(path, roots.iter().map(|(name, root)| (name.as_str(), *root)))?;
    }
    let mut report = report(chip, &mut runner, operations, broken);
    report.script = args.script.display().to_string();
    console.show(&report)?;
    let bad = !report.broken.is_empty() || report.findings.iter().any(FindingView::counts);
    Ok(if bad { Exit::Negative } else { Exit::Done })
}

fn report<F: Format>(
    chip: &'static Chip,
    runner: &mut Runner<F>,
    operations: usize,
    broken: Vec<BrokenView>,
) -> Report {
    let spaces: Vec<SpaceView> = runner
        .spaces()
        .iter()
        .map(|(name, vmm)| SpaceView { name: name.clone(), mmu: F::VERSION.name(), root: Text(vmm.pdb()) })
        .collect();
    let tables = runner.spaces().iter().map(|(_, vmm)| vmm.census()).map(|c| c.directories + c.leaf_tables).sum();
    Report {
        schema: SCHEMA,
        chip: chip.name,
        counts: runner.machine().gpu().counts().into(),
        tables,
        verified_pages: runner.verified(),
        root: spaces.first().map(|space| space.root),
        spaces,
        findings: runner.machine().findings(),
        operations,
        broken,
        script: String::new(),
    }
}

impl View for Report {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        for broken in &self.broken {
            console.line(format_args!("{BAD}{}:{}: {}{BAD:#}", self.script, broken.line, broken.operation))?;
            console.line(format_args!("  {}", broken.says))?;
        }
        let CountsView { reads, window_moves, invalidates, .. } = self.counts;
        console.line(format_args!(
            "{STRONG}operations: {}{STRONG:#} on a software {}; tables: {}, spaces: {}, addresses verified: {}",
            self.operations,
            self.chip,
            self.tables,
            self.spaces.len(),
            self.verified_pages
        ))?;
        console.line(format_args!(
            "cost: {}, {}, {}, {}",
            self.counts.written(),
            Counted(reads, "read", "reads"),
            Counted(window_moves, "window move", "window moves"),
            Counted(invalidates, "invalidate", "invalidates")
        ))?;
        if self.broken.is_empty() && !self.findings.iter().any(FindingView::counts) {
            console.line(format_args!("{GOOD}everything went as the script says{GOOD:#}"))?;
        }
        FindingView::list(&self.findings, console)
    }
}
