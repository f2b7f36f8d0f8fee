//! What an access of the model costs. The time is printed, not judged (machines differ); the memory behind a table is.

mod common;
use common::*;
use gmmu::device::{Bar0, Run};
use std::time::Instant;

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
