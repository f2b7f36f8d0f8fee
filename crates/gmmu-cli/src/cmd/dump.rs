//! `gmmu dump`: all mappings of an address space.

use clap::ValueEnum;
use gmmu::addr::TableAddr;
use gmmu::format::Format;
use gmmu::walk::{Step, WalkError};
use schemars::JsonSchema;

use crate::bad::{BAD_MAX, BadEntry, BadList};
use crate::console::{Console, SCHEMA, STRONG};
use crate::exit::{Exit, Failure, Outcome};
use crate::notation::Text;
use crate::num::{self, number};
use crate::progress::Progress;
use crate::ranges::{Mapped, RangeView};
use crate::scan::{Barren, Scan, Space};
use crate::source::{Source, SourceArgs};
use crate::with_format;

const EXAMPLES: &str = "\
Examples:
  gmmu dump --file vram.img --chip gh100 --root 0x10000
  gmmu dump --file vram.img --mmu v2 --root 0x10000 --range 0x1000000000+1G --merge none
  gmmu dump --file vram.img --mmu v3 --root 0x10000 --json

Neighbours in addresses and memory with equal page size, kind and flags are one
range. An entry that lies partly in --range is shown whole.
Exit code 1: the output was cut short.";

/// Arguments of `gmmu dump`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Which neighbours to show as one range
    #[arg(long, value_name = "HOW", default_value = "va")]
    merge: Merge,

    /// Show only this part of the address space
    #[arg(long, value_name = "A..B|A+LEN", value_parser = num::range)]
    range: Option<num::Range>,

    /// Stop after so many ranges
    #[arg(long, value_name = "N", value_parser = number, default_value = "1000000")]
    limit: u64,
}

/// Which neighbours are one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Merge {
    /// Those that follow each other in addresses and in memory
    Va,
    /// None: one line for each entry
    None,
}

/// Runs the command.
///
/// # Errors
/// Those of the source.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let mut source = args.source.open(console)?;
    with_format!(source.mmu, dump(args, &mut source, console))
}

fn dump<F: Format>(args: &Args, source: &mut Source, console: &mut Console<'_>) -> Outcome {
    let range = args.range.map_or(0..source.va_end(), |range| range.start..range.end);
    let space = Space { root: source.root, sizes: source.sizes, tables_max: source.tables_max() };
    let mut barren = Barren::default();
    let mut scan = Scan::<F>::new(space, range, &mut barren).map_err(|error| source.failure(error))?;
    let mut list = List::begin(console, source, args)?;
    let mut progress = Progress::beside_output(list.console.terminal(), "walking", None);
    let cut = loop {
        progress.advance(1);
        match scan.next(&mut source.memory) {
            Ok(Some((va, step))) => {
                if !list.entry(source, va, &step)? {
                    break Some(format!("--limit {} ranges were shown, and there are more", args.limit));
                }
            }
            Ok(None) => break None,
            Err(error @ WalkError::TooManyTables { .. }) => break Some(error.to_string()),
            Err(error) => return Err(source.failure(error)),
        }
    };
    drop(progress);
    list.end(cut)
}

/// All that `gmmu dump` says. It is written piece by piece, so this is for its schema alone.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "see above")]
pub(crate) struct Dumped {
    schema: u32,
    mmu: &'static str,
    root: Text<TableAddr>,
    ranges: Vec<RangeView>,
    bad: Vec<BadEntry>,
    truncated: bool,
}

/// The output, range by range: a large space is never held in memory.
struct List<'a, 'b> {
    console: &'a mut Console<'b>,
    merge: Merge,
    limit: u64,
    shown: u64,
    open: Option<Mapped>,
    bad: BadList,
}

impl<'a, 'b> List<'a, 'b> {
    fn begin(console: &'a mut Console<'b>, source: &Source, args: &Args) -> Result<Self, Failure> {
        if console.json() {
            let (mmu, root) = (source.mmu, source.root);
            console.raw(&format!(r#"{{"schema":{SCHEMA},"mmu":"{mmu}","root":"{root}","ranges":["#))?;
        }
        let bad = BadList::default();
        Ok(Self { console, merge: args.merge, limit: args.limit, shown: 0, open: None, bad })
    }

    /// Takes one entry. False when there is no room for it.
    fn entry(&mut self, source: &Source, va: u64, step: &Step) -> Result<bool, Failure> {
        self.bad.add(source, va, step);
        let Some(next) = Mapped::of(va, step) else { return Ok(true) };
        if self.merge == Merge::Va
            && let Some(open) = &mut self.open
            && open.goes_on_with(&next)
        {
            open.bytes += next.bytes;
            return Ok(true);
        }
        self.close()?;
        if self.shown >= self.limit {
            return Ok(false);
        }
        self.open = Some(next);
        Ok(true)
    }

    fn close(&mut self) -> Result<(), Failure> {
        let Some(mapped) = self.open.take() else { return Ok(()) };
        let view = RangeView::from(&mapped);
        if self.console.json() {
            if self.shown > 0 {
                self.console.raw(",")?;
            }
            self.console.raw_json(&view)?;
        } else {
            if self.shown == 0 {
                self.console.line(format_args!("{STRONG}{}{STRONG:#}", RangeView::HEADING))?;
            }
            self.console.line(format_args!("{}", view.line()))?;
        }
        self.shown += 1;
        Ok(())
    }

    fn end(mut self, cut: Option<String>) -> Outcome {
        self.close()?;
        let truncated = cut.is_some() || self.bad.truncated();
        if self.console.json() {
            self.console.raw(r#"],"bad":"#)?;
            self.console.raw_json(&self.bad.entries())?;
            self.console.raw(&format!(",\"truncated\":{truncated}}}\n"))?;
        } else {
            self.bad.text(self.console)?;
            if self.shown == 0 {
                self.console.note(format_args!("nothing is mapped there"));
            }
        }
        if let Some(cut) = cut {
            self.console.note(format_args!("cut short: {cut}"));
        }
        if self.bad.truncated() {
            self.console.note(format_args!("cut short: more than {BAD_MAX} bad entries"));
        }
        Ok(if truncated { Exit::Negative } else { Exit::Done })
    }
}
