//! A small v3 space, and what can be done to it.

use crate::image::Image;

/// A directory entry for the table at `at`.
pub(crate) const fn link(at: u64) -> u64 {
    at | 1 << 1
}

/// A page at `at`, kind 6.
pub(crate) const fn page(at: u64) -> u64 {
    at | 0x601
}

pub(crate) const ROOT: usize = 0x1000;
pub(crate) const PDE2: usize = 0x3000;
pub(crate) const PDE1: usize = 0x4000;
pub(crate) const PDE0: usize = 0x5000;
pub(crate) const SMALL: usize = 0x6000;
pub(crate) const BIG: usize = 0x7000;

/// Tables from 0x1000 on, a 4K page at 0 and a 64K page at 0x10000.
pub(crate) fn space(bytes: usize) -> Image {
    Image::new(bytes)
        .word(ROOT, link(0x2000))
        .word(0x2000, link(0x3000))
        .word(PDE2, link(0x4000))
        .word(PDE1, link(0x5000))
        .word(PDE0, link(0x7000))
        .word(PDE0 + 8, link(0x6000))
        .word(SMALL, page(0x10_0000))
        .word(BIG + 8, page(0x20_0000))
}

/// A space of `tables` full 4K tables whose pages do not go on: as many ranges as pages.
pub(crate) fn scattered(tables: usize) -> Image {
    const FIRST: usize = 0x10_0000;
    let mut image = space(FIRST + tables * 4096).word(PDE0, 0).word(PDE0 + 8, 0);
    for table in 0..tables {
        // A directory of 256 for each 512 MiB.
        let (directory, slot) = (0x1_0000 + table / 256 * 4096, table % 256);
        let at = FIRST + table * 4096;
        image =
            image.word(PDE1 + table / 256 * 8, link(directory as u64)).word(directory + slot * 16 + 8, link(at as u64));
        for n in 0..512 {
            let frame = (table * 512 + 511 - n) as u64;
            image = image.word(at + n * 8, page(0x1000_0000 + (frame << 12)));
        }
    }
    image
}
