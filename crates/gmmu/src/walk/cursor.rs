//! All entries of an address space in order, pulled one event at a time.

use super::{check_va, interpret, is_local, look, place, Is, Kind, Step, WalkError, Why, STEPS};
use crate::addr::TableAddr;
use crate::chip::PageSizes;
use crate::device::{DeviceError, TableRead};
use crate::format::{Format, Level, BIG_TABLE, SMALL_TABLE};
use core::marker::PhantomData;
use core::ops::Range;

/// A table that a cursor enters or leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its level; a 64K and a 4K table are told apart by [`Level::shift`].
    pub level: &'static Level,
    /// Where it is.
    pub at: TableAddr,
    /// The first address that it translates.
    pub va: u64,
    /// The entry that points to it: the word of its half, in a dual entry. `None` for the root.
    pub parent: Option<TableAddr>,
}

/// What a cursor comes upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A table begins. [`Cursor::skip`] leaves it unread.
    Enter(Table),
    /// A table ends.
    Leave {
        /// The table.
        table: Table,
        /// Leaves and sparse entries found in it and below it.
        leaves: u64,
        /// Entries of its own that are not 0.
        used: u64,
    },
    /// A leaf, a sparse entry or a bad one.
    Entry {
        /// First address that it translates.
        va: u64,
        /// The entry; its level's span is how far it reaches.
        step: Step,
    },
}

/// In which way a cursor goes through leaf tables that share a dual entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// As the hardware translates: addresses ascend, and entries that the hardware never reads are left out.
    Translations,
    /// As the tables are: each table once, whole.
    Structure,
}

/// Words that are read at once.
const CHUNK: usize = 16;

/// A table that is being read.
#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: Kind,
    table: Table,
    /// Next entry, and the one behind the last.
    next: u64,
    end: u64,
    /// The 4K table beside this 64K table, in the view of translations.
    beside: Option<TableAddr>,
    /// Whether `Enter` and `Leave` are told; not for a piece of a 4K table that is read for one 64K entry.
    told: bool,
    leaves: u64,
    used: u64,
    words: [u64; CHUNK],
    /// Number of the first entry in `words`; `u64::MAX` where there is none.
    first: u64,
}

/// Goes through an address space in order, one event at a time, without allocating.
#[derive(Clone, Debug)]
pub struct Cursor<F> {
    stack: [Option<Frame>; STEPS],
    depth: usize,
    /// A table to be entered, or to be dropped by [`skip`](Self::skip).
    entering: Option<Frame>,
    /// A table to be announced once no 64K table is being read: the root, or, in the view of structure, the 4K table
    /// beside a 64K one.
    waiting: Option<Frame>,
    sizes: PageSizes,
    range: Range<u64>,
    view: View,
    tables: u64,
    limit: u64,
    format: PhantomData<F>,
}

impl<F: Format> Cursor<F> {
    /// A cursor over the part `range` of the space under `root`, which reads at most `limit` tables.
    ///
    /// # Errors
    /// [`WalkError::VaTooWide`] where the range ends beyond the format's addresses.
    pub fn new(
        root: TableAddr,
        sizes: PageSizes,
        range: Range<u64>,
        view: View,
        limit: u64,
    ) -> Result<Self, WalkError> {
        if let Some(last) = range.end.checked_sub(1) {
            check_va::<F>(last)?;
        }
        let mut cursor = Self {
            stack: [None; STEPS],
            depth: 0,
            entering: None,
            waiting: None,
            sizes,
            range,
            view,
            tables: 0,
            limit,
            format: PhantomData,
        };
        if !cursor.range.is_empty() {
            cursor.waiting = Some(cursor.frame(Kind::Directory(0), root, 0, None));
        }
        Ok(cursor)
    }

    /// Leaves the table unread whose [`Event::Enter`] came last. No `Leave` follows.
    pub fn skip(&mut self) {
        self.entering = None;
    }

    /// The next event, or `None` at the end.
    ///
    /// # Errors
    /// [`WalkError::Device`] where the device as a whole failed, [`WalkError::TooManyTables`].
    pub fn next<M: TableRead>(&mut self, memory: &mut M) -> Result<Option<Event>, WalkError> {
        loop {
            if let Some(frame) = self.entering.take() {
                self.push(frame)?;
            }
            if self.waiting.is_some() && !self.top().is_some_and(|top| top.kind == Kind::Big) {
                return Ok(self.waiting.take().map(|frame| self.enter(frame)));
            }
            let sizes = self.sizes;
            let Some(frame) = self.top() else { return Ok(None) };
            if frame.next >= frame.end {
                if let Some(event) = self.pop() {
                    return Ok(Some(event));
                }
                continue;
            }
            let index = frame.next;
            frame.next += 1;
            let step = read_step::<F, M>(memory, frame, index, sizes)?;
            if step.raw != [0; 2] {
                frame.used += 1;
            }
            let (kind, beside) = (frame.kind, frame.beside);
            let va = frame.table.va + index * step.level.span();
            if let Some(event) = self.follow(memory, kind, beside, va, step)? {
                return Ok(Some(event));
            }
        }
    }

    /// The innermost table.
    fn top(&mut self) -> Option<&mut Frame> {
        self.stack.get_mut(self.depth.checked_sub(1)?)?.as_mut()
    }

    /// Announces a table, which [`next`](Self::next) reads when asked again.
    fn enter(&mut self, frame: Frame) -> Event {
        self.entering = Some(frame);
        Event::Enter(frame.table)
    }

    fn push(&mut self, frame: Frame) -> Result<(), WalkError> {
        // A piece of a 4K table was counted with the 64K table beside it.
        if frame.told {
            if self.tables >= self.limit {
                return Err(WalkError::TooManyTables { limit: self.limit });
            }
            self.tables += 1;
        }
        if let Some(slot) = self.stack.get_mut(self.depth) {
            *slot = Some(frame);
            self.depth += 1;
        }
        Ok(())
    }

    /// Ends the innermost table.
    fn pop(&mut self) -> Option<Event> {
        self.depth -= 1;
        let frame = self.stack.get_mut(self.depth)?.take()?;
        if let Some(parent) = self.top() {
            parent.leaves += frame.leaves;
        }
        frame.told.then_some(Event::Leave { table: frame.table, leaves: frame.leaves, used: frame.used })
    }

    /// A frame for the part of a table that lies in the range.
    fn frame(&self, kind: Kind, at: TableAddr, va: u64, parent: Option<TableAddr>) -> Frame {
        let level = kind.level::<F>();
        let first = self.range.start.saturating_sub(va) >> level.shift;
        let last = self.range.end.saturating_sub(1).saturating_sub(va) >> level.shift;
        Frame {
            kind,
            table: Table { level, at, va, parent },
            next: first,
            end: last.saturating_add(1).min(level.entries()),
            beside: None,
            told: true,
            leaves: 0,
            used: 0,
            words: [0; CHUNK],
            first: u64::MAX,
        }
    }

    /// What comes of an entry: an event, a table to enter, or nothing.
    fn follow<M: TableRead>(
        &mut self,
        memory: &mut M,
        kind: Kind,
        beside: Option<TableAddr>,
        va: u64,
        step: Step,
    ) -> Result<Option<Event>, WalkError> {
        match step.is {
            Is::Absent => {
                if let Some(at) = beside {
                    // One 64K entry that says nothing: its 16 small entries count.
                    let table_va = va & !(SMALL_TABLE.span() * SMALL_TABLE.entries() - 1);
                    let mut frame = self.frame(Kind::Small, at, table_va, None);
                    let first = SMALL_TABLE.index(va);
                    frame.next = frame.next.max(first);
                    frame.end = frame.end.min(first + (BIG_TABLE.span() >> SMALL_TABLE.shift));
                    frame.told = false;
                    self.push(frame)?;
                }
                Ok(None)
            }
            Is::NoValid4K => Ok(None),
            Is::Leaf(_) | Is::Sparse => {
                self.count_leaf();
                Ok(Some(Event::Entry { va, step }))
            }
            Is::Bad(_) => Ok(Some(Event::Entry { va, step })),
            Is::Table { big, small } => {
                if let Some(at) = [big, small].into_iter().flatten().find(|at| self.is_above(*at)) {
                    let is = Is::Bad(Why::Loop(at));
                    return Ok(Some(Event::Entry { va, step: Step { is, ..step } }));
                }
                let bad_big = big.and_then(|at| probe(memory, at));
                let bad_small = small.and_then(|at| probe(memory, at));
                let Some(error) = bad_big.or(bad_small) else {
                    return Ok(self.descend(kind, va, &step, big, small));
                };
                if let Some(error) = [bad_big, bad_small].into_iter().flatten().find(|error| !is_local(error)) {
                    return Err(error.into());
                }
                // The hardware asks the big table first, and gets no further than one that is not there; where only
                // the small one is missing, big pages still translate.
                self.waiting = match (bad_big, bad_small) {
                    (None, Some(_)) => big.map(|at| self.frame(Self::below(kind, true), at, va, Some(step.entry))),
                    (Some(_), None) if self.view == View::Structure => {
                        small.map(|at| self.frame(Kind::Small, at, va, step.entry.checked_add(8)))
                    }
                    _ => None,
                };
                let is = Is::Bad(Why::TableUnreadable(error));
                Ok(Some(Event::Entry { va, step: Step { is, ..step } }))
            }
        }
    }

    /// Whether a table is being read already, on the way from the root to here.
    fn is_above(&self, at: TableAddr) -> bool {
        self.stack.iter().take(self.depth).flatten().any(|frame| frame.table.at == at)
    }

    /// The kind of table below an entry.
    fn below(kind: Kind, big: bool) -> Kind {
        match kind.level::<F>().entry_bytes {
            16 if big => Kind::Big,
            16 => Kind::Small,
            _ => kind.below(),
        }
    }

    fn descend(
        &mut self,
        kind: Kind,
        va: u64,
        step: &Step,
        big: Option<TableAddr>,
        small: Option<TableAddr>,
    ) -> Option<Event> {
        let high_word = step.entry.checked_add(8);
        let small_frame = small.map(|at| self.frame(Kind::Small, at, va, high_word));
        let Some(at) = big else { return small_frame.map(|frame| self.enter(frame)) };
        let mut frame = self.frame(Self::below(kind, true), at, va, Some(step.entry));
        match self.view {
            View::Translations => frame.beside = small,
            View::Structure => self.waiting = small_frame,
        }
        Some(self.enter(frame))
    }

    fn count_leaf(&mut self) {
        if let Some(frame) = self.top() {
            frame.leaves += 1;
        }
    }
}

/// The error of reading the first entry of a table, if there is one. Where only later entries are missing, each of them is
/// told by itself.
fn probe<M: TableRead>(memory: &mut M, at: TableAddr) -> Option<DeviceError> {
    memory.read_word(at).err()
}

/// Reads entry `index` of a frame's table, a chunk ahead.
fn read_step<F: Format, M: TableRead>(
    memory: &mut M,
    frame: &mut Frame,
    index: u64,
    sizes: PageSizes,
) -> Result<Step, WalkError> {
    let level = frame.table.level;
    let per_chunk = CHUNK as u64 * 8 / level.entry_bytes;
    let first = index & !(per_chunk - 1);
    let entry = place(level, frame.table.at, index);
    if frame.first != first {
        let words = usize::try_from(level.table_bytes() / 8).unwrap_or(CHUNK).min(CHUNK);
        let read = match frame.words.get_mut(..words) {
            Some(words) => memory.read_words(place(level, frame.table.at, first), words),
            None => Ok(()),
        };
        match read {
            Ok(()) => frame.first = first,
            Err(error) if is_local(&error) => {
                // Part of the table is missing: go on word by word, so that the rest is still seen.
                let mut step = look::<F, M>(memory, frame.kind, frame.table.at, index << level.shift, sizes)?;
                step.index = index;
                return Ok(step);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let word = |n: u64| usize::try_from(n).ok().and_then(|n| frame.words.get(n).copied()).unwrap_or(0);
    let at = (index - first) * (level.entry_bytes / 8);
    let raw = if level.entry_bytes == 16 { [word(at), word(at + 1)] } else { [word(at), 0] };
    let is = if raw == [0; 2] { Is::Absent } else { interpret::<F>(frame.kind, raw, sizes) };
    Ok(Step { level, index, entry, raw, is })
}
