//! A change of the records: which pages were there before, which are there after, and how to get from one to the other
//! and back. Map, unmap, protect and sparse are all changes; what the tables need for one is the planner's to find out.

use super::frames::Wants;
use super::piece::{effective_flags, smallest_page, Backed, Piece, Sizes};
use super::request::{Live, PrepareError, Protection, Span};
use super::space::Vmm;
use crate::addr::{Aperture, PageSize, PhysAddr, PAGE_BYTES};
use crate::format::{Format, Leaf, MmuVersion, Pte};
use crate::storage::{List, NoMemory};
use core::ops::Range;

/// Pages that a job writes entries for, and their words.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) range: Range<u64>,
    pub(super) piece: Piece,
    /// The entry of the first page; where frames come late, of frame 0.
    pub(super) word: u64,
    /// Where its frames begin in the job's list.
    pub(super) frame: u64,
}

/// What a job does to the records in one range.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// The addresses whose entries change; cut pages are in it whole.
    pub(super) range: Range<u64>,
    /// What was mapped there, in order, clipped to the range.
    pub(super) old: List<(Range<u64>, Piece)>,
    /// What is mapped there afterwards, in order.
    pub(super) new: List<Target>,
    pub(super) wants: Wants,
    pub(super) live: Live,
    /// The range becomes sparse, or is no longer: pages stay as they are.
    pub(super) sparse: Option<bool>,
}

/// The part of a span's range whose pages are cut.
#[derive(Clone, Debug)]
struct Edges {
    left: Option<Range<u64>>,
    right: Option<Range<u64>>,
}

impl Edges {
    fn holds(&self, va: u64) -> bool {
        [&self.left, &self.right].into_iter().flatten().any(|page| page.contains(&va))
    }
}

impl<F: Format> Vmm<F> {
    /// The change that takes `span` out, or gives its pages other attributes.
    pub(super) fn change_of(&self, span: &Span, protection: Option<Protection>) -> Result<Change, PrepareError> {
        let range = match protection {
            None => self.mapped_part(&span.range)?,
            Some(_) => self.mapped_whole(&span.range)?,
        };
        let edges = self.edges(&range, span.live)?;
        let start = edges.left.as_ref().map_or(range.start, |page| page.start);
        let end = edges.right.as_ref().map_or(range.end, |page| page.end);
        let mut change = Change { range: start..end, live: span.live, ..Change::default() };
        for (whole, piece) in self.va.overlapping(start..end) {
            let part = whole.start.max(start)..whole.end.min(end);
            let piece = piece.skip(part.start - whole.start);
            change.old.push((part.clone(), piece))?;
            self.recast(&mut change, part, piece, &range, &edges, protection)?;
        }
        Ok(change)
    }

    /// What becomes of one piece.
    fn recast(
        &self,
        change: &mut Change,
        part: Range<u64>,
        piece: Piece,
        range: &Range<u64>,
        edges: &Edges,
        protection: Option<Protection>,
    ) -> Result<(), PrepareError> {
        let mut from = part.start;
        while from < part.end {
            // Up to where the range or a cut page begins or ends.
            let pages = [&edges.left, &edges.right].into_iter().flatten().flat_map(|page| [page.start, page.end]);
            let borders = pages.chain([range.start, range.end]).filter(|&border| border > from);
            let to = borders.min().unwrap_or(part.end).min(part.end);
            let here = piece.skip(from - part.start);
            let after = match (range.contains(&from), protection) {
                (false, _) => Some(here),
                (true, None) => None,
                (true, Some(protection)) => Some(protected(here, protection)),
            };
            if let Some(after) = after {
                if edges.holds(from) {
                    self.cut(change, from..to, after)?;
                } else {
                    self.target(change, from..to, after)?;
                }
            }
            from = to;
        }
        Ok(())
    }

    /// Adds `range`, part of a large page, in smaller ones.
    fn cut(&self, change: &mut Change, range: Range<u64>, piece: Piece) -> Result<(), PrepareError> {
        let smaller = PageSize::ALL.into_iter().rfind(|page| *page < piece.page);
        let (has, smallest) = (self.config.chip.page_sizes, smallest_page(piece.kind));
        if (range.start | range.end) & (smallest.bytes() - 1) != 0 {
            return Err(PrepareError::KindForbids4K { kind: piece.kind });
        }
        let sizes = Sizes { only: None, has, smallest, largest: smaller.unwrap_or(PageSize::Size4K) };
        for (part, piece) in sizes.cut(range, piece) {
            self.target(change, part, piece)?;
        }
        Ok(())
    }

    /// Adds pages to what is there afterwards, with their words.
    pub(super) fn target(&self, change: &mut Change, range: Range<u64>, piece: Piece) -> Result<(), PrepareError> {
        if piece.page < smallest_page(piece.kind) {
            return Err(PrepareError::KindForbids4K { kind: piece.kind });
        }
        let leaf = |to| Pte::Leaf(Leaf { to, kind: piece.kind, flags: piece.flags, comptag: 0 });
        match piece.to {
            Backed::Memory(to) => {
                // The last page too must be within the format, or the steps would run out of the address field.
                let last = to.checked_add(range.end - range.start - PAGE_BYTES).ok_or(PrepareError::Overflow)?;
                F::encode_pte(&leaf(last))?;
                if let Some(before) = change.new.last_mut().filter(|before| before.range.end == range.start) {
                    if before.piece.continues(range.start - before.range.start, &piece) {
                        before.range.end = range.end;
                        return Ok(());
                    }
                }
                let word = F::encode_pte(&leaf(to))?;
                change.new.push(Target { range, piece, word, frame: 0 })?;
            }
            Backed::Frames { aperture, page } => {
                let word = F::encode_pte(&leaf(PhysAddr::new(aperture, 0)))?;
                let end = self.last_frame(aperture);
                let mut from = range.start;
                while from < range.end {
                    // Pages that are parts of a page of the list are written one of those at a time.
                    let whole =
                        if piece.page == page { range.end } else { (from & !(page.bytes() - 1)) + page.bytes() };
                    let part = from..range.end.min(whole);
                    from = part.end;
                    let frame = change.wants.add(&part, &piece, end)?;
                    change.new.push(Target { range: part, piece, word, frame })?;
                }
            }
        }
        Ok(())
    }

    /// The first frame of `aperture` that late frames cannot name.
    fn last_frame(&self, aperture: Aperture) -> u64 {
        let reach = self.config.chip.reach(aperture);
        let end = match (aperture, F::VERSION) {
            (Aperture::Vram, _) => reach.min(self.config.vram_bytes),
            // The rest of a peer's address is in another field, which no template steps over.
            (Aperture::Peer(_), MmuVersion::V2) => reach.min(1 << 37),
            _ => reach,
        };
        end / PAGE_BYTES
    }

    /// The part of `range` from its first to its last mapped page.
    fn mapped_part(&self, range: &Range<u64>) -> Result<Range<u64>, PrepareError> {
        let none = || PrepareError::NotMapped { range: range.clone() };
        let (first, _) = self.va.overlapping(range.clone()).next().ok_or_else(none)?;
        let (last, _) = self.va.prev(range.end).ok_or_else(none)?;
        Ok(range.start.max(first.start)..range.end.min(last.end))
    }

    /// `range`, if all of it is mapped.
    fn mapped_whole(&self, range: &Range<u64>) -> Result<Range<u64>, PrepareError> {
        let mut at = range.start;
        for (piece, _) in self.va.overlapping(range.clone()) {
            if piece.start > at {
                return Err(PrepareError::NotMapped { range: at..piece.start });
            }
            at = piece.end;
        }
        if at < range.end {
            return Err(PrepareError::NotMapped { range: at..range.end });
        }
        Ok(range.clone())
    }

    /// The pages that reach over the borders of `range`.
    fn edges(&self, range: &Range<u64>, live: Live) -> Result<Edges, PrepareError> {
        let page_over = |va: u64| {
            let (_, piece) = self.va.get(va).filter(|(piece, _)| piece.start < va)?;
            let mask = piece.page.bytes() - 1;
            (va & mask != 0).then(|| va & !mask..(va & !mask) + mask + 1)
        };
        let edges = Edges { left: page_over(range.start), right: page_over(range.end) };
        match edges.left.as_ref().or(edges.right.as_ref()) {
            Some(entry) if live == Live::MustNotFault => Err(PrepareError::WouldFault { entry: entry.clone() }),
            _ => Ok(edges),
        }
    }

    /// Puts the pieces of `new` in the place of whatever the records have in `range`. Cannot fail where room for two
    /// pieces more was reserved.
    pub(super) fn rebook<'p>(&mut self, range: &Range<u64>, new: impl Iterator<Item = (Range<u64>, &'p Piece)>) {
        for border in [range.start, range.end] {
            // A border that lies between pieces, or where nothing is, need not be cut.
            let _ = self.va.split(border, |piece, bytes| piece.skip(bytes));
        }
        loop {
            let first = self.va.overlapping(range.clone()).next().map(|(piece, _)| piece.start);
            if first.and_then(|start| self.va.remove(start)).is_none() {
                break;
            }
        }
        for (piece, what) in new {
            let start = piece.start;
            let _ = self.va.insert(piece, *what);
            self.heal(start);
        }
        self.heal(range.start);
        self.heal(range.end);
    }

    /// Makes one piece of two that touch at `at` and go on from one another.
    fn heal(&mut self, at: u64) {
        let Some((upper, next)) = self.va.get(at).filter(|(piece, _)| piece.start == at) else { return };
        let Some((lower, piece)) = self.va.prev(at) else { return };
        if lower.end == upper.start && piece.continues(lower.end - lower.start, next) {
            self.va.join(at, |_, _| ());
        }
    }

    /// Room in the records for what `rebook` does, forth and back.
    pub(super) fn reserve_records(&mut self, change: &Change) -> Result<(), NoMemory> {
        self.va.reserve(change.old.len() + change.new.len() + 4)
    }
}

fn protected(piece: Piece, protection: Protection) -> Piece {
    let flags = effective_flags(protection.flags.unwrap_or(piece.flags), piece.to.aperture());
    Piece { flags, kind: protection.kind.unwrap_or(piece.kind), ..piece }
}
