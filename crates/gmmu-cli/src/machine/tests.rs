//! Machines with tables in either memory, and what becomes of their spaces.

use super::*;
use gmmu::addr::PhysAddr;
use gmmu::device::DeviceError;
use gmmu::format::{V2, V3};
use gmmu::mm::MmError;
use gmmu::vmm::{Extent, Use};
use gmmu_sim::AccessKind;

/// A space with its tables in system memory, beside one with its tables in video memory.
fn both<F: Format>(name: &str) {
    let mut machine = Machine::new(chip(name).expect("a chip"), 1 << 30, &[]).expect("a machine");
    let data = machine.take_data(4 << 20, 2 << 20).expect("memory");
    let extents = [Extent { to: PhysAddr::vram(data.start().raw()), bytes: 4 << 20 }];
    for tables in [Tables::Sys, Tables::Vram] {
        let mut vmm = machine.create_space_in::<F>(tables, None, Use::Channel).expect("a space");
        assert_eq!(Tables::holding(vmm.pdb()), tables);
        for page in [PageSize::Size4K, PageSize::Size64K, PageSize::Size2M] {
            machine.gpu().reset_counts();
            let request = MapRequest { page: Some(page), ..MapRequest::extents(&extents).at(1 << 32) };
            let job = machine.prepare_map(&mut vmm, &request).expect("prepares");
            let receipt = job.execute(machine.mmio()).expect("executes");
            let range = machine.commit(&mut vmm, receipt).expect("commits").range;
            let stores = machine.gpu().counts().sys_writes;
            assert_eq!(stores > 0, tables == Tables::Sys);
            for va in range.clone().step_by(4096) {
                let found = machine.gpu().access(engine(&vmm), va, AccessKind::Read, false).expect("mapped");
                assert_eq!(found.to.raw, data.start().raw() + va - range.start);
            }
            let job = machine.prepare_unmap(&mut vmm, range.clone()).expect("prepares");
            let receipt = job.execute(machine.mmio()).expect("executes");
            machine.commit(&mut vmm, receipt).expect("commits");
            assert!(machine.gpu().access(engine(&vmm), range.start, AccessKind::Read, false).is_err());
        }
    }
    assert_eq!(machine.gpu().findings(), []);
}

#[test]
fn tables_lie_where_the_space_says() {
    both::<V2>("tu102");
    both::<V3>("gh100");
}

#[test]
fn bar_spaces_have_no_tables_in_system_memory() {
    let mut machine = Machine::new(chip("gh100").expect("a chip"), 1 << 30, &[]).expect("a machine");
    let refused = machine.create_space_in::<V3>(Tables::Sys, None, Use::Bar).map(|vmm| vmm.pdb());
    assert!(
        matches!(refused, Err(MmError::Space(PrepareError::Device(DeviceError::WrongAperture { .. })))),
        "{refused:?}"
    );
}

#[test]
fn tables_in_system_memory_lie_outside_of_what_is_foreign() {
    let foreign = [0x1000..0x2000, 1 << 40..(1 << 40) + 0x5000];
    let mut machine = Machine::new(chip("gb10b").expect("a chip"), VRAM_DEFAULT, &foreign).expect("a machine");
    let vmm = machine.create_space::<V3>(None, Use::Channel).expect("a space");
    assert_eq!(vmm.pdb(), Tables::Sys.at((1 << 40) + 0x5000));
    assert_eq!(machine.vram_bytes(), 0);
    assert!(machine.take_data(4096, 4096).is_err());
    let first = machine.take_pages(0x3000, None).expect("memory");
    let second = machine.take_pages(4 << 20, Some(PageSize::Size4K)).expect("memory");
    assert_eq!(
        [first.start(), second.start()].map(|at| at.to_string()),
        ["sys-coh:0x000100000000", "sys-coh:0x000100200000"]
    );
    machine.give_pages(second);
    assert_eq!(machine.take_pages(4096, None).expect("memory").start().raw, (1 << 32) + (2 << 20));
    assert!(machine.take_pages(1 << 50, None).is_err());
}
