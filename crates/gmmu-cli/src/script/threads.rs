//! Threads of a script: operations that go on at the same time, one step at a time.
//!
//! A step is what happens under one hold of a lock: all that the planner does in a call, one entry that is stored, with the
//! move of the window before it, or one look at an invalidate, whose first one triggers it.

use gmmu::device::Poll;
use gmmu::format::Format;

use super::jobs::{Pending, Stage};
use super::ops::{Change, JobOp, Line, Op};
use super::refusal::Refusal;
use super::runner::{Broken, Ran, Runner};
use super::work::Pace;
use crate::exit::Failure;

/// An invalidate that was looked at so often, in a row, is given up: any other has ended by then.
const LOOKS_MAX: u32 = 256;

/// A thread, and how far it has got.
pub(super) struct Thread<'s> {
    pub(super) name: &'s str,
    lines: Vec<(usize, &'s Line)>,
    /// A change that was prepared, and is to be executed and committed.
    open: Option<Pending>,
    /// A zap has cleared its entries, and waits for its invalidate.
    zapped: bool,
    /// Looks at an invalidate, one after the other.
    looks: u32,
    /// Why it cannot go on, until somebody else has.
    pub(super) waits: Option<Broken>,
}

/// What a step has come to.
pub(super) enum Turn {
    /// Something was done.
    Done,
    /// Nothing: somebody else has to go first.
    Waits,
    /// It did not go as the script says.
    Broken(Broken),
}

impl<'s> Thread<'s> {
    /// The threads of a script, in the order in which they come.
    pub(super) fn all(lines: &'s [(usize, Line)]) -> Vec<Self> {
        let mut threads: Vec<Self> = Vec::new();
        for (number, line) in lines {
            let Some(name) = line.thread.as_deref() else { continue };
            let known = threads.iter().position(|thread| thread.name == name);
            let at = known.unwrap_or_else(|| {
                threads.push(Thread { name, lines: Vec::new(), open: None, zapped: false, looks: 0, waits: None });
                threads.len() - 1
            });
            threads[at].lines.push((*number, line));
        }
        // The next one is taken off the end.
        threads.iter_mut().for_each(|thread| thread.lines.reverse());
        threads
    }

    pub(super) fn is_done(&self) -> bool {
        self.lines.is_empty()
    }
}

impl<F: Format> Runner<F> {
    /// One step of a thread.
    ///
    /// # Errors
    /// Only what ends the whole program.
    pub(super) fn turn(&mut self, thread: &mut Thread<'_>) -> Result<Turn, Failure> {
        let Some(&(number, line)) = thread.lines.last() else { return Ok(Turn::Waits) };
        let stores = self.stores();
        let result = match (&line.op, thread.open.take()) {
            (Op::Change { job: None, change }, open) => self.turn_of_change(change, open, thread),
            (Op::Job(name, JobOp::Execute(None)), _) => self.turn_of_job(name),
            (Op::Zap(name), _) => self.turn_of_zap(name, thread),
            _ => {
                thread.lines.pop();
                let ran = self.run(number, line)?;
                return Ok(if let Ran::Broken(broken) = ran { Turn::Broken(broken) } else { Turn::Done });
            }
        };
        let result = result.and_then(|done| {
            thread.looks = if done || self.stores() != stores { 0 } else { thread.looks + 1 };
            if thread.looks < LOOKS_MAX {
                return Ok(done);
            }
            (thread.looks, thread.zapped) = (0, false);
            if let Some(pending) = thread.open.take()
                && let Err((pending, _)) = self.cancel(pending)
            {
                self.let_go(pending);
            }
            Err(Refusal::named("Timeout", format!("the invalidate was not acknowledged in {LOOKS_MAX} looks")))
        });
        let is_expected = |why: &Refusal| line.refused.as_ref().is_some_and(|name| why.names.contains(name));
        Ok(match result {
            Ok(false) => {
                self.reached(number);
                Turn::Done
            }
            Err(why) if why.names.iter().any(|name| name == "NotYet") && !is_expected(&why) => {
                if let Ran::Broken(broken) = self.judge(number, line, Err(why)) {
                    thread.waits = Some(broken);
                }
                Turn::Waits
            }
            result => {
                thread.lines.pop();
                match self.judge(number, line, result.map(drop)) {
                    Ran::Well => Turn::Done,
                    Ran::Broken(broken) => Turn::Broken(broken),
                }
            }
        })
    }

    /// A step of a change that is done at once: its prepare, a step of its execution, or its commit. Whether that was all.
    fn turn_of_change(
        &mut self,
        change: &Change,
        open: Option<Pending>,
        thread: &mut Thread<'_>,
    ) -> Result<bool, Refusal> {
        let Some(pending) = open else {
            thread.open = Some(self.prepare(change)?);
            return Ok(false);
        };
        if let Stage::Executed(_) = pending.stage {
            return self.commit(pending).map(|()| true).map_err(|(_, why)| why);
        }
        match self.execute(pending, Pace::Step) {
            Ok(pending) => {
                thread.open = Some(pending);
                Ok(false)
            }
            Err((pending, why)) if why.names.iter().any(|name| name == "NotYet") => {
                thread.open = Some(pending);
                Err(why)
            }
            Err((pending, why)) => {
                if let Err((pending, _)) = self.cancel(pending) {
                    self.let_go(pending);
                }
                Err(why)
            }
        }
    }

    /// How much was stored up to now.
    fn stores(&mut self) -> u64 {
        let counts = self.machine.gpu().counts();
        counts.writes + counts.sys_writes
    }

    /// A step of a zap: its stores, or a look at the invalidate. Whether that was all.
    fn turn_of_zap(&mut self, name: &str, thread: &mut Thread<'_>) -> Result<bool, Refusal> {
        let zap = self.zap_named(name)?;
        if !thread.zapped {
            zap.write(self.machine.mmio()).map_err(|why| Refusal::of(&why))?;
            thread.zapped = true;
            return Ok(false);
        }
        let poll = zap.poll_flush(self.machine.mmio()).map_err(|why| Refusal::of(&why))?;
        thread.zapped = poll == Poll::Pending;
        Ok(!thread.zapped)
    }

    /// A step of a job's execution. Whether that was the last one.
    fn turn_of_job(&mut self, name: &str) -> Result<bool, Refusal> {
        let is_executed = |job: &Pending| matches!(job.stage, Stage::Executed(_));
        if self.jobs.get(name).is_some_and(is_executed) {
            return self.job(name, JobOp::Execute(None)).map(|()| true);
        }
        let pending = self.jobs.remove(name).ok_or_else(|| super::jobs::no_job(name))?;
        let (pending, result) = match self.execute(pending, Pace::Step) {
            Ok(pending) => {
                let done = is_executed(&pending);
                (pending, Ok(done))
            }
            Err((pending, why)) => (pending, Err(why)),
        };
        self.jobs.insert(name.to_owned(), pending);
        result
    }
}
