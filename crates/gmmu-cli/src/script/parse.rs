//! The script language: from text to operations, with the line of everything that does not read.

use std::ops::Range;

use gmmu::addr::{Aperture, PAGE_BYTES, PageSize};
use gmmu::format::Kind;
use gmmu::vmm::Protection;
use gmmu_sim::Mishap;

use super::ops::{At, Change, Expected, Inject, Line, Map, Memory, Op, Page, Script, What};
use super::words::{Args, FLAGS, NO_FLAGS, Read, nearest};
use crate::exit::Failure;
use crate::machine::Tables;
use crate::notation::{PageChoice, memory, page};
use crate::num::{number, shown};
use crate::source::chip;

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
                    Memory::Pages(Aperture::Vram, pages) => {
                        let bytes = map.page.map_or(PAGE_BYTES, PageSize::bytes);
                        ranges.extend(pages.iter().map(|&page| page..page.saturating_add(bytes)));
                    }
                    Memory::From(_) | Memory::Pages(..) | Memory::Any => {}
                },
                _ => {}
            }
        }
        ranges
    }
}

/// The levels at which a walk can end.
const LEVELS: [&str; 6] = ["PDE4", "PDE3", "PDE2", "PDE1", "PDE0", "PTE"];
/// The first words of lines.
pub(super) const OPERATIONS: [&str; 17] = [
    "gpu", "space", "map", "unmap", "protect", "sparse", "unsparse", "prepare", "execute", "commit", "cancel",
    "expect", "write", "read", "refuse", "inject", "snapshot",
];
const LATER: [&str; 1] = ["thread"];

fn operation(words: &[&str]) -> Read<Op> {
    let (&verb, rest) = words.split_first().ok_or("an operation is missing")?;
    let mut args = Args::read(rest)?;
    let op = match verb {
        "space" => space(&mut args)?,
        "map" => Op::Change { job: None, change: Change::Map(map(&mut args)?) },
        "unmap" | "protect" | "sparse" | "unsparse" => Op::Change { job: None, change: range_change(verb, &mut args)? },
        "prepare" => {
            let job = rest.first().ok_or("prepare NAME OPERATION: the name is missing")?;
            return match operation(rest.get(1..).unwrap_or_default())? {
                Op::Change { job: None, change } => Ok(Op::Change { job: Some((*job).to_owned()), change }),
                _ => Err("only map, unmap, protect, sparse and unsparse can be prepared".to_owned()),
            };
        }
        "execute" => Op::Execute(args.take_word("the job")?.to_owned(), args.take_count("budget")?),
        "commit" => Op::Commit(args.take_word("the job")?.to_owned()),
        "cancel" => Op::Cancel(args.take_word("the job")?.to_owned()),
        "expect" => expect(&mut args)?,
        "write" | "read" => {
            let (space, va) = (args.take_word("the space")?.to_owned(), at(args.take_word("the address")?)?);
            let value = value(args.take_word("the value")?)?;
            if verb == "write" { Op::Write(space, va, value) } else { Op::Read(space, va, value) }
        }
        "inject" => Op::Inject(inject(&mut args)?),
        "snapshot" => Op::Snapshot(args.take_word("the file")?.to_owned()),
        later if LATER.contains(&later) => {
            return Err(format!("{later}: this version of gmmu cannot do that yet"));
        }
        other => return Err(no_operation(other)),
    };
    args.end()?;
    Ok(op)
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

fn map(args: &mut Args<'_>) -> Read<Map> {
    let space = args.take_word("the space")?.to_owned();
    let va = match args.need("va", "an address, or auto")? {
        "auto" => None,
        text => Some(at(text)?),
    };
    let (page, largest) = (take_page(args, "page")?, take_page(args, "largest")?);
    let len = args.take_number("len")?;
    let (memory, page, bytes) = match (args.take("pa"), args.take("pages")) {
        (Some(_), Some(_)) => return Err("pa= and pages= do not go together".to_owned()),
        (Some(pa), None) => (Memory::From(memory(pa).map_err(|why| format!("pa={pa}: {why}"))?), page, None),
        (None, Some(list)) => {
            let ((aperture, pages), page) = (pages(list)?, page.unwrap_or(PageSize::Size4K));
            let bytes = page.bytes().checked_mul(pages.len() as u64);
            (Memory::Pages(aperture, pages), Some(page), bytes)
        }
        (None, None) => (Memory::Any, page, None),
    };
    if let (Some(largest), Some(page)) = (largest, page) {
        return Err(format!("largest={largest} chooses among sizes, and there is only {page} here: leave one away"));
    }
    let len = match (len, bytes) {
        (Some(len), Some(bytes)) if len != bytes => return Err(format!("len={len} but the pages are {bytes} bytes")),
        (Some(len), _) | (None, Some(len)) => len,
        (None, None) => return Err(args.missing("len", "how much to map")),
    };
    let kind = args.take_kind()?.unwrap_or(6);
    let name = args.take("as").map(ToOwned::to_owned);
    let live = args.take_live()?;
    Ok(Map { space, va, len, memory, page, largest, kind, flags: args.take_flags()?, live, name })
}

fn take_page(args: &mut Args<'_>, key: &'static str) -> Read<Option<PageSize>> {
    match args.take(key).map(page) {
        None | Some(Ok(PageChoice::Auto)) => Ok(None),
        Some(Ok(PageChoice::Size(size))) => Ok(Some(size)),
        Some(Err(why)) => Err(format!("{key}=: {why}")),
    }
}

/// The pages of a mapping: `0x1000,0x5000`, or in other memory `sys-coh:0x1000,0x5000`.
fn pages(list: &str) -> Read<(Aperture, Vec<u64>)> {
    let mut aperture = None;
    let mut pages = Vec::new();
    for text in list.split(',') {
        let (here, page) = if text.contains(':') {
            let page = memory(text).map_err(|why| format!("pages={list}: {why}"))?;
            (page.aperture, page.raw)
        } else {
            let page = number(text).map_err(|why| format!("pages={list}: {why}"))?;
            (aperture.unwrap_or(Aperture::Vram), page)
        };
        if *aperture.get_or_insert(here) != here {
            return Err(format!("pages={list}: all pages of a mapping lie in one memory"));
        }
        if page % PAGE_BYTES != 0 {
            return Err(format!("pages={list}: {page:#x} is not a multiple of 4K"));
        }
        pages.push(page);
    }
    Ok((aperture.unwrap_or(Aperture::Vram), pages))
}

/// `unmap`, `protect`, `sparse`, `unsparse`.
fn range_change(verb: &str, args: &mut Args<'_>) -> Read<Change> {
    let space = args.take_word("the space")?.to_owned();
    let va = at(args.need("va", "where the range begins")?)?;
    let len = match va {
        At::Named(..) => args.take_number("len")?,
        At::Va(_) => {
            let len = args.need("len", "the length of the range")?;
            Some(number(len).map_err(|why| format!("len={len}: {why}"))?)
        }
    };
    let live = args.take_live()?;
    let what = match verb {
        "protect" => What::Protect(protection(args)?),
        "sparse" => What::Sparse,
        "unsparse" => What::Unsparse,
        _ => What::Unmap,
    };
    Ok(Change::Range { space, va, len, live, what })
}

/// What `protect` changes: flags, all of them, or the kind, or both.
fn protection(args: &mut Args<'_>) -> Read<Protection> {
    let kind = args.take_kind()?.map(Kind);
    let none = args.take_plain(NO_FLAGS);
    if none && !args.is_empty() {
        return Err(format!("{NO_FLAGS} is no flags at all: leave it away, or the flags"));
    }
    let flags = (none || !args.is_empty()).then(|| args.take_flags()).transpose()?;
    if flags.is_none() && kind.is_none() {
        let flags = FLAGS.join(" ");
        return Err(format!("what is to change? The pages' flags ({flags}, or {NO_FLAGS}), kind=N, or both"));
    }
    Ok(Protection { flags, kind })
}

/// `inject WHAT [at=N] [for=N]`
fn inject(args: &mut Args<'_>) -> Read<Inject> {
    const ALL: [&str; 5] = ["noflush", "lostack", "deadbar", "lostwindow", "oom"];
    let word = args.take_word(&format!("what goes wrong ({})", ALL.join(" ")))?;
    let (what, usual) = match word {
        "noflush" => (Some(Mishap::InvalidateSkipped), Some(1)),
        "lostack" => (Some(Mishap::AcknowledgementLost), None),
        "deadbar" => (Some(Mishap::BusDead), None),
        "lostwindow" => (Some(Mishap::WindowWriteLost), Some(1)),
        "oom" => (None, Some(1)),
        other => {
            let near = nearest(other, ALL.into_iter()).map_or_else(
                || format!("what goes wrong is one of {}", ALL.join(" ")),
                |near| format!("did you mean {near}?"),
            );
            return Err(format!("{}: {near}", shown(other)));
        }
    };
    Ok(Inject { what, at: args.take_count("at")?.unwrap_or(1), times: args.take_count("for")?.or(usual) })
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
        "sparse" => Expected::Sparse(args.take_number("page")?),
        text => {
            let to = memory(text).map_err(|why| match nearest(text, ["unmapped", "sparse"].into_iter()) {
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
