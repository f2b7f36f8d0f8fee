//! Execution: words into slots, and the invalidate behind them. Knows no format, allocates nothing, frees nothing and
//! takes no lock; it builds without the `alloc` feature.
//!
//! A job's plan is data: [`Write`]s, grouped into rounds. A round is one [`write`](Round::write), which leaves the
//! tables as they are to be, and one [`Flush`], which makes the GPU see it.

use crate::addr::{Pfn, TableAddr};
use crate::device::{DeviceError, Encoding, Hardware, Invalidate, Invalidator, Poll, Run, TableMemory, Ticket};
use crate::regs;
use crate::tlb::{wait, Limits};

/// A run of words for slots that lie `stride` bytes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// The first slot.
    pub at: TableAddr,
    /// The words; what they mean is said by the source.
    pub run: Run,
    /// 8, or 16 for one half of neighbouring dual entries.
    pub stride: u8,
    /// Where the words come from.
    pub source: Source,
}

/// Where the words of a [`Write`] come from. Entries of any size have the 4 KiB frame number in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From the run itself.
    Words,
    /// From the caller's frame list: word `n` is `run.step` plus frame `run.first + n` in its place.
    Frames,
    /// Parts of one large page: the words of the run, plus this frame of the list in its place.
    Part(u32),
}

/// Leaf entries of a mapping that can be zapped: where that has happened, they are cleared instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evictable {
    /// The entries.
    pub write: Write,
    /// The mapping's number in its space.
    pub mapping: u32,
    /// What the slots say without pages.
    pub clear: u64,
}

impl Evictable {
    /// Turns the write into one that clears the slots.
    pub fn give_up(&mut self) {
        let run = Run { first: self.clear, step: 0, count: self.write.run.count };
        self.write = Write { run, source: Source::Words, ..self.write };
    }
}

/// One round of a job.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// Leaf entries, and whatever else nobody can reach yet.
    pub leaves: &'a [Write],
    /// Leaf entries of mappings that can be zapped.
    pub evictable: &'a [Evictable],
    /// Directory entries, from the bottom up.
    pub links: &'a [Write],
    /// Where a 4 KiB frame number stands in an entry: its lowest bit.
    pub frame_shift: u32,
}

impl Write {
    /// `count` of the words, from word `from` on.
    const fn part(&self, from: u32, count: u32) -> Self {
        let run = match self.source {
            Source::Words | Source::Part(_) => self.run.skip(from),
            Source::Frames => Run { first: self.run.first.wrapping_add(from as u64), ..self.run },
        };
        let at = self.at.with_raw(self.at.raw().wrapping_add(from as u64 * self.stride as u64));
        Self { at, run: Run { count, ..run }, ..*self }
    }

    /// Writes all words.
    fn perform<M: TableMemory>(&self, memory: &mut M, frame_shift: u32, frames: &[Pfn]) -> Result<(), DeviceError> {
        let run = match self.source {
            Source::Words => self.run,
            Source::Part(frame) => {
                let frame = frames.get(frame as usize).map_or(0, |frame| frame.raw());
                Run { first: self.run.first.wrapping_add(frame.wrapping_shl(frame_shift)), ..self.run }
            }
            Source::Frames => {
                let frames = usize::try_from(self.run.first).ok().and_then(|first| frames.get(first..));
                let frames = frames.and_then(|rest| rest.get(..self.run.count as usize)).unwrap_or_default();
                let base = self.run.step;
                if self.stride == 8 {
                    return memory.write_frames(self.at, Encoding { base, shift: frame_shift }, frames);
                }
                return self
                    .one_by_one(memory, frames.iter().map(|frame| Encoding { base, shift: frame_shift }.word(*frame)));
            }
        };
        if self.stride == 8 {
            return memory.write_run(self.at, run);
        }
        self.one_by_one(memory, run.words())
    }

    fn one_by_one<M: TableMemory>(&self, memory: &mut M, words: impl Iterator<Item = u64>) -> Result<(), DeviceError> {
        let mut at = self.at.raw();
        for word in words {
            memory.write_word(self.at.with_raw(at), word)?;
            at = at.wrapping_add(u64::from(self.stride));
        }
        Ok(())
    }
}

/// Writes table contents that nobody can reach yet, and makes sure that they are seen before any link to them.
///
/// # Errors
/// The device's; any part may have been written.
pub fn initialise<M: TableMemory>(memory: &mut M, writes: &[Write]) -> Result<(), DeviceError> {
    if writes.is_empty() {
        return Ok(());
    }
    for write in writes {
        write.perform(memory, 0, &[])?;
    }
    memory.order()
}

/// How far a round is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    stage: Stage,
    /// Writes of the stage that are done, and words of the next one.
    done: usize,
    words: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Leaves,
    Evictable,
    Links,
    Written,
}

impl Cursor {
    /// Whether all is written, and has arrived where the GPU reads.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Written
    }
}

impl Round<'_> {
    /// Goes on from `cursor` with leaves, an ordering point, directories from the bottom up, and what has to come before
    /// an invalidate; `budget` words at most. May be repeated after a failure: the same words go into the same slots.
    ///
    /// # Errors
    /// The device's; the cursor stands before what failed, any part of which may have been written.
    pub fn write<M: TableMemory>(
        &self,
        memory: &mut M,
        frames: &[Pfn],
        cursor: &mut Cursor,
        budget: u64,
    ) -> Result<(), DeviceError> {
        let mut budget = budget;
        loop {
            let stage = cursor.stage;
            let write = |at: usize| match stage {
                Stage::Leaves => self.leaves.get(at),
                Stage::Evictable => self.evictable.get(at).map(|evictable| &evictable.write),
                Stage::Links => self.links.get(at),
                Stage::Written => None,
            };
            while let Some(write) = write(cursor.done) {
                let left = write.run.count.saturating_sub(cursor.words);
                let count = u32::try_from(budget).unwrap_or(u32::MAX).min(left);
                if count == left && cursor.words == 0 {
                    write.perform(memory, self.frame_shift, frames)?;
                } else if count > 0 {
                    write.part(cursor.words, count).perform(memory, self.frame_shift, frames)?;
                }
                budget -= u64::from(count);
                if count < left {
                    cursor.words += count;
                    return Ok(());
                }
                cursor.words = 0;
                cursor.done += 1;
            }
            let next = match stage {
                Stage::Leaves => Stage::Evictable,
                Stage::Evictable => {
                    memory.order()?;
                    Stage::Links
                }
                Stage::Links => {
                    memory.drain()?;
                    Stage::Written
                }
                Stage::Written => return Ok(()),
            };
            *cursor = Cursor { stage: next, done: 0, words: 0 };
        }
    }
}

/// The invalidate of a round: due, then running, then done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// What the GPU has to forget.
    pub what: Invalidate,
    pub(super) ticket: Option<Ticket>,
}

impl Flush {
    /// An invalidate that is still due.
    #[must_use]
    pub const fn new(what: Invalidate) -> Self {
        Self { what, ticket: None }
    }

    /// Starts the invalidate where that is still due and none runs, and looks once whether it is done. Never waits.
    ///
    /// # Errors
    /// The device's; the invalidate is still due, or still running.
    pub fn poll<I: Invalidator>(&mut self, invalidator: &mut I) -> Result<Poll, DeviceError> {
        if self.ticket.is_none() {
            self.ticket = invalidator.submit(&self.what)?;
        }
        match self.ticket {
            Some(ticket) => invalidator.poll(ticket),
            None => Ok(Poll::Pending),
        }
    }

    /// Starts the invalidate and waits for it, and for one that runs already, within `limits`.
    ///
    /// # Errors
    /// The device's; the debt stays, and calling again goes on with it.
    pub fn finish<H: Hardware>(&mut self, hardware: &mut H, limits: Limits) -> Result<(), DeviceError> {
        let register = regs::NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE;
        wait(hardware, limits, register, |hardware| Ok(self.poll(hardware)? == Poll::Done))
    }
}
