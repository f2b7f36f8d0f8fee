//! What the program may take: its size, its start, and time and memory on large images. Of a build for release, as users have
//! it; times are the least of some runs, since this machine may have other work.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use gmmu_cli::command_names;

use crate::checks::Checks;
use crate::program::gmmu;
use crate::root;

const BINARY_MAX: u64 = 8 << 20;
const START_MAX: Duration = Duration::from_millis(20);
const DUMP_MAX: Duration = Duration::from_secs(1);
/// Of address space, which is more than what is resident.
const DUMP_MEMORY: u64 = 200 << 20;
const ROOTS_MAX: Duration = Duration::from_secs(10);
const PICTURE_MAX: u64 = 2 << 20;
/// Runs of which the fastest counts.
const RUNS: u32 = 5;

/// One run of the program.
struct Ran {
    took: Duration,
    output: Output,
}

/// Measures the program, and fails where it takes more than it may.
pub(crate) fn limits() -> Result<(), String> {
    let built =
        Command::new(env!("CARGO")).args(["build", "-q", "--release", "-p", "gmmu-cli"]).current_dir(root()).status();
    if !built.map_err(|error| format!("cargo: {error}"))?.success() {
        return Err("the program does not build".to_owned());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    let program = target.join("release/gmmu");
    let folder = target.join("limits");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut checks = Checks::default();
    size_and_start(&program, &mut checks)?;
    large_images(&program, &folder, &mut checks)?;
    pictures(&folder, &mut checks)?;
    fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    checks.end()
}

fn size_and_start(program: &Path, checks: &mut Checks) -> Result<(), String> {
    let bytes = bytes_of(program)?;
    checks.check(&format!("the program has {} KiB", bytes >> 10), bytes < BINARY_MAX);
    let mut slowest = (Duration::ZERO, String::new());
    let mut all = 0;
    for name in command_names() {
        let took = best(RUNS, || run(program, &[&name, "--help"], None))?.took;
        all += 1;
        slowest = slowest.max((took, name));
    }
    let (took, name) = slowest;
    let told = format!("{all} commands start, the slowest in {:.1} ms ({name})", took.as_secs_f64() * 1e3);
    checks.check(&told, all > 20 && took < START_MAX);
    Ok(())
}

/// Half a million leaves, none of which goes on with its neighbour, in a file of 16 GiB that is mostly holes.
fn large_images(program: &Path, folder: &Path, checks: &mut Checks) -> Result<(), String> {
    let image = folder.join("large.img").display().to_string();
    let made = gmmu(&["map", "--size", "2G", "--scatter", "7", "--vram", "16G", "--vram-out", &image, "--json"])?;
    let made: serde_json::Value = serde_json::from_str(&made).map_err(|error| format!("map --json: {error}"))?;
    let root = made["root"].as_str().ok_or("map --json names no root")?;
    let source = ["dump", "--file", &image, "--chip", "gh100", "--root", root, "--merge", "none"];
    let dump = best(RUNS, || run(program, &source, Some(DUMP_MEMORY)))?;
    let leaves = dump.output.stdout.iter().filter(|&&byte| byte == b'\n').count().saturating_sub(1);
    let told = format!(
        "dump of {leaves} leaves in {:.0} ms, in an address space of {} MiB",
        dump.took.as_secs_f64() * 1e3,
        DUMP_MEMORY >> 20
    );
    checks.check(&told, leaves == 1 << 19 && dump.took < DUMP_MAX);
    let roots = best(1, || run(program, &["roots", "--file", &image], None))?;
    let said = String::from_utf8_lossy(&roots.output.stdout);
    let told = format!("roots over 16 GiB, holes skipped, in {:.0} ms", roots.took.as_secs_f64() * 1e3);
    checks.check(&told, said.lines().nth(1).is_some_and(|line| line.starts_with(root)) && roots.took < ROOTS_MAX);
    Ok(())
}

/// 20,000 ranges one by one, and half a million summed up.
fn pictures(folder: &Path, checks: &mut Checks) -> Result<(), String> {
    for (leaves, ranges, size) in [("20,000 ranges", 19_000..20_001, "79000K"), ("half a million leaves", 0..1, "2G")] {
        let (snapshot, page) = (folder.join("space.snap").display().to_string(), folder.join("space.html"));
        gmmu(&["map", "--size", size, "--scatter", "7", "--vram", "16G", "--snapshot", &snapshot])?;
        let drawn = gmmu(&["render", "-o", &page.display().to_string(), "--file", &snapshot, "--json"])?;
        let drawn: serde_json::Value =
            serde_json::from_str(&drawn).map_err(|error| format!("render --json: {error}"))?;
        let bytes = bytes_of(&page)?;
        let fits = drawn["ranges"].as_u64().is_some_and(|drawn| ranges.contains(&drawn)) && bytes < PICTURE_MAX;
        checks.check(
            &format!("a picture of {leaves} has {} KiB, with {} one by one", bytes >> 10, drawn["ranges"]),
            fits,
        );
    }
    Ok(())
}

fn bytes_of(path: &Path) -> Result<u64, String> {
    fs::metadata(path).map(|file| file.len()).map_err(|error| format!("{}: {error}", path.display()))
}

/// The fastest of some runs, all of which must go well.
fn best(runs: u32, run: impl Fn() -> Result<Ran, String>) -> Result<Ran, String> {
    let mut fastest = run()?;
    for _ in 1..runs {
        let next = run()?;
        if next.took < fastest.took {
            fastest = next;
        }
    }
    Ok(fastest)
}

/// Runs the program, with no more address space than `memory` bytes where that is given.
fn run(program: &Path, args: &[&str], memory: Option<u64>) -> Result<Ran, String> {
    let mut command = match memory {
        Some(bytes) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -v {}; exec \"$0\" \"$@\"", bytes >> 10)]).arg(program);
            shell
        }
        None => Command::new(program),
    };
    let start = Instant::now();
    let output = command.args(args).output().map_err(|error| format!("{}: {error}", program.display()))?;
    let took = start.elapsed();
    if output.status.success() {
        return Ok(Ran { took, output });
    }
    Err(format!("{}: {} {}", args.join(" "), output.status, String::from_utf8_lossy(&output.stderr)))
}
