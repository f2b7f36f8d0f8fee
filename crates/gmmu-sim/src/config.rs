//! What a GPU is made from.

use crate::chip;
use std::ops::Range;

/// How wide one access of the bus can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bus {
    /// 64 bits are one access.
    Bits64,
    /// 64 bits are two accesses, the low half first. Each half is visible on its own.
    Bits32,
}

/// What translation caches do besides keeping what accesses went through, until an invalidate covers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Speculation {
    /// Nothing.
    #[default]
    Off,
    /// They fetch what lies near, drop what they hold, run out of room, and take their time with invalidates, as a seed
    /// decides.
    Random(u64),
    /// They hold all that can be reached from a root, after every step, from the first access through that root on, and
    /// use what is outdated wherever they may: what could go wrong on any hardware does go wrong.
    Worst,
}

/// What GPU to make. Two GPUs of equal configuration behave equally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Lower-case name of the chip, one of [`Gpu::chips`](crate::Gpu::chips).
    pub chip: String,
    /// Video memory in bytes: a multiple of 1 MiB, at most [`ChipModel::vram_max`](crate::ChipModel::vram_max), and what the chip's size register
    /// can express. 0 on an integrated chip, and only there.
    pub vram: u64,
    /// System memory: bus addresses from 0 up to here are memory, as far as the chip reaches
    /// ([`ChipModel::sys_max`](crate::ChipModel::sys_max)). What is not written takes no memory of the host.
    pub sys: u64,
    /// Memory of the other GPUs in bytes, by the number that leaf entries name them with; 0 where there is no link.
    pub peers: [u64; 8],
    /// Width of the bus.
    pub bus: Bus,
    /// Where all that is arbitrary comes from.
    pub seed: u64,
    /// How many polls find an invalidate still running.
    pub invalidate_polls: u32,
    /// How many looks at the status find a BAR bind still pending.
    pub bind_polls: u32,
    /// Size of the BAR1 aperture in bytes.
    pub bar1_bytes: u64,
    /// What the card keeps of its memory for itself.
    pub carveouts: Carveouts,
    /// What its caches do by themselves.
    pub speculation: Speculation,
}

/// What the registers say of memory that is not the driver's. The model's memory is all alike: nothing is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carveouts {
    /// The write-protected region of the firmware, 4 KiB aligned.
    pub wpr2: Option<Range<u64>>,
    /// Where the workspace of the display's VGA emulation begins, 64 KiB aligned. Told up to Ada.
    pub vga: Option<u64>,
    /// The region that the MMU has locked, 4 KiB aligned.
    pub mmu_lock: Option<Range<u64>>,
}

impl Default for Config {
    /// A `gh100` with 96 GiB on a 64-bit bus, all the system memory that it reaches and no peers, seed 0, two polls for
    /// an invalidate, one for a bind, 64 GiB of BAR1.
    fn default() -> Self {
        Self {
            chip: "gh100".to_owned(),
            vram: 96 * chip::GIB,
            sys: u64::MAX,
            peers: [0; 8],
            bus: Bus::Bits64,
            seed: 0,
            invalidate_polls: 2,
            bind_polls: 1,
            bar1_bytes: 64 * chip::GIB,
            carveouts: Carveouts::default(),
            speculation: Speculation::Off,
        }
    }
}

impl Config {
    /// The default with another chip; without video memory where the chip has none.
    #[must_use]
    pub fn chip(name: &str) -> Self {
        let integrated = chip::CHIPS.iter().any(|chip| chip.name == name && chip.integrated);
        let default = Self::default();
        Self { chip: name.to_owned(), vram: if integrated { 0 } else { default.vram }, ..default }
    }
}

/// Why there is no such GPU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No chip of that name.
    #[error("there is no chip {name:?}; known are: {known}")]
    UnknownChip {
        /// What was asked for.
        name: String,
        /// All that could have been.
        known: String,
    },
    /// The chip has no video memory of its own.
    #[error("{name} is an integrated GPU: it has no video memory of its own, and cannot have {bytes} bytes of it")]
    Integrated {
        /// The chip.
        name: &'static str,
        /// What was asked for.
        bytes: u64,
    },
    /// Not a positive multiple of 1 MiB.
    #[error("{bytes} bytes of video memory: it must be a multiple of 1 MiB, and more than 0")]
    VramNotMebibytes {
        /// What was asked for.
        bytes: u64,
    },
    /// More than the window and the formats reach.
    #[error("{bytes} bytes of video memory: {name} reaches {max} at most")]
    VramTooLarge {
        /// The chip.
        name: &'static str,
        /// What was asked for.
        bytes: u64,
        /// The most that it can have.
        max: u64,
    },
    /// The size register has a mantissa of six bits.
    #[error(
        "{bytes} bytes of video memory: the size register of {name} holds only 1 to 63 times a power of two of MiB"
    )]
    VramNotExpressible {
        /// The chip.
        name: &'static str,
        /// What was asked for.
        bytes: u64,
    },
}
