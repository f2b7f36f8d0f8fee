//! The library drives the card across the protocol: its self-tests, and a life of mappings that both sides agree on.
#![allow(clippy::unwrap_used, clippy::panic, clippy::allow_attributes, reason = "tests")]

mod common;

use common::{Remote, Served};
use gmmu::addr::{PageSize, PhysAddr, TableAddr, VramAddr};
use gmmu::bar1::Bar1;
use gmmu::chip::Chip;
use gmmu::device::{Bar1Aperture, TableMemory, TablePool};
use gmmu::format::{Flags, Format, MmuVersion, V2, V3};
use gmmu::instance::{self, Instance};
use gmmu::mmio::Mmio;
use gmmu::selftest::{self, Check};
use gmmu::tlb::Limits;
use gmmu::vmm::{Extent, MapRequest, Protection, SpaceConfig, Span, Use, Vmm};
use gmmu::vram::{TablePages, Vram};
use gmmu::walk::{Outcome, walk};
use gmmu_serve::Parted;
use gmmu_sim::{Gpu, Severity};

const MIB: u64 = 1 << 20;
const TABLES: std::ops::Range<u64> = MIB..16 * MIB;
const DATA: std::ops::Range<u64> = 1000 * MIB..1004 * MIB;

fn tables() -> Vram {
    Vram::new(&[VramAddr::new(TABLES.start)..VramAddr::new(TABLES.end)]).unwrap()
}

fn space(mmio: &Mmio<Remote>, used_by: Use) -> SpaceConfig {
    SpaceConfig { whole_words: true, ..SpaceConfig::new(mmio.chip(), mmio.vram_bytes(), used_by) }
}

/// All self-tests over the socket; then the server's side of the story.
fn selftests<F: Format>(chip: &str) {
    let served = Served::new(chip, 1);
    let mut remote = Remote::connect(&served);
    let mut failed = Vec::new();
    let mut report = |check: &Check| {
        if !check.passed {
            failed.push(check.clone());
        }
    };
    let mut passed = selftest::pramin::run(&mut remote, DATA, &mut report).unwrap().passed;
    let mut mmio = Mmio::probe(remote).unwrap();
    assert_eq!(mmio.chip().name, chip);
    let mut vram = tables();
    let mut pages = TablePages::for_vram(&vram).unwrap();
    let mut pool = pages.pool(&mut vram);
    let config = space(&mmio, Use::Channel);
    passed += selftest::vmm::run::<F, _, _>(&mut mmio, config, &mut pool, DATA, &mut report).unwrap().passed;
    let config = space(&mmio, Use::Bar);
    let vmm = Vmm::<F>::create(config, &mut mmio, &mut pool).unwrap();
    let block = pool.take(4096, None).unwrap();
    let chip = mmio.chip();
    Instance::new(vmm.pdb()).write(&mut mmio, chip, block).unwrap();
    mmio.drain().unwrap();
    instance::bind(mmio.bar0(), chip, instance::Bar::Bar1, Some(block), Limits::default()).unwrap();
    let bytes = mmio.bar0().size();
    let mut bar1 = Bar1::new(vmm, bytes).map_err(|(_, why)| why).unwrap();
    let run = selftest::bar1::run(&mut mmio, &mut bar1, &mut pool, DATA, |memory| memory, &mut report);
    passed += run.unwrap().passed;
    assert!(failed.is_empty(), "{}: {failed:?}", chip.name);
    assert!(passed > 40, "{passed}");

    let remote = mmio.release().map_err(|(_, why)| why).unwrap();
    let (reads, writes) = (remote.reads.get(), remote.writes.get());
    drop(remote);
    let (mut card, parted, _) = served.end();
    assert!(matches!(parted[..], [Parted::Cleanly]), "{parted:?}");
    let counts = card.gpu().counts();
    assert_eq!((counts.reads, counts.writes), (reads, writes));
    // The checks of BAR1 access what is not mapped, on purpose; that is no finding.
    let findings: Vec<_> = card.gpu().findings().iter().filter(|found| found.severity != Severity::Note).collect();
    assert!(findings.is_empty(), "{}: {findings:#?}", chip.name);
}

#[test]
fn every_discrete_chip_passes_the_self_tests() {
    for chip in Gpu::chips().iter().filter(|chip| !chip.integrated) {
        match Chip::by_name(chip.name).unwrap().mmu {
            MmuVersion::V2 => selftests::<V2>(chip.name),
            MmuVersion::V3 => selftests::<V3>(chip.name),
        }
    }
}

/// Maps, protects, cuts and unmaps; the walk on this side and the MMU on the other say the same of every page.
fn life<F: Format>(chip: &str) {
    let served = Served::new(chip, 1);
    let mut mmio = Mmio::probe(Remote::connect(&served)).unwrap();
    let mut vram = tables();
    let mut pages = TablePages::for_vram(&vram).unwrap();
    let mut pool = pages.pool(&mut vram);
    let config = space(&mmio, Use::Channel);
    let mut vmm = Vmm::<F>::create(config, &mut mmio, &mut pool).unwrap();
    let va = 0x12_3440_0000;
    let extents = [Extent { to: PhysAddr::vram(64 * MIB), bytes: 8 * MIB }];
    let whole = vmm.map_pages(&mut mmio, &mut pool, &MapRequest::extents(&extents).at(va), &[]).unwrap();
    let small = MapRequest::extents(&extents).at(va + 64 * MIB).page(PageSize::Size4K);
    vmm.map_pages(&mut mmio, &mut pool, &small, &[]).unwrap();
    // A hole in the large pages, 64K wide.
    vmm.unmap_pages(&mut mmio, &mut pool, Span::new(va + 3 * MIB..va + 3 * MIB + 0x1_0000).quiesced()).unwrap();
    let read_only = Flags { read_only: true, ..Flags::default() };
    let plan = vmm.plan_protect(&mut pool, Span::new(va..va + MIB).quiesced(), Protection::flags(read_only)).unwrap();
    let receipt = plan.init(&mut mmio).unwrap().execute(&mut mmio).unwrap();
    vmm.commit(&mut pool, receipt).unwrap();
    assert_eq!(whole.range.start, va);

    let pdb = vmm.pdb();
    let here: Vec<_> = (0..72 * MIB).step_by(0x1_0000).map(|offset| leaf::<F>(&mut mmio, pdb, va + offset)).collect();
    drop(mmio);
    let (mut card, _, _) = served.end();
    let mapped = here.iter().flatten().count() as u64;
    assert_eq!(mapped, 2 * 8 * MIB / 0x1_0000 - 1);
    for (offset, here) in (0..).step_by(0x1_0000).zip(here) {
        let there = card.gpu().peek_translate(pdb, va + offset).ok();
        assert_eq!(here, there.map(|found| (found.to, found.flags.read_only)), "{chip}: {offset:#x}");
    }
    assert!(card.gpu().findings().is_empty(), "{:#?}", card.gpu().findings());
}

/// Where the library's walk ends, read through the socket: the memory, and whether it is read-only.
fn leaf<F: Format>(mmio: &mut Mmio<Remote>, pdb: TableAddr, va: u64) -> Option<(PhysAddr, bool)> {
    let sizes = mmio.chip().page_sizes;
    match walk::<F, _>(mmio, pdb, sizes, va).unwrap().outcome {
        Outcome::Mapped { to, leaf, .. } => Some((to, leaf.flags.read_only)),
        _ => None,
    }
}

#[test]
fn both_sides_agree_on_every_page() {
    life::<V2>("gp107");
    life::<V2>("ga102");
    life::<V3>("gb100");
}
