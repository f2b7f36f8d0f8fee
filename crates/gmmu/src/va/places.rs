//! Which place in a leaf each range's value has: values never move, only these few bits do.

use super::node::FAN;

/// Four bits for each slot, those of places that are free behind the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places(u64);

const _: () = assert!(FAN == 16, "a place has four bits");

impl Places {
    pub(super) const IN_ORDER: Self = Self(0xfedc_ba98_7654_3210);

    /// The bits below a slot.
    #[inline]
    const fn below(slot: usize) -> u64 {
        (1u64 << (slot % FAN * 4)).wrapping_sub(1)
    }

    #[inline]
    pub(super) const fn of(self, slot: usize) -> usize {
        ((self.0 >> (slot % FAN * 4)) & 15) as usize
    }

    /// Moves the place of slot `from` down to the slot `to`, those between up.
    #[inline]
    pub(super) const fn lower(self, from: usize, to: usize) -> Self {
        let (below, upto) = (Self::below(to), Self::below(from) << 4 | 15);
        let between = self.0 << 4 & upto & !(below << 4 | 15);
        Self((self.0 & (below | !upto)) | between | (self.of(from) as u64) << (to % FAN * 4))
    }

    /// Moves the place of slot `from` up to the slot `to`, those between down.
    #[inline]
    pub(super) const fn raise(self, from: usize, to: usize) -> Self {
        let (below, upto) = (Self::below(from), Self::below(to) << 4 | 15);
        let between = self.0 >> 4 & upto >> 4 & !below;
        Self((self.0 & (below | !upto)) | between | (self.of(from) as u64) << (to % FAN * 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_move_as_values_would() {
        for (from, to) in (0..FAN).flat_map(|from| (0..=from).map(move |to| (from, to))) {
            let (start, mut list) = (Places::IN_ORDER.raise(3, 9), core::array::from_fn::<usize, FAN, _>(|slot| slot));
            list[3..=9].rotate_left(1);
            let places = |places: Places| core::array::from_fn::<usize, FAN, _>(|slot| places.of(slot));
            assert_eq!(places(start), list);
            list[to..=from].rotate_right(1);
            assert_eq!(places(start.lower(from, to)), list, "{from} to {to}");
            assert_eq!(start.lower(from, to).raise(to, from), start, "{to} to {from}");
        }
    }
}
