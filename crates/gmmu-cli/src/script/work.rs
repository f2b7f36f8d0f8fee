//! A job on its way: with the frames that it wants or without, whole or some entries at a time.

use gmmu::addr::Pfn;
use gmmu::device::Hardware;
use gmmu::vmm::{ExecuteError, Failed, Job, Ready, Receipt, State};

use super::refusal::Refusal;

/// A job that was not executed to its end.
pub(super) enum Work {
    /// Nothing was written yet. The frames are those that it wants.
    Prepared(Job, &'static [Pfn]),
    /// Something may have been written.
    Begun(Job),
    /// The same, with the frames: they have to be these to the end.
    BegunWith(Ready<'static>),
}

/// What became of a job that was worked on.
pub(super) enum Step {
    /// It is done.
    Done(Receipt),
    /// There is more to write or to flush.
    More(Work),
}

impl Work {
    /// The job itself.
    pub(super) fn job(&mut self) -> &mut Job {
        match self {
            Self::Prepared(job, _) | Self::Begun(job) => job,
            Self::BegunWith(ready) => ready.as_mut(),
        }
    }

    /// A job and the frames that it wants. These live as long as the program: a job that was begun borrows them, and
    /// stays among the script's for as long as the script likes.
    pub(super) fn new(frames: Vec<Pfn>, job: Job) -> Self {
        Self::Prepared(job, if frames.is_empty() { &[] } else { frames.leak() })
    }

    /// Executes the job, or writes `budget` entries of its round and flushes what is written.
    pub(super) fn step<H: Hardware>(self, hardware: &mut H, budget: Option<u64>) -> Result<Step, (Self, Refusal)> {
        match self {
            Self::Prepared(job, frames) if job.wants().is_empty() => {
                Self::step_job(job, hardware, budget).map_err(|(job, why)| {
                    let work = if is_begun(&job) { Self::Begun(job) } else { Self::Prepared(job, frames) };
                    (work, Refusal::of(&why))
                })
            }
            Self::Prepared(job, frames) => match job.with_frames(frames) {
                Err((job, why)) => Err((Self::Prepared(job, frames), Refusal::of(&why))),
                Ok(ready) => Self::step_ready(ready, hardware, budget).map_err(|(mut ready, why)| {
                    let work = if is_begun(ready.as_mut()) {
                        Self::BegunWith(ready)
                    } else {
                        Self::Prepared(ready.into_job(), frames)
                    };
                    (work, Refusal::of(&why))
                }),
            },
            Self::Begun(job) => {
                Self::step_job(job, hardware, budget).map_err(|(job, why)| (Self::Begun(job), Refusal::of(&why)))
            }
            Self::BegunWith(ready) => Self::step_ready(ready, hardware, budget)
                .map_err(|(ready, why)| (Self::BegunWith(ready), Refusal::of(&why))),
        }
    }

    fn step_job<H: Hardware>(mut job: Job, hardware: &mut H, budget: Option<u64>) -> Result<Step, (Job, ExecuteError)> {
        let Some(budget) = budget else {
            return job.execute(hardware).map(Step::Done).map_err(|Failed { job, why }| (job, why));
        };
        let some = job.write_some(hardware, budget).and_then(|written| match written {
            true => job.flush(hardware).map(|_| ()),
            false => Ok(()),
        });
        match some {
            Ok(()) => Ok(job.finish().map_or_else(|job| Step::More(Self::Begun(job)), Step::Done)),
            Err(why) => Err((job, why)),
        }
    }

    fn step_ready<H: Hardware>(
        mut ready: Ready<'static>,
        hardware: &mut H,
        budget: Option<u64>,
    ) -> Result<Step, (Ready<'static>, ExecuteError)> {
        let Some(budget) = budget else {
            return ready.execute(hardware).map(Step::Done).map_err(|Failed { job, why }| (job, why));
        };
        let some = ready.write_some(hardware, budget).and_then(|written| match written {
            true => ready.flush(hardware).map(|_| ()),
            false => Ok(()),
        });
        match some {
            Ok(()) => Ok(ready.finish().map_or_else(|ready| Step::More(Self::BegunWith(ready)), Step::Done)),
            Err(why) => Err((ready, why)),
        }
    }
}

/// Whether a job may have written something.
fn is_begun(job: &Job) -> bool {
    job.state() == State::Executing
}
