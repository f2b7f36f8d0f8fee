//! What a script says, once it is read.

use gmmu::addr::{Aperture, PageSize, PhysAddr};
use gmmu::chip::Chip;
use gmmu::format::Flags;
use gmmu::vmm::{Live, Protection};
use gmmu_sim::Mishap;

use crate::machine::Tables;

/// A script, read.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The `gpu` line.
    pub chip: Option<&'static Chip>,
    /// Its memory.
    pub vram: Option<u64>,
    /// The operations, with their lines.
    pub lines: Vec<(usize, Line)>,
}

/// One operation, and the error that it is to be refused with.
#[derive(Clone, Debug)]
pub struct Line {
    /// `refuse NAME`: the name.
    pub refused: Option<String>,
    /// What to do.
    pub op: Op,
    /// The line as it was written, for messages.
    pub text: String,
}

/// An operation.
#[derive(Clone, Debug)]
pub enum Op {
    /// `space`
    Space {
        /// Its name.
        name: String,
        /// Where its tables lie; `None` for where the chip has them.
        tables: Option<Tables>,
        /// Its top table, where the user wants it.
        root: Option<u64>,
        /// `use=bar`.
        bar: bool,
    },
    /// A change: done at once, or prepared as a job of that name.
    Change {
        /// `prepare NAME`.
        job: Option<String>,
        /// What changes.
        change: Change,
    },
    /// `execute JOB`, or some entries of it.
    Execute(String, Option<u64>),
    /// `commit JOB`
    Commit(String),
    /// `cancel JOB`
    Cancel(String),
    /// `expect`
    Expect {
        /// The space.
        space: String,
        /// The address.
        va: At,
        /// What is expected.
        what: Expected,
    },
    /// `write`
    Write(String, At, u32),
    /// `read`
    Read(String, At, u32),
    /// `inject`
    Inject(Inject),
    /// `snapshot FILE`
    Snapshot(String),
}

/// A change of an address space.
#[derive(Clone, Debug)]
pub enum Change {
    /// `map`
    Map(Map),
    /// What changes a range of addresses, whatever is there.
    Range {
        /// The space.
        space: String,
        /// Where.
        va: At,
        /// How much; of a name, all of it.
        len: Option<u64>,
        /// What accesses to cut pages may meet.
        live: Live,
        /// What to do.
        what: What,
    },
}

/// What becomes of a range.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// `unmap`
    Unmap,
    /// `protect`
    Protect(Protection),
    /// `sparse`
    Sparse,
    /// `unsparse`
    Unsparse,
}

/// `inject`: what goes wrong, with which event from now, and how often or how long.
#[derive(Clone, Copy, Debug)]
pub struct Inject {
    /// What; `None` for no memory for tables.
    pub what: Option<Mishap>,
    /// The number of the first event that goes wrong, from 1.
    pub at: u64,
    /// How many; `None` for all that follow.
    pub times: Option<u64>,
}

/// `map`
#[derive(Clone, Debug)]
pub struct Map {
    /// The space.
    pub space: String,
    /// Where; `None` for anywhere.
    pub va: Option<At>,
    /// How much.
    pub len: u64,
    /// What.
    pub memory: Memory,
    /// The page size; `None` for the largest that fits.
    pub page: Option<PageSize>,
    /// The largest that is chosen where there is no page size.
    pub largest: Option<PageSize>,
    /// The surface kind.
    pub kind: u8,
    /// The flags.
    pub flags: Flags,
    /// What accesses to sparse neighbours may meet.
    pub live: Live,
    /// `as=NAME`
    pub name: Option<String>,
}

/// The memory of a mapping.
#[derive(Clone, Debug)]
pub enum Memory {
    /// Whatever the allocator gives.
    Any,
    /// From there on.
    From(PhysAddr),
    /// These pages, all in one memory.
    Pages(Aperture, Vec<u64>),
}

/// An address: a number, or a place in a range that was mapped under a name.
#[derive(Clone, Debug)]
pub enum At {
    /// A number.
    Va(u64),
    /// A name, and an offset.
    Named(String, u64),
}

/// What `expect` expects.
#[derive(Clone, Debug)]
pub enum Expected {
    /// A page.
    Page(Page),
    /// A fault at any level.
    Unmapped,
    /// A sparse entry, of that many bytes where it matters.
    Sparse(Option<u64>),
    /// A fault at that level.
    Fault(String),
}

/// A page that is expected; `None` and no flags stand for what does not matter.
#[derive(Clone, Debug)]
pub struct Page {
    /// The memory.
    pub to: PhysAddr,
    /// Its size in bytes.
    pub bytes: Option<u64>,
    /// The surface kind.
    pub kind: Option<u8>,
    /// The flags, all of them.
    pub flags: Vec<String>,
}
