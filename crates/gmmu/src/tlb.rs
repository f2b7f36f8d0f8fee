//! Making the GPU forget translations: the MMU invalidate registers.
//!
//! One invalidate runs at a time. [`Tlb::submit`] names the page directory and pulls the trigger where none runs;
//! [`Tlb::poll`] looks once whether it is done. Neither waits. Whoever does uses [`wait`], which has two limits,
//! time and polls, and leaves the debt with the caller where it hits one. Sources: `NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE*`, `dev_vm.h`;
//! before Turing `NV_PFB_PRI_MMU_*`, `pri_mmu_both`.

use crate::addr::TableAddr;
use crate::bits::Field;
use crate::chip::{is_not_there, InvalidateRegisters};
use crate::device::{Acknowledge, Bar0, Clock, DeviceError, Invalidate, Poll, Scope, Ticket};
use crate::regs;

/// How long a wait may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In microseconds.
    pub timeout_us: u64,
    /// In looks at the hardware, for clocks that stand still.
    pub polls: u32,
}

impl Default for Limits {
    /// Two seconds, as nouveau waits.
    fn default() -> Self {
        Self { timeout_us: 2_000_000, polls: 10_000_000 }
    }
}

/// Reads a register that never rightly reads all-ones or an error word, and says so where it does.
///
/// # Errors
/// [`DeviceError::Gone`], [`Poison`](DeviceError::Poison), or the back end's own.
pub fn read_register<B: Bar0>(bar0: &mut B, offset: u32) -> Result<u32, DeviceError> {
    let value = bar0.read32(offset)?;
    match value {
        u32::MAX => Err(DeviceError::Gone { offset, value }),
        _ if is_not_there(value) => Err(DeviceError::Poison { offset, value }),
        _ => Ok(value),
    }
}

/// Asks `ready` until it says yes, within `limits`.
///
/// # Errors
/// [`DeviceError::Timeout`] for the register at `offset`, or what `ready` fails with.
pub fn wait<D: Clock>(
    device: &mut D,
    limits: Limits,
    offset: u32,
    mut ready: impl FnMut(&mut D) -> Result<bool, DeviceError>,
) -> Result<(), DeviceError> {
    let start = device.now_us();
    let mut polls = 0;
    loop {
        if ready(device)? {
            return Ok(());
        }
        polls += 1;
        let waited_us = device.now_us().saturating_sub(start);
        if polls >= limits.polls || waited_us >= limits.timeout_us {
            return Err(DeviceError::Timeout { offset, waited_us, polls });
        }
        device.relax();
    }
}

/// The invalidate registers of one GPU, as far as this owner knows them. A lock around it is the caller's business.
#[derive(Clone, Copy, Debug)]
pub struct Tlb {
    registers: Registers,
    submitted: u64,
    done: u64,
}

impl Tlb {
    /// Registers that nobody has used yet.
    #[must_use]
    pub const fn new(registers: InvalidateRegisters) -> Self {
        Self { registers: Registers::of(registers), submitted: 0, done: 0 }
    }

    /// Starts `what`, unless an earlier invalidate still runs, ours or anybody's: then nothing was started.
    ///
    /// Costs a read, and three writes.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], [`Poison`](DeviceError::Poison), [`Unaligned`](DeviceError::Unaligned) (4 KiB),
    /// [`OutOfRange`](DeviceError::OutOfRange) for a directory that the registers cannot name: nothing was started.
    pub fn submit<B: Bar0>(&mut self, bar0: &mut B, what: &Invalidate) -> Result<Option<Ticket>, DeviceError> {
        let [pdb, upper] = pdb_words(what.pdb)?;
        if !self.registers.idle(bar0)? {
            return Ok(None);
        }
        self.done = self.submitted;
        bar0.write32(self.registers.pdb, pdb)?;
        bar0.write32(self.registers.upper, upper)?;
        bar0.write32(self.registers.command, command_word(what))?;
        self.submitted += 1;
        Ok(Some(Ticket(self.submitted)))
    }

    /// Looks once whether `ticket` is done. Costs a read, or nothing where that is known.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], [`Poison`](DeviceError::Poison), or the back end's own.
    pub fn poll<B: Bar0>(&mut self, bar0: &mut B, ticket: Ticket) -> Result<Poll, DeviceError> {
        if ticket.0 <= self.done {
            return Ok(Poll::Done);
        }
        if !self.registers.idle(bar0)? {
            return Ok(Poll::Pending);
        }
        self.done = self.submitted;
        Ok(Poll::Done)
    }
}

/// Where the registers of a chip stand, and the bit that says whether an invalidate runs.
#[derive(Clone, Copy, Debug)]
struct Registers {
    pdb: u32,
    upper: u32,
    command: u32,
    status: u32,
    flag: Field,
    /// What the bit is when none runs.
    when_idle: bool,
}

impl Registers {
    const fn of(registers: InvalidateRegisters) -> Self {
        match registers {
            InvalidateRegisters::Fifo => Self {
                pdb: regs::NV_PFB_PRI_MMU_INVALIDATE_PDB,
                upper: regs::NV_PFB_PRI_MMU_INVALIDATE_UPPER_PDB,
                command: regs::NV_PFB_PRI_MMU_INVALIDATE,
                status: regs::NV_PFB_PRI_MMU_CTRL,
                flag: regs::MMU_CTRL_PRI_FIFO_EMPTY,
                when_idle: true,
            },
            InvalidateRegisters::Trigger => Self {
                pdb: regs::NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE_PDB,
                upper: regs::NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE_UPPER_PDB,
                command: regs::NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE,
                status: regs::NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE,
                flag: regs::MMU_INVALIDATE_TRIGGER,
                when_idle: false,
            },
        }
    }

    /// Whether no invalidate runs.
    fn idle<B: Bar0>(&self, bar0: &mut B) -> Result<bool, DeviceError> {
        let word = read_register(bar0, self.status)?;
        Ok(self.flag.is_set(u64::from(word)) == self.when_idle)
    }
}

/// The two words that name a page directory.
fn pdb_words(pdb: TableAddr) -> Result<[u32; 2], DeviceError> {
    let alignment = 1u64 << regs::MMU_INVALIDATE_PDB_ADDR_SHIFT;
    if !pdb.is_aligned(alignment) {
        return Err(DeviceError::Unaligned { at: pdb, alignment });
    }
    let frame = pdb.raw() >> regs::MMU_INVALIDATE_PDB_ADDR_SHIFT;
    let low_bits = regs::MMU_INVALIDATE_PDB_ADDR.width();
    let end = 1u64 << (regs::MMU_INVALIDATE_PDB_ADDR_SHIFT + low_bits + regs::MMU_INVALIDATE_UPPER_PDB_ADDR.width());
    let beyond = DeviceError::OutOfRange { at: pdb, bytes: alignment, end };
    let low = regs::MMU_INVALIDATE_PDB_ADDR.put(frame & regs::MMU_INVALIDATE_PDB_ADDR.max()).map_err(|_| beyond)?;
    let high = regs::MMU_INVALIDATE_UPPER_PDB_ADDR.put(frame >> low_bits).map_err(|_| beyond)?;
    let words = [low | regs::MMU_INVALIDATE_PDB_APERTURE.flag(!pdb.is_vram()), high];
    Ok(words.map(low_half))
}

/// The word that starts an invalidate. `INVAL_SCOPE` of GA100 and later stays 0, "all TLBs", the safe one.
fn command_word(what: &Invalidate) -> u32 {
    let strict = what.ack == Acknowledge::Globally;
    let ack = if strict { regs::MMU_INVALIDATE_ACK_GLOBALLY } else { 0 };
    // Both values are within their fields: the acknowledgement is 0 or 1, the depth at most 6.
    let ack = regs::MMU_INVALIDATE_ACK.put(ack).unwrap_or(0);
    let level = regs::MMU_INVALIDATE_CACHE_LEVEL.put(what.depth as u64).unwrap_or(0);
    let word = regs::MMU_INVALIDATE_ALL_VA.flag(true)
        | regs::MMU_INVALIDATE_HUBTLB_ONLY.flag(what.scope == Scope::HubOnly)
        | regs::MMU_INVALIDATE_SYS_MEMBAR.flag(strict)
        | regs::MMU_INVALIDATE_TRIGGER.flag(true)
        | ack
        | level;
    low_half(word)
}

/// The low 32 bits, for registers.
pub(crate) const fn low_half(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::SysAddr;
    use crate::device::Depth;

    #[test]
    fn words_are_those_of_the_manual() {
        let pdb = TableAddr::vram(0x12_3456_7000);
        let word = |depth, scope, ack| command_word(&Invalidate { pdb, depth, scope, ack });
        assert_eq!(word(Depth::PteOnly, Scope::All, Acknowledge::None), 0x8100_0001);
        assert_eq!(word(Depth::UpToPde4, Scope::HubOnly, Acknowledge::Globally), 0x8600_00c5);
        // Frame 0x1234567: its 28 low bits stand at 31:4.
        assert_eq!(pdb_words(pdb), Ok([0x1234_5670, 0]));
        assert_eq!(pdb_words(TableAddr::SysCoherent(SysAddr::new(0xab_1234_5678_9000))), Ok([0x3456_7892, 0xab12]));
        assert!(pdb_words(TableAddr::vram(0x800)).is_err());
        assert!(pdb_words(TableAddr::vram(1 << 60)).is_err());
    }
}
