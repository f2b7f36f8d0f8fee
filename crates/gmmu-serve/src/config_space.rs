//! The card's PCI configuration space, as far as its header and capabilities go.
//!
//! Source: the PCI Local Bus specification 3.0, chapter 6. Every byte has a mask of the bits that the host may change; a
//! BAR's fixed low bits are how the host measures it.

use crate::identity::Identity;

/// Bytes of it.
pub(crate) const BYTES: usize = 256;

const VENDOR: u32 = 0x10de;
const COMMAND: usize = 4;
/// Memory, bus master, interrupts off.
const COMMAND_BITS: u32 = 1 << 1 | 1 << 2 | 1 << 10;
/// There is a list of capabilities.
const STATUS_LIST: u32 = 1 << 4 << 16;
const CLASS_REVISION: usize = 8;
const BAR0: usize = 0x10;
const BAR1: usize = 0x14;
const BAR2: usize = 0x1c;
/// A BAR of 64 bits, and prefetchable.
const WIDE: u32 = 0xc;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;

/// Message-signalled interrupts: one vector, 64-bit addresses.
const MSI: u8 = 0x40;
const MSI_ID: u32 = 5;
const MSI_64BIT: u32 = 1 << 7 << 16;
/// Enable, and how many of the vectors.
const MSI_CONTROL_BITS: u32 = 0x71 << 16;
/// A capability of the vendor's: 16 bytes, the last four of which are the marker.
const VENDOR_CAPABILITY: u8 = 0x50;
const VENDOR_ID: u32 = 9;
/// What tells it from any that a real card has.
const VENDOR_TAG: u32 = u32::from_le_bytes(*b"gmmu");
/// Where whoever drives the card can write a number, for whoever serves it to see.
pub(crate) const MARKER: usize = VENDOR_CAPABILITY as usize + 12;

/// The bytes, and which of their bits the host may change.
#[derive(Clone, Debug)]
pub(crate) struct ConfigSpace {
    bytes: [u8; BYTES],
    mask: [u8; BYTES],
}

impl ConfigSpace {
    /// As after reset. `bars` are the bytes of BAR0, BAR1 and BAR2, powers of two.
    pub(crate) fn new(identity: &Identity, revision: u32, bars: [u64; 3]) -> Self {
        let mut space = Self { bytes: [0; BYTES], mask: [0; BYTES] };
        let device = u32::from(identity.device) << 16;
        space.put(0, device | VENDOR, 0);
        space.put(COMMAND, STATUS_LIST, COMMAND_BITS);
        space.put(CLASS_REVISION, u32::from(identity.class) << 16 | revision & 0xff, 0);
        let [bar0, bar1, bar2] = bars;
        space.put(BAR0, 0, !low(bar0 - 1));
        for (at, bytes) in [(BAR1, bar1), (BAR2, bar2)] {
            let mask = !(bytes - 1);
            space.put(at, WIDE, low(mask) & !0xf);
            space.put(at + 4, 0, low(mask >> 32));
        }
        // The board is called like the chip.
        space.put(SUBSYSTEM, device | VENDOR, 0);
        space.put(CAPABILITIES, u32::from(MSI), 0);
        let (msi, vendor) = (usize::from(MSI), usize::from(VENDOR_CAPABILITY));
        space.put(INTERRUPT_LINE, 0, 0xff);
        space.put(msi, MSI_64BIT | u32::from(VENDOR_CAPABILITY) << 8 | MSI_ID, MSI_CONTROL_BITS);
        for word in [4, 8, 12] {
            space.put(msi + word, 0, if word == 12 { 0xffff } else { !0 });
        }
        space.put(vendor, 16 << 16 | VENDOR_ID, 0);
        space.put(vendor + 4, VENDOR_TAG, 0);
        space.put(MARKER, 0, !0);
        space
    }

    fn put(&mut self, at: usize, value: u32, mask: u32) {
        for (part, word) in [(&mut self.bytes, value), (&mut self.mask, mask)] {
            if let Some(place) = part.get_mut(at..at + 4) {
                place.copy_from_slice(&word.to_le_bytes());
            }
        }
    }

    /// Reads bytes; `None` where they are not all in it.
    pub(crate) fn read(&self, at: usize, data: &mut [u8]) -> Option<()> {
        data.copy_from_slice(self.bytes.get(at..at.checked_add(data.len())?)?);
        Some(())
    }

    /// Writes what may be written of some bytes; `None` where they are not all in it.
    pub(crate) fn write(&mut self, at: usize, data: &[u8]) -> Option<()> {
        let range = at..at.checked_add(data.len())?;
        let (bytes, mask) = (self.bytes.get_mut(range.clone())?, self.mask.get(range)?);
        for ((byte, mask), new) in bytes.iter_mut().zip(mask).zip(data) {
            *byte = *byte & !mask | new & mask;
        }
        Some(())
    }

    /// The number in the marker.
    pub(crate) fn marker(&self) -> u32 {
        let mut bytes = [0; 4];
        // The marker is within the space.
        let _ = self.read(MARKER, &mut bytes);
        u32::from_le_bytes(bytes)
    }
}

const fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}
