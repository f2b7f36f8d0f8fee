//! What lies behind the planner's lock: the space, its pool, and a naive list of what is mapped after all prepared jobs.

use super::{locked, Card, Lock, Oracle, Seen};
use crate::common::{Pool, MIB};
use gmmu::addr::{PageSize, Pfn, PhysAddr};
use gmmu::format::{Flags, Format};
use gmmu::vmm::{
    Backed, CommitError, Extent, Job, Live, MapRequest, Plan, PrepareError, Protection, Receipt, Span, Vmm,
};
use gmmu_sim::{Gpu, Notes, Watched};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Mutex;

const PAGE: u64 = 4096;

/// A change that somebody wants.
#[derive(Clone, Debug)]
pub enum Wish {
    /// Contiguous memory.
    Map {
        va: u64,
        to: u64,
        bytes: u64,
        page: Option<PageSize>,
        live: Live,
    },
    /// 4K frames, given right before execution.
    Late {
        va: u64,
        frames: Vec<u64>,
        live: Live,
    },
    Unmap(Span),
    Protect(Span, bool),
    Sparse(Span),
    Unsparse(Span),
}

impl Wish {
    pub const fn map(va: u64, to: u64, bytes: u64, page: PageSize) -> Self {
        Self::Map { va, to, bytes, page: Some(page), live: Live::MustNotFault }
    }

    pub fn unmap(range: Range<u64>) -> Self {
        Self::Unmap(Span::new(range))
    }

    /// Takes a part of something larger out.
    pub fn cut(range: Range<u64>) -> Self {
        Self::Unmap(Span::new(range).replayable())
    }

    pub fn range(&self) -> Range<u64> {
        match self {
            Self::Map { va, bytes, .. } => *va..va + bytes,
            Self::Late { va, frames, .. } => *va..va + frames.len() as u64 * PAGE,
            Self::Unmap(span) | Self::Protect(span, _) | Self::Sparse(span) | Self::Unsparse(span) => {
                span.range.clone()
            }
        }
    }

    const fn live(&self) -> Live {
        match self {
            Self::Map { live, .. } | Self::Late { live, .. } => *live,
            Self::Unmap(span) | Self::Protect(span, _) | Self::Sparse(span) | Self::Unsparse(span) => span.live,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    to: u64,
    read_only: bool,
}

/// What a page was: what was mapped there, and whether it was sparse below that.
pub type Before = (u64, Option<Mapped>, bool);

/// A job, and what its caller has to remember.
#[derive(Debug)]
pub struct Deed {
    pub job: Job,
    pub number: u64,
    pub frames: Option<Vec<Pfn>>,
    /// What the pages were before.
    pub undo: Vec<Before>,
}

/// Behind the planner's lock.
#[derive(Debug)]
pub struct Desk<F: Format> {
    pub vmm: Option<Vmm<F>>,
    pub pool: Watched<Pool>,
    pub notes: Notes,
    mapped: BTreeMap<u64, Mapped>,
    sparse: BTreeSet<u64>,
    jobs: u64,
}

impl<F: Format> Desk<F> {
    pub const fn new(vmm: Vmm<F>, pool: Watched<Pool>, notes: Notes) -> Self {
        Self { vmm: Some(vmm), pool, notes, mapped: BTreeMap::new(), sparse: BTreeSet::new(), jobs: 0 }
    }

    pub fn vmm(&self) -> &Vmm<F> {
        self.vmm.as_ref().unwrap()
    }

    fn value(&self, va: u64) -> Seen {
        match self.mapped.get(&va) {
            Some(&Mapped { to, read_only }) => Seen::Page { to, read_only },
            None if self.sparse.contains(&va) => Seen::Sparse,
            None => Seen::Fault,
        }
    }

    /// The first mapped page of `range`, and how far pages go on from there.
    pub fn mapped_from(&self, range: Range<u64>) -> Option<Range<u64>> {
        let (&start, _) = self.mapped.range(range.clone()).next()?;
        let end = (start..range.end).step_by(4096).find(|va| !self.mapped.contains_key(va));
        Some(start..end.unwrap_or(range.end))
    }

    pub fn prepare<H: Lock<Card>>(
        &mut self,
        wish: &Wish,
        hardware: &H,
        gpu: &Mutex<Gpu>,
        oracle: &Mutex<Oracle>,
    ) -> Result<Deed, PrepareError> {
        let prepared = self.plan_and_init(wish, hardware, gpu);
        self.notes.tell(&mut locked(gpu));
        self.check(wish, prepared.as_ref().err());
        let job = prepared?;
        let (number, frames) = (self.next_job(), self.frames(&job, wish));
        let (undo, values) = self.enter(wish);
        let gap = (job.rounds() > 1).then(|| match wish.live() {
            Live::MustNotFault => job.range(),
            // Sparse entries that are cut reach over the whole domain.
            Live::Quiesced | Live::Replayable => {
                job.range().start & !(2 * MIB - 1)..job.range().end.next_multiple_of(2 * MIB)
            }
        });
        locked(oracle).plan(number, wish, &values, gap);
        Ok(Deed { job, number, frames, undo })
    }

    fn plan_and_init<H: Lock<Card>>(
        &mut self,
        wish: &Wish,
        hardware: &H,
        gpu: &Mutex<Gpu>,
    ) -> Result<Job, PrepareError> {
        let Self { vmm, pool, notes, .. } = self;
        let vmm = vmm.as_mut().unwrap();
        let init = |plan: Plan<'_, F, Watched<Pool>>| {
            notes.tell(&mut locked(gpu));
            hardware.with(|card| plan.init(card))
        };
        match wish {
            Wish::Map { va, to, bytes, page, live } => {
                let extents = [Extent { to: PhysAddr::vram(*to), bytes: *bytes }];
                let request = MapRequest { page: *page, ..MapRequest::extents(&extents).at(*va).live(*live) };
                init(vmm.plan_map(pool, &request)?)
            }
            Wish::Late { va, frames, live } => {
                let request = MapRequest::frames(frames.len() as u64, PageSize::Size4K).at(*va).live(*live);
                init(vmm.plan_map(pool, &request)?)
            }
            Wish::Unmap(span) => init(vmm.plan_unmap(pool, span.clone())?),
            Wish::Protect(span, read_only) => {
                let to = Protection::flags(Flags { read_only: *read_only, ..Flags::NONE });
                init(vmm.plan_protect(pool, span.clone(), to)?)
            }
            Wish::Sparse(span) => init(vmm.plan_sparse(pool, span.clone())?),
            Wish::Unsparse(span) => init(vmm.plan_unsparse(pool, span.clone())?),
        }
    }

    fn next_job(&mut self) -> u64 {
        self.jobs += 1;
        self.jobs
    }

    /// Whether a refusal is what the list would refuse.
    fn check(&self, wish: &Wish, refused: Option<&PrepareError>) {
        let pages = (wish.range().end - wish.range().start) / PAGE;
        let mapped = self.mapped.range(wish.range()).count() as u64;
        let (is_busy, is_missing) = match wish {
            Wish::Map { .. } | Wish::Late { .. } => (mapped > 0, false),
            Wish::Unmap(_) => (false, mapped == 0),
            Wish::Protect(..) => (false, mapped < pages),
            Wish::Sparse(_) | Wish::Unsparse(_) => (false, false),
        };
        match refused {
            None => assert!(!is_busy && !is_missing, "{wish:x?} was prepared"),
            Some(PrepareError::Busy { .. }) => assert!(is_busy, "{wish:x?}"),
            Some(PrepareError::NotMapped { .. }) => assert!(is_missing, "{wish:x?}"),
            Some(PrepareError::WouldFault { .. }) => assert_eq!(wish.live(), Live::MustNotFault, "{wish:x?}"),
            Some(why) => panic!("{why}: {wish:x?}"),
        }
    }

    /// The frames that the job wants: those of the wish, or what is mapped already.
    fn frames(&self, job: &Job, wish: &Wish) -> Option<Vec<Pfn>> {
        if job.wants().is_empty() {
            return None;
        }
        let pages = job.wants().iter().flat_map(|want| (0..want.pages).map(|n| want.va + n * want.page.bytes()));
        let frame = |va: u64| match wish {
            Wish::Late { va: first, frames, .. } => frames[usize::try_from((va - first) / PAGE).unwrap()],
            _ => self.mapped[&va].to,
        };
        Some(pages.map(|va| Pfn::new(frame(va) / PAGE)).collect())
    }

    /// Enters a prepared wish into the list: what was before, and what each page that changes becomes.
    fn enter(&mut self, wish: &Wish) -> (Vec<Before>, Vec<(u64, Seen)>) {
        let (mut undo, mut values) = (Vec::new(), Vec::new());
        for va in wish.range().step_by(4096) {
            let before = (va, self.mapped.get(&va).copied(), self.sparse.contains(&va));
            let was = self.value(va);
            match wish {
                Wish::Map { va: first, to, .. } => {
                    self.mapped.insert(va, Mapped { to: to + (va - first), read_only: false });
                }
                Wish::Late { va: first, frames, .. } => {
                    let to = frames[usize::try_from((va - first) / PAGE).unwrap()];
                    self.mapped.insert(va, Mapped { to, read_only: false });
                }
                Wish::Unmap(_) => drop(self.mapped.remove(&va)),
                Wish::Protect(_, read_only) => {
                    if let Some(page) = self.mapped.get_mut(&va) {
                        page.read_only = *read_only;
                    }
                }
                Wish::Sparse(_) => drop(self.sparse.insert(va)),
                Wish::Unsparse(_) => drop(self.sparse.remove(&va)),
            }
            if (self.mapped.get(&va).copied(), self.sparse.contains(&va)) != (before.1, before.2) {
                undo.push(before);
            }
            if self.value(va) != was {
                values.push((va, self.value(va)));
            }
        }
        (undo, values)
    }

    fn restore(&mut self, undo: &[Before]) {
        for &(va, page, sparse) in undo {
            match page {
                Some(page) => drop(self.mapped.insert(va, page)),
                None => drop(self.mapped.remove(&va)),
            }
            if sparse {
                self.sparse.insert(va);
            } else {
                self.sparse.remove(&va);
            }
        }
    }

    /// The list without a job that was dropped before it wrote, and that nobody builds on.
    pub fn forget(&mut self, number: u64, undo: &[Before], oracle: &Mutex<Oracle>) {
        self.restore(undo);
        locked(oracle).withdraw(number);
    }

    pub fn commit(&mut self, receipt: Receipt, gpu: &Mutex<Gpu>) {
        self.vmm.as_mut().unwrap().commit(&mut self.pool, receipt).map_err(|(_, why)| why).unwrap();
        self.notes.tell(&mut locked(gpu));
    }

    #[allow(clippy::result_large_err, reason = "as in the library")]
    pub fn cancel(&mut self, deed: Deed, gpu: &Mutex<Gpu>, oracle: &Mutex<Oracle>) -> Result<(), Deed> {
        let Deed { job, number, frames, undo } = deed;
        let cancelled = self.vmm.as_mut().unwrap().cancel(&mut self.pool, job);
        self.notes.tell(&mut locked(gpu));
        match cancelled {
            Ok(()) => {
                self.forget(number, &undo, oracle);
                Ok(())
            }
            Err((job, why)) => {
                assert_eq!(why, CommitError::HasDependents);
                Err(Deed { job, number, frames, undo })
            }
        }
    }

    /// Sees to jobs whose owner has gone, and changes nothing else.
    pub fn sweep(&mut self, gpu: &Mutex<Gpu>) {
        let refused = self.vmm.as_mut().unwrap().plan_unmap(&mut self.pool, 0..0).map(drop);
        assert_eq!(refused, Err(PrepareError::Empty));
        self.notes.tell(&mut locked(gpu));
    }

    /// The library's books are those of the list.
    pub fn assert_books(&self) {
        let mut books = BTreeMap::new();
        for (range, piece) in self.vmm().pieces() {
            for va in range.clone().step_by(4096) {
                let to = match piece.to {
                    Backed::Memory(to) => to.raw + (va - range.start),
                    // The books do not know it.
                    Backed::Frames { .. } => self.mapped.get(&va).map_or(0, |page| page.to),
                };
                books.insert(va, Mapped { to, read_only: piece.flags.read_only });
            }
        }
        assert!(books == self.mapped, "the books are not those of the list");
    }
}
