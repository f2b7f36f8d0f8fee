//! MMU v2, Pascal to Ada: 49-bit addresses, five levels. `NV_MMU_VER2_*` in `dev_mmu.h` (gp100, tu102).

use super::{
    in_units, leaf_aperture_code, not_there, table_aperture_code, table_at, DecodeError, EncodeError, EntryKind, Flags,
    Format, Kind, Leaf, Level, Link, MmuVersion, Pte, Slot, Target, APERTURE, LEAF, PDE0, PDE1,
};
use crate::addr::{Aperture, PeerId, PhysAddr};
use crate::bits::{Field, TooWide};
use crate::device::Depth;

/// The format of Pascal, Volta, Turing, Ampere and Ada.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V2;

const VALID: Field = Field::bit("VALID", 0);
const VOL: Field = Field::bit("VOL", 3);
const ENCRYPTED: Field = Field::bit("ENCRYPTED", 4);
const PRIVILEGE: Field = Field::bit("PRIVILEGE", 5);
const READ_ONLY: Field = Field::bit("READ_ONLY", 6);
const ATOMIC_DISABLE: Field = Field::bit("ATOMIC_DISABLE", 7);
const ADDRESS_VID: Field = Field::new("ADDRESS_VID", 32, 8);
const ADDRESS_VID_PEER: Field = Field::new("ADDRESS_VID_PEER", 35, 33);
const ADDRESS_SYS: Field = Field::new("ADDRESS_SYS", 53, 8);
/// Compression tag of video memory, or address bits 56:37 of a peer's (Volta and later, NVSwitch). Turing's width.
const COMPTAGLINE: Field = Field::new("COMPTAGLINE", 55, 36);
const KIND: Field = Field::new("KIND", 63, 56);
const NO_ATS: Field = Field::bit("NO_ATS", 5);

const APERTURE_BIG: Field = Field::new("APERTURE_BIG", 2, 1);
const VOL_BIG: Field = Field::bit("VOL_BIG", 3);
const ADDRESS_BIG_VID: Field = Field::new("ADDRESS_BIG_VID", 32, 4);
const ADDRESS_BIG_SYS: Field = Field::new("ADDRESS_BIG_SYS", 53, 4);
const APERTURE_SMALL: Field = Field::new("APERTURE_SMALL", 2, 1);
const VOL_SMALL: Field = Field::bit("VOL_SMALL", 3);
const ADDRESS_SMALL_VID: Field = Field::new("ADDRESS_SMALL_VID", 32, 8);
const ADDRESS_SMALL_SYS: Field = Field::new("ADDRESS_SMALL_SYS", 53, 8);

/// `NV_MMU_VER2_PTE_ADDRESS_SHIFT`, `…_PDE_ADDRESS_SHIFT`, `…_DUAL_PDE_ADDRESS_SHIFT` of the small half.
const SHIFT: u32 = 12;
/// `NV_MMU_VER2_DUAL_PDE_ADDRESS_BIG_SHIFT`: 64K tables are 256 bytes.
const BIG_SHIFT: u32 = 8;

impl Format for V2 {
    const VERSION: MmuVersion = MmuVersion::V2;
    const VA_BITS: u32 = 49;
    const LEVELS: &'static [Level] = &[
        Level { name: "PDE3", shift: 47, bits: 2, entry_bytes: 8, leaf: None, depth: Depth::UpToPde3 },
        Level { name: "PDE2", shift: 38, bits: 9, entry_bytes: 8, leaf: None, depth: Depth::UpToPde2 },
        PDE1,
        PDE0,
    ];

    fn encode_pte(pte: &Pte) -> Result<u64, EncodeError> {
        match pte {
            Pte::Invalid => Ok(0),
            Pte::Sparse => Ok(VOL.flag(true)),
            Pte::NoValid4K => Ok(PRIVILEGE.flag(true)),
            Pte::Nowhere => Err(EncodeError::NotInFormat { what: "\"mapping nowhere\"", version: MmuVersion::V2 }),
            Pte::Leaf(leaf) => encode_leaf(leaf),
        }
    }

    fn decode_pte(raw: u64) -> Result<Pte, DecodeError> {
        not_there(raw)?;
        Ok(if VALID.is_set(raw) {
            Pte::Leaf(decode_leaf(raw))
        } else if PRIVILEGE.is_set(raw) {
            Pte::NoValid4K
        } else if VOL.is_set(raw) {
            Pte::Sparse
        } else {
            Pte::Invalid
        })
    }

    fn encode_link(slot: Slot, link: &Link) -> Result<u64, EncodeError> {
        if link.no_ats && slot != Slot::Pde {
            // The bit lies inside ADDRESS_BIG, and the hardware looks at it in PDE1 only.
            return Err(EncodeError::NotInFormat { what: "NO_ATS in dual entries", version: MmuVersion::V2 });
        }
        let ats = NO_ATS.flag(link.no_ats);
        match link.target {
            Target::Absent => Ok(ats),
            Target::Sparse => Ok(VOL.flag(true) | ats),
            Target::Table { at, volatile } => {
                let (shift, vid, sys) = address_fields(slot);
                let field = if at.is_vram() { vid } else { sys };
                let address = put(field, in_units(at.into(), shift)?)?;
                Ok(put(APERTURE, table_aperture_code(at))? | VOL.flag(volatile) | ats | address)
            }
        }
    }

    fn decode_link(slot: Slot, raw: u64) -> Result<Link, DecodeError> {
        not_there(raw)?;
        let (shift, vid, sys) = address_fields(slot);
        let in_vram = APERTURE.get(raw) == 1;
        let peer = ADDRESS_VID_PEER.get(raw);
        if in_vram && peer != 0 {
            return Err(DecodeError::UnknownCode { raw, field: ADDRESS_VID_PEER.name, code: peer });
        }
        let address = if in_vram { vid.get(raw) } else { sys.get(raw) } << shift;
        let volatile = VOL.is_set(raw);
        let target = match table_at(raw, address) {
            Some(at) => Target::Table { at, volatile },
            None if volatile => Target::Sparse,
            None => Target::Absent,
        };
        Ok(Link { target, no_ats: slot == Slot::Pde && NO_ATS.is_set(raw) })
    }

    fn fields(entry: EntryKind, raw: u64) -> &'static [Field] {
        const COMMON: [Field; 7] = [VALID, APERTURE, VOL, ENCRYPTED, PRIVILEGE, READ_ONLY, ATOMIC_DISABLE];
        const fn leaf(rest: [Field; 3]) -> [Field; 10] {
            let [a, b, c, d, e, f, g] = COMMON;
            let [x, y, z] = rest;
            [a, b, c, d, e, f, g, x, y, z]
        }
        const VID: [Field; 10] = leaf([ADDRESS_VID, COMPTAGLINE, KIND]);
        const SYS: [Field; 9] =
            [VALID, APERTURE, VOL, ENCRYPTED, PRIVILEGE, READ_ONLY, ATOMIC_DISABLE, ADDRESS_SYS, KIND];
        const PEER: [Field; 11] = [
            VALID,
            APERTURE,
            VOL,
            ENCRYPTED,
            PRIVILEGE,
            READ_ONLY,
            ATOMIC_DISABLE,
            ADDRESS_VID,
            ADDRESS_VID_PEER,
            COMPTAGLINE,
            KIND,
        ];
        match (entry, APERTURE.get(raw)) {
            (EntryKind::Pte, 0) => &VID,
            (EntryKind::Pte, 1) => &PEER,
            (EntryKind::Pte, _) => &SYS,
            (EntryKind::Pde, 1) => &[LEAF, APERTURE, VOL, NO_ATS, ADDRESS_VID, ADDRESS_VID_PEER],
            (EntryKind::Pde, _) => &[LEAF, APERTURE, VOL, NO_ATS, ADDRESS_SYS],
            (EntryKind::DualBig, 1) => &[LEAF, APERTURE_BIG, VOL_BIG, ADDRESS_BIG_VID],
            (EntryKind::DualBig, _) => &[LEAF, APERTURE_BIG, VOL_BIG, ADDRESS_BIG_SYS],
            (EntryKind::DualSmall, 1) => &[APERTURE_SMALL, VOL_SMALL, ADDRESS_SMALL_VID],
            (EntryKind::DualSmall, _) => &[APERTURE_SMALL, VOL_SMALL, ADDRESS_SMALL_SYS],
        }
    }

    fn leaf_step(bytes: u64) -> u64 {
        (bytes >> SHIFT) << ADDRESS_VID.range().1
    }
}

/// Shift, video and system address field of a slot.
const fn address_fields(slot: Slot) -> (u32, Field, Field) {
    match slot {
        Slot::Pde => (SHIFT, ADDRESS_VID, ADDRESS_SYS),
        Slot::Big => (BIG_SHIFT, ADDRESS_BIG_VID, ADDRESS_BIG_SYS),
        Slot::Small => (SHIFT, ADDRESS_SMALL_VID, ADDRESS_SMALL_SYS),
    }
}

fn put(field: Field, value: u64) -> Result<u64, EncodeError> {
    field.put(value).map_err(|e: TooWide| EncodeError::TooWide(e, MmuVersion::V2))
}

fn encode_leaf(leaf: &Leaf) -> Result<u64, EncodeError> {
    let flags = leaf.flags;
    if flags.no_access_counting {
        return Err(EncodeError::NotInFormat { what: "flag acd (access counting off)", version: MmuVersion::V2 });
    }
    let frame = in_units(leaf.to, SHIFT)?;
    let address = match leaf.to.aperture {
        Aperture::Vram => put(ADDRESS_VID, frame)? | put(COMPTAGLINE, u64::from(leaf.comptag))?,
        Aperture::Peer(id) => {
            let high = put(COMPTAGLINE, frame >> ADDRESS_VID.width())?;
            put(ADDRESS_VID, frame & ADDRESS_VID.max())? | high | put(ADDRESS_VID_PEER, u64::from(id.raw()))?
        }
        Aperture::SysCoherent | Aperture::SysNonCoherent => put(ADDRESS_SYS, frame)?,
    };
    if leaf.comptag != 0 && leaf.to.aperture != Aperture::Vram {
        return Err(EncodeError::NotInFormat { what: "compression tag outside video memory", version: MmuVersion::V2 });
    }
    Ok(VALID.flag(true)
        | put(APERTURE, leaf_aperture_code(leaf.to.aperture))?
        | VOL.flag(flags.volatile)
        | ENCRYPTED.flag(flags.encrypted)
        | PRIVILEGE.flag(flags.privileged)
        | READ_ONLY.flag(flags.read_only)
        | ATOMIC_DISABLE.flag(flags.no_atomic)
        | address
        | put(KIND, u64::from(leaf.kind.0))?)
}

fn decode_leaf(raw: u64) -> Leaf {
    let video = ADDRESS_VID.get(raw);
    let tag = COMPTAGLINE.get(raw);
    let (aperture, frame) = match APERTURE.get(raw) {
        0 => (Aperture::Vram, video),
        1 => (Aperture::Peer(peer_id(raw)), tag << ADDRESS_VID.width() | video),
        2 => (Aperture::SysCoherent, ADDRESS_SYS.get(raw)),
        _ => (Aperture::SysNonCoherent, ADDRESS_SYS.get(raw)),
    };
    Leaf {
        to: PhysAddr::new(aperture, frame << SHIFT),
        kind: Kind(KIND.get(raw).to_le_bytes()[0]),
        flags: Flags {
            read_only: READ_ONLY.is_set(raw),
            privileged: PRIVILEGE.is_set(raw),
            volatile: VOL.is_set(raw),
            no_atomic: ATOMIC_DISABLE.is_set(raw),
            no_access_counting: false,
            encrypted: ENCRYPTED.is_set(raw),
        },
        comptag: if aperture == Aperture::Vram { u32::try_from(tag).unwrap_or(0) } else { 0 },
    }
}

/// The peer of a word; three bits are always a peer.
fn peer_id(raw: u64) -> PeerId {
    PeerId::from_low_bits(ADDRESS_VID_PEER.get(raw))
}
