//! Mapped ranges: what leaves amount to when neighbours are put together.

use gmmu::addr::PhysAddr;
use gmmu::format::Leaf;
use gmmu::walk::{Is, Step};
use schemars::JsonSchema;
use serde::Serialize;

use crate::entry::{flags, flags_text};
use crate::notation::{Address, Size, Text};

/// What a range of addresses leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Memory.
    Leaf(Leaf),
    /// Nothing that faults.
    Sparse,
}

impl What {
    /// What an entry maps, if it maps anything.
    #[must_use]
    pub const fn of(step: &Step) -> Option<Self> {
        match step.is {
            Is::Leaf(leaf) => Some(Self::Leaf(leaf)),
            Is::Sparse => Some(Self::Sparse),
            _ => None,
        }
    }
}

/// A mapped range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// First address.
    pub va: u64,
    /// Length.
    pub bytes: u64,
    /// Bytes that each of its entries spans.
    pub page: u64,
    /// What its first entry says.
    pub what: What,
}

impl Mapped {
    /// The range of one entry at `va`.
    #[must_use]
    pub fn of(va: u64, step: &Step) -> Option<Self> {
        let bytes = step.level.span();
        What::of(step).map(|what| Self { va, bytes, page: bytes, what })
    }

    /// First address behind it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.va.saturating_add(self.bytes)
    }

    /// Whether `next` goes on where this range ends, in addresses and in memory, with equal page size, kind and flags.
    #[must_use]
    pub fn goes_on_with(&self, next: &Self) -> bool {
        let alike = match (&self.what, &next.what) {
            (What::Sparse, What::Sparse) => true,
            (What::Leaf(leaf), What::Leaf(other)) => {
                leaf.to.checked_add(self.bytes) == Some(other.to)
                    && leaf.kind == other.kind
                    && leaf.flags == other.flags
            }
            _ => false,
        };
        alike && self.end() == next.va && self.page == next.page
    }
}

/// A mapped range as it is printed.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct RangeView {
    va: Address,
    bytes: u64,
    page: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Text<PhysAddr>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sparse: Option<bool>,
}

impl From<&Mapped> for RangeView {
    fn from(mapped: &Mapped) -> Self {
        let leaf = match &mapped.what {
            What::Leaf(leaf) => Some(leaf),
            What::Sparse => None,
        };
        Self {
            va: Address(mapped.va),
            bytes: mapped.bytes,
            page: span_name(mapped.page),
            to: leaf.map(|leaf| Text(leaf.to)),
            kind: leaf.map(|leaf| leaf.kind.0),
            flags: leaf.map(flags),
            sparse: leaf.is_none().then_some(true),
        }
    }
}

impl RangeView {
    /// The heading over lines of [`line`](Self::line).
    pub const HEADING: &'static str = "va                               size page  to                      kind  flags";

    /// The range in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let end = Address(self.va.0.saturating_add(self.bytes));
        // Wide enough for addresses of 48 bits, which are nearly all; with the longer ones of v3 a line moves to the right.
        let extent = format!("{}..{end}", self.va);
        let start = format!("{extent:<30} {:>6} {:>4}", Size(self.bytes), self.page);
        match (&self.to, self.kind, &self.flags) {
            (Some(to), Some(kind), Some(flags)) => format!("{start}  {to:<22}  {kind:>4}  {}", flags_text(flags)),
            _ => format!("{start}  sparse"),
        }
    }

    /// The range as part of a sentence.
    #[must_use]
    pub fn words(&self) -> String {
        let end = Address(self.va.0.saturating_add(self.bytes));
        let start = format!("{}..{end} ({})", self.va, Size(self.bytes));
        match (&self.to, self.kind, &self.flags) {
            (Some(to), Some(kind), Some(flags)) => {
                let flags = if flags.is_empty() { String::new() } else { format!(", {}", flags_text(flags)) };
                format!("{start}: {} pages at {to}, kind {kind}{flags}", self.page)
            }
            _ => format!("{start}: sparse"),
        }
    }
}

/// The name of a span: `4K`, `2M`, `128T`, `64P`.
#[must_use]
pub fn span_name(bytes: u64) -> String {
    match bytes >> 50 {
        0 => Size(bytes).to_string(),
        peta => format!("{peta}P"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(va: u64, to: u64) -> Mapped {
        Mapped { va, bytes: 4096, page: 4096, what: What::Leaf(Leaf::new(PhysAddr::vram(to))) }
    }

    #[test]
    fn only_true_neighbours_go_on() {
        let first = page(0x1000, 0x9000);
        assert!(first.goes_on_with(&page(0x2000, 0xa000)));
        assert!(!first.goes_on_with(&page(0x2000, 0xb000)), "another place in memory");
        assert!(!first.goes_on_with(&page(0x3000, 0xa000)), "a gap in addresses");
        let large = Mapped { bytes: 65536, page: 65536, ..page(0x2000, 0xa000) };
        assert!(!first.goes_on_with(&large), "another page size");
        let sparse = Mapped { what: What::Sparse, ..page(0x2000, 0) };
        assert!(!first.goes_on_with(&sparse));
        assert!(sparse.goes_on_with(&Mapped { va: 0x3000, ..sparse }));
        let mut read_only = Leaf::new(PhysAddr::vram(0xa000));
        read_only.flags.read_only = true;
        assert!(!first.goes_on_with(&Mapped { what: What::Leaf(read_only), ..page(0x2000, 0) }));
    }

    #[test]
    fn spans_have_short_names() {
        assert_eq!([1 << 12, 1 << 38, 1 << 47, 1 << 56].map(span_name), ["4K", "256G", "128T", "64P"]);
    }
}
