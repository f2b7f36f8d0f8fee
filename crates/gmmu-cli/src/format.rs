//! Which format: the choice on the command line, and names of what its entries hold.

use clap::ValueEnum;
use gmmu::format::{Kind, MmuVersion};

/// A page-table format, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mmu {
    /// Pascal to Ada: 49-bit addresses, five levels
    V2,
    /// Hopper and Blackwell: 57-bit addresses, six levels
    V3,
}

impl From<Mmu> for MmuVersion {
    fn from(mmu: Mmu) -> Self {
        match mmu {
            Mmu::V2 => Self::V2,
            Mmu::V3 => Self::V3,
        }
    }
}

/// Calls a function that is generic over the format, for a version that is known only now.
#[macro_export]
macro_rules! with_format {
    ($version:expr, $function:ident($($argument:expr),* $(,)?)) => {
        match $version {
            gmmu::format::MmuVersion::V2 => $function::<gmmu::format::V2>($($argument),*),
            gmmu::format::MmuVersion::V3 => $function::<gmmu::format::V3>($($argument),*),
        }
    };
}

/// A kind as people read it: its number, and NVIDIA's name for it.
#[must_use]
pub fn kind_text(kind: Kind) -> String {
    match kind.name() {
        Some(name) => format!("{} {name}", kind.0),
        None => kind.0.to_string(),
    }
}
