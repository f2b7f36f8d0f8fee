//! The only file that names `alloc`: lists and slabs that grow where growing may fail, and never elsewhere.
//!
//! `reserve` may allocate and may fail; every `push` after it stays within what was reserved and hands the value back
//! where there is no room. Nothing here shrinks, and nothing but `drop` gives memory back. A port to another allocator
//! (the kernel's, with its flags) replaces this file.

extern crate alloc;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;

/// The host has no memory left for the library's own records. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of memory for the library's records")]
pub struct NoMemory;

/// A vector that grows only in [`reserve`](Self::reserve).
#[derive(Debug)]
pub struct List<T> {
    items: Vec<T>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> List<T> {
    /// An empty list; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { items: Vec::new() }
    }

    /// Makes room for `extra` values more than there are now.
    ///
    /// # Errors
    /// [`NoMemory`]; the list is as it was.
    pub fn reserve(&mut self, extra: usize) -> Result<(), NoMemory> {
        if self.items.capacity() - self.items.len() >= extra {
            return Ok(());
        }
        inject::may_grow()?;
        self.items.try_reserve(extra).map_err(|_| NoMemory)
    }

    /// Makes room for exactly `extra` values more, without the slack that makes repeated growing cheap.
    ///
    /// # Errors
    /// [`NoMemory`]; the list is as it was.
    pub fn reserve_exact(&mut self, extra: usize) -> Result<(), NoMemory> {
        if self.items.capacity() - self.items.len() >= extra {
            return Ok(());
        }
        inject::may_grow()?;
        self.items.try_reserve_exact(extra).map_err(|_| NoMemory)
    }

    /// Appends within the reserved room.
    ///
    /// # Errors
    /// Hands `value` back where no room was reserved.
    pub fn push_within(&mut self, value: T) -> Result<(), T> {
        if self.items.len() == self.items.capacity() {
            return Err(value);
        }
        self.items.push(value);
        Ok(())
    }

    /// Makes room for one value and appends it.
    ///
    /// # Errors
    /// [`NoMemory`]; the list is as it was and `value` is dropped.
    pub fn push(&mut self, value: T) -> Result<(), NoMemory> {
        self.reserve(1)?;
        self.push_within(value).map_err(|_| NoMemory)
    }

    /// Inserts at `index` within the reserved room, moving later values up.
    ///
    /// # Errors
    /// Hands `value` back where no room was reserved or `index` is behind the end.
    pub fn insert_within(&mut self, index: usize, value: T) -> Result<(), T> {
        if self.items.len() == self.items.capacity() || index > self.items.len() {
            return Err(value);
        }
        self.items.insert(index, value);
        Ok(())
    }

    /// Removes the value at `index`, moving later ones down; `None` behind the end.
    pub fn remove(&mut self, index: usize) -> Option<T> {
        (index < self.items.len()).then(|| self.items.remove(index))
    }

    /// Removes the value at `index` by putting the last one there; `None` behind the end.
    pub fn swap_remove(&mut self, index: usize) -> Option<T> {
        (index < self.items.len()).then(|| self.items.swap_remove(index))
    }

    /// Removes the last value.
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop()
    }

    /// Drops the values from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.items.truncate(len);
    }

    /// Drops all values; the room stays.
    pub fn clear(&mut self) {
        self.items.clear();
    }

    /// Bytes of heap that the list holds, used or not.
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.items.capacity() * size_of::<T>()
    }

    /// The values.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        &self.items
    }

    /// The values, to change.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.items
    }
}

impl<T: Clone> List<T> {
    /// Appends `count` copies of `value`.
    ///
    /// # Errors
    /// [`NoMemory`]; the list is as it was.
    pub fn extend_with(&mut self, count: usize, value: &T) -> Result<(), NoMemory> {
        self.reserve_exact(count)?;
        self.items.resize(self.items.len() + count, value.clone());
        Ok(())
    }
}

impl<T> Deref for List<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T> core::ops::DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items
    }
}

/// Values with stable small numbers, in blocks of `BLOCK` that never move: growing copies nothing, and what is wasted
/// is less than one block.
#[derive(Debug)]
pub struct Slab<T, const BLOCK: usize> {
    blocks: List<List<Slot<T>>>,
    /// Head of the list of free slots.
    free: u32,
    /// Free slots, those never used yet included.
    spare: usize,
}

#[derive(Debug)]
enum Slot<T> {
    Used(T),
    /// The next free slot.
    Free(u32),
}

/// No slot: the end of the free list.
const NONE: u32 = u32::MAX;

impl<T, const BLOCK: usize> Default for Slab<T, BLOCK> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const BLOCK: usize> Slab<T, BLOCK> {
    /// An empty slab; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { blocks: List::new(), free: NONE, spare: 0 }
    }

    /// Makes room for `extra` values more than there are now.
    ///
    /// # Errors
    /// [`NoMemory`]; the values are as they were, some room may have been made.
    pub fn reserve(&mut self, extra: usize) -> Result<(), NoMemory> {
        while self.spare < extra {
            let first = self.blocks.len().checked_mul(BLOCK).and_then(|n| u32::try_from(n).ok()).ok_or(NoMemory)?;
            let end = u32::try_from(BLOCK).ok().and_then(|n| first.checked_add(n)).ok_or(NoMemory)?;
            let mut block = List::new();
            block.reserve_exact(BLOCK)?;
            self.blocks.reserve(1)?;
            for index in first..end {
                let next = if index + 1 == end { self.free } else { index + 1 };
                block.push_within(Slot::Free(next)).map_err(|_| NoMemory)?;
            }
            self.blocks.push_within(block).map_err(|_| NoMemory)?;
            self.free = first;
            self.spare += BLOCK;
        }
        Ok(())
    }

    /// Puts `value` into a free slot within the reserved room and returns its number.
    ///
    /// # Errors
    /// Hands `value` back where no room was reserved.
    pub fn insert_within(&mut self, value: T) -> Result<u32, T> {
        let index = self.free;
        let Some(slot) = self.slot_mut(index) else { return Err(value) };
        let Slot::Free(next) = *slot else { return Err(value) };
        *slot = Slot::Used(value);
        self.free = next;
        self.spare -= 1;
        Ok(index)
    }

    /// Takes the value out of slot `index`; `None` where there is none.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let free = self.free;
        let slot = self.slot_mut(index)?;
        if matches!(slot, Slot::Free(_)) {
            return None;
        }
        let Slot::Used(value) = core::mem::replace(slot, Slot::Free(free)) else { return None };
        self.free = index;
        self.spare += 1;
        Some(value)
    }

    /// The value in slot `index`.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        match self.blocks.get(index / BLOCK)?.get(index % BLOCK)? {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    /// The value in slot `index`, to change.
    #[must_use]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        match self.slot_mut(index)? {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    /// The values in two slots, to change; `None` where one lacks, or both are the same.
    pub fn pair_mut(&mut self, one: u32, other: u32) -> Option<(&mut T, &mut T)> {
        let (low, high) = (one.min(other) as usize, one.max(other) as usize);
        let (below, above) = self.blocks.as_mut_slice().split_at_mut_checked(high / BLOCK)?;
        let block = above.first_mut()?.as_mut_slice();
        let (low, high) = if low / BLOCK < high / BLOCK {
            (below.get_mut(low / BLOCK)?.as_mut_slice().get_mut(low % BLOCK)?, block.get_mut(high % BLOCK)?)
        } else {
            let (below, above) = block.split_at_mut_checked(high % BLOCK)?;
            (below.get_mut(low % BLOCK)?, above.first_mut()?)
        };
        match (low, high) {
            (Slot::Used(low), Slot::Used(high)) => Some(if one < other { (low, high) } else { (high, low) }),
            _ => None,
        }
    }

    /// All values with their numbers, in the order of the numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.blocks.iter().flat_map(|block| block.iter()).zip(0u32..).filter_map(|(slot, index)| match slot {
            Slot::Used(value) => Some((index, value)),
            Slot::Free(_) => None,
        })
    }

    /// How many values more there is room for.
    #[must_use]
    pub const fn spare(&self) -> usize {
        self.spare
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len() * BLOCK - self.spare
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of heap that the slab holds, used or not.
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.blocks.footprint() + self.blocks.iter().map(List::footprint).sum::<usize>()
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        let index = index as usize;
        self.blocks.as_mut_slice().get_mut(index / BLOCK)?.as_mut_slice().get_mut(index % BLOCK)
    }
}

/// A value on the heap with one owner: small to hand around.
#[derive(Debug)]
pub struct Owned<T>(Box<[T; 1]>);

impl<T> Owned<T> {
    /// Moves `value` to the heap.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn new(value: T) -> Result<Self, NoMemory> {
        // The stable `alloc` crate has no box that may fail; a vector of one that becomes a box is never moved again.
        let mut list = List::new();
        list.reserve_exact(1)?;
        list.push_within(value).map_err(|_| NoMemory)?;
        list.items.into_boxed_slice().try_into().map(Self).map_err(|_| NoMemory)
    }
}

impl<T> Deref for Owned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        let [value] = &*self.0;
        value
    }
}

impl<T> core::ops::DerefMut for Owned<T> {
    fn deref_mut(&mut self) -> &mut T {
        let [value] = &mut *self.0;
        value
    }
}

/// A value with several owners, freed with the last.
///
/// The stable `alloc` crate has no fallible way to make one: where its allocator has no memory, [`Shared::new`] aborts
/// instead of failing. A port whose allocator can say no returns [`NoMemory`].
#[derive(Debug)]
pub struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// Moves `value` to the heap.
    ///
    /// # Errors
    /// [`NoMemory`], as far as the allocator can say so.
    pub fn new(value: T) -> Result<Self, NoMemory> {
        inject::may_grow()?;
        Ok(Self(Arc::new(value)))
    }

    /// How many owners the value has.
    #[must_use]
    pub fn owners(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Whether both own the same value.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Clone for Shared<T> {
    /// Another owner of the same value; allocates nothing.
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A value that is reached through a shared reference, by one at a time: whoever comes while somebody else looks at it is
/// turned away, and nobody ever waits.
///
/// For what a lock guards that the library does not know: the caller holds it, so nobody comes in between. A port puts
/// its own cell here, one that its lock opens.
#[derive(Debug)]
pub struct Guarded<T>(spin::mutex::SpinMutex<T>);

impl<T> Guarded<T> {
    /// A cell with `value` in it; allocates nothing.
    pub const fn new(value: T) -> Self {
        Self(spin::mutex::SpinMutex::new(value))
    }

    /// The value; `None` where somebody looks at it now.
    pub fn open(&self) -> Option<impl core::ops::DerefMut<Target = T> + '_> {
        self.0.try_lock()
    }
}

/// Lets a test make the N-th growth fail, to see that nothing is lost by it.
pub mod inject {
    use super::NoMemory;

    #[cfg(not(feature = "inject"))]
    pub(super) const fn may_grow() -> Result<(), NoMemory> {
        Ok(())
    }

    #[cfg(feature = "inject")]
    mod armed {
        use super::NoMemory;
        use core::sync::atomic::{AtomicU64, Ordering};

        /// Growths until one fails; 0 for never.
        static COUNTDOWN: AtomicU64 = AtomicU64::new(0);

        /// Makes the `n`-th growth from now on fail, once; 0 for none. The counter belongs to the whole process, so a
        /// test that uses it lives in a binary of its own.
        pub fn fail_at(n: u64) {
            COUNTDOWN.store(n, Ordering::SeqCst);
        }

        pub(in super::super) fn may_grow() -> Result<(), NoMemory> {
            let step = |n: u64| n.checked_sub(1);
            match COUNTDOWN.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step) {
                Ok(1) => Err(NoMemory),
                _ => Ok(()),
            }
        }
    }
    #[cfg(feature = "inject")]
    pub use armed::fail_at;
    #[cfg(feature = "inject")]
    pub(super) use armed::may_grow;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_grows_only_when_told() {
        let mut list = List::new();
        assert_eq!(list.push_within(1), Err(1));
        list.reserve_exact(2).expect("memory");
        assert_eq!((list.push_within(1), list.push_within(2)), (Ok(()), Ok(())));
        assert_eq!(list.as_slice(), &[1, 2]);
    }

    #[test]
    fn a_slab_reuses_numbers_and_never_moves_values() {
        let mut slab = Slab::<u64, 4>::new();
        assert_eq!(slab.insert_within(7), Err(7));
        slab.reserve(5).expect("memory");
        let numbers: Vec<u32> = (0..5).map(|n| slab.insert_within(n * 10).expect("reserved")).collect();
        assert_eq!(slab.remove(numbers[2]), Some(20));
        assert_eq!(slab.remove(numbers[2]), None);
        assert_eq!((slab.len(), slab.get(numbers[4])), (4, Some(&40)));
        assert_eq!(slab.insert_within(99), Ok(numbers[2]));
        assert_eq!(slab.iter().map(|(_, v)| *v).sum::<u64>(), 10 + 99 + 30 + 40);
    }

    #[test]
    fn two_values_of_a_slab_are_borrowed_at_a_time() {
        let mut slab = Slab::<u64, 4>::new();
        slab.reserve(8).expect("memory");
        let numbers: Vec<u32> = (0..7).map(|n| slab.insert_within(n * 10).expect("reserved")).collect();
        let values: Vec<u64> = numbers.iter().map(|n| *slab.get(*n).expect("there")).collect();
        for (one, a) in numbers.iter().zip(&values) {
            for (other, b) in numbers.iter().zip(&values) {
                let pair = slab.pair_mut(*one, *other).map(|(one, other)| (*one, *other));
                assert_eq!(pair, (one != other).then_some((*a, *b)));
            }
        }
        slab.remove(numbers[3]);
        assert_eq!(slab.pair_mut(numbers[0], numbers[3]), None);
        assert_eq!(slab.pair_mut(numbers[0], 99), None);
    }
}
