//! The page-table formats as data, and a decoder that runs over them.
//!
//! Bit numbers stand in tables, under the names of NVIDIA's `dev_mmu.h`, and nowhere else. The high halves of dual
//! entries are numbered from the bottom of their own 64-bit word.

use crate::chip::{ChipModel, MmuVersion};
use gmmu::addr::{Aperture, PeerId, PhysAddr, SysAddr, TableAddr, VramAddr};

/// A bit field of a 64-bit word, as the header has it: high and low bit, both inclusive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    #[cfg_attr(not(test), expect(dead_code, reason = "says which field of the manual this is"))]
    name: &'static str,
    hi: u32,
    lo: u32,
}

const fn field(name: &'static str, hi: u32, lo: u32) -> Field {
    assert!(hi >= lo && hi < 64);
    Field { name, hi, lo }
}

impl Field {
    /// The bits of the field.
    pub(crate) const fn mask(&self) -> u64 {
        u64::MAX >> (63 - (self.hi - self.lo)) << self.lo
    }
    pub(crate) const fn get(&self, word: u64) -> u64 {
        word >> self.lo & (u64::MAX >> (63 - (self.hi - self.lo)))
    }
    const fn is_set(&self, word: u64) -> bool {
        self.get(word) != 0
    }
}

/// An address field and how far its value is shifted to make a byte address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) vram: Field,
    pub(crate) sys: Field,
    shift: u32,
}

/// A pointer to a table: a directory entry, or one half of a dual one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pointer {
    pub(crate) aperture: Field,
    pub(crate) address: Address,
    /// `VOL`, or bit 0 of `PCF`: the table is not cached in L2; says "sparse" where the aperture is 0.
    pub(crate) vol: Field,
    /// What else is defined, where something is.
    pub(crate) more: Option<Field>,
}

/// How an entry without VALID says what it is.
#[derive(Clone, Copy, Debug)]
enum Absence {
    /// Two independent bits: `VOL` is sparse, `PRIVILEGE` on a 64K entry is "no 4K page is valid here".
    Bits { sparse: Field, no_4k: Field },
    /// A code: `PCF` 0 invalid, 1 sparse, 2 mapped nowhere, 3 no valid 4K page.
    Code(Field),
}

/// A leaf entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf {
    pub(crate) aperture: Field,
    pub(crate) address: Address,
    pub(crate) peer: Field,
    /// More bits of a peer's address, above those of `address.vram`.
    pub(crate) peer_high: Option<(Field, u32)>,
    pub(crate) kind: Field,
    pub(crate) vol: Field,
    pub(crate) encrypted: Option<Field>,
    pub(crate) privilege: Field,
    pub(crate) read_only: Field,
    pub(crate) no_atomic: Field,
    pub(crate) acd: Option<Field>,
    absence: Absence,
}

/// One level of tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    /// NVIDIA's name for an entry at this level.
    pub(crate) name: &'static str,
    /// Lowest address bit of the index: log2 of what one entry covers.
    pub(crate) lo: u32,
    /// Width of the index.
    pub(crate) bits: u32,
    /// 64-bit words in one entry.
    pub(crate) words: u32,
}

const fn level(name: &'static str, hi: u32, lo: u32, words: u32) -> Level {
    Level { name, lo, bits: hi - lo + 1, words }
}

/// Level numbers count from the leaves, so that they are the `CACHE_LEVEL` codes of the invalidate register: a code
/// covers every level up to its own number.
pub(crate) const SMALL: u8 = 0;
/// Tables of 64K entries.
pub(crate) const BIG: u8 = 1;
/// The dual directory, whose entries point to a big and a small table or are 2M leaves.
pub(crate) const PD0: u8 = 2;
/// The directory whose leaves are 512M.
pub(crate) const PD1: u8 = 3;
/// The directory whose leaves are 256G.
pub(crate) const PD2: u8 = 4;
/// Number of levels, of either version.
pub(crate) const LEVELS: usize = 7;
/// The highest level: the root of version 3.
pub(crate) const PD4: u8 = 6;

#[derive(Debug)]
pub(crate) struct Tables {
    va_bits: u32,
    top: u8,
    levels: [Level; LEVELS],
    pub(crate) valid: Field,
    pub(crate) directory: Pointer,
    pub(crate) big_half: Pointer,
    pub(crate) small_half: Pointer,
    pub(crate) leaf: Leaf,
}

const APERTURE: Field = field("APERTURE", 2, 1);

const V2: Tables = Tables {
    va_bits: 49,
    top: 5,
    levels: [
        level("PTE", 20, 12, 1),
        level("PTE", 20, 16, 1),
        level("PDE0", 28, 21, 2),
        level("PDE1", 37, 29, 1),
        level("PDE2", 46, 38, 1),
        level("PDE3", 48, 47, 1),
        level("-", 48, 48, 1),
    ],
    valid: field("VALID", 0, 0),
    directory: Pointer {
        aperture: APERTURE,
        address: Address { vram: field("ADDRESS_VID", 32, 8), sys: field("ADDRESS_SYS", 53, 8), shift: 12 },
        vol: field("VOL", 3, 3),
        more: Some(field("NO_ATS", 5, 5)),
    },
    big_half: Pointer {
        aperture: field("APERTURE_BIG", 2, 1),
        address: Address { vram: field("ADDRESS_BIG_VID", 32, 4), sys: field("ADDRESS_BIG_SYS", 53, 4), shift: 8 },
        vol: field("VOL_BIG", 3, 3),
        more: None,
    },
    small_half: Pointer {
        aperture: field("APERTURE_SMALL", 2, 1),
        address: Address { vram: field("ADDRESS_SMALL_VID", 32, 8), sys: field("ADDRESS_SMALL_SYS", 53, 8), shift: 12 },
        vol: field("VOL_SMALL", 3, 3),
        more: None,
    },
    leaf: Leaf {
        aperture: APERTURE,
        address: Address { vram: field("ADDRESS_VID", 32, 8), sys: field("ADDRESS_SYS", 53, 8), shift: 12 },
        peer: field("ADDRESS_VID_PEER", 35, 33),
        peer_high: Some((field("COMPTAGLINE", 55, 36), 25)),
        kind: field("KIND", 63, 56),
        vol: field("VOL", 3, 3),
        encrypted: Some(field("ENCRYPTED", 4, 4)),
        privilege: field("PRIVILEGE", 5, 5),
        read_only: field("READ_ONLY", 6, 6),
        no_atomic: field("ATOMIC_DISABLE", 7, 7),
        acd: None,
        absence: Absence::Bits { sparse: field("VOL", 3, 3), no_4k: field("PRIVILEGE", 5, 5) },
    },
};

const V3: Tables = Tables {
    va_bits: 57,
    top: 6,
    levels: [
        level("PTE", 20, 12, 1),
        level("PTE", 20, 16, 1),
        level("PDE0", 28, 21, 2),
        level("PDE1", 37, 29, 1),
        level("PDE2", 46, 38, 1),
        level("PDE3", 55, 47, 1),
        level("PDE4", 56, 56, 1),
    ],
    valid: field("VALID", 0, 0),
    directory: Pointer {
        aperture: APERTURE,
        address: Address { vram: field("ADDRESS", 51, 12), sys: field("ADDRESS", 51, 12), shift: 12 },
        vol: field("PCF_UNCACHED", 3, 3),
        more: Some(field("PCF", 5, 4)),
    },
    big_half: Pointer {
        aperture: field("APERTURE_BIG", 2, 1),
        address: Address { vram: field("ADDRESS_BIG", 51, 8), sys: field("ADDRESS_BIG", 51, 8), shift: 8 },
        vol: field("PCF_BIG_UNCACHED", 3, 3),
        more: Some(field("PCF_BIG", 5, 4)),
    },
    small_half: Pointer {
        aperture: field("APERTURE_SMALL", 2, 1),
        address: Address { vram: field("ADDRESS_SMALL", 51, 12), sys: field("ADDRESS_SMALL", 51, 12), shift: 12 },
        vol: field("PCF_SMALL_UNCACHED", 3, 3),
        more: Some(field("PCF_SMALL", 5, 4)),
    },
    leaf: Leaf {
        aperture: APERTURE,
        address: Address { vram: field("ADDRESS", 51, 12), sys: field("ADDRESS", 51, 12), shift: 12 },
        peer: field("PEER_ID", 63, 61),
        peer_high: None,
        kind: field("KIND", 11, 8),
        vol: field("PCF_UNCACHED", 3, 3),
        encrypted: None,
        privilege: field("PCF_PRIVILEGE", 4, 4),
        read_only: field("PCF_RO", 5, 5),
        no_atomic: field("PCF_NO_ATOMIC", 6, 6),
        acd: Some(field("PCF_ACD", 7, 7)),
        absence: Absence::Code(field("PCF", 7, 3)),
    },
};

/// What the leaf says about its page, besides where it is. A flag that a format lacks is never set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags {
    /// Not cached in the GPU's L2: `VOL`, on v3 an uncached `PCF`.
    pub vol: bool,
    /// `ENCRYPTED`, v2 only.
    pub encrypted: bool,
    /// Only privileged requests may pass: `PRIVILEGE`.
    pub privileged: bool,
    /// Writes and atomics fault: `READ_ONLY`.
    pub read_only: bool,
    /// Atomics fault: `ATOMIC_DISABLE`.
    pub no_atomic: bool,
    /// Access counting is off (`ACD`), v3 only.
    pub acd: bool,
}

impl Flags {
    /// The names of the flags that are set, sorted: `acd encrypted noatomic priv ro vol`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [
            (self.acd, "acd"),
            (self.encrypted, "encrypted"),
            (self.no_atomic, "noatomic"),
            (self.privileged, "priv"),
            (self.read_only, "ro"),
            (self.vol, "vol"),
        ]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
    }
}

/// A directory entry above PD0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Directory {
    Table(TableAddr),
    Leaf,
    Sparse,
    Absent,
    /// VALID at a level where the chip has no leaves.
    Bad,
}

impl Directory {
    pub(crate) const fn maps(self) -> bool {
        matches!(self, Self::Leaf | Self::Sparse)
    }
}

/// A PD0 entry, both words of it. An absent one has neither table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dual {
    Leaf,
    Sparse,
    Tables { big: Option<TableAddr>, small: Option<TableAddr> },
}

impl Dual {
    pub(crate) const fn is_leaf(self) -> bool {
        matches!(self, Self::Leaf)
    }

    pub(crate) const fn maps(self) -> bool {
        matches!(self, Self::Leaf | Self::Sparse)
    }
}

/// An entry of a big or small table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pte {
    Leaf,
    Sparse,
    /// On a 64K entry: do not look at the 4K table.
    No4k,
    /// On a 64K entry: do look at the 4K table.
    Absent,
    /// Absent in a way that also ends the walk.
    Nowhere,
}

impl Pte {
    pub(crate) const fn maps(self) -> bool {
        matches!(self, Self::Leaf | Self::Sparse)
    }
}

/// The fields of a leaf that maps memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) to: PhysAddr,
    pub(crate) kind: u8,
    pub(crate) flags: Flags,
}

/// Reads the entries of one chip.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoder {
    pub(crate) tables: &'static Tables,
    leaf_levels: u8,
}

impl Decoder {
    pub(crate) fn new(chip: &ChipModel) -> Self {
        let tables = match chip.mmu {
            MmuVersion::V2 => &V2,
            MmuVersion::V3 => &V3,
        };
        let leaf_levels = 1 << PD0 | u8::from(chip.has_512m) << PD1 | u8::from(chip.has_256g) << PD2;
        Self { tables, leaf_levels }
    }

    pub(crate) const fn va_bits(&self) -> u32 {
        self.tables.va_bits
    }

    /// The level of the root.
    pub(crate) const fn top(&self) -> u8 {
        self.tables.top
    }

    pub(crate) fn level(&self, level: u8) -> &'static Level {
        let [small, .., last] = &self.tables.levels;
        self.tables.levels.get(usize::from(level)).unwrap_or(if level == SMALL { small } else { last })
    }

    /// Index of the entry for `va` in a table of `level`.
    pub(crate) fn index(&self, level: u8, va: u64) -> u64 {
        let level = self.level(level);
        va >> level.lo & ((1 << level.bits) - 1)
    }

    /// 64-bit words that a table of `level` uses.
    pub(crate) fn table_words(&self, level: u8) -> u16 {
        let level = self.level(level);
        // At most 512: nine index bits of one word, or eight of two.
        ((level.words << level.bits) & 0xffff) as u16
    }

    pub(crate) fn directory(&self, level: u8, word: u64) -> Directory {
        if self.tables.valid.is_set(word) {
            return if self.leaf_levels >> level & 1 != 0 { Directory::Leaf } else { Directory::Bad };
        }
        match pointer(&self.tables.directory, word) {
            Some(table) => Directory::Table(table),
            None if self.tables.directory.vol.is_set(word) => Directory::Sparse,
            None => Directory::Absent,
        }
    }

    pub(crate) fn dual(&self, lo: u64, hi: u64) -> Dual {
        if self.tables.valid.is_set(lo) {
            return Dual::Leaf;
        }
        let big = pointer(&self.tables.big_half, lo);
        let small = pointer(&self.tables.small_half, hi);
        // The big half alone decides, and only where neither half points anywhere.
        if big.is_none() && small.is_none() && self.tables.big_half.vol.is_set(lo) {
            return Dual::Sparse;
        }
        Dual::Tables { big, small }
    }

    pub(crate) fn pte(&self, level: u8, word: u64) -> Pte {
        if self.tables.valid.is_set(word) {
            return Pte::Leaf;
        }
        match &self.tables.leaf.absence {
            Absence::Bits { no_4k, .. } if level == BIG && no_4k.is_set(word) => Pte::No4k,
            Absence::Bits { sparse, .. } if sparse.is_set(word) => Pte::Sparse,
            Absence::Bits { .. } => Pte::Absent,
            Absence::Code(pcf) => match pcf.get(word) {
                0 => Pte::Absent,
                1 => Pte::Sparse,
                3 if level == BIG => Pte::No4k,
                _ => Pte::Nowhere,
            },
        }
    }

    /// The fields of a word that is known to be a leaf.
    pub(crate) fn mapping(&self, word: u64) -> Mapping {
        let leaf = &self.tables.leaf;
        let set = |field: &Option<Field>| field.as_ref().is_some_and(|field| field.is_set(word));
        let vram = leaf.address.vram.get(word) << leaf.address.shift;
        let sys = leaf.address.sys.get(word) << leaf.address.shift;
        let to = match leaf.aperture.get(word) {
            0 => PhysAddr::vram(vram),
            1 => {
                let above = leaf.peer_high.map_or(0, |(field, width)| field.get(word) << width << leaf.address.shift);
                let peer = PeerId::new((leaf.peer.get(word) & 7) as u8);
                peer.map_or(PhysAddr::vram(vram), |peer| PhysAddr::new(Aperture::Peer(peer), vram | above))
            }
            2 => PhysAddr::new(Aperture::SysCoherent, sys),
            _ => PhysAddr::new(Aperture::SysNonCoherent, sys),
        };
        let flags = Flags {
            vol: leaf.vol.is_set(word),
            encrypted: set(&leaf.encrypted),
            privileged: leaf.privilege.is_set(word),
            read_only: leaf.read_only.is_set(word),
            no_atomic: leaf.no_atomic.is_set(word),
            acd: set(&leaf.acd),
        };
        Mapping { to, kind: (leaf.kind.get(word) & 0xff) as u8, flags }
    }

    /// Whether an entry that points to memory points to system memory, and lets L2 keep what it finds there. Directory
    /// entries, their halves and leaves have both fields at the same bits, and code system memory alike.
    pub(crate) const fn keeps_sys(&self, word: u64) -> bool {
        let leaf = &self.tables.leaf;
        leaf.aperture.get(word) >= 2 && !leaf.vol.is_set(word)
    }

    /// The table that the word at word `slot` of a directory points to, whichever half of an entry it is.
    pub(crate) fn target(&self, level: u8, slot: u16, word: u64) -> Option<TableAddr> {
        match level {
            SMALL | BIG => None,
            PD0 if slot % 2 == 1 => pointer(&self.tables.small_half, word),
            PD0 if self.tables.valid.is_set(word) => None,
            PD0 => pointer(&self.tables.big_half, word),
            _ => match self.directory(level, word) {
                Directory::Table(table) => Some(table),
                _ => None,
            },
        }
    }
}

fn pointer(fields: &Pointer, word: u64) -> Option<TableAddr> {
    let vram = fields.address.vram.get(word) << fields.address.shift;
    let sys = fields.address.sys.get(word) << fields.address.shift;
    match fields.aperture.get(word) {
        0 => None,
        1 => Some(TableAddr::Vram(VramAddr::new(vram))),
        2 => Some(TableAddr::SysCoherent(SysAddr::new(sys))),
        _ => Some(TableAddr::SysNonCoherent(SysAddr::new(sys))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_apart(fields: &[Field]) {
        let mut taken = 0u64;
        for field in fields {
            assert_eq!(taken & field.mask(), 0, "{} overlaps another field", field.name);
            taken |= field.mask();
        }
    }

    #[test]
    fn fields_of_one_word_do_not_overlap() {
        for tables in [&V2, &V3] {
            let leaf = &tables.leaf;
            let flags =
                [leaf.vol, leaf.privilege, leaf.read_only, leaf.no_atomic, leaf.kind, tables.valid, leaf.aperture];
            let maybe = [leaf.encrypted, leaf.acd].into_iter().flatten();
            let all: Vec<_> = flags.into_iter().chain(maybe).collect();
            assert_apart(&[all.as_slice(), &[leaf.address.vram, leaf.peer]].concat());
            assert_apart(&[all.as_slice(), &[leaf.address.sys]].concat());
            for pointer in [&tables.directory, &tables.big_half, &tables.small_half] {
                // `keeps_sys` looks at any of them.
                assert_eq!((pointer.aperture.hi, pointer.aperture.lo), (leaf.aperture.hi, leaf.aperture.lo));
                assert_eq!((pointer.vol.hi, pointer.vol.lo), (leaf.vol.hi, leaf.vol.lo));
                assert_apart(&[tables.valid, pointer.aperture, pointer.vol, pointer.address.vram]);
                assert_apart(&[tables.valid, pointer.aperture, pointer.vol, pointer.address.sys]);
            }
        }
    }

    #[test]
    fn levels_tile_the_address() {
        for (tables, table_bytes) in
            [(&V2, [4096, 256, 4096, 4096, 4096, 32, 16]), (&V3, [4096, 256, 4096, 4096, 4096, 4096, 16])]
        {
            let mut above = tables.va_bits;
            for level in (PD0..=tables.top).rev() {
                let geometry = tables.levels[usize::from(level)];
                assert_eq!(geometry.lo + geometry.bits, above);
                above = geometry.lo;
            }
            for level in [SMALL, BIG] {
                let geometry = tables.levels[usize::from(level)];
                assert_eq!(geometry.lo + geometry.bits, above, "{}", geometry.name);
            }
            for (level, bytes) in tables.levels.iter().zip(table_bytes) {
                assert_eq!((8 * u64::from(level.words)) << level.bits, bytes);
            }
        }
    }
}
