//! Running a script on the software GPU.

use std::collections::HashMap;
use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;

use gmmu::addr::{PAGE_BYTES, PageSize, Pfn, PhysAddr};
use gmmu::format::{Format, Kind};
use gmmu::vmm::{Extent, Job, MapRequest, Receipt, Use, Vmm};
use gmmu::vram::Contiguous;
use gmmu_sim::{AccessKind, FaultType, Gpu};

use super::parse::{At, Change, Expected, Line, Map, Memory, Op};
use crate::exit::Failure;
use crate::machine::{Machine, engine};

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

/// Why an operation failed: its error's names, which `refuse` may ask for, and its text.
struct Refusal {
    names: Vec<String>,
    text: String,
}

impl Refusal {
    /// Takes the names off an error's `Debug` form: `Device(Timeout { .. })` is called Device and Timeout.
    fn of<E: Debug + ToString>(error: &E) -> Self {
        let debug = format!("{error:?}");
        let head = debug.split([' ', '{']).next().unwrap_or_default();
        let names = head.split('(').map(|name| name.trim_end_matches(')').to_owned()).collect();
        Self { names, text: error.to_string() }
    }

    /// A refusal of the runner's, by a name of its own.
    fn named(name: &str, text: impl Into<String>) -> Self {
        Self { names: vec![name.to_owned()], text: text.into() }
    }

    /// A refusal of the script's own making, which `refuse` cannot ask for.
    fn plain(text: impl Into<String>) -> Self {
        Self { names: Vec::new(), text: text.into() }
    }
}

/// A job on its way.
enum Stage {
    Prepared(Job, Vec<Pfn>),
    Executed(Receipt),
}

struct Pending {
    space: String,
    stage: Stage,
    /// Memory that the allocator gave for it.
    data: Option<Contiguous>,
    unmaps: bool,
}

/// Runs operations, one after the other.
pub struct Runner<F: Format> {
    machine: Machine,
    spaces: Vec<(String, Vmm<F>)>,
    jobs: HashMap<String, Pending>,
    /// Ranges that have a name.
    names: HashMap<String, Range<u64>>,
    /// Memory that the allocator gave: which space, where it is mapped.
    data: Vec<(String, Range<u64>, Contiguous)>,
    verified: u64,
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
        Self { machine, spaces: Vec::new(), jobs, names, data: Vec::new(), verified: 0 }
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
            Op::Space { name, root, bar } => self.space(name, *root, *bar),
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
                match self.execute(pending) {
                    Ok(executed) => self.commit(executed).map_err(|(_, why)| why),
                    Err((pending, why)) => {
                        // It was asked for as a whole: what cannot be executed is taken back.
                        let _ = self.cancel(pending);
                        Err(why)
                    }
                }
            }
            Op::Execute(name) => {
                let pending = self.take_job(name)?;
                if let Stage::Executed(_) = pending.stage {
                    self.jobs.insert(name.clone(), pending);
                    return Err(Refusal::named("Executed", format!("the job {name} was executed already")));
                }
                let (pending, result) = match self.execute(pending) {
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
                self.machine.gpu().store32(client, va, *value).map_err(|fault| fault_refusal(&fault))
            }
            Op::Read(space, va, wanted) => {
                let (client, va) = (engine(self.vmm(space)?), self.address(va)?);
                match self.machine.gpu().load32(client, va).map_err(|fault| fault_refusal(&fault))? {
                    found if found == *wanted => Ok(()),
                    found => Err(Refusal::plain(format!("found {found:#010x}, not {wanted:#010x}"))),
                }
            }
            Op::Snapshot(_) => Ok(()),
        }
    }

    fn space(&mut self, name: &str, root: Option<u64>, bar: bool) -> Result<(), Refusal> {
        if self.spaces.iter().any(|(known, _)| known == name) {
            return Err(Refusal::plain(format!("there is a space {name} already")));
        }
        let used_by = if bar { Use::Bar } else { Use::Channel };
        let vmm = self.machine.create_space(root, used_by).map_err(|why| Refusal::of(&why))?;
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
    fn keep_job(&mut self, name: &str, ended: Result<(), (Pending, Refusal)>) -> Result<(), Refusal> {
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
        match change {
            Change::Map(map) => self.prepare_map(map),
            Change::Unmap { space, va, len } => {
                let start = self.address(va)?;
                let len = match (len, va) {
                    (Some(len), _) => *len,
                    (None, At::Named(name, offset)) => {
                        let range = self.range(name)?;
                        range.end - range.start - offset.min(&(range.end - range.start))
                    }
                    (None, At::Va(_)) => 0,
                };
                let end = start.checked_add(len).ok_or_else(|| Refusal::plain("the range overflows"))?;
                let (machine, vmm) = self.parts(space)?;
                let job = machine.prepare_unmap(vmm, start..end).map_err(|why| Refusal::of(&why))?;
                Ok(Pending { space: space.clone(), stage: Stage::Prepared(job, Vec::new()), data: None, unmaps: true })
            }
        }
    }

    fn prepare_map(&mut self, map: &Map) -> Result<Pending, Refusal> {
        let va = map.va.as_ref().map(|at| self.address(at)).transpose()?;
        // The space is looked for before any memory is taken.
        self.vmm(&map.space)?;
        let mut data = None;
        let to = match &map.memory {
            Memory::From(to) => *to,
            Memory::Pages(_) => PhysAddr::vram(0),
            Memory::Any => {
                let taken = self.machine.take_data_for(map.len, map.page);
                let taken = taken.map_err(|why| Refusal::named("NoSpace", why.what()))?;
                let start = taken.start().raw();
                data = Some(taken);
                PhysAddr::vram(start)
            }
        };
        let extents = [Extent { to, bytes: map.len }];
        let (request, frames) = match &map.memory {
            Memory::Pages(pages) => {
                let frames: Vec<Pfn> = pages.iter().map(|page| Pfn::new(page / PAGE_BYTES)).collect();
                if let Some(odd) = pages.iter().find(|page| *page % PAGE_BYTES != 0) {
                    return Err(Refusal::plain(format!("page {odd:#x} is not a multiple of 4K")));
                }
                (MapRequest::frames(frames.len() as u64, map.page.unwrap_or(PageSize::Size4K)), frames)
            }
            Memory::From(_) | Memory::Any => {
                (MapRequest { page: map.page, ..MapRequest::extents(&extents) }, Vec::new())
            }
        };
        let request = request.kind(Kind(map.kind)).flags(map.flags);
        let request = match va {
            Some(va) => request.at(va),
            None => request,
        };
        let (machine, vmm) = self.parts(&map.space)?;
        match machine.prepare_map(vmm, &request) {
            Ok(job) => {
                if let Some(name) = &map.name {
                    // The latest mapping of a name is the one that it means.
                    self.names.insert(name.clone(), job.range());
                }
                let stage = Stage::Prepared(job, frames);
                Ok(Pending { space: map.space.clone(), stage, data, unmaps: false })
            }
            Err(why) => {
                self.give(data);
                Err(Refusal::of(&why))
            }
        }
    }

    #[expect(clippy::result_large_err, reason = "the job comes back whole")]
    fn execute(&mut self, pending: Pending) -> Result<Pending, (Pending, Refusal)> {
        let Pending { space, stage, data, unmaps } = pending;
        let pending = |stage, data| Pending { space, stage, data, unmaps };
        match stage {
            Stage::Executed(receipt) => Ok(pending(Stage::Executed(receipt), data)),
            Stage::Prepared(job, frames) if frames.is_empty() => match job.execute(self.machine.mmio()) {
                Ok(receipt) => Ok(pending(Stage::Executed(receipt), data)),
                Err(failed) => Err((pending(Stage::Prepared(failed.job, frames), data), Refusal::of(&failed.why))),
            },
            Stage::Prepared(job, frames) => match job.with_frames(&frames) {
                Err((job, why)) => {
                    let refusal = Refusal::of(&why);
                    Err((pending(Stage::Prepared(job, frames.clone()), data), refusal))
                }
                Ok(ready) => match ready.execute(self.machine.mmio()) {
                    Ok(receipt) => Ok(pending(Stage::Executed(receipt), data)),
                    Err(failed) => {
                        let job = failed.job.into_job();
                        Err((pending(Stage::Prepared(job, frames.clone()), data), Refusal::of(&failed.why)))
                    }
                },
            },
        }
    }

    #[expect(clippy::result_large_err, reason = "the job comes back whole")]
    fn commit(&mut self, pending: Pending) -> Result<(), (Pending, Refusal)> {
        let Pending { space, stage, data, unmaps } = pending;
        let Stage::Executed(receipt) = stage else {
            let why = Refusal::named("NotExecuted", "the job was not executed");
            return Err((Pending { space, stage, data, unmaps }, why));
        };
        let (machine, vmm) = match self.parts(&space) {
            Ok(parts) => parts,
            Err(why) => return Err((Pending { space, stage: Stage::Executed(receipt), data, unmaps }, why)),
        };
        let range = match machine.commit(vmm, receipt) {
            Ok(mapping) => mapping.range,
            Err((receipt, why)) => {
                let stage = Stage::Executed(receipt);
                return Err((Pending { space, stage, data, unmaps }, Refusal::of(&why)));
            }
        };
        if unmaps {
            let gone = |(owner, mapped, _): &mut (String, Range<u64>, Contiguous)| {
                *owner == space && mapped.start >= range.start && mapped.end <= range.end
            };
            let freed: Vec<_> = self.data.extract_if(.., gone).collect();
            for (_, _, data) in freed {
                self.give(Some(data));
            }
        } else if let Some(data) = data {
            self.data.push((space, range, data));
        }
        Ok(())
    }

    #[expect(clippy::result_large_err, reason = "the job comes back whole")]
    fn cancel(&mut self, pending: Pending) -> Result<(), (Pending, Refusal)> {
        let Pending { space, stage, data, unmaps } = pending;
        let Stage::Prepared(job, frames) = stage else {
            let pending = Pending { space, stage, data, unmaps };
            return Err((
                pending,
                Refusal { names: vec!["Begun".to_owned()], text: "the job was executed".to_owned() },
            ));
        };
        let (machine, vmm) = match self.parts(&space) {
            Ok(parts) => parts,
            Err(why) => return Err((Pending { space, stage: Stage::Prepared(job, frames), data, unmaps }, why)),
        };
        match machine.cancel(vmm, job) {
            Ok(()) => {
                self.give(data);
                Ok(())
            }
            Err((job, why)) => {
                let stage = Stage::Prepared(job, frames);
                Err((Pending { space, stage, data, unmaps }, Refusal::of(&why)))
            }
        }
    }

    fn expect(&mut self, space: &str, va: &At, what: &Expected) -> Result<(), Refusal> {
        let (client, va) = (engine(self.vmm(space)?), self.address(va)?);
        let found = self.machine.gpu().access(client, va, AccessKind::Read, true);
        let said = match &found {
            Ok(found) if found.sparse => "sparse".to_owned(),
            Ok(found) => {
                let flags: Vec<&str> = found.flags.names().collect();
                format!("{} {}", found.to, flags.join(" ")).trim_end().to_owned()
            }
            Err(fault) => fault.to_string(),
        };
        let right = match (what, &found) {
            (Expected::Memory(to, flags), Ok(found)) if !found.sparse => {
                found.to == *to && (flags.is_empty() || found.flags.names().eq(flags.iter().map(String::as_str)))
            }
            (Expected::Sparse, Ok(found)) => found.sparse,
            // Any other fault says that something is mapped there.
            (Expected::Unmapped, Err(fault)) => matches!(fault.fault, FaultType::Pde | FaultType::Pte),
            (Expected::Fault(level), Err(fault)) => fault.level == level,
            _ => false,
        };
        if !right {
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

    fn give(&mut self, data: Option<Contiguous>) {
        if let Some(data) = data {
            self.machine.give_data(data);
        }
    }
}

/// A fault of the MMU, called by its type, with or without the `FAULT_` of the kernel log.
fn fault_refusal(fault: &gmmu_sim::Fault) -> Refusal {
    let name = fault.fault.name();
    Refusal { names: vec![format!("FAULT_{name}"), name.to_owned()], text: fault.to_string() }
}
