//! `gmmu selftest` on every chip.

mod common;

use common::{Ran, fail, gmmu_with};
use gmmu::chip::CHIPS;

fn gmmu(args: &[&str]) -> Ran {
    gmmu_with(args, b"")
}

#[test]
fn all_discrete_chips_pass_and_the_others_say_why_not() {
    for chip in CHIPS {
        let ran = gmmu(&["selftest", "--json", "--chip", chip.name]);
        if chip.is_integrated() {
            assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{}", chip.name);
            assert!(ran.err.contains("integrated GPU"), "{}", ran.err);
            continue;
        }
        let report = ran.json();
        assert_eq!((ran.code, &report["chip"], &report["failed"]), (0, &chip.name.into(), &0.into()), "{ran:?}");
        let checks = report["checks"].as_array().map_or_else(|| fail("no checks"), Vec::as_slice);
        assert_eq!(report["passed"], checks.len());
        for group in ["the PRAMIN window", "address spaces", "BAR1"] {
            assert!(checks.iter().filter(|check| check["group"] == group).count() > 10, "{group}");
        }
        assert!(checks.iter().all(|check| check["passed"] == true && check["expected"] == check["seen"]));
    }
}

#[test]
fn memory_of_any_size_will_do_from_5_mib_on() {
    for (vram, code) in
        [("0", 2), ("1M", 2), ("3M", 2), ("4M", 2), ("5M", 0), ("6M", 0), ("24G", 0), ("4097K", 2), ("1T", 2)]
    {
        let ran = gmmu(&["selftest", "--vram", vram]);
        assert_eq!(ran.code, code, "{vram}: {ran:?}");
    }
    assert!(gmmu(&["selftest", "--vram", "3M"]).err.contains("the self-tests need 5M"));
}
