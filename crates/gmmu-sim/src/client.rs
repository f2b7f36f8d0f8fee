//! What engines and the CPU's BARs do: accesses through the MMU, and the faults that they get.

use crate::bars::{Bound, Which};
use crate::chip::Layout;
use crate::fault::{self, AccessKind, Buffer, Circumstances, Client, Fault, FaultType, Slot};
use crate::format::Flags;
use crate::gpu::Gpu;
use crate::memory::{Space, PAGE};
use crate::mmu::{Miss, Translated};
use crate::order::Path;
use crate::sanitizer::{Finding, Rule};
use crate::store::Origin;
use crate::tlb::Class;
use gmmu::addr::{PhysAddr, TableAddr};
use gmmu::device::Width;

/// Bytes of the BAR2 aperture.
const BAR2_BYTES: u64 = 32 << 20;

impl Gpu {
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
            Err(fault) => {
                if fault == FaultType::UnboundInstBlock {
                    let what = "a BAR was accessed, and no instance block is bound to it";
                    let finding = Finding { va: Some(va), ..self.model.finding(Rule::BarUnbound, what) };
                    self.model.report.add(finding);
                }
                Err(Miss { fault, level: "-", entry: None, raw: 0 })
            }
        };
        let kind_invalid = self.chip.kind_invalid;
        let result = result.and_then(|found| permit(found, kind, privileged, kind_invalid));
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
        let origin = if client == Client::Bar2 { Origin::Tables(Path::Bar2) } else { Origin::Data };
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

    fn raise(&mut self, client: Client, va: u64, access: AccessKind, miss: Miss) -> Fault {
        self.faults += 1;
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
                    found.filter(|found| !found.sparse).map(|found| (Space::of_page(found.to), found.to.raw))
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
}

const fn is_bar(client: Client) -> bool {
    matches!(client, Client::Bar1 | Client::Bar2)
}

/// How much of `bytes` lies in the 4 KiB page of `va`.
fn in_page(va: u64, bytes: usize) -> usize {
    usize::try_from(PAGE - va % PAGE).map_or(bytes, |room| room.min(bytes))
}

fn permit(found: Translated, kind: AccessKind, privileged: bool, kind_invalid: u8) -> Result<Translated, Miss> {
    let fault = match kind {
        _ if found.sparse => return Ok(found),
        _ if found.flags.privileged && !privileged => FaultType::Priv,
        AccessKind::Write | AccessKind::Atomic if found.flags.read_only => FaultType::ReadOnly,
        AccessKind::Atomic if found.flags.no_atomic => FaultType::Atomic,
        _ if found.kind == kind_invalid => FaultType::UnsupportedKind,
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
