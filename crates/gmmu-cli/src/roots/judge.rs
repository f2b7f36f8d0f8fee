//! The second sieve: what lies below a table that may be a top one.

use std::collections::HashSet;

use gmmu::addr::TableAddr;
use gmmu::chip::PageSizes;
use gmmu::device::{DeviceError, TableRead};
use gmmu::format::{DUAL_SHIFT, EntryKind, Format};
use gmmu::walk::{Cursor, Event, Is, Step, Table, View, WalkError, Why};

use crate::entry::fields::Fields;

/// Tables that are read below one candidate: enough to judge, and little enough to judge thousands.
const TABLES: u64 = 256;
/// Tables that are gone through to find what is inside a tree.
const TREE: u64 = 1 << 20;
/// Broken entries after which a candidate that has no more sound ones is given up.
const PATIENCE: u64 = 16;

/// What was found below a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Tables that were read.
    pub tables: u64,
    /// Pages and sparse entries.
    pub leaves: u64,
    /// Entries that are as they should be.
    pub sound: u64,
    /// Entries that are not: bits that the format does not have, pages at odd places, tables outside the memory.
    pub broken: u64,
    /// Nothing lies in the page behind the few entries of a top table.
    pub rest_is_zero: bool,
    /// Not all tables were read.
    pub in_part: bool,
}

impl Judged {
    /// Points, of 100: for what fits together, for leading to pages, for an otherwise empty page, and for an instance
    /// block that names the table.
    #[must_use]
    pub fn score(&self, named: bool) -> u32 {
        let all = self.sound + self.broken;
        // Of ten entries, one broken one takes half the points.
        let fits = (self.sound * 45 / all.max(1)).saturating_sub(self.broken * 180 / all.max(1));
        let fits = u32::try_from(fits).unwrap_or(0);
        // A table without one below it is no top table, whatever its own entries say.
        let leads = if self.leaves > 0 && self.tables > 1 && fits >= 20 { 30 } else { 0 };
        fits + leads + if self.rest_is_zero { 15 } else { 0 } + if named { 10 } else { 0 }
    }

    /// What speaks for it and against it, in a few words each.
    #[must_use]
    pub fn reasons(&self, inst: &[u64]) -> Vec<String> {
        let mut reasons = Vec::new();
        let all = self.sound + self.broken;
        let part = if self.in_part { " of the first tables" } else { "" };
        reasons.push(match self.broken {
            0 => format!("all {all} entries{part} fit their levels"),
            broken => format!("{broken} of {all} entries{part} do not fit their levels"),
        });
        reasons.push(match self.leaves {
            0 => "leads to no page".to_owned(),
            leaves => format!("leads to {}{leaves} pages", if self.in_part { "more than " } else { "" }),
        });
        if !self.rest_is_zero {
            reasons.push("something lies behind its entries".to_owned());
        }
        match inst {
            [] => {}
            [one] => reasons.push(format!("instance block {one:#014x} names it")),
            [one, rest @ ..] => {
                reasons.push(format!("instance block {one:#014x} and {} more name it", rest.len()));
            }
        }
        reasons
    }

    fn count(&mut self, sound: bool) {
        if sound { self.sound += 1 } else { self.broken += 1 }
    }
}

/// Looks at the tables below `root`, as one of format `F`.
///
/// # Errors
/// Those of the memory as a whole.
pub fn judge<F: Format>(
    memory: &mut impl TableRead,
    root: TableAddr,
    sizes: PageSizes,
    rest_is_zero: bool,
) -> Result<Judged, DeviceError> {
    let mut judged = Judged { rest_is_zero, ..Judged::default() };
    let mut seen = HashSet::new();
    let Ok(mut cursor) = Cursor::<F>::new(root, sizes, 0..1 << F::VA_BITS, View::Structure, TABLES) else {
        return Ok(judged);
    };
    loop {
        match cursor.next(memory) {
            Ok(None) => return Ok(judged),
            Err(WalkError::Device(error)) => return Err(error),
            Err(_) => {
                judged.in_part = true;
                return Ok(judged);
            }
            Ok(Some(Event::Enter(table))) => {
                if !seen.insert((table.at, table.level.shift)) {
                    cursor.skip();
                } else {
                    judged.tables += 1;
                }
                if let Some(parent) = table.parent {
                    judged.count(link_is_sound::<F>(memory, &table, parent));
                }
            }
            Ok(Some(Event::Entry { step, .. })) => {
                judged.leaves += u64::from(matches!(step.is, Is::Leaf(_) | Is::Sparse));
                match step.is {
                    // Not in the image, so nothing can be said.
                    Is::Bad(Why::TableUnreadable(DeviceError::WrongAperture { .. })) => {}
                    _ => judged.count(is_sound::<F>(&step)),
                }
            }
            Ok(Some(Event::Leave { .. })) => {}
        }
        if judged.broken >= PATIENCE && judged.broken >= judged.sound {
            judged.in_part = true;
            return Ok(judged);
        }
    }
}

/// Whether a leaf or sparse entry is as the format has it.
fn is_sound<F: Format>(step: &Step) -> bool {
    match step.is {
        Is::Leaf(leaf) => {
            let [low, high] = step.raw;
            let fields = Fields::of_entry::<F>(true, &[low]);
            fields.undefined(0, low) == 0 && high == 0 && leaf.to.is_aligned(step.level.span())
        }
        // Bits 5:3 say sparse, in every format and at every level.
        Is::Sparse => step.raw == [step.raw[0] & 0x38, 0],
        _ => false,
    }
}

/// Whether the entry that points to `table` has only bits that the format has.
fn link_is_sound<F: Format>(memory: &mut impl TableRead, table: &Table, parent: TableAddr) -> bool {
    let kind = match table.level.shift {
        12 => EntryKind::DualSmall,
        16 => EntryKind::DualBig,
        _ => EntryKind::Pde,
    };
    memory.read_word(parent).is_ok_and(|raw| Fields::of::<F>(kind, raw).undefined(0, raw) == 0)
}

/// Which of `places` are tables below `root`.
///
/// # Errors
/// Those of the memory as a whole.
pub fn inner_tables<F: Format>(
    memory: &mut impl TableRead,
    root: TableAddr,
    places: &HashSet<TableAddr>,
) -> Result<HashSet<TableAddr>, DeviceError> {
    let (mut inner, mut seen) = (HashSet::new(), HashSet::new());
    let range = 0..1 << F::VA_BITS;
    let Ok(mut cursor) = Cursor::<F>::new(root, PageSizes::UP_TO_256G, range, View::Structure, TREE) else {
        return Ok(inner);
    };
    loop {
        match cursor.next(memory) {
            Ok(Some(Event::Enter(table))) => {
                if table.parent.is_some() && places.contains(&table.at) {
                    inner.insert(table.at);
                }
                // Leaf tables lead no further.
                let known = !seen.insert((table.at, table.level.shift));
                if known || table.level.shift < DUAL_SHIFT {
                    cursor.skip();
                }
            }
            Ok(Some(_)) => {}
            Err(WalkError::Device(error)) => return Err(error),
            Ok(None) | Err(_) => return Ok(inner),
        }
    }
}
