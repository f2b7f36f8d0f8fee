//! What a script expects: of an address as the GPU sees it, and of the records.

use gmmu::format::Format;
use gmmu::vmm::Piece;
use gmmu_sim::{AccessKind, FaultType, Translated};

use super::ops::{At, Expected, Page, PieceLike};
use super::refusal::Refusal;
use super::runner::{Held, Runner};
use crate::notation::Size;

impl<F: Format> Runner<F> {
    pub(super) fn expect(&mut self, space: &str, va: &At, what: &Expected) -> Result<(), Refusal> {
        let (client, va) = (self.client(space)?, self.address(va)?);
        if let Expected::Piece(piece) = what {
            return self.expect_piece(space, va, piece);
        }
        let found = self.machine().gpu().access(client, va, AccessKind::Read, true);
        let right = match (what, &found) {
            (Expected::Page(page), Ok(found)) => is_page(page, found),
            (Expected::Sparse(bytes), Ok(found)) => found.sparse && bytes.is_none_or(|bytes| found.page_bytes == bytes),
            // Any other fault says that something is mapped there.
            (Expected::Unmapped, Err(fault)) => matches!(fault.fault, FaultType::Pde | FaultType::Pte),
            (Expected::Fault(level), Err(fault)) => fault.level == level,
            _ => false,
        };
        if !right {
            let said = found.map_or_else(|fault| fault.to_string(), |found| seen(&found, what));
            return Err(Refusal::plain(format!("found {said}")));
        }
        self.verified += 1;
        Ok(())
    }

    /// Whether a piece of the records begins at `va` and is like `wanted`.
    fn expect_piece(&self, space: &str, va: u64, wanted: &PieceLike) -> Result<(), Refusal> {
        let mut pieces = self.held(space)?.vmm().pieces();
        let Some((range, piece)) = pieces.find(|(range, _)| range.contains(&va)) else {
            return Err(Refusal::plain("found no piece there"));
        };
        let Piece { page, object, mapping, .. } = *piece;
        let found = [range.end - range.start, page.bytes(), object, range.start.saturating_sub(mapping)];
        let wishes = [wanted.len, wanted.page, wanted.object, wanted.offset];
        if range.start == va && wishes.into_iter().zip(found).all(|(wish, found)| wish.is_none_or(|wish| wish == found))
        {
            return Ok(());
        }
        let [len, page, object, offset] = found;
        Err(Refusal::plain(format!(
            "found a piece at {:#x} len={} page={} object={object} offset={offset:#x}",
            range.start,
            Size(len),
            Size(page)
        )))
    }

    /// Counts of a space, of a job or of BAR1.
    pub(super) fn expect_counts(&mut self, who: &str, counts: &[(&'static str, u64)]) -> Result<(), Refusal> {
        let mut wrong = Vec::new();
        for &(what, wanted) in counts {
            let found = self.count(who, what)?;
            if found != wanted {
                let bytes = ["reclaimable", "zapped", "foreign", "taken", "hole"].contains(&what);
                wrong.push(if bytes { format!("{what}={}", Size(found)) } else { format!("{what}={found}") });
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(Refusal::plain(format!("found {}", wrong.join(" ")))) }
    }

    fn count(&mut self, who: &str, what: &str) -> Result<u64, Refusal> {
        if what == "rounds" {
            return self.rounds(who);
        }
        let held = self.held(who)?;
        let census = held.vmm().census();
        let of_bar1 = |count: fn(&gmmu::bar1::Usage) -> u64| match held {
            Held::Bar1(bar1) => Ok(count(&bar1.usage())),
            Held::Own(_) => Err(Refusal::plain(format!("BAR1 does not go through {who}: bar1 bind {who}"))),
        };
        match what {
            "tables" => Ok((census.directories + census.leaf_tables) as u64),
            "reclaimable" => Ok(held.vmm().reclaimable()),
            "zapped" => Ok(held.vmm().zapped().map(|(range, _)| range.end - range.start).sum()),
            "foreign" => Ok(held.vmm().foreign().map(|range| range.end - range.start).sum()),
            "pieces" => Ok(held.vmm().pieces().count() as u64),
            "jobs" => Ok(census.jobs as u64),
            "quarantined" => Ok(census.quarantined as u64),
            "mappings" => of_bar1(|usage| usage.mappings as u64),
            "taken" => of_bar1(|usage| usage.taken),
            "hole" => of_bar1(|usage| usage.largest_hole),
            _ => of_bar1(|usage| usage.poisoned as u64),
        }
    }
}

/// Whether a page is as it is expected.
fn is_page(page: &Page, found: &Translated) -> bool {
    !found.sparse
        && found.to == page.to
        && page.bytes.is_none_or(|bytes| found.page_bytes == bytes)
        && page.kind.is_none_or(|kind| found.kind == kind)
        && (page.flags.is_empty() || found.flags.names().eq(page.flags.iter().map(String::as_str)))
}

/// What was found in words: page size and kind where somebody asked for them.
fn seen(found: &Translated, what: &Expected) -> String {
    let mut said = if found.sparse { "sparse".to_owned() } else { found.to.to_string() };
    let (bytes, kind) = match what {
        Expected::Page(page) => (page.bytes, page.kind),
        Expected::Sparse(bytes) => (*bytes, None),
        Expected::Unmapped | Expected::Fault(_) | Expected::Piece(_) => (None, None),
    };
    if bytes.is_some() {
        said += &format!(" page={}", Size(found.page_bytes));
    }
    if kind.is_some() && !found.sparse {
        said += &format!(" kind={}", found.kind);
    }
    for flag in found.flags.names() {
        said = said + " " + flag;
    }
    said
}
