//! `gmmu walk`: one translation level by level, or those of a range.

use gmmu::addr::{PhysAddr, TableAddr};
use gmmu::format::{Format, Kind};
use gmmu::walk::{Outcome as End, Step, Walk, walk};
use schemars::JsonSchema;
use serde::Serialize;

use crate::bad::words_read;
use crate::console::{BAD, Console, FAINT, GOOD, PLAIN, SCHEMA, STRONG, View};
use crate::entry::fields::Fields;
use crate::entry::{self, flags_text, leads_to, second_table};
use crate::exit::{Exit, Failure, Outcome};
use crate::format::kind_text;
use crate::hole;
use crate::notation::{Address, RoughSize, Text, Word};
use crate::num::{AddressOrRange, Range, address_or_range, number};
use crate::ranges::{RangeView, span_name};
use crate::scan::Space;
use crate::source::{Source, SourceArgs};
use crate::with_format;

const EXAMPLES: &str = "\
Examples:
  gmmu walk 0x1000000000 --file vram.img --chip gh100 --root 0x10000
  gmmu walk 0x725f_fb800000 --file vram.img --mmu v2 --root 0x10000 --json
  gmmu walk 0x1000000000+2M --file vram.img --mmu v3 --root 0x10000

Exit code 1: not mapped, or an entry that cannot be followed; of a range, any
part of it.";

/// Arguments of `gmmu walk`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The address, or a range of them
    #[arg(value_name = "VA|A+LEN|A..B", value_parser = address_or_range)]
    va: AddressOrRange,

    #[command(flatten)]
    source: SourceArgs,

    /// In a range, show every level of every translation
    #[arg(long)]
    no_fold: bool,

    /// In a range, stop after so many translations
    #[arg(long, value_name = "N", value_parser = number, default_value = "4096")]
    limit: u64,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Mapped,
    Unmapped,
    Sparse,
    Bad,
}

/// One translation.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct WalkView {
    schema: u32,
    mmu: &'static str,
    root: Text<TableAddr>,
    #[serde(flatten)]
    translation: Translation,
    #[serde(flatten)]
    hole: Option<HoleView>,
}

/// The translations of a range.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct WalksView {
    schema: u32,
    mmu: &'static str,
    root: Text<TableAddr>,
    va: Address,
    bytes: u64,
    walks: Vec<Translation>,
    truncated: bool,
}

/// The way of one address through the tables.
#[derive(Clone, Debug, JsonSchema, Serialize)]
struct Translation {
    va: Address,
    steps: Vec<StepView>,
    result: Verdict,
    to: Option<Text<PhysAddr>>,
    page: Option<&'static str>,
    kind: Option<u8>,
    flags: Vec<&'static str>,
    /// Bytes that the deciding entry spans.
    #[serde(skip)]
    span: u64,
}

/// One entry on the way.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize)]
struct StepView {
    level: &'static str,
    index: u64,
    entry: Text<TableAddr>,
    raw: Vec<Word>,
    is: entry::Word,
    to: Option<Text<PhysAddr>>,
    /// The 4K table of a dual entry that has a 64K table too.
    #[serde(skip_serializing_if = "Option::is_none")]
    small: Option<Text<TableAddr>>,
    /// What the entry spans.
    span: u64,
    fields: Fields,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// What is around an address that is not mapped.
#[derive(Clone, Debug, JsonSchema, Serialize)]
struct HoleView {
    hole: Extent,
    #[serde(skip_serializing_if = "Option::is_none")]
    below: Option<RangeView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    above: Option<RangeView>,
}

/// Where the hole is.
#[derive(Clone, Debug, JsonSchema, Serialize)]
struct Extent {
    va: Address,
    bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// Those of the source, and an address that the format does not have.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let mut source = args.source.open(console)?;
    match args.va {
        AddressOrRange::One(va) | AddressOrRange::Decimal(va) => {
            let view = look_up(&mut source, va)?;
            console.show(&view)?;
            if args.va == AddressOrRange::Decimal(va) && view.result() == Verdict::Unmapped {
                console.note(format_args!("{va} was read as decimal: if it is hex, write 0x{va}"));
            }
            Ok(view.translation.result.exit())
        }
        AddressOrRange::Range(range) => {
            let view = with_format!(source.mmu, walk_range(&mut source, range, args))?;
            console.show(&view)?;
            if view.truncated {
                console.note(format_args!("cut short after --limit {} translations", args.limit));
                return Ok(Exit::Negative);
            }
            let bad = view.walks.iter().map(|walk| walk.result.exit()).find(|&exit| exit != Exit::Done);
            Ok(bad.unwrap_or(Exit::Done))
        }
    }
}

/// The walk of one address, for commands that explain it.
pub(crate) fn look_up(source: &mut Source, va: u64) -> Result<WalkView, Failure> {
    let va = source.plain_va(va);
    with_format!(source.mmu, walk_one(source, va))
}

fn walk_one<F: Format>(source: &mut Source, va: u64) -> Result<WalkView, Failure> {
    let translation = translate::<F>(source, va)?;
    let hole = if translation.result == Verdict::Unmapped { look_around::<F>(source, va) } else { None };
    Ok(WalkView { schema: SCHEMA, mmu: F::VERSION.name(), root: Text(source.root), translation, hole })
}

/// What is around `va`. A search that fails leaves the answer open; the walk itself is answered all the same.
fn look_around<F: Format>(source: &mut Source, va: u64) -> Option<HoleView> {
    let space = Space { root: source.root, sizes: source.sizes, tables_max: source.tables_max() };
    let hole = hole::around::<F, _>(&mut source.memory, space, va).ok()?;
    Some(HoleView {
        hole: Extent { va: Address(hole.start), bytes: hole.end.saturating_sub(hole.start) },
        below: hole.below.as_ref().map(RangeView::from),
        above: hole.above.as_ref().map(RangeView::from),
    })
}

fn walk_range<F: Format>(source: &mut Source, range: Range, args: &Args) -> Result<WalksView, Failure> {
    let mut walks: Vec<Translation> = Vec::new();
    let mut last: Vec<StepView> = Vec::new();
    let (mut va, mut truncated) = (range.start, false);
    while va < range.end {
        if walks.len() as u64 >= args.limit {
            truncated = true;
            break;
        }
        let mut translation = translate::<F>(source, va)?;
        let span = translation.span;
        if !args.no_fold {
            let full = translation.steps.clone();
            let known = full.iter().zip(&last).take_while(|(step, before)| step == before).count();
            translation.steps.drain(..known.min(full.len().saturating_sub(1)));
            last = full;
        }
        walks.push(translation);
        // The next address that another entry decides. Spans are powers of two.
        match (va & !(span - 1)).checked_add(span) {
            Some(next) => va = next,
            None => break,
        }
    }
    Ok(WalksView {
        schema: SCHEMA,
        mmu: F::VERSION.name(),
        root: Text(source.root),
        va: Address(range.start),
        bytes: range.bytes(),
        walks,
        truncated,
    })
}

fn translate<F: Format>(source: &mut Source, va: u64) -> Result<Translation, Failure> {
    let walked = walk::<F, _>(&mut source.memory, source.root, source.sizes, va);
    let walked = walked.map_err(|error| source.failure(error))?;
    let (result, to, page, leaf) = match walked.outcome {
        End::Mapped { to, page, leaf } => (Verdict::Mapped, Some(Text(to)), Some(page.name()), Some(leaf)),
        End::Sparse => (Verdict::Sparse, None, None, None),
        End::Unmapped => (Verdict::Unmapped, None, None, None),
        End::Bad(_) => (Verdict::Bad, None, None, None),
    };
    Ok(Translation {
        va: Address(va),
        steps: walked.steps().map(|step| step_view::<F>(source, step)).collect(),
        result,
        to,
        page,
        kind: leaf.map(|leaf| leaf.kind.0),
        flags: leaf.as_ref().map(entry::flags).unwrap_or_default(),
        span: deciding_span(&walked),
    })
}

/// How far the verdict of a walk reaches.
fn deciding_span(walked: &Walk) -> u64 {
    walked.last().map_or(gmmu::addr::PAGE_BYTES, |step| step.level.span())
}

fn step_view<F: Format>(source: &Source, step: &Step) -> StepView {
    let raw = words_read(step);
    StepView {
        level: step.level.name,
        index: step.index,
        entry: Text(step.entry),
        raw: raw.iter().copied().map(Word).collect(),
        is: entry::Word::from(&step.is),
        to: leads_to(&step.is),
        small: second_table(&step.is),
        span: step.level.span(),
        fields: Fields::of_entry::<F>(step.level.name == "PTE", raw),
        why: match &step.is {
            gmmu::walk::Is::Bad(why) => Some(source.why(why)),
            _ => None,
        },
    }
}

impl Verdict {
    const fn exit(self) -> Exit {
        match self {
            Self::Mapped | Self::Sparse => Exit::Done,
            Self::Unmapped | Self::Bad => Exit::Negative,
        }
    }
}

impl StepView {
    fn verdict(&self) -> String {
        match (self.is, &self.to) {
            (entry::Word::Table, Some(to)) => match &self.small {
                Some(small) => format!("tables {to} (64K) and {small} (4K)"),
                None => format!("table {to}"),
            },
            (entry::Word::Leaf, Some(to)) => format!("{} page {to}", span_name(self.span)),
            (entry::Word::Absent, _) => format!("nothing, for {}", span_name(self.span)),
            (entry::Word::Sparse, _) => format!("sparse, for {}", span_name(self.span)),
            (entry::Word::No4k, _) => "nothing, and no 4K page either".to_owned(),
            (is, _) => is.name().to_owned(),
        }
    }

    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        let level = if self.level == "PTE" { format!("PTE {}", span_name(self.span)) } else { self.level.to_owned() };
        let raw = match self.raw.as_slice() {
            [] => "(not read)".to_owned(),
            words => words.iter().map(Word::to_string).collect::<Vec<_>>().join(" "),
        };
        console.line(format_args!("{level:<7} [{:>3}]  {}  {raw}", self.index, self.entry))?;
        if self.raw.iter().any(|word| word.0 != 0) {
            console.paragraph("         ", 9, FAINT, &self.fields.line())?;
        }
        match &self.why {
            Some(why) => console.paragraph("         ", 11, BAD, &format!("bad: {why}")),
            None => console.line(format_args!("         {}", self.verdict())),
        }
    }
}

impl Translation {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        for step in &self.steps {
            step.text(console)?;
        }
        let va = &self.va;
        match (self.result, &self.to, self.page) {
            (Verdict::Mapped, Some(to), Some(page)) => console.line(format_args!(
                "{GOOD}{va} is mapped to {to}{GOOD:#} ({page} page, kind {}, {})",
                self.kind.map(|kind| kind_text(Kind(kind))).unwrap_or_default(),
                flags_text(&self.flags)
            )),
            (Verdict::Sparse, ..) => console
                .line(format_args!("{GOOD}{va} is sparse{GOOD:#}: reads give 0, writes are dropped, nothing faults")),
            (Verdict::Bad, ..) => console.line(format_args!(
                "{BAD}{va} cannot be translated{BAD:#}: its {} entry cannot be followed",
                self.steps.last().map_or("top", |step| step.level)
            )),
            _ => console.line(format_args!(
                "{BAD}{va} is not mapped{BAD:#}: its {} entry says nothing",
                self.steps.last().map_or("top", |step| step.level)
            )),
        }
    }
}

impl WalkView {
    /// How the walk ended.
    pub(crate) const fn result(&self) -> Verdict {
        self.translation.result
    }

    /// Whether the entry that decided is one of a leaf table, a PTE.
    pub(crate) fn ends_in_a_leaf_table(&self) -> bool {
        self.translation.steps.last().is_some_and(|step| step.level == "PTE")
    }

    /// Whether the page has this flag.
    pub(crate) fn has_flag(&self, flag: &str) -> bool {
        self.translation.flags.contains(&flag)
    }
}

impl View for WalkView {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        console.line(format_args!("{STRONG}MMU {}, top table {}{STRONG:#}", self.mmu, self.root))?;
        self.translation.text(console)?;
        let Some(around) = &self.hole else { return Ok(()) };
        let Extent { va, bytes } = &around.hole;
        let end = Address(va.0.saturating_add(*bytes));
        console.line(format_args!("\nThe hole is {va}..{end} ({}).", RoughSize(*bytes)))?;
        for (side, range) in [("below", &around.below), ("above", &around.above)] {
            match range {
                Some(range) => console.paragraph(&format!("  nearest {side}  "), 17, PLAIN, &range.words())?,
                None => console.line(format_args!("  nearest {side}  none"))?,
            }
        }
        Ok(())
    }
}

impl View for WalksView {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        console.line(format_args!("{STRONG}MMU {}, top table {}{STRONG:#}", self.mmu, self.root))?;
        self.walks.iter().try_for_each(|walk| walk.text(console))
    }
}
