//! What changed between two lists of mappings.

use schemars::JsonSchema;
use serde::Serialize;

use crate::exit::Failure;
use crate::ranges::{Mapped, RangeView, What};
use crate::stream::{Stream, split};

/// A change of a range of addresses. `None` is "not mapped".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) from: Option<Mapped>,
    pub(super) to: Option<Mapped>,
}

/// What happened to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sort {
    Added,
    Removed,
    Changed,
}

/// A change as it is printed.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct ChangeView {
    pub(super) change: Sort,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<RangeView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<RangeView>,
    /// Which of memory, page size, kind and flags differ.
    pub(super) differs: Vec<&'static str>,
}

/// How many bytes of addresses had which fate.
#[derive(Clone, Copy, Debug, Default, JsonSchema, Serialize)]
pub(super) struct Sums {
    pub(super) same: u64,
    pub(super) added: u64,
    pub(super) removed: u64,
    pub(super) changed: u64,
}

/// Goes through both sides, and shows `each` every change; it says whether to go on. Neighbouring pieces of one change
/// are put together.
pub(super) fn compare(
    a: &mut Stream<'_>,
    b: &mut Stream<'_>,
    sums: &mut Sums,
    mut each: impl FnMut(Change) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let (mut left, mut right) = (a.next_range()?, b.next_range()?);
    let mut open: Option<Change> = None;
    loop {
        let change = cut(&mut left, &mut right);
        let Some(change) = change else { break };
        sums.add(&change);
        if left.is_none_or(|left| left.bytes == 0) {
            left = a.next_range()?;
        }
        if right.is_none_or(|right| right.bytes == 0) {
            right = b.next_range()?;
        }
        if let Some(open) = &mut open
            && open.goes_on_with(&change)
        {
            open.extend(change.bytes());
            continue;
        }
        if let Some(whole) = open.replace(change)
            && whole.from != whole.to
            && !each(whole)?
        {
            return Ok(());
        }
    }
    match open {
        Some(last) if last.from != last.to => each(last).map(|_| ()),
        _ => Ok(()),
    }
}

/// Cuts off the first piece that is alike on each side as far as it reaches.
fn cut(left: &mut Option<Mapped>, right: &mut Option<Mapped>) -> Option<Change> {
    let alone = |side: &mut Mapped, other: Option<&Mapped>| {
        let until = other.map_or(side.end(), |other| other.va.min(side.end()));
        let bytes = until - side.va;
        split(side, bytes)
    };
    let change = match (left.as_mut(), right.as_mut()) {
        (None, None) => return None,
        (Some(left), other) if other.as_ref().is_none_or(|right| left.va < right.va) => {
            Change { from: Some(alone(left, other.as_deref())), to: None }
        }
        (other, Some(right)) if other.as_ref().is_none_or(|left| right.va < left.va) => {
            Change { from: None, to: Some(alone(right, other.as_deref())) }
        }
        (Some(left), Some(right)) => {
            let bytes = left.bytes.min(right.bytes);
            Change { from: Some(split(left, bytes)), to: Some(split(right, bytes)) }
        }
        // One side of the two comes first, or both begin together.
        (Some(_), None) | (None, Some(_)) => return None,
    };
    Some(change)
}

impl Change {
    fn bytes(&self) -> u64 {
        self.from.or(self.to).map_or(0, |range| range.bytes)
    }

    fn goes_on_with(&self, next: &Self) -> bool {
        let side = |one: &Option<Mapped>, other: &Option<Mapped>| match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => one.goes_on_with(other),
            _ => false,
        };
        side(&self.from, &next.from) && side(&self.to, &next.to)
    }

    fn extend(&mut self, bytes: u64) {
        for side in [&mut self.from, &mut self.to].into_iter().flatten() {
            side.bytes += bytes;
        }
    }

    fn sort(&self) -> Sort {
        match (&self.from, &self.to) {
            (None, _) => Sort::Added,
            (_, None) => Sort::Removed,
            _ => Sort::Changed,
        }
    }

    fn differs(&self) -> Vec<&'static str> {
        let (Some(from), Some(to)) = (&self.from, &self.to) else { return Vec::new() };
        let mut differs = Vec::new();
        if from.page != to.page {
            differs.push("page");
        }
        match (&from.what, &to.what) {
            (What::Leaf(from), What::Leaf(to)) => {
                let parts = [
                    ("to", from.to != to.to),
                    ("kind", from.kind != to.kind),
                    ("flags", from.flags != to.flags),
                    ("comptag", from.comptag != to.comptag),
                ];
                differs.extend(parts.into_iter().filter(|(_, differ)| *differ).map(|(name, _)| name));
            }
            (What::Sparse, What::Sparse) => {}
            _ => differs.push("sparse"),
        }
        differs
    }
}

impl From<&Change> for ChangeView {
    fn from(change: &Change) -> Self {
        Self {
            change: change.sort(),
            from: change.from.as_ref().map(RangeView::from),
            to: change.to.as_ref().map(RangeView::from),
            differs: change.differs(),
        }
    }
}

impl Sums {
    fn add(&mut self, change: &Change) {
        let sum = match change.sort() {
            _ if change.from == change.to => &mut self.same,
            Sort::Added => &mut self.added,
            Sort::Removed => &mut self.removed,
            Sort::Changed => &mut self.changed,
        };
        *sum = sum.saturating_add(change.bytes());
    }
}
