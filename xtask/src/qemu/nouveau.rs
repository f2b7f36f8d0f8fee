//! Nouveau, as Debian builds it, on the software GPU: it boots, and what it writes into its page tables is what it was asked
//! for.
//!
//! The guest is told line by line what to ask nouveau for (`guest/src/main.rs` says what there is). After each line the
//! address space of the client is dumped from the live model, and compared with the same lines carried out on a list of
//! pages here. What is in a buffer tells that it is the right one: the words in it were written through BAR1.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use gmmu::addr::TableAddr;
use gmmu_serve::{Card, Parted, Server};
use gmmu_sim::trace::Tape;
use gmmu_sim::{Config, Finding, Severity};

use super::guest::Guest;
use super::initramfs::Initramfs;
use super::kit::{Flavour, Kit, at, run};
use super::space::{self, Page, Space};
use super::{modules, number};
use crate::checks::Checks;

/// How long nouveau may take.
const LIMIT: Duration = Duration::from_secs(240);
const CHIP: &str = "gp107";
const VRAM: u64 = 256 << 20;
const BAR1: u64 = 64 << 20;
/// Bytes of a page.
const STEP: usize = 4096;
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What nouveau is asked for. The first client has buffers alone, of each size with which nouveau chooses its pages otherwise;
/// the second one gives the addresses.
const LINES: &[&str] = &[
    "client",
    "buffer a 0x1000",
    "fill a 0xa0000000000000 64",
    "buffer b 0x4000",
    "fill b 0xb0000000000000 64",
    "buffer c 0x10000",
    "fill c 0xc0000000000000 512",
    "buffer d 0x30000",
    "fill d 0xd0000000000000 512",
    "buffer e 0x300000",
    "fill e 0xe0000000000000 512",
    "client",
    "init 0x4000000000 0x4000000000",
    "buffer f 0x600000",
    "fill f 0xf0000000000000 1024",
    "map f 0 0x1234560000 0x100000",
    "map f 0x200000 0x1234800000 0x200000",
    // Over what is there.
    "map f 0x400000 0x12345a0000 0x20000",
    // Parts of what is there.
    "unmap 0x1234580000 0x10000",
    "unmap 0x1234900000 0x80000",
    "map f 0x301000 0x3f00001000 0x1000",
    "sparse 0x1240000000 0x400000",
    "map f 0x10000 0x1240010000 0x10000",
    "unmap 0x1240010000 0x10000",
    "unsparse 0x1240000000 0x400000",
    "unmap 0x1234800000 0x200000",
    "unmap 0x3f00001000 0x1000",
];

/// The client's space as it was asked for.
#[derive(Default)]
struct Asked {
    /// The value that each buffer was filled with.
    buffers: BTreeMap<String, u64>,
    pages: BTreeMap<u64, Page>,
    /// Ranges that read as zero where nothing is mapped.
    sparse: Vec<(u64, u64)>,
}

impl Asked {
    /// Carries a line out.
    fn apply(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| number(words.get(at).copied().unwrap_or_default());
        let pages = |va: u64, bytes: u64| (va..va + bytes).step_by(STEP);
        match words[0] {
            "client" => *self = Self::default(),
            "fill" => drop(self.buffers.insert(words[1].to_owned(), number(2)?)),
            "map" => {
                let value = self.buffers.get(words[1]).ok_or("no such buffer")? + number(2)?;
                let va = number(3)?;
                self.pages.extend(pages(va, number(4)?).map(|page| (page, Page::Holds(value + page - va))));
            }
            "sparse" => {
                let (va, bytes) = (number(1)?, number(2)?);
                self.sparse.push((va, va + bytes));
                self.pages.extend(pages(va, bytes).map(|page| (page, Page::Sparse)));
            }
            "unmap" | "unsparse" => {
                let (va, bytes) = (number(1)?, number(2)?);
                if words[0] == "unsparse" {
                    self.sparse.retain(|range| *range != (va, va + bytes));
                }
                for page in pages(va, bytes) {
                    if self.sparse.iter().any(|(from, to)| (*from..*to).contains(&page)) {
                        self.pages.insert(page, Page::Sparse);
                    } else {
                        self.pages.remove(&page);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What is otherwise in `space`; nothing where all is as it was asked for.
    fn compare(&self, space: &Space) -> String {
        let all = self.pages.keys().chain(space.pages.keys());
        let other = all.filter(|va| self.pages.get(va) != space.pages.get(va)).take(3);
        other.map(|va| format!("; {va:#x} is {:x?}, not {:x?}", space.pages.get(va), self.pages.get(va))).collect()
    }
}

/// What the sanitizer says of nouveau, and `docs/nouveau.md` explains.
const EXPLAINED: [&str; 2] = ["valid-to-valid", "window-moving"];

/// What the server's side tells of the card, when the guest asks it to look: its spaces, and what was found since.
struct Look {
    spaces: Vec<Space>,
    findings: Vec<Finding>,
}

/// The stage.
pub(super) fn nouveau(kit: &Kit) -> Result<(), String> {
    let kernel = kit.kernel(Flavour::Full)?;
    let mut image = Initramfs::new(kit)?;
    image.file(&guest_program("drm-client")?, "bin/drm-client")?;
    let load = modules::load(kit, &kernel, &image, "nouveau", "modeset=2")?;
    image.script(&format!("{load}dmesg | grep nouveau\nexec drm-client\n"))?;
    let folder = crate::root().join("target/qemu");
    let socket = folder.join("gpu.sock");
    let (tell, looks) = channel();
    let server = Server::bind(&socket).map_err(|error| at(&socket, &error))?;
    let trace = folder.join("nouveau.trace");
    let served = thread::spawn(move || serve(&server, &trace, &tell));
    let guest = Guest::new(kit, &kernel, image.pack()?).device(&socket);
    let mut talk = Talk::new(looks);
    let ran = guest.run(LIMIT, |line| talk.hear(line));
    let served = served.join().map_err(|_| "the server fell over")?;
    ran?;
    talk.checks.check(&format!("the server: {}", served?), true);
    talk.end()
}

/// Serves a card to one guest; looks at it whenever the guest writes the marker.
fn serve(server: &Server, trace: &Path, tell: &Sender<Result<Look, String>>) -> Result<Parted, String> {
    let config = Config { vram: VRAM, bar1_bytes: BAR1, ..Config::chip(CHIP) };
    let mut card = Card::new(&config).map_err(|why| why.to_string())?;
    let file = fs::File::create(trace).map_err(|error| at(trace, &error))?;
    let tape = Tape::new(std::io::BufWriter::new(file), CHIP, VRAM);
    card.record(tape.clone());
    let folder = trace.parent().unwrap_or(Path::new("."));
    let parted = server.serve(&mut card, |card| {
        if card.take_mark().is_some() {
            let look = space::all(card.gpu(), CHIP, folder);
            let findings = card.gpu().take_findings();
            // Nobody listens once the guest has ended.
            let _ = tell.send(look.map(|spaces| Look { spaces, findings }));
        }
    });
    tape.finish().map_err(|error| at(trace, &error))?;
    match parted {
        Parted::Cleanly => Ok(Parted::Cleanly),
        other => Err(other.to_string()),
    }
}

/// The conversation with the guest: a line at a time, and a look at the card behind each.
struct Talk {
    looks: Receiver<Result<Look, String>>,
    lines: std::slice::Iter<'static, &'static str>,
    said: Option<&'static str>,
    asked: Asked,
    /// Spaces that were there before the first client: those of BAR1 and BAR2.
    known: Vec<TableAddr>,
    checks: Checks,
    findings: BTreeMap<&'static str, (u64, String)>,
    initialised: bool,
}

impl Talk {
    fn new(looks: Receiver<Result<Look, String>>) -> Self {
        let (lines, asked, checks) = (LINES.iter(), Asked::default(), Checks::default());
        Self {
            looks,
            lines,
            said: None,
            asked,
            known: Vec::new(),
            checks,
            findings: BTreeMap::new(),
            initialised: false,
        }
    }

    fn hear(&mut self, line: &str) -> Option<String> {
        if line.contains("Initialized nouveau") {
            self.initialised = true;
        }
        if line == "ready" {
            self.checks.check("nouveau initialises the card", self.initialised);
            self.look(None);
        } else if line.starts_with("ok") || line.starts_with("error") {
            if let Some(said) = self.said {
                self.checks.check(&format!("{said}: {line}"), is_good(line));
                if is_good(line) {
                    self.look(Some(said));
                }
            }
        } else {
            return None;
        }
        self.said = self.lines.next().copied();
        Some(self.said.unwrap_or("quit").to_owned())
    }

    /// Compares what nouveau wrote with what it was asked for; before the first line, sees what is there.
    fn look(&mut self, said: Option<&str>) {
        let look = match self.looks.recv_timeout(Duration::from_secs(20)) {
            Ok(Ok(look)) => look,
            Ok(Err(why)) => return self.checks.check(&why, false),
            Err(_) => return self.checks.check("the guest wrote the marker", false),
        };
        for finding in look.findings.iter().filter(|finding| finding.severity != Severity::Note) {
            let (count, _) = self.findings.entry(finding.rule.id()).or_insert_with(|| (0, finding.says()));
            *count += 1;
        }
        let Some(said) = said else {
            self.known = look.spaces.iter().map(|space| space.root).collect();
            return;
        };
        if let Err(why) = self.asked.apply(said) {
            return self.checks.check(&why, false);
        }
        if self.asked.pages.is_empty() && self.asked.sparse.is_empty() {
            return;
        }
        let mut own = look.spaces.iter().filter(|space| !self.known.contains(&space.root));
        match (own.next(), own.next()) {
            (Some(space), None) => {
                let wrong = self.asked.compare(space);
                print!("{}", space.text);
                self.checks
                    .check(&format!("  its space is as asked: {} pages{wrong}", space.pages.len()), wrong.is_empty());
            }
            _ => {
                let roots: Vec<String> = look.spaces.iter().map(|space| space.root.to_string()).collect();
                self.checks.check(&format!("  the client has one space: {}", roots.join(", ")), false);
            }
        }
    }

    fn end(mut self) -> Result<(), String> {
        for (rule, (count, first)) in &self.findings {
            let what = format!("the sanitizer's {count} of {rule} are explained in docs/nouveau.md: {first}");
            self.checks.check(&what, EXPLAINED.contains(rule));
        }
        let unsaid = self.lines.len();
        self.checks.check(&format!("nouveau was asked for everything: {unsaid} lines are left"), unsaid == 0);
        self.checks.end()
    }
}

/// Whether an answer of the guest's says that all went well.
fn is_good(answer: &str) -> bool {
    answer.starts_with("ok") && (!answer.contains("wrong") || answer.ends_with(" 0 wrong"))
}

/// A program for the guest, static: the guest has no libraries.
pub(super) fn guest_program(name: &str) -> Result<PathBuf, String> {
    let guest = crate::root().join("guest");
    let folder = crate::root().join("target/guest");
    let mut build = Command::new("cargo");
    build.args(["build", "-q", "--release", "--locked", "--target", TARGET, "--target-dir"]).arg(&folder);
    run(build.current_dir(&guest).env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    Ok(folder.join(TARGET).join("release").join(name))
}
