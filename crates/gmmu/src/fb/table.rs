//! The layout of video memory as text: a table that reads like the drawings in datasheets, highest address first.

use super::layout::{FbLayout, FbUse};
use core::fmt;

/// A length: exact where a few digits say it, else to a hundredth of its unit.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 4] = [(30, "GiB"), (20, "MiB"), (10, "KiB"), (0, "B")];
        let is_exact = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        let exact = UNITS.into_iter().find(|&(shift, _)| is_exact(shift));
        if let Some((shift, unit)) = exact.filter(|&(shift, _)| self.0 >> shift < 100_000) {
            return write!(f, "{} {unit}", self.0 >> shift);
        }
        let (shift, unit) = UNITS.into_iter().find(|&(shift, _)| self.0 >> shift != 0).unwrap_or((0, "B"));
        let rest = self.0 & ((1 << shift) - 1);
        match shift {
            0 => write!(f, "{} {unit}", self.0),
            _ => write!(f, "{}.{:02} {unit}", self.0 >> shift, ((rest >> (shift - 10)) * 100) >> 10),
        }
    }
}

impl Bytes {
    /// Characters that it takes.
    fn width(&self) -> usize {
        struct Count(usize);
        impl fmt::Write for Count {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0 += text.len();
                Ok(())
            }
        }
        let mut count = Count(0);
        // Counting cannot fail.
        let _ = fmt::Write::write_fmt(&mut count, format_args!("{self}"));
        count.0
    }
}

impl FbUse {
    /// What it is, for errors.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Usable { .. } => "usable memory",
            Self::MmuLock => super::MMU_LOCK,
            Self::Wpr2 => super::WPR2,
            Self::VgaWorkspace => super::VGA,
            Self::Kept(what) => what,
            Self::GspReserved { .. } | Self::GspProtected { .. } => "a region of the GSP",
            Self::OutOfReach => "what is out of reach",
            Self::Unclaimed => "what nobody claims",
        }
    }
}

impl fmt::Display for FbUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usable { compressed, iso } => {
                f.write_str("usable")?;
                f.write_str(if *compressed { "" } else { ", not compressed" })?;
                f.write_str(if *iso { "" } else { ", not scanned out" })
            }
            Self::MmuLock => f.write_str("locked by the MMU"),
            Self::Wpr2 => f.write_str("WPR2: firmware"),
            Self::VgaWorkspace => f.write_str("VGA workspace"),
            Self::Kept(what) => f.write_str(what),
            Self::GspReserved { index, .. } => write!(f, "reserved by the GSP (region {index})"),
            Self::GspProtected { index } => write!(f, "protected, says the GSP (region {index})"),
            Self::OutOfReach => f.write_str("out of reach"),
            Self::Unclaimed => f.write_str("unclaimed"),
        }
    }
}

impl fmt::Display for FbLayout {
    /// One line for all of it, one for each part; no newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (total, usable) = (Bytes(self.total_bytes()), Bytes(self.usable_bytes()));
        write!(f, "{total} of video memory, {usable} of it usable")?;
        let width = self.regions().iter().map(|region| Bytes(region.bytes()).width()).max().unwrap_or(0);
        for region in self.regions().iter().rev() {
            let (start, end, bytes) = (region.range.start.raw(), region.range.end.raw(), Bytes(region.bytes()));
            let pad = width.saturating_sub(bytes.width());
            write!(f, "\n{start:#014x}..{end:#014x}  {:pad$}{bytes}  {}", "", region.used_for)?;
        }
        Ok(())
    }
}
