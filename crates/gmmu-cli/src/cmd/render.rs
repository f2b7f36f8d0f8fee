//! `gmmu render`: a picture of an address space and its tables.

mod data;
mod dot;

use std::io::Write;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{Console, SCHEMA, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::notation::Bytes;
use crate::source::SourceArgs;
use crate::with_format;
use data::{Picture, collect};

const EXAMPLES: &str = "\
Examples:
  gmmu render -o space.html --file vram.img --chip gh100 --root 0x10000
  gmmu render -o space.html --script examples/two-sizes.gmmu
  gmmu render -o space.dot --file tables.gmmu && dot -Tsvg space.dot > space.svg

The HTML is one file that needs no network: a map to zoom into, the tree of
tables, a search for an address, the fields of every entry, and what `gmmu
check` finds. Above 20000 ranges only tables are drawn, unless --full is given.
Exit code 1: there was more than could be drawn.";

/// The page, with a place for the data.
const PAGE: &str = include_str!("render/page.html");
const PLACE: &str = "@DATA@";

/// Arguments of `gmmu render`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// The file to write; its end says how: .html or .dot
    #[arg(short, long, value_name = "FILE.html|.dot")]
    output: PathBuf,

    /// Draw every range, however many there are
    #[arg(long)]
    full: bool,
}

/// All that `gmmu render` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Rendered {
    schema: u32,
    file: String,
    bytes: u64,
    tables: u64,
    ranges: u64,
    findings: u64,
    /// Only tables were drawn.
    summary: bool,
    truncated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Html,
    Dot,
}

/// Runs the command.
///
/// # Errors
/// Those of the source, and of the file that is written.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let output = &args.output;
    let form = match output.extension().and_then(|end| end.to_str()) {
        Some("html" | "htm") => Form::Html,
        Some("dot" | "gv") => Form::Dot,
        _ => {
            return Err(Failure::usage(format_args!("-o {}: what is it to be?", output.display()))
                .hint("end the name in .html or .dot"));
        }
    };
    let mut source = args.source.open(console)?;
    if files::same(output, source.memory.path()) {
        return Err(Failure::usage(format_args!("-o {}: is the file that is read", output.display()))
            .hint("write the picture to another file"));
    }
    let picture = with_format!(source.mmu, collect(&mut source, console.terminal(), args.full))?;
    let text = match form {
        Form::Html => html(&picture)?,
        Form::Dot => dot::dot(&picture),
    };
    files::write_whole(output, |file| {
        file.write_all(text.as_bytes()).map_err(|error| files::unwritable(output, &error))
    })?;
    console.show(&Rendered {
        schema: SCHEMA,
        file: output.display().to_string(),
        bytes: text.len() as u64,
        tables: picture.tables.len() as u64,
        ranges: picture.ranges.len() as u64,
        findings: picture.findings.len() as u64,
        summary: picture.summary,
        truncated: picture.truncated,
    })?;
    if picture.summary {
        console.note(format_args!(
            "more than {} ranges: each table stands for what is in it; --full draws all",
            data::RANGES
        ));
    }
    if picture.truncated {
        console.note(format_args!("cut short: there is more than is drawn"));
    }
    Ok(if picture.truncated { Exit::Negative } else { Exit::Done })
}

/// The page with the data in it. `<` cannot end the script early.
fn html(picture: &Picture) -> Result<String, Failure> {
    let data = serde_json::to_string(picture).map_err(|error| Failure::from(std::io::Error::from(error)))?;
    Ok(PAGE.replacen(PLACE, &data.replace('<', "\\u003c"), 1))
}

impl View for Rendered {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        let Self { file, bytes, tables, ranges, findings, summary, .. } = self;
        let ranges = if *summary { "ranges summed up by table".to_owned() } else { format!("{ranges} ranges") };
        console.line(format_args!("{file}: {tables} tables, {ranges}, {findings} findings in {}", Bytes(*bytes)))
    }
}
