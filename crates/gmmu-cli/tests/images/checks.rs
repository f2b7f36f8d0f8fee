//! `check`: every rule finds what it is for, and nothing where all is well.

use std::collections::BTreeSet;

use serde_json::json;

use super::made::{BIG, PDE0, PDE1, PDE2, ROOT, SMALL, link, page, space};
use super::*;

fn check(image: &Image, options: &[&str]) -> Ran {
    let file = image.file();
    gmmu(&[&["check", "--file", file.path(), "--root", "0x1000", "--json"], options].concat())
}

fn rules(ran: &Ran) -> BTreeSet<String> {
    let report = ran.json();
    report["findings"].as_array().unwrap().iter().map(|one| one["rule"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn sound_tables_have_no_findings() {
    let ran = check(&space(0x1_0000), &["--mmu", "v3"]);
    assert_eq!((ran.code, rules(&ran)), (0, BTreeSet::new()));
    for (name, mmu) in REAL {
        let ran = real(name, mmu, &["check", "--json", "--deny", "note"]);
        assert_eq!((ran.code, rules(&ran)), (0, BTreeSet::new()), "{name}");
    }
}

#[test]
fn each_rule_finds_its_fault_and_no_other() {
    let run = |start: usize| (0..16).map(move |n| (start + n * 8, page(0x40_0000 + (n as u64) * 4096)));
    let cases: [(&str, Vec<(usize, u64)>); 19] = [
        ("GM001", vec![(SMALL + 8, u64::MAX)]),
        ("GM001", vec![(SMALL + 8, 0x2b_ad00_06f9)]),
        ("GM002", vec![(SMALL + 8, 0x20)]),
        ("GM003", vec![(SMALL + 8, page(0x10_1000) | 1 << 55)]),
        ("GM004", vec![(PDE1 + 8, link(0x4000_0000))]),
        ("GM005", vec![(PDE0 + 16, page(0x10_0000))]),
        ("GM006", vec![(PDE1, link(0x5000) | 0x100)]),
        ("GM007", vec![(PDE1 + 8, link(0x1000))]),
        ("GM008", vec![(PDE1 + 8, link(0x5000))]),
        ("GM009", vec![(SMALL + 8, page(0x6000))]),
        ("GM010", vec![(ROOT + 16, 5)]),
        ("GM011", vec![(PDE1 + 8, link(0x8000))]),
        ("GM012", vec![(SMALL + 8, page(0x10_0000) | 1 << 3)]),
        ("GM013", vec![(SMALL + 16 * 8, page(0x30_0000))]),
        ("GM014", run(SMALL + 32 * 8).collect()),
        ("GM015", vec![(SMALL + 8, 0x10_1801)]),
        ("GM016", vec![(PDE1 + 8, 0x9000 | 2 << 1)]),
        ("GM017", vec![(BIG + 24, 0x18), (SMALL + 48 * 8, page(0x30_0000))]),
        ("GM018", vec![(PDE2 + 8, page(0))]),
    ];
    let notes = ["GM011", "GM014", "GM016", "GM017"];
    for (rule, words) in cases {
        let image = words.iter().fold(space(0x1_0000), |image, &(at, word)| image.word(at, word));
        // On this chip there is no page of 256G.
        let ran = check(&image, &["--chip", "gh100"]);
        assert_eq!(rules(&ran), BTreeSet::from([rule.to_owned()]), "{}", ran.out);
        let code = u8::from(!notes.contains(&rule));
        assert_eq!(ran.code, code, "{rule}");
        assert_eq!(check(&image, &["--chip", "gh100", "--deny", "note"]).code, 1, "{rule}");
        assert_eq!(check(&image, &["--chip", "gh100", "--deny", rule]).code, 1, "{rule}");
        let allowed = check(&image, &["--chip", "gh100", "--allow", rule]);
        assert_eq!((allowed.code, rules(&allowed)), (0, BTreeSet::new()), "{rule}");
    }
}

#[test]
fn the_page_of_rules_says_what_explain_says() {
    let page = include_str!("../../../../docs/rules.md");
    let rules: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(rules.len(), 18);
    for heading in rules {
        let rule = heading.split(' ').next().unwrap();
        let said = gmmu(&["check", "--explain", rule, "--json"]).json();
        let severity = said["severity"].as_str().unwrap();
        assert_eq!(heading, format!("{rule} {} ({severity})", said["name"].as_str().unwrap()));
        for part in ["means", "todo"] {
            assert!(page.contains(said[part].as_str().unwrap()), "{rule} {part}");
        }
    }
}

#[test]
fn pages_are_compared_with_the_memory_that_there_is() {
    let image = space(0x1_0000);
    assert_eq!(check(&image, &["--mmu", "v3", "--vram", "4M"]).code, 0);
    let ran = check(&image, &["--mmu", "v3", "--vram", "2M"]);
    let report = ran.json();
    assert_eq!((ran.code, &report["findings"][0]["rule"]), (1, &json!("GM004")));
    assert_eq!(report["findings"][0]["va"], json!("0x000000010000"));
    assert_eq!(report["findings"][0]["entry"], json!("vram:0x000000007008"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the words, every command that looks at the structure ends, and in order.
    #[test]
    fn noise_is_survived(
        words in prop::collection::vec((0_usize..16 * 512, prop_oneof![
            any::<u64>(), (0_u64..16).prop_map(|page| page << 12 | 2), (0_u64..16).prop_map(|page| page << 8 | 2),
            (0_u64..32).prop_map(|at| at << 12 | 0x601), 0_u64..64,
        ]), 0..600),
        v2: bool,
    ) {
        let image = words.iter().fold(space(0x1_0000), |image, (at, word)| image.word(at * 8, *word));
        let file = image.file();
        let mmu = if v2 { "v2" } else { "v3" };
        for command in ["check", "stats"] {
            let ran = gmmu(&[command, "--file", file.path(), "--root", "0x1000", "--mmu", mmu, "--json"]);
            prop_assert!(ran.code <= 1, "{command}: {}", ran.err);
            ran.json();
        }
        let side = format!("{}@0x1000", file.path());
        let same = gmmu(&["diff", &side, &side, "--mmu", mmu, "--json", "--tables"]).json();
        prop_assert_eq!(&same["changes"], &json!([]));
        prop_assert_eq!(&same["tables"], &json!([]));
    }
}
