//! The GPU as a whole: how it is made, and what its user can do with it besides the bus.

use crate::bars::Bars;
use crate::bus::Flush;
use crate::chip::{self, ChipModel};
use crate::config::{Bus, Carveouts, Config, ConfigError};
use crate::counts::Counts;
use crate::fault::Buffer;
use crate::format::Decoder;
use crate::invalidate::Invalidate;
use crate::memory::{Ends, Space, PAGE};
use crate::mishap::Mishaps;
use crate::model::Model;
use crate::order::Path;
use crate::pramin::Window;
use crate::regs;
use crate::sanitizer::Finding;
use crate::store::Origin;
use gmmu::addr::{PeerId, TableAddr};
use gmmu::device::{DeviceError, TableRead};
use std::collections::HashMap;

/// No peer has more memory than the widest address field can name (`NV_MMU_VER3_PTE_ADDRESS`).
const PEER_MAX: u64 = 1 << 52;

/// A software GPU. Its registers are reached through [`Bar0`](gmmu::device::Bar0), its time is
/// [`Clock`](gmmu::device::Clock).
#[derive(Debug)]
pub struct Gpu {
    pub(crate) chip: &'static ChipModel,
    pub(crate) bus: Bus,
    pub(crate) model: Model,
    pub(crate) window: Window,
    /// The window was moved, and that was not read back.
    pub(crate) window_moves: bool,
    pub(crate) bars: Bars,
    pub(crate) invalidate: Invalidate,
    pub(crate) flush: Flush,
    pub(crate) counts: Counts,
    pub(crate) time_ns: u64,
    pub(crate) fb_size: u32,
    pub(crate) invalidate_polls: u32,
    pub(crate) bind_polls: u32,
    pub(crate) bar1_bytes: u64,
    pub(crate) carveouts: Carveouts,
    pub(crate) buffers: [Buffer; 2],
    pub(crate) last_fault: [u32; 8],
    pub(crate) mishaps: Mishaps,
    pub(crate) seed: u64,
    /// Registers without rules; none until some are given.
    pub(crate) plain: Option<HashMap<u32, u32>>,
    pub(crate) faults: u64,
}

impl Gpu {
    /// Makes a GPU with empty memory, nothing bound, the window at 0.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong with the chip or its memory.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let chip = chip::find(&config.chip, config.vram)?;
        let ends = Ends {
            vram: config.vram,
            sys: config.sys.min(chip.sys_max()),
            peers: config.peers.map(|bytes| bytes.min(PEER_MAX)),
        };
        Ok(Self {
            chip,
            bus: config.bus,
            model: Model::new(Decoder::new(chip), ends, config.speculation),
            window: Window::default(),
            window_moves: false,
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
            carveouts: config.carveouts.clone(),
            buffers: [Buffer::default(); 2],
            last_fault: [0; 8],
            mishaps: Mishaps::default(),
            plain: None,
            faults: 0,
        })
    }

    /// All chips, oldest first.
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

    /// First bus address that is no system memory, or that the chip cannot reach.
    #[must_use]
    pub const fn sys_end(&self) -> u64 {
        self.model.memory.end(Space::Sys)
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

    /// What the driver does from now on, for the stories of findings: the latest 4096 labels are remembered.
    pub fn label(&mut self, label: &str) {
        self.model.report.label(self.model.op + 1, label);
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

    /// A root is in use from now on: the sanitizer follows the tables below it. Accesses, invalidates and bound
    /// instance blocks make their roots known by themselves.
    pub fn note_root(&mut self, pdb: TableAddr) {
        self.model.op += 1;
        self.model.judge_alignment(pdb, PAGE);
        self.model.add_root(pdb);
        if let Some(root) = self.model.roots.get_mut(&Space::of(pdb).flat(pdb.raw() & !0xfff)) {
            root.noted = true;
        }
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

    /// Reads a peer's memory without a trace. Bytes beyond its end read 0xff.
    pub fn peek_peer(&self, peer: PeerId, at: u64, bytes: &mut [u8]) {
        self.model.memory.read(Space::Peer(peer), at, bytes);
    }

    /// The 64-bit word around `at` in either memory, without a trace; all-ones outside of it.
    #[must_use]
    pub fn peek_word(&self, at: TableAddr) -> u64 {
        self.model.memory.word(at).unwrap_or(u64::MAX)
    }

    /// Fills video memory behind the driver's back, as a loader of images does. Not counted; beyond the end dropped.
    pub fn load_vram(&mut self, at: u64, bytes: &[u8]) {
        self.model.store_bytes(Origin::Tables(Path::Settled), Space::Vram, at, bytes);
    }

    /// Writes system memory, as the CPU does with its own: tables too. Not counted.
    pub fn load_sys(&mut self, at: u64, bytes: &[u8]) {
        self.model.store_bytes(Origin::Tables(Path::Settled), Space::Sys, at, bytes);
    }

    /// Writes a peer's memory, as the peer does. Not counted; beyond the end dropped.
    pub fn load_peer(&mut self, peer: PeerId, at: u64, bytes: &[u8]) {
        self.model.store_bytes(Origin::Data, Space::Peer(peer), at, bytes);
    }

    /// The 4 KiB pages of video memory that hold anything but zeros: (address, bytes), by address.
    pub fn vram_pages(&self) -> impl Iterator<Item = (u64, [u8; 4096])> + '_ {
        self.pages(Space::Vram)
    }

    /// The same of system memory.
    pub fn sys_pages(&self) -> impl Iterator<Item = (u64, [u8; 4096])> + '_ {
        self.pages(Space::Sys)
    }

    fn pages(&self, space: Space) -> impl Iterator<Item = (u64, [u8; 4096])> + '_ {
        self.model.memory.populated(space).map(|(at, words)| {
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
