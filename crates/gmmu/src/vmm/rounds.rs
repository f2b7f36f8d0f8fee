//! Rounds as the planner fills them: writes that join where they go on from one another.

use super::execute::{Evictable, Flush, Source, Write};
use crate::device::{Depth, Invalidate, Run};
use crate::storage::{List, NoMemory};

/// Writes and invalidate of one round, owned.
#[derive(Debug)]
pub(crate) struct OwnedRound {
    pub(crate) leaves: List<Write>,
    pub(crate) evictable: List<Evictable>,
    pub(crate) links: List<Write>,
    pub(crate) flush: Flush,
    /// It is done once its invalidate is triggered.
    #[cfg(feature = "sabotage")]
    pub(crate) hasty: bool,
}

impl OwnedRound {
    pub(crate) const fn new(what: Invalidate) -> Self {
        Self {
            leaves: List::new(),
            evictable: List::new(),
            links: List::new(),
            flush: Flush::new(what),
            #[cfg(feature = "sabotage")]
            hasty: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.leaves.is_empty() && self.evictable.is_empty() && self.links.is_empty()
    }

    /// Makes the invalidate reach at least `depth`.
    pub(crate) fn deepen(&mut self, depth: Depth) {
        self.flush.what.depth = self.flush.what.depth.max(depth);
    }
}

/// Appends `write`, as part of the last one where it goes on from that.
pub(crate) fn push_write(writes: &mut List<Write>, write: Write) -> Result<(), NoMemory> {
    if write.run.count == 0 {
        return Ok(());
    }
    if let Some(last) = writes.last_mut() {
        if let Some(joined) = join(last, &write) {
            *last = joined;
            return Ok(());
        }
    }
    writes.push(write)
}

/// One write for both, where `next` goes on from `last`.
fn join(last: &Write, next: &Write) -> Option<Write> {
    let count = last.run.count.checked_add(next.run.count)?;
    let distance = next.at.raw().wrapping_sub(last.at.raw());
    // The stride and the step of a single word are free to choose.
    let stride = if last.run.count > 1 { u64::from(last.stride) } else { distance };
    let step = if last.run.count > 1 { last.run.step } else { next.run.first.wrapping_sub(last.run.first) };
    let fits = last.source == next.source
        && last.source == Source::Words
        && last.at.with_raw(next.at.raw()) == next.at
        && (stride == 8 || stride == 16)
        && distance == stride * u64::from(last.run.count)
        && next.run.first == last.run.first.wrapping_add(step.wrapping_mul(u64::from(last.run.count)))
        && (next.run.count == 1 || (next.run.step == step && u64::from(next.stride) == stride));
    let run = Run { first: last.run.first, step, count };
    fits.then(|| Write { at: last.at, run, stride: stride.to_le_bytes()[0], source: last.source })
}
