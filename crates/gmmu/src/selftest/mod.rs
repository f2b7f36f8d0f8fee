//! Self-tests of a card: does what the library builds on work, and does the library use it rightly?
//!
//! * [`pramin`]: does what is written through the PRAMIN window arrive, whole and in order?
//! * `vmm`: are page tables what they were meant to be, jobs in their order, failures without a trace? Judged by reading
//!   the tables.
//! * `bar1`: does the GPU's MMU follow the tables: what is mapped, what is read-only, and what is mapped no longer? Judged
//!   by the data that the CPU sees through BAR1.
//!
//! Each reports [`Check`]s as data, what was expected and what was seen, and the next one runs whatever the last one said.
//! They write only to memory that the caller names, and to tables from the pool that it lends; contents are set aside
//! first and put back.

#[cfg(feature = "alloc")]
pub mod bar1;
pub mod pramin;
#[cfg(feature = "alloc")]
mod stop;
#[cfg(feature = "alloc")]
pub mod vmm;

use core::fmt;

#[cfg(feature = "alloc")]
pub use stop::Stop;

use crate::addr::{PhysAddr, TableAddr};
use crate::device::DeviceError;
use crate::mmio::ProbeError;

/// Bytes of video memory that every self-test has enough of, anywhere.
pub const BYTES_MIN: u64 = 4 << 20;

/// What a check expects, or sees.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sight {
    /// Four bytes, in the order of their addresses.
    Bytes([u8; 4]),
    /// One word.
    Word(u64),
    /// Two 32-bit words.
    Pair([u32; 2]),
    /// 64-bit words, in the order of their addresses.
    Words([u64; 4]),
    /// The word at an address is not what it was.
    Changed {
        /// Where.
        at: u64,
        /// What is there now.
        value: u64,
    },
    /// Everything is as it was.
    Unchanged,
    /// Everything is as it was written.
    AsWritten,
    /// An access was refused, as it should be.
    Refused,
    /// A number was read, whatever it is.
    Readable,
    /// An access did not reach the memory.
    NotReached,
    /// How often the window moved.
    Moves(u32),
    /// The register of the window.
    Register(u32),
    /// What a virtual address leads to by the tables, if anything.
    Leads {
        /// The address.
        va: u64,
        /// The memory.
        to: Option<PhysAddr>,
    },
    /// The page that a mapping leads to by the tables.
    Page(PhysAddr),
    /// Virtual addresses lead where they should.
    AllLead {
        /// How many were looked up.
        pages: u32,
    },
    /// Whether the entry of a page forbids writes.
    ReadOnly(bool),
    /// A job waits for an earlier one.
    Waits,
    /// It was done.
    Done,
    /// A number of tables.
    Tables(usize),
    /// Memory in pieces.
    Blocks {
        /// How many pieces.
        blocks: usize,
        /// How many bytes in all.
        bytes: u64,
    },
    /// A number of bytes.
    Amount(u64),
    /// The device did not do it.
    Failed(DeviceError),
    /// The library did not do it.
    #[cfg(feature = "alloc")]
    Stopped(Stop),
    /// An access went through and gave this.
    Allowed(u64),
    /// Not tried: what is in memory could not be set aside.
    NotTried,
}

impl From<DeviceError> for Sight {
    fn from(why: DeviceError) -> Self {
        Self::Failed(why)
    }
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes([a, b, c, d]) => write!(f, "{a:02x} {b:02x} {c:02x} {d:02x}"),
            Self::Word(word) => write!(f, "{word:#010x}"),
            Self::Pair([a, b]) => write!(f, "{a:#010x} {b:#010x}"),
            Self::Words([a, b, c, d]) => write!(f, "{a:#018x} {b:#018x} {c:#018x} {d:#018x}"),
            Self::Changed { at, value } => write!(f, "{value:#018x} at {}", TableAddr::vram(*at)),
            Self::Unchanged => f.write_str("unchanged"),
            Self::AsWritten => f.write_str("as written"),
            Self::Refused => f.write_str("refused"),
            Self::Readable => f.write_str("readable"),
            Self::NotReached => f.write_str("not reached"),
            Self::Moves(1) => f.write_str("1 move"),
            Self::Moves(moves) => write!(f, "{moves} moves"),
            Self::Register(value) => write!(f, "{value:#010x}"),
            Self::Leads { va, to: Some(to) } => write!(f, "{va:#x} leads to {to}"),
            Self::Leads { va, to: None } => write!(f, "{va:#x} leads nowhere"),
            Self::Page(to) => write!(f, "{to}"),
            Self::AllLead { pages } => write!(f, "{pages} pages as mapped"),
            Self::ReadOnly(true) => f.write_str("read-only"),
            Self::ReadOnly(false) => f.write_str("writable"),
            Self::Waits => f.write_str("waits"),
            Self::Done => f.write_str("done"),
            Self::Tables(1) => f.write_str("1 table"),
            Self::Tables(tables) => write!(f, "{tables} tables"),
            Self::Blocks { blocks, bytes } => write!(f, "{bytes:#x} bytes in {blocks} blocks"),
            Self::Amount(bytes) => write!(f, "{bytes:#x} bytes"),
            Self::Failed(error) => write!(f, "{error}"),
            #[cfg(feature = "alloc")]
            Self::Stopped(why) => write!(f, "{why}"),
            Self::Allowed(value) => write!(f, "done, with {value:#x}"),
            Self::NotTried => f.write_str("not tried: what is in memory could not be set aside"),
        }
    }
}

/// What became of a check: an error is a sight too, and no expected one.
type Seen = Result<Sight, Sight>;

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked; always the same words.
    pub name: &'static str,
    /// What a card in order shows.
    pub expected: Sight,
    /// What this one showed.
    pub seen: Sight,
    /// Whether the two agree.
    pub passed: bool,
}

/// How many checks passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Checks that passed.
    pub passed: u32,
    /// Checks that did not.
    pub failed: u32,
}

/// The self-tests cannot be run at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelftestError {
    /// The card cannot be used through BAR0.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The card did not say where its window stands.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The memory is not this card's, or not enough.
    #[error("the self-tests need 4 MiB of video memory that nobody uses; {start:#x}..{end:#x} of {vram_bytes:#x} bytes is none")]
    Memory {
        /// First byte that may be written.
        start: u64,
        /// The byte behind the last.
        end: u64,
        /// Bytes of video memory.
        vram_bytes: u64,
    },
}

/// The first multiple of `step` in `memory`, which is all video memory and enough.
fn base_of(memory: core::ops::Range<u64>, vram_bytes: u64, step: u64) -> Result<u64, SelftestError> {
    let core::ops::Range { start, end } = memory;
    let base = start.checked_next_multiple_of(step);
    let fits = end <= vram_bytes && end.checked_sub(start).is_some_and(|bytes| bytes >= BYTES_MIN);
    base.filter(|_| fits).ok_or(SelftestError::Memory { start, end, vram_bytes })
}

/// The checks, and what came of them so far.
struct Bench<R> {
    report: R,
    tally: Tally,
    /// Whether the contents of memory were set aside: it may be written.
    saved: bool,
}

impl<R: FnMut(&Check)> Bench<R> {
    fn new(report: R) -> Self {
        Self { report, tally: Tally::default(), saved: false }
    }

    fn look<E>(&mut self, name: &'static str, expected: Sight, seen: Result<Sight, E>)
    where
        Sight: From<E>,
    {
        let seen = seen.unwrap_or_else(Sight::from);
        let passed = expected == seen;
        let count = if passed { &mut self.tally.passed } else { &mut self.tally.failed };
        *count = count.saturating_add(1);
        (self.report)(&Check { name, expected, seen, passed });
    }

    /// A check that writes.
    fn change<M>(&mut self, name: &'static str, expected: Sight, with: &mut M, what: impl FnOnce(&mut M) -> Seen) {
        let seen = if self.saved { what(with) } else { Ok(Sight::NotTried) };
        self.look(name, expected, seen);
    }
}

/// What became of an access that should be refused.
const fn refused(result: Result<u64, DeviceError>) -> Sight {
    use DeviceError as E;
    match result {
        Ok(value) => Sight::Allowed(value),
        Err(E::OutOfRange { .. } | E::BadOffset { .. } | E::Unaligned { .. }) => Sight::Refused,
        Err(error) => Sight::Failed(error),
    }
}
