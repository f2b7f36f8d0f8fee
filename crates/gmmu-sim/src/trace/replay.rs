//! Doing a trace again, to a software GPU.

use super::{Event, Trace, Way};
use crate::config::{Config, ConfigError};
use crate::fault::{AccessKind, Client};
use crate::gpu::Gpu;
use crate::memory::Space;
use crate::regs;
use gmmu::addr::{SysAddr, TableAddr};
use gmmu::device::{Bar0, Bar1Aperture, Clock, DeviceError, Run, TableMemory, Width};
use std::collections::HashSet;

/// How often a register is read until it gives what it gave the driver: for what takes a while.
const LOOKS: u32 = 256;
/// Words that the card had and the model has not: so many are told of one by one.
const DIFFERENCES: usize = 16;

/// A trace being done again.
///
/// What the driver read of memory that it had not written is put there first: so the model comes to know what was in
/// it before the trace began. What it had written and read otherwise is a difference: something wrote there that a trace
/// does not show.
#[derive(Debug)]
pub struct Replay {
    gpu: Gpu,
    /// Words of video memory that the trace has written or read.
    known: HashSet<u64>,
    /// Operation and line at which each event began, and the labels with theirs.
    lines: Vec<(u64, usize)>,
    labels: Vec<(u64, String)>,
    learned: u64,
    refused: u64,
    differences: Vec<String>,
    more_differences: u64,
}

impl Replay {
    /// A GPU for a trace: the chip and memory that it names, where `config` has none of its own.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self {
            gpu: Gpu::new(config)?,
            known: HashSet::new(),
            lines: Vec::new(),
            labels: Vec::new(),
            learned: 0,
            refused: 0,
            differences: Vec::new(),
            more_differences: 0,
        })
    }

    /// The GPU, as the trace has left it.
    pub const fn gpu(&mut self) -> &mut Gpu {
        &mut self.gpu
    }

    /// Does all events of a trace.
    pub fn run(&mut self, trace: &Trace) {
        for (line, event) in &trace.events {
            self.step(*line, event);
        }
    }

    /// Does one event.
    pub fn step(&mut self, line: usize, event: &Event) {
        self.lines.push((self.gpu.op(), line));
        self.act(line, event);
    }

    fn act(&mut self, line: usize, event: &Event) {
        let done = match event {
            Event::Read(at, width, value) => self.read(line, *at, *width, *value),
            Event::Write(at, width, value) => {
                self.note_written(*at, u64::from(width.bytes()));
                self.gpu.write(*at, *width, *value)
            }
            // One call of the driver's, as it was.
            Event::WriteRun(Way::Bar0, at, Width::W64, run) => match u32::try_from(*at) {
                Ok(at) => {
                    self.note_written(at, 8 * u64::from(run.count));
                    self.gpu.write_run(at, *run)
                }
                Err(_) => Err(DeviceError::BadOffset { offset: u32::MAX, bytes: 8 }),
            },
            Event::WriteRun(way, at, width, run) => {
                for (word, n) in run.words().zip(0..) {
                    let at = at.wrapping_add(u64::from(width.bytes()) * n);
                    match Event::write(*way, at, *width, word) {
                        Some(event) => self.act(line, &event),
                        None => self.refused += 1,
                    }
                }
                return;
            }
            Event::Bar1Read(at, width, _) => self.gpu.read_at(*at, *width).map(drop),
            Event::Bar1Write(at, width, value) => self.gpu.write_at(*at, *width, *value),
            // A fault is an answer like any other.
            Event::Bar2Read(at, width, _) => {
                let mut bytes = [0; 8];
                let _ = self.gpu.load(Client::Bar2, *at, bytes.get_mut(..width.bytes() as usize).unwrap_or_default());
                Ok(())
            }
            Event::Bar2Write(at, width, value) => {
                let bytes = value.to_le_bytes();
                let _ = self.gpu.store(Client::Bar2, *at, bytes.get(..width.bytes() as usize).unwrap_or_default());
                Ok(())
            }
            Event::Store(at, run) => self.store(*at, *run),
            Event::Order => self.gpu.cpu().order(),
            Event::Drain => self.gpu.cpu().drain(),
            Event::Root(at) => {
                self.gpu.note_root(*at);
                Ok(())
            }
            Event::Forget(at) => {
                self.gpu.forget_root(*at);
                Ok(())
            }
            Event::Taken(at, bytes) => {
                self.gpu.note_table_taken(*at, *bytes);
                Ok(())
            }
            Event::Freed(at, bytes) => {
                self.gpu.note_table_freed(*at, *bytes);
                Ok(())
            }
            Event::Access(pdb, va, writes) => {
                let kind = if *writes { AccessKind::Write } else { AccessKind::Read };
                let _ = self.gpu.access(Client::Engine { pdb: *pdb }, *va, kind, false);
                Ok(())
            }
            Event::Label(text) => {
                self.labels.push((self.gpu.op(), text.clone()));
                Ok(())
            }
        };
        self.refused += u64::from(done.is_err());
    }

    /// The line of the trace in which operation `op` happened, and what the driver was about there.
    #[must_use]
    pub fn place(&self, op: u64) -> Option<(usize, Option<&str>)> {
        let before = self.lines.partition_point(|(first, _)| *first < op).checked_sub(1)?;
        let label = self.labels.partition_point(|(first, _)| *first < op).checked_sub(1);
        let label = label.and_then(|at| self.labels.get(at)).map(|(_, label)| label.as_str());
        Some((self.lines.get(before)?.1, label))
    }

    /// Words that the card held before the trace began, as the driver read them.
    #[must_use]
    pub const fn learned(&self) -> u64 {
        self.learned
    }

    /// Accesses that the model has no place for.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Words that the driver wrote and read otherwise: the first of them, and how many there are beyond.
    #[must_use]
    pub fn differences(&self) -> (&[String], u64) {
        (&self.differences, self.more_differences)
    }

    fn store(&mut self, at: u64, run: Run) -> Result<(), DeviceError> {
        self.gpu.cpu().write_run(TableAddr::SysCoherent(SysAddr::new(at)), run)
    }

    fn read(&mut self, line: usize, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        if let Some(at) = self.vram_at(offset) {
            self.learn(line, at, width, value);
            return self.gpu.read(offset, width).map(drop);
        }
        // What the driver waited for takes as long as it took there.
        for _ in 0..LOOKS {
            if self.gpu.read(offset, width)? == value || !is_status(offset) {
                break;
            }
            self.gpu.relax();
        }
        Ok(())
    }

    /// Compares what the driver read with what the model has.
    fn learn(&mut self, line: usize, at: u64, width: Width, value: u64) {
        let mut bytes = [0; 8];
        let used = bytes.get_mut(..width.bytes() as usize).unwrap_or_default();
        self.gpu.peek_vram(at, used);
        let has = u64::from_le_bytes(bytes);
        if has == value {
            return;
        }
        if self.known.insert(at & !7) {
            self.learned += 1;
        } else if self.differences.len() < DIFFERENCES {
            self.differences.push(format!(
                "line {line}: the driver read {value:#x} at vram:{at:#014x}, where the trace has written {has:#x}"
            ));
        } else {
            self.more_differences += 1;
        }
        let used = value.to_le_bytes();
        self.gpu.load_vram(at, used.get(..width.bytes() as usize).unwrap_or_default());
    }

    fn note_written(&mut self, offset: u32, bytes: u64) {
        if let Some(at) = self.vram_at(offset) {
            self.known.extend((at & !7..at.saturating_add(bytes)).step_by(8));
        }
    }

    /// What of video memory the window shows at a register offset.
    fn vram_at(&self, offset: u32) -> Option<u64> {
        let at = offset.checked_sub(regs::PRAMIN).filter(|at| *at < regs::PRAMIN_BYTES)?;
        let (space, at) = self.gpu.window.place(self.gpu.chip, at)?;
        (space == Space::Vram).then_some(at)
    }
}

/// Whether a register says how far something is that takes a while.
const fn is_status(offset: u32) -> bool {
    matches!(
        offset,
        regs::MMU_CTRL | regs::INVALIDATE | regs::UFLUSH_FB_FLUSH | regs::XAL_FB_FLUSH_STATUS | regs::PBUS_BIND_STATUS
    )
}

impl Trace {
    /// The GPU that the trace is of, as far as it says: `base` with its chip and memory.
    #[must_use]
    pub fn config(&self, base: Config) -> Config {
        let base = match &self.chip {
            Some(chip) => Config { seed: base.seed, ..Config::chip(chip) },
            None => base,
        };
        Config { vram: self.vram.unwrap_or(base.vram), ..base }
    }
}
