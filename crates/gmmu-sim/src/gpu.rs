//! The GPU as a whole: how it is made, and what its user can do with it besides the bus.

use crate::bars::{Bars, Bound, Which};
use crate::bus::Flush;
use crate::chip::{self, ChipModel, Layout};
use crate::counts::Counts;
use crate::fault::{self, AccessKind, Buffer, Circumstances, Client, Fault, FaultType, Slot};
use crate::format::{Decoder, Flags};
use crate::invalidate::Invalidate;
use crate::memory::{Space, PAGE};
use crate::mmu::{Miss, Translated};
use crate::model::Model;
use crate::pramin::Window;
use crate::regs;
use crate::sanitizer::Finding;
use crate::store::Origin;
use crate::tlb::Class;
use gmmu::addr::{PhysAddr, TableAddr};
use gmmu::device::{DeviceError, TableRead, Width};

/// Bytes of the BAR2 aperture.
const BAR2_BYTES: u64 = 32 << 20;
/// `NV_MMU_PTE_KIND_INVALID`.
const KIND_INVALID: u8 = 7;

/// How wide one access of the bus can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bus {
    /// 64 bits are one access.
    Bits64,
    /// 64 bits are two accesses, the low half first. Each half is visible on its own.
    Bits32,
}

/// What GPU to make. Two GPUs of equal configuration behave equally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Lower-case name of the chip, one of [`Gpu::chips`].
    pub chip: String,
    /// Video memory in bytes: a multiple of 1 MiB, at most [`ChipModel::vram_max`], and what the chip's size register
    /// can express.
    pub vram: u64,
    /// Width of the bus.
    pub bus: Bus,
    /// Where all that is arbitrary comes from.
    pub seed: u64,
    /// How many polls find an invalidate still running.
    pub invalidate_polls: u32,
    /// How many looks at the status find a BAR bind still pending.
    pub bind_polls: u32,
    /// Size of the BAR1 aperture in bytes.
    pub bar1_bytes: u64,
}

impl Default for Config {
    /// A `gh100` with 96 GiB on a 64-bit bus, seed 0, two polls for an invalidate, one for a bind, 64 GiB of BAR1.
    fn default() -> Self {
        Self {
            chip: "gh100".to_owned(),
            vram: 96 * chip::GIB,
            bus: Bus::Bits64,
            seed: 0,
            invalidate_polls: 2,
            bind_polls: 1,
            bar1_bytes: 64 * chip::GIB,
        }
    }
}

impl Config {
    /// The default with another chip.
    #[must_use]
    pub fn chip(name: &str) -> Self {
        Self { chip: name.to_owned(), ..Self::default() }
    }
}

/// Why there is no such GPU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No chip of that name.
    #[error("there is no chip {name:?}; known are: {known}")]
    UnknownChip {
        /// What was asked for.
        name: String,
        /// All that could have been.
        known: String,
    },
    /// The chip has no video memory of its own.
    #[error("{name} is an integrated GPU without video memory: its page tables lie in system memory, which is not modelled yet")]
    Integrated {
        /// The chip.
        name: &'static str,
    },
    /// Not a positive multiple of 1 MiB.
    #[error("{bytes} bytes of video memory: it must be a multiple of 1 MiB, and more than 0")]
    VramNotMebibytes {
        /// What was asked for.
        bytes: u64,
    },
    /// More than the window and the formats reach.
    #[error("{bytes} bytes of video memory: {name} reaches {max} at most")]
    VramTooLarge {
        /// The chip.
        name: &'static str,
        /// What was asked for.
        bytes: u64,
        /// The most that it can have.
        max: u64,
    },
    /// The size register has a mantissa of six bits.
    #[error(
        "{bytes} bytes of video memory: the size register of {name} holds only 1 to 63 times a power of two of MiB"
    )]
    VramNotExpressible {
        /// The chip.
        name: &'static str,
        /// What was asked for.
        bytes: u64,
    },
}

/// A software GPU. Its registers are reached through [`Bar0`](gmmu::device::Bar0), its time is
/// [`Clock`](gmmu::device::Clock).
#[derive(Debug)]
pub struct Gpu {
    pub(crate) chip: &'static ChipModel,
    pub(crate) bus: Bus,
    pub(crate) model: Model,
    pub(crate) window: Window,
    pub(crate) bars: Bars,
    pub(crate) invalidate: Invalidate,
    pub(crate) flush: Flush,
    pub(crate) counts: Counts,
    pub(crate) time_ns: u64,
    pub(crate) fb_size: u32,
    pub(crate) invalidate_polls: u32,
    pub(crate) bind_polls: u32,
    seed: u64,
    bar1_bytes: u64,
    buffers: [Buffer; 2],
    last_fault: [u32; 8],
}

impl Gpu {
    /// Makes a GPU with empty memory, nothing bound, the window at 0.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong with the chip or its memory.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let chip = chip::find(&config.chip, config.vram)?;
        Ok(Self {
            chip,
            bus: config.bus,
            model: Model::new(Decoder::new(chip), config.vram),
            window: Window::default(),
            bars: Bars::default(),
            invalidate: Invalidate::default(),
            flush: Flush::default(),
            counts: Counts::default(),
            time_ns: 0,
            // `find` has asked whether there is one.
            fb_size: chip.fb_size_word(config.vram).unwrap_or(0),
            invalidate_polls: config.invalidate_polls,
            bind_polls: config.bind_polls,
            seed: config.seed,
            bar1_bytes: config.bar1_bytes,
            buffers: [Buffer::default(); 2],
            last_fault: [0; 8],
        })
    }

    /// All chips, oldest first, those too which [`new`](Self::new) refuses.
    #[must_use]
    pub const fn chips() -> &'static [ChipModel] {
        chip::CHIPS
    }

    /// The chip that this is.
    #[must_use]
    pub const fn chip(&self) -> &'static ChipModel {
        self.chip
    }

    /// Bytes of video memory.
    #[must_use]
    pub const fn vram_bytes(&self) -> u64 {
        self.model.memory.end(Space::Vram)
    }

    /// Bytes of the BAR1 aperture.
    #[must_use]
    pub const fn bar1_bytes(&self) -> u64 {
        self.bar1_bytes
    }

    /// What the driver's accesses cost so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Begins counting anew.
    pub fn reset_counts(&mut self) {
        self.counts = Counts::default();
    }

    /// Number of the latest operation; findings name these numbers.
    #[must_use]
    pub const fn op(&self) -> u64 {
        self.model.op
    }

    /// What the sanitizer has found, oldest first; at most 1024 are kept.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.model.report.findings
    }

    /// How many findings there were beyond those kept.
    #[must_use]
    pub const fn suppressed_findings(&self) -> u64 {
        self.model.report.suppressed
    }

    /// Takes the findings out, and begins anew.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        self.model.report.suppressed = 0;
        std::mem::take(&mut self.model.report.findings)
    }

    /// Translates `va` for `client` through its caches, as the hardware does when the client accesses one byte.
    ///
    /// Caches keep what was read. A fault goes to the fault buffer 0 if that is on. Permissions are checked after the
    /// translation: privilege, then read-only, then atomics, then the invalid kind.
    ///
    /// # Errors
    /// The [`Fault`] that the client gets.
    pub fn access(&mut self, client: Client, va: u64, kind: AccessKind, privileged: bool) -> Result<Translated, Fault> {
        self.model.op += 1;
        let result = match self.resolve(client, va) {
            Ok(None) => {
                let to = PhysAddr::vram(va);
                Ok(Translated { to, page_bytes: PAGE, kind: 0, flags: Flags::default(), sparse: false })
            }
            Ok(Some((class, pdb))) => self.model.translate(class, pdb, va),
            Err(fault) => Err(Miss { fault, level: "-", entry: None, raw: 0 }),
        };
        let result = result.and_then(|found| permit(found, kind, privileged));
        result.map_err(|miss| self.raise(client, va, kind, miss))
    }

    /// Translates `va` in the space below `pdb` by what memory holds now. Nothing changes, and permissions do not count.
    ///
    /// # Errors
    /// The [`Fault`] that ends the walk.
    pub fn peek_translate(&self, pdb: TableAddr, va: u64) -> Result<Translated, Fault> {
        let client = Client::Engine { pdb };
        self.model.peek(pdb, va).map_err(|miss| to_fault(client, va, AccessKind::Read, miss))
    }

    /// Reads bytes at `va` through the MMU, unprivileged for engines. Sparse pages read 0.
    ///
    /// # Errors
    /// The [`Fault`] of the first page that faults; the bytes before were read.
    pub fn load(&mut self, client: Client, va: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let mut at = va;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (here, after) = rest.split_at_mut(in_page(at, rest.len()));
            let found = self.access(client, at, AccessKind::Read, is_bar(client))?;
            if found.sparse {
                here.fill(0);
            } else if let Err(fault) = self.model.load_data(found.to, here) {
                return Err(self.raise(client, at, AccessKind::Read, data_miss(fault)));
            }
            at = at.saturating_add(here.len() as u64);
            rest = after;
        }
        Ok(())
    }

    /// Writes bytes at `va` through the MMU, unprivileged for engines. Sparse pages drop them.
    ///
    /// # Errors
    /// The [`Fault`] of the first page that faults; the bytes before were written.
    pub fn store(&mut self, client: Client, va: u64, bytes: &[u8]) -> Result<(), Fault> {
        // Drivers write tables through BAR2; what comes through BAR1 or from an engine is data.
        let origin = if client == Client::Bar2 { Origin::Tables } else { Origin::Data };
        let mut at = va;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (here, after) = rest.split_at(in_page(at, rest.len()));
            let found = self.access(client, at, AccessKind::Write, is_bar(client))?;
            if !found.sparse {
                if let Err(fault) = self.model.store_data(origin, found.to, here) {
                    return Err(self.raise(client, at, AccessKind::Write, data_miss(fault)));
                }
            }
            at = at.saturating_add(here.len() as u64);
            rest = after;
        }
        Ok(())
    }

    /// Reads 32 bits at `va` through the MMU.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load32(&mut self, client: Client, va: u64) -> Result<u32, Fault> {
        let mut bytes = [0; 4];
        self.load(client, va, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes 32 bits at `va` through the MMU.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub fn store32(&mut self, client: Client, va: u64, value: u32) -> Result<(), Fault> {
        self.store(client, va, &value.to_le_bytes())
    }

    /// The CPU reads `width` bytes at `offset` of the BAR1 aperture.
    ///
    /// # Errors
    /// [`Fault`]: on hardware the CPU reads all-ones and the GPU reports this.
    pub fn bar1_read(&mut self, offset: u64, width: Width) -> Result<u64, Fault> {
        self.bar_read(Client::Bar1, offset, width)
    }

    /// The CPU writes the low `width` bytes of `value` at `offset` of the BAR1 aperture.
    ///
    /// # Errors
    /// As [`bar1_read`](Self::bar1_read); on hardware the write is lost.
    pub fn bar1_write(&mut self, offset: u64, width: Width, value: u64) -> Result<(), Fault> {
        self.bar_write(Client::Bar1, offset, width, value)
    }

    /// The CPU reads `width` bytes at `offset` of the BAR2 aperture, which is 32 MiB.
    ///
    /// # Errors
    /// As [`bar1_read`](Self::bar1_read).
    pub fn bar2_read(&mut self, offset: u64, width: Width) -> Result<u64, Fault> {
        self.bar_read(Client::Bar2, offset, width)
    }

    /// The CPU writes the low `width` bytes of `value` at `offset` of the BAR2 aperture. Tables may be written so.
    ///
    /// # Errors
    /// As [`bar1_write`](Self::bar1_write).
    pub fn bar2_write(&mut self, offset: u64, width: Width, value: u64) -> Result<(), Fault> {
        self.bar_write(Client::Bar2, offset, width, value)
    }

    fn bar_read(&mut self, client: Client, offset: u64, width: Width) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        let used = bytes.get_mut(..width.bytes() as usize).unwrap_or_default();
        self.load(client, offset, used)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn bar_write(&mut self, client: Client, offset: u64, width: Width, value: u64) -> Result<(), Fault> {
        let bytes = value.to_le_bytes();
        self.store(client, offset, bytes.get(..width.bytes() as usize).unwrap_or_default())
    }

    /// The caches and the root that a client's accesses go through; no root where they go to video memory directly.
    fn resolve(&self, client: Client, va: u64) -> Result<Option<(Class, TableAddr)>, FaultType> {
        let (which, bytes) = match client {
            Client::Engine { pdb } => return Ok(Some((Class::Gpc, pdb))),
            Client::Bar1 => (Which::Bar1, self.bar1_bytes),
            Client::Bar2 => (Which::Bar2, BAR2_BYTES),
        };
        if va >= bytes {
            return Err(FaultType::VaLimit);
        }
        match self.bars.bound(which) {
            Bound::Nothing => Err(FaultType::UnboundInstBlock),
            Bound::Physical => Ok(None),
            Bound::Virtual { pdb, .. } => Ok(Some((Class::Hub, pdb))),
        }
    }

    /// Whether the invalidate register has INVAL_SCOPE: from GA100 on.
    pub(crate) const fn has_invalidate_scope(&self) -> bool {
        self.chip.architecture >= 0x17
    }

    /// The fault buffer that a register belongs to, and which of its registers it is.
    pub(crate) fn fault_buffer(&mut self, offset: u32) -> Option<(&mut Buffer, u32)> {
        let at = offset.checked_sub(regs::FAULT_BUFFERS)?;
        let buffer = self.buffers.get_mut((at / regs::FAULT_BUFFER_STRIDE) as usize)?;
        Some((buffer, at % regs::FAULT_BUFFER_STRIDE))
    }

    /// `FAULT_ADDR_LO/HI`, `FAULT_INST_LO/HI`, `FAULT_INFO`: the latest fault that found no place in a buffer.
    pub(crate) fn last_fault_word(&self, offset: u32) -> u32 {
        let [inst_lo, inst_hi, addr_lo, addr_hi, _, _, engine, info] = self.last_fault;
        match (offset - regs::FAULT_ADDR_LO) / 4 {
            0 => addr_lo,
            1 => addr_hi,
            // ENGINE_ID 8:0 and APERTURE 11:10, where the packet has them elsewhere.
            2 => inst_lo & !0xfff | (inst_lo >> 8 & 3) << 10 | engine,
            3 => inst_hi,
            _ => info,
        }
    }

    fn raise(&mut self, client: Client, va: u64, access: AccessKind, miss: Miss) -> Fault {
        let fault = to_fault(client, va, access, miss);
        let around =
            Circumstances { instance: self.instance(client), timestamp_ns: self.time_ns, engine: self.engine(client) };
        let packet = fault::packet(&fault, &around);
        match self.buffers.first_mut().and_then(Buffer::take) {
            Some(slot) => self.store_packet(slot, &packet),
            None => self.last_fault = packet,
        }
        fault
    }

    fn store_packet(&mut self, slot: Slot, packet: &[u32; 8]) {
        let place = match slot {
            Slot::Physical(space, at) => Some((space, at)),
            // A buffer that is not mapped loses its packets; faulting again would never end.
            Slot::Bar2(va) => match self.bars.bound(Which::Bar2) {
                Bound::Virtual { pdb, .. } => {
                    let found = self.model.translate(Class::Hub, pdb, va).ok();
                    found
                        .filter(|found| !found.sparse)
                        .and_then(|found| Space::of_page(found.to).map(|s| (s, found.to.raw)))
                }
                Bound::Physical => Some((Space::Vram, va)),
                Bound::Nothing => None,
            },
        };
        if let Some((space, at)) = place {
            for (word, at) in packet.iter().zip((at..).step_by(4)) {
                self.model.store_bytes(Origin::Data, space, at, &word.to_le_bytes());
            }
        }
    }

    fn instance(&self, client: Client) -> Option<TableAddr> {
        let which = match client {
            Client::Engine { pdb } => {
                let at = pdb.raw() & !0xfff;
                return self.model.roots.get(&Space::of(pdb).flat(at)).and_then(|root| root.instance);
            }
            Client::Bar1 => Which::Bar1,
            Client::Bar2 => Which::Bar2,
        };
        match self.bars.bound(which) {
            Bound::Virtual { instance, .. } => Some(instance),
            Bound::Physical | Bound::Nothing => None,
        }
    }

    /// `NV_PFAULT_MMU_ENG_ID_*`.
    const fn engine(&self, client: Client) -> u16 {
        match (self.chip.layout, client) {
            (Layout::Bus, Client::Engine { .. }) => 64,
            (Layout::Bus, Client::Bar1) => 128,
            (Layout::Bus, Client::Bar2) => 192,
            (Layout::Xal, Client::Engine { .. }) => 384,
            (Layout::Xal, Client::Bar1) => 256,
            (Layout::Xal, Client::Bar2) => 320,
        }
    }

    /// A root is in use from now on: the sanitizer follows the tables below it. Accesses, invalidates and bound
    /// instance blocks make their roots known by themselves.
    pub fn note_root(&mut self, pdb: TableAddr) {
        self.model.op += 1;
        self.model.add_root(pdb);
    }

    /// A root is out of use: no channel will use it again, and nothing below it counts as reachable through it. What
    /// caches hold of it, they keep.
    pub fn forget_root(&mut self, pdb: TableAddr) {
        self.model.op += 1;
        self.model.drop_root(Space::of(pdb).flat(pdb.raw() & !0xfff));
    }

    /// The instance block that names a known root, for the packets of faults.
    pub fn note_instance(&mut self, pdb: TableAddr, instance: TableAddr) {
        let flat = Space::of(pdb).flat(pdb.raw() & !0xfff);
        if let Some(root) = self.model.roots.get_mut(&flat) {
            root.instance = Some(instance);
        }
    }

    /// The driver took memory for a table (`at` 8-byte aligned, `bytes` at most 1 MiB): it holds garbage from now on,
    /// and must be written before it can be reached. Not counted.
    pub fn note_table_taken(&mut self, at: TableAddr, bytes: u64) {
        self.model.op += 1;
        self.model.taken(at, bytes, self.seed);
    }

    /// The driver gives a table's memory back, for anyone to use.
    pub fn note_table_freed(&mut self, at: TableAddr, bytes: u64) {
        self.model.op += 1;
        self.model.freed(at, bytes);
    }

    /// Reads video memory without a trace. Bytes beyond its end read 0xff.
    pub fn peek_vram(&self, at: u64, bytes: &mut [u8]) {
        self.model.memory.read(Space::Vram, at, bytes);
    }

    /// Reads system memory without a trace.
    pub fn peek_sys(&self, at: u64, bytes: &mut [u8]) {
        self.model.memory.read(Space::Sys, at, bytes);
    }

    /// The 64-bit word around `at` in either memory, without a trace; all-ones outside of it.
    #[must_use]
    pub fn peek_word(&self, at: TableAddr) -> u64 {
        self.model.memory.word(at).unwrap_or(u64::MAX)
    }

    /// Fills video memory behind the driver's back, as a loader of images does. Not counted; beyond the end dropped.
    pub fn load_vram(&mut self, at: u64, bytes: &[u8]) {
        self.model.store_bytes(Origin::Tables, Space::Vram, at, bytes);
    }

    /// Writes system memory, as the CPU does with its own: tables too. Not counted.
    pub fn load_sys(&mut self, at: u64, bytes: &[u8]) {
        self.model.store_bytes(Origin::Tables, Space::Sys, at, bytes);
    }

    /// The 4 KiB pages of video memory that hold anything but zeros: (address, bytes), by address.
    pub fn vram_pages(&self) -> impl Iterator<Item = (u64, [u8; 4096])> + '_ {
        self.model.memory.populated(Space::Vram).map(|(at, words)| {
            let mut bytes = [0; 4096];
            for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
                place.copy_from_slice(&word.to_le_bytes());
            }
            (at, bytes)
        })
    }

    /// Both memories as something that page tables can be read from, without a trace.
    #[must_use]
    pub const fn peek(&self) -> Peek<'_> {
        Peek(self)
    }
}

/// Memory as it is, for walkers: see [`Gpu::peek`].
#[derive(Clone, Copy, Debug)]
pub struct Peek<'a>(&'a Gpu);

impl TableRead for Peek<'_> {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        let memory = &self.0.model.memory;
        let (bytes, end) = (8 * words.len() as u64, memory.end(Space::of(at)));
        if !at.is_aligned(8) {
            return Err(DeviceError::Unaligned { at, alignment: 8 });
        }
        if at.raw().checked_add(bytes).is_none_or(|last| last > end) {
            return Err(DeviceError::OutOfRange { at, bytes, end });
        }
        for (word, raw) in words.iter_mut().zip((at.raw()..).step_by(8)) {
            *word = memory.word(at.with_raw(raw)).unwrap_or(0);
        }
        Ok(())
    }
}

const fn is_bar(client: Client) -> bool {
    matches!(client, Client::Bar1 | Client::Bar2)
}

/// How much of `bytes` lies in the 4 KiB page of `va`.
fn in_page(va: u64, bytes: usize) -> usize {
    usize::try_from(PAGE - va % PAGE).map_or(bytes, |room| room.min(bytes))
}

fn permit(found: Translated, kind: AccessKind, privileged: bool) -> Result<Translated, Miss> {
    let fault = match kind {
        _ if found.sparse => return Ok(found),
        _ if found.flags.privileged && !privileged => FaultType::Priv,
        AccessKind::Write | AccessKind::Atomic if found.flags.read_only => FaultType::ReadOnly,
        AccessKind::Atomic if found.flags.no_atomic => FaultType::Atomic,
        _ if found.kind == KIND_INVALID => FaultType::UnsupportedKind,
        _ => return Ok(found),
    };
    Err(data_miss(fault))
}

const fn data_miss(fault: FaultType) -> Miss {
    Miss { fault, level: "PTE", entry: None, raw: 0 }
}

const fn to_fault(client: Client, va: u64, access: AccessKind, miss: Miss) -> Fault {
    Fault { fault: miss.fault, level: miss.level, va, entry: miss.entry, raw: miss.raw, client, access }
}
