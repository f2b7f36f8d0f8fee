//! Every kind of job, and every way in which table memory or the device fails under it, one failure at a time, until
//! none is left: afterwards it is all, nothing, or in quarantine and said so, and the job that came back gets through.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;
#[path = "common/kinds.rs"]
mod kinds;

use common::{config, Pool, GIB, MIB};
use gmmu::addr::{PageSize, PhysAddr, TableAddr};
use gmmu::chip::Chip;
use gmmu::device::{Bar0, Clock, DeviceError, NoTableMemory, Run, TablePool, Width};
use gmmu::format::{Format, V2, V3};
use gmmu::mmio::Mmio;
use gmmu::vmm::{flush_all, Backed, CloseError, ExecuteError, Flushed, Job, MapRequest, PrepareError, Receipt, Vmm};
use gmmu::walk::{Cursor, Event, View};
use gmmu_sim::{AccessKind, Bus, Client, Config, Gpu, Notes, Watched};
use kinds::{Armed, Kind, Page, Step, KINDS};
use std::collections::BTreeSet;

/// What can go wrong with one access of BAR0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// It is not made, and an error is told.
    Refused,
    /// It is made, or half of a run is, and an error is told.
    Torn,
    /// A read answers with one of the bus's error words.
    Poison,
    /// The card leaves the bus: writes go nowhere, reads are all-ones, from then on.
    Gone,
    /// The invalidate that runs, or is asked about, does not end for longer than anybody waits.
    Late,
    /// A write of the window register is lost.
    Unmoved,
}

const WRONGS: [Wrong; 6] = [Wrong::Refused, Wrong::Torn, Wrong::Poison, Wrong::Gone, Wrong::Late, Wrong::Unmoved];
const ON_PURPOSE: DeviceError = DeviceError::Backend("on purpose");
/// `NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE`, and its trigger.
const INVALIDATE: u32 = 0x00b8_30b0;
const TRIGGER: u64 = 1 << 31;

/// A card one of whose accesses goes wrong.
struct Faulty {
    gpu: Gpu,
    wrong: Wrong,
    /// Which one, from 1 on; 0 for none.
    at: u64,
    made: u64,
    hit: bool,
    /// Polls that an invalidate still takes, and how many more than usual a late one takes.
    late: u32,
    delay: u32,
    window: u32,
}

impl Faulty {
    fn arm(&mut self, wrong: Wrong, at: u64) {
        (self.wrong, self.at, self.made, self.hit, self.late) = (wrong, at, 0, false, 0);
    }

    fn is_gone(&self) -> bool {
        self.wrong == Wrong::Gone && self.hit
    }

    /// Counts an access; says whether it goes wrong.
    fn counts(&mut self) -> bool {
        self.made += 1;
        self.made == self.at
    }

    fn writes(
        &mut self,
        offset: u32,
        half: impl FnOnce(&mut Gpu) -> Result<(), DeviceError>,
    ) -> Option<Result<(), DeviceError>> {
        let now = self.counts();
        if self.is_gone() {
            return Some(Ok(()));
        }
        if !now {
            return None;
        }
        self.hit = matches!(self.wrong, Wrong::Refused | Wrong::Torn | Wrong::Gone)
            || self.wrong == Wrong::Unmoved && offset == self.window;
        match self.wrong {
            _ if !self.hit => None,
            Wrong::Refused => Some(Err(ON_PURPOSE)),
            Wrong::Torn => Some(half(&mut self.gpu).and(Err(ON_PURPOSE))),
            _ => Some(Ok(())),
        }
    }
}

impl Bar0 for Faulty {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        let mask = u64::MAX >> (64 - 8 * width.bytes());
        let now = self.counts();
        if self.is_gone() {
            return Ok(mask);
        }
        if self.late > 0 && offset == INVALIDATE {
            self.late -= 1;
            return Ok(TRIGGER);
        }
        if !now {
            return self.gpu.read(offset, width);
        }
        self.hit = self.wrong != Wrong::Unmoved && (self.wrong != Wrong::Late || offset == INVALIDATE);
        match self.wrong {
            Wrong::Refused => Err(ON_PURPOSE),
            Wrong::Torn => self.gpu.read(offset, width).and(Err(ON_PURPOSE)),
            Wrong::Poison => Ok(0xbadf_1301_badf_1301 & mask),
            Wrong::Gone => Ok(mask),
            Wrong::Late if self.hit => {
                self.late = self.delay;
                Ok(TRIGGER)
            }
            Wrong::Late | Wrong::Unmoved => self.gpu.read(offset, width),
        }
    }

    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        let wrong = self.writes(offset, |gpu| gpu.write(offset, width, value));
        wrong.unwrap_or_else(|| self.gpu.write(offset, width, value))
    }

    fn has_64bit(&self) -> bool {
        self.gpu.has_64bit()
    }

    fn write_run(&mut self, offset: u32, run: Run) -> Result<(), DeviceError> {
        let wrong = self.writes(offset, |gpu| gpu.write_run(offset, run.take(run.count.div_ceil(2))));
        wrong.unwrap_or_else(|| self.gpu.write_run(offset, run))
    }

    fn write_words(&mut self, offset: u32, words: &[u64]) -> Result<(), DeviceError> {
        let wrong = self.writes(offset, |gpu| gpu.write_words(offset, &words[..words.len().div_ceil(2)]));
        wrong.unwrap_or_else(|| self.gpu.write_words(offset, words))
    }
}

impl Clock for Faulty {
    fn now_us(&mut self) -> u64 {
        self.gpu.now_us()
    }
    fn relax(&mut self) {
        self.gpu.relax();
    }
}

/// Table memory whose pages lie together, or each in a megabyte of its own, so that the window has to move for each.
struct Pages {
    pool: Pool,
    apart: u64,
    out: BTreeSet<(u64, u64)>,
}

impl TablePool for Pages {
    fn take(&mut self, bytes: u64, _near: Option<TableAddr>) -> Result<TableAddr, NoTableMemory> {
        let at = self.pool.take(bytes, None)?.raw();
        let at = (at >> 12) * self.apart + (at & 0xfff);
        self.out.insert((at, bytes));
        Ok(TableAddr::vram(at))
    }

    fn give(&mut self, at: TableAddr, bytes: u64) {
        assert!(self.out.remove(&(at.raw(), bytes)), "{at} + {bytes} is not out");
        let page = (at.raw() / self.apart) << 12;
        self.pool.give(TableAddr::vram(page + (at.raw() & 0xfff)), bytes);
    }
}

/// What a test runs on.
struct Setup {
    model: Config,
    /// Distance of table pages.
    apart: u64,
}

impl Setup {
    fn new(chip: &str) -> Self {
        Self { model: Config::chip(chip), apart: 4096 }
    }

    fn apart(self) -> Self {
        Self { apart: MIB + (64 << 10), ..self }
    }

    fn chip(&self) -> &'static Chip {
        Chip::by_name(&self.model.chip).unwrap()
    }
}

/// A faulty card with a space on it that is ready for a job of one kind.
struct Rig<F: Format> {
    mmio: Mmio<Faulty>,
    pool: Watched<Pages>,
    notes: Notes,
    vmm: Vmm<F>,
    kind: &'static Kind,
    probes: Vec<u64>,
}

impl<F: Format> Rig<F> {
    fn new(setup: &Setup, kind: &'static Kind) -> Self {
        let Setup { model, apart } = setup;
        let gpu = Gpu::new(model).unwrap();
        let bar0 = Faulty { gpu, wrong: Wrong::Refused, at: 0, made: 0, hit: false, late: 0, delay: 1500, window: 0 };
        let mut mmio = Mmio::probe(bar0).unwrap();
        mmio.bar0().window = mmio.window().unwrap().offset();
        let pages = Pages { pool: Pool::new(MIB..4 * GIB), apart: *apart, out: BTreeSet::new() };
        let mut pool = Watched::new(pages);
        let notes = pool.notes();
        let root = pool.take(4096, None).unwrap();
        let config = config(&model.chip, mmio.vram_bytes());
        notes.tell(&mut mmio.bar0().gpu);
        let vmm = Vmm::with_root(config, &mut mmio, root).unwrap();
        mmio.bar0().gpu.note_root(root);
        let mut rig = Self { mmio, pool, notes, vmm, kind, probes: kind.probes() };
        for step in kind.before {
            let job = rig.prepare(step).unwrap();
            let frames = kinds::frames(&job);
            let receipt = Armed::new(job, &frames).execute(&mut rig.mmio).unwrap();
            rig.commit(receipt);
        }
        rig
    }

    fn tell(&mut self) {
        self.notes.tell(&mut self.mmio.bar0().gpu);
    }

    fn prepare(&mut self, step: &Step) -> Result<Job, PrepareError> {
        let plan = step.plan(&mut self.vmm, &mut self.pool)?;
        self.notes.tell(&mut self.mmio.bar0().gpu);
        let job = plan.init(&mut self.mmio);
        self.tell();
        job
    }

    fn commit(&mut self, receipt: Receipt) {
        self.vmm.commit(&mut self.pool, receipt).unwrap();
        self.tell();
    }

    /// Everything that the space knows, to be equal before and after: pieces, numbers, tables, and where something
    /// could still be mapped.
    fn state(&mut self) -> String {
        let pieces: Vec<_> = self.vmm.pieces().map(|(range, piece)| (range, *piece)).collect();
        let census = self.vmm.census();
        let numbers = (census.directories, census.leaf_tables, census.jobs, census.quarantined);
        let out = self.pool.inner().out.clone();
        let free = |rig: &mut Self, va: u64| {
            let request = MapRequest::frames(1, PageSize::Size4K).within(va..va + 4096);
            let plan = rig.vmm.plan_map(&mut rig.pool, &request).map(drop);
            !matches!(plan, Err(PrepareError::NoVa(_)))
        };
        let probes = self.probes.clone();
        let free: Vec<bool> = probes.into_iter().map(|va| free(self, va)).collect();
        self.tell();
        assert_eq!(self.pool.inner().out, out, "looking changed the tables");
        format!("{pieces:?} {numbers:?} {out:?} {free:?}")
    }

    /// What memory says of `va`, caches aside.
    fn peek(&mut self, va: u64) -> Page {
        let pdb = self.vmm.pdb();
        match self.mmio.bar0().gpu.peek_translate(pdb, va) {
            Err(_) => Page::Faults,
            Ok(found) if found.sparse => Page::Zero,
            Ok(found) => Page::Leads { to: found.to.raw, read_only: found.flags.read_only },
        }
    }

    /// What an engine meets, through all caches.
    fn access(&mut self, va: u64) -> Page {
        let client = Client::Engine { pdb: self.vmm.pdb() };
        match self.mmio.bar0().gpu.access(client, va, AccessKind::Read, false) {
            Err(_) => Page::Faults,
            Ok(found) if found.sparse => Page::Zero,
            Ok(found) => Page::Leads { to: found.to.raw, read_only: found.flags.read_only },
        }
    }

    fn assert_pages(&mut self, after: bool, when: &str) {
        for va in self.probes.clone() {
            let (before, behind) = self.kind.page(va);
            let expected = if after { behind } else { before };
            assert_eq!(self.access(va), expected, "{va:#x} of {:?} {when}", self.kind.name);
        }
        self.assert_clean(when);
    }

    /// In the middle of a job, a page is what it was, or what it becomes, or, where tables change, nothing.
    fn assert_halfway(&mut self, rounds: usize, when: &str) {
        for va in self.probes.clone() {
            let (before, behind) = self.kind.page(va);
            let found = self.peek(va);
            let fine = found == before || found == behind || rounds > 1 && found == Page::Faults;
            assert!(fine, "{va:#x} of {:?} {when}: {found:?} between {before:?} and {behind:?}", self.kind.name);
        }
    }

    fn assert_clean(&mut self, when: &str) {
        let findings: Vec<String> = self.mmio.bar0().gpu.findings().iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{:?} {when}: {}", self.kind.name, findings.join("\n"));
    }

    /// Pool, mirror and what is linked in memory are the same tables; the records say what each page is.
    fn assert_recount(&mut self, when: &str) {
        let mirror: BTreeSet<(u64, u64)> =
            self.vmm.tables().unwrap().iter().map(|(at, bytes)| (at.raw(), *bytes)).collect();
        assert_eq!(self.pool.inner().out, mirror, "{:?} {when}", self.kind.name);
        let (root, sizes) = (self.vmm.pdb(), self.vmm.page_sizes());
        let mut cursor = Cursor::<F>::new(root, sizes, 0..1 << F::VA_BITS, View::Structure, 1 << 20).unwrap();
        let mut linked = BTreeSet::new();
        let gpu = &self.mmio.bar0().gpu;
        while let Some(event) = cursor.next(&mut gpu.peek()).unwrap() {
            if let Event::Enter(table) = event {
                linked.insert(table.at.raw());
            }
        }
        let mirror: BTreeSet<u64> = mirror.into_iter().map(|(at, _)| at).collect();
        assert_eq!(linked, mirror, "{:?} {when}: linked, and in the mirror", self.kind.name);
        for va in &self.probes {
            let booked = self.vmm.pieces().find(|(range, _)| range.contains(va)).map(|(range, piece)| {
                let to = match piece.to {
                    Backed::Memory(PhysAddr { raw, .. }) => Some(raw + va - range.start),
                    Backed::Frames { .. } => None,
                };
                (to, piece.flags.read_only)
            });
            match (self.kind.page(*va).1, booked) {
                (Page::Leads { to, read_only }, Some((found, flag))) => {
                    assert_eq!((found.unwrap_or(to), flag), (to, read_only), "{va:#x} {when}");
                }
                (page, booked) => {
                    assert_eq!((page == Page::Faults || page == Page::Zero, booked), (true, None), "{va:#x}")
                }
            }
        }
    }
}

/// What became of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// The failure was not reached any more.
    Through,
    /// It was met, and went unnoticed or was overcome.
    Anyway,
    Unprepared,
    Unexecuted,
}

/// The `n`-th access of one job goes wrong. Where the job came back, it is executed again, or dropped.
fn attempt<F: Format>(setup: &Setup, kind: &'static Kind, wrong: Wrong, n: u64, again: bool) -> Came {
    let when = format!("when access {n} is {wrong:?}");
    let mut rig = Rig::<F>::new(setup, kind);
    // Caches know what was before.
    rig.assert_pages(false, "before");
    let before = rig.state();
    rig.mmio.bar0().arm(wrong, n);
    let job = match rig.prepare(&kind.does) {
        Ok(job) => job,
        Err(why) => {
            assert!(matches!(why, PrepareError::Device(_)), "{when}: {why}");
            assert_eq!(rig.state(), before, "{} {when}", kind.name);
            rig.assert_pages(false, &when);
            if wrong != Wrong::Gone {
                rig.mmio.bar0().arm(wrong, 0);
                let job = rig.prepare(&kind.does).unwrap();
                complete(&mut rig, job, &when);
            }
            return Came::Unprepared;
        }
    };
    let planned = rig.state();
    let rounds = job.rounds();
    let frames = kinds::frames(&job);
    match Armed::new(job, &frames).execute(&mut rig.mmio) {
        Ok(receipt) => {
            let hit = rig.mmio.bar0().hit;
            assert!(!rig.mmio.bar0().is_gone(), "{} {when}: not noticed", kind.name);
            rig.commit(receipt);
            rig.assert_pages(true, &when);
            rig.assert_recount(&when);
            if hit {
                Came::Anyway
            } else {
                Came::Through
            }
        }
        Err(failed) => {
            check_failure(wrong, failed.why, &when);
            rig.assert_halfway(rounds, &when);
            rig.assert_clean(&when);
            if wrong == Wrong::Gone {
                stays_gone(rig, failed.job, failed.why);
            } else if again {
                assert_eq!(rig.state(), planned, "{} {when}", kind.name);
                rig.mmio.bar0().at = 0;
                let receipt = match failed.job.execute(&mut rig.mmio) {
                    // The rest of a late invalidate takes longer than one wait.
                    Err(failed) if wrong == Wrong::Late => failed.job.execute(&mut rig.mmio).unwrap(),
                    other => other.unwrap(),
                };
                rig.commit(receipt);
                rig.assert_pages(true, &when);
                rig.assert_recount(&when);
            } else {
                let job = failed.job.into_job();
                let begun = kinds::is_begun(&job);
                drop(job);
                rig.mmio.bar0().arm(wrong, 0);
                let_go(rig, begun, &before, &when);
            }
            Came::Unexecuted
        }
    }
}

fn complete<F: Format>(rig: &mut Rig<F>, job: Job, when: &str) {
    let frames = kinds::frames(&job);
    let receipt = Armed::new(job, &frames).execute(&mut rig.mmio).unwrap();
    rig.commit(receipt);
    rig.assert_pages(true, when);
    rig.assert_recount(when);
}

fn check_failure(wrong: Wrong, why: ExecuteError, when: &str) {
    let ExecuteError::Device(why) = why else { panic!("{when}: {why}") };
    let fine = match wrong {
        Wrong::Refused | Wrong::Torn => why == ON_PURPOSE,
        Wrong::Poison => matches!(why, DeviceError::Poison { .. } | DeviceError::WindowLost { .. }),
        Wrong::Gone => matches!(why, DeviceError::Gone { .. }),
        Wrong::Late => matches!(why, DeviceError::Timeout { polls: 1000, .. }),
        Wrong::Unmoved => matches!(why, DeviceError::WindowLost { .. }),
    };
    assert!(fine, "{when}: {why}");
}

/// A card that left is answered for without another access, and everything that it may reach stays where it is.
fn stays_gone<F: Format>(mut rig: Rig<F>, job: Armed<'_>, why: ExecuteError) {
    let out = rig.pool.inner().out.clone();
    let made = rig.mmio.bar0().made;
    let failed = job.execute(&mut rig.mmio).unwrap_err();
    assert_eq!(failed.why, why);
    let begun = kinds::is_begun(&failed.job.into_job());
    let before = rig.vmm.census().jobs;
    assert_eq!((before, rig.vmm.census().quarantined), (1, usize::from(begun)));
    let (vmm, close) = rig.vmm.close(&mut rig.mmio, &mut rig.pool).unwrap_err();
    assert_eq!(Err(close), if let ExecuteError::Device(why) = why { Err(CloseError::Device(why)) } else { Ok(()) });
    assert_eq!(rig.mmio.bar0().made, made, "the bus was touched");
    assert_eq!(vmm.census().quarantined, usize::from(begun));
    if begun {
        assert_eq!(rig.pool.inner().out, out);
    }
}

/// The job was dropped: taken back if it was not begun, else kept until the space is closed.
fn let_go<F: Format>(mut rig: Rig<F>, begun: bool, before: &str, when: &str) {
    let out = rig.pool.inner().out.clone();
    let after = rig.state();
    if begun {
        let census = rig.vmm.census();
        assert_eq!((census.jobs, census.quarantined), (1, 1), "{when}");
        assert!(rig.pool.inner().out.is_superset(&out), "{when}");
    } else {
        assert_eq!(after, before, "{when}");
    }
    let root = rig.vmm.pdb();
    rig.mmio.bar0().late = 0;
    rig.vmm.close(&mut rig.mmio, &mut rig.pool).map_err(|(_, why)| why).unwrap();
    rig.notes.tell(&mut rig.mmio.bar0().gpu);
    assert_eq!(rig.pool.inner().out, BTreeSet::from([(root.raw(), 4096)]), "{} {when}", rig.kind.name);
    let findings: Vec<String> = rig.mmio.bar0().gpu.findings().iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{:?} {when}: {}", rig.kind.name, findings.join("\n"));
}

/// Every access of every job that the chip can do goes wrong once in this way.
fn every_access<F: Format>(setup: &Setup, wrong: Wrong) {
    let chip = setup.chip();
    let mut met = [0; 4];
    for kind in KINDS.iter().filter(|kind| kind.fits(chip)) {
        let mut n = 1;
        loop {
            let came = attempt::<F>(setup, kind, wrong, n, true);
            met[came as usize] += 1;
            if came == Came::Through && !goes_on::<F>(setup, kind, n) {
                break;
            }
            if came == Came::Unexecuted && wrong != Wrong::Gone {
                attempt::<F>(setup, kind, wrong, n, false);
            }
            // A 32-bit bus has an access for every half of every word: the middles of long runs are much the same.
            n += if n < 24 { 1 } else { 1 + n / 12 };
        }
    }
    println!("{} {wrong:?}: {met:?}", chip.name);
    assert!(met[Came::Unexecuted as usize] > 0 && met[Came::Through as usize] > 0);
}

/// A job written three entries at a time, and looked after without waiting: the step that goes wrong is repeated. Whether
/// the job made `n` accesses or more.
fn attempt_in_steps<F: Format>(setup: &Setup, kind: &'static Kind, wrong: Wrong, n: u64) -> bool {
    let when = format!("when access {n} of a job in steps is {wrong:?}");
    let mut rig = Rig::<F>::new(setup, kind);
    rig.assert_pages(false, "before");
    let job = rig.prepare(&kind.does).unwrap();
    let rounds = job.rounds();
    let frames = kinds::frames(&job);
    let mut job = Armed::new(job, &frames);
    rig.mmio.bar0().arm(wrong, n);
    let mut failures = 0;
    let mut written = false;
    loop {
        let step = if written {
            job.poll_flush(&mut rig.mmio).map(|flushed| match flushed {
                Flushed::Pending => false,
                Flushed::NextRound | Flushed::Done => {
                    written = false;
                    flushed == Flushed::Done
                }
            })
        } else {
            job.write_some(&mut rig.mmio, 3).map(|all| {
                written = all;
                false
            })
        };
        match step {
            Ok(true) => break,
            Ok(false) => {}
            Err(why) => {
                failures += 1;
                check_failure(wrong, why, &when);
                rig.assert_halfway(rounds, &when);
                rig.mmio.bar0().at = 0;
            }
        }
    }
    let made = rig.mmio.bar0().made;
    assert!(failures <= 1, "{when}");
    let receipt = job.finish().unwrap();
    rig.commit(receipt);
    rig.assert_pages(true, &when);
    rig.assert_recount(&when);
    made >= n
}

#[test]
fn every_step_of_a_job_goes_wrong_once() {
    let setup = Setup::new("gh100").apart();
    for wrong in [Wrong::Refused, Wrong::Torn, Wrong::Poison, Wrong::Late, Wrong::Unmoved] {
        for kind in KINDS {
            let mut n = 1;
            while attempt_in_steps::<V3>(&setup, kind, wrong, n) {
                n += if n < 24 { 1 } else { 1 + n / 12 };
            }
        }
    }
}

/// Two written jobs under one invalidate, whose `n`-th access goes wrong: it stays owed by both.
fn attempt_together<F: Format>(setup: &Setup, kind: &'static Kind, wrong: Wrong, n: u64) -> Came {
    let when = format!("when access {n} of both is {wrong:?}");
    let mut rig = Rig::<F>::new(setup, kind);
    rig.assert_pages(false, "before");
    let far = Step::Map(kinds::VA + 64 * GIB, 3 * 4096, Some(PageSize::Size4K));
    let jobs = [rig.prepare(&kind.does).unwrap(), rig.prepare(&far).unwrap()];
    let frames = jobs.each_ref().map(kinds::frames);
    let mut jobs: Vec<Armed<'_>> = jobs.into_iter().zip(&frames).map(|(job, frames)| Armed::new(job, frames)).collect();
    for job in &mut jobs {
        job.write(&mut rig.mmio).unwrap();
    }
    rig.mmio.bar0().arm(wrong, n);
    // Each of the two may look.
    rig.mmio.bar0().delay = 2500;
    let limits = rig.vmm.config().limits;
    let mut came = Came::Through;
    while let Err(why) = flush_all(&mut jobs, &mut rig.mmio, limits) {
        came = Came::Unexecuted;
        check_failure(wrong, why, &when);
        jobs = jobs.into_iter().map(|job| job.finish().unwrap_err()).collect();
        if wrong == Wrong::Gone {
            let made = rig.mmio.bar0().made;
            assert_eq!(flush_all(&mut jobs, &mut rig.mmio, limits), Err(why));
            assert_eq!(rig.mmio.bar0().made, made, "the bus was touched");
            return came;
        }
        rig.mmio.bar0().at = 0;
    }
    rig.mmio.bar0().arm(wrong, 0);
    for job in jobs {
        let receipt = job.execute(&mut rig.mmio).unwrap();
        rig.commit(receipt);
    }
    rig.assert_pages(true, &when);
    rig.assert_recount(&when);
    assert!(matches!(rig.access(kinds::VA + 64 * GIB), Page::Leads { .. }));
    came
}

#[test]
fn every_access_of_a_shared_flush_goes_wrong_once() {
    let setup = Setup::new("gh100");
    for wrong in [Wrong::Refused, Wrong::Torn, Wrong::Poison, Wrong::Gone, Wrong::Late] {
        let mut met = 0;
        for kind in KINDS {
            // A read and three writes to start it, and three looks.
            for n in 1..=7 {
                met += u64::from(attempt_together::<V3>(&setup, kind, wrong, n) == Came::Unexecuted);
            }
            assert_eq!(attempt_together::<V3>(&setup, kind, wrong, 12), Came::Through);
        }
        println!("{wrong:?}: {met}");
        assert!(met >= KINDS.len() as u64 * 3);
    }
}

/// Whether the job makes `n` accesses or more. Not every access can go wrong in every way.
fn goes_on<F: Format>(setup: &Setup, kind: &'static Kind, n: u64) -> bool {
    let mut rig = Rig::<F>::new(setup, kind);
    rig.mmio.bar0().arm(Wrong::Refused, 0);
    let job = rig.prepare(&kind.does).unwrap();
    complete_quietly(&mut rig, job);
    rig.mmio.bar0().made >= n
}

fn complete_quietly<F: Format>(rig: &mut Rig<F>, job: Job) {
    let frames = kinds::frames(&job);
    let receipt = Armed::new(job, &frames).execute(&mut rig.mmio).unwrap();
    rig.commit(receipt);
}

#[test]
fn every_kind_does_what_its_line_says() {
    for setup in [Setup::new("gh100"), Setup::new("gb100")] {
        every_kind::<V3>(&setup);
    }
    for setup in [Setup::new("tu102"), Setup::new("ga100"), Setup::new("ad102")] {
        every_kind::<V2>(&setup);
    }
}

fn every_kind<F: Format>(setup: &Setup) {
    for kind in KINDS.iter().filter(|kind| kind.fits(setup.chip())) {
        untroubled::<F>(setup, kind);
    }
}

fn untroubled<F: Format>(setup: &Setup, kind: &'static Kind) {
    let mut rig = Rig::<F>::new(setup, kind);
    rig.assert_pages(false, "before");
    let job = rig.prepare(&kind.does).unwrap();
    complete(&mut rig, job, "without trouble");
}

#[test]
fn every_access_of_gh100_goes_wrong_once() {
    for wrong in [Wrong::Refused, Wrong::Torn, Wrong::Poison, Wrong::Gone, Wrong::Late] {
        every_access::<V3>(&Setup::new("gh100"), wrong);
    }
}

#[test]
fn every_access_of_ga100_goes_wrong_once() {
    for wrong in [Wrong::Refused, Wrong::Torn, Wrong::Poison, Wrong::Gone, Wrong::Late] {
        every_access::<V2>(&Setup::new("ga100"), wrong);
    }
}

/// Where each table takes a move of the window.
#[test]
fn every_access_through_a_window_that_moves_goes_wrong_once() {
    for wrong in WRONGS {
        every_access::<V3>(&Setup::new("gh100").apart(), wrong);
        every_access::<V2>(&Setup::new("tu102").apart(), wrong);
    }
}

#[test]
fn accesses_of_a_32_bit_bus_go_wrong_once() {
    for wrong in [Wrong::Refused, Wrong::Torn, Wrong::Gone] {
        let setup = Setup::new("tu102");
        let model = Config { bus: Bus::Bits32, ..setup.model };
        every_access::<V2>(&Setup { model, ..setup }, wrong);
    }
}

/// Every take of table memory fails, and all after it.
#[test]
fn without_table_memory_nothing_changes() {
    let setup = Setup::new("gh100");
    let mut failed = 0;
    for kind in KINDS {
        let mut rig = Rig::<V3>::new(&setup, kind);
        let before = rig.state();
        for n in 0.. {
            rig.pool.inner().pool.allowed = n;
            let prepared = kind.does.plan(&mut rig.vmm, &mut rig.pool).map(drop);
            rig.pool.inner().pool.allowed = u64::MAX;
            rig.tell();
            assert_eq!(rig.state(), before, "{} with {n} tables", kind.name);
            match prepared {
                Ok(()) => break,
                Err(why) => assert!(matches!(why, PrepareError::NoSpace(_)), "{}: {why}", kind.name),
            }
            failed += 1;
        }
        let job = rig.prepare(&kind.does).unwrap();
        complete(&mut rig, job, "behind it");
    }
    println!("{failed} times without memory");
    assert!(failed > 100);
}

/// A 64K table whose last pages are cut into 4K pages, and a 4K table whose entries become 64K ones, were once dropped
/// in the round that writes the others: from valid to valid, with nothing in between.
#[test]
fn a_table_goes_in_a_round_before_what_takes_its_place() {
    let names = [
        "unmap, cutting both of 64K",
        "unsparse, cutting 64K",
        "map 64K over sparse 4K",
        "map 64K over some sparse 4K",
    ];
    for name in names {
        let kind = KINDS.iter().find(|kind| kind.name == name).unwrap();
        let mut rig = Rig::<V3>::new(&Setup::new("gh100"), kind);
        let job = rig.prepare(&kind.does).unwrap();
        assert_eq!(job.rounds(), 2, "{name}");
        complete(&mut rig, job, "in two rounds");
    }
}
