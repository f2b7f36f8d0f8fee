//! Reading page tables: one address ([`walk`]) or all of them in order ([`Cursor`]). Nothing that is read is trusted.
//!
//! Both see what the hardware sees: of two leaf tables under one dual entry the 64K table is asked first, and only
//! where its entry is all invalid the 4K table counts; a "no valid 4K page" entry ends the walk. Nothing is allocated,
//! every walk is as deep as the format at most, and a cursor reads as many tables as its caller allows.

use crate::addr::{PageSize, PhysAddr, TableAddr};
use crate::chip::PageSizes;
use crate::device::{DeviceError, TableRead};
use crate::format::{DecodeError, Dual, Format, Leaf, Level, Link, Pde, Pte, Target, BIG_TABLE, SMALL_TABLE};

mod cursor;

pub use cursor::{Cursor, Event, Table, View};

/// Why an entry cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// Its words mean nothing.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// It cannot be read.
    #[error("the entry cannot be read: {0}")]
    Unreadable(DeviceError),
    /// The table that it points to cannot be read.
    #[error("the table cannot be read: {0}")]
    TableUnreadable(DeviceError),
    /// The table that it points to is one of those above it. The hardware would go on, through the same words read as
    /// those of another level; a cursor does not.
    #[error("it points back to {0}, a table above it")]
    Loop(TableAddr),
    /// It maps a page size that the chip does not have.
    #[error("a {0} page, which this chip does not have")]
    NotOnChip(PageSize),
}

/// What an entry turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// Other tables lie below: one, or in a dual entry up to two. The big one is asked first.
    Table {
        /// The next directory, or the 64K table of a dual entry.
        big: Option<TableAddr>,
        /// The 4K table of a dual entry.
        small: Option<TableAddr>,
    },
    /// A page.
    Leaf(Leaf),
    /// Nothing.
    Absent,
    /// Reads as 0, drops writes.
    Sparse,
    /// Nothing, and the 4K table beside is not asked.
    NoValid4K,
    /// An entry that cannot be followed.
    Bad(Why),
}

/// One entry that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The level of its table.
    pub level: &'static Level,
    /// Its number in the table.
    pub index: u64,
    /// Where it is.
    pub entry: TableAddr,
    /// Its words, low first; the second only in dual entries.
    pub raw: [u64; 2],
    /// What it says.
    pub is: Is,
}

impl Step {
    /// The words that the entry has: one, or two of a dual entry.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        let [first, _] = &self.raw;
        if self.level.entry_bytes == 16 {
            &self.raw
        } else {
            core::slice::from_ref(first)
        }
    }

    /// The page size of a leaf found here.
    #[must_use]
    pub const fn page(&self) -> Option<PageSize> {
        self.level.leaf
    }
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In a page.
    Mapped {
        /// The byte that the address leads to.
        to: PhysAddr,
        /// Size of the page.
        page: PageSize,
        /// The entry.
        leaf: Leaf,
    },
    /// In a sparse entry.
    Sparse,
    /// In nothing: the access would fault.
    Unmapped,
    /// In an entry that cannot be followed.
    Bad(Why),
}

/// A walk asks for something that cannot be walked at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalkError {
    /// An address beyond the format's.
    #[error("{va:#x} is no address of this MMU: it has {bits} bits")]
    VaTooWide {
        /// The address.
        va: u64,
        /// Bits of a virtual address.
        bits: u32,
    },
    /// The device failed; what was read so far says nothing of the rest.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A cursor has read as many tables as it may.
    #[error("{limit} tables were read and more remain: a loop, or a larger space than was allowed for")]
    TooManyTables {
        /// The limit.
        limit: u64,
    },
}

/// Entries of one walk: five directories, a 64K and a 4K entry at most.
const STEPS: usize = 7;

/// One translation, level by level.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    steps: [Option<Step>; STEPS],
    /// How it ended.
    pub outcome: Outcome,
}

impl Walk {
    /// The entries that were looked at, root first.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = &Step> {
        self.steps.iter().flatten()
    }

    /// The entry that decided.
    #[must_use]
    pub fn last(&self) -> Option<&Step> {
        self.steps().next_back()
    }
}

/// A table by what kind it is; the level follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The directory of this number in [`Format::LEVELS`].
    Directory(usize),
    Big,
    Small,
}

impl Kind {
    fn level<F: Format>(self) -> &'static Level {
        match self {
            // The number is only ever made by `below`, which stays within the table.
            Self::Directory(n) => F::LEVELS.get(n).unwrap_or(&SMALL_TABLE),
            Self::Big => &BIG_TABLE,
            Self::Small => &SMALL_TABLE,
        }
    }

    /// The kind of the table that an 8-byte entry of this directory points to.
    fn below(self) -> Self {
        match self {
            Self::Directory(n) => Self::Directory(n + 1),
            leaf => leaf,
        }
    }
}

/// What the words of an entry say on a chip with these page sizes.
fn interpret<F: Format>(kind: Kind, raw: [u64; 2], sizes: PageSizes) -> Is {
    let level = kind.level::<F>();
    let [word, _] = raw;
    let is = match kind {
        Kind::Big | Kind::Small => F::decode_pte(word).map(|pte| match pte {
            Pte::Leaf(leaf) => Is::Leaf(leaf),
            Pte::Sparse => Is::Sparse,
            Pte::NoValid4K => Is::NoValid4K,
            Pte::Invalid | Pte::Nowhere => Is::Absent,
        }),
        Kind::Directory(_) if level.entry_bytes == 16 => F::decode_dual(raw).map(|dual| match dual {
            Dual::Leaf(leaf) => Is::Leaf(leaf),
            // Sparse is the big half's to say, and only where there is no table at all.
            Dual::Links { big, small } => match (big.to(), small.to(), big.target) {
                (None, None, Target::Sparse) => Is::Sparse,
                (None, None, _) => Is::Absent,
                (big, small, _) => Is::Table { big, small },
            },
        }),
        Kind::Directory(_) => F::decode_pde(level, word).map(|pde| match pde {
            Pde::Leaf(leaf) => Is::Leaf(leaf),
            Pde::Link(Link { target: Target::Table { at, .. }, .. }) => Is::Table { big: Some(at), small: None },
            Pde::Link(Link { target: Target::Sparse, .. }) => Is::Sparse,
            Pde::Link(Link { target: Target::Absent, .. }) => Is::Absent,
        }),
    };
    match (is, level.leaf) {
        (Ok(Is::Leaf(_)), Some(page)) if !sizes.has(page) => Is::Bad(Why::NotOnChip(page)),
        (Ok(is), _) => is,
        (Err(why), _) => Is::Bad(why.into()),
    }
}

/// Whether an error is about the one place that was read, and not about the device as a whole.
pub(crate) fn is_local(error: &DeviceError) -> bool {
    use DeviceError as E;
    matches!(error, E::OutOfRange { .. } | E::Unaligned { .. } | E::WrongAperture { .. })
}

/// Where entry `index` of the table at `table` is.
fn place(level: &Level, table: TableAddr, index: u64) -> TableAddr {
    // Tables are at most 4 KiB; an address at the end of 64 bits wraps into one that cannot be read.
    table.with_raw(table.raw().wrapping_add(index.wrapping_mul(level.entry_bytes)))
}

/// Looks at the entry for `va` in the table of `kind` at `table`.
fn look<F: Format, M: TableRead>(
    memory: &mut M,
    kind: Kind,
    table: TableAddr,
    va: u64,
    sizes: PageSizes,
) -> Result<Step, DeviceError> {
    let level = kind.level::<F>();
    let index = level.index(va);
    let entry = place(level, table, index);
    let mut raw = [0; 2];
    let read = match &mut raw {
        both if level.entry_bytes == 16 => memory.read_words(entry, both),
        [first, _] => memory.read_words(entry, core::slice::from_mut(first)),
    };
    let is = match read {
        Ok(()) => interpret::<F>(kind, raw, sizes),
        Err(error) if is_local(&error) => Is::Bad(Why::Unreadable(error)),
        Err(error) => return Err(error),
    };
    Ok(Step { level, index, entry, raw, is })
}

/// Refuses an address with more bits than the format has.
fn check_va<F: Format>(va: u64) -> Result<(), WalkError> {
    if va >> F::VA_BITS != 0 {
        return Err(WalkError::VaTooWide { va, bits: F::VA_BITS });
    }
    Ok(())
}

/// Translates `va` from the top table at `root`, as the hardware of a chip with these page sizes does.
///
/// Reads at most seven entries. An entry that cannot be read or means nothing is an [`Outcome::Bad`], not an error.
///
/// # Errors
/// [`WalkError::VaTooWide`], or [`WalkError::Device`] where the device as a whole failed.
pub fn walk<F: Format, M: TableRead>(
    memory: &mut M,
    root: TableAddr,
    sizes: PageSizes,
    va: u64,
) -> Result<Walk, WalkError> {
    check_va::<F>(va)?;
    let mut steps = [None; STEPS];
    let mut next = Some((Kind::Directory(0), root));
    // Asked where the entry of the 64K table says nothing.
    let mut small_table = None;
    let mut outcome = Outcome::Unmapped;
    for slot in &mut steps {
        let Some((kind, table)) = next.take() else { break };
        let step = look::<F, M>(memory, kind, table, va, sizes)?;
        *slot = Some(step);
        outcome = match step.is {
            Is::Table { big, small } if step.level.entry_bytes == 16 => {
                small_table = small.map(|at| (Kind::Small, at));
                next = big.map(|at| (Kind::Big, at)).or_else(|| small_table.take());
                Outcome::Unmapped
            }
            Is::Table { big, .. } => {
                next = big.map(|at| (kind.below(), at));
                Outcome::Unmapped
            }
            Is::Leaf(leaf) => mapped(&step, leaf, va),
            Is::Sparse => Outcome::Sparse,
            Is::Absent if kind == Kind::Big => {
                next = small_table.take();
                Outcome::Unmapped
            }
            Is::Absent | Is::NoValid4K => Outcome::Unmapped,
            Is::Bad(why) => Outcome::Bad(why),
        };
    }
    Ok(Walk { steps, outcome })
}

/// The end of a walk in `leaf`.
fn mapped(step: &Step, leaf: Leaf, va: u64) -> Outcome {
    let offset = va & (step.level.span() - 1);
    match (leaf.to.checked_add(offset), step.level.leaf) {
        (Some(to), Some(page)) => Outcome::Mapped { to, page, leaf },
        _ => Outcome::Unmapped,
    }
}
