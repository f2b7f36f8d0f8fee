//! All tables of an address space, each once, and what is in them: for commands that look at the structure.

use std::collections::HashSet;

use gmmu::format::Format;
use gmmu::walk::{Cursor, Event, Step, Table, View, WalkError};

use crate::console::Terminal;
use crate::exit::Failure;
use crate::progress::Progress;
use crate::source::Source;

/// What a survey comes upon.
#[derive(Clone, Copy, Debug)]
pub enum Seen {
    /// A table begins.
    Table {
        /// The table.
        table: Table,
        /// It was met before, at the same level, and is not read again.
        again: bool,
    },
    /// A table ends.
    End {
        /// The table.
        table: Table,
        /// Entries of its own that are not 0.
        used: u64,
        /// Leaves and sparse entries in it and below.
        leaves: u64,
    },
    /// A leaf, a sparse or a bad entry.
    Entry {
        /// The table that it is in.
        table: Table,
        /// First address that it translates.
        va: u64,
        /// The entry.
        step: Step,
    },
}

/// Goes through all tables of a source and shows them to `visit`. True where there were more than may be read.
///
/// # Errors
/// Those of the source, and of `visit`.
pub fn survey<F: Format>(
    source: &mut Source,
    terminal: Terminal,
    mut visit: impl FnMut(&mut Source, Seen) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    let limit = source.tables_max();
    let cursor = Cursor::<F>::new(source.root, source.sizes, 0..1 << F::VA_BITS, View::Structure, limit);
    let mut cursor = cursor.map_err(|error| source.failure(error))?;
    let mut progress = Progress::new(terminal, "reading tables", None);
    let mut seen = HashSet::new();
    let mut open: Vec<Table> = Vec::new();
    loop {
        progress.advance(1);
        let event = match cursor.next(&mut source.memory) {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(false),
            Err(WalkError::TooManyTables { .. }) => return Ok(true),
            Err(error) => return Err(source.failure(error)),
        };
        let seen = match event {
            Event::Enter(table) => {
                let again = !seen.insert((table.at, table.level.shift));
                if again {
                    cursor.skip();
                } else {
                    open.push(table);
                }
                Seen::Table { table, again }
            }
            Event::Leave { table, leaves, used } => {
                open.pop();
                Seen::End { table, used, leaves }
            }
            Event::Entry { va, step } => match open.last() {
                Some(&table) => Seen::Entry { table, va, step },
                None => continue,
            },
        };
        visit(source, seen)?;
    }
}
