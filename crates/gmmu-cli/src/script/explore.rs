//! All the ways in which the threads of a script can go: each is tried on a new machine, until one shows a mistake. The
//! script is made shorter then, as long as the mistake stays.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use gmmu::format::Format;
use gmmu_sim::Severity;

use super::ops::{Line, Script};
use super::runner::{Broken, Ran, Runner};
use super::schedule::{Choice, Untried, usual};
use super::threads::{Thread, Turn};
use crate::exit::Failure;
use crate::machine::Machine;

/// A schedule of more steps does not come to an end.
const STEPS_MAX: usize = 100_000;
/// What a shorter script may take to show the mistake, beside twice what it took before.
const PATIENCE: usize = 50;

/// In which order schedules are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Those first in which threads are interrupted least; each schedule once.
    Interruptions,
    /// Whoever goes on is drawn by lot, from this seed.
    Random(u64),
}

/// Tries schedules of a script's threads, each on a machine that `make` makes.
#[derive(Debug)]
pub struct Explorer<M> {
    make: M,
    order: Order,
    most: usize,
}

/// One schedule, run to its end or to the first operation that did not go as the script says.
#[derive(Debug)]
pub struct Trial<F: Format> {
    /// Everything as it is afterwards.
    pub runner: Runner<F>,
    /// The operation that did not go as the script says.
    pub broken: Option<Broken>,
    /// Operations that were begun.
    pub operations: usize,
    /// Whose turn it was: `A*3 B A`.
    pub schedule: String,
    choices: Vec<Choice>,
}

/// What came of it.
#[derive(Debug)]
pub struct Explored<F: Format> {
    /// The first schedule that shows a mistake, or the last one that was tried.
    pub trial: Trial<F>,
    /// How many were tried.
    pub schedules: usize,
    /// Whether these are all that there are.
    pub all: bool,
    /// Whether the trial shows a mistake.
    pub found: bool,
}

/// By what a mistake is known again: rules of the sanitizer, or the operation that was broken.
type Symptoms = BTreeSet<String>;

impl<F: Format> Trial<F> {
    /// What is wrong: nothing, where all went as it should.
    fn symptoms(&mut self) -> Symptoms {
        let counts = |severity: Severity| severity != Severity::Note;
        let findings = self.runner.machine().gpu().findings();
        let rules: Symptoms = findings.iter().filter(|f| counts(f.severity)).map(|f| f.rule.id().to_owned()).collect();
        if rules.is_empty() { self.broken.iter().map(|broken| broken.text.clone()).collect() } else { rules }
    }
}

impl<M: Fn() -> Result<Machine, Failure>> Explorer<M> {
    /// One that tries `most` schedules.
    pub const fn new(make: M, order: Order, most: usize) -> Self {
        Self { make, order, most }
    }

    /// Tries schedules until one shows a mistake. A script that has a schedule of its own is run by that.
    ///
    /// # Errors
    /// Only what ends the whole program.
    pub fn explore<F: Format>(&self, script: &Script) -> Result<Explored<F>, Failure> {
        self.explore_for(script, self.most, &|symptoms| !symptoms.is_empty())
    }

    fn explore_for<F: Format>(
        &self,
        script: &Script,
        most: usize,
        is_it: &dyn Fn(&Symptoms) -> bool,
    ) -> Result<Explored<F>, Failure> {
        if script.schedule.is_some() {
            let trial = self.trial::<F>(script, &[], None)?;
            let Some(mut trial) = trial else {
                return Err(Failure::usage("schedule: at some step the thread whose turn it is waits, or is done"));
            };
            let found = is_it(&trial.symptoms());
            return Ok(Explored { trial, schedules: 1, all: false, found });
        }
        let (mut untried, mut schedules, mut last) = (Untried::new(), 0, None);
        while schedules < most.max(1) {
            let (begin, seed) = match self.order {
                Order::Random(seed) => (Some(Vec::new()), Some(seed.wrapping_add(schedules as u64))),
                Order::Interruptions => (untried.next(), None),
            };
            let Some(begin) = begin else { break };
            let Some(mut trial) = self.trial::<F>(script, &begin, seed)? else { continue };
            schedules += 1;
            if is_it(&trial.symptoms()) {
                return Ok(Explored { trial, schedules, all: false, found: true });
            }
            if seed.is_none() {
                untried.tried(begin.len(), &trial.choices);
            }
            last = Some(trial);
        }
        let all = self.order == Order::Interruptions && untried.next().is_none();
        let trial = last.ok_or_else(|| Failure::usage("no schedule of the script can be run"))?;
        Ok(Explored { trial, schedules, all, found: false })
    }

    /// Runs one schedule: it begins so, and goes on by lot or as usual. `None` where somebody waits whose turn it was to be.
    fn trial<F: Format>(
        &self,
        script: &Script,
        begin: &[usize],
        mut seed: Option<u64>,
    ) -> Result<Option<Trial<F>>, Failure> {
        let mut trial = Trial {
            runner: Runner::new((self.make)()?),
            broken: None,
            operations: 0,
            schedule: String::new(),
            choices: Vec::new(),
        };
        let mut threads = Thread::all(&script.lines);
        let first = script.lines.iter().position(|(_, line)| line.thread.is_some()).unwrap_or(script.lines.len());
        let (before, rest) = script.lines.split_at(first);
        if !trial.run_all(before)? {
            return Ok(Some(trial));
        }
        let mut own = Own::new(script, &threads);
        while threads.iter().any(|thread| !thread.is_done()) {
            let able: Vec<usize> = able(&threads);
            let last = trial.choices.last().map(|choice| choice.taken);
            let said = begin.get(trial.choices.len()).copied().or_else(|| own.next());
            let drawn = seed.as_mut().and_then(|seed| draw(seed, &able));
            let taken = said.or(drawn).or_else(|| usual(last, &able));
            let Some(taken) = taken.filter(|_| trial.choices.len() < STEPS_MAX) else {
                // Everybody waits for somebody, or it goes on for ever: that is a mistake, too.
                let endless =
                    || Broken { line: 0, text: "threads".to_owned(), why: "they do not come to an end".to_owned() };
                trial.broken = Some(threads.iter_mut().find_map(|thread| thread.waits.take()).unwrap_or_else(endless));
                break;
            };
            let Some(thread) = threads.get_mut(taken).filter(|_| able.contains(&taken)) else { return Ok(None) };
            match trial.runner.turn(thread)? {
                Turn::Waits if said.is_some() => return Ok(None),
                Turn::Waits => continue,
                Turn::Done => {}
                Turn::Broken(broken) => trial.broken = Some(broken),
            }
            threads.iter_mut().for_each(|thread| thread.waits = None);
            trial.choices.push(Choice { able, taken });
            if trial.broken.is_some() {
                break;
            }
        }
        trial.schedule = written(&trial.choices, &threads);
        trial.operations += script.lines.iter().filter(|(_, line)| line.thread.is_some()).count();
        let behind = rest.iter().filter(|(_, line)| line.thread.is_none());
        if trial.broken.is_none() {
            trial.run_all(behind)?;
        }
        Ok(Some(trial))
    }

    /// The shortest script that is found by leaving lines out and still shows what `found` shows, with its schedule. Where
    /// it takes an interruption to show that, it does so to the end: an operation that is wrong anyway is no race.
    ///
    /// # Errors
    /// Only what ends the whole program.
    pub fn reduce<F: Format>(&self, script: &Script, found: &mut Explored<F>) -> Result<String, Failure> {
        let symptoms = found.trial.symptoms();
        let same = |other: &Symptoms| other.intersection(&symptoms).next().is_some();
        let is_race = found.schedules > 1;
        let mut short = Script { schedule: None, ..script.clone() };
        let (mut most, mut schedule) = (2 * found.schedules + PATIENCE, found.trial.schedule.clone());
        loop {
            let before = short.lines.len();
            for at in (0..before).rev() {
                let mut shorter = short.clone();
                if at >= shorter.lines.len() {
                    continue;
                }
                shorter.lines.remove(at);
                let tried = self.explore_for::<F>(&shorter, most, &same)?;
                if tried.found && (tried.schedules > 1 || !is_race) {
                    (short, schedule) = (shorter, tried.trial.schedule);
                    most = most.min(2 * tried.schedules + PATIENCE);
                }
            }
            if short.lines.len() == before {
                return Ok(text(&short, &schedule));
            }
        }
    }
}

impl<F: Format> Trial<F> {
    /// Runs operations that nothing else goes on beside. Whether all went as the script says.
    fn run_all<'s>(&mut self, lines: impl IntoIterator<Item = &'s (usize, Line)>) -> Result<bool, Failure> {
        for (number, line) in lines {
            self.operations += 1;
            if let Ran::Broken(broken) = self.runner.run(*number, line)? {
                self.broken = Some(broken);
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Who can go on.
fn able(threads: &[Thread<'_>]) -> Vec<usize> {
    let can = |thread: &Thread<'_>| !thread.is_done() && thread.waits.is_none();
    threads.iter().enumerate().filter(|(_, thread)| can(thread)).map(|(n, _)| n).collect()
}

/// Draws one of them: xorshift, which is as good as any other here.
fn draw(seed: &mut u64, able: &[usize]) -> Option<usize> {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *seed = x;
    let count = u64::try_from(able.len()).ok().filter(|count| *count > 0)?;
    able.get(usize::try_from((x >> 32) % count).ok()?).copied()
}

/// The script's own schedule, turn by turn.
struct Own(Vec<(usize, u64)>);

impl Own {
    fn new(script: &Script, threads: &[Thread<'_>]) -> Self {
        let number = |name: &str| threads.iter().position(|thread| thread.name == name);
        let turns = script.schedule.iter().flatten().rev();
        Self(turns.filter_map(|(name, steps)| Some((number(name)?, *steps))).collect())
    }

    fn next(&mut self) -> Option<usize> {
        while let Some((thread, left)) = self.0.last_mut() {
            if let Some(less) = left.checked_sub(1) {
                *left = less;
                return Some(*thread);
            }
            self.0.pop();
        }
        None
    }
}

/// Turns as a script has them.
fn written(choices: &[Choice], threads: &[Thread<'_>]) -> String {
    let runs = choices.chunk_by(|a, b| a.taken == b.taken);
    let turns = runs.filter_map(|run| {
        let name = threads.get(run.first()?.taken)?.name;
        Some(if run.len() == 1 { name.to_owned() } else { format!("{name}*{}", run.len()) })
    });
    turns.collect::<Vec<_>>().join(" ")
}

/// A script as text.
fn text(script: &Script, schedule: &str) -> String {
    let mut text = String::new();
    let mut add = |line: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    };
    script.gpu.iter().for_each(|gpu| add(gpu.clone()));
    for (_, line) in &script.lines {
        let thread = line.thread.as_ref().map(|name| format!("thread {name}: ")).unwrap_or_default();
        add(format!("{thread}{}", line.text));
    }
    if script.has_threads() {
        add(format!("schedule {schedule}"));
    }
    text
}
