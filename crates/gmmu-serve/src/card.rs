//! The PCI function: regions of bytes over the software GPU's registers and apertures.

use crate::config_space::{self, ConfigSpace};
use crate::furniture;
use crate::identity::Identity;
use crate::recording::Recording;
use crate::wire;
use gmmu::device::{Bar0, Bar1Aperture, Width};
use gmmu_sim::trace::{Event, Tape, Way};
use gmmu_sim::{Client, Config, ConfigError, Gpu};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Bytes of BAR0 and BAR2.
const BAR0_BYTES: u64 = 16 << 20;
const BAR2_BYTES: u64 = 32 << 20;

/// A software GPU in a slot.
#[derive(Debug)]
pub struct Card {
    made_from: Config,
    identity: &'static Identity,
    gpu: Gpu,
    config: ConfigSpace,
    recording: Option<Recording>,
    interrupt: Option<File>,
    /// Faults that the host was told of.
    told: u64,
    mark: Option<u32>,
    /// Something was accessed since the last reset.
    used: bool,
    born: Instant,
}

/// Why there is no such card.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// There is no such GPU.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The bus measures apertures in powers of two.
    #[error("a BAR1 of {bytes} bytes: it must be a power of two, at least 1 MiB")]
    Bar1 {
        /// What was asked for.
        bytes: u64,
    },
}

impl Card {
    /// Puts a GPU into a slot: with a VBIOS, and the registers that drivers look at when they start.
    ///
    /// # Errors
    /// [`CardError`].
    pub fn new(config: &Config) -> Result<Self, CardError> {
        let bytes = config.bar1_bytes;
        if !bytes.is_power_of_two() || bytes < 1 << 20 {
            return Err(CardError::Bar1 { bytes });
        }
        let mut gpu = Gpu::new(config)?;
        let name = gpu.chip().name;
        let unknown = || ConfigError::UnknownChip { name: name.to_owned(), known: String::new() };
        let identity = Identity::of(name).ok_or_else(unknown)?;
        gpu.furnish(furniture::of(gpu.chip(), identity));
        // `Gpu` takes every chip that it lists, so the word is there.
        let revision = gpu.read32(0).unwrap_or(0);
        gpu.reset_counts();
        Ok(Self {
            made_from: config.clone(),
            identity,
            config: ConfigSpace::new(identity, revision, [BAR0_BYTES, bytes, BAR2_BYTES]),
            gpu,
            recording: None,
            interrupt: None,
            told: 0,
            mark: None,
            used: false,
            born: Instant::now(),
        })
    }

    /// The GPU in it.
    pub const fn gpu(&mut self) -> &mut Gpu {
        &mut self.gpu
    }

    /// Writes down on `tape` all that is done to the GPU from here on.
    pub fn record(&mut self, tape: Tape) {
        self.recording = Some(Recording::new(tape));
    }

    /// The number that was last written to the marker in configuration space, once.
    pub const fn take_mark(&mut self) -> Option<u32> {
        self.mark.take()
    }

    /// Bytes of a region of the bus.
    pub(crate) fn region_bytes(&self, region: u32) -> u64 {
        match region {
            wire::BAR0 => BAR0_BYTES,
            wire::BAR1 => self.gpu.bar1_bytes(),
            wire::BAR2 => BAR2_BYTES,
            wire::CONFIG => config_space::BYTES as u64,
            _ => 0,
        }
    }

    /// Reads bytes of a region; `None` where they are not all in it.
    pub(crate) fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Option<()> {
        if region == wire::CONFIG {
            return self.config.read(usize::try_from(offset).ok()?, data);
        }
        self.enter(region, offset, data.len())?;
        let mut rest = data;
        for (at, width) in pieces(offset, rest.len()) {
            let (here, after) = rest.split_at_mut(width.bytes() as usize);
            let value = self.read_piece(region, at, width).to_le_bytes();
            here.copy_from_slice(value.get(..here.len()).unwrap_or_default());
            rest = after;
        }
        self.interrupt();
        Some(())
    }

    /// Writes bytes of a region; `None` where they are not all in it.
    pub(crate) fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Option<()> {
        if region == wire::CONFIG {
            return self.write_config(usize::try_from(offset).ok()?, data);
        }
        self.enter(region, offset, data.len())?;
        let mut rest = data;
        for (at, width) in pieces(offset, rest.len()) {
            let (here, after) = rest.split_at(width.bytes() as usize);
            let mut value = [0; 8];
            value.get_mut(..here.len()).unwrap_or_default().copy_from_slice(here);
            self.write_piece(region, at, width, u64::from_le_bytes(value));
            rest = after;
        }
        self.interrupt();
        Some(())
    }

    fn write_config(&mut self, at: usize, data: &[u8]) -> Option<()> {
        self.config.write(at, data)?;
        if at < config_space::MARKER + 4 && at + data.len() > config_space::MARKER {
            let mark = self.config.marker();
            self.mark = Some(mark);
            let label = format!("mark {mark}");
            self.gpu.label(&label);
            self.note(Event::Label(label));
        }
        Some(())
    }

    /// Looks whether an access is within its region, and lets time pass until now.
    fn enter(&mut self, region: u32, offset: u64, bytes: usize) -> Option<()> {
        let end = offset.checked_add(u64::try_from(bytes).ok()?)?;
        if end > self.region_bytes(region) {
            return None;
        }
        self.used = true;
        self.gpu.pass_until(u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX));
        Some(())
    }

    /// All-ones where nothing answers, as on any bus.
    fn read_piece(&mut self, region: u32, at: u64, width: Width) -> u64 {
        let ones = u64::MAX >> (64 - 8 * width.bytes());
        let (value, event) = match region {
            wire::BAR0 => {
                // Within the region, which is smaller than 4 GiB.
                let at = u32::try_from(at).unwrap_or(u32::MAX);
                let value = self.gpu.read(at, width).unwrap_or(ones);
                (value, Event::Read(at, width, value))
            }
            wire::BAR1 => {
                let value = self.gpu.read_at(at, width).unwrap_or(ones);
                (value, Event::Bar1Read(at, width, value))
            }
            _ => {
                let mut bytes = [0; 8];
                let used = bytes.get_mut(..width.bytes() as usize).unwrap_or_default();
                let value = self.gpu.load(Client::Bar2, at, used).map_or(ones, |()| u64::from_le_bytes(bytes));
                (value, Event::Bar2Read(at, width, value))
            }
        };
        self.note(event);
        value
    }

    /// Lost where nothing answers.
    fn write_piece(&mut self, region: u32, at: u64, width: Width, value: u64) {
        let way = match region {
            wire::BAR0 => Way::Bar0,
            wire::BAR1 => Way::Bar1,
            _ => Way::Bar2,
        };
        if let Some(recording) = &mut self.recording {
            recording.write(way, at, width, value);
        }
        match way {
            Way::Bar0 => drop(self.gpu.write(u32::try_from(at).unwrap_or(u32::MAX), width, value)),
            Way::Bar1 => drop(self.gpu.write_at(at, width, value)),
            Way::Bar2 => {
                let bytes = value.to_le_bytes();
                let _ = self.gpu.store(Client::Bar2, at, bytes.get(..width.bytes() as usize).unwrap_or_default());
            }
        }
    }

    fn note(&mut self, event: Event) {
        if let Some(recording) = &mut self.recording {
            recording.note(&event);
        }
    }

    /// As after power-on, with a new GPU of the same kind. Nothing happens to one that nobody has accessed.
    pub(crate) fn reset(&mut self) {
        let fresh = self.used.then(|| Self::new(&self.made_from)).and_then(Result::ok);
        let Some(fresh) = fresh else { return };
        let (recording, interrupt) = (self.recording.take(), self.interrupt.take());
        *self = Self { recording, interrupt, ..fresh };
        self.note(Event::Label("the card was reset: what follows is another's".to_owned()));
    }

    /// What tells the host of message-signalled interrupts: the first descriptor for the one that there is, none to stop.
    pub(crate) fn set_interrupt(&mut self, index: u32, start: u32, count: u32, fds: Vec<OwnedFd>) -> Option<()> {
        if index != wire::MSI {
            return (count == 0 && fds.is_empty()).then_some(());
        }
        if start != 0 || count > 1 || fds.len() > 1 {
            return None;
        }
        self.interrupt = match fds.into_iter().next() {
            Some(fd) => {
                // A client may hand over anything: nothing is to wait for it.
                rustix::fs::fcntl_setfl(&fd, rustix::fs::OFlags::NONBLOCK).ok()?;
                Some(File::from(fd))
            }
            None => None,
        };
        Some(())
    }

    /// Tells the host of faults that it does not know of.
    fn interrupt(&mut self) {
        if std::mem::replace(&mut self.told, self.gpu.faults()) == self.gpu.faults() {
            return;
        }
        if let Some(event) = &mut self.interrupt {
            // Whether anybody listens is the host's business.
            let _ = event.write(&1_u64.to_ne_bytes());
        }
    }

    /// The client is gone, and its descriptors with it.
    pub(crate) fn disconnected(&mut self) {
        self.interrupt = None;
        if let Some(recording) = &mut self.recording {
            recording.close();
        }
    }

    /// The ids under which it is on the bus.
    #[must_use]
    pub const fn identity(&self) -> &'static Identity {
        self.identity
    }
}

/// What the bus makes of an access: naturally aligned pieces of at most eight bytes, upwards.
fn pieces(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, Width)> {
    let end = offset.saturating_add(bytes as u64);
    let mut at = offset;
    std::iter::from_fn(move || {
        let room = end - at;
        let widths = [Width::W64, Width::W32, Width::W16, Width::W8];
        let width = widths.into_iter().find(|width| {
            let bytes = u64::from(width.bytes());
            bytes <= room && at.is_multiple_of(bytes)
        })?;
        let here = at;
        at += u64::from(width.bytes());
        Some((here, width))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_come_in_aligned_pieces() {
        let of = |offset, bytes| pieces(offset, bytes).map(|(at, width)| (at, width.bytes())).collect::<Vec<_>>();
        assert_eq!(of(8, 8), [(8, 8)]);
        assert_eq!(of(4, 8), [(4, 4), (8, 4)]);
        assert_eq!(of(3, 6), [(3, 1), (4, 4), (8, 1)]);
        assert_eq!(of(0, 20), [(0, 8), (8, 8), (16, 4)]);
        assert_eq!(of(7, 0), []);
    }
}
