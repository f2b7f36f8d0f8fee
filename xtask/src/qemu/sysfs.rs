//! The program on a card that it meets through sysfs: `gmmu` in a guest, on a card that `gmmu-serve` serves outside.
//!
//! The guest lists, examines, tests and reads the card, and a driver made of the library maps memory on it
//! (`gmmu-pci/examples/map_on_card.rs`). What it says of the page tables and of its accesses has to be what is seen from
//! outside.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use gmmu::chip::Chip;
use gmmu::device::Bar0;
use gmmu::pramin::Window;
use gmmu_serve::{Card, Parted, Server};
use gmmu_sim::{Config, Counts, Finding};
use serde_json::Value;

use super::guest::Guest;
use super::initramfs::Initramfs;
use super::kit::{Flavour, Kit, at, run};
use super::nouveau::guest_program;
use super::space;
use crate::checks::Checks;

const LIMIT: Duration = Duration::from_secs(150);
const TARGET: &str = "x86_64-unknown-linux-gnu";
const VRAM: u64 = 1 << 30;
const BAR1: u64 = 64 << 20;

/// What the guest does. Each step says its name first, then what it prints, then its exit code. The card is switched on
/// only after somebody has met it switched off.
const SCRIPT: &str = r#"
for d in /sys/bus/pci/devices/*; do [ "$(cat $d/vendor)" = 0x10de ] && card=${d##*/}; done
step() { name=$1; shift; echo "step $name"; "$@" 2>&1; echo "exit $?"; }
export NO_COLOR=1
# Firmware has switched the card's memory on; a card that no firmware has met is as it is now.
printf '\000\000' | dd of=/sys/bus/pci/devices/$card/config bs=2 seek=2 conv=notrunc 2>/dev/null
step list gmmu list
step off gmmu selftest --pci $card --write
echo 1 > /sys/bus/pci/devices/$card/enable
step doctor gmmu doctor $card
step consent gmmu dump --pci $card
step nothing gmmu dump --pci $card --move-window
step selftest gmmu selftest --pci $card --write
mark
step map map_on_card $card
mark
step dump gmmu dump --pci $card --move-window --json
step walk gmmu walk 0x12000 --pci $card --move-window
step hole gmmu walk 0x20000 --pci $card --move-window
step root gmmu walk 0x200000 --pci $card --move-window --root bar1
step check gmmu check --pci $card --move-window
step capture gmmu capture -o /tmp/card.snap --pci $card --move-window
step again gmmu dump --file /tmp/card.snap --json
mark
"#;

/// What a step printed, and its exit code.
struct Step {
    name: String,
    lines: Vec<String>,
    exit: Option<String>,
}

impl Step {
    fn text(&self) -> String {
        self.lines.join("\n")
    }
}

/// The card as it is seen from outside, when the guest asks for that.
struct Look {
    /// Since the last look.
    counts: Counts,
    /// `gmmu dump --json` of the space that BAR1 goes through, if it goes through one.
    dump: Option<String>,
    window: u32,
    findings: Vec<Finding>,
}

/// The stage, on a chip of each format.
pub(super) fn sysfs(kit: &Kit) -> Result<(), String> {
    let kernel = kit.kernel(Flavour::Cloud)?;
    let programs = [
        ("gmmu", built(&["-p", "gmmu-cli"], "gmmu")?),
        ("map_on_card", built(&["-p", "gmmu-pci", "--example", "map_on_card"], "examples/map_on_card")?),
        ("mark", guest_program("mark")?),
    ];
    let mut checks = Checks::default();
    for chip in ["gh100", "tu102"] {
        let mut image = Initramfs::new(kit)?;
        for (name, path) in &programs {
            image.file(path, &format!("bin/{name}"))?;
        }
        image.script(SCRIPT)?;
        let socket = crate::root().join("target/qemu/gpu.sock");
        let server = Server::bind(&socket).map_err(|error| at(&socket, &error))?;
        let (tell, looks) = channel();
        let served = thread::spawn(move || serve(&server, chip, &tell));
        let mut steps: Vec<Step> = Vec::new();
        let ran = Guest::new(kit, &kernel, image.pack()?).device(&socket).run(LIMIT, |line| {
            hear(&mut steps, line);
            None
        });
        let served = served.join().map_err(|_| "the server fell over")?;
        ran?;
        checks.check(&format!("{chip}: the server: {}", served?), true);
        judge(chip, &steps, &looks, &mut checks);
    }
    checks.end()
}

/// A program of the workspace, static: the guest has no libraries.
fn built(what: &[&str], name: &str) -> Result<PathBuf, String> {
    let folder = crate::root().join("target/guest");
    let mut build = Command::new("cargo");
    build
        .args(["build", "-q", "--release", "--locked", "--target", TARGET])
        .args(what)
        .arg("--target-dir")
        .arg(&folder);
    run(build.current_dir(crate::root()).env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    Ok(folder.join(TARGET).join("release").join(name))
}

fn serve(server: &Server, chip: &str, tell: &Sender<Result<Look, String>>) -> Result<Parted, String> {
    let config = Config { vram: VRAM, bar1_bytes: BAR1, ..Config::chip(chip) };
    let mut card = Card::new(&config).map_err(|why| why.to_string())?;
    let folder = crate::root().join("target/qemu");
    let parted = server.serve(&mut card, |card| {
        if card.take_mark().is_some() {
            // Nobody listens once the guest has ended.
            let _ = tell.send(look(card, chip, &folder));
        }
    });
    match parted {
        Parted::Cleanly => Ok(Parted::Cleanly),
        other => Err(other.to_string()),
    }
}

fn look(card: &mut Card, chip: &str, folder: &Path) -> Result<Look, String> {
    let gpu = card.gpu();
    let counts = gpu.counts();
    let register = Chip::by_name(chip).and_then(|chip| chip.window).ok_or("a chip without a window")?;
    let window = gpu.read32(Window::new(register, VRAM).offset()).map_err(|error| error.to_string())?;
    let dump = gpu.bar_roots()[0].map(|root| space::json(gpu, chip, root, folder)).transpose()?;
    let findings = gpu.take_findings();
    // What is counted is what the guest does.
    gpu.reset_counts();
    Ok(Look { counts, dump, window, findings })
}

/// Puts a line of the guest's into its step.
fn hear(steps: &mut Vec<Step>, line: &str) {
    if let Some(name) = line.strip_prefix("step ") {
        return steps.push(Step { name: name.to_owned(), lines: Vec::new(), exit: None });
    }
    match (steps.last_mut(), line.strip_prefix("exit ")) {
        (Some(step), Some(code)) if step.exit.is_none() => step.exit = Some(code.to_owned()),
        (Some(step), _) => step.lines.push(line.to_owned()),
        (None, _) => {}
    }
}

/// What each step has to end with, and to say.
const WANTED: [(&str, &str, &[&str]); 13] = [
    ("list", "0", &["10de:"]),
    ("off", "5", &["nothing answers", "/enable switches it on"]),
    ("doctor", "0", &["sysfs     "]),
    ("consent", "2", &["--move-window"]),
    ("nothing", "3", &["BAR1 and BAR2 go through none"]),
    ("selftest", "0", &[", 0 failed"]),
    ("map", "0", &["root vram:", "mapped 0x10000 ", "unmapped 0x20000 0x8000", "counts reads="]),
    ("dump", "0", &["\"truncated\":false"]),
    ("walk", "0", &["0x000000012000 is mapped to vram:"]),
    ("hole", "1", &["0x000000020000 is not mapped"]),
    ("root", "0", &["0x000000200000 is mapped to vram:", "2M page"]),
    ("check", "0", &["nothing found"]),
    ("capture", "0", &["/tmp/card.snap"]),
];

fn judge(chip: &str, steps: &[Step], looks: &Receiver<Result<Look, String>>, checks: &mut Checks) {
    let step = |name: &str| steps.iter().find(|step| step.name == name);
    for (name, code, parts) in WANTED {
        let Some(step) = step(name) else {
            checks.check(&format!("{chip}: {name} was not reached"), false);
            continue;
        };
        let text = step.text();
        let good = step.exit.as_deref() == Some(code) && parts.iter().all(|part| text.contains(part));
        let last = step.lines.last().map_or("nothing", String::as_str);
        let short: String = last.chars().take(90).collect();
        checks.check(&format!("{chip}: {name} ends with {code}: {short}"), good);
        if !good {
            println!("{text}\nexit {:?}", step.exit);
        }
    }
    let seen: Vec<Look> = looks.try_iter().filter_map(Result::ok).collect();
    let [before, mapped, last] = seen.as_slice() else {
        return checks.check(&format!("{chip}: three looks from outside, not {}", seen.len()), false);
    };
    let outside = mapped.dump.as_deref().map(ranges);
    let inside = step("dump").map(|step| ranges(&step.text()));
    let captured = step("again").map(|step| ranges(&step.text()));
    let count = inside.as_ref().map_or(0, Vec::len);
    let same = count > 0 && inside == outside && inside == captured;
    checks.check(&format!("{chip}: guest, snapshot and model agree on {count} ranges"), same);
    let Counts { reads, writes, .. } = mapped.counts;
    let said = step("map").and_then(|step| step.lines.last().cloned()).unwrap_or_default();
    let told = format!("counts reads={reads} writes={writes}");
    checks.check(&format!("{chip}: the driver counts what the card counts: {said} {told}"), said == told);
    checks.check(
        &format!("{chip}: the window stands where it stood: {:#x}", last.window),
        before.window == last.window && mapped.window == last.window,
    );
    let findings: Vec<String> = seen.iter().flat_map(|look| &look.findings).map(Finding::says).collect();
    let harmless = |says: &&String| !says.starts_with("note");
    let bad: Vec<&String> = findings.iter().filter(harmless).collect();
    checks.check(&format!("{chip}: the sanitizer says nothing of it: {bad:?}"), bad.is_empty());
}

/// The ranges of a dump.
fn ranges(dump: &str) -> Vec<Value> {
    let dump: Value = serde_json::from_str(dump).unwrap_or_default();
    dump["ranges"].as_array().cloned().unwrap_or_default()
}
