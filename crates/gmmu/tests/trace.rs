//! A driver's accesses, written down and done again: the same memory, and the same judgement.
#![expect(clippy::unwrap_used, reason = "tests")]

use gmmu::addr::{PageSize, PhysAddr, VramAddr};
use gmmu::chip::Chip;
use gmmu::device::Width;
use gmmu::format::{Format, V2, V3};
use gmmu::mmio::Mmio;
use gmmu::vmm::{Extent, MapRequest, SpaceConfig, Span, Use, Vmm};
use gmmu::vram::{TablePages, Vram};
use gmmu_sim::trace::{Event, Recorder, Replay, Tape, Trace, Way};
use gmmu_sim::{Config, Gpu};
use std::fmt::Write as _;
use std::io::Write;
use std::sync::{Arc, Mutex};

/// Where a test finds what was written.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const VA: u64 = 4 << 30;
const DATA: u64 = 8 << 30;

/// A driver's run: maps, an access, an unmap, and an access that has to fault. Returns the trace and the card.
fn record<F: Format>(chip: &str) -> (String, Gpu) {
    let config = Config::chip(chip);
    let paper = Paper::default();
    let tape = Tape::new(paper.clone(), chip, config.vram);
    let mut card = Mmio::probe(Recorder::new(Gpu::new(&config).unwrap(), tape.clone())).unwrap();
    let mut vram = Vram::new(&[VramAddr::new(1 << 20)..VramAddr::new(64 << 20)]).unwrap();
    let mut pages = TablePages::for_vram(&vram).unwrap();
    let mut pool = Recorder::new(pages.pool(&mut vram), tape.clone());
    let space = SpaceConfig::new(Chip::by_name(chip).unwrap(), config.vram, Use::Channel);
    let mut vmm = Vmm::<F>::create(space, &mut card, &mut pool).unwrap();
    let root = vmm.pdb();
    tape.note(&Event::Root(root));
    for (label, page) in [("map small", PageSize::Size4K), ("map large", PageSize::Size2M)] {
        tape.label(label);
        let extents = [Extent { to: PhysAddr::vram(DATA), bytes: 4 << 20 }];
        let at = if page == PageSize::Size4K { VA } else { VA + (1 << 30) };
        vmm.map_pages(&mut card, &mut pool, &MapRequest::extents(&extents).page(page).at(at), &[]).unwrap();
        tape.note(&Event::Access(root, at + 0x1000, false));
    }
    tape.note(&Event::Access(root, VA + 0x1000, false));
    tape.label("unmap small");
    vmm.unmap_pages(&mut card, &mut pool, Span::new(VA..VA + 0x3000)).unwrap();
    tape.note(&Event::Access(root, VA + 0x1000, false));
    tape.finish().unwrap();
    let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
    drop(vmm);
    let gpu = std::mem::replace(card.bar0().inner(), Gpu::new(&config).unwrap());
    (text, gpu)
}

fn replay(text: &str) -> Replay {
    let trace = Trace::read(text).unwrap();
    let mut replay = Replay::new(&trace.config(Config::default())).unwrap();
    replay.run(&trace);
    replay
}

fn pages(gpu: &Gpu) -> Vec<(u64, [u8; 4096])> {
    gpu.vram_pages().collect()
}

fn same_memory<F: Format>(chip: &str) {
    let (text, recorded) = record::<F>(chip);
    let mut again = replay(&text);
    assert_eq!((again.learned(), again.refused(), again.differences()), (0, 0, (&[][..], 0)));
    assert!(again.gpu().findings().is_empty(), "{:?}", again.gpu().findings());
    assert!(pages(&recorded).len() > 3);
    assert_eq!(pages(again.gpu()), pages(&recorded));
    assert_eq!(again.gpu().counts(), recorded.counts());
}

#[test]
fn what_was_recorded_is_done_again_to_the_last_word() {
    same_memory::<V3>("gh100");
    same_memory::<V2>("ga102");
}

#[test]
fn every_line_of_a_trace_reads_as_it_was_written() {
    let (text, _) = record::<V3>("gh100");
    let trace = Trace::read(&text).unwrap();
    for (line, event) in &trace.events {
        assert_eq!(text.lines().nth(line - 1).unwrap(), event.to_string());
    }
    for (bad, why) in [
        ("gmmu-trace 2", "line 1: this is no trace: one begins with \"gmmu-trace 1\""),
        ("gmmu-trace 1\nw33 0x0 0x0", "line 2: \"w33\" is no event"),
        ("gmmu-trace 1\nw32 0x0", "line 2: a number is missing"),
        ("gmmu-trace 1\n# x\nw32 zz 0x0", "line 3: \"zz\" is no number of 64 bits; hex begins with 0x"),
        ("gmmu-trace 1\nw32 0x100000000 0x0", "line 2: 0x100000000 is beyond BAR0"),
        ("gmmu-trace 1\nw64 0x0 0x0 +0x1 *9999999", "line 2: more than 1048576 words"),
        ("gmmu-trace 1\nroot 0x1000", "line 2: \"0x1000\" says no memory: write vram:0x…"),
        ("gmmu-trace 1\norder now", "line 2: \"now\" is too much"),
    ] {
        assert_eq!(Trace::read(bad).unwrap_err().to_string(), why);
    }
}

/// The trace without the last invalidate's trigger: a driver that forgot to flush.
fn without_last_flush(text: &str) -> String {
    let trigger = |line: &&str| line.starts_with("w32 0x00b830b0");
    let last = text.lines().filter(trigger).count() - 1;
    let mut seen = 0;
    let kept = text.lines().filter(|line| {
        seen += usize::from(trigger(line));
        !(trigger(line) && seen == last + 1)
    });
    kept.fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn a_flush_that_is_missing_from_a_trace_is_found_and_told_by_its_lines() {
    let (text, _) = record::<V3>("gh100");
    let broken = without_last_flush(&text);
    let mut replay = replay(&broken);
    let findings = replay.gpu().take_findings();
    assert_eq!(findings.len(), 1, "{findings:?}");
    let finding = &findings[0];
    assert_eq!(finding.rule.id(), "stale-leaf");
    let (changed, about) = replay.place(finding.changed_op.unwrap()).unwrap();
    assert_eq!(about, Some("unmap small"));
    assert!(broken.lines().nth(changed - 1).unwrap().starts_with("w64 0x007"), "line {changed}");
    let (cached, about) = replay.place(finding.cached_op.unwrap()).unwrap();
    assert_eq!(about, Some("map large"), "the last label before the access");
    assert!(broken.lines().nth(cached - 1).unwrap().starts_with("access"), "line {cached}");
}

/// The same accesses as mmiotrace writes them down, for a card whose BAR0 is at 0xf6000000.
fn as_mmiotrace(trace: &Trace) -> String {
    let mut log = String::from(
        "VERSION 20070824\n\
         PCIDEV 0101 10de22ba 1c fb000000 0 0 0 0 0 0 4000 0 0 0 0 0 0 snd_hda_intel\n\
         PCIDEV 0100 10de2330 1b f6000000 e000000c 0 f000000c 0 e001 f7000002 1000000 10000000 0 2000000 0 80 80000 driver\n\
         MAP 17.0 1 0xf6000000 0xffffc90000000000 0x1000000 0x0 0\n",
    );
    let mut line = |way: char, width: u32, at: u64, value: u64| {
        writeln!(log, "{way} {width} 17.1 1 {at:#x} {value:#x} 0x0 0").unwrap();
    };
    line('R', 4, 0xf600_0000, 0x1800_00a1);
    line('R', 4, 0xf600_0000 + 0x11_83a4, 96 << 10);
    line('R', 4, 0xfe00_0000, 7);
    for (_, event) in &trace.events {
        match event {
            Event::Read(at, width, value) => line('R', width.bytes(), 0xf600_0000 + u64::from(*at), *value),
            Event::Write(at, width, value) => line('W', width.bytes(), 0xf600_0000 + u64::from(*at), *value),
            Event::WriteRun(Way::Bar0, at, Width::W64, run) => {
                for (at, word) in (*at..).step_by(8).zip(run.words()) {
                    line('W', 4, 0xf600_0000 + at, word & 0xffff_ffff);
                    line('W', 4, 0xf600_0000 + at + 4, word >> 32);
                }
            }
            Event::Label(_) | Event::Root(_) | Event::Taken(..) | Event::Freed(..) | Event::Access(..) => {}
            other => unreachable!("{other}"),
        }
    }
    log
}

#[test]
fn a_log_of_mmiotrace_leads_to_the_same_tables() {
    let (text, recorded) = record::<V3>("gh100");
    let log = as_mmiotrace(&Trace::read(&text).unwrap());
    let trace = Trace::read_mmiotrace(&log).unwrap();
    assert_eq!((trace.chip.as_deref(), trace.vram), (Some("gh100"), Some(96 << 30)));
    assert!(trace.notes.iter().any(|note| note == "left out, accesses elsewhere: 1"), "{:?}", trace.notes);
    let mut replay = Replay::new(&trace.config(Config::default())).unwrap();
    replay.run(&trace);
    assert_eq!((replay.refused(), replay.differences()), (0, (&[][..], 0)));
    // What the log does not show, memory that was taken for tables and holds garbage, is not there.
    let of_tables = |gpu: &Gpu| {
        let root = gpu.vram_pages().next().unwrap();
        root.1
    };
    assert_eq!(of_tables(replay.gpu()), of_tables(&recorded));
    assert!(replay.gpu().counts().invalidates >= 3);
    for (bad, why) in [
        ("W 4 1.0 1 0xf6000000 0x0 0x0 0", "line 1: an access before any NVIDIA GPU was named (PCIDEV)"),
        ("VERSION 20070824", "line 1: the log names no NVIDIA GPU (no PCIDEV line with vendor 10de)"),
        ("PCIDEV 0100 10de2330 1b f6000000", "line 1: the line is cut short"),
    ] {
        assert_eq!(Trace::read_mmiotrace(bad).unwrap_err().to_string(), why);
    }
}

#[test]
fn memory_that_was_there_before_is_learned_and_what_does_not_agree_is_told() {
    let text = "gmmu-trace 1\nchip gh100\nvram 0x1800000000\n\
                w32 0x0010fd40 0x0\n\
                r32 0x00700100 0xcafe\n\
                r32 0x00700100 0xcafe\n\
                w32 0x00700200 0x1\n\
                r32 0x00700200 0x2\n\
                w32 0xffffff00 0x2\n";
    let mut replay = replay(text);
    let mut word = [0; 4];
    replay.gpu().peek_vram(0x100, &mut word);
    assert_eq!((u32::from_le_bytes(word), replay.learned(), replay.refused()), (0xcafe, 1, 1));
    let (told, more) = replay.differences();
    assert_eq!((told.len(), more), (1, 0));
    assert_eq!(told[0], "line 8: the driver read 0x2 at vram:0x000000000200, where the trace has written 0x1");
}
