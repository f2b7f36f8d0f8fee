//! What a device id tells of the chip.
//!
//! Ids are given out in blocks of 128 that belong to one chip each. Only blocks are listed of which every id in the
//! public list of PCI ids names the same chip; of all others, and of older chips, nothing is said. It is a guess all the
//! same: what a chip is, its own `NV_PMC_BOOT_0` and `BOOT_42` say.

/// The first id of a block, and the chip.
const BLOCKS: [(u16, &str); 24] = [
    (0x1c80, "gp107"),
    (0x1e00, "tu102"),
    (0x1e80, "tu104"),
    (0x1f00, "tu106"),
    (0x1f80, "tu117"),
    (0x2080, "ga100"),
    (0x2180, "tu116"),
    (0x2200, "ga102"),
    (0x2300, "gh100"),
    (0x2400, "ga103"),
    (0x2480, "ga104"),
    (0x2500, "ga106"),
    (0x2580, "ga107"),
    (0x2680, "ad102"),
    (0x2700, "ad103"),
    (0x2780, "ad104"),
    (0x2800, "ad106"),
    (0x2880, "ad107"),
    (0x2900, "gb100"),
    (0x2b80, "gb202"),
    (0x2c00, "gb203"),
    (0x2d00, "gb206"),
    (0x2d80, "gb207"),
    (0x2f00, "gb205"),
];

/// The chip that a device id belongs to, where there is no doubt.
#[must_use]
pub fn by_device_id(device: u16) -> Option<&'static str> {
    BLOCKS.iter().find(|(first, _)| first & !0x7f == device & !0x7f).map(|&(_, chip)| chip)
}

/// Every chip that [`by_device_id`] can name.
pub fn names() -> impl Iterator<Item = &'static str> {
    BLOCKS.iter().map(|&(_, chip)| chip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_that_are_known() {
        for (device, chip) in [
            (0x1c81, "gp107"), // GTX 1050
            (0x1e04, "tu102"), // RTX 2080 Ti
            (0x1e89, "tu104"), // RTX 2060, on a bigger chip
            (0x1f82, "tu117"), // GTX 1650
            (0x20b5, "ga100"), // A100 PCIe 80GB
            (0x2230, "ga102"), // RTX A6000
            (0x2331, "gh100"), // H100 PCIe
            (0x2414, "ga103"), // RTX 3060 Ti, on a bigger chip
            (0x2684, "ad102"), // RTX 4090
            (0x27b8, "ad104"), // L4
            (0x2b85, "gb202"), // RTX 5090
        ] {
            assert_eq!(by_device_id(device), Some(chip), "{device:#06x}");
        }
    }

    #[test]
    fn nothing_is_said_where_there_is_doubt() {
        // A block of several chips; Volta; an integrated one; nothing.
        for device in [0x228b, 0x1db6, 0x2e12, 0, 0xffff] {
            assert_eq!(by_device_id(device), None, "{device:#06x}");
        }
        assert!(BLOCKS.iter().all(|(first, _)| first % 0x80 == 0));
        assert!(BLOCKS.is_sorted());
    }
}
