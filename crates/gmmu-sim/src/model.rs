//! The machine behind the registers: memory, caches, the known address spaces and the sanitizer's records.

use crate::access::Shortcut;
use crate::blame::Invalidates;
use crate::config::Speculation;
use crate::format::Decoder;
use crate::graph::{Place, Root};
use crate::memory::{Ends, Memory};
use crate::order::Drained;
use crate::sanitizer::{Finding, Report, Rule};
use crate::store::Torn;
use crate::tlb::Tlb;
use std::collections::BTreeMap;

/// See the module.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) memory: Memory,
    pub(crate) tlb: Tlb,
    pub(crate) decoder: Decoder,
    /// What the caches do by themselves, and how often chance was asked.
    pub(crate) speculation: Speculation,
    pub(crate) rolls: u64,
    pub(crate) report: Report,
    /// Number of the current operation.
    pub(crate) op: u64,
    /// The latest way through the directories.
    pub(crate) shortcut: Option<Shortcut>,
    /// Changes of cached words and invalidates so far.
    pub(crate) epoch: u64,
    /// Roots by flat address.
    pub(crate) roots: BTreeMap<u64, Root>,
    /// Tables known to be reachable.
    pub(crate) live: u32,
    /// Directories in which some entry translated at a size that a cache may still hold.
    pub(crate) recent: Vec<Place>,
    /// Ordering points of the CPU's stores to system memory so far.
    pub(crate) fence: u64,
    /// The CPU has stored to system memory since it last waited for its stores.
    pub(crate) undrained: bool,
    /// The stores that have been waited for.
    pub(crate) drained: Drained,
    /// The latest invalidates.
    pub(crate) invalidates: Invalidates,
    /// Words of live tables of which a part was stored lately.
    pub(crate) torn: Vec<Torn>,
    /// Words that a store to leaf tables changed: (slot, word before). Kept for its memory.
    pub(crate) changes: Vec<(u16, u64)>,
}

impl Model {
    pub(crate) fn new(decoder: Decoder, ends: Ends, speculation: Speculation) -> Self {
        Self {
            memory: Memory::new(ends),
            tlb: Tlb::default(),
            decoder,
            speculation,
            rolls: 0,
            report: Report::default(),
            op: 0,
            shortcut: None,
            epoch: 0,
            roots: BTreeMap::new(),
            live: 0,
            recent: Vec::new(),
            fence: 0,
            undrained: false,
            drained: Drained::default(),
            invalidates: Invalidates::default(),
            torn: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// A finding of the current operation, to be filled in.
    pub(crate) fn finding(&self, rule: Rule, what: &'static str) -> Finding {
        Finding::new(rule, self.op, what)
    }
}
