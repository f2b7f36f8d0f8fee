//! `gmmu bench`: what the library's parts cost, beside others, in one run.

use clap::ValueEnum;
use gmmu_bench::rows::{self, Row};
use serde::Serialize;

use crate::console::{BAD, Console, GOOD, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  gmmu bench alloc
  gmmu bench alloc --rounds 11 --json

Times are for an idle core: look at the ratios, and at the machine that is named. Takes about a minute.";

/// Arguments of `gmmu bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to measure
    #[arg(value_name = "WHAT")]
    what: What,

    /// How many interleaved rounds
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    /// Virtual ranges that live while others come and go
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1000,1000000",
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    live: Vec<u32>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// The allocators of video memory and of virtual ranges
    Alloc,
}

/// All that `gmmu bench` says.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    machine: String,
    rounds: u16,
    rows: Vec<RowView>,
}

/// One measurement, rounded to a tenth.
#[derive(Debug, Serialize)]
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
    ratio: Option<f64>,
}

fn rounded(value: f64, places: f64) -> f64 {
    (value * places).round() / places
}

impl From<Row> for RowView {
    fn from(row: Row) -> Self {
        let (ratio, met) = (row.ratio().map(|ratio| rounded(ratio, 100.0)), row.met());
        Self {
            median: rounded(row.value, 100.0),
            least: row.least.map(|least| rounded(least, 100.0)),
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
    let What::Alloc = args.what;
    let mut rows = rows::vram_rows(usize::from(args.rounds));
    for &live in &args.live {
        rows.extend(rows::va_rows(usize::try_from(live).unwrap_or(1000)));
    }
    let rows = rows.into_iter().map(RowView::from).collect();
    console.show(&Report { schema: SCHEMA, machine: rows::machine(), rounds: args.rounds, rows })?;
    Ok(Exit::Done)
}

impl View for Report {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        console.line(format_args!("machine: {}; {} interleaved rounds, medians", self.machine, self.rounds))?;
        console.line(format_args!(
            "{STRONG}{:<61}{:>9}{:>8}{:>8}{:>7}{STRONG:#}",
            "", "median", "least", "target", "ratio"
        ))?;
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.1}"));
        for row in &self.rows {
            let style = match row.met {
                Some(true) => GOOD,
                Some(false) => BAD,
                None => anstyle::Style::new(),
            };
            let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let (median, least, target) = (number(Some(row.median)), number(row.least), number(row.target));
            console.line(format_args!(
                "{:<61}{style}{median:>9}{style:#}{least:>8}{target:>8}{ratio:>7} {}",
                row.name, row.unit
            ))?;
        }
        console.line(format_args!("ratio: to the faster of the crates that do a part of the same, in this run"))
    }
}
