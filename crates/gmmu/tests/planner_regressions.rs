//! What the planner and the device layer once did wrong, and what they have to do where hardware fails under them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{config, frames, Pool, World, DATA, GIB, MIB};
use gmmu::addr::{PageSize, PhysAddr, TableAddr};
use gmmu::device::{
    Acknowledge, Bar0, Clock, DeviceError, Invalidate, Invalidator, Poll, Run, Scope, TableMemory, TableRead, Ticket,
    Width,
};
use gmmu::format::{Format, V2, V3};
use gmmu::mmio::Mmio;
use gmmu::regs;
use gmmu::vmm::{
    CloseError, ExecuteError, Extent, Flushed, FramesError, Job, MapError, MapRequest, PrepareError, SpaceConfig,
    State, Use, Vmm,
};
use gmmu::walk::Outcome;
use gmmu_sim::{Config, Gpu};

const VA: u64 = 4 * GIB;

const fn vram(to: u64, bytes: u64) -> [Extent; 1] {
    [Extent { to: PhysAddr::vram(to), bytes }]
}

fn prepare<F: Format>(world: &mut World<F>, va: u64, to: u64, bytes: u64, page: PageSize) -> Job {
    world.prepare(&MapRequest::extents(&vram(to, bytes)).at(va).page(page)).unwrap()
}

/// A GPU whose invalidates take so many polls; a wait gives up after 1000.
fn slow(polls: u32) -> World<V3> {
    World::with(&Config { invalidate_polls: polls, ..Config::chip("gh100") })
}

/// A cancelled job's pruning once gave a directory back that two waiting jobs worked below.
#[test]
fn a_cancel_leaves_the_directories_of_waiting_jobs() {
    let mut world = World::<V3>::new("gh100");
    let map = prepare(&mut world, VA, DATA, 2 * MIB, PageSize::Size4K);
    let unmap = world.prepare_unmap(VA..VA + 2 * MIB).unwrap();
    let before = world.vmm.census().directories;
    let other = prepare(&mut world, VA + 16 * MIB, DATA, 4096, PageSize::Size4K);
    world.cancel(other);
    assert_eq!(world.vmm.census().directories, before);
    world.finish(map);
    world.assert_maps(VA..VA + 2 * MIB, DATA);
    world.finish(unmap);
    world.assert_clean();
    world.assert_no_leak();
}

/// So did a prepare that failed.
#[test]
fn a_failed_prepare_leaves_the_directories_of_waiting_jobs() {
    let mut world = World::<V3>::new("gh100");
    let map = prepare(&mut world, VA, DATA, 2 * MIB, PageSize::Size4K);
    let unmap = world.prepare_unmap(VA..VA + 2 * MIB).unwrap();
    let before = world.pool.inner().out.clone();
    world.pool.inner().allowed = 0;
    let failed = world.prepare(&MapRequest::extents(&vram(DATA, 4096)).at(VA + 16 * MIB)).unwrap_err();
    world.pool.inner().allowed = u64::MAX;
    assert!(matches!(failed, PrepareError::NoSpace(_)), "{failed}");
    assert_eq!(world.pool.inner().out, before);
    world.finish(map);
    world.finish(unmap);
    world.assert_clean();
    world.assert_no_leak();
}

/// A directory that an executed job had linked was given back before that job was committed.
#[test]
fn a_cancel_leaves_a_directory_that_was_linked_and_not_committed() {
    let mut world = World::<V3>::new("gh100");
    let map = prepare(&mut world, VA, DATA, 2 * MIB, PageSize::Size4K);
    let receipt = map.execute(&mut world.mmio).unwrap();
    let unmap = world.prepare_unmap(VA..VA + 2 * MIB).unwrap();
    let other = prepare(&mut world, VA + 16 * MIB, DATA, 4096, PageSize::Size4K);
    world.cancel(other);
    world.assert_clean();
    world.assert_maps(VA..VA + 2 * MIB, DATA);
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    world.finish(unmap);
    world.assert_clean();
    world.assert_no_leak();
}

/// A commit once marked a directory as linked that a later job had put in the place of its own: nobody linked that one.
/// So it was whether the later job was cancelled or went on waiting.
#[test]
fn a_commit_does_not_vouch_for_the_directories_of_later_jobs() {
    for cancelled in [false, true] {
        let mut world = World::<V3>::new("gh100");
        let large = prepare(&mut world, VA, DATA, 512 * MIB, PageSize::Size512M);
        let receipt = large.execute(&mut world.mmio).unwrap();
        let unmap = world.prepare_unmap(VA..VA + 512 * MIB).unwrap();
        let later = prepare(&mut world, VA, DATA, 4096, PageSize::Size4K);
        world.vmm.commit(&mut world.pool, receipt).unwrap();
        world.finish(unmap);
        let mut later = Some(later);
        if let Some(later) = later.take_if(|_| cancelled) {
            world.cancel(later);
        }
        let near = VA + 16 * MIB;
        let job = prepare(&mut world, near, DATA + MIB, 4096, PageSize::Size4K);
        world.finish(job);
        world.assert_maps(near..near + 4096, DATA + MIB);
        if let Some(later) = later {
            world.finish(later);
            world.assert_maps(VA..VA + 4096, DATA);
        }
        world.assert_clean();
        world.assert_no_leak();
    }
}

/// A directory that a waiting job had taken out was not marked as linked by its maker's commit, and was pruned while
/// linked once that job was cancelled.
#[test]
fn a_directory_that_comes_back_is_still_linked() {
    let mut world = World::<V3>::new("gh100");
    let map = prepare(&mut world, VA, DATA, 2 * MIB, PageSize::Size4K);
    let receipt = map.execute(&mut world.mmio).unwrap();
    let unmap = world.prepare_unmap(VA..VA + 2 * MIB).unwrap();
    let large = prepare(&mut world, VA, DATA, 512 * MIB, PageSize::Size512M);
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    world.cancel(large);
    world.assert_clean();
    world.finish(unmap);
    world.assert_clean();
    world.assert_no_leak();
}

/// Late frames of one size were once mapped with pages, or at a place, of another.
#[test]
fn late_frames_keep_their_own_page_size() {
    let request = MapRequest::frames(2, PageSize::Size64K);
    let list = frames(&[DATA, DATA + (64 << 10)]);
    let mut world = World::<V3>::new("gh100");
    world.map(VA, DATA, 4096, Some(PageSize::Size4K));
    let none = MapRequest { page: None, ..request.clone() };
    let wishes = [request.page(PageSize::Size4K).within(VA..VA + GIB), none.clone().within(VA + 4096..VA + GIB)];
    for wish in wishes {
        let job = world.prepare(&wish).unwrap();
        let receipt = job.with_frames(&list).unwrap().execute(&mut world.mmio).unwrap();
        let range = world.vmm.commit(&mut world.pool, receipt).unwrap().range;
        assert_eq!(range.start % (64 << 10), 0);
        world.assert_maps(range, DATA);
    }
    // A window in which no aligned place is.
    let narrow = none.within(VA + GIB + 4096..VA + GIB + 4096 + (128 << 10));
    assert!(matches!(world.prepare(&narrow), Err(PrepareError::NoVa(_))));
    world.assert_clean();
    world.assert_no_leak();
}

/// Frames that come late were once cut to the width of the entry's field: now a space is not even made with memory that
/// its format cannot name.
#[test]
fn a_space_with_more_memory_than_the_format_can_name_is_refused() {
    let mut world = World::<V2>::new("ad102");
    let too_much = SpaceConfig { vram_bytes: 1 << 40, ..*world.vmm.config() };
    let out = world.pool.inner().out.clone();
    let made = Vmm::<V2>::create(too_much, &mut world.mmio, &mut world.pool);
    assert!(matches!(made, Err(PrepareError::Encode(_))), "{:?}", made.err());
    assert_eq!(world.pool.inner().out, out);
}

/// Hardware that remembers the invalidates that were started, or starts none.
struct Spy<'a, H> {
    hardware: &'a mut H,
    submitted: Vec<Invalidate>,
    deaf: bool,
}

const DEAF: DeviceError = DeviceError::Backend("no invalidate on purpose");

impl<'a, H> Spy<'a, H> {
    const fn new(hardware: &'a mut H) -> Self {
        Self { hardware, submitted: Vec::new(), deaf: false }
    }
}

impl<H: TableRead> TableRead for Spy<'_, H> {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        self.hardware.read_words(at, words)
    }
}

impl<H: TableMemory> TableMemory for Spy<'_, H> {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        self.hardware.write_run(at, run)
    }
    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        self.hardware.write_words(at, words)
    }
    fn order(&mut self) -> Result<(), DeviceError> {
        self.hardware.order()
    }
    fn drain(&mut self) -> Result<(), DeviceError> {
        self.hardware.drain()
    }
}

impl<H: Invalidator> Invalidator for Spy<'_, H> {
    fn submit(&mut self, what: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        if self.deaf {
            return Err(DEAF);
        }
        let ticket = self.hardware.submit(what)?;
        self.submitted.extend(ticket.map(|_| *what));
        Ok(ticket)
    }
    fn poll(&mut self, ticket: Ticket) -> Result<Poll, DeviceError> {
        self.hardware.poll(ticket)
    }
}

impl<H: Clock> Clock for Spy<'_, H> {
    fn now_us(&mut self) -> u64 {
        self.hardware.now_us()
    }
    fn relax(&mut self) {
        self.hardware.relax();
    }
}

/// The spare tables under a 512M leaf of GA100 were once freed after an invalidate that nobody had acknowledged.
#[test]
fn spare_tables_are_freed_after_a_global_acknowledgement() {
    let mut world = World::<V2>::new("ga100");
    let job = prepare(&mut world, VA, DATA, 512 * MIB, PageSize::Size512M);
    let out = world.pool.inner().out.len();
    let mut spy = Spy::new(&mut world.mmio);
    let receipt = job.execute(&mut spy).unwrap();
    let last = spy.submitted.last().copied().unwrap();
    world.vmm.commit(&mut world.pool, receipt).unwrap();
    assert!(world.pool.inner().out.len() < out, "no spare tables were freed");
    assert_eq!(last.ack, Acknowledge::Globally);
}

/// Closing once gave a root to the pool that the caller had brought.
#[test]
fn a_root_of_the_callers_stays_the_callers() {
    let mut world = World::<V3>::new("gh100");
    let out = world.pool.inner().out.clone();
    let own = TableAddr::vram(6 * GIB);
    let vmm = Vmm::<V3>::with_root(*world.vmm.config(), &mut world.mmio, own).unwrap();
    vmm.close(&mut world.mmio, &mut world.pool).map_err(|(_, why)| why).unwrap();
    // And one of the pool's goes back to the pool.
    let vmm = Vmm::<V3>::create(*world.vmm.config(), &mut world.mmio, &mut world.pool).unwrap();
    assert!(world.pool.inner().out.len() > out.len());
    vmm.close(&mut world.mmio, &mut world.pool).map_err(|(_, why)| why).unwrap();
    assert_eq!(world.pool.inner().out, out);
}

/// An unmap of everything once stood in the way of every other job; now its range is that of the mappings.
#[test]
fn an_unmap_is_as_wide_as_its_mappings() {
    let mut world = World::<V3>::new("gh100");
    world.map(GIB, DATA, 4096, None);
    world.map(2 * GIB, DATA, 4096, None);
    let unmap = world.prepare_unmap(0..1 << 57).unwrap();
    assert_eq!(unmap.range(), GIB..2 * GIB + 4096);
    let other = prepare(&mut world, VA, DATA, 4096, PageSize::Size4K);
    world.finish(other);
    world.assert_maps(VA..VA + 4096, DATA);
    world.finish(unmap);
    world.assert_clean();
    world.assert_no_leak();
}

/// A begun job once took other frames, and left a mixture of both.
#[test]
fn a_begun_job_takes_no_other_frames() {
    let mut world = slow(1500);
    let job = world.prepare(&MapRequest::frames(1, PageSize::Size4K).at(VA)).unwrap();
    let (first, other) = (frames(&[DATA]), frames(&[DATA + MIB]));
    let failed = job.with_frames(&first).unwrap().execute(&mut world.mmio).unwrap_err();
    assert!(matches!(failed.why, ExecuteError::Device(DeviceError::Timeout { .. })), "{}", failed.why);
    let (job, why) = failed.job.into_job().with_frames(&other).unwrap_err();
    assert_eq!((why, job.state()), (FramesError::Begun, State::Executing));
}

/// `poll_flush` once waited for the invalidate of another job.
#[test]
fn poll_flush_never_waits() {
    let mut world = slow(800);
    let mut first = prepare(&mut world, VA, DATA, 4096, PageSize::Size4K);
    let mut second = prepare(&mut world, VA + GIB, DATA, 4096, PageSize::Size4K);
    first.write(&mut world.mmio).unwrap();
    second.write(&mut world.mmio).unwrap();
    assert_eq!(first.poll_flush(&mut world.mmio), Ok(Flushed::Pending));
    for _ in 0..3 {
        world.gpu().reset_counts();
        assert_eq!(second.poll_flush(&mut world.mmio), Ok(Flushed::Pending));
        let counts = world.gpu().counts();
        assert!(counts.reads <= 2, "looked {} times", counts.reads);
        assert_eq!(counts.invalidates, 0, "one at a time");
    }
    for job in [&mut first, &mut second] {
        let polls = (0..2000).position(|_| job.poll_flush(&mut world.mmio) == Ok(Flushed::Done));
        assert!(polls.is_some());
    }
    for job in [first, second] {
        world.vmm.commit(&mut world.pool, job.finish().unwrap()).unwrap();
    }
    world.assert_maps(VA + GIB..VA + GIB + 4096, DATA);
    world.assert_clean();
}

/// A space whose close had failed was once used on, although nothing could be reached through its root any more.
#[test]
fn a_space_that_is_being_closed_takes_nothing_but_another_close() {
    let mut world = World::<V3>::new("gh100");
    world.map(VA, DATA, 4096, None);
    let World { mut mmio, mut pool, notes, vmm } = world;
    let (extents, root) = (vram(DATA, 4096), vmm.pdb());
    // The root is cleared, and then the invalidate does not start.
    let mut spy = Spy { deaf: true, ..Spy::new(&mut mmio) };
    let (mut vmm, why) = vmm.close(&mut spy, &mut pool).unwrap_err();
    assert_eq!(why, CloseError::Device(DEAF));
    let again = vmm.prepare_map(&mut mmio, &mut pool, &MapRequest::extents(&extents).at(VA + 8192)).map(drop);
    assert_eq!(again, Err(PrepareError::Closing));
    assert_eq!(vmm.prepare_unmap(&mut mmio, &mut pool, VA..VA + 4096).map(drop), Err(PrepareError::Closing));
    vmm.close(&mut mmio, &mut pool).map_err(|(_, why)| why).unwrap();
    notes.tell(mmio.bar0());
    assert_eq!(pool.inner().out.iter().copied().collect::<Vec<_>>(), [(root.raw(), 4096)]);
    assert_eq!(mmio.bar0().findings(), &[]);
}

/// A job that was lost half-way once kept its space from ever being closed.
#[test]
fn a_lost_job_does_not_keep_a_space_open() {
    let mut world = World::<V3>::new("gh100");
    let mut job = prepare(&mut world, VA, DATA, 4096, PageSize::Size4K);
    job.write(&mut world.mmio).unwrap();
    drop(job);
    let unmap = world.prepare_unmap(VA..VA + 4096).unwrap();
    let failed = unmap.execute(&mut world.mmio).unwrap_err();
    assert_eq!(failed.why, ExecuteError::PredecessorLost);
    world.cancel(failed.job);
    let World { mut mmio, mut pool, notes, vmm } = world;
    let root = vmm.pdb();
    vmm.close(&mut mmio, &mut pool).map_err(|(_, why)| why).unwrap();
    notes.tell(mmio.bar0());
    assert_eq!(pool.inner().out.iter().copied().collect::<Vec<_>>(), [(root.raw(), 4096)]);
    assert_eq!(mmio.bar0().findings(), &[]);
}

/// Spaces of BAR1 and BAR2 are the hub's alone, those of channels everybody's.
#[test]
fn only_bar_spaces_send_their_invalidates_to_the_hub_alone() {
    for (used_by, scope) in [(Use::Channel, Scope::All), (Use::Bar, Scope::HubOnly)] {
        let World { mut mmio, mut pool, vmm, .. } = World::<V3>::new("gh100");
        let config = SpaceConfig { used_by, ..*vmm.config() };
        let mut vmm = Vmm::<V3>::create(config, &mut mmio, &mut pool).unwrap();
        let mut spy = Spy::new(&mut mmio);
        let extents = vram(DATA, 5 * MIB);
        let range = vmm.map_pages(&mut spy, &mut pool, &MapRequest::extents(&extents), &[]).unwrap().range;
        vmm.unmap_pages(&mut spy, &mut pool, range).unwrap();
        let pdb = vmm.pdb();
        vmm.close(&mut spy, &mut pool).map_err(|(_, why)| why).unwrap();
        assert_eq!(spy.submitted.len(), 3);
        assert!(spy.submitted.iter().all(|what| what.scope == scope && what.pdb == pdb), "{:?}", spy.submitted);
    }
}

/// Registers of a card that leaves the bus, or whose window register forgets what is written.
struct Broken {
    gpu: Gpu,
    /// Accesses that still get through.
    left: u64,
    /// Accesses that were made.
    made: u64,
    /// A register whose writes are lost.
    deaf: Option<u32>,
}

impl Bar0 for Broken {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        self.made += 1;
        if self.made > self.left {
            return Ok(u64::MAX >> (64 - 8 * width.bytes()));
        }
        self.gpu.read(offset, width)
    }
    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        self.made += 1;
        if self.made > self.left || self.deaf == Some(offset) {
            return Ok(());
        }
        self.gpu.write(offset, width, value)
    }
    fn has_64bit(&self) -> bool {
        self.gpu.has_64bit()
    }
}

impl Clock for Broken {
    fn now_us(&mut self) -> u64 {
        self.gpu.now_us()
    }
    fn relax(&mut self) {
        self.gpu.relax();
    }
}

fn broken() -> Mmio<Broken> {
    let gpu = Gpu::new(&Config::chip("gh100")).unwrap();
    Mmio::probe(Broken { gpu, left: u64::MAX, made: 0, deaf: None }).unwrap()
}

/// A card that is gone is seen at the first register that shows it, and never asked again.
#[test]
fn a_card_that_is_gone_is_answered_without_touching_the_bus() {
    let mut seen = 0;
    for left in 0.. {
        let mut mmio = broken();
        let mut pool = Pool::new(MIB..GIB);
        let space = config("gh100", mmio.vram_bytes());
        let mut vmm = Vmm::<V3>::create(space, &mut mmio, &mut pool).unwrap();
        let out = pool.out.clone();
        let bar0 = mmio.bar0();
        (bar0.made, bar0.left) = (0, left);
        let extents = vram(DATA, 8192);
        let request = MapRequest::extents(&extents).at(VA);
        let Err(why) = vmm.map_pages(&mut mmio, &mut pool, &request, &[]) else { break };
        let (MapError::Prepare(PrepareError::Device(first)) | MapError::Execute(ExecuteError::Device(first))) = &why
        else {
            unreachable!("{why}")
        };
        assert!(matches!(first, DeviceError::Gone { .. }), "{first}");
        let first = *first;
        seen += 1;
        // Nothing is left behind, or a job in quarantine.
        let census = vmm.census();
        assert_eq!(census.jobs, census.quarantined);
        if census.jobs == 0 {
            assert_eq!((vmm.pieces().count(), &pool.out), (0, &out));
        }
        let made = mmio.bar0().made;
        let at = TableAddr::vram(MIB);
        let run = Run { first: 0, step: 0, count: 1 };
        assert_eq!(mmio.read_word(at), Err(first));
        assert_eq!(mmio.write_run(at, run), Err(first));
        assert_eq!(mmio.drain(), Err(first));
        assert_eq!(mmio.poll(Ticket(9)), Err(first));
        assert_eq!(mmio.read_vram(0, Width::W32), Err(first));
        let (_, why) = vmm.close(&mut mmio, &mut pool).unwrap_err();
        assert_eq!(why, CloseError::Device(first));
        assert_eq!(mmio.bar0().made, made, "the bus was touched");
    }
    println!("gone at each of {seen} accesses");
    assert!(seen > 10);
}

/// A window that does not go where it is sent would put tables into foreign memory.
#[test]
fn a_lost_move_of_the_window_is_an_error() {
    let mut mmio = broken();
    let here = TableAddr::vram(MIB);
    mmio.write_word(here, 0x1234).unwrap();
    let register = mmio.window().unwrap().offset();
    mmio.bar0().deaf = Some(register);
    let lost = DeviceError::WindowLost { wanted: 5 * GIB, found: MIB };
    let there = TableAddr::vram(5 * GIB);
    assert_eq!(mmio.write_word(there, 0x5678), Err(lost));
    // Not believed the second time either.
    assert_eq!(mmio.write_word(there, 0x5678), Err(lost));
    mmio.bar0().deaf = None;
    assert_eq!(mmio.read_word(here), Ok(0x1234));
    mmio.write_word(there, 0x5678).unwrap();
    assert_eq!(mmio.read_word(there), Ok(0x5678));
}

/// An invalidate that waits behind one that hangs gives up in time, is still owed, and gets through in the end.
#[test]
fn an_invalidate_behind_a_stuck_one_times_out_and_stays_owed() {
    let mut world = slow(2500);
    let mut first = prepare(&mut world, VA, DATA, 4096, PageSize::Size4K);
    let mut second = prepare(&mut world, VA + GIB, DATA, 4096, PageSize::Size4K);
    first.write(&mut world.mmio).unwrap();
    second.write(&mut world.mmio).unwrap();
    assert_eq!(first.poll_flush(&mut world.mmio), Ok(Flushed::Pending));
    world.gpu().reset_counts();
    let why = second.flush(&mut world.mmio).unwrap_err();
    let offset = regs::NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE;
    assert!(
        matches!(why, ExecuteError::Device(DeviceError::Timeout { offset: at, polls: 1000, .. }) if at == offset),
        "{why}"
    );
    assert_eq!((world.gpu().counts().invalidates, second.state()), (0, State::Executing));
    let tries = (0..10).position(|_| second.flush(&mut world.mmio) == Ok(Flushed::Done));
    assert!(tries.is_some());
    assert_eq!(world.gpu().counts().invalidates, 1);
    first.flush(&mut world.mmio).unwrap();
    for job in [first, second] {
        world.vmm.commit(&mut world.pool, job.finish().unwrap()).unwrap();
    }
    world.assert_maps(VA + GIB..VA + GIB + 4096, DATA);
    world.assert_clean();
}

/// What `map_pages` and `unmap_pages` refuse leaves nothing behind.
#[test]
fn refused_calls_in_one_leave_nothing_behind() {
    let mut world = World::<V3>::new("gh100");
    let (census, out) = (world.vmm.census(), world.pool.inner().out.clone());
    let World { mmio, pool, vmm, .. } = &mut world;
    let late = MapRequest::frames(2, PageSize::Size64K).at(VA);
    let failed = vmm.map_pages(mmio, pool, &late, &frames(&[DATA, DATA + 4096])).unwrap_err();
    assert!(matches!(failed, MapError::Frames(FramesError::Unaligned { index: 1, .. })), "{failed}");
    let failed = vmm.unmap_pages(mmio, pool, VA..VA + 4096).unwrap_err();
    assert_eq!(failed, MapError::Prepare(PrepareError::NotMapped { range: VA..VA + 4096 }));
    pool.inner().allowed = 2;
    let failed = vmm.map_pages(mmio, pool, &late, &frames(&[DATA, DATA])).unwrap_err();
    assert!(matches!(failed, MapError::Prepare(PrepareError::NoSpace(_))), "{failed}");
    pool.inner().allowed = u64::MAX;
    // Behind a job that waits on the same tables.
    let waiting = vmm.prepare_map(mmio, pool, &late).unwrap();
    let extents = vram(DATA, 4096);
    let failed = vmm.map_pages(mmio, pool, &MapRequest::extents(&extents).at(VA + MIB), &[]).unwrap_err();
    assert_eq!(failed, MapError::Execute(ExecuteError::NotYet));
    assert_eq!(vmm.census().jobs, 1);
    vmm.cancel(pool, waiting).unwrap();
    let now = vmm.census();
    assert_eq!((now.jobs, now.directories, now.leaf_tables), (0, census.directories, census.leaf_tables));
    assert_eq!((vmm.pieces().count(), &pool.inner().out), (0, &out));
}

/// What they had begun stays in quarantine, and what it would have freed stays taken.
#[test]
fn begun_calls_in_one_end_in_quarantine() {
    let World { mut mmio, mut pool, mut vmm, .. } = slow(1500);
    let extents = vram(DATA, 4096);
    let request = MapRequest::extents(&extents).at(VA);
    let failed = vmm.map_pages(&mut mmio, &mut pool, &request, &[]).unwrap_err();
    assert!(matches!(failed, MapError::Execute(ExecuteError::Device(DeviceError::Timeout { .. }))), "{failed}");
    assert_eq!((vmm.census().jobs, vmm.census().quarantined), (1, 1));
    let out = pool.inner().out.clone();
    let failed = vmm.unmap_pages(&mut mmio, &mut pool, VA..VA + 4096).unwrap_err();
    assert_eq!(failed, MapError::Execute(ExecuteError::PredecessorLost));
    assert_eq!((vmm.census().jobs, vmm.census().quarantined), (1, 1));
    assert_eq!(pool.inner().out, out);
    // The mapping was written, and is still in the books.
    assert!(matches!(vmm.read_mapping(&mut mmio, VA).unwrap().outcome, Outcome::Mapped { .. }));
    assert_eq!(vmm.pieces().count(), 1);
}

/// A close that timed out began another invalidate each time, and never got through on slow hardware.
#[test]
fn a_close_that_times_out_goes_on_with_its_invalidate() {
    let mut world = World::<V3>::with(&Config { invalidate_polls: 2500, ..Config::chip("gh100") });
    world.gpu().reset_counts();
    let World { mut mmio, mut pool, mut vmm, .. } = world;
    for tries in 1.. {
        match vmm.close(&mut mmio, &mut pool) {
            Ok(()) => break,
            Err((again, why)) => {
                assert!(matches!(why, CloseError::Device(DeviceError::Timeout { .. })), "{why}");
                assert!(tries < 4, "{tries} tries");
                vmm = again;
            }
        }
    }
    assert_eq!(mmio.bar0().counts().invalidates, 1);
}
