//! What a driver cost: exact numbers, the same on every machine.

/// Accesses of BAR0, and of tables in system memory, since the last [`reset_counts`](crate::Gpu::reset_counts).
///
/// An access of 8 to 64 bits is one, a run of N words N; on a 32-bit bus a 64-bit word is two. Window and invalidate
/// registers count like any other. Looking into the model and accesses of BAR1, BAR2 and engines do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Reads of BAR0, polls among them.
    pub reads: u64,
    /// Writes of BAR0.
    pub writes: u64,
    /// Writes of the window register that moved the window.
    pub window_moves: u64,
    /// Invalidates that were started.
    pub invalidates: u64,
    /// 64-bit loads from system memory ([`CpuMemory`](crate::CpuMemory)). Such an access is whole on every bus.
    pub sys_reads: u64,
    /// 64-bit stores to system memory.
    pub sys_writes: u64,
    /// Ordering points between stores to system memory ([`TableMemory::order`](gmmu::device::TableMemory::order)).
    pub fences: u64,
    /// Waits for stores to system memory ([`TableMemory::drain`](gmmu::device::TableMemory::drain)).
    pub drains: u64,
}
