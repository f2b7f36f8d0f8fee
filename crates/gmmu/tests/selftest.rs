//! The self-tests on the software GPU: all pass on every chip, and each of them fails on a GPU that is broken its way.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::allow_attributes, reason = "tests")]

use gmmu::device::{Bar0, Clock, DeviceError, Run, Width};
use gmmu::selftest::pramin::run;
use gmmu::selftest::{Check, SelftestError, Sight, Tally};
use gmmu_sim::{Bus, Config, Gpu};
use std::collections::BTreeSet;
use std::ops::Range;

const MIB: u64 = 1 << 20;
const WINDOW: Range<u32> = 0x70_0000..0x80_0000;
/// `NV_XAL_EP_ZB_BAR0_WINDOW`.
const MOVE: u32 = 0x10_fd40;

fn checks<B: Bar0 + Clock>(bar0: B, memory: Range<u64>) -> (Vec<Check>, Tally) {
    let mut checks = Vec::new();
    let tally = run(bar0, memory, |check| checks.push(check.clone())).unwrap();
    (checks, tally)
}

fn gpu(chip: &str, vram: u64, bus: Bus) -> Gpu {
    Gpu::new(&Config { vram, bus, ..Config::chip(chip) }).unwrap()
}

#[test]
fn all_discrete_chips_pass() {
    for chip in Gpu::chips().iter().filter(|chip| !chip.integrated) {
        for bus in [Bus::Bits64, Bus::Bits32] {
            let mut gpu = gpu(chip.name, 1024 * MIB, bus);
            let (checks, tally) = checks(&mut gpu, 1020 * MIB..1024 * MIB);
            for check in &checks {
                assert!(check.passed, "{} {bus:?}: {check:?}", chip.name);
            }
            assert_eq!(tally, Tally { passed: 16, failed: 0 });
            assert!(gpu.findings().is_empty(), "{:?}", gpu.findings());
        }
    }
}

#[test]
fn memory_and_window_are_as_before() {
    for bus in [Bus::Bits64, Bus::Bits32] {
        let mut gpu = gpu("gh100", 64 * MIB, bus);
        let mut before = vec![0; 12 << 20];
        for (n, byte) in before.iter_mut().enumerate() {
            *byte = ((n * 7) >> 3) as u8;
        }
        gpu.load_vram(0, &before);
        gpu.write32(MOVE, 0x12).unwrap();
        // Not aligned to anything in particular.
        let (_, tally) = checks(&mut gpu, 4 * MIB + 0x123..9 * MIB);
        assert_eq!(tally.failed, 0);
        let mut after = vec![0; 12 << 20];
        gpu.peek_vram(0, &mut after);
        assert!(before == after, "memory was changed");
        assert_eq!(gpu.read32(MOVE), Ok(0x12));
    }
}

#[test]
fn nothing_outside_of_the_memory_is_written() {
    let mut guard = Broken::new(Fault::Nothing);
    let (_, tally) = checks(&mut guard, 8 * MIB..12 * MIB);
    assert_eq!(tally.failed, 0);
    assert!(guard.written.iter().all(|at| (8 * MIB..12 * MIB).contains(at)), "{:?}", guard.written);
    assert!(guard.written.len() > 8);
}

#[test]
fn memory_that_is_not_there_is_refused() {
    let bad = [0..4 * MIB - 1, 61 * MIB..65 * MIB, Range { start: 8 * MIB, end: 4 * MIB }, u64::MAX - 1..u64::MAX];
    for memory in bad {
        let mut gpu = gpu("tu102", 63 * MIB, Bus::Bits64);
        let answer = run(&mut gpu, memory.clone(), |_| ());
        assert!(matches!(answer, Err(SelftestError::Memory { .. })), "{memory:?}: {answer:?}");
        assert_eq!(gpu.counts().writes, 0);
    }
}

/// In which way a GPU is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// Moves of the window from the n-th on are lost.
    MoveLost(u32),
    /// The register of the window keeps twelve bits alone.
    HighBitsOfMoveLost,
    /// Somebody else moves the window after so many accesses.
    Moved(u32),
    /// Bit 0 reads as 1 in every byte.
    BitStuck,
    /// 32-bit accesses have their bytes turned round.
    BytesTurned,
    /// 64-bit accesses have their halves turned round.
    HalvesTurned,
    /// Misaligned accesses do something.
    AnyAlignment,
    /// Runs of words come out with another step.
    RunWrong,
    /// Accesses behind the window's end go to its start.
    Wraps,
    /// Stores are lost from the n-th on.
    StoresLost(u32),
    /// The card leaves the bus after so many accesses.
    Gone(u32),
}

/// A GPU with a fault, which knows where it was written.
struct Broken {
    gpu: Gpu,
    fault: Fault,
    moves: u32,
    stores: u32,
    accesses: u32,
    base: u64,
    written: Vec<u64>,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        let gpu = gpu("gh100", 1024 * MIB, Bus::Bits64);
        Self { gpu, fault, moves: 0, stores: 0, accesses: 0, base: 0, written: Vec::new() }
    }

    fn count(&mut self, offset: u32) -> Result<(), DeviceError> {
        self.accesses += 1;
        match self.fault {
            Fault::Gone(n) if self.accesses > n => Err(DeviceError::Gone { offset, value: u32::MAX }),
            Fault::Moved(n) if self.accesses == n => self.gpu.write32(MOVE, 0x77),
            _ => Ok(()),
        }
    }

    fn turned(&self, width: Width, value: u64) -> u64 {
        match (self.fault, width) {
            (Fault::BytesTurned, Width::W32) => u64::from((value as u32).swap_bytes()),
            (Fault::HalvesTurned, Width::W64) => value.rotate_left(32),
            _ => value,
        }
    }

    fn place(&self, offset: u32, width: Width) -> u32 {
        match self.fault {
            Fault::AnyAlignment => offset & !(width.bytes() - 1),
            Fault::Wraps if offset >= 0x7f_fff0 => offset - 0xf_fff0,
            _ => offset,
        }
    }
}

impl Bar0 for Broken {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        self.count(offset)?;
        if !WINDOW.contains(&offset) {
            return self.gpu.read(offset, width);
        }
        let value = self.gpu.read(self.place(offset, width), width)?;
        let value = if self.fault == Fault::BitStuck { value | 1 } else { value };
        Ok(self.turned(width, value))
    }

    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        self.count(offset)?;
        if !WINDOW.contains(&offset) {
            self.moves += 1;
            let value = match self.fault {
                Fault::MoveLost(n) if self.moves > n => return Ok(()),
                Fault::HighBitsOfMoveLost => value & 0xfff,
                _ => value,
            };
            self.base = value << 16;
            return self.gpu.write(offset, width, value);
        }
        self.stores += 1;
        if matches!(self.fault, Fault::StoresLost(n) if self.stores > n) {
            return Ok(());
        }
        if offset % width.bytes() == 0 {
            self.written.push(self.base + u64::from(offset - WINDOW.start));
        }
        let value = self.turned(width, value);
        self.gpu.write(self.place(offset, width), width, value)
    }

    fn has_64bit(&self) -> bool {
        true
    }

    fn write_run(&mut self, offset: u32, run: Run) -> Result<(), DeviceError> {
        let step = if self.fault == Fault::RunWrong { run.step + 1 } else { run.step };
        for (n, word) in (0..).zip((Run { step, ..run }).words()) {
            self.write(offset + 8 * n, Width::W64, word)?;
        }
        Ok(())
    }
}

impl Clock for Broken {
    fn now_us(&mut self) -> u64 {
        self.gpu.now_us()
    }
    fn relax(&mut self) {
        self.gpu.relax();
    }
}

fn failed(fault: Fault) -> BTreeSet<&'static str> {
    let (checks, tally) = checks(&mut Broken::new(fault), 512 * MIB..520 * MIB);
    assert_eq!((checks.len(), tally.passed + tally.failed), (16, 16), "{fault:?}");
    let failed: BTreeSet<_> = checks.iter().filter(|check| !check.passed).map(|check| check.name).collect();
    assert_eq!(failed.len(), tally.failed as usize, "{fault:?}");
    failed
}

#[test]
fn faults_are_told_apart() {
    for (fault, names) in [
        (Fault::Nothing, vec![]),
        (Fault::BytesTurned, vec!["a 32-bit word is little-endian", "the low half of a word comes first"]),
        (Fault::HalvesTurned, vec!["the low half of a word comes first"]),
        (Fault::RunWrong, vec!["a run of words across the window's border"]),
        (
            Fault::AnyAlignment,
            vec![
                "a misaligned 16-bit write is refused",
                "a misaligned 32-bit write is refused",
                "a misaligned 64-bit read is refused",
            ],
        ),
    ] {
        assert_eq!(failed(fault), BTreeSet::from_iter(names), "{fault:?}");
    }
}

#[test]
fn every_check_can_fail() {
    let mut all = BTreeSet::new();
    let mut faults = vec![Fault::HighBitsOfMoveLost, Fault::BitStuck, Fault::BytesTurned, Fault::HalvesTurned];
    faults.extend([Fault::AnyAlignment, Fault::RunWrong, Fault::Wraps]);
    for n in 0..80 {
        faults.extend([Fault::MoveLost(n), Fault::StoresLost(n), Fault::Moved(5 + n), Fault::Gone(8 + n)]);
    }
    for fault in faults {
        all.append(&mut failed(fault));
    }
    let names: BTreeSet<_> =
        checks(&mut Broken::new(Fault::Nothing), 512 * MIB..520 * MIB).0.iter().map(|check| check.name).collect();
    assert_eq!(all, names);
}

#[test]
fn what_fails_is_said() {
    let (checks, _) = checks(&mut Broken::new(Fault::BytesTurned), 512 * MIB..520 * MIB);
    let check = checks.iter().find(|check| check.name == "a 32-bit word is little-endian").unwrap();
    assert_eq!(check.expected.to_string(), "ef be ad de");
    assert_eq!(check.seen.to_string(), "de ad be ef");
}

#[test]
fn nothing_is_written_where_nothing_could_be_set_aside() {
    let mut broken = Broken::new(Fault::MoveLost(0));
    let (checks, tally) = checks(&mut broken, 512 * MIB..520 * MIB);
    assert!(broken.written.is_empty(), "{:?}", broken.written);
    assert!(checks.iter().filter(|check| check.seen == Sight::NotTried).count() >= 8, "{checks:?}");
    assert!(tally.failed >= 9);
}
