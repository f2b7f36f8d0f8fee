//! What changed in the structure: tables that came, went, moved, or are filled otherwise.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use gmmu::addr::TableAddr;
use gmmu::format::Format;
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::Terminal;
use crate::exit::Failure;
use crate::notation::{Address, Text};
use crate::ranges::span_name;
use crate::source::Source;
use crate::survey::{Seen, survey};
use crate::with_format;

/// Tables by the first address that they translate, the outer ones first.
type Tables = BTreeMap<(u64, Reverse<u32>), TableSide>;

/// One table on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub(super) struct TableSide {
    at: Text<TableAddr>,
    /// Entries that are not 0.
    used: u64,
    #[serde(skip)]
    level: &'static str,
    #[serde(skip)]
    span: u64,
}

/// A table that differs.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct TableChange {
    change: &'static str,
    level: &'static str,
    va: Address,
    /// What one of its entries spans.
    span: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<TableSide>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<TableSide>,
}

/// The tables that differ. True where a side had more than may be read.
pub(super) fn compare(a: &mut Source, b: &mut Source, terminal: Terminal) -> Result<(Vec<TableChange>, bool), Failure> {
    let (mut left, cut_left) = with_format!(a.mmu, tables(a, terminal))?;
    let (right, cut_right) = with_format!(b.mmu, tables(b, terminal))?;
    let mut changes = BTreeMap::new();
    for (place, to) in right {
        let from = left.remove(&place);
        if from != Some(to) {
            changes.insert(place, (from, Some(to)));
        }
    }
    changes.extend(left.into_iter().map(|(place, from)| (place, (Some(from), None))));
    let changes = changes.into_iter().filter_map(|((va, _), (from, to))| {
        let change = match (&from, &to) {
            (None, _) => "added",
            (_, None) => "removed",
            (Some(from), Some(to)) if from.at != to.at => "moved",
            _ => "filled",
        };
        let TableSide { level, span, .. } = from.or(to)?;
        Some(TableChange { change, level, va: Address(va), span, from, to })
    });
    Ok((changes.collect(), cut_left || cut_right))
}

fn tables<F: Format>(source: &mut Source, terminal: Terminal) -> Result<(Tables, bool), Failure> {
    let mut found = Tables::new();
    let cut = survey::<F>(source, terminal, |_, seen| {
        let (table, used) = match seen {
            Seen::Table { table, .. } => (table, 0),
            Seen::End { table, used, .. } => (table, used),
            Seen::Entry { .. } => return Ok(()),
        };
        let side = TableSide { at: Text(table.at), used, level: table.level.name, span: table.level.span() };
        found.insert((table.va, Reverse(table.level.shift)), side);
        Ok(())
    })?;
    Ok((found, cut))
}

impl TableChange {
    /// The change in one line.
    pub(super) fn line(&self) -> String {
        let name = match self.level {
            "PTE" => format!("PTE {}", span_name(self.span)),
            level => level.to_owned(),
        };
        let start = format!("{:<7}  {name:<7}  va {}", self.change, self.va);
        match (&self.from, &self.to) {
            (Some(from), Some(to)) if from.at != to.at => format!("{start}  {} to {}", from.at, to.at),
            (Some(from), Some(to)) => format!("{start}  {}  {} used, was {}", to.at, to.used, from.used),
            (Some(side), None) | (None, Some(side)) => format!("{start}  {}  {} used", side.at, side.used),
            (None, None) => start,
        }
    }
}
