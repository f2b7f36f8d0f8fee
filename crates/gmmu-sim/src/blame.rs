//! Why a stale hit came about: the latest invalidates, and what each of them lacked.

use crate::format::{Directory, Dual, BIG, PD0};
use crate::mmu::{Miss, Translated};
use crate::model::Model;
use crate::sanitizer::{Finding, Rule};
use crate::tlb::{Class, Reach, Stale};
use gmmu::addr::TableAddr;
use std::collections::VecDeque;

/// A completed invalidate.
#[derive(Clone, Copy, Debug)]
struct Done {
    triggered: u64,
    completed: u64,
    reach: Reach,
    /// It found something outdated to forget, so somebody needed it.
    useful: bool,
}

/// The latest invalidates, a bounded number.
#[derive(Debug, Default)]
pub(crate) struct Invalidates(VecDeque<Done>);

impl Invalidates {
    const MAX: usize = 64;

    /// The invalidate after a change that came nearest to covering it: what it lacked, and when it was done.
    fn nearest(&self, stale: &Stale, class: Class, pdb: u64) -> Option<(Rule, u64)> {
        let changed = stale.changed.op();
        let lacks = |done: &&Done| {
            let reach = &done.reach;
            match () {
                // It began before there was anything to cover.
                () if done.triggered < changed => None,
                () if reach.pdb.is_some_and(|named| named != pdb) => {
                    (!done.useful).then_some((0, Rule::InvalidateWrongPdb))
                }
                () if reach.deepest < stale.level => Some((1, Rule::InvalidateTooShallow)),
                () if reach.hub_only && class == Class::Gpc => Some((2, Rule::InvalidateHubOnly)),
                () if !reach.drained.has(stale.changed) => Some((3, Rule::UndrainedStores)),
                () => Some((4, Rule::InvalidateUnacknowledged)),
            }
        };
        let all = self.0.iter().filter_map(|done| lacks(&done).map(|(rank, rule)| (rank, rule, done.completed)));
        all.max_by_key(|&(rank, _, completed)| (rank, completed)).map(|(_, rule, completed)| (rule, completed))
    }
}

impl Model {
    /// An invalidate that was triggered in operation `triggered` is done.
    pub(crate) fn invalidated(&mut self, reach: Reach, triggered: u64) {
        self.epoch += 1;
        let Self { memory, tlb, decoder, op, invalidates, .. } = self;
        let useful = tlb.forget(memory, decoder, &reach, *op);
        if invalidates.0.len() >= Invalidates::MAX {
            invalidates.0.pop_front();
        }
        invalidates.0.push_back(Done { triggered, completed: *op, reach, useful });
        self.forget_sizes(reach.pdb, reach.hub_only, reach.deepest);
    }

    /// An access used outdated words, of which `first` is the uppermost, and got `used`.
    pub(crate) fn judge_stale(
        &mut self,
        context: u32,
        (pdb, va): (TableAddr, u64),
        used: &Result<Translated, Miss>,
        first: &Stale,
    ) {
        let now = self.peek(pdb, va);
        let same = match (used, &now) {
            (Ok(used), Ok(now)) => used == now,
            (Err(_), Err(_)) => true,
            _ => false,
        };
        if same {
            return;
        }
        let (rule, what) = match used {
            Err(_) => (Rule::StaleInvalid, "an access faulted on a cached entry, and memory maps the address by now"),
            Ok(_) if self.was_leaf(first) => {
                (Rule::StaleLeaf, "an access used a cached leaf entry that memory no longer holds")
            }
            Ok(_) => {
                (Rule::StaleDirectory, "an access went through a cached directory entry that memory no longer holds")
            }
        };
        let nearest = self.tlb.owner(context).and_then(|(class, pdb)| self.invalidates.nearest(first, class, pdb));
        let freed = self.memory.find(crate::memory::Space::of(first.at).flat(first.at.raw()));
        let finding = Finding {
            va: Some(va),
            entry: Some(first.at),
            raw: Some(first.now),
            cached: Some(first.cached),
            cached_op: Some(first.since),
            changed_op: Some(first.changed.op()),
            missed_op: nearest.map(|(_, completed)| completed),
            freed_op: freed.and_then(|cell| self.memory.cell(cell).freed),
            ..self.finding(nearest.map_or(rule, |(rule, _)| rule), what)
        };
        self.report.add(finding);
    }

    fn was_leaf(&self, stale: &Stale) -> bool {
        match stale.level {
            0..=BIG => true,
            PD0 if stale.at.is_aligned(16) => self.decoder.dual(stale.cached, 0).maps(),
            PD0 => matches!(self.decoder.dual(0, stale.cached), Dual::Leaf),
            level => matches!(self.decoder.directory(level, stale.cached), Directory::Leaf | Directory::Sparse),
        }
    }
}
