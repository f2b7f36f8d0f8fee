//! MMU faults as drivers print them: read from log text, explained in plain words.
//!
//! [`lines`] gets text out of whatever it is packed in, [`parse`] finds the faults in it ([`nvrm`] and [`nouveau`] know
//! the dialects), [`packet`] reads what the hardware writes, [`knowledge`] says what a fault type means and whose fault it usually is, [`units`] who the hardware
//! units are, [`address`] what an address looks like, [`compare`] whether page tables agree with the line. [`group`] finds
//! what belongs together, and [`report`] puts it all into words.

pub mod address;
pub mod advice;
pub mod compare;
pub mod group;
pub mod knowledge;
pub mod lines;
pub mod nouveau;
pub mod nvrm;
pub mod packet;
pub mod parse;
pub mod report;
pub mod units;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};
use std::borrow::Cow;

/// Where a fault is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// NVIDIA's own kernel driver: an Xid 31.
    Nvrm,
    /// The driver nouveau.
    Nouveau,
    /// The hardware itself: a raw packet of its fault buffer.
    Packet,
}

/// The fault types of the hardware, `NV_PFAULT_FAULT_TYPE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 0: no table behind a directory entry.
    Pde,
    /// 1: a directory entry with a table of the wrong size.
    PdeSize,
    /// 2: a leaf entry that is not valid.
    Pte,
    /// 3: an address above the limit of the address space.
    VaLimitViolation,
    /// 4: an instance block that is not bound.
    UnboundInstBlock,
    /// 5: a privileged page.
    PrivViolation,
    /// 6: a write to a read-only page.
    RoViolation,
    /// 7: a read of a write-only page.
    WoViolation,
    /// 8: a pitch-linear surface with a bad address.
    PitchMaskViolation,
    /// 9: work created where it must not be.
    WorkCreation,
    /// 10: memory that the unit cannot reach.
    UnsupportedAperture,
    /// 11, up to Hopper: compressed memory that cannot be decompressed.
    CompressionFailure,
    /// 11, on Blackwell: a breach of confidential computing.
    CcViolation,
    /// 12: a memory kind that the unit does not know.
    UnsupportedKind,
    /// 13: a protected region of memory.
    RegionViolation,
    /// 14: memory with an uncorrectable error.
    Poisoned,
    /// 15: an atomic where atomics are off.
    AtomicViolation,
    /// A type that the driver itself did not know.
    Unrecognized,
}

/// All fault types with the names that NVIDIA's driver prints, in the order of their codes.
const KINDS: [(Kind, &str); 18] = [
    (Kind::Pde, "FAULT_PDE"),
    (Kind::PdeSize, "FAULT_PDE_SIZE"),
    (Kind::Pte, "FAULT_PTE"),
    (Kind::VaLimitViolation, "FAULT_VA_LIMIT_VIOLATION"),
    (Kind::UnboundInstBlock, "FAULT_UNBOUND_INST_BLOCK"),
    (Kind::PrivViolation, "FAULT_PRIV_VIOLATION"),
    (Kind::RoViolation, "FAULT_RO_VIOLATION"),
    (Kind::WoViolation, "FAULT_WO_VIOLATION"),
    (Kind::PitchMaskViolation, "FAULT_PITCH_MASK_VIOLATION"),
    (Kind::WorkCreation, "FAULT_WORK_CREATION"),
    (Kind::UnsupportedAperture, "FAULT_UNSUPPORTED_APERTURE"),
    (Kind::CompressionFailure, "FAULT_COMPRESSION_FAILURE"),
    (Kind::UnsupportedKind, "FAULT_INFO_TYPE_UNSUPPORTED_KIND"),
    (Kind::RegionViolation, "FAULT_INFO_TYPE_REGION_VIOLATION"),
    (Kind::Poisoned, "FAULT_INFO_TYPE_POISONED"),
    (Kind::AtomicViolation, "FAULT_INFO_TYPE_ATOMIC_VIOLATION"),
    (Kind::CcViolation, "FAULT_CC_VIOLATION"),
    (Kind::Unrecognized, "UNRECOGNIZED_FAULT"),
];

impl Kind {
    /// The name that NVIDIA's driver prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("UNRECOGNIZED_FAULT", |(_, name)| name)
    }

    /// The type with this name; `FAULT_`, `INFO_TYPE_` and the like in front may be missing.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let bare = |name: &str| {
            let name = name.strip_prefix("FAULT_").unwrap_or(name);
            name.strip_prefix("INFO_TYPE_").unwrap_or(name).to_owned()
        };
        let wanted = bare(name);
        KINDS.iter().find(|(_, known)| bare(known) == wanted).map(|(kind, _)| *kind)
    }

    /// The type with this code, as far as the code alone says: 11 is another type on Blackwell.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        let index = usize::try_from(code).ok().filter(|&index| index < 16)?;
        KINDS.get(index).map(|(kind, _)| *kind)
    }
}

impl JsonSchema for Kind {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Kind".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What the GPU was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An atomic.
    Atomic,
    /// A prefetch: nobody waits for the data.
    Prefetch,
    /// One that the driver itself did not know.
    Unrecognized,
}

/// The access that faulted, `NV_PFAULT_ACCESS_TYPE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// What the GPU was doing.
    pub operation: Operation,
    /// With a physical address: no page tables of a process are involved.
    pub physical: bool,
}

impl Access {
    /// The name that NVIDIA's driver prints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.operation, self.physical) {
            (Operation::Read, false) => "ACCESS_TYPE_VIRT_READ",
            (Operation::Write, false) => "ACCESS_TYPE_VIRT_WRITE",
            (Operation::Atomic, false) => "ACCESS_TYPE_VIRT_ATOMIC",
            (Operation::Prefetch, false) => "ACCESS_TYPE_VIRT_PREFETCH",
            (Operation::Read, true) => "ACCESS_TYPE_PHYS_READ",
            (Operation::Write, true) => "ACCESS_TYPE_PHYS_WRITE",
            (Operation::Atomic, true) => "ACCESS_TYPE_PHYS_ATOMIC",
            (Operation::Prefetch, true) => "ACCESS_TYPE_PHYS_PREFETCH",
            (Operation::Unrecognized, _) => "UNRECOGNIZED_ACCESS_TYPE",
        }
    }

    /// The access with this name; `ACCESS_TYPE_` and `VIRT_` in front may be missing, as in old drivers.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "UNRECOGNIZED_ACCESS_TYPE" {
            return Some(Self { operation: Operation::Unrecognized, physical: false });
        }
        let name = name.strip_prefix("ACCESS_TYPE_").unwrap_or(name);
        let (physical, name) = match name.strip_prefix("PHYS_") {
            Some(name) => (true, name),
            None => (false, name.strip_prefix("VIRT_").unwrap_or(name)),
        };
        let operation = match name {
            "READ" => Operation::Read,
            "WRITE" => Operation::Write,
            "ATOMIC" | "ATOMIC_STRONG" | "ATOMIC_WEAK" => Operation::Atomic,
            "PREFETCH" => Operation::Prefetch,
            _ => return None,
        };
        Some(Self { operation, physical })
    }

    /// The access with this code.
    #[must_use]
    pub const fn from_code(code: u64) -> Option<Self> {
        let operation = match code {
            0 | 8 => Operation::Read,
            1 | 9 => Operation::Write,
            2 | 4 | 10 => Operation::Atomic,
            3 | 11 => Operation::Prefetch,
            _ => return None,
        };
        Some(Self { operation, physical: code >= 8 })
    }
}

impl JsonSchema for Access {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Access".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

impl Serialize for Access {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One fault, as far as its line tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Who printed it.
    pub source: Source,
    /// Number of the line in the input, from 1.
    pub line: u64,
    /// How many lines said exactly this: they are counted, not kept.
    pub count: u64,
    /// Number of the last of them.
    pub last_line: u64,
    /// When the kernel printed the first and the last of them, in microseconds since it started, where the log says so.
    pub times: Option<(u64, u64)>,
    /// PCI address of the GPU.
    pub gpu: Option<String>,
    /// Number of the MIG instance.
    pub mig: Option<String>,
    /// The address, cut to its 4 KiB page.
    pub va: Option<u64>,
    /// Fault type.
    pub kind: Option<Kind>,
    /// Access type.
    pub access: Option<Access>,
    /// The engine whose work it was.
    pub engine: Option<String>,
    /// The unit of the GPU that made the access, with its `GPCCLIENT_` or `HUBCLIENT_` in front.
    pub client: Option<String>,
    /// The graphics processing cluster that the unit is in.
    pub gpc: Option<u32>,
    /// Channel number.
    pub channel: Option<u32>,
    /// Address of the channel's instance block.
    pub instance: Option<u64>,
    /// Process number.
    pub pid: Option<u32>,
    /// Process name.
    pub name: Option<String>,
    /// The line says all that its kind of line says: nothing was cut off.
    pub complete: bool,
}

impl Fault {
    /// A fault of which nothing is known yet.
    #[must_use]
    pub const fn unknown(source: Source) -> Self {
        Self {
            source,
            line: 0,
            count: 1,
            last_line: 0,
            times: None,
            gpu: None,
            mig: None,
            va: None,
            kind: None,
            access: None,
            engine: None,
            client: None,
            gpc: None,
            channel: None,
            instance: None,
            pid: None,
            name: None,
            complete: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_agree_with_the_manual() {
        for (code, name) in [(0, "FAULT_PDE"), (2, "FAULT_PTE"), (11, "FAULT_COMPRESSION_FAILURE")] {
            assert_eq!(Kind::from_code(code).map(Kind::name), Some(name));
        }
        assert_eq!(Kind::from_code(15), Some(Kind::AtomicViolation));
        assert_eq!(Kind::from_code(16), None);
        for (kind, name) in KINDS {
            assert_eq!(Kind::from_name(name), Some(kind));
            assert_eq!(kind.name(), name);
        }
        assert_eq!(Kind::from_name("INFO_TYPE_POISONED"), Some(Kind::Poisoned));
        assert_eq!(Kind::from_name("RO_VIOLATION"), Some(Kind::RoViolation));
        assert_eq!(Kind::from_name("FAULT_OF_THE_MOON"), None);
    }

    #[test]
    fn accesses_of_old_and_new_drivers_read() {
        let read = Some(Access { operation: Operation::Read, physical: false });
        assert_eq!(Access::from_name("ACCESS_TYPE_VIRT_READ"), read);
        assert_eq!(Access::from_name("ACCESS_TYPE_READ"), read);
        assert_eq!(Access::from_code(0), read);
        assert_eq!(Access::from_code(9).map(Access::name), Some("ACCESS_TYPE_PHYS_WRITE"));
        assert_eq!(Access::from_name("VIRT_ATOMIC_WEAK"), Access::from_code(4));
        assert_eq!(Access::from_code(5), None);
    }
}
