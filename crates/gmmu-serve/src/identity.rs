//! What the bus is told of a chip: the ids of a card that has it.

/// `0x03` is a display controller; VGA, and one that drives no display.
const VGA: u16 = 0x0300;
const COMPUTE: u16 = 0x0302;

/// A card's ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The chip's name.
    pub chip: &'static str,
    /// PCI device id.
    pub device: u16,
    /// PCI class and subclass.
    pub class: u16,
}

const fn card(chip: &'static str, device: u16, class: u16) -> Identity {
    Identity { chip, device, class }
}

/// One card for each chip. Source: the public list of PCI ids; those marked "made up" are in no such list, and stand for
/// chips of which no card is in it.
const CARDS: &[Identity] = &[
    card("gp107", 0x1c81, VGA),
    card("tu102", 0x1e04, VGA),
    card("tu104", 0x1e87, VGA),
    card("tu106", 0x1f08, VGA),
    card("tu117", 0x1f82, VGA),
    card("tu116", 0x2184, VGA),
    card("ga100", 0x20b0, COMPUTE),
    card("ga102", 0x2204, VGA),
    card("ga103", 0x2414, VGA),
    card("ga104", 0x2484, VGA),
    card("ga106", 0x2503, VGA),
    card("ga107", 0x25a2, VGA),
    card("ga102f", 0xf17f, COMPUTE), // made up
    card("ad102", 0x2684, VGA),
    card("ad103", 0x2704, VGA),
    card("ad104", 0x2786, VGA),
    card("ad106", 0x2803, VGA),
    card("ad107", 0x2882, VGA),
    card("gh100", 0x2330, COMPUTE),
    card("gb100", 0x2901, COMPUTE),
    card("gb102", 0xf1a2, COMPUTE), // made up
    card("gb110", 0xf1a3, COMPUTE), // made up
    card("gb112", 0xf1a4, COMPUTE), // made up
    card("gb10b", 0xf1ab, COMPUTE), // made up
    card("gb202", 0x2b85, VGA),
    card("gb203", 0x2c02, VGA),
    card("gb205", 0x2f04, VGA),
    card("gb206", 0x2d04, VGA),
    card("gb207", 0x2d83, VGA),
    card("gb20b", 0x2e12, COMPUTE),
    card("gb20c", 0xf1bc, COMPUTE), // made up
];

impl Identity {
    /// The ids of a card with a chip that can be modelled.
    #[must_use]
    pub fn of(chip: &str) -> Option<&'static Self> {
        CARDS.iter().find(|card| card.chip == chip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every chip of the model has ids of its own, and where gmmu guesses a chip from an id, it guesses this one.
    #[test]
    fn every_chip_has_a_card() {
        for chip in gmmu_sim::Gpu::chips() {
            let card = Identity::of(chip.name).expect(chip.name);
            let guess = gmmu_pci::chip::by_device_id(card.device);
            assert!(guess.is_none_or(|guess| guess == chip.name), "{}: {guess:?}", chip.name);
            assert_eq!(CARDS.iter().filter(|other| other.device == card.device).count(), 1);
        }
        assert_eq!(gmmu_pci::chip::by_device_id(0x1c81), Some("gp107"));
    }
}
