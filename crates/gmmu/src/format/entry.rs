//! Entries as data: what the words of either format say.

use super::MmuVersion;
use crate::addr::{PhysAddr, TableAddr};
use crate::bits::TooWide;

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
    /// Readable, writable, atomic, cached, for everybody.
    pub const NONE: Self = Self {
        read_only: false,
        privileged: false,
        volatile: false,
        no_atomic: false,
        no_access_counting: false,
        encrypted: false,
    };

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

    /// The flags of these names.
    ///
    /// # Errors
    /// The first name that is none.
    pub fn from_names<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<Self, &'n str> {
        let mut flags = Self::NONE;
        for name in names {
            *flags.by_name(name).ok_or(name)? = true;
        }
        Ok(flags)
    }

    /// The flag called `name`, to change; `None` for an unknown name.
    fn by_name(&mut self, name: &str) -> Option<&mut bool> {
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
        Self { to, kind: Kind::GENERIC, flags: Flags::NONE, comptag: 0 }
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
