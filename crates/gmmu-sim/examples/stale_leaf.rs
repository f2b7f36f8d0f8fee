//! A driver that forgets an invalidate, and what the sanitizer says. `cargo run -p gmmu-sim --example stale_leaf`

use gmmu::addr::TableAddr;
use gmmu::device::{Bar0, Run};
use gmmu_sim::{AccessKind, Client, Config, Gpu};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut gpu = Gpu::new(&Config::chip("gh100"))?;
    let root = TableAddr::vram(0x1000);
    // One table per level at 0x1000 to 0x6000, each entry 0 pointing to the next; the window stands at 0.
    for table in 1..5 {
        gpu.write_run(0x70_0000 + 0x1000 * table, Run { first: u64::from(table + 1) << 12 | 0x12, step: 0, count: 1 })?;
    }
    gpu.write_words(0x70_5008, &[0x6012])?;
    gpu.write_words(0x70_6000, &[0x8000_0601])?;
    let engine = Client::Engine { pdb: root };
    println!("{:?}", gpu.access(engine, 0x123, AccessKind::Read, false)?.to);
    // Another page at the same address, and nobody tells the GPU.
    gpu.write_words(0x70_6000, &[0x9000_0601])?;
    println!("{:?}", gpu.access(engine, 0x123, AccessKind::Read, false)?.to);
    for finding in gpu.findings() {
        println!("{finding}");
    }
    if let Err(fault) = gpu.access(engine, 0x1000, AccessKind::Write, false) {
        println!("{fault}");
    }
    println!("{:?}", gpu.counts());
    Ok(())
}
