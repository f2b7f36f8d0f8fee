//! Entries that cannot be followed: where they are, what they hold, and why.

use std::collections::HashSet;

use gmmu::addr::TableAddr;
use gmmu::walk::{Is, Step, Why};
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{BAD, Console, STRONG};
use crate::exit::Failure;
use crate::notation::{Address, Text, Word};
use crate::source::Source;

/// Bad entries that are kept; a table of noise has hundreds.
pub const BAD_MAX: usize = 10_000;

/// One bad entry.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct BadEntry {
    entry: Text<TableAddr>,
    raw: Vec<Word>,
    level: &'static str,
    va: Address,
    why: String,
}

/// The words of an entry; none where it could not be read.
#[must_use]
pub fn words_read(step: &Step) -> &[u64] {
    match step.is {
        Is::Bad(Why::Unreadable(_)) => &[],
        _ => step.words(),
    }
}

/// The bad entries of a source, each once, however often it was met.
#[derive(Debug, Default)]
pub struct BadList {
    entries: Vec<BadEntry>,
    seen: HashSet<(TableAddr, u32)>,
    truncated: bool,
}

impl BadList {
    /// Adds `step`, which translates from `va` on, if it is bad.
    pub fn add(&mut self, source: &Source, va: u64, step: &Step) {
        let Is::Bad(why) = &step.is else { return };
        let place = (step.entry, step.level.shift);
        if self.seen.contains(&place) {
            return;
        }
        if self.entries.len() >= BAD_MAX {
            self.truncated = true;
            return;
        }
        self.seen.insert(place);
        self.entries.push(BadEntry {
            entry: Text(step.entry),
            raw: words_read(step).iter().copied().map(Word).collect(),
            level: step.level.name,
            va: Address(va),
            why: source.why(why),
        });
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[BadEntry] {
        &self.entries
    }

    /// Whether there were more than are kept.
    #[must_use]
    pub const fn truncated(&self) -> bool {
        self.truncated
    }

    /// Prints the list for people, if there is anything in it.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        if self.entries.is_empty() {
            return Ok(());
        }
        console.line(format_args!("\n{STRONG}Bad entries{STRONG:#}"))?;
        for bad in &self.entries {
            let raw = bad.raw.iter().map(Word::to_string).collect::<Vec<_>>().join(" ");
            console.line(format_args!("{} {} for va {}: {raw}", bad.level, bad.entry, bad.va))?;
            console.paragraph("  ", 2, BAD, &bad.why)?;
        }
        Ok(())
    }
}
