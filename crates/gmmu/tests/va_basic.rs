//! The calls of `VaSpace`, one by one.

use gmmu::addr::GpuVa;
use gmmu::va::{InsertError, InvalidVa, SplitError, VaError, VaRequest, VaSpace};

const M: u64 = 1 << 20;

fn space() -> VaSpace<u32> {
    let mut space = VaSpace::new(0..1 << 57).expect("limits");
    space.reserve(64).expect("memory");
    space
}

#[test]
fn first_place_is_above_the_null_guard() {
    let mut space = space();
    let va = space.find(&VaRequest::new(4096)).expect("free");
    assert_eq!(va, GpuVa::new(2 * M));
    space.insert(va.raw()..va.raw() + 4096, 1).expect("free");
    assert_eq!(space.find(&VaRequest::new(4096)), Ok(GpuVa::new(2 * M + 4096)));
    assert_eq!(space.find(&VaRequest::new(2 * M)), Ok(GpuVa::new(4 * M)));
    assert_eq!(space.find(&VaRequest::new(4096).allow_null()), Ok(GpuVa::new(0)));
    assert_eq!(space.find(&VaRequest::new(4096).at(4096)), Ok(GpuVa::new(4096)));
    assert_eq!(space.find(&VaRequest::new(4096).high()), Ok(GpuVa::new((1 << 57) - 4096)));
    assert_eq!(space.find(&VaRequest::new(4096).within(0..2 * M)), Err(VaError::NoSpace { largest: 0 }));
}

#[test]
fn split_join_and_neighbours() {
    let mut space = space();
    space.insert(4 * M..8 * M, 7).expect("free");
    assert_eq!(space.split(4 * M, |_, _| 0), Err(SplitError::NotInside));
    space.split(5 * M, |lower, offset| *lower + u32::try_from(offset / M).expect("small")).expect("inside");
    let all: Vec<_> = space.iter().map(|(range, value)| (range, *value)).collect();
    assert_eq!(all, [(4 * M..5 * M, 7), (5 * M..8 * M, 8)]);
    assert_eq!(space.next(4 * M + 1), Some((5 * M..8 * M, &8)));
    assert_eq!(space.prev(5 * M), Some((4 * M..5 * M, &7)));
    assert_eq!(space.prev(4 * M), None);
    assert_eq!(space.prev(u64::MAX), Some((5 * M..8 * M, &8)));
    assert_eq!(space.insert(7 * M..9 * M, 9), Err((InsertError::Overlap { with: 5 * M..8 * M }, 9)));
    assert!(!space.join(6 * M, |_, _| ()));
    assert!(space.join(5 * M, |lower, upper| *lower += upper));
    assert_eq!(space.get(8 * M - 1), Some((4 * M..8 * M, &15)));
    assert_eq!(space.remove(5 * M), None);
    assert_eq!(space.remove(4 * M), Some((4 * M..8 * M, 15)));
}

#[test]
fn invalid_is_not_no_space() {
    let space = space();
    let invalid = |request: VaRequest| match space.find(&request) {
        Err(VaError::InvalidRequest(why)) => why,
        other => unreachable!("{other:?}"),
    };
    assert_eq!(invalid(VaRequest::new(0)), InvalidVa::Empty);
    assert_eq!(invalid(VaRequest::new(4097)), InvalidVa::Length);
    assert_eq!(invalid(VaRequest::new(4096).align(3)), InvalidVa::Alignment);
    assert_eq!(invalid(VaRequest::new(4096).align(0)), InvalidVa::Alignment);
    assert_eq!(invalid(VaRequest::new(4096).at(1)), InvalidVa::Address);
    assert_eq!(invalid(VaRequest::new(4096).within(5..5)), InvalidVa::Window);
    assert_eq!(invalid(VaRequest::new(4096).guard(u64::MAX)), InvalidVa::Guard);
    let huge = VaRequest::new(u64::MAX - 4095);
    assert_eq!(space.find(&huge), Err(VaError::NoSpace { largest: (1 << 57) - 2 * M }));
}

/// What comes in order fills leaf after leaf, and the last one may be nearly empty; it goes as it came.
#[test]
fn ranges_in_order_take_little_memory_and_the_last_ones_come_and_go() {
    const PAGE: u64 = 4096;
    let range = |n: u64| (n * 2 + 1) * PAGE..(n * 2 + 2) * PAGE;
    let mut space = VaSpace::<u64>::new(0..1 << 47).expect("limits");
    for n in 0..4096 {
        space.reserve(1).expect("memory");
        space.insert(range(n), n).expect("free");
    }
    space.check().expect("sound");
    // Where a leaf in eight were not full, they would take 55 bytes each.
    assert!(space.footprint() < 4096 * 50, "{} bytes", space.footprint());
    // Over the border between two leaves, there and back.
    for gone in [1, 2, 17, 33, 100] {
        for n in (4096 - gone..4096).rev() {
            assert_eq!(space.remove(range(n).start), Some((range(n), n)));
            space.check().expect("sound");
        }
        for n in 4096 - gone..4096 {
            space.reserve(1).expect("memory");
            space.insert(range(n), n).expect("free");
            space.check().expect("sound");
        }
    }
    for n in (0..4096).rev() {
        assert_eq!(space.remove(range(n).start), Some((range(n), n)));
    }
    space.check().expect("sound");
    assert!(space.is_empty());
}
