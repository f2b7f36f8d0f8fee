//! Page-table formats: what the words of MMU v2 and v3 mean.
//!
//! An entry is data ([`Pte`], [`Pde`], [`Dual`]) or a word; [`Format`] turns one into the other, with every field that
//! the hardware has and no loss but of reserved bits. Geometry is one constant table per version
//! ([`Format::LEVELS`]), which the compiler checks.
//!
//! Directories are named from the leaves up, as the hardware's manual and the UVM driver do: PDE0 is the lowest, the
//! one with dual entries.

mod entry;
mod v2;
mod v3;

pub use entry::{DecodeError, Dual, EncodeError, Flags, Kind, Leaf, Link, Pde, Pte, Slot, Target};
pub use v2::V2;
pub use v3::V3;

use crate::addr::{Aperture, PageSize, PhysAddr, SysAddr, TableAddr, VramAddr};
use crate::bits::Field;
use crate::device::Depth;
use core::fmt;

/// A page-table format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MmuVersion {
    /// Pascal to Ada.
    V2,
    /// Hopper and Blackwell.
    V3,
}

impl MmuVersion {
    /// `v2` or `v3`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V3 => "v3",
        }
    }

    /// Bits of a virtual address.
    #[must_use]
    pub const fn va_bits(self) -> u32 {
        match self {
            Self::V2 => V2::VA_BITS,
            Self::V3 => V3::VA_BITS,
        }
    }
}

impl fmt::Display for MmuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One level of the tree: which address bits index its tables, and what its entries are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// `PDE4` … `PDE0`, `PTE`.
    pub name: &'static str,
    /// Lowest address bit of the index; an entry spans `1 << shift` bytes.
    pub shift: u32,
    /// Width of the index.
    pub bits: u32,
    /// Bytes of one entry: 16 for dual entries, 8 else.
    pub entry_bytes: u64,
    /// The page size of a leaf at this level, where the format has one. Chips may have fewer.
    pub leaf: Option<PageSize>,
    /// How deep an invalidate has to reach when an entry of this level changed.
    pub depth: Depth,
}

impl Level {
    /// How many entries a table of this level has.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        1 << self.bits
    }

    /// Bytes that the table's entries take; the memory under a root is a whole 4 KiB page all the same.
    #[must_use]
    pub const fn table_bytes(&self) -> u64 {
        self.entries() * self.entry_bytes
    }

    /// Bytes of address space that one entry spans.
    #[must_use]
    pub const fn span(&self) -> u64 {
        1 << self.shift
    }

    /// The index of the entry for `va`.
    #[must_use]
    pub const fn index(&self, va: u64) -> u64 {
        (va >> self.shift) & (self.entries() - 1)
    }
}

/// The directories over 512 MiB and 2 MiB spans, alike in both versions.
const PDE1: Level =
    Level { name: "PDE1", shift: 29, bits: 9, entry_bytes: 8, leaf: Some(PageSize::Size512M), depth: Depth::UpToPde1 };
const PDE0: Level =
    Level { name: "PDE0", shift: 21, bits: 8, entry_bytes: 16, leaf: Some(PageSize::Size2M), depth: Depth::UpToPde0 };

/// The level of 64K leaf tables: 32 entries, 256 bytes, under the big half of a dual entry.
pub const BIG_TABLE: Level =
    Level { name: "PTE", shift: 16, bits: 5, entry_bytes: 8, leaf: Some(PageSize::Size64K), depth: Depth::PteOnly };

/// The level of 4K leaf tables: 512 entries, 4 KiB, under the small half of a dual entry.
pub const SMALL_TABLE: Level =
    Level { name: "PTE", shift: 12, bits: 9, entry_bytes: 8, leaf: Some(PageSize::Size4K), depth: Depth::PteOnly };

/// Span of a dual entry, and so of the leaf tables under it: 2 MiB.
pub const DUAL_SHIFT: u32 = 21;

/// Whether `levels` index every bit of a `va_bits` wide address once, from the top down to the dual entries.
const fn tiles(levels: &[Level], va_bits: u32) -> bool {
    let (mut top, mut n) = (va_bits, 0);
    while n < levels.len() {
        let level = &levels[n];
        if level.shift + level.bits != top || level.table_bytes() > 4096 {
            return false;
        }
        if (level.entry_bytes == 16) != (n + 1 == levels.len()) {
            return false;
        }
        top = level.shift;
        n += 1;
    }
    top == DUAL_SHIFT
}
const _: () = assert!(tiles(V2::LEVELS, V2::VA_BITS) && tiles(V3::LEVELS, V3::VA_BITS));
const _: () = assert!(BIG_TABLE.shift + BIG_TABLE.bits == DUAL_SHIFT && BIG_TABLE.table_bytes() == 256);
const _: () = assert!(SMALL_TABLE.shift + SMALL_TABLE.bits == DUAL_SHIFT && SMALL_TABLE.table_bytes() == 4096);

/// Which kind of entry a list of fields is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A leaf, in a leaf table or a directory.
    Pte,
    /// A directory entry above PDE0.
    Pde,
    /// The low word of a dual entry.
    DualBig,
    /// The high word of a dual entry.
    DualSmall,
}

/// A page-table format. One type parameter picks it for a whole walk or address space, so no loop asks for the
/// version.
pub trait Format: Copy + fmt::Debug + Send + Sync + 'static {
    /// Which one it is.
    const VERSION: MmuVersion;
    /// Bits of a virtual address.
    const VA_BITS: u32;
    /// The directories, root first, dual entries last; [`BIG_TABLE`] and [`SMALL_TABLE`] lie below.
    const LEVELS: &'static [Level];

    /// The word of an entry of a leaf table.
    ///
    /// # Errors
    /// [`EncodeError`]; addresses must be 4 KiB aligned, alignment to the page size is the caller's to see to.
    fn encode_pte(pte: &Pte) -> Result<u64, EncodeError>;

    /// What the word of a leaf table says. On v2, `PRIVILEGE` on an invalid entry is read as [`Pte::NoValid4K`]
    /// whether or not `VOL` is set beside it.
    ///
    /// # Errors
    /// [`DecodeError`].
    fn decode_pte(raw: u64) -> Result<Pte, DecodeError>;

    /// The word for a link in a directory slot of kind `slot`.
    ///
    /// # Errors
    /// [`EncodeError`].
    fn encode_link(slot: Slot, link: &Link) -> Result<u64, EncodeError>;

    /// What a word in a directory slot of kind `slot` says. Whether it is a leaf is not looked at.
    ///
    /// # Errors
    /// [`DecodeError`].
    fn decode_link(slot: Slot, raw: u64) -> Result<Link, DecodeError>;

    /// The fields of `raw`, by NVIDIA's names, as far as they mean something in it.
    fn fields(entry: EntryKind, raw: u64) -> &'static [Field];

    /// What an entry word grows by from one page of `bytes` to the next in contiguous memory.
    fn leaf_step(bytes: u64) -> u64;

    /// What an 8-byte directory entry of `level` says.
    ///
    /// # Errors
    /// [`DecodeError`].
    fn decode_pde(level: &Level, raw: u64) -> Result<Pde, DecodeError> {
        if !is_leaf(raw)? {
            return Self::decode_link(Slot::Pde, raw).map(Pde::Link);
        }
        match (level.leaf, Self::decode_pte(raw)?) {
            (Some(_), Pte::Leaf(leaf)) => Ok(Pde::Leaf(leaf)),
            _ => Err(DecodeError::LeafNotAllowed { raw, level: level.name }),
        }
    }

    /// The word of an 8-byte directory entry.
    ///
    /// # Errors
    /// [`EncodeError`].
    fn encode_pde(pde: &Pde) -> Result<u64, EncodeError> {
        match pde {
            Pde::Link(link) => Self::encode_link(Slot::Pde, link),
            Pde::Leaf(leaf) => Self::encode_pte(&Pte::Leaf(*leaf)),
        }
    }

    /// What the two words of a dual entry say, low word first.
    ///
    /// # Errors
    /// [`DecodeError`].
    fn decode_dual(raw: [u64; 2]) -> Result<Dual, DecodeError> {
        let [low, high] = raw;
        if is_leaf(low)? {
            return match Self::decode_pte(low)? {
                Pte::Leaf(leaf) => Ok(Dual::Leaf(leaf)),
                _ => Err(DecodeError::LeafNotAllowed { raw: low, level: "PDE0" }),
            };
        }
        not_there(high)?;
        Ok(Dual::Links { big: Self::decode_link(Slot::Big, low)?, small: Self::decode_link(Slot::Small, high)? })
    }

    /// The two words of a dual entry, low word first.
    ///
    /// # Errors
    /// [`EncodeError`].
    fn encode_dual(dual: &Dual) -> Result<[u64; 2], EncodeError> {
        match dual {
            Dual::Leaf(leaf) => Ok([Self::encode_pte(&Pte::Leaf(*leaf))?, 0]),
            Dual::Links { big, small } => {
                Ok([Self::encode_link(Slot::Big, big)?, Self::encode_link(Slot::Small, small)?])
            }
        }
    }
}

/// Bit 0 of any entry: `VALID` of a leaf, `IS_PTE` of a directory entry.
const LEAF: Field = Field::bit("IS_PTE", 0);
/// Bits 2:1 of any entry; the codes of leaves and of directory entries differ.
const APERTURE: Field = Field::new("APERTURE", 2, 1);

/// Whether a directory word is a leaf.
fn is_leaf(raw: u64) -> Result<bool, DecodeError> {
    not_there(raw)?;
    Ok(LEAF.is_set(raw))
}

/// Refuses words that a dead bus returns. One half that looks so may be a real entry; both cannot.
fn not_there(raw: u64) -> Result<(), DecodeError> {
    let poisoned = raw >> 48 == 0xbadf && (raw >> 16) & 0xffff == 0xbadf;
    if raw == u64::MAX || poisoned {
        return Err(DecodeError::NotThere { raw });
    }
    Ok(())
}

/// `NV_MMU_VER2_PTE_APERTURE`, `NV_MMU_VER3_PTE_APERTURE`: the same codes.
const fn leaf_aperture_code(aperture: Aperture) -> u64 {
    match aperture {
        Aperture::Vram => 0,
        Aperture::Peer(_) => 1,
        Aperture::SysCoherent => 2,
        Aperture::SysNonCoherent => 3,
    }
}

/// `NV_MMU_VER2_PDE_APERTURE`, `NV_MMU_VER3_PDE_APERTURE`: the same codes, and not those of leaves.
const fn table_aperture_code(at: TableAddr) -> u64 {
    match at {
        TableAddr::Vram(_) => 1,
        TableAddr::SysCoherent(_) => 2,
        TableAddr::SysNonCoherent(_) => 3,
    }
}

/// The space of a directory entry's aperture code; `None` for 0, "invalid".
fn table_at(raw: u64, address: u64) -> Option<TableAddr> {
    Some(match APERTURE.get(raw) {
        0 => return None,
        1 => TableAddr::Vram(VramAddr::new(address)),
        2 => TableAddr::SysCoherent(SysAddr::new(address)),
        _ => TableAddr::SysNonCoherent(SysAddr::new(address)),
    })
}

/// `address` in units of `1 << shift` bytes.
fn in_units(at: PhysAddr, shift: u32) -> Result<u64, EncodeError> {
    if !at.is_aligned(1 << shift) {
        return Err(EncodeError::Unaligned { at, alignment: 1 << shift });
    }
    Ok(at.raw >> shift)
}
