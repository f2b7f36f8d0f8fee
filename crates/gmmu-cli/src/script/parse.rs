//! The script language: from text to operations, with the line of everything that does not read.

use std::ops::Range;

use gmmu::addr::{Aperture, PAGE_BYTES, PageSize};
use gmmu::device::Width;
use gmmu_sim::Mishap;

use super::changes::{CHANGES, at, change, map, step};
use super::ops::{At, Bar1Op, Expected, Inject, Inst, JobOp, Line, Map, Memory, Op, Page, PieceLike, Script, What};
use super::words::{Args, Read, nearest};
use crate::exit::Failure;
use crate::machine::Tables;
use crate::notation::memory;
use crate::num::{number, shown};
use crate::source::chip;

impl Script {
    /// Reads a script. `name` stands in messages for where it came from.
    ///
    /// # Errors
    /// Exit code 2, the line, and what would be right.
    pub fn read(name: &str, text: &str) -> Result<Self, Failure> {
        let mut reader = Reader::default();
        // Some editors put a byte-order mark first.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let says = |line, why| Failure::usage(format_args!("{name}:{line}: {why}"));
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.split('#').next().unwrap_or_default();
            if reader.open.is_none() {
                reader.thread = None;
            }
            for part in text.split(';') {
                let words: Vec<&str> = part.split_whitespace().collect();
                reader.part(line, &words).map_err(|why| says(line, why))?;
            }
        }
        if let Some(open) = reader.open {
            return Err(says(open.line, "what begins here with { has no } at its end".to_owned()));
        }
        reader.script.check_threads().map_err(|(line, why)| says(line, why))?;
        Ok(reader.script)
    }

    /// Whether the lines of threads stand together, and a schedule names nobody else.
    fn check_threads(&self) -> Result<(), (usize, String)> {
        let is_thread = |entry: &&(usize, Line)| entry.1.thread.is_some();
        let (first, last) = (
            self.lines.iter().position(|entry| is_thread(&entry)),
            self.lines.iter().rposition(|entry| is_thread(&entry)),
        );
        let Some(own) = first.zip(last).and_then(|(first, last)| self.lines.get(first..=last)) else {
            let none = "schedule: the script has no lines of threads".to_owned();
            return if self.schedule.is_some() { Err((self.schedule_line, none)) } else { Ok(()) };
        };
        if let Some((line, between)) = own.iter().find(|(_, line)| line.thread.is_none()) {
            let why = format!("{}: lines of threads stand together; this is between two of them", between.text);
            return Err((*line, why));
        }
        for (name, _) in self.schedule.iter().flatten() {
            if !own.iter().any(|(_, line)| line.thread.as_ref() == Some(name)) {
                return Err((self.schedule_line, format!("schedule: there is no thread {}", shown(name))));
            }
        }
        Ok(())
    }

    fn gpu(&mut self, words: &[&str]) -> Read<()> {
        if !self.lines.is_empty() || self.chip.is_some() {
            return Err("gpu comes first, and once".to_owned());
        }
        self.gpu = Some(words.join(" "));
        let mut args = Args::read(words.get(1..).unwrap_or_default())?;
        self.chip = Some(chip(args.take_word("the chip, such as gh100")?)?);
        (self.vram, self.bar1) = (args.take_number("vram")?, args.take_number("bar1")?);
        args.end()
    }

    /// Video memory that the script names: its own, which no allocator may hand out.
    #[must_use]
    pub fn named_memory(&self) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        for (_, line) in &self.lines {
            if let Op::Space { root: Some(root), .. } = line.op {
                ranges.push(root..root.saturating_add(PAGE_BYTES));
            }
            for map in line.op.maps() {
                match &map.memory {
                    Memory::From(to) if to.aperture == Aperture::Vram => {
                        ranges.push(to.raw..to.raw.saturating_add(map.len));
                    }
                    Memory::Pages(Aperture::Vram, pages) => {
                        let bytes = map.page.map_or(PAGE_BYTES, PageSize::bytes);
                        ranges.extend(pages.iter().map(|&page| page..page.saturating_add(bytes)));
                    }
                    Memory::From(_) | Memory::Pages(..) | Memory::Any => {}
                }
            }
        }
        ranges
    }
}

impl Op {
    /// All mappings that the operation makes.
    fn maps(&self) -> Vec<&Map> {
        let steps = match self {
            Self::Bar1(Bar1Op::Map(_, map)) => return vec![map],
            Self::Change { change, .. } => change.what.steps(),
            _ => &[],
        };
        steps.iter().filter_map(|step| if let What::Map(map) = step { Some(map) } else { None }).collect()
    }
}

/// A script on its way, operation by operation.
#[derive(Default)]
struct Reader<'t> {
    script: Script,
    /// Whose operations the rest of the line has.
    thread: Option<String>,
    open: Option<Open<'t>>,
}

/// A bind whose end has not come yet.
struct Open<'t> {
    line: usize,
    words: Vec<&'t str>,
    /// As it was written, so far.
    text: String,
    steps: Vec<What>,
}

impl<'t> Reader<'t> {
    /// Reads what stands on a line between two `;`.
    fn part(&mut self, line: usize, words: &[&'t str]) -> Read<()> {
        let Some(open) = &mut self.open else {
            if let ["thread", rest @ ..] = words {
                let name = rest.first().and_then(|name| name.strip_suffix(':')).filter(|name| !name.is_empty());
                self.thread = Some(name.ok_or("thread NAME: OPERATION: the name and its : are missing")?.to_owned());
                return self.part(line, rest.get(1..).unwrap_or_default());
            }
            if let Some(at) = words.iter().position(|word| *word == "{") {
                let (words, rest) = (words.get(..at).unwrap_or_default(), words.get(at + 1..).unwrap_or_default());
                let text = words.join(" ") + " {";
                self.open = Some(Open { line, words: words.to_vec(), text, steps: Vec::new() });
                return self.part(line, rest);
            }
            if words.is_empty() {
                return Ok(());
            }
            return self.script.part((line, self.thread.clone()), words, words.join(" "), None);
        };
        let end = words.iter().position(|word| *word == "}");
        let step_words = words.get(..end.unwrap_or(words.len())).unwrap_or_default();
        if !step_words.is_empty() {
            open.text += if open.steps.is_empty() { " " } else { "; " };
            open.text += &step_words.join(" ");
            open.steps.push(step(step_words)?);
        }
        let Some(end) = end else { return Ok(()) };
        if let Some(next) = words.get(end + 1) {
            return Err(format!("{}: a new line or ; comes behind }}", shown(next)));
        }
        match self.open.take() {
            Some(Open { line, words, text, steps }) => {
                self.script.part((line, self.thread.clone()), &words, text + " }", Some(steps))
            }
            None => Ok(()),
        }
    }
}

impl Script {
    /// Reads one operation, on a line, of a thread; `steps` are what stands between its braces.
    fn part(
        &mut self,
        (line, thread): (usize, Option<String>),
        words: &[&str],
        text: String,
        mut steps: Option<Vec<What>>,
    ) -> Read<()> {
        let mut words = words;
        match words {
            ["gpu", ..] if steps.is_none() && thread.is_none() => return self.gpu(words),
            ["schedule", turns @ ..] if steps.is_none() && thread.is_none() => return self.schedule(line, turns),
            _ => {}
        }
        let mut refused = None;
        if let ["refuse", rest @ ..] = words {
            let (name, rest) = rest.split_first().ok_or("refuse ERROR OPERATION: the error is missing")?;
            refused = Some((*name).to_owned());
            words = rest;
        }
        let op = operation(words, &mut steps)?;
        if steps.is_some() {
            return Err("{ } belong to bind and rebind alone".to_owned());
        }
        self.lines.push((line, Line { refused, thread, op, text }));
        Ok(())
    }
}

impl Script {
    /// `schedule A*3 B …`: whose turn it is, and for how many steps.
    fn schedule(&mut self, line: usize, turns: &[&str]) -> Read<()> {
        if self.schedule.is_some() {
            return Err("there is one schedule".to_owned());
        }
        let turn = |word: &&str| {
            let (name, steps) = word.split_once('*').unwrap_or((word, "1"));
            let steps = number(steps).map_err(|why| format!("{}: {why}", shown(word)))?;
            Ok((name.to_owned(), steps))
        };
        (self.schedule, self.schedule_line) = (Some(turns.iter().map(turn).collect::<Read<_>>()?), line);
        Ok(())
    }
}

/// The levels at which a walk can end.
const LEVELS: [&str; 6] = ["PDE4", "PDE3", "PDE2", "PDE1", "PDE0", "PTE"];
/// The first words of lines.
pub(super) const OPERATIONS: [&str; 33] = [
    "gpu",
    "space",
    "map",
    "unmap",
    "protect",
    "sparse",
    "unsparse",
    "bind",
    "rebind",
    "defragment",
    "reclaim",
    "restore",
    "prepare",
    "execute",
    "commit",
    "cancel",
    "drop",
    "skip",
    "zap",
    "close",
    "adopt",
    "expect",
    "write",
    "read",
    "look",
    "refuse",
    "inst",
    "bar1",
    "inject",
    "lose",
    "snapshot",
    "thread",
    "schedule",
];
/// What `expect` can count, of a space, a job or BAR1.
pub(super) const COUNTS: [&str; 12] = [
    "tables",
    "reclaimable",
    "pieces",
    "zapped",
    "foreign",
    "jobs",
    "quarantined",
    "rounds",
    "mappings",
    "taken",
    "hole",
    "poisoned",
];

fn operation(words: &[&str], steps: &mut Option<Vec<What>>) -> Read<Op> {
    let (&verb, rest) = words.split_first().ok_or("an operation is missing")?;
    let mut args = Args::read(rest)?;
    let op = match verb {
        "space" => space(&mut args)?,
        "prepare" => {
            let job = rest.first().ok_or("prepare NAME OPERATION: the name is missing")?;
            return match operation(rest.get(1..).unwrap_or_default(), steps)? {
                Op::Change { job: None, change } => Ok(Op::Change { job: Some((*job).to_owned()), change }),
                _ => Err(format!("only {} can be prepared", CHANGES.join(", "))),
            };
        }
        verb if CHANGES.contains(&verb) => Op::Change { job: None, change: change(verb, &mut args, steps)? },
        "execute" => Op::Job(args.take_name("the job")?, JobOp::Execute(args.take_count("budget")?)),
        "commit" => Op::Job(args.take_name("the job")?, JobOp::Commit),
        "cancel" => Op::Job(args.take_name("the job")?, JobOp::Cancel),
        "drop" => Op::Job(args.take_name("the job")?, JobOp::Drop),
        "skip" => Op::Job(args.take_name("the job")?, JobOp::Skip),
        "zap" => Op::Zap(args.take_name("the evictable mapping")?),
        "adopt" => Op::Adopt(args.take_name("the space")?, args.take_number("limit")?),
        "close" => Op::Close(args.take_name("the space")?),
        "expect" => expect(&mut args)?,
        "write" | "read" => {
            let (space, va) = (args.take_name("the space")?, at(args.take_word("the address")?)?);
            let value = word(args.take_word("the value")?)?;
            if verb == "write" { Op::Write(space, va, value) } else { Op::Read(space, va, value) }
        }
        "look" => Op::Look(args.take_name("the space")?, at(args.take_word("the address")?)?),
        "inst" => Op::Inst(inst(&mut args)?),
        "bar1" => Op::Bar1(bar1(&mut args)?),
        "inject" => Op::Inject(inject(&mut args)?),
        "lose" => {
            args.take_one_of("what is lost", &["vram"])?;
            Op::LoseVram
        }
        "snapshot" => Op::Snapshot(args.take_name("the file")?),
        other => return Err(no_operation(other)),
    };
    args.end()?;
    Ok(op)
}

/// `inst bind NAME SPACE`, `inst unbind NAME`
fn inst(args: &mut Args<'_>) -> Read<Inst> {
    const DOES: [&str; 2] = ["bind", "unbind"];
    match args.take_one_of("what becomes of the instance block", &DOES)? {
        "bind" => Ok(Inst::Bind(args.take_name("the name of the instance block")?, args.take_name("the space")?)),
        _ => Ok(Inst::Unbind(args.take_name("the name of the instance block")?)),
    }
}

/// `bar1 bind SPACE`, `bar1 unbind`, `bar1 map NAME …`, `bar1 unmap NAME`, `bar1 write|read NAME+OFFSET VALUE`
fn bar1(args: &mut Args<'_>) -> Read<Bar1Op> {
    const DOES: [&str; 6] = ["bind", "unbind", "map", "unmap", "write", "read"];
    let verb = args.take_one_of("what BAR1 does", &DOES)?;
    match verb {
        "bind" => Ok(Bar1Op::Bind(args.take_name("the space")?)),
        "unbind" => Ok(Bar1Op::Unbind),
        "unmap" => Ok(Bar1Op::Unmap(args.take_name("the mapping")?)),
        "map" => {
            let name = args.take_name("the name of the mapping")?;
            args.default("va", "auto");
            Ok(Bar1Op::Map(name, map(args)?))
        }
        verb => {
            let place = args.take_word("the mapping")?;
            let At::Named(name, offset) = at(place)? else {
                return Err(format!("{place}: where in a mapping is written NAME or NAME+OFFSET"));
            };
            let width = match args.take_number("bits")? {
                Some(8) => Width::W8,
                Some(16) => Width::W16,
                None | Some(32) => Width::W32,
                Some(64) => Width::W64,
                Some(bits) => return Err(format!("bits={bits}: 8, 16, 32 or 64")),
            };
            let value = value(args.take_word("the value")?, width)?;
            let op = if verb == "write" { Bar1Op::Write } else { Bar1Op::Read };
            Ok(op(name, offset, width, value))
        }
    }
}

fn no_operation(word: &str) -> String {
    let there_are = match nearest(word, OPERATIONS.into_iter()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there are {}", OPERATIONS.join(" ")),
    };
    format!("\"{}\" is no operation; {there_are}", shown(word))
}

fn space(args: &mut Args<'_>) -> Read<Op> {
    let name = args.take_word("the name of the space")?.to_owned();
    let tables = match args.take("tables") {
        None => None,
        Some("vram") => Some(Tables::Vram),
        Some("sys") => Some(Tables::Sys),
        Some(other) => return Err(format!("tables={other}: vram or sys")),
    };
    let bar = match args.take("use") {
        None | Some("channel") => false,
        Some("bar") => true,
        Some(other) => return Err(format!("use={other}: channel or bar")),
    };
    Ok(Op::Space { name, tables, root: args.take_number("root")?, bar })
}

/// What can go wrong: the word, what that is (`None`: no memory for tables), and how often where the script does not say
/// (`None`: from then on).
pub(super) const INJECT: [(&str, Option<Mishap>, Option<u64>); 9] = [
    ("noflush", Some(Mishap::InvalidateSkipped), Some(1)),
    ("otherspace", Some(Mishap::InvalidateMisdirected), Some(1)),
    ("lostack", Some(Mishap::AcknowledgementLost), None),
    ("deadbar", Some(Mishap::BusDead), None),
    ("poison", Some(Mishap::Poison), None),
    ("lostwindow", Some(Mishap::WindowWriteLost), Some(1)),
    ("bitflip", Some(Mishap::BitFlip), Some(1)),
    ("lostvram", Some(Mishap::VramLost), Some(1)),
    ("oom", None, Some(1)),
];

/// `inject WHAT [at=N] [for=N]`
fn inject(args: &mut Args<'_>) -> Read<Inject> {
    let word = args.take_one_of("what goes wrong", &INJECT.map(|(word, ..)| word))?;
    let found = INJECT.into_iter().find(|(known, ..)| *known == word);
    let (_, what, usual) = found.ok_or("what goes wrong is missing")?;
    Ok(Inject { what, at: args.take_count("at")?.unwrap_or(1), times: args.take_count("for")?.or(usual) })
}

fn expect(args: &mut Args<'_>) -> Read<Op> {
    let space = args.take_word("the space")?.to_owned();
    if args.is_empty() {
        let counts = COUNTS.into_iter().filter_map(|key| Some(args.take_number(key).transpose()?.map(|n| (key, n))));
        let counts = counts.collect::<Read<Vec<_>>>()?;
        if !counts.is_empty() {
            return Ok(Op::Counts(space, counts));
        }
    }
    let va = at(args.take_word("the address")?)?;
    if let Some(level) = args.take("fault") {
        if !LEVELS.contains(&level) {
            return Err(format!("fault={level}: there are {}", LEVELS.join(" ")));
        }
        return Ok(Op::Expect { space, va, what: Expected::Fault(level.to_owned()) });
    }
    let what = match args.take_word("what is expected: memory, unmapped, sparse, piece or fault=LEVEL")? {
        "unmapped" => Expected::Unmapped,
        "sparse" => Expected::Sparse(args.take_number("page")?),
        "piece" => {
            let (len, page) = (args.take_number("len")?, args.take_number("page")?);
            let (object, offset) = (args.take_number("object")?, args.take_number("offset")?);
            Expected::Piece(PieceLike { len, page, object, offset })
        }
        text => {
            let to = memory(text).map_err(|why| match nearest(text, ["unmapped", "sparse", "piece"].into_iter()) {
                Some(near) => format!("{}: did you mean {near}?", shown(text)),
                None => why.to_string(),
            })?;
            let (bytes, kind) = (args.take_number("page")?, args.take_kind()?);
            let flags = args.take_flags()?.names().map(ToOwned::to_owned).collect();
            Expected::Page(Page { to, bytes, kind, flags })
        }
    };
    Ok(Op::Expect { space, va, what })
}

/// A value that `width` has room for.
fn value(text: &str, width: Width) -> Read<u64> {
    let (value, bits) = (number(text).map_err(|why| why.to_string())?, 8 * width.bytes());
    if value > u64::MAX >> (64 - bits) {
        return Err(format!("{text} does not fit {bits} bits"));
    }
    Ok(value)
}

/// 32 bits.
fn word(text: &str) -> Read<u32> {
    let value = value(text, Width::W32)?;
    u32::try_from(value).map_err(|_| format!("{text} does not fit 32 bits"))
}
