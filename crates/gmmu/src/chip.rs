//! Which chip this is, and what follows from that: MMU version, page sizes, window and size registers.
//!
//! One row per chip; everything that differs between chips is a column. Sources: `nv_ref.h`, `nv_arch.h`,
//! `g_hal_archimpl.h` (identity), the `kgmmuFmtInitLevels_*` family and the page-size masks of the UVM driver.

use crate::addr::{Aperture, PageSize};
use crate::bits::Field;
use crate::format::MmuVersion;
use crate::regs;
use core::fmt;

/// A set of page sizes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PageSizes(u8);

impl PageSizes {
    /// 4K, 64K, 2M: what every chip has.
    pub const UP_TO_2M: Self = Self(0b0_0111);
    /// With 512M leaves in PD1.
    pub const UP_TO_512M: Self = Self(0b0_1111);
    /// With 256G leaves in PD2 too.
    pub const UP_TO_256G: Self = Self(0b1_1111);

    /// Whether `size` is in the set.
    #[must_use]
    pub const fn has(self, size: PageSize) -> bool {
        self.0 & (1 << size as u8) != 0
    }

    /// The sizes, smallest first.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = PageSize> {
        PageSize::ALL.into_iter().filter(move |&size| self.has(size))
    }
}

impl fmt::Display for PageSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, size) in self.iter().enumerate() {
            write!(f, "{}{size}", if n == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for PageSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSizes({self})")
    }
}

/// How the PRAMIN window is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowRegister {
    /// `NV_PBUS_BAR0_WINDOW` at 0x1700, up to Ada: 24 bits of base, and a target.
    Pbus,
    /// `NV_XAL_EP_ZB_BAR0_WINDOW` at 0x10FD40, from Hopper on: `base_bits` of base, video memory only.
    Xal {
        /// Width of the base field, in units of 64 KiB.
        base_bits: u32,
    },
}

impl WindowRegister {
    /// Bytes of video memory that the window reaches.
    #[must_use]
    pub const fn reach(self) -> u64 {
        match self {
            Self::Pbus => 1 << 40,
            Self::Xal { base_bits } => 1 << (base_bits + 16),
        }
    }
}

/// Which register tells the size of video memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FbSizeRegister {
    /// `NV_PFB_PRI_MMU_LOCAL_MEMORY_RANGE` at 0x100CE0: magnitude and scale.
    LocalMemoryRange,
    /// `NV_USABLE_FB_SIZE_IN_MB` at 0x1183A4: MiB.
    UsableFbSize,
}

/// Where the ends of WPR2 stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wpr2Registers {
    /// Nowhere: Pascal has no GSP, whose firmware the region protects.
    Absent,
    /// `NV_PFB_PRI_MMU_WPR2_ADDR_LO` and `_HI` at 0x1FA824.
    Pfb,
    /// At the hub MMU's base, 0x88A824: the big Blackwells.
    HubMmu,
}

/// What is known of the memory that the display's VGA emulation keeps, at the end of video memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VgaWorkspace {
    /// `NV_PDISP_VGA_WORKSPACE_BASE`, at this offset, says where it begins.
    Register(u32),
    /// It is the last 128 KiB.
    Last128K,
}

/// How BAR1 and BAR2 are bound to their instance blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRegisters {
    /// `NV_PBUS_BAR1_BLOCK` at 0x1704 and its neighbours, Pascal: words as `Word` has them. Later chips have them as
    /// aliases.
    Pbus,
    /// One word per BAR and a common status, Turing to Ada.
    Word,
    /// Two words per BAR with the status in the low one, from Hopper on.
    LowHigh,
}

/// Which registers invalidate the MMU's caches. Their words are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidateRegisters {
    /// `NV_PFB_PRI_MMU_INVALIDATE` at 0x100CBC behind a FIFO, Pascal: done when `NV_PFB_PRI_MMU_CTRL` says that it is empty.
    Fifo,
    /// `NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE` at 0xB830B0, from Turing on: done when the trigger has cleared.
    Trigger,
}

/// What the library knows of one chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chip {
    /// Lower-case name, such as `gh100`.
    pub name: &'static str,
    /// `NV_PMC_BOOT_42_ARCHITECTURE`.
    pub architecture: u8,
    /// `NV_PMC_BOOT_42_IMPLEMENTATION`.
    pub implementation: u8,
    /// Page-table format.
    pub mmu: MmuVersion,
    /// Page sizes that it maps.
    pub page_sizes: PageSizes,
    /// The register of the PRAMIN window; `None` for a chip without memory of its own.
    pub window: Option<WindowRegister>,
    /// The register that tells the size of video memory.
    pub fb_size: FbSizeRegister,
    /// The registers of the firmware's protected region.
    pub wpr2: Wpr2Registers,
    /// Where the memory of the VGA emulation is.
    pub vga: VgaWorkspace,
    /// Whether the MMU can lock a region (`NV_PFB_PRI_MMU_LOCK_ADDR_LO`), from GA100 on.
    pub has_mmu_lock: bool,
    /// The registers that bind the BARs.
    pub bar_blocks: BlockRegisters,
    /// The registers that invalidate.
    pub invalidate: InvalidateRegisters,
    /// Whether an instance block ends its address space with `NV_RAMIN_ADR_LIMIT`: up to Turing. Later chips keep other
    /// things there.
    pub instance_has_limit: bool,
    /// Width of a system memory address.
    pub sys_bits: u32,
    /// Whether a 512M leaf must be preceded by a table of invalid entries (NVIDIA bug 2720120).
    pub leaf_512m_needs_tables_first: bool,
}

const TURING: Chip = Chip {
    name: "",
    architecture: 0x16,
    implementation: 0,
    mmu: MmuVersion::V2,
    page_sizes: PageSizes::UP_TO_2M,
    window: Some(WindowRegister::Pbus),
    fb_size: FbSizeRegister::LocalMemoryRange,
    wpr2: Wpr2Registers::Pfb,
    vga: VgaWorkspace::Register(regs::NV_PDISP_VGA_WORKSPACE_BASE),
    has_mmu_lock: false,
    bar_blocks: BlockRegisters::Word,
    invalidate: InvalidateRegisters::Trigger,
    instance_has_limit: true,
    sys_bits: 47,
    leaf_512m_needs_tables_first: false,
};
/// Before virtual functions had registers of their own.
const PASCAL: Chip = Chip {
    architecture: 0x13,
    wpr2: Wpr2Registers::Absent,
    vga: VgaWorkspace::Register(regs::NV_PDISP_VGA_WORKSPACE_BASE_PASCAL),
    bar_blocks: BlockRegisters::Pbus,
    invalidate: InvalidateRegisters::Fifo,
    ..TURING
};
const AMPERE: Chip = Chip {
    architecture: 0x17,
    page_sizes: PageSizes::UP_TO_512M,
    fb_size: FbSizeRegister::UsableFbSize,
    has_mmu_lock: true,
    instance_has_limit: false,
    ..TURING
};
const ADA: Chip = Chip { architecture: 0x19, ..AMPERE };
const HOPPER: Chip = Chip {
    architecture: 0x18,
    mmu: MmuVersion::V3,
    window: Some(WindowRegister::Xal { base_bits: 22 }),
    vga: VgaWorkspace::Last128K,
    bar_blocks: BlockRegisters::LowHigh,
    sys_bits: 52,
    ..AMPERE
};
const BLACKWELL: Chip = Chip { architecture: 0x1b, window: Some(WindowRegister::Xal { base_bits: 23 }), ..HOPPER };
const BLACKWELL_BIG: Chip =
    Chip { architecture: 0x1a, page_sizes: PageSizes::UP_TO_256G, wpr2: Wpr2Registers::HubMmu, ..BLACKWELL };
/// NVIDIA's resource manager grants integrated Blackwells 512M pages, its UVM driver does not; the smaller set is safe.
const BLACKWELL_INTEGRATED: Chip = Chip { page_sizes: PageSizes::UP_TO_2M, window: None, ..BLACKWELL };

/// Every chip that the library knows, in the order of their architectures.
pub const CHIPS: &[Chip] = &[
    Chip { name: "gp107", implementation: 0x7, ..PASCAL },
    Chip { name: "tu102", implementation: 0x2, ..TURING },
    Chip { name: "tu104", implementation: 0x4, ..TURING },
    Chip { name: "tu106", implementation: 0x6, ..TURING },
    Chip { name: "tu117", implementation: 0x7, ..TURING },
    Chip { name: "tu116", implementation: 0x8, ..TURING },
    Chip { name: "ga100", fb_size: FbSizeRegister::LocalMemoryRange, leaf_512m_needs_tables_first: true, ..AMPERE },
    Chip { name: "ga102", implementation: 0x2, ..AMPERE },
    Chip { name: "ga103", implementation: 0x3, ..AMPERE },
    Chip { name: "ga104", implementation: 0x4, ..AMPERE },
    Chip { name: "ga106", implementation: 0x6, ..AMPERE },
    Chip { name: "ga107", implementation: 0x7, ..AMPERE },
    Chip { name: "ga102f", implementation: 0xf, ..AMPERE },
    Chip { name: "gh100", ..HOPPER },
    Chip { name: "ad102", implementation: 0x2, ..ADA },
    Chip { name: "ad103", implementation: 0x3, ..ADA },
    Chip { name: "ad104", implementation: 0x4, ..ADA },
    Chip { name: "ad106", implementation: 0x6, ..ADA },
    Chip { name: "ad107", implementation: 0x7, ..ADA },
    Chip { name: "gb100", ..BLACKWELL_BIG },
    Chip { name: "gb102", implementation: 0x2, ..BLACKWELL_BIG },
    Chip { name: "gb110", implementation: 0x3, ..BLACKWELL_BIG },
    Chip { name: "gb112", implementation: 0x4, ..BLACKWELL_BIG },
    Chip { name: "gb10b", architecture: 0x1a, implementation: 0xb, sys_bits: 41, ..BLACKWELL_INTEGRATED },
    Chip { name: "gb202", implementation: 0x2, ..BLACKWELL },
    Chip { name: "gb203", implementation: 0x3, ..BLACKWELL },
    Chip { name: "gb205", implementation: 0x5, ..BLACKWELL },
    Chip { name: "gb206", implementation: 0x6, ..BLACKWELL },
    Chip { name: "gb207", implementation: 0x7, ..BLACKWELL },
    Chip { name: "gb20b", implementation: 0xb, ..BLACKWELL_INTEGRATED },
    Chip { name: "gb20c", implementation: 0xc, ..BLACKWELL_INTEGRATED },
];

/// The identity registers do not name a chip that the library knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnknownChip {
    /// A register reads all-ones or a bus error word: no card answers.
    #[error("no card answers: BOOT_0 reads {boot_0:#010x}, BOOT_42 {boot_42:#010x}")]
    NotThere {
        /// `NV_PMC_BOOT_0`.
        boot_0: u32,
        /// `NV_PMC_BOOT_42`.
        boot_42: u32,
    },
    /// The two registers name different architectures or implementations.
    #[error("BOOT_0 ({boot_0:#010x}) and BOOT_42 ({boot_42:#010x}) name different chips")]
    Disagree {
        /// `NV_PMC_BOOT_0`.
        boot_0: u32,
        /// `NV_PMC_BOOT_42`.
        boot_42: u32,
    },
    /// An architecture or implementation that is not in [`CHIPS`].
    #[error("architecture {architecture:#x}, implementation {implementation:#x} is no chip that gmmu knows (GP107, and Turing to Blackwell)")]
    Unknown {
        /// `NV_PMC_BOOT_42_ARCHITECTURE`.
        architecture: u8,
        /// `NV_PMC_BOOT_42_IMPLEMENTATION`.
        implementation: u8,
    },
}

const BOOT_0_IMPLEMENTATION: Field = Field::new("IMPLEMENTATION", 23, 20);
const BOOT_0_ARCHITECTURE_0: Field = Field::new("ARCHITECTURE_0", 28, 24);
const BOOT_0_ARCHITECTURE_1: Field = Field::bit("ARCHITECTURE_1", 8);
const BOOT_42_IMPLEMENTATION: Field = Field::new("IMPLEMENTATION", 23, 20);
const BOOT_42_ARCHITECTURE: Field = Field::new("ARCHITECTURE", 29, 24);

impl Chip {
    /// The first byte of `aperture` that a leaf of this chip cannot lead to: the width of the entry's field, and for
    /// system memory of what the chip's bus has (`NV_CHIP_EXTENDED_SYSTEM_PHYSICAL_ADDRESS_BITS` in `hwproject.h`).
    #[must_use]
    pub const fn reach(&self, aperture: Aperture) -> u64 {
        match (self.mmu, aperture) {
            // `NV_MMU_VER2_PTE_ADDRESS_VID`; a peer's address goes on in `COMPTAGLINE`.
            (MmuVersion::V2, Aperture::Vram) => 1 << 37,
            (MmuVersion::V2, Aperture::Peer(_)) => 1 << 57,
            (_, Aperture::SysCoherent | Aperture::SysNonCoherent) => 1 << self.sys_bits,
            (MmuVersion::V3, Aperture::Vram | Aperture::Peer(_)) => 1 << 52,
        }
    }

    /// The chip of a lower-case name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        CHIPS.iter().find(|chip| chip.name == name)
    }

    /// The chip that `NV_PMC_BOOT_0` (0x0) and `NV_PMC_BOOT_42` (0xA00) name. Both have to name the same one.
    ///
    /// # Errors
    /// [`UnknownChip`].
    pub fn identify(boot_0: u32, boot_42: u32) -> Result<&'static Self, UnknownChip> {
        if [boot_0, boot_42].into_iter().any(is_not_there) {
            return Err(UnknownChip::NotThere { boot_0, boot_42 });
        }
        let (word_0, word_42) = (u64::from(boot_0), u64::from(boot_42));
        let old = (
            BOOT_0_ARCHITECTURE_1.get(word_0) << 5 | BOOT_0_ARCHITECTURE_0.get(word_0),
            BOOT_0_IMPLEMENTATION.get(word_0),
        );
        let new = (BOOT_42_ARCHITECTURE.get(word_42), BOOT_42_IMPLEMENTATION.get(word_42));
        if old != new {
            return Err(UnknownChip::Disagree { boot_0, boot_42 });
        }
        CHIPS.iter().find(|chip| (u64::from(chip.architecture), u64::from(chip.implementation)) == new).ok_or_else(
            || {
                let byte = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
                UnknownChip::Unknown { architecture: byte(new.0), implementation: byte(new.1) }
            },
        )
    }

    /// Whether the chip has no video memory of its own.
    #[must_use]
    pub const fn is_integrated(&self) -> bool {
        self.window.is_none()
    }
}

/// Whether a register word means that nothing answered: all-ones, or one of the bus's error words (0xbadf….,
/// 0xbad00200, 0xbadf0200). Memory may hold such values rightly, so table words are not judged by this.
#[must_use]
pub const fn is_not_there(word: u32) -> bool {
    word == u32::MAX || word >> 16 == 0xbadf || word == 0xbad0_0200
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot_words(chip: &Chip) -> (u32, u32) {
        let (arch, imp) = (u32::from(chip.architecture), u32::from(chip.implementation));
        ((arch & 0x1f) << 24 | (arch >> 5) << 8 | imp << 20 | 0xa1, arch << 24 | imp << 20 | 0xa1000)
    }

    #[test]
    fn every_chip_is_found_by_its_registers_and_its_name() {
        for chip in CHIPS {
            let (boot_0, boot_42) = boot_words(chip);
            assert_eq!(Chip::identify(boot_0, boot_42), Ok(chip), "{}", chip.name);
            assert_eq!(Chip::by_name(chip.name), Some(chip));
        }
    }

    #[test]
    fn page_sizes_are_those_of_the_fact_sheet() {
        let sizes = |name| Chip::by_name(name).expect(name).page_sizes;
        for name in ["gp107", "tu102", "tu116"] {
            assert_eq!(sizes(name), PageSizes::UP_TO_2M);
        }
        assert_eq!(
            (sizes("ga100"), sizes("ad107"), sizes("gh100")),
            (PageSizes::UP_TO_512M, PageSizes::UP_TO_512M, PageSizes::UP_TO_512M)
        );
        for name in ["gb100", "gb102", "gb110", "gb112"] {
            assert_eq!(sizes(name), PageSizes::UP_TO_256G);
        }
        assert_eq!((sizes("gb202"), sizes("gb10b")), (PageSizes::UP_TO_512M, PageSizes::UP_TO_2M));
    }

    #[test]
    fn what_is_no_card_is_said() {
        assert!(matches!(Chip::identify(u32::MAX, u32::MAX), Err(UnknownChip::NotThere { .. })));
        assert!(matches!(Chip::identify(0xbadf_5040, 0x1800_0000), Err(UnknownChip::NotThere { .. })));
        assert!(matches!(Chip::identify(0x1800_00a1, 0x1760_0000), Err(UnknownChip::Disagree { .. })));
        let unknown = Chip::identify(0x1100_00a1, 0x1100_0000);
        assert_eq!(unknown, Err(UnknownChip::Unknown { architecture: 0x11, implementation: 0 }));
    }
}
