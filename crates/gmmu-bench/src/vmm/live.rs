//! A million live mappings: what one more costs, what finding one costs, and what memory they take.

use std::hint::black_box;

use gmmu::addr::{PageSize, PhysAddr, PAGE_BYTES};
use gmmu::format::V3;
use gmmu::vmm::{Extent, MapRequest, Vmm};

use super::{plain, timed, Bench, DATA, MIB, VA};
use crate::rows::{Row, Times};

const LIVE: u64 = 1_000_000;
/// How many of them a round looks at.
const SAMPLES: u64 = 10_000;
/// Their leaf tables, half full, and what leads to them.
const MEMORY: u64 = 24 * MIB;
/// Odd and no multiple of 5, so that every mapping is reached once, in no order.
const STRIDE: u64 = 617_011;

/// A space with so many mappings of one page each, with a free page behind each of them.
pub(super) struct Crowd {
    bench: Bench,
    vmm: Vmm<V3>,
    /// How many were looked at.
    seen: u64,
    lookup: Times,
    map: Times,
    unmap: Times,
}

/// Where mapping `n` is.
const fn place(n: u64) -> u64 {
    VA + n * STRIDE % LIVE * (2 * PAGE_BYTES)
}

impl Crowd {
    pub(super) fn new() -> Self {
        let mut bench = Bench::new(MEMORY);
        let mut vmm = bench.space();
        for n in 0..LIVE {
            bench.map_at(&mut vmm, place(n)..place(n) + PAGE_BYTES, PageSize::Size4K);
        }
        let [lookup, map, unmap] = <[Times; 3]>::default();
        Self { bench, vmm, seen: 0, lookup, map, unmap }
    }

    /// One round: some mappings are looked up, and the free pages behind some others mapped and unmapped.
    pub(super) fn measure(&mut self) {
        let Self { bench, vmm, seen, .. } = self;
        let some = |seen: &mut u64| {
            let first = *seen;
            *seen += SAMPLES;
            first..first + SAMPLES
        };
        let each = |ns: f64| Some(ns / SAMPLES as f64);
        let (found, lookup) =
            timed(|| some(seen).filter(|n| black_box(vmm.piece_at(place(*n) + PAGE_BYTES - 1)).is_some()).count());
        assert!(found as u64 == SAMPLES, "all live");
        let extents = [Extent { to: PhysAddr::vram(DATA), bytes: PAGE_BYTES }];
        let behind = some(seen).map(|n| place(n) + PAGE_BYTES);
        let mut pool = bench.pages.pool(&mut bench.vram);
        let ((), map) = timed(|| {
            for va in behind.clone() {
                let request = MapRequest::extents(&extents).page(PageSize::Size4K).at(va);
                black_box(vmm.map_pages(&mut bench.memory, &mut pool, &request, &[]).expect("it is free"));
            }
        });
        let ((), unmap) = timed(|| {
            for va in behind {
                let range = va..va + PAGE_BYTES;
                black_box(vmm.unmap_pages(&mut bench.memory, &mut pool, range).expect("it is mapped"));
            }
        });
        self.lookup.push(each(lookup));
        self.map.push(each(map));
        self.unmap.push(each(unmap));
    }

    /// The rows, in nanoseconds each and in bytes of heap a mapping: records and mirror together.
    pub(super) fn rows(&self) -> Vec<Row> {
        let times = [("look up", &self.lookup), ("map", &self.map), ("unmap", &self.unmap)];
        let name = |what: &str| format!("{what} one page, a million live");
        let mut rows: Vec<Row> =
            times.into_iter().filter_map(|(what, times)| plain(&name(what), times, Some(500.0))).collect();
        let census = self.vmm.census();
        let value = (census.record_bytes + census.mirror_bytes) as f64 / LIVE as f64;
        let name = "heap a mapping, a million live".to_owned();
        rows.push(Row { name, unit: "bytes", value, least: None, target: Some(160.0), peer: None, limit: None });
        rows
    }
}
