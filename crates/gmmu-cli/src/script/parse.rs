//! The script language: from text to operations, with the line of everything that does not read.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use gmmu::addr::{Aperture, PAGE_BYTES, PageSize, PhysAddr};
use gmmu::chip::Chip;
use gmmu::format::Flags;

use crate::exit::Failure;
use crate::notation::{PageChoice, memory, page};
use crate::num::number;
use crate::source::chip;

/// A script, read.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The `gpu` line.
    pub chip: Option<&'static Chip>,
    /// Its memory.
    pub vram: Option<u64>,
    /// The operations, with their lines.
    pub lines: Vec<(usize, Line)>,
}

/// One operation, and the error that it is to be refused with.
#[derive(Clone, Debug)]
pub struct Line {
    /// `refuse NAME`: the name.
    pub refused: Option<String>,
    /// What to do.
    pub op: Op,
    /// The line as it was written, for messages.
    pub text: String,
}

/// An operation.
#[derive(Clone, Debug)]
pub enum Op {
    /// `space`
    Space {
        /// Its name.
        name: String,
        /// Its top table, where the user wants it.
        root: Option<u64>,
        /// `use=bar`.
        bar: bool,
    },
    /// A change: done at once, or prepared as a job of that name.
    Change {
        /// `prepare NAME`.
        job: Option<String>,
        /// What changes.
        change: Change,
    },
    /// `execute JOB`
    Execute(String),
    /// `commit JOB`
    Commit(String),
    /// `cancel JOB`
    Cancel(String),
    /// `expect`
    Expect {
        /// The space.
        space: String,
        /// The address.
        va: At,
        /// What is expected.
        what: Expected,
    },
    /// `write`
    Write(String, At, u32),
    /// `read`
    Read(String, At, u32),
    /// `snapshot FILE`
    Snapshot(String),
}

/// A change of an address space.
#[derive(Clone, Debug)]
pub enum Change {
    /// `map`
    Map(Map),
    /// `unmap`
    Unmap {
        /// The space.
        space: String,
        /// Where.
        va: At,
        /// How much; of a name, all of it.
        len: Option<u64>,
    },
}

/// `map`
#[derive(Clone, Debug)]
pub struct Map {
    /// The space.
    pub space: String,
    /// Where; `None` for anywhere.
    pub va: Option<At>,
    /// How much.
    pub len: u64,
    /// What.
    pub memory: Memory,
    /// The page size; `None` for the largest that fits.
    pub page: Option<PageSize>,
    /// The surface kind.
    pub kind: u8,
    /// The flags.
    pub flags: Flags,
    /// `as=NAME`
    pub name: Option<String>,
}

/// The memory of a mapping.
#[derive(Clone, Debug)]
pub enum Memory {
    /// Whatever the allocator gives.
    Any,
    /// From there on.
    From(PhysAddr),
    /// These pages.
    Pages(Vec<u64>),
}

/// An address: a number, or a place in a range that was mapped under a name.
#[derive(Clone, Debug)]
pub enum At {
    /// A number.
    Va(u64),
    /// A name, and an offset.
    Named(String, u64),
}

/// What `expect` expects.
#[derive(Clone, Debug)]
pub enum Expected {
    /// That memory, and these flags where any are named.
    Memory(PhysAddr, Vec<String>),
    /// A fault at any level.
    Unmapped,
    /// A sparse entry.
    Sparse,
    /// A fault at that level.
    Fault(String),
}

type Read<T> = Result<T, String>;

impl Script {
    /// Reads a script. `name` stands in messages for where it came from.
    ///
    /// # Errors
    /// Exit code 2, the line, and what would be right.
    pub fn read(name: &str, text: &str) -> Result<Self, Failure> {
        let mut script = Self::default();
        // Some editors put a byte-order mark first.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.split('#').next().unwrap_or_default();
            for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
                script.part(line, part).map_err(|why| Failure::usage(format_args!("{name}:{line}: {why}")))?;
            }
        }
        Ok(script)
    }

    fn part(&mut self, line: usize, text: &str) -> Read<()> {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        if words.first() == Some(&"gpu") {
            return self.gpu(&words);
        }
        let mut refused = None;
        if words.first() == Some(&"refuse") {
            let name = words.get(1).ok_or("refuse ERROR OPERATION: the error is missing")?;
            refused = Some((*name).to_owned());
            words.drain(..2);
        }
        let op = operation(&words)?;
        self.lines.push((line, Line { refused, op, text: text.to_owned() }));
        Ok(())
    }

    fn gpu(&mut self, words: &[&str]) -> Read<()> {
        if !self.lines.is_empty() || self.chip.is_some() {
            return Err("gpu comes first, and once".to_owned());
        }
        let mut args = Args::read(words.get(1..).unwrap_or_default())?;
        self.chip = Some(chip(args.take_word("the chip, such as gh100")?)?);
        self.vram = args.take_number("vram")?;
        args.end()
    }

    /// Video memory that the script names: its own, which no allocator may hand out.
    #[must_use]
    pub fn named_memory(&self) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        for (_, line) in &self.lines {
            match &line.op {
                Op::Space { root: Some(root), .. } => ranges.push(*root..root.saturating_add(PAGE_BYTES)),
                Op::Change { change: Change::Map(map), .. } => match &map.memory {
                    Memory::From(to) if to.aperture == Aperture::Vram => {
                        ranges.push(to.raw..to.raw.saturating_add(map.len));
                    }
                    Memory::Pages(pages) => {
                        let bytes = map.page.map_or(PAGE_BYTES, PageSize::bytes);
                        ranges.extend(pages.iter().map(|&page| page..page.saturating_add(bytes)));
                    }
                    Memory::From(_) | Memory::Any => {}
                },
                _ => {}
            }
        }
        ranges
    }
}

/// The words of an operation, taken one by one; what is left over is an error.
struct Args<'a> {
    words: VecDeque<&'a str>,
    values: HashMap<&'a str, &'a str>,
}

impl<'a> Args<'a> {
    fn read(words: &[&'a str]) -> Read<Self> {
        let (mut plain, mut values) = (VecDeque::new(), HashMap::new());
        for &word in words {
            match word.split_once('=') {
                Some((key, value)) => {
                    if values.insert(key, value).is_some() {
                        return Err(format!("{key}= is there twice"));
                    }
                }
                None => plain.push_back(word),
            }
        }
        Ok(Self { words: plain, values })
    }

    fn take_word(&mut self, what: &str) -> Read<&'a str> {
        self.words.pop_front().ok_or_else(|| format!("{what} is missing"))
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        self.values.remove(key)
    }

    fn take_number(&mut self, key: &str) -> Read<Option<u64>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        number(value).map(Some).map_err(|why| format!("{key}={value}: {why}"))
    }

    /// How faults in the range are met. It matters once leaves can be cut; until then it is read and has no effect.
    fn take_fault_mode(&mut self) {
        self.words.retain(|word| !matches!(*word, "quiesced" | "replayable" | "live"));
    }

    fn take_flags(&mut self) -> Read<Flags> {
        Flags::from_names(self.words.drain(..))
            .map_err(|word| format!("{word}: no such flag (acd encrypted noatomic priv ro vol)"))
    }

    fn end(self) -> Read<()> {
        let mut rest: Vec<String> = self.words.iter().map(|word| (*word).to_owned()).collect();
        rest.extend(self.values.iter().map(|(key, value)| format!("{key}={value}")));
        rest.sort();
        if rest.is_empty() { Ok(()) } else { Err(format!("not understood: {}", rest.join(" "))) }
    }
}

/// The levels at which a walk can end.
const LEVELS: [&str; 6] = ["PDE4", "PDE3", "PDE2", "PDE1", "PDE0", "PTE"];
const OPERATIONS: &str = "gpu space map unmap prepare execute commit cancel expect write read refuse snapshot";
const LATER: [&str; 4] = ["sparse", "protect", "inject", "thread"];

fn operation(words: &[&str]) -> Read<Op> {
    let (&verb, rest) = words.split_first().ok_or("an operation is missing")?;
    let mut args = Args::read(rest)?;
    let op = match verb {
        "space" => space(&mut args)?,
        "map" => Op::Change { job: None, change: Change::Map(map(&mut args)?) },
        "unmap" => Op::Change { job: None, change: unmap(&mut args)? },
        "prepare" => {
            let job = rest.first().ok_or("prepare NAME OPERATION: the name is missing")?;
            return match operation(rest.get(1..).unwrap_or_default())? {
                Op::Change { job: None, change } => Ok(Op::Change { job: Some((*job).to_owned()), change }),
                _ => Err("only map and unmap can be prepared".to_owned()),
            };
        }
        "execute" => Op::Execute(args.take_word("the job")?.to_owned()),
        "commit" => Op::Commit(args.take_word("the job")?.to_owned()),
        "cancel" => Op::Cancel(args.take_word("the job")?.to_owned()),
        "expect" => expect(&mut args)?,
        "write" => {
            let (space, va) = (args.take_word("the space")?.to_owned(), at(args.take_word("the address")?)?);
            Op::Write(space, va, value(args.take_word("the value")?)?)
        }
        "read" => {
            let (space, va) = (args.take_word("the space")?.to_owned(), at(args.take_word("the address")?)?);
            Op::Read(space, va, value(args.take_word("the value")?)?)
        }
        "snapshot" => Op::Snapshot(args.take_word("the file")?.to_owned()),
        later if LATER.contains(&later) => {
            return Err(format!("{later}: this version of gmmu cannot do that yet"));
        }
        other => return Err(format!("{other:?} is no operation; there are {OPERATIONS}")),
    };
    args.end()?;
    Ok(op)
}

fn space(args: &mut Args<'_>) -> Read<Op> {
    let name = args.take_word("the name of the space")?.to_owned();
    match args.take("tables") {
        None | Some("vram") => {}
        Some("sys") => return Err("tables=sys: this version of gmmu cannot do that yet".to_owned()),
        Some(other) => return Err(format!("tables={other}: vram or sys")),
    }
    let bar = match args.take("use") {
        None | Some("channel") => false,
        Some("bar") => true,
        Some(other) => return Err(format!("use={other}: channel or bar")),
    };
    Ok(Op::Space { name, root: args.take_number("root")?, bar })
}

fn map(args: &mut Args<'_>) -> Read<Map> {
    let space = args.take_word("the space")?.to_owned();
    let va = match args.take("va").ok_or("va= is missing: an address, or auto")? {
        "auto" => None,
        text => Some(at(text)?),
    };
    let page = match args.take("page").map(page) {
        None | Some(Ok(PageChoice::Auto)) => None,
        Some(Ok(PageChoice::Size(size))) => Some(size),
        Some(Err(why)) => return Err(why.to_string()),
    };
    let len = args.take_number("len")?;
    let (memory, page, bytes) = match (args.take("pa"), args.take("pages")) {
        (Some(_), Some(_)) => return Err("pa= and pages= do not go together".to_owned()),
        (Some(pa), None) => (Memory::From(memory(pa).map_err(|why| format!("pa={pa}: {why}"))?), page, None),
        (None, Some(list)) => {
            let pages: Result<Vec<u64>, String> =
                list.split(',').map(|page| number(page).map_err(|why| format!("pages={list}: {why}"))).collect();
            let (pages, page) = (pages?, page.unwrap_or(PageSize::Size4K));
            let bytes = page.bytes().checked_mul(pages.len() as u64);
            (Memory::Pages(pages), Some(page), bytes)
        }
        (None, None) => (Memory::Any, page, None),
    };
    let len = match (len, bytes) {
        (Some(len), Some(bytes)) if len != bytes => return Err(format!("len={len} but the pages are {bytes} bytes")),
        (Some(len), _) | (None, Some(len)) => len,
        (None, None) => return Err("len= is missing".to_owned()),
    };
    let kind = args.take_number("kind")?.unwrap_or(6);
    let kind = u8::try_from(kind).map_err(|_| format!("kind={kind}: a kind has 8 bits at most"))?;
    let name = args.take("as").map(ToOwned::to_owned);
    args.take_fault_mode();
    Ok(Map { space, va, len, memory, page, kind, flags: args.take_flags()?, name })
}

fn unmap(args: &mut Args<'_>) -> Read<Change> {
    let space = args.take_word("the space")?.to_owned();
    let va = at(args.take("va").ok_or("va= is missing")?)?;
    let len = args.take_number("len")?;
    if len.is_none() && matches!(va, At::Va(_)) {
        return Err("len= is missing".to_owned());
    }
    args.take_fault_mode();
    Ok(Change::Unmap { space, va, len })
}

fn expect(args: &mut Args<'_>) -> Read<Op> {
    let space = args.take_word("the space")?.to_owned();
    let va = at(args.take_word("the address")?)?;
    if let Some(level) = args.take("fault") {
        if !LEVELS.contains(&level) {
            return Err(format!("fault={level}: there are {}", LEVELS.join(" ")));
        }
        return Ok(Op::Expect { space, va, what: Expected::Fault(level.to_owned()) });
    }
    let what = match args.take_word("what is expected: memory, unmapped, sparse or fault=LEVEL")? {
        "unmapped" => Expected::Unmapped,
        "sparse" => Expected::Sparse,
        text => {
            let to = memory(text).map_err(|why| why.to_string())?;
            Expected::Memory(to, args.take_flags()?.names().map(ToOwned::to_owned).collect())
        }
    };
    Ok(Op::Expect { space, va, what })
}

/// An address: `0x1000`, `buf`, `buf+0x1000`.
fn at(text: &str) -> Read<At> {
    if text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
        let (name, offset) = text.split_once('+').unwrap_or((text, "0"));
        return number(offset).map(|offset| At::Named(name.to_owned(), offset)).map_err(|why| why.to_string());
    }
    number(text).map(At::Va).map_err(|why| why.to_string())
}

/// 32 bits.
fn value(text: &str) -> Read<u32> {
    let value = number(text).map_err(|why| why.to_string())?;
    u32::try_from(value).map_err(|_| format!("{text} does not fit 32 bits"))
}
