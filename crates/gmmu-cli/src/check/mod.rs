//! Static checks of page tables.
//!
//! One pass over all tables looks at each entry by itself, and at 64K and 4K tables that share a dual entry; what is
//! mapped is remembered and compared at the end, with the tables and with itself.

mod aliases;
mod halves;
mod rules;

pub use rules::{RULES, Rule, Severity, by_name};

use std::collections::HashMap;

use gmmu::addr::{Aperture, TableAddr};
use gmmu::device::{DeviceError, TableRead};
use gmmu::format::{DecodeError, EntryKind, Format, Leaf};
use gmmu::walk::{Is, Step, Table, Why};
use schemars::JsonSchema;
use serde::Serialize;

use crate::bad::words_read;
use crate::console::Terminal;
use crate::entry::fields::Fields;
use crate::exit::Failure;
use crate::notation::{Address, Text, Word};
use crate::roots::rest_is_zero;
use crate::source::Source;
use crate::survey::{Seen, survey};
use aliases::{Aliases, Span};
use halves::Halves;

/// Findings of one rule that are kept.
const MOST: usize = 1000;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Finding {
    /// The rule's id.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// First address that the entry is for.
    pub va: Address,
    /// The entry.
    pub entry: Text<TableAddr>,
    /// Its words.
    pub raw: Vec<Word>,
    /// What is wrong.
    pub says: String,
}

/// All findings, in the order of rules and addresses.
#[derive(Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    counts: HashMap<&'static str, usize>,
    /// There were more tables, or mappings, than are looked at.
    truncated: bool,
}

impl Findings {
    fn add(&mut self, rule: &Rule, va: u64, entry: TableAddr, raw: &[u64], says: impl Into<String>) {
        let count = self.counts.entry(rule.id).or_default();
        *count += 1;
        if *count > MOST {
            return;
        }
        self.list.push(Finding {
            rule: rule.id,
            severity: rule.severity,
            va: Address(va),
            entry: Text(entry),
            raw: raw.iter().copied().map(Word).collect(),
            says: says.into(),
        });
    }

    /// Whether there is more than is told, of rules that are not among `allowed`.
    #[must_use]
    pub fn truncated(&self, allowed: &[&Rule]) -> bool {
        let asked = |id: &str| allowed.iter().all(|rule| rule.id != id);
        self.truncated || self.counts.iter().any(|(id, count)| *count > MOST && asked(id))
    }

    /// The findings, sorted.
    #[must_use]
    pub fn into_list(mut self) -> Vec<Finding> {
        self.list.sort_by(|one, other| (one.rule, one.va, one.entry.0).cmp(&(other.rule, other.va, other.entry.0)));
        self.list
    }
}

/// What is being checked.
struct Check {
    findings: Findings,
    /// First address behind the video memory, where that is known.
    vram_end: Option<u64>,
    /// The entry that first pointed to a table, with the table's level.
    parents: HashMap<TableAddr, (Option<TableAddr>, u32)>,
    tables: Vec<Table>,
    aliases: Aliases,
    halves: Option<Halves>,
}

/// Checks all tables of a source. Pages beyond `vram_end` are told, where that is known.
///
/// # Errors
/// Those of the source.
pub fn check<F: Format>(source: &mut Source, terminal: Terminal, vram_end: Option<u64>) -> Result<Findings, Failure> {
    let mut check = Check {
        findings: Findings::default(),
        vram_end,
        parents: HashMap::new(),
        tables: Vec::new(),
        aliases: Aliases::default(),
        halves: None,
    };
    let cut = survey::<F>(source, terminal, |source, seen| {
        match seen {
            Seen::Table { table, again } => check.table::<F>(source, &table, again),
            Seen::Entry { table, va, step } => check.entry::<F>(source, &table, va, &step),
            Seen::End { table, used, .. } => check.end(&table, used),
        }
        Ok(())
    })?;
    let root = source.root;
    if !rest_is_zero(&mut source.memory, root, F::VERSION) {
        check.findings.add(&rules::GM010, 0, root, &[], "words that are not 0 lie behind the top table's entries");
    }
    check.findings.truncated |= cut;
    let Check { mut findings, aliases, tables, .. } = check;
    aliases.finish(&tables, &mut findings);
    Ok(findings)
}

impl Check {
    fn table<F: Format>(&mut self, source: &mut Source, table: &Table, again: bool) {
        if !again {
            self.tables.push(*table);
        }
        self.halves = None;
        let Some(parent) = table.parent else {
            self.parents.insert(table.at, (None, table.level.shift));
            return;
        };
        let raw = source.memory.read_word(parent).unwrap_or(0);
        let first = *self.parents.entry(table.at).or_insert((Some(parent), table.level.shift));
        if first != (Some(parent), table.level.shift) {
            let by = first.0.map_or_else(|| "is the top table".to_owned(), |at| format!("is pointed to by {at}, too"));
            self.findings.add(&rules::GM008, table.va, parent, &[raw], format!("the table {} {by}", table.at));
        }
        let kind = match table.level.shift {
            12 => EntryKind::DualSmall,
            16 => EntryKind::DualBig,
            _ => EntryKind::Pde,
        };
        self.undefined(kind, &Fields::of::<F>(kind, raw), table.va, parent, &[raw]);
        if self.vram_end.is_some_and(|end| table.at.is_vram() && table.at.raw() >= end) {
            self.findings.add(
                &rules::GM004,
                table.va,
                parent,
                &[raw],
                format!("the table {} does not exist", table.at),
            );
        }
        if table.level.shift == 12 && !again {
            self.halves = Halves::beside::<F>(&mut source.memory, parent);
        }
    }

    /// Tells of bits that no field has.
    fn undefined(&mut self, kind: EntryKind, fields: &Fields, va: u64, entry: TableAddr, raw: &[u64]) {
        // Below the address of a table in place: what would be its low bits.
        const LOW: u64 = 0xfc0;
        for (word, &value) in raw.iter().enumerate() {
            let bits = fields.undefined(word, value);
            if bits == 0 {
                continue;
            }
            let says = format!("bits {bits:#x} of {value:#018x} have no meaning");
            let link = matches!(kind, EntryKind::Pde | EntryKind::DualSmall);
            let rule = if link && bits & !LOW == 0 { &rules::GM006 } else { &rules::GM003 };
            self.findings.add(rule, va, entry, raw, says);
        }
    }

    fn entry<F: Format>(&mut self, source: &Source, table: &Table, va: u64, step: &Step) {
        let raw = words_read(step);
        match &step.is {
            Is::Leaf(leaf) => self.leaf::<F>(va, step, leaf),
            Is::Sparse => {
                let bits = step.raw[0] & !0x38 | step.raw[1];
                if bits != 0 {
                    let says = format!("a sparse entry with other bits: {bits:#x}");
                    self.findings.add(&rules::GM003, va, step.entry, raw, says);
                }
            }
            Is::Bad(why) => {
                let rule = rule_of(why);
                self.findings.add(rule, va, step.entry, raw, source.why(why));
            }
            Is::Table { .. } | Is::Absent | Is::NoValid4K => {}
        }
        if table.level.shift == 12
            && let Some(halves) = &mut self.halves
        {
            halves.small(va, step, &mut self.findings);
        }
    }

    fn leaf<F: Format>(&mut self, va: u64, step: &Step, leaf: &Leaf) {
        /// What debug drivers fill dead entries with (facts: Turing and later, Hopper).
        const POISON: [u64; 2] = [0x0600_0001_bad0_00e9, 0x2b_ad00_06f9];
        let (raw, entry, span) = (words_read(step), step.entry, step.level.span());
        let [low, high] = step.raw;
        if POISON.contains(&low) {
            self.findings.add(&rules::GM001, va, entry, raw, format!("{low:#018x} is the poison of a debug driver"));
        }
        self.undefined(EntryKind::Pte, &Fields::of_entry::<F>(true, &[low]), va, entry, &[low]);
        if high != 0 {
            let says = format!("a 2M page with {high:#018x} in its high word, which has to be 0");
            self.findings.add(&rules::GM003, va, entry, raw, says);
        }
        let in_vram = leaf.to.aperture == Aperture::Vram;
        if !leaf.to.is_aligned(span) {
            let says = format!("{} is no multiple of {span:#x}", leaf.to);
            self.findings.add(&rules::GM005, va, entry, raw, says);
        }
        if let Some(end) = self.vram_end.filter(|&end| in_vram && leaf.to.raw.saturating_add(span) > end) {
            let says = format!("the page {} lies beyond the end of the memory, {end:#014x}", leaf.to);
            self.findings.add(&rules::GM004, va, entry, raw, says);
        }
        if step.level.shift == 12 && leaf.kind.is_compressible() {
            let says = format!("kind {} on a 4K page", leaf.kind.0);
            self.findings.add(&rules::GM015, va, entry, raw, says);
        }
        if in_vram {
            self.aliases.add(Span::of(va, entry, low, leaf, span), &mut self.findings.truncated);
        }
    }

    fn end(&mut self, table: &Table, used: u64) {
        if let Some(halves) = self.halves.take().filter(|_| table.level.shift == 12) {
            halves.finish(&mut self.findings);
        }
        if let Some(parent) = table.parent.filter(|_| used == 0) {
            let says = format!("the table {} has no entry", table.at);
            self.findings.add(&rules::GM011, table.va, parent, &[], says);
        }
    }
}

/// The rule that a bad entry breaks.
fn rule_of(why: &Why) -> &'static Rule {
    match why {
        Why::Undecodable(DecodeError::NotThere { .. }) => &rules::GM001,
        Why::TableUnreadable(error) | Why::Unreadable(error) => match error {
            DeviceError::OutOfRange { at, .. } if at.is_vram() => &rules::GM004,
            DeviceError::Unaligned { .. } => &rules::GM006,
            _ => &rules::GM016,
        },
        Why::Loop(_) => &rules::GM007,
        Why::NotOnChip(_) => &rules::GM018,
        _ => &rules::GM002,
    }
}
