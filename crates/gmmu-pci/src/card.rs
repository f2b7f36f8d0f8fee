//! What sysfs says of a card.

use std::io;
use std::path::Path;

use crate::bdf::Bdf;
use crate::chip;
use crate::read::{self, PAGE};

const NVIDIA: u32 = 0x10de;
/// The base class of display controllers: VGA, 3D and other.
const DISPLAY: u32 = 0x03;
const BRIDGE: u32 = 0x06;
/// The most functions that are looked at: more than any machine has, and an end to made-up folders.
const FUNCTIONS_MAX: usize = 1 << 16;
/// The most functions of an IOMMU group that are looked at.
const GROUP_MAX: usize = 256;
/// The most complaints that are kept about functions whose vendor or class does not read.
const UNREAD_MAX: usize = 64;

/// A file that should say something, and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The function that it belongs to.
    pub bdf: Bdf,
    /// Its name, from the function's folder on.
    pub file: &'static str,
    /// Why, for people.
    pub why: String,
}

/// The power states that the kernel has words for.
const STATES: [&str; 7] = ["D0", "D1", "D2", "D3hot", "D3cold", "unknown", "error"];
/// The states of runtime power management.
const RUNTIME: [&str; 6] = ["active", "suspended", "suspending", "resuming", "error", "unsupported"];
const CONTROL: [&str; 2] = ["on", "auto"];

/// Whether a card is awake, in the kernel's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Power {
    /// `power_state`: `D0` … `D3cold`, as the kernel believes.
    pub state: Option<&'static str>,
    /// `power/runtime_status`.
    pub runtime: Option<&'static str>,
    /// `power/control`: may it be suspended (`auto`) or not (`on`)?
    pub control: Option<&'static str>,
}

/// How awake a card is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awake {
    /// It answers.
    Yes,
    /// It is suspended, or on the way there: reads give all-ones.
    No,
    /// What the kernel says does not tell.
    Unclear,
}

impl Power {
    /// How awake the card is.
    #[must_use]
    pub fn awake(self) -> Awake {
        match (self.state, self.runtime) {
            (Some("D1" | "D2" | "D3hot" | "D3cold"), _) => Awake::No,
            // The kernel leaves a card without driver in D0, but the bridge above it may sleep.
            (Some("D0"), Some("suspended" | "suspending")) => Awake::Unclear,
            (_, Some("suspended" | "suspending")) => Awake::No,
            (_, Some("error")) => Awake::Unclear,
            _ => Awake::Yes,
        }
    }
}

/// One base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Its number, 0 to 5.
    pub index: usize,
    /// The bus address of its first byte.
    pub start: u64,
    /// Its size.
    pub bytes: u64,
    /// It is memory, and no I/O ports.
    pub memory: bool,
    /// It can lie above 4 GiB.
    pub wide: bool,
    /// Reads have no side effects.
    pub prefetch: bool,
    /// It was given an address.
    pub assigned: bool,
}

/// Virtual functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sriov {
    /// How many the card can have.
    pub total: Option<u32>,
    /// How many there are.
    pub enabled: Option<u32>,
    /// The card that this is a virtual function of.
    pub parent: Option<Bdf>,
}

/// Another function in the card's IOMMU group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Where it is.
    pub bdf: Bdf,
    /// The driver that is bound to it.
    pub driver: Option<String>,
    /// It is a bridge, which does not keep the group from VFIO.
    pub bridge: bool,
}

/// An NVIDIA display or 3D controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Where it is.
    pub bdf: Bdf,
    /// The device id; the vendor is 0x10de.
    pub device: Option<u16>,
    /// Vendor and device id of the board's maker.
    pub subsystem: Option<(u16, u16)>,
    /// Class, subclass and programming interface.
    pub class: u32,
    /// Revision of the chip.
    pub revision: Option<u8>,
    /// The chip, as far as the device id tells.
    pub chip: Option<&'static str>,
    /// The driver that is bound.
    pub driver: Option<String>,
    /// The only driver that may be bound.
    pub driver_override: Option<String>,
    /// The number of its IOMMU group.
    pub iommu_group: Option<u32>,
    /// The other functions of that group.
    pub neighbours: Vec<Neighbour>,
    /// Is it awake?
    pub power: Power,
    /// A driver or a person has enabled its memory.
    pub enabled: Option<bool>,
    /// The firmware's screen.
    pub boot_vga: Option<bool>,
    /// The NUMA node that it is near to.
    pub numa_node: Option<u32>,
    /// Its BARs, absent ones left out.
    pub bars: Vec<Bar>,
    /// Virtual functions.
    pub sriov: Sriov,
    /// Files that do not read.
    pub unread: Vec<Unread>,
}

impl Card {
    /// What kind of device its class says it is.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.class >> 8 & 0xff {
            0 => "VGA controller",
            2 => "3D controller",
            _ => "display controller",
        }
    }

    /// The BAR of that number.
    #[must_use]
    pub fn bar(&self, index: usize) -> Option<&Bar> {
        self.bars.iter().find(|bar| bar.index == index)
    }

    /// The `n`-th of the card's BARs that are memory, in NVIDIA's count: 0 has the registers, 1 is BAR1, 2 is BAR2. Which
    /// places they take depends on how wide each is.
    #[must_use]
    pub fn aperture(&self, n: usize) -> Option<&Bar> {
        self.bars.iter().filter(|bar| bar.memory).nth(n)
    }

    /// Whether that file should say something, and does not.
    #[must_use]
    pub fn is_unread(&self, file: &str) -> bool {
        self.unread.iter().any(|unread| unread.file == file)
    }

    /// Whether a VFIO driver is bound: the plain one or a variant.
    #[must_use]
    pub fn on_vfio(&self) -> bool {
        self.driver.as_deref().is_some_and(is_vfio)
    }
}

/// Whether `driver` hands its device to VFIO.
pub(crate) fn is_vfio(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("-vfio-pci") || driver.ends_with("_vfio_pci")
}

/// The cards of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cards {
    /// By address.
    pub cards: Vec<Card>,
    /// Functions that may be cards, but do not say what they are.
    pub unread: Vec<Unread>,
    /// There were more functions than anybody has.
    pub truncated: bool,
}

impl Cards {
    /// Reads the cards from the sysfs at `sys`. A machine without PCI has none.
    ///
    /// # Errors
    /// There is no sysfs at `sys`, or its list of PCI devices cannot be read.
    pub fn read(sys: &Path) -> io::Result<Self> {
        let folder = sys.join("bus/pci/devices");
        let (names, truncated) = match read::names(&folder, FUNCTIONS_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && sys.join("bus").is_dir() => {
                return Ok(Self::default());
            }
            names => names?,
        };
        let mut cards = Self { truncated, ..Self::default() };
        for bdf in names.iter().filter_map(|name| Bdf::of_folder(name)) {
            let mut function = Function { bdf, folder: folder.join(bdf.to_string()), unread: Vec::new() };
            let (vendor, class) = (function.hex("vendor", 0xffff), function.hex("class", 0xff_ffff));
            match (vendor, class) {
                (Some(NVIDIA), Some(class)) if class >> 16 == DISPLAY => {
                    cards.cards.push(function.card(class, &folder))
                }
                (Some(_), Some(_)) => {}
                // One that reads may say enough.
                (Some(vendor), None) if vendor != NVIDIA => {}
                (None, Some(class)) if class >> 16 != DISPLAY => {}
                _ => cards.unread.append(&mut function.unread),
            }
            cards.unread.truncate(UNREAD_MAX);
        }
        Ok(cards)
    }
}

/// One function's folder while it is read.
struct Function {
    bdf: Bdf,
    folder: std::path::PathBuf,
    unread: Vec<Unread>,
}

impl Function {
    fn card(mut self, class: u32, devices: &Path) -> Card {
        let device = self.hex("device", 0xffff).and_then(|id| u16::try_from(id).ok());
        let subsystem = |function: &mut Self, file| function.hex(file, 0xffff).and_then(|id| u16::try_from(id).ok());
        let subsystem = subsystem(&mut self, "subsystem_vendor").zip(subsystem(&mut self, "subsystem_device"));
        let iommu_group =
            self.link("iommu_group").and_then(|name| self.checked("iommu_group", &name, name.parse().ok()));
        Card {
            bdf: self.bdf,
            device,
            subsystem,
            class,
            revision: self.hex("revision", 0xff).and_then(|revision| u8::try_from(revision).ok()),
            chip: device.and_then(chip::by_device_id),
            driver: self.link("driver"),
            driver_override: self.driver_override(),
            iommu_group,
            neighbours: if iommu_group.is_some() { self.neighbours(devices) } else { Vec::new() },
            power: Power {
                state: self.one_of("power_state", &STATES),
                runtime: self.one_of("power/runtime_status", &RUNTIME),
                control: self.one_of("power/control", &CONTROL),
            },
            enabled: self.decimal("enable").map(|count| count != 0),
            boot_vga: self.decimal("boot_vga").map(|is| is != 0),
            // -1 where the machine has one node, or does not say.
            numa_node: self
                .parsed("numa_node", |text| text.parse::<i32>().ok())
                .and_then(|node| u32::try_from(node).ok()),
            bars: self.bars(),
            sriov: Sriov {
                total: self.decimal("sriov_totalvfs"),
                enabled: self.decimal("sriov_numvfs"),
                parent: self.link("physfn").and_then(|name| self.checked("physfn", &name, Bdf::of_folder(&name))),
            },
            unread: self.unread,
        }
    }

    fn note(&mut self, file: &'static str, why: String) {
        self.unread.push(Unread { bdf: self.bdf, file, why });
    }

    fn text(&mut self, file: &'static str) -> Option<String> {
        read::text(&self.folder.join(file), PAGE).unwrap_or_else(|why| {
            self.note(file, why);
            None
        })
    }

    /// What a file says, or a complaint that it says something else.
    fn checked<T>(&mut self, file: &'static str, text: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            let start: String = text.chars().take(20).collect();
            self.note(file, format!("says {start:?}"));
        }
        value
    }

    fn parsed<T>(&mut self, file: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(file)?;
        self.checked(file, &text, parse(&text))
    }

    /// `0x10de`, at most `limit`. Every function has these files, so a missing one is worth a word.
    fn hex(&mut self, file: &'static str, limit: u32) -> Option<u32> {
        let Some(text) = self.text(file) else {
            if self.unread.last().is_none_or(|last| last.file != file) {
                self.note(file, "missing".to_owned());
            }
            return None;
        };
        let value = number(&text).and_then(|value| u32::try_from(value).ok()).filter(|&value| value <= limit);
        self.checked(file, &text, value)
    }

    fn decimal(&mut self, file: &'static str) -> Option<u32> {
        self.parsed(file, |text| text.parse().ok())
    }

    fn one_of(&mut self, file: &'static str, words: &[&'static str]) -> Option<&'static str> {
        self.parsed(file, |text| words.iter().copied().find(|&word| word == text))
    }

    fn link(&mut self, file: &'static str) -> Option<String> {
        read::link(&self.folder.join(file)).unwrap_or_else(|why| {
            self.note(file, why);
            None
        })
    }

    fn driver_override(&mut self) -> Option<String> {
        let text = self.text("driver_override").filter(|text| !text.is_empty() && text != "(null)")?;
        self.checked("driver_override", &text, Some(&text).filter(|text| read::is_word(text)).cloned())
    }

    fn bars(&mut self) -> Vec<Bar> {
        let Some(text) = self.text("resource") else {
            if self.unread.last().is_none_or(|last| last.file != "resource") {
                self.note("resource", "missing".to_owned());
            }
            return Vec::new();
        };
        let mut bars = Vec::new();
        // Line 6 is the ROM; behind it come the BARs of virtual functions and the windows of bridges.
        for (index, line) in text.lines().take(6).enumerate() {
            match bar(index, line) {
                Ok(bar) => bars.extend(bar),
                Err(()) => return self.checked("resource", line, None).unwrap_or_default(),
            }
        }
        bars
    }

    fn neighbours(&mut self, devices: &Path) -> Vec<Neighbour> {
        const FILE: &str = "iommu_group/devices";
        let names = match read::names(&self.folder.join(FILE), GROUP_MAX) {
            Ok((names, false)) => names,
            Ok((names, true)) => {
                self.note(FILE, format!("more than {GROUP_MAX} functions"));
                names
            }
            Err(error) => {
                self.note(FILE, error.to_string());
                return Vec::new();
            }
        };
        let others = names.iter().filter_map(|name| Bdf::of_folder(name)).filter(|&bdf| bdf != self.bdf);
        let neighbour = |bdf: Bdf| {
            let mut function = Self { bdf, folder: devices.join(bdf.to_string()), unread: Vec::new() };
            let driver = function.link("driver");
            Neighbour {
                bdf,
                driver,
                bridge: function.hex("class", 0xff_ffff).is_some_and(|class| class >> 16 == BRIDGE),
            }
        };
        others.map(neighbour).collect()
    }
}

/// A number as the kernel prints it in hex.
fn number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x")?;
    // `from_str_radix` would take a sign.
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, 16).ok() }
}

/// One line of `resource`: first byte, last byte, flags. `Ok(None)`: there is no such BAR.
fn bar(index: usize, line: &str) -> Result<Option<Bar>, ()> {
    const IO: u64 = 0x100;
    const MEM: u64 = 0x200;
    const PREFETCH: u64 = 0x2000;
    const MEM_64: u64 = 0x10_0000;
    const UNSET: u64 = 0x2000_0000;
    let mut words = line.split_ascii_whitespace().map(number);
    let (Some(Some(start)), Some(Some(last)), Some(Some(flags)), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(());
    };
    if flags & (IO | MEM) == 0 {
        // The upper half of the BAR before, or none at all.
        return if (start, last) == (0, 0) { Ok(None) } else { Err(()) };
    }
    let bytes = last.checked_sub(start).and_then(|bytes| bytes.checked_add(1)).ok_or(())?;
    Ok(Some(Bar {
        index,
        start,
        bytes,
        memory: flags & MEM != 0,
        wide: flags & MEM_64 != 0,
        prefetch: flags & PREFETCH != 0,
        assigned: start != 0 && flags & UNSET == 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_resource() {
        let bar0 =
            bar(0, "0x00000000fa000000 0x00000000faffffff 0x0000000000040200").expect("reads").expect("is there");
        assert_eq!((bar0.start, bar0.bytes, bar0.assigned, bar0.wide), (0xfa00_0000, 16 << 20, true, false));
        let bar1 =
            bar(1, "0x0000200000000000 0x0000201fffffffff 0x000000000014220c").expect("reads").expect("is there");
        assert_eq!((bar1.bytes, bar1.wide, bar1.prefetch), (128 << 30, true, true));
        let unset =
            bar(0, "0x0000000000000000 0x0000000000ffffff 0x0000000020040200").expect("reads").expect("is there");
        assert_eq!((unset.bytes, unset.assigned), (16 << 20, false));
        assert_eq!(bar(2, "0x0000000000000000 0x0000000000000000 0x0000000000000000"), Ok(None));
        for junk in
            ["", "0x0", "0x1 0x0 0x200", "0x0 0xffffffffffffffff 0x200", "1 2 3", "0x0 0x1 0x200 0x0", "0x+1 0x2 0x200"]
        {
            assert_eq!(bar(0, junk), Err(()), "{junk}");
        }
    }

    #[test]
    fn asleep_or_awake() {
        let awake = |state, runtime| Power { state, runtime, control: None }.awake();
        assert_eq!(awake(Some("D0"), Some("active")), Awake::Yes);
        assert_eq!(awake(None, None), Awake::Yes);
        assert_eq!(awake(Some("D3cold"), Some("suspended")), Awake::No);
        assert_eq!(awake(Some("D3hot"), Some("active")), Awake::No);
        assert_eq!(awake(Some("D0"), Some("suspended")), Awake::Unclear);
        assert_eq!(awake(None, Some("suspended")), Awake::No);
    }
}
