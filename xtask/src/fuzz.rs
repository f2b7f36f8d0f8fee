//! Fuzzing, each target from its corpus on.

use std::env;
use std::fs;
use std::process::Command;

use crate::root;

/// Targets that keep memory to the end of the process, and mean it: frame lists of scripts live as long as the program.
const KEEPS_MEMORY: [&str; 1] = ["script"];

/// Fuzzes every target, beginning with its corpus. What is found is a failure; that cargo-fuzz cannot be had is not, and is
/// said.
pub(crate) fn fuzz(seconds: u64) -> Result<(), String> {
    let tools = root().join("target/tools");
    let path = env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", tools.join("bin").display());
    let cargo = |args: &[&str]| {
        let mut command = Command::new("cargo");
        // The fuzzer's instrumentation is a nightly feature; the stable compiler of the same version has it too.
        command.args(args).current_dir(root()).env("PATH", &path).env("RUSTC_BOOTSTRAP", "1");
        command
    };
    let works = |mut command: Command| command.output().is_ok_and(|output| output.status.success());
    let install = ["install", "-q", "--locked", "cargo-fuzz", "--root"];
    let tools = tools.display().to_string();
    if !works(cargo(&["fuzz", "--version"])) && !works(cargo(&[&install[..], &[tools.as_str()]].concat())) {
        println!("skipped: cargo-fuzz cannot be had here");
        return Ok(());
    }
    let targets = targets()?;
    let most = format!("-max_total_time={seconds}");
    let mut failed = Vec::new();
    for target in &targets {
        let corpus = format!("fuzz/corpus/{target}");
        // What is found by the way goes there; the corpus in the repository grows by hand.
        let found = root().join("target/fuzz-found").join(target);
        fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;
        let found = found.display().to_string();
        let leaks = if KEEPS_MEMORY.contains(&target.as_str()) { "detect_leaks=0" } else { "detect_leaks=1" };
        let mut run = cargo(&["fuzz", "run", target, &found, &corpus, "--", &most, "-timeout=20"]);
        let run = run.env("ASAN_OPTIONS", leaks).output();
        let output = run.map_err(|error| format!("cargo fuzz: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            println!("{target}: {}", said.lines().last().unwrap_or_default());
        } else {
            let last = said.lines().rev().take(40).collect::<Vec<_>>();
            eprintln!("{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
            failed.push(target.as_str());
        }
    }
    println!("{} passed, {} failed", targets.len() - failed.len(), failed.len());
    if failed.is_empty() { Ok(()) } else { Err(format!("fuzzing found something: {}", failed.join(" "))) }
}

/// The fuzz targets: a corpus each.
fn targets() -> Result<Vec<String>, String> {
    let folder = root().join("fuzz/corpus");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    Ok(names)
}
