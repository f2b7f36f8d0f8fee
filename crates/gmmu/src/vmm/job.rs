//! Jobs: prepared changes that own all they need to be carried out, and the proof that they were.

use super::execute::{Cursor, Flush, Round};
use super::frames::{FramesError, Want, Wants};
use super::rounds::OwnedRound;
use super::zap::{self, Swap};
use crate::addr::Pfn;
use crate::device::{DeviceError, Hardware, Invalidate, Invalidator, Poll, TableMemory};
use crate::storage::{List, NoMemory, Owned, Shared};
use crate::tlb::Limits;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};

/// How far a job has got. Shared between the job and its space, and with the jobs that wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Nothing was written yet.
    Prepared,
    /// Something may have been written.
    Executing,
    /// Every round is written and acknowledged.
    Acknowledged,
    /// Dropped before anything was written: its space takes it back at its next call.
    Abandoned,
    /// Dropped after something was written: what it owns stays in quarantine.
    Lost,
    /// Executed, and its receipt dropped: its space commits it at its next call.
    Orphaned,
    /// Committed or cancelled.
    Closed,
}

/// [`State`] as jobs share it.
#[derive(Debug)]
pub(crate) struct Progress(AtomicU8);

impl Progress {
    pub(crate) const fn new() -> Self {
        Self(AtomicU8::new(State::Prepared as u8))
    }

    pub(crate) fn get(&self) -> State {
        const STATES: [State; 7] = [
            State::Prepared,
            State::Executing,
            State::Acknowledged,
            State::Abandoned,
            State::Lost,
            State::Orphaned,
            State::Closed,
        ];
        STATES.get(usize::from(self.0.load(Ordering::Acquire))).copied().unwrap_or(State::Lost)
    }

    pub(crate) fn set(&self, state: State) {
        self.0.store(state as u8, Ordering::Release);
    }
}

/// Where a job's record lies in its space; the shared state proves that it is this space's and this job's.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) record: u32,
    pub(crate) progress: Shared<Progress>,
}

/// Why a job could not be carried out now. The job is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExecuteError {
    /// A job that this one builds on was not executed yet.
    #[error("a job that was prepared earlier for the same tables has to be executed first")]
    NotYet,
    /// A job that this one builds on was dropped. Cancel this one.
    #[error("a job that this one builds on was abandoned or lost: cancel this one and prepare it anew")]
    PredecessorLost,
    /// The space was restored since the job was prepared: prepare it anew.
    #[error("the address space was restored since: prepare the job anew")]
    Lost,
    /// A mapping whose pages the job writes was zapped since it was prepared. [`Job::skip_zapped`] goes on without them; a
    /// job that was not begun can be cancelled.
    #[error(
        "a mapping was zapped since the job was prepared: cancel it, or go on without those pages by `skip_zapped`"
    )]
    Zapped,
    /// A zap runs at this moment.
    #[error("a zap is at the same entries: hold the hardware's lock, and try again")]
    Contended,
    /// The round was not written yet.
    #[error("there is nothing to flush: write the round first")]
    NotWritten,
    /// Jobs of several spaces cannot share an invalidate.
    #[error("the jobs are of different address spaces, and cannot share an invalidate")]
    OtherSpace,
    /// Frames that the job wants are still missing.
    #[error("the job wants frames that were not known when it was prepared: give them with `with_frames`")]
    FramesMissing,
    /// The device failed. What it failed at can be tried again.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What a flush has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// The invalidate still runs, or waits for another to end.
    Pending,
    /// This round is done; another is to be written.
    NextRound,
    /// All rounds are done.
    Done,
}

/// A prepared change of an address space. Owns everything it needs: [`write`](Self::write) and [`flush`](Self::flush)
/// allocate nothing, free nothing, and know nothing of the planner or its lock.
///
/// Dropping a job touches neither hardware nor memory: its space notices at its next call, takes back a job that was
/// not begun, and keeps what a begun one owns in quarantine.
#[must_use = "a job changes nothing until it is executed; cancel it to give its tables back"]
#[derive(Debug)]
pub struct Job {
    pub(crate) body: Owned<Body>,
}

/// What a job consists of. Its lists are used again by later jobs of its space.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) token: Token,
    pub(crate) range: Range<u64>,
    pub(crate) after: List<Shared<Progress>>,
    pub(crate) rounds: [OwnedRound; 2],
    /// The evictable mappings among those that it changes.
    pub(crate) swaps: List<Swap>,
    /// Where a 4 KiB frame number stands in an entry.
    pub(crate) frame_shift: u32,
    pub(crate) wants: Wants,
    pub(crate) limits: Limits,
    /// The round at hand, and the first one with something to do.
    pub(crate) round: usize,
    pub(crate) first: usize,
    pub(crate) cursor: Cursor,
}

impl Body {
    /// A job of nothing yet.
    pub(crate) fn new(limits: Limits, frame_shift: u32, what: Invalidate) -> Result<Self, NoMemory> {
        let token = Token { record: u32::MAX, progress: Shared::new(Progress::new())? };
        let rounds = [OwnedRound::new(what), OwnedRound::new(what)];
        let (after, swaps, wants, cursor) = (List::new(), List::new(), Wants::default(), Cursor::default());
        Ok(Self { token, range: 0..0, after, rounds, swaps, frame_shift, wants, limits, round: 0, first: 0, cursor })
    }

    /// Forgets everything; the room of the lists stays.
    pub(crate) fn clear(&mut self) {
        self.after.clear();
        self.wants.clear();
        for round in &mut self.rounds {
            round.leaves.clear();
            round.evictable.clear();
            round.links.clear();
        }
        self.swaps.clear();
        (self.round, self.cursor) = (0, Cursor::default());
    }

    /// Bytes of heap that its lists hold.
    pub(crate) fn footprint(&self) -> usize {
        let lists =
            |round: &OwnedRound| round.leaves.footprint() + round.evictable.footprint() + round.links.footprint();
        self.rounds.iter().map(lists).sum::<usize>() + self.swaps.footprint()
    }
}

/// Proof that a job was executed: everything is written, and the GPU has forgotten what was before. Give it to
/// [`Vmm::commit`](super::Vmm::commit).
///
/// Dropping it frees nothing at that moment; its space commits the job at its next call.
#[must_use = "commit the receipt, so that what the job replaced is given back"]
#[derive(Debug)]
pub struct Receipt {
    /// Kept whole, so that execution frees nothing.
    pub(crate) job: Job,
}

/// A job that could not be carried out, whole, and why.
#[derive(Debug)]
pub struct Failed<J> {
    /// The job.
    pub job: J,
    /// What went wrong.
    pub why: ExecuteError,
}

impl<J> core::fmt::Display for Failed<J> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.why, f)
    }
}

impl<J: core::fmt::Debug> core::error::Error for Failed<J> {}

impl Job {
    /// How far the job has got.
    #[must_use]
    pub fn state(&self) -> State {
        self.body.token.progress.get()
    }

    /// The addresses that the job changes.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.body.range.clone()
    }

    /// How many rounds of write and flush the job takes.
    #[must_use]
    pub fn rounds(&self) -> usize {
        self.body.rounds.len() - self.body.first
    }

    /// Gives the frames of pages that the records know no memory of: one 4 KiB frame number a page, of its first byte,
    /// for all pages of [`wants`](Self::wants). Checks all that can be wrong with them, so that execution cannot fail by
    /// them. Nothing is copied.
    ///
    /// # Errors
    /// [`FramesError`], with the job.
    pub fn with_frames(self, frames: &[Pfn]) -> Result<Ready<'_>, (Self, FramesError)> {
        match self.check_frames(frames) {
            Ok(()) => Ok(Ready { job: self, frames }),
            Err(why) => Err((self, why)),
        }
    }

    fn check_frames(&self, frames: &[Pfn]) -> Result<(), FramesError> {
        if !self.body.wants.is_empty() && self.state() != State::Prepared {
            return Err(FramesError::Begun);
        }
        self.body.wants.check(frames)
    }

    /// The pages whose frames are to be given before execution, in the order of the list.
    #[must_use]
    pub fn wants(&self) -> &[Want] {
        self.body.wants.as_slice()
    }

    /// Writes the entries of the current round. A failure leaves the job whole, and the call can be repeated.
    ///
    /// # Errors
    /// [`ExecuteError`].
    pub fn write<M: TableMemory>(&mut self, memory: &mut M) -> Result<(), ExecuteError> {
        self.write_some(memory, u64::MAX)?;
        Ok(())
    }

    /// The same, but `budget` entries at most, so that one big job does not hold the hardware for long. Says whether the
    /// round is written; where it is not, call again.
    ///
    /// # Errors
    /// [`ExecuteError`].
    pub fn write_some<M: TableMemory>(&mut self, memory: &mut M, budget: u64) -> Result<bool, ExecuteError> {
        if !self.body.wants.is_empty() {
            return Err(ExecuteError::FramesMissing);
        }
        self.write_round(memory, &[], budget)
    }

    /// Goes on without the pages of mappings that were zapped since the job was prepared: their entries are written as not
    /// there. For a job that was begun and answers [`ExecuteError::Zapped`]. Hold the hardware's lock.
    pub fn skip_zapped(&mut self) {
        let Body { rounds, swaps, .. } = &mut *self.body;
        if let Some(round) = rounds.last_mut() {
            zap::skip(swaps, &mut round.evictable);
        }
    }

    /// Flushes the current round: starts its invalidate and waits for it.
    ///
    /// # Errors
    /// [`ExecuteError::NotWritten`]; [`ExecuteError::Device`]: the invalidate is still owed, and calling again goes on
    /// with it.
    pub fn flush<H: Hardware>(&mut self, hardware: &mut H) -> Result<Flushed, ExecuteError> {
        let limits = self.body.limits;
        let Some(flush) = self.owed()? else { return Ok(Flushed::Done) };
        flush.finish(hardware, limits)?;
        Ok(self.next_round())
    }

    /// The same as [`flush`](Self::flush) without waiting: starts the invalidate where that is still due and none runs,
    /// and looks once.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn poll_flush<I: Invalidator>(&mut self, invalidator: &mut I) -> Result<Flushed, ExecuteError> {
        let Some(flush) = self.owed()? else { return Ok(Flushed::Done) };
        match flush.poll(invalidator)? {
            #[cfg(feature = "sabotage")]
            Poll::Pending if self.body.rounds.iter().any(|round| round.hasty) => Ok(self.next_round()),
            Poll::Pending => Ok(Flushed::Pending),
            Poll::Done => Ok(self.next_round()),
        }
    }

    /// The invalidate of the current round; `None` where all rounds are done.
    pub(super) fn owed(&mut self) -> Result<Option<&mut Flush>, ExecuteError> {
        if self.state() == State::Lost {
            return Err(ExecuteError::Lost);
        }
        let round = self.body.round;
        let last = round + 1 >= self.body.rounds.len();
        let written = self.body.cursor.is_done() && (!last || self.body.swaps.iter().all(Swap::is_written));
        match self.body.rounds.get_mut(round) {
            Some(_) if !written => Err(ExecuteError::NotWritten),
            round => Ok(round.map(|round| &mut round.flush)),
        }
    }

    /// Writes and flushes every round.
    ///
    /// # Errors
    /// [`ExecuteError`], with the job, whole: it can be executed again, or given back to its space.
    pub fn execute<H: Hardware>(mut self, hardware: &mut H) -> Result<Receipt, Failed<Self>> {
        if !self.body.wants.is_empty() {
            return Err(Failed { job: self, why: ExecuteError::FramesMissing });
        }
        match self.run(hardware, &[]) {
            Ok(()) => Ok(Receipt { job: self }),
            Err(why) => Err(Failed { job: self, why }),
        }
    }

    /// The receipt of a job whose every round is flushed.
    ///
    /// # Errors
    /// The job, where a round is still to do.
    pub fn finish(self) -> Result<Receipt, Self> {
        if self.state() == State::Acknowledged {
            Ok(Receipt { job: self })
        } else {
            Err(self)
        }
    }

    fn run<H: Hardware>(&mut self, hardware: &mut H, frames: &[Pfn]) -> Result<(), ExecuteError> {
        // A round more than there are ends the loop whatever happens.
        for _ in 0..=self.body.rounds.len() {
            if self.body.round >= self.body.rounds.len() {
                break;
            }
            self.write_round(hardware, frames, u64::MAX)?;
            self.flush(hardware)?;
        }
        Ok(())
    }

    fn write_round<M: TableMemory>(
        &mut self,
        memory: &mut M,
        frames: &[Pfn],
        budget: u64,
    ) -> Result<bool, ExecuteError> {
        let round = self.body.round;
        let Body { rounds, swaps, cursor, frame_shift, after, token, .. } = &mut *self.body;
        let last = round + 1 == rounds.len();
        let Some(OwnedRound { leaves, evictable, links, .. }) = rounds.get(round) else { return Ok(true) };
        if token.progress.get() == State::Lost {
            return Err(ExecuteError::Lost);
        }
        if *cursor == Cursor::default() {
            check_predecessors(after)?;
        }
        zap::check(swaps)?;
        if budget == 0 {
            // Nothing is written, and the job can still be cancelled.
            return Ok(cursor.is_done());
        }
        token.progress.set(State::Executing);
        if last {
            // Only here do pages come that a zap has to know of.
            if zap::begin(swaps)? {
                *cursor = Cursor::default();
            }
        }
        Round { leaves, evictable, links, frame_shift: *frame_shift }.write(memory, frames, cursor, budget)?;
        if last && cursor.is_done() {
            zap::end(swaps)?;
        }
        Ok(cursor.is_done())
    }

    pub(super) fn next_round(&mut self) -> Flushed {
        self.body.cursor = Cursor::default();
        self.body.round += 1;
        if self.body.round < self.body.rounds.len() {
            return Flushed::NextRound;
        }
        zap::settle(&self.body.swaps);
        self.body.token.progress.set(State::Acknowledged);
        Flushed::Done
    }
}

fn check_predecessors(after: &[Shared<Progress>]) -> Result<(), ExecuteError> {
    for before in after {
        match before.get() {
            State::Acknowledged | State::Orphaned | State::Closed => {}
            State::Prepared | State::Executing => return Err(ExecuteError::NotYet),
            State::Abandoned | State::Lost => return Err(ExecuteError::PredecessorLost),
        }
    }
    Ok(())
}

impl Drop for Body {
    /// Says so, and nothing else.
    fn drop(&mut self) {
        let progress = &self.token.progress;
        match progress.get() {
            State::Prepared => progress.set(State::Abandoned),
            State::Executing => progress.set(State::Lost),
            State::Acknowledged => progress.set(State::Orphaned),
            State::Abandoned | State::Lost | State::Orphaned | State::Closed => {}
        }
    }
}

/// A job together with its frames.
#[must_use = "a job changes nothing until it is executed"]
#[derive(Debug)]
pub struct Ready<'f> {
    job: Job,
    frames: &'f [Pfn],
}

impl Ready<'_> {
    /// Writes the entries of the current round; see [`Job::write`].
    ///
    /// # Errors
    /// [`ExecuteError`].
    pub fn write<M: TableMemory>(&mut self, memory: &mut M) -> Result<(), ExecuteError> {
        self.write_some(memory, u64::MAX)?;
        Ok(())
    }

    /// Writes `budget` entries at most; see [`Job::write_some`].
    ///
    /// # Errors
    /// [`ExecuteError`].
    pub fn write_some<M: TableMemory>(&mut self, memory: &mut M, budget: u64) -> Result<bool, ExecuteError> {
        self.job.write_round(memory, self.frames, budget)
    }

    /// Goes on without the pages of zapped mappings; see [`Job::skip_zapped`].
    pub fn skip_zapped(&mut self) {
        self.job.skip_zapped();
    }

    /// Flushes the current round; see [`Job::flush`].
    ///
    /// # Errors
    /// [`ExecuteError::Device`].
    pub fn flush<H: Hardware>(&mut self, hardware: &mut H) -> Result<Flushed, ExecuteError> {
        self.job.flush(hardware)
    }

    /// Flushes without waiting; see [`Job::poll_flush`].
    ///
    /// # Errors
    /// As [`Job::poll_flush`].
    pub fn poll_flush<I: Invalidator>(&mut self, invalidator: &mut I) -> Result<Flushed, ExecuteError> {
        self.job.poll_flush(invalidator)
    }

    /// The receipt of a job whose every round is flushed; see [`Job::finish`].
    ///
    /// # Errors
    /// The job and its frames, where a round is still to do.
    pub fn finish(self) -> Result<Receipt, Self> {
        let frames = self.frames;
        self.job.finish().map_err(|job| Self { job, frames })
    }

    /// Writes and flushes every round; see [`Job::execute`].
    ///
    /// # Errors
    /// [`ExecuteError`], with the job and its frames.
    pub fn execute<H: Hardware>(mut self, hardware: &mut H) -> Result<Receipt, Failed<Self>> {
        match self.job.run(hardware, self.frames) {
            Ok(()) => Ok(Receipt { job: self.job }),
            Err(why) => Err(Failed { job: self, why }),
        }
    }

    /// The job, without its frames.
    pub fn into_job(self) -> Job {
        self.job
    }
}

impl AsMut<Job> for Job {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl AsMut<Job> for Ready<'_> {
    fn as_mut(&mut self) -> &mut Job {
        &mut self.job
    }
}
