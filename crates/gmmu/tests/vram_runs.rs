//! Runs of all lengths in a memory large enough for a run tree of four levels, against a map of the free runs: what is
//! kept of leaves and nodes stays exact however takes and gives follow each other.

use gmmu::addr::{VramAddr, PAGE_BYTES};
use gmmu::vram::{Extent, Place, Request, State, Vram};
use std::collections::BTreeMap;

/// Not a multiple of 8, 64 or 512 leaves: the last node of every level has children missing.
const CHUNKS: u64 = 700 * 512;

struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    /// A length in chunks: single chunks, short runs, about a leaf, exact leaves, many leaves.
    fn len(&mut self) -> u64 {
        match self.below(8) {
            0 => 1,
            1 | 2 => 1 + self.below(64),
            3 | 4 => 1 + self.below(512),
            5 => 257 + self.below(800),
            6 => 512 * (1 + self.below(20)),
            _ => 1 + self.below(20_000),
        }
    }
}

/// The free runs: start to length, in chunks.
struct Model(BTreeMap<u64, u64>);

impl Model {
    fn lowest(&self, len: u64) -> Option<u64> {
        self.0.iter().find(|(_, &free)| free >= len).map(|(&start, _)| start)
    }

    fn take(&mut self, start: u64, len: u64) {
        let (&at, &free) = self.0.range(..=start).next_back().expect("a free run");
        assert!(start + len <= at + free, "{start}+{len} is not free");
        self.0.remove(&at);
        if start > at {
            self.0.insert(at, start - at);
        }
        if at + free > start + len {
            self.0.insert(start + len, at + free - start - len);
        }
    }

    fn give(&mut self, mut start: u64, mut len: u64) {
        if let Some((&at, &free)) = self.0.range(..start).next_back() {
            if at + free == start {
                self.0.remove(&at);
                (start, len) = (at, len + free);
            }
        }
        if let Some(free) = self.0.remove(&(start + len)) {
            len += free;
        }
        self.0.insert(start, len);
    }
}

fn chunks(extent: Extent) -> (u64, u64) {
    (extent.start().raw() / PAGE_BYTES, extent.bytes() / PAGE_BYTES)
}

fn history(seed: u64, steps: u64, place: Place) {
    let mut vram = Vram::new(&[VramAddr::new(0)..VramAddr::new(CHUNKS * PAGE_BYTES)]).expect("memory");
    let (mut model, mut random, mut live) = (Model(BTreeMap::from([(0, CHUNKS)])), Random(seed), Vec::<Extent>::new());
    let mut fill = 0;
    for step in 0..steps {
        // Phases that fill the memory and phases that empty it.
        if step % 500 == 0 {
            fill = 2 + random.below(7);
        }
        if random.below(10) < fill || live.is_empty() {
            let len = random.len();
            let request = Request::new(len * PAGE_BYTES).place(place).contiguous().build().expect("valid");
            let want = model.lowest(len);
            match vram.alloc_contiguous(&request) {
                Ok(got) => {
                    let (start, got_len) = chunks(got.extent());
                    assert_eq!(got_len, len, "seed {seed}, step {step}");
                    assert!(
                        place != Place::Low || want == Some(start),
                        "seed {seed}, step {step}: {start}, not {want:?}"
                    );
                    model.take(start, len);
                    live.push(got.extent());
                }
                Err(error) => assert_eq!(want, None, "seed {seed}, step {step}: {error}"),
            }
        } else {
            let index = usize::try_from(random.below(live.len() as u64)).expect("small");
            let extent = live.swap_remove(index);
            let state = if random.below(4) == 0 { State::Cleared } else { State::Dirty };
            vram.free(extent, state).expect("live");
            let (start, len) = chunks(extent);
            model.give(start, len);
        }
        if step % 8 == 0 {
            vram.check().expect("sound");
        }
    }
    vram.check().expect("sound");
    let free: u64 = model.0.values().sum();
    assert_eq!(vram.free_bytes(), free * PAGE_BYTES);
    assert_eq!(vram.stats().runs, model.0.len() as u64);
}

#[test]
fn the_lowest_run_is_found_in_a_deep_tree() {
    (1..=4).for_each(|seed| history(seed, 10_000, Place::Low));
}

#[test]
fn some_run_is_found_wherever_there_is_one() {
    (5..=8).for_each(|seed| history(seed, 10_000, Place::Best));
}

#[test]
fn the_highest_search_sees_the_same_runs() {
    (9..=10).for_each(|seed| history(seed, 10_000, Place::High));
}
