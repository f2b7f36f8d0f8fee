//! `gmmu encode`: the words of one entry.

use gmmu::addr::{Aperture, PageSize, PhysAddr, SysAddr, TableAddr};
use gmmu::format::{Dual, EncodeError, Flags, Format, Kind, Leaf, Link, MmuVersion, Pte};
use schemars::JsonSchema;
use serde::Serialize;

use super::decode::Entry;
use crate::console::{Console, SCHEMA, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::format::Mmu;
use crate::notation::{BadNotation, PageChoice, Word, memory, page};
use crate::num::number;
use crate::with_format;

const EXAMPLES: &str = "\
Examples:
  gmmu encode --mmu v3 --entry pte --to vram:0x200000000 --flags ro,vol
  gmmu encode --mmu v2 --entry huge --to sys-coh:0x40000000 --kind 6
  gmmu encode --mmu v3 --entry pte --to no4k
  gmmu encode --mmu v2 --entry dual --big vram:0x7fe00 --small none

Flags: acd encrypted noatomic priv ro vol. Exactly the flags given are set, and
only the widths of the fields are checked. A dual entry and a 2M leaf have two
words, low first.";

/// Arguments of `gmmu encode`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Page-table format
    #[arg(long)]
    mmu: Mmu,

    /// What to make
    #[arg(long)]
    entry: Entry,

    /// Where it leads: memory such as vram:0x1000, or sparse, invalid, no4k
    #[arg(long, value_name = "MEM|sparse|invalid|no4k", value_parser = target, conflicts_with_all = ["big", "small"])]
    to: Option<Goal>,

    /// The 64K table of a dual entry, or none
    #[arg(long, value_name = "MEM|none", value_parser = half)]
    big: Option<Half>,

    /// The 4K table of a dual entry, or none
    #[arg(long, value_name = "MEM|none", value_parser = half)]
    small: Option<Half>,

    /// Surface kind; plain memory, unless given
    #[arg(long, value_parser = number, value_name = "NUMBER")]
    kind: Option<u64>,

    /// Flags, with commas between them
    #[arg(long, value_delimiter = ',', value_name = "FLAG,…")]
    flags: Vec<String>,

    /// Page size of a huge entry: a 2M one has two words [default: 2M]
    #[arg(long, value_parser = page, value_name = "2M|512M|256G")]
    page: Option<PageChoice>,
}

/// Where an entry leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Memory(PhysAddr),
    Sparse,
    Invalid,
    NoValid4K,
}

/// One half of a dual entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Memory(PhysAddr),
    None,
}

fn target(text: &str) -> Result<Goal, BadNotation> {
    match text {
        "sparse" => Ok(Goal::Sparse),
        "invalid" => Ok(Goal::Invalid),
        "no4k" => Ok(Goal::NoValid4K),
        _ => memory(text).map(Goal::Memory),
    }
}

fn half(text: &str) -> Result<Half, BadNotation> {
    if text == "none" { Ok(Half::None) } else { memory(text).map(Half::Memory) }
}

/// The words.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Encoded {
    schema: u32,
    raw: Vec<Word>,
}

impl View for Encoded {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        self.raw.iter().try_for_each(|word| console.line(format_args!("{word}")))
    }
}

/// Runs the command.
///
/// # Errors
/// Options that do not fit the entry, and values that do not fit the format.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let raw = with_format!(MmuVersion::from(args.mmu), encode(args))?;
    console.show(&Encoded { schema: SCHEMA, raw: raw.into_iter().map(Word).collect() })?;
    Ok(Exit::Done)
}

fn encode<F: Format>(args: &Args) -> Result<Vec<u64>, Failure> {
    check_options::<F>(args)?;
    let refused = |error: EncodeError| match (args.to, error) {
        // The error has the frame number only.
        (Some(Goal::Memory(to)), EncodeError::TooWide(..)) => Failure::usage(format_args!("{to}: {error}")),
        _ => Failure::usage(error),
    };
    if args.entry == Entry::Dual {
        let dual = Dual::Links { big: link(args.big, "--big")?, small: link(args.small, "--small")? };
        return F::encode_dual(&dual).map(Vec::from).map_err(refused);
    }
    let Some(goal) = args.to else {
        return Err(Failure::usage(format_args!("a {} leads somewhere", args.entry.name()))
            .hint("give --to with memory such as vram:0x200000"));
    };
    let words = match (args.entry, goal) {
        (Entry::Pde, Goal::Memory(to)) => vec![F::encode_pde(&pde(to)?).map_err(refused)?],
        (Entry::Pde, _) => {
            return Err(Failure::usage("a pde leads to a table").hint("give --to with memory such as vram:0x201000"));
        }
        (Entry::Huge, Goal::NoValid4K) => {
            return Err(Failure::usage("no4k is said by entries of 64K tables").hint("use --entry pte"));
        }
        (Entry::Huge, goal) if double(args) => F::encode_dual(&huge(goal, args)?).map(Vec::from).map_err(refused)?,
        (_, Goal::Memory(to)) => vec![F::encode_pte(&Pte::Leaf(leaf(to, args)?)).map_err(refused)?],
        (_, Goal::Sparse) => vec![F::encode_pte(&Pte::Sparse).map_err(refused)?],
        (_, Goal::Invalid) => vec![F::encode_pte(&Pte::Invalid).map_err(refused)?],
        (_, Goal::NoValid4K) => vec![F::encode_pte(&Pte::NoValid4K).map_err(refused)?],
    };
    Ok(words)
}

/// Refuses options that the entry would have no use for, rather than drop them in silence.
fn check_options<F: Format>(args: &Args) -> Result<(), Failure> {
    let name = args.entry.name();
    if args.entry != Entry::Dual && (args.big.is_some() || args.small.is_some()) {
        return Err(Failure::usage(format_args!("--big and --small are for dual entries, not for a {name}")));
    }
    if args.entry == Entry::Dual && args.to.is_some() {
        return Err(
            Failure::usage("a dual entry leads to two tables").hint("give --big and --small, of memory or none")
        );
    }
    if args.page.is_some() && args.entry != Entry::Huge {
        return Err(Failure::usage(format_args!("--page is for huge entries, not for a {name}")));
    }
    if matches!(args.page, Some(PageChoice::Auto | PageChoice::Size(PageSize::Size4K | PageSize::Size64K))) {
        return Err(Failure::usage("a huge entry has a page of 2M, 512M or 256G").hint("smaller pages are --entry pte"));
    }
    if let (Entry::Huge, Some(PageChoice::Size(page))) = (args.entry, args.page)
        && !F::LEVELS.iter().any(|level| level.leaf == Some(page))
    {
        return Err(Failure::usage(format_args!("MMU {} has no leaf of {page}", F::VERSION.name())));
    }
    let is_leaf = matches!(args.entry, Entry::Pte | Entry::Huge) && matches!(args.to, Some(Goal::Memory(_)));
    if !is_leaf && (args.kind.is_some() || !args.flags.is_empty()) {
        return Err(Failure::usage("--kind and --flags are for entries that map memory"));
    }
    Ok(())
}

/// Whether a huge entry has two words.
const fn double(args: &Args) -> bool {
    matches!(args.page, None | Some(PageChoice::Size(PageSize::Size2M)))
}

fn huge(goal: Goal, args: &Args) -> Result<Dual, Failure> {
    Ok(match goal {
        Goal::Memory(to) => Dual::Leaf(leaf(to, args)?),
        Goal::Sparse => Dual::Links { big: Link::SPARSE, small: Link::ABSENT },
        Goal::Invalid | Goal::NoValid4K => Dual::ABSENT,
    })
}

fn leaf(to: PhysAddr, args: &Args) -> Result<Leaf, Failure> {
    let mut leaf = Leaf::new(to);
    if let Some(kind) = args.kind {
        let Ok(kind) = u8::try_from(kind) else {
            return Err(Failure::usage(format_args!(
                "kind {kind:#x} is too large: kinds are 0 to 255 on v2, 0 to 15 on v3"
            )));
        };
        leaf.kind = Kind(kind);
    }
    leaf.flags = flags(&args.flags)?;
    Ok(leaf)
}

fn flags(names: &[String]) -> Result<Flags, Failure> {
    let names = names.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
    Flags::from_names(names).map_err(|name| {
        Failure::usage(format_args!("there is no flag {}", name.escape_debug()))
            .hint("flags are acd encrypted noatomic priv ro vol")
    })
}

fn pde(to: PhysAddr) -> Result<gmmu::format::Pde, Failure> {
    Ok(gmmu::format::Pde::Link(Link::table(table(to)?)))
}

fn link(half: Option<Half>, option: &str) -> Result<Link, Failure> {
    match half {
        Some(Half::Memory(to)) => Ok(Link::table(table(to)?)),
        Some(Half::None) => Ok(Link::ABSENT),
        None => Err(Failure::usage(format_args!("a dual entry has two halves: {option} is missing"))
            .hint(format_args!("give {option} with memory, or {option} none"))),
    }
}

fn table(to: PhysAddr) -> Result<TableAddr, Failure> {
    match to.aperture {
        Aperture::Vram => Ok(TableAddr::vram(to.raw)),
        Aperture::SysCoherent => Ok(TableAddr::SysCoherent(SysAddr::new(to.raw))),
        Aperture::SysNonCoherent => Ok(TableAddr::SysNonCoherent(SysAddr::new(to.raw))),
        Aperture::Peer(_) => Err(Failure::usage(format_args!("{to}: page tables are never in a peer's memory"))
            .hint("tables are in vram, sys-coh or sys-ncoh")),
    }
}
