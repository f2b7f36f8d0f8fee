//! The self-tests of BAR1 and of address spaces: all pass on every chip, and each of them fails on a card that is broken
//! its way.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::allow_attributes, reason = "tests")]

mod bar_world;
mod common;

use bar_world::{config, BarWorld, Fault};
use common::MIB;
use gmmu::chip::Chip;
use gmmu::device::Bar0;
use gmmu::format::{Format, MmuVersion, V2, V3};
use gmmu::selftest::{bar1, pramin, vmm, Check, SelftestError, Sight, Tally};
use gmmu::vmm::{MapRequest, SpaceConfig, Use};
use gmmu_sim::{Bus, Gpu};
use std::collections::BTreeSet;
use std::ops::Range;

const MEMORY: Range<u64> = 1000 * MIB..1004 * MIB;

type World<F> = BarWorld<F, Range<u64>>;

fn bar1_checks<F: Format>(world: &mut World<F>) -> (Vec<Check>, Tally) {
    let mut checks = Vec::new();
    let BarWorld { mmio, pool, bar1, .. } = world;
    let tally = bar1::run(mmio, bar1, pool, MEMORY, |memory| memory, |check| checks.push(check.clone())).unwrap();
    world.tell();
    (checks, tally)
}

fn vmm_checks<F: Format>(world: &mut World<F>) -> (Vec<Check>, Tally) {
    let mut checks = Vec::new();
    let BarWorld { mmio, pool, .. } = world;
    let space = SpaceConfig::new(mmio.chip(), mmio.vram_bytes(), Use::Channel);
    let space = SpaceConfig { whole_words: mmio.bar0().has_64bit(), ..space };
    let tally = vmm::run::<F, _, _>(mmio, space, pool, MEMORY, |check| checks.push(check.clone())).unwrap();
    world.tell();
    (checks, tally)
}

fn passes<F: Format>(chip: &str, bus: Bus) {
    let mut world = World::<F>::with(&config(chip, bus, 256 * MIB));
    let filled: Vec<u8> = (0..4 * MIB).map(|n| ((n * 7) >> 3) as u8).collect();
    world.card().gpu.load_vram(MEMORY.start, &filled);
    let out = world.pool.inner().out.len();
    world.card().written.clear();
    let (checks, tally) = bar1_checks(&mut world);
    for check in &checks {
        assert!(check.passed, "{chip} {bus:?}: {check:?}");
    }
    assert_eq!((tally.passed as usize, tally.failed), (checks.len(), 0));
    let (checks, tally) = vmm_checks(&mut world);
    for check in &checks {
        assert!(check.passed, "{chip} {bus:?}: {check:?}");
    }
    assert_eq!((tally.passed as usize, tally.failed), (checks.len(), 0));
    // Everything is as it was, and nothing but the named memory and tables was written.
    let mut after = vec![0; filled.len()];
    world.card().gpu.peek_vram(MEMORY.start, &mut after);
    assert!(after == filled, "memory was changed");
    let tables = MIB..64 * MIB;
    let written = std::mem::take(&mut world.card().written);
    assert!(written.iter().all(|at| tables.contains(at) || MEMORY.contains(at)));
    assert_eq!(world.bar1.usage().mappings, 0);
    // What a space keeps linked for its next mapping apart.
    assert!(world.pool.inner().out.len() <= out + 12);
    world.assert_clean();
}

#[test]
fn all_discrete_chips_pass() {
    for chip in Gpu::chips().iter().filter(|chip| !chip.integrated) {
        for bus in [Bus::Bits64, Bus::Bits32] {
            match Chip::by_name(chip.name).unwrap().mmu {
                MmuVersion::V2 => passes::<V2>(chip.name, bus),
                MmuVersion::V3 => passes::<V3>(chip.name, bus),
            }
        }
    }
}

#[test]
fn apertures_of_any_size_pass() {
    for bytes in [0x2_0000, MIB, 2 * MIB + 4096, 64 << 30] {
        let mut world = World::<V3>::new("gh100", Bus::Bits64, bytes);
        let (checks, tally) = bar1_checks(&mut world);
        assert_eq!(tally.failed, 0, "{checks:?}");
        world.assert_clean();
    }
}

#[test]
fn a_bar1_in_use_is_tested_and_left_as_it_was() {
    let mut world = World::<V3>::new("gb202", Bus::Bits64, 8 * MIB);
    let extents = [gmmu::vmm::Extent { to: bar_world::vram(512 * MIB), bytes: 3 * MIB }];
    // In the way of the first border.
    let request = MapRequest::extents(&extents).at(MIB);
    let id = world.bar1.map(&mut world.mmio, &mut world.pool, 0..0, "user", &request).unwrap();
    let (checks, tally) = bar1_checks(&mut world);
    assert_eq!(tally.failed, 0, "{checks:?}");
    assert_eq!(world.bar1.mapping(&id).unwrap().to_string(), "0x100000..0x400000 user");
    world.assert_clean();
}

#[test]
fn memory_that_is_not_there_is_refused() {
    let mut world = World::<V3>::new("gh100", Bus::Bits64, MIB);
    for memory in
        [0..4 * MIB - 1, 1022 * MIB..1026 * MIB, Range { start: 8 * MIB, end: 4 * MIB }, u64::MAX - 1..u64::MAX]
    {
        let BarWorld { mmio, pool, bar1, .. } = &mut world;
        let answer = bar1::run(mmio, bar1, pool, memory.clone(), |memory| memory, |_| ());
        assert!(matches!(answer, Err(SelftestError::Memory { .. })), "{memory:?}: {answer:?}");
        let space = SpaceConfig::new(mmio.chip(), mmio.vram_bytes(), Use::Channel);
        let answer = vmm::run::<V3, _, _>(mmio, space, pool, memory.clone(), |_| ());
        assert!(matches!(answer, Err(SelftestError::Memory { .. })), "{memory:?}: {answer:?}");
    }
}

fn names(checks: &[Check], passed: bool) -> BTreeSet<&'static str> {
    checks.iter().filter(|check| check.passed == passed).map(|check| check.name).collect()
}

/// The checks that fail on a card with a fault.
fn failed<F: Format>(chip: &str, fault: Fault) -> BTreeSet<&'static str> {
    let mut world = World::<F>::with(&config(chip, Bus::Bits64, 256 * MIB));
    let good = bar1_checks(&mut World::<F>::with(&config(chip, Bus::Bits64, 256 * MIB))).0;
    world.card().set(fault);
    let (checks, tally) = bar1_checks(&mut world);
    assert_eq!((checks.len(), tally.passed + tally.failed), (good.len(), good.len() as u32), "{fault:?}");
    assert!(checks.iter().zip(&good).all(|(check, good)| check.name == good.name && check.expected == good.expected));
    names(&checks, false)
}

fn broken_mmus<F: Format>(chip: &str) {
    assert_eq!(failed::<F>(chip, Fault::Nothing), BTreeSet::new());
    for (fault, alone) in [
        (Fault::ReadOnlyIgnored, vec!["a write to a read-only page is lost"]),
        (Fault::HalvesTurned, vec!["8, 16, 32 and 64 bits through BAR1", "a slice of odd length at an odd place"]),
    ] {
        let failed = failed::<F>(chip, fault);
        assert!(alone.iter().all(|name| failed.contains(name)), "{fault:?}: {failed:?}");
        assert!(failed.len() <= alone.len() + 2, "{fault:?}: {failed:?}");
    }
    for (fault, name) in [
        (Fault::BitStuck, "a word from PRAMIN is seen through BAR1"),
        (Fault::StoresLost, "a word from BAR1 is seen through PRAMIN"),
        (Fault::NarrowStoresWide, "8, 16, 32 and 64 bits through BAR1"),
        (Fault::NoInvalidate, "what is unmapped is not reached"),
        (Fault::NoInvalidate, "a write to what is unmapped is lost"),
        (Fault::NoInvalidate, "a new mapping leads to the new page"),
        (Fault::PagesAlias, "pages in any order"),
        (Fault::PagesAlias, "every page of the blocks is in its place"),
        (Fault::WindowBitStuck, "a word from BAR1 is seen through PRAMIN"),
    ] {
        let failed = failed::<F>(chip, fault);
        assert!(failed.contains(name), "{fault:?}: {failed:?}");
    }
}

#[test]
fn faults_of_bar1_are_found_by_the_check_that_is_for_them() {
    broken_mmus::<V2>("tu102");
    broken_mmus::<V3>("gb202");
}

#[test]
fn what_fails_is_said() {
    let mut world = World::<V3>::new("gh100", Bus::Bits64, 256 * MIB);
    world.card().set(Fault::StoresLost);
    let (checks, _) = bar1_checks(&mut world);
    let check = checks.iter().find(|check| check.name == "a word from BAR1 is seen through PRAMIN").unwrap();
    assert_eq!((check.expected.to_string(), check.seen.to_string()), ("0xcafebabe".into(), "0x00000000".into()));
}

fn broken_tables<F: Format>(chip: &str) {
    for (fault, name) in [
        (Fault::WindowBitStuck, "two pages across every border"),
        (Fault::WindowStoresLost(600), "two pages across every border"),
        (Fault::NeverAcknowledges, "two pages across every border"),
    ] {
        let mut world = World::<F>::with(&config(chip, Bus::Bits64, 256 * MIB));
        world.card().set(fault);
        let (checks, _) = vmm_checks(&mut world);
        assert!(names(&checks, false).contains(name), "{fault:?}: {checks:?}");
    }
}

#[test]
fn faults_of_the_way_to_tables_are_found() {
    broken_tables::<V2>("tu102");
    broken_tables::<V3>("gh100");
}

#[test]
fn a_window_that_only_says_that_it_moves_is_found() {
    let mut world = World::<V3>::new("gh100", Bus::Bits64, 256 * MIB);
    world.card().set(Fault::WindowStuck);
    let mut checks = Vec::new();
    pramin::run(world.card(), MEMORY, |check| checks.push(check.clone())).unwrap();
    let failed = names(&checks, false);
    assert!(failed.contains("two words 2 MiB apart"), "{failed:?}");
}

/// The names of checks that failed for some fault, and those of all checks.
fn all_failed(
    chip: &str,
    faults: impl Iterator<Item = Fault>,
    run: impl Fn(&mut World<V3>) -> (Vec<Check>, Tally),
) -> (BTreeSet<&'static str>, BTreeSet<&'static str>) {
    let (mut failed, mut all) = (BTreeSet::new(), BTreeSet::new());
    for fault in faults {
        let mut world = World::<V3>::with(&config(chip, Bus::Bits64, 256 * MIB));
        world.card().set(fault);
        let (checks, tally) = run(&mut world);
        failed.extend(names(&checks, false));
        all.extend(checks.iter().map(|check| check.name));
        let over = matches!(fault, Fault::FailsAt(n) if world.card().accesses < n);
        assert!(!over || tally.failed == 0);
        if over {
            break;
        }
    }
    (failed, all)
}

#[test]
fn every_check_of_bar1_can_fail() {
    let faults = [Fault::StoresLost, Fault::NoInvalidate, Fault::ReadOnlyIgnored].into_iter();
    // Setting memory aside and putting it back are the same thousands of times over.
    let mut world = World::<V3>::with(&config("gh100", Bus::Bits64, 256 * MIB));
    world.card().set(Fault::Nothing);
    bar1_checks(&mut world);
    let (total, once) = (world.card().accesses, 25 * 72);
    let at = [1, once].into_iter().chain((once + 1..total - 2 * once).step_by(11)).chain([total - once, total + 1]);
    let (failed, all) = all_failed("gh100", faults.chain(at.map(Fault::FailsAt)), bar1_checks);
    // What the allocator does, no card can break.
    let own = BTreeSet::from(["memory around a hole comes in blocks"]);
    assert_eq!(all.difference(&failed).copied().collect::<BTreeSet<_>>(), own);
}

#[test]
fn every_check_of_a_space_can_fail() {
    let (failed, all) = all_failed("gh100", (1..).step_by(11).map(Fault::FailsAt), vmm_checks);
    // What the library refuses before it touches the card, no card can break.
    let own = BTreeSet::from([
        "an address beyond the last is refused",
        "a job without table memory is refused",
        "a refused job leaves no tables",
    ]);
    assert_eq!(all.difference(&failed).copied().collect::<BTreeSet<_>>(), own);
}

#[test]
fn nothing_is_written_where_nothing_could_be_set_aside() {
    let mut world = World::<V3>::new("gh100", Bus::Bits64, 256 * MIB);
    world.card().set(Fault::FailsAt(1));
    world.card().written.clear();
    let (checks, tally) = bar1_checks(&mut world);
    assert_eq!(world.card().written, []);
    assert!(checks.iter().filter(|check| check.seen == Sight::NotTried).count() > 10, "{checks:?}");
    assert!(tally.failed > 10);
}
