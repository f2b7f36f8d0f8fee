//! `gmmu diff`: two sources as changed mappings.

mod changes;
mod tables;

use std::path::Path;

use gmmu::addr::TableAddr;
use gmmu::chip::Chip;
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{BAD, Console, GOOD, ODD, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::format::Mmu;
use crate::notation::{Bytes, Text};
use crate::num::{number, shown};
use crate::ranges::RangeView;
use crate::scan::Barren;
use crate::snapshot::is_snapshot;
use crate::source::{Source, SourceArgs, chip, root};
use crate::stream::Stream;
use changes::{ChangeView, Sort, Sums};
use tables::TableChange;

const EXAMPLES: &str = "\
Examples:
  gmmu diff before.gmmu after.gmmu
  gmmu diff before.img@0x10000 after.img@0x10000 --chip gh100
  gmmu diff slice.img@0x100010000+0x100000000 all.img@0x10000 --mmu v3 --json
  gmmu diff all.gmmu@compute all.gmmu@graphics --tables

A source is PATH[@ROOT][+BASE]: a raw image, a snapshot, or a script (*.gmmu).
ROOT is the top table, or an address space by its name; BASE the VRAM address
of an image's first byte. --tables compares the tables, too.
Exit code 1: they differ.";

/// Arguments of `gmmu diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The first source: what was
    #[arg(value_name = "A")]
    a: String,

    /// The second source: what is
    #[arg(value_name = "B")]
    b: String,

    /// Compare the tables, too: which came, went, moved, or hold more or fewer entries
    #[arg(long)]
    tables: bool,

    /// The chip that raw images are of, such as gh100
    #[arg(long, value_name = "CHIP", value_parser = chip)]
    chip: Option<&'static Chip>,

    /// The format of their page tables, where the chip is not known
    #[arg(long)]
    mmu: Option<Mmu>,

    /// Stop after so many changes
    #[arg(long, value_name = "N", value_parser = number, default_value = "100000")]
    limit: u64,
}

/// All that `gmmu diff` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Diff {
    schema: u32,
    a: SideView,
    b: SideView,
    changes: Vec<ChangeView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tables: Option<Vec<TableChange>>,
    /// Bytes of addresses.
    bytes: Sums,
    truncated: bool,
}

/// One side.
#[derive(Debug, JsonSchema, Serialize)]
struct SideView {
    mmu: &'static str,
    root: Text<TableAddr>,
    /// Entries that could not be followed.
    bad: u64,
}

/// Runs the command.
///
/// # Errors
/// Those of the sources.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let mut a = side(args, &args.a, console)?;
    let mut b = side(args, &args.b, console)?;
    let diff = diff(args, &mut a, &mut b, console)?;
    console.show(&diff)?;
    for (name, side) in [(&args.a, &diff.a), (&args.b, &diff.b)] {
        if side.bad > 0 {
            console.note(format_args!(
                "{name}: {} entries cannot be followed and count as not mapped; `gmmu check` tells of them",
                side.bad
            ));
        }
    }
    if diff.truncated {
        console.note(format_args!("cut short: more than {} changes, or more tables than may be read", args.limit));
    }
    let tables_differ = diff.tables.as_ref().is_some_and(|tables| !tables.is_empty());
    let same = diff.changes.is_empty() && !tables_differ && !diff.truncated;
    Ok(if same { Exit::Done } else { Exit::Negative })
}

fn diff(args: &Args, a: &mut Source, b: &mut Source, console: &Console<'_>) -> Result<Diff, Failure> {
    let view = |source: &Source| SideView { mmu: source.mmu.name(), root: Text(source.root), bad: 0 };
    let (mut a_view, mut b_view) = (view(a), view(b));
    let (mut changes, mut sums, mut truncated) = (Vec::new(), Sums::default(), false);
    {
        let terminal = console.terminal();
        let (mut barren_a, mut barren_b) = (Barren::default(), Barren::default());
        let (mut left, mut right) =
            (Stream::new(a, &mut barren_a, terminal)?, Stream::new(b, &mut barren_b, terminal)?);
        changes::compare(&mut left, &mut right, &mut sums, |change| {
            truncated = changes.len() as u64 >= args.limit;
            if !truncated {
                changes.push(ChangeView::from(&change));
            }
            Ok(!truncated)
        })?;
        truncated |= left.truncated() || right.truncated();
        (a_view.bad, b_view.bad) = (left.bad(), right.bad());
    }
    let tables = match args.tables {
        true => {
            let (tables, cut) = tables::compare(a, b, console.terminal())?;
            truncated |= cut;
            Some(tables)
        }
        false => None,
    };
    Ok(Diff { schema: SCHEMA, a: a_view, b: b_view, changes, tables, bytes: sums, truncated })
}

/// Opens `PATH[@ROOT][+BASE]`. A file of just that name comes first.
fn side(args: &Args, text: &str, console: &mut Console<'_>) -> Result<Source, Failure> {
    let (mut path, mut options) = (text, SourceArgs { chip: args.chip, mmu: args.mmu, ..SourceArgs::default() });
    if !Path::new(path).exists() {
        if let Some((rest, base)) = path.rsplit_once('+') {
            options.base = number(base).map_err(|why| wrong(text, &why.to_string()))?;
            path = rest;
        }
        if let Some((rest, at)) = path.rsplit_once('@') {
            options.root = Some(root(at).map_err(|why| wrong(text, &why.to_string()))?);
            path = rest;
        }
    }
    let file = Path::new(path);
    std::fs::metadata(file).map_err(|error| files::unreadable(file.display(), &error))?;
    let script = file.extension().is_some_and(|extension| extension == "gmmu") && !is_snapshot(file);
    if script {
        options.script = Some(file.to_owned());
        // A script says itself which chip it is for.
        (options.chip, options.mmu) = (None, None);
    } else {
        options.file = Some(file.to_owned());
        if is_snapshot(file) {
            (options.chip, options.mmu) = (None, None);
        } else if options.root.is_none() {
            return Err(Failure::usage(format_args!("{}: where is the top table?", file.display()))
                .hint(format_args!("write {path}@ADDR; `gmmu roots --file {path}` looks for likely ones")));
        }
    }
    options.open(console)
}

fn wrong(text: &str, why: &str) -> Failure {
    Failure::usage(format_args!("{}: {why}", shown(text)))
        .hint("a source is PATH[@ROOT][+BASE], such as vram.img@0x10000")
}

impl View for Diff {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        let Self { a, b, bytes, .. } = self;
        console.line(format_args!("{STRONG}A  MMU {}, top table {}{STRONG:#}", a.mmu, a.root))?;
        console.line(format_args!("{STRONG}B  MMU {}, top table {}{STRONG:#}", b.mmu, b.root))?;
        if !self.changes.is_empty() {
            console.line(format_args!("\n{STRONG}  {}{STRONG:#}", RangeView::HEADING))?;
        }
        for change in &self.changes {
            match (change.change, &change.from, &change.to) {
                (Sort::Changed, Some(from), Some(to)) => {
                    let differs = change.differs.join(" and ");
                    console.line(format_args!("{BAD}-{BAD:#} {}", from.line()))?;
                    console.line(format_args!("{GOOD}+{GOOD:#} {}", to.line()))?;
                    console.line(format_args!("  {ODD}{differs} changed{ODD:#}"))?;
                }
                (_, from, to) => {
                    for (sign, style, side) in [("-", BAD, from), ("+", GOOD, to)] {
                        if let Some(side) = side {
                            console.line(format_args!("{style}{sign}{style:#} {}", side.line()))?;
                        }
                    }
                }
            }
        }
        if let Some(tables) = &self.tables {
            console.line(format_args!("\n{STRONG}Tables{STRONG:#}"))?;
            for table in tables {
                console.line(format_args!("{}", table.line()))?;
            }
            if tables.is_empty() {
                console.line(format_args!("no difference"))?;
            }
        }
        console.line(format_args!(
            "\n{} added, {} removed, {} changed, {} the same",
            Bytes(bytes.added),
            Bytes(bytes.removed),
            Bytes(bytes.changed),
            Bytes(bytes.same)
        ))
    }
}
