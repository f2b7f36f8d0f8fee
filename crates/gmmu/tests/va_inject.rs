//! P18: every growth of the records fails once, and nothing changes. A binary of its own: the counter belongs to the
//! process.

use gmmu::storage::inject::fail_at;
use gmmu::storage::NoMemory;
use gmmu::va::{InsertError, SplitError, VaSpace};

const PAGE: u64 = 4096;

fn filled(count: u64) -> VaSpace<u64> {
    let mut space = VaSpace::new(0..1 << 57).expect("limits");
    for at in 0..count {
        space.reserve(1).expect("memory");
        let at = at * 7919 % 10_007;
        space.insert(3 * at * PAGE..(3 * at + 2) * PAGE, at).expect("free");
    }
    space
}

fn state(space: &VaSpace<u64>) -> Vec<(std::ops::Range<u64>, u64)> {
    space.check().expect("sound");
    space.iter().map(|(range, value)| (range, *value)).collect()
}

fn a_failed_reserve_changes_nothing_and_can_be_repeated() {
    for live in [0, 1, 16, 17, 200, 5000] {
        for extra in [1, 40, 3000] {
            let mut failures = 0;
            for n in 1.. {
                let mut space = filled(live);
                let before = state(&space);
                fail_at(n);
                let result = space.reserve(extra);
                fail_at(0);
                assert_eq!(state(&space), before);
                if result.is_ok() {
                    break;
                }
                assert_eq!(result, Err(NoMemory));
                failures += 1;
                // No promise was made, so none is broken.
                assert_eq!(space.insert(1 << 50..(1 << 50) + PAGE, 1), Err((InsertError::NoRoom, 1)));
                if live > 0 {
                    assert_eq!(space.split(PAGE, |_, _| 0), Err(SplitError::NoRoom));
                }
                assert_eq!(state(&space), before);
                space.reserve(extra).expect("memory");
                for at in 0..extra as u64 {
                    let start = (1 << 50) + at * PAGE;
                    space.insert(start..start + PAGE, at).expect("room was reserved");
                }
                space.check().expect("sound");
            }
            println!("{live} live, {extra} more: {failures} failures");
        }
    }
}

fn a_failed_window_changes_nothing() {
    for n in 1..10 {
        let mut space = VaSpace::<()>::new(0..1 << 57).expect("limits");
        space.exclude(10 * PAGE..20 * PAGE).expect("memory");
        let mut results = Vec::new();
        for at in 2..10u64 {
            let before: Vec<_> = space.excluded().collect();
            fail_at(n);
            let result = if at % 2 == 0 {
                space.exclude(at * 10 * PAGE..(at * 10 + 5) * PAGE)
            } else {
                space.include((at * 10 - 9) * PAGE..(at * 10 - 8) * PAGE)
            };
            fail_at(0);
            if result.is_err() {
                assert_eq!(space.excluded().collect::<Vec<_>>(), before);
            }
            results.push(result.is_err());
        }
        assert!(n > 1 || results.contains(&true));
    }
}

/// One test for both: the countdown belongs to the process, and tests of one binary run side by side.
#[test]
fn failing_memory_changes_nothing() {
    a_failed_reserve_changes_nothing_and_can_be_repeated();
    a_failed_window_changes_nothing();
}
