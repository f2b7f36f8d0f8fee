//! MMU faults: what an access can fail with, and the buffers in which the GPU tells its driver.

use crate::memory::Space;
use crate::regs;
use gmmu::addr::TableAddr;

/// `NV_PFAULT_FAULT_TYPE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum FaultType {
    /// A directory entry is not valid.
    Pde = 0,
    /// A leaf entry is not valid.
    Pte = 2,
    /// The address has more bits than the format.
    VaLimit = 3,
    /// The BAR has no instance block, or one that the chip does not accept.
    UnboundInstBlock = 4,
    /// An unprivileged access to a privileged page.
    Priv = 5,
    /// A write or an atomic to a read-only page.
    ReadOnly = 6,
    /// The page lies in an aperture that is not there: a peer without a link.
    UnsupportedAperture = 0xa,
    /// The page has the kind `NV_MMU_PTE_KIND_INVALID`.
    UnsupportedKind = 0xc,
    /// A table or a page lies outside the memory.
    Region = 0xd,
    /// An atomic to a page that forbids them.
    Atomic = 0xf,
}

impl FaultType {
    /// The name after `NV_PFAULT_FAULT_TYPE_`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pde => "PDE",
            Self::Pte => "PTE",
            Self::VaLimit => "VA_LIMIT_VIOLATION",
            Self::UnboundInstBlock => "UNBOUND_INST_BLOCK",
            Self::Priv => "PRIV_VIOLATION",
            Self::ReadOnly => "RO_VIOLATION",
            Self::UnsupportedAperture => "UNSUPPORTED_APERTURE",
            Self::UnsupportedKind => "UNSUPPORTED_KIND",
            Self::Region => "REGION_VIOLATION",
            Self::Atomic => "ATOMIC_VIOLATION",
        }
    }
}

/// What an access does. Values are `NV_PFAULT_ACCESS_TYPE_VIRT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AccessKind {
    /// Reads.
    Read = 0,
    /// Writes.
    Write = 1,
    /// Reads and writes at once.
    Atomic = 2,
}

impl AccessKind {
    /// What it does, as a word.
    const fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Atomic => "atomic",
        }
    }
}

/// Who accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// An engine behind the graphics clusters' TLBs, in the address space below `pdb` (4 KiB aligned).
    Engine {
        /// The top table.
        pdb: TableAddr,
    },
    /// The CPU through BAR1: the space of the bound instance block, the hub's TLB.
    Bar1,
    /// The CPU through BAR2.
    Bar2,
}

/// An access that did not go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} at {va:#014x}: FAULT_{} at {level}{}", .access.verb(), .fault.name(), .entry.map(|at| format!(", entry {at} = {:#018x}", .raw)).unwrap_or_default())]
pub struct Fault {
    /// Why.
    pub fault: FaultType,
    /// The level whose entry ended the walk, `PDE3` to `PTE`.
    pub level: &'static str,
    /// The address that was accessed.
    pub va: u64,
    /// The entry that ended the walk, where one did.
    pub entry: Option<TableAddr>,
    /// The word of that entry, as the MMU saw it (the low one of a dual entry).
    pub raw: u64,
    /// Who accessed. For `peek_translate` the engine that would have.
    pub client: Client,
    /// What it did.
    pub access: AccessKind,
}

/// Bytes of a fault packet, class `0xc369`.
pub(crate) const PACKET_BYTES: u64 = 32;

/// What a packet says besides the fault itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// The instance block, where one is known.
    pub(crate) instance: Option<TableAddr>,
    pub(crate) timestamp_ns: u64,
    pub(crate) engine: u16,
}

/// The 32 bytes that describe `fault`, as eight little-endian 32-bit words.
pub(crate) fn packet(fault: &Fault, around: &Circumstances) -> [u32; 8] {
    let instance = around.instance.unwrap_or(TableAddr::vram(0));
    let aperture: u32 = match instance {
        TableAddr::Vram(_) => 0,
        TableAddr::SysCoherent(_) => 2,
        TableAddr::SysNonCoherent(_) => 3,
    };
    let hub = !matches!(fault.client, Client::Engine { .. });
    let info = fault.fault as u32 | (fault.access as u32) << 16 | u32::from(hub) << 20 | 1 << 31;
    [
        low(instance.raw()) & !0xfff | aperture << 8,
        low(instance.raw() >> 32),
        low(fault.va) & !0xfff,
        low(fault.va >> 32),
        low(around.timestamp_ns),
        low(around.timestamp_ns >> 32),
        u32::from(around.engine),
        info,
    ]
}

pub(crate) const fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// Where the next packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// To an address of memory.
    Physical(Space, u64),
    /// To an address in BAR2's space.
    Bar2(u64),
}

/// One fault buffer: a ring of packets in memory, and its registers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Buffer {
    lo: u32,
    hi: u32,
    get: u32,
    put: u32,
    size: u32,
}

/// Entries of a fault buffer whose size nobody chose: two pages of packets.
const DEFAULT_ENTRIES: u32 = 256;

impl Buffer {
    pub(crate) const fn read(&self, register: u32) -> u32 {
        match register {
            regs::FAULT_BUFFER_LO => self.lo,
            regs::FAULT_BUFFER_HI => self.hi,
            regs::FAULT_BUFFER_GET => self.get,
            regs::FAULT_BUFFER_PUT => self.put,
            regs::FAULT_BUFFER_SIZE => self.size,
            _ => 0,
        }
    }

    pub(crate) fn write(&mut self, register: u32, value: u32) {
        match register {
            regs::FAULT_BUFFER_LO => self.lo = value,
            regs::FAULT_BUFFER_HI => self.hi = value,
            regs::FAULT_BUFFER_GET => {
                // The flags at the top are cleared by writing 1.
                let flags = self.get & regs::FAULT_GET_FLAGS & !value;
                self.get = value & regs::FAULT_POINTER | flags;
            }
            regs::FAULT_BUFFER_SIZE => {
                let was_on = self.size & regs::FAULT_SIZE_ENABLE != 0;
                self.size = if value & regs::FAULT_SIZE_SET_DEFAULT == 0 {
                    value
                } else {
                    value & !(regs::FAULT_POINTER | regs::FAULT_SIZE_SET_DEFAULT) | DEFAULT_ENTRIES
                };
                if !was_on && value & regs::FAULT_SIZE_ENABLE != 0 {
                    (self.get, self.put) = (0, 0);
                }
            }
            _ => {}
        }
    }

    /// Takes the next place in the ring; `None` where the buffer is off or full, the latter with the overflow flag.
    pub(crate) fn take(&mut self) -> Option<Slot> {
        let entries = self.size & regs::FAULT_POINTER;
        if self.size & regs::FAULT_SIZE_ENABLE == 0 || entries == 0 {
            return None;
        }
        let put = self.put % entries;
        let next = (put + 1) % entries;
        if next == self.get & regs::FAULT_POINTER {
            self.get |= regs::FAULT_GET_OVERFLOW;
            return None;
        }
        self.put = next;
        let base = u64::from(self.hi) << 32 | u64::from(self.lo & !0xfff);
        let at = base.saturating_add(u64::from(put) * PACKET_BYTES);
        let space = if self.lo >> 1 & 3 == 0 { Space::Vram } else { Space::Sys };
        Some(if self.lo & 1 == 0 { Slot::Bar2(at) } else { Slot::Physical(space, at) })
    }
}
