//! `gmmu run --soak`: random jobs on several address spaces, with faults injected, for as long as one likes.
//!
//! What every page is to be is kept in plain arrays, once as the books have it (after all prepared jobs) and once as the
//! GPU does (after the executed ones). Every refusal has to be one that the arrays explain, and the GPU's own MMU finds
//! what they say.

use std::time::{Duration, Instant};

use gmmu::addr::{PAGE_BYTES, PageSize, PhysAddr};
use gmmu::chip::Chip;
use gmmu::format::{Flags, Format};
use gmmu::vmm::{
    Bind, CommitError, ExecuteError, Extent, Failed, Job, Live, MapRequest, PrepareError, Protection, Span, Use, Vmm,
};
use gmmu_sim::{AccessKind, Config, Mishap, Speculation};
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::{Console, GOOD, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::machine::{Asked, CountsView, FindingView, Machine, engine};
use crate::notation::Counted;
use crate::progress::Progress;
use crate::with_format;

/// Spaces, and what of each is used: 32 MiB on both sides of a border of all directories but the topmost.
const SPACES: usize = 3;
const PAGES: usize = 8192;
const BASE: u64 = (512 << 30) - (PAGES as u64 / 2) * PAGE_BYTES;
/// Memory that is mapped; tables lie elsewhere.
const DATA: u64 = 16 << 30;
/// Jobs of one space that wait, at most.
const WAITING: usize = 6;
/// Jobs between two looks at every page.
const LOOK: u64 = 2000;

/// What a soak is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The chip.
    pub chip: &'static Chip,
    /// Where every choice comes from.
    pub seed: u64,
    /// How long.
    pub time: Duration,
    /// How many jobs at most.
    pub jobs: u64,
}

/// What came of it.
#[derive(Debug, Default, JsonSchema, Serialize)]
pub(crate) struct Report {
    schema: u32,
    chip: &'static str,
    seed: u64,
    counts: Option<CountsView>,
    jobs: u64,
    executed: u64,
    cancelled: u64,
    refused: u64,
    waited: u64,
    faults: u64,
    looks: u64,
    seconds: f64,
    findings: Vec<FindingView>,
    broken: Vec<String>,
}

/// A page: 0 for none, else its address, and whether it is read-only in the lowest bit. No address is 0.
type Page = u64;

struct Waiting {
    job: Job,
    pages: Vec<(usize, Page)>,
    before: Vec<(usize, Page)>,
}

struct Space<F: Format> {
    vmm: Vmm<F>,
    books: Vec<Page>,
    gpu: Vec<Page>,
    waiting: Vec<Waiting>,
}

struct Soak<F: Format> {
    machine: Machine,
    spaces: Vec<Space<F>>,
    random: Random,
    report: Report,
}

/// Numbers that a seed alone decides (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).unwrap_or(0)
    }
}

/// Runs the command.
///
/// # Errors
/// Exit code 2 where there is no such GPU.
pub fn run(options: Options, console: &mut Console<'_>) -> Outcome {
    with_format!(options.chip.mmu, soak(options, console))
}

fn soak<F: Format>(options: Options, console: &mut Console<'_>) -> Outcome {
    let config = Config {
        vram: Config::chip(options.chip.name).vram,
        seed: options.seed,
        speculation: Speculation::Random(options.seed),
        ..Config::default()
    };
    let machine = Machine::with(options.chip, config, std::slice::from_ref(&(DATA..DATA + (64 << 30))))?;
    let report = Report { schema: SCHEMA, chip: options.chip.name, seed: options.seed, ..Report::default() };
    let mut soak = Soak::<F> { machine, spaces: Vec::new(), random: Random(options.seed), report };
    let free = soak.machine.free_bytes();
    for _ in 0..SPACES {
        let vmm = soak.machine.create_space(None, Use::Channel).map_err(Failure::input)?;
        soak.spaces.push(Space { vmm, books: vec![0; PAGES], gpu: vec![0; PAGES], waiting: Vec::new() });
    }
    let started = Instant::now();
    let mut progress = Progress::new(console.terminal(), "soaking", (options.jobs < u64::MAX).then_some(options.jobs));
    while soak.report.jobs < options.jobs && started.elapsed() < options.time && soak.goes_on() {
        soak.step();
        progress.advance(1);
    }
    drop(progress);
    soak.finish(free);
    soak.report.seconds = started.elapsed().as_secs_f64();
    soak.report.counts = Some(soak.machine.gpu().counts().into());
    soak.report.findings = soak.machine.findings();
    console.show(&soak.report)?;
    let bad = !soak.report.broken.is_empty() || soak.report.findings.iter().any(FindingView::counts);
    Ok(if bad { Exit::Negative } else { Exit::Done })
}

const fn va(page: usize) -> u64 {
    BASE + page as u64 * PAGE_BYTES
}

impl<F: Format> Soak<F> {
    fn goes_on(&mut self) -> bool {
        self.report.broken.is_empty() && self.machine.gpu().findings().is_empty()
    }

    fn broken(&mut self, what: String) {
        let jobs = self.report.jobs;
        self.report.broken.push(format!("after {jobs} jobs: {what}"));
    }

    /// One random thing.
    fn step(&mut self) {
        let n = self.random.index(SPACES);
        let waiting = self.spaces.get(n).map_or(0, |space| space.waiting.len());
        match self.random.below(8) {
            0..=3 if waiting < WAITING => self.prepare(n),
            4 if waiting > 1 && self.random.below(3) == 0 => self.cancel(n),
            5 if self.random.below(4) == 0 => self.inject(),
            _ => self.execute(n),
        }
        if self.report.jobs % LOOK == LOOK - 1 {
            self.look_at_all();
        }
    }

    /// Something that hardware does, or memory that is short, for a moment.
    fn inject(&mut self) {
        self.report.faults += 1;
        let (at, times) = (1 + self.random.below(20), 1 + self.random.below(3));
        match self.random.below(3) {
            0 => self.machine.gpu().inject(Mishap::AcknowledgementLost, 1, Some(1 + self.random.below(200))),
            1 => self.machine.gpu().inject(Mishap::WindowWriteLost, at, Some(times)),
            _ => self.machine.exhaust_tables(at, Some(times)),
        }
    }

    /// Pages that a job is about: whole units of 4K, 64K or 2M.
    fn range(&mut self) -> std::ops::Range<usize> {
        let unit = [1, 1, 16, 16, 512].get(self.random.index(5)).copied().unwrap_or(1);
        let units = PAGES / unit;
        let start = self.random.index(units);
        let most = (units - start).min(if unit == 512 { 2 } else { 40 });
        start * unit..(start + 1 + self.random.index(most)) * unit
    }

    fn prepare(&mut self, n: usize) {
        let range = self.range();
        let bytes = range.len() as u64 * PAGE_BYTES;
        let addresses = va(range.start)..va(range.end);
        // Where addresses and memory agree in their low bits, large pages fit.
        let to = DATA + self.random.below(512) * (2 << 20) + (addresses.start & ((2 << 20) - 1));
        let extents = [Extent { to: PhysAddr::vram(to), bytes }];
        let page = [None, None, Some(PageSize::Size4K)].get(self.random.index(3)).copied().flatten();
        let request = MapRequest { page, ..MapRequest::extents(&extents).at(addresses.start).live(Live::Quiesced) };
        let span = Span::new(addresses.clone()).quiesced();
        let list = [Bind::Unmap(addresses), Bind::Map(request.clone())];
        let kind = self.random.below(8);
        let machine = &mut self.machine;
        let Some(space) = self.spaces.get_mut(n) else { return };
        let old: Vec<(usize, Page)> = range.clone().map(|at| (at, space.books.get(at).copied().unwrap_or(0))).collect();
        let mapped = |(_, page): &(usize, Page)| *page != 0;
        let memory = |at: usize| to + (at - range.start) as u64 * PAGE_BYTES;
        let (asked, new, refused): (_, fn(Page, Page) -> Page, _) = match kind {
            0..=2 => (Asked::Map(&request), |_, memory| memory, old.iter().any(mapped)),
            3 | 4 => (Asked::Unmap(span), |_, _| 0, !old.iter().any(mapped)),
            5 => {
                let read_only = Protection::flags(Flags { read_only: true, ..Flags::NONE });
                (Asked::Protect(span, read_only), |old, _| old | 1, !old.iter().all(mapped))
            }
            6 => (Asked::Reclaim, |old, _| old, false),
            _ => (Asked::Bind(&list, Live::Quiesced), |_, memory| memory, false),
        };
        let reclaims = matches!(asked, Asked::Reclaim);
        match machine.prepare(&mut space.vmm, asked) {
            Ok(job) => {
                // What stays as it is may be another job's, which waits or comes.
                let pages = old.iter().map(|(at, page)| (*at, *page, new(*page, memory(*at))));
                let changed: Vec<_> = pages.filter(|(_, old, new)| old != new).collect();
                let before = changed.iter().map(|(at, old, _)| (*at, *old)).collect();
                let pages: Vec<_> = changed.iter().map(|(at, _, new)| (*at, *new)).collect();
                for (at, page) in &pages {
                    if let Some(book) = space.books.get_mut(*at) {
                        *book = *page;
                    }
                }
                space.waiting.push(Waiting { job, pages, before });
                self.report.jobs += 1;
                if refused {
                    self.broken(format!("space {n}: pages {range:?} should have been refused"));
                }
            }
            Err(why) => {
                self.report.refused += 1;
                let short = matches!(why, PrepareError::NoSpace(_) | PrepareError::Device(_));
                let explained =
                    matches!(why, PrepareError::Busy { .. } | PrepareError::NotMapped { .. }) && (refused || reclaims);
                if !short && !explained {
                    self.broken(format!("space {n}: pages {range:?} were refused: {why}"));
                }
            }
        }
    }

    /// Takes the newest job back.
    fn cancel(&mut self, n: usize) {
        let Some(space) = self.spaces.get_mut(n) else { return };
        let Some(Waiting { job, pages, before }) = space.waiting.pop() else { return };
        match self.machine.cancel(&mut space.vmm, job) {
            Ok(()) => {
                for (at, page) in before {
                    if let Some(book) = space.books.get_mut(at) {
                        *book = page;
                    }
                }
                self.report.cancelled += 1;
            }
            // It was begun: it has to be executed.
            Err((job, CommitError::Begun)) => space.waiting.push(Waiting { job, pages, before }),
            Err((_, why)) => self.broken(format!("space {n}: the newest job cannot be cancelled: {why}")),
        }
    }

    /// Executes any job that waits, if it is its turn.
    fn execute(&mut self, n: usize) {
        let waiting = self.spaces.get(n).map_or(0, |space| space.waiting.len());
        let index = self.random.index(waiting);
        self.execute_at(n, index);
    }

    fn execute_at(&mut self, n: usize, index: usize) {
        let Some(space) = self.spaces.get_mut(n).filter(|space| index < space.waiting.len()) else { return };
        let Waiting { job, pages, before } = space.waiting.remove(index);
        match job.execute(self.machine.mmio()) {
            Ok(receipt) => {
                for (at, page) in &pages {
                    if let Some(found) = space.gpu.get_mut(*at) {
                        *found = *page;
                    }
                }
                if let Err((_, why)) = self.machine.commit(&mut space.vmm, receipt) {
                    self.broken(format!("space {n}: not committed: {why}"));
                }
                self.report.executed += 1;
                self.look_at_some(n, &pages);
            }
            Err(Failed { job, why }) => {
                space.waiting.insert(index, Waiting { job, pages, before });
                match why {
                    ExecuteError::NotYet => self.report.waited += 1,
                    // It goes on where it was when its turn comes again.
                    ExecuteError::Device(_) => {}
                    why => self.broken(format!("space {n}: not executed: {why}")),
                }
            }
        }
    }

    fn look_at_some(&mut self, n: usize, pages: &[(usize, Page)]) {
        for _ in 0..4 {
            let Some((at, _)) = pages.get(self.random.index(pages.len())) else { return };
            // A neighbour now and then.
            let at = at.saturating_add(self.random.index(3)).saturating_sub(1).min(PAGES - 1);
            self.look(n, at);
        }
    }

    fn look_at_all(&mut self) {
        for n in 0..SPACES {
            (0..PAGES).for_each(|at| self.look(n, at));
        }
        // Once only for each so many jobs.
        self.report.jobs += 1;
    }

    /// Whether the GPU's MMU finds what the arrays say.
    fn look(&mut self, n: usize, at: usize) {
        let Some(space) = self.spaces.get(n) else { return };
        let (client, page) = (engine(&space.vmm), space.gpu.get(at).copied().unwrap_or(0));
        let found = self.machine.gpu().access(client, va(at), AccessKind::Read, false);
        let found = found.map_or(0, |found| found.to.raw | u64::from(found.flags.read_only));
        self.report.looks += 1;
        if found != page {
            self.broken(format!("space {n}: {:#x} leads to {found:#x} and not to {page:#x}", va(at)));
        }
    }

    /// Executes what waits, unmaps all, closes the spaces, and sees whether all memory came back.
    fn finish(&mut self, free: u64) {
        for n in 0..SPACES {
            // Faults run out; a begun job comes to its end in some rounds.
            for _ in 0..1000 {
                if self.spaces.get(n).is_none_or(|space| space.waiting.is_empty()) {
                    break;
                }
                self.execute_at(n, 0);
            }
        }
        if self.goes_on() {
            self.look_at_all();
        }
        for (n, space) in std::mem::take(&mut self.spaces).into_iter().enumerate() {
            let open = space.waiting.len();
            drop(space.waiting);
            if let Err((_, why)) = self.machine.close_space(space.vmm) {
                self.broken(format!("space {n}: not closed: {why} ({open} jobs wait)"));
            }
        }
        let left = free - self.machine.free_bytes().min(free);
        if left != 0 && self.report.broken.is_empty() {
            self.broken(format!("{left:#x} bytes of video memory did not come back"));
        }
    }
}

impl View for Report {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        let Self { jobs, executed, cancelled, refused, waited, faults, looks, seconds, seed, chip, .. } = self;
        let rate = *jobs as f64 / seconds.max(1e-9);
        console.line(format_args!(
            "{STRONG}{}{STRONG:#} on {SPACES} spaces of a software {chip}, seed {seed}: {seconds:.1} s, {rate:.0} a second",
            Counted(*jobs, "job", "jobs"),
        ))?;
        console.line(format_args!(
            "executed {executed}, cancelled {cancelled}, too early {waited}, refused {refused}; faults injected {faults}, \
             pages looked at {looks}"
        ))?;
        for broken in &self.broken {
            console.line(format_args!("broken {broken}"))?;
        }
        if self.broken.is_empty() && self.findings.is_empty() {
            console.line(format_args!("{GOOD}nothing went wrong, nothing leaked{GOOD:#}"))?;
        }
        FindingView::list(&self.findings, console)
    }
}
