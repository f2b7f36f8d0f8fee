//! What a script's runner remembers of memory: which of it the allocator gave, and which frames a list had.

use std::collections::HashMap;
use std::ops::Range;

use gmmu::addr::{PAGE_BYTES, Pfn};
use gmmu::vmm::Job;

use crate::machine::Data;

/// Memory that the allocator gave, and the addresses at which it is still mapped.
struct Given {
    /// The number of the change that mapped it.
    since: u64,
    mapped: Vec<Range<u64>>,
    memory: Data,
}

/// The frames of a page, by the number of the change that mapped them: the latest is the one that counts.
type Frames = Vec<(u64, Pfn)>;

/// The memory of one space, by whose it is.
#[derive(Default)]
struct Memory {
    data: Vec<Given>,
    /// The frame of every page that was mapped from a list, by address and page size: the library keeps none.
    frames: HashMap<(u64, u64), Frames>,
}

/// Memory, by the space that has it.
#[derive(Default)]
pub(super) struct Books(HashMap<String, Memory>);

impl Books {
    fn of(&mut self, space: &str) -> &mut Memory {
        self.0.entry(space.to_owned()).or_default()
    }

    /// Change number `since` maps memory of the allocator's.
    pub(super) fn add_data(&mut self, space: &str, since: u64, range: Range<u64>, memory: Data) {
        self.of(space).data.push(Given { since, mapped: vec![range], memory });
    }

    /// Change number `since` maps these pages from `start` on, `bytes` each.
    pub(super) fn add_frames(&mut self, space: &str, since: u64, start: u64, bytes: u64, pages: &[u64]) {
        let frames = &mut self.of(space).frames;
        let at = (0u64..).map(|n| start.saturating_add(n.saturating_mul(bytes)));
        for (va, page) in at.zip(pages) {
            frames.entry((va, bytes)).or_default().push((since, Pfn::new(page / PAGE_BYTES)));
        }
    }

    /// Change number `by` was carried out: `range` is not mapped any more, or to something else. What is mapped nowhere
    /// now.
    pub(super) fn unmapped(&mut self, space: &str, by: u64, range: &Range<u64>) -> Vec<Data> {
        let data = &mut self.of(space).data;
        for given in data.iter_mut().filter(|given| given.since < by) {
            let rest = given
                .mapped
                .iter()
                .flat_map(|part| [part.start..part.end.min(range.start), part.start.max(range.end)..part.end]);
            given.mapped = rest.filter(|part| part.start < part.end).collect();
        }
        data.extract_if(.., |given| given.mapped.is_empty()).map(|given| given.memory).collect()
    }

    /// The changes with these numbers were taken back: their memory.
    pub(super) fn taken_back(&mut self, space: &str, numbers: &Range<u64>) -> Vec<Data> {
        let memory = self.of(space);
        memory.frames.retain(|_, frames| {
            frames.retain(|(since, _)| !numbers.contains(since));
            !frames.is_empty()
        });
        memory.data.extract_if(.., |given| numbers.contains(&given.since)).map(|given| given.memory).collect()
    }

    /// A space was closed: its memory.
    pub(super) fn closed(&mut self, space: &str) -> Vec<Data> {
        self.0.remove(space).into_iter().flat_map(|memory| memory.data).map(|given| given.memory).collect()
    }

    /// All frames that a job wants, in its order. One that nobody knows is left out, and the library says so.
    pub(super) fn wanted(&self, space: &str, job: &Job) -> Vec<Pfn> {
        let Some(memory) = self.0.get(space) else { return Vec::new() };
        let pages = job.wants().iter().flat_map(|want| {
            let bytes = want.page.bytes();
            (0..want.pages).map(move |n| (want.va.saturating_add(n.saturating_mul(bytes)), bytes))
        });
        pages.filter_map(|page| memory.frames.get(&page)?.last()).map(|(_, frame)| *frame).collect()
    }
}
