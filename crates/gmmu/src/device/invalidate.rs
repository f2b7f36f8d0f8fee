//! Making the GPU forget translations.

use super::DeviceError;
use crate::addr::TableAddr;

/// The shallowest table level in which an entry was written: how deep into the directory caches an invalidate has to
/// reach. Leaves of 2 MiB and more count as directory entries of their level.
///
/// The order is from the leaves up: a larger value covers all smaller ones. Values are the hardware's
/// `NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE_CACHE_LEVEL` codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Depth {
    /// Only 4K and 64K leaf entries changed.
    PteOnly = 1,
    /// A PD0 entry (2M leaves too).
    UpToPde0 = 2,
    /// A PD1 entry (512M leaves too).
    UpToPde1 = 3,
    /// A PD2 entry (256G leaves too).
    UpToPde2 = 4,
    /// A PD3 entry: the root of v2.
    UpToPde3 = 5,
    /// A PD4 entry: the root of v3.
    UpToPde4 = 6,
}

/// Whose TLBs an invalidate reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All of them.
    All,
    /// Only the hub's: enough for BAR1 and BAR2 spaces, which no engine uses.
    HubOnly,
}

/// How far an invalidate must have got before it counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Acknowledge {
    /// Accepted: enough when something was only added.
    None,
    /// All units have acknowledged and earlier accesses have landed (`ACK_GLOBALLY` with `SYS_MEMBAR`): due when
    /// something was removed or tightened.
    Globally,
}

/// One invalidate: what the GPU has to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalidate {
    /// The top table of the address space, 4 KiB aligned.
    pub pdb: TableAddr,
    /// How deep into the directory caches.
    pub depth: Depth,
    /// Which TLBs.
    pub scope: Scope,
    /// What counts as done.
    pub ack: Acknowledge,
}

impl Invalidate {
    /// One that does for both; `None` where they are of different address spaces.
    #[must_use]
    pub fn and(self, other: &Self) -> Option<Self> {
        let scope = if self.scope == other.scope { self.scope } else { Scope::All };
        let (depth, ack) = (self.depth.max(other.depth), self.ack.max(other.ack));
        (self.pdb == other.pdb).then_some(Self { depth, scope, ack, ..self })
    }
}

/// A submitted invalidate. Invalidates of one GPU finish in the order of their tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Whether a submitted invalidate is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Acknowledged.
    Done,
    /// Still running.
    Pending,
}

/// What makes the GPU forget cached translations.
pub trait Invalidator {
    /// Starts `what`, unless an earlier invalidate still runs: then nothing was started, and the caller asks again. Never
    /// waits.
    ///
    /// # Errors
    /// [`DeviceError::Gone`] or the back end's own: nothing was started, and the caller still owes the invalidate.
    fn submit(&mut self, what: &Invalidate) -> Result<Option<Ticket>, DeviceError>;

    /// Looks once whether the invalidate `ticket` is done.
    ///
    /// # Errors
    /// [`DeviceError::Gone`] or the back end's own.
    fn poll(&mut self, ticket: Ticket) -> Result<Poll, DeviceError>;
}
