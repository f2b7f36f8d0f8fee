//! `gmmu run`: a script on the software GPU, under the sanitizer.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use gmmu::addr::TableAddr;
use gmmu::chip::Chip;
use gmmu::format::Format;
use gmmu_sim::{Config, Finding, Speculation};
use schemars::JsonSchema;
use serde::Serialize;

use crate::cmd::{replay, soak};
use crate::console::{BAD, Console, GOOD, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::machine::{Bar1View, CountsView, FindingView, Machine, SpaceView, speculation, write_vram};
use crate::notation::{Counted, Size, Text};
use crate::num::number;
use crate::progress::Progress;
use crate::script::{Broken, Explored, Explorer, Order, Ran, Runner, Script, Trial};
use crate::source::chip;
use crate::with_format;

/// What `gmmu run --help` says of scripts.
pub(crate) const HELP: &str = "\
Examples:
  gmmu run mapping.gmmu
  gmmu run mapping.gmmu --chip tu102 --keep-going --json
  echo 'space a; map a va=0x1000000 len=64K' | gmmu run -
  gmmu run --trace driver.trace           what another driver did, judged
  gmmu run --mmiotrace mmio.log
  gmmu run --soak 10 --seed 7             random jobs, faults injected
  gmmu run race.gmmu --schedules 5000 --reduced found.gmmu   with threads

A script has one operation a line, or several with ; between. # is a comment.
  gpu gh100 vram=16G bar1=256M            the GPU, before anything else
  space a use=bar root=0x201000           an address space (use=channel)
  space b tables=sys                      its tables in system memory
  map a va=0x1000000 pa=vram:0x200000000 len=4M page=64K kind=6 ro vol
  map a va=auto len=64M largest=2M as=buf  memory and address from allocators
  map a va=0x9000000 pages=sys-coh:0x5000,0x9000 page=4K
  unmap a va=0x1000000 len=2M             any part of what is mapped
  unmap a va=buf                          all of buf; buf+64K: from there on
  protect a va=0x1000000 len=64K ro kind=6   flags: all of them, or none
  sparse a va=0x40000000 len=1G           reads give 0, writes are dropped
  unsparse a va=0x40000000 len=2M         accesses fault again
  bind a { map va=0x2000000 len=1M; unmap va=0x2040000 len=64K }  as one job
  map a va=0x3000000 len=64K object=1 offset=64K  its second 64K
  map a va=0x4000000 len=64K evictable=Z   Z: what zap and rebind call it
  rebind a Z { map va=0x4000000 len=64K }  gives it other memory, zapped or not
  defragment a va=buf largest=2M          pages become large again
  reclaim a                               empty tables are given back
  restore a                               all tables are written again
  prepare J protect a va=buf none         any of the changes above, as a job
  execute J budget=100                    100 entries of it; or all of it
  commit J
  cancel J
  zap Z                                   its pages are gone, without a job
  skip J                                  J goes on without what was zapped
  drop J                                  forgotten, and its space notices
  adopt a                                 what it has is firmware's from here on
  close a                                 the space ends, its tables are free
  expect a 0x1000000 vram:0x200000000 page=64K kind=6 ro vol
  expect a 0x40000000 sparse page=512M    also: unmapped, fault=PTE
  expect a 0x3000000 piece len=64K object=1 offset=64K   in the records
  expect a tables=6 reclaimable=0 jobs=1  also: pieces, zapped, foreign
  expect J rounds=2                       of writes, with an invalidate each
  write a buf+0x10 0xdeadbeef             32 bits, through the GPU's MMU
  read a buf+0x10 0xdeadbeef              and must find this
  look a buf+0x10                         whatever it finds, if not outdated
  refuse Busy map a va=buf len=4K         must fail, and with this error
  inst bind C a                           a channel's instance block names a
  inst unbind C
  bar1 bind b                             BAR1 goes through b, for good
  bar1 map w len=64K                      w: memory for the CPU, as map has it
  bar1 write w+0x10 0xbeef bits=16        8, 16, 32 or 64; read likewise
  bar1 unmap w                            at the end: bar1 unbind
  expect b mappings=1 taken=64K hole=192M  also: poisoned
  inject noflush at=2                     the 2nd invalidate from here is lost
  lose vram                               it reads 0, and the caches are empty
  snapshot tables.snap                    the page tables, to a file
  thread A: map a va=buf len=64K          goes on beside those of other threads
  schedule A*3 B A                        whose turn it is; else all are tried

Memory is vram:ADDR, sys-coh:ADDR, sys-ncoh:ADDR or peerN:ADDR. Flags are acd,
encrypted, noatomic, priv, ro and vol. A change that cuts a larger page or
sparse entry lets the rest of it fault for a moment: add quiesced (nobody is
there; the default), replayable, or live (then it is refused: WouldFault).

bind maps over whatever is there. Between its braces are map, unmap, sparse and
unsparse without the space, in order, with ; between or a line for each. What is
left of a mapping keeps its place in its object, and joins what goes on there.

inject WHAT at=N for=M: from event N on (1 is the next), M times.
  noflush     invalidates that do nothing                     [for=1]
  otherspace  invalidates that reach another address space    [for=1]
  lostack     an invalidate stays unacknowledged for M looks  [for ever]
  deadbar     register accesses read all-ones, writes vanish  [for ever]
  poison      register reads answer 0xbadf5040                [for ever]
  lostwindow  writes of the window register that are lost     [for=1]
  bitflip     a bit of a table, as the seed picks it          [for=1]
  lostvram    memory holds garbage, the caches are empty      [for=1]
  oom         tables for which there is no memory             [for=1]

Lines of threads stand together; what is before and behind them is for all.
Their steps - a call of the planner, an entry that is stored, a look at an
invalidate - are tried in all orders, those first that interrupt the least, on
a GPU whose caches fetch whatever they may. The first mistake ends that: the
script is made as short as shows it, and gets its schedule.

refuse NAME OPERATION: the operation has to fail with that error. Names are
  space       Taken Unaligned BeyondReach WrongAperture NoTable
  changes     Busy NoSpace NoVa NoMemory Empty Overflow Unaligned BeyondVa
              BeyondVram NoSuchPage KindForbids4K NotInFormat TooWide
              NotMapped WouldFault BeyondReach NotRestored BindsPart
              NothingToMerge Adopted Gone WindowLost
  execute     NotYet PredecessorLost Lost Zapped Count BeyondReach Unaligned
              Timeout Gone WindowLost Executed
  commit      NotExecuted Foreign
  cancel      Begun HasDependents Foreign NoMemory
  adopt       Busy TooManyTables
  close       Busy Bound Timeout Gone
  zap         Timeout Gone WindowLost
  inst        BarSpace NoSpace
  bar1        NotForBars InUse BarTaken NotBound NoRoom BeyondAperture Late
              OutOfRange Unaligned TooWide ReadOnly Poisoned
  read, write FAULT_PDE FAULT_PTE FAULT_RO_VIOLATION … as in kernel logs

Exit code 1: an operation did not go as the script says, or the sanitizer found
something.";

/// Arguments of `gmmu run`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The script, or - for standard input
    #[arg(value_name = "SCRIPT", required_unless_present_any = ["trace", "mmiotrace", "soak"])]
    script: Option<PathBuf>,

    /// Do what a trace of a driver's accesses says instead, and judge that
    #[arg(long, value_name = "FILE", conflicts_with_all = ["script", "snapshot", "keep_going", "mmiotrace"])]
    trace: Option<PathBuf>,

    /// The same with a log of Linux's mmiotrace of a real card
    #[arg(long, value_name = "FILE", conflicts_with_all = ["script", "snapshot", "keep_going"])]
    mmiotrace: Option<PathBuf>,

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

    /// Do random jobs on several spaces instead, with injected faults, for so many minutes
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["script", "trace", "mmiotrace", "snapshot", "vram_out", "vram", "keep_going"])]
    soak: Option<u64>,

    /// Jobs after which a soak ends
    #[arg(long, value_name = "N", value_parser = number, requires = "soak")]
    jobs: Option<u64>,

    /// Of a script with threads, try so many schedules
    #[arg(long, value_name = "N", value_parser = number, default_value = "2000")]
    schedules: u64,

    /// Draw them by lot, from the seed
    #[arg(long)]
    random_schedules: bool,

    /// Write the shortest script that shows the mistake to a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["trace", "mmiotrace", "soak"])]
    reduced: Option<PathBuf>,

    /// What the GPU's translation caches fetch by themselves: off, worst (all that they may), random[=SEED]
    /// [default: off, and worst where the script has threads]
    #[arg(long, value_name = "HOW", value_parser = speculation, conflicts_with_all = ["trace", "mmiotrace", "soak"])]
    speculation: Option<Speculation>,

    /// Go on after an operation that did not go as the script says
    #[arg(long)]
    keep_going: bool,

    /// Where everything arbitrary in the model comes from
    #[arg(long, value_name = "N", value_parser = number, default_value = "0")]
    seed: u64,
}

/// All that `gmmu run` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Report {
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
    /// What was tried, where the script has threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    explored: Option<ExploredView>,
    /// What BAR1 has, where it goes through a space.
    #[serde(skip_serializing_if = "Option::is_none")]
    bar1: Option<Bar1View>,
    /// The lines of the script that each finding tells of.
    #[serde(skip)]
    histories: Vec<String>,
    /// Where the script came from, for messages.
    #[serde(skip)]
    script: String,
}

/// What came of the threads of a script.
#[derive(Debug, JsonSchema, Serialize)]
struct ExploredView {
    /// Schedules that were tried.
    schedules: usize,
    /// Whether there are no others.
    all: bool,
    /// The one that all else here is of: the first that shows a mistake, or the last.
    schedule: String,
    /// The shortest script that shows the mistake.
    #[serde(skip_serializing_if = "Option::is_none")]
    reduced: Option<String>,
}

#[derive(Debug, JsonSchema, Serialize)]
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
    let traced = args.trace.as_deref().map(|path| (path, replay::Kind::Trace));
    if let Some((path, kind)) = traced.or(args.mmiotrace.as_deref().map(|path| (path, replay::Kind::Mmiotrace))) {
        let Args { chip, vram, seed, .. } = *args;
        let options = replay::Options { chip, vram, seed, vram_out: args.vram_out.as_deref() };
        return replay::run(path, kind, options, console);
    }
    if let Some(minutes) = args.soak {
        let chip = args.chip.map_or_else(|| chip("gh100").map_err(Failure::usage), Ok)?;
        let time = Duration::from_secs(minutes.saturating_mul(60));
        return soak::run(soak::Options { chip, seed: args.seed, time, jobs: args.jobs.unwrap_or(u64::MAX) }, console);
    }
    let Some(script) = &args.script else { return Err(Failure::usage("no script")) };
    if let (Some(image), Some(snapshot)) = (&args.vram_out, &args.snapshot)
        && files::same(image, snapshot)
    {
        return Err(Failure::usage("--vram-out and --snapshot name the same file"));
    }
    let name = script.display().to_string();
    let text = files::read_text(script, console)?;
    let script = Script::read(&name, &text)?;
    let (chip, vram) = model(args.chip, args.vram, &script, &name)?;
    if script.has_threads() {
        return with_format!(chip.mmu, explore(args, chip, vram, &script, console));
    }
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
    let speculation = args.speculation.unwrap_or(Speculation::Off);
    let config = Config { speculation, ..script.config(vram, args.seed) };
    let machine = Machine::with(chip, config, &script.named_memory())?;
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
    let report = report(chip, &mut runner, operations, broken);
    finish(args, runner, report, console)
}

/// Tries the schedules of a script with threads.
fn explore<F: Format>(
    args: &Args,
    chip: &'static Chip,
    vram: u64,
    script: &Script,
    console: &mut Console<'_>,
) -> Outcome {
    let speculation = args.speculation.unwrap_or(Speculation::Worst);
    let config = Config { speculation, ..script.config(vram, args.seed) };
    let named = script.named_memory();
    let make = || Machine::with(chip, config.clone(), &named);
    let order = if args.random_schedules { Order::Random(args.seed) } else { Order::Interruptions };
    let explorer = Explorer::new(make, order, usize::try_from(args.schedules).unwrap_or(usize::MAX));
    let progress = Progress::new(console.terminal(), "trying schedules", None);
    let mut explored = explorer.explore::<F>(script)?;
    let worth_it = explored.found && script.schedule.is_none();
    // What options have said, the script is to say itself.
    let bar1 = script.bar1.map(|bytes| format!(" bar1={}", Size(bytes))).unwrap_or_default();
    let gpu = Some(format!("gpu {} vram={}{bar1}", chip.name, Size(vram)));
    let whole = Script { gpu, ..script.clone() };
    let reduced = if worth_it { Some(explorer.reduce(&whole, &mut explored)?) } else { None };
    drop(progress);
    if let (Some(path), Some(reduced)) = (&args.reduced, &reduced) {
        files::write_whole(path, |file| {
            file.write_all(reduced.as_bytes()).map_err(|error| files::unwritable(path, &error))
        })?;
    }
    let Explored { trial, schedules, all, .. } = explored;
    let Trial { mut runner, broken, operations, schedule, .. } = trial;
    let view = |Broken { line, text, why }| BrokenView { line, operation: text, says: why };
    let mut report = report(chip, &mut runner, operations, broken.map(view).into_iter().collect());
    report.explored = Some(ExploredView { schedules, all, schedule, reduced });
    finish(args, runner, report, console)
}

/// Writes what is asked for, and says how it went.
fn finish<F: Format>(args: &Args, mut runner: Runner<F>, mut report: Report, console: &mut Console<'_>) -> Outcome {
    if let Some(path) = &args.vram_out {
        write_vram(runner.machine().gpu(), path)?;
    }
    if let Some(path) = &args.snapshot {
        runner.snapshot(path)?;
    }
    report.script = args.script.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
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
        .map(|(name, vmm)| SpaceView { name: name.to_owned(), mmu: F::VERSION.name(), root: Text(vmm.pdb()) })
        .collect();
    let findings = runner.machine().gpu().findings().to_vec();
    let histories = findings.iter().map(|finding| history(finding, runner)).collect();
    let tables = runner.spaces().map(|(_, vmm)| vmm.census()).map(|c| c.directories + c.leaf_tables).sum();
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
        explored: None,
        bar1: runner.occupancy().map(Bar1View::from),
        histories,
        script: String::new(),
    }
}

/// What a finding tells of, in lines of the script.
fn history<F: Format>(finding: &Finding, runner: &Runner<F>) -> String {
    let events = match finding.cached_op {
        Some(_) => [("cached", finding.cached_op), ("changed", finding.changed_op), ("used", Some(finding.op))],
        None => [("", None), ("changed", finding.changed_op), ("found", Some(finding.op))],
    };
    let said = events.into_iter().filter_map(|(what, op)| Some(format!("{what} in line {}", runner.line_of(op?)?)));
    said.collect::<Vec<_>>().join(", ")
}

impl View for Report {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        if let Some(ExploredView { schedules, all, schedule, reduced }) = &self.explored {
            let tried = Counted(*schedules as u64, "schedule", "schedules");
            let rest = if *all { ", which are all" } else { "" };
            console.line(format_args!("{STRONG}tried {tried} of the threads{rest}{STRONG:#}"))?;
            if let Some(reduced) = reduced {
                console.line(format_args!("the last one shows a mistake: {schedule}"))?;
                console.line(format_args!("the shortest script that does:"))?;
                for line in reduced.lines() {
                    console.line(format_args!("  {line}"))?;
                }
            }
        }
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
        if let Some(bar1) = &self.bar1 {
            console.line(format_args!("BAR1: {}", bar1.says()))?;
        }
        if self.broken.is_empty() && !self.findings.iter().any(FindingView::counts) {
            console.line(format_args!("{GOOD}everything went as the script says{GOOD:#}"))?;
        }
        if self.findings.is_empty() {
            return FindingView::list(&[], console);
        }
        for (finding, history) in self.findings.iter().zip(&self.histories) {
            FindingView::list(std::slice::from_ref(finding), console)?;
            console.line(format_args!("  {history}"))?;
        }
        Ok(())
    }
}
