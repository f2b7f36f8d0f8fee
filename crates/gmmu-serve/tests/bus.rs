//! What the bus sees of the card: ids, apertures, configuration space, registers, its ROM, interrupts.
#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "tests")]

mod common;

use common::{BAR0, BAR1, BAR2, CONFIG, Remote, Served, config};
use gmmu::device::{Bar0, Width};
use gmmu_serve::{Card, CardError, Identity};
use gmmu_sim::{Config, Gpu};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

#[test]
fn every_chip_is_on_the_bus_as_itself() {
    for chip in Gpu::chips() {
        let served = Served::new(chip.name, 1);
        let mut remote = Remote::connect(&served);
        let ids = remote.get(CONFIG, 0, Width::W32).unwrap();
        let identity = Identity::of(chip.name).unwrap();
        assert_eq!(ids, u64::from(identity.device) << 16 | 0x10de);
        let boot_0 = remote.read32(0).unwrap();
        assert_eq!((boot_0 >> 24 & 0x1f, boot_0 & 0xff), (u32::from(chip.architecture) & 0x1f, 0xa1));
        let class = remote.get(CONFIG, 8, Width::W32).unwrap();
        assert_eq!(class, u64::from(identity.class) << 16 | 0xa1, "class, and the revision of BOOT_0");
        drop(remote);
        served.end();
    }
}

#[test]
fn apertures_are_measured_as_the_host_does_it() {
    let served = Served::new("gp107", 1);
    let mut remote = Remote::connect(&served);
    let sizes = [BAR0, BAR1, BAR2, CONFIG, 2, 4, 5, 6].map(|region| remote.client.region(region).unwrap().size);
    assert_eq!(sizes, [16 << 20, 64 << 20, 32 << 20, 256, 0, 0, 0, 0]);
    // All-ones are written, and what sticks tells size and kind: BAR0 of 32 bits, the others of 64 and prefetchable.
    for (at, measured) in [(0x10, 0xff00_0000), (0x14, 0xfc00_000c), (0x18, !0), (0x1c, 0xfe00_000c), (0x24, 0_u32)] {
        remote.put(CONFIG, at, Width::W32, u64::from(u32::MAX)).unwrap();
        assert_eq!(remote.get(CONFIG, at, Width::W32).unwrap(), u64::from(measured), "{at:#x}");
    }
    // Ids stay, the command register takes what it has.
    remote.put(CONFIG, 0, Width::W32, 0).unwrap();
    assert_eq!(remote.get(CONFIG, 0, Width::W16).unwrap(), 0x10de);
    remote.put(CONFIG, 4, Width::W16, 0xffff).unwrap();
    assert_eq!(remote.get(CONFIG, 4, Width::W16).unwrap(), 0x406);
    drop(remote);
    served.end();
}

#[test]
fn capabilities_are_a_list_that_ends() {
    let served = Served::new("gh100", 1);
    let mut remote = Remote::connect(&served);
    let (mut at, mut ids) = (remote.get(CONFIG, 0x34, Width::W8).unwrap(), Vec::new());
    while at != 0 {
        ids.push(remote.get(CONFIG, at, Width::W8).unwrap());
        at = remote.get(CONFIG, at + 1, Width::W8).unwrap();
        assert!(ids.len() < 16);
    }
    assert_eq!(ids, [5, 9], "message-signalled interrupts, and the vendor's");
    assert_eq!(remote.get(CONFIG, 0x54, Width::W32).unwrap(), u64::from(u32::from_le_bytes(*b"gmmu")));
    remote.put(CONFIG, 0x5c, Width::W32, 7).unwrap();
    assert_eq!(remote.get(CONFIG, 0x5c, Width::W32).unwrap(), 7);
    drop(remote);
    assert_eq!(served.end().2, [7]);
}

#[test]
fn accesses_of_all_sizes_reach_memory() {
    let served = Served::new("tu102", 1);
    let mut remote = Remote::connect(&served);
    remote.put(BAR0, 0x1700, Width::W32, 0x123).unwrap();
    // Seven bytes at an odd place: three accesses on the bus.
    remote.client.region_write(BAR0, 0x70_0001, b"abcdefg").unwrap();
    let mut bytes = [0; 9];
    remote.client.region_read(BAR0, 0x70_0000, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0abcdefg\0");
    for (width, value) in [(Width::W8, 0x61), (Width::W16, 0x6261), (Width::W32, 0), (Width::W64, 0)] {
        let at = 0x70_0000 + u64::from(width.bytes() <= 2);
        match width {
            Width::W16 => assert_eq!(remote.get(BAR0, 0x70_0002, width).unwrap(), 0x6362),
            Width::W8 => assert_eq!(remote.get(BAR0, at, width).unwrap(), value),
            Width::W32 => assert_eq!(remote.get(BAR0, 0x70_0004, width).unwrap(), 0x6766_6564),
            Width::W64 => assert_eq!(remote.get(BAR0, 0x70_0000, width).unwrap(), 0x6766_6564_6362_6100),
        }
    }
    drop(remote);
    let (mut card, ..) = served.end();
    let mut there = [0; 8];
    card.gpu().peek_vram(0x123_0000, &mut there);
    assert_eq!(&there, b"\0abcdefg");
}

#[test]
fn registers_without_rules_are_memory_and_the_rom_is_there() {
    let served = Served::new("gp107", 1);
    let mut remote = Remote::connect(&served);
    remote.write32(0x10_0c10, 0x1234).unwrap();
    assert_eq!(remote.read32(0x10_0c10), Ok(0x1234));
    assert_eq!(remote.read32(0x2_240c), Ok(2), "the card was brought up");
    assert_eq!(remote.read32(0x30_0000).unwrap() & 0xffff, 0xaa55);
    let mut rom = [0; 8];
    remote.client.region_read(BAR0, 0x30_0040, &mut rom).unwrap();
    assert_eq!(&rom, b"PCIR\xde\x10\x81\x1c");
    // The time runs.
    let before = remote.read32(0x9400).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1));
    assert!(remote.read32(0x9400).unwrap() > before);
    drop(remote);
    served.end();
}

/// What nova-core of Linux 7.3 reads before it asks for firmware, and where it says where it keeps a page for flushes.
#[test]
fn what_nova_core_looks_at_first() {
    let served = Served::new("ga102", 1);
    let mut remote = Remote::connect(&served);
    assert_eq!(remote.read32(0xa00), Ok(0x172a_1000));
    assert_eq!(remote.read32(0x11_8128).unwrap() & 1, 1, "the progress of the boot firmware may be read");
    assert_eq!(remote.read32(0x11_8234).unwrap() & 0xff, 0xff, "it has finished");
    assert_eq!(remote.read32(0x11_83a4), Ok(1024), "mebibytes of video memory");
    for register in [0x10_0c10, 0x10_0c40, 0x11_0004] {
        remote.write32(register, 0x1234_5678).unwrap();
        assert_eq!(remote.read32(register), Ok(0x1234_5678));
    }
    drop(remote);
    served.end();
}

#[test]
fn faults_are_interrupts() {
    let served = Served::new("gp107", 1);
    let mut remote = Remote::connect(&served);
    assert_eq!((0..5).map(|index| remote.client.get_irq_info(index).unwrap().count).sum::<u32>(), 1);
    // What the card writes to: eight bytes, as an event descriptor takes them.
    let (mut host, card) = UnixStream::pair().unwrap();
    remote.client.set_irqs(1, 4 | 32, 0, 1, &[card.as_raw_fd()]).unwrap();
    assert_eq!(remote.get(BAR1, 0, Width::W32).unwrap(), u64::from(u32::MAX), "nothing is bound");
    let mut event = [0; 8];
    host.read_exact(&mut event).unwrap();
    assert_eq!(u64::from_ne_bytes(event), 1);
    drop(remote);
    let (mut card, ..) = served.end();
    assert_eq!(card.gpu().faults(), 1);
}

#[test]
fn a_reset_gives_another_card_of_the_kind() {
    let served = Served::new("ga102", 1);
    let mut remote = Remote::connect(&served);
    remote.put(BAR0, 0x70_0000, Width::W64, 42).unwrap();
    remote.client.reset().unwrap();
    assert_eq!(remote.get(BAR0, 0x70_0000, Width::W64).unwrap(), 0);
    assert_eq!(remote.read32(0).unwrap() >> 20, 0x172);
    drop(remote);
    served.end();
}

#[test]
fn what_cannot_be_a_card_is_refused() {
    let wrong = Config { bar1_bytes: 3 << 20, ..config("gh100") };
    assert!(matches!(Card::new(&wrong), Err(CardError::Bar1 { bytes: 0x30_0000 })));
    assert!(matches!(Card::new(&Config::chip("gx1")), Err(CardError::Config(_))));
}
