//! The chips that can be modelled, and in what they differ for a driver of their MMU.
//!
//! One row per chip. Everything else in this crate asks the row and never the name.

use crate::config::ConfigError;
use crate::regs;

/// What one gibibyte is.
pub(crate) const GIB: u64 = 1 << 30;
/// What one mebibyte is.
pub(crate) const MIB: u64 = 1 << 20;

/// Which page-table format a chip reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MmuVersion {
    /// `NV_MMU_VER2`: 49-bit addresses, five levels. Pascal, Turing, Ampere, Ada.
    V2,
    /// `NV_MMU_VER3`: 57-bit addresses, six levels. Hopper, Blackwell.
    V3,
}

/// Where a chip says how much video memory it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FbSize {
    /// `NV_PFB_PRI_MMU_LOCAL_MEMORY_RANGE`: a mantissa of six bits and a scale.
    LocalMemoryRange,
    /// `NV_USABLE_FB_SIZE_IN_MB`: the number of mebibytes.
    UsableMb,
}

/// How BAR1 and BAR2 are bound to an instance block, and which register moves the PRAMIN window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Up to Ada: `NV_PBUS_BAR0_WINDOW` with a target, one block register per BAR and a common status register.
    Bus,
    /// From Hopper on: `NV_XAL_EP_ZB_BAR0_WINDOW` without a target, LOW and HIGH per BAR with the status in LOW.
    Xal,
}

/// One chip, as far as its MMU and the registers around it go.
#[derive(Clone, Copy, Debug)]
pub struct ChipModel {
    /// Lower-case name, `gh100`.
    pub name: &'static str,
    /// `NV_PMC_BOOT_42_ARCHITECTURE`.
    pub architecture: u8,
    /// `NV_PMC_BOOT_42_IMPLEMENTATION`.
    pub implementation: u8,
    /// The page-table format.
    pub mmu: MmuVersion,
    /// Whether a PD1 entry can be a leaf of 512 MiB.
    pub has_512m: bool,
    /// Whether a PD2 entry can be a leaf of 256 GiB.
    pub has_256g: bool,
    /// Whether the chip has no video memory of its own, and no window on it: tables and pages lie in system memory.
    pub integrated: bool,
    /// Width of a system memory address that the chip's MMU puts on the bus
    /// (`NV_CHIP_EXTENDED_SYSTEM_PHYSICAL_ADDRESS_BITS` of `hwproject.h`).
    pub sys_bits: u32,
    /// `NV_MMU_PTE_KIND_INVALID`.
    pub(crate) kind_invalid: u8,
    pub(crate) fb_size: FbSize,
    pub(crate) layout: Layout,
    /// Width of the base field of the window register; the unit is 64 KiB.
    pub(crate) window_bits: u32,
}

impl ChipModel {
    /// The largest video memory, in bytes, that the chip's window and formats reach in this model.
    #[must_use]
    pub const fn vram_max(&self) -> u64 {
        match (self.mmu, self.architecture) {
            (MmuVersion::V2, _) => 128 * GIB,
            (MmuVersion::V3, 0x18) => 256 * GIB,
            (MmuVersion::V3, _) => 288 * GIB,
        }
    }

    /// First bus address of system memory that the chip cannot reach.
    #[must_use]
    pub const fn sys_max(&self) -> u64 {
        1 << self.sys_bits
    }

    /// Width of a virtual address in bits: 49 or 57.
    #[must_use]
    pub const fn va_bits(&self) -> u32 {
        match self.mmu {
            MmuVersion::V2 => 49,
            MmuVersion::V3 => 57,
        }
    }

    /// Whether the registers of virtual functions exist: from Turing on.
    pub(crate) const fn has_virtual_functions(&self) -> bool {
        self.architecture >= 0x16
    }

    /// The register at `offset` by the place that it has from Turing on; `None` where this chip has none there.
    pub(crate) const fn register(&self, offset: u32) -> Option<u32> {
        match offset {
            _ if self.has_virtual_functions() => Some(offset),
            regs::PFB_INVALIDATE_PDB => Some(regs::INVALIDATE_PDB),
            regs::PFB_INVALIDATE_UPPER_PDB => Some(regs::INVALIDATE_UPPER_PDB),
            regs::PFB_INVALIDATE => Some(regs::INVALIDATE),
            regs::VGA_WORKSPACE_BASE_PASCAL => Some(regs::VGA_WORKSPACE_BASE),
            regs::VGA_WORKSPACE_BASE | regs::WPR2_LO..=regs::WPR2_HI => None,
            regs::VIRTUAL_FUNCTIONS..=regs::VIRTUAL_FUNCTIONS_LAST => None,
            _ => Some(offset),
        }
    }

    /// `NV_PMC_BOOT_0`, revision A1.
    pub(crate) fn boot_0(&self) -> u32 {
        let architecture = u32::from(self.architecture);
        (architecture & 0x1f) << 24 | (architecture >> 5 & 1) << 8 | u32::from(self.implementation) << 20 | 0xa1
    }

    /// `NV_PMC_BOOT_42`, revision A1.
    pub(crate) fn boot_42(&self) -> u32 {
        u32::from(self.architecture) << 24 | u32::from(self.implementation) << 20 | 0xa << 16 | 1 << 12
    }

    /// The register word that reports `vram` bytes, or `None` where the register cannot express them.
    pub(crate) fn fb_size_word(&self, vram: u64) -> Option<u32> {
        let mebibytes = u32::try_from(vram / MIB).ok()?;
        match self.fb_size {
            FbSize::UsableMb => Some(mebibytes),
            // The smallest scale leaves the most bits to the mantissa: LOWER_MAG 9:4, LOWER_SCALE 3:0.
            FbSize::LocalMemoryRange => (0..16)
                .find(|scale| mebibytes >> scale < 64 && (mebibytes >> scale) << scale == mebibytes)
                .map(|scale| (mebibytes >> scale) << 4 | scale),
        }
    }
}

const fn chip(name: &'static str, architecture: u8, implementation: u8) -> ChipModel {
    ChipModel {
        name,
        architecture,
        implementation,
        mmu: MmuVersion::V2,
        has_512m: true,
        has_256g: false,
        integrated: false,
        sys_bits: 47,
        kind_invalid: 7,
        fb_size: FbSize::UsableMb,
        layout: Layout::Bus,
        window_bits: 24,
    }
}

const fn turing(name: &'static str, implementation: u8) -> ChipModel {
    ChipModel { has_512m: false, fb_size: FbSize::LocalMemoryRange, ..chip(name, 0x16, implementation) }
}

const fn pascal(name: &'static str, implementation: u8) -> ChipModel {
    ChipModel { architecture: 0x13, kind_invalid: 0xff, ..turing(name, implementation) }
}

const fn v3(name: &'static str, architecture: u8, implementation: u8, window_bits: u32) -> ChipModel {
    ChipModel {
        mmu: MmuVersion::V3,
        layout: Layout::Xal,
        window_bits,
        sys_bits: 52,
        ..chip(name, architecture, implementation)
    }
}

const fn big_blackwell(name: &'static str, implementation: u8) -> ChipModel {
    ChipModel { has_256g: true, ..v3(name, 0x1a, implementation, 23) }
}

const fn integrated(name: &'static str, architecture: u8, implementation: u8) -> ChipModel {
    ChipModel { integrated: true, has_512m: false, ..v3(name, architecture, implementation, 22) }
}

/// Every chip, oldest first.
pub(crate) const CHIPS: &[ChipModel] = &[
    pascal("gp107", 7),
    turing("tu102", 2),
    turing("tu104", 4),
    turing("tu106", 6),
    turing("tu117", 7),
    turing("tu116", 8),
    ChipModel { fb_size: FbSize::LocalMemoryRange, ..chip("ga100", 0x17, 0) },
    chip("ga102", 0x17, 2),
    chip("ga103", 0x17, 3),
    chip("ga104", 0x17, 4),
    chip("ga106", 0x17, 6),
    chip("ga107", 0x17, 7),
    chip("ga102f", 0x17, 0xf),
    chip("ad102", 0x19, 2),
    chip("ad103", 0x19, 3),
    chip("ad104", 0x19, 4),
    chip("ad106", 0x19, 6),
    chip("ad107", 0x19, 7),
    v3("gh100", 0x18, 0, 22),
    big_blackwell("gb100", 0),
    big_blackwell("gb102", 2),
    big_blackwell("gb110", 3),
    big_blackwell("gb112", 4),
    ChipModel { sys_bits: 41, ..integrated("gb10b", 0x1a, 0xb) },
    v3("gb202", 0x1b, 2, 23),
    v3("gb203", 0x1b, 3, 23),
    v3("gb205", 0x1b, 5, 23),
    v3("gb206", 0x1b, 6, 23),
    v3("gb207", 0x1b, 7, 23),
    integrated("gb20b", 0x1b, 0xb),
    integrated("gb20c", 0x1b, 0xc),
];

/// Finds a chip that can be modelled with `vram` bytes of memory.
pub(crate) fn find(name: &str, vram: u64) -> Result<&'static ChipModel, ConfigError> {
    let chip = CHIPS
        .iter()
        .find(|chip| chip.name == name)
        .ok_or_else(|| ConfigError::UnknownChip { name: name.to_owned(), known: known() })?;
    match (chip.integrated, vram) {
        (true, 0) => return Ok(chip),
        (true, bytes) => return Err(ConfigError::Integrated { name: chip.name, bytes }),
        (false, _) => {}
    }
    if vram == 0 || vram % MIB != 0 {
        return Err(ConfigError::VramNotMebibytes { bytes: vram });
    }
    if vram > chip.vram_max() {
        return Err(ConfigError::VramTooLarge { name: chip.name, bytes: vram, max: chip.vram_max() });
    }
    if chip.fb_size_word(vram).is_none() {
        return Err(ConfigError::VramNotExpressible { name: chip.name, bytes: vram });
    }
    Ok(chip)
}

fn known() -> String {
    CHIPS.iter().map(|chip| chip.name).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identification_words() {
        let gh100 = find("gh100", 96 * GIB).expect("a chip");
        assert_eq!(gh100.boot_0(), 0x1800_00a1);
        assert_eq!(gh100.boot_42(), 0x180a_1000);
        assert_eq!(find("ad107", GIB).expect("a chip").boot_0(), 0x1970_00a1);
        assert_eq!(find("gp107", GIB).expect("a chip").boot_0(), 0x1370_00a1);
    }

    #[test]
    fn size_registers() {
        let tu102 = find("tu102", 96 * GIB).expect("a chip");
        assert_eq!(tu102.fb_size_word(96 * GIB), Some(48 << 4 | 11));
        assert_eq!(tu102.fb_size_word(65 * MIB), None);
        assert_eq!(find("gh100", GIB).expect("a chip").fb_size_word(65 * MIB), Some(65));
    }

    #[test]
    fn refusals_name_the_reason() {
        assert!(matches!(find("gb10b", GIB), Err(ConfigError::Integrated { name: "gb10b", bytes: GIB })));
        assert!(find("gb10b", 0).is_ok_and(|chip| chip.sys_max() == 1 << 41));
        assert!(matches!(find("gx999", GIB), Err(ConfigError::UnknownChip { .. })));
        assert!(matches!(find("gh100", 0), Err(ConfigError::VramNotMebibytes { .. })));
        assert!(matches!(find("gh100", GIB + 4096), Err(ConfigError::VramNotMebibytes { .. })));
        assert!(matches!(find("ga100", 129 * GIB), Err(ConfigError::VramTooLarge { .. })));
        assert!(matches!(find("ga100", 128 * GIB - MIB), Err(ConfigError::VramNotExpressible { .. })));
        assert!(find("gb100", 288 * GIB).is_ok() && find("gh100", 257 * GIB).is_err());
    }
}
