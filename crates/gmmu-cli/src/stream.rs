//! The mappings of a source as merged ranges, one after the other, whatever the format.

use gmmu::format::{V2, V3};
use gmmu::walk::{Is, WalkError};

use crate::console::Terminal;
use crate::exit::Failure;
use crate::progress::Progress;
use crate::ranges::{Mapped, What};
use crate::scan::{Barren, Scan, Space};
use crate::source::Source;
use gmmu::format::MmuVersion;

#[derive(Debug)]
enum Any<'a> {
    V2(Scan<'a, V2>),
    V3(Scan<'a, V3>),
}

/// Merged ranges, in order.
#[derive(Debug)]
pub struct Stream<'a> {
    source: &'a mut Source,
    scan: Any<'a>,
    open: Option<Mapped>,
    progress: Progress,
    bad: u64,
    truncated: bool,
}

impl<'a> Stream<'a> {
    /// The mappings of `source`. `barren` is its memory of tables that lead nowhere; who watches `terminal` sees how far
    /// it is.
    ///
    /// # Errors
    /// Those of the scan.
    pub fn new(source: &'a mut Source, barren: &'a mut Barren, terminal: Terminal) -> Result<Self, Failure> {
        let space = Space { root: source.root, sizes: source.sizes, tables_max: source.tables_max() };
        let range = 0..source.va_end();
        let scan = match source.mmu {
            MmuVersion::V2 => Scan::new(space, range, barren).map(Any::V2),
            MmuVersion::V3 => Scan::new(space, range, barren).map(Any::V3),
        };
        let scan = scan.map_err(|error| source.failure(error))?;
        let progress = Progress::new(terminal, "walking", None);
        Ok(Self { source, scan, open: None, progress, bad: 0, truncated: false })
    }

    /// Entries that could not be followed, so far.
    #[must_use]
    pub const fn bad(&self) -> u64 {
        self.bad
    }

    /// Whether the end came early: there were more tables than may be read.
    #[must_use]
    pub const fn truncated(&self) -> bool {
        self.truncated
    }

    /// The next range.
    ///
    /// # Errors
    /// Those of the source.
    pub fn next_range(&mut self) -> Result<Option<Mapped>, Failure> {
        loop {
            let memory = &mut self.source.memory;
            let found = match &mut self.scan {
                _ if self.truncated => Ok(None),
                Any::V2(scan) => scan.next(memory),
                Any::V3(scan) => scan.next(memory),
            };
            let (va, step) = match found {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(self.open.take()),
                Err(WalkError::TooManyTables { .. }) => {
                    self.truncated = true;
                    continue;
                }
                Err(error) => return Err(self.source.failure(error)),
            };
            self.progress.advance(1);
            self.bad += u64::from(matches!(step.is, Is::Bad(_)));
            let Some(next) = Mapped::of(va, &step) else { continue };
            match &mut self.open {
                Some(open) if open.goes_on_with(&next) => open.bytes += next.bytes,
                open => {
                    if let Some(whole) = open.replace(next) {
                        return Ok(Some(whole));
                    }
                }
            }
        }
    }
}

/// Takes the first `bytes` off a range.
#[must_use]
pub fn split(range: &mut Mapped, bytes: u64) -> Mapped {
    let first = Mapped { bytes, ..*range };
    range.va = range.va.saturating_add(bytes);
    range.bytes = range.bytes.saturating_sub(bytes);
    if let What::Leaf(leaf) = &mut range.what
        && let Some(to) = leaf.to.checked_add(bytes)
    {
        leaf.to = to;
    }
    first
}
