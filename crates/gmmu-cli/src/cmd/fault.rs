//! `gmmu fault`: explains MMU faults that a driver logged.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::walk::{self, WalkView};
use crate::console::Console;
use crate::exit::{Exit, Failure, Outcome};
use crate::fault::advice::other_xid;
use crate::fault::lines::for_each_line;
use crate::fault::packet;
use crate::fault::parse::{FAULTS_MAX, Log, Parser};
use crate::fault::report::Report;
use crate::files::unreadable;
use crate::source::{Source, SourceArgs};

const EXAMPLES: &str = "\
Examples:
  gmmu fault 'NVRM: Xid (PCI:0000:2b:00): 31, pid=1234, name=python, Ch 00000023, ...'
  sudo dmesg | gmmu fault -
  gmmu fault /var/log/kern.log.2.gz --json
  gmmu fault --packet 00908bff000000000070563412... --chip gh100
  gmmu fault 'NVRM: Xid ...' --file vram.img --chip gh100 --root 0x10000

With a source, the walk of the address through its page tables is shown too.
Exit code 1: nothing in the input is an MMU fault.";

/// Arguments of `gmmu fault`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A line of the kernel log, the name of a log file (.gz too), or - for stdin
    #[arg(value_name = "LINE|FILE|-")]
    input: Vec<String>,

    /// Explain a raw entry of a fault buffer: 32 bytes in hex, or eight 32-bit words; --chip names its units
    #[arg(long, value_name = "HEX", value_parser = packet::words, conflicts_with = "input")]
    packet: Option<[u32; 8]>,

    #[command(flatten)]
    source: SourceArgs,
}

/// Runs the command.
///
/// # Errors
/// Input that cannot be read, or without a fault in it.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let log = match args.packet {
        Some(words) => read_packet(words, args)?,
        None => read(args, console)?,
    };
    let missing = nothing(&log);
    let mut report = Report::new(log);
    if report.faults().is_empty() {
        if console.json() {
            console.show(&report)?;
        }
        return Err(missing);
    }
    if args.source.any() {
        let mut source = args.source.open()?;
        report.add_walks(|va| look_up(&mut source, va))?;
    }
    console.show(&report)?;
    if report.truncated() {
        console.note(format_args!("the log holds more than {FAULTS_MAX} different faults; the rest was not read"));
        return Ok(Exit::Negative);
    }
    Ok(Exit::Done)
}

/// The fault of a packet, as a log of one.
fn read_packet(words: [u32; 8], args: &Args) -> Result<Log, Failure> {
    let fault = packet::parse(words, args.source.chip).map_err(|why| {
        Failure::new(Exit::Negative, why).hint("an entry is valid once bit 31 of its last word is set; read that first")
    })?;
    Ok(Log { faults: vec![fault], lines: 1, ..Log::default() })
}

/// The walk of a fault's address; none where the source has no such address.
fn look_up(source: &mut Source, va: u64) -> Result<Option<WalkView>, Failure> {
    if source.plain_va(va) < source.va_end() { walk::look_up(source, va).map(Some) } else { Ok(None) }
}

/// The failure for a log without a fault.
fn nothing(log: &Log) -> Failure {
    let what = match log.lines {
        0 => "the input is empty".to_owned(),
        1 => "this line is no MMU fault".to_owned(),
        lines => format!("none of the {lines} lines is an MMU fault"),
    };
    let others = log.other_xids.keys().map(|&xid| match other_xid(xid) {
        Some(means) => format!("Xid {xid} is {means}"),
        None => format!("Xid {xid} is another error of the card"),
    });
    let others: Vec<_> = others.collect();
    if !others.is_empty() {
        return Failure::new(Exit::Negative, format_args!("{what}: {}", others.join("; ")));
    }
    Failure::new(Exit::Negative, what).hint(
        "such lines look like `NVRM: Xid (PCI:…): 31, … MMU Fault: ENGINE … faulted @ 0x…`, or with nouveau \
         `fault 01 [VIRT_WRITE] at … engine …`",
    )
}

fn read(args: &Args, console: &mut Console<'_>) -> Result<Log, Failure> {
    // An unquoted line arrives in pieces.
    let text = args.input.join(" ");
    match text.as_str() {
        "" if args.input.is_empty() && console.terminal().in_keyboard => Err(Failure::usage("nothing to explain")
            .hint("give the line in quotes, the name of a log file, or - to read from stdin: `dmesg | gmmu fault -`")),
        "-" => read_log("stdin", console.input()),
        "" if args.input.is_empty() => read_log("stdin", console.input()),
        line => match file(line) {
            Some(path) => {
                let file = File::open(path).map_err(|error| unreadable(line, &error))?;
                if path.is_dir() {
                    return Err(Failure::input(format_args!("{line}: is a directory")).hint("give a log file"));
                }
                read_log(line, file)
            }
            None => read_log("the line", line.as_bytes()),
        },
    }
}

/// The path that an argument names, if it is rather one than a line: it exists, or has a slash and no spaces.
fn file(text: &str) -> Option<&Path> {
    let path = Path::new(text);
    let plausible = !text.contains("Fault") && !text.contains("fault ");
    ((plausible && path.exists()) || (text.contains('/') && !text.contains(char::is_whitespace))).then_some(path)
}

fn read_log(name: &str, input: impl Read) -> Result<Log, Failure> {
    let mut parser = Parser::default();
    match for_each_line(input, |number, line| parser.line(number, line)) {
        Ok(()) => Ok(parser.finish()),
        Err(error) => Err(unreadable(name, &error)),
    }
}
