//! A queue as VM_BIND has it: jobs are prepared when they are submitted, over ranges that earlier jobs have not reached
//! yet, and carried out later, in order, where nothing may be allocated.

use gmmu::addr::{PhysAddr, VramAddr};
use gmmu::format::V3;
use gmmu::mmio::Mmio;
use gmmu::vmm::{Bind, ExecuteError, Extent, Live, MapRequest, SpaceConfig, Use, Vmm};
use gmmu::vram::{TablePages, Vram};
use gmmu_sim::{AccessKind, Client, Config, Gpu};

const VA: u64 = 0x4000_0000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut card = Mmio::probe(Gpu::new(&Config::chip("gh100"))?)?;
    let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(1 << 33)])?;
    let mut pages = TablePages::for_vram(&vram)?;
    let mut tables = pages.pool(&mut vram);
    let config = SpaceConfig::new(card.chip(), card.vram_bytes(), Use::Channel);
    let mut space = Vmm::<V3>::create(config, &mut card, &mut tables)?;

    // Two buffer objects, 2 MiB each.
    let object = |number: u64| [Extent { to: PhysAddr::vram(number << 33), bytes: 2 << 20 }];
    let (first, second) = (object(1), object(2));
    let whole = |extents, number| Bind::Map(MapRequest::extents(extents).at(VA).object(number, 0));

    // Submitted one after the other: each sees the space as those before it will have left it.
    let submitted = [
        vec![Bind::Sparse(VA - (1 << 30)..VA), whole(&first, 1)],
        vec![Bind::Unmap(VA + 0x10_0000..VA + 0x11_0000)],
        vec![whole(&second, 2)],
    ];
    let mut queue = Vec::new();
    for operations in &submitted {
        queue.push(space.prepare_bind(&mut card, &mut tables, operations, Live::Quiesced)?);
    }
    println!("{} jobs wait, of {:?} rounds", queue.len(), queue.iter().map(gmmu::vmm::Job::rounds).collect::<Vec<_>>());

    // Out of order is refused, and the job comes back whole.
    let early = queue.remove(1).execute(&mut card);
    let Err(failed) = early else { return Err("the second job overtook the first".into()) };
    assert_eq!(failed.why, ExecuteError::NotYet);
    println!("the second: {}", failed.why);
    queue.insert(1, failed.job);

    // The scheduler's turn: hardware alone.
    let mut receipts = Vec::new();
    for job in queue {
        receipts.push(job.execute(&mut card).map_err(|failed| failed.why)?);
    }
    // And the planner's again: what was replaced is given back.
    for receipt in receipts {
        space.commit(&mut tables, receipt).map_err(|(_, why)| why)?;
    }

    let engine = Client::Engine { pdb: space.pdb() };
    for va in [VA - 0x1000, VA, VA + 0x10_0000] {
        let found = card.bar0().access(engine, va, AccessKind::Read, false)?;
        println!("{va:#x}: {}", if found.sparse { "reads as 0".to_owned() } else { found.to.to_string() });
    }
    let findings = card.bar0().findings();
    assert!(findings.is_empty(), "{findings:?}");
    Ok(())
}
