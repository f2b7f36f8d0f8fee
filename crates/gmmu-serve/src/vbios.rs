//! A VBIOS of our own making: the little of one without which nouveau does not start.
//!
//! A PCI expansion ROM (PCI Firmware specification 3.0, chapter 5) with a table of tables in it, "BIT", whose entries
//! name where the others lie. None of them asks for anything to be done: the card is as its firmware leaves it. What has
//! to be there was found by letting nouveau start on less.

/// Bytes of it, in units of 512.
const UNITS: u8 = 8;
const BYTES: usize = UNITS as usize * 512;

/// Where things lie.
const PCI_DATA: u16 = 0x40;
const BIT: u16 = 0x100;
const INIT: u16 = 0x200;
const PMU: u16 = 0x240;
const INFO: u16 = 0x260;
const PMU_TABLE: u16 = 0x280;
const PMU_CODE: u16 = 0x300;
const PERFORMANCE: u16 = 0x400;
const MEMORY_SCRIPTS: u16 = 0x480;

/// The ROM of a card with this PCI device id.
pub(crate) fn rom(device: u16) -> Vec<u8> {
    let mut rom = vec![0; BYTES];
    let mut put = |at: u16, bytes: &[u8]| {
        if let Some(place) = rom.get_mut(usize::from(at)..usize::from(at) + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    // The ROM's header: signature, its length, and where the PCI data structure is.
    put(0, &[0x55, 0xaa, UNITS]);
    put(0x18, &PCI_DATA.to_le_bytes());
    let [device_low, device_high] = device.to_le_bytes();
    put(PCI_DATA, &[b'P', b'C', b'I', b'R', 0xde, 0x10, device_low, device_high]);
    // Its own length, the image's in units, x86 code, and: no image follows.
    put(PCI_DATA + 0xa, &[0x18]);
    put(PCI_DATA + 0x10, &[UNITS]);
    put(PCI_DATA + 0x14, &[0, 0x80]);
    // The table of tables: a header of 12 bytes, entries of 6: name, version, length, place.
    let tables = [(b'I', 1, 0x1c, INIT), (b'p', 2, 4, PMU), (b'i', 2, 16, INFO), (b'P', 2, 0x40, PERFORMANCE)];
    put(BIT, &[0xff, 0xb8, b'B', b'I', b'T', 0, 0, 1, 12, 6, 4]);
    for ((name, version, length, at), entry) in tables.into_iter().zip((BIT + 12..).step_by(6)) {
        let [at_low, at_high] = at.to_le_bytes();
        let [length_low, length_high] = u16::to_le_bytes(length);
        put(entry, &[name, version, length_low, length_high, at_low, at_high]);
    }
    // The version of all this.
    put(INFO, &[1, 0, 7, 0x86, 0]);
    // Programs for the power management unit: one, which brings the card up (type 4); it has done so.
    put(PMU, &u32::from(PMU_TABLE).to_le_bytes());
    put(PMU_TABLE, &[1, 4, 6, 1, 4, 0]);
    put(PMU_TABLE + 6, &u32::from(PMU_CODE).to_le_bytes());
    // How memory clocks are changed: a table without entries.
    put(PERFORMANCE + 4, &u32::from(MEMORY_SCRIPTS).to_le_bytes());
    put(MEMORY_SCRIPTS, &[0x11, 0x18, 0x10, 4, 0, 0]);
    // All bytes add up to 0.
    let sum = rom.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(last) = rom.last_mut() {
        *last = sum.wrapping_neg();
    }
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_expansion_rom() {
        let rom = rom(0x1c81);
        assert_eq!((rom.len(), &rom[..3]), (4096, &[0x55, 0xaa, 8][..]));
        assert_eq!(&rom[0x40..0x48], b"PCIR\xde\x10\x81\x1c");
        assert_eq!(rom.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!(&rom[0x100..0x105], b"\xff\xb8BIT");
    }
}
