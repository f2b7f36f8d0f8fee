//! `gmmu selftest`: does the way to video memory work?

use gmmu::selftest::{self, BYTES_MIN, Check, Tally};
use gmmu_sim::{Config, Gpu};
use serde::Serialize;

use crate::console::{BAD, Console, GOOD, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::machine::{ModelArgs, no_such_gpu};
use crate::notation::Size;
use crate::num::shown;

const EXAMPLES: &str = "\
Examples:
  gmmu selftest
  gmmu selftest --chip tu102 --vram 24G --json

Writes and reads through the PRAMIN window as page tables are written: bytes,
words and runs of words, also where the window has to move; and makes sure that
what must be refused is. Exit code 1: a check failed.";

/// Arguments of `gmmu selftest`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Test a real card instead
    #[arg(long, value_name = "BDF", conflicts_with_all = ["chip", "vram"])]
    pci: Option<String>,

    /// Allow writes to the card
    #[arg(long, requires = "pci")]
    write: bool,
}

/// All that `gmmu selftest` says.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    chip: &'static str,
    vram: u64,
    checks: Vec<CheckView>,
    passed: u32,
    failed: u32,
}

/// One check.
#[derive(Debug, Serialize)]
struct CheckView {
    name: &'static str,
    expected: String,
    seen: String,
    passed: bool,
}

impl From<&Check> for CheckView {
    fn from(check: &Check) -> Self {
        let Check { name, expected, seen, passed } = check;
        Self { name, expected: expected.to_string(), seen: seen.to_string(), passed: *passed }
    }
}

/// Runs the command.
///
/// # Errors
/// Usage, where there can be no such GPU.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    if let Some(bdf) = &args.pci {
        return Err(Failure::usage(format_args!("--pci {}: this version of gmmu cannot test cards yet", shown(bdf)))
            .hint("leave it away, and the software GPU is tested"));
    }
    let ModelArgs { chip, vram } = args.model;
    if chip.is_integrated() {
        let why =
            format_args!("{} is an integrated GPU: it has no video memory, and no window on it to test", chip.name);
        return Err(Failure::usage(why));
    }
    let gpu = Gpu::new(&Config { vram, ..Config::chip(chip.name) }).map_err(|why| no_such_gpu(&why))?;
    // The end of memory needs all bits of the window's register.
    let Some(start) = vram.checked_sub(BYTES_MIN) else {
        return Err(Failure::usage(format_args!(
            "--vram {}: the self-tests need {} of video memory",
            Size(vram),
            Size(BYTES_MIN)
        )));
    };
    let mut checks = Vec::new();
    let tally = selftest::run(gpu, start..vram, |check| checks.push(CheckView::from(check)));
    let Tally { passed, failed } = tally.map_err(Failure::input)?;
    console.show(&Report { schema: SCHEMA, chip: chip.name, vram, checks, passed, failed })?;
    Ok(if failed == 0 { Exit::Done } else { Exit::Negative })
}

impl View for Report {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        // What fits beside a name on a line of 80 characters.
        const BESIDE: usize = 30;
        let Self { chip, vram, passed, failed, .. } = self;
        console.line(format_args!("{STRONG}a software {chip} with {} of video memory{STRONG:#}", Size(*vram)))?;
        for CheckView { name, expected, seen, passed } in &self.checks {
            match (*passed, seen.len() <= BESIDE) {
                (true, true) => console.line(format_args!("{GOOD}ok{GOOD:#}      {name:<42}{seen}"))?,
                (true, false) => console.line(format_args!("{GOOD}ok{GOOD:#}      {name}\n    {seen}"))?,
                (false, _) => console.line(format_args!(
                    "{BAD}FAILED{BAD:#}  {name}\n        expected {expected}\n        seen     {seen}"
                ))?,
            }
        }
        let style = if *failed == 0 { GOOD } else { BAD };
        console.line(format_args!("{style}{passed} passed, {failed} failed{style:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{Color, Streams, Terminal};

    #[test]
    fn a_failed_check_shows_what_was_expected_and_what_was_seen() {
        let check = |name, seen: &str| CheckView {
            name,
            expected: "ef be ad de".to_owned(),
            seen: seen.to_owned(),
            passed: seen == "ef be ad de",
        };
        let checks = vec![check("bytes, one by one", "ef be ad de"), check("a word", "de ad be ef")];
        let report = Report { schema: SCHEMA, chip: "gh100", vram: 1 << 30, checks, passed: 1, failed: 1 };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let streams =
            Streams { input: &mut std::io::empty(), out: &mut out, err: &mut err, terminal: Terminal::default() };
        let mut console = Console::new(streams, false, Color::Never);
        console.show(&report).and_then(|()| console.flush()).expect("memory can be written");
        drop(console);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "a software gh100 with 1G of video memory\n\
             ok      bytes, one by one                         ef be ad de\n\
             FAILED  a word\n        expected ef be ad de\n        seen     de ad be ef\n\
             1 passed, 1 failed\n"
        );
    }
}
