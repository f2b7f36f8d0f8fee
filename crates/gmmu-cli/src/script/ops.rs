//! What a script says, once it is read.

use gmmu::addr::{Aperture, PageSize, PhysAddr};
use gmmu::chip::Chip;
use gmmu::device::Width;
use gmmu::format::Flags;
use gmmu::vmm::{Live, Protection};
use gmmu_sim::{Config, Mishap};

use crate::machine::Tables;

/// A script, read.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The `gpu` line.
    pub chip: Option<&'static Chip>,
    /// Its memory.
    pub vram: Option<u64>,
    /// The size of its BAR1.
    pub bar1: Option<u64>,
    /// The `gpu` line as it was written.
    pub gpu: Option<String>,
    /// The operations, with their lines.
    pub lines: Vec<(usize, Line)>,
    /// Whose turn it is, step by step, where the script says so: threads, and how many steps of each.
    pub schedule: Option<Vec<(String, u64)>>,
    /// Where it says so.
    pub schedule_line: usize,
}

impl Script {
    /// Whether operations go on at the same time.
    #[must_use]
    pub fn has_threads(&self) -> bool {
        self.lines.iter().any(|(_, line)| line.thread.is_some())
    }

    /// The GPU that the script runs on, but for its chip.
    #[must_use]
    pub fn config(&self, vram: u64, seed: u64) -> Config {
        let default = Config::default();
        Config { vram, seed, bar1_bytes: self.bar1.unwrap_or(default.bar1_bytes), ..default }
    }
}

/// One operation, and the error that it is to be refused with.
#[derive(Clone, Debug)]
pub struct Line {
    /// `refuse NAME`: the name.
    pub refused: Option<String>,
    /// `thread NAME:`: whose operation it is, where it is one of those that go on at the same time.
    pub thread: Option<String>,
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
    /// What becomes of a job.
    Job(String, JobOp),
    /// `zap MAPPING`
    Zap(String),
    /// `close`
    Close(String),
    /// `adopt`, with the most tables that there may be.
    Adopt(String, Option<u64>),
    /// `inst`
    Inst(Inst),
    /// `bar1`
    Bar1(Bar1Op),
    /// `lose vram`
    LoseVram,
    /// `expect WHO COUNT=N …`
    Counts(String, Vec<(&'static str, u64)>),
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
    /// `look`
    Look(String, At),
    /// `inject`
    Inject(Inject),
    /// `snapshot FILE`
    Snapshot(String),
}

/// What becomes of a job that was prepared.
#[derive(Clone, Copy, Debug)]
pub enum JobOp {
    /// `execute`, or so many entries of it.
    Execute(Option<u64>),
    /// `commit`
    Commit,
    /// `cancel`
    Cancel,
    /// `drop`
    Drop,
    /// `skip`
    Skip,
}

/// A change of an address space.
#[derive(Clone, Debug)]
pub struct Change {
    /// The space.
    pub space: String,
    /// What accesses to cut pages may meet.
    pub live: Live,
    /// What changes.
    pub what: What,
}

/// What changes.
#[derive(Clone, Debug)]
pub enum What {
    /// `map`
    Map(Map),
    /// `unmap`
    Unmap(Stretch),
    /// `protect`
    Protect(Stretch, Protection),
    /// `sparse`
    Sparse(Stretch),
    /// `unsparse`
    Unsparse(Stretch),
    /// `defragment`, up to a page size.
    Defragment(Stretch, PageSize),
    /// `bind`: of these `map`, `unmap`, `sparse` and `unsparse`, in order.
    Bind(Vec<What>),
    /// `rebind`: an evictable mapping, and what it maps from now on.
    Rebind(String, Vec<What>),
    /// `reclaim`
    Reclaim,
    /// `restore`
    Restore,
}

impl What {
    /// Its steps, or the change itself.
    pub(super) fn steps(&self) -> &[Self] {
        match self {
            Self::Bind(steps) | Self::Rebind(_, steps) => steps,
            what => std::slice::from_ref(what),
        }
    }
}

/// A range of addresses.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// Where it begins.
    pub va: At,
    /// How long it is; of a name, all of it.
    pub len: Option<u64>,
}

/// `inst`: instance blocks of channels.
#[derive(Clone, Debug)]
pub enum Inst {
    /// A block of that name, for a space.
    Bind(String, String),
    /// It names no space any more.
    Unbind(String),
}

/// `bar1`: what the CPU maps.
#[derive(Clone, Debug)]
pub enum Bar1Op {
    /// BAR1 goes through a space.
    Bind(String),
    /// It goes through none.
    Unbind,
    /// A mapping of that name.
    Map(String, Map),
    /// It ends.
    Unmap(String),
    /// A store at an offset of a mapping.
    Write(String, u64, Width, u64),
    /// A load, and what it is to find.
    Read(String, u64, Width, u64),
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
    /// `as=NAME`
    pub name: Option<String>,
    /// The caller's number of what is mapped, 0 for none.
    pub object: u64,
    /// Where in it the mapping begins.
    pub offset: u64,
    /// `evictable=NAME`: the name by which it is zapped.
    pub evictable: Option<String>,
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
    /// A piece in the records that begins there.
    Piece(PieceLike),
}

/// A piece that is expected; `None` stands for what does not matter.
#[derive(Clone, Copy, Debug)]
pub struct PieceLike {
    /// Its length.
    pub len: Option<u64>,
    /// Its page size in bytes.
    pub page: Option<u64>,
    /// The number of its object.
    pub object: Option<u64>,
    /// Where in the object it begins.
    pub offset: Option<u64>,
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
