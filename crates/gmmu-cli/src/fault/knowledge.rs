//! What each fault type means: how far the MMU got, and what it found there.

use super::Kind;

/// What a fault type says.
#[derive(Clone, Copy, Debug)]
pub struct Meaning {
    /// Where the MMU stopped, as a word for programs.
    pub level: &'static str,
    /// The end of a sentence that begins with who did what: `… at 0x1000, but`.
    pub but: &'static str,
    /// What the MMU found, at which level of the page tables.
    pub means: &'static str,
}

const fn meaning(level: &'static str, but: &'static str, means: &'static str) -> Meaning {
    Meaning { level, but, means }
}

impl Kind {
    /// What this fault type says.
    #[must_use]
    pub const fn meaning(self) -> Meaning {
        match self {
            Self::Pde => meaning(
                "directory",
                "no page table covers that address",
                "The walk ended in a page directory: the entry for this address points to no table. Nothing is mapped \
                 in its whole span, which is 2 MiB at the lowest directory and more above it.",
            ),
            Self::PdeSize => meaning(
                "directory",
                "the page table there is too small for it",
                "The directory entry for this address has a table, but one that does not reach this far. Today's \
                 formats have no such tables: the entry holds something that is not an entry.",
            ),
            Self::Pte => meaning(
                "table",
                "that page is not mapped",
                "A page table covers this address, and its entry for the page is not valid. Something else within the \
                 same 2 MiB is mapped, or was until a moment ago.",
            ),
            Self::VaLimitViolation => meaning(
                "limit",
                "that address is beyond the end of the address space",
                "The MMU refused before it read any table: the address is above the limit of this address space (at \
                 most 2^49 from Pascal to Ada, 2^57 from Hopper on, and less where the driver says so).",
            ),
            Self::UnboundInstBlock => meaning(
                "instance",
                "its channel has no address space",
                "The MMU found no page tables at all: the channel's instance block is not bound, or names no valid top \
                 table.",
            ),
            Self::PrivViolation => meaning(
                "entry",
                "that page is for privileged accesses only",
                "The walk succeeded: the page is mapped, but its entry has the privilege bit, and this access had no \
                 privilege. Drivers set the bit on their own buffers in a process's address space.",
            ),
            Self::RoViolation => meaning(
                "entry",
                "that page is read-only",
                "The walk succeeded: the page is mapped, but its entry has the read-only bit.",
            ),
            Self::WoViolation => meaning(
                "entry",
                "that page is write-only",
                "The walk succeeded: the page is mapped, but must not be read.",
            ),
            Self::PitchMaskViolation => meaning(
                "entry",
                "it does not fit the pitch of that surface",
                "The page is mapped as part of a surface with a pitch, and the access does not keep to it.",
            ),
            Self::WorkCreation => meaning(
                "unit",
                "work must not be created there",
                "A unit tried to start new work (a launch from the GPU itself) where that is not allowed.",
            ),
            Self::UnsupportedAperture => meaning(
                "entry",
                "the unit cannot reach the memory behind it",
                "The walk succeeded, but the entry points to memory of a sort (video memory, system memory, a peer) \
                 that this unit cannot use.",
            ),
            Self::CompressionFailure => meaning(
                "entry",
                "the compression of that page does not work out",
                "The walk succeeded, but the entry says that the page is compressed, and it cannot be: it lies in \
                 memory without compression, or its compression tags are wrong.",
            ),
            Self::CcViolation => meaning(
                "entry",
                "confidential computing forbids it",
                "The walk succeeded, but the access would have carried data over a border that confidential computing \
                 keeps shut.",
            ),
            Self::UnsupportedKind => meaning(
                "entry",
                "the unit cannot read that kind of memory",
                "The walk succeeded, but the entry has a kind (the layout of the surface) that this unit does not \
                 handle.",
            ),
            Self::RegionViolation => meaning(
                "memory",
                "the memory behind it is protected",
                "The walk succeeded, but the memory that the entry points to lies in a protected region, such as the \
                 one that holds firmware.",
            ),
            Self::Poisoned => meaning(
                "memory",
                "the memory there has an error that cannot be corrected",
                "The access, or the walk on its way, met data marked as poisoned: an uncorrectable error of the memory \
                 itself.",
            ),
            Self::AtomicViolation => meaning(
                "entry",
                "atomics are off for that page",
                "The walk succeeded: the page is mapped, but its entry forbids atomics. Drivers forbid them where the \
                 path to the memory cannot do them, as for most system memory.",
            ),
            Self::Unrecognized => meaning(
                "unknown",
                "the driver did not know why it failed",
                "The hardware gave a fault type that the driver's version has no name for (write-only violations are \
                 printed like this too).",
            ),
        }
    }
}
