//! What was found in a log, for people and for programs.

use schemars::JsonSchema;
use serde::Serialize;

use super::advice::{self, Suspect};
use super::compare::compare;
use super::group::{Group, groups};
use super::parse::Log;
use super::units::{self, Role};
use super::{Access, Fault, Kind, Operation, Source, address};
use crate::cmd::walk::WalkView;
use crate::console::{BAD, Console, FAINT, SCHEMA, STRONG, View};
use crate::exit::Failure;
use crate::notation::Address;
use crate::wrap::{WIDTH, wrapped};

/// Explanations that are printed in full; a log with more kinds of faults gets one line for each of the others.
const FULL_MAX: usize = 8;

/// Faults whose addresses are looked up in a source.
const WALKS_MAX: usize = 100;

/// All that `gmmu fault` says.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Report {
    schema: u32,
    faults: Vec<Explained>,
    groups: Vec<Group>,
    other_xids: Vec<OtherXid>,
    /// Numbers of lines that begin like a fault but do not read.
    not_understood: Vec<u64>,
    truncated: bool,
}

/// One fault with its explanation.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Explained {
    source: Source,
    pub(super) line: u64,
    /// Lines that say exactly this, and the last of them.
    pub(super) count: u64,
    pub(super) last_line: u64,
    #[serde(skip)]
    pub(super) times: Option<(u64, u64)>,
    pub(super) gpu: Option<String>,
    mig: Option<String>,
    pub(super) va: Option<Address>,
    #[serde(rename = "type")]
    kind: Option<Kind>,
    access: Option<Access>,
    engine: Option<String>,
    client: Option<String>,
    gpc: Option<u32>,
    channel: Option<u32>,
    instance: Option<Address>,
    pub(super) pid: Option<u32>,
    name: Option<String>,
    level: Option<&'static str>,
    happened: String,
    means: Option<&'static str>,
    unit: Option<&'static str>,
    address: Vec<String>,
    suspect: Suspect,
    usually: Vec<String>,
    cannot_tell: Vec<String>,
    next: Vec<String>,
    /// What the page tables of a source say of the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    walk: Option<WalkView>,
    /// Whether they say the same as the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    compared: Option<String>,
}

/// Another Xid in the same log.
#[derive(Debug, JsonSchema, Serialize)]
struct OtherXid {
    xid: u32,
    count: u64,
    means: Option<&'static str>,
}

impl Report {
    /// Explains what was found.
    #[must_use]
    pub fn new(log: Log) -> Self {
        let other = |(xid, count)| OtherXid { xid, count, means: advice::other_xid(xid) };
        let faults: Vec<_> = log.faults.into_iter().map(Explained::new).collect();
        Self {
            schema: SCHEMA,
            groups: groups(&faults),
            faults,
            other_xids: log.other_xids.into_iter().map(other).collect(),
            not_understood: log.puzzles,
            truncated: log.truncated,
        }
    }

    /// Looks the addresses of the first faults up, and adds what was found.
    ///
    /// # Errors
    /// Those of `look_up`.
    pub fn add_walks(
        &mut self,
        mut look_up: impl FnMut(&Explained, u64) -> Result<Option<WalkView>, Failure>,
    ) -> Result<(), Failure> {
        for fault in self.faults.iter_mut().take(WALKS_MAX) {
            let (Some(Address(va)), false) = (fault.va, fault.access.is_some_and(|access| access.physical)) else {
                continue;
            };
            fault.walk = look_up(fault, va)?;
            if let Some(walk) = &fault.walk {
                fault.compared = compare(fault.kind, fault.access, walk);
                fault.next.retain(|step| *step != advice::look_up(va));
            }
        }
        Ok(())
    }

    /// The faults.
    #[must_use]
    pub fn faults(&self) -> &[Explained] {
        &self.faults
    }

    /// Whether the log had more faults than are kept.
    #[must_use]
    pub const fn truncated(&self) -> bool {
        self.truncated
    }
}

impl Explained {
    fn new(fault: Fault) -> Self {
        let meaning = fault.kind.map(Kind::meaning);
        let unit = fault.client.as_deref().and_then(units::client).map(|(_, words)| words);
        Self {
            happened: happened(&fault),
            level: meaning.map(|meaning| meaning.level),
            means: meaning.map(|meaning| meaning.means),
            unit,
            address: fault.va.map(address::remarks).unwrap_or_default(),
            suspect: advice::suspect(&fault),
            usually: advice::usually(&fault),
            cannot_tell: advice::cannot_tell(&fault),
            next: advice::next(&fault),
            source: fault.source,
            line: fault.line,
            count: fault.count,
            last_line: fault.last_line,
            times: fault.times,
            walk: None,
            compared: None,
            gpu: fault.gpu,
            mig: fault.mig,
            va: fault.va.map(Address),
            kind: fault.kind,
            access: fault.access,
            engine: fault.engine,
            client: fault.client,
            gpc: fault.gpc,
            channel: fault.channel,
            instance: fault.instance.map(Address),
            pid: fault.pid,
            name: fault.name,
        }
    }

    /// What makes two faults the same story, whoever it happened to: all but the line, the address, the process and the
    /// number of the unit.
    pub(super) fn story(&self) -> String {
        let client = self.client.as_deref().unwrap_or_default().trim_end_matches(|c: char| c.is_ascii_digit());
        format!("{:?} {:?} {:?} {:?} {:?} {client}", self.source, self.name, self.kind, self.access, self.engine)
    }

    /// Whom it happened to: the GPU and the process.
    #[must_use]
    pub fn owner(&self) -> String {
        let gpu = self.gpu.as_deref().map(|gpu| format!("GPU {gpu}"));
        let mig = self.mig.as_deref().map(|mig| format!("MIG instance {mig}"));
        let pid = self.pid.map(|pid| format!("process {pid}"));
        [gpu, mig, pid].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// The instance block of the channel, which names the top table.
    #[must_use]
    pub fn instance(&self) -> Option<u64> {
        self.instance.map(|at| at.0)
    }
}

/// One sentence: who did what, and why it failed.
fn happened(fault: &Fault) -> String {
    let who = match units::role(fault) {
        Role::Shader => "A kernel or shader",
        Role::Graphics => "The graphics pipeline",
        Role::Copy => "A copy engine",
        Role::Commands => "The unit that fetches commands",
        Role::Context => "The context switch unit",
        Role::Video => "A video engine",
        Role::Display => "The display",
        Role::Cpu => "The CPU, through a BAR of the card,",
        Role::Firmware => "Firmware of the card",
        Role::Profiling => "The performance counters",
        Role::Unknown => "The GPU",
    };
    let did = match fault.access.map(|access| access.operation) {
        Some(Operation::Read) => "read from",
        Some(Operation::Write) => "wrote to",
        Some(Operation::Atomic) => "did an atomic on",
        Some(Operation::Prefetch) => "prefetched from",
        Some(Operation::Unrecognized) | None => "accessed",
    };
    let physical = if fault.access.is_some_and(|access| access.physical) { "the physical address " } else { "" };
    let whereto =
        fault.va.map_or_else(|| "an address that is not in the line".to_owned(), |va| Address(va).to_string());
    let but = fault.kind.map_or("the line does not say why it failed", |kind| kind.meaning().but);
    format!("{who} {did} {physical}{whereto}, but {but}.")
}

impl View for Report {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        for (number, group) in self.groups.iter().take(FULL_MAX).enumerate() {
            if number > 0 {
                console.line(format_args!(""))?;
            }
            self.full(group, console)?;
        }
        if self.groups.len() > FULL_MAX {
            console.line(format_args!("\n{STRONG}And {} more:{STRONG:#}", self.groups.len() - FULL_MAX))?;
            for group in self.groups.iter().skip(FULL_MAX) {
                let Some(first) = self.first(group) else { continue };
                let times = if group.count < 2 { String::new() } else { format!(" ({})", count(group.count)) };
                block(console, "", &format!("line {}: {}{times}", first.line, first.happened))?;
            }
        }
        if !self.other_xids.is_empty() {
            console.line(format_args!("\n{STRONG}Also in this log{STRONG:#}"))?;
            for other in &self.other_xids {
                let means = other.means.unwrap_or("see NVIDIA's list of Xid errors");
                block(console, "", &format!("Xid {}, {}: {means}", other.xid, count(other.count)))?;
            }
        }
        for line in &self.not_understood {
            console.note(format_args!("line {line} begins like a fault, but does not read"));
        }
        Ok(())
    }
}

impl Report {
    fn first(&self, group: &Group) -> Option<&Explained> {
        self.faults.get(*group.faults.first()?)
    }

    fn full(&self, group: &Group, console: &mut Console<'_>) -> Result<(), Failure> {
        let Some(first) = self.first(group) else { return Ok(()) };
        for line in wrapped(&first.happened, WIDTH) {
            console.line(format_args!("{BAD}{line}{BAD:#}"))?;
        }
        console.line(format_args!(""))?;
        for (key, value) in facts(first) {
            block(console, key, &value)?;
        }
        for (n, part) in group.again().iter().enumerate() {
            block(console, if n == 0 { "again" } else { " " }, part)?;
        }
        if let Some(means) = first.means {
            console.line(format_args!(""))?;
            block(console, "level", means)?;
        }
        list(console, "Usually", &first.usually, false)?;
        list(console, "This line cannot tell", &first.cannot_tell, false)?;
        list(console, "Next", &first.next, true)?;
        if let Some(walk) = &first.walk {
            console.line(format_args!("\n{STRONG}In the page tables of the source{STRONG:#}"))?;
            walk.text(console)?;
        }
        if let Some(compared) = &first.compared {
            console.line(format_args!(""))?;
            for line in wrapped(compared, WIDTH) {
                console.line(format_args!("{line}"))?;
            }
        }
        Ok(())
    }
}

/// What the line says, part by part.
fn facts(fault: &Explained) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let from = match fault.source {
        Source::Nvrm => format!("Xid 31 of NVIDIA's driver, line {}", fault.line),
        Source::Nouveau => format!("a fault line of nouveau, line {}", fault.line),
        Source::Packet => "a raw packet".to_owned(),
    };
    let kind = fault.kind.map_or("no fault type", Kind::name);
    let access = fault.access.map(|access| format!(", {}", access.name())).unwrap_or_default();
    facts.push(("fault", format!("{kind}{access} ({from})")));
    if let Some(gpu) = &fault.gpu {
        let mig = fault.mig.as_ref().map(|mig| format!(", MIG instance {mig}")).unwrap_or_default();
        facts.push(("gpu", format!("{gpu}{mig}")));
    }
    if let Some(va) = fault.va {
        let remarks = fault.address.iter().map(|remark| format!(" {remark}")).collect::<String>();
        let stop = if remarks.is_empty() { "" } else { "." };
        facts.push(("address", format!("{va} (the 4 KiB page){stop}{remarks}")));
    }
    if let Some(client) = &fault.client {
        let gpc = fault.gpc.map(|gpc| format!(" of cluster GPC{gpc}")).unwrap_or_default();
        let words = fault.unit.map(|unit| format!(": {unit}")).unwrap_or_default();
        facts.push(("unit", format!("{client}{gpc}{words}")));
    }
    if let Some(engine) = &fault.engine {
        let words = units::engine(engine).map(|(_, words)| format!(": {words}")).unwrap_or_default();
        facts.push(("engine", format!("{engine}{words}")));
    }
    let process = match (&fault.name, fault.pid) {
        (Some(name), Some(pid)) => Some(format!("{name}, pid {pid}")),
        (Some(name), None) => Some(name.clone()),
        (None, Some(pid)) => Some(format!("pid {pid}")),
        (None, None) => None,
    };
    facts.extend(process.map(|process| ("process", process)));
    if let Some(channel) = fault.channel {
        let instance = fault.instance.map(|at| format!(", instance block {at}")).unwrap_or_default();
        facts.push(("channel", format!("{channel:#x}{instance}")));
    } else if let Some(instance) = &fault.instance {
        facts.push(("instance", format!("block {instance}, which names the top table (`gmmu roots --inst`)")));
    }
    facts
}

fn count(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn list(console: &mut Console<'_>, title: &str, items: &[String], numbered: bool) -> Result<(), Failure> {
    if items.is_empty() {
        return Ok(());
    }
    console.line(format_args!("\n{STRONG}{title}{STRONG:#}"))?;
    for (number, item) in (1..).zip(items) {
        let mark = if numbered { format!("{number}.") } else { "-".to_owned() };
        let indent = mark.len() + 3;
        for (n, line) in wrapped(item, WIDTH - indent).iter().enumerate() {
            let mark = if n == 0 { mark.as_str() } else { "" };
            console.line(format_args!("  {mark:<width$}{line}", width = indent - 2))?;
        }
    }
    Ok(())
}

/// A key, and a value that is wrapped beside it.
fn block(console: &mut Console<'_>, key: &str, value: &str) -> Result<(), Failure> {
    let indent = if key.is_empty() { 2 } else { 11 };
    for (n, line) in wrapped(value, WIDTH - indent).iter().enumerate() {
        let key = if n == 0 { key } else { "" };
        console.line(format_args!("  {FAINT}{key:<width$}{FAINT:#}{line}", width = indent - 2))?;
    }
    Ok(())
}
