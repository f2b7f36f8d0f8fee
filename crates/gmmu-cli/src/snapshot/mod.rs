//! Snapshots: the page tables of some address spaces in one small file, and nothing else of the memory around them.
//!
//! The format is described in `docs/snapshot.md`. [`write()`] walks the tables from each root and stores the words that
//! belong to them; [`Snapshot`] reads the file by position, and is memory that tables can be read from. Nothing in a
//! file is trusted: every length is checked against the file's own before anything is made of it.

mod header;
mod read;
mod tables;
mod write;

pub use read::{Snapshot, is_snapshot};
pub use write::{Written, write};

use std::fmt;

use gmmu::addr::{PAGE_BYTES, SysAddr, TableAddr};
use gmmu::chip::{Chip, PageSizes};
use gmmu::format::MmuVersion;

use crate::num::shown;

/// What every snapshot begins with. The first byte is no text, and the rest shows a transfer that changed line ends.
pub const MAGIC: [u8; 8] = *b"\x89GMMU\r\n\x1a";
/// The version of the format that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;
/// Most roots in one snapshot.
pub const ROOTS_MAX: usize = 1024;
/// Bytes of the longest name of a root.
pub const NAME_MAX: usize = 255;

/// Bytes of one page of tables.
const PAGE: usize = 4096;
/// Pages that are compressed together.
const BLOCK_PAGES: usize = 16;
/// Most bytes that the pages of a block can be compressed to: data that cannot be compressed grows a little.
const DEFLATED_MAX: usize = BLOCK_PAGES * PAGE + PAGE;

/// The top table of one address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRoot {
    /// What the space is called: text of 1 to [`NAME_MAX`] bytes, unlike all others.
    pub name: String,
    /// Where the table is, 4 KiB aligned.
    pub at: TableAddr,
}

/// What a snapshot says of the memory that its tables come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The chip, where it is known.
    pub chip: Option<&'static Chip>,
    /// The format of the tables: the chip's.
    pub mmu: MmuVersion,
    /// Bytes of video memory that the tables were taken from.
    pub fb_bytes: u64,
    /// The VRAM address of the first of those bytes; 0 where it was all of a card's memory.
    pub base: u64,
    /// The address spaces, the one that is read by default first.
    pub roots: Vec<NamedRoot>,
    /// Instance blocks that are kept, too, as far as they are known to who writes it. The file does not list them.
    pub blocks: Vec<TableAddr>,
}

impl SnapshotInfo {
    /// The description of all memory of a card of this chip.
    #[must_use]
    pub fn of_chip(chip: &'static Chip, fb_bytes: u64, roots: Vec<NamedRoot>) -> Self {
        Self { chip: Some(chip), mmu: chip.mmu, fb_bytes, base: 0, roots, blocks: Vec::new() }
    }

    /// The page sizes that leaves may have: all of them where the chip is not known.
    #[must_use]
    pub fn page_sizes(&self) -> PageSizes {
        self.chip.map_or(PageSizes::UP_TO_256G, |chip| chip.page_sizes)
    }

    /// The address spaces, for a message: `a (vram:0x000000201000), b (…)`.
    #[must_use]
    pub fn roots_text(&self) -> String {
        const MANY: usize = 8;
        let some = self.roots.iter().take(MANY).map(|root| format!("{} ({})", shown(&root.name), root.at));
        let more = self.roots.len().saturating_sub(MANY);
        let more = (more > 0).then(|| format!("{more} more"));
        some.chain(more).collect::<Vec<_>>().join(", ")
    }
}

/// A page of memory in one number: its address, and in the low bits which memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct PageKey(u64);

impl PageKey {
    /// The page that `at` lies in.
    const fn of(at: TableAddr) -> Self {
        let aperture = match at {
            TableAddr::Vram(_) => 0,
            TableAddr::SysCoherent(_) => 1,
            TableAddr::SysNonCoherent(_) => 2,
        };
        Self(at.raw() & !(PAGE_BYTES - 1) | aperture)
    }

    /// The first address of the page, unless the number names no memory.
    const fn at(self) -> Option<TableAddr> {
        let raw = self.0 & !(PAGE_BYTES - 1);
        match self.0 & (PAGE_BYTES - 1) {
            0 => Some(TableAddr::vram(raw)),
            1 => Some(TableAddr::SysCoherent(SysAddr::new(raw))),
            2 => Some(TableAddr::SysNonCoherent(SysAddr::new(raw))),
            _ => None,
        }
    }
}

/// Where a snapshot is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Broken {
    /// Byte offset in the file.
    offset: u64,
    what: String,
    hint: &'static str,
}

impl Broken {
    /// What says that the file is not as it was written.
    fn damaged(offset: u64, what: impl fmt::Display) -> Self {
        Self { offset, what: what.to_string(), hint: "the file was cut short or altered: copy or capture it again" }
    }

    /// The same, with another way out.
    fn hint(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }
}
