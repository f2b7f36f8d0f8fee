//! `fault` on the lines of many drivers and architectures: what each says, and nothing that it does not say.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::Write;

use common::gmmu_with;
use serde_json::{Value, json};

/// A line, and what it says: card, address, type, access, engine, unit, cluster, channel, process.
struct Line(&'static str, [&'static str; 9]);

const NONE: &str = "-";

/// Drivers 418 to 595, Pascal to Blackwell, in whole prefixes and bare.
const LINES: &[Line] = &[
    Line(
        "NVRM: Xid (PCI:0000:2b:00): 31, pid=4242, name=train.py, channel 0x00000023, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC6 GPCCLIENT_T1_13 faulted @ 0x6f17_04027000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_WRITE",
        [
            "0000:2b:00",
            "0x6f1704027000",
            "FAULT_PDE",
            "ACCESS_TYPE_VIRT_WRITE",
            "GRAPHICS",
            "GPCCLIENT_T1_13",
            "6",
            "35",
            "train.py",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:01:00): 31, pid=169800, name=chrome, Ch 00000023, intr 00000000. MMU Fault: ENGINE CE0 HUBCLIENT_HSCE0 faulted @ 0x0_0abe0000. Fault is of type FAULT_PTE ACCESS_TYPE_VIRT_READ",
        [
            "0000:01:00",
            "0x00000abe0000",
            "FAULT_PTE",
            "ACCESS_TYPE_VIRT_READ",
            "CE0",
            "HUBCLIENT_HSCE0",
            NONE,
            "35",
            "chrome",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:81:00): 31, Ch 00000010, intr 00000000. MMU Fault: ENGINE CE2 HUBCLIENT_CE0 faulted @ 0x7f29_5b8c9000. Fault is of type FAULT_PRIV_VIOLATION ACCESS_TYPE_VIRT_READ",
        [
            "0000:81:00",
            "0x7f295b8c9000",
            "FAULT_PRIV_VIOLATION",
            "ACCESS_TYPE_VIRT_READ",
            "CE2",
            "HUBCLIENT_CE0",
            NONE,
            "16",
            NONE,
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:0a:00): 31, pid='<unknown>', name=<unknown>, Ch 00000009, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_3 faulted @ 0x7fb2_00000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ",
        [
            "0000:0a:00",
            "0x7fb200000000",
            "FAULT_PDE",
            "ACCESS_TYPE_VIRT_READ",
            "GRAPHICS",
            "GPCCLIENT_T1_3",
            NONE,
            "9",
            NONE,
        ],
    ),
    Line(
        "[12345.678901] NVRM: Xid (PCI:0000:3b:00): 31, Ch 00000018, intr 10000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_GPCCS faulted @ 0x1_26b0c000. Fault is of type FAULT_PTE ACCESS_TYPE_READ",
        [
            "0000:3b:00",
            "0x000126b0c000",
            "FAULT_PTE",
            "ACCESS_TYPE_VIRT_READ",
            "GRAPHICS",
            "GPCCLIENT_GPCCS",
            NONE,
            "24",
            NONE,
        ],
    ),
    Line(
        "kernel: NVRM: Xid (PCI:0000:65:00): 31, pid=99, name=ollama_llama_se, Ch 0000000c, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted @ 0x7f6d_d4000000. Fault is of type FAULT_PTE ACCESS_TYPE_VIRT_ATOMIC",
        [
            "0000:65:00",
            "0x7f6dd4000000",
            "FAULT_PTE",
            "ACCESS_TYPE_VIRT_ATOMIC",
            "GRAPHICS",
            "GPCCLIENT_T1_0",
            NONE,
            "12",
            "ollama_llama_se",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:c1:00 GPU-I:05): 31, pid=7, name=python3, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_1 faulted @ 0x7f00_00000000. Fault is of type FAULT_RO_VIOLATION ACCESS_TYPE_VIRT_WRITE",
        [
            "0000:c1:00",
            "0x7f0000000000",
            "FAULT_RO_VIOLATION",
            "ACCESS_TYPE_VIRT_WRITE",
            "GRAPHICS",
            "GPCCLIENT_T1_1",
            NONE,
            "8",
            "python3",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:000f:01:00): 31, pid=2001, name=nv_fault, channel 0x00000002, intr 00000000. MMU Fault: ENGINE CE3 HUBCLIENT_CE3 faulted @ 0x4_00000000. Fault is of type FAULT_PTE ACCESS_TYPE_VIRT_WRITE",
        [
            "000f:01:00",
            "0x000400000000",
            "FAULT_PTE",
            "ACCESS_TYPE_VIRT_WRITE",
            "CE3",
            "HUBCLIENT_CE3",
            NONE,
            "2",
            "nv_fault",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:01:00): 31, pid=1500, name=ffmpeg, Ch 00000030, intr 00000000. MMU Fault: ENGINE NVDEC0 HUBCLIENT_NVDEC0 faulted @ 0x0_10203000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ",
        [
            "0000:01:00",
            "0x000010203000",
            "FAULT_PDE",
            "ACCESS_TYPE_VIRT_READ",
            "NVDEC0",
            "HUBCLIENT_NVDEC0",
            NONE,
            "48",
            "ffmpeg",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:01:00): 31, pid=1501, name=obs, Ch 00000031, intr 00000000. MMU Fault: ENGINE NVENC0 HUBCLIENT_NVENC0 faulted @ 0x0_10204000. Fault is of type FAULT_PTE ACCESS_TYPE_VIRT_WRITE",
        [
            "0000:01:00",
            "0x000010204000",
            "FAULT_PTE",
            "ACCESS_TYPE_VIRT_WRITE",
            "NVENC0",
            "HUBCLIENT_NVENC0",
            NONE,
            "49",
            "obs",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:01:00): 31, pid=800, name=Xorg, Ch 00000001, intr 00000000. MMU Fault: ENGINE HOST7 HUBCLIENT_HOST faulted @ 0x1_01010000. Fault is of type FAULT_UNBOUND_INST_BLOCK ACCESS_TYPE_VIRT_READ",
        [
            "0000:01:00",
            "0x000101010000",
            "FAULT_UNBOUND_INST_BLOCK",
            "ACCESS_TYPE_VIRT_READ",
            "HOST7",
            "HUBCLIENT_HOST",
            NONE,
            "1",
            "Xorg",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:17:00): 31, pid=3, name=a, channel 0x00000040, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC0 GPCCLIENT_PROP_0 faulted @ 0x7fff_fffff000. Fault is of type FAULT_VA_LIMIT_VIOLATION ACCESS_TYPE_VIRT_WRITE",
        [
            "0000:17:00",
            "0x7ffffffff000",
            "FAULT_VA_LIMIT_VIOLATION",
            "ACCESS_TYPE_VIRT_WRITE",
            "GRAPHICS",
            "GPCCLIENT_PROP_0",
            "0",
            "64",
            "a",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:17:00): 31, pid=3, name=a, channel 0x00000041, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC1 GPCCLIENT_T1_9 faulted @ 0x7f12_34567000. Fault is of type FAULT_INFO_TYPE_POISONED ACCESS_TYPE_VIRT_READ",
        [
            "0000:17:00",
            "0x7f1234567000",
            "FAULT_INFO_TYPE_POISONED",
            "ACCESS_TYPE_VIRT_READ",
            "GRAPHICS",
            "GPCCLIENT_T1_9",
            "1",
            "65",
            "a",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:17:00): 31, pid=3, name=a, channel 0x00000042, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC2 GPCCLIENT_T1_2 faulted @ 0x7f12_34568000. Fault is of type FAULT_INFO_TYPE_ATOMIC_VIOLATION ACCESS_TYPE_VIRT_ATOMIC",
        [
            "0000:17:00",
            "0x7f1234568000",
            "FAULT_INFO_TYPE_ATOMIC_VIOLATION",
            "ACCESS_TYPE_VIRT_ATOMIC",
            "GRAPHICS",
            "GPCCLIENT_T1_2",
            "2",
            "66",
            "a",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:17:00): 31, pid=3, name=a, Ch 00000043, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_2 faulted @ 0x7f12_34569000. Fault is of type FAULT_INFO_TYPE_UNSUPPORTED_KIND ACCESS_TYPE_VIRT_READ",
        [
            "0000:17:00",
            "0x7f1234569000",
            "FAULT_INFO_TYPE_UNSUPPORTED_KIND",
            "ACCESS_TYPE_VIRT_READ",
            "GRAPHICS",
            "GPCCLIENT_T1_2",
            NONE,
            "67",
            "a",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:17:00): 31, pid=3, name=a, channel 0x00000044, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC3 GPCCLIENT_T1_2 faulted @ 0x7f12_3456a000. Fault is of type FAULT_CC_VIOLATION ACCESS_TYPE_VIRT_READ",
        [
            "0000:17:00",
            "0x7f123456a000",
            "FAULT_CC_VIOLATION",
            "ACCESS_TYPE_VIRT_READ",
            "GRAPHICS",
            "GPCCLIENT_T1_2",
            "3",
            "68",
            "a",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:17:00): 31, pid=3, name=a, Ch 00000045, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_2 faulted @ 0x7f12_3456b000. Fault is of type FAULT_COMPRESSION_FAILURE ACCESS_TYPE_VIRT_READ",
        [
            "0000:17:00",
            "0x7f123456b000",
            "FAULT_COMPRESSION_FAILURE",
            "ACCESS_TYPE_VIRT_READ",
            "GRAPHICS",
            "GPCCLIENT_T1_2",
            NONE,
            "69",
            "a",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:17:00): 31, pid=3, name=a, Ch 00000046, intr 00000000. MMU Fault: ENGINE GRAPHICS UNRECOGNIZED_CLIENT faulted @ 0x7f12_3456c000. Fault is of type UNRECOGNIZED_FAULT UNRECOGNIZED_ACCESS_TYPE",
        [
            "0000:17:00",
            "0x7f123456c000",
            "UNRECOGNIZED_FAULT",
            "UNRECOGNIZED_ACCESS_TYPE",
            "GRAPHICS",
            "UNRECOGNIZED_CLIENT",
            NONE,
            "70",
            "a",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:17:00): 31, pid=3, name=a b, c, Ch 00000047, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_5 faulted @ 0x0_00000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_WRITE",
        [
            "0000:17:00",
            "0x000000000000",
            "FAULT_PDE",
            "ACCESS_TYPE_VIRT_WRITE",
            "GRAPHICS",
            "GPCCLIENT_T1_5",
            NONE,
            "71",
            "a b, c",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:17:00): 31, pid=3, name=a, channel 0x00000048, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC7 GPCCLIENT_T1_5 faulted @ 0x1fffff1_23456000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_PREFETCH",
        [
            "0000:17:00",
            "0x1fffff123456000",
            "FAULT_PDE",
            "ACCESS_TYPE_VIRT_PREFETCH",
            "GRAPHICS",
            "GPCCLIENT_T1_5",
            "7",
            "72",
            "a",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:17:00): 31, pid=3, name=a, Ch 00000049, intr 00000000. MMU Fault: ENGINE PHYSICAL HUBCLIENT_FE faulted @ 0x0_80000000. Fault is of type FAULT_INFO_TYPE_REGION_VIOLATION ACCESS_TYPE_PHYS_READ",
        [
            "0000:17:00",
            "0x000080000000",
            "FAULT_INFO_TYPE_REGION_VIOLATION",
            "ACCESS_TYPE_PHYS_READ",
            "PHYSICAL",
            "HUBCLIENT_FE",
            NONE,
            "73",
            "a",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:17:00): 31, pid=3, name=a, Ch 0000004a, intr 00000000. MMU Fault: ENGINE BAR1 HUBCLIENT_HOST_CPU faulted @ 0x0_12345000. Fault is of type FAULT_PTE ACCESS_TYPE_VIRT_READ",
        [
            "0000:17:00",
            "0x000012345000",
            "FAULT_PTE",
            "ACCESS_TYPE_VIRT_READ",
            "BAR1",
            "HUBCLIENT_HOST_CPU",
            NONE,
            "74",
            "a",
        ],
    ),
    Line(
        "NVRM: Xid (PCI:0000:17:00): 31, pid=3, name=a, Ch 0000004b, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_5 faulted @ 0x7f00_12345000. Fault is of type FAULT_UNSUPPORTED_APERTURE ACCESS_TYPE_VIRT_READ",
        [
            "0000:17:00",
            "0x7f0012345000",
            "FAULT_UNSUPPORTED_APERTURE",
            "ACCESS_TYPE_VIRT_READ",
            "GRAPHICS",
            "GPCCLIENT_T1_5",
            NONE,
            "75",
            "a",
        ],
    ),
    Line(
        "nouveau 0000:01:00.0: fifo: fault 01 [VIRT_WRITE] at 0000000000123000 engine 40 [gr] client 13 [GPC1/T1_3] reason 02 [PTE] on channel 2 [00ff8b9000 Xorg[1087]]",
        [
            "0000:01:00.0",
            "0x000000123000",
            "FAULT_PTE",
            "ACCESS_TYPE_VIRT_WRITE",
            "gr",
            "GPCCLIENT_T1_3",
            "1",
            "2",
            "Xorg",
        ],
    ),
];

fn text(value: &Value) -> String {
    match value {
        Value::Null => NONE.to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn said(fault: &Value) -> Vec<String> {
    ["gpu", "va", "type", "access", "engine", "client", "gpc", "channel", "name"].map(|key| text(&fault[key])).to_vec()
}

#[test]
fn every_dialect_is_read() {
    assert!(LINES.len() >= 23);
    for Line(line, expected) in LINES {
        let ran = gmmu_with(&["fault", line, "--json"], b"");
        let report = ran.json();
        assert_eq!((ran.code, report["faults"].as_array().map(Vec::len)), (0, Some(1)), "{line}\n{}", ran.err);
        let fault = &report["faults"][0];
        assert_eq!(said(fault), expected.to_vec(), "{line}");
        assert!(!fault["happened"].as_str().unwrap().is_empty());
        assert!(!fault["next"].as_array().unwrap().is_empty(), "{line}");
        let people = gmmu_with(&["fault", line], b"").out;
        assert!(people.lines().all(|line| line.chars().count() <= 80), "{people}");
    }
}

#[test]
fn all_of_them_in_one_packed_log_are_found_in_order() {
    let noise = "usb 1-1: new high-speed USB device number 3\nNVRM: loading NVIDIA UNIX Open Kernel Module\n";
    let log: String = LINES.iter().map(|Line(line, _)| format!("{noise}{line}\n")).collect();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(log.as_bytes()).unwrap();
    let report = gmmu_with(&["fault", "-", "--json"], &packed.finish().unwrap()).json();
    let found: Vec<_> = report["faults"].as_array().unwrap().iter().map(said).collect();
    let expected: Vec<_> = LINES.iter().map(|Line(_, expected)| expected.to_vec()).collect();
    for one in &expected {
        assert!(found.iter().any(|found| found == one), "{one:?}");
    }
    assert_eq!((found.len(), &report["truncated"]), (expected.len(), &json!(false)));
}
