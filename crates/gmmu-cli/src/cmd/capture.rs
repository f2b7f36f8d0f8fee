//! `gmmu capture`: a snapshot of just the page tables of a source.

use std::fs;
use std::path::PathBuf;

use gmmu::addr::TableAddr;
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{Console, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::notation::{Counted, Size, Text};
use crate::progress::Waiting;
use crate::snapshot::{Written, write};
use crate::source::SourceArgs;

const EXAMPLES: &str = "\
Examples:
  gmmu capture --file vram.img --chip gh100 --root 0x10000 -o tables.gmmu
  gmmu dump --file tables.gmmu
  gmmu capture --file tables.gmmu --root compute -o compute.gmmu

A snapshot holds the words of page tables and nothing else of the memory, and
knows its chip and its top tables. Every command that takes --file reads it.";

/// Arguments of `gmmu capture`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// All that `gmmu capture` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Captured {
    schema: u32,
    file: String,
    chip: Option<&'static str>,
    mmu: &'static str,
    spaces: Vec<Space>,
    tables: u64,
    /// Instance blocks, of which only what they say of address spaces is kept.
    blocks: u64,
    pages: u64,
    bytes: u64,
    /// Entries whose table cannot be read in the source.
    unreadable: u64,
}

/// One address space.
#[derive(Debug, JsonSchema, Serialize)]
struct Space {
    name: String,
    root: Text<TableAddr>,
}

/// Runs the command.
///
/// # Errors
/// Those of the source, and of the file that is written.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let mut source = args.source.open(console)?;
    let output = &args.output;
    let same = fs::canonicalize(output).is_ok_and(|to| fs::canonicalize(source.memory.path()).is_ok_and(|of| of == to));
    if same {
        return Err(Failure::usage(format_args!("-o {}: is the file that is read", output.display()))
            .hint("write the snapshot to another file"));
    }
    let waiting = Waiting::new(console.terminal(), "reading tables");
    let written = write(output, &source.info, &mut source.memory);
    drop(waiting);
    // The source says best why it cannot be read.
    let Written { tables, blocks, pages, bytes, unreadable } =
        written.map_err(|failure| source.memory.take_failure().unwrap_or(failure))?;
    let info = &source.info;
    let spaces = info.roots.iter().map(|root| Space { name: root.name.clone(), root: Text(root.at) });
    console.show(&Captured {
        schema: SCHEMA,
        file: output.display().to_string(),
        chip: info.chip.map(|chip| chip.name),
        mmu: info.mmu.name(),
        spaces: spaces.collect(),
        tables,
        blocks,
        pages,
        bytes,
        unreadable,
    })?;
    if unreadable > 0 {
        console.note(format_args!("{unreadable} entries point to tables that cannot be read, and are not captured"));
    }
    Ok(Exit::Done)
}

impl View for Captured {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        let Self { file, tables, blocks, pages, bytes, .. } = self;
        for Space { name, root } in &self.spaces {
            console.line(format_args!(
                "{STRONG}{}{STRONG:#}  MMU {}, top table {root}",
                name.escape_debug(),
                self.mmu
            ))?;
        }
        let held = Size(pages * 4096);
        let blocks = match blocks {
            0 => String::new(),
            blocks => format!(" and {}", Counted(*blocks, "instance block", "instance blocks")),
        };
        console.line(format_args!("{tables} tables{blocks} in {pages} pages ({held}): {bytes} bytes in {file}"))
    }
}
