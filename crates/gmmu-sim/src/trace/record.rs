//! Writing a trace while a driver runs.

use super::{Event, Way, HEADER};
use gmmu::addr::Pfn;
use gmmu::addr::TableAddr;
use gmmu::device::{
    Bar0, Bar1Aperture, Clock, DeviceError, Encoding, NoTableMemory, Run, SysPath, TableMemory, TablePool, TableRead,
    Width,
};
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// What a trace is written to. Clones write to the same.
#[derive(Clone)]
pub struct Tape(Arc<Mutex<Sink>>);

struct Sink {
    out: Box<dyn Write + Send>,
    /// The first thing that went wrong: a driver's accesses go on without a trace.
    failed: Option<io::Error>,
}

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tape")
    }
}

impl Tape {
    /// Begins a trace of a card: its chip's name and its bytes of video memory.
    pub fn new(out: impl Write + Send + 'static, chip: &str, vram: u64) -> Self {
        let tape = Self(Arc::new(Mutex::new(Sink { out: Box::new(out), failed: None })));
        tape.line(format_args!("{HEADER}\nchip {chip}\nvram {vram:#x}"));
        tape
    }

    /// Writes an event that a recorder does not see: a root, a table, a label, an engine's access.
    pub fn note(&self, event: &Event) {
        self.line(format_args!("{event}"));
    }

    /// Says what the driver is about from here on.
    pub fn label(&self, text: &str) {
        self.note(&Event::Label(text.to_owned()));
    }

    /// Ends the trace.
    ///
    /// # Errors
    /// The first error of the writer, if there was any; the trace ends there.
    pub fn finish(&self) -> io::Result<()> {
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match sink.failed.take() {
            Some(error) => Err(error),
            None => sink.out.flush(),
        }
    }

    fn line(&self, line: fmt::Arguments<'_>) {
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sink.failed.is_none() {
            sink.failed = writeln!(sink.out, "{line}").err();
        }
    }
}

/// A card, or a pool of table memory, whose use is written down.
#[derive(Debug)]
pub struct Recorder<T> {
    inner: T,
    tape: Tape,
}

impl<T> Recorder<T> {
    /// Writes down on `tape` how `inner` is used.
    pub const fn new(inner: T, tape: Tape) -> Self {
        Self { inner, tape }
    }

    /// What is recorded.
    pub const fn inner(&mut self) -> &mut T {
        &mut self.inner
    }

    /// Where the trace goes.
    pub const fn tape(&self) -> &Tape {
        &self.tape
    }
}

impl<B: Bar0> Bar0 for Recorder<B> {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        let value = self.inner.read(offset, width)?;
        self.tape.note(&Event::Read(offset, width, value));
        Ok(value)
    }

    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        self.tape.note(&Event::Write(offset, width, value));
        self.inner.write(offset, width, value)
    }

    fn has_64bit(&self) -> bool {
        self.inner.has_64bit()
    }

    fn write_run(&mut self, offset: u32, run: Run) -> Result<(), DeviceError> {
        self.tape.note(&Event::WriteRun(Way::Bar0, offset.into(), Width::W64, run));
        self.inner.write_run(offset, run)
    }

    fn write_words(&mut self, offset: u32, words: &[u64]) -> Result<(), DeviceError> {
        for (at, word) in (offset..).step_by(8).zip(words) {
            self.tape.note(&Event::Write(at, Width::W64, *word));
        }
        self.inner.write_words(offset, words)
    }
}

impl<B: Bar1Aperture> Bar1Aperture for Recorder<B> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn is_64bit(&self) -> bool {
        self.inner.is_64bit()
    }

    fn read_at(&mut self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        let value = self.inner.read_at(offset, width)?;
        self.tape.note(&Event::Bar1Read(offset, width, value));
        Ok(value)
    }

    fn write_at(&mut self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        self.tape.note(&Event::Bar1Write(offset, width, value));
        self.inner.write_at(offset, width, value)
    }
}

impl<B: Clock> Clock for Recorder<B> {
    fn now_us(&mut self) -> u64 {
        self.inner.now_us()
    }

    fn relax(&mut self) {
        self.inner.relax();
    }
}

impl<P: TablePool> TablePool for Recorder<P> {
    fn take(&mut self, bytes: u64, near: Option<TableAddr>) -> Result<TableAddr, NoTableMemory> {
        let at = self.inner.take(bytes, near)?;
        self.tape.note(&Event::Taken(at, bytes));
        Ok(at)
    }

    fn give(&mut self, at: TableAddr, bytes: u64) {
        self.tape.note(&Event::Freed(at, bytes));
        self.inner.give(at, bytes);
    }
}

/// The way to system memory behind a recorded card: the stores there are written down too.
#[derive(Debug)]
pub struct RecordedMemory<M> {
    memory: M,
    tape: Tape,
}

impl<B, P: SysPath<B>> SysPath<Recorder<B>> for Recorder<P> {
    type Memory<'a>
        = RecordedMemory<P::Memory<'a>>
    where
        Self: 'a,
        Recorder<B>: 'a;

    fn memory<'a>(&'a mut self, bar0: &'a mut Recorder<B>) -> Self::Memory<'a> {
        RecordedMemory { memory: self.inner.memory(&mut bar0.inner), tape: self.tape.clone() }
    }
}

impl<M: TableRead> TableRead for RecordedMemory<M> {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        self.memory.read_words(at, words)
    }
}

impl<M: TableMemory> TableMemory for RecordedMemory<M> {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        self.tape.note(&Event::Store(at.raw(), run));
        self.memory.write_run(at, run)
    }

    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        for (raw, word) in (at.raw()..).step_by(8).zip(words) {
            self.tape.note(&Event::Store(raw, Run { first: *word, step: 0, count: 1 }));
        }
        self.memory.write_words(at, words)
    }

    fn write_frames(&mut self, at: TableAddr, how: Encoding, frames: &[Pfn]) -> Result<(), DeviceError> {
        for (raw, frame) in (at.raw()..).step_by(8).zip(frames) {
            self.tape.note(&Event::Store(raw, Run { first: how.word(*frame), step: 0, count: 1 }));
        }
        self.memory.write_frames(at, how, frames)
    }

    fn order(&mut self) -> Result<(), DeviceError> {
        self.tape.note(&Event::Order);
        self.memory.order()
    }

    fn drain(&mut self) -> Result<(), DeviceError> {
        self.tape.note(&Event::Drain);
        self.memory.drain()
    }
}
