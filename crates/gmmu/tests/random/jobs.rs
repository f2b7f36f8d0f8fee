//! The lives of jobs: executed alone or together, with others in between, on hardware that fails; cancelled, dropped,
//! committed late or never.

use super::flaky::{Flaky, FAILED};
use super::{fail_at, Change, Model, Waiting, DOMAIN};
use crate::common::{Pool, World};
use gmmu::addr::Pfn;
use gmmu::device::{Invalidator, Poll, TableMemory};
use gmmu::format::Format;
use gmmu::mmio::Mmio;
use gmmu::storage::NoMemory;
use gmmu::vmm::{
    poll_flush_all, CommitError, ExecuteError, Flushed, Job, Plan, PrepareError, Ready, Receipt, State, Vmm,
};
use gmmu_sim::{Gpu, Watched};
use std::ops::Range;

/// A job on its way, with its frames or without.
enum Running<'f> {
    Plain(Job),
    Late(Ready<'f>),
}

impl AsMut<Job> for Running<'_> {
    fn as_mut(&mut self) -> &mut Job {
        match self {
            Self::Plain(job) => job,
            Self::Late(ready) => ready.as_mut(),
        }
    }
}

impl<'f> Running<'f> {
    fn new(job: Job, frames: &'f [Pfn]) -> Self {
        if frames.is_empty() {
            return Self::Plain(job);
        }
        Self::Late(job.with_frames(frames).map_err(|(_, why)| why).unwrap())
    }

    fn write_some<M: TableMemory>(&mut self, memory: &mut M, budget: u64) -> Result<bool, ExecuteError> {
        match self {
            Self::Plain(job) => job.write_some(memory, budget),
            Self::Late(ready) => ready.write_some(memory, budget),
        }
    }

    fn poll_flush<I: Invalidator>(&mut self, invalidator: &mut I) -> Result<Flushed, ExecuteError> {
        match self {
            Self::Plain(job) => job.poll_flush(invalidator),
            Self::Late(ready) => ready.poll_flush(invalidator),
        }
    }

    fn finish(self) -> Receipt {
        match self {
            Self::Plain(job) => job.finish().unwrap(),
            Self::Late(ready) => ready.finish().unwrap(),
        }
    }

    fn into_job(self) -> Job {
        match self {
            Self::Plain(job) => job,
            Self::Late(ready) => ready.into_job(),
        }
    }
}

impl<F: Format> Model<F> {
    pub(super) fn execute(&mut self) {
        if !self.waiting.is_empty() {
            let index = if self.random.one_in(3) { 0 } else { self.random.index(self.waiting.len()) };
            self.execute_at(index);
        }
    }

    /// Executes a job that waits, and says whether it could be.
    fn execute_at(&mut self, index: usize) -> bool {
        let Waiting { job, number, range, change, frames, calm } = self.waiting.remove(index);
        let points = self.points(&range);
        self.look(&points);
        let mut job = Running::new(job, &frames);
        let alone = index == 0 && self.running.is_empty();
        let meets = |other: &Range<u64>| other.start < range.end && range.start < other.end;
        let blocked = self.running.iter().any(|(other, _)| meets(other))
            || self.waiting.iter().any(|other| other.number < number && meets(&other.range));
        self.running.push((range.clone(), calm));
        if let Err(why) = self.run(&mut job, number, &points) {
            match why {
                ExecuteError::NotYet => {
                    assert!(!alone, "the oldest job has nobody to wait for");
                    let earlier = |other: &&Waiting| other.number < number;
                    let ranges = self.waiting.iter().filter(earlier).map(|other| &other.range);
                    let near = ranges
                        .chain(self.running.iter().rev().skip(1).map(|(range, _)| range))
                        .any(|other| meet(other, &range));
                    assert!(near || !self.plain, "{number} waits for nobody");
                }
                why => assert_eq!(why, ExecuteError::PredecessorLost),
            }
            self.running.pop();
            self.count("refused");
            // Others may have got through meanwhile.
            let index = self.waiting.partition_point(|other| other.number < number);
            self.waiting.insert(index, Waiting { job: job.into_job(), number, range, change, frames, calm });
            return false;
        }
        assert!(!blocked, "job {number} overtook one on the same pages");
        let receipt = job.finish();
        self.running.pop();
        self.executed(number, &range, &change, receipt);
        self.look(&points);
        true
    }

    /// What an executed job has done.
    fn executed(&mut self, number: u64, range: &Range<u64>, change: &Change, receipt: Receipt) {
        self.count("executed");
        self.note(format!("  {number} was executed"));
        match change {
            Change::Pages { after, .. } => self.done.set(range, after),
            Change::Sparse { after, .. } => self.done_sparse.set(range, after),
        }
        if self.random.one_in(4) {
            let points = self.points(range);
            self.look(&points);
        }
        match self.random.below(4) {
            0 => drop(receipt),
            1 => self.receipts.push(receipt),
            _ => self.commit(receipt),
        }
    }

    /// Writes a round of several jobs each, and flushes all of them under one invalidate.
    pub(super) fn execute_together(&mut self) {
        let count = (2 + self.random.index(3)).min(self.waiting.len());
        let (mut jobs, mut rest) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let Waiting { job, number, range, change, frames, calm } =
                self.waiting.remove(self.random.index(self.waiting.len()));
            jobs.push(job);
            rest.push((number, range, change, frames, calm));
        }
        let mut points = Vec::new();
        for (_, range, ..) in &rest {
            points.extend(self.points(range));
        }
        self.look(&points);
        let (mut begun, mut refused) = (Vec::new(), Vec::new());
        for (n, job) in jobs.into_iter().enumerate() {
            let (_, range, _, frames, calm) = &rest[n];
            let mut job = Running::new(job, frames);
            match job.write_some(&mut self.world.mmio, u64::MAX) {
                Ok(written) => {
                    assert!(written);
                    self.running.push((range.clone(), *calm));
                    begun.push((n, job));
                }
                Err(why) => {
                    assert!(matches!(why, ExecuteError::NotYet | ExecuteError::PredecessorLost), "{why}");
                    refused.push((n, job.into_job()));
                }
            }
        }
        let (numbers, mut begun): (Vec<usize>, Vec<Running<'_>>) = begun.into_iter().unzip();
        loop {
            while poll_flush_all(&mut begun, &mut self.world.mmio).unwrap() == Poll::Pending {
                self.look(&points);
            }
            let mut open = false;
            for job in &mut begun {
                if job.as_mut().state() != State::Acknowledged {
                    assert!(job.write_some(&mut self.world.mmio, u64::MAX).unwrap());
                    open = true;
                }
            }
            if !open {
                break;
            }
            self.look(&points);
        }
        self.running.truncate(self.running.len() - begun.len());
        let receipts: Vec<Receipt> = begun.into_iter().map(Running::finish).collect();
        // All have happened before anybody looks.
        for n in &numbers {
            match &rest[*n] {
                (_, range, Change::Pages { after, .. }, ..) => self.done.set(range, after),
                (_, range, Change::Sparse { after, .. }, ..) => self.done_sparse.set(range, after),
            }
        }
        for (n, receipt) in numbers.into_iter().zip(receipts) {
            let (number, range, change, ..) = &rest[n];
            self.count("together");
            self.executed(*number, range, change, receipt);
        }
        for (n, (number, range, change, frames, calm)) in rest.into_iter().enumerate() {
            if let Some(at) = refused.iter().position(|(refused, _)| *refused == n) {
                let (_, job) = refused.swap_remove(at);
                self.waiting.push(Waiting { job, number, range, change, frames, calm });
            }
        }
        self.waiting.sort_by_key(|waiting| waiting.number);
        self.look(&points);
    }

    /// Writes and flushes all rounds, a few words at a time, and looks around in between.
    fn run(&mut self, job: &mut Running<'_>, number: u64, points: &[u64]) -> Result<(), ExecuteError> {
        let slow = self.random.one_in(4);
        loop {
            let budget = match self.random.below(3) {
                _ if !slow => u64::MAX,
                0 => self.random.below(4),
                1 => self.random.below(40),
                _ => self.random.below(1000),
            };
            let written = self.on_hardware(|hardware| job.write_some(hardware, budget))?.unwrap_or(false);
            if written && self.flush(job, slow, number, points)? {
                return Ok(());
            }
            self.pause(slow, number, points);
        }
    }

    /// Flushes a round, and says whether it was the last one.
    fn flush(&mut self, job: &mut Running<'_>, slow: bool, number: u64, points: &[u64]) -> Result<bool, ExecuteError> {
        loop {
            match self.on_hardware(|hardware| job.poll_flush(hardware))? {
                Some(Flushed::Done) => return Ok(true),
                Some(Flushed::NextRound) => return Ok(false),
                Some(Flushed::Pending) | None => self.pause(slow, number, points),
            }
        }
    }

    /// What comes of a call on hardware that fails now and then; `None` where it did.
    fn on_hardware<T>(
        &mut self,
        call: impl FnOnce(&mut Flaky<'_, Mmio<Gpu>>) -> Result<T, ExecuteError>,
    ) -> Result<Option<T>, ExecuteError> {
        let left = if self.short && self.random.one_in(6) { self.random.below(12) } else { u64::MAX };
        match call(&mut Flaky { hardware: &mut self.world.mmio, left }) {
            Err(ExecuteError::Device(why)) => {
                assert_eq!(why, FAILED);
                self.count("hardware failed");
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// Prepares what `plan` plans, on hardware that fails now and then; some plans are let go of.
    pub(super) fn plan(
        &mut self,
        plan: impl for<'a> FnOnce(&'a mut Vmm<F>, &'a mut Watched<Pool>) -> Result<Plan<'a, F, Watched<Pool>>, PrepareError>,
    ) -> Result<Job, PrepareError> {
        let World { mmio, pool, notes, vmm } = &mut self.world;
        let plan = plan(vmm, pool)?;
        notes.tell(mmio.bar0());
        let left = if self.short && self.random.one_in(6) { self.random.below(20) } else { u64::MAX };
        if self.short && self.random.one_in(20) {
            drop(plan);
            notes.tell(mmio.bar0());
            return Err(PrepareError::NoMemory(NoMemory));
        }
        let job = plan.init(&mut Flaky { hardware: &mut *mmio, left });
        notes.tell(mmio.bar0());
        job
    }

    /// While a job is half executed: its neighbours are what they were, and other jobs go on.
    fn pause(&mut self, slow: bool, number: u64, points: &[u64]) {
        if slow && !self.quiet && self.running.len() < 3 && self.random.one_in(8) {
            self.note(format!("  while {number} is half executed:"));
            self.count("in between");
            self.step_between();
        }
        if self.random.one_in(4) {
            self.look(points);
        }
    }

    fn commit(&mut self, receipt: Receipt) {
        self.world.vmm.commit(&mut self.world.pool, receipt).unwrap();
        self.world.notes.tell(self.world.mmio.bar0());
    }

    pub(super) fn cancel(&mut self) {
        if !self.waiting.is_empty() {
            let newest = self.waiting.len() - 1;
            let index = if self.random.one_in(2) { newest } else { self.random.index(newest + 1) };
            self.cancel_at(index);
        }
    }

    /// Cancels a job that waits, and says whether it could be.
    pub(super) fn cancel_at(&mut self, index: usize) -> bool {
        let newest = index + 1 == self.waiting.len();
        let Waiting { job, number, range, change, frames, calm } = self.waiting.remove(index);
        if self.short && self.random.one_in(4) {
            fail_at(1);
        }
        let cancelled = self.world.vmm.cancel(&mut self.world.pool, job);
        fail_at(0);
        self.world.notes.tell(self.world.mmio.bar0());
        match cancelled {
            Ok(()) => {
                self.count("cancelled");
                self.note(format!("  {number} was cancelled"));
                self.withdraw(&range, &change);
                let points = self.points(&range);
                self.look(&points);
                true
            }
            Err((job, why)) => {
                match why {
                    CommitError::HasDependents => {
                        assert!(!newest, "nothing builds on the newest job");
                        let later = self.waiting.iter().filter(|other| other.number > number);
                        let near = later.map(|other| &other.range).any(|other| meet(other, &range));
                        assert!(near || !self.plain, "nothing builds on {number}");
                    }
                    why => assert!(self.short && matches!(why, CommitError::NoMemory(_)), "{why}"),
                }
                self.count("not cancelled");
                self.waiting.insert(index, Waiting { job, number, range, change, frames, calm });
                false
            }
        }
    }

    /// The books without a job on which no other builds.
    fn withdraw(&mut self, range: &Range<u64>, change: &Change) {
        match change {
            Change::Pages { before, .. } => self.books.set(range, before),
            Change::Sparse { before, .. } => self.sparse.set(range, before),
        }
    }

    /// Drops a job that waits. Those behind it are executed where they can be, else cancelled, the newest first; then the
    /// next call takes the dropped one back.
    pub(super) fn drop_one(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let dropped = self.random.index(self.waiting.len());
        let Waiting { job, number, range, change, .. } = self.waiting.remove(dropped);
        drop(job);
        self.count("dropped");
        self.note(format!("  {number} was dropped"));
        self.quiet = true;
        for index in (dropped..self.waiting.len()).rev() {
            if self.random.one_in(2) && self.execute_at(index) {
                continue;
            }
            while !self.cancel_at(index) {}
        }
        self.quiet = false;
        self.withdraw(&range, &change);
        self.sweep();
        let points = self.points(&range);
        self.look(&points);
    }

    /// A call that changes nothing itself: whatever was dropped is seen to.
    pub(super) fn sweep(&mut self) {
        let nothing = self.world.vmm.plan_unmap(&mut self.world.pool, 0..0).map(drop);
        assert_eq!(nothing, Err(PrepareError::Empty));
        self.world.notes.tell(self.world.mmio.bar0());
    }

    /// Commits receipts that wait, in any order.
    pub(super) fn commit_some(&mut self) {
        while !self.receipts.is_empty() {
            let index = self.random.index(self.receipts.len());
            let receipt = self.receipts.remove(index);
            self.commit(receipt);
            if self.random.one_in(3) {
                break;
            }
        }
    }
}

/// Whether there is a domain that both touch.
fn meet(a: &Range<u64>, b: &Range<u64>) -> bool {
    let [a, b] = [a, b].map(|range| range.start / DOMAIN..range.end.div_ceil(DOMAIN));
    a.start < b.end && b.start < a.end
}
