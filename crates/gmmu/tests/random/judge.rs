//! The judges: the naive map against the library's records and against the model's MMU, and what is left in the end.

use super::pages::{floor, Pages, Spans};
use super::{Model, DOMAIN};
use crate::common::{World, DATA};
use gmmu::addr::{PageSize, Pfn, PAGE_BYTES};
use gmmu::format::Format;
use gmmu::vmm::{Backed, Census, MapRequest, Piece};
use gmmu_sim::{AccessKind, Client, Translated};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// All that a prepare that fails, or a job that is cancelled, has to leave as it was.
#[derive(PartialEq, Debug)]
pub(super) struct Snapshot {
    pieces: Vec<(Range<u64>, Piece)>,
    census: Census,
    tables: Vec<(u64, u64)>,
    out: BTreeSet<(u64, u64)>,
}

impl Snapshot {
    pub(super) fn assert_is(&self, before: &Self, what: &str) {
        let news: Vec<_> = self.pieces.iter().filter(|piece| !before.pieces.contains(piece)).collect();
        let gone: Vec<_> = before.pieces.iter().filter(|piece| !self.pieces.contains(piece)).collect();
        assert!(news.is_empty() && gone.is_empty(), "{what}: {news:x?} for {gone:x?}");
        assert_eq!((self.census, &self.tables, &self.out), (before.census, &before.tables, &before.out), "{what}");
    }
}

impl<F: Format> Model<F> {
    pub(super) fn snapshot(&mut self) -> Snapshot {
        let vmm = &self.world.vmm;
        let pieces = vmm.pieces().map(|(range, piece)| (range, *piece)).collect();
        let mut tables: Vec<_> = vmm.tables().unwrap().iter().map(|(at, bytes)| (at.raw(), *bytes)).collect();
        tables.sort_unstable();
        // Heap is kept for the next one.
        let census = Census { mirror_bytes: 0, record_bytes: 0, ..vmm.census() };
        Snapshot { pieces, census, tables, out: self.world.pool.inner().out.clone() }
    }

    /// The pieces in the library's records are the naive pages.
    pub(super) fn compare_books(&mut self) {
        let mut covered = 0;
        for (range, piece) in self.world.vmm.pieces() {
            for (part, run) in self.books.within(&range) {
                let same = (run.page, run.kind, run.flags) == (piece.page, piece.kind, piece.flags);
                let there = match piece.to {
                    Backed::Memory(to) => {
                        run.late.is_none() && to.checked_add(part.start - range.start) == Some(run.to)
                    }
                    Backed::Frames { aperture, page } => run.late == Some(page) && run.to.aperture == aperture,
                };
                assert!(same && there, "{part:x?} of {range:x?} is {run:x?}, in the records {piece:x?}");
                covered += part.end - part.start;
            }
            assert_eq!((range.start | range.end) % piece.page.bytes(), 0, "{range:x?} {piece:x?}");
            covered -= range.end - range.start;
        }
        assert_eq!(covered, 0, "the records hold what the naive map does not");
        let bytes = |parts: &mut dyn Iterator<Item = Range<u64>>| parts.map(|part| part.end - part.start).sum::<u64>();
        let naive = bytes(&mut self.books.iter().map(|(range, _)| range));
        assert_eq!(naive, bytes(&mut self.world.vmm.pieces().map(|(range, _)| range)), "bytes in the records");
    }

    /// Addresses in and around `range`, at borders of pages, and anywhere.
    pub(super) fn points(&mut self, range: &Range<u64>) -> Vec<u64> {
        let mut points = Vec::new();
        let mut borders = vec![range.start, range.end];
        for _ in 0..3 {
            borders.push(self.address(PAGE_BYTES));
            borders.push(range.start + floor(self.random.below(range.end - range.start)));
            borders.push((range.start & !(DOMAIN - 1)) + floor(self.random.below(3 * DOMAIN)));
        }
        for (part, _) in self.done.within(range).into_iter().chain(self.books.within(range)).take(64) {
            if self.random.one_in(3) {
                borders.extend([part.start, part.end]);
            }
        }
        for border in borders {
            points.extend([border, border.wrapping_sub(PAGE_BYTES)]);
            for page in PageSize::ALL {
                if self.random.one_in(4) {
                    let start = border & !(page.bytes() - 1);
                    points.extend([start, start.wrapping_sub(PAGE_BYTES), start + page.bytes()]);
                }
            }
        }
        points.retain(|&va| va < Self::limit());
        points
    }

    pub(super) fn peek(&mut self, va: u64) -> Option<Translated> {
        let pdb = self.world.vmm.pdb();
        self.world.gpu().peek_translate(pdb, va).ok()
    }

    /// The GPU's MMU finds what executed jobs left, wherever no job is at work.
    pub(super) fn look(&mut self, points: &[u64]) {
        let pdb = self.world.vmm.pdb();
        for &va in points {
            let page = self.done.get(va);
            let sparse = page.is_none() && self.done_sparse.has(va);
            if self.running.iter().any(|(range, calm)| range.contains(&va) || sparse && !calm) {
                continue;
            }
            let found = self.world.gpu().access(Client::Engine { pdb }, va, AccessKind::Read, true);
            let right = match (&found, &page) {
                (Ok(found), Some((range, run))) => {
                    let flags = run.flags;
                    let same = gmmu_sim::Flags {
                        vol: flags.volatile,
                        encrypted: flags.encrypted,
                        privileged: flags.privileged,
                        read_only: flags.read_only,
                        no_atomic: flags.no_atomic,
                        acd: flags.no_access_counting,
                    };
                    !found.sparse
                        && found.to == run.memory_at(va - range.start)
                        && (found.page_bytes, found.kind, found.flags) == (run.page.bytes(), run.kind.0, same)
                }
                (Ok(found), None) => sparse && found.sparse,
                (Err(_), None) => !sparse,
                (Err(_), Some(_)) => false,
            };
            if !right {
                let walk = self.world.vmm.read_mapping(&mut self.world.mmio, va);
                panic!("{va:#x} leads to {found:x?} and not to {page:x?}, sparse {sparse}: {walk:x?}");
            }
        }
        self.world.assert_clean();
    }

    /// Executes all, unmaps all, closes: nothing is left.
    pub fn finish(mut self) -> (u64, BTreeMap<&'static str, u64>) {
        while !self.waiting.is_empty() {
            self.execute();
        }
        while !self.receipts.is_empty() {
            self.commit_some();
        }
        self.compare_books();
        let everything: Vec<u64> =
            self.done.iter().flat_map(|(part, _)| [part.start, part.end - 4096, part.end]).collect();
        self.look(&everything.iter().copied().filter(|&va| va < Self::limit()).collect::<Vec<_>>());
        for window in self.narrow() {
            self.look(&window.step_by(4096).collect::<Vec<_>>());
        }
        let all = 0..Self::limit();
        if self.books.len() > 0 {
            self.world.unmap(all.clone());
        }
        self.done = Pages::default();
        self.look(&everything.iter().copied().filter(|&va| va < Self::limit()).collect::<Vec<_>>());
        if self.sparse.iter().next().is_some() {
            let job = self.world.prepare_unsparse(all).unwrap();
            self.world.finish(job);
        }
        self.done_sparse = Spans::default();
        for window in self.narrow() {
            self.look(&window.step_by(4096).collect::<Vec<_>>());
        }
        self.world.assert_no_leak();
        assert_eq!((self.world.vmm.pieces().count(), self.world.vmm.census().jobs), (0, 0));
        self.recount();
        self.lose_one();
        let World { mut mmio, mut pool, notes, vmm } = self.world;
        let root = vmm.pdb().raw();
        vmm.close(&mut mmio, &mut pool).map_err(|(_, why)| why).unwrap();
        notes.tell(mmio.bar0());
        assert_eq!(pool.inner().out.iter().copied().collect::<Vec<_>>(), [(root, 4096)]);
        assert_eq!(mmio.bar0().findings(), &[]);
        (self.jobs, self.counts)
    }

    /// Leaf tables whose account is right go with the last pages in them: where a domain was filled and emptied once more,
    /// none is left.
    fn recount(&mut self) {
        for domain in core::mem::take(&mut self.touched) {
            for page in [PageSize::Size4K, PageSize::Size64K] {
                let range = self.world.map(domain, DATA, DOMAIN, Some(page));
                self.world.unmap(range);
            }
        }
        self.world.assert_clean();
        self.world.assert_no_leak();
        assert_eq!(self.world.vmm.census().leaf_tables, 0, "leaf tables that nothing is in");
    }

    /// Half-way through, a job is lost in some runs: what it held is given back at the end.
    fn lose_one(&mut self) {
        if self.random.one_in(3) {
            let request = MapRequest::frames(4, PageSize::Size64K).at(1 << 45);
            let job = self.world.prepare(&request).unwrap();
            let list = [Pfn::new(1 << 20); 4];
            let mut ready = job.with_frames(&list).map_err(|(_, why)| why).unwrap();
            let _ = ready.write_some(&mut self.world.mmio, 1 + self.random.below(5)).unwrap();
            drop(ready);
            assert_eq!(self.world.vmm.census().quarantined, 1);
        }
    }
}
