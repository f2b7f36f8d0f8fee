//! Several jobs under one invalidate.

use super::job::{ExecuteError, Job};
use crate::device::{Hardware, Invalidate, Invalidator, Poll};
use crate::regs;
use crate::tlb::{wait, Limits};

/// Flushes the current rounds of several written jobs of one space under one invalidate, as deep, wide and well
/// acknowledged as all of them need. Never waits: starts it where that is still due and none runs, and looks once.
/// Jobs whose rounds are all done are passed over.
///
/// # Errors
/// [`ExecuteError::NotWritten`], [`ExecuteError::OtherSpace`], and nothing was started; the device's: the invalidate is
/// still owed by every job.
pub fn poll_flush_all<J: AsMut<Job>, I: Invalidator>(
    jobs: &mut [J],
    invalidator: &mut I,
) -> Result<Poll, ExecuteError> {
    let mut together: Option<Invalidate> = None;
    for job in jobs.iter_mut() {
        let Some(flush) = job.as_mut().owed()? else { continue };
        if flush.ticket.is_none() {
            let both = together.map_or(Some(flush.what), |sum| sum.and(&flush.what));
            together = Some(both.ok_or(ExecuteError::OtherSpace)?);
        }
    }
    let ticket = match &together {
        Some(what) => invalidator.submit(what)?,
        None => None,
    };
    let mut all = Poll::Done;
    for job in jobs.iter_mut() {
        let job = job.as_mut();
        let Some(flush) = job.owed()? else { continue };
        flush.ticket = flush.ticket.or(ticket);
        let done = match flush.ticket {
            Some(ticket) => invalidator.poll(ticket)?,
            None => Poll::Pending,
        };
        if done == Poll::Pending {
            all = Poll::Pending;
        }
    }
    // All go on together, or a round that was not written would be asked for its invalidate.
    if all == Poll::Done {
        for job in jobs.iter_mut().map(AsMut::as_mut).filter(|job| job.body.round < job.body.rounds.len()) {
            job.next_round();
        }
    }
    Ok(all)
}

/// The same, waiting for the invalidate within `limits`.
///
/// # Errors
/// As [`poll_flush_all`].
pub fn flush_all<J: AsMut<Job>, H: Hardware>(
    jobs: &mut [J],
    hardware: &mut H,
    limits: Limits,
) -> Result<(), ExecuteError> {
    let register = regs::NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE;
    let mut refused = Ok(());
    wait(hardware, limits, register, |hardware| match poll_flush_all(jobs, hardware) {
        Ok(poll) => Ok(poll == Poll::Done),
        Err(ExecuteError::Device(why)) => Err(why),
        Err(why) => {
            refused = Err(why);
            Ok(true)
        }
    })?;
    refused
}
