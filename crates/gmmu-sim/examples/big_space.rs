//! Maps gibibytes of 4K pages by hand, lets an engine touch every page, drops the tables (or, with `clear`, clears the
//! entries) and touches again: what the model itself costs.
//! `cargo run --release -p gmmu-sim --example big_space -- 64 [clear]`

use gmmu::addr::TableAddr;
use gmmu::device::{Bar0, DeviceError, Run, Width};
use gmmu_sim::{AccessKind, Client, Config, Gpu};
use std::time::Instant;

const ROOT: u64 = 0x10_0000;
const VA: u64 = 1 << 38;

/// Moves the window so that `at` is in it, and returns the register offset that shows `at`.
fn show(gpu: &mut Gpu, at: u64) -> Result<u32, DeviceError> {
    let base = u32::try_from(at >> 20 << 4).unwrap_or(0);
    if gpu.read32(0x10_fd40)? != base {
        gpu.write32(0x10_fd40, base)?;
    }
    Ok(0x70_0000 + u32::try_from(at & 0xf_ffff).unwrap_or(0))
}

fn fill(gpu: &mut Gpu, at: u64, first: u64, step: u64, count: u32) -> Result<(), DeviceError> {
    let offset = show(gpu, at)?;
    gpu.write_run(offset, Run { first, step, count })
}

fn invalidate(gpu: &mut Gpu) -> Result<(), DeviceError> {
    gpu.write32(0xb8_30a0, u32::try_from(ROOT >> 12 << 4).unwrap_or(0))?;
    gpu.write32(0xb8_30a4, 0)?;
    gpu.write32(0xb8_30b0, 1 << 31 | 1)?;
    while gpu.read32(0xb8_30b0)? >> 31 != 0 {}
    Ok(())
}

/// Builds the tables: directories at the root's neighbours, leaf tables one after the other above.
fn build(gpu: &mut Gpu, leaf_tables: u64) -> Result<(), DeviceError> {
    let (pd3, pd2, pd1, pd0) = (ROOT + 0x1000, ROOT + 0x2000, ROOT + 0x3000, ROOT + 0x4000);
    let leaves = 0x1000_0000;
    gpu.note_root(TableAddr::vram(ROOT));
    for table in 0..leaf_tables {
        let at = leaves + 4096 * table;
        gpu.note_table_taken(TableAddr::vram(at), 4096);
        fill(gpu, at, (0x4000_0000 + (table << 21)) | 0x601, 4096, 512)?;
    }
    for directory in 0..leaf_tables.div_ceil(256) {
        let at = pd0 + 4096 * directory;
        gpu.note_table_taken(TableAddr::vram(at), 4096);
        fill(gpu, at, 0, 0, 512)?;
        for entry in 0..256.min(leaf_tables - 256 * directory) {
            fill(gpu, at + 16 * entry + 8, (leaves + 4096 * (256 * directory + entry)) | 0x12, 0, 1)?;
        }
        fill(gpu, pd1 + 8 * directory, at | 0x12, 0, 1)?;
    }
    fill(gpu, pd2 + 8 * (VA >> 38), pd1 | 0x12, 0, 1)?;
    fill(gpu, pd3, pd2 | 0x12, 0, 1)?;
    fill(gpu, ROOT, pd3 | 0x12, 0, 1)?;
    invalidate(gpu)
}

fn touch(gpu: &mut Gpu, pages: u64) -> u64 {
    let client = Client::Engine { pdb: TableAddr::vram(ROOT) };
    (0..pages).filter(|page| gpu.access(client, VA + 4096 * page, AccessKind::Read, false).is_ok()).count() as u64
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gib: u64 = std::env::args().nth(1).map_or(Ok(4), |arg| arg.parse())?;
    let (leaf_tables, pages) = (gib << 9, gib << 18);
    let mut gpu = Gpu::new(&Config::default())?;
    let per_page = |from: Instant| from.elapsed().as_secs_f64() * 1e9 / pages as f64;

    let from = Instant::now();
    build(&mut gpu, leaf_tables)?;
    println!("build   {:8.1} ns a page, {:?}", per_page(from), gpu.counts());
    for round in 0..2 {
        let from = Instant::now();
        let found = touch(&mut gpu, pages);
        println!("touch {round} {:8.1} ns a page, {found} of {pages} pages found", per_page(from));
    }
    let from = Instant::now();
    if std::env::args().nth(2).as_deref() == Some("clear") {
        for table in 0..leaf_tables {
            fill(&mut gpu, 0x1000_0000 + 4096 * table, 0, 0, 512)?;
        }
    } else {
        for directory in 0..leaf_tables.div_ceil(256) {
            fill(&mut gpu, ROOT + 0x4000 + 4096 * directory, 0, 0, 512)?;
        }
    }
    invalidate(&mut gpu)?;
    if std::env::args().nth(2).is_none() {
        for table in 0..leaf_tables {
            gpu.note_table_freed(TableAddr::vram(0x1000_0000 + 4096 * table), 4096);
        }
    }
    println!("unmap   {:8.1} ns a page", per_page(from));
    let from = Instant::now();
    let found = touch(&mut gpu, pages);
    println!("touch   {:8.1} ns a page, {found} of {pages} pages found", per_page(from));
    println!("{} findings, {} MiB at most", gpu.findings().len(), resident_mib());
    for finding in gpu.findings().iter().take(3) {
        println!("{finding}");
    }
    let _ = gpu.read(0, Width::W32)?;
    Ok(())
}
