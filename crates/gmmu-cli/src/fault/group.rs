//! Which faults of a log are one story: the same page, a burst, or the same address on several GPUs.

use std::collections::{BTreeSet, HashMap};

use schemars::JsonSchema;
use serde::Serialize;

use super::report::Explained;
use crate::notation::Address;

/// Faults that one explanation holds for, in the order of their lines.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize)]
pub struct Group {
    /// Places in the list of faults.
    pub faults: Vec<usize>,
    /// Lines of the log.
    pub count: u64,
    /// Number of the first of them.
    pub first_line: u64,
    /// Number of the last of them.
    pub last_line: u64,
    /// From the first to the last by the clock of the kernel, where the log has it.
    pub microseconds: Option<u64>,
    /// The GPUs.
    pub gpus: BTreeSet<String>,
    /// The processes.
    pub pids: BTreeSet<u32>,
    /// How many 4 KiB pages.
    pub pages: usize,
    /// The first of them.
    pub lowest: Option<Address>,
    /// The last of them.
    pub highest: Option<Address>,
}

/// Puts together what is one story: faults of one kind, by the same process on the same GPU, or at the same address.
/// A job with a process for every GPU fails at one address on all of them.
#[must_use]
pub fn groups(faults: &[Explained]) -> Vec<Group> {
    let (mut by_owner, mut by_address) = (HashMap::new(), HashMap::new());
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (n, fault) in faults.iter().enumerate() {
        let story = fault.story();
        let owner = (story.clone(), fault.owner());
        let address = fault.va.map(|va| (story, va.0));
        let known = by_owner.get(&owner).or_else(|| by_address.get(address.as_ref()?)).copied();
        let place = known.unwrap_or(groups.len());
        by_owner.entry(owner).or_insert(place);
        if let Some(address) = address {
            by_address.entry(address).or_insert(place);
        }
        match groups.get_mut(place) {
            Some(group) => group.push(n),
            None => groups.push(vec![n]),
        }
    }
    groups.into_iter().map(|group| Group::new(group, faults)).collect()
}

impl Group {
    fn new(places: Vec<usize>, faults: &[Explained]) -> Self {
        let members = || places.iter().filter_map(|&n| faults.get(n));
        let pages: BTreeSet<_> = members().filter_map(|fault| fault.va).collect();
        let times = members().map(|fault| fault.times).collect::<Option<Vec<_>>>().unwrap_or_default();
        let (first, last) = (times.iter().map(|times| times.0).min(), times.iter().map(|times| times.1).max());
        Self {
            count: members().map(|fault| fault.count).sum(),
            first_line: members().map(|fault| fault.line).min().unwrap_or(0),
            last_line: members().map(|fault| fault.last_line).max().unwrap_or(0),
            microseconds: first.zip(last).map(|(first, last)| last.saturating_sub(first)),
            gpus: members().filter_map(|fault| fault.gpu.clone()).collect(),
            pids: members().filter_map(|fault| fault.pid).collect(),
            pages: pages.len(),
            lowest: pages.first().copied(),
            highest: pages.last().copied(),
            faults: places,
        }
    }

    /// What there is to say of more than one line, in parts.
    #[must_use]
    pub fn again(&self) -> Vec<String> {
        if self.count < 2 {
            return Vec::new();
        }
        let burst = match self.microseconds {
            Some(0) => " at once".to_owned(),
            Some(us @ ..1_000) => format!(" within {us} us"),
            Some(us @ ..1_000_000) => format!(" within {} ms", us.div_ceil(1_000)),
            Some(us) => format!(" over {} s", us.div_ceil(1_000_000)),
            None => String::new(),
        };
        let pages = match (self.lowest, self.highest) {
            (Some(low), Some(high)) if low != high => format!(", {} pages from {low} to {high}", self.pages),
            (Some(_), _) => ", always at the same page".to_owned(),
            (None, _) => String::new(),
        };
        let mut parts = vec![format!("{} times in all{burst}, up to line {}{pages}", self.count, self.last_line)];
        let list = |items: Vec<String>| items.join(", ");
        if self.pids.len() > 1 {
            let pids = self.pids.iter().map(u32::to_string).collect();
            parts.push(format!("by {} processes: {}", self.pids.len(), list(pids)));
        }
        if self.gpus.len() > 1 {
            let gpus = list(self.gpus.iter().cloned().collect());
            let same = if self.pages < 2 { "at the same address " } else { "" };
            parts.push(format!("{same}on {} GPUs, {gpus}: so it is not the card", self.gpus.len()));
        }
        parts
    }
}
