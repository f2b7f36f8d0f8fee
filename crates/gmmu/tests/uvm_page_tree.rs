//! The cases of NVIDIA UVM's page-tree test under their names, as far as they have a counterpart here: what is asked for
//! there as entries of a tree is mapped here, with pages of that size. Judged from outside: the slots that a walk goes
//! through, how many tables there are, and which invalidates the device is given. `docs/uvm-page-tree.md` has the table of
//! all cases, and says where this design differs.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "uvm_page_tree/tree.rs"]
mod tree;

use common::{World, GIB, MIB};
use gmmu::addr::PageSize;
use gmmu::device::{Acknowledge, Depth};
use gmmu::format::{Format, V2, V3};
use gmmu::vmm::{flush_all, Job, Span};
use std::ops::Range;
use tree::{depth, root, Seen, Tree};
use Acknowledge::{Globally, None as Accepted};
use Depth::{PteOnly, UpToPde0, UpToPde1, UpToPde2, UpToPde3, UpToPde4};
use PageSize::{Size256G, Size2M, Size4K, Size512M, Size64K};

const K64: u64 = 64 << 10;
const M2: u64 = 2 * MIB;
const M512: u64 = 512 * MIB;
const G256: u64 = 256 * GIB;

/// One test for each format. Ada has pages up to 512M, GB100 all of them.
macro_rules! on_both {
    ($($name:ident)*) => {$(
        mod $name {
            #[test]
            fn v2() {
                super::cases::$name::<gmmu::format::V2>("ad102");
            }
            #[test]
            fn v3() {
                super::cases::$name::<gmmu::format::V3>("gb100");
            }
        }
    )*};
}

on_both! {
    allocate_root alloc_64k_memory alloc_adjacent_64k_memory alloc_adjacent_pde_64k_memory alloc_nearby_pde_64k_memory
    allocate_then_free_all_16_64k allocate_then_free_8_8_64k get_single_page_2m get_single_page_512m alloc_512m_memory
    alloc_adjacent_512m_memory get_entire_table_4k get_entire_table_512m split_4k_from_2m split_2m_from_512m
    get_512mb_range get_2gb_range get_two_free_apart get_overlapping_dual_pdes split_and_free check_sizes
    fast_split_normal fast_split_double_backoff test_tlb_batch_invalidates test_range_vec shrink_test get_upper_test
}

mod cases {
    use super::*;

    pub fn allocate_root<F: Format>(chip: &str) {
        let tree = Tree::<F>::new(chip);
        assert_eq!(tree.tables(), 1);
        let World { mut mmio, mut pool, vmm, .. } = tree.0;
        vmm.close(&mut mmio, &mut pool).map_err(|(_, why)| why).unwrap();
        assert_eq!(pool.inner().out.len(), 1, "the root is the caller's");
    }

    pub fn alloc_64k_memory<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        assert_eq!(tree.get(0, 1, Size64K), [(root::<F>(), Accepted)]);
        assert_eq!(tree.slots(0, Size64K), vec![0; depth::<F>() + 1]);
        assert_eq!(tree.tables(), depth::<F>() + 1);
        // One entry is cleared, and what is empty then goes at the root.
        assert_eq!(tree.unmap(0..K64), [(PteOnly, Globally)]);
        assert_eq!(tree.reclaim(), [(root::<F>(), Globally)]);
        tree.assert_empty();
    }

    pub fn alloc_adjacent_64k_memory<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        tree.get(K64, 1, Size64K);
        let before = tree.tables();
        assert_eq!(tree.get(0, 1, Size64K), [(PteOnly, Accepted)]);
        assert_eq!((tree.end(K64, Size64K)[1], tree.end(0, Size64K)[1]), (1, 0));
        assert_eq!(tree.tables(), before, "both are in one table");
        tree.put(0..2 * K64);
        tree.assert_empty();
    }

    pub fn alloc_adjacent_pde_64k_memory<F: Format>(chip: &str) {
        neighbours::<F>(chip, [(M2, 2), (0, 0)]);
    }

    pub fn alloc_nearby_pde_64k_memory<F: Format>(chip: &str) {
        neighbours::<F>(chip, [(3 * M2, 6), (M2, 2)]);
    }

    /// Two pages in tables of their own under one directory.
    fn neighbours<F: Format>(chip: &str, pages: [(u64, u64); 2]) {
        let mut tree = Tree::<F>::new(chip);
        assert_eq!(tree.get(pages[0].0, 1, Size64K), [(root::<F>(), Accepted)]);
        assert_eq!(tree.get(pages[1].0, 1, Size64K), [(UpToPde0, Accepted)]);
        for (va, slot) in pages {
            assert_eq!(tree.end(va, Size64K), [slot, 0]);
        }
        assert_eq!(tree.tables(), depth::<F>() + 2);
        tree.put(0..4 * M2);
        tree.assert_empty();
    }

    pub fn allocate_then_free_all_16_64k<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        for n in 0..16 {
            tree.get(n * M2, 1, Size64K);
            assert_eq!(tree.end(n * M2, Size64K), [2 * n, 0]);
        }
        assert_eq!(tree.tables(), depth::<F>() + 16);
        (0..16).for_each(|n| tree.put(n * M2..n * M2 + K64));
        tree.assert_empty();
    }

    pub fn allocate_then_free_8_8_64k<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        let at = |n: u64| M512 - 8 * M2 + n * M2;
        for n in 0..16 {
            tree.get(at(n), 1, Size64K);
            let slot = if n < 8 { 2 * (248 + n) } else { 2 * (n - 8) };
            assert_eq!(tree.end(at(n), Size64K), [slot, 0]);
        }
        // Eight below each of two directories.
        assert_eq!(tree.tables(), depth::<F>() + 1 + 16);
        (0..8).for_each(|n| tree.put(at(n)..at(n) + K64));
        assert_eq!(tree.tables(), depth::<F>() + 8);
        (8..16).for_each(|n| tree.put(at(n)..at(n) + K64));
        tree.assert_empty();
    }

    /// A single large page at address 0: its entry is in directory `above` levels over the dual ones.
    pub fn single<F: Format>(chip: &str, page: PageSize, above: usize) {
        let mut tree = Tree::<F>::new(chip);
        assert_eq!(tree.get(0, 1, page), [(root::<F>(), Accepted)]);
        assert_eq!(tree.slots(0, page), vec![0; depth::<F>() - above]);
        assert_eq!(tree.tables(), depth::<F>() - above);
        tree.put(0..page.bytes());
        tree.assert_empty();
    }

    pub fn get_single_page_2m<F: Format>(chip: &str) {
        single::<F>(chip, Size2M, 0);
    }

    pub fn get_single_page_512m<F: Format>(chip: &str) {
        single::<F>(chip, Size512M, 1);
    }

    pub fn alloc_512m_memory<F: Format>(chip: &str) {
        adjacent::<F>(chip, Size512M, UpToPde1, [0, 5]);
    }

    pub fn alloc_adjacent_512m_memory<F: Format>(chip: &str) {
        adjacent::<F>(chip, Size512M, UpToPde1, [1, 0]);
    }

    /// Two large pages in one directory.
    pub fn adjacent<F: Format>(chip: &str, page: PageSize, changed: Depth, indices: [u64; 2]) {
        let mut tree = Tree::<F>::new(chip);
        assert_eq!(tree.get(indices[0] * page.bytes(), 1, page), [(root::<F>(), Accepted)]);
        let before = tree.tables();
        assert_eq!(tree.get(indices[1] * page.bytes(), 1, page), [(changed, Accepted)]);
        assert_eq!(tree.tables(), before);
        assert_eq!(indices.map(|n| tree.end(n * page.bytes(), page)), indices.map(|n| [0, n]));
        tree.put(0..8 * page.bytes());
        tree.assert_empty();
    }

    pub fn get_entire_table_4k<F: Format>(chip: &str) {
        let (mut tree, va) = (Tree::<F>::new(chip), 1 << 47);
        assert_eq!(tree.get(va, 512, Size4K), [(root::<F>(), Accepted)]);
        let first: &[u64] = if F::VA_BITS == 49 { &[1, 0, 0, 1, 0] } else { &[0, 1, 0, 0, 1, 0] };
        assert_eq!(tree.slots(va, Size4K), first);
        assert_eq!(tree.end(va + M2 - 4096, Size4K), [1, 511]);
        assert_eq!(tree.tables(), depth::<F>() + 1);
        // A full table is dropped whole.
        assert_eq!(tree.unmap(va..va + M2), [(UpToPde0, Globally)]);
        assert_eq!(tree.reclaim(), [(root::<F>(), Globally)]);
        tree.assert_empty();
    }

    pub fn get_entire_table_512m<F: Format>(chip: &str) {
        let (mut tree, va) = (Tree::<F>::new(chip), 1 << 48);
        tree.get(va, 512, Size512M);
        let first: &[u64] = if F::VA_BITS == 49 { &[2, 0, 0] } else { &[0, 2, 0, 0] };
        assert_eq!(tree.slots(va, Size512M), first);
        assert_eq!(tree.end(va + G256 - M512, Size512M), [0, 511]);
        assert_eq!(tree.tables(), depth::<F>() - 1);
        tree.put(va..va + G256);
        tree.assert_empty();
    }

    pub fn split_4k_from_2m<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        tree.get(M2, 1, Size2M);
        tree.unmap(M2..2 * M2);
        tree.get(M2, 16, Size4K);
        assert_eq!(tree.get(M2 + K64, 31, Size64K), [(UpToPde0, Accepted)]);
        // The tables are siblings under one dual entry.
        assert_eq!((tree.end(M2, Size4K), tree.end(M2 + K64, Size64K)), ([3, 0], [2, 1]));
        assert_eq!((tree.end(M2 + K64 - 4096, Size4K)[1], tree.end(2 * M2 - K64, Size64K)[1]), (15, 31));
        assert_eq!(tree.tables(), depth::<F>() + 2);
        tree.put(0..2 * M2);
        tree.assert_empty();
    }

    pub fn split_2m_from_512m<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        tree.get(0, 1, Size512M);
        assert_eq!(tree.unmap(0..M512), [(UpToPde1, Globally)]);
        assert_eq!(tree.get(0, 256, Size2M), [(UpToPde1, Accepted)]);
        assert_eq!((tree.end(0, Size2M), tree.end(M512 - M2, Size2M)), ([0, 0], [0, 510]));
        assert_eq!(tree.tables(), depth::<F>());
        tree.put(0..M512);
        tree.assert_empty();
    }

    pub fn get_512mb_range<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        tree.get(M512, 256, Size2M);
        assert_eq!((tree.end(M512, Size2M), tree.end(2 * M512 - M2, Size2M)), ([1, 0], [1, 510]));
        tree.put(M512..2 * M512);
        tree.assert_empty();
    }

    pub fn get_2gb_range<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        tree.get(4 * M512, 4, Size512M);
        assert_eq!((tree.end(4 * M512, Size512M), tree.end(7 * M512, Size512M)), ([0, 4], [0, 7]));
        assert_eq!(tree.tables(), depth::<F>() - 1);
        tree.put(0..8 * M512);
        tree.assert_empty();
    }

    pub fn get_two_free_apart<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        tree.get(M2, 256, Size4K);
        assert_eq!(tree.get(M2 + MIB, 256, Size4K), [(PteOnly, Accepted)]);
        let before = tree.tables();
        tree.put(M2..M2 + MIB);
        assert_eq!((tree.tables(), tree.end(M2 + MIB, Size4K)), (before, [3, 256]));
        tree.put(M2 + MIB..2 * M2);
        tree.assert_empty();
    }

    pub fn get_overlapping_dual_pdes<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        tree.get(M2, 256, Size4K);
        assert_eq!(tree.get(M2 + MIB, 16, Size64K), [(UpToPde0, Accepted)]);
        assert_eq!((tree.end(M2, Size4K), tree.end(M2 + MIB, Size64K)), ([3, 0], [2, 16]));
        assert_eq!(tree.tables(), depth::<F>() + 2);
        tree.put(M2 + MIB..2 * M2);
        assert_eq!((tree.tables(), tree.end(M2, Size4K)), (depth::<F>() + 1, [3, 0]));
        tree.put(M2..M2 + MIB);
        tree.assert_empty();
    }

    pub fn split_and_free<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        tree.get(0, 45, Size2M);
        let mut va = 0;
        for pages in 1..10 {
            assert_eq!(tree.unmap(va..va + pages * M2), [(UpToPde0, Globally)]);
            va += pages * M2;
            let left = tree.0.vmm.pieces().map(|(range, _)| range.start..range.end);
            let left = left.reduce(|all, next| all.start..next.end);
            assert_eq!(left, (va < 45 * M2).then_some(va..45 * M2));
        }
        tree.reclaim();
        tree.assert_empty();
    }

    pub fn check_sizes<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        tree.get(0, 1, Size64K);
        tree.get(M2, 1, Size4K);
        let mut sizes: Vec<u64> = tree.0.vmm.tables().unwrap().iter().map(|(_, bytes)| *bytes).collect();
        sizes.sort_unstable();
        // Directories and tables of 4K pages take a page each, a table of 64K pages a sixteenth of one.
        assert_eq!(sizes, [&[256][..], &vec![4096; depth::<F>() + 1]].concat());
    }

    pub fn fast_split_normal<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        tree.get(M2, 1, Size2M);
        let before = tree.tables();
        // The large entry goes in a round of its own, since valid entries of two sizes may not follow one another.
        assert_eq!(tree.unmap(M2 + K64..M2 + K64 + 4096), [(UpToPde0, Globally); 2]);
        assert_eq!(tree.tables(), before + 2);
        assert_eq!((tree.end(M2, Size64K), tree.end(M2 + K64 + 4096, Size4K)), ([2, 0], [3, 17]));
        tree.unmap(M2..2 * M2);
        assert_eq!(tree.tables(), before, "both halves were cleared");
        tree.reclaim();
        tree.assert_empty();
    }

    pub fn fast_split_double_backoff<F: Format>(chip: &str) {
        let mut tree = Tree::<F>::new(chip);
        tree.get(M2, 1, Size2M);
        let before = tree.tables();
        let holes = [M2..M2 + 4096, M2 + K64..M2 + K64 + 4096];
        let [first, second] = holes.map(|hole| tree.0.prepare_unmap(Span::new(hole).quiesced()).unwrap());
        assert_eq!(tree.tables(), before + 2, "the second finds the tables of the first");
        tree.run(first);
        tree.run(second);
        assert_eq!((tree.end(M2 + 4096, Size4K), tree.end(M2 + K64 + 4096, Size4K)), ([3, 1], [3, 17]));
        tree.put(M2..2 * M2);
        tree.assert_empty();
    }

    /// Jobs under one invalidate: as deep as the deepest, and acknowledged where one of them has to be.
    pub fn test_tlb_batch_invalidates<F: Format>(chip: &str) {
        for count in 1..10 {
            for (page, changed) in [(Size4K, PteOnly), (Size64K, PteOnly), (Size2M, UpToPde0), (Size512M, UpToPde1)] {
                let mut tree = Tree::<F>::new(chip);
                let bytes = page.bytes();
                tree.get(0, 1, page);
                let mut jobs: Vec<Job> = (1..=count).map(|n| tree.prepare(n * bytes, 1, page)).collect();
                jobs.push(tree.0.prepare_unmap(0..bytes).unwrap());
                let mut seen = Seen { card: &mut tree.0.mmio, given: Vec::new() };
                jobs.iter_mut().for_each(|job| job.write(&mut seen).unwrap());
                flush_all(&mut jobs, &mut seen, tree.0.vmm.config().limits).unwrap();
                assert_eq!(seen.given, [(changed, Globally)], "{count} of {page}");
                for job in jobs {
                    tree.0.vmm.commit(&mut tree.0.pool, job.finish().unwrap()).unwrap();
                    tree.0.notes.tell(tree.0.mmio.bar0());
                }
                tree.0.assert_clean();
            }
        }
    }

    /// What one job maps lies where it has to in as many tables as that are.
    pub fn test_range_vec<F: Format>(chip: &str) {
        for (page, entries, small) in [(Size4K, 512, 1), (Size64K, 32, 0)] {
            // First, second, middle and last entry; all of them unaligned to tables; over one border, and over two.
            let half = entries / 2;
            for (first, count, tables) in [
                (0, 1, 1),
                (1, 1, 1),
                (half, 1, 1),
                (entries - 1, 1, 1),
                (half, entries, 2),
                (entries - 1, 2, 2),
                (entries - 1, entries + 2, 3),
            ] {
                let mut tree = Tree::<F>::new(chip);
                let va = M2 + first as u64 * page.bytes();
                assert_eq!(tree.get(va, count, page), [(root::<F>(), Accepted)]);
                assert_eq!(tree.tables(), depth::<F>() + tables);
                for n in 0..count {
                    let (at, entry) = (va + n as u64 * page.bytes(), (first + n) % entries);
                    assert_eq!(tree.end(at, page), [2 * (at / M2) + small, entry as u64]);
                }
                tree.put(va..va + count as u64 * page.bytes());
                tree.assert_empty();
            }
        }
    }

    /// Pages at the start, in the middle and at the end of a table, of which the first few stay.
    pub fn shrink_test<F: Format>(chip: &str) {
        parts::<F>(chip, |range, left| (range.start..left, left..range.end));
    }

    /// The same with the last few, and both orders of letting go.
    pub fn get_upper_test<F: Format>(chip: &str) {
        parts::<F>(chip, |range, left| (left..range.end, range.start..left));
    }

    fn parts<F: Format>(chip: &str, choose: impl Fn(Range<u64>, u64) -> (Range<u64>, Range<u64>)) {
        for (page, entries) in [(Size4K, 512), (Size64K, 32), (Size2M, 256)] {
            for first in [0, 15, entries - 3] {
                for count in 1..4 {
                    for left in 0..=count {
                        let mut tree = Tree::<F>::new(chip);
                        let base = if page == Size2M { M512 } else { M2 };
                        let at = |n: u64| base + (first + n) * page.bytes();
                        tree.get(at(0), usize::try_from(count).unwrap(), page);
                        let before = tree.tables();
                        let (stays, goes) = choose(at(0)..at(count), at(left));
                        if goes.start < goes.end {
                            tree.put(goes.clone());
                        }
                        for va in stays.clone().step_by(usize::try_from(page.bytes()).unwrap()) {
                            tree.slots(va, page);
                        }
                        assert_eq!(tree.tables(), if stays.start < stays.end { before } else { 1 });
                        if stays.start < stays.end {
                            tree.put(stays);
                        }
                        tree.assert_empty();
                    }
                }
            }
        }
    }
}

#[test]
fn alloc_64k_memory_57b_va() {
    let (mut tree, va) = (Tree::<V3>::new("gb100"), 1 << 56);
    assert_eq!(tree.get(va, 1, Size64K), [(UpToPde4, Accepted)]);
    assert_eq!(tree.slots(va, Size64K), [1, 0, 0, 0, 0, 0]);
    tree.put(va..va + K64);
    tree.assert_empty();
}

#[test]
fn get_single_page_256g() {
    cases::single::<V3>("gb100", Size256G, 2);
}

#[test]
fn alloc_256g_memory() {
    cases::adjacent::<V3>("gb100", Size256G, UpToPde2, [0, 5]);
}

#[test]
fn alloc_adjacent_256g_memory() {
    cases::adjacent::<V3>("gb100", Size256G, UpToPde2, [1, 0]);
}

#[test]
fn get_entire_table_256g() {
    let (mut tree, va) = (Tree::<V3>::new("gb100"), 1 << 48);
    tree.get(va, 512, Size256G);
    assert_eq!((tree.slots(va, Size256G), tree.tables()), (vec![0, 2, 0], 3));
    assert_eq!(tree.end(va + 511 * G256, Size256G), [2, 511]);
    tree.put(va..va + 512 * G256);
    tree.assert_empty();
}

#[test]
fn split_512m_from_256g() {
    let mut tree = Tree::<V3>::new("gb100");
    tree.get(0, 1, Size256G);
    assert_eq!(tree.unmap(0..G256), [(UpToPde2, Globally)]);
    assert_eq!(tree.get(0, 512, Size512M), [(UpToPde2, Accepted)]);
    assert_eq!((tree.end(0, Size512M), tree.end(G256 - M512, Size512M)), ([0, 0], [0, 511]));
    tree.put(0..G256);
    tree.assert_empty();
}

#[test]
fn get_1tb_range() {
    let mut tree = Tree::<V3>::new("gb100");
    tree.get(4 * G256, 4, Size256G);
    assert_eq!((tree.end(4 * G256, Size256G), tree.end(7 * G256, Size256G)), ([0, 4], [0, 7]));
    tree.put(0..8 * G256);
    tree.assert_empty();
}

/// The invalidate of each get is as deep as the topmost entry that it fills, and that of each put as the topmost one that
/// it clears, with the membar.
fn tlb_invalidates<F: Format>(chip: &str, extents: &[(u64, Depth)]) {
    let mut tree = Tree::<F>::new(chip);
    assert_eq!(tree.get(0, 1, Size4K), [(root::<F>(), Accepted)]);
    // UVM writes no entry here, and invalidates nothing.
    assert_eq!(tree.get(4096, 1, Size4K), [(PteOnly, Accepted)]);
    assert_eq!(tree.get(K64, 1, Size64K), [(UpToPde0, Accepted)]);
    for (va, depth) in extents {
        assert_eq!(tree.get(*va, 1, Size4K), [(*depth, Accepted)], "{va:#x}");
    }
    for (va, depth) in extents.iter().rev() {
        assert_eq!(tree.unmap(*va..va + 4096), [(PteOnly, Globally)], "{va:#x}");
        assert_eq!(tree.reclaim(), [(*depth, Globally)], "{va:#x}");
    }
    assert_eq!(tree.unmap(K64..2 * K64), [(PteOnly, Globally)]);
    assert_eq!(tree.reclaim(), [(UpToPde0, Globally)]);
    assert_eq!(tree.unmap(4096..8192), [(PteOnly, Globally)]);
    assert_eq!(tree.reclaim(), []);
    assert_eq!(tree.unmap(0..4096), [(PteOnly, Globally)]);
    assert_eq!(tree.reclaim(), [(root::<F>(), Globally)]);
    tree.assert_empty();
}

#[test]
fn test_tlb_invalidates_gmmu_v2() {
    tlb_invalidates::<V2>("ad102", &[(M2, UpToPde0), (M512, UpToPde1), (G256, UpToPde2), (1 << 47, UpToPde3)]);
}

#[test]
fn test_tlb_invalidates_gmmu_v3() {
    let extents = [(M2, UpToPde0), (M512, UpToPde1), (G256, UpToPde2), (1 << 47, UpToPde3), (1 << 56, UpToPde4)];
    tlb_invalidates::<V3>("gb100", &extents);
}
