//! A BAR of a card, mapped through the `resourceN` file of sysfs.
//!
//! A mapping is read-only unless asked for otherwise; its accesses are those of `view.rs`. Who may write, and whether a driver
//! counts on the card, is the caller's business.
#![expect(unsafe_code, reason = "files are mapped into memory, and unmapped")]

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::time::Instant;

use gmmu::device::{Bar0, Bar1Aperture, Clock, DeviceError, Width};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::card::{Awake, Card};
use crate::view::View;

/// Why a BAR cannot be mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The card is suspended, and is not woken.
    #[error("the card sleeps: reads would give all-ones, and gmmu wakes nothing")]
    Asleep,
    /// The card has no such BAR.
    #[error("the card has no BAR{0}")]
    NoBar(usize),
    /// The BAR is made of I/O ports.
    #[error("BAR{0} is no memory")]
    NotMemory(usize),
    /// The machine gave the BAR no address.
    #[error("BAR{0} has no address: the machine found no room for it")]
    Unassigned(usize),
    /// The file is not as long as the BAR, so that accesses could miss it.
    #[error("{path}: has {found:#x} bytes, and BAR{index} has {wanted:#x}")]
    Length {
        /// The file.
        path: PathBuf,
        /// The BAR.
        index: usize,
        /// Bytes that `resource` says.
        wanted: u64,
        /// Bytes that the file has.
        found: u64,
    },
    /// The system refuses: permission, lockdown, or a driver that has the BAR for itself.
    #[error("{path}: {error}")]
    System {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// A mapped BAR.
#[derive(Debug)]
pub struct Mapping {
    view: View,
    since: Instant,
}

impl Mapping {
    /// Maps BAR `index` of `card`, whose sysfs is at `sys`.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn open(sys: &Path, card: &Card, index: usize, writable: bool) -> Result<Self, MapError> {
        if card.power.awake() == Awake::No {
            return Err(MapError::Asleep);
        }
        let bar = card.bar(index).ok_or(MapError::NoBar(index))?;
        if !bar.memory {
            return Err(MapError::NotMemory(index));
        }
        if !bar.assigned {
            return Err(MapError::Unassigned(index));
        }
        let path = sys.join(format!("bus/pci/devices/{}/resource{index}", card.bdf));
        let refused = |error: io::Error| MapError::System { path: path.clone(), error };
        let file = OpenOptions::new().read(true).write(writable).open(&path).map_err(refused)?;
        let found = file.metadata().map_err(refused)?.len();
        let length = usize::try_from(bar.bytes).ok().filter(|&bytes| bytes != 0 && found == bar.bytes);
        let Some(bytes) = length else {
            return Err(MapError::Length { path, index, wanted: bar.bytes, found });
        };
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: the kernel chooses where, so no memory of ours is replaced; the file has all of `bytes`.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, &file, 0) };
        let start = start.map_err(|error| refused(error.into()))?;
        let start = NonNull::new(start).ok_or_else(|| refused(io::ErrorKind::AddrNotAvailable.into()))?;
        // SAFETY: the mapping is whole pages, lives until `drop`, and is known to nobody else.
        let view = unsafe { View::new(start, bytes, writable) };
        Ok(Self { view, since: Instant::now() })
    }

    /// Bytes of the BAR.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.view.bytes()
    }
}

impl Mapping {
    const fn outside(&self, offset: u64, width: Width) -> DeviceError {
        DeviceError::BadBar1Offset { offset, bytes: width.bytes(), end: self.view.bytes() as u64 }
    }
}

/// What a mapping answers that may only be read.
const READ_ONLY: DeviceError = DeviceError::Backend("the BAR is mapped for reading only");

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is what `mmap` gave, and no pointer into it outlives `self`.
        let unmapped = unsafe { munmap(self.view.start().as_ptr(), self.view.bytes()) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can be unmapped");
    }
}

impl Bar0 for Mapping {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        self.view.get(offset.into(), width).ok_or(DeviceError::BadOffset { offset, bytes: width.bytes() })
    }

    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        if !self.view.has(offset.into(), width) {
            return Err(DeviceError::BadOffset { offset, bytes: width.bytes() });
        }
        self.view.put(offset.into(), width, value).ok_or(READ_ONLY)
    }

    fn has_64bit(&self) -> bool {
        cfg!(target_pointer_width = "64")
    }
}

impl Bar1Aperture for Mapping {
    fn size(&self) -> u64 {
        self.view.bytes() as u64
    }

    fn is_64bit(&self) -> bool {
        self.has_64bit()
    }

    fn read_at(&mut self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        self.view.get(offset, width).ok_or_else(|| self.outside(offset, width))
    }

    fn write_at(&mut self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        if !self.view.has(offset, width) {
            return Err(self.outside(offset, width));
        }
        self.view.put(offset, width, value).ok_or(READ_ONLY)
    }

    fn read_bytes(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.view.copy_out(offset, bytes).ok_or_else(|| self.outside(offset, Width::W8))
    }

    fn write_bytes(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        if !self.view.is_writable() {
            return Err(READ_ONLY);
        }
        self.view.copy_in(offset, bytes).ok_or_else(|| self.outside(offset, Width::W8))
    }
}

impl Clock for Mapping {
    fn now_us(&mut self) -> u64 {
        u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn relax(&mut self) {
        std::hint::spin_loop();
    }
}
