//! Memory that is mapped more than once, and tables that are mapped at all.

use gmmu::addr::TableAddr;
use gmmu::format::{Flags, Kind, Leaf};
use gmmu::walk::Table;

use super::{Findings, rules};

/// Spans that are kept.
const MOST: usize = 1 << 21;

/// A piece of video memory that is mapped, by entries that go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u64,
    end: u64,
    va: u64,
    entry: TableAddr,
    raw: u64,
    kind: Kind,
    flags: Flags,
}

impl Span {
    pub(super) const fn of(va: u64, entry: TableAddr, raw: u64, leaf: &Leaf, bytes: u64) -> Self {
        let start = leaf.to.raw;
        Self { start, end: start.saturating_add(bytes), va, entry, raw, kind: leaf.kind, flags: leaf.flags }
    }
}

/// Everything that is mapped of video memory.
#[derive(Debug, Default)]
pub(super) struct Aliases(Vec<Span>);

impl Aliases {
    pub(super) fn add(&mut self, span: Span, truncated: &mut bool) {
        if let Some(last) = self.0.last_mut()
            && last.end == span.start
            && last.va.checked_add(last.end - last.start) == Some(span.va)
            && (last.kind, last.flags) == (span.kind, span.flags)
        {
            last.end = span.end;
        } else if self.0.len() < MOST {
            self.0.push(span);
        } else {
            *truncated = true;
        }
    }

    /// Compares spans with each other, and with the tables.
    pub(super) fn finish(mut self, tables: &[(Table, u64)], findings: &mut Findings) {
        self.0.sort_by_key(|span| (span.start, span.va));
        self.tables(tables, findings);
        // The span that reaches furthest of each way to map: whatever overlaps at all overlaps one of these.
        let mut furthest: Vec<Span> = Vec::new();
        for span in &self.0 {
            furthest.retain(|other| other.end > span.start);
            let other =
                furthest.iter().find(|other| (other.kind, other.flags.volatile) != (span.kind, span.flags.volatile));
            if let Some(other) = other {
                let how = |span: &Span| {
                    format!("kind {}, {}", span.kind.0, if span.flags.volatile { "not cached" } else { "cached" })
                };
                let says = format!(
                    "vram {:#014x} is mapped here ({}) and at {:#014x} ({})",
                    span.start,
                    how(span),
                    other.va.saturating_add(span.start.saturating_sub(other.start)),
                    how(other)
                );
                findings.add(&rules::GM012, span.va, span.entry, &[span.raw], says);
            }
            let same = |other: &Span| (other.kind, other.flags.volatile) == (span.kind, span.flags.volatile);
            match furthest.iter_mut().find(|other| same(other)) {
                Some(other) if other.end < span.end => *other = *span,
                Some(_) => {}
                None => furthest.push(*span),
            }
        }
    }

    /// Tells of tables that may be written through the space that they make.
    fn tables(&self, tables: &[(Table, u64)], findings: &mut Findings) {
        let mut own: Vec<(u64, u64, &Table)> = tables
            .iter()
            .filter(|(table, _)| table.at.is_vram())
            .map(|(table, bytes)| (table.at.raw(), table.at.raw().saturating_add(*bytes), table))
            .collect();
        own.sort_by_key(|&(start, end, _)| (start, end));
        for span in self.0.iter().filter(|span| !span.flags.read_only) {
            // Tables are at most 4 KiB long, so none that ends in the span begins earlier than that before it.
            let from = own.partition_point(|&(start, ..)| start < span.start.saturating_sub(4096));
            let within = own.iter().skip(from).take_while(|&&(start, ..)| start < span.end);
            let mut hit = within.filter(|&&(_, end, _)| end > span.start);
            let Some(&(start, _, table)) = hit.next() else { continue };
            let more = match hit.count() {
                0 => String::new(),
                more => format!(" and {more} more tables"),
            };
            let who = if span.flags.privileged { "privileged code" } else { "anyone in this space" };
            let va = span.va.saturating_add(start.saturating_sub(span.start));
            let says = format!("{who} can write the {} {}{more} through this mapping", table.level.name, table.at);
            findings.add(&rules::GM009, va, span.entry, &[span.raw], says);
        }
    }
}
