//! Which ways of access to a card work, what stands in the way of the others, and how to get on.
//!
//! Registers are one thing, video memory another: memory is read through the PRAMIN window, which has to be moved for
//! that, and nobody may do so while a driver counts on it.

use crate::bdf::Bdf;
use crate::card::{Awake, Card, is_vfio};
use crate::system::{Access, Lockdown, System};

/// A way of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The `resource0` file of sysfs.
    Sysfs,
    /// VFIO.
    Vfio,
    /// `/dev/mem`.
    DevMem,
}

impl Path {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::Sysfs, Self::Vfio, Self::DevMem];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sysfs => "sysfs",
            Self::Vfio => "vfio",
            Self::DevMem => "devmem",
        }
    }
}

/// What an obstacle stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stops {
    /// Everything.
    All,
    /// Reading video memory; registers can be read.
    Memory,
    /// Perhaps everything, and only trying tells.
    Perhaps,
}

impl Stops {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Memory => "vram",
            Self::Perhaps => "perhaps",
        }
    }
}

/// Something that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Its name, which stays: `permission`, `lockdown`, `driver`, …
    pub reason: &'static str,
    /// What it stops.
    pub stops: Stops,
    /// What it is.
    pub says: String,
    /// What would help, a step each; commands start with `# `, since they need root.
    pub fix: Vec<String>,
}

/// Whether something works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Works {
    /// It does not.
    No,
    /// It may; only trying tells.
    Unclear,
    /// Nothing was found that stands in the way.
    Yes,
}

impl Works {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Unclear => "unclear",
            Self::Yes => "yes",
        }
    }
}

/// A way of access to one card, and what stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Which way.
    pub path: Path,
    /// What stands in it.
    pub obstacles: Vec<Obstacle>,
}

impl Way {
    /// Whether registers can be read.
    #[must_use]
    pub fn registers(&self) -> Works {
        self.works(|stops| stops == Stops::All)
    }

    /// Whether video memory can be read.
    #[must_use]
    pub fn memory(&self) -> Works {
        self.works(|stops| stops != Stops::Perhaps)
    }

    fn works(&self, stop: impl Fn(Stops) -> bool) -> Works {
        let each = self.obstacles.iter().map(|obstacle| match obstacle.stops {
            stops if stop(stops) => Works::No,
            Stops::Perhaps => Works::Unclear,
            _ => Works::Yes,
        });
        each.min().unwrap_or(Works::Yes)
    }

    fn add(&mut self, reason: &'static str, stops: Stops, says: impl Into<String>, fix: &[&str]) {
        let fix = fix.iter().map(|&step| step.to_owned()).collect();
        self.obstacles.push(Obstacle { reason, stops, says: says.into(), fix });
    }

    /// Gives the last obstacle steps that are made at run time.
    fn fix(&mut self, steps: Vec<String>) {
        if let Some(last) = self.obstacles.last_mut() {
            last.fix = steps;
        }
    }
}

/// The ways of access to `card`, in the order of [`Path::ALL`].
#[must_use]
pub fn ways(card: &Card, system: &System) -> [Way; 3] {
    Path::ALL.map(|path| {
        let mut way = Way { path, obstacles: Vec::new() };
        match path {
            Path::Sysfs => sysfs(&mut way, card, system),
            Path::Vfio => vfio(&mut way, card, system),
            Path::DevMem => dev_mem(&mut way, card, system),
        }
        virtual_functions(&mut way, card);
        way
    })
}

fn sysfs(way: &mut Way, card: &Card, system: &System) {
    let file = format!("bus/pci/devices/{}/resource0", card.bdf);
    match system.access_sys(&file) {
        Access::Granted => {}
        Access::Denied => not_root(way, "resource0", system),
        // Said below, with the reason.
        Access::Missing if card.bar(0).is_some_and(|bar| !bar.assigned) => {}
        Access::Missing => way.add("missing", Stops::All, "the card has no file resource0 in sysfs", &[]),
    }
    if system.read_only {
        let says = "sysfs is mounted for reading only, as in containers: resource0 does not open for writing";
        way.add("read-only", Stops::All, says, &[OUTSIDE]);
    }
    locked_down(way, system);
    driver_bound(way, card);
    answering(way, card);
}

fn dev_mem(way: &mut Way, card: &Card, system: &System) {
    match system.access_dev("mem") {
        Access::Granted if system.user.raw_io() => {}
        Access::Granted | Access::Denied => not_root(way, "/dev/mem", system),
        Access::Missing if system.container.is_some() => {
            way.add("missing", Stops::All, "the container has no /dev/mem", &[OUTSIDE]);
        }
        Access::Missing => way.add("missing", Stops::All, "this kernel has no /dev/mem", &[]),
    }
    if system.container.is_some() && system.access_dev("mem") != Access::Missing {
        way.add("container", Stops::Perhaps, "containers may be forbidden to open /dev/mem", &[OUTSIDE]);
    }
    locked_down(way, system);
    driver_bound(way, card);
    answering(way, card);
}

fn vfio(way: &mut Way, card: &Card, system: &System) {
    if card.driver.is_none() && card.is_unread("driver") {
        return driver_unread(way);
    }
    let Some(group) = card.iommu_group else {
        if card.is_unread("iommu_group") {
            return way.add("unread", Stops::Perhaps, "sysfs does not say which IOMMU group the card is in", &[]);
        }
        let says = "the card is in no IOMMU group: the IOMMU is off";
        let on = "switch the IOMMU on in the firmware (VT-d, AMD-Vi), and on Intel boot with intel_iommu=on";
        return way.add("iommu", Stops::All, says, &[on]);
    };
    let bdf = card.bdf;
    match card.driver.as_deref() {
        Some(driver) if !is_vfio(driver) => {
            let says = format!("{driver} is bound to the card, where VFIO needs vfio-pci");
            way.add("driver", Stops::All, says, &[]);
            way.fix(hand_over(bdf, Some(driver), system));
        }
        None => {
            way.add("driver", Stops::All, "no driver is bound to the card, where VFIO needs vfio-pci", &[]);
            way.fix(hand_over(bdf, None, system));
        }
        Some(_) => nodes(way, group, system),
    }
    for other in card.neighbours.iter().filter(|other| !other.bridge) {
        let Some(driver) = other.driver.as_deref().filter(|driver| !is_vfio(driver) && *driver != "pci-stub") else {
            continue;
        };
        let says = format!("{} in the same IOMMU group is bound to {driver}", other.bdf);
        way.add("group", Stops::All, says, &[&format!("# {}", unbind(other.bdf, driver))]);
    }
    if card.is_unread("iommu_group/devices") {
        way.add("unread", Stops::Perhaps, "the IOMMU group does not say what else is in it", &[]);
    }
    if card.on_vfio() && card.enabled == Some(true) {
        let says = "something has enabled the card: a virtual machine or another program may hold the group";
        way.add("in-use", Stops::Perhaps, says, &["end the virtual machine that uses the card"]);
    }
    if let Some(bar) = card.bar(0).filter(|bar| !bar.assigned) {
        unassigned(way, bar.bytes);
    }
}

/// The device nodes of VFIO.
fn nodes(way: &mut Way, group: u32, system: &System) {
    for node in ["vfio/vfio".to_owned(), format!("vfio/{group}")] {
        let path = format!("/dev/{node}");
        match system.access_dev(&node) {
            Access::Granted => {}
            Access::Denied => not_root(way, &path, system),
            Access::Missing if system.container.is_some() => {
                way.add(
                    "missing",
                    Stops::All,
                    format!("the container has no {path}"),
                    &["start the container with --device /dev/vfio, or run gmmu outside"],
                );
            }
            Access::Missing => {
                way.add("missing", Stops::All, format!("there is no {path}"), &["# modprobe vfio-pci"]);
            }
        }
    }
}

const OUTSIDE: &str = "run gmmu outside the container, on the host";

fn not_root(way: &mut Way, file: &str, system: &System) {
    let says = match (system.user.uid, system.user.namespaced) {
        (Some(0), true) => format!("you are root in a user namespace only, and may not open {file}"),
        (Some(0), false) => format!("this root lacks the capabilities to open {file}"),
        (Some(uid), _) => format!("user {uid} may not open {file} for reading and writing"),
        (None, _) => format!("you may not open {file} for reading and writing"),
    };
    let fix = if system.container.is_some() { OUTSIDE } else { "run gmmu as root: sudo gmmu …" };
    way.add("permission", Stops::All, says, &[fix]);
}

fn locked_down(way: &mut Way, system: &System) {
    match system.lockdown {
        Some(Lockdown::None) => {}
        Some(lockdown) => {
            let says = format!("the kernel is locked down ({}), which comes with Secure Boot", lockdown.word());
            let on = "take VFIO, which works under lockdown; or switch Secure Boot off in the firmware";
            way.add("lockdown", Stops::All, says, &[on]);
        }
        None => {
            way.add("lockdown", Stops::Perhaps, "whether the kernel is locked down cannot be read here", &[]);
        }
    }
}

fn driver_bound(way: &mut Way, card: &Card) {
    match card.driver.as_deref() {
        None if card.is_unread("driver") => driver_unread(way),
        None => {}
        Some(driver) if is_vfio(driver) => {
            way.add("driver", Stops::All, format!("{driver} holds the card for VFIO"), &[]);
        }
        Some(driver) => {
            let says = format!("{driver} is bound; a kernel with IO_STRICT_DEVMEM lets nobody else map its BARs");
            way.add("driver", Stops::Perhaps, says, &[]);
            let says = format!("the PRAMIN window must not be moved: {driver} counts on it");
            way.add(
                "window",
                Stops::Memory,
                says,
                &[
                    "without touching the card: gmmu fault explains the log line, --file reads a snapshot or image",
                    "to read the card itself, stop all that uses it and take its driver away:",
                    &format!("# {}", unbind(card.bdf, driver)),
                ],
            );
        }
    }
}

/// Somebody may count on the window, so reading memory is out of the question.
fn driver_unread(way: &mut Way) {
    way.add("unread", Stops::All, "sysfs does not say whether a driver is bound", &[]);
}

/// Does the card answer at all?
fn answering(way: &mut Way, card: &Card) {
    let wake = format!("# echo on > /sys/bus/pci/devices/{}/power/control", card.bdf);
    let state = card.power.state.filter(|state| *state != "D0" && *state != "unknown");
    match card.power.awake() {
        Awake::Yes => {}
        Awake::No => {
            let says = format!("the card sleeps ({}): reads give all-ones", state.unwrap_or("suspended"));
            way.add("suspended", Stops::All, says, &[&wake]);
        }
        Awake::Unclear => {
            way.add("suspended", Stops::Perhaps, "the card, or the bridge above it, may be suspended", &[&wake]);
        }
    }
    match card.bar(0) {
        Some(bar) if !bar.assigned => unassigned(way, bar.bytes),
        Some(bar) if !bar.memory => way.add("bar", Stops::All, "BAR0 is no memory", &[]),
        Some(_) => {}
        None if card.is_unread("resource") => {
            way.add("unread", Stops::Perhaps, "sysfs does not say where BAR0 is", &[]);
        }
        None => way.add("bar", Stops::All, "the card has no BAR0", &[]),
    }
    if card.driver.is_none() && card.enabled == Some(false) {
        let says = "no driver has enabled the card's memory: reads may give all-ones";
        let enable = format!("# echo 1 > /sys/bus/pci/devices/{}/enable", card.bdf);
        way.add("disabled", Stops::Perhaps, says, &[&enable]);
    }
}

fn unassigned(way: &mut Way, bytes: u64) {
    let says = format!("BAR0 ({bytes:#x} bytes) has no address: the machine found no room for it");
    way.add(
        "unassigned",
        Stops::All,
        says,
        &["switch \"Above 4G decoding\" on in the firmware, or boot with pci=realloc"],
    );
}

fn virtual_functions(way: &mut Way, card: &Card) {
    if let Some(parent) = card.sriov.parent {
        let says = format!("a virtual function of {parent} has no PRAMIN window of its own");
        way.add("virtual-function", Stops::Memory, says, &[]);
    }
    if let Some(count) = card.sriov.enabled.filter(|&count| count > 0) {
        let says = format!("the PRAMIN window must not be moved: {count} virtual functions are in use");
        way.add("window", Stops::Memory, says, &["end the virtual machines that use the card"]);
    }
}

fn unbind(bdf: Bdf, driver: &str) -> String {
    format!("echo {bdf} > /sys/bus/pci/drivers/{driver}/unbind")
}

/// The steps that bind `vfio-pci` in the place of `driver`.
fn hand_over(bdf: Bdf, driver: Option<&str>, system: &System) -> Vec<String> {
    let host = if system.container.is_some() { "on the host, " } else { "" };
    let mut steps = match driver {
        Some(driver) => vec![
            format!("{host}stop all that uses the card, and give it to VFIO:"),
            format!("# {}", unbind(bdf, driver)),
        ],
        None => vec![format!("{host}give the card to VFIO:")],
    };
    steps.extend([
        "# modprobe vfio-pci".to_owned(),
        format!("# echo vfio-pci > /sys/bus/pci/devices/{bdf}/driver_override"),
        format!("# echo {bdf} > /sys/bus/pci/drivers_probe"),
    ]);
    steps
}
