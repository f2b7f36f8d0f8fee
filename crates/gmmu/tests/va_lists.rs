//! What the test lists of drm_mm and of UVM's range allocator ask for, as far as it has a counterpart here, and extremes.
//!
//! In words of our own, after what those tests are about. Without counterpart: drm_mm's eviction scan and colours, and
//! its best fit; ranges here are found by address, for address spaces are never nearly full.

#![allow(clippy::cast_possible_truncation, reason = "small spaces; tests run on 64 bits")]

mod va_model;

use gmmu::va::{InsertError, InvalidVa, VaError, VaRequest, VaSpace};
use va_model::{seeds, Rng, PAGE};

const TOP: u64 = !(PAGE - 1);

fn space(limits: std::ops::Range<u64>) -> VaSpace<()> {
    let mut space = VaSpace::new(limits).expect("limits are pages");
    space.reserve(1024).expect("memory");
    space
}

/// Finds and inserts.
fn take(space: &mut VaSpace<()>, request: &VaRequest, bytes: u64) -> Result<u64, VaError> {
    let va = space.find(request)?.raw();
    space.reserve(1).expect("memory");
    space.insert(va..va + bytes, ()).map_err(|(why, ())| why).expect("it was free");
    assert_eq!(space.check(), Ok(()));
    Ok(va)
}

fn page(request: VaRequest) -> VaRequest {
    request.align(PAGE).allow_null()
}

#[test]
fn drm_mm_init_an_empty_space_is_one_hole() {
    let limits = 16 * PAGE..4096 * PAGE;
    let mut space = space(limits.clone());
    assert!(space.is_empty() && space.iter().next().is_none());
    let all = limits.end - limits.start;
    assert_eq!(take(&mut space, &page(VaRequest::new(all)), all), Ok(limits.start));
    assert_eq!(space.find(&page(VaRequest::new(PAGE))), Err(VaError::NoSpace { largest: 0 }));
    assert_eq!(space.remove(limits.start), Some((limits.clone(), ())));
    assert_eq!(space.find(&page(VaRequest::new(all + PAGE))), Err(VaError::NoSpace { largest: all }));
}

#[test]
fn drm_mm_debug_what_overlaps_is_refused_and_named() {
    let mut space = space(0..4096 * PAGE);
    space.insert(100 * PAGE..200 * PAGE, ()).expect("free");
    let with = 100 * PAGE..200 * PAGE;
    for (lo, hi) in [(100, 200), (99, 101), (199, 201), (150, 151), (0, 4096)] {
        let refused = space.insert(lo * PAGE..hi * PAGE, ());
        assert_eq!(refused, Err((InsertError::Overlap { with: with.clone() }, ())));
    }
    space.insert(99 * PAGE..100 * PAGE, ()).expect("touching is not overlapping");
    space.insert(200 * PAGE..201 * PAGE, ()).expect("touching is not overlapping");
}

#[test]
fn drm_mm_align32_and_align64_every_power_of_two_can_be_placed() {
    for bit in 0..64 {
        let mut space = space(PAGE..TOP);
        let align = 1u64 << bit;
        let va = take(&mut space, &VaRequest::new(PAGE).align(align).allow_null(), PAGE).expect("there is one");
        assert_eq!(va, align.max(PAGE));
        let va = space.find(&VaRequest::new(PAGE).align(align).high()).map(|va| va.raw());
        match va {
            Ok(va) => assert!(va % align == 0 && va > align.max(PAGE)),
            // Only one multiple lies in the space.
            Err(error) => assert!(bit == 63 && matches!(error, VaError::NoSpace { .. })),
        }
    }
}

#[test]
fn drm_mm_lowest_and_bottomup_fill_from_below() {
    let mut space = space(0..256 * PAGE);
    for at in 0..256 {
        assert_eq!(take(&mut space, &page(VaRequest::new(PAGE)), PAGE), Ok(at * PAGE));
    }
    space.remove(77 * PAGE).expect("live");
    space.remove(200 * PAGE).expect("live");
    assert_eq!(take(&mut space, &page(VaRequest::new(PAGE)), PAGE), Ok(77 * PAGE));
}

#[test]
fn drm_mm_highest_and_topdown_fill_from_above() {
    let mut space = space(0..256 * PAGE);
    for at in (0..256).rev() {
        assert_eq!(take(&mut space, &page(VaRequest::new(PAGE)).high(), PAGE), Ok(at * PAGE));
    }
    space.remove(77 * PAGE).expect("live");
    space.remove(200 * PAGE).expect("live");
    assert_eq!(take(&mut space, &page(VaRequest::new(PAGE)).high(), PAGE), Ok(200 * PAGE));
}

#[test]
fn drm_mm_reserve_every_address_in_any_order() {
    for seed in seeds(4) {
        let mut rng = Rng::new(seed);
        let mut order: Vec<u64> = (0..512).collect();
        (1..512).rev().for_each(|at| order.swap(at as usize, rng.below(at + 1) as usize));
        let mut space = space(0..512 * PAGE);
        for at in &order {
            space.insert(at * PAGE..(at + 1) * PAGE, ()).expect("free");
            assert!(space.insert(at * PAGE..(at + 1) * PAGE, ()).is_err());
        }
        assert_eq!(space.find(&page(VaRequest::new(PAGE))), Err(VaError::NoSpace { largest: 0 }));
        for at in &order {
            space.remove(at * PAGE).expect("live");
            assert_eq!(take(&mut space, &page(VaRequest::new(PAGE)), PAGE), Ok(at * PAGE), "the only hole");
        }
        assert_eq!(space.check(), Ok(()));
    }
}

#[test]
fn drm_mm_replace_keeps_the_range() {
    let mut space = VaSpace::new(0..4096 * PAGE).expect("limits");
    space.reserve(1).expect("memory");
    space.insert(PAGE..3 * PAGE, 1).expect("free");
    assert_eq!(space.replace(PAGE, 2), Ok(1));
    assert_eq!(space.replace(2 * PAGE, 3), Err(3));
    assert_eq!(space.get(2 * PAGE), Some((PAGE..3 * PAGE, &2)));
}

#[test]
fn drm_mm_insert_range_stays_inside() {
    let mut space = space(0..1024 * PAGE);
    for (lo, hi) in [(0, 1024), (100, 101), (1, 1023), (511, 513), (1000, 1024)] {
        let window = lo * PAGE..hi * PAGE;
        let whole = (hi - lo) * PAGE;
        let exact = page(VaRequest::new(whole)).within(window.clone());
        assert_eq!(space.find(&exact).map(|va| va.raw()), Ok(window.start));
        assert_eq!(space.find(&exact.clone().high()).map(|va| va.raw()), Ok(window.start));
        let more = page(VaRequest::new(whole + PAGE)).within(window.clone());
        assert_eq!(space.find(&more), Err(VaError::NoSpace { largest: whole }));
        for _ in lo..hi {
            let va = take(&mut space, &page(VaRequest::new(PAGE)).within(window.clone()), PAGE).expect("free");
            assert!(window.contains(&va));
        }
        assert!(space.find(&page(VaRequest::new(PAGE)).within(window.clone())).is_err());
        (lo..hi).for_each(|at| assert!(space.remove(at * PAGE).is_some()));
    }
}

#[test]
fn uvm_basic_size_is_exact() {
    let size = 1u64 << 30;
    let mut space = space(size..2 * size);
    let one = |bytes| VaRequest::new(bytes).align(PAGE);
    assert_eq!(space.find(&one(size + PAGE)), Err(VaError::NoSpace { largest: size }));
    assert_eq!(space.find(&one(TOP)), Err(VaError::NoSpace { largest: size }));
    assert_eq!(space.find(&one(u64::MAX)), Err(VaError::InvalidRequest(InvalidVa::Length)));
    assert_eq!(take(&mut space, &one(size), size), Ok(size));
    assert_eq!(space.find(&one(PAGE)), Err(VaError::NoSpace { largest: 0 }));
}

#[test]
fn uvm_basic_four_quarters_freed_in_any_order() {
    let quarter = 1u64 << 28;
    for order in 0..24usize {
        let mut space = space(quarter..5 * quarter);
        let mut starts: Vec<u64> =
            (0..4).map(|_| take(&mut space, &VaRequest::new(quarter), quarter).expect("a quarter")).collect();
        assert!(space.find(&VaRequest::new(PAGE)).is_err());
        let mut code = order;
        while !starts.is_empty() {
            let at = code % starts.len();
            code /= starts.len();
            assert!(space.remove(starts.remove(at)).is_some());
        }
        assert_eq!(take(&mut space, &VaRequest::new(4 * quarter).align(PAGE), 4 * quarter), Ok(quarter));
    }
}

#[test]
fn uvm_basic_alignment_of_half_the_space_fits_twice() {
    let half = 1u64 << 29;
    let mut space = space(0..2 * half);
    let request = VaRequest::new(PAGE).align(half).allow_null();
    assert_eq!(take(&mut space, &request, PAGE), Ok(0));
    assert_eq!(take(&mut space, &request, PAGE), Ok(half));
    assert_eq!(space.find(&request), Err(VaError::NoSpace { largest: half - PAGE }));
}

#[test]
fn uvm_basic_near_the_end_of_64_bits() {
    // The arena ends with the last page that a half-open range can name.
    let mut space = space(TOP - 3 * PAGE..TOP);
    for align in [1u64 << 63, 1 << 40, 1 << 15] {
        let none = space.find(&VaRequest::new(PAGE).align(align));
        assert_eq!(none, Err(VaError::NoSpace { largest: 3 * PAGE }), "align {align:#x}");
    }
    let odd = VaRequest::new(TOP - PAGE).align(4);
    assert_eq!(space.find(&odd), Err(VaError::NoSpace { largest: 3 * PAGE }), "no sum overflows");
    for left in (0..3).rev() {
        take(&mut space, &VaRequest::new(PAGE).high(), PAGE).expect("free");
        let full = space.find(&VaRequest::new(4 * PAGE)).expect_err("too long");
        assert_eq!(full, VaError::NoSpace { largest: left * PAGE });
    }
    assert!(space.find(&VaRequest::new(PAGE).within(TOP..u64::MAX)).is_err());
}

#[test]
fn uvm_basic_what_alignment_leaves_can_be_used() {
    let mut space = space(0..4 * PAGE * 512);
    let big = VaRequest::new(PAGE).align(512 * PAGE).allow_null();
    let starts: Vec<u64> = (0..4).map(|_| take(&mut space, &big, PAGE).expect("four multiples")).collect();
    assert_eq!(starts, [0, 512 * PAGE, 1024 * PAGE, 1536 * PAGE]);
    for at in 0..4 {
        let rest = page(VaRequest::new(511 * PAGE));
        assert_eq!(take(&mut space, &rest, 511 * PAGE), Ok((at * 512 + 1) * PAGE));
    }
}

#[test]
fn uvm_random_what_was_freed_can_be_had_again() {
    for seed in seeds(8) {
        let mut rng = Rng::new(seed);
        let pages = 4096;
        let mut space = space(0..pages * PAGE);
        let (mut live, mut free) = (Vec::new(), pages);
        for _ in 0..3000 {
            if rng.one_in(2) || live.is_empty() {
                let length = 1 + rng.below(60);
                let align = PAGE << rng.below(6);
                let request = VaRequest::new(length * PAGE).align(align).allow_null();
                match take(&mut space, &request, length * PAGE) {
                    Ok(va) => {
                        live.push((va, length));
                        free -= length;
                    }
                    Err(_) => assert!(live.len() > 10, "an empty space has room"),
                }
            } else {
                let (va, length) = live.swap_remove(rng.below(live.len() as u64) as usize);
                space.remove(va).expect("live");
                let again = page(VaRequest::new(length * PAGE));
                assert!(space.find(&again).is_ok(), "the length that was just freed");
                assert_eq!(space.find(&again.at(va)).map(|va| va.raw()), Ok(va));
                free += length;
            }
            let taken: u64 = space.iter().map(|(range, ())| (range.end - range.start) / PAGE).sum();
            assert_eq!(taken + free, pages);
        }
        while free > 0 && space.len() < 1000 {
            take(&mut space, &page(VaRequest::new(PAGE)), PAGE).expect("pages are left");
            free -= 1;
        }
    }
}

/// P15.
#[test]
fn extremes() {
    assert!(VaSpace::<()>::new(0..u64::MAX).is_err() && VaSpace::<()>::new(1..2).is_err());
    assert!(VaSpace::<()>::new(PAGE..PAGE).is_err());
    let backwards = std::ops::Range { start: 2 * PAGE, end: PAGE };
    assert!(VaSpace::<()>::new(backwards.clone()).is_err());

    let mut space = space(0..1 << 57);
    assert_eq!(take(&mut space, &page(VaRequest::new(1 << 57)), 1 << 57), Ok(0));
    assert_eq!(space.remove(0), Some((0..1 << 57, ())));
    let huge = VaRequest::new(256 << 30).align(256 << 30);
    assert_eq!(space.find(&huge).map(|va| va.raw()), Ok(256 << 30));
    assert_eq!(space.find(&VaRequest::new(256 << 30)).map(|va| va.raw()), Ok(512 << 20), "256G only if asked for");
    assert_eq!(space.find(&VaRequest::new(1 << 57)), Err(VaError::NoSpace { largest: (1 << 57) - (2 << 20) }));
    space.insert((1 << 57) - PAGE..1 << 57, ()).expect("the last page");
    assert_eq!(space.insert((1 << 57) - PAGE..(1 << 57) + PAGE, ()).map_err(|e| e.0), Err(InsertError::OutOfLimits));
    assert_eq!(space.insert(backwards, ()).map_err(|e| e.0), Err(InsertError::Invalid(InvalidVa::Empty)));
    let huge_guard = space.insert_guarded(0..PAGE, u64::MAX, ()).map_err(|e| e.0);
    assert_eq!(huge_guard, Err(InsertError::Invalid(InvalidVa::Guard)));
    assert_eq!(space.find(&VaRequest::new(PAGE).guard(1 << 57)), Err(VaError::NoSpace { largest: 0 }));
    for va in [0, 1, (1 << 57) - 1, 1 << 57, u64::MAX] {
        assert_eq!(space.get(va).is_some(), va == (1 << 57) - 1);
        let _ = (space.next(va), space.prev(va), space.overlapping(va..u64::MAX).count());
        assert!(space.split(va, |(), _| ()).is_err() && !space.join(va, |(), ()| ()));
    }
    for window in [0..u64::MAX, u64::MAX - 1..u64::MAX, 5..5, 0..1] {
        space.exclude(window.clone()).expect("memory");
        assert_eq!(space.check(), Ok(()));
        space.include(window).expect("memory");
    }
    assert_eq!(space.excluded().next(), None);
}

#[test]
fn guards_are_kept_by_later_searches() {
    let mut space = space(0..1 << 40);
    space.insert_guarded(100 * PAGE..110 * PAGE, 3 * PAGE, ()).expect("free");
    let near = |from: u64| page(VaRequest::new(PAGE)).within(from * PAGE..1 << 40);
    assert_eq!(space.find(&near(95)).map(|va| va.raw() / PAGE), Ok(95));
    assert_eq!(space.find(&near(97)).map(|va| va.raw() / PAGE), Ok(113));
    assert_eq!(space.find(&near(97).guard(5 * PAGE)).map(|va| va.raw() / PAGE), Ok(115));
    space.insert(110 * PAGE..111 * PAGE, ()).expect("an exact range may lie in a guard gap");
    assert_eq!(space.find(&near(97)).map(|va| va.raw() / PAGE), Ok(111));
}

#[test]
fn excluded_windows_are_for_exact_ranges_only() {
    let mut space = space(0..1 << 40);
    space.exclude(4 << 20..6 << 20).expect("memory");
    space.exclude(6 << 20..8 << 20).expect("memory");
    assert_eq!((space.excluded().count(), space.excluded().next()), (1, Some(4 << 20..8 << 20)));
    let two = VaRequest::new(2 << 20);
    assert_eq!(take(&mut space, &two, 2 << 20), Ok(2 << 20));
    assert_eq!(take(&mut space, &two, 2 << 20), Ok(8 << 20));
    assert_eq!(take(&mut space, &two.clone().at(4 << 20), 2 << 20), Ok(4 << 20));
    space.include((5 << 20) + 1..7 << 20).expect("memory");
    assert_eq!(space.excluded().collect::<Vec<_>>(), [4 << 20..(5 << 20) + 1, 7 << 20..8 << 20]);
    assert_eq!(space.find(&VaRequest::new(1 << 20)).map(|va| va.raw()), Ok(6 << 20));
}
