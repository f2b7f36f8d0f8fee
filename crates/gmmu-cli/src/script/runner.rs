//! Running a script on the software GPU.

use std::collections::HashMap;
use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;

use gmmu::bar1::Bar1;
use gmmu::format::Format;
use gmmu::vmm::{Use, Vmm, Zap};
use gmmu_sim::{AccessKind, Client, Gpu};

use super::bar1::Mappings;
use super::books::Books;
use super::jobs::Pending;
use super::ops::{At, Inject, Line, Op};
use super::refusal::Refusal;
use crate::exit::Failure;
use crate::machine::{Channel, Data, Machine, Tables, engine};

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

/// An address space, and who has it.
#[expect(clippy::large_enum_variant, reason = "a script has a handful of them")]
pub(super) enum Held<F: Format> {
    /// The script.
    Own(Vmm<F>),
    /// BAR1.
    Bar1(Bar1<F, Option<Data>>),
}

impl<F: Format> Held<F> {
    pub(super) const fn vmm(&self) -> &Vmm<F> {
        match self {
            Self::Own(vmm) => vmm,
            Self::Bar1(bar1) => bar1.vmm(),
        }
    }
}

/// Runs operations, one after the other.
pub struct Runner<F: Format> {
    pub(super) machine: Machine,
    pub(super) spaces: Vec<(String, Held<F>)>,
    pub(super) jobs: HashMap<String, Pending>,
    /// Jobs that were begun and let go, by space, with the numbers of their changes.
    pub(super) adrift: Vec<(String, Range<u64>)>,
    /// Ranges that have a name.
    pub(super) names: HashMap<String, Range<u64>>,
    /// Evictable mappings by their names, with the space of each.
    pub(super) zaps: HashMap<String, (String, Zap)>,
    pub(super) books: Books,
    /// How many changes were prepared.
    pub(super) changes: u64,
    pub(super) verified: u64,
    /// Instance blocks of channels.
    pub(super) channels: HashMap<String, Channel>,
    pub(super) bar1: Mappings,
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
        let (jobs, names, channels, zaps) = (HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new());
        let (spaces, adrift, ops) = (Vec::new(), Vec::new(), Vec::new());
        let (books, bar1) = (Books::default(), Mappings::default());
        Self { machine, spaces, jobs, adrift, names, zaps, books, changes: 0, verified: 0, channels, bar1, ops }
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

    /// The address spaces that are there, in the order in which they were made.
    pub fn spaces(&self) -> impl Iterator<Item = (&str, &Vmm<F>)> {
        self.spaces.iter().map(|(name, held)| (name.as_str(), held.vmm()))
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
        Ok(self.judge(number, line, result))
    }

    /// Notes the end of an operation, and whether that is what the script says.
    pub(super) fn judge(&mut self, number: usize, line: &Line, result: Result<(), Refusal>) -> Ran {
        self.reached(number);
        let why = match (result, &line.refused) {
            (Ok(()), None) => return Ran::Well,
            (Err(refusal), Some(name)) if refusal.names.iter().any(|n| n == name) => return Ran::Well,
            (Ok(()), Some(name)) => format!("was to be refused with {name}, but went through"),
            (Err(Refusal { text, .. }), None) => text,
            (Err(Refusal { names, text }), Some(name)) => {
                let found = names.first().map_or("another error", String::as_str);
                format!("was to be refused with {name}, but was with {found}: {text}")
            }
        };
        Ran::Broken(Broken { line: number, text: line.text.clone(), why })
    }

    /// All that the model did up to here was for this line, but for what was for others.
    pub(super) fn reached(&mut self, number: usize) {
        self.ops.push((self.machine.gpu().op(), number));
    }

    fn operate(&mut self, op: &Op) -> Result<(), Refusal> {
        match op {
            Op::Space { name, tables, root, bar } => self.space(name, *tables, *root, *bar),
            Op::Change { job: Some(name), change } => self.prepare_job(name, change),
            Op::Change { job: None, change } => self.at_once(change),
            Op::Job(name, op) => self.job(name, *op),
            Op::Zap(name) => self.zap(name),
            Op::Close(space) => self.close(space),
            Op::Adopt(space, limit) => self.adopt(space, *limit),
            Op::Inst(inst) => self.inst(inst),
            Op::Bar1(op) => self.bar1(op),
            Op::LoseVram => {
                self.machine.gpu().lose_vram();
                Ok(())
            }
            Op::Expect { space, va, what } => self.expect(space, va, what),
            Op::Counts(who, counts) => self.expect_counts(who, counts),
            Op::Write(space, va, value) => {
                let (client, va) = (self.client(space)?, self.address(va)?);
                self.machine.gpu().store32(client, va, *value).map_err(|fault| Refusal::fault(&fault))
            }
            Op::Read(space, va, wanted) => {
                let (client, va) = (self.client(space)?, self.address(va)?);
                match self.machine.gpu().load32(client, va).map_err(|fault| Refusal::fault(&fault))? {
                    found if found == *wanted => Ok(()),
                    found => Err(Refusal::plain(format!("found {found:#010x}, not {wanted:#010x}"))),
                }
            }
            Op::Look(space, va) => {
                let (client, va) = (self.client(space)?, self.address(va)?);
                // Whatever it finds: the sanitizer judges it.
                let _ = self.machine.gpu().access(client, va, AccessKind::Read, true);
                Ok(())
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
        self.spaces.push((name.to_owned(), Held::Own(vmm)));
        Ok(())
    }

    /// Ends a space: its tables and its memory are anybody's again.
    fn close(&mut self, name: &str) -> Result<(), Refusal> {
        let index = self.index(name)?;
        let (name, held) = self.spaces.remove(index);
        let closed = match held {
            Held::Own(vmm) => self.machine.close_space(vmm).map_err(|(vmm, why)| (Held::Own(vmm), why)),
            Held::Bar1(bar1) => self.machine.close_bar1(bar1).map_err(|(bar1, why)| (Held::Bar1(bar1), why)),
        };
        if let Err((held, why)) = closed {
            self.spaces.insert(index, (name, held));
            return Err(Refusal::of(&why));
        }
        self.bar1.closed(&name);
        for data in self.forget(&name) {
            self.give(Some(data));
        }
        Ok(())
    }

    /// Makes what a space has firmware's: all that is known of it is forgotten, and what its tables hold is read.
    fn adopt(&mut self, name: &str, limit: Option<u64>) -> Result<(), Refusal> {
        if self.vmm(name)?.census().jobs != 0 {
            return Err(Refusal::named("Busy", "jobs of the space are open: firmware has none"));
        }
        let (machine, vmm) = self.parts(name)?;
        // More tables than a script makes.
        let limit = limit.map_or(1 << 16, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        *vmm = machine.adopt(vmm, limit).map_err(|why| Refusal::of(&why))?;
        // Its memory stays taken, like its tables.
        self.forget(name);
        Ok(())
    }

    /// Forgets all that is known of a space. The memory that was its own.
    fn forget(&mut self, name: &str) -> Vec<Data> {
        self.adrift.retain(|(space, _)| space != name);
        self.jobs.retain(|_, job| job.space != name);
        self.zaps.retain(|_, (space, _)| space != name);
        self.books.closed(name)
    }

    pub(super) fn index(&self, name: &str) -> Result<usize, Refusal> {
        let found = self.spaces.iter().position(|(known, _)| known == name);
        found.ok_or_else(|| Refusal::plain(format!("there is no space {name}")))
    }

    pub(super) fn held(&self, name: &str) -> Result<&Held<F>, Refusal> {
        let found = self.spaces.iter().find(|(known, _)| known == name);
        found.map(|(_, held)| held).ok_or_else(|| Refusal::plain(format!("there is no space {name}")))
    }

    /// A space that the script has itself.
    pub(super) fn vmm(&self, name: &str) -> Result<&Vmm<F>, Refusal> {
        match self.held(name)? {
            Held::Own(vmm) => Ok(vmm),
            Held::Bar1(_) => Err(bar1_has(name)),
        }
    }

    /// Who translates through a space.
    pub(super) fn client(&self, name: &str) -> Result<Client, Refusal> {
        match self.held(name)? {
            Held::Own(vmm) => Ok(engine(vmm)),
            Held::Bar1(_) => Ok(Client::Bar1),
        }
    }

    pub(super) fn range(&self, name: &str) -> Result<Range<u64>, Refusal> {
        self.names.get(name).cloned().ok_or_else(|| Refusal::plain(format!("nothing was mapped as={name}")))
    }

    pub(super) fn address(&self, at: &At) -> Result<u64, Refusal> {
        match at {
            At::Va(va) => Ok(*va),
            At::Named(name, offset) => {
                let start = self.range(name)?.start;
                start.checked_add(*offset).ok_or_else(|| Refusal::plain(format!("{name}+{offset:#x} overflows")))
            }
        }
    }

    /// Writes a snapshot of the page tables of all spaces.
    ///
    /// # Errors
    /// A failure that names the file.
    pub fn snapshot(&mut self, path: &Path) -> Result<(), Failure> {
        let roots: Vec<_> = self.spaces().map(|(name, vmm)| (name.to_owned(), vmm.pdb())).collect();
        self.machine.snapshot(path, roots.iter().map(|(name, root)| (name.as_str(), *root)))
    }

    /// The machine and one of the script's spaces, both to change.
    pub(super) fn parts(&mut self, space: &str) -> Result<(&mut Machine, &mut Vmm<F>), Refusal> {
        let index = self.index(space)?;
        match self.spaces.get_mut(index) {
            Some((_, Held::Own(vmm))) => Ok((&mut self.machine, vmm)),
            _ => Err(bar1_has(space)),
        }
    }

    pub(super) fn give(&mut self, data: Option<Data>) {
        if let Some(data) = data {
            self.machine.give_pages(data);
        }
    }
}

fn bar1_has(space: &str) -> Refusal {
    Refusal::plain(format!("BAR1 has the space {space}: its mappings are made with bar1 map"))
}
