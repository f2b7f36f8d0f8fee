//! Cards of this machine, as `list` and `doctor` show them.

use std::path::PathBuf;

use gmmu_pci::card::{Bar, Unread};
use gmmu_pci::{Bdf, Card, Cards};
use schemars::JsonSchema;
use serde::Serialize;

use crate::console::Console;
use crate::exit::Failure;
use crate::files::unreadable;
use crate::notation::{Address, Text};

/// Which machine is looked at.
#[derive(Debug, clap::Args)]
pub struct MachineArgs {
    /// Another sysfs than /sys: one that a container was given, or a copy; proc and dev are looked for beside it
    #[arg(long, value_name = "DIR", default_value = "/sys", hide_default_value = true)]
    pub sysfs: PathBuf,
}

impl MachineArgs {
    /// Reads the machine's cards.
    ///
    /// # Errors
    /// There is no sysfs.
    pub fn cards(&self, console: &mut Console<'_>) -> Result<Cards, Failure> {
        let folder = self.sysfs.join("bus/pci/devices");
        let cards = Cards::read(&self.sysfs).map_err(|error| {
            unreadable(folder.display(), &error).hint("cards are found through sysfs, which Linux mounts on /sys")
        })?;
        for Unread { bdf, file, why } in &cards.unread {
            console.note(format_args!("{bdf}: {file}: {why}; whether it is a card is not known"));
        }
        if cards.truncated {
            console.note(format_args!("{}: too many devices, and not all were looked at", folder.display()));
        }
        Ok(cards)
    }
}

/// A card, in JSON.
#[derive(Debug, JsonSchema, Serialize)]
pub struct CardView {
    bdf: Text<Bdf>,
    vendor: &'static str,
    device: Option<String>,
    subsystem: Option<[String; 2]>,
    class: String,
    revision: Option<String>,
    kind: &'static str,
    /// After the device id; the chip itself was not asked.
    chip: Option<&'static str>,
    driver: Option<String>,
    driver_override: Option<String>,
    iommu_group: Option<u32>,
    power: PowerView,
    enabled: Option<bool>,
    boot_vga: Option<bool>,
    numa_node: Option<u32>,
    bars: Vec<BarView>,
    sriov: SriovView,
    /// Files that do not read, and why.
    unread: Vec<UnreadView>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct PowerView {
    state: Option<&'static str>,
    runtime: Option<&'static str>,
    control: Option<&'static str>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct BarView {
    index: usize,
    start: Address,
    bytes: u64,
    is: &'static str,
    bits: u32,
    prefetch: bool,
    assigned: bool,
}

#[derive(Debug, JsonSchema, Serialize)]
struct SriovView {
    total: Option<u32>,
    enabled: Option<u32>,
    parent: Option<Text<Bdf>>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct UnreadView {
    file: &'static str,
    why: String,
}

impl From<&Card> for CardView {
    fn from(card: &Card) -> Self {
        let id = |id: u16| format!("{id:#06x}");
        Self {
            bdf: Text(card.bdf),
            vendor: "0x10de",
            device: card.device.map(id),
            subsystem: card.subsystem.map(|(vendor, device)| [id(vendor), id(device)]),
            class: format!("{:#08x}", card.class),
            revision: card.revision.map(|revision| format!("{revision:#04x}")),
            kind: card.kind(),
            chip: card.chip,
            driver: card.driver.clone(),
            driver_override: card.driver_override.clone(),
            iommu_group: card.iommu_group,
            power: PowerView { state: card.power.state, runtime: card.power.runtime, control: card.power.control },
            enabled: card.enabled,
            boot_vga: card.boot_vga,
            numa_node: card.numa_node,
            bars: card.bars.iter().map(BarView::from).collect(),
            sriov: SriovView {
                total: card.sriov.total,
                enabled: card.sriov.enabled,
                parent: card.sriov.parent.map(Text),
            },
            unread: card
                .unread
                .iter()
                .map(|unread| UnreadView { file: unread.file, why: unread.why.clone() })
                .collect(),
        }
    }
}

impl From<&Bar> for BarView {
    fn from(bar: &Bar) -> Self {
        Self {
            index: bar.index,
            start: Address(bar.start),
            bytes: bar.bytes,
            is: if bar.memory { "memory" } else { "io" },
            bits: if bar.wide { 64 } else { 32 },
            prefetch: bar.prefetch,
            assigned: bar.assigned,
        }
    }
}

impl CardView {
    /// The card's line in the table of [`HEADING`].
    #[must_use]
    pub fn row(&self) -> String {
        let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let driver = self.driver.as_deref().unwrap_or("-");
        format!(
            "{}  10de:{}  {:<5}  {:<7}  {driver:<14}  {:<6}  {:<5}  {}",
            self.bdf,
            self.id(),
            self.chip.unwrap_or("-"),
            self.kind.split(' ').next().unwrap_or_default(),
            self.power.state.unwrap_or("-"),
            number(self.iommu_group),
            number(self.numa_node),
        )
    }

    /// The device id as PCI ids are written.
    fn id(&self) -> &str {
        self.device.as_ref().map_or("????", |id| id.trim_start_matches("0x"))
    }

    /// The card in one line of words.
    #[must_use]
    pub fn title(&self) -> String {
        let mut title = format!("{}  10de:{}", self.bdf, self.id());
        let chip = self.chip.map(|chip| format!("{chip} by its id"));
        let driver = match &self.driver {
            Some(driver) => format!("driver {driver}"),
            None if self.unread.iter().any(|unread| unread.file == "driver") => "driver not known".to_owned(),
            None => "no driver".to_owned(),
        };
        let power = self.power.state.map(str::to_owned);
        let parts = [chip, Some(self.kind.to_owned()), Some(driver), power];
        for part in parts.into_iter().flatten() {
            title.push_str(", ");
            title.push_str(&part);
        }
        title
    }

    /// Tells which of the card's files do not read.
    pub fn note_unread(&self, console: &mut Console<'_>) {
        for UnreadView { file, why } in &self.unread {
            console.note(format_args!("{}: {file}: {why}", self.bdf));
        }
    }

    /// The BARs in words.
    #[must_use]
    pub fn bar_lines(&self) -> Vec<String> {
        let line = |bar: &BarView| {
            let BarView { index, start, bytes, bits, .. } = bar;
            let size = crate::notation::Size(*bytes);
            match (bar.is, bar.assigned) {
                ("memory", true) => format!("BAR{index}  {start}  {size}, {bits}-bit"),
                ("memory", false) => format!("BAR{index}  no address       {size}, {bits}-bit"),
                _ => format!("BAR{index}  {start}  {size}, I/O ports"),
            }
        };
        self.bars.iter().map(line).collect()
    }
}

/// The heading over the cards' lines. The chip is a guess by the device id.
pub const HEADING: &str = "card          id         chip   kind     driver          power   iommu  numa";
