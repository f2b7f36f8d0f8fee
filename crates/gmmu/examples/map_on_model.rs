//! Maps memory on a software H100, stage by stage, and lets the GPU's engines judge the result.
//!
//! ```text
//! cargo run -p gmmu --example map_on_model
//! ```

use gmmu::addr::{PageSize, PhysAddr, VramAddr};
use gmmu::format::V3;
use gmmu::mmio::Mmio;
use gmmu::vmm::{Extent, MapRequest, SpaceConfig, Use, Vmm};
use gmmu::vram::{TablePages, Vram};
use gmmu_sim::{AccessKind, Client, Config, Gpu};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // The card: who it is and how much memory it has come from its registers.
    let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100"))?)?;
    println!("{} with {} GiB", card.chip().name, card.vram_bytes() >> 30);

    // Its memory: 8 GiB for data in this example, the rest for whoever asks.
    let data = 8u64 << 30;
    let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(data)])?;
    let mut pages = TablePages::for_vram(&vram)?;
    let mut tables = pages.pool(&mut vram);

    let config = SpaceConfig::new(card.chip(), card.vram_bytes(), Use::Channel);
    let mut space = Vmm::<V3>::create(config, &mut card, &mut tables)?;

    // Planner's lock: addresses, tables and room for every word are taken. May allocate, may fail, changes nothing then.
    let extents = [Extent { to: PhysAddr::vram(data), bytes: 256 << 20 }];
    let plan = space.plan_map(&mut tables, &MapRequest::extents(&extents).page(PageSize::Size4K))?;
    // Hardware's lock, for a moment: new tables are written. Nothing links them yet.
    let mut job = plan.init(&mut card)?;
    println!("prepared {:x?} in {} round", job.range(), job.rounds());

    // Hardware's lock alone: entries, links, and the invalidate behind them. Never allocates.
    card.bar0().reset_counts();
    job.write(&mut card)?;
    job.flush(&mut card)?;
    let receipt = job.finish().map_err(|_| "a round is missing")?;
    println!("executed with {:?}", card.bar0().counts());

    // Planner's lock again: the books are closed.
    let range = space.commit(&mut tables, receipt).map_err(|(_, why)| why)?.range;
    let engine = Client::Engine { pdb: space.pdb() };
    for va in range.clone().step_by(4096) {
        let found = card.bar0().access(engine, va, AccessKind::Write, false)?;
        assert_eq!(found.to, PhysAddr::vram(data + (va - range.start)));
    }
    println!("verified {} pages through the GPU's MMU", (range.end - range.start) / 4096);

    space.unmap_pages(&mut card, &mut tables, range.clone())?;
    assert!(card.bar0().access(engine, range.start, AccessKind::Read, false).is_err());
    space.close(&mut card, &mut tables).map_err(|(_, why)| why)?;
    println!("unmapped and closed; the sanitizer has {} findings", card.bar0().findings().len());
    Ok(())
}
