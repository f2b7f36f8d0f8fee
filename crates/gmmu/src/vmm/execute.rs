//! Execution: words into slots, and the invalidate behind them. Knows no format, allocates nothing, frees nothing and
//! takes no lock; it builds without the `alloc` feature.
//!
//! A job's plan is data: [`Write`]s, grouped into rounds. A round is one [`write`](Round::write), which leaves the
//! tables as they are to be, and one [`Flush`], which makes the GPU see it.

use crate::addr::{Pfn, TableAddr};
use crate::device::{DeviceError, Hardware, Invalidate, Invalidator, Poll, Run, TableMemory, Ticket};
use crate::regs;
use crate::tlb::{wait, Limits};

/// A run of words for slots that lie `stride` bytes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// The first slot.
    pub at: TableAddr,
    /// The words; of [`Source::Frames`], numbers into the frame list instead of words.
    pub run: Run,
    /// 8, or 16 for one half of neighbouring dual entries.
    pub stride: u8,
    /// Where the words come from.
    pub source: Source,
}

/// Where the words of a [`Write`] come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From the run itself.
    Words,
    /// From the caller's frame list: word n is the template for frame `run.first + n`.
    Frames,
}

/// How a late frame becomes an entry: `base + frame × step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// The entry for frame 0.
    pub base: u64,
    /// What the entry grows by from one 4 KiB frame to the next.
    pub step: u64,
}

/// One round of a job.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// Leaf entries, and whatever else nobody can reach yet.
    pub leaves: &'a [Write],
    /// Directory entries, from the bottom up.
    pub links: &'a [Write],
    /// How [`Source::Frames`] are encoded.
    pub template: Template,
}

/// Frames encoded at a time.
const CHUNK: usize = 32;

impl Write {
    /// Writes the words of the run.
    fn perform<M: TableMemory>(&self, memory: &mut M, template: Template, frames: &[Pfn]) -> Result<(), DeviceError> {
        match (self.source, self.stride) {
            (Source::Words, 8) => memory.write_run(self.at, self.run),
            (Source::Words, _) => self.one_by_one(memory, self.run.words()),
            (Source::Frames, stride) => {
                let entry = |frame: &Pfn| template.base.wrapping_add(frame.raw().wrapping_mul(template.step));
                let frames = usize::try_from(self.run.first).ok().and_then(|first| frames.get(first..));
                let frames = frames.and_then(|rest| rest.get(..self.run.count as usize)).unwrap_or_default();
                if stride == 8 {
                    let mut at = self.at.raw();
                    for chunk in frames.chunks(CHUNK) {
                        let mut words = [0; CHUNK];
                        for (word, frame) in words.iter_mut().zip(chunk) {
                            *word = entry(frame);
                        }
                        let words = words.get(..chunk.len()).unwrap_or_default();
                        memory.write_words(self.at.with_raw(at), words)?;
                        at = at.wrapping_add(chunk.len() as u64 * 8);
                    }
                    return Ok(());
                }
                self.one_by_one(memory, frames.iter().map(entry))
            }
        }
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
        write.perform(memory, Template { base: 0, step: 0 }, &[])?;
    }
    memory.order()
}

impl Round<'_> {
    /// Writes leaves, an ordering point, directories from the bottom up, and what has to come before an invalidate.
    /// May be repeated after a failure: the same words go into the same slots.
    ///
    /// # Errors
    /// The device's; any part of the round may have been written.
    pub fn write<M: TableMemory>(&self, memory: &mut M, frames: &[Pfn]) -> Result<(), DeviceError> {
        for write in self.leaves {
            write.perform(memory, self.template, frames)?;
        }
        memory.order()?;
        for write in self.links {
            write.perform(memory, self.template, frames)?;
        }
        memory.drain()
    }
}

/// The invalidate of a round: due, then running, then done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// What the GPU has to forget.
    pub what: Invalidate,
    ticket: Option<Ticket>,
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
