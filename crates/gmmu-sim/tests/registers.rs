//! What a driver sees on the bus: identification, the window, counts, invalidates, BAR blocks, faults, flushes.
#![expect(clippy::panic, reason = "tests")]
#![expect(clippy::cast_possible_truncation, reason = "small constants")]

mod common;
use common::*;
use gmmu::addr::{SysAddr, TableAddr};
use gmmu::device::{Bar0, Clock, DeviceError, Run, TableRead, Width};
use gmmu_sim::{AccessKind, Bus, Carveouts, Client, Config, Counts, FaultType, Gpu, Rule};

fn gpu(chip: &str) -> Gpu {
    Gpu::new(&Config::chip(chip)).expect("a chip")
}

fn read(gpu: &mut Gpu, offset: u32) -> u32 {
    gpu.read32(offset).expect("a register")
}

fn write(gpu: &mut Gpu, offset: u32, value: u32) {
    gpu.write32(offset, value).expect("a register");
}

#[test]
fn every_chip_is_there() {
    for chip in Gpu::chips() {
        let mut gpu = gpu(chip.name);
        let boot_42 = read(&mut gpu, 0xa00);
        assert_eq!((boot_42 >> 24 & 0x3f, boot_42 >> 20 & 0xf), (chip.architecture.into(), chip.implementation.into()));
        let size = match read(&mut gpu, 0x10_0ce0) {
            0 => u64::from(read(&mut gpu, 0x11_83a4)) << 20,
            range => u64::from(range >> 4 & 0x3f) << ((range & 0xf) + 20),
        };
        assert_eq!(size, if chip.integrated { 0 } else { 96 << 30 }, "{}", chip.name);
        assert_eq!(read(&mut gpu, 0x11_8128) & 1, 1, "the boot firmware may be asked");
        assert_eq!(read(&mut gpu, 0x11_8234) & 0xff, 0xff, "and is done");
        assert_eq!(read(&mut gpu, 0x1f_a828), 0, "no WPR2");
        assert!(read(&mut gpu, 0x1f_a82c) > read(&mut gpu, 0x1f_a830), "no locked region");
    }
    let with_memory = Gpu::new(&Config { vram: 1 << 30, ..Config::chip("gb20b") });
    assert!(with_memory.is_err_and(|error| error.to_string().contains("integrated")));
    assert!(Gpu::new(&Config::chip("gx999")).is_err_and(|error| error.to_string().contains("tu102")));
}

#[test]
fn what_the_card_keeps_of_its_memory() {
    let carveouts = Carveouts {
        wpr2: Some(0x1_2345_6000..0x1_3000_0000),
        vga: Some(0x1_fff8_0000),
        mmu_lock: Some(0x4000_0000..0x4000_2000),
    };
    for (chip, wpr2, vga) in [("tu102", 0x1f_a824, true), ("gh100", 0x1f_a824, false), ("gb100", 0x88_a824, false)] {
        let config = Config { vram: 8 << 30, carveouts: carveouts.clone(), ..Config::chip(chip) };
        let mut gpu = Gpu::new(&config).expect("a chip");
        assert_eq!((read(&mut gpu, wpr2), read(&mut gpu, wpr2 + 4)), (0x123_4560, 0x130_0000));
        let other = 0x1f_a824 + 0x88_a824 - wpr2;
        assert_eq!((read(&mut gpu, other), read(&mut gpu, other + 4)), (0, 0));
        // The locked region is named by its first and its last page.
        assert_eq!((read(&mut gpu, 0x1f_a82c), read(&mut gpu, 0x1f_a830)), (0x40_0000, 0x40_0010));
        assert_eq!(read(&mut gpu, 0x1f_a7c8) & 1, 1);
        assert_eq!(read(&mut gpu, 0x62_5f04), if vga { 0x1_fff8 << 8 | 8 } else { 0 });
        write(&mut gpu, wpr2, 0);
        assert_eq!(read(&mut gpu, wpr2), 0x123_4560, "the CPU cannot write it");
    }
}

#[test]
fn the_window_moves_on_both_registers() {
    for (chip, register) in [("ad102", 0x1700), ("gh100", 0x10_fd40)] {
        let mut gpu = gpu(chip);
        let other = 0x1700 + 0x10_fd40 - register;
        gpu.load_vram(0x123_4560000, &[1, 2, 3, 4, 5, 6, 7, 8]);
        write(&mut gpu, other, 0x12_3456);
        assert_eq!(gpu.counts().window_moves, 0);
        assert_eq!(read(&mut gpu, 0x70_0000), 0);
        write(&mut gpu, register, 0x12_3456);
        write(&mut gpu, register, 0x12_3456);
        assert_eq!(read(&mut gpu, register), 0x12_3456);
        assert_eq!(gpu.counts(), Counts { reads: 2, writes: 3, window_moves: 1, ..Counts::default() });
        assert_eq!(gpu.read(0x70_0000, Width::W64), Ok(0x0807_0605_0403_0201));
        assert_eq!(gpu.read(0x70_0006, Width::W16), Ok(0x0807));
        assert_eq!(gpu.read(0x70_0003, Width::W8), Ok(4));
        gpu.write(0x70_0002, Width::W16, 0xffff_aabb).expect("in the window");
        gpu.write(0x70_0007, Width::W8, 0xcc).expect("in the window");
        assert_eq!(gpu.peek_word(TableAddr::vram(0x123_4560000)), 0xcc07_0605_aabb_0201);
    }
}

#[test]
fn bits_that_the_window_register_lacks_read_back_as_0() {
    for (chip, register, kept) in
        [("gh100", 0x10_fd40, 0x3f_ffff), ("gb202", 0x10_fd40, 0x7f_ffff), ("tu102", 0x1700, 0x3ff_ffff)]
    {
        let mut gpu = gpu(chip);
        write(&mut gpu, register, u32::MAX);
        assert_eq!(read(&mut gpu, register), kept);
    }
}

#[test]
fn the_old_window_shows_system_memory_too() {
    let mut gpu = gpu("ga102");
    gpu.load_sys(0x5_0000, &7u64.to_le_bytes());
    write(&mut gpu, 0x1700, 2 << 24 | 5);
    assert_eq!(read(&mut gpu, 0x70_0000), 7);
    write(&mut gpu, 0x1700, 1 << 24 | 5);
    assert_eq!(read(&mut gpu, 0x70_0000), u32::MAX);
    write(&mut gpu, 0x70_0000, 9);
    assert_eq!(gpu.peek_word(TableAddr::SysNonCoherent(SysAddr::new(0x5_0000))), 7);
}

#[test]
fn beyond_the_end_of_memory() {
    let mut gpu = Gpu::new(&Config { vram: 1 << 20, ..Config::default() }).expect("a chip");
    write(&mut gpu, 0x10_fd40, 0xf);
    gpu.write_run(0x70_fff0, Run { first: 1, step: 1, count: 4 }).expect("in the window");
    assert_eq!(gpu.read(0x70_fff8, Width::W64), Ok(2));
    assert_eq!(gpu.read(0x71_0000, Width::W64), Ok(u64::MAX));
    assert_eq!(gpu.counts().writes, 5);
    assert_eq!(gpu.vram_pages().map(|(at, _)| at).collect::<Vec<_>>(), [0xf_f000]);
}

#[test]
fn misaligned_and_outside() {
    let mut gpu = gpu("gh100");
    for (offset, width) in [(2, Width::W32), (0x70_0004, Width::W64), (0x70_0001, Width::W16), (16 << 20, Width::W8)] {
        let refused = Err(DeviceError::BadOffset { offset, bytes: width.bytes() });
        assert_eq!(gpu.read(offset, width), refused);
        assert_eq!(gpu.write(offset, width, 0).map(|()| 0), refused);
    }
    assert!(gpu.write_run(0x70_0004, Run { first: 0, step: 0, count: 1 }).is_err());
    assert!(gpu.write_words(u32::MAX - 7, &[0, 0]).is_err());
    assert_eq!(gpu.counts(), Counts::default(), "what never reached the bus does not count");
}

#[test]
fn a_narrow_bus_counts_twice_and_tears() {
    for (bus, each) in [(Bus::Bits64, 1), (Bus::Bits32, 2)] {
        let mut gpu = Gpu::new(&Config { bus, ..Config::default() }).expect("a chip");
        assert_eq!(gpu.has_64bit(), bus == Bus::Bits64);
        gpu.write_run(0x70_0000, Run { first: 5, step: 1 << 33, count: 100 }).expect("in the window");
        gpu.write_words(0x70_0000, &[1 << 40 | 3]).expect("in the window");
        assert_eq!(gpu.counts().writes, 101 * each);
        assert_eq!(gpu.read(0x70_0000, Width::W64), Ok(1 << 40 | 3));
        assert_eq!(gpu.counts().reads, each);
        assert_eq!(gpu.peek_word(TableAddr::vram(8 * 99)), 5 + (99 << 33));
        gpu.reset_counts();
        assert_eq!(gpu.counts(), Counts::default());
    }
}

#[test]
fn a_run_that_leaves_the_window_is_written_word_by_word() {
    let mut gpu = gpu("gh100");
    gpu.write_run(0x7f_fff8, Run { first: 7, step: 0, count: 3 }).expect("the words behind are registers");
    assert_eq!(gpu.peek_word(TableAddr::vram(0xf_fff8)), 7);
    assert_eq!(gpu.peek_word(TableAddr::vram(0x10_0000)), 0);
    assert_eq!(gpu.counts().writes, 3);
}

#[test]
fn looking_does_not_count() {
    let mut driver = Driver::with_directories("gh100");
    driver.gpu.reset_counts();
    let op = driver.gpu.op();
    let mut bytes = [0; 16];
    driver.gpu.peek_vram(ROOT - 4, &mut bytes);
    assert_eq!(bytes[4..8], (PD3 as u32 | 0x12).to_le_bytes());
    driver.gpu.peek_sys(0, &mut bytes);
    assert!(driver.gpu.peek_translate(pdb(), VA).is_err());
    assert_eq!(driver.gpu.peek().read_word(pdb()), Ok(PD3 | 0x12));
    assert!(driver.gpu.peek().read_word(TableAddr::vram(4)).is_err());
    assert!(driver.gpu.peek().read_word(TableAddr::vram(1 << 30)).is_err());
    assert_eq!((driver.gpu.counts(), driver.gpu.op()), (Counts::default(), op));
    driver.write(PD0_LO, driver.pte(0));
    assert_eq!(driver.found(VA), Some(0), "what was peeked at was not cached");
}

#[test]
fn an_invalidate_takes_its_time() {
    for polls in [0, 1, 2, 7] {
        let mut driver = Driver::with(Config { invalidate_polls: polls, vram: 1 << 30, ..Config::default() });
        driver.directories();
        driver.write(PD0_LO, driver.pte(0x80_0000));
        assert_eq!(driver.found(VA), Some(0x80_0000));
        driver.write(PD0_LO, 0);
        driver.gpu.reset_counts();
        driver.trigger(0, 0);
        for _ in 0..polls {
            assert_eq!(read(&mut driver.gpu, 0xb8_30b0) >> 31, 1);
            assert_eq!(
                driver.gpu.access(engine(), VA, AccessKind::Read, false).map(|found| found.to.raw),
                Ok(0x80_0000)
            );
        }
        assert_eq!(read(&mut driver.gpu, 0xb8_30b0) >> 31, 0);
        assert_eq!(driver.fault(VA), Some(FaultType::Pde));
        let counts = Counts { reads: u64::from(polls) + 2, writes: 3, invalidates: 1, ..Counts::default() };
        assert_eq!(driver.gpu.counts(), counts);
    }
}

#[test]
fn a_write_without_trigger_starts_nothing() {
    let mut gpu = gpu("gh100");
    write(&mut gpu, 0xb8_30b0, 7);
    assert_eq!(read(&mut gpu, 0xb8_30b0), 7);
    assert_eq!(gpu.counts().invalidates, 0);
}

#[test]
fn time_goes_by() {
    let mut gpu = gpu("gh100");
    let from = gpu.now_us();
    for _ in 0..1000 {
        gpu.relax();
    }
    assert_eq!(gpu.now_us() - from, 1000);
    read(&mut gpu, 0);
    read(&mut gpu, 0);
    assert_eq!(gpu.now_us() - from, 1001);
}

/// Binds a BAR to an instance block for the test's space, by the chip's registers.
fn bind(driver: &mut Driver, bar: u32, word: u64) {
    let instance = 0x50_000;
    driver.write(instance + 0x200, word);
    let gpu = &mut driver.gpu;
    let pending = if driver.v3 {
        let block = 0xb8_0f60 + 16 * (bar - 1);
        write(gpu, block, instance as u32 | 1 << 9);
        assert_eq!(read(gpu, block) & 3, 0, "only the high half binds");
        write(gpu, block + 4, 0);
        (block, 3)
    } else {
        write(gpu, 0xb8_0f40 + 8 * (bar - 1), 1 << 31 | (instance >> 12) as u32);
        (0xb8_0f50, 3 << (2 * (bar - 1)))
    };
    assert_ne!(read(gpu, pending.0) & pending.1, 0);
    assert_eq!(read(gpu, pending.0) & pending.1, 0);
}

const INSTANCE_BITS: u64 = 1 << 11 | 1 << 10;

/// A space whose first megabytes a BAR can reach.
fn low_space(chip: &str) -> Driver {
    let mut driver = Driver::new(chip);
    let above_pd2 = if driver.v3 { PD3 } else { ROOT };
    if driver.v3 {
        driver.write(ROOT, driver.pde(PD3));
    }
    driver.write(above_pd2, driver.pde(PD2));
    driver.write(PD2, driver.pde(PD1));
    driver.write(PD1, driver.pde(PD0));
    driver.write(PD0, driver.pte(0x80_0000));
    driver
}

#[test]
fn bars_go_through_their_instance_blocks() {
    for chip in BOTH {
        let mut driver = low_space(chip);
        let unbound = driver.gpu.bar1_read(0, Width::W32).expect_err("nothing bound");
        assert_eq!((unbound.fault, unbound.client), (FaultType::UnboundInstBlock, Client::Bar1));
        bind(&mut driver, 1, ROOT | INSTANCE_BITS);
        driver.gpu.load_vram(0x80_0010, &[9, 8, 7, 6, 5, 4, 3, 2]);
        assert_eq!(driver.gpu.bar1_read(0x10, Width::W64), Ok(0x0203_0405_0607_0809));
        driver.gpu.bar1_write(0x12, Width::W16, 0x1111).expect("mapped");
        assert_eq!(driver.gpu.peek_word(TableAddr::vram(0x80_0010)), 0x0203_0405_1111_0809);
        let beyond = driver.gpu.bar1_read(1 << 50, Width::W8).expect_err("beyond the aperture");
        assert_eq!(beyond.fault, FaultType::VaLimit);
        assert!(driver.gpu.bar2_read(0, Width::W32).is_err());
        assert_eq!(driver.rules(), [Rule::BarUnbound; 2]);
        bind(&mut driver, 2, ROOT | INSTANCE_BITS);
        assert_eq!(driver.gpu.bar2_read(0x10, Width::W8), Ok(9));
        // The block was read when it was bound.
        driver.write(0x50_200, 0);
        assert_eq!(driver.gpu.bar1_read(0x10, Width::W8), Ok(9));
        assert_eq!(driver.rules(), []);
    }
}

#[test]
fn instance_blocks_that_the_chip_does_not_accept() {
    for chip in BOTH {
        for (word, good) in [
            (ROOT | INSTANCE_BITS, true),
            (ROOT | 1 << 11, chip == "gh100"),
            (ROOT | 1 << 10, false),
            (ROOT | INSTANCE_BITS | 1, false),
        ] {
            let mut driver = low_space(chip);
            bind(&mut driver, 1, word);
            let read = driver.gpu.bar1_read(0, Width::W32).map_err(|fault| fault.fault);
            assert_eq!(read, if good { Ok(0) } else { Err(FaultType::UnboundInstBlock) }, "{chip} {word:#x}");
        }
    }
}

#[test]
fn bars_in_physical_mode() {
    for (chip, high) in [("ga100", 0xb8_0f40), ("gh100", 0xb8_0f64)] {
        let mut driver = Driver::new(chip);
        write(&mut driver.gpu, high, 0);
        let status = if driver.v3 { 0xb8_0f60 } else { 0xb8_0f50 };
        assert!(driver.gpu.bar1_read(0, Width::W32).is_err(), "pending");
        while read(&mut driver.gpu, status) & 3 != 0 {}
        driver.gpu.bar1_write(0x1234_5678, Width::W32, 42).expect("physical");
        assert_eq!(driver.gpu.peek_word(TableAddr::vram(0x1234_5678)), 42);
        assert!(driver.gpu.bar1_write(2 << 30, Width::W32, 42).is_err(), "beyond the memory");
    }
}

#[test]
fn the_old_aliases_of_the_block_registers() {
    let mut driver = low_space("tu102");
    driver.write(0x50_200, ROOT | INSTANCE_BITS);
    write(&mut driver.gpu, 0x1704, 1 << 31 | 0x50);
    while read(&mut driver.gpu, 0x1710) & 3 != 0 {}
    assert_eq!(driver.gpu.bar1_read(0, Width::W32), Ok(0));
}

/// Turns fault buffer 0 on: `entries` packets at 0x60_0000 of video memory.
fn fault_buffer(gpu: &mut Gpu, entries: u32) {
    write(gpu, 0xb8_3000, 0x60_0000 | 1);
    write(gpu, 0xb8_3004, 0);
    write(gpu, 0xb8_3010, 1 << 31 | entries);
}

fn packet(gpu: &Gpu, number: u64) -> [u32; 8] {
    let mut bytes = [0; 32];
    gpu.peek_vram(0x60_0000 + 32 * number, &mut bytes);
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().unwrap_or_else(|_| panic!("four bytes")));
    }
    words
}

#[test]
fn faults_become_packets() {
    let mut driver = Driver::with_directories("gh100");
    fault_buffer(&mut driver.gpu, 4);
    driver.gpu.note_instance(pdb(), TableAddr::vram(0x12_3456_7000));
    let va = 0x12_3456_789a;
    assert!(driver.gpu.access(engine(), va, AccessKind::Write, false).is_err());
    let words = packet(&driver.gpu, 0);
    assert_eq!(words[..4], [0x3456_7000, 0x12, 0x3456_7000, 0x12]);
    // GRAPHICS of Hopper; valid, by a GPC, a write, a PDE fault.
    assert_eq!((words[6], words[7]), (384, 1 << 31 | 1 << 16));
    assert!(driver.gpu.bar1_read(0, Width::W32).is_err());
    let words = packet(&driver.gpu, 1);
    assert_eq!((words[6], words[7]), (256, 1 << 31 | 1 << 20 | 4));
    assert_eq!(read(&mut driver.gpu, 0xb8_300c), 2);
    // Three fit, the fourth overflows.
    assert!(driver.read(va).is_err() && driver.read(va).is_err());
    assert_eq!((read(&mut driver.gpu, 0xb8_300c), read(&mut driver.gpu, 0xb8_3008)), (3, 1 << 31));
    // First the pointer, then the flag.
    write(&mut driver.gpu, 0xb8_3008, 3);
    assert_eq!(read(&mut driver.gpu, 0xb8_3008), 1 << 31 | 3);
    write(&mut driver.gpu, 0xb8_3008, 1 << 31 | 3);
    assert_eq!(read(&mut driver.gpu, 0xb8_3008), 3);
    assert!(driver.read(va).is_err());
    assert_eq!(read(&mut driver.gpu, 0xb8_300c), 0, "the ring goes round");
}

#[test]
fn a_fault_without_a_buffer_stays_in_the_registers() {
    let mut driver = Driver::with_directories("ga100");
    assert!(driver.gpu.access(engine(), 0x12_3456_7000, AccessKind::Atomic, false).is_err());
    assert_eq!(read(&mut driver.gpu, 0xb8_3080), 0x3456_7000);
    assert_eq!(read(&mut driver.gpu, 0xb8_3084), 0x12);
    assert_eq!(read(&mut driver.gpu, 0xb8_3088), 64);
    assert_eq!(read(&mut driver.gpu, 0xb8_3090), 1 << 31 | 2 << 16);
}

/// nouveau asks for the size that way, and takes no buffer where it is 0.
#[test]
fn the_card_has_a_size_for_fault_buffers() {
    let mut gpu = gpu("tu102");
    for buffer in [0, 0x20] {
        write(&mut gpu, 0xb8_3010 + buffer, 1 << 30);
        assert_eq!(read(&mut gpu, 0xb8_3010 + buffer), 256);
    }
}

#[test]
fn a_fault_buffer_in_the_space_of_bar2() {
    let mut driver = low_space("gh100");
    bind(&mut driver, 2, ROOT | INSTANCE_BITS);
    write(&mut driver.gpu, 0xb8_3000, 0x3000);
    write(&mut driver.gpu, 0xb8_3010, 1 << 31 | 8);
    assert!(driver.read(1 << 40).is_err());
    assert_eq!(driver.gpu.peek_word(TableAddr::vram(0x80_3018)) >> 32, 1 << 31);
}

#[test]
fn flushes_end() {
    let mut old = gpu("ad102");
    write(&mut old, 0x7_0000, 1);
    assert_ne!(read(&mut old, 0x7_0000) & 3, 0);
    assert_eq!(read(&mut old, 0x7_0000) & 3, 0);
    let mut new = gpu("gb202");
    let token = read(&mut new, 0x10_f800);
    let first = read(&mut new, 0x10_f804);
    assert!(first >> 31 == 1 && first & 0x7fff_ffff < token);
    assert_eq!(read(&mut new, 0x10_f804), token);
}

#[test]
fn unknown_registers_read_0_and_keep_nothing() {
    let mut gpu = gpu("gh100");
    for offset in [0x4, 0x8_8000, 0xff_fffc] {
        write(&mut gpu, offset, u32::MAX);
        assert_eq!(read(&mut gpu, offset), 0);
    }
    assert_eq!(gpu.counts(), Counts { reads: 3, writes: 3, ..Counts::default() });
}
