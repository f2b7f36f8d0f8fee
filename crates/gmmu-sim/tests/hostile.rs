//! Garbage in memory, garbage in registers: errors and faults, never a panic, never an endless walk. And the same
//! story from the same seed.

mod common;
use common::*;
use gmmu::addr::{SysAddr, TableAddr};
use gmmu::device::{Bar0, Clock, Run, TableMemory, Width};
use gmmu_sim::{AccessKind, Bus, Client, Config, Gpu};
use proptest::prelude::*;

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) ^ word >> 31
}

/// A word that is likely to be an entry which leads on within the first mebibyte.
fn entry(state: &mut u64, v3: bool) -> u64 {
    let word = next(state);
    let table = word >> 20 & 0xff;
    let low = word & 0x3f;
    match word >> 60 {
        0..=8 if v3 => table << 12 | low & 0xfe,
        0..=8 => table << 8 | low & 0xe,
        9 | 10 => low,
        11 => word,
        _ if v3 => (word & 0xfffff) << 12 | low | 1,
        _ => (word & 0xfffff) << 8 | low | 1,
    }
}

/// A mebibyte of garbage, then accesses and stores of every kind.
fn torture(chip: &str, seed: u64, steps: u32) -> (Gpu, u64) {
    let bus = if seed % 2 == 0 { Bus::Bits64 } else { Bus::Bits32 };
    let default = Config::chip(chip);
    let peers = [1 << 20, 0, u64::MAX, 0, 1, 0, 0, 0];
    let config = Config { vram: default.vram.min(1 << 24), peers, bus, seed, ..default };
    let mut gpu = Gpu::new(&config).expect("a chip");
    let v3 = gpu.chip().va_bits() == 57;
    let mut state = seed;
    for at in (0..1 << 20).step_by(8) {
        let word = entry(&mut state, v3);
        if gpu.chip().integrated {
            gpu.load_sys(at, &word.to_le_bytes());
        } else {
            gpu.load_vram(at, &word.to_le_bytes());
        }
    }
    let mut story = 0u64;
    for _ in 0..steps {
        story = story.wrapping_mul(31).wrapping_add(step(&mut gpu, &mut state, v3));
    }
    (gpu, story)
}

fn step(gpu: &mut Gpu, state: &mut u64, v3: bool) -> u64 {
    let (what, how) = (next(state), next(state));
    let pdb = match how % 8 {
        0 => TableAddr::SysCoherent(SysAddr::new(how >> 8)),
        1 => TableAddr::vram(how),
        _ if gpu.chip().integrated => TableAddr::SysNonCoherent(SysAddr::new((how >> 8 & 0xff) << 12)),
        _ => TableAddr::vram((how >> 8 & 0xff) << 12),
    };
    let client = match how >> 60 {
        0 => Client::Bar1,
        1 => Client::Bar2,
        _ => Client::Engine { pdb },
    };
    let va = if how % 16 == 0 { how } else { how >> 3 & ((1 << if v3 { 57 } else { 49 }) - 1) };
    let low = (how & 0xffff_ffff) as u32;
    let offset = (what >> 8 & 0xff_fff8) as u32;
    let in_window = 0x70_0000 + (low & 0xf_fff8);
    match what % 16 {
        0..=4 => gpu.access(client, va, AccessKind::Atomic, false).map_or(1, |found| found.to.raw),
        5 => gpu.load32(client, va).map_or(2, u64::from),
        6 => u64::from(gpu.store32(client, va, low).is_ok()),
        7 | 8 => {
            let word = entry(state, v3);
            gpu.write(in_window, Width::W64, word).map_or(3, |()| 4)
        }
        9 => {
            let run = Run { first: entry(state, v3), step: 4096, count: (how >> 40 & 0x3ff) as u32 };
            gpu.write_run(in_window, run).map_or(5, |()| 6)
        }
        10 => {
            let width = [Width::W8, Width::W16, Width::W32, Width::W64][(how % 4) as usize];
            gpu.write(in_window, width, next(state)).map_or(7, |()| 8)
        }
        11 => {
            // The invalidate, block and fault registers.
            let register = 0xb8_0000 + (what >> 8 & 0x3ffc) as u32;
            gpu.write32(register, low).map_or(9, |()| 10)
        }
        12 => gpu.write32(0xb8_30b0, 1 << 31 | low).map_or(11, |()| 12),
        13 => {
            let polled = gpu.read32(0xb8_30b0).map_or(13, u64::from);
            polled.wrapping_add(gpu.read(offset, Width::W64).unwrap_or(14))
        }
        14 if how % 2 == 0 => {
            gpu.note_table_freed(pdb, how >> 50);
            15
        }
        14 => {
            gpu.note_table_taken(pdb, how >> 50);
            gpu.note_root(pdb);
            16
        }
        _ if how % 4 == 0 => {
            let at = TableAddr::SysCoherent(SysAddr::new(if how % 32 == 0 { how } else { how >> 8 & 0xf_fff8 }));
            let run = Run { first: entry(state, v3), step: 4096, count: (how >> 40 & 0x3ff) as u32 };
            let mut cpu = gpu.cpu();
            let _ = if how % 64 == 0 { cpu.order() } else { cpu.drain() };
            cpu.write_run(at, run).map_or(18, |()| 19)
        }
        _ => gpu.peek_translate(pdb, va).map_or(17, |found| found.to.raw),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn garbage_is_survived(seed: u64, chip in prop::sample::select(vec!["tu102", "ga100", "gh100", "gb100", "gb10b"])) {
        let (gpu, _) = torture(chip, seed, 400);
        prop_assert!(gpu.findings().len() <= 1024);
    }

    #[test]
    fn every_access_of_a_wrong_shape_is_an_error(offset: u32, run in 0u32..300_000) {
        let mut gpu = Gpu::new(&Config { vram: 1 << 20, ..Config::default() }).expect("a chip");
        for width in [Width::W8, Width::W16, Width::W32, Width::W64] {
            let bytes = width.bytes();
            let good = offset % bytes == 0 && offset < 16 << 20;
            prop_assert_eq!(gpu.read(offset, width).is_ok(), good);
            prop_assert_eq!(gpu.write(offset, width, 0).is_ok(), good);
        }
        let _ = gpu.write_run(offset, Run { first: 0, step: 1, count: run });
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in [1, 2] {
        let (mut one, story) = torture("gh100", seed, 3000);
        let (mut two, again) = torture("gh100", seed, 3000);
        assert_eq!(story, again);
        assert_eq!(one.findings(), two.findings());
        assert!(!one.findings().is_empty(), "garbage breaks rules");
        assert_eq!((one.counts(), one.op(), one.now_us()), (two.counts(), two.op(), two.now_us()));
        assert!(one.vram_pages().eq(two.vram_pages()));
    }
}

#[test]
fn tables_that_point_at_themselves() {
    for chip in BOTH {
        let mut driver = Driver::new(chip);
        for slot in 0..512 {
            let word = driver.pde(ROOT);
            driver.write(ROOT + 8 * slot, word);
        }
        driver.gpu.note_root(pdb());
        for va in [0, VA, (1 << 49) - 1] {
            assert!(driver.read(va).is_err());
        }
        driver.write(ROOT, 0);
        assert!(driver.gpu.peek_translate(pdb(), 0).is_err());
    }
}

/// Runs of all ways and widths that begin where there is nothing, or go on beyond the end.
#[test]
fn runs_of_a_trace_may_lie_anywhere() {
    use gmmu_sim::trace::{Replay, Trace};
    let mut text = String::from("gmmu-trace 1\nchip gp107\nvram 0x10000000\n");
    for way in ["b1w", "b2w"] {
        for width in [8, 16, 32, 64] {
            for at in ["0x0", "0x1fffffe", "0x3fffffc", "0xfffffffffffffff8", "0xffffffffffffffff"] {
                text += &format!("{way}{width} {at} 0x1 +0xffffffffffffffff *9\n");
            }
        }
    }
    for at in ["0x6ffff8", "0x7ffffc", "0xfffffc", "0xfffffff8"] {
        text += &format!("w32 {at} 0x1 +0x1 *9\nw64 {at} 0x1 +0x1 *9\nw8 {at} 0x1 +0x1 *9\n");
    }
    let trace = Trace::read(&text).expect("a trace");
    let mut replay = Replay::new(&trace.config(Config::default())).expect("a card");
    replay.run(&trace);
    // Nothing of it is a register, and the BARs are not bound.
    assert!(replay.refused() > 0);
    assert!(replay.gpu().findings().iter().all(|finding| finding.rule == gmmu_sim::Rule::BarUnbound));
    assert!(Trace::read("gmmu-trace 1\nw32 0x100000000 0x1 +0x1 *2\n").is_err());
}
