//! Traces: what a driver did to a card, written down, and done again to a software GPU under the sanitizer.
//!
//! A trace is text, one event a line, so that people can read, cut and write one:
//! ```text
//! gmmu-trace 1
//! chip gh100
//! vram 0x1800000000
//! = map a                          what the driver was about, for findings to name
//! taken vram:0x000000201000 0x1000 memory for a table; freed, too
//! root vram:0x000000201000         a top table in use; forget, when it no longer is
//! w32 0x0010fd40 0x20              BAR0: width, offset, value; r32 is a read and what it gave
//! w64 0x00700000 0x600000000000001 +0x1000 *512    so many neighbours, each larger by the step
//! b1w32 0x1000 0xdeadbeef          the same through BAR1; b2w and b2r through BAR2
//! s64 0x00080000 0x1               system memory, stored by the CPU; order and drain are its fences
//! access vram:0x000000201000 0x1000000 r           an engine's access through a top table
//! ```
//! [`Recorder`] writes one while a driver runs, [`mmiotrace`](Trace::read_mmiotrace) makes one of a log of Linux's
//! mmiotrace, and [`Replay`] does it again.

mod mmiotrace;
mod read;
mod record;
mod replay;

pub use record::{RecordedMemory, Recorder, Tape};
pub use replay::Replay;

use gmmu::addr::TableAddr;
use gmmu::device::{Run, Width};
use std::fmt;

/// Through which BAR an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The registers.
    Bar0,
    /// The aperture of data.
    Bar1,
    /// The aperture of tables.
    Bar2,
}

impl fmt::Display for Way {
    /// As it stands before the letter of an access.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bar0 => "",
            Self::Bar1 => "b1",
            Self::Bar2 => "b2",
        })
    }
}

impl Event {
    /// A write through a BAR; `None` where BAR0 does not reach that far.
    #[must_use]
    pub fn write(way: Way, at: u64, width: Width, value: u64) -> Option<Self> {
        Some(match way {
            Way::Bar0 => Self::Write(u32::try_from(at).ok()?, width, value),
            Way::Bar1 => Self::Bar1Write(at, width, value),
            Way::Bar2 => Self::Bar2Write(at, width, value),
        })
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A read of BAR0, and what it gave.
    Read(u32, Width, u64),
    /// A write of BAR0.
    Write(u32, Width, u64),
    /// Neighbours written one after the other, upwards, each of that width. BAR0's are within 32 bits.
    WriteRun(Way, u64, Width, Run),
    /// A read through BAR1, and what it gave.
    Bar1Read(u64, Width, u64),
    /// A write through BAR1.
    Bar1Write(u64, Width, u64),
    /// A read through BAR2, and what it gave.
    Bar2Read(u64, Width, u64),
    /// A write through BAR2.
    Bar2Write(u64, Width, u64),
    /// Words stored to system memory by the CPU, upwards.
    Store(u64, Run),
    /// An ordering point of the CPU's stores to system memory.
    Order,
    /// All of these stores have arrived.
    Drain,
    /// A top table came into use.
    Root(TableAddr),
    /// It is out of use.
    Forget(TableAddr),
    /// Memory was taken for a table: so many bytes.
    Taken(TableAddr, u64),
    /// It was given back.
    Freed(TableAddr, u64),
    /// An engine's access at an address through a top table; whether it writes.
    Access(TableAddr, u64, bool),
    /// What the driver is about from here on.
    Label(String),
}

/// The events of a driver's run, in order, and what is known of the card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The chip's name, where it is known.
    pub chip: Option<String>,
    /// Bytes of video memory, where that is known.
    pub vram: Option<u64>,
    /// Each event with its line in the text.
    pub events: Vec<(usize, Event)>,
    /// What the text did not show, in sentences.
    pub notes: Vec<String>,
}

/// Why a text is no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct TraceError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// The first line of every trace.
const HEADER: &str = "gmmu-trace 1";

const fn bits(width: Width) -> u32 {
    8 * width.bytes()
}

/// The words of a run: the first, and step and count where there are more.
struct Words(Run);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { first, step, count } = self.0;
        match count {
            1 => write!(f, "{first:#x}"),
            _ => write!(f, "{first:#x} +{step:#x} *{count}"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(at, width, value) => write!(f, "r{} {at:#010x} {value:#x}", bits(*width)),
            Self::Write(at, width, value) => write!(f, "w{} {at:#010x} {value:#x}", bits(*width)),
            Self::WriteRun(Way::Bar0, at, width, run) => write!(f, "w{} {at:#010x} {}", bits(*width), Words(*run)),
            Self::WriteRun(way, at, width, run) => write!(f, "{way}w{} {at:#x} {}", bits(*width), Words(*run)),
            Self::Bar1Read(at, width, value) => write!(f, "b1r{} {at:#x} {value:#x}", bits(*width)),
            Self::Bar1Write(at, width, value) => write!(f, "b1w{} {at:#x} {value:#x}", bits(*width)),
            Self::Bar2Read(at, width, value) => write!(f, "b2r{} {at:#x} {value:#x}", bits(*width)),
            Self::Bar2Write(at, width, value) => write!(f, "b2w{} {at:#x} {value:#x}", bits(*width)),
            Self::Store(at, run) => write!(f, "s64 {at:#x} {}", Words(*run)),
            Self::Order => f.write_str("order"),
            Self::Drain => f.write_str("drain"),
            Self::Root(at) => write!(f, "root {at}"),
            Self::Forget(at) => write!(f, "forget {at}"),
            Self::Taken(at, bytes) => write!(f, "taken {at} {bytes:#x}"),
            Self::Freed(at, bytes) => write!(f, "freed {at} {bytes:#x}"),
            Self::Access(root, va, writes) => write!(f, "access {root} {va:#x} {}", if *writes { 'w' } else { 'r' }),
            // A label is one line.
            Self::Label(text) => write!(f, "= {}", text.replace(['\n', '\r'], " ")),
        }
    }
}
