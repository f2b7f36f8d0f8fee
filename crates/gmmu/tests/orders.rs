//! Jobs that share tables, in every order that hurts: who makes a table, who links it, who takes it back, and what comes to
//! lie where something else was.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{World, DATA, GIB, MIB};
use gmmu::addr::{PageSize, PhysAddr};
use gmmu::format::{Format, V2, V3};
use gmmu::vmm::{CommitError, ExecuteError, Extent, Job, MapRequest, Span};
use gmmu::walk::Is;
use std::ops::Range;

const VA: u64 = 4 * GIB;
const KIB_64: u64 = 64 << 10;

fn prepare<F: Format>(world: &mut World<F>, va: u64, bytes: u64, page: PageSize) -> Job {
    let extents = [Extent { to: PhysAddr::vram(DATA + (va - VA)), bytes }];
    world.prepare(&MapRequest::extents(&extents).at(va).page(page)).unwrap()
}

fn pieces<F: Format>(world: &World<F>) -> Vec<(Range<u64>, gmmu::vmm::Piece)> {
    world.vmm.pieces().map(|(range, piece)| (range, *piece)).collect()
}

/// Nouveau's VM_BIND once let go of a small table late, and by that wrote over 64K entries that had come to lie there.
#[test]
fn a_small_table_under_64k_entries_coming_back_to_life() {
    for late in [false, true] {
        let mut world = World::<V3>::new("gh100");
        world.map(VA, DATA, 2 * KIB_64, Some(PageSize::Size4K));
        let unmap = world.prepare_unmap(VA..VA + 2 * KIB_64).unwrap();
        let big = prepare(&mut world, VA, 2 * KIB_64, PageSize::Size64K);
        let first = unmap.execute(&mut world.mmio).unwrap();
        let second = big.execute(&mut world.mmio).unwrap();
        let mut receipts = vec![first, second];
        if late {
            receipts.reverse();
        }
        let mut small = None;
        for receipt in receipts {
            world.assert_maps(VA..VA + 2 * KIB_64, DATA);
            world.vmm.commit(&mut world.pool, receipt).unwrap();
            world.notes.tell(world.mmio.bar0());
            world.assert_maps(VA..VA + 2 * KIB_64, DATA);
            // A small table is needed again while the first one's end is still to be booked.
            small = small.or_else(|| Some(prepare(&mut world, VA + 2 * KIB_64, 8192, PageSize::Size4K)));
        }
        let small = small.unwrap();
        world.finish(small);
        world.assert_maps(VA..VA + 2 * KIB_64 + 8192, DATA);
        world.unmap(VA + 2 * KIB_64..VA + 2 * KIB_64 + 8192);
        world.assert_maps(VA..VA + 2 * KIB_64, DATA);
        world.unmap(VA..VA + 2 * KIB_64);
        world.assert_faults(VA..VA + 2 * MIB);
        assert_eq!(world.vmm.census().leaf_tables, 0);
        world.assert_clean();
        world.assert_no_leak();
    }
}

#[test]
fn two_jobs_cut_one_large_leaf() {
    for (page, bytes) in [(PageSize::Size64K, KIB_64), (PageSize::Size2M, 2 * MIB), (PageSize::Size512M, 512 * MIB)] {
        let mut world = World::<V3>::new("gh100");
        world.map(VA, DATA, bytes, Some(page));
        let holes = [VA + 3 * 4096..VA + 4 * 4096, VA + bytes - 2 * 4096..VA + bytes - 4096];
        let before = pieces(&world);
        let [first, second] = holes.clone().map(|hole| world.prepare_unmap(Span::new(hole).quiesced()).unwrap());
        let after = pieces(&world);
        // Neither is done, or undone, before its time.
        let failed = second.execute(&mut world.mmio).unwrap_err();
        assert_eq!(failed.why, ExecuteError::NotYet);
        let (first, why) = world.vmm.cancel(&mut world.pool, first).unwrap_err();
        assert_eq!(why, CommitError::HasDependents);
        world.cancel(failed.job);
        world.cancel(first);
        assert_eq!(pieces(&world), before);
        world.assert_no_leak();
        world.assert_maps(VA..VA + bytes.min(2 * MIB), DATA);
        // And now both.
        let [first, second] = holes.clone().map(|hole| world.prepare_unmap(Span::new(hole).quiesced()).unwrap());
        assert_eq!(pieces(&world), after);
        world.finish(first);
        world.assert_maps(holes[1].clone(), DATA + bytes - 2 * 4096);
        world.finish(second);
        for hole in holes.clone() {
            world.assert_faults(hole);
        }
        world.assert_maps(VA..holes[0].start, DATA);
        world.assert_maps(holes[0].end..VA + bytes.min(MIB).min(bytes - 2 * 4096), DATA + 4 * 4096);
        world.assert_maps(VA + bytes - 4096..VA + bytes, DATA + bytes - 4096);
        world.unmap(VA..VA + bytes);
        // A table of one entry, that of the 64K page, was cleared and not dropped.
        assert_eq!(world.vmm.census().leaf_tables, usize::from(page == PageSize::Size64K), "{page}");
        world.assert_clean();
        world.assert_no_leak();
    }
}

/// The one that made the directories waits, and the one that only needs them links them.
#[test]
fn a_table_published_by_a_job_that_did_not_make_it() {
    let mut world = World::<V3>::new("gh100");
    let maker = prepare(&mut world, VA, MIB, PageSize::Size4K);
    let made = world.vmm.census().directories;
    let user = prepare(&mut world, VA + 16 * MIB, MIB, PageSize::Size4K);
    assert_eq!(world.vmm.census().directories, made);
    world.finish(user);
    world.assert_maps(VA + 16 * MIB..VA + 17 * MIB, DATA + 16 * MIB);
    world.assert_faults(VA..VA + MIB);
    world.finish(maker);
    world.assert_maps(VA..VA + MIB, DATA);
    world.unmap(VA..VA + 17 * MIB);
    world.assert_faults(VA..VA + 17 * MIB);
    world.assert_clean();
    world.assert_no_leak();
}

/// The one that made the directories is taken back, before and after another has linked them.
#[test]
fn undo_of_a_job_whose_directory_entry_another_one_uses() {
    for (executed, dropped) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut world = World::<V3>::new("gh100");
        let maker = prepare(&mut world, VA, MIB, PageSize::Size4K);
        let mut user = Some(prepare(&mut world, VA + 16 * MIB, MIB, PageSize::Size4K));
        if let Some(user) = user.take_if(|_| executed) {
            world.finish(user);
        }
        if dropped {
            drop(maker);
        } else {
            world.cancel(maker);
        }
        if let Some(user) = user {
            world.finish(user);
        }
        world.assert_maps(VA + 16 * MIB..VA + 17 * MIB, DATA + 16 * MIB);
        world.assert_faults(VA..VA + MIB);
        // Where the first one would have been, a third one finds its way.
        let third = prepare(&mut world, VA, MIB, PageSize::Size64K);
        world.finish(third);
        world.assert_maps(VA..VA + MIB, DATA);
        world.unmap(VA..VA + 17 * MIB);
        world.assert_clean();
        world.assert_no_leak();
    }
}

/// All orders of so many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(count - 1);
    let put = |order: &Vec<usize>, at: usize| {
        let mut order = order.clone();
        order.insert(at, count - 1);
        order
    };
    shorter.iter().flat_map(|order| (0..count).map(move |at| put(order, at))).collect()
}

/// What the 64K slot of a chunk says where a 64K table is linked.
fn big_slot<F: Format>(world: &mut World<F>, va: u64) -> Option<Is> {
    let walk = world.vmm.read_mapping(&mut world.mmio, va).unwrap();
    let found = walk.steps().find(|step| step.level.name == "PTE" && step.level.shift == 16).map(|step| step.is);
    found
}

fn every_order<F: Format>(chip: &str) {
    // Two chunks with small pages, one of them full, and two of one 64K page each.
    let parts =
        [(0, 3 * 4096, 4096), (KIB_64, KIB_64, KIB_64), (2 * KIB_64, KIB_64, 4096), (3 * KIB_64, KIB_64, KIB_64)];
    let mut world = World::<F>::new(chip);
    let check = |world: &mut World<F>, live: &[bool; 4]| {
        let big_table = live[1] || live[3];
        for (n, (offset, bytes, unit)) in parts.into_iter().enumerate() {
            let chunk = VA + offset;
            if live[n] {
                world.assert_maps(chunk..chunk + bytes, DATA + offset);
            } else {
                world.assert_faults(chunk..chunk + KIB_64);
            }
            // The slot is 0 only while small pages live in the chunk.
            if let Some(slot) = big_slot(world, chunk) {
                match (live[n], unit) {
                    (true, 4096) => assert_eq!(slot, Is::Absent),
                    (true, _) => assert!(matches!(slot, Is::Leaf(_))),
                    (false, _) => assert_eq!(slot, Is::NoValid4K, "chunk {n} with {live:?}"),
                }
            } else {
                assert!(!big_table);
            }
        }
    };
    for up in orders(4) {
        for down in orders(4) {
            let mut live = [false; 4];
            for n in up.iter().copied() {
                let (offset, bytes, unit) = parts[n];
                let page = if unit == 4096 { PageSize::Size4K } else { PageSize::Size64K };
                world.map(VA + offset, DATA + offset, bytes, Some(page));
                live[n] = true;
            }
            check(&mut world, &live);
            for n in down.iter().copied() {
                let (offset, bytes, _) = parts[n];
                world.unmap(VA + offset..VA + offset + bytes);
                live[n] = false;
                check(&mut world, &live);
            }
        }
        world.assert_clean();
    }
    world.assert_no_leak();
}

#[test]
fn small_and_64k_pages_in_every_order_of_map_and_unmap() {
    every_order::<V2>("ad102");
    every_order::<V3>("gh100");
}

/// A job needs nothing of its space to be carried out; it is nobody's then, and no other space takes it.
#[test]
fn a_job_outlives_its_space() {
    let mut world = World::<V3>::new("gh100");
    let [first, second, third] = [0, 1, 2].map(|n| prepare(&mut world, VA + n * GIB, MIB, PageSize::Size4K));
    let World { mut mmio, mut pool, vmm, .. } = world;
    let pdb = vmm.pdb();
    drop(vmm);
    let receipt = first.execute(&mut mmio).unwrap();
    let found = mmio.bar0().peek_translate(pdb, VA).unwrap();
    assert_eq!(found.to, PhysAddr::vram(DATA));
    drop(third);
    let mut other = World::<V3>::new("gh100");
    let (receipt, why) = other.vmm.commit(&mut pool, receipt).unwrap_err();
    assert_eq!(why, CommitError::Foreign);
    let (second, why) = other.vmm.cancel(&mut pool, second).unwrap_err();
    assert_eq!(why, CommitError::Foreign);
    drop((receipt, second));
    assert_eq!(mmio.bar0().findings(), &[]);
}
