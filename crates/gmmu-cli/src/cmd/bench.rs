//! `gmmu bench`: what the library's parts cost, beside others, in one run.

use clap::ValueEnum;
use gmmu_bench::rows::{self, Row};
use gmmu_bench::{counts, vmm};
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{BAD, Console, GOOD, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::progress::Waiting;
use crate::wrap::wrapped;

const EXAMPLES: &str = "\
Examples:
  gmmu bench alloc
  gmmu bench alloc --rounds 11 --json
  gmmu bench vmm

Times are for an idle core: look at the ratios, and at the machine that is
named. `alloc` takes about a minute, `vmm` some seconds.";

/// Arguments of `gmmu bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to measure
    #[arg(value_name = "WHAT")]
    what: What,

    /// How many interleaved rounds [default: 5, of `vmm` 21]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,

    /// Of `alloc`: virtual ranges that live while others come and go [default: 1000,1000000]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    live: Option<Vec<u32>>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// The allocators of video memory and of virtual ranges
    Alloc,
    /// Jobs of an address space: on plain memory beside plain stores, and their counts on a model
    Vmm,
}

impl What {
    /// What a ratio is to.
    const fn ratio(self) -> &'static str {
        match self {
            Self::Alloc => "ratio: to the faster of the crates that do a part of the same, in this run",
            Self::Vmm => "ratio: of the least to that of the plain loop over the same bytes, in this run",
        }
    }
}

/// All that `gmmu bench` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Report {
    schema: u32,
    machine: String,
    rounds: u16,
    rows: Vec<RowView>,
    /// What the ratios are to.
    #[serde(skip)]
    what: What,
}

/// One measurement, rounded.
#[derive(Debug, JsonSchema, Serialize)]
struct RowView {
    name: String,
    unit: &'static str,
    median: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    least: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_median: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_least: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_ratio: Option<f64>,
    #[serde(skip)]
    target_text: String,
}

fn rounded(value: f64, places: f64) -> f64 {
    (value * places).round() / places
}

impl From<Row> for RowView {
    fn from(row: Row) -> Self {
        let (ratio, met) = (row.ratio().map(|ratio| rounded(ratio, 100.0)), row.met());
        // Beside a limit are fractions of a nanosecond.
        let places = if row.limit.is_some() || row.value < 1.0 { 10_000.0 } else { 100.0 };
        Self {
            target_text: row.target_text().unwrap_or_default(),
            median: rounded(row.value, places),
            least: row.least.map(|least| rounded(least, places)),
            limit: row.limit.map(|limit| limit.what),
            limit_least: row.limit.map(|limit| rounded(limit.least, places)),
            target_ratio: row.limit.and_then(|limit| limit.target),
            peer: row.peer.map(|peer| peer.0),
            peer_median: row.peer.map(|peer| rounded(peer.1, 100.0)),
            name: row.name,
            unit: row.unit,
            target: row.target,
            met,
            ratio,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Those of stdout.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let rounds = args.rounds.unwrap_or(match args.what {
        What::Alloc => 5,
        What::Vmm => u16::try_from(vmm::ROUNDS).unwrap_or(u16::MAX),
    });
    let waiting = Waiting::new(console.terminal(), "measuring");
    let mut rows;
    match (args.what, &args.live) {
        (What::Alloc, live) => {
            rows = rows::vram_rows(usize::from(rounds));
            for &live in live.as_deref().unwrap_or(&[1000, 1_000_000]) {
                rows.extend(rows::va_rows(usize::try_from(live).unwrap_or(1000)));
            }
        }
        (What::Vmm, None) => {
            rows = vmm::rows(usize::from(rounds));
            rows.extend(counts::rows());
        }
        (What::Vmm, Some(_)) => return Err(Failure::usage("`--live` is for `gmmu bench alloc`")),
    }
    drop(waiting);
    let rows = rows.into_iter().map(RowView::from).collect();
    console.show(&Report { schema: SCHEMA, machine: rows::machine(), rounds, rows, what: args.what })?;
    Ok(Exit::Done)
}

/// Columns of a name.
const NAME: usize = 34;

impl View for Report {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        console.line(format_args!("machine: {}; {} interleaved rounds, medians", self.machine, self.rounds))?;
        console.line(format_args!(
            "{STRONG}{:<NAME$}{:>10}{:>8}{:>10}{:>6}{STRONG:#}",
            "", "median", "least", "target", "ratio"
        ))?;
        let number = |value: Option<f64>| value.map_or_else(String::new, rows::number);
        for row in &self.rows {
            let style = match row.met {
                Some(true) => GOOD,
                Some(false) => BAD,
                None => anstyle::Style::new(),
            };
            let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let (median, least, target) = (number(Some(row.median)), number(row.least), &row.target_text);
            // A name that is too long goes on in a line of its own, before the numbers.
            let mut names = wrapped(&row.name, NAME - 2);
            let last = names.pop().unwrap_or_default();
            for (n, part) in names.iter().enumerate() {
                console.line(format_args!("{}{part}", if n == 0 { "" } else { "  " }))?;
            }
            let last = if names.is_empty() { last } else { format!("  {last}") };
            console.line(format_args!(
                "{last:<NAME$}{style}{median:>10}{style:#}{least:>8}{target:>10}{ratio:>6} {}",
                row.unit
            ))?;
        }
        console.line(format_args!("{}", self.what.ratio()))
    }
}
