//! `encode` and `decode` are each other's way back.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::gmmu_with;
use proptest::prelude::*;
use serde_json::{Value, json};

fn run(args: &[&str]) -> Value {
    let ran = gmmu_with(&[args, &["--json"]].concat(), b"");
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
    ran.json()
}

fn decode(mmu: &str, entry: &str, encoded: &Value) -> Value {
    let raw: Vec<_> = encoded["raw"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    run(&[&["decode", "--mmu", mmu, "--entry", entry][..], &raw].concat())
}

/// Memory that both formats reach, with its notation.
fn memory() -> impl Strategy<Value = String> {
    let space = prop_oneof![Just("vram"), Just("sys-coh"), Just("sys-ncoh"), Just("peer0"), Just("peer7")];
    (space, 0u64..1 << 25).prop_map(|(space, frame)| format!("{space}:{:#014x}", frame << 12))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn leaves(
        v3: bool,
        huge in 0usize..3,
        to in memory(),
        kind in 0u8..16,
        flags in proptest::sample::subsequence(vec!["noatomic", "priv", "ro", "vol"], 0..=4),
    ) {
        let mmu = if v3 { "v3" } else { "v2" };
        let kind_text = kind.to_string();
        let flags_text = flags.join(",");
        let mut args = vec!["encode", "--mmu", mmu, "--to", &to, "--kind", &kind_text];
        if !flags.is_empty() {
            args.extend(["--flags", &flags_text]);
        }
        let shape: &[&str] = [&["--entry", "pte"][..], &["--entry", "huge"], &["--entry", "huge", "--page", "512M"]][huge];
        args.extend(shape);
        let encoded = run(&args);
        prop_assert_eq!(encoded["raw"].as_array().unwrap().len(), if huge == 1 { 2 } else { 1 });
        let decoded = decode(mmu, shape[1], &encoded);
        prop_assert_eq!(&decoded["raw"], &encoded["raw"]);
        prop_assert_eq!(&decoded["is"], &json!("leaf"));
        prop_assert_eq!(&decoded["to"], &json!(to));
        prop_assert_eq!(&decoded["kind"], &json!(kind));
        prop_assert_eq!(&decoded["flags"], &json!(flags));
    }

    #[test]
    fn dual_entries(v3: bool, big in proptest::option::of(0u64..1 << 29), small in proptest::option::of(0u64..1 << 25)) {
        let mmu = if v3 { "v3" } else { "v2" };
        let half = |at: Option<u64>| at.map_or_else(|| "none".to_owned(), |at| format!("vram:{at:#014x}"));
        let (big, small) = (half(big.map(|at| at << 8)), half(small.map(|at| at << 12)));
        let encoded = run(&["encode", "--mmu", mmu, "--entry", "dual", "--big", &big, "--small", &small]);
        let decoded = decode(mmu, "dual", &encoded);
        let table = |text: &str| if text == "none" { Value::Null } else { json!(text) };
        let (first, second) = match (big.as_str(), small.as_str()) {
            ("none", small) => (table(small), Value::Null),
            (big, small) => (table(big), table(small)),
        };
        prop_assert_eq!((&decoded["to"], &decoded["small"]), (&first, &second));
    }
}

#[test]
fn states_without_memory() {
    for mmu in ["v2", "v3"] {
        for (entry, to, is) in [
            ("pte", "sparse", "sparse"),
            ("pte", "invalid", "absent"),
            ("pte", "no4k", "no4k"),
            ("huge", "sparse", "sparse"),
            ("huge", "invalid", "absent"),
        ] {
            let encoded = run(&["encode", "--mmu", mmu, "--entry", entry, "--to", to]);
            let decoded = decode(mmu, entry, &encoded);
            assert_eq!((&decoded["is"], &decoded["to"], &decoded["kind"]), (&json!(is), &Value::Null, &Value::Null));
        }
    }
}
