//! A real card as a source: its video memory through the PRAMIN window, which is put back in the end.

use std::fmt;
use std::path::{Path, PathBuf};

use gmmu::addr::TableAddr;
use gmmu::chip::{UnknownChip, is_not_there};
use gmmu::device::{Bar0, DeviceError, TableRead};
use gmmu::instance::{self, Bar};
use gmmu::mmio::{Mmio, ProbeError};
use gmmu::regs::NV_PMC_BOOT_0;
use gmmu_pci::bars::Bars;
use gmmu_pci::map::{MapError, Mapping};
use gmmu_pci::open::{Alone, OpenError, open};
use gmmu_pci::{Bdf, Cards, System};

use super::{Memory, SourceArgs, block_word, root_in};
use crate::exit::{Exit, Failure};
use crate::files::unreadable;
use crate::num::shown;
use crate::snapshot::{NamedRoot, SnapshotInfo};

/// What of a card's memory a search goes through at most: reads over a bus take their time, and tables take less.
const SEARCHED_MAX: u64 = 4 << 30;
/// Where a BAR's address space is asked for by name.
const BARS: [(Bar, &str); 2] = [(Bar::Bar1, "bar1"), (Bar::Bar2, "bar2")];

/// A card that is ours, and its registers.
pub(crate) struct Opened {
    /// What sysfs says of it.
    pub(crate) card: gmmu_pci::Card,
    /// As long as this lives.
    pub(crate) alone: Alone,
    /// BAR0.
    pub(crate) bar0: Mapping,
}

impl Opened {
    /// Opens the card at `bdf`.
    ///
    /// # Errors
    /// Exit code 2 for what is no address, 3 where there is no such card, 4 where access to it is refused.
    pub(crate) fn new(bdf: &str, sysfs: &Path, writable: bool) -> Result<Self, Failure> {
        let bdf: Bdf = bdf.parse().map_err(|why| Failure::usage(format_args!("--pci {}: {why}", shown(bdf))))?;
        let folder = sysfs.join("bus/pci/devices");
        let cards = Cards::read(sysfs).map_err(|error| {
            unreadable(folder.display(), &error).hint("cards are found through sysfs, which Linux mounts on /sys")
        })?;
        let Some(card) = cards.cards.iter().find(|card| card.bdf == bdf) else {
            return Err(Failure::input(format_args!("{bdf}: no NVIDIA card")).hint("`gmmu list` shows the cards"));
        };
        let (alone, bar0) = open(sysfs, card, &System::read(sysfs), writable).map_err(|why| refused(bdf, why))?;
        Ok(Self { card: card.clone(), alone, bar0 })
    }

    /// BAR0 with BAR1 beside it.
    ///
    /// # Errors
    /// Exit code 4 where BAR1 has no address or may not be mapped, 3 where there is none.
    pub(crate) fn with_bar1(self, sysfs: &Path) -> Result<(Alone, Bars), Failure> {
        let Self { card, alone, bar0 } = self;
        let index = card.aperture(1).map_or(1, |bar| bar.index);
        let aperture = Mapping::open(sysfs, &card, index, true).map_err(|why| refused(card.bdf, why.into()))?;
        Ok((alone, Bars { bar0, aperture }))
    }
}

/// A card whose window is ours.
#[derive(Debug)]
pub struct Card {
    bdf: Bdf,
    path: PathBuf,
    /// None once the window was put back.
    mmio: Option<Mmio<Mapping>>,
    _alone: Alone,
}

impl Card {
    /// Opens the card at `bdf`, and asks it what it is.
    ///
    /// # Errors
    /// Exit code 3 where there is no such card, 4 where access to it is refused, 5 where it does not answer.
    pub fn open(bdf: &str, sysfs: &Path, move_window: bool) -> Result<Self, Failure> {
        let Opened { card, alone, bar0 } = Opened::new(bdf, sysfs, move_window)?;
        let bdf = card.bdf;
        let mmio = Mmio::probe(bar0).map_err(|why| unknown(bdf, why))?;
        let path = sysfs.join(format!("bus/pci/devices/{bdf}/resource0"));
        Ok(Self { bdf, path, mmio: Some(mmio), _alone: alone })
    }

    /// What is known of the card, with the address spaces that BAR1 and BAR2 go through.
    ///
    /// # Errors
    /// Those of the card.
    pub fn info(&mut self) -> Result<SnapshotInfo, Failure> {
        let (roots, blocks) = self.bar_roots().map_err(|error| self.failure(error))?;
        let Some(mmio) = &self.mmio else { return Err(Failure::input(format_args!("{}: is closed", self.bdf))) };
        let chip = mmio.chip();
        Ok(SnapshotInfo { chip: Some(chip), mmu: chip.mmu, fb_bytes: mmio.vram_bytes(), base: 0, roots, blocks })
    }

    fn bar_roots(&mut self) -> Result<(Vec<NamedRoot>, Vec<TableAddr>), DeviceError> {
        let (mut roots, mut blocks) = (Vec::new(), Vec::new());
        for (bar, name) in BARS {
            let Some(mmio) = &mut self.mmio else { break };
            let chip = mmio.chip();
            let block = match instance::bound(mmio.bar0(), chip, bar) {
                // Firmware may keep these registers to itself; the rest of the card can be read all the same.
                Err(DeviceError::Poison { .. }) | Ok(None) => continue,
                Err(error) => return Err(error),
                Ok(Some(block)) => block,
            };
            if let Some(at) = root_in(block_word(self, block)?.1) {
                roots.push(NamedRoot { name: name.to_owned(), at });
                blocks.push(block);
            }
        }
        Ok((roots, blocks))
    }

    /// Its `resource0`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes are worth searching for tables.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.mmio.as_ref().map_or(0, |mmio| mmio.vram_bytes().min(SEARCHED_MAX))
    }

    /// The failure for a card that did not answer as it should.
    #[must_use]
    pub fn failure(&self, error: DeviceError) -> Failure {
        device_failure(self.bdf, error)
    }

    /// Whether words look as if nothing answered; the card itself is asked in that case, for tables may hold anything.
    fn judge(&mut self, words: &[u64]) -> Result<(), DeviceError> {
        let error_word = |word: u64| {
            let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
            is_not_there(u32::from_le_bytes([a, b, c, d])) && is_not_there(u32::from_le_bytes([e, f, g, h]))
        };
        let Some(&word) = words.iter().find(|&&word| error_word(word)) else { return Ok(()) };
        let Some(mmio) = &mut self.mmio else { return Ok(()) };
        let boot_0 = mmio.bar0().read32(NV_PMC_BOOT_0)?;
        match boot_0 {
            u32::MAX => Err(DeviceError::Gone { offset: NV_PMC_BOOT_0, value: boot_0 }),
            _ if is_not_there(boot_0) => Err(DeviceError::Poison { offset: NV_PMC_BOOT_0, value: boot_0 }),
            // The card is well, so these are what its memory holds; all-ones there are a bad entry, but an error word is what
            // the bus says of memory that is locked or not set up.
            _ if word == u64::MAX => Ok(()),
            _ => {
                let [a, b, c, d, ..] = word.to_le_bytes();
                Err(DeviceError::Poison { offset: gmmu::regs::NV_PRAMIN, value: u32::from_le_bytes([a, b, c, d]) })
            }
        }
    }
}

impl TableRead for Card {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        let Some(mmio) = &mut self.mmio else { return Err(DeviceError::Backend("the card is closed")) };
        mmio.read_words(at, words)?;
        self.judge(words)
    }
}

impl Drop for Card {
    /// Puts the window back. Where that fails the card is gone, or somebody else moves its window.
    fn drop(&mut self) {
        if let Some(mmio) = self.mmio.take()
            && let Err((_, error)) = mmio.release()
        {
            eprintln!("warning: {}: the PRAMIN window was not put back: {error}", self.bdf);
        }
    }
}

/// The failure for a card that may not be opened.
fn refused(bdf: Bdf, why: OpenError) -> Failure {
    let says = format!("{bdf}: {why}");
    match why {
        OpenError::Obstacle(obstacle) => {
            let fix = obstacle.fix.join("; ");
            let fix = if fix.is_empty() { format!("`gmmu doctor {bdf}` shows all ways to the card") } else { fix };
            Failure::new(Exit::Refused, says).hint(fix)
        }
        OpenError::Busy(_) => Failure::new(Exit::Refused, says).hint("wait for it, or end it"),
        OpenError::Lock { error, .. } | OpenError::Map(MapError::System { error, .. }) => {
            Failure::new(Exit::of_file(&error), says)
                .hint(format_args!("`gmmu doctor {bdf}` says what stands in the way"))
        }
        OpenError::Map(MapError::Asleep | MapError::Unassigned(_)) => {
            Failure::new(Exit::Refused, says).hint(format_args!("`gmmu doctor {bdf}` says what helps"))
        }
        _ => Failure::input(says),
    }
}

/// The failure for a card that does not say what it is.
pub(crate) fn unknown(bdf: Bdf, why: ProbeError) -> Failure {
    match why {
        ProbeError::Device(error) => device_failure(bdf, error),
        ProbeError::UnknownChip(UnknownChip::NotThere { boot_0, .. }) => {
            dead(bdf, &format!("NV_PMC_BOOT_0 reads {boot_0:#010x}"), boot_0)
        }
        // What a virtual machine answers in the place of a device that is switched off.
        ProbeError::UnknownChip(UnknownChip::Unknown { architecture: 0, .. }) => {
            dead(bdf, &"NV_PMC_BOOT_0 reads 0, which is no chip", 0)
        }
        other => Failure::input(format_args!("{bdf}: {other}")),
    }
}

pub(crate) fn device_failure(bdf: Bdf, error: DeviceError) -> Failure {
    match error {
        DeviceError::Gone { value, .. } | DeviceError::Poison { value, .. } => dead(bdf, &error, value),
        DeviceError::WindowLost { .. } => Failure::new(Exit::Refused, format_args!("{bdf}: {error}"))
            .hint("somebody else moves the window: end what uses the card"),
        other => Failure::input(format_args!("{bdf}: {other}")),
    }
}

/// The failure for a card that answers with nothing or an error word.
fn dead(bdf: Bdf, what: &dyn fmt::Display, value: u32) -> Failure {
    let hint = match value {
        0 | u32::MAX => format!(
            "nothing answers: it sleeps, is off the bus, or its memory is switched off: see `gmmu doctor {bdf}`; \
             # echo 1 > /sys/bus/pci/devices/{bdf}/enable switches it on"
        ),
        0xbad0_0000..=0xbad0_ffff => {
            "an error word: this memory is not set up, since no driver or firmware has trained it".to_owned()
        }
        _ => "an error word: the unit is off, or firmware (GSP, secure boot) keeps it to itself".to_owned(),
    };
    Failure::new(Exit::Dead, format_args!("{bdf}: {what}")).hint(hint)
}

impl SourceArgs {
    /// The card of `--pci`.
    ///
    /// # Errors
    /// Usage, where reading it was not agreed to; else those of [`Card::open`].
    pub(super) fn open_card(&self, bdf: &str) -> Result<(Memory, SnapshotInfo), Failure> {
        let sysfs = self.sysfs.as_deref().unwrap_or(Path::new("/sys"));
        let mut card = Card::open(bdf, sysfs, self.move_window)?;
        if !self.move_window {
            return Err(Failure::usage(format_args!(
                "{}: its memory is read through the PRAMIN window, which moves",
                card.bdf
            ))
            .hint("no driver counts on it; say --move-window, and it is put back in the end"));
        }
        let mut info = card.info()?;
        self.choose(&card.path.clone(), "card", &mut info)?;
        Ok((Memory::Card(Box::new(card)), info))
    }
}
