//! `gmmu decode`: one entry, field by field.

use clap::ValueEnum;
use gmmu::addr::{PageSize, PhysAddr, TableAddr};
use gmmu::format::{DecodeError, Dual, Format, Kind, Leaf, Level, Link, MmuVersion, Pde, Pte, Target};
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{BAD, Console, FAINT, SCHEMA, STRONG, View};
use crate::entry::fields::Fields;
use crate::entry::{Word, aperture_text, flags, flags_text};
use crate::exit::{Exit, Failure, Outcome};
use crate::format::{Mmu, kind_text};
use crate::notation::{self, Text};
use crate::num::number;
use crate::with_format;

const EXAMPLES: &str = "\
Examples:
  gmmu decode --mmu v3 --entry pte 0x0000000200000601
  gmmu decode --mmu v2 --entry dual 0x0000000000000008 0x0000000000000000
  gmmu decode --mmu v2 --entry huge 0x0600000000200001 --json

Exit code 1: the words are no entry of this format.";

/// Arguments of `gmmu decode`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Page-table format
    #[arg(long)]
    mmu: Mmu,

    /// What the words are
    #[arg(long)]
    entry: Entry,

    /// The word; of a dual entry or 2M leaf, the low one (the big half)
    #[arg(value_parser = number)]
    raw: u64,

    /// The high word of a dual entry (the small half) or 2M leaf
    #[arg(value_parser = number)]
    raw_hi: Option<u64>,
}

/// The kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Entry {
    /// An entry of a leaf table: a 4K or 64K page
    Pte,
    /// A directory entry of one word
    Pde,
    /// An entry of PDE0: two words, for a 64K and a 4K table
    Dual,
    /// A leaf in a directory: a page of 2M and more
    Huge,
}

impl Entry {
    /// As typed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pte => "pte",
            Self::Pde => "pde",
            Self::Dual => "dual",
            Self::Huge => "huge",
        }
    }
}

/// What the words say.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Decoded {
    schema: u32,
    mmu: &'static str,
    entry: &'static str,
    raw: Vec<notation::Word>,
    fields: Fields,
    is: Word,
    to: Option<Text<PhysAddr>>,
    kind: Option<u8>,
    flags: Vec<&'static str>,
    /// The table of a dual entry's high word, where the low word has one too.
    #[serde(skip_serializing_if = "Option::is_none")]
    small: Option<Text<TableAddr>>,
    /// Why it is bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// A number of words that does not fit the entry.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let raw = words(args)?;
    let decoded = with_format!(MmuVersion::from(args.mmu), decode(args.entry, &raw));
    console.show(&decoded)?;
    Ok(if decoded.is == Word::Bad { Exit::Negative } else { Exit::Done })
}

fn words(args: &Args) -> Result<Vec<u64>, Failure> {
    match (args.entry, args.raw_hi) {
        (Entry::Dual, None) => Err(Failure::usage("a dual entry has two words")
            .hint("give both, the low one (the big half, for the 64K table) first")),
        (Entry::Pte | Entry::Pde, Some(_)) => {
            Err(Failure::usage(format_args!("a {} has one word", args.entry.name()))
                .hint("entries of two words are dual"))
        }
        (_, Some(high)) => Ok(vec![args.raw, high]),
        (_, None) => Ok(vec![args.raw]),
    }
}

/// A directory whose entries are one word and may be leaves.
const DIRECTORY: Level = Level {
    name: "PDE1",
    shift: 29,
    bits: 9,
    entry_bytes: 8,
    leaf: Some(PageSize::Size512M),
    depth: gmmu::device::Depth::UpToPde1,
};

fn decode<F: Format>(entry: Entry, raw: &[u64]) -> Decoded {
    let result = match (entry, raw) {
        (Entry::Pte, [word, ..]) => F::decode_pte(*word).map(Meaning::from),
        (_, [low, high]) => F::decode_dual([*low, *high]).map(Meaning::from),
        (_, [word]) => F::decode_pde(&DIRECTORY, *word).map(Meaning::from),
        (_, _) => Ok(Meaning::of(Word::Absent)),
    };
    let high_leaf = matches!(raw, [low, high] if low & 1 == 1 && *high != 0);
    let Meaning { is, to, leaf, small, why } = match result {
        Ok(meaning) if high_leaf => {
            let why = "the second word of a 2M leaf must be 0".to_owned();
            Meaning { is: Word::Bad, why: Some(why), ..meaning }
        }
        Ok(meaning) => meaning,
        Err(error) => Meaning { why: Some(explained(&error)), ..Meaning::of(Word::Bad) },
    };
    Decoded {
        schema: SCHEMA,
        mmu: F::VERSION.name(),
        entry: entry.name(),
        raw: raw.iter().copied().map(notation::Word).collect(),
        fields: Fields::of_entry::<F>(entry == Entry::Pte, raw),
        is,
        to: to.map(Text),
        kind: leaf.map(|leaf| leaf.kind.0),
        flags: leaf.as_ref().map(flags).unwrap_or_default(),
        small: small.map(Text),
        why,
    }
}

fn explained(error: &DecodeError) -> String {
    error.to_string()
}

/// What words mean, whatever entry they are.
struct Meaning {
    is: Word,
    to: Option<PhysAddr>,
    leaf: Option<Leaf>,
    small: Option<TableAddr>,
    why: Option<String>,
}

impl Meaning {
    const fn of(is: Word) -> Self {
        Self { is, to: None, leaf: None, small: None, why: None }
    }

    fn link(link: &Link) -> Self {
        match link.target {
            Target::Absent => Self::of(Word::Absent),
            Target::Sparse => Self::of(Word::Sparse),
            Target::Table { at, .. } => Self { to: Some(at.into()), ..Self::of(Word::Table) },
        }
    }

    fn leaf(leaf: Leaf) -> Self {
        Self { to: Some(leaf.to), leaf: Some(leaf), ..Self::of(Word::Leaf) }
    }
}

impl From<Pte> for Meaning {
    fn from(pte: Pte) -> Self {
        match pte {
            Pte::Invalid | Pte::Nowhere => Self::of(Word::Absent),
            Pte::Sparse => Self::of(Word::Sparse),
            Pte::NoValid4K => Self::of(Word::No4k),
            Pte::Leaf(leaf) => Self::leaf(leaf),
        }
    }
}

impl From<Pde> for Meaning {
    fn from(pde: Pde) -> Self {
        match pde {
            Pde::Link(link) => Self::link(&link),
            Pde::Leaf(leaf) => Self::leaf(leaf),
        }
    }
}

impl From<Dual> for Meaning {
    fn from(dual: Dual) -> Self {
        match dual {
            Dual::Leaf(leaf) => Self::leaf(leaf),
            Dual::Links { big, small } => match (big.to(), small.to()) {
                (Some(_), second) => Self { small: second, ..Self::link(&big) },
                (None, Some(_)) => Self::link(&small),
                // Sparse is the low word's to say.
                (None, None) => Self::link(&big),
            },
        }
    }
}

impl Decoded {
    fn verdict(&self) -> String {
        match (self.is, &self.to) {
            (Word::Leaf, Some(to)) => format!("a page of {}", aperture_text(to.0.aperture)),
            (Word::Table, _) => "points to a table".to_owned(),
            (Word::Absent, _) => "says nothing: an access faults, or goes on to the 4K table beside".to_owned(),
            (Word::Sparse, _) => "sparse: reads give 0, writes are dropped, nothing faults".to_owned(),
            (Word::No4k, _) => "no page, and the 4K table beside is not asked".to_owned(),
            (Word::Bad, _) => format!("no entry: {}", self.why.as_deref().unwrap_or("its words do not fit together")),
            (Word::Leaf, None) => "a page".to_owned(),
        }
    }
}

impl View for Decoded {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        let style = if self.is == Word::Bad { BAD } else { STRONG };
        console.line(format_args!("{} {}: {style}{}{style:#}", self.mmu, self.entry, self.verdict()))?;
        if let Some(to) = &self.to {
            console.line(format_args!("  {FAINT}to{FAINT:#}     {to}"))?;
        }
        if let Some(small) = &self.small {
            console.line(format_args!("  {FAINT}and{FAINT:#}    {small}, the 4K table"))?;
        }
        if let Some(kind) = self.kind {
            console.line(format_args!("  {FAINT}kind{FAINT:#}   {}", kind_text(Kind(kind))))?;
            console.line(format_args!("  {FAINT}flags{FAINT:#}  {}", flags_text(&self.flags)))?;
        }
        for (word, raw) in self.raw.iter().enumerate() {
            console.line(format_args!(""))?;
            console.line(format_args!("  {STRONG}{raw}{STRONG:#}"))?;
            for value in self.fields.0.iter().filter(|value| value.word == word) {
                let (hi, lo) = value.field.range();
                let bits = if hi == lo { hi.to_string() } else { format!("{hi}:{lo}") };
                console.line(format_args!("  {bits:>7}  {:<18} {:#x}", value.field.name, value.value))?;
            }
        }
        Ok(())
    }
}
