//! Logs of Linux's mmiotrace (`Documentation/trace/mmiotrace.rst`): every access of a driver to its BARs.

use super::{Event, Trace, TraceError};
use crate::chip::{ChipModel, FbSize, CHIPS, MIB};
use crate::regs;
use gmmu::device::Width;
use std::ops::Range;

/// `PCI_VENDOR_ID_NVIDIA`.
const NVIDIA: u32 = 0x10de;

/// Where a BAR lies in the host's physical addresses.
#[derive(Clone, Debug, Default)]
struct Bars {
    bar0: Range<u64>,
    bar1: Range<u64>,
}

impl Trace {
    /// Makes a trace of a log of mmiotrace: the accesses to BAR0 and BAR1 of the first NVIDIA GPU that it names. Chip and
    /// memory are those that the driver read from the registers.
    ///
    /// # Errors
    /// [`TraceError`] where the log names no such GPU, or a line cannot be read.
    pub fn read_mmiotrace(text: &str) -> Result<Self, TraceError> {
        let mut trace = Self::default();
        let mut bars: Option<Bars> = None;
        let (mut elsewhere, mut unknown, mut marks) = (0u64, 0u64, 0u64);
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            let mut words = text.split_whitespace();
            let failed = |why: String| TraceError { line, why };
            match words.next() {
                Some("PCIDEV") => bars = bars.or(pcidev(&mut words).map_err(failed)?),
                Some(way @ ("R" | "W")) => {
                    let Some(bars) = &bars else {
                        return Err(failed("an access before any NVIDIA GPU was named (PCIDEV)".to_owned()));
                    };
                    let (width, at, value) = access(&mut words).map_err(failed)?;
                    match event(bars, way == "W", width, at, value) {
                        Some(event) => trace.events.push((line, event)),
                        None => elsewhere += 1,
                    }
                }
                Some("MARK") => {
                    marks += 1;
                    // MARK, time, and whatever somebody wrote into trace_marker.
                    let label = words.skip(1).collect::<Vec<_>>().join(" ");
                    trace.events.push((line, Event::Label(label)));
                }
                None | Some("VERSION" | "MAP" | "UNMAP" | "LSPCI") => {}
                Some(_) => unknown += 1,
            }
        }
        if bars.is_none() {
            return Err(TraceError {
                line: 1,
                why: "the log names no NVIDIA GPU (no PCIDEV line with vendor 10de)".to_owned(),
            });
        }
        trace.identify();
        trace.notes.push("a log shows the CPU's accesses to BAR0 and BAR1: not what it stored to system memory, nor what the GPU wrote itself".to_owned());
        for (count, what) in [(elsewhere, "accesses elsewhere"), (unknown, "lines that are no events of mmiotrace")] {
            if count > 0 {
                trace.notes.push(format!("left out, {what}: {count}"));
            }
        }
        if marks == 0 {
            trace.notes.push("no marks: findings name lines of the log alone".to_owned());
        }
        Ok(trace)
    }

    /// Chip and memory by what the driver read of them.
    fn identify(&mut self) {
        let read = |register| {
            self.events.iter().find_map(|(_, event)| match event {
                Event::Read(at, Width::W32, value) if *at == register => u32::try_from(*value).ok(),
                _ => None,
            })
        };
        let chip = read(regs::BOOT_0).and_then(ChipModel::of_boot_0);
        let vram = chip.and_then(|chip| match chip.fb_size {
            FbSize::LocalMemoryRange => {
                let word = read(regs::LOCAL_MEMORY_RANGE)?;
                Some(u64::from(word >> 4 & 0x3f) << (word & 0xf) << 20)
            }
            FbSize::UsableMb => Some(u64::from(read(regs::USABLE_FB_SIZE_IN_MB)?) * MIB),
        });
        self.chip = chip.map(|chip| chip.name.to_owned());
        self.vram = vram;
    }
}

impl ChipModel {
    /// The chip that says this of itself in `NV_PMC_BOOT_0`; its revision may be any.
    #[must_use]
    pub fn of_boot_0(word: u32) -> Option<&'static Self> {
        const IDENTITY: u32 = 0x1ff0_0100;
        CHIPS.iter().find(|chip| (chip.boot_0() ^ word) & IDENTITY == 0)
    }
}

/// `PCIDEV`: bus and function, vendor and device, interrupt, seven starts, seven sizes, driver.
fn pcidev(words: &mut std::str::SplitWhitespace<'_>) -> Result<Option<Bars>, String> {
    let mut next = || words.next().ok_or_else(|| "the line is cut short".to_owned());
    let _ = next()?;
    let device = hex(next()?)?;
    let _ = next()?;
    let mut numbers = [0; 14];
    for number in &mut numbers {
        *number = hex(next()?)?;
    }
    // Display audio and USB functions of the card have no BAR1.
    let bar = |n: usize| {
        let start = numbers.get(n).map_or(0, |start| start & !0xf);
        start..start.saturating_add(numbers.get(n + 7).copied().unwrap_or(0))
    };
    let is_gpu = device >> 16 == u64::from(NVIDIA) && !bar(0).is_empty() && !bar(1).is_empty();
    Ok(is_gpu.then(|| Bars { bar0: bar(0), bar1: bar(1) }))
}

/// Width, time, number of the mapping, physical address, value, and two that nobody needs.
fn access(words: &mut std::str::SplitWhitespace<'_>) -> Result<(Width, u64, u64), String> {
    let mut next = || words.next().ok_or_else(|| "the line is cut short".to_owned());
    let width = match next()? {
        "1" => Width::W8,
        "2" => Width::W16,
        "4" => Width::W32,
        "8" => Width::W64,
        other => return Err(format!("{other:?} bytes are no width")),
    };
    let _ = (next()?, next()?);
    Ok((width, hex(next()?)?, hex(next()?)?))
}

fn event(bars: &Bars, writes: bool, width: Width, at: u64, value: u64) -> Option<Event> {
    if bars.bar0.contains(&at) {
        let offset = u32::try_from(at - bars.bar0.start).ok()?;
        return Some(if writes { Event::Write(offset, width, value) } else { Event::Read(offset, width, value) });
    }
    let offset = bars.bar1.contains(&at).then(|| at - bars.bar1.start)?;
    Some(if writes { Event::Bar1Write(offset, width, value) } else { Event::Bar1Read(offset, width, value) })
}

fn hex(word: &str) -> Result<u64, String> {
    let digits = word.strip_prefix("0x").unwrap_or(word);
    u64::from_str_radix(digits, 16).map_err(|_| format!("{word:?} is no number"))
}
