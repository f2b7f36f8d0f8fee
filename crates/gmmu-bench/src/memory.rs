//! Plain memory for page tables: what a job costs apart from any bus.

use std::hint::black_box;

use gmmu::addr::{Pfn, TableAddr};
use gmmu::device::{Clock, DeviceError, Encoding, Invalidate, Invalidator, Poll, Run, TableMemory, TableRead, Ticket};

/// Video memory from address 0 on that the CPU stores to directly, and a GPU that forgets at once.
#[derive(Debug)]
pub struct Memory(Box<[u64]>);

impl Memory {
    /// So many bytes, all of them touched.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        // Not zeros: those would come from pages that are not there yet.
        let mut words = vec![u64::MAX; bytes / 8].into_boxed_slice();
        black_box(&mut words);
        Self(words)
    }

    fn slice(&mut self, at: TableAddr, words: usize) -> Result<&mut [u64], DeviceError> {
        let first = usize::try_from(at.raw() / 8).unwrap_or(usize::MAX);
        let end = self.0.len() as u64 * 8;
        let slice = first.checked_add(words).and_then(|last| self.0.get_mut(first..last));
        slice.ok_or(DeviceError::OutOfRange { at, bytes: words as u64 * 8, end })
    }
}

/// The store loop, for jobs and for the limit alike: plain enough for compilers to use wide stores. There is one copy of
/// it, since where a copy lies in memory makes a fifth of its speed.
#[inline(never)]
fn store(words: &mut [u64], Run { first, step, .. }: Run) {
    if (first, step) == (0, 0) {
        return words.fill(0);
    }
    let mut next = first;
    for word in words {
        *word = next;
        next = next.wrapping_add(step);
    }
}

/// The same of scattered entries: the list read, each frame encoded, each entry stored.
#[inline(never)]
fn encode(words: &mut [u64], how: Encoding, frames: &[Pfn]) {
    for (word, frame) in words.iter_mut().zip(frames) {
        *word = how.word(*frame);
    }
}

impl TableRead for Memory {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        words.copy_from_slice(self.slice(at, words.len())?);
        Ok(())
    }
}

impl TableMemory for Memory {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        store(self.slice(at, run.count as usize)?, run);
        Ok(())
    }

    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        self.slice(at, words.len())?.copy_from_slice(words);
        Ok(())
    }

    fn write_frames(&mut self, at: TableAddr, how: Encoding, frames: &[Pfn]) -> Result<(), DeviceError> {
        encode(self.slice(at, frames.len())?, how, frames);
        Ok(())
    }

    fn write_word(&mut self, at: TableAddr, word: u64) -> Result<(), DeviceError> {
        self.slice(at, 1)?.fill(word);
        Ok(())
    }

    fn order(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn drain(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

impl Invalidator for Memory {
    fn submit(&mut self, _what: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        Ok(Some(Ticket(0)))
    }

    fn poll(&mut self, _ticket: Ticket) -> Result<Poll, DeviceError> {
        Ok(Poll::Done)
    }
}

impl Clock for Memory {
    fn now_us(&mut self) -> u64 {
        0
    }

    fn relax(&mut self) {}
}
