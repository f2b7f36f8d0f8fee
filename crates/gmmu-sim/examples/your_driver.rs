//! Test your driver's page tables in 30 lines: a card that does its worst, your driver's accesses, and what it did wrong.
//! `cargo run -p gmmu-sim --example your_driver`
//!
//! Put your driver where `map` and `unmap` are. All that it needs is a way to its registers: here that is
//! [`Bar0`], which a few lines make out of whatever trait or pointer your driver has.

use gmmu::addr::TableAddr;
use gmmu::device::{Bar0, DeviceError};
use gmmu_sim::{AccessKind, Client, Config, Gpu, Rule, Speculation};

const ROOT: u64 = 0x10_000;
/// `NV_XAL_EP_ZB_BAR0_WINDOW` stands at 0: memory from 0 on is shown here.
const PRAMIN: u32 = 0x70_0000;
const INVALIDATE: u32 = 0xb8_30b0;

/// Your driver: one table for each level of MMU v3, one after the other from the root on, and a 4K page at address 0.
fn map(bar0: &mut impl Bar0, page: u64) -> Result<(), DeviceError> {
    for (table, offset) in (1..6u64).zip([0, 0x1000, 0x2000, 0x3000, 0x4008]) {
        bar0.write_words(PRAMIN + 0x1_0000 + offset, &[(ROOT + 0x1000 * table) | 0x12])?;
    }
    bar0.write_words(PRAMIN + 0x1_5000, &[page | 0x601])?;
    flush(bar0, 6)
}

/// And its unmap, which reaches only so deep.
fn unmap(bar0: &mut impl Bar0, depth: u32) -> Result<(), DeviceError> {
    bar0.write_words(PRAMIN + 0x1_4008, &[0])?;
    flush(bar0, depth)
}

fn flush(bar0: &mut impl Bar0, depth: u32) -> Result<(), DeviceError> {
    bar0.read32(PRAMIN)?;
    bar0.write32(0xb8_30a0, 0x100)?;
    bar0.write32(INVALIDATE, 1 << 31 | depth << 24 | 3 << 6 | 1)?;
    while bar0.read32(INVALIDATE)? >> 31 != 0 {}
    Ok(())
}

/// The test: what the sanitizer finds in a life of one page.
fn test(depth: u32) -> Result<Vec<Rule>, Box<dyn std::error::Error>> {
    let mut gpu = Gpu::new(&Config { speculation: Speculation::Worst, ..Config::chip("gh100") })?;
    let engine = Client::Engine { pdb: TableAddr::vram(ROOT) };
    let look = |gpu: &mut Gpu| gpu.access(engine, 0x123, AccessKind::Read, false).map(|found| found.to.raw);
    // Nothing is mapped yet. From here on the caches know the space.
    assert!(look(&mut gpu).is_err());
    gpu.label("map");
    map(&mut gpu, 0x800_0000)?;
    assert_eq!(look(&mut gpu), Ok(0x800_0123));
    gpu.label("unmap");
    unmap(&mut gpu, depth)?;
    let gone = look(&mut gpu).is_err();
    gpu.label("free");
    gpu.note_table_freed(TableAddr::vram(ROOT + 0x5000), 4096);
    gpu.findings().iter().for_each(|finding| println!("{finding}\n  instead: {}", finding.rule.info().instead));
    assert_eq!(gone, gpu.findings().is_empty());
    Ok(gpu.take_findings().iter().map(|finding| finding.rule).collect())
}

/// # Errors
/// Those of the card.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The entry that was cleared is one of PD0.
    assert_eq!(test(2)?, []);
    assert_eq!(test(1)?, [Rule::InvalidateTooShallow, Rule::TableFreedReachable]);
    Ok(())
}
