//! Telling the sanitizer which memory a driver takes for tables, and which it gives back.
//!
//! A driver's pool of table memory and the card are different objects, often behind different locks. [`Watched`] sits
//! on the pool and writes down what happens; [`Notes::tell`] hands that on to the card, before the driver's next access.

use crate::mishap::Countdown;
use crate::Gpu;
use gmmu::addr::TableAddr;
use gmmu::device::{NoTableMemory, TablePool};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a pool did.
#[derive(Clone, Copy, Debug)]
enum Note {
    Taken(TableAddr, u64),
    Freed(TableAddr, u64),
}

/// What a watched pool did and the card does not know yet. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    notes: Vec<Note>,
    /// Takes that find no memory.
    exhausted: Countdown,
}

impl Notes {
    /// Tells the card everything that it does not know yet, in order.
    pub fn tell(&self, gpu: &mut Gpu) {
        for note in self.lock().notes.drain(..) {
            match note {
                Note::Taken(at, bytes) => gpu.note_table_taken(at, bytes),
                Note::Freed(at, bytes) => gpu.note_table_freed(at, bytes),
            }
        }
    }

    /// From now on, table number `at` (from 1) that is taken from any pool with these notes finds no memory, nor do the
    /// next, `times` of them all together; `None` for all that follow.
    pub fn exhaust(&self, at: u64, times: Option<u64>) {
        self.lock().exhausted = Countdown::new(at, times.unwrap_or(u64::MAX));
    }

    fn add(&self, note: Note) {
        self.lock().notes.push(note);
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pool of table memory that writes down what it does.
#[derive(Debug)]
pub struct Watched<P> {
    pool: P,
    notes: Notes,
}

impl<P: TablePool> Watched<P> {
    /// Watches `pool`.
    pub fn new(pool: P) -> Self {
        Self { pool, notes: Notes::default() }
    }

    /// Watches `pool`, writing into the list that `notes` shares.
    pub const fn sharing(pool: P, notes: Notes) -> Self {
        Self { pool, notes }
    }

    /// What the pool did and the card does not know yet.
    pub fn notes(&self) -> Notes {
        self.notes.clone()
    }

    /// The pool itself.
    pub const fn inner(&mut self) -> &mut P {
        &mut self.pool
    }
}

impl<P: TablePool> TablePool for Watched<P> {
    fn take(&mut self, bytes: u64, near: Option<TableAddr>) -> Result<TableAddr, NoTableMemory> {
        if self.notes.lock().exhausted.strikes() {
            return Err(NoTableMemory { bytes });
        }
        let at = self.pool.take(bytes, near)?;
        self.notes.add(Note::Taken(at, bytes));
        Ok(at)
    }

    fn give(&mut self, at: TableAddr, bytes: u64) {
        self.notes.add(Note::Freed(at, bytes));
        self.pool.give(at, bytes);
    }
}
