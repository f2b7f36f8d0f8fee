//! The seams: all that the library asks of the world around it.
//!
//! A driver implements these traits over its own mappings, locks and clock; `gmmu-sim` implements them over a software
//! GPU. Every method takes `&mut self`, since a lock is the caller's business, and is fallible, since a card can leave
//! the bus between two accesses. No method may allocate, and none may block on anything but the device.
//!
//! [`Bar0`] is a register file. [`TableRead`] and [`TableMemory`] are the memory that page tables live in, however it
//! is reached: the PRAMIN window over `Bar0` (`mmio::Mmio` makes one out of the other), a mapped BAR,
//! or plain memory in a test. [`Invalidator`] makes the GPU forget translations. [`TablePool`] hands out the memory
//! for new tables. [`Bar1Aperture`] is the other BAR, through which the CPU reaches what the GPU's MMU maps.

mod error;
mod invalidate;

use crate::addr::{Pfn, TableAddr};
pub use crate::aperture::Bar1Aperture;
pub use error::DeviceError;
pub use invalidate::{Acknowledge, Depth, Invalidate, Invalidator, Poll, Scope, Ticket};

/// Width of one register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// One byte.
    W8,
    /// Two bytes.
    W16,
    /// Four bytes, what registers are made for.
    W32,
    /// Eight bytes.
    W64,
}

impl Width {
    /// The width in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::W8 => 1,
            Self::W16 => 2,
            Self::W32 => 4,
            Self::W64 => 8,
        }
    }
}

/// The registers of a card: its PCI BAR0, little-endian.
///
/// # Contract
/// Accesses reach the device in program order. `offset` is in bytes and a multiple of the access width; anything else
/// is [`DeviceError::BadOffset`]. A read of all-ones is returned as it is: whoever knows the register judges it.
pub trait Bar0 {
    /// Reads `width` bytes at `offset`; bits above the width are 0.
    ///
    /// # Errors
    /// [`DeviceError::BadOffset`] or the back end's own.
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError>;

    /// Writes the low `width` bytes of `value` at `offset`.
    ///
    /// # Errors
    /// [`DeviceError::BadOffset`] or the back end's own.
    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError>;

    /// Whether a [`Width::W64`] access is one access on the bus. Where it is not, the library splits 64-bit words
    /// itself, in the order that page tables need, and never asks for `W64`.
    fn has_64bit(&self) -> bool;

    /// Reads a 32-bit register.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read32(&mut self, offset: u32) -> Result<u32, DeviceError> {
        let [a, b, c, d, ..] = self.read(offset, Width::W32)?.to_le_bytes();
        Ok(u32::from_le_bytes([a, b, c, d]))
    }

    /// Writes a 32-bit register.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn write32(&mut self, offset: u32, value: u32) -> Result<(), DeviceError> {
        self.write(offset, Width::W32, u64::from(value))
    }

    /// Writes a run of 64-bit words from `offset` upwards, as one call. Asked for only where
    /// [`has_64bit`](Self::has_64bit) says so; a back end that maps the BAR overrides it with a plain loop of stores.
    ///
    /// # Errors
    /// As [`write`](Self::write); the words before the failing one were written.
    fn write_run(&mut self, offset: u32, run: Run) -> Result<(), DeviceError> {
        let mut at = offset;
        for word in run.words() {
            self.write(at, Width::W64, word)?;
            at = at.wrapping_add(8);
        }
        Ok(())
    }

    /// Writes `words` from `offset` upwards. Asked for only where [`has_64bit`](Self::has_64bit) says so.
    ///
    /// # Errors
    /// As [`write`](Self::write); the words before the failing one were written.
    fn write_words(&mut self, offset: u32, words: &[u64]) -> Result<(), DeviceError> {
        let mut at = offset;
        for &word in words {
            self.write(at, Width::W64, word)?;
            at = at.wrapping_add(8);
        }
        Ok(())
    }
}

/// `count` words in arithmetic progression: `first`, `first + step`, … (wrapping). What a run of page-table entries
/// over contiguous memory is, whatever the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first word.
    pub first: u64,
    /// Difference between neighbours.
    pub step: u64,
    /// How many words.
    pub count: u32,
}

impl Run {
    /// The words in order.
    pub fn words(self) -> impl Iterator<Item = u64> {
        let Self { first, step, count } = self;
        (0..count).scan(first, move |next, _| {
            let word = *next;
            *next = next.wrapping_add(step);
            Some(word)
        })
    }

    /// The part from word `from` on; empty where the run is shorter.
    #[must_use]
    pub const fn skip(self, from: u32) -> Self {
        Self {
            first: self.first.wrapping_add(self.step.wrapping_mul(from as u64)),
            step: self.step,
            count: self.count.saturating_sub(from),
        }
    }

    /// The first `count` words at most.
    #[must_use]
    pub const fn take(self, count: u32) -> Self {
        Self { count: if count < self.count { count } else { self.count }, ..self }
    }
}

/// How a frame number becomes an entry, in any format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// The entry for frame 0.
    pub base: u64,
    /// Where the frame number stands in the entry: its lowest bit, below 64.
    pub shift: u32,
}

impl Encoding {
    /// The entry for `frame`.
    #[must_use]
    #[inline]
    pub const fn word(self, frame: Pfn) -> u64 {
        // A shift, since vectors of 64-bit words multiply slowly or not at all.
        self.base.wrapping_add(frame.raw().wrapping_shl(self.shift))
    }
}

/// How many frames are encoded before they are handed on.
const FRAMES_AT_ONCE: usize = 32;

/// Hands the entries of `frames` on as words, some at a time.
pub(crate) fn frames_as_words(
    at: TableAddr,
    how: Encoding,
    frames: &[Pfn],
    mut write: impl FnMut(TableAddr, &[u64]) -> Result<(), DeviceError>,
) -> Result<(), DeviceError> {
    let mut at = at;
    let mut words = [0; FRAMES_AT_ONCE];
    let mut chunks = frames.chunks_exact(FRAMES_AT_ONCE);
    for chunk in &mut chunks {
        for (word, frame) in words.iter_mut().zip(chunk) {
            *word = how.word(*frame);
        }
        write(at, &words)?;
        at = at.with_raw(at.raw().wrapping_add(size_of_val(&words) as u64));
    }
    for (word, frame) in words.iter_mut().zip(chunks.remainder()) {
        *word = how.word(*frame);
    }
    match words.get(..chunks.remainder().len()) {
        Some([]) | None => Ok(()),
        Some(rest) => write(at, rest),
    }
}

/// Memory that page tables can be read from: video memory, system memory, or an image of either.
pub trait TableRead {
    /// Reads the 64-bit words from `at` upwards into `words`.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`], [`Unaligned`](DeviceError::Unaligned) (8 bytes),
    /// [`WrongAperture`](DeviceError::WrongAperture) or the back end's own; `words` may then be partly filled.
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError>;

    /// Reads one 64-bit word.
    ///
    /// # Errors
    /// As [`read_words`](Self::read_words).
    fn read_word(&mut self, at: TableAddr) -> Result<u64, DeviceError> {
        let mut word = [0];
        self.read_words(at, &mut word)?;
        let [word] = word;
        Ok(word)
    }
}

/// Memory that page tables live in and can be changed in.
///
/// # Contract
/// The GPU may look at any moment. A back end with 64-bit stores makes each word visible whole. One without publishes
/// a word whose low three bits are not 0 (a valid PTE, or a PDE with an aperture) high half first, and any other word
/// low half first, so that no half-written word is ever valid.
pub trait TableMemory: TableRead {
    /// Writes `run` from `at` upwards.
    ///
    /// # Errors
    /// As [`TableRead::read_words`]; the words before the failing one may have been written.
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError>;

    /// Writes `words` from `at` upwards.
    ///
    /// # Errors
    /// As [`write_run`](Self::write_run).
    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError>;

    /// Writes the entries of `frames` from `at` upwards. What maps its tables into memory overrides it with a plain loop.
    ///
    /// # Errors
    /// As [`write_run`](Self::write_run).
    fn write_frames(&mut self, at: TableAddr, how: Encoding, frames: &[Pfn]) -> Result<(), DeviceError> {
        frames_as_words(at, how, frames, |at, words| self.write_words(at, words))
    }

    /// Writes one word.
    ///
    /// # Errors
    /// As [`write_run`](Self::write_run).
    fn write_word(&mut self, at: TableAddr, word: u64) -> Result<(), DeviceError> {
        self.write_run(at, Run { first: word, step: 0, count: 1 })
    }

    /// An ordering point: the GPU sees every earlier write before any later one.
    ///
    /// # Errors
    /// The back end's own.
    fn order(&mut self) -> Result<(), DeviceError>;

    /// An ordering point before an invalidate: returns when all earlier writes have arrived in the memory that the GPU
    /// reads. On in-order uncached stores this is one read back.
    ///
    /// # Errors
    /// The back end's own.
    fn drain(&mut self) -> Result<(), DeviceError>;
}

/// How the CPU reaches system memory beside the registers `B`: what [`Mmio`](crate::mmio::Mmio) needs for tables there.
///
/// Any [`TableMemory`] is such a way: memory that a driver has mapped by itself, whatever its registers. A way of its
/// own needs only whose memory hangs on the object behind the registers, as a software GPU's does.
///
/// # Contract
/// The memory's addresses are those of system memory alone. On plain cached memory of a coherent bus,
/// [`order`](TableMemory::order) is a store fence, and [`drain`](TableMemory::drain) one that also holds back later
/// accesses of BAR0. Memory that the GPU does not snoop is written back by both, or mapped uncached.
pub trait SysPath<B: ?Sized> {
    /// The memory, for the time of one access.
    type Memory<'a>: TableMemory
    where
        Self: 'a,
        B: 'a;

    /// The memory of the system that `bar0` is in.
    fn memory<'a>(&'a mut self, bar0: &'a mut B) -> Self::Memory<'a>;
}

impl<B: ?Sized, M: TableMemory> SysPath<B> for M {
    type Memory<'a>
        = &'a mut M
    where
        Self: 'a,
        B: 'a;

    fn memory<'a>(&'a mut self, _: &'a mut B) -> &'a mut M {
        self
    }
}

/// No way to system memory: every table address is [`WrongAperture`](DeviceError::WrongAperture), and there is nothing
/// to order.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSysMemory;

impl TableRead for NoSysMemory {
    fn read_words(&mut self, at: TableAddr, _: &mut [u64]) -> Result<(), DeviceError> {
        Err(DeviceError::WrongAperture { at })
    }
}

impl TableMemory for NoSysMemory {
    fn write_run(&mut self, at: TableAddr, _: Run) -> Result<(), DeviceError> {
        Err(DeviceError::WrongAperture { at })
    }
    fn write_words(&mut self, at: TableAddr, _: &[u64]) -> Result<(), DeviceError> {
        Err(DeviceError::WrongAperture { at })
    }
    fn order(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
    fn drain(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Time, as far as bounded waits need it.
pub trait Clock {
    /// Microseconds since some fixed moment; never goes back.
    fn now_us(&mut self) -> u64;

    /// Lets a little time pass between two polls: a pause instruction, a short sleep, a tick of a model.
    fn relax(&mut self);
}

/// All that executing a job needs.
pub trait Hardware: TableMemory + Invalidator + Clock {}
impl<T: TableMemory + Invalidator + Clock + ?Sized> Hardware for T {}

/// No memory is left for a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory is left for a table of {bytes} bytes")]
pub struct NoTableMemory {
    /// Size of the table that was asked for.
    pub bytes: u64,
}

/// Where the memory of page tables comes from and goes back to.
pub trait TablePool {
    /// Takes `bytes` (4096, or 256 for a table of 64K pages), aligned to its size, as near behind `near` as it can be
    /// had: tables that lie together keep the PRAMIN window still. The memory's contents are undefined.
    ///
    /// # Errors
    /// [`NoTableMemory`]; nothing was taken.
    fn take(&mut self, bytes: u64, near: Option<TableAddr>) -> Result<TableAddr, NoTableMemory>;

    /// Gives back what [`take`](Self::take) returned, after the GPU can no longer reach it.
    fn give(&mut self, at: TableAddr, bytes: u64);

    /// Gives back `count` neighbours of `bytes` each, which were taken one by one. A pool that can do so at once says how.
    fn give_run(&mut self, at: TableAddr, bytes: u64, count: u64) {
        for n in 0..count {
            self.give(at.with_raw(at.raw().wrapping_add(n.wrapping_mul(bytes))), bytes);
        }
    }
}

impl<T: Bar0 + ?Sized> Bar0 for &mut T {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        (**self).read(offset, width)
    }
    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        (**self).write(offset, width, value)
    }
    fn has_64bit(&self) -> bool {
        (**self).has_64bit()
    }
    fn write_run(&mut self, offset: u32, run: Run) -> Result<(), DeviceError> {
        (**self).write_run(offset, run)
    }
    fn write_words(&mut self, offset: u32, words: &[u64]) -> Result<(), DeviceError> {
        (**self).write_words(offset, words)
    }
}

impl<T: TableRead + ?Sized> TableRead for &mut T {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        (**self).read_words(at, words)
    }
}

impl<T: TableMemory + ?Sized> TableMemory for &mut T {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        (**self).write_run(at, run)
    }
    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        (**self).write_words(at, words)
    }
    fn write_frames(&mut self, at: TableAddr, how: Encoding, frames: &[Pfn]) -> Result<(), DeviceError> {
        (**self).write_frames(at, how, frames)
    }
    fn order(&mut self) -> Result<(), DeviceError> {
        (**self).order()
    }
    fn drain(&mut self) -> Result<(), DeviceError> {
        (**self).drain()
    }
}

impl<T: Clock + ?Sized> Clock for &mut T {
    fn now_us(&mut self) -> u64 {
        (**self).now_us()
    }
    fn relax(&mut self) {
        (**self).relax();
    }
}
