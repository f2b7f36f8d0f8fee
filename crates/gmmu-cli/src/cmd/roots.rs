//! `gmmu roots`: likely top tables in an image.

use gmmu::addr::TableAddr;
use gmmu::chip::PageSizes;
use gmmu::format::MmuVersion;
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{Console, FAINT, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::format::Mmu;
use crate::notation::{Bytes, Text};
use crate::progress::Progress;
use crate::roots::{Candidates, LINE, Likely, MOST, Wanted, judge, likely, rest_is_zero, scan};
use crate::source::{Memory, RootChoice, SourceArgs, root_of_instance};
use crate::with_format;

const EXAMPLES: &str = "\
Examples:
  gmmu roots --file vram.img
  gmmu roots --file vram.img --chip gh100 --json
  gmmu roots --file vram.img --inst 0xff8b9000
  gmmu roots --file slice.img --base 0x100000000

Without --chip or --mmu both formats are tried. With --inst ADDR, such as a
nouveau line names, or --root ADDR only that table is looked at. Tables with
65 of 100 points and more are shown; --all shows every candidate.
Exit code 1: none was found.";

/// Arguments of `gmmu roots`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Show candidates with few points, too
    #[arg(long)]
    all: bool,
}

/// All that `gmmu roots` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Roots {
    schema: u32,
    scanned: u64,
    roots: Vec<RootView>,
    truncated: bool,
}

/// One likely top table.
#[derive(Debug, JsonSchema, Serialize)]
struct RootView {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    root: Text<TableAddr>,
    mmu: &'static str,
    score: u32,
    tables: u64,
    leaves: u64,
    sound: u64,
    broken: u64,
    /// Only the first tables were read.
    in_part: bool,
    inst: Vec<Text<TableAddr>>,
    why: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Those of the source.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let (mut memory, info) = args.source.open_to_search()?;
    let wanted = match &info {
        Some(info) => vec![Wanted { mmu: info.mmu, sizes: info.page_sizes() }],
        None => formats(&args.source),
    };
    // What is named is looked at whatever it is; what is searched for has to reach the line.
    let named: Option<Vec<(Option<String>, TableAddr)>> = match (&args.source.root, args.source.inst, info) {
        (_, Some(inst), _) => Some(vec![(None, root_of_instance(&mut memory, inst)?)]),
        (_, None, Some(info)) => Some(info.roots.into_iter().map(|root| (Some(root.name), root.at)).collect()),
        (Some(RootChoice::At(at)), ..) => Some(vec![(None, *at)]),
        _ => None,
    };
    let view = match named {
        Some(named) => judge_named(&mut memory, &wanted, named, args.source.inst)?,
        None => search(args, &mut memory, &wanted, console)?,
    };
    console.show(&view)?;
    if view.truncated {
        console.note(format_args!("cut short: too many pages look like top tables; give --chip or --mmu"));
    }
    if view.roots.iter().any(|root| root.score >= LINE) {
        return Ok(Exit::Done);
    }
    if view.roots.is_empty() {
        console.note(format_args!(
            "no top table found; an image of a part of the memory needs --base, and --all shows faint candidates"
        ));
    }
    Ok(Exit::Negative)
}

fn formats(source: &SourceArgs) -> Vec<Wanted> {
    let asked = source.chip.map(|chip| chip.mmu).or(source.mmu.map(|mmu: Mmu| MmuVersion::from(mmu)));
    let sizes = source.chip.map_or(PageSizes::UP_TO_256G, |chip| chip.page_sizes);
    let all = [MmuVersion::V2, MmuVersion::V3];
    all.into_iter().filter(|mmu| asked.is_none_or(|asked| asked == *mmu)).map(|mmu| Wanted { mmu, sizes }).collect()
}

fn search(args: &Args, memory: &mut Memory, wanted: &[Wanted], console: &Console<'_>) -> Result<Roots, Failure> {
    let pages = memory.bytes_held() / 4096;
    let mut progress = Progress::new(console.terminal(), "reading the image", Some(pages));
    let candidates = scan(memory, wanted, || progress.advance(1))?;
    drop(progress);
    let Candidates { scanned, truncated, .. } = candidates;
    let mut progress = Progress::new(console.terminal(), "judging", Some(candidates.roots.len() as u64));
    let line = if args.all { 0 } else { LINE };
    let found = likely(memory, wanted, &candidates, line, || progress.advance(1))?;
    drop(progress);
    let truncated = truncated || found.len() >= MOST;
    Ok(Roots { schema: SCHEMA, scanned, roots: found.into_iter().map(|found| view(None, found)).collect(), truncated })
}

/// Judges tables that somebody named, in the format that fits best.
fn judge_named(
    memory: &mut Memory,
    wanted: &[Wanted],
    named: Vec<(Option<String>, TableAddr)>,
    inst: Option<TableAddr>,
) -> Result<Roots, Failure> {
    let mut roots = Vec::new();
    for (name, root) in named {
        let mut best: Option<Likely> = None;
        for wanted in wanted {
            let rest = rest_is_zero(memory, root, wanted.mmu);
            let judged = with_format!(wanted.mmu, judge(memory, root, wanted.sizes, rest))
                .map_err(|error| memory.failure(error))?;
            let inst = inst.map(TableAddr::raw).into_iter().collect();
            let found = Likely { root, mmu: wanted.mmu, judged, inst };
            if best.as_ref().is_none_or(|best| best.score() < found.score()) {
                best = Some(found);
            }
        }
        roots.extend(best.map(|found| view(name, found)));
    }
    Ok(Roots { schema: SCHEMA, scanned: 0, roots, truncated: false })
}

fn view(name: Option<String>, found: Likely) -> RootView {
    let judged = &found.judged;
    RootView {
        name,
        root: Text(found.root),
        mmu: found.mmu.name(),
        score: found.score(),
        tables: judged.tables,
        leaves: judged.leaves,
        sound: judged.sound,
        broken: judged.broken,
        in_part: judged.in_part,
        inst: found.inst.iter().map(|&at| Text(TableAddr::vram(at))).collect(),
        why: judged.reasons(&found.inst),
    }
}

impl View for Roots {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        if !self.roots.is_empty() {
            console.line(format_args!("{STRONG}root                 mmu  score  why{STRONG:#}"))?;
        }
        for root in &self.roots {
            let mut reasons = root.why.iter();
            let first = reasons.next().map_or("", String::as_str);
            console.line(format_args!("{}  {:<3}  {:>5}  {first}", root.root, root.mmu, root.score))?;
            if let Some(name) = &root.name {
                console.line(format_args!("{:33}the address space {}", "", name.escape_debug()))?;
            }
            for reason in reasons {
                console.line(format_args!("{:33}{reason}", ""))?;
            }
        }
        if self.scanned > 0 {
            console.line(format_args!("{FAINT}{} read, holes skipped{FAINT:#}", Bytes(self.scanned)))?;
        }
        Ok(())
    }
}
