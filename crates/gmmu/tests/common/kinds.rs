//! Every kind of job, a line each: what was done before it, what it does, and what each page is to be in the end. Tests
//! that hold for all kinds go through the table.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test binary uses a part of it")]
#![allow(clippy::result_large_err, clippy::unwrap_used, missing_docs, reason = "tests")]

use gmmu::addr::{PageSize, Pfn, PhysAddr};
use gmmu::chip::Chip;
use gmmu::device::{Hardware, Invalidator, TableMemory, TablePool};
use gmmu::format::{Flags, Format};
use gmmu::vmm::{
    ExecuteError, Extent, Failed, Flushed, Job, Live, MapRequest, Plan, PrepareError, Protection, Ready, Receipt, Span,
    State, Vmm,
};
use std::collections::BTreeSet;
use std::ops::Range;
use PageSize::{Size2M, Size4K, Size512M, Size64K};
use Step::{Bind, Defragment, Evictable, Late, Map, Protect, Rebind, Reclaim, Sparse, Unmap, Unsparse};

/// One change of an address space.
#[derive(Clone, Debug)]
pub enum Step {
    /// Maps contiguous memory: first address, bytes, page size.
    Map(u64, u64, Option<PageSize>),
    /// The same, for a mapping that can be zapped.
    Evictable(u64, u64, Option<PageSize>),
    /// Gives all pages of the evictable mapping other memory, as [`Step::Map`] does.
    Rebind(u64, u64, Option<PageSize>),
    /// Maps frames that come late: first address, pages, page size.
    Late(u64, u64, PageSize),
    Unmap(Range<u64>),
    /// Makes pages read-only.
    Protect(Range<u64>),
    Sparse(Range<u64>),
    Unsparse(Range<u64>),
    /// Gives empty tables back; some are in the range.
    Reclaim(Range<u64>),
    /// Makes pages as large as they can be.
    Defragment(Range<u64>),
    /// All of these, in order, as one bind job.
    Bind(&'static [Step]),
}

/// A kind of job.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    /// What was there.
    pub before: &'static [Step],
    /// What the job does.
    pub does: Step,
}

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Faults,
    /// Reads as 0.
    Zero,
    /// Leads to this address of video memory.
    Leads {
        to: u64,
        read_only: bool,
    },
}

const K4: u64 = 4 << 10;
const K64: u64 = 64 << 10;
const M2: u64 = 2 << 20;
const M512: u64 = 512 << 20;
/// Aligned to the largest page in the table.
pub const VA: u64 = 4 << 30;
/// Contiguous memory is `va - VA` from here; frames of lists lie in the other half.
const MEMORY: u64 = 8 << 30;
const FRAMES: u64 = 16 << 30;
/// What is bound again lies so far behind.
const REBOUND: u64 = 4 << 30;

const fn kind(name: &'static str, before: &'static [Step], does: Step) -> Kind {
    Kind { name, before, does }
}

/// All of them.
#[rustfmt::skip]
pub const KINDS: &[Kind] = &[
    kind("map 4K", &[], Map(VA + M2 - 3 * K4, 5 * K4, Some(Size4K))),
    kind("map 64K", &[], Map(VA + M2 - 3 * K64, 5 * K64, Some(Size64K))),
    kind("map 2M", &[], Map(VA + M512 - M2, 2 * M2, Some(Size2M))),
    kind("map 512M", &[], Map(VA, M512, Some(Size512M))),
    kind("map all sizes", &[], Map(VA + M2 - 3 * K64 - 5 * K4, 2 * M2, None)),
    kind("map across 512M", &[], Map(VA + M512 - K4, 2 * K4, Some(Size4K))),
    kind("map 4K beside 4K", &[Map(VA, K4, Some(Size4K))], Map(VA + K4, 2 * K4, Some(Size4K))),
    kind("map 4K beside 64K", &[Map(VA, K64, Some(Size64K))], Map(VA + K64, 3 * K4, Some(Size4K))),
    kind("map 64K beside 4K", &[Map(VA, K4, Some(Size4K))], Map(VA + K64, 2 * K64, Some(Size64K))),
    kind("map 2M over an empty table", &[Map(VA, K4, Some(Size4K)), Unmap(VA..VA + K4)], Map(VA, M2, Some(Size2M))),
    kind("map 512M over empty tables", &[Map(VA, K4, Some(Size4K)), Unmap(VA..VA + K4)], Map(VA, M512, Some(Size512M))),
    kind("map late 4K", &[], Late(VA + M2 - 3 * K4, 7, Size4K)),
    kind("map late 64K", &[], Late(VA + M2 - K64, 3, Size64K)),
    kind("map late 2M", &[], Late(VA + M2, 3, Size2M)),
    kind("map 4K into sparse 4K", &[Sparse(VA + K4..VA + 9 * K4)], Map(VA + 2 * K4, 3 * K4, Some(Size4K))),
    kind("map 4K into sparse 64K", &[Sparse(VA..VA + 4 * K64)], Map(VA + K64 + K4, K4, Some(Size4K))),
    kind("map 4K into sparse 2M", &[Sparse(VA..VA + 2 * M2)], Map(VA + K64, 5 * K4, Some(Size4K))),
    kind("map 4K into sparse 512M", &[Sparse(VA..VA + M512)], Map(VA + M2, 2 * K4, Some(Size4K))),
    kind("map 64K into sparse 2M", &[Sparse(VA..VA + 2 * M2)], Map(VA + K64, 2 * K64, Some(Size64K))),
    kind("map 2M into sparse 512M", &[Sparse(VA..VA + M512)], Map(VA + M2, M2, Some(Size2M))),
    kind("map all of sparse 2M", &[Sparse(VA..VA + M2)], Map(VA, M2, Some(Size2M))),
    kind("map 64K over sparse 4K", &[Sparse(VA + K4..VA + 3 * K4)], Map(VA, K64, Some(Size64K))),
    kind("map 64K over some sparse 4K", &[Sparse(VA + K4..VA + K64 + K4)], Map(VA, K64, Some(Size64K))),
    kind("map 2M over sparse 4K", &[Sparse(VA + K4..VA + K64 + K4)], Map(VA, M2, Some(Size2M))),
    kind("map late into sparse", &[Sparse(VA..VA + M512)], Late(VA + M2, 40, Size64K)),
    kind("unmap 4K", &[Map(VA, 9 * K4, Some(Size4K))], Unmap(VA..VA + 9 * K4)),
    kind("unmap a full table of 4K", &[Map(VA, M2, Some(Size4K))], Unmap(VA..VA + M2)),
    kind("unmap 64K", &[Map(VA + M2 - K64, 3 * K64, Some(Size64K))], Unmap(VA + M2 - K64..VA + M2 + 2 * K64)),
    kind("unmap 2M", &[Map(VA, 3 * M2, Some(Size2M))], Unmap(VA..VA + 3 * M2)),
    kind("unmap 512M", &[Map(VA, M512, Some(Size512M))], Unmap(VA..VA + M512)),
    kind("unmap part of 4K", &[Map(VA, 9 * K4, Some(Size4K))], Unmap(VA + 2 * K4..VA + 5 * K4)),
    kind("unmap part of 2M", &[Map(VA, 3 * M2, Some(Size2M))], Unmap(VA + M2..VA + 2 * M2)),
    kind("unmap all sizes", &[Map(VA + M2 - 3 * K64 - 5 * K4, 2 * M2, None)], Unmap(VA..VA + 4 * M2)),
    kind("unmap with holes", &[Map(VA, K4, None), Map(VA + 3 * K4, K64, None), Late(VA + M2, 3, Size4K)], Unmap(VA..VA + 2 * M2)),
    kind("unmap late", &[Late(VA, 5, Size64K)], Unmap(VA..VA + 5 * K64)),
    kind("unmap, cutting 64K", &[Map(VA, 2 * K64, Some(Size64K))], Unmap(VA + 5 * K4..VA + 6 * K4)),
    kind("unmap, cutting 2M", &[Map(VA, 2 * M2, Some(Size2M))], Unmap(VA + 5 * K4..VA + 6 * K4)),
    kind("unmap, cutting 2M to 64K", &[Map(VA, M2, Some(Size2M))], Unmap(VA + K64..VA + 3 * K64)),
    kind("unmap, cutting two of 2M", &[Map(VA, 3 * M2, Some(Size2M))], Unmap(VA + M2 - K4..VA + 2 * M2 + K64)),
    kind("unmap, cutting 512M", &[Map(VA, M512, Some(Size512M))], Unmap(VA + M2 + 5 * K4..VA + 2 * M2)),
    kind("unmap, cutting both of 64K", &[Map(VA, 2 * K64, Some(Size64K))], Unmap(VA + K4..VA + K64 + K4)),
    kind("unmap, cutting late 64K", &[Late(VA, 3, Size64K)], Unmap(VA + K64 - K4..VA + K64 + K4)),
    kind("unmap, cutting late 2M", &[Late(VA, 3, Size2M)], Unmap(VA + M2 + K4..VA + M2 + K64)),
    kind("unmap in sparse", &[Sparse(VA..VA + 2 * M2), Map(VA + K64, 2 * K64, None)], Unmap(VA + K64..VA + 3 * K64)),
    kind("unmap, cutting over sparse", &[Sparse(VA..VA + M2), Map(VA, M2, Some(Size2M))], Unmap(VA + K4..VA + M2)),
    kind("protect 4K", &[Map(VA, 9 * K4, Some(Size4K))], Protect(VA..VA + 9 * K4)),
    kind("protect part of 4K", &[Map(VA, 9 * K4, Some(Size4K))], Protect(VA + K4..VA + 3 * K4)),
    kind("protect 64K", &[Map(VA, 5 * K64, Some(Size64K))], Protect(VA + K64..VA + 3 * K64)),
    kind("protect 512M", &[Map(VA, M512, Some(Size512M))], Protect(VA..VA + M512)),
    kind("protect all sizes", &[Map(VA + M2 - 3 * K64 - 5 * K4, 2 * M2, None)], Protect(VA + M2 - 3 * K64..VA + 2 * M2)),
    kind("protect, cutting 64K", &[Map(VA, 2 * K64, Some(Size64K))], Protect(VA + 2 * K4..VA + 3 * K4)),
    kind("protect, cutting both of 64K", &[Map(VA, 2 * K64, Some(Size64K))], Protect(VA + K4..VA + K64 + K4)),
    kind("protect, cutting 2M", &[Map(VA, 2 * M2, Some(Size2M))], Protect(VA + K64..VA + M2 + K4)),
    kind("protect, cutting 512M", &[Map(VA, M512, Some(Size512M))], Protect(VA + M2..VA + 2 * M2)),
    kind("protect late", &[Late(VA, 5, Size4K)], Protect(VA..VA + 5 * K4)),
    kind("protect, cutting late 2M", &[Late(VA, 2, Size2M)], Protect(VA + K4..VA + 3 * K64)),
    kind("sparse 4K", &[], Sparse(VA + K4..VA + 7 * K4)),
    kind("sparse all sizes", &[], Sparse(VA - 3 * K4..VA + M512 + M2 + K64 + K4)),
    kind("sparse around pages", &[Map(VA + K64, K4, None), Map(VA + M2, M2, None)], Sparse(VA..VA + 4 * M2)),
    kind("sparse over an empty table", &[Map(VA, K4, Some(Size4K)), Unmap(VA..VA + K4)], Sparse(VA..VA + M2)),
    kind("more of sparse", &[Sparse(VA + K64..VA + 3 * K64)], Sparse(VA..VA + M2)),
    kind("the rest of sparse 64K", &[Sparse(VA..VA + 5 * K4)], Sparse(VA + 5 * K4..VA + K64)),
    kind("the rest of sparse 2M", &[Sparse(VA..VA + K64 + 5 * K4)], Sparse(VA + K4..VA + M2)),
    kind("unsparse 4K", &[Sparse(VA..VA + 7 * K4)], Unsparse(VA..VA + 7 * K4)),
    kind("unsparse all sizes", &[Sparse(VA - 3 * K4..VA + M512 + M2 + K64 + K4)], Unsparse(VA - 3 * K4..VA + M512 + M2 + K64 + K4)),
    kind("unsparse, cutting 64K", &[Sparse(VA..VA + K64)], Unsparse(VA + K4..VA + 2 * K4)),
    kind("unsparse, cutting 512M", &[Sparse(VA..VA + M512)], Unsparse(VA + M2 - K4..VA + 2 * M2)),
    kind("bind 4K, late and sparse", &[Map(VA, 9 * K4, Some(Size4K))], Bind(&[Sparse(VA..VA + M2), Unmap(VA + K4..VA + 3 * K4), Late(VA + M2, 7, Size4K)])),
    kind("bind over pages of all sizes", &[Map(VA + M2 - 3 * K64 - 5 * K4, 2 * M2, None)], Bind(&[Unmap(VA + M2 - K64..VA + M2 + K4), Late(VA + M2 + K64, 3, Size64K), Map(VA + M2 - K4, 2 * K4, Some(Size4K))])),
    kind("bind into sparse", &[Sparse(VA..VA + M512)], Bind(&[Map(VA + K4, K4, Some(Size4K)), Unsparse(VA + M2..VA + 2 * M2), Late(VA + 3 * M2, 2, Size2M), Unmap(VA + 3 * M2 + K4..VA + 3 * M2 + K64)])),
    kind("bind with gaps", &[Map(VA, K4, Some(Size4K)), Map(VA + 4 * M2, M2, Some(Size4K))], Bind(&[Unmap(VA + 4 * M2..VA + 5 * M2), Map(VA + M512, K64, None), Unsparse(VA..VA + K4)])),
    kind("map evictable 4K", &[], Evictable(VA + M2 - 3 * K4, 5 * K4, Some(Size4K))),
    kind("map evictable, all sizes", &[], Evictable(VA + M2 - 3 * K64 - 5 * K4, 2 * M2, None)),
    kind("unmap evictable", &[Evictable(VA, M2, Some(Size4K))], Unmap(VA..VA + M2)),
    kind("unmap, cutting evictable 2M", &[Evictable(VA, 2 * M2, Some(Size2M))], Unmap(VA + 5 * K4..VA + 6 * K4)),
    kind("protect, cutting evictable 64K", &[Evictable(VA, 2 * K64, Some(Size64K))], Protect(VA + 2 * K4..VA + 3 * K4)),
    kind("bind over evictable", &[Evictable(VA, 9 * K4, Some(Size4K))], Bind(&[Map(VA + K4, K4, Some(Size4K)), Unmap(VA + 3 * K4..VA + 4 * K4)])),
    kind("rebind 64K as 4K", &[Evictable(VA, 3 * K64, Some(Size64K))], Rebind(VA, 3 * K64, Some(Size4K))),
    kind("rebind 4K as 2M", &[Evictable(VA, M2, Some(Size4K))], Rebind(VA, M2, None)),
    kind("defragment to 64K", &[Map(VA + K64, 5 * K64, Some(Size4K))], Defragment(VA..VA + M2)),
    kind("defragment to 2M", &[Map(VA, M2, Some(Size4K))], Defragment(VA..VA + M2)),
    kind("reclaim a table", &[Map(VA, K4, Some(Size4K)), Map(VA + M2, K64, None), Unmap(VA..VA + K4)], Reclaim(VA..VA + M2)),
    kind("reclaim with directories", &[Map(VA, K64, Some(Size64K)), Map(VA + M512, K4, None), Map(VA + 64 * M512, K4, None), Unmap(VA..VA + M512 + K4)], Reclaim(VA..VA + 2 * M512)),
    kind("unsparse around pages", &[Sparse(VA..VA + 4 * M2), Map(VA + K64, K4, None)], Unsparse(VA..VA + 4 * M2)),
];

impl Step {
    /// The addresses that it is about.
    pub fn range(&self) -> Range<u64> {
        match self {
            Map(at, bytes, _) | Evictable(at, bytes, _) | Rebind(at, bytes, _) => *at..at + bytes,
            Late(at, pages, page) => *at..at + pages * page.bytes(),
            Unmap(range) | Protect(range) | Sparse(range) | Unsparse(range) | Reclaim(range) | Defragment(range) => {
                range.clone()
            }
            Bind(steps) => {
                let start = steps.iter().map(|step| step.range().start).min().unwrap();
                start..steps.iter().map(|step| step.range().end).max().unwrap()
            }
        }
    }

    pub fn plan<'a, F: Format, P: TablePool>(
        &self,
        vmm: &'a mut Vmm<F>,
        pool: &'a mut P,
    ) -> Result<Plan<'a, F, P>, PrepareError> {
        let span = Span::new(self.range()).quiesced();
        match *self {
            Map(at, bytes, page) | Evictable(at, bytes, page) => {
                let extents = [Extent { to: PhysAddr::vram(at - VA + MEMORY), bytes }];
                let evictable = matches!(self, Evictable(..));
                let request = MapRequest::extents(&extents).at(at).live(Live::Quiesced);
                vmm.plan_map(pool, &MapRequest { page, evictable, ..request })
            }
            Rebind(at, bytes, page) => {
                let extents = [Extent { to: PhysAddr::vram(at - VA + MEMORY + REBOUND), bytes }];
                let zap = vmm.zap(at).unwrap();
                let request = MapRequest { page, ..MapRequest::extents(&extents).at(at) };
                vmm.plan_rebind(pool, &zap, &[request], Live::Quiesced)
            }
            Reclaim(_) => vmm.plan_reclaim(pool),
            Defragment(_) => vmm.plan_defragment(pool, span, Size2M),
            Late(at, pages, page) => vmm.plan_map(pool, &MapRequest::frames(pages, page).at(at).live(Live::Quiesced)),
            Unmap(_) => vmm.plan_unmap(pool, span),
            Protect(_) => vmm.plan_protect(pool, span, Protection::flags(Flags { read_only: true, ..Flags::NONE })),
            Sparse(_) => vmm.plan_sparse(pool, span),
            Unsparse(_) => vmm.plan_unsparse(pool, span),
            Bind(steps) => {
                let extents = steps.iter().map(|step| {
                    let range = step.range();
                    [Extent {
                        to: PhysAddr::vram(range.start.saturating_sub(VA) + MEMORY),
                        bytes: range.end - range.start,
                    }]
                });
                let extents: Vec<_> = extents.collect();
                let operations = steps.iter().zip(&extents).map(|(step, extents)| step.operation(extents));
                vmm.plan_bind(pool, &operations.collect::<Vec<_>>(), Live::Quiesced)
            }
        }
    }

    fn operation<'e>(&self, extents: &'e [Extent]) -> gmmu::vmm::Bind<'e> {
        match self {
            Map(at, _, page) => {
                gmmu::vmm::Bind::Map(MapRequest { page: *page, ..MapRequest::extents(extents).at(*at) })
            }
            Late(at, pages, page) => gmmu::vmm::Bind::Map(MapRequest::frames(*pages, *page).at(*at)),
            Sparse(range) => gmmu::vmm::Bind::Sparse(range.clone()),
            Unsparse(range) => gmmu::vmm::Bind::Unsparse(range.clone()),
            Unmap(range) | Protect(range) => gmmu::vmm::Bind::Unmap(range.clone()),
            Bind(_) | Evictable(..) | Rebind(..) | Reclaim(_) | Defragment(_) => {
                unreachable!("{self:?} in a list")
            }
        }
    }

    fn changes(&self, va: u64, page: Page, sparse: &mut bool) -> Page {
        let empty = |sparse: bool| if sparse { Page::Zero } else { Page::Faults };
        let mapped = matches!(page, Page::Leads { .. });
        if !self.range().contains(&va) {
            return page;
        }
        match self {
            Map(..) | Evictable(..) => Page::Leads { to: va - VA + MEMORY, read_only: false },
            Rebind(..) => Page::Leads { to: va - VA + MEMORY + REBOUND, read_only: false },
            Reclaim(_) | Defragment(_) => page,
            Late(at, _, size) => {
                let to = frame((va - at) >> size.shift(), *size) + (va & (size.bytes() - 1));
                Page::Leads { to, read_only: false }
            }
            Unmap(_) => empty(*sparse),
            Protect(_) => match page {
                Page::Leads { to, .. } => Page::Leads { to, read_only: true },
                other => other,
            },
            Bind(steps) => steps.iter().fold(page, |page, step| step.changes(va, page, sparse)),
            Sparse(_) | Unsparse(_) => {
                *sparse = matches!(self, Sparse(_));
                if mapped {
                    page
                } else {
                    empty(*sparse)
                }
            }
        }
    }
}

/// Where page `n` of every list of frames leads: neighbours change places.
fn frame(n: u64, page: PageSize) -> u64 {
    FRAMES + (n ^ 1) * page.bytes()
}

impl Kind {
    /// Whether the chip has the pages.
    pub fn fits(&self, chip: &Chip) -> bool {
        fn fits(step: &Step, chip: &Chip) -> bool {
            match step {
                Map(_, _, page) | Evictable(_, _, page) | Rebind(_, _, page) => {
                    page.is_none_or(|page| chip.page_sizes.has(page))
                }
                Late(_, _, page) => chip.page_sizes.has(*page),
                Unmap(_) | Protect(_) | Sparse(_) | Unsparse(_) | Reclaim(_) | Defragment(_) => true,
                Bind(steps) => steps.iter().all(|step| fits(step, chip)),
            }
        }
        self.steps().all(|step| fits(step, chip))
    }

    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.before.iter().chain([&self.does])
    }

    /// What `va` is before the job, and behind it.
    pub fn page(&self, va: u64) -> (Page, Page) {
        let (mut page, mut sparse) = (Page::Faults, false);
        for step in self.before {
            page = step.changes(va, page, &mut sparse);
        }
        (page, self.does.changes(va, page, &mut sparse))
    }

    /// What `va` is behind the job and another one.
    pub fn page_then(&self, then: &Step, va: u64) -> Page {
        let (mut page, mut sparse) = (Page::Faults, false);
        for step in self.steps().chain([then]) {
            page = step.changes(va, page, &mut sparse);
        }
        page
    }

    /// Addresses worth looking at: both sides of every border, and of the borders of pages and tables around them.
    pub fn probes(&self) -> Vec<u64> {
        let mut probes = BTreeSet::new();
        let borders: BTreeSet<u64> = self.steps().flat_map(|step| [step.range().start, step.range().end]).collect();
        for border in borders {
            for unit in [K4, K64, M2, M512] {
                let down = border & !(unit - 1);
                probes.extend([down - K4, down, down + unit - K4, down + unit]);
            }
        }
        probes.into_iter().collect()
    }
}

/// The frames that a job wants.
pub fn frames(job: &Job) -> Vec<Pfn> {
    let of = |want: &gmmu::vmm::Want| {
        let (first, page) = ((want.va - want.mapping) >> want.page.shift(), want.page);
        (first..first + want.pages).map(move |n| Pfn::new(frame(n, page) / K4))
    };
    job.wants().iter().flat_map(of).collect()
}

/// A job that can be executed, whether it wants frames or not.
#[derive(Debug)]
pub enum Armed<'f> {
    Plain(Job),
    Ready(Ready<'f>),
}

macro_rules! either {
    ($armed:expr, $job:ident => $what:expr) => {
        match $armed {
            Armed::Plain($job) => $what,
            Armed::Ready($job) => $what,
        }
    };
}

impl<'f> Armed<'f> {
    pub fn new(job: Job, frames: &'f [Pfn]) -> Self {
        if job.wants().is_empty() {
            return Self::Plain(job);
        }
        job.with_frames(frames).map(Self::Ready).map_err(|(_, why)| why).unwrap()
    }

    pub fn write_some<M: TableMemory>(&mut self, memory: &mut M, budget: u64) -> Result<bool, ExecuteError> {
        either!(self, job => job.write_some(memory, budget))
    }

    pub fn write<M: TableMemory>(&mut self, memory: &mut M) -> Result<(), ExecuteError> {
        either!(self, job => job.write(memory))
    }

    pub fn flush<H: Hardware>(&mut self, hardware: &mut H) -> Result<Flushed, ExecuteError> {
        either!(self, job => job.flush(hardware))
    }

    pub fn poll_flush<I: Invalidator>(&mut self, invalidator: &mut I) -> Result<Flushed, ExecuteError> {
        either!(self, job => job.poll_flush(invalidator))
    }

    pub fn finish(self) -> Result<Receipt, Self> {
        match self {
            Self::Plain(job) => job.finish().map_err(Self::Plain),
            Self::Ready(ready) => ready.finish().map_err(Self::Ready),
        }
    }

    pub fn execute<H: Hardware>(self, hardware: &mut H) -> Result<Receipt, Failed<Self>> {
        match self {
            Self::Plain(job) => {
                job.execute(hardware).map_err(|Failed { job, why }| Failed { job: Self::Plain(job), why })
            }
            Self::Ready(ready) => {
                ready.execute(hardware).map_err(|Failed { job, why }| Failed { job: Self::Ready(job), why })
            }
        }
    }

    pub fn into_job(self) -> Job {
        match self {
            Self::Plain(job) => job,
            Self::Ready(ready) => ready.into_job(),
        }
    }
}

impl AsMut<Job> for Armed<'_> {
    fn as_mut(&mut self) -> &mut Job {
        match self {
            Self::Plain(job) => job,
            Self::Ready(ready) => ready.as_mut(),
        }
    }
}

/// Whether a job was begun: asked of what comes back.
pub fn is_begun(job: &Job) -> bool {
    job.state() == State::Executing
}
