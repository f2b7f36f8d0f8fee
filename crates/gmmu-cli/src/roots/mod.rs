//! Looking for top tables in memory that does not say where they are.
//!
//! A page may be a top table where the few entries that a top table has are sound, and one of them points to a table in
//! the image. What decides is what lies below: from a true root every level has entries of its own kind, down to pages;
//! from a table further down, or from chance words, the levels do not fit, and entries turn out broken.

mod judge;
mod scan;

pub use judge::{Judged, inner_tables, judge};
pub use scan::{Candidates, scan};

use std::collections::{BTreeMap, HashMap, HashSet};

use gmmu::addr::TableAddr;
use gmmu::chip::PageSizes;
use gmmu::device::TableRead;
use gmmu::format::{MmuVersion, V2, V3};

use crate::exit::Failure;
use crate::source::Memory;
use crate::with_format;

/// Of 100 points, what a top table has at least.
pub const LINE: u32 = 65;

/// Most top tables that are told of.
pub const MOST: usize = 256;

/// One format that is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The format.
    pub mmu: MmuVersion,
    /// The page sizes that the chip has.
    pub sizes: PageSizes,
}

/// A likely top table.
#[derive(Clone, Debug)]
pub struct Likely {
    /// Where.
    pub root: TableAddr,
    /// In which format.
    pub mmu: MmuVersion,
    /// What was found below.
    pub judged: Judged,
    /// Instance blocks that name it.
    pub inst: Vec<u64>,
}

impl Likely {
    /// Points, of 100.
    #[must_use]
    pub fn score(&self) -> u32 {
        self.judged.score(!self.inst.is_empty())
    }
}

/// Judges all candidates, and gives those that reach `line`, the best first and at most [`MOST`]. Tables inside the tree of another one are
/// left out.
///
/// # Errors
/// Those of the memory.
pub fn likely(
    memory: &mut Memory,
    wanted: &[Wanted],
    candidates: &Candidates,
    line: u32,
    mut tick: impl FnMut(),
) -> Result<Vec<Likely>, Failure> {
    let mut inst: HashMap<u64, Vec<u64>> = HashMap::new();
    for &(block, root) in &candidates.instances {
        inst.entry(root).or_default().push(block);
    }
    let mut best: BTreeMap<u64, Likely> = BTreeMap::new();
    for wanted in wanted {
        let places = candidates.roots.iter().filter(|place| place.mmu == wanted.mmu);
        for place in places {
            tick();
            let root = TableAddr::vram(place.at);
            let judged = with_format!(wanted.mmu, judge(memory, root, wanted.sizes, place.rest_is_zero))
                .map_err(|error| memory.failure(error))?;
            let blocks = inst.get(&place.at).cloned().unwrap_or_default();
            let found = Likely { root, mmu: wanted.mmu, judged, inst: blocks };
            let better = best.get(&place.at).is_none_or(|known| known.score() < found.score());
            if found.score() >= line && better {
                best.insert(place.at, found);
            }
        }
    }
    tops(memory, best.into_values().collect())
}

/// The other format, where what lies below `root` is no tree of `mmu` but is one of that: a near miss of `--mmu`.
pub fn other_format(memory: &mut Memory, root: TableAddr, mmu: MmuVersion) -> Option<MmuVersion> {
    let mut fits = |mmu: MmuVersion| {
        let rest = rest_is_zero(memory, root, mmu);
        // A memory that does not read is found out by who reads it in earnest.
        let judged = with_format!(mmu, judge(memory, root, PageSizes::UP_TO_256G, rest));
        judged.is_ok_and(|judged| judged.score(false) >= LINE)
    };
    let other = match mmu {
        MmuVersion::V2 => MmuVersion::V3,
        MmuVersion::V3 => MmuVersion::V2,
    };
    (!fits(mmu) && fits(other)).then_some(other)
}

/// Leaves out what is a table in the tree of another.
fn tops(memory: &mut Memory, mut found: Vec<Likely>) -> Result<Vec<Likely>, Failure> {
    found.sort_by_key(|likely| (std::cmp::Reverse(likely.score()), likely.root.raw()));
    found.truncate(MOST);
    let places: HashSet<TableAddr> = found.iter().map(|likely| likely.root).collect();
    let mut kept: Vec<(Likely, HashSet<TableAddr>)> = Vec::new();
    for likely in found {
        if kept.iter().any(|(_, inner)| inner.contains(&likely.root)) {
            continue;
        }
        let inner = with_format!(likely.mmu, inner_tables(memory, likely.root, &places))
            .map_err(|error| memory.failure(error))?;
        kept.retain(|(other, _)| !inner.contains(&other.root));
        kept.push((likely, inner));
    }
    Ok(kept.into_iter().map(|(likely, _)| likely).collect())
}

/// Entries of a top table.
#[must_use]
pub fn root_entries(mmu: MmuVersion) -> u64 {
    fn entries<F: gmmu::format::Format>() -> u64 {
        F::LEVELS.first().map_or(0, gmmu::format::Level::entries)
    }
    match mmu {
        MmuVersion::V2 => entries::<V2>(),
        MmuVersion::V3 => entries::<V3>(),
    }
}

/// Whether the rest of the page of a top table is 0: what lies behind the entries that a top table has.
pub fn rest_is_zero(memory: &mut Memory, root: TableAddr, mmu: MmuVersion) -> bool {
    (root_entries(mmu)..512).all(|n| {
        let at = root.with_raw(root.raw().wrapping_add(n * 8));
        // What cannot be read is not there to be anything.
        memory.read_word(at).unwrap_or(0) == 0
    })
}
