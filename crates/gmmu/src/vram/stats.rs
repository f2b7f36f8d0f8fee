//! Numbers about the memory as a whole.

use super::cells::Cell;
use super::Vram;
use crate::addr::PAGE_BYTES;
use core::fmt;

/// Sizes that are counted apart: 4 KiB times two to the power of 0 to 31.
pub const ORDERS: usize = LAST_ORDER as usize + 1;
const LAST_ORDER: u32 = 31;

/// A picture of the memory at one moment. See [`Vram::stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Bytes that are managed, see [`Vram::total_bytes`].
    pub total: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that are free and known to be zero.
    pub cleared: u64,
    /// Bytes in quarantine.
    pub quarantined: u64,
    /// Bytes that are retired and out of use.
    pub retired: u64,
    /// The longest run of free bytes.
    pub largest: u64,
    /// How many runs of free memory there are.
    pub runs: u64,
    /// Free blocks of 4 KiB × 2^index, each at a multiple of its own size, as few as the runs can be cut into.
    pub orders: [u64; ORDERS],
}

impl Stats {
    /// How much of the free memory is outside its longest run, in thousandths: 0 where all is in one run or nothing is free.
    #[must_use]
    pub fn fragmentation_permille(&self) -> u64 {
        // Sizes are below 2^43, so the product fits.
        ((self.free - self.largest) * 1000).checked_div(self.free).unwrap_or(0)
    }

    fn add_run(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        self.runs += 1;
        self.largest = self.largest.max((end - start) * PAGE_BYTES);
        let mut at = start;
        while at < end {
            let order = at.trailing_zeros().min((end - at).ilog2()).min(LAST_ORDER);
            if let Some(count) = self.orders.get_mut(order as usize) {
                *count += 1;
            }
            at += 1 << order;
        }
    }
}

impl Vram {
    /// Counts everything, in one pass over the bits. The single numbers ([`free_bytes`](Self::free_bytes) and its
    /// neighbours) are at hand without one.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let retired = self.retired.iter().filter(|&entry| entry % 2 == 0).count() as u64;
        let mut stats = Stats {
            total: self.total_bytes(),
            free: self.free_bytes(),
            cleared: self.cleared_bytes(),
            quarantined: self.quarantined_bytes(),
            retired: retired * PAGE_BYTES,
            largest: 0,
            runs: 0,
            orders: [0; ORDERS],
        };
        let (mut start, mut base) = (self.origin, self.origin);
        for Cell { free, .. } in self.cells.iter() {
            let mut taken = !free;
            while taken != 0 {
                let at = base + u64::from(taken.trailing_zeros());
                stats.add_run(start, at);
                start = at + 1;
                taken &= taken - 1;
            }
            base += 64;
        }
        stats.add_run(start, base);
        stats
    }
}

/// A size as people write it: `12 KiB`, `3.5 GiB`.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            bytes if bytes >= 1 << 30 => (1u64 << 30, "GiB"),
            bytes if bytes >= 1 << 20 => (1 << 20, "MiB"),
            _ => (1 << 10, "KiB"),
        };
        let (whole, tenth) = (self.0 / unit, self.0 % unit * 10 / unit);
        if tenth == 0 {
            write!(f, "{whole} {name}")
        } else {
            write!(f, "{whole}.{tenth} {name}")
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.total - self.free;
        write!(
            f,
            "{} of {} used, {} free ({} cleared)",
            Size(used),
            Size(self.total),
            Size(self.free),
            Size(self.cleared)
        )?;
        write!(f, ", {} quarantined, {} retired", Size(self.quarantined), Size(self.retired))?;
        let permille = self.fragmentation_permille();
        write!(f, "\n{} free runs, the largest {}, ", self.runs, Size(self.largest))?;
        write!(f, "fragmentation {}.{} %\nfree blocks:", permille / 10, permille % 10)?;
        if self.free == 0 {
            return write!(f, " none");
        }
        for (order, &count) in self.orders.iter().enumerate().filter(|(_, &count)| count != 0) {
            write!(f, " {count} x {}", Size(PAGE_BYTES << order))?;
        }
        Ok(())
    }
}

impl fmt::Display for Vram {
    /// The regions, then [`Stats`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for region in self.regions() {
            writeln!(f, "{}..{}", region.start, region.end)?;
        }
        fmt::Display::fmt(&self.stats(), f)
    }
}
