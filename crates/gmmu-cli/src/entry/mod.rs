//! Page-table entries as views: what `decode`, `walk` and `dump` print of them.

pub mod fields;

use gmmu::addr::{Aperture, PhysAddr, TableAddr};
use gmmu::format::Leaf;
use gmmu::walk::Is;
use schemars::JsonSchema;
use serde::Serialize;

use crate::notation::Text;

/// What an entry is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// It points to another table, or to two.
    Table,
    /// It maps memory.
    Leaf,
    /// It says nothing.
    Absent,
    /// Reads as 0, drops writes.
    Sparse,
    /// In a 64K table: nothing, and no 4K page either.
    No4k,
    /// It cannot be followed.
    Bad,
}

impl Word {
    /// The word as it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Leaf => "leaf",
            Self::Absent => "absent",
            Self::Sparse => "sparse",
            Self::No4k => "no4k",
            Self::Bad => "bad",
        }
    }
}

impl From<&Is> for Word {
    fn from(is: &Is) -> Self {
        match is {
            Is::Table { .. } => Self::Table,
            Is::Leaf(_) => Self::Leaf,
            Is::Absent => Self::Absent,
            Is::Sparse => Self::Sparse,
            Is::NoValid4K => Self::No4k,
            Is::Bad(_) => Self::Bad,
        }
    }
}

/// Where an entry leads: memory, or the table that is asked next.
#[must_use]
pub fn leads_to(is: &Is) -> Option<Text<PhysAddr>> {
    match is {
        Is::Leaf(leaf) => Some(Text(leaf.to)),
        Is::Table { big, small } => big.or(*small).map(|at| Text(at.into())),
        Is::Absent | Is::Sparse | Is::NoValid4K | Is::Bad(_) => None,
    }
}

/// The 4K table of a dual entry that has a 64K table too.
#[must_use]
pub const fn second_table(is: &Is) -> Option<Text<TableAddr>> {
    match is {
        Is::Table { big: Some(_), small: Some(small) } => Some(Text(*small)),
        _ => None,
    }
}

/// The names of a leaf's flags.
#[must_use]
pub fn flags(leaf: &Leaf) -> Vec<&'static str> {
    leaf.flags.names().collect()
}

/// Flags for people.
#[must_use]
pub fn flags_text(flags: &[&str]) -> String {
    if flags.is_empty() { "no flags".to_owned() } else { flags.join(" ") }
}

/// A kind of memory for people.
#[must_use]
pub const fn aperture_text(aperture: Aperture) -> &'static str {
    match aperture {
        Aperture::Vram => "video memory",
        Aperture::Peer(_) => "a peer's memory",
        Aperture::SysCoherent => "system memory, coherent",
        Aperture::SysNonCoherent => "system memory, not coherent",
    }
}
