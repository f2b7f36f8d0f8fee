//! Reading and writing through a mapping, bounds checked.

use super::{AccessError, Bar1, MappingId};
use crate::aperture;
use crate::device::{Bar1Aperture, Width};
use crate::format::Format;

impl<F: Format, T> Bar1<F, T> {
    /// Reads `width` at byte `offset` of the mapping. On a bus without 64-bit accesses, [`Width::W64`] is two.
    ///
    /// # Errors
    /// [`AccessError`]; nothing was accessed, unless it is the device's.
    pub fn read<A: Bar1Aperture>(
        &self,
        id: &MappingId,
        aperture: &mut A,
        offset: u64,
        width: Width,
    ) -> Result<u64, AccessError> {
        let at = self.aligned(id, aperture, offset, width, false)?;
        Ok(aperture::read(aperture, at, width)?)
    }

    /// Writes the low `width` bytes of `value` at byte `offset` of the mapping. On a bus without 64-bit accesses,
    /// [`Width::W64`] is two, the low half first.
    ///
    /// # Errors
    /// [`AccessError`]; nothing was accessed, unless it is the device's.
    pub fn write<A: Bar1Aperture>(
        &self,
        id: &MappingId,
        aperture: &mut A,
        offset: u64,
        width: Width,
        value: u64,
    ) -> Result<(), AccessError> {
        let max = u64::MAX >> (64 - 8 * width.bytes());
        if value > max {
            return Err(AccessError::TooWide { value, max });
        }
        let at = self.aligned(id, aperture, offset, width, true)?;
        Ok(aperture::write(aperture, at, width, value)?)
    }

    /// Reads the bytes from `offset` of the mapping on, at any alignment.
    ///
    /// # Errors
    /// [`AccessError`]; nothing was accessed, unless it is the device's.
    pub fn read_bytes<A: Bar1Aperture>(
        &self,
        id: &MappingId,
        aperture: &mut A,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), AccessError> {
        let at = self.locate(id, aperture, offset, bytes.len() as u64, false)?;
        Ok(aperture.read_bytes(at, bytes)?)
    }

    /// Writes `bytes` from `offset` of the mapping on, at any alignment.
    ///
    /// # Errors
    /// [`AccessError`]; nothing was accessed, unless it is the device's.
    pub fn write_bytes<A: Bar1Aperture>(
        &self,
        id: &MappingId,
        aperture: &mut A,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), AccessError> {
        let at = self.locate(id, aperture, offset, bytes.len() as u64, true)?;
        Ok(aperture.write_bytes(at, bytes)?)
    }

    fn aligned<A: Bar1Aperture>(
        &self,
        id: &MappingId,
        aperture: &A,
        offset: u64,
        width: Width,
        writes: bool,
    ) -> Result<u64, AccessError> {
        let bytes = u64::from(width.bytes());
        let at = self.locate(id, aperture, offset, bytes, writes)?;
        if offset % bytes != 0 {
            return Err(AccessError::Unaligned { offset, alignment: bytes });
        }
        Ok(at)
    }
}
