//! Reclaiming: empty tables are unlinked, forgotten by the GPU, and given back. Unmaps leave them linked for the next
//! mapping, where clearing entries was less to write than dropping a table.

use super::plan::{one_word, Planner};
use super::prepare::Plan;
use super::request::PrepareError;
use super::rounds::push_write;
use super::space::Vmm;
use crate::device::{TableMemory, TablePool};
use crate::format::Format;
use crate::tree::{dual_level, level, Child, Half, Place, Tree, DIRECTORY_BYTES};
use crate::va::windows::{self, Cover};
use core::ops::Range;

/// Is told of a table that can go: what it spans, what it is, and which half it hangs on.
type Visit<'v, F> = dyn FnMut(&Tree<F>, Range<u64>, Child, Half) -> Result<(), PrepareError> + 'v;

impl<F: Format> Vmm<F> {
    /// Bytes of table memory that a [`plan_reclaim`](Self::plan_reclaim) would give back now.
    #[must_use]
    pub fn reclaimable(&self) -> u64 {
        let mut bytes = 0;
        self.visit_idle(0, self.tree.root(), 0, &mut |tree, _, child, half| {
            bytes += tree.bytes_below(child, half);
            Ok(())
        })
        .map_or(0, |()| bytes)
    }

    /// Plans to give back every table that maps nothing and below which no job is open.
    ///
    /// # Errors
    /// [`PrepareError::NotMapped`] where there is nothing to give back, and as any job; nothing was changed and nothing is
    /// held.
    pub fn plan_reclaim<'a, P: TablePool>(&'a mut self, pool: &'a mut P) -> Result<Plan<'a, F, P>, PrepareError> {
        self.open(pool)?;
        let limits = self.va.limits();
        let mut idle = self.new_change(0..0, super::Live::MustNotFault)?;
        let mut hull: Option<Range<u64>> = None;
        let parts = &mut idle.parts;
        self.visit_idle(0, self.tree.root(), 0, &mut |_, span, _, _| {
            hull = Some(hull.as_ref().map_or(span.clone(), |hull| hull.start..span.end));
            windows::add(parts, span)?;
            Ok(())
        })?;
        let Some(hull) = hull else { return Err(PrepareError::NotMapped { range: limits }) };
        idle.range = hull;
        (idle.removes, idle.pages_stay, idle.reclaims) = (true, true, true);
        self.plan_change(pool, idle)
    }

    /// Prepares to give empty tables back: [`plan_reclaim`](Self::plan_reclaim) and [`Plan::init`] in one.
    ///
    /// # Errors
    /// [`PrepareError`]; nothing was changed and nothing is held.
    pub fn prepare_reclaim<M: TableMemory, P: TablePool>(
        &mut self,
        memory: &mut M,
        pool: &mut P,
    ) -> Result<super::Job, PrepareError> {
        self.plan_reclaim(pool)?.init(memory)
    }

    /// Calls `idle` with every table that can go, and not with those below it.
    fn visit_idle(&self, n: u8, number: u32, start: u64, idle: &mut Visit<'_, F>) -> Result<(), PrepareError> {
        let level = level::<F>(n);
        let words = level.entry_bytes / 8;
        for slot in 0..level.entries() * words {
            let place = Place { directory: number, slot: u16::try_from(slot).unwrap_or(0) };
            let child = self.tree.child(place);
            let start = start + ((slot / words) << level.shift);
            let span = start..start + level.span();
            let half = if n == dual_level::<F>() && slot % 2 == 1 { Half::Small } else { Half::Big };
            match child {
                Child::Empty | Child::Leaf | Child::Sparse => {}
                Child::Directory(_) | Child::Table(_) if self.is_idle(child, &span) => {
                    idle(&self.tree, span, child, half)?;
                }
                Child::Directory(below) => self.visit_idle(n + 1, below, start, idle)?,
                Child::Table(_) => {}
            }
        }
        Ok(())
    }

    fn is_idle(&self, child: Child, span: &Range<u64>) -> bool {
        let meets = |range: &Range<u64>| range.start < span.end && span.start < range.end;
        self.tree.is_empty_below(child)
            && self.sparse.cover(span.clone()) == Cover::None
            && !self.jobs.iter().any(|(_, job)| meets(&job.change.range) || job.held.owned.iter().any(meets))
    }
}

impl<F: Format, P: TablePool> Planner<'_, F, P> {
    /// Unlinks all tables that lie whole in the change's parts and map nothing.
    pub(super) fn reclaim(&mut self, n: u8, number: u32, start: u64) -> Result<(), PrepareError> {
        let level = level::<F>(n);
        let words = level.entry_bytes / 8;
        for slot in 0..level.entries() * words {
            let place = Place { directory: number, slot: u16::try_from(slot).unwrap_or(0) };
            let start = start + ((slot / words) << level.shift);
            let span = start..start + level.span();
            let child = self.tree.child(place);
            let (Child::Directory(_) | Child::Table(_)) = child else { continue };
            if self.set.change.covers(&span) && self.tree.is_empty_below(child) {
                self.held.own(span)?;
                self.held.journal.reserve(1)?;
                self.held.journal.hang(self.tree, place, 1, Child::Empty);
                let at = self.tree.word_at(place).ok_or(PrepareError::Overflow)?;
                push_write(&mut self.main.links, one_word(at, 0))?;
                self.main.deepen(level.depth);
            } else if let Child::Directory(below) = child {
                if self.set.change.parts_in(span).next().is_some() {
                    self.reclaim(n + 1, below, start)?;
                }
            }
        }
        Ok(())
    }
}

impl<F: Format> Tree<F> {
    /// Bytes of memory of `child` and all tables below it.
    fn bytes_below(&self, child: Child, half: Half) -> u64 {
        match child {
            Child::Empty | Child::Leaf | Child::Sparse => 0,
            Child::Table(_) => half.level().table_bytes(),
            Child::Directory(directory) => (0..512).fold(DIRECTORY_BYTES, |sum, slot| {
                let half = if slot % 2 == 0 { Half::Big } else { Half::Small };
                sum + self.bytes_below(self.child(Place { directory, slot }), half)
            }),
        }
    }
}
