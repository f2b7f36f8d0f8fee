//! `gmmu serve`: the software GPU as a PCI device for QEMU.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use gmmu::chip::Chip;
use gmmu_serve::{Card, Parted, Server};
use gmmu_sim::Config;
use gmmu_sim::trace::Tape;
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{BAD, Console, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::machine::{CountsView, FindingView};
use crate::notation::{Counted, Size};
use crate::num::number;
use crate::snapshot::{self, NamedRoot, SnapshotInfo};
use crate::source::chip;

const EXAMPLES: &str = "\
Examples:
  gmmu serve --socket /tmp/gpu.sock --chip gp107 --vram 256M
  gmmu serve --socket /tmp/gpu.sock --sanitize --record boot.trace
  qemu-system-x86_64 … -object memory-backend-memfd,id=m,size=512M,share=on \\
    -machine memory-backend=m -device '{\"driver\":\"vfio-user-pci\",
    \"socket\":{\"type\":\"unix\",\"path\":\"/tmp/gpu.sock\"}}'

Serves one client, QEMU 10.1 or newer for example, and ends when that has
disconnected. The guest sees a PCI device of NVIDIA's with the registers, the
memory and the MMU of the chip.

A guest can write a number to configuration space, at byte 12 of the vendor's
capability that has the letters gmmu at byte 4. With --snapshot-on-mark FILE the
page tables of that moment are written to FILE.NUMBER.";

/// Arguments of `gmmu serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The socket to make
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,

    /// The GPU to model
    #[arg(long, value_name = "CHIP", default_value = "gh100", value_parser = chip)]
    chip: &'static Chip,

    /// Its video memory [default: 96G]
    #[arg(long, value_name = "SIZE", value_parser = number)]
    vram: Option<u64>,

    /// Bytes of BAR1
    #[arg(long, value_name = "SIZE", value_parser = number, default_value = "64M")]
    bar1: u64,

    /// Print what the sanitizer finds, as it happens, and end with 1 if there was anything
    #[arg(long)]
    sanitize: bool,

    /// Write a trace of all accesses, for gmmu run --trace
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Write a snapshot of the page tables in the end
    #[arg(long, value_name = "FILE")]
    snapshot_on_exit: Option<PathBuf>,

    /// Write a snapshot, FILE.N, whenever the guest writes N to the marker
    #[arg(long, value_name = "FILE")]
    snapshot_on_mark: Option<PathBuf>,
}

/// All that `gmmu serve` says in the end.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Served {
    schema: u32,
    chip: &'static str,
    parted: String,
    counts: CountsView,
    faults: u64,
    spaces: usize,
    /// What the sanitizer found; none where it was not asked for.
    findings: Option<Vec<FindingView>>,
    /// Findings beyond those.
    more_findings: u64,
}

/// Most findings that are kept; the rest are counted.
const SHOWN: usize = 1024;

/// Runs the command.
///
/// # Errors
/// Exit code 2 where there is no such card, 3 or 4 where socket or files cannot be made.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let base = Config::chip(args.chip.name);
    let config = Config { vram: args.vram.unwrap_or(base.vram), bar1_bytes: args.bar1, ..base };
    let mut card = Card::new(&config).map_err(Failure::usage)?;
    let tape = args.record.as_deref().map(|path| tape(path, &config)).transpose()?;
    if let Some(tape) = &tape {
        card.record(tape.clone());
    }
    let server = Server::bind(&args.socket).map_err(|error| {
        let what = format!("{}: no socket: {error}", args.socket.display());
        Failure::new(Exit::of_file(&error), what).hint("name a path that does not exist yet, in a folder that does")
    })?;
    let (name, device) = (args.chip.name, card.identity().device);
    console.note(format_args!(
        "{name} (10de:{device:04x}), {} of video memory, at {}",
        Size(config.vram),
        args.socket.display()
    ));

    let mut watch = Watch { args, console, found: Vec::new(), more: 0, failed: None };
    let parted = server.serve(&mut card, |card| watch.after(card));
    let Watch { found, more, failed, .. } = watch;
    let clean = !found.iter().any(FindingView::counts);
    if let Some(tape) = tape {
        tape.finish().map_err(|error| files::unwritable(args.record.as_deref().unwrap_or(Path::new("")), &error))?;
    }
    if let Some(path) = &args.snapshot_on_exit {
        if card.gpu().roots().next().is_some() {
            write_snapshot(&mut card, args.chip, path)?;
        } else {
            console.note(format_args!("{}: not written, for nobody made an address space", path.display()));
        }
    }
    let served = Served {
        schema: SCHEMA,
        chip: args.chip.name,
        parted: parted.to_string(),
        counts: card.gpu().counts().into(),
        faults: card.gpu().faults(),
        spaces: card.gpu().roots().count(),
        findings: args.sanitize.then_some(found),
        more_findings: more,
    };
    console.show(&served)?;
    match (parted, failed) {
        (_, Some(failure)) => Err(failure),
        (Parted::Cleanly, None) if clean => Ok(Exit::Done),
        (Parted::Cleanly | Parted::Amid | Parted::BadSize { .. }, None) => Ok(Exit::Negative),
        (failed, None) => Err(Failure::input(failed)),
    }
}

fn tape(path: &Path, config: &Config) -> Result<Tape, Failure> {
    let file = File::create(path).map_err(|error| files::unwritable(path, &error))?;
    Ok(Tape::new(BufWriter::new(file), &config.chip, config.vram))
}

/// What is done behind every message.
struct Watch<'a, 'c> {
    args: &'a Args,
    console: &'a mut Console<'c>,
    found: Vec<FindingView>,
    more: u64,
    /// The first thing that could not be written.
    failed: Option<Failure>,
}

impl Watch<'_, '_> {
    fn after(&mut self, card: &mut Card) {
        if self.args.sanitize && !card.gpu().findings().is_empty() {
            let found: Vec<_> = card.gpu().take_findings().iter().map(FindingView::from).collect();
            let (kept, more) = found.split_at(found.len().min(SHOWN.saturating_sub(self.found.len())));
            self.more += more.len() as u64;
            if !self.console.json() && !kept.is_empty() {
                let shown = FindingView::list(kept, self.console).and_then(|()| self.console.flush());
                self.failed = self.failed.take().or(shown.err());
            }
            self.found.extend_from_slice(kept);
        }
        if let (Some(mark), Some(path)) = (card.take_mark(), &self.args.snapshot_on_mark) {
            let mut name = path.clone().into_os_string();
            name.push(format!(".{mark}"));
            let written = write_snapshot(card, self.args.chip, Path::new(&name));
            self.failed = self.failed.take().or(written.err());
        }
    }
}

/// The tables of all spaces that the card knows of.
fn write_snapshot(card: &mut Card, chip: &'static Chip, path: &Path) -> Result<(), Failure> {
    let gpu = card.gpu();
    let [bar1, bar2] = gpu.bar_roots();
    let name = |at| match Some(at) {
        at if at == bar1 => "bar1".to_owned(),
        at if at == bar2 => "bar2".to_owned(),
        _ => format!("{at}"),
    };
    let roots = gpu.roots().take(snapshot::ROOTS_MAX);
    let roots = roots.map(|at| NamedRoot { name: name(at), at }).collect();
    let blocks = gpu.instances().collect();
    let info = SnapshotInfo { blocks, ..SnapshotInfo::of_chip(chip, gpu.vram_bytes(), roots) };
    snapshot::write(path, &info, &mut gpu.peek()).map(drop)
}

impl View for Served {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        let CountsView { reads, invalidates, .. } = self.counts;
        console.line(format_args!("{STRONG}{}{STRONG:#}: {}", self.chip, self.parted))?;
        console.line(format_args!(
            "BAR0: {}, {}, {}; address spaces: {}, faults: {}",
            self.counts.written(),
            Counted(reads, "read", "reads"),
            Counted(invalidates, "invalidate", "invalidates"),
            self.spaces,
            self.faults
        ))?;
        match &self.findings {
            None => Ok(()),
            Some(found) if found.is_empty() => FindingView::list(&[], console),
            Some(found) => {
                let found = Counted(found.len() as u64 + self.more_findings, "finding", "findings");
                console.line(format_args!("{BAD}the sanitizer: {found}{BAD:#}"))
            }
        }
    }
}
