//! Page-table formats: what the words of MMU v2 and v3 mean.
//!
//! An entry is data ([`Pte`], [`Pde`], [`Dual`]) or a word; [`Format`] turns one into the other, with every field that
//! the hardware has and no loss but of reserved bits. Geometry is one constant table per version
//! ([`Format::LEVELS`]), which the compiler checks.
//!
//! Directories are named from the leaves up, as the hardware's manual and the UVM driver do: PDE0 is the lowest, the
//! one with dual entries.

mod v2;
mod v3;

pub use v2::V2;
pub use v3::V3;

use crate::addr::{Aperture, PageSize, PhysAddr, SysAddr, TableAddr, VramAddr};
use crate::bits::{Field, TooWide};
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

/// The surface kind of a page: how its bytes are laid out and compressed (`NV_MMU_PTE_KIND_*`, Turing and later).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u8);

impl Kind {
    /// Pitch-linear memory.
    pub const PITCH: Self = Self(0x00);
    /// Plain memory, the usual kind.
    pub const GENERIC: Self = Self(0x06);
    /// No kind: accesses fault.
    pub const INVALID: Self = Self(0x07);

    /// NVIDIA's name, without the prefix `NV_MMU_PTE_KIND_`.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0x00 => "PITCH",
            0x01 => "Z16",
            0x02 => "S8",
            0x03 => "S8Z24",
            0x04 => "ZF32_X24S8",
            0x05 => "Z24S8",
            0x06 => "GENERIC_MEMORY",
            0x07 => "INVALID",
            0x08 => "GENERIC_MEMORY_COMPRESSIBLE",
            0x09 => "GENERIC_MEMORY_COMPRESSIBLE_DISABLE_PLC",
            0x0a => "S8_COMPRESSIBLE_DISABLE_PLC",
            0x0b => "Z16_COMPRESSIBLE_DISABLE_PLC",
            0x0c => "S8Z24_COMPRESSIBLE_DISABLE_PLC",
            0x0d => "ZF32_X24S8_COMPRESSIBLE_DISABLE_PLC",
            0x0e => "Z24S8_COMPRESSIBLE_DISABLE_PLC",
            0x0f => "SMSKED_MESSAGE",
            _ => return None,
        })
    }

    /// Whether the kind is compressed, and so needs pages of at least 64 KiB (`kind_macros.h`).
    #[must_use]
    pub const fn is_compressible(self) -> bool {
        self.0 >= 0x08 && self.0 <= 0x0e
    }
}

/// What a leaf allows and how it is cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags {
    /// Writes fault.
    pub read_only: bool,
    /// Accesses without privilege fault.
    pub privileged: bool,
    /// Not cached in the GPU's L2 (`VOL` on v2, `UNCACHED` on v3).
    pub volatile: bool,
    /// Atomics fault.
    pub no_atomic: bool,
    /// Accesses are not counted (`ACD`; v3 only).
    pub no_access_counting: bool,
    /// `ENCRYPTED` (v2 only; the manual says not to use it).
    pub encrypted: bool,
}

impl Flags {
    /// The names of the flags that are set, sorted: `acd encrypted noatomic priv ro vol`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [
            (self.no_access_counting, "acd"),
            (self.encrypted, "encrypted"),
            (self.no_atomic, "noatomic"),
            (self.privileged, "priv"),
            (self.read_only, "ro"),
            (self.volatile, "vol"),
        ]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
    }

    /// The flag called `name`, to change; `None` for an unknown name.
    pub fn by_name(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "acd" => &mut self.no_access_counting,
            "encrypted" => &mut self.encrypted,
            "noatomic" => &mut self.no_atomic,
            "priv" => &mut self.privileged,
            "ro" => &mut self.read_only,
            "vol" => &mut self.volatile,
            _ => return None,
        })
    }
}

/// A leaf: an entry that maps memory, at whatever level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The first byte of the page.
    pub to: PhysAddr,
    /// Surface kind.
    pub kind: Kind,
    /// Permissions and caching.
    pub flags: Flags,
    /// Compression tag of v2 video memory (`COMPTAGLINE`); 0 elsewhere.
    pub comptag: u32,
}

impl Leaf {
    /// A leaf of generic memory, readable, writable, cached.
    #[must_use]
    pub const fn new(to: PhysAddr) -> Self {
        let flags = Flags {
            read_only: false,
            privileged: false,
            volatile: false,
            no_atomic: false,
            no_access_counting: false,
            encrypted: false,
        };
        Self { to, kind: Kind::GENERIC, flags, comptag: 0 }
    }
}

/// What an entry of a leaf table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pte {
    /// Nothing. In a 64K table: look at the 4K table.
    Invalid,
    /// Reads as 0, drops writes, never faults.
    Sparse,
    /// In a 64K table: nothing, and do not look at the 4K table. In a 4K table: nothing.
    NoValid4K,
    /// v3's `MAPPING_NOWHERE`. Drivers do not write it; treated as nothing.
    Nowhere,
    /// A page.
    Leaf(Leaf),
}

/// Where a directory entry, or half of a dual one, points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nothing.
    Absent,
    /// The whole span reads as 0, drops writes, never faults. In a dual entry the big half says so for both.
    Sparse,
    /// The next table.
    Table {
        /// Where it lives: 4 KiB aligned, 256 bytes for the big half of a dual entry.
        at: TableAddr,
        /// Whether the GPU's L2 does not cache it (`VOL`, `UNCACHED`).
        volatile: bool,
    },
}

/// A directory entry that is no leaf, or one half of a dual entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where it points to.
    pub target: Target,
    /// No address translation service below (`NO_ATS`, `ATS_NOT_ALLOWED`).
    pub no_ats: bool,
}

impl Link {
    /// No table.
    pub const ABSENT: Self = Self { target: Target::Absent, no_ats: false };
    /// Sparse.
    pub const SPARSE: Self = Self { target: Target::Sparse, no_ats: false };

    /// A pointer to the table at `at`, in the form that this library writes: cached in video memory, not cached in
    /// system memory (where the GPU's L2 could keep an old copy that no TLB invalidate drops).
    #[must_use]
    pub const fn table(at: TableAddr) -> Self {
        Self { target: Target::Table { at, volatile: !matches!(at, TableAddr::Vram(_)) }, no_ats: false }
    }

    /// The table that it points to.
    #[must_use]
    pub const fn to(&self) -> Option<TableAddr> {
        match self.target {
            Target::Table { at, .. } => Some(at),
            Target::Absent | Target::Sparse => None,
        }
    }
}

/// What an 8-byte directory entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pde {
    /// Another table, or nothing.
    Link(Link),
    /// A 512M or 256G page.
    Leaf(Leaf),
}

/// What a 16-byte dual entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dual {
    /// A 2M page.
    Leaf(Leaf),
    /// Two tables over the same 2 MiB, the big one first in the walk.
    Links {
        /// The 64K table: the low, first word.
        big: Link,
        /// The 4K table: the high, second word.
        small: Link,
    },
}

impl Dual {
    /// Nothing at all.
    pub const ABSENT: Self = Self::Links { big: Link::ABSENT, small: Link::ABSENT };
}

/// Which 8-byte word of a directory a [`Link`] is for: the three differ in where they keep the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// An entry above PDE0.
    Pde,
    /// The low word of a dual entry.
    Big,
    /// The high word of a dual entry.
    Small,
}

/// A value that the format cannot express.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A value wider than its field.
    #[error("MMU {version}: {0}", version = .1)]
    TooWide(TooWide, MmuVersion),
    /// An address that is not a multiple of what its field counts in.
    #[error("{at} is not aligned to {alignment:#x} bytes")]
    Unaligned {
        /// The address.
        at: PhysAddr,
        /// Alignment that the field needs, in bytes.
        alignment: u64,
    },
    /// A flag or state that this version has no bit for.
    #[error("MMU {version} has no {what}")]
    NotInFormat {
        /// What was asked for.
        what: &'static str,
        /// The format.
        version: MmuVersion,
    },
}

/// A word that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// All-ones or a bus error word (0xbadf….) where an entry should be: the memory was not there when it was read.
    #[error("{raw:#018x} is what a bus reads when nothing answers, not an entry")]
    NotThere {
        /// The word.
        raw: u64,
    },
    /// A code that the format does not define.
    #[error("{raw:#018x}: {field} = {code:#x} is not defined")]
    UnknownCode {
        /// The word.
        raw: u64,
        /// Name of the field.
        field: &'static str,
        /// Its value.
        code: u64,
    },
    /// Bit 0 says "leaf" at a level that has none.
    #[error("{raw:#018x}: a leaf (bit 0 set) at {level}, where the hardware has none")]
    LeafNotAllowed {
        /// The word.
        raw: u64,
        /// Name of the level.
        level: &'static str,
    },
}

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
