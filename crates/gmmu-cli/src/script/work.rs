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

/// How much of a job is executed at once.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    /// All of it.
    Whole,
    /// So many entries of a round, and its invalidate once it is written.
    Entries(u64),
    /// One entry, or one look at the invalidate.
    Step,
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

    /// Executes the job, or as much of it as `pace` says.
    pub(super) fn step<H: Hardware>(self, hardware: &mut H, pace: Pace) -> Result<Step, (Self, Refusal)> {
        match self {
            Self::Prepared(job, frames) if job.wants().is_empty() => {
                Self::step_job(job, hardware, pace).map_err(|(job, why)| {
                    let work = if is_begun(&job) { Self::Begun(job) } else { Self::Prepared(job, frames) };
                    (work, Refusal::of(&why))
                })
            }
            Self::Prepared(job, frames) => match job.with_frames(frames) {
                Err((job, why)) => Err((Self::Prepared(job, frames), Refusal::of(&why))),
                Ok(ready) => Self::step_ready(ready, hardware, pace).map_err(|(mut ready, why)| {
                    let work = if is_begun(ready.as_mut()) {
                        Self::BegunWith(ready)
                    } else {
                        Self::Prepared(ready.into_job(), frames)
                    };
                    (work, Refusal::of(&why))
                }),
            },
            Self::Begun(job) => {
                Self::step_job(job, hardware, pace).map_err(|(job, why)| (Self::Begun(job), Refusal::of(&why)))
            }
            Self::BegunWith(ready) => Self::step_ready(ready, hardware, pace)
                .map_err(|(ready, why)| (Self::BegunWith(ready), Refusal::of(&why))),
        }
    }

    fn step_job<H: Hardware>(mut job: Job, hardware: &mut H, pace: Pace) -> Result<Step, (Job, ExecuteError)> {
        let some = match pace {
            Pace::Whole => return job.execute(hardware).map(Step::Done).map_err(|Failed { job, why }| (job, why)),
            Pace::Entries(entries) => job.write_some(hardware, entries).and_then(|written| match written {
                true => job.flush(hardware).map(drop),
                false => Ok(()),
            }),
            Pace::Step => job.write_some(hardware, 0).and_then(|written| match written {
                true => job.poll_flush(hardware).map(drop),
                false => job.write_some(hardware, 1).map(drop),
            }),
        };
        match some {
            Ok(()) => Ok(job.finish().map_or_else(|job| Step::More(Self::Begun(job)), Step::Done)),
            Err(why) => Err((job, why)),
        }
    }

    fn step_ready<H: Hardware>(
        mut ready: Ready<'static>,
        hardware: &mut H,
        pace: Pace,
    ) -> Result<Step, (Ready<'static>, ExecuteError)> {
        let some = match pace {
            Pace::Whole => return ready.execute(hardware).map(Step::Done).map_err(|Failed { job, why }| (job, why)),
            Pace::Entries(entries) => ready.write_some(hardware, entries).and_then(|written| match written {
                true => ready.flush(hardware).map(drop),
                false => Ok(()),
            }),
            Pace::Step => ready.write_some(hardware, 0).and_then(|written| match written {
                true => ready.poll_flush(hardware).map(drop),
                false => ready.write_some(hardware, 1).map(drop),
            }),
        };
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
