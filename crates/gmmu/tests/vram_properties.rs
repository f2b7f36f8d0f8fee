//! The allocator against the naive model over many random histories, and properties that need no model.

#![expect(clippy::cast_possible_truncation, reason = "a test: numbers are small")]

mod vram_model;

use gmmu::addr::{VramAddr, PAGE_BYTES};
use gmmu::vram::{Extent, Place, Request, State, Vram};
use vram_model::{run, Ask, Bytes, Pair, Seed, Source};

/// How many operations: four million, or what `GMMU_SOAK` says, in millions.
fn operations() -> usize {
    let millions = std::env::var("GMMU_SOAK").ok().and_then(|text| text.parse::<usize>().ok()).unwrap_or(4);
    millions * 1_000_000
}

fn first_seed() -> u64 {
    std::env::var("GMMU_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// P1 (no overlap, in bounds, aligned, exact), P2 (complete), P8 (a failed call changes nothing), P9 (cleared memory),
/// P13 (rebuild), P17 (wrong frees): see `vram_model`.
#[test]
fn random_histories_agree_with_the_model() {
    let (mut done, mut seed) = (0, first_seed());
    let wanted = operations();
    while done < wanted {
        // Printed only where the test fails.
        println!("GMMU_SEED={seed}");
        done += run(&mut Seed::new(seed), 4000);
        seed += 1;
    }
    println!("{done} operations");
}

/// The fuzz target's corpus, as the fuzzer would run it.
#[test]
fn the_fuzz_corpus_agrees_with_the_model() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/alloc_ops");
    let mut operations = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus is part of the repository") {
        let path = entry.expect("readable").path();
        println!("{}", path.display());
        operations += run(&mut Bytes(&std::fs::read(path).expect("readable")), usize::MAX);
    }
    assert!(operations > 1000, "{operations} operations");
}

fn at(chunk: u64) -> VramAddr {
    VramAddr::new(chunk * PAGE_BYTES)
}

fn memory(base: u64, chunks: u64) -> Vram {
    Vram::new(&[at(base)..at(base + chunks)]).expect("memory")
}

/// The free chunks, one by one, as absolute chunk numbers less `base`.
fn free_chunks(vram: &mut Vram, base: u64, chunks: u64) -> Vec<u64> {
    let probe = |vram: &mut Vram, chunk: u64| match vram.reserve(at(base + chunk)..at(base + chunk + 1)) {
        Ok(extent) => {
            let state = if extent.is_cleared() { State::Cleared } else { State::Dirty };
            vram.free(extent, state).expect("just reserved");
            true
        }
        Err(_) => false,
    };
    (0..chunks).filter(|&chunk| probe(vram, chunk)).collect()
}

/// A random history on `vram` whose requests do not depend on where the memory is; returns what is live.
fn history(vram: &mut Vram, seed: u64, steps: usize, place: Place) -> Vec<Extent> {
    let (mut source, mut live) = (Seed::new(seed), Vec::<Extent>::new());
    for _ in 0..steps {
        if source.next(5) < 3 || live.is_empty() {
            let request =
                Request::new((1 + source.next(40)) * PAGE_BYTES).place(place).contiguous().build().expect("valid");
            live.extend(vram.alloc_contiguous(&request).map(Extent::from));
        } else {
            let index = source.next(live.len() as u64) as usize;
            vram.free(live.swap_remove(index), State::Dirty).expect("live");
        }
    }
    live
}

/// P3: taking and giving back leaves nothing behind.
#[test]
fn alloc_then_free_restores_the_state() {
    for seed in 1..30 {
        let mut vram = memory(5, 3000);
        history(&mut vram, seed, 300, Place::Best);
        let before = (free_chunks(&mut vram, 5, 3000), vram.stats());
        let mut source = Seed::new(seed);
        let mut pieces = [Extent::default(); 32];
        for _ in 0..50 {
            let ask = Request::new((1 + source.next(900)) * PAGE_BYTES).align(PAGE_BYTES << source.next(6));
            if let Ok(got) = vram.alloc(&ask.build().expect("valid"), &mut pieces) {
                got.iter().for_each(|&piece| vram.free(piece, State::Dirty).expect("live"));
            }
            assert_eq!(before, (free_chunks(&mut vram, 5, 3000), vram.stats()), "seed {seed}");
        }
        vram.check().expect("invariants");
    }
}

/// P4: the order of frees does not matter.
#[test]
fn free_order_does_not_matter() {
    for seed in 1..30 {
        let [mut one, mut other] = [memory(0, 2000), memory(0, 2000)];
        let mut live = history(&mut one, seed, 300, Place::Best);
        assert_eq!(live, history(&mut other, seed, 300, Place::Best), "the same calls, the same answers");
        live.truncate(live.len() / 2);
        live.iter().for_each(|&extent| one.free(extent, State::Dirty).expect("live"));
        live.iter().rev().for_each(|&extent| other.free(extent, State::Dirty).expect("live"));
        assert_eq!(one.stats(), other.stats());
        assert_eq!(free_chunks(&mut one, 0, 2000), free_chunks(&mut other, 0, 2000), "seed {seed}");
    }
}

/// P5: the same memory elsewhere, at a base as aligned as anything that is asked for, gives the same offsets.
#[test]
fn shifting_the_base_shifts_the_answers() {
    for seed in 1..20 {
        for place in [Place::Best, Place::Low, Place::High] {
            let base = 1 << 40;
            let here = history(&mut memory(0, 2500), seed, 400, place);
            let there = history(&mut memory(base, 2500), seed, 400, place);
            let back = |e: &Extent| Extent::new(VramAddr::new(e.start().raw() - base * PAGE_BYTES), e.bytes());
            assert_eq!(here, there.iter().map(back).collect::<Vec<_>>(), "seed {seed}");
        }
    }
}

/// P6, P7: what succeeds goes on to succeed in a wider range, for a smaller size, for a weaker alignment.
#[test]
fn easier_requests_succeed_too() {
    for seed in 1..40 {
        let mut source = Seed::new(seed);
        let mut vram = memory(77, 2000);
        history(&mut vram, seed, 200, Place::Best);
        let mut works = |size: u64, align: u32, lo: u64, hi: u64| {
            let request =
                Request::new(size * PAGE_BYTES).align(PAGE_BYTES << align).within(at(lo)..at(hi)).contiguous();
            let got = request.build().ok().and_then(|request| vram.alloc_contiguous(&request).ok());
            got.inspect(|&got| vram.free(got.into(), State::Dirty).expect("live")).is_some()
        };
        for _ in 0..200 {
            let (size, align) = (1 + source.next(300), source.next(9) as u32);
            let (lo, hi) = (77 + source.next(1000), 1077 + source.next(1000));
            if works(size, align, lo, hi) {
                assert!(works(size, align, lo - source.next(lo), hi + source.next(500)));
                assert!(works(1 + source.next(size), align, lo, hi));
                assert!(works(size, source.next(u64::from(align) + 1) as u32, lo, hi));
            }
        }
    }
}

/// P10: from the top, everything is as from the bottom in a mirror.
#[test]
fn high_is_low_in_a_mirror() {
    for seed in 1..40 {
        let chunks = 1 + Seed::new(seed).next(3000);
        let low = history(&mut memory(0, chunks), seed, 400, Place::Low);
        let high = history(&mut memory(0, chunks), seed, 400, Place::High);
        let mirror =
            |e: &Extent| Extent::new(VramAddr::new(chunks * PAGE_BYTES - e.start().raw() - e.bytes()), e.bytes());
        assert_eq!(low, high.iter().map(mirror).collect::<Vec<_>>(), "seed {seed}");
    }
}

/// P11: two memories never do better than both as one.
#[test]
fn one_memory_is_no_worse_than_its_halves() {
    for seed in 1..40 {
        let mut source = Seed::new(seed);
        let (first, second) = (1 + source.next(1000), 1 + source.next(1000));
        let (mut one, mut other, mut both) = (memory(0, first), memory(first, second), memory(0, first + second));
        let mut pieces = [Extent::default(); 64];
        for _ in 0..300 {
            let request = Request::new((1 + source.next(60)) * PAGE_BYTES).build().expect("valid");
            let apart = one.alloc(&request, &mut pieces).is_ok() || other.alloc(&request, &mut pieces).is_ok();
            assert!(!apart || both.alloc(&request, &mut pieces).is_ok(), "seed {seed}");
        }
    }
}

/// P12: neighbours that are freed are one run.
#[test]
fn freed_neighbours_are_one_run() {
    for seed in 1..40 {
        let mut vram = memory(3, 3000);
        let mut live = history(&mut vram, seed, 300, Place::Low);
        live.sort_unstable();
        let Some(pair) = live.windows(2).find(|pair| pair[0].end() == Some(pair[1].start())) else { continue };
        let (start, bytes) = (pair[0].start(), pair[0].bytes() + pair[1].bytes());
        pair.iter().for_each(|&extent| vram.free(extent, State::Dirty).expect("live"));
        let sum = Request::new(bytes).within(start..VramAddr::new(start.raw() + bytes)).build().expect("valid");
        assert_eq!(vram.alloc_contiguous(&sum).expect("both").start(), start);
    }
}

/// P14, the ceiling: single chunks touch 12 words on average at most, and 16 at worst, whatever happened before.
#[test]
fn single_chunks_touch_few_words() {
    let mut vram = memory(0, 1 << 18);
    let request = Request::new(PAGE_BYTES).build().expect("valid");
    let mut live = Vec::new();
    let (mut source, mut operations, mut worst) = (Seed::new(1), 0u64, 0);
    let first = vram.words_touched();
    while operations < 1_000_000 {
        let before = vram.words_touched();
        if operations < 1 << 18 || (source.next(2) == 0 && !live.is_empty()) {
            live.push(vram.alloc_contiguous(&request).expect("room"));
        } else {
            let index = source.next(live.len() as u64) as usize;
            vram.free(live.swap_remove(index).into(), State::Dirty).expect("live");
        }
        worst = worst.max(vram.words_touched() - before);
        operations += 1;
        if live.len() == 1 << 18 {
            let index = source.next(1 << 18) as usize;
            vram.free(live.swap_remove(index).into(), State::Dirty).expect("live");
            operations += 1;
        }
    }
    let mean = (vram.words_touched() - first) as f64 / operations as f64;
    assert!(mean <= 12.0 && worst <= 16, "{mean} words on average, {worst} at worst");
}

/// P15: sizes and bases at the edges of what can be said.
#[test]
fn extreme_numbers_are_answered() {
    let top = u64::MAX / PAGE_BYTES;
    for (base, chunks) in [(0, 1), (top - 1, 1), (top - 700, 700), (1 << 51, 1), (0, 1792), (511, 2)] {
        let region = base..base + chunks;
        let mut pair = Pair::new(std::slice::from_ref(&region));
        for size in [1, 2, chunks, chunks + 1, 1 << 31, 1 << 32, (1 << 52) - 1] {
            for align in [1, 2, 512, 1 << 31, 1 << 51] {
                for place in [Place::Best, Place::Low, Place::High, Place::Near(VramAddr::new(u64::MAX))] {
                    let ask = Ask { align, place, ..Ask::of(size) };
                    if pair.alloc(&ask, 8) {
                        let last = pair.live.pop().expect("one piece");
                        pair.free(last, State::Cleared);
                    }
                }
            }
        }
        for request in [Request::new(u64::MAX), Request::new(0), Request::new(PAGE_BYTES).align(0)] {
            assert!(request.build().is_err());
        }
        let wild = Extent::new(VramAddr::new(u64::MAX - 4095), u64::MAX - 4095);
        assert!(pair.vram.free(wild, State::Dirty).is_err());
        assert!(pair.vram.reserve(VramAddr::new(0)..VramAddr::new(u64::MAX)).is_err() || chunks == top);
        pair.compare();
    }
}

/// Looking again in advance changes nothing but what later searches cost.
#[test]
fn settling_makes_the_next_search_cheap() {
    let build = || {
        let mut vram = memory(0, 1 << 17);
        let live = (0..1 << 17).map(|chunk| vram.reserve(at(chunk)..at(chunk + 1)).expect("free"));
        let live: Vec<Extent> = live.collect();
        live.iter().step_by(3).for_each(|&extent| vram.free(extent, State::Dirty).expect("live"));
        vram
    };
    let two = Request::new(2 * PAGE_BYTES).contiguous().build().expect("valid");
    let cost = |vram: &mut Vram| {
        let before = vram.words_touched();
        vram.alloc_contiguous(&two).expect_err("only single chunks are free");
        vram.words_touched() - before
    };
    let (mut lazy, mut settled) = (build(), build());
    assert_eq!(settled.settle(64), 3, "256 leaves in groups of 64");
    assert_eq!(settled.settle(u32::MAX), 0);
    let (first, next) = (cost(&mut lazy), cost(&mut lazy));
    assert!(first > 2000 && next < 200, "{first} {next}");
    assert!(cost(&mut settled) < 200);
}
