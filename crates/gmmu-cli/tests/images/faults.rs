//! `fault` with page tables beside the log.

use serde_json::json;

use crate::common::{Ran, gmmu_with};
use crate::image::Scratch;
use crate::made::{SMALL, space};
use crate::said;

/// Where the space has its top table, and where an instance block names it.
const ROOT: u64 = 0x1000;
const INST: usize = 0x9000;

fn nouveau(inst: u64, va: u64, reason: &str) -> String {
    format!(
        "nouveau 0000:01:00.0: fifo: fault 01 [VIRT_WRITE] at {va:016x} engine 40 [gr] client 13 [GPC1/T1_3] reason \
         {reason} on channel 2 [{inst:010x} Xorg[1087]]"
    )
}

fn xid(gpu: &str, pid: u32, va: u64, kind: &str) -> String {
    format!(
        "NVRM: Xid (PCI:0000:{gpu}:00): 31, pid={pid}, name=train.py, channel 0x00000023, intr 00000000. MMU Fault: \
         ENGINE GRAPHICS GPC6 GPCCLIENT_T1_13 faulted @ 0x{:x}_{:08x}. Fault is of type FAULT_{kind} ACCESS_TYPE_VIRT_WRITE",
        va >> 32,
        va & 0xffff_ffff
    )
}

/// `fault` on these lines, with the options.
fn explain(lines: &[String], image: &Scratch, options: &[&str]) -> Ran {
    let source = ["fault", "-", "--file", image.path(), "--mmu", "v3"];
    gmmu_with(&[&source[..], options].concat(), lines.join("\n").as_bytes())
}

#[test]
fn the_instance_block_of_a_line_leads_to_its_tables() {
    let named = space(0x1_0000).word(INST + 0x200, ROOT | 1 << 11 | 1 << 10).word(0xa200, 0x2000 | 1 << 10).file();
    let ran = explain(&[nouveau(INST as u64, 0x3000, "02 [PTE]")], &named, &["--json"]);
    let walk = &ran.json()["faults"][0]["walk"];
    assert_eq!((ran.code, &walk["root"], &walk["result"]), (0, &json!("vram:0x000000001000"), &json!("unmapped")));
    // Every line has its own block, and an option counts more than all of them.
    let lines = [INST as u64, 0xa000].map(|inst| nouveau(inst, 0x3000, "02 [PTE]"));
    let root = |options: &[&str], n: usize| {
        explain(&lines, &named, &[options, &["--json"]].concat()).json()["faults"][n]["walk"]["root"].clone()
    };
    assert_eq!((root(&[], 0), root(&[], 1)), (json!("vram:0x000000001000"), json!("vram:0x000000002000")));
    assert_eq!(root(&["--root", "0x1000"], 1), json!("vram:0x000000001000"));
    // A block that is not in the image is named.
    let lost = explain(&[nouveau(0x00ff_8b90_0000, 0x3000, "02 [PTE]")], &named, &[]);
    assert_eq!(lost.code, 3);
    assert!(lost.err.contains("the instance block vram:0x00ff8b900000"), "{}", lost.err);
    // Beside it, a line that names none has no tables here.
    let mixed = [xid("2b", 7, 0x3000, "PTE"), nouveau(INST as u64, 0x3000, "02 [PTE]")];
    let ran = explain(&mixed, &named, &["--json"]);
    let walked: Vec<_> = (0..2).map(|n| ran.json()["faults"][n].get("walk").is_some()).collect();
    assert_eq!(walked, [false, true]);
    assert!(ran.err.contains("1 fault not looked up: the line does not say whose tables"), "{}", ran.err);
    // NVIDIA's lines name none.
    let xid = explain(&[xid("2b", 7, 0x3000, "PTE")], &named, &[]);
    assert_eq!(xid.code, 2);
    assert!(xid.err.contains("where is the top table?"), "{}", xid.err);
}

#[test]
fn where_line_and_tables_disagree_it_is_said() {
    let image = space(0x1_0000).file();
    let read_only = space(0x1_0000).word(SMALL, 0x10_0000 | 0x601 | 1 << 5).file();
    for (image, va, kind, says) in [
        (&image, 0x3000, "PTE", "These tables say the same as the line."),
        (&image, 0x40_0000, "PDE", "These tables say the same as the line."),
        (&image, 0x3000, "PDE", "the last entry is"),
        (&image, 0x40_0000, "PTE", "here even its table is"),
        (&image, 0, "PTE", "these tables map it. Perhaps they were changed after the fault"),
        (&image, 0, "RO_VIOLATION", "these tables let it be written"),
        (&read_only, 0, "RO_VIOLATION", "These tables say the same as the line."),
        (&image, 0x3000, "RO_VIOLATION", "these tables map none"),
        (&image, 0, "PRIV_VIOLATION", "in these tables it is not"),
        (&image, 0, "ATOMIC_VIOLATION", "it is the bus or the memory behind it"),
    ] {
        let lines = [xid("2b", 7, va, kind)];
        let ran = explain(&lines, image, &["--root", "0x1000"]);
        assert!(said(&ran.out).contains(says), "{va:#x} {kind}: {}", ran.out);
        assert!(!ran.out.contains("With an image of the page tables"), "who has one need not be told: {}", ran.out);
        let json = explain(&lines, image, &["--root", "0x1000", "--json"]).json();
        assert!(json["faults"][0]["compared"].as_str().is_some_and(|text| text.contains(says)), "{json}");
    }
}

#[test]
fn tables_are_of_one_process_on_one_gpu() {
    let image = space(0x1_0000).file();
    let lines = [xid("2b", 7, 0x3000, "PTE"), xid("3b", 7, 0x3000, "PTE"), xid("2b", 8, 0x3000, "PTE")];
    let ran = explain(&lines, &image, &["--root", "0x1000", "--json"]);
    let report = ran.json();
    let walked: Vec<_> = (0..3).map(|n| report["faults"][n].get("walk").is_some()).collect();
    assert_eq!(walked, [true, false, false]);
    assert!(ran.err.contains("2 faults of others not looked up"), "{}", ran.err);
    assert!(ran.err.contains("GPU 0000:2b:00, process 7"), "{}", ran.err);
}
