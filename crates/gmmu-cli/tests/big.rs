//! `map --size 64G --page 4K` in less than 1.5 GiB of memory and 60 s of time, model included. A binary of its own: the
//! peak of memory belongs to the process.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use gmmu_cli::console::{Streams, Terminal};
use gmmu_cli::exit::Exit;

#[test]
fn map_64_gib_in_1_5_gib_of_memory_and_a_minute() {
    let args = ["gmmu", "map", "--size", "64G", "--page", "4K", "--json"].map(Into::into);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let began = Instant::now();
    let streams = Streams { input: &mut std::io::empty(), out: &mut out, err: &mut err, terminal: Terminal::default() };
    assert_eq!(gmmu_cli::run(args, streams), Exit::Done, "{}", String::from_utf8_lossy(&err));
    let took = began.elapsed();

    let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(report["verified_pages"], 16 << 20);
    assert_eq!((&report["counts"]["invalidates"], &report["findings"]), (&1.into(), &serde_json::json!([])));
    assert!(took < Duration::from_secs(60), "{took:?}");

    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        println!("skipped: no /proc/self/status to read the peak of memory from");
        return;
    };
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    println!("{} MiB at most, {took:?}", kib >> 10);
    assert!(kib < 1536 << 10, "{kib} KiB");
}
