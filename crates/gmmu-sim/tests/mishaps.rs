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
