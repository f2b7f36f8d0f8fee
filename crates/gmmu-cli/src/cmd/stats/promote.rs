//! Runs of pages that could be larger ones.

use gmmu::addr::PageSize;
use gmmu::chip::PageSizes;
use gmmu::format::{BIG_TABLE, SMALL_TABLE};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::notation::Address;
use crate::ranges::Mapped;

/// Candidates that are shown.
const SHOWN: usize = 10;

/// What larger pages would save.
#[derive(Debug, Default, JsonSchema, Serialize)]
pub(super) struct Promotion {
    pub(super) entries_saved: u64,
    pub(super) table_bytes_saved: u64,
    /// Stretches that could be larger pages.
    pub(super) ranges: u64,
    /// Those that save most.
    pub(super) largest: Vec<Candidate>,
}

/// A stretch of pages that could be larger ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub(super) struct Candidate {
    pub(super) va: Address,
    pub(super) bytes: u64,
    #[serde(serialize_with = "name")]
    #[schemars(with = "String")]
    pub(super) from: PageSize,
    #[serde(serialize_with = "name")]
    #[schemars(with = "String")]
    pub(super) to: PageSize,
    pub(super) entries_saved: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn name<S: Serializer>(size: &PageSize, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(size.name())
}

impl Promotion {
    /// Adds a run of pages that goes on in addresses and in memory.
    pub(super) fn add(&mut self, range: &Mapped, to: u64, sizes: PageSizes) {
        let Some(from) = PageSize::ALL.into_iter().find(|size| size.bytes() == range.page) else { return };
        self.parts(from, range.va, range.end(), to.wrapping_sub(range.va), sizes);
    }

    /// The largest size first; what it leaves on both sides may still be the next one.
    fn parts(&mut self, from: PageSize, start: u64, end: u64, shift: u64, sizes: PageSizes) {
        // At most both sides at each of four sizes.
        let mut left = vec![(start, end, PageSize::ALL.len())];
        while let Some((start, end, below)) = left.pop() {
            let larger = PageSize::ALL.into_iter().take(below).enumerate().rev();
            let fitting = larger.filter(|(_, size)| *size > from && sizes.has(*size)).find_map(|(number, size)| {
                let bytes = size.bytes();
                let first = start.checked_next_multiple_of(bytes)?;
                let last = end & !(bytes - 1);
                (shift.is_multiple_of(bytes) && first < last).then_some((number, size, first, last))
            });
            let Some((number, size, first, last)) = fitting else { continue };
            self.found(from, size, first, last - first);
            left.extend(
                [(start, first, number), (last, end, number)].into_iter().filter(|(start, end, _)| start < end),
            );
        }
    }

    fn found(&mut self, from: PageSize, to: PageSize, va: u64, bytes: u64) {
        let entries_saved = bytes / from.bytes() - bytes / to.bytes();
        self.entries_saved += entries_saved;
        self.table_bytes_saved += tables_saved(from, to, bytes);
        self.ranges += 1;
        let at = self.largest.partition_point(|known| known.entries_saved >= entries_saved);
        self.largest.insert(at, Candidate { va: Address(va), bytes, from, to, entries_saved });
        self.largest.truncate(SHOWN);
    }
}

/// Tables that are not needed any more where `bytes` of whole `to` pages replace `from` pages.
fn tables_saved(from: PageSize, to: PageSize, bytes: u64) -> u64 {
    const DIRECTORY: u64 = 4096;
    // What each size of page needs above it: a table for so many bytes of addresses.
    let needs = [
        (PageSize::Size4K, PageSize::Size2M, SMALL_TABLE.table_bytes()),
        (PageSize::Size64K, PageSize::Size2M, BIG_TABLE.table_bytes()),
        (PageSize::Size2M, PageSize::Size512M, DIRECTORY),
        (PageSize::Size512M, PageSize::Size256G, DIRECTORY),
    ];
    // The leaf tables of the size itself, and every directory between.
    let gone = needs.into_iter().filter(|&(page, span, _)| {
        let leaf = page == from;
        let between = page >= PageSize::Size2M && page > from;
        (leaf || between) && span <= to
    });
    gone.map(|(_, span, table)| bytes / span.bytes() * table).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranges::What;
    use gmmu::addr::PhysAddr;
    use gmmu::format::Leaf;

    fn promoted(va: u64, to: u64, bytes: u64) -> Promotion {
        let what = What::Leaf(Leaf::new(PhysAddr::vram(to)));
        let mut promotion = Promotion::default();
        promotion.add(&Mapped { va, bytes, page: 4096, what }, to, PageSizes::UP_TO_512M);
        promotion
    }

    #[test]
    fn a_run_is_cut_into_the_largest_sizes_that_fit() {
        // 64K, then 2M, then 64K and a 4K page that stays.
        let found = promoted(0x1f_0000, 0x1_001f_0000, 0x22_1000);
        let mut sizes: Vec<_> = found.largest.iter().map(|one| (one.va.0, one.bytes, one.to)).collect();
        sizes.sort_unstable();
        let (big, huge) = (PageSize::Size64K, PageSize::Size2M);
        assert_eq!(sizes, [(0x1f_0000, 65536, big), (0x20_0000, 2 << 20, huge), (0x40_0000, 65536, big)]);
        assert_eq!(found.ranges, 3);
    }

    #[test]
    fn what_is_not_equally_aligned_stays() {
        assert_eq!(promoted(0x20_0000, 0x20_1000, 4 << 20).ranges, 0);
        let big = promoted(0x20_0000, 0x21_0000, 4 << 20);
        assert_eq!((big.ranges, big.largest[0].to), (1, PageSize::Size64K));
        assert_eq!((big.entries_saved, big.table_bytes_saved), (1024 - 64, 0));
    }

    #[test]
    fn tables_are_counted_level_by_level() {
        assert_eq!(tables_saved(PageSize::Size4K, PageSize::Size2M, 4 << 20), 2 * 4096);
        assert_eq!(tables_saved(PageSize::Size64K, PageSize::Size2M, 4 << 20), 2 * 256);
        assert_eq!(tables_saved(PageSize::Size4K, PageSize::Size512M, 512 << 20), 257 * 4096);
        assert_eq!(tables_saved(PageSize::Size2M, PageSize::Size512M, 1 << 30), 2 * 4096);
        assert_eq!(tables_saved(PageSize::Size4K, PageSize::Size64K, 1 << 21), 0);
    }
}
