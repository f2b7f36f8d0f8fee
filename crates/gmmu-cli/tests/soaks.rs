//! A short soak on every kind of chip.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::gmmu_with;

#[test]
fn a_soak_ends_clean_on_every_kind_of_chip() {
    for (chip, seed) in [("gh100", "1"), ("tu102", "2"), ("ga100", "3"), ("gb100", "4")] {
        let ran = gmmu_with(&["--json", "run", "--soak", "5", "--jobs", "3000", "--chip", chip, "--seed", seed], b"");
        assert_eq!(ran.code, 0, "{ran:?}");
        let report = ran.json();
        let count = |name: &str| report[name].as_u64().unwrap();
        // All of it happened.
        for (name, least) in [("executed", 2000), ("cancelled", 50), ("waited", 50), ("faults", 100), ("looks", 50_000)]
        {
            assert!(count(name) >= least, "{chip}: {name} {}", count(name));
        }
        assert_eq!((report["findings"].as_array().unwrap().len(), report["broken"].as_array().unwrap().len()), (0, 0));
    }
}

#[test]
fn a_soak_takes_no_script_and_says_so() {
    let ran = gmmu_with(&["run", "x.gmmu", "--soak", "1"], b"");
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--soak"), "{}", ran.err);
}
