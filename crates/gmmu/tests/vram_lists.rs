//! What the allocators of other drivers are tested for, where it concerns physical memory: NVIDIA's UVM range allocator,
//! and the Linux `drm_mm`. Theirs have a granularity of one byte, ours of 4 KiB; sizes are scaled.

use gmmu::addr::VramAddr;
use gmmu::vram::{AllocError, Extent, Place, Request, State, Vram};

const PAGE: u64 = 4096;

fn memory(base: u64, chunks: u64) -> Vram {
    Vram::new(&[VramAddr::new(base)..VramAddr::new(base + chunks * PAGE)]).expect("memory")
}

fn take(vram: &mut Vram, bytes: u64, align: u64) -> Result<Extent, AllocError> {
    Ok(vram.alloc_contiguous(&Request::new(bytes).align(align).build()?)?.extent())
}

fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn uvm_basic_sizes() {
    let size = 1024 * PAGE;
    let mut vram = memory(0, 1024);
    let all = take(&mut vram, size, PAGE).expect("exactly all");
    vram.free(all, State::Dirty).expect("live");
    assert!(take(&mut vram, size + PAGE, PAGE).is_err());
    assert!(take(&mut vram, u64::MAX, PAGE).is_err());
    assert!(take(&mut vram, u64::MAX - 4095, PAGE).is_err());
    assert!(take(&mut vram, u64::MAX - 4095, 4 * PAGE).is_err());
}

#[test]
fn uvm_quarters_in_any_order() {
    let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]];
    let mut vram = memory(0, 1024);
    for order in orders {
        let quarters: Vec<Extent> = (0..4).map(|_| take(&mut vram, 256 * PAGE, PAGE).expect("a quarter")).collect();
        assert!(take(&mut vram, PAGE, PAGE).is_err());
        order.iter().for_each(|&index: &usize| vram.free(quarters[index], State::Dirty).expect("live"));
        assert_eq!(vram.stats().runs, 1);
    }
}

#[test]
fn uvm_alignment_of_half() {
    let mut vram = memory(0, 1024);
    for _ in 0..2 {
        take(&mut vram, PAGE, 512 * PAGE).expect("two places are aligned");
    }
    assert!(take(&mut vram, PAGE, 512 * PAGE).is_err());
    assert_eq!(vram.free_bytes(), 1022 * PAGE);
}

#[test]
fn uvm_memory_at_the_end_of_all_addresses() {
    let base = u64::MAX / PAGE * PAGE - 64 * PAGE;
    let mut vram = memory(base, 64);
    assert!(take(&mut vram, PAGE, 1 << 63).is_err());
    let page = take(&mut vram, PAGE, 32 * PAGE).expect("an aligned page");
    assert!(page.start().is_aligned(32 * PAGE) && page.start().raw() >= base);
    let rest: u64 = (0..63).map(|_| take(&mut vram, PAGE, 1).expect("a page").bytes()).sum();
    assert_eq!((rest, vram.free_bytes()), (63 * PAGE, 0));
}

#[test]
fn uvm_random() {
    for seed in 1..20u64 {
        println!("seed {seed}");
        let (mut vram, mut state, mut live, mut free) = (memory(0, 4096), seed, Vec::new(), 4096 * PAGE);
        for _ in 0..2000 {
            if xorshift(&mut state) % 2 == 0 {
                let bytes = (1 + xorshift(&mut state) % 200) * PAGE;
                if let Ok(extent) = take(&mut vram, bytes, PAGE << (xorshift(&mut state) % 8)) {
                    free -= bytes;
                    live.push(extent);
                }
            } else if !live.is_empty() {
                let index = xorshift(&mut state) % live.len() as u64;
                let extent: Extent = live.swap_remove(usize::try_from(index).expect("small"));
                vram.free(extent, State::Dirty).expect("live");
                // What was just freed can be had again, at any alignment of its own.
                live.push(take(&mut vram, extent.bytes(), 1).expect("it was free a moment ago"));
                vram.free(live.pop().expect("just pushed"), State::Dirty).expect("live");
                free += extent.bytes();
            }
            assert_eq!(vram.free_bytes(), free);
        }
        while take(&mut vram, PAGE, 1).is_ok() {
            free -= PAGE;
        }
        assert_eq!(free, 0, "single pages fill every gap");
    }
}

/// `drm_mm` init: one hole as large as the memory, nothing used.
#[test]
fn drm_mm_init() {
    let vram = memory(1 << 40, 1000);
    let stats = vram.stats();
    assert_eq!((stats.runs, stats.largest, stats.free, stats.total), (1, 1000 * PAGE, 1000 * PAGE, 1000 * PAGE));
    vram.check().expect("invariants");
}

/// `drm_mm` align32 and align64: every power of two can be placed.
#[test]
fn drm_mm_align() {
    for shift in 0..64 {
        let align = 1u64 << shift;
        let base = align.max(PAGE) - PAGE;
        let mut vram = memory(base, 3);
        let got = take(&mut vram, PAGE, align).expect("the second chunk is aligned");
        assert!(got.start().is_aligned(align), "{align:#x} {got}");
    }
}

/// `drm_mm` lowest and highest, bottomup and topdown: nodes come in the order of their addresses.
#[test]
fn drm_mm_lowest_and_highest() {
    for (place, step) in [(Place::Low, 1), (Place::High, -1)] {
        let mut vram = memory(7 * PAGE, 600);
        let request = Request::new(3 * PAGE).place(place).contiguous().build().expect("valid");
        let starts: Vec<u64> = (0..200).map(|_| vram.alloc_contiguous(&request).expect("room").start().raw()).collect();
        assert!(starts.windows(2).all(|pair| pair[0].checked_add_signed(step * 3 * 4096) == Some(pair[1])));
        assert!(vram.alloc_contiguous(&request).is_err());
    }
}

/// `drm_mm` reserve: at exact addresses; what overlaps or leaves the memory is refused.
#[test]
fn drm_mm_reserve() {
    let mut vram = memory(16 * PAGE, 64);
    let range = |lo: u64, hi: u64| VramAddr::new(lo * PAGE)..VramAddr::new(hi * PAGE);
    let held = vram.reserve(range(20, 30)).expect("free");
    for (lo, hi) in [(20, 30), (19, 21), (29, 31), (15, 17), (79, 81), (0, 1), (90, 91), (5, 5), (30, 20)] {
        assert!(vram.reserve(range(lo, hi)).is_err(), "{lo}..{hi}");
    }
    vram.free(held, State::Dirty).expect("live");
    let all = vram.reserve(range(16, 80)).expect("everything");
    assert_eq!(all.bytes(), vram.total_bytes());
}

/// `drm_mm` insert, replace and insert_range: filling, freeing at random and filling again, inside a range only.
#[test]
fn drm_mm_insert_in_range() {
    let (mut vram, mut state) = (memory(0, 2048), 9u64);
    let (lo, hi) = (100 * PAGE, 1900 * PAGE);
    for bytes in [PAGE, 2 * PAGE, 3 * PAGE, 64 * PAGE] {
        let within = VramAddr::new(lo)..VramAddr::new(hi);
        let request = Request::new(bytes).within(within).contiguous().build().expect("valid");
        let mut live: Vec<Extent> =
            std::iter::from_fn(|| vram.alloc_contiguous(&request).ok().map(Extent::from)).collect();
        assert_eq!(live.len() as u64, (hi - lo) / bytes);
        for _ in 0..1000 {
            let index = xorshift(&mut state) % live.len() as u64;
            let slot = &mut live[usize::try_from(index).expect("small")];
            vram.free(*slot, State::Dirty).expect("live");
            let again = vram.alloc_contiguous(&request).expect("the hole");
            assert_eq!(again.start(), slot.start(), "the only hole");
            *slot = again.into();
        }
        live.iter().for_each(|&extent| vram.free(extent, State::Dirty).expect("live"));
    }
}

/// `drm_mm` frag bounds how much slower a fragmented memory is; here by words, not by time.
#[test]
fn drm_mm_frag() {
    let mut vram = memory(0, 1 << 18);
    let page = Request::new(PAGE).build().expect("valid");
    let live: Vec<Extent> = (0..1 << 18).map(|_| vram.alloc_contiguous(&page).expect("room").into()).collect();
    let words = |vram: &mut Vram, operation: &mut dyn FnMut(&mut Vram)| {
        let before = vram.words_touched();
        operation(vram);
        vram.words_touched() - before
    };
    let holes: Vec<Extent> = live.iter().copied().step_by(2).collect();
    words(&mut vram, &mut |vram| holes.iter().for_each(|&hole| vram.free(hole, State::Dirty).expect("live")));
    let fragmented = words(&mut vram, &mut |vram| {
        for _ in 0..holes.len() {
            vram.alloc_contiguous(&page).expect("a hole");
        }
    });
    assert!(fragmented / holes.len() as u64 <= 12, "{fragmented} words for {} pages", holes.len());
}
