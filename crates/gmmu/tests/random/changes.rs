//! Prepares of every kind, and what the library has to say to each of them.

use super::judge::Snapshot;
use super::pages::{effective, floor, kinds_fit, recast, Run};
use super::wishes::{BORDER, HUGE, KIB_64, LARGE, RUNS_MAX};
use super::{Change, Model, DOMAIN};
use crate::common::{GIB, MIB};
use gmmu::addr::PAGE_BYTES;
use gmmu::format::Format;
use gmmu::vmm::{Job, Live, PrepareError, Protection, Span};
use std::ops::Range;

impl<F: Format> Model<F> {
    /// Prepares something.
    pub(super) fn prepare(&mut self) {
        if self.waiting.len() >= super::WAITING_MAX {
            return;
        }
        match self.random.below(20) {
            _ if self.books.len() > RUNS_MAX => self.prepare_unmap(),
            0..=8 => self.prepare_map(),
            9..=13 => self.prepare_unmap(),
            14..=16 => self.prepare_protect(),
            17.. if self.plain => self.prepare_map(),
            17 | 18 => self.prepare_sparse(true),
            _ => self.prepare_sparse(false),
        }
    }

    /// Sometimes remembers everything, so that it can be compared.
    fn before(&mut self) -> Option<Snapshot> {
        self.sweep();
        self.random.one_in(10).then(|| self.snapshot())
    }

    /// What a prepare that failed has left.
    fn refused(&mut self, what: &'static str, why: &PrepareError, before: Option<Snapshot>) {
        self.count(what);
        self.note(format!("  refused: {why}"));
        if let Some(before) = before {
            self.snapshot().assert_is(&before, "what a failed prepare left");
        }
    }

    /// Where jobs do not change what is there, whether a change of `range` has to cut a sparse entry; `None` where they do.
    fn cuts_sparse(&mut self, range: &Range<u64>) -> Option<bool> {
        if !self.waiting.is_empty() || !self.running.is_empty() {
            return None;
        }
        let cut = [range.start, range.end - PAGE_BYTES].into_iter().any(|va| {
            self.peek(va).is_some_and(|found| {
                let start = va & !(found.page_bytes - 1);
                found.sparse && (start < range.start || range.end < start + found.page_bytes)
            })
        });
        Some(cut)
    }

    fn prepare_map(&mut self) {
        let mut wish = self.wish();
        // Seldom where something is mapped already.
        for _ in 0..6 {
            if !self.books.is_free(&(wish.start..wish.start + wish.bytes())) {
                wish = self.wish();
            }
        }
        let (flags, bytes) = (self.flags(), wish.bytes());
        let live = if self.random.one_in(2) { Live::Quiesced } else { self.live() };
        let mut request = wish.request(flags, live);
        let chosen = self.random.one_in(24);
        if chosen {
            request = request.within(BORDER.start - 64 * GIB..BORDER.end);
        }
        let range = wish.start..wish.start + bytes;
        let (busy, cuts, before) = (!self.books.is_free(&range), self.cuts_sparse(&range), self.before());
        self.note(format!("{}: {request:x?}", wish.name));
        self.run_short();
        let prepared = self.plan(|vmm, pool| vmm.plan_map(pool, &request));
        self.have_enough();
        let short = self.short;
        match prepared {
            Ok(job) => {
                let range = if chosen { job.range() } else { range };
                assert!(self.books.is_free(&range), "{range:x?} was free for the library and not for the model");
                assert!(!chosen || self.sparse.within(&range).is_empty(), "{range:x?} is sparse");
                assert!(chosen || live != Live::MustNotFault || cuts != Some(true), "{range:x?} cuts a sparse entry");
                self.count(wish.name);
                let after = wish.pages(range.start, flags, &self.sizes);
                self.enter(job, range, Change::Pages { before: Vec::new(), after }, live, before);
            }
            Err(why) => {
                match &why {
                    PrepareError::Busy { .. } => assert!(busy, "{range:x?} was busy for the library alone"),
                    PrepareError::WouldFault { .. } => {
                        let may = live == Live::MustNotFault && !chosen && cuts != Some(false);
                        assert!(may && !self.sparse.within(&range).is_empty(), "{range:x?}: {why}");
                    }
                    PrepareError::NoVa(_) => assert!(chosen),
                    why => assert!(short && is_shortage(why), "{why}"),
                }
                self.refused("map refused", &why, before);
            }
        }
    }

    /// Part of what is mapped, some of it, or anything.
    fn some_range(&mut self) -> Range<u64> {
        let runs = self.books.len();
        if runs == 0 || self.random.one_in(10) {
            let start = self.address(4096);
            return start..(start + PAGE_BYTES * (1 + self.random.below(2000))).min(Self::limit());
        }
        let first = self.random.index(runs);
        let (from, run) = self.books.nth(first);
        if runs > RUNS_MAX {
            return from.start..self.books.nth((first + RUNS_MAX / 2).min(runs - 1)).0.end;
        }
        match self.random.below(10) {
            0..=2 => from,
            3 => from.start..self.books.nth((first + self.random.index(6)).min(runs - 1)).0.end,
            4 => {
                let start = (from.start + self.random.below(from.end - from.start)) & !(run.page.bytes() - 1);
                start..start + run.page.bytes()
            }
            _ => {
                let [a, b] = [0, 1].map(|_| self.inside(&from));
                let range = a.min(b)..a.max(b) + PAGE_BYTES;
                if self.random.one_in(3) {
                    from.start..range.end
                } else if self.random.one_in(3) {
                    range.start..from.end
                } else {
                    range
                }
            }
        }
    }

    /// A page of `range`: anywhere, or near borders that others use too.
    fn inside(&mut self, range: &Range<u64>) -> u64 {
        let bytes = range.end - range.start;
        if bytes > 2 * MIB && self.random.one_in(2) {
            let near = self.random.below(bytes.min(3 * MIB));
            return floor(if self.random.one_in(2) { range.start + near } else { range.end - 1 - near });
        }
        range.start + floor(self.random.below(bytes))
    }

    fn prepare_unmap(&mut self) {
        let (wish, live, before) = (self.some_range(), self.live(), self.before());
        let parts = self.books.within(&wish);
        let ends = parts.first().map(|(first, _)| first.start..parts[parts.len() - 1].0.end);
        self.note(format!("unmap {wish:x?} {live:?}"));
        self.run_short();
        let prepared = self.plan(|vmm, pool| vmm.plan_unmap(pool, Span { range: wish.clone(), live }));
        self.have_enough();
        let Some(ends) = ends else {
            return self.not_mapped(prepared, before);
        };
        self.settle("unmap", prepared, &ends, live, before, |_| None);
    }

    fn prepare_protect(&mut self) {
        let (wish, live, before) = (self.some_range(), self.live(), self.before());
        let flags = if self.random.one_in(4) { None } else { Some(self.flags()) };
        let kind = if self.random.one_in(3) { Some(self.kind()) } else { None };
        let whole = self
            .books
            .within(&wish)
            .iter()
            .try_fold(wish.start, |at, (part, _)| (part.start == at).then_some(part.end));
        self.note(format!("protect {wish:x?} {live:?} {flags:?} {kind:?}"));
        self.run_short();
        let prepared = self
            .plan(|vmm, pool| vmm.plan_protect(pool, Span { range: wish.clone(), live }, Protection { flags, kind }));
        self.have_enough();
        if whole != Some(wish.end) {
            return self.not_mapped(prepared, before);
        }
        self.settle("protect", prepared, &wish, live, before, |run: Run| {
            let flags = effective(flags.unwrap_or(run.flags), run.to.aperture);
            Some(Run { flags, kind: kind.unwrap_or(run.kind), ..run })
        });
    }

    fn not_mapped(&mut self, prepared: Result<Job, PrepareError>, before: Option<Snapshot>) {
        let why = prepared.map(drop).unwrap_err();
        assert!(matches!(why, PrepareError::NotMapped { .. }) || self.short && is_shortage(&why), "{why}");
        self.refused("not mapped", &why, before);
    }

    /// Sees whether the library prepares a change of mapped pages, or refuses it, just as it has to.
    fn settle(
        &mut self,
        name: &'static str,
        prepared: Result<Job, PrepareError>,
        range: &Range<u64>,
        live: Live,
        before: Option<Snapshot>,
        new: impl Fn(Run) -> Option<Run>,
    ) {
        let recast = recast(&self.books, range, &self.sizes, new);
        let entry = recast.cut.clone().filter(|_| live == Live::MustNotFault);
        match prepared {
            Ok(job) => {
                assert_eq!(entry, None, "{range:x?} cuts a page");
                assert!(kinds_fit(&recast.after), "{range:x?}: small pages of a compressible kind");
                self.count(if recast.cut.is_some() { "cut" } else { name });
                let gone = self.books.within(&recast.range);
                for border in [range.start, range.end - 1] {
                    self.touched.insert(border & !(DOMAIN - 1));
                }
                let change = Change::Pages { before: gone, after: recast.after };
                self.enter(job, recast.range, change, live, before);
            }
            Err(why) => {
                match &why {
                    // Two stores for a word that changes in both of its halves: cleared first, unless that may not be.
                    PrepareError::WouldFault { entry: found } if self.half_stores && name == "protect" => {
                        let inside = range.start <= found.start && found.end <= range.end;
                        assert!(live == Live::MustNotFault && (Some(found) == entry.as_ref() || inside), "{why}");
                    }
                    PrepareError::WouldFault { entry: found } => assert_eq!(Some(found), entry.as_ref()),
                    PrepareError::KindForbids4K { .. } => assert!(!kinds_fit(&recast.after), "{range:x?}: {why}"),
                    why => assert!(self.short && is_shortage(why), "{why}"),
                }
                self.refused("change refused", &why, before);
            }
        }
    }

    fn prepare_sparse(&mut self, on: bool) {
        let range = self.sparse_range(on);
        let (live, before) = (self.live(), self.before());
        let cuts = self.cuts_sparse(&range);
        self.note(format!("{} {range:x?} {live:?}", if on { "sparse" } else { "unsparse" }));
        self.run_short();
        let span = Span { range: range.clone(), live };
        let prepared =
            self.plan(|vmm, pool| if on { vmm.plan_sparse(pool, span) } else { vmm.plan_unsparse(pool, span) });
        self.have_enough();
        match prepared {
            Ok(job) => {
                let strict = live == Live::MustNotFault && !on;
                assert!(!strict || cuts != Some(true), "{range:x?} cuts a sparse entry");
                self.count(if on { "sparse" } else { "unsparse" });
                let parts = self.sparse.within(&range);
                let after = if on { vec![range.clone()] } else { Vec::new() };
                self.enter(job, range, Change::Sparse { before: parts, after }, live, before);
            }
            Err(why) => {
                match &why {
                    PrepareError::WouldFault { .. } => {
                        assert!(!on && live == Live::MustNotFault && cuts != Some(false), "{range:x?}: {why}");
                    }
                    why => assert!(self.short && is_shortage(why), "{why}"),
                }
                self.refused("sparse refused", &why, before);
            }
        }
    }

    fn sparse_range(&mut self, on: bool) -> Range<u64> {
        let known: Vec<Range<u64>> = self.sparse.iter().collect();
        if !known.is_empty() && self.random.one_in(if on { 6 } else { 2 }) {
            let one = known[self.random.index(known.len())].clone();
            let [a, b] = [0, 1].map(|_| self.inside(&one));
            let part = a.min(b)..a.max(b) + PAGE_BYTES;
            return if self.random.one_in(2) { one } else { part };
        }
        if self.random.one_in(60) {
            return 0..Self::limit();
        }
        let (unit, most) =
            [(4096, 40), (4096, 600), (KIB_64, 40), (2 * MIB, 4), (LARGE, 2), (HUGE, 2)][self.random.index(6)];
        let mut start = self.address(unit);
        let mut end = start + unit * (1 + self.random.below(most));
        if self.random.one_in(2) {
            start = start.saturating_sub(PAGE_BYTES * self.random.below(40));
            end += PAGE_BYTES * self.random.below(40);
        }
        start..end.min(Self::limit())
    }
}

const fn is_shortage(why: &PrepareError) -> bool {
    matches!(why, PrepareError::NoMemory(_) | PrepareError::NoSpace(_) | PrepareError::Device(_))
}
