//! The rules, as one table: what each is called, how bad it is to break it, what it says and what should be done.

use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Wrong, but nothing was hurt.
    Warning,
    /// Wrong, and on hardware memory may have been corrupted.
    Error,
}

impl Severity {
    /// `note`, `warning` or `error`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One row of the table of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// The rule.
    pub rule: Rule,
    /// Its name in reports and scripts, which never changes.
    pub id: &'static str,
    /// Its name in words.
    pub name: &'static str,
    /// How bad it is to break it.
    pub severity: Severity,
    /// What breaks it, in one sentence.
    pub explanation: &'static str,
    /// What should have happened.
    pub instead: &'static str,
}

/// Makes the enum and the table of the same rows.
macro_rules! rules {
    ($($rule:ident, $severity:ident, $id:literal, $name:literal, $explanation:literal, $instead:literal;)*) => {
        /// Which rule was broken. Rules have ids that never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $(#[doc = concat!("`", $id, "`: ", $explanation)] $rule,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [RuleInfo] = &[$(RuleInfo {
                rule: Rule::$rule,
                id: $id,
                name: $name,
                severity: Severity::$severity,
                explanation: $explanation,
                instead: $instead,
            },)*];

            /// The rule's row in the table.
            #[must_use]
            pub const fn info(self) -> &'static RuleInfo {
                // The table has one row for each variant, in order.
                &Self::ALL[self as usize]
            }
        }
    };
}

rules! {
    StaleLeaf, Error, "stale-leaf", "stale leaf entry used",
        "An access used a cached leaf entry that memory no longer holds, and no invalidate came in between.",
        "an invalidate of the space, of the entry's depth, between the change and the access";
    StaleDirectory, Error, "stale-directory", "stale directory entry used",
        "An access went through a cached directory entry that memory no longer holds, and no invalidate came in between.",
        "an invalidate of the space, of the entry's depth, between the change and the access";
    StaleInvalid, Warning, "stale-invalid", "cached invalid entry hit",
        "An access faulted on a cached invalid entry, though memory maps the address by now: misses are cached too.",
        "an invalidate after entries became valid";
    InvalidateWrongPdb, Error, "invalidate-wrong-pdb", "invalidate of another space",
        "An access used an outdated entry; the invalidate that followed the change named another page directory.",
        "an invalidate that names the page directory of the space that was changed";
    InvalidateTooShallow, Error, "invalidate-too-shallow", "invalidate too shallow",
        "An access used an outdated entry; the invalidate that followed did not reach its level (leaves of 2M and more count as directory entries).",
        "an invalidate up to the shallowest level in which an entry was written";
    InvalidateHubOnly, Error, "invalidate-hub-only", "invalidate of the hub alone",
        "An engine used an outdated entry; the invalidate that followed the change reached the hub's caches alone.",
        "an invalidate without HUBTLB_ONLY where engines use the space";
    InvalidateUnacknowledged, Error, "invalidate-unacknowledged", "removal without acknowledgement",
        "An outdated entry was used that had been removed or tightened; the invalidate that followed did not wait for all units.",
        "an invalidate with ACK_GLOBALLY and SYS_MEMBAR where something is removed or tightened";
    InvalidateWhileRunning, Error, "invalidate-while-running", "invalidate while one runs",
        "An invalidate was triggered while an earlier one ran, and is ignored.",
        "waiting until TRIGGER reads 0, under one lock for all users";
    UndrainedStores, Error, "undrained-stores", "invalidate before the ordering point",
        "An invalidate was triggered before the stores to the tables were waited for: the MMU may read, and keep, what was there before.",
        "a wait for the stores, or a read back through the window, between the last store and the invalidate";
    TableFreedReachable, Error, "table-freed-reachable", "table freed while reachable",
        "Memory of a table was given back, or taken anew, while an entry or a cache could still lead to it.",
        "clearing the entry, an ordering point, an acknowledged invalidate, and only then freeing";
    RootFreedBound, Error, "root-freed-bound", "root freed while bound",
        "The memory of a top table was given back while a BAR is bound to it.",
        "unbinding, and waiting for that, before the root is freed";
    TableWrittenAsData, Error, "table-written-as-data", "table written as data",
        "An engine, or the CPU through BAR1, wrote data into a table that can be reached.",
        "no mapping of tables that their users may write";
    PublishedUninitialised, Error, "published-uninitialised", "table published before it was written",
        "A table became reachable before all the entries that its level uses were written.",
        "writing the whole table before linking it";
    PublishedUnordered, Error, "published-unordered", "table published without ordering point",
        "A table in system memory became reachable with no ordering point since its entries were first written.",
        "an ordering point between a table's entries and the entry that links it";
    ValidToValid, Error, "valid-to-valid", "page size changed directly",
        "An address went from one page size to another without a covering invalidate between the two.",
        "clearing, a covering invalidate, and only then the entry of the other size";
    BothHalvesValid, Note, "both-halves-valid", "64K and 4K entries valid for one page",
        "An access was served by a 64K entry over valid 4K entries, which come to life when it goes.",
        "one page size at a time for each 64 KiB";
    StaleSmallUncovered, Error, "stale-4k-uncovered", "64K slot opened over stale 4K entries",
        "A 64K entry became 0 and uncovered 4K entries that were last written before it hid them.",
        "clearing or rewriting the 4K entries before the 64K slot is opened";
    HalfCleared, Error, "half-cleared", "large entry cleared in one half only",
        "A leaf of 2M was cleared in its low word only, and the high word then led to a table.",
        "clearing both words of the entry";
    TornEntry, Error, "torn-entry", "half-written entry seen",
        "The MMU read an entry of which one 32-bit half was new and the other old, and it was valid.",
        "one 64-bit store; or the half with VALID last when publishing and first when retracting";
    CachedSysTable, Error, "cached-sys-table", "table in system memory cached by L2",
        "An entry that is not volatile points to a table in system memory: L2 may keep words of it that no invalidate drops.",
        "VOL, or an uncached PCF, in entries that point to tables in system memory";
    CachedNonCoherentPage, Error, "cached-noncoherent-page", "non-coherent page cached by L2",
        "An entry that is not volatile maps non-coherent system memory: L2 may keep what the CPU has changed.",
        "VOL, or an uncached PCF, in entries that map non-coherent memory";
    CompressibleSmall, Error, "compressible-4k", "compressible kind on a 4K page",
        "A 4K entry has a compressible kind, which needs pages of at least 64K.",
        "an uncompressed kind, or larger pages";
    ReservedBits, Error, "reserved-bits", "reserved bits set",
        "An entry that is used has bits set that its format does not define, or is a leaf where the chip has none.",
        "zeros in all bits without a meaning; in both words of a large leaf";
    BeyondMemory, Error, "beyond-memory", "address beyond the memory",
        "An entry that is used points past the end of video memory, or of the system memory that the chip reaches.",
        "checking addresses against the size of the memory";
    MisalignedTable, Error, "misaligned-table", "table not aligned",
        "A table, or the memory for one, is not aligned to its size, and the bits below are not in the entry.",
        "top tables and directories at multiples of 4 KiB, tables of 64K entries at multiples of 256 bytes";
    MisalignedPage, Error, "misaligned-page", "page not aligned",
        "A leaf names an address that is not a multiple of its page size; the hardware ignores the low bits.",
        "pages whose addresses are multiples of their sizes";
    BarTableInSysMem, Error, "bar-table-in-sysmem", "BAR tables in system memory",
        "A BAR's address space has a table in system memory: a read of the CPU that makes the GPU read from it can lock up the bus.",
        "tables of BARs in video memory";
    BarUnbound, Error, "bar-unbound", "BAR accessed without a block",
        "A BAR was accessed while no instance block was bound to it, or while a bind was under way.",
        "polling the bind status until it is idle before the first access";
    WindowMoving, Warning, "window-moving", "window used while it moves",
        "Memory was accessed through the window before its new position was read back.",
        "reading the window register back after each move, under the lock of its users";
}

const _: () = {
    let mut row = 0;
    while row < Rule::ALL.len() {
        assert!(Rule::ALL[row].rule as usize == row);
        row += 1;
    }
};

impl Rule {
    /// The stable name.
    #[must_use]
    pub const fn id(self) -> &'static str {
        self.info().id
    }

    /// How bad it is to break it.
    #[must_use]
    pub const fn severity(self) -> Severity {
        self.info().severity
    }

    /// The rule of that id.
    #[must_use]
    pub fn by_id(id: &str) -> Option<Self> {
        Self::ALL.iter().find(|info| info.id == id).map(|info| info.rule)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}
