//! `fault` on whole logs, and on what is no log.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::Write;

use common::gmmu_with;
use proptest::prelude::*;
use serde_json::json;

const LOG: &str = "\
Nov 22 14:31:58 node7 kernel: [  811.204511] nvidia-uvm: Loaded the UVM driver, major device number 510.\n\
Nov 22 14:32:01 node7 kernel: [  812.100001] NVRM: Xid (PCI:0000:2b:00): 31, pid=4242, name=train.py, channel 0x00000023, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC6 GPCCLIENT_T1_13 faulted @ 0x6f17_04027000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_WRITE\n\
Nov 22 14:32:01 node7 kernel: [  812.100020] NVRM: Xid (PCI:0000:2b:00): 31, pid=4242, name=train.py, channel 0x00000023, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC2 GPCCLIENT_T1_4 faulted @ 0x6f17_04029000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_WRITE\n\
Nov 22 14:32:01 node7 kernel: [  812.100091] NVRM: Xid (PCI:0000:2b:00): 43, pid=4242, name=train.py, channel 0x00000023\n\
Nov 22 14:32:09 node7 kernel: [  820.000001] nouveau 0000:01:00.0: fifo: fault 00 [VIRT_READ] at 0000000000001000 engine 40 [gr] client 13\n\
Nov 22 14:32:09 node7 kernel: [  820.000002] [GPC1/T1_3] reason 02 [PTE] on channel 2 [00ff8b9000 Xorg[1087]]\n";

/// Text without its line breaks.
fn said(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An Xid 31 of a process on a GPU.
fn xid(gpu: &str, pid: u32, at: &str) -> String {
    LOG.lines()
        .nth(1)
        .unwrap()
        .replace("2b:00", gpu)
        .replace("pid=4242", &format!("pid={pid}"))
        .replace("0x6f17_04027000", at)
}

#[test]
fn one_address_on_several_gpus_is_one_story() {
    let log = [
        xid("2b:00", 100, "0x7f00_00001000"),
        xid("3b:00", 101, "0x7f00_00001000"),
        xid("4b:00", 102, "0x7f00_00001000"),
        // Another address, another process, another GPU: another story.
        xid("5b:00", 103, "0x7f00_00009000"),
    ]
    .join("\n");
    let report = gmmu_with(&["fault", "-", "--json"], log.as_bytes()).json();
    let groups: Vec<_> = report["groups"].as_array().unwrap().iter().map(|group| &group["faults"]).collect();
    assert_eq!(groups, [&json!([0, 1, 2]), &json!([3])]);
    let first = &report["groups"][0];
    assert_eq!((&first["count"], &first["pages"], &first["pids"]), (&json!(3), &json!(1), &json!([100, 101, 102])));
    assert_eq!(first["gpus"], json!(["0000:2b:00", "0000:3b:00", "0000:4b:00"]));
    let text = said(&gmmu_with(&["fault", "-"], log.as_bytes()).out);
    assert!(
        text.contains("always at the same page by 3 processes: 100, 101, 102 at the same address on 3 GPUs"),
        "{text}"
    );
    assert!(text.contains("so it is not the card"), "{text}");
}

#[test]
fn a_burst_of_one_process_is_one_story() {
    let burst: Vec<_> = (0..50)
        .map(|n| xid("2b:00", 7, &format!("0x7f00_{:08x}", n << 12)).replace("812.100001", &format!("812.{n:06}")))
        .collect();
    let report = gmmu_with(&["fault", "-", "--json"], burst.join("\n").as_bytes()).json();
    let groups = report["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 1);
    let (us, pages) = (&groups[0]["microseconds"], &groups[0]["pages"]);
    assert_eq!((us, pages, &groups[0]["count"]), (&json!(49), &json!(50), &json!(50)));
    assert_eq!((&groups[0]["lowest"], &groups[0]["highest"]), (&json!("0x7f0000000000"), &json!("0x7f0000031000")));
}

#[test]
fn a_log_from_stdin_is_read_whole() {
    let ran = gmmu_with(&["fault", "-", "--json"], LOG.as_bytes());
    let report = ran.json();
    assert_eq!((ran.code, &report["schema"]), (0, &json!(1)));
    let lines: Vec<_> = report["faults"].as_array().unwrap().iter().map(|fault| &fault["line"]).collect();
    assert_eq!(lines, [2, 3, 5]);
    assert_eq!(report["faults"][0]["va"], json!("0x6f1704027000"));
    assert_eq!(report["faults"][0]["suspect"], json!("program"));
    assert_eq!(report["faults"][2]["source"], json!("nouveau"));
    assert_eq!(report["other_xids"][0]["xid"], json!(43));
}

#[test]
fn packed_logs_read_like_plain_ones() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(LOG.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let plain = gmmu_with(&["fault", "-", "--json"], LOG.as_bytes());
    assert_eq!(gmmu_with(&["fault", "-", "--json"], &packed).out, plain.out);
    let half = gmmu_with(&["fault", "-"], &packed[..packed.len() / 2]);
    assert_eq!(half.code, 3);
    assert!(half.err.contains("stdin: cannot be read"), "{}", half.err);
}

#[test]
fn faults_of_one_story_are_told_once() {
    let ran = gmmu_with(&["fault", "-"], LOG.as_bytes());
    assert_eq!(ran.out.matches("compute-sanitizer").count(), 1, "{}", ran.out);
    assert!(
        said(&ran.out).contains("2 times in all within 19 us, up to line 3, 2 pages from 0x6f1704027000 to"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("Xid 43, once"), "{}", ran.out);
    assert!(ran.out.lines().all(|line| line.chars().count() <= 80), "{}", ran.out);
}

#[test]
fn most_faults_are_said_to_be_the_programs_own_first() {
    for (kind, access) in [("FAULT_PDE", "READ"), ("FAULT_PTE", "WRITE"), ("FAULT_RO_VIOLATION", "WRITE")] {
        let line = format!(
            "NVRM: Xid (PCI:0000:01:00): 31, Ch 00000010, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_3 \
             faulted @ 0x7f29_5b8c9000. Fault is of type {kind} ACCESS_TYPE_VIRT_{access}"
        );
        let report = gmmu_with(&["fault", &line, "--json"], b"").json();
        let fault = &report["faults"][0];
        assert!(fault["usually"][0].as_str().unwrap().starts_with("The program's own wild access"), "{kind}");
        assert!(fault["next"][0].as_str().unwrap().contains("compute-sanitizer"), "{kind}");
    }
}

#[test]
fn many_faults_are_cut_and_said_to_be() {
    let line = LOG.lines().nth(1).unwrap();
    let log: String = (0..10_001).map(|n| line.replace("04027000", &format!("{n:05x}000")) + "\n").collect();
    let ran = gmmu_with(&["fault", "-", "--json"], log.as_bytes());
    assert_eq!((ran.code, &ran.json()["truncated"]), (1, &json!(true)));
    assert!(ran.err.contains("more than 10000 different faults"), "{}", ran.err);
}

#[test]
fn one_fault_that_fills_the_log_is_counted_and_keeps_no_other_out() {
    let (first, other) = (LOG.lines().nth(1).unwrap(), LOG.lines().nth(2).unwrap());
    let log = format!("{first}\n").repeat(300_000) + other + "\n";
    let ran = gmmu_with(&["fault", "-", "--json"], log.as_bytes());
    let report = ran.json();
    assert_eq!((ran.code, &report["truncated"]), (0, &json!(false)));
    let faults: Vec<_> = report["faults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| json!([one["line"], one["count"], one["last_line"]]))
        .collect();
    assert_eq!(faults, [json!([1, 300_000, 300_000]), json!([300_001, 1, 300_001])]);
    let text = gmmu_with(&["fault", "-"], log.as_bytes()).out;
    assert!(said(&text).contains("300001 times in all within 19 us, up to line 300001, 2 pages from"), "{text}");
}

#[test]
fn control_characters_of_a_log_are_not_passed_on() {
    let line = LOG.lines().nth(1).unwrap().replace("train.py", "\u{1b}[31mred\u{7}");
    let ran = gmmu_with(&["fault", "-", "--color", "always"], line.as_bytes());
    assert!(!ran.out.contains("[31mred\u{7}") && ran.out.contains("[31mred, pid 4242"), "{:?}", ran.out);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_end_with_0_1_or_3(bytes in proptest::collection::vec(any::<u8>(), 0..400), gzip: bool, json: bool) {
        let head: &[u8] = if gzip { &[0x1f, 0x8b, 8] } else { b"NVRM: Xid (" };
        let args: &[&str] = if json { &["fault", "-", "--json"] } else { &["fault", "-"] };
        let ran = gmmu_with(args, &[head, &bytes].concat());
        prop_assert!(matches!(ran.code, 0 | 1 | 3), "{ran:?}");
    }
}
