//! What an access of the model costs. The time is printed, not judged (machines differ); the memory behind a table is.

mod common;
use common::*;
use gmmu::addr::TableAddr;
use gmmu::device::{Bar0, Run};
use gmmu_sim::{Config, Speculation};
use std::time::{Duration, Instant};

/// 256 leaf tables below one PD0: 512 MiB of 4K pages.
const TABLES: u64 = 256;
const LEAVES: u64 = 0x20_0000;

fn mapped() -> (Driver, u64) {
    let mut driver = Driver::with_directories("gh100");
    for table in 0..TABLES {
        let offset = driver.show(LEAVES + 4096 * table);
        let run = Run { first: driver.pte(0x100_0000 + (table << 21)), step: 4096, count: 512 };
        driver.gpu.write_run(offset, run).expect("in the window");
        let word = driver.pde(LEAVES + 4096 * table);
        driver.write(PD0 + 16 * table + 8, word);
    }
    driver.invalidate(0);
    (driver, VA & !((1 << 29) - 1))
}

fn touch(driver: &mut Driver, from: u64, what: &str) -> u64 {
    let start = Instant::now();
    let found = (0..512 * TABLES).filter(|page| driver.read(from + 4096 * page).is_ok()).count();
    println!("{what}: {:.0} ns an access", start.elapsed().as_secs_f64() * 1e9 / (512 * TABLES) as f64);
    found as u64
}

#[test]
fn every_page_of_half_a_gigabyte() {
    let (mut driver, from) = mapped();
    assert_eq!(touch(&mut driver, from, "first"), 512 * TABLES);
    assert_eq!(touch(&mut driver, from, "again"), 512 * TABLES);
    // Cleared page by page, while caches know every one.
    for table in 0..TABLES {
        let offset = driver.show(LEAVES + 4096 * table);
        driver.gpu.write_run(offset, Run { first: 0, step: 0, count: 512 }).expect("in the window");
    }
    driver.invalidate(PTE_ONLY);
    assert_eq!(touch(&mut driver, from, "cleared"), 0);
    driver.write(PD1_SLOT, 0);
    driver.invalidate(TO_PDE1);
    assert_eq!(touch(&mut driver, from, "dropped"), 0);
    assert_eq!(driver.rules(), []);
}

/// A gibibyte of 4K pages through PRAMIN, in a space that is in use: tables taken, written, linked, flushed.
fn map_a_gibibyte(speculation: Speculation) -> Duration {
    let mut driver = Driver::with(Config { speculation, ..Config::default() });
    let start = Instant::now();
    driver.directories();
    driver.fill(PD1, &[0; 512]);
    assert!(driver.read(VA).is_err(), "the space is in use");
    let take = |driver: &mut Driver, at: u64, first: u64, step: u64| {
        driver.gpu.note_table_taken(TableAddr::vram(at), 4096);
        let offset = driver.show(at);
        driver.gpu.write_run(offset, Run { first, step, count: 512 }).expect("in the window");
    };
    for directory in 0..2 {
        let pd0 = LEAVES + 4096 * (2 * TABLES + directory);
        take(&mut driver, pd0, 0, 0);
        driver.write(PD1 + 8 * directory, driver.pde(pd0));
        for entry in 0..TABLES {
            let (table, to) = (LEAVES + 4096 * (TABLES * directory + entry), directory << 29 | entry << 21);
            let first = driver.pte(0x4000_0000 + to);
            take(&mut driver, table, first, 4096);
            driver.write(pd0 + 16 * entry + 8, driver.pde(table));
        }
    }
    driver.invalidate(0);
    let taken = start.elapsed();
    assert_eq!(driver.found((1 << 38) + 0x3fff_f000), Some(0x7fff_f000));
    assert_eq!(driver.rules(), []);
    taken
}

/// What the modes of the caches cost: at most 3 and 15 times what it costs without. The best of several runs each, so
/// that a busy machine does not decide.
#[test]
fn the_worst_case_is_affordable() {
    let best = |mode: fn(u64) -> Speculation| (0..7).map(|run| map_a_gibibyte(mode(run))).min().unwrap_or_default();
    let off = best(|_| Speculation::Off);
    for (name, limit, time) in
        [("random", 3, best(Speculation::Random)), ("worst-case", 15, best(|_| Speculation::Worst))]
    {
        let ratio = time.as_secs_f64() / off.as_secs_f64();
        println!("1 GiB of 4K pages: {off:?} without, {name} {time:?}, {ratio:.2} times");
        assert!(ratio <= f64::from(limit), "{name}: {ratio:.2} times");
    }
}
