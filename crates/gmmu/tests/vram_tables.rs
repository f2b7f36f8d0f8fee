//! Memory for page tables: chunks and 256-byte pieces.

use gmmu::addr::{SysAddr, TableAddr, VramAddr};
use gmmu::device::TablePool;
use gmmu::vram::{Extent, Request, State, TablePages, Vram};
use std::collections::BTreeMap;

fn memory(bytes: u64) -> Vram {
    Vram::new(&[VramAddr::new(0)..VramAddr::new(bytes)]).expect("memory")
}

#[test]
fn tables_ascend_behind_near() {
    let mut vram = memory(64 << 20);
    let mut pages = TablePages::for_vram(&vram).expect("memory");
    let mut near = TableAddr::vram(10 << 20);
    for index in 0..100 {
        let table = pages.pool(&mut vram).take(4096, Some(near)).expect("room");
        assert_eq!(table.raw(), (10 << 20) + index * 4096, "one behind the other");
        near = table;
    }
    // Where nothing is left behind, the nearest before.
    let last = TableAddr::vram((64 << 20) - 4096);
    assert_eq!(pages.pool(&mut vram).take(4096, Some(last)), Ok(last));
    assert_eq!(pages.pool(&mut vram).take(4096, Some(last)), Ok(TableAddr::vram((64 << 20) - 8192)));
    assert_eq!(pages.table_bytes(), 102 * 4096);
}

#[test]
fn sixteen_pieces_share_a_chunk() {
    let mut vram = memory(1 << 20);
    let mut pages = TablePages::new(4).expect("memory");
    let mut taken: Vec<TableAddr> = Vec::new();
    for count in 1..=32 {
        let near = taken.last().copied();
        taken.push(pages.pool(&mut vram).take(256, near).expect("room"));
        assert_eq!(pages.shared_pages(), if count <= 16 { 1 } else { 2 });
    }
    assert!(taken.iter().all(|table| table.is_aligned(256)));
    taken.sort_unstable();
    assert!(taken.windows(2).all(|pair| pair[1].raw() == pair[0].raw() + 256), "two whole chunks, side by side");
    assert_eq!(vram.free_bytes(), (1 << 20) - 8192);
    for table in taken {
        pages.pool(&mut vram).give(table, 256);
    }
    assert_eq!((pages.shared_pages(), pages.table_bytes(), pages.refused()), (0, 0, 0));
    assert_eq!(vram.free_bytes(), 1 << 20);
}

#[test]
fn without_room_a_piece_gets_a_chunk() {
    let mut vram = memory(1 << 20);
    let mut pages = TablePages::new(1).expect("memory");
    let taken: Vec<TableAddr> = (0..20).map(|_| pages.pool(&mut vram).take(256, None).expect("room")).collect();
    assert_eq!(vram.free_bytes(), (1 << 20) - 5 * 4096, "one shared chunk, four of their own");
    taken.into_iter().for_each(|table| pages.pool(&mut vram).give(table, 256));
    assert_eq!((vram.free_bytes(), pages.refused()), (1 << 20, 0));
}

#[test]
fn wrong_gives_are_refused() {
    let mut vram = memory(1 << 20);
    let mut pages = TablePages::new(4).expect("memory");
    let piece = pages.pool(&mut vram).take(256, None).expect("room");
    let table = pages.pool(&mut vram).take(4096, None).expect("room");
    let buffer = vram.alloc_contiguous(&Request::new(8192).build().expect("valid")).expect("room");
    let inside = TableAddr::vram(buffer.start().raw() + 4096);
    let wrong = [
        (piece, 4096),
        (piece.with_raw(piece.raw() + 256), 256),
        (piece.with_raw(piece.raw() + 8), 256),
        (table.with_raw(table.raw() + 256), 256),
        (inside, 4096),
        (TableAddr::vram(1 << 40), 4096),
        (TableAddr::SysCoherent(SysAddr::new(table.raw())), 4096),
        (table, 512),
    ];
    for (count, (at, bytes)) in wrong.into_iter().enumerate() {
        pages.pool(&mut vram).give(at, bytes);
        assert_eq!(pages.refused(), count as u64 + 1, "{at} {bytes}");
    }
    assert_eq!(pages.table_bytes(), 4096 + 256);
    pages.pool(&mut vram).give(piece, 256);
    pages.pool(&mut vram).give(table, 4096);
    vram.free(buffer.into(), State::Dirty).expect("untouched");
    assert_eq!((vram.free_bytes(), pages.refused(), pages.table_bytes()), (1 << 20, 8, 0));
    assert!(pages.pool(&mut vram).take(512, None).is_err(), "no such table");
}

#[test]
fn a_full_memory_is_an_error_and_frees_make_room() {
    let mut vram = memory(8 * 4096);
    let mut pages = TablePages::new(4).expect("memory");
    let all: Vec<TableAddr> = std::iter::from_fn(|| pages.pool(&mut vram).take(4096, None).ok()).collect();
    assert_eq!(all.len(), 8);
    let none = pages.pool(&mut vram).take(256, None).expect_err("full");
    assert_eq!(none.bytes, 256);
    pages.pool(&mut vram).give(all[3], 4096);
    assert_eq!(pages.pool(&mut vram).take(256, None), Ok(all[3]));
}

/// Against a map of what is out: never twice, never overlapping, everything comes back.
#[test]
fn random_tables_never_overlap() {
    for seed in 1..10u64 {
        println!("seed {seed}");
        let (mut vram, mut state) = (memory(2 << 20), seed);
        let mut pages = TablePages::new(12).expect("memory");
        let mut out = BTreeMap::<u64, u64>::new();
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..5000 {
            if random(9) < 5 {
                let bytes = if random(3) == 0 { 4096 } else { 256 };
                let near = (random(2) == 0).then(|| TableAddr::vram(random(2 << 20)));
                let Ok(table) = pages.pool(&mut vram).take(bytes, near) else { continue };
                let at = table.raw();
                assert_eq!(at % bytes, 0);
                assert!(out.range(..at + bytes).next_back().is_none_or(|(&start, &len)| start + len <= at));
                out.insert(at, bytes);
            } else if let Some((&at, &bytes)) = out.range(random(2 << 20)..).next() {
                out.remove(&at);
                pages.pool(&mut vram).give(TableAddr::vram(at), bytes);
            }
            assert_eq!(pages.table_bytes(), out.values().sum::<u64>());
        }
        out.into_iter().for_each(|(at, bytes)| pages.pool(&mut vram).give(TableAddr::vram(at), bytes));
        assert_eq!((vram.free_bytes(), pages.refused(), pages.shared_pages()), (2 << 20, 0, 0));
        vram.check().expect("invariants");
    }
}

/// An extent that a table lies in cannot be freed as something larger.
#[test]
fn tables_are_allocations_of_one_chunk() {
    let mut vram = memory(1 << 20);
    let mut pages = TablePages::new(4).expect("memory");
    let table = pages.pool(&mut vram).take(4096, None).expect("room");
    let two = Extent::new(VramAddr::new(table.raw()), 8192);
    assert!(vram.free(two, State::Dirty).is_err());
}

/// Neighbours that were taken one by one go back at once; one that was not is refused, and those beside it go.
#[test]
fn runs_of_tables_go_back_together() {
    let mut vram = memory(4 << 20);
    let mut pages = TablePages::for_vram(&vram).expect("it holds");
    let free = vram.stats().free;
    let mut pool = pages.pool(&mut vram);
    let tables: Vec<_> = (0..200).map(|_| pool.take(4096, None).expect("it holds")).collect();
    assert!(tables.windows(2).all(|pair| pair[1].raw() == pair[0].raw() + 4096));
    pool.give_run(tables[10], 4096, 180);
    assert_eq!((pages.table_bytes(), pages.refused()), (20 * 4096, 0));
    assert_eq!(vram.stats().free, free - 20 * 4096);
    vram.check().expect("it holds");
    // The run reaches over what is free already.
    pages.pool(&mut vram).give_run(tables[0], 4096, 12);
    assert_eq!((pages.table_bytes(), pages.refused()), (10 * 4096, 2));
    vram.check().expect("it holds");
    let extent = Extent::new(VramAddr::new(tables[190].raw()), 10 * 4096);
    assert!(vram.free_chunks(Extent::new(extent.start(), 11 * 4096), State::Dirty).is_err());
    vram.free_chunks(extent, State::Dirty).expect("it holds");
    assert_eq!(vram.stats().free, free);
    vram.check().expect("it holds");
}
