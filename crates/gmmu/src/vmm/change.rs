//! A change of the records: which pages were there before, which are there after, and how to get from one to the other
//! and back. Map, unmap, protect and sparse are all changes; what the tables need for one is the planner's to find out.

use super::execute::Write;
use super::frames::Wants;
use super::job::{Body, Progress, State};
use super::piece::{effective_flags, smallest_page, Backed, Piece, Sizes};
use super::record::{parts, Record};
use super::request::{Live, PrepareError, Protection, Span};
use super::space::Vmm;
use crate::addr::{Aperture, PhysAddr, PAGE_BYTES};
use crate::device::{Acknowledge, Depth, Invalidate};
use crate::format::{Format, Leaf, MmuVersion, Pte};
use crate::storage::{List, NoMemory, Owned, Shared};
use crate::va::windows::overlapping;
use crate::va::{InsertError, VaError};
use core::ops::{Deref, DerefMut, Range};

/// Pages that a job writes entries for, and their words.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) range: Range<u64>,
    pub(super) piece: Piece,
    /// The entry of the first page; where frames come late, of frame 0.
    pub(super) word: u64,
    /// Where its frames begin in the job's list.
    pub(super) frame: u64,
    /// The entries say so already: nothing is written.
    pub(super) kept: bool,
    /// The pages were zapped: the entries say that nothing is there, and so does the word.
    pub(super) cleared: bool,
}

/// What a job does to the records.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// The addresses whose entries change, from the first to the last; cut pages are in it whole.
    pub(super) range: Range<u64>,
    /// Where it changes only parts of that: these, in order.
    pub(super) parts: List<Range<u64>>,
    /// Where a part begins or ends within a piece of the records.
    pub(super) borders: List<u64>,
    /// What was mapped there, in order, clipped to the parts.
    pub(super) old: List<(Range<u64>, Piece)>,
    /// What is mapped there afterwards, in order.
    pub(super) new: List<Target>,
    pub(super) wants: Wants,
    pub(super) live: Live,
    /// Where something becomes sparse, or ceases to be: parts of the parts, in order.
    pub(super) background: List<Range<u64>>,
    /// Whether anything is mapped or becomes sparse, and whether anything goes.
    pub(super) adds: bool,
    pub(super) removes: bool,
    /// Whether the records of pages stay as they are.
    pub(super) pages_stay: bool,
    /// Whether this is a look for empty tables, or all tables anew.
    pub(super) reclaims: bool,
    pub(super) restores: bool,
    /// Whether pieces of the records reach over the range's borders.
    pub(super) cuts: [bool; 2],
    /// Whether new pieces may go on from their neighbours.
    pub(super) heals: bool,
    /// The evictable mapping that gets its pages anew, and the generation in which it does.
    pub(super) rebinds: Option<(u32, u32)>,
}

/// A job in the making, in what an earlier one consisted of: what its owner gets, and what the books keep, whose change is
/// to be filled in.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) body: Owned<Body>,
    pub(super) record: Owned<Record>,
}

impl Deref for Draft {
    type Target = Change;
    fn deref(&self) -> &Change {
        &self.record.change
    }
}

impl Draft {
    /// Makes a state of its own for a job that is used again: others may still look at the old one.
    fn renew(&mut self) -> Result<(), NoMemory> {
        let Self { body, record } = self;
        if record.progress.owners() > 2 {
            record.progress = Shared::new(Progress::new())?;
            body.token.progress = record.progress.clone();
        }
        record.progress.set(State::Prepared);
        Ok(())
    }
}

impl DerefMut for Draft {
    fn deref_mut(&mut self) -> &mut Change {
        &mut self.record.change
    }
}

/// Empty lists of earlier jobs, for the next one to fill: a space where one job follows another allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Scraps {
    pub(super) init: List<Write>,
    drafts: List<Draft>,
}

/// Bytes of heap that a job's lists may keep for later.
const KEPT_BYTES: usize = 128 << 10;
/// Jobs whose lists are kept.
const KEPT_DRAFTS: usize = 4;

impl Change {
    /// Forgets everything; the room of the lists stays.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.borders.clear();
        self.old.clear();
        self.new.clear();
        self.wants.clear();
        self.background.clear();
        (self.adds, self.removes, self.pages_stay) = (false, false, false);
        (self.reclaims, self.restores, self.cuts) = (false, false, [false; 2]);
        (self.heals, self.rebinds) = (false, None);
    }

    /// Bytes of heap that its lists hold, but for those that are short.
    pub(super) fn footprint(&self) -> usize {
        let Self { parts, old, new, background, .. } = self;
        parts.footprint() + old.footprint() + new.footprint() + background.footprint()
    }

    /// Whether the change covers all of `range`.
    pub(super) fn covers(&self, range: &Range<u64>) -> bool {
        self.parts_in(range.clone()).next().is_some_and(|part| part == *range)
    }

    /// Whether `new`, which takes the place of `old`, may have frames that those of `old` are not. What is protected keeps
    /// its frames; frames that are bound are the same only where they are the same object's.
    pub(super) fn other_frames(&self, old: &Piece, new: &Piece) -> bool {
        let bound = !self.parts.is_empty() && matches!(new.to, Backed::Frames { .. });
        bound && !(new.object != 0 && (old.object, old.mapping) == (new.object, new.mapping))
    }

    /// The parts of `span` that the change covers.
    pub(super) fn parts_in(&self, span: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        overlapping(parts(&self.range, &self.parts), span)
    }
}

impl Scraps {
    /// Lets go of the memory of a list that was used up, where that is much.
    pub(super) fn trim_init(&mut self) {
        if self.init.footprint() > KEPT_BYTES {
            self.init = List::new();
        }
    }

    /// Keeps what a closed job consisted of.
    pub(super) fn keep(&mut self, mut body: Owned<Body>, mut record: Owned<Record>) {
        let bytes = body.footprint() + record.footprint();
        if self.drafts.len() < KEPT_DRAFTS && bytes <= KEPT_BYTES && self.drafts.reserve(1).is_ok() {
            body.clear();
            record.clear();
            let _ = self.drafts.push_within(Draft { body, record });
        }
    }
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
    pub(super) fn change_of(&mut self, span: &Span, protection: Option<Protection>) -> Result<Draft, PrepareError> {
        self.refuse_foreign(&span.range)?;
        let mut change = self.new_change(span.range.clone(), span.live)?;
        for (whole, piece) in self.va.overlapping(span.range.clone()) {
            change.old.push((whole, *piece))?;
        }
        let not_mapped = |range| Err(PrepareError::NotMapped { range });
        let (Some((first, _)), Some((last, _))) = (change.old.first(), change.old.last()) else {
            return not_mapped(span.range.clone());
        };
        let range = span.range.start.max(first.start)..span.range.end.min(last.end);
        if protection.is_some() {
            let mut at = span.range.start;
            for (piece, _) in change.old.iter().chain([&(span.range.end..span.range.end, Piece::NONE)]) {
                if piece.start > at {
                    return not_mapped(at..piece.start);
                }
                at = piece.end;
            }
        }
        let edges = edges(&change.old, &range, span.live)?;
        let start = edges.left.as_ref().map_or(range.start, |page| page.start);
        let end = edges.right.as_ref().map_or(range.end, |page| page.end);
        change.range = start..end;
        if let Some((first, piece)) = change.old.first_mut().filter(|(first, _)| first.start < start) {
            *piece = piece.skip(start - first.start);
            first.start = start;
            change.cuts[0] = true;
        }
        if let Some((last, _)) = change.old.last_mut().filter(|(last, _)| last.end > end) {
            last.end = end;
            change.cuts[1] = true;
        }
        if protection.is_some() || edges.left.is_some() || edges.right.is_some() {
            change.heals = true;
            for index in 0..change.old.len() {
                if let Some((part, piece)) = change.old.get(index).cloned() {
                    self.recast(&mut change, part, piece, &range, &edges, protection)?;
                }
            }
        }
        (change.adds, change.removes) = (!change.new.is_empty(), true);
        Ok(change)
    }

    /// A change of `range` that comes to nothing yet, in what an earlier job consisted of.
    pub(super) fn new_change(&mut self, range: Range<u64>, live: Live) -> Result<Draft, NoMemory> {
        let mut draft = match self.scraps.drafts.pop() {
            Some(draft) => draft,
            None => self.new_draft()?,
        };
        draft.renew()?;
        (draft.range, draft.live) = (range, live);
        Ok(draft)
    }

    fn new_draft(&self) -> Result<Draft, NoMemory> {
        let what = Invalidate { pdb: self.pdb, depth: Depth::PteOnly, scope: self.scope(), ack: Acknowledge::Globally };
        let body = Body::new(self.config.limits, F::leaf_step(PAGE_BYTES).trailing_zeros(), what)?;
        let record = Owned::new(Record::new(body.token.progress.clone()))?;
        Ok(Draft { body: Owned::new(body)?, record })
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
        let sizes = Sizes::smaller(&piece, self.config.page_sizes(), [range.start, range.end])?;
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
        let rebound = change.rebinds.is_some_and(|(mapping, _)| mapping == piece.zap);
        if piece.zap != 0 && !rebound && self.is_zapped(&piece) {
            let word = self.nothing.of(piece.page);
            change.new.push(Target { range, piece, word, frame: 0, kept: false, cleared: true })?;
            return Ok(());
        }
        match piece.to {
            Backed::Memory(to) => {
                // The last page too must be within the format, or the steps would run out of the address field.
                let last = to.checked_add(range.end - range.start - PAGE_BYTES).ok_or(PrepareError::Overflow)?;
                let word = F::encode_pte(&leaf(last))?.wrapping_sub(F::leaf_step(last.raw - to.raw));
                debug_assert_eq!(Ok(word), F::encode_pte(&leaf(to)));
                if let Some(before) = change
                    .new
                    .last_mut()
                    .filter(|before| !(before.kept || before.cleared) && before.range.end == range.start)
                {
                    if before.piece.continues(range.start - before.range.start, &piece) {
                        before.range.end = range.end;
                        return Ok(());
                    }
                }
                change.new.push(Target { range, piece, word, frame: 0, kept: false, cleared: false })?;
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
                    change.new.push(Target { range: part, piece, word, frame, kept: false, cleared: false })?;
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

    /// Enters a change into the records: all of it or nothing. Room was reserved.
    pub(super) fn book(&mut self, change: &Change) -> Result<(), PrepareError> {
        let Change { range, borders, old, new, cuts, heals, .. } = change;
        for (cut, border) in cuts.iter().zip([range.start, range.end]) {
            if *cut {
                let _ = self.va.split(border, |piece, bytes| piece.skip(bytes));
            }
        }
        for &border in borders.iter() {
            let _ = self.va.split(border, |piece, bytes| piece.skip(bytes));
        }
        for (piece, _) in old.iter() {
            self.va.remove(piece.start);
        }
        for (index, target) in new.iter().enumerate() {
            if let Err((why, _)) = self.va.insert(target.range.clone(), target.piece) {
                // Only what is mapped afresh can meet something, and has replaced nothing.
                for target in new.iter().take(index) {
                    self.va.remove(target.range.start);
                }
                return Err(self.refused(why, target.range.end));
            }
        }
        // What ends or begins with the change is new.
        for target in new.iter().filter(|_| *heals) {
            let (below, above) = self.va.touching(&target.range);
            for (_, at) in [(above, target.range.end), (below, target.range.start)].iter().filter(|(touch, _)| *touch) {
                self.heal(*at);
            }
        }
        Ok(())
    }

    fn refused(&self, why: InsertError, end: u64) -> PrepareError {
        match why {
            InsertError::Overlap { with } => PrepareError::Busy { with },
            InsertError::OutOfLimits => PrepareError::BeyondVa { end, limit: self.va.limits().end },
            InsertError::Invalid(why) => PrepareError::NoVa(VaError::InvalidRequest(why)),
            InsertError::NoRoom => PrepareError::NoMemory(NoMemory),
        }
    }

    /// Puts the pieces of `old` in the place of whatever the records have in `range`. Cannot fail where room for two
    /// pieces more was reserved.
    pub(super) fn unbook(&mut self, range: &Range<u64>, old: &[(Range<u64>, Piece)]) {
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
        let first = old.partition_point(|(piece, _)| piece.end <= range.start);
        for (piece, what) in old.iter().skip(first).take_while(|(piece, _)| piece.start < range.end) {
            let _ = self.va.insert(piece.clone(), *what);
            self.heal(piece.start);
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

    /// Room in the records for what `book` does, and `unbook` behind it: each cuts what lies over the borders.
    pub(super) fn reserve_records(&mut self, change: &Change) -> Result<(), NoMemory> {
        self.va.reserve(change.old.len() + change.new.len() + 4 * change.parts.len() + 4)
    }
}

/// The pages that reach over the borders of `range`, where `pieces` are mapped.
fn edges(pieces: &[(Range<u64>, Piece)], range: &Range<u64>, live: Live) -> Result<Edges, PrepareError> {
    let page_over = |va: u64, (_, piece): &(Range<u64>, Piece)| {
        let mask = piece.page.bytes() - 1;
        (va & mask != 0).then(|| va & !mask..(va & !mask) + mask + 1)
    };
    let first = pieces.first().filter(|(piece, _)| piece.start < range.start);
    let last = pieces.last().filter(|(piece, _)| piece.end > range.end);
    let left = first.and_then(|first| page_over(range.start, first));
    let edges = Edges { left, right: last.and_then(|last| page_over(range.end, last)) };
    match edges.left.as_ref().or(edges.right.as_ref()) {
        Some(entry) if live == Live::MustNotFault => Err(PrepareError::WouldFault { entry: entry.clone() }),
        _ => Ok(edges),
    }
}

fn protected(piece: Piece, protection: Protection) -> Piece {
    let flags = effective_flags(protection.flags.unwrap_or(piece.flags), piece.to.aperture());
    Piece { flags, kind: protection.kind.unwrap_or(piece.kind), ..piece }
}
