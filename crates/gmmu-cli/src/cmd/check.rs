//! `gmmu check`: what is wrong with page tables.

use gmmu::addr::TableAddr;
use schemars::JsonSchema;
use serde::Serialize;

use crate::check::{Finding, RULES, Rule, Severity, by_name, check};
use crate::console::{BAD, Console, FAINT, GOOD, ODD, PLAIN, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::notation::{Counted, Text, Word};
use crate::num::{number, shown};
use crate::source::SourceArgs;
use crate::with_format;

const EXAMPLES: &str = "\
Examples:
  gmmu check --file vram.img --chip gh100 --root 0x10000 --vram 80G
  gmmu check --script examples/two-sizes.gmmu --json
  gmmu check --file tables.gmmu --allow GM011 --deny note
  gmmu check --explain GM007

Pages are compared with the size of the memory where that is known: with --vram,
for scripts, and for images and snapshots of 64M and more.
Exit code 1: findings of severity error or warning; with --deny note, any.";

/// Findings of one rule that are shown as text.
const SHOWN: usize = 10;

/// Arguments of `gmmu check`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// How much video memory there is
    #[arg(long, value_name = "SIZE", value_parser = number)]
    vram: Option<u64>,

    /// Say what a rule is about, and check nothing
    #[arg(long, value_name = "RULE", value_parser = rule)]
    explain: Option<&'static Rule>,

    /// Leave out the findings of a rule; may be given often
    #[arg(long, value_name = "RULE", value_parser = rule)]
    allow: Vec<&'static Rule>,

    /// Fail on notes as well (`note`), or on the findings of a rule; may be given often
    #[arg(long, value_name = "note|RULE", value_parser = deny)]
    deny: Vec<Deny>,
}

/// What is to fail.
#[derive(Clone, Copy, Debug)]
enum Deny {
    From(Severity),
    Rule(&'static Rule),
}

fn rule(text: &str) -> Result<&'static Rule, String> {
    let last = RULES.last().map_or("", |rule| rule.id);
    by_name(text).ok_or_else(|| format!("{} is no rule: they are GM001 to {last}", shown(text)))
}

fn deny(text: &str) -> Result<Deny, String> {
    let severities = [Severity::Note, Severity::Warning, Severity::Error];
    match severities.into_iter().find(|severity| severity.name() == text) {
        Some(severity) => Ok(Deny::From(severity)),
        None => rule(text).map(Deny::Rule),
    }
}

/// All that `gmmu check` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Checked {
    schema: u32,
    mmu: &'static str,
    root: Text<TableAddr>,
    findings: Vec<Finding>,
    truncated: bool,
}

/// A rule, explained.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Explained {
    schema: u32,
    #[serde(flatten)]
    rule: &'static Rule,
}

/// Runs the command.
///
/// # Errors
/// Those of the source.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    if let Some(rule) = args.explain {
        console.show(&Explained { schema: SCHEMA, rule })?;
        return Ok(Exit::Done);
    }
    let mut source = args.source.open(console)?;
    let end = args.vram.or_else(|| source.vram_bytes());
    let found = with_format!(source.mmu, check(&mut source, console.terminal(), end))?;
    let truncated = found.truncated(&args.allow);
    let mut findings = found.into_list();
    findings.retain(|finding| args.allow.iter().all(|rule| rule.id != finding.rule));
    let fails = |finding: &Finding| {
        finding.severity >= Severity::Warning
            || args.deny.iter().any(|deny| match deny {
                Deny::From(severity) => finding.severity >= *severity,
                Deny::Rule(rule) => finding.rule == rule.id,
            })
    };
    let failed = findings.iter().any(fails);
    let (mmu, root) = (source.mmu.name(), Text(source.root));
    console.show(&Checked { schema: SCHEMA, mmu, root, findings, truncated })?;
    if truncated {
        console.note(format_args!("cut short: more findings or tables than are looked at"));
    }
    Ok(if failed || truncated { Exit::Negative } else { Exit::Done })
}

impl View for Checked {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        console.line(format_args!("{STRONG}MMU {}, top table {}{STRONG:#}", self.mmu, self.root))?;
        for group in self.findings.chunk_by(|one, other| one.rule == other.rule) {
            let Some(rule) = group.first().and_then(|finding| by_name(finding.rule)) else { continue };
            let style = match rule.severity {
                Severity::Error => BAD,
                Severity::Warning => ODD,
                Severity::Note => FAINT,
            };
            let times = Counted(group.len() as u64, "time", "times");
            console.line(format_args!(
                "\n{style}{}{style:#} {STRONG}{} {}{STRONG:#}, {times}",
                rule.severity.name(),
                rule.id,
                rule.name
            ))?;
            for Finding { va, entry, raw, says, .. } in group.iter().take(SHOWN) {
                let words: String = raw.iter().map(|word: &Word| format!("  {word}")).collect();
                console.line(format_args!("  va {va}  entry {entry}{words}"))?;
                console.paragraph("    ", 4, PLAIN, says)?;
            }
            if group.len() > SHOWN {
                console.line(format_args!("  {FAINT}and {} more; --json has all{FAINT:#}", group.len() - SHOWN))?;
            }
            console.paragraph(&format!("  {GOOD}do:{GOOD:#} "), 6, PLAIN, rule.todo)?;
        }
        if self.findings.is_empty() {
            console.line(format_args!("{GOOD}nothing found{GOOD:#} by {} rules", RULES.len()))?;
        }
        Ok(())
    }
}

impl View for Explained {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        let Rule { id, name, severity, means, todo } = self.rule;
        console.line(format_args!("{STRONG}{id} {name}{STRONG:#} ({})", severity.name()))?;
        [means, todo].into_iter().try_for_each(|text| console.paragraph("", 0, PLAIN, text))
    }
}
