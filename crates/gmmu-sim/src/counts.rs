//! What a driver cost: exact numbers, the same on every machine.

/// Accesses of BAR0 since the last [`reset_counts`](crate::Gpu::reset_counts).
///
/// An access of 8 to 64 bits is one, a run of N words N; on a 32-bit bus a 64-bit word is two. Window and invalidate
/// registers count like any other. Looking into the model and accesses of BAR1, BAR2 and engines do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Reads, polls among them.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Writes of the window register that moved the window.
    pub window_moves: u64,
    /// Invalidates that were started.
    pub invalidates: u64,
}
