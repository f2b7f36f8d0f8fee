//! Changes on their way: prepared, executed, and committed, cancelled or let go.

use std::ops::Range;

use gmmu::addr::{PageSize, PhysAddr};
use gmmu::format::{Format, Kind};
use gmmu::vmm::{Bind, Extent, Job, Live, MapRequest, PrepareError, Receipt, Span, Zap};

use super::ops::{At, Change, JobOp, Map, Memory, Stretch, What};
use super::refusal::Refusal;
use super::runner::Runner;
use super::work::{Pace, Step, Work};
use crate::machine::{Asked, Data};

/// How far a job has got.
pub(super) enum Stage {
    Open(Work),
    Executed(Receipt),
}

/// A job of the script's.
pub(super) struct Pending {
    pub(super) space: String,
    pub(super) stage: Stage,
    /// Changes count up, in the order of their prepares; a bind counts its steps.
    numbers: Range<u64>,
    /// Where nothing older is mapped once it is done, by the number of the step.
    unmaps: Vec<(u64, Range<u64>)>,
}

/// What the rest of a job needs to know, whatever its stage.
type Ended = Result<(), (Pending, Refusal)>;

pub(super) fn no_job(name: &str) -> Refusal {
    Refusal::plain(format!("there is no job {name}"))
}

/// A part of a change with all that it stands for: addresses, and the memory of a mapping.
struct Part<'c> {
    number: u64,
    what: &'c What,
    range: Range<u64>,
    extent: [Extent; 1],
    data: Option<Data>,
}

impl Part<'_> {
    fn bind(&self, live: Live) -> Option<Bind<'_>> {
        Some(match self.what {
            What::Map(map) => Bind::Map(request(map, &self.extent, live).at(self.range.start)),
            What::Unmap(_) => Bind::Unmap(self.range.clone()),
            What::Sparse(_) => Bind::Sparse(self.range.clone()),
            What::Unsparse(_) => Bind::Unsparse(self.range.clone()),
            What::Protect(..)
            | What::Defragment(..)
            | What::Bind(_)
            | What::Rebind(..)
            | What::Reclaim
            | What::Restore => return None,
        })
    }

    fn map(&self, live: Live) -> Option<MapRequest<'_>> {
        match self.bind(live) {
            Some(Bind::Map(request)) => Some(request),
            _ => None,
        }
    }
}

/// What the library is asked for, where `extent` is the memory of it that is contiguous.
pub(super) fn request<'e>(map: &Map, extent: &'e [Extent], live: Live) -> MapRequest<'e> {
    let request = match &map.memory {
        Memory::Pages(aperture, pages) => {
            MapRequest::frames_of(*aperture, pages.len() as u64, map.page.unwrap_or(PageSize::Size4K))
        }
        Memory::From(_) | Memory::Any => MapRequest { page: map.page, ..MapRequest::extents(extent) },
    };
    let Map { largest, object, offset, kind, flags, .. } = *map;
    let evictable = map.evictable.is_some();
    MapRequest { largest, object, offset, evictable, ..request }.kind(Kind(kind)).flags(flags).live(live)
}

impl<F: Format> Runner<F> {
    /// `prepare JOB …`
    pub(super) fn prepare_job(&mut self, name: &str, change: &Change) -> Result<(), Refusal> {
        if self.jobs.contains_key(name) {
            return Err(Refusal::plain(format!("there is a job {name} already")));
        }
        let pending = self.prepare(change)?;
        self.jobs.insert(name.to_owned(), pending);
        Ok(())
    }

    /// A change from its prepare to its commit.
    pub(super) fn at_once(&mut self, change: &Change) -> Result<(), Refusal> {
        let pending = self.prepare(change)?;
        match self.execute(pending, Pace::Whole) {
            Ok(executed) => self.commit(executed).map_err(|(_, why)| why),
            Err((pending, why)) => {
                // It was asked for as a whole: what cannot be executed is taken back, or let go.
                if let Err((pending, _)) = self.cancel(pending) {
                    self.let_go(pending);
                }
                Err(why)
            }
        }
    }

    /// What becomes of a job next.
    pub(super) fn job(&mut self, name: &str, op: JobOp) -> Result<(), Refusal> {
        let mut pending = self.jobs.remove(name).ok_or_else(|| no_job(name))?;
        let ended = match (op, &mut pending.stage) {
            (JobOp::Execute(_) | JobOp::Skip, Stage::Executed(_)) => {
                let why = Refusal::named("Executed", format!("the job {name} was executed already"));
                Err((pending, why))
            }
            (JobOp::Execute(budget), Stage::Open(_)) => {
                self.execute(pending, budget.map_or(Pace::Whole, Pace::Entries)).map(Some)
            }
            (JobOp::Skip, Stage::Open(work)) => {
                work.job().skip_zapped();
                Ok(Some(pending))
            }
            (JobOp::Commit, _) => self.commit(pending).map(|()| None),
            (JobOp::Cancel, _) => self.cancel(pending).map(|()| None),
            (JobOp::Drop, _) => {
                self.let_go(pending);
                Ok(None)
            }
        };
        let (kept, result) = match ended {
            Ok(kept) => (kept, Ok(())),
            Err((kept, why)) => (Some(kept), Err(why)),
        };
        self.jobs.extend(kept.map(|job| (name.to_owned(), job)));
        result
    }

    /// How many rounds of writes a job still has.
    pub(super) fn rounds(&mut self, name: &str) -> Result<u64, Refusal> {
        match &mut self.jobs.get_mut(name).ok_or_else(|| no_job(name))?.stage {
            Stage::Open(work) => Ok(work.job().rounds() as u64),
            Stage::Executed(_) => Ok(0),
        }
    }

    /// Prepares a change, and enters what it will have done into the books.
    pub(super) fn prepare(&mut self, change: &Change) -> Result<Pending, Refusal> {
        self.vmm(&change.space)?;
        let steps = change.what.steps();
        let first = self.changes + 1;
        let mut parts = Vec::new();
        let made = steps.iter().try_for_each(|step| {
            self.changes += 1;
            parts.push(self.part(self.changes, step)?);
            Ok(())
        });
        let prepared = made.and_then(|()| self.prepare_parts(change, &parts));
        let job = match prepared {
            Ok(job) => job,
            Err(why) => {
                parts.into_iter().for_each(|part| self.give(part.data));
                return Err(why);
            }
        };
        if let ([part], What::Map(_)) = (parts.as_mut_slice(), &change.what) {
            // Where there was room.
            part.range = job.range();
        }
        let unmaps = parts.into_iter().filter_map(|part| self.enter(&change.space, part)).collect();
        let stage = Stage::Open(Work::new(self.books.wanted(&change.space, &job), job));
        Ok(Pending { space: change.space.clone(), stage, numbers: first..self.changes + 1, unmaps })
    }

    fn prepare_parts(&mut self, Change { space, live, what }: &Change, parts: &[Part<'_>]) -> Result<Job, Refusal> {
        let live = *live;
        let prepared = match (what, parts) {
            (What::Bind(_), parts) => {
                let steps: Vec<Bind<'_>> = parts.iter().filter_map(|part| part.bind(live)).collect();
                self.ask(space, Asked::Bind(&steps, live))?
            }
            (What::Rebind(zap, _), parts) => {
                let zap = self.zap_of(zap, space)?;
                let maps: Vec<MapRequest<'_>> = parts.iter().filter_map(|part| part.map(live)).collect();
                self.ask(space, Asked::Rebind(&zap, &maps, live))?
            }
            (_, [part, ..]) => {
                let span = Span { range: part.range.clone(), live };
                match part.what {
                    What::Map(map) => {
                        let request = request(map, &part.extent, live);
                        let request = if map.va.is_some() { request.at(part.range.start) } else { request };
                        self.ask(space, Asked::Map(&request))?
                    }
                    What::Unmap(_) => self.ask(space, Asked::Unmap(span))?,
                    What::Protect(_, protection) => self.ask(space, Asked::Protect(span, *protection))?,
                    What::Sparse(_) => self.ask(space, Asked::Sparse(span))?,
                    What::Unsparse(_) => self.ask(space, Asked::Unsparse(span))?,
                    What::Defragment(_, largest) => self.ask(space, Asked::Defragment(span, *largest))?,
                    What::Reclaim => self.ask(space, Asked::Reclaim)?,
                    What::Restore => {
                        let asked = self.ask(space, Asked::Restore)?;
                        self.end_all(space);
                        asked
                    }
                    What::Bind(_) | What::Rebind(..) => Err(PrepareError::Empty),
                }
            }
            (_, []) => Err(PrepareError::Empty),
        };
        prepared.map_err(|why| Refusal::of(&why))
    }

    fn ask(&mut self, space: &str, asked: Asked<'_>) -> Result<Result<Job, PrepareError>, Refusal> {
        let (machine, vmm) = self.parts(space)?;
        Ok(machine.prepare(vmm, asked))
    }

    /// Looks up what a part of a change names, and takes the memory that it wants of the allocator.
    fn part<'c>(&mut self, number: u64, what: &'c What) -> Result<Part<'c>, Refusal> {
        let range = match what {
            What::Map(Map { va, len, .. }) => {
                let start = va.as_ref().map_or(Ok(0), |at| self.address(at))?;
                start..start.checked_add(*len).ok_or_else(|| Refusal::named("Overflow", "the length overflows"))?
            }
            What::Unmap(stretch)
            | What::Protect(stretch, _)
            | What::Sparse(stretch)
            | What::Unsparse(stretch)
            | What::Defragment(stretch, _) => self.stretch(stretch)?,
            What::Bind(_) | What::Rebind(..) | What::Reclaim | What::Restore => 0..0,
        };
        let (extent, data) = match what {
            What::Map(map) => self.memory_of(map)?,
            _ => (Extent { to: PhysAddr::vram(0), bytes: 0 }, None),
        };
        Ok(Part { number, what, range, extent: [extent], data })
    }

    /// The memory of a mapping, and whether the allocator gave it.
    pub(super) fn memory_of(&mut self, map: &Map) -> Result<(Extent, Option<Data>), Refusal> {
        let (to, data) = match &map.memory {
            Memory::From(to) => (*to, None),
            Memory::Pages(..) => (PhysAddr::vram(0), None),
            Memory::Any => {
                let taken = self.machine().take_pages(map.len, map.page);
                let taken = taken.map_err(|why| Refusal::named("NoSpace", why.what()))?;
                (taken.start(), Some(taken))
            }
        };
        Ok((Extent { to, bytes: map.len }, data))
    }

    /// The addresses of a range: so many, or the rest of what has the name.
    fn stretch(&self, Stretch { va, len }: &Stretch) -> Result<Range<u64>, Refusal> {
        let start = self.address(va)?;
        let end = match (len, va) {
            (Some(len), _) => start.checked_add(*len).ok_or_else(|| Refusal::plain("the range overflows"))?,
            (None, At::Named(name, _)) => self.range(name)?.end.max(start),
            (None, At::Va(_)) => start,
        };
        Ok(start..end)
    }

    /// The zap of that name, of a mapping of the space.
    fn zap_of(&self, name: &str, space: &str) -> Result<Zap, Refusal> {
        match self.zaps.get(name) {
            Some((of, zap)) if of == space => Ok(zap.clone()),
            _ => Err(Refusal::plain(format!("nothing was mapped evictable={name} in {space}"))),
        }
    }

    /// `zap`
    pub(super) fn zap(&mut self, name: &str) -> Result<(), Refusal> {
        let zap = self.zap_named(name)?;
        zap.zap(self.machine.mmio()).map_err(|why| Refusal::of(&why))
    }

    /// The zap of that name.
    pub(super) fn zap_named(&self, name: &str) -> Result<Zap, Refusal> {
        let found = self.zaps.get(name).map(|(_, zap)| zap.clone());
        found.ok_or_else(|| Refusal::plain(format!("nothing was mapped evictable={name}")))
    }

    /// Enters a part of a prepared change into the books. Where nothing older is mapped any more once it is done.
    fn enter(&mut self, space: &str, Part { number, what, range, data, .. }: Part<'_>) -> Option<(u64, Range<u64>)> {
        let map = match what {
            What::Map(map) => map,
            What::Unmap(_) => return Some((number, range)),
            _ => return None,
        };
        if let Some(name) = &map.name {
            // The latest mapping of a name is the one that it means.
            self.names.insert(name.clone(), range.clone());
        }
        let zap = self.vmm(space).ok().and_then(|vmm| vmm.zap(range.start));
        if let (Some(name), Some(zap)) = (&map.evictable, zap) {
            self.zaps.insert(name.clone(), (space.to_owned(), zap));
        }
        if let Some(data) = data {
            self.books.add_data(space, number, range.clone(), data);
        }
        if let Memory::Pages(_, pages) = &map.memory {
            let page = map.page.unwrap_or(PageSize::Size4K);
            self.books.add_frames(space, number, range.start, page.bytes(), pages);
        }
        Some((number, range))
    }

    /// Executes a job, or some of it.
    #[expect(clippy::result_large_err, reason = "the job comes back whole")]
    pub(super) fn execute(&mut self, pending: Pending, pace: Pace) -> Result<Pending, (Pending, Refusal)> {
        let Stage::Open(work) = pending.stage else { return Ok(pending) };
        match work.step(self.machine().mmio(), pace) {
            Ok(Step::Done(receipt)) => Ok(Pending { stage: Stage::Executed(receipt), ..pending }),
            Ok(Step::More(work)) => Ok(Pending { stage: Stage::Open(work), ..pending }),
            Err((work, why)) => Err((Pending { stage: Stage::Open(work), ..pending }, why)),
        }
    }

    #[expect(clippy::result_large_err, reason = "the job comes back whole")]
    pub(super) fn commit(&mut self, pending: Pending) -> Ended {
        let Stage::Executed(receipt) = pending.stage else {
            return Err((pending, Refusal::named("NotExecuted", "the job was not executed")));
        };
        let (machine, vmm) = match self.parts(&pending.space) {
            Ok(parts) => parts,
            Err(why) => return Err((Pending { stage: Stage::Executed(receipt), ..pending }, why)),
        };
        if let Err((receipt, why)) = machine.commit(vmm, receipt) {
            return Err((Pending { stage: Stage::Executed(receipt), ..pending }, Refusal::of(&why)));
        }
        self.carried_out(&pending.space, &pending.unmaps);
        Ok(())
    }

    fn carried_out(&mut self, space: &str, unmaps: &[(u64, Range<u64>)]) {
        for (number, range) in unmaps {
            for data in self.books.unmapped(space, *number, range) {
                self.give(Some(data));
            }
        }
    }

    #[expect(clippy::result_large_err, reason = "the job comes back whole")]
    pub(super) fn cancel(&mut self, pending: Pending) -> Ended {
        let (job, frames) = match pending.stage {
            Stage::Open(Work::Prepared(job, frames)) => (job, frames),
            Stage::Open(_) => {
                let why = "the job was begun: it can only be executed to its end";
                return Err((pending, Refusal::named("Begun", why)));
            }
            Stage::Executed(_) => return Err((pending, Refusal::named("Begun", "the job was executed"))),
        };
        let (machine, vmm) = match self.parts(&pending.space) {
            Ok(parts) => parts,
            Err(why) => return Err((Pending { stage: Stage::Open(Work::Prepared(job, frames)), ..pending }, why)),
        };
        if let Err((job, why)) = machine.cancel(vmm, job) {
            let stage = Stage::Open(Work::Prepared(job, frames));
            return Err((Pending { stage, ..pending }, Refusal::of(&why)));
        }
        self.taken_back(&pending.space, &pending.numbers);
        Ok(())
    }

    /// Lets a job go without a word to its space, which notices at its next call: an unbegun one is as good as cancelled,
    /// an executed one as committed, and one that was begun is lost with all that it has.
    pub(super) fn let_go(&mut self, Pending { space, stage, numbers, unmaps }: Pending) {
        match stage {
            Stage::Executed(_) => self.carried_out(&space, &unmaps),
            Stage::Open(Work::Prepared(..)) => self.taken_back(&space, &numbers),
            Stage::Open(_) => self.adrift.push((space, numbers)),
        }
    }

    fn taken_back(&mut self, space: &str, numbers: &Range<u64>) {
        for data in self.books.taken_back(space, numbers) {
            self.give(Some(data));
        }
    }

    /// A restore has ended all jobs: open ones were taken out of the records, executed ones committed.
    fn end_all(&mut self, space: &str) {
        let mut lost: Vec<_> = self.adrift.extract_if(.., |(whose, _)| whose == space).map(|(_, own)| own).collect();
        let mut unmaps = Vec::new();
        for job in self.jobs.values().filter(|job| job.space == space) {
            match job.stage {
                Stage::Open(_) => lost.push(job.numbers.clone()),
                Stage::Executed(_) => unmaps.extend(job.unmaps.iter().cloned()),
            }
        }
        lost.iter().for_each(|numbers| self.taken_back(space, numbers));
        self.carried_out(space, &unmaps);
    }
}
