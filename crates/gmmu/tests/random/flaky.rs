//! Hardware that fails now and then, half-way through what it was asked for.

use gmmu::addr::TableAddr;
use gmmu::device::{Clock, DeviceError, Invalidate, Invalidator, Poll, Run, TableMemory, TableRead, Ticket};

pub const FAILED: DeviceError = DeviceError::Backend("failed on purpose");

/// Fails from the `left`-th call on.
pub struct Flaky<'a, H> {
    pub hardware: &'a mut H,
    pub left: u64,
}

impl<H> Flaky<'_, H> {
    fn call(&mut self) -> Result<(), DeviceError> {
        self.left = self.left.checked_sub(1).ok_or(FAILED)?;
        Ok(())
    }
}

impl<H: TableRead> TableRead for Flaky<'_, H> {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        self.call()?;
        self.hardware.read_words(at, words)
    }
}

impl<H: Clock> Clock for Flaky<'_, H> {
    fn now_us(&mut self) -> u64 {
        self.hardware.now_us()
    }

    fn relax(&mut self) {
        self.hardware.relax();
    }
}

impl<H: TableMemory> TableMemory for Flaky<'_, H> {
    fn write_run(&mut self, at: TableAddr, run: Run) -> Result<(), DeviceError> {
        if self.call().is_err() {
            self.hardware.write_run(at, Run { count: run.count / 2, ..run })?;
            return Err(FAILED);
        }
        self.hardware.write_run(at, run)
    }

    fn write_words(&mut self, at: TableAddr, words: &[u64]) -> Result<(), DeviceError> {
        if self.call().is_err() {
            self.hardware.write_words(at, &words[..words.len() / 2])?;
            return Err(FAILED);
        }
        self.hardware.write_words(at, words)
    }

    fn order(&mut self) -> Result<(), DeviceError> {
        self.call()?;
        self.hardware.order()
    }

    fn drain(&mut self) -> Result<(), DeviceError> {
        self.call()?;
        self.hardware.drain()
    }
}

impl<H: Invalidator> Invalidator for Flaky<'_, H> {
    fn submit(&mut self, what: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        self.call()?;
        self.hardware.submit(what)
    }

    fn poll(&mut self, ticket: Ticket) -> Result<Poll, DeviceError> {
        self.call()?;
        self.hardware.poll(ticket)
    }
}
