//! What can be made to go wrong, and that nothing else does.

use gmmu::addr::TableAddr;
use gmmu::device::{Bar0, NoTableMemory, Run, TablePool, Width};
use gmmu_sim::{Config, Gpu, Mishap, Notes, Rule, Watched};

const INVALIDATE: u32 = 0xb8_30b0;
const WINDOW: u32 = 0x10_fd40;
const PRAMIN: u32 = 0x70_0000;
/// ALL_VA, ALL_PDB, TRIGGER.
const ALL: u32 = 1 << 31 | 3;

fn gpu() -> Gpu {
    Gpu::new(&Config { invalidate_polls: 0, ..Config::chip("gh100") }).expect("a chip")
}

fn running(gpu: &mut Gpu) -> bool {
    gpu.read32(INVALIDATE).expect("a register") >> 31 == 1
}

#[test]
fn one_invalidate_of_several_is_skipped() {
    let mut gpu = gpu();
    gpu.inject(Mishap::InvalidateSkipped, 2, Some(1));
    for started in [1, 1, 2] {
        gpu.write32(INVALIDATE, ALL).expect("a register");
        assert!(!running(&mut gpu));
        assert_eq!(gpu.counts().invalidates, started);
    }
}

#[test]
fn an_acknowledgement_comes_late_or_never() {
    let mut gpu = gpu();
    gpu.inject(Mishap::AcknowledgementLost, 1, Some(3));
    gpu.write32(INVALIDATE, ALL).expect("a register");
    let looks: Vec<bool> = (0..5).map(|_| running(&mut gpu)).collect();
    assert_eq!(looks, [true, true, true, false, false]);
    gpu.write32(INVALIDATE, ALL).expect("a register");
    assert!(!running(&mut gpu), "only the first is late");
    gpu.inject(Mishap::AcknowledgementLost, 1, None);
    gpu.write32(INVALIDATE, ALL).expect("a register");
    assert!((0..1000).all(|_| running(&mut gpu)));
    assert!(gpu.findings().is_empty());
    gpu.write32(INVALIDATE, ALL).expect("a register");
    assert!(gpu.findings().iter().any(|finding| finding.rule == Rule::InvalidateWhileRunning));
}

#[test]
fn a_card_leaves_the_bus_in_the_middle_of_a_run_and_comes_back() {
    let mut gpu = gpu();
    gpu.inject(Mishap::BusDead, 3, Some(3));
    gpu.write_run(PRAMIN, Run { first: 1, step: 1, count: 4 }).expect("a run");
    let peeked = [0, 8, 16, 24].map(|at| gpu.peek_word(TableAddr::vram(at)));
    assert_eq!(peeked, [1, 2, 0, 0]);
    assert_eq!(gpu.read(PRAMIN, Width::W32), Ok(0xffff_ffff));
    assert_eq!(gpu.read(PRAMIN, Width::W64), Ok(1));
    assert_eq!(gpu.counts().writes + gpu.counts().reads, 6, "the driver made them all");
    gpu.inject(Mishap::BusDead, 1, None);
    assert!((0..100).all(|_| gpu.read32(0) == Ok(u32::MAX)));
}

#[test]
fn a_write_of_the_window_is_lost() {
    let mut gpu = gpu();
    gpu.inject(Mishap::WindowWriteLost, 2, Some(1));
    for (wanted, found) in [(1, 1), (2, 1), (3, 3)] {
        gpu.write32(WINDOW, wanted).expect("a register");
        assert_eq!(gpu.read32(WINDOW), Ok(found));
    }
}

struct Endless(u64);

impl TablePool for Endless {
    fn take(&mut self, bytes: u64, _near: Option<TableAddr>) -> Result<TableAddr, NoTableMemory> {
        self.0 += bytes;
        Ok(TableAddr::vram(self.0))
    }
    fn give(&mut self, _at: TableAddr, _bytes: u64) {}
}

#[test]
fn memory_for_tables_runs_out_for_a_while() {
    let notes = Notes::default();
    let mut pool = Watched::sharing(Endless(0), notes.clone());
    notes.exhaust(2, Some(2));
    let taken: Vec<bool> = (0..5).map(|_| pool.take(4096, None).is_ok()).collect();
    assert_eq!(taken, [true, false, false, true, true]);
}

mod common;
use common::{pdb, Driver, BOTH, PD0_HI, PTE_ONLY, SMALL, VA};
use gmmu_sim::{Counts, Speculation};

fn mapped(chip: &str) -> Driver {
    let mut driver = Driver::with_directories(chip);
    driver.write(SMALL, driver.pte(0x80_0000));
    driver.link_small();
    driver.invalidate(0);
    assert_eq!(driver.found(VA), Some(0x80_0000));
    driver
}

#[test]
fn an_invalidate_reaches_another_space() {
    for chip in BOTH {
        let mut driver = mapped(chip);
        driver.gpu.inject(Mishap::InvalidateMisdirected, 2, Some(1));
        driver.invalidate(0);
        assert_eq!(driver.found(VA), Some(0x80_0000));
        driver.write(SMALL, driver.pte(0x90_0000));
        driver.invalidate(PTE_ONLY);
        assert_eq!(driver.found(VA), Some(0x80_0000));
        assert_eq!(driver.rules(), [Rule::InvalidateWrongPdb]);
        driver.invalidate(PTE_ONLY);
        assert_eq!(driver.found(VA), Some(0x90_0000));
    }
}

#[test]
fn reads_answer_with_the_error_word_for_a_while() {
    let mut gpu = gpu();
    gpu.inject(Mishap::Poison, 2, Some(2));
    gpu.write32(WINDOW, 1).expect("a register");
    let reads: Vec<_> = (0..4).map(|_| gpu.read32(WINDOW)).collect();
    assert_eq!(reads, [Ok(1), Ok(0xbadf_5040), Ok(0xbadf_5040), Ok(1)]);
    gpu.inject(Mishap::Poison, 1, Some(1));
    assert_eq!(gpu.read(PRAMIN, Width::W64), Ok(0xbadf_5040_badf_5040));
}

#[test]
fn a_bit_flips_in_some_table() {
    for chip in BOTH {
        let flipped = |seed, chip: &str| {
            let mut driver = Driver::with(Config { vram: 1 << 30, seed, ..Config::chip(chip) });
            driver.directories();
            driver.link_small();
            let before: Vec<_> = driver.gpu.vram_pages().collect();
            driver.gpu.inject(Mishap::BitFlip, 2, Some(1));
            driver.gpu.read32(0).expect("a register");
            assert!(before.iter().eq(driver.gpu.vram_pages().collect::<Vec<_>>().iter()));
            driver.gpu.read32(0).expect("a register");
            let after: Vec<_> = driver.gpu.vram_pages().collect();
            let bits = |pages: &[(u64, [u8; 4096])]| -> Vec<(u64, u32)> {
                let bytes = pages.iter().flat_map(|(at, bytes)| (*at..).zip(bytes));
                bytes
                    .flat_map(|(at, byte)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| (at, bit)))
                    .collect()
            };
            let (before, after) = (bits(&before), bits(&after));
            let lost = before.iter().filter(|bit| !after.contains(bit)).count();
            let won: Vec<_> = after.into_iter().filter(|bit| !before.contains(bit)).collect();
            assert_eq!(lost + won.len(), 1);
            won
        };
        let all: std::collections::BTreeSet<_> = (0..20).map(|seed| flipped(seed, chip)).collect();
        assert!(all.len() > 10, "the seed picks");
        assert_eq!(flipped(3, chip), flipped(3, chip));
    }
}

#[test]
fn video_memory_is_lost_and_written_anew() {
    for speculation in [Speculation::Off, Speculation::Worst] {
        for chip in BOTH {
            let mut driver = Driver::with(Config { vram: 1 << 30, speculation, ..Config::chip(chip) });
            driver.directories();
            driver.fill(SMALL, &[driver.pte(0x80_0000)]);
            driver.link_small();
            assert_eq!(driver.found(VA), Some(0x80_0000));
            driver.gpu.inject(Mishap::VramLost, 1, Some(1));
            driver.gpu.read32(0).expect("a register");
            assert_ne!(driver.gpu.peek_word(TableAddr::vram(SMALL)), driver.pte(0x80_0000));
            assert_ne!(driver.gpu.peek_word(pdb()), 0);
            assert_eq!(driver.rules(), []);
            for table in (0x1_0000..0x1_5000).step_by(0x1000).chain([SMALL]) {
                driver.fill(table, &[0; 512]);
            }
            driver.directories();
            driver.write(SMALL, driver.pte(0x90_0000));
            driver.write(PD0_HI, driver.pde(SMALL));
            assert_eq!(driver.found(VA), Some(0x90_0000));
            assert_eq!(driver.rules(), []);
        }
    }
}

#[test]
fn a_seed_picks_mishaps() {
    let plan = |seed| gpu().inject_from(seed, 50);
    let plans: Vec<_> = (0..200).map(plan).collect();
    assert!(plans.iter().all(|plan| (1..=3).contains(&plan.len())));
    assert!(plans.iter().flatten().all(|&(_, at, times)| (1..=50).contains(&at) && times != Some(0)));
    for mishap in Mishap::ALL {
        assert!(plans.iter().flatten().any(|&(picked, ..)| picked == mishap), "{mishap:?}");
    }
    assert_eq!(plans, (0..200).map(plan).collect::<Vec<_>>());
    // A driver that knows nothing of them survives them all, and the card too.
    for seed in 0..60 {
        let mut driver = mapped("gh100");
        let picked = driver.gpu.inject_from(seed, 20);
        for step in 0..40u32 {
            let _ = driver.gpu.write_words(PRAMIN + 8 * (step % 64), &[u64::from(step) << 12 | 0x601]);
            let _ = driver.gpu.write32(INVALIDATE, ALL);
            let _ = driver.gpu.read32(INVALIDATE);
            let _ = driver.read(VA + u64::from(step) * 4096);
        }
        assert_ne!(driver.gpu.counts(), Counts::default(), "{picked:?}");
    }
}
