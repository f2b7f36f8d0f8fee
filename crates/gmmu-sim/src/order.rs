//! When a store reached memory, as far as its path promises.

/// The way on which a store came. Every way but the first has an ordering point of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Path {
    /// Behind the driver's back, or through the MMU: in its place at once.
    Settled,
    /// Through the PRAMIN window.
    Window,
    /// Through BAR2.
    Bar2,
    /// From the CPU to system memory.
    Cpu,
}

/// An operation that stored, and the path of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct When(u64);

impl When {
    pub(crate) const fn new(op: u64, path: Path) -> Self {
        Self(op << 2 | path as u64)
    }

    pub(crate) const fn op(self) -> u64 {
        self.0 >> 2
    }
}

/// By path: the operation up to which stores have been waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drained([u64; 4]);

impl Default for Drained {
    fn default() -> Self {
        Self([u64::MAX, 0, 0, 0])
    }
}

impl Drained {
    /// All stores on `path` up to operation `op` have arrived.
    pub(crate) const fn wait(&mut self, path: Path, op: u64) {
        self.0[path as usize] = op;
    }

    /// Whether a store had arrived for certain.
    pub(crate) const fn has(&self, store: When) -> bool {
        store.op() <= self.0[(store.0 & 3) as usize]
    }
}
