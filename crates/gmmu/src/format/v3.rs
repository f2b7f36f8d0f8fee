//! MMU v3, Hopper and Blackwell: 57-bit addresses, six levels. `NV_MMU_VER3_*` in `dev_mmu.h` (gh100).

use super::{
    in_units, leaf_aperture_code, not_there, table_aperture_code, table_at, DecodeError, EncodeError, EntryKind, Flags,
    Format, Kind, Leaf, Level, Link, MmuVersion, Pte, Slot, Target, APERTURE, LEAF, PDE0, PDE1,
};
use crate::addr::{Aperture, PageSize, PeerId, PhysAddr};
use crate::bits::{Field, TooWide};
use crate::device::Depth;

/// The format of Hopper and Blackwell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V3;

const VALID: Field = Field::bit("VALID", 0);
const PTE_PCF: Field = Field::new("PCF", 7, 3);
const KIND: Field = Field::new("KIND", 11, 8);
const ADDRESS: Field = Field::new("ADDRESS", 51, 12);
const PEER_ID: Field = Field::new("PEER_ID", 63, 61);

// The five bits of a valid leaf's PCF. The header lists 32 combined values; they are these bits, independent.
const PCF_UNCACHED: Field = Field::bit("UNCACHED", 3);
const PCF_PRIVILEGE: Field = Field::bit("PRIVILEGE", 4);
const PCF_READ_ONLY: Field = Field::bit("RO", 5);
const PCF_NO_ATOMIC: Field = Field::bit("NO_ATOMIC", 6);
const PCF_ACCESS_COUNTING_OFF: Field = Field::bit("ACD", 7);

// `NV_MMU_VER3_PTE_PCF_*` of an invalid leaf.
const PCF_INVALID: u64 = 0;
const PCF_SPARSE: u64 = 1;
const PCF_MAPPING_NOWHERE: u64 = 2;
const PCF_NO_VALID_4KB_PAGE: u64 = 3;

const PDE_PCF: Field = Field::new("PCF", 5, 3);
/// `UNCACHED` where there is a table, `SPARSE` where there is none.
const PDE_PCF_UNCACHED_OR_SPARSE: Field = Field::bit("UNCACHED", 3);
const PDE_PCF_ATS_NOT_ALLOWED: Field = Field::bit("ATS_NOT_ALLOWED", 4);

const APERTURE_BIG: Field = Field::new("APERTURE_BIG", 2, 1);
const PCF_BIG: Field = Field::new("PCF_BIG", 5, 3);
const ADDRESS_BIG: Field = Field::new("ADDRESS_BIG", 51, 8);
const APERTURE_SMALL: Field = Field::new("APERTURE_SMALL", 2, 1);
const PCF_SMALL: Field = Field::new("PCF_SMALL", 5, 3);
const ADDRESS_SMALL: Field = Field::new("ADDRESS_SMALL", 51, 12);

/// `NV_MMU_VER3_PTE_ADDRESS_SHIFT`, `…_PDE_ADDRESS_SHIFT`, `…_DUAL_PDE_ADDRESS_SMALL_SHIFT`.
const SHIFT: u32 = 12;
/// `NV_MMU_VER3_DUAL_PDE_ADDRESS_BIG_SHIFT`: 64K tables are 256 bytes.
const BIG_SHIFT: u32 = 8;

impl Format for V3 {
    const VERSION: MmuVersion = MmuVersion::V3;
    const VA_BITS: u32 = 57;
    const LEVELS: &'static [Level] = &[
        Level { name: "PDE4", shift: 56, bits: 1, entry_bytes: 8, leaf: None, depth: Depth::UpToPde4 },
        Level { name: "PDE3", shift: 47, bits: 9, entry_bytes: 8, leaf: None, depth: Depth::UpToPde3 },
        Level {
            name: "PDE2",
            shift: 38,
            bits: 9,
            entry_bytes: 8,
            leaf: Some(PageSize::Size256G),
            depth: Depth::UpToPde2,
        },
        PDE1,
        PDE0,
    ];

    fn encode_pte(pte: &Pte) -> Result<u64, EncodeError> {
        match pte {
            Pte::Invalid => put(PTE_PCF, PCF_INVALID),
            Pte::Sparse => put(PTE_PCF, PCF_SPARSE),
            Pte::Nowhere => put(PTE_PCF, PCF_MAPPING_NOWHERE),
            Pte::NoValid4K => put(PTE_PCF, PCF_NO_VALID_4KB_PAGE),
            Pte::Leaf(leaf) => encode_leaf(leaf),
        }
    }

    fn decode_pte(raw: u64) -> Result<Pte, DecodeError> {
        not_there(raw)?;
        if VALID.is_set(raw) {
            return Ok(Pte::Leaf(decode_leaf(raw)));
        }
        match PTE_PCF.get(raw) {
            PCF_INVALID => Ok(Pte::Invalid),
            PCF_SPARSE => Ok(Pte::Sparse),
            PCF_MAPPING_NOWHERE => Ok(Pte::Nowhere),
            PCF_NO_VALID_4KB_PAGE => Ok(Pte::NoValid4K),
            code => Err(DecodeError::UnknownCode { raw, field: "PCF", code }),
        }
    }

    fn encode_link(slot: Slot, link: &Link) -> Result<u64, EncodeError> {
        let ats = PDE_PCF_ATS_NOT_ALLOWED.flag(link.no_ats);
        match link.target {
            Target::Absent => Ok(ats),
            Target::Sparse => Ok(PDE_PCF_UNCACHED_OR_SPARSE.flag(true) | ats),
            Target::Table { at, volatile } => {
                let (shift, field) = address_field(slot);
                let address = put(field, in_units(at.into(), shift)?)?;
                let uncached = PDE_PCF_UNCACHED_OR_SPARSE.flag(volatile);
                Ok(put(APERTURE, table_aperture_code(at))? | uncached | ats | address)
            }
        }
    }

    fn decode_link(slot: Slot, raw: u64) -> Result<Link, DecodeError> {
        not_there(raw)?;
        let pcf = PDE_PCF.get(raw);
        if pcf > 3 {
            let field = match slot {
                Slot::Pde => PDE_PCF.name,
                Slot::Big => PCF_BIG.name,
                Slot::Small => PCF_SMALL.name,
            };
            return Err(DecodeError::UnknownCode { raw, field, code: pcf });
        }
        let (shift, field) = address_field(slot);
        let bit = PDE_PCF_UNCACHED_OR_SPARSE.is_set(raw);
        let target = match table_at(raw, field.get(raw) << shift) {
            Some(at) => Target::Table { at, volatile: bit },
            None if bit => Target::Sparse,
            None => Target::Absent,
        };
        Ok(Link { target, no_ats: PDE_PCF_ATS_NOT_ALLOWED.is_set(raw) })
    }

    fn fields(entry: EntryKind, raw: u64) -> &'static [Field] {
        match (entry, APERTURE.get(raw)) {
            (EntryKind::Pte, 1) => &[VALID, APERTURE, PTE_PCF, KIND, ADDRESS, PEER_ID],
            (EntryKind::Pte, _) => &[VALID, APERTURE, PTE_PCF, KIND, ADDRESS],
            (EntryKind::Pde, _) => &[LEAF, APERTURE, PDE_PCF, ADDRESS],
            (EntryKind::DualBig, _) => &[LEAF, APERTURE_BIG, PCF_BIG, ADDRESS_BIG],
            (EntryKind::DualSmall, _) => &[APERTURE_SMALL, PCF_SMALL, ADDRESS_SMALL],
        }
    }

    fn leaf_step(bytes: u64) -> u64 {
        (bytes >> SHIFT) << ADDRESS.range().1
    }
}

/// Shift and address field of a slot.
const fn address_field(slot: Slot) -> (u32, Field) {
    match slot {
        Slot::Pde => (SHIFT, ADDRESS),
        Slot::Big => (BIG_SHIFT, ADDRESS_BIG),
        Slot::Small => (SHIFT, ADDRESS_SMALL),
    }
}

fn put(field: Field, value: u64) -> Result<u64, EncodeError> {
    field.put(value).map_err(|e: TooWide| EncodeError::TooWide(e, MmuVersion::V3))
}

fn encode_leaf(leaf: &Leaf) -> Result<u64, EncodeError> {
    let flags = leaf.flags;
    let refused = |what| Err(EncodeError::NotInFormat { what, version: MmuVersion::V3 });
    if flags.encrypted {
        return refused("flag encrypted");
    }
    if leaf.comptag != 0 {
        return refused("compression tag");
    }
    let peer = match leaf.to.aperture {
        Aperture::Peer(id) => put(PEER_ID, u64::from(id.raw()))?,
        Aperture::Vram | Aperture::SysCoherent | Aperture::SysNonCoherent => 0,
    };
    Ok(VALID.flag(true)
        | put(APERTURE, leaf_aperture_code(leaf.to.aperture))?
        | PCF_UNCACHED.flag(flags.volatile)
        | PCF_PRIVILEGE.flag(flags.privileged)
        | PCF_READ_ONLY.flag(flags.read_only)
        | PCF_NO_ATOMIC.flag(flags.no_atomic)
        | PCF_ACCESS_COUNTING_OFF.flag(flags.no_access_counting)
        | put(KIND, u64::from(leaf.kind.0))?
        | put(ADDRESS, in_units(leaf.to, SHIFT)?)?
        | peer)
}

fn decode_leaf(raw: u64) -> Leaf {
    let aperture = match APERTURE.get(raw) {
        0 => Aperture::Vram,
        1 => Aperture::Peer(PeerId::from_low_bits(PEER_ID.get(raw))),
        2 => Aperture::SysCoherent,
        _ => Aperture::SysNonCoherent,
    };
    Leaf {
        to: PhysAddr::new(aperture, ADDRESS.get(raw) << SHIFT),
        kind: Kind(KIND.get(raw).to_le_bytes()[0]),
        flags: Flags {
            read_only: PCF_READ_ONLY.is_set(raw),
            privileged: PCF_PRIVILEGE.is_set(raw),
            volatile: PCF_UNCACHED.is_set(raw),
            no_atomic: PCF_NO_ATOMIC.is_set(raw),
            no_access_counting: PCF_ACCESS_COUNTING_OFF.is_set(raw),
            encrypted: false,
        },
        comptag: 0,
    }
}
