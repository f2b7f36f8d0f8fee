//! The command line: what every command has in common, and the list of commands.
//!
//! A new command is one file in `cmd`, one variant here, and one line in [`Command::run`].

use clap::{Parser, Subcommand};

use crate::cmd;
use crate::console::{Color, Console};
use crate::exit::Outcome;

/// Builds, walks, checks and explains the page tables of NVIDIA GPUs.
#[derive(Debug, Parser)]
#[command(name = "gmmu", version, after_help = EXIT_CODES, term_width = 80, disable_help_subcommand = true)]
pub struct Cli {
    /// Print one JSON object instead of text
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,

    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Output")]
    pub color: Color,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Numbers  0x1f00, 7936, 0x725f_fb800000, 64K 2M 96G (powers of 1024)
Ranges   0x1000..0x3000, 0x1000+8K
Memory   vram:0x1000, sys-coh:0x1000, sys-ncoh:0x1000, peer3:0x1000

Exit codes
  0  done
  1  the answer is no: unmapped, findings, differences, cut short
  2  usage
  3  input or I/O
  4  access refused
  5  the device looks dead";

/// The commands, one module of [`cmd`] each.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Map memory on a software GPU, verify every page, show what it cost
    Map(cmd::map::Args),
    /// Run a script on a software GPU, under the sanitizer
    Run(cmd::run::Args),
    /// Explain MMU faults: Xid 31 and nouveau's lines, alone or in whole logs
    Fault(cmd::fault::Args),
    /// Translate one address, or a range, level by level
    Walk(cmd::walk::Args),
    /// Show all mappings as ranges
    Dump(cmd::dump::Args),
    /// Show all tables
    Tree(cmd::tree::Args),
    /// Find likely top tables in an image
    Roots(cmd::roots::Args),
    /// Check page tables for what is wrong with them
    Check(cmd::check::Args),
    /// Draw an address space and its tables: a page to zoom into, or a graph
    Render(cmd::render::Args),
    /// Compare two sources: which mappings changed
    Diff(cmd::diff::Args),
    /// Count tables and pages, and say what could be cheaper
    Stats(cmd::stats::Args),
    /// Write the page tables of a source, and nothing else of it, to a file
    Capture(cmd::capture::Args),
    /// Take one page-table entry apart, field by field
    Decode(cmd::decode::Args),
    /// Put one page-table entry together
    Encode(cmd::encode::Args),
    /// Test the way to video memory
    Selftest(cmd::selftest::Args),
    /// Measure the library's parts, beside others
    Bench(cmd::bench::Args),
    /// Be a PCI device: the software GPU, for QEMU and other vfio-user clients
    #[cfg(target_os = "linux")]
    Serve(cmd::serve::Args),
    /// List the NVIDIA cards of this machine
    List(cmd::list::Args),
    /// Say which ways of access to a card work, and what stands in the others
    Doctor(cmd::doctor::Args),
    /// Write completions for a shell
    Completions(cmd::completions::Args),
    /// Write manual pages
    Man(cmd::man::Args),
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    /// The failure that ends the program.
    pub fn run(&self, console: &mut Console<'_>) -> Outcome {
        match self {
            Self::Map(args) => cmd::map::run(args, console),
            Self::Run(args) => cmd::run::run(args, console),
            Self::Fault(args) => cmd::fault::run(args, console),
            Self::Walk(args) => cmd::walk::run(args, console),
            Self::Dump(args) => cmd::dump::run(args, console),
            Self::Tree(args) => cmd::tree::run(args, console),
            Self::Roots(args) => cmd::roots::run(args, console),
            Self::Check(args) => cmd::check::run(args, console),
            Self::Render(args) => cmd::render::run(args, console),
            Self::Diff(args) => cmd::diff::run(args, console),
            Self::Stats(args) => cmd::stats::run(args, console),
            Self::Capture(args) => cmd::capture::run(args, console),
            Self::Decode(args) => cmd::decode::run(args, console),
            Self::Encode(args) => cmd::encode::run(args, console),
            Self::Selftest(args) => cmd::selftest::run(args, console),
            Self::Bench(args) => cmd::bench::run(args, console),
            #[cfg(target_os = "linux")]
            Self::Serve(args) => cmd::serve::run(args, console),
            Self::List(args) => cmd::list::run(args, console),
            Self::Doctor(args) => cmd::doctor::run(args, console),
            Self::Completions(args) => cmd::completions::run(args, console),
            Self::Man(args) => cmd::man::run(args, console),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_fits_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:\n  gmmu "), "{}", command.get_name());
        }
    }
}
