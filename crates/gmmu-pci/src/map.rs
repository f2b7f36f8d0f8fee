//! A BAR of a card, mapped through the `resourceN` file of sysfs.
//!
//! A mapping is read-only unless asked for otherwise. Every access is checked against its length and alignment, and is
//! one volatile access of its width, on hosts that are little-endian, as the card is. Who may write, and whether a driver counts on the card, is the caller's business.
#![expect(unsafe_code, reason = "the only place where memory is mapped and read through pointers")]

use std::ffi::c_void;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::time::Instant;

use gmmu::device::{Bar0, Bar1Aperture, Clock, DeviceError, Width};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::card::{Awake, Card};

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
    start: NonNull<c_void>,
    bytes: usize,
    writable: bool,
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
        Ok(Self { start, bytes, writable, since: Instant::now() })
    }

    /// Bytes of the BAR.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where an access goes: inside the mapping, and aligned to its width. `None` where it is not.
    fn place(&self, offset: u64, width: Width) -> Option<*mut c_void> {
        let at = usize::try_from(offset).ok()?;
        let bytes = usize::try_from(width.bytes()).ok()?;
        let inside = at.is_multiple_of(bytes) && at.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        inside.then(|| self.start.as_ptr().wrapping_byte_add(at))
    }

    /// One read, of an access that [`place`](Self::place) allows.
    fn get(&self, offset: u64, width: Width) -> Option<u64> {
        let at = self.place(offset, width)?;
        Some(match width {
            // SAFETY: `place` checked this width.
            Width::W8 => unsafe { load::<u8>(at) },
            // SAFETY: as above.
            Width::W16 => unsafe { load::<u16>(at) },
            // SAFETY: as above.
            Width::W32 => unsafe { load::<u32>(at) },
            // SAFETY: as above.
            Width::W64 => unsafe { load::<u64>(at) },
        })
    }

    /// One write, of an access that [`place`](Self::place) allows, through a mapping that is writable.
    fn put(&mut self, offset: u64, width: Width, value: u64) -> Option<()> {
        let at = self.place(offset, width)?;
        let [a, b, c, d, ..] = value.to_le_bytes();
        match width {
            _ if !self.writable => return None,
            // SAFETY: `place` checked this width, and the mapping is writable.
            Width::W8 => unsafe { at.cast::<u8>().write_volatile(a) },
            // SAFETY: as above.
            Width::W16 => unsafe { at.cast::<u16>().write_volatile(u16::from_le_bytes([a, b])) },
            // SAFETY: as above.
            Width::W32 => unsafe { at.cast::<u32>().write_volatile(u32::from_le_bytes([a, b, c, d])) },
            // SAFETY: as above.
            Width::W64 => unsafe { at.cast::<u64>().write_volatile(value) },
        }
        Some(())
    }
}

impl Mapping {
    /// How many bytes from `offset` on lie before the first aligned word, and how many whole words follow.
    fn whole_words(&self, offset: u64, bytes: usize) -> Result<(usize, usize), DeviceError> {
        let end = offset.checked_add(bytes as u64).filter(|&end| end <= self.bytes as u64);
        end.ok_or_else(|| self.outside(offset, Width::W8))?;
        let head = usize::try_from(offset.wrapping_neg() % 8).unwrap_or(0).min(bytes);
        Ok((head, (bytes - head) / 8))
    }

    const fn outside(&self, offset: u64, width: Width) -> DeviceError {
        DeviceError::BadBar1Offset { offset, bytes: width.bytes(), end: self.bytes as u64 }
    }
}

/// What a mapping answers that may only be read.
const READ_ONLY: DeviceError = DeviceError::Backend("the BAR is mapped for reading only");

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is what `mmap` gave, and no pointer into it outlives `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can be unmapped");
    }
}

/// One volatile read.
///
/// # Safety
/// `at` comes from [`Mapping::place`] with the width of `T`, and the mapping lives.
unsafe fn load<T: Copy + Into<u64>>(at: *mut c_void) -> u64 {
    // SAFETY: by contract `at` is mapped, aligned and wide enough; every pattern of bits is an integer.
    unsafe { at.cast::<T>().read_volatile() }.into()
}

impl Bar0 for Mapping {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        self.get(offset.into(), width).ok_or(DeviceError::BadOffset { offset, bytes: width.bytes() })
    }

    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        let bad = DeviceError::BadOffset { offset, bytes: width.bytes() };
        self.place(offset.into(), width).ok_or(bad)?;
        self.put(offset.into(), width, value).ok_or(READ_ONLY)
    }

    fn has_64bit(&self) -> bool {
        cfg!(target_pointer_width = "64")
    }
}

impl Bar1Aperture for Mapping {
    fn size(&self) -> u64 {
        self.bytes as u64
    }

    fn is_64bit(&self) -> bool {
        self.has_64bit()
    }

    fn read_at(&mut self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        self.get(offset, width).ok_or_else(|| self.outside(offset, width))
    }

    fn write_at(&mut self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        self.place(offset, width).ok_or_else(|| self.outside(offset, width))?;
        self.put(offset, width, value).ok_or(READ_ONLY)
    }

    /// Whole words with one check for all of them, and what is left at the ends byte by byte.
    fn read_bytes(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let (head, words) = self.whole_words(offset, bytes.len())?;
        let (before, rest) = bytes.split_at_mut(head.min(bytes.len()));
        let (middle, behind) = rest.split_at_mut((words * 8).min(rest.len()));
        let first = offset.wrapping_add(head as u64);
        let last = first.wrapping_add(middle.len() as u64);
        for (at, byte) in (offset..).zip(before).chain((last..).zip(behind)) {
            [*byte, ..] = self.read_at(at, Width::W8)?.to_le_bytes();
        }
        let mut at =
            self.start.as_ptr().cast::<u8>().wrapping_add(usize::try_from(first).unwrap_or(0)).cast::<c_void>();
        for word in middle.chunks_exact_mut(8) {
            // SAFETY: `whole_words` checked that all of them are inside, and `first` is where they are aligned.
            word.copy_from_slice(&unsafe { load::<u64>(at) }.to_le_bytes());
            at = at.wrapping_byte_add(8);
        }
        Ok(())
    }

    /// As `read_bytes`.
    fn write_bytes(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let (head, words) = self.whole_words(offset, bytes.len())?;
        if !self.writable && !bytes.is_empty() {
            return Err(READ_ONLY);
        }
        let (before, rest) = bytes.split_at(head.min(bytes.len()));
        let (middle, behind) = rest.split_at((words * 8).min(rest.len()));
        let first = offset.wrapping_add(head as u64);
        let last = first.wrapping_add(middle.len() as u64);
        for (at, byte) in (offset..).zip(before) {
            self.write_at(at, Width::W8, (*byte).into())?;
        }
        let mut at = self.start.as_ptr().cast::<u8>().wrapping_add(usize::try_from(first).unwrap_or(0)).cast::<u64>();
        for word in middle.chunks_exact(8).filter_map(|word| word.first_chunk().copied()) {
            // SAFETY: `whole_words` checked that all of them are inside, and `first` is where they are aligned; the mapping is
            // writable.
            unsafe { at.write_volatile(u64::from_le_bytes(word)) };
            at = at.wrapping_add(1);
        }
        for (at, byte) in (last..).zip(behind) {
            self.write_at(at, Width::W8, (*byte).into())?;
        }
        Ok(())
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
