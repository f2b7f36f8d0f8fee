//! `gmmu tree`: all tables of an address space.

use std::collections::HashMap;

use gmmu::addr::TableAddr;
use gmmu::format::Format;
use gmmu::walk::{Cursor, Event, Table, View as CursorView, WalkError};
use schemars::JsonSchema;
use serde::Serialize;

use crate::bad::BadList;
use crate::console::{Console, FAINT, ODD, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::notation::{Address, Text};
use crate::num::number;
use crate::progress::Progress;
use crate::ranges::span_name;
use crate::source::{Source, SourceArgs};
use crate::with_format;

const EXAMPLES: &str = "\
Examples:
  gmmu tree --file vram.img --chip gh100 --root 0x10000
  gmmu tree --file vram.img --mmu v2 --root 0x10000 --json

A table that several entries point to is shown under each of them, but read
once. Where the output was cut short, ? are numbers that are not known.
Exit code 1: the output was cut short.";

/// Arguments of `gmmu tree`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Stop after so many tables
    #[arg(long, value_name = "N", value_parser = number, default_value = "1000000")]
    limit: u64,
}

/// All that `gmmu tree` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Tree {
    schema: u32,
    mmu: &'static str,
    root: Text<TableAddr>,
    tables: Vec<TableView>,
    #[schemars(with = "Vec<crate::bad::BadEntry>")]
    bad: BadView,
    truncated: bool,
}

/// The bad entries, as a list.
#[derive(Debug, Default)]
struct BadView(BadList);

impl Serialize for BadView {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.entries().serialize(serializer)
    }
}

/// Over the lines of the tables.
const HEADING: &str = "level             slot  table                va              used";

/// One table, at one place in the tree.
#[derive(Clone, Debug, JsonSchema, Serialize)]
struct TableView {
    level: &'static str,
    /// What one of its entries spans.
    span: u64,
    /// Which entry of its parent points to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u64>,
    at: Text<TableAddr>,
    va: Address,
    depth: usize,
    /// The slot that points to it; none for the top table.
    parent: Option<Text<TableAddr>>,
    entries: u64,
    /// Entries that are not 0. Unknown where the listing was cut short inside the table, as is the next.
    used: Option<u64>,
    /// Leaves and sparse entries in it and below it.
    leaves: Option<u64>,
    /// Shown before, at another place; its numbers are those of there.
    again: bool,
}

/// Runs the command.
///
/// # Errors
/// Those of the source.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let mut source = args.source.open(console)?;
    let tree = with_format!(source.mmu, tree(args, &mut source, console))?;
    console.show(&tree)?;
    if !tree.truncated {
        return Ok(Exit::Done);
    }
    console.note(format_args!("cut short: there are more than {} tables or bad entries", args.limit));
    Ok(Exit::Negative)
}

fn tree<F: Format>(args: &Args, source: &mut Source, console: &mut Console<'_>) -> Result<Tree, Failure> {
    let mut tree = Tree {
        schema: SCHEMA,
        mmu: F::VERSION.name(),
        root: Text(source.root),
        tables: Vec::new(),
        bad: BadView::default(),
        truncated: false,
    };
    let range = 0..source.va_end();
    let mut cursor = Cursor::<F>::new(source.root, source.sizes, range, CursorView::Structure, args.limit)
        .map_err(|error| source.failure(error))?;
    let mut progress = Progress::new(console.terminal(), "reading tables", None);
    let mut walked = Walked::default();
    loop {
        progress.advance(1);
        match cursor.next(&mut source.memory) {
            Ok(None) => break,
            Ok(Some(Event::Enter(table))) => {
                if tree.tables.len() as u64 >= args.limit {
                    tree.truncated = true;
                    break;
                }
                if walked.enter(&table, &mut tree.tables) {
                    cursor.skip();
                }
            }
            Ok(Some(Event::Leave { used, leaves, .. })) => walked.leave(used, leaves, &mut tree.tables),
            Ok(Some(Event::Entry { va, step })) => tree.bad.0.add(source, va, &step),
            Err(WalkError::TooManyTables { .. }) => {
                tree.truncated = true;
                break;
            }
            Err(error) => return Err(source.failure(error)),
        }
    }
    drop(progress);
    walked.finish(&mut tree.tables);
    tree.truncated |= tree.bad.0.truncated();
    Ok(tree)
}

/// Where in the tree the cursor is, and which tables it has seen.
#[derive(Debug, Default)]
struct Walked {
    /// Numbers of the tables that were entered and not left.
    open: Vec<usize>,
    /// The first place of each table in the list.
    seen: HashMap<(TableAddr, u32), usize>,
    /// Tables that were seen before, with the number of their first place.
    again: Vec<(usize, usize)>,
}

impl Walked {
    /// Adds a table to the list. True when it was seen before, and need not be read.
    fn enter(&mut self, table: &Table, tables: &mut Vec<TableView>) -> bool {
        let number = tables.len();
        let first = *self.seen.entry((table.at, table.level.shift)).or_insert(number);
        let again = first != number;
        tables.push(TableView {
            level: table.level.name,
            span: table.level.span(),
            slot: self.open.last().and_then(|&parent| tables.get(parent)).map(|parent| parent.slot_of(table.va)),
            at: Text(table.at),
            va: Address(table.va),
            depth: self.open.len(),
            parent: table.parent.map(Text),
            entries: table.level.entries(),
            used: None,
            leaves: None,
            again,
        });
        if again {
            self.again.push((number, first));
        } else {
            self.open.push(number);
        }
        again
    }

    fn leave(&mut self, used: u64, leaves: u64, tables: &mut [TableView]) {
        if let Some(table) = self.open.pop().and_then(|number| tables.get_mut(number)) {
            (table.used, table.leaves) = (Some(used), Some(leaves));
        }
    }

    /// Gives tables that were seen before the numbers of their first place.
    fn finish(self, tables: &mut [TableView]) {
        for (number, first) in self.again {
            let Some((used, leaves)) = tables.get(first).map(|table| (table.used, table.leaves)) else { continue };
            if let Some(table) = tables.get_mut(number) {
                (table.used, table.leaves) = (used, leaves);
            }
        }
    }
}

impl TableView {
    /// The entry that decides about `va`. Spans and numbers of entries are powers of two, and not 0.
    const fn slot_of(&self, va: u64) -> u64 {
        (va >> self.span.trailing_zeros()) & self.entries.saturating_sub(1)
    }
}

impl View for Tree {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        console.line(format_args!("{STRONG}MMU {}, top table {}{STRONG:#}", self.mmu, self.root))?;
        console.line(format_args!("{STRONG}{HEADING}{STRONG:#}"))?;
        for table in &self.tables {
            let name = match table.level {
                "PTE" => format!("PTE {}", span_name(table.span)),
                level => level.to_owned(),
            };
            let name = format!("{:indent$}{name}", "", indent = table.depth * 2);
            let slot = table.slot.map_or_else(|| " top".to_owned(), |slot| format!("{slot:>4}"));
            let again = if table.again { format!("  {ODD}again{ODD:#}") } else { String::new() };
            let used = table.used.map_or_else(|| "?".to_owned(), |used| used.to_string());
            console.line(format_args!(
                "{name:<17} {FAINT}{slot}{FAINT:#}  {}  {}  {used:>3} of {:>3}{again}",
                table.at, table.va, table.entries
            ))?;
        }
        self.bad.0.text(console)
    }
}
