//! `gmmu run --trace`, `--mmiotrace`: what another driver did, done again under the sanitizer.

use std::path::Path;

use gmmu::addr::TableAddr;
use gmmu::chip::Chip;
use gmmu_sim::trace::{Replay, Trace, TraceError};
use gmmu_sim::{Config, Finding};
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{Console, GOOD, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::machine::{CountsView, FindingView, SpaceView, write_vram};
use crate::notation::{Counted, Text};
use crate::progress::Waiting;

/// Which kind of text a trace is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// One of this project's own.
    Trace,
    /// A log of Linux's mmiotrace.
    Mmiotrace,
}

/// The card to replay on, where the trace does not say, and what to keep of it.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The chip.
    pub chip: Option<&'static Chip>,
    /// Bytes of video memory.
    pub vram: Option<u64>,
    /// Where everything arbitrary in the model comes from.
    pub seed: u64,
    /// Where the memory goes in the end.
    pub vram_out: Option<&'a Path>,
}

/// All that is said of a trace. The fields of `gmmu run` are the same.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Report {
    schema: u32,
    chip: &'static str,
    counts: CountsView,
    tables: usize,
    verified_pages: u64,
    root: Option<Text<TableAddr>>,
    spaces: Vec<SpaceView>,
    findings: Vec<FindingView>,
    operations: usize,
    /// Words that were in memory before the trace began, as the driver read them.
    learned: u64,
    /// Accesses that the model has no place for.
    refused: u64,
    /// What the driver read otherwise than the trace had written it.
    differences: Vec<String>,
    /// What the text does not show.
    notes: Vec<String>,
    #[serde(skip)]
    histories: Vec<String>,
    #[serde(skip)]
    name: String,
}

/// Replays a trace and says what the sanitizer found.
///
/// # Errors
/// Exit code 2 where the trace names no chip; 3 where it cannot be read or is none.
pub fn run(path: &Path, kind: Kind, options: Options<'_>, console: &mut Console<'_>) -> Outcome {
    let name = path.display().to_string();
    let text = files::read_text(path, console)?;
    let trace = match kind {
        Kind::Trace => Trace::read(&text),
        Kind::Mmiotrace => Trace::read_mmiotrace(&text),
    };
    let bad = |TraceError { line, why }: TraceError| Failure::input(format_args!("{name}:{line}: {why}"));
    let mut trace = trace.map_err(bad)?;
    if let Some(chip) = options.chip {
        trace.chip = Some(chip.name.to_owned());
    }
    trace.vram = options.vram.or(trace.vram);
    if trace.chip.is_none() {
        let why = format!("{name}: does not say which chip this is");
        return Err(
            Failure::usage(why).hint("say it with --chip; in a log of mmiotrace the driver has not read BOOT_0")
        );
    }
    let config = trace.config(Config { seed: options.seed, ..Config::default() });
    let mut replay = Replay::new(&config).map_err(|why| Failure::usage(format_args!("{name}: {why}")))?;
    let waiting = Waiting::new(console.terminal(), "replaying");
    replay.run(&trace);
    drop(waiting);
    if let Some(path) = options.vram_out {
        write_vram(replay.gpu(), path)?;
    }
    let report = report(name, &mut replay, trace);
    console.show(&report)?;
    let bad = report.findings.iter().any(FindingView::counts);
    Ok(if bad { Exit::Negative } else { Exit::Done })
}

fn report(name: String, replay: &mut Replay, trace: Trace) -> Report {
    let findings = replay.gpu().findings().to_vec();
    let (told, more) = replay.differences();
    let mut differences = told.to_vec();
    if more > 0 {
        differences.push(format!("and {more} more"));
    }
    Report {
        schema: SCHEMA,
        chip: replay.gpu().chip().name,
        counts: replay.gpu().counts().into(),
        tables: 0,
        verified_pages: 0,
        root: None,
        spaces: Vec::new(),
        findings: findings.iter().map(FindingView::from).collect(),
        operations: trace.events.len(),
        learned: replay.learned(),
        refused: replay.refused(),
        differences,
        notes: trace.notes,
        histories: findings.iter().map(|finding| history(finding, replay)).collect(),
        name,
    }
}

/// What a finding tells of, in lines of the trace.
fn history(finding: &Finding, replay: &Replay) -> String {
    let used = if finding.cached_op.is_some() { "used" } else { "found" };
    let events = [("cached", finding.cached_op), ("changed", finding.changed_op), (used, Some(finding.op))];
    let said = events.into_iter().filter_map(|(what, op)| {
        let (line, label) = replay.place(op?)?;
        let about = label.map(|label| format!(" ({label})")).unwrap_or_default();
        Some(format!("{what} in line {line}{about}"))
    });
    said.collect::<Vec<_>>().join(", ")
}

impl View for Report {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        let events = Counted(self.operations as u64, "event", "events");
        console.line(format_args!("{STRONG}{}: {events}{STRONG:#} on a software {}", self.name, self.chip))?;
        let CountsView { reads, window_moves, invalidates, .. } = self.counts;
        console.line(format_args!(
            "cost: {}, {}, {}, {}",
            self.counts.written(),
            Counted(reads, "read", "reads"),
            Counted(window_moves, "window move", "window moves"),
            Counted(invalidates, "invalidate", "invalidates")
        ))?;
        if self.learned > 0 {
            let words = Counted(self.learned, "word", "words");
            console.line(format_args!("{words} of memory were there before, as the driver read them"))?;
        }
        if self.refused > 0 {
            let refused = Counted(self.refused, "access", "accesses");
            console.line(format_args!("{refused} had no place in the model, and were left out"))?;
        }
        for line in self.notes.iter().chain(&self.differences) {
            console.line(format_args!("note: {line}"))?;
        }
        if self.findings.is_empty() {
            return console.line(format_args!("{GOOD}the sanitizer found nothing{GOOD:#}"));
        }
        for (finding, history) in self.findings.iter().zip(&self.histories) {
            FindingView::list(std::slice::from_ref(finding), console)?;
            console.line(format_args!("  {history}"))?;
        }
        Ok(())
    }
}
