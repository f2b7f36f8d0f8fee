//! Running a script on the software GPU.

use std::collections::HashMap;
use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;

use gmmu::addr::{PageSize, PhysAddr};
use gmmu::format::{Format, Kind};
use gmmu::vmm::{Extent, Job, MapRequest, Receipt, Span, Use, Vmm};
use gmmu_sim::{AccessKind, FaultType, Gpu, Translated};

use super::books::{Books, Replaced};
use super::ops::{At, Change, Expected, Inject, Line, Map, Memory, Op, Page, What};
use super::refusal::Refusal;
use super::work::{Step, Work};
use crate::exit::Failure;
use crate::machine::{Asked, Data, Machine, Tables, engine};
use crate::notation::Size;

/// An operation that did not go as the script says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The line of the script.
    pub line: usize,
    /// The operation, as written.
    pub text: String,
    /// What happened instead.
    pub why: String,
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ran {
    /// It went as the script says.
    Well,
    /// It did not.
    Broken(Broken),
}

/// A job on its way.
enum Stage {
    Open(Work),
    Executed(Receipt),
}

struct Pending {
    space: String,
    stage: Stage,
    /// Changes count up, in the order of their prepares.
    number: u64,
    /// What it unmaps.
    unmaps: Option<Range<u64>>,
    replaced: Replaced,
}

/// What the rest of a job needs to know, whatever its stage.
type Ended = Result<(), (Pending, Refusal)>;

/// Runs operations, one after the other.
pub struct Runner<F: Format> {
    machine: Machine,
    spaces: Vec<(String, Vmm<F>)>,
    jobs: HashMap<String, Pending>,
    /// Ranges that have a name.
    names: HashMap<String, Range<u64>>,
    books: Books,
    /// How many changes were prepared.
    changes: u64,
    verified: u64,
    /// The latest operation of the model during each line.
    ops: Vec<(u64, usize)>,
}

impl<F: Format> Debug for Runner<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("spaces", &self.spaces.len()).finish_non_exhaustive()
    }
}

impl<F: Format> Runner<F> {
    /// A runner on `machine`.
    #[must_use]
    pub fn new(machine: Machine) -> Self {
        let (jobs, names) = (HashMap::new(), HashMap::new());
        let (spaces, books, ops) = (Vec::new(), Books::default(), Vec::new());
        Self { machine, spaces, jobs, names, books, changes: 0, verified: 0, ops }
    }

    /// The GPU and what belongs to it.
    pub const fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The GPU alone, when all is done.
    #[must_use]
    pub fn into_gpu(self) -> Gpu {
        self.machine.into_gpu()
    }

    /// The address spaces, in the order in which they were made.
    #[must_use]
    pub fn spaces(&self) -> &[(String, Vmm<F>)] {
        &self.spaces
    }

    /// Pages of 4 KiB that `expect` looked up and found right.
    #[must_use]
    pub const fn verified(&self) -> u64 {
        self.verified
    }

    /// The line of the script during which the model's operation number `op` was.
    #[must_use]
    pub fn line_of(&self, op: u64) -> Option<usize> {
        let place = self.ops.partition_point(|(last, _)| *last < op);
        self.ops.get(place).map(|(_, line)| *line)
    }

    /// Runs one operation.
    ///
    /// # Errors
    /// Only what ends the whole program: a file that cannot be written.
    pub fn run(&mut self, number: usize, line: &Line) -> Result<Ran, Failure> {
        let result = match &line.op {
            Op::Snapshot(path) => {
                self.snapshot(Path::new(path))?;
                Ok(())
            }
            op => self.operate(op),
        };
        self.ops.push((self.machine.gpu().op(), number));
        let why = match (result, &line.refused) {
            (Ok(()), None) => return Ok(Ran::Well),
            (Err(refusal), Some(name)) if refusal.names.iter().any(|n| n == name) => return Ok(Ran::Well),
            (Ok(()), Some(name)) => format!("was to be refused with {name}, but went through"),
            (Err(Refusal { text, .. }), None) => text,
            (Err(Refusal { names, text }), Some(name)) => {
                let found = names.first().map_or("another error", String::as_str);
                format!("was to be refused with {name}, but was with {found}: {text}")
            }
        };
        Ok(Ran::Broken(Broken { line: number, text: line.text.clone(), why }))
    }

    fn operate(&mut self, op: &Op) -> Result<(), Refusal> {
        match op {
            Op::Space { name, tables, root, bar } => self.space(name, *tables, *root, *bar),
            Op::Change { job: Some(name), change } => {
                if self.jobs.contains_key(name) {
                    return Err(Refusal::plain(format!("there is a job {name} already")));
                }
                let pending = self.prepare(change)?;
                self.jobs.insert(name.clone(), pending);
                Ok(())
            }
            Op::Change { job: None, change } => {
                let pending = self.prepare(change)?;
                match self.execute(pending, None) {
                    Ok(executed) => self.commit(executed).map_err(|(_, why)| why),
                    Err((pending, why)) => {
                        // It was asked for as a whole: what cannot be executed is taken back.
                        let _ = self.cancel(pending);
                        Err(why)
                    }
                }
            }
            Op::Execute(name, budget) => {
                let pending = self.take_job(name)?;
                if let Stage::Executed(_) = pending.stage {
                    self.jobs.insert(name.clone(), pending);
                    return Err(Refusal::named("Executed", format!("the job {name} was executed already")));
                }
                let (pending, result) = match self.execute(pending, *budget) {
                    Ok(pending) => (pending, Ok(())),
                    Err((pending, why)) => (pending, Err(why)),
                };
                self.jobs.insert(name.clone(), pending);
                result
            }
            Op::Commit(name) => {
                let pending = self.take_job(name)?;
                let committed = self.commit(pending);
                self.keep_job(name, committed)
            }
            Op::Cancel(name) => {
                let pending = self.take_job(name)?;
                let cancelled = self.cancel(pending);
                self.keep_job(name, cancelled)
            }
            Op::Expect { space, va, what } => self.expect(space, va, what),
            Op::Write(space, va, value) => {
                let (client, va) = (engine(self.vmm(space)?), self.address(va)?);
                self.machine.gpu().store32(client, va, *value).map_err(|fault| Refusal::fault(&fault))
            }
            Op::Read(space, va, wanted) => {
                let (client, va) = (engine(self.vmm(space)?), self.address(va)?);
                match self.machine.gpu().load32(client, va).map_err(|fault| Refusal::fault(&fault))? {
                    found if found == *wanted => Ok(()),
                    found => Err(Refusal::plain(format!("found {found:#010x}, not {wanted:#010x}"))),
                }
            }
            Op::Inject(Inject { what, at, times }) => {
                match what {
                    Some(mishap) => self.machine.gpu().inject(*mishap, *at, *times),
                    None => self.machine.exhaust_tables(*at, *times),
                }
                Ok(())
            }
            Op::Snapshot(_) => Ok(()),
        }
    }

    fn space(&mut self, name: &str, tables: Option<Tables>, root: Option<u64>, bar: bool) -> Result<(), Refusal> {
        if self.spaces.iter().any(|(known, _)| known == name) {
            return Err(Refusal::plain(format!("there is a space {name} already")));
        }
        let used_by = if bar { Use::Bar } else { Use::Channel };
        let made = match tables {
            Some(tables) => self.machine.create_space_in(tables, root, used_by),
            None => self.machine.create_space(root, used_by),
        };
        let vmm = made.map_err(|why| Refusal::of(&why))?;
        self.spaces.push((name.to_owned(), vmm));
        Ok(())
    }

    fn vmm(&self, name: &str) -> Result<&Vmm<F>, Refusal> {
        let found = self.spaces.iter().find(|(known, _)| known == name);
        found.map(|(_, vmm)| vmm).ok_or_else(|| Refusal::plain(format!("there is no space {name}")))
    }

    fn take_job(&mut self, name: &str) -> Result<Pending, Refusal> {
        self.jobs.remove(name).ok_or_else(|| Refusal::plain(format!("there is no job {name}")))
    }

    /// Puts a job back that could not be ended.
    fn keep_job(&mut self, name: &str, ended: Ended) -> Result<(), Refusal> {
        ended.map_err(|(pending, why)| {
            self.jobs.insert(name.to_owned(), pending);
            why
        })
    }

    fn range(&self, name: &str) -> Result<Range<u64>, Refusal> {
        self.names.get(name).cloned().ok_or_else(|| Refusal::plain(format!("nothing was mapped as={name}")))
    }

    fn address(&self, at: &At) -> Result<u64, Refusal> {
        match at {
            At::Va(va) => Ok(*va),
            At::Named(name, offset) => {
                let start = self.range(name)?.start;
                start.checked_add(*offset).ok_or_else(|| Refusal::plain(format!("{name}+{offset:#x} overflows")))
            }
        }
    }

    fn prepare(&mut self, change: &Change) -> Result<Pending, Refusal> {
        self.changes += 1;
        match change {
            Change::Map(map) => self.prepare_map(map),
            Change::Range { space, va, len, live, what } => {
                let range = self.stretch(va, *len)?;
                let span = Span { range: range.clone(), live: *live };
                let asked = match what {
                    What::Unmap => Asked::Unmap(span),
                    What::Protect(protection) => Asked::Protect(span, *protection),
                    What::Sparse => Asked::Sparse(span),
                    What::Unsparse => Asked::Unsparse(span),
                };
                let (machine, vmm) = self.parts(space)?;
                let job = machine.prepare(vmm, asked).map_err(|why| Refusal::of(&why))?;
                let unmaps = matches!(what, What::Unmap).then_some(range);
                Ok(self.pending(space, job, unmaps, Replaced::new()))
            }
        }
    }

    /// A job that was just prepared, with the frames that it wants.
    fn pending(&self, space: &str, job: Job, unmaps: Option<Range<u64>>, replaced: Replaced) -> Pending {
        let frames = self.books.wanted(space, &job);
        let (space, stage) = (space.to_owned(), Stage::Open(Work::new(job, frames)));
        Pending { space, stage, number: self.changes, unmaps, replaced }
    }

    /// The addresses from `va` on: `len` bytes of them, or the rest of the range that has the name.
    fn stretch(&self, va: &At, len: Option<u64>) -> Result<Range<u64>, Refusal> {
        let start = self.address(va)?;
        let end = match (len, va) {
            (Some(len), _) => start.checked_add(len).ok_or_else(|| Refusal::plain("the range overflows"))?,
            (None, At::Named(name, _)) => self.range(name)?.end.max(start),
            (None, At::Va(_)) => start,
        };
        Ok(start..end)
    }

    fn prepare_map(&mut self, map: &Map) -> Result<Pending, Refusal> {
        let va = map.va.as_ref().map(|at| self.address(at)).transpose()?;
        // The space is looked for before any memory is taken.
        self.vmm(&map.space)?;
        let mut data = None;
        let to = match &map.memory {
            Memory::From(to) => *to,
            Memory::Pages(..) => PhysAddr::vram(0),
            Memory::Any => {
                let taken = self.machine.take_pages(map.len, map.page);
                let taken = taken.map_err(|why| Refusal::named("NoSpace", why.what()))?;
                data.insert(taken).start()
            }
        };
        let extents = [Extent { to, bytes: map.len }];
        let page = map.page.unwrap_or(PageSize::Size4K);
        let request = match &map.memory {
            Memory::Pages(aperture, pages) => MapRequest::frames_of(*aperture, pages.len() as u64, page),
            Memory::From(_) | Memory::Any => MapRequest { page: map.page, ..MapRequest::extents(&extents) },
        };
        let request =
            MapRequest { largest: map.largest, ..request }.kind(Kind(map.kind)).flags(map.flags).live(map.live);
        let request = match va {
            Some(va) => request.at(va),
            None => request,
        };
        let (machine, vmm) = self.parts(&map.space)?;
        let job = match machine.prepare(vmm, Asked::Map(&request)) {
            Ok(job) => job,
            Err(why) => {
                self.give(data);
                return Err(Refusal::of(&why));
            }
        };
        let range = job.range();
        if let Some(name) = &map.name {
            // The latest mapping of a name is the one that it means.
            self.names.insert(name.clone(), range.clone());
        }
        if let Some(data) = data {
            self.books.add_data(&map.space, self.changes, range.clone(), data);
        }
        let replaced = match &map.memory {
            Memory::Pages(_, pages) => self.books.add_frames(&map.space, range.start, page.bytes(), pages),
            Memory::From(_) | Memory::Any => Replaced::new(),
        };
        Ok(self.pending(&map.space, job, None, replaced))
    }

    /// Executes a job, or `budget` entries of it.
    #[expect(clippy::result_large_err, reason = "the job comes back whole")]
    fn execute(&mut self, pending: Pending, budget: Option<u64>) -> Result<Pending, (Pending, Refusal)> {
        let Stage::Open(work) = pending.stage else { return Ok(pending) };
        match work.step(self.machine.mmio(), budget) {
            Ok(Step::Done(receipt)) => Ok(Pending { stage: Stage::Executed(receipt), ..pending }),
            Ok(Step::More(work)) => Ok(Pending { stage: Stage::Open(work), ..pending }),
            Err((work, why)) => Err((Pending { stage: Stage::Open(work), ..pending }, why)),
        }
    }

    #[expect(clippy::result_large_err, reason = "the job comes back whole")]
    fn commit(&mut self, pending: Pending) -> Ended {
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
        if let Some(range) = &pending.unmaps {
            for data in self.books.unmapped(&pending.space, pending.number, range) {
                self.give(Some(data));
            }
        }
        Ok(())
    }

    #[expect(clippy::result_large_err, reason = "the job comes back whole")]
    fn cancel(&mut self, pending: Pending) -> Ended {
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
        self.books.put_back(&pending.space, pending.replaced);
        for data in self.books.cancelled(pending.number) {
            self.give(Some(data));
        }
        Ok(())
    }

    fn expect(&mut self, space: &str, va: &At, what: &Expected) -> Result<(), Refusal> {
        let (client, va) = (engine(self.vmm(space)?), self.address(va)?);
        let found = self.machine.gpu().access(client, va, AccessKind::Read, true);
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

    fn snapshot(&mut self, path: &Path) -> Result<(), Failure> {
        let spaces = &self.spaces;
        self.machine.snapshot(path, spaces.iter().map(|(name, vmm)| (name.as_str(), vmm.pdb())))
    }

    /// The machine and one of the spaces, both to change.
    fn parts(&mut self, space: &str) -> Result<(&mut Machine, &mut Vmm<F>), Refusal> {
        let found = self.spaces.iter_mut().find(|(known, _)| known == space);
        let (_, vmm) = found.ok_or_else(|| Refusal::plain(format!("there is no space {space}")))?;
        Ok((&mut self.machine, vmm))
    }

    fn give(&mut self, data: Option<Data>) {
        if let Some(data) = data {
            self.machine.give_pages(data);
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
        Expected::Unmapped | Expected::Fault(_) => (None, None),
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
