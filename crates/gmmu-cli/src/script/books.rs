//! What a script's runner remembers of memory: which of it the allocator gave, and which frames a list had.

use std::collections::HashMap;
use std::ops::Range;

use gmmu::addr::{PAGE_BYTES, Pfn};
use gmmu::vmm::Job;

use crate::machine::Data;

/// Memory that the allocator gave, and the addresses at which it is still mapped.
struct Given {
    space: String,
    /// The number of the change that mapped it.
    since: u64,
    mapped: Vec<Range<u64>>,
    memory: Data,
}

/// Entries of the frame list that a change replaced, to put them back where it is cancelled.
pub(super) type Replaced = Vec<(u64, Option<Pfn>)>;

/// Memory, by whose it is.
#[derive(Default)]
pub(super) struct Books {
    data: Vec<Given>,
    /// The frame of every page that was mapped from a list, by space and address: the library keeps none.
    frames: HashMap<String, HashMap<u64, Pfn>>,
}

impl Books {
    /// Change number `since` maps memory of the allocator's.
    pub(super) fn add_data(&mut self, space: &str, since: u64, range: Range<u64>, memory: Data) {
        self.data.push(Given { space: space.to_owned(), since, mapped: vec![range], memory });
    }

    /// Change number `by` was carried out: `range` is not mapped any more. What is mapped nowhere now.
    pub(super) fn unmapped(&mut self, space: &str, by: u64, range: &Range<u64>) -> Vec<Data> {
        for data in self.data.iter_mut().filter(|data| data.space == space && data.since < by) {
            let rest = data
                .mapped
                .iter()
                .flat_map(|part| [part.start..part.end.min(range.start), part.start.max(range.end)..part.end]);
            data.mapped = rest.filter(|part| part.start < part.end).collect();
        }
        self.data.extract_if(.., |data| data.mapped.is_empty()).map(|data| data.memory).collect()
    }

    /// Change number `since` was taken back: its memory.
    pub(super) fn cancelled(&mut self, since: u64) -> Vec<Data> {
        self.data.extract_if(.., |data| data.since == since).map(|data| data.memory).collect()
    }

    /// Enters the frames of pages from `start` on, `bytes` each.
    pub(super) fn add_frames(&mut self, space: &str, start: u64, bytes: u64, pages: &[u64]) -> Replaced {
        let frames = self.frames.entry(space.to_owned()).or_default();
        let at = (0u64..).map(|n| start.saturating_add(n.saturating_mul(bytes)));
        at.zip(pages).map(|(va, page)| (va, frames.insert(va, Pfn::new(page / PAGE_BYTES)))).collect()
    }

    /// Puts back what [`add_frames`](Self::add_frames) replaced.
    pub(super) fn put_back(&mut self, space: &str, replaced: Replaced) {
        let Some(frames) = self.frames.get_mut(space) else { return };
        for (va, frame) in replaced {
            match frame {
                Some(frame) => frames.insert(va, frame),
                None => frames.remove(&va),
            };
        }
    }

    /// All frames that a job wants, in its order. One that nobody knows is left out, and the library says so.
    pub(super) fn wanted(&self, space: &str, job: &Job) -> Vec<Pfn> {
        let Some(frames) = self.frames.get(space) else { return Vec::new() };
        let pages = job
            .wants()
            .iter()
            .flat_map(|want| (0..want.pages).map(|n| want.va.saturating_add(n.saturating_mul(want.page.bytes()))));
        pages.filter_map(|va| frames.get(&va).copied()).collect()
    }
}
