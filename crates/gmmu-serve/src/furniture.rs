//! Registers around the MMU that drivers look at when they start, as data: offset, value, and what is known of it.
//!
//! All else is plain memory. Found by letting nouveau (Linux 6.12) and nova-core (7.3) start on a card without them, and
//! seeing what they waited for; the names are NVIDIA's where a header has them.

use crate::identity::Identity;
use crate::vbios;
use gmmu_sim::ChipModel;

/// `NV_PROM`: what the card's ROM shows in BAR0.
const PROM: u32 = 0x30_0000;

/// What every chip has.
const ALL: &[(u32, u32)] = &[
    // What the board is strapped for: a crystal of 27 MHz.
    (0x10_1000, 0x8000_003c),
];

/// Pascal to Turing, for nouveau.
const UP_TO_TURING: &[(u32, u32)] = &[
    // Bit 1: the power management unit has brought the card up, no driver needs to.
    (0x2_240c, 2),
    // Units that there are: memory partitions, their slices, partitions of the frame buffer.
    (0x2_2438, 1),
    (0x2_2450, 2),
    (0x2_2458, 1),
    // Entries of the fault buffer of Pascal.
    (0x2a78, 256),
    // Sizes of the first memory partition, in MiB: as it is called up to and from GP102 on.
    (0x9_020c, 256),
    (0x90_020c, 256),
];

/// All registers of a card, the ROM among them.
pub(crate) fn of(chip: &ChipModel, identity: &Identity) -> impl Iterator<Item = (u32, u32)> {
    let more = if chip.architecture <= 0x16 { UP_TO_TURING } else { &[] };
    let rom = vbios::rom(identity.device);
    let words: Vec<_> =
        rom.chunks_exact(4).map(|word| word.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte))).collect();
    ALL.iter().chain(more).copied().chain((PROM..).step_by(4).zip(words))
}
