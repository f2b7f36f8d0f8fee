//! `gmmu fault`: explains MMU faults that a driver logged.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use gmmu::addr::TableAddr;

use super::walk;
use crate::console::Console;
use crate::exit::{Exit, Failure, Outcome};
use crate::fault::advice::other_xid;
use crate::fault::lines::for_each_line;
use crate::fault::packet;
use crate::fault::parse::{FAULTS_MAX, Log, Parser};
use crate::fault::report::{Explained, Report};
use crate::files::{known_as, unreadable};
use crate::notation::{Address, Counted};
use crate::num::number;
use crate::source::SourceArgs;

const EXAMPLES: &str = "\
Examples:
  gmmu fault 'NVRM: Xid (PCI:0000:2b:00): 31, pid=1234, name=python, Ch 00000023, ...'
  sudo dmesg | gmmu fault -
  gmmu fault /var/log/kern.log.2.gz --json
  gmmu fault --packet 00908bff000000000070563412... --chip gh100
  gmmu fault 'NVRM: Xid ...' --file vram.img --chip gh100 --root 0x10000

With a source, the walk of the address through its page tables is shown too. A
line of nouveau names the channel's instance block, which leads to its tables.
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
    let missing = nothing(&log, &args.input);
    let mut report = Report::new(log);
    if report.faults().is_empty() {
        if console.json() {
            console.show(&report)?;
        }
        return Err(missing);
    }
    if args.source.any() {
        add_walks(&mut report, &args.source, console)?;
    }
    if args.packet.is_some() && args.source.chip.is_none() {
        console.note(format_args!("which engine a number means depends on the chip: give --chip to have it named"));
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

/// Walks the addresses through the page tables of a source. The instance block of a line leads to its own tables; without one a
/// fault can be looked up where the source or an option names a space, and then only those of one process on one GPU, since
/// that is whose tables they are: those of the first.
fn add_walks(report: &mut Report, args: &SourceArgs, console: &mut Console<'_>) -> Result<(), Failure> {
    let named = args.root.is_some() || args.inst.is_some();
    let block = |fault: &Explained| fault.instance().filter(|_| !named).map(TableAddr::vram);
    let first = report.faults().iter().find_map(block);
    let mut source = args.open_with(first, console)?;
    let default = (named || source.memory.is_of_spaces()).then_some(source.root);
    let owner = report.faults().first().map(Explained::owner);
    let (mut others, mut unknown) = (0u64, 0u64);
    report.add_walks(|fault, va| {
        let own = block(fault).and_then(|inst| source.root_of(inst).ok());
        let Some(root) = own.or(default) else {
            unknown += 1;
            return Ok(None);
        };
        if own.is_none() && Some(fault.owner()) != owner {
            others += 1;
            return Ok(None);
        }
        source.root = root;
        // A line can hold an address that these tables do not have.
        if source.plain_va(va) < source.va_end() { walk::look_up(&mut source, va).map(Some) } else { Ok(None) }
    })?;
    if others > 0 {
        let (faults, owner) = (Counted(others, "fault", "faults"), owner.unwrap_or_default());
        console.note(format_args!(
            "{faults} of others not looked up: the source is taken to hold the tables of {owner}, which is the first"
        ));
    }
    if unknown > 0 {
        let faults = Counted(unknown, "fault", "faults");
        console.note(format_args!("{faults} not looked up: the line does not say whose tables; --root or --inst does"));
    }
    Ok(())
}

/// The failure for a log without a fault.
fn nothing(log: &Log, input: &[String]) -> Failure {
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
    if let Some(va) = input.first().and_then(|text| number(text).ok()) {
        return Failure::new(Exit::Negative, format_args!("{what}: it is an address alone"))
            .hint(format_args!("give the whole line; `gmmu walk {} --file IMAGE …` looks an address up", Address(va)));
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
    let mut input = BufReader::new(input);
    let head = input.fill_buf().map_err(|error| unreadable(name, &error))?;
    // A log may begin with anything that is text, in any encoding, and be packed by gzip.
    if let Some(known) = known_as(head).filter(|known| !matches!(known.what, "text" | "gzip data")) {
        let failure = Failure::input(format_args!("{name}: is {}, not a log", known.what));
        return Err(failure.hint(match known.packed {
            true => "unpack it first; of packed logs only gzip is read as it is",
            false => "give lines of the kernel log; page tables go behind --file",
        }));
    }
    match for_each_line(input, |number, line| parser.line(number, line)) {
        Ok(()) => Ok(parser.finish()),
        Err(error) => Err(unreadable(name, &error)),
    }
}
