//! A thread that prepares, executes, cancels and lets go at random, among others that do the same.

use super::{data, Card, Deed, Desk, Grain, Lock, Rig, Wish, GRAINS};
use crate::common::{Random, MIB};
use gmmu::addr::PageSize;
use gmmu::format::Format;
use gmmu::vmm::{ExecuteError, Live, Receipt, Span};

const KIB_64: u64 = 64 << 10;

/// The addresses that a worker works on.
#[derive(Clone, Debug)]
pub struct Area {
    /// Starts of 2 MiB that everybody changes.
    pub shared: Vec<u64>,
    /// The start of 2 MiB that only this worker changes.
    pub own: u64,
    /// Only a few pages of each: for cases that are small, and collide.
    pub few: bool,
}

/// Waiting jobs and receipts of one thread.
#[derive(Debug)]
pub struct Worker {
    pub random: Random,
    pub area: Area,
    waiting: Vec<Deed>,
    receipts: Vec<Receipt>,
    /// Jobs that were executed, and refused for now.
    pub executed: u64,
    pub refused: u64,
    pub cancelled: u64,
    pub dropped: u64,
}

impl Worker {
    pub const fn new(seed: u64, area: Area) -> Self {
        let waiting = Vec::new();
        Self {
            random: Random(seed),
            area,
            waiting,
            receipts: Vec::new(),
            executed: 0,
            refused: 0,
            cancelled: 0,
            dropped: 0,
        }
    }

    /// A page number in a domain.
    fn page(&mut self) -> u64 {
        if self.area.few {
            [0, 1, 15, 16, 17, 32, 511][self.random.index(7)]
        } else {
            self.random.below(512)
        }
    }

    fn live(&mut self) -> Live {
        if self.random.one_in(4) {
            Live::MustNotFault
        } else {
            Live::Replayable
        }
    }

    fn domain(&mut self) -> u64 {
        if self.random.one_in(4) {
            return self.area.own;
        }
        self.area.shared[self.random.index(self.area.shared.len())]
    }

    /// Some pages of a domain.
    fn span(&mut self, domain: u64) -> Span {
        let (unit, most) = [(4096, 512), (4096, 20), (KIB_64, 32)][self.random.index(3)];
        let start = domain + ((self.page() * 4096) & !(unit - 1));
        let longest = if self.area.few { 3 } else { most };
        let end = (start + unit * (1 + self.random.below(longest))).min(domain + 2 * MIB);
        let range = if self.random.one_in(6) { domain..domain + 2 * MIB } else { start..end };
        Span { range, live: self.live() }
    }

    fn map(&mut self, domain: u64) -> Wish {
        let live = self.live();
        let number = self.random.below(200);
        let (page, unit, most) = match self.random.below(8) {
            0..=3 => (PageSize::Size4K, 4096, 24),
            4..=6 => (PageSize::Size64K, KIB_64, 4),
            _ => (PageSize::Size2M, 2 * MIB, 1),
        };
        let start = (self.page() * 4096) & !(unit - 1);
        let longest = if self.area.few { most.min(2) } else { most };
        let bytes = (unit * (1 + self.random.below(longest))).min(2 * MIB - start);
        if unit == 4096 && self.random.one_in(3) {
            let frames = (0..bytes / 4096).map(|_| data(self.random.below(200)) + self.random.below(512) * 4096);
            return Wish::Late { va: domain + start, frames: frames.collect(), live };
        }
        let to = data(number) + if self.random.one_in(2) { start } else { 0 };
        let page = if self.random.one_in(3) { None } else { Some(page) };
        Wish::Map { va: domain + start, to, bytes, page, live }
    }

    fn wish<F: Format, D: Lock<Desk<F>>, H: Lock<Card>>(&mut self, rig: &Rig<F, D, H>) -> Wish {
        let domain = self.domain();
        match self.random.below(16) {
            0..=7 => self.map(domain),
            8..=11 => Wish::Unmap(self.span(domain)),
            12 | 13 => {
                let span = self.span(domain);
                let mapped = rig.desk.with(|desk| desk.mapped_from(span.range.clone()));
                // It may be gone by the time that the wish is prepared.
                let range = mapped.unwrap_or(span.range);
                Wish::Protect(Span { range, ..span }, self.random.one_in(2))
            }
            14 => Wish::Sparse(self.span(domain)),
            _ => Wish::Unsparse(self.span(domain)),
        }
    }

    /// One thing or another.
    pub fn step<F: Format, D: Lock<Desk<F>>, H: Lock<Card>>(&mut self, rig: &Rig<F, D, H>) {
        match self.random.below(10) {
            0..=3 if self.waiting.len() < 4 => {
                let wish = self.wish(rig);
                if let Ok(deed) = rig.prepare(&wish) {
                    self.waiting.push(deed);
                }
            }
            0..=6 => self.execute(rig),
            7 => self.cancel(rig),
            8 => self.drop_one(rig),
            _ => self.commit(rig),
        }
    }

    fn grain(&mut self) -> Grain {
        GRAINS[self.random.index(3)]
    }

    fn execute<F: Format, D: Lock<Desk<F>>, H: Lock<Card>>(&mut self, rig: &Rig<F, D, H>) {
        if self.waiting.is_empty() {
            return;
        }
        let index = self.random.index(self.waiting.len());
        let grain = self.grain();
        let deed = self.waiting.remove(index);
        match rig.try_execute(deed, grain) {
            Ok(receipt) => {
                self.executed += 1;
                match self.random.below(4) {
                    // Swept up by whoever calls the planner next.
                    0 => drop(receipt),
                    1 => self.receipts.push(receipt),
                    _ => rig.commit(receipt),
                }
            }
            Err((deed, why)) => {
                assert_eq!(why, ExecuteError::NotYet);
                self.refused += 1;
                self.waiting.insert(index, deed);
                (rig.beat.pause)();
            }
        }
    }

    fn cancel<F: Format, D: Lock<Desk<F>>, H: Lock<Card>>(&mut self, rig: &Rig<F, D, H>) {
        if self.waiting.is_empty() {
            return;
        }
        let index = self.random.index(self.waiting.len());
        match rig.try_cancel(self.waiting.remove(index)) {
            Ok(()) => self.cancelled += 1,
            Err(deed) => self.waiting.insert(index, deed),
        }
    }

    /// Lets go of an unbegun job that nobody builds on: the newest in this worker's own addresses.
    fn drop_one<F: Format, D: Lock<Desk<F>>, H: Lock<Card>>(&mut self, rig: &Rig<F, D, H>) {
        let own = self.area.own..self.area.own + 2 * MIB;
        let newest = self.waiting.iter().enumerate().filter(|(_, deed)| own.contains(&deed.job.range().start));
        let Some((index, _)) = newest.max_by_key(|(_, deed)| deed.number) else { return };
        let Deed { job, number, undo, .. } = self.waiting.remove(index);
        // While others prepare, commit and sweep.
        drop(job);
        self.dropped += 1;
        rig.desk.with(|desk| {
            desk.sweep(&rig.gpu);
            desk.forget(number, &undo, &rig.oracle);
        });
    }

    fn commit<F: Format, D: Lock<Desk<F>>, H: Lock<Card>>(&mut self, rig: &Rig<F, D, H>) {
        if !self.receipts.is_empty() {
            let index = self.random.index(self.receipts.len());
            rig.commit(self.receipts.swap_remove(index));
        }
    }

    /// Executes and commits all that is left.
    pub fn finish<F: Format, D: Lock<Desk<F>>, H: Lock<Card>>(&mut self, rig: &Rig<F, D, H>) {
        while !self.waiting.is_empty() {
            self.execute(rig);
        }
        while !self.receipts.is_empty() {
            self.commit(rig);
        }
        rig.desk.with(|desk| desk.sweep(&rig.gpu));
    }
}
