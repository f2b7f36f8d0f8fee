//! A space that is asked for pages, and what can be seen of it from outside.

use crate::common::World;
use gmmu::addr::{Aperture, PageSize, PhysAddr, TableAddr};
use gmmu::device::{
    Acknowledge, Clock, Depth, DeviceError, Invalidate, Invalidator, Poll, Run, TableMemory, TableRead, Ticket,
};
use gmmu::format::Format;
use gmmu::mmio::Mmio;
use gmmu::vmm::{Extent, Job, Live, MapRequest, PrepareError, Span};
use gmmu::walk::Outcome;
use gmmu_sim::Gpu;
use std::ops::Range;
use Acknowledge::Globally;

/// The card, and all invalidates that it was given.
pub struct Seen<'a> {
    pub card: &'a mut Mmio<Gpu>,
    pub given: Vec<(Depth, Acknowledge)>,
}

impl TableRead for Seen<'_> {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        self.card.read_words(at, words)
    }
}

impl TableMemory for Seen<'_> {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        self.card.write_run(at, run)
    }
    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        self.card.write_words(at, words)
    }
    fn order(&mut self) -> Result<(), DeviceError> {
        self.card.order()
    }
    fn drain(&mut self) -> Result<(), DeviceError> {
        self.card.drain()
    }
}

impl Invalidator for Seen<'_> {
    fn submit(&mut self, what: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        let ticket = self.card.submit(what)?;
        if ticket.is_some() {
            self.given.push((what.depth, what.ack));
        }
        Ok(ticket)
    }
    fn poll(&mut self, ticket: Ticket) -> Result<Poll, DeviceError> {
        self.card.poll(ticket)
    }
}

impl Clock for Seen<'_> {
    fn now_us(&mut self) -> u64 {
        self.card.now_us()
    }
    fn relax(&mut self) {
        self.card.relax();
    }
}

/// Levels of directories; the root is the first.
pub const fn depth<F: Format>() -> usize {
    F::LEVELS.len()
}

/// The depth of an invalidate after the root has changed.
pub fn root<F: Format>() -> Depth {
    F::LEVELS[0].depth
}

/// A space that is asked for pages.
pub struct Tree<F: Format>(pub World<F>);

impl<F: Format> Tree<F> {
    pub fn new(chip: &str) -> Self {
        Self(World::new(chip))
    }

    /// Executes and commits, and returns the invalidates.
    pub fn run(&mut self, job: Job) -> Vec<(Depth, Acknowledge)> {
        let mut seen = Seen { card: &mut self.0.mmio, given: Vec::new() };
        let receipt = job.execute(&mut seen).unwrap();
        let given = seen.given;
        self.0.vmm.commit(&mut self.0.pool, receipt).unwrap();
        self.0.notes.tell(self.0.mmio.bar0());
        self.0.assert_clean();
        given
    }

    pub fn prepare(&mut self, va: u64, count: usize, page: PageSize) -> Job {
        let to = PhysAddr::new(Aperture::SysCoherent, 0);
        let extents = vec![Extent { to, bytes: page.bytes() }; count];
        self.0.prepare(&MapRequest::extents(&extents).at(va).page(page).live(Live::Quiesced)).unwrap()
    }

    /// Maps `count` pages, and returns the invalidates.
    pub fn get(&mut self, va: u64, count: usize, page: PageSize) -> Vec<(Depth, Acknowledge)> {
        let job = self.prepare(va, count, page);
        self.run(job)
    }

    /// Unmaps, and returns the invalidates.
    pub fn unmap(&mut self, range: Range<u64>) -> Vec<(Depth, Acknowledge)> {
        let job = self.0.prepare_unmap(Span::new(range).quiesced()).unwrap();
        self.run(job)
    }

    /// Gives empty tables back, and returns the invalidates.
    pub fn reclaim(&mut self) -> Vec<(Depth, Acknowledge)> {
        match self.0.prepare_with(|vmm, pool| vmm.plan_reclaim(pool)) {
            Ok(job) => self.run(job),
            Err(why) => {
                assert!(matches!(why, PrepareError::NotMapped { .. }), "{why}");
                Vec::new()
            }
        }
    }

    /// Unmaps, and gives back what is empty then: what UVM's `put_ptes` does.
    pub fn put(&mut self, range: Range<u64>) {
        for (_, ack) in [self.unmap(range), self.reclaim()].concat() {
            assert_eq!(ack, Globally);
        }
    }

    /// All tables, the root included.
    pub fn tables(&self) -> usize {
        let census = self.0.vmm.census();
        census.directories + census.leaf_tables
    }

    /// The slots through which the page at `va` is reached, root first; a dual entry has two, the big one first.
    pub fn slots(&mut self, va: u64, page: PageSize) -> Vec<u64> {
        let walk = self.0.vmm.read_mapping(&mut self.0.mmio, va).unwrap();
        assert!(matches!(walk.outcome, Outcome::Mapped { page: found, .. } if found == page), "{va:#x}: {walk:x?}");
        let last = walk.last().unwrap();
        let small = u64::from(last.level.shift == 12);
        let directories = walk.steps().filter(|step| step.level.name != "PTE");
        let slot = |step: &gmmu::walk::Step| step.index * (step.level.entry_bytes / 8);
        let mut slots: Vec<u64> =
            directories.map(|step| slot(step) + if step.level.entry_bytes == 16 { small } else { 0 }).collect();
        slots.extend((last.level.name == "PTE").then_some(last.index));
        slots
    }

    /// The end of those slots: that of the page, and of what leads to its table.
    pub fn end(&mut self, va: u64, page: PageSize) -> [u64; 2] {
        let slots = self.slots(va, page);
        [slots[slots.len() - 2], slots[slots.len() - 1]]
    }

    /// Nothing but the root is left.
    pub fn assert_empty(mut self) {
        assert_eq!(self.tables(), 1);
        self.0.assert_no_leak();
        self.0.assert_clean();
    }
}
