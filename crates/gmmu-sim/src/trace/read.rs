//! Reading the text of a trace.

use super::{Event, Trace, TraceError, Way, HEADER};
use gmmu::addr::{SysAddr, TableAddr};
use gmmu::device::{Run, Width};

/// The most words of one event: what a table of the largest page size maps, several times over.
const RUN_MAX: u32 = 1 << 20;

impl Trace {
    /// Reads a trace.
    ///
    /// # Errors
    /// [`TraceError`] names the line and what is wrong with it.
    pub fn read(text: &str) -> Result<Self, TraceError> {
        let mut lines = (1..).zip(text.lines().map(str::trim));
        if lines.next().map(|(_, line)| line) != Some(HEADER) {
            return Err(TraceError { line: 1, why: format!("this is no trace: one begins with {HEADER:?}") });
        }
        let mut trace = Self::default();
        for (line, words) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            trace.line(line, words).map_err(|why| TraceError { line, why })?;
        }
        Ok(trace)
    }

    fn line(&mut self, line: usize, text: &str) -> Result<(), String> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "chip" => self.chip = Some(rest.to_owned()),
            "vram" => self.vram = Some(number(rest)?),
            "=" => self.events.push((line, Event::Label(rest.to_owned()))),
            _ => {
                let mut words = rest.split_whitespace();
                let event = event(word, &mut words)?;
                if let Some(left) = words.next() {
                    return Err(format!("{left:?} is too much"));
                }
                self.events.push((line, event));
            }
        }
        Ok(())
    }
}

type Words<'a> = std::str::SplitWhitespace<'a>;

fn event(word: &str, words: &mut Words<'_>) -> Result<Event, String> {
    Ok(match word {
        "order" => Event::Order,
        "drain" => Event::Drain,
        "root" => Event::Root(table(words)?),
        "forget" => Event::Forget(table(words)?),
        "taken" => Event::Taken(table(words)?, next(words)?),
        "freed" => Event::Freed(table(words)?, next(words)?),
        "access" => Event::Access(table(words)?, next(words)?, kind(words)?),
        "s64" => {
            let at = next(words)?;
            Event::Store(at, run(words)?)
        }
        _ => {
            let (way, width) = access(word).ok_or_else(|| format!("{word:?} is no event"))?;
            let at = next(words)?;
            match way {
                "w" => write(Way::Bar0, bar0(at)?.into(), width, run(words)?)?,
                "b1w" => write(Way::Bar1, at, width, run(words)?)?,
                "b2w" => write(Way::Bar2, at, width, run(words)?)?,
                "r" => Event::Read(bar0(at)?, width, next(words)?),
                "b2r" => Event::Bar2Read(at, width, next(words)?),
                _ => Event::Bar1Read(at, width, next(words)?),
            }
        }
    })
}

/// One write, or a run of them.
fn write(way: Way, at: u64, width: Width, run: Run) -> Result<Event, String> {
    match run.count {
        1 => Event::write(way, at, width, run.first).ok_or_else(|| format!("{at:#x} is beyond BAR0")),
        _ => Ok(Event::WriteRun(way, at, width, run)),
    }
}

/// `w32`: which way, and how wide.
fn access(word: &str) -> Option<(&str, Width)> {
    let digits = word.rfind(|c: char| !c.is_ascii_digit())? + 1;
    let (way, width) = word.split_at_checked(digits)?;
    let width = match width {
        "8" => Width::W8,
        "16" => Width::W16,
        "32" => Width::W32,
        "64" => Width::W64,
        _ => return None,
    };
    // The digit of a BAR belongs to the way.
    ["w", "r", "b1w", "b1r", "b2w", "b2r"].contains(&way).then_some((way, width))
}

fn bar0(at: u64) -> Result<u32, String> {
    u32::try_from(at).map_err(|_| format!("{at:#x} is beyond BAR0"))
}

/// A first word, and its step and count where it is not alone.
fn run(words: &mut Words<'_>) -> Result<Run, String> {
    let first = next(words)?;
    let Some(step) = words.next() else { return Ok(Run { first, step: 0, count: 1 }) };
    let step = number(step.strip_prefix('+').ok_or_else(|| format!("{step:?} is no step: write +0x1000"))?)?;
    let count = words.next().and_then(|word| word.strip_prefix('*')).ok_or("no count behind the step: write *512")?;
    let count = u32::try_from(number(count)?).ok().filter(|count| *count <= RUN_MAX);
    Ok(Run { first, step, count: count.ok_or_else(|| format!("more than {RUN_MAX} words"))? })
}

fn kind(words: &mut Words<'_>) -> Result<bool, String> {
    match words.next() {
        Some("r") => Ok(false),
        Some("w") => Ok(true),
        other => Err(format!("{:?} is neither r nor w", other.unwrap_or(""))),
    }
}

fn table(words: &mut Words<'_>) -> Result<TableAddr, String> {
    let word = words.next().ok_or("an address is missing")?;
    let (space, at) = word.split_once(':').ok_or_else(|| format!("{word:?} says no memory: write vram:0x…"))?;
    let at = number(at)?;
    match space {
        "vram" => Ok(TableAddr::vram(at)),
        "sys-coh" => Ok(TableAddr::SysCoherent(SysAddr::new(at))),
        "sys-ncoh" => Ok(TableAddr::SysNonCoherent(SysAddr::new(at))),
        _ => Err(format!("{space:?} is no memory of tables: vram, sys-coh or sys-ncoh")),
    }
}

fn next(words: &mut Words<'_>) -> Result<u64, String> {
    number(words.next().ok_or("a number is missing")?)
}

fn number(word: &str) -> Result<u64, String> {
    let value = match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => word.parse(),
    };
    value.map_err(|_| format!("{word:?} is no number of 64 bits; hex begins with 0x"))
}
