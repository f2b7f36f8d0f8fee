//! The seam to BAR1: how the CPU reaches the aperture behind which the GPU's MMU translates.

use crate::device::{DeviceError, Width};

/// The BAR1 aperture of a card, as the CPU has it mapped: little-endian, its size known at run time.
///
/// # Contract
/// Accesses reach the device in program order. `offset` is in bytes, a multiple of the access width, and the access ends
/// within [`size`](Self::size); anything else is [`DeviceError::BadBar1Offset`]. An access that the GPU's MMU refuses is
/// no error, for the CPU is told nothing: a read gives what the bus gives, all-ones mostly, and a write is lost.
pub trait Bar1Aperture {
    /// Bytes of the aperture.
    fn size(&self) -> u64;

    /// Whether a [`Width::W64`] access is one access on the bus. Where it is not, the library never asks for one.
    fn is_64bit(&self) -> bool;

    /// Reads `width` bytes at `offset`; bits above the width are 0.
    ///
    /// # Errors
    /// [`DeviceError::BadBar1Offset`] or the back end's own.
    fn read_at(&mut self, offset: u64, width: Width) -> Result<u64, DeviceError>;

    /// Writes the low `width` bytes of `value` at `offset`.
    ///
    /// # Errors
    /// [`DeviceError::BadBar1Offset`] or the back end's own.
    fn write_at(&mut self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError>;

    /// Reads the bytes from `offset` upwards, at any alignment. A back end that maps the BAR overrides it with a copy.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at); the bytes before the failing access were read.
    fn read_bytes(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let width = widest(at, rest.len(), self.is_64bit());
            let (here, after) = rest.split_at_mut(len(width).min(rest.len()));
            for (byte, value) in here.iter_mut().zip(self.read_at(at, width)?.to_le_bytes()) {
                *byte = value;
            }
            at = at.wrapping_add(u64::from(width.bytes()));
            rest = after;
        }
        Ok(())
    }

    /// Writes `bytes` from `offset` upwards, at any alignment. A back end that maps the BAR overrides it with a copy.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at); the bytes before the failing access were written.
    fn write_bytes(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let width = widest(at, rest.len(), self.is_64bit());
            let (here, after) = rest.split_at(len(width).min(rest.len()));
            let mut word = [0; 8];
            for (place, byte) in word.iter_mut().zip(here) {
                *place = *byte;
            }
            self.write_at(at, width, u64::from_le_bytes(word))?;
            at = at.wrapping_add(u64::from(width.bytes()));
            rest = after;
        }
        Ok(())
    }
}

impl<A: Bar1Aperture + ?Sized> Bar1Aperture for &mut A {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn is_64bit(&self) -> bool {
        (**self).is_64bit()
    }
    fn read_at(&mut self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        (**self).read_at(offset, width)
    }
    fn write_at(&mut self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        (**self).write_at(offset, width, value)
    }
    fn read_bytes(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        (**self).read_bytes(offset, bytes)
    }
    fn write_bytes(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        (**self).write_bytes(offset, bytes)
    }
}

const fn len(width: Width) -> usize {
    width.bytes() as usize
}

/// The widest access that is aligned at `at` and not longer than `bytes`.
fn widest(at: u64, bytes: usize, wide: bool) -> Width {
    let fits = |width: &Width| len(*width) <= bytes && at % u64::from(width.bytes()) == 0;
    let widths = [Width::W64, Width::W32, Width::W16];
    widths.into_iter().filter(|width| wide || *width != Width::W64).find(fits).unwrap_or(Width::W8)
}

/// One access of `width`, as two where 64 bits are more than the bus can do at once: then the low half goes first, and
/// the GPU may see it alone.
#[cfg(feature = "alloc")]
pub(crate) fn read<A: Bar1Aperture>(aperture: &mut A, offset: u64, width: Width) -> Result<u64, DeviceError> {
    if width != Width::W64 || aperture.is_64bit() {
        return aperture.read_at(offset, width);
    }
    let low = aperture.read_at(offset, Width::W32)?;
    Ok(aperture.read_at(offset.wrapping_add(4), Width::W32)? << 32 | low)
}

/// The same for a write.
#[cfg(feature = "alloc")]
pub(crate) fn write<A: Bar1Aperture>(
    aperture: &mut A,
    offset: u64,
    width: Width,
    value: u64,
) -> Result<(), DeviceError> {
    if width != Width::W64 || aperture.is_64bit() {
        return aperture.write_at(offset, width, value);
    }
    aperture.write_at(offset, Width::W32, value & u64::from(u32::MAX))?;
    aperture.write_at(offset.wrapping_add(4), Width::W32, value >> 32)
}
