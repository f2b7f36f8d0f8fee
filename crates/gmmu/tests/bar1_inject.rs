//! Every growth of a record fails once, while a BAR1 mapping is made and unmade: nothing is lost. A binary of its own: the
//! countdown belongs to the process.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bar_world;
mod common;

use bar_world::{vram, BarWorld};
use common::MIB;
use gmmu::bar1::{MapFailed, UnmapError};
use gmmu::device::Width;
use gmmu::format::{Format, V2, V3};
use gmmu::storage::inject::fail_at;
use gmmu::vmm::{Extent, MapRequest, PrepareError};
use gmmu_sim::Bus;
use std::rc::Rc;

fn every_growth_fails_once<F: Format>(chip: &str) {
    let extents = [Extent { to: vram(128 * MIB + 4096), bytes: 3 * MIB }];
    let request = MapRequest::extents(&extents);
    let mut world = BarWorld::<F, Rc<()>>::new(chip, Bus::Bits64, 256 * MIB);
    let memory = Rc::new(());
    let tables = world.pool.inner().out.clone();
    let mut id = None;
    let mut grown = 0;
    while id.is_none() {
        grown += 1;
        fail_at(grown);
        let answer = world.bar1.map(&mut world.mmio, &mut world.pool, memory.clone(), "n", &request);
        fail_at(0);
        world.tell();
        match answer {
            Ok(made) => id = Some(made),
            Err(MapFailed::Refused { backing, .. }) => {
                drop(backing);
                assert_eq!((Rc::strong_count(&memory), world.bar1.usage().taken), (1, 0), "growth {grown}");
                assert_eq!(world.pool.inner().out, tables, "growth {grown}");
            }
            Err(MapFailed::Poisoned { why, .. }) => panic!("growth {grown}: {why}"),
        }
    }
    assert!(grown > 5);
    let id = id.unwrap();
    for grown in 1.. {
        fail_at(grown);
        let answer = world.bar1.unmap(&id, &mut world.mmio, &mut world.pool);
        fail_at(0);
        match answer {
            Ok(given) => {
                drop(given);
                break;
            }
            Err(UnmapError::Prepare(PrepareError::NoMemory(_))) => {
                let usable = world.bar1.write(&id, world.mmio.bar0(), 0, Width::W32, 7);
                assert_eq!((usable, Rc::strong_count(&memory)), (Ok(()), 2), "growth {grown}");
            }
            Err(why) => panic!("growth {grown}: {why}"),
        }
    }
    world.tell();
    assert_eq!((Rc::strong_count(&memory), world.bar1.usage().taken), (1, 0));
    world.assert_clean();
}

/// One test: the countdown is shared.
#[test]
fn without_memory_for_records_nothing_is_lost() {
    every_growth_fails_once::<V2>("tu102");
    every_growth_fails_once::<V3>("gb202");
}
