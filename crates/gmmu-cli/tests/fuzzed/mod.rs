//! What the fuzz targets of the program do with their bytes: functions, so that the corpora are plain tests too.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each user needs a part of it")]

use gmmu_cli::console::{Streams, Terminal};
use gmmu_cli::exit::Exit;
use std::ffi::OsString;

fn gmmu(args: &[&str], mut input: &[u8]) -> (Exit, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let streams = Streams { input: &mut input, out: &mut out, err: &mut err, terminal: Terminal::default() };
    let exit = gmmu_cli::run(std::iter::once("gmmu").chain(args.iter().copied()).map(OsString::from), streams);
    assert!(!out.is_empty() || !err.is_empty(), "nothing was said");
    (exit, out)
}

/// A line of a log, or a whole one.
pub fn fault_line(data: &[u8]) {
    let (exit, _) = gmmu(&["fault", "-"], data);
    let (same, json) = gmmu(&["--json", "fault", "-"], data);
    assert_eq!(exit.code(), same.code());
    if exit.code() <= 1 {
        assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok(), "not JSON");
    }
}

/// A script. What would take a person's patience is read only.
pub fn script(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let numbers = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let large = numbers.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let patient = large.into_iter().all(|word| word.len() <= 12 && !word.ends_with(['G', 'T', 'g', 't']));
    // Files are none of a fuzzer's business.
    if !patient || text.lines().count() > 40 || text.contains("snapshot") {
        let _ = gmmu_cli::script::Script::read("fuzz", &text);
        return;
    }
    let (exit, _) = gmmu(&["run", "-", "--vram", "1G"], data);
    assert!(exit.code() <= 3, "exit code {}", exit.code());
}
