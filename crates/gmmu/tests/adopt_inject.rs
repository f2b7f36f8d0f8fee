//! Every growth of a record fails once, while a space is adopted and while jobs use what its tables have room for: nothing is
//! held, nothing has changed. A binary of its own: the countdown belongs to the process.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;
mod firmware;

use common::{config, DATA, GIB, MIB};
use firmware::{leaf, Adopted, Hand, LIMIT};
use gmmu::addr::{PageSize, PhysAddr, TableAddr};
use gmmu::format::{Format, V2, V3};
use gmmu::mm::{FbSource, GpuMm, MmError};
use gmmu::storage::inject::fail_at;
use gmmu::storage::NoMemory;
use gmmu::vmm::{AdoptError, Bind, CommitError, Extent, Job, Live, MapRequest, PrepareError, Span, Use, Vmm};
use gmmu_sim::Config;

const VA: u64 = 4 * GIB;
const K64: u64 = 64 << 10;
const NONE: AdoptError = AdoptError::Space(PrepareError::NoMemory(NoMemory));

/// Leaf tables with every other slot taken, of three domains, two of them by one table.
fn hand<F: Format>() -> Hand {
    let mut hand = Hand::default();
    for va in [VA, VA + 512 * MIB] {
        let [big, small] = hand.leaf_tables::<F>(va);
        for n in (0..32).step_by(2) {
            hand.image.set(big + n * 8, leaf::<F>(DATA + n * K64));
        }
        for n in (16..32).step_by(2) {
            hand.image.set(small + n * 8, leaf::<F>(DATA + n * 4096));
        }
    }
    let (from, to) = (hand.dual::<F>(VA + 512 * MIB), hand.dual::<F>(VA + GIB));
    for half in [0, 8] {
        let word = hand.image.word(from + half);
        hand.image.set(to + half, word);
    }
    hand
}

/// Adopts with the n-th growth failing, for every n until it gets through; returns how many there are.
fn adopt_with_failures<F: Format>(chip: &str) -> u64 {
    let mut image = hand::<F>().image;
    let root = TableAddr::vram(image.root);
    for n in 1.. {
        fail_at(n);
        let adopted = Vmm::<F>::adopt(config(chip, 16 * GIB), &mut image, root, LIMIT);
        fail_at(0);
        match adopted {
            Ok(vmm) => {
                // 16 of 64K and 8 of 4K, of which one goes on from another, and the two that share tables, whole.
                assert_eq!(vmm.foreign().count(), 23 + 2);
                return n - 1;
            }
            Err(why) => assert_eq!(why, NONE, "growth {n}"),
        }
    }
    unreachable!("an adoption grows a limited number of records")
}

/// The same through the books of a GPU: the root is free again each time.
fn adopt_by_gpu<F: Format>(chip: &str) {
    let image = hand::<F>().image;
    let mut card = image.card(&Config::chip(chip));
    let mut mm = GpuMm::probe(&mut card, FbSource::Registers, &[]).unwrap();
    let free = mm.vram().unwrap().free_bytes();
    for n in 1.. {
        let config = mm.space_config(Use::Channel);
        fail_at(n);
        let adopted = mm.adopt::<F, _>(config, &mut card, TableAddr::vram(image.root), LIMIT);
        fail_at(0);
        match adopted {
            Ok(space) => {
                let tables = space.foreign_tables().unwrap();
                assert!(n > 8 && mm.vram().unwrap().free_bytes() < free && tables.len() > 8);
                mm.close_space(space, &mut card).map_err(|(_, why)| why).unwrap();
                return;
            }
            Err(MmError::Adopt(why)) => assert_eq!(why, NONE, "growth {n}"),
            Err(MmError::NoMemory(_) | MmError::Root(_)) => {}
            Err(why) => panic!("growth {n}: {why}"),
        }
        assert_eq!((mm.roots().count(), mm.vram().unwrap().free_bytes()), (0, free), "growth {n}");
    }
}

fn state<F: Format>(space: &mut Adopted<F>) -> String {
    let vmm = &space.world.vmm;
    let (pieces, census): (Vec<_>, _) = (vmm.pieces().collect(), vmm.census());
    let numbers = (census.directories, census.leaf_tables, census.foreign_tables, census.jobs);
    format!("{pieces:?} {numbers:?} {:?}", space.world.pool.inner().out)
}

/// Prepares and cancels, each with every growth failing once; then executes.
fn every_growth<F: Format>(
    space: &mut Adopted<F>,
    mut prepare: impl FnMut(&mut Adopted<F>) -> Result<Job, PrepareError>,
) -> u64 {
    let before = state(space);
    let mut failures = 0;
    for n in 1.. {
        fail_at(n);
        let prepared = prepare(space);
        fail_at(0);
        let mut job = match prepared {
            Ok(job) => Some(job),
            Err(why) => {
                failures += 1;
                assert_eq!(why, PrepareError::NoMemory(NoMemory));
                assert_eq!(state(space), before, "growth {n}");
                continue;
            }
        };
        let planned = state(space);
        for n in 1.. {
            fail_at(n);
            let cancelled = space.world.vmm.cancel(&mut space.world.pool, job.take().unwrap());
            fail_at(0);
            match cancelled {
                Ok(()) => break,
                Err((back, why)) => {
                    assert!(matches!(why, CommitError::NoMemory(_)), "{why}");
                    assert_eq!(state(space), planned);
                    job = Some(back);
                }
            }
        }
        assert_eq!(state(space), before);
        break;
    }
    let job = prepare(space).unwrap();
    space.world.finish(job);
    space.assert_untouched();
    space.world.assert_clean();
    failures
}

fn jobs_beside_firmwares<F: Format>(chip: &str) {
    let mut space = hand::<F>().image.adopted::<F>(&Config::chip(chip));
    let extents = [Extent { to: PhysAddr::vram(DATA + GIB), bytes: K64 }];
    let map = MapRequest::extents(&extents).live(Live::Quiesced);
    let mut failures = 0;
    // A 64K page, small ones beside firmware's own, and a page where there are no tables at all.
    for (va, page) in [(VA + 3 * K64, PageSize::Size64K), (VA + 5 * K64, PageSize::Size4K), (1 << 46, PageSize::Size4K)]
    {
        let request = map.clone().at(va).page(page);
        failures += every_growth(&mut space, |space| space.world.prepare(&request));
    }
    let request =
        MapRequest { backing: gmmu::vmm::Backing::Extents(&[Extent { bytes: 4096, ..extents[0] }]), ..map.clone() };
    let request = request.at(VA + K64 + 4096);
    failures += every_growth(&mut space, |space| space.world.prepare(&request));
    let sparse = VA + 7 * K64..VA + 8 * K64;
    failures += every_growth(&mut space, |space| space.world.prepare_sparse(sparse.clone()));
    let operations = [
        Bind::Unmap(VA + 5 * K64..VA + 6 * K64),
        Bind::Sparse(VA + 9 * K64..VA + 10 * K64),
        Bind::Map(map.at(VA + 11 * K64)),
    ];
    failures += every_growth(&mut space, |space| {
        space.world.prepare_with(|vmm, pool| vmm.plan_bind(pool, &operations, Live::Quiesced))
    });
    let cut = VA + 3 * K64 + 4096..VA + 4 * K64;
    failures += every_growth(&mut space, |space| space.world.prepare_unmap(Span::new(cut.clone()).quiesced()));
    failures += every_growth(&mut space, |space| space.world.prepare_unmap(1 << 46..(1 << 46) + K64));
    failures += every_growth(&mut space, |space| space.world.prepare_with(|vmm, pool| vmm.plan_reclaim(pool)));
    assert!(failures > 20, "{failures}");
    space.close();
}

/// One test: the countdown is shared.
#[test]
fn without_memory_for_records_nothing_is_adopted_and_nothing_changes() {
    for grown in [adopt_with_failures::<V2>("ga100"), adopt_with_failures::<V3>("gh100")] {
        assert!(grown > 8, "{grown}");
    }
    adopt_by_gpu::<V2>("ga100");
    adopt_by_gpu::<V3>("gh100");
    jobs_beside_firmwares::<V2>("ga100");
    jobs_beside_firmwares::<V3>("gh100");
}
