//! Memory behind which a device is: every access is checked against its length and alignment, and is one volatile access of
//! its width, on hosts that are little-endian, as the card is.
//!
//! Nothing here knows where the memory comes from, so that miri can run its tests on memory of the heap.
#![expect(unsafe_code, reason = "memory that others change is read and written through pointers")]

use std::ffi::c_void;
use std::ptr::NonNull;

use gmmu::device::Width;

/// A stretch of such memory.
#[derive(Debug)]
pub(crate) struct View {
    start: NonNull<c_void>,
    bytes: usize,
    writable: bool,
}

impl View {
    /// The memory from `start` on.
    ///
    /// # Safety
    /// As long as the value lives, `bytes` from `start` on can be read by anybody and, where it is `writable`, written;
    /// `start` is aligned to 8, and no reference leads into that memory.
    pub(crate) const unsafe fn new(start: NonNull<c_void>, bytes: usize, writable: bool) -> Self {
        Self { start, bytes, writable }
    }

    /// Where it begins.
    pub(crate) const fn start(&self) -> NonNull<c_void> {
        self.start
    }

    /// Its length.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it may be written.
    pub(crate) const fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether an access lies inside, and is aligned to its width.
    pub(crate) fn has(&self, offset: u64, width: Width) -> bool {
        self.place(offset, width).is_some()
    }

    fn place(&self, offset: u64, width: Width) -> Option<*mut c_void> {
        let at = usize::try_from(offset).ok()?;
        let bytes = usize::try_from(width.bytes()).ok()?;
        let inside = at.is_multiple_of(bytes) && at.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        inside.then(|| self.start.as_ptr().wrapping_byte_add(at))
    }

    /// One read; `None` for an access that it does not [have](Self::has).
    pub(crate) fn get(&self, offset: u64, width: Width) -> Option<u64> {
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

    /// One write of the low bytes of `value`; `None` for an access that it does not [have](Self::has), or where nothing may
    /// be written.
    pub(crate) fn put(&mut self, offset: u64, width: Width, value: u64) -> Option<()> {
        let at = self.place(offset, width).filter(|_| self.writable)?;
        let [a, b, c, d, ..] = value.to_le_bytes();
        match width {
            // SAFETY: `place` checked this width, and the memory is writable.
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

    /// Reads bytes at any place, whole words with one check for all of them; `None` where they are not all inside.
    pub(crate) fn copy_out(&self, offset: u64, bytes: &mut [u8]) -> Option<()> {
        let Split { first, last, head, middle } = self.split(offset, bytes.len())?;
        let (before, rest) = bytes.split_at_mut(head);
        let (words, behind) = rest.split_at_mut(middle);
        for (at, byte) in (offset..).zip(before) {
            [*byte, ..] = self.get(at, Width::W8)?.to_le_bytes();
        }
        let mut at = first;
        for word in words.chunks_exact_mut(8) {
            // SAFETY: `split` checked that all of them are inside, and begins where they are aligned.
            word.copy_from_slice(&unsafe { load::<u64>(at) }.to_le_bytes());
            at = at.wrapping_byte_add(8);
        }
        for (at, byte) in (last..).zip(behind) {
            [*byte, ..] = self.get(at, Width::W8)?.to_le_bytes();
        }
        Some(())
    }

    /// Writes bytes at any place, as [`copy_out`](Self::copy_out) reads them; `None` where they are not all inside, or
    /// nothing may be written.
    pub(crate) fn copy_in(&mut self, offset: u64, bytes: &[u8]) -> Option<()> {
        let Split { first, last, head, middle } = self.split(offset, bytes.len()).filter(|_| self.writable)?;
        let (before, rest) = bytes.split_at(head);
        let (words, behind) = rest.split_at(middle);
        for (at, byte) in (offset..).zip(before) {
            self.put(at, Width::W8, (*byte).into())?;
        }
        let mut at = first.cast::<u64>();
        for word in words.chunks_exact(8).filter_map(|word| word.first_chunk().copied()) {
            // SAFETY: `split` checked that all of them are inside, and begins where they are aligned; the memory is writable.
            unsafe { at.write_volatile(u64::from_le_bytes(word)) };
            at = at.wrapping_add(1);
        }
        for (at, byte) in (last..).zip(behind) {
            self.put(at, Width::W8, (*byte).into())?;
        }
        Some(())
    }

    /// Where the whole words of `length` bytes at `offset` are.
    fn split(&self, offset: u64, length: usize) -> Option<Split> {
        let start = usize::try_from(offset).ok()?;
        start.checked_add(length).filter(|&end| end <= self.bytes)?;
        let head = (start.wrapping_neg() % 8).min(length);
        let middle = (length - head) & !7;
        let first = self.start.as_ptr().wrapping_byte_add(start.checked_add(head)?);
        let last = u64::try_from(start.checked_add(head)?.checked_add(middle)?).ok()?;
        Some(Split { first, last, head, middle })
    }
}

/// Bytes before the first aligned word, whole words, and where both the words and the bytes behind them begin.
struct Split {
    first: *mut c_void,
    last: u64,
    head: usize,
    middle: usize,
}

/// One volatile read.
///
/// # Safety
/// `at` comes from [`View::place`] with the width of `T`, or from [`View::split`].
unsafe fn load<T: Copy + Into<u64>>(at: *mut c_void) -> u64 {
    // SAFETY: by contract `at` can be read, is aligned and wide enough; every pattern of bits is an integer.
    unsafe { at.cast::<T>().read_volatile() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: usize = 8;
    const WIDTHS: [Width; 4] = [Width::W8, Width::W16, Width::W32, Width::W64];

    /// Does `what` with a view of words of the heap, and gives them back.
    fn with(writable: bool, what: impl FnOnce(&mut View)) -> Vec<u8> {
        let memory = Box::into_raw(Box::new([0u64; WORDS]));
        let start = NonNull::new(memory.cast()).expect("a box is somewhere");
        // SAFETY: the box lives until it is made again below, and until then nobody else looks at it.
        let mut view = unsafe { View::new(start, WORDS * 8, writable) };
        what(&mut view);
        // SAFETY: this is what `into_raw` gave, and the view is used no more.
        let words = unsafe { Box::from_raw(memory) };
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn every_width_at_every_place_is_inside_or_refused() {
        for width in WIDTHS {
            for offset in (0..10).chain(56..66).chain([u64::MAX, u64::MAX - 7, 1 << 32]) {
                let step = u64::from(width.bytes());
                let inside = offset % step == 0 && offset < 64 && offset + step <= 64;
                let bytes = with(true, |view| {
                    assert_eq!((view.has(offset, width), view.get(offset, width).is_some()), (inside, inside));
                    assert_eq!(view.put(offset, width, 0x8877_6655_4433_2211).is_some(), inside);
                    let mask = u64::MAX >> (64 - 8 * width.bytes());
                    assert_eq!(view.get(offset, width), inside.then_some(0x8877_6655_4433_2211 & mask));
                });
                let touched = bytes.iter().filter(|&&byte| byte != 0).count() as u64;
                assert_eq!(touched, if inside { step } else { 0 }, "nothing beside it");
            }
        }
    }

    #[test]
    fn copies_of_every_length_at_every_place() {
        let data: Vec<u8> = (1..=64).collect();
        for offset in 0..9usize {
            for length in [0, 1, 7, 8, 9, 15, 16, 17, 31, 55] {
                let bytes = with(true, |view| {
                    view.copy_in(offset as u64, &data[..length]).expect("is inside");
                    let mut back = vec![0; length];
                    view.copy_out(offset as u64, &mut back).expect("is inside");
                    assert_eq!(back, data[..length]);
                });
                assert_eq!(bytes[offset..offset + length], data[..length]);
                assert!(bytes[..offset].iter().chain(&bytes[offset + length..]).all(|&byte| byte == 0));
            }
        }
        with(true, |view| {
            for (offset, length) in [(0, 65), (57, 8), (64, 1), (65, 0), (u64::MAX, 1), (u64::MAX - 7, 16)] {
                assert_eq!(view.copy_out(offset, &mut vec![0; length]), None, "{offset} {length}");
                assert_eq!(view.copy_in(offset, &vec![1; length]), None, "{offset} {length}");
            }
        });
    }

    #[test]
    fn what_may_not_be_written_is_not() {
        let bytes = with(false, |view| {
            assert_eq!((view.put(0, Width::W32, 1), view.copy_in(0, &[1, 2, 3])), (None, None));
            assert_eq!((view.get(0, Width::W32), view.copy_out(1, &mut [0; 9])), (Some(0), Some(())));
        });
        assert!(bytes.iter().all(|&byte| byte == 0));
    }
}
