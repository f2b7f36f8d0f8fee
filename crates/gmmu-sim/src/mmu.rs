//! The walk from a virtual address to memory, one for all who walk: engines through their caches, and `peek` through
//! nothing.

use crate::fault::FaultType;
use crate::format::{Decoder, Directory, Dual, Flags, Pte, BIG, PD0, SMALL};
use gmmu::addr::{PhysAddr, TableAddr};

/// Where a virtual address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// The byte that the address means, offset in the page included. Where `sparse` is set there is none, and this is
    /// `vram:0`.
    pub to: PhysAddr,
    /// Size of the page in bytes; of a sparse entry, what the entry covers.
    pub page_bytes: u64,
    /// Surface kind (`NV_MMU_PTE_KIND_*`).
    pub kind: u8,
    /// What else the leaf says.
    pub flags: Flags,
    /// Nothing is mapped, but accesses do not fault: reads return 0, writes are dropped.
    pub sparse: bool,
}

/// Where and why a walk ended without a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Miss {
    pub(crate) fault: FaultType,
    pub(crate) level: &'static str,
    pub(crate) entry: Option<TableAddr>,
    pub(crate) raw: u64,
}

/// Where the directories lead.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reached {
    /// To a large leaf or a sparse entry.
    Page(Translated),
    /// To leaf tables, at least one.
    Tables { big: Option<TableAddr>, small: Option<TableAddr> },
}

/// Walks from `pdb` to `va`. `fetch` gets a level number and the address of a word; it returns `None` where there is
/// no memory. A walk fetches at most ten words, whatever they are.
pub(crate) fn walk(
    decoder: &Decoder,
    pdb: TableAddr,
    va: u64,
    mut fetch: impl FnMut(u8, TableAddr) -> Option<u64>,
) -> Result<Translated, Miss> {
    match directories(decoder, pdb, va, &mut fetch)? {
        Reached::Page(found) => Ok(found),
        Reached::Tables { big, small } => leaves(decoder, va, big, small, fetch),
    }
}

/// The part of a walk that is the same for every address of a PD0 entry.
pub(crate) fn directories(
    decoder: &Decoder,
    pdb: TableAddr,
    va: u64,
    mut fetch: impl FnMut(u8, TableAddr) -> Option<u64>,
) -> Result<Reached, Miss> {
    let mut table = pdb.with_raw(pdb.raw() & !0xfff);
    let mut level = decoder.top();
    if va >> decoder.va_bits() != 0 {
        return Err(Miss { fault: FaultType::VaLimit, level: decoder.level(level).name, entry: None, raw: 0 });
    }
    while level > PD0 {
        let at = entry_at(decoder, level, table, va);
        let word = fetch(level, at).ok_or(outside(decoder, level, at))?;
        match decoder.directory(level, word) {
            Directory::Table(next) => table = next,
            Directory::Leaf => return Ok(Reached::Page(leaf(decoder, level, word, va))),
            Directory::Sparse => return Ok(Reached::Page(sparse(decoder, level))),
            Directory::Absent | Directory::Bad => return Err(miss(decoder, FaultType::Pde, level, at, word)),
        }
        level -= 1;
    }
    let at = entry_at(decoder, PD0, table, va);
    let high = at.with_raw(at.raw() | 8);
    let lo = fetch(PD0, at).ok_or(outside(decoder, PD0, at))?;
    let hi = fetch(PD0, high).ok_or(outside(decoder, PD0, high))?;
    match decoder.dual(lo, hi) {
        Dual::Leaf => Ok(Reached::Page(leaf(decoder, PD0, lo, va))),
        Dual::Sparse => Ok(Reached::Page(sparse(decoder, PD0))),
        Dual::Tables { big: None, small: None } => Err(miss(decoder, FaultType::Pde, PD0, at, lo)),
        Dual::Tables { big, small } => Ok(Reached::Tables { big, small }),
    }
}

/// The 64K table first; the 4K table only where the 64K entry says nothing at all.
pub(crate) fn leaves(
    decoder: &Decoder,
    va: u64,
    big: Option<TableAddr>,
    small: Option<TableAddr>,
    mut fetch: impl FnMut(u8, TableAddr) -> Option<u64>,
) -> Result<Translated, Miss> {
    let mut last = None;
    for (level, table) in [(BIG, big), (SMALL, small)] {
        let Some(table) = table else { continue };
        let at = entry_at(decoder, level, table, va);
        let word = fetch(level, at).ok_or(outside(decoder, level, at))?;
        let found = miss(decoder, FaultType::Pte, level, at, word);
        match decoder.pte(level, word) {
            Pte::Leaf => return Ok(leaf(decoder, level, word, va)),
            Pte::Sparse => return Ok(sparse(decoder, level)),
            Pte::No4k | Pte::Nowhere => return Err(found),
            Pte::Absent => last = Some(found),
        }
    }
    // One of the two was there, or the caller would not have come here.
    Err(last.unwrap_or(Miss { fault: FaultType::Pde, level: "PDE0", entry: None, raw: 0 }))
}

fn entry_at(decoder: &Decoder, level: u8, table: TableAddr, va: u64) -> TableAddr {
    let bytes = 8 * u64::from(decoder.level(level).words);
    // Tables lie within one page, so this stays below the page's end.
    table.with_raw(table.raw() + decoder.index(level, va) * bytes)
}

fn leaf(decoder: &Decoder, level: u8, word: u64, va: u64) -> Translated {
    let mapping = decoder.mapping(word);
    let offset = (1 << decoder.level(level).lo) - 1;
    // Address bits below the page size are not wired: they come from the virtual address.
    let to = PhysAddr::new(mapping.to.aperture, mapping.to.raw & !offset | va & offset);
    Translated { to, page_bytes: offset + 1, kind: mapping.kind, flags: mapping.flags, sparse: false }
}

fn sparse(decoder: &Decoder, level: u8) -> Translated {
    let page_bytes = 1 << decoder.level(level).lo;
    Translated { to: PhysAddr::vram(0), page_bytes, kind: 0, flags: Flags::default(), sparse: true }
}

fn miss(decoder: &Decoder, fault: FaultType, level: u8, at: TableAddr, raw: u64) -> Miss {
    Miss { fault, level: decoder.level(level).name, entry: Some(at), raw }
}

fn outside(decoder: &Decoder, level: u8, at: TableAddr) -> Miss {
    miss(decoder, FaultType::Region, level, at, 0)
}
