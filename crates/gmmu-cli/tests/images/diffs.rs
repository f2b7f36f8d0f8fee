//! `diff` and `stats`, against naive counts.

use serde_json::json;

use super::made::{BIG, SMALL, page, space};
use super::*;

/// What a 4 KiB piece of the address space says: memory, page size, flags.
type Cell = Option<(String, String, String)>;

fn cells(ranges: impl Iterator<Item = Value>) -> Vec<Cell> {
    let mut cells = vec![None; 512];
    for range in ranges {
        let (va, bytes) = (hex(&range["va"]), range["bytes"].as_u64().unwrap());
        for n in 0..bytes / 4096 {
            let to = match range["to"].as_str() {
                Some(to) => format!("{:#x}", hex(&json!(to.split(':').nth(1).unwrap())) + n * 4096),
                None => "sparse".to_owned(),
            };
            let cell = &mut cells[(va / 4096 + n) as usize];
            assert_eq!(*cell, None, "told twice");
            *cell = Some((to, range["page"].to_string(), range["flags"].to_string()));
        }
    }
    cells
}

/// A 4K entry: nothing, two memories, read-only, sparse.
fn small() -> impl Strategy<Value = Vec<(usize, u8)>> {
    prop::collection::vec((0_usize..96, 0_u8..5), 0..80)
}

fn image_of(smalls: &[(usize, u8)], bigs: &[(usize, u8)]) -> Image {
    let word = |n: usize, what: u8, shift: usize| match what {
        0 => 0,
        1 => page(0x100_0000 + ((n as u64) << shift)),
        2 => page(0x200_0000 + ((n as u64) << shift)),
        3 => page(0x100_0000 + ((n as u64) << shift)) | 1 << 5,
        _ => 8,
    };
    let image = smalls.iter().fold(space(0x8000), |image, &(n, what)| image.word(SMALL + n * 8, word(n, what, 12)));
    bigs.iter().fold(image, |image, &(n, what)| image.word(BIG + n * 8, word(n, what, 16)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The changes are exactly where the dumps differ, page by page, and say what is on each side.
    #[test]
    fn changes_are_the_difference_of_the_dumps(
        one in small(), other in small(),
        big_one in prop::collection::vec((0_usize..6, 0_u8..5), 0..6),
        big_other in prop::collection::vec((0_usize..6, 0_u8..5), 0..6),
    ) {
        let sides = [image_of(&one, &big_one).file(), image_of(&other, &big_other).file()];
        let dumps = sides.each_ref().map(|side| {
            let dump = gmmu(&["dump", "--file", side.path(), "--root", "0x1000", "--mmu", "v3", "--json"]).json();
            cells(dump["ranges"].as_array().unwrap().clone().into_iter())
        });
        let names = sides.each_ref().map(|side| format!("{}@0x1000", side.path()));
        let ran = gmmu(&["diff", &names[0], &names[1], "--mmu", "v3", "--json"]);
        let diff = ran.json();
        let changes = diff["changes"].as_array().unwrap();
        let told = ["from", "to"].map(|side| {
            cells(changes.iter().filter(|change| change.get(side).is_some()).map(|change| change[side].clone()))
        });
        let mut sums = [0_u64; 4];
        for n in 0..512 {
            let (was, is) = (&dumps[0][n], &dumps[1][n]);
            let expected = if was == is { (&None, &None) } else { (was, is) };
            prop_assert_eq!((&told[0][n], &told[1][n]), expected, "page {}", n);
            match (was, is) {
                (None, None) => {}
                (was, is) if was == is => sums[0] += 4096,
                (None, _) => sums[1] += 4096,
                (_, None) => sums[2] += 4096,
                _ => sums[3] += 4096,
            }
        }
        let said = ["same", "added", "removed", "changed"].map(|name| diff["bytes"][name].as_u64().unwrap());
        prop_assert_eq!(said, sums);
        prop_assert_eq!(ran.code, u8::from(!changes.is_empty()));
    }
}

#[test]
fn a_snapshot_is_the_same_as_its_source() {
    for (name, mmu) in REAL {
        let snapshot = format!("{}/{name}-{}.gmmu", env!("CARGO_TARGET_TMPDIR"), std::process::id());
        assert_eq!(real(name, mmu, &["capture", "-o", &snapshot]).code, 0);
        let image = format!("{}@0x10000", data(&format!("{name}.img")));
        let ran = gmmu(&["diff", &image, &snapshot, "--mmu", mmu, "--tables", "--json"]);
        assert_eq!((ran.code, &ran.json()["changes"]), (0, &json!([])), "{}", ran.err);
        std::fs::remove_file(snapshot).unwrap();
    }
}

#[test]
fn stats_count_what_dump_and_tree_show() {
    for (name, mmu) in REAL {
        let stats = real(name, mmu, &["stats", "--json"]).json();
        let sum = |sparse: bool| -> u64 {
            let ranges = ranges_of(name);
            let wanted = ranges.iter().filter(|range| range.get("sparse").is_some() == sparse);
            wanted.map(|range| range["bytes"].as_u64().unwrap()).sum()
        };
        assert_eq!((stats["mapped"].as_u64(), stats["sparse"].as_u64()), (Some(sum(false)), Some(sum(true))));
        let tree = real(name, mmu, &["tree", "--json"]).json();
        let tables = tree["tables"].as_array().unwrap();
        let used: u64 = tables.iter().map(|table| table["used"].as_u64().unwrap()).sum();
        let of = |key: &str| -> u64 {
            stats["tables"].as_array().unwrap().iter().map(|level| level[key].as_u64().unwrap()).sum()
        };
        assert_eq!((of("tables"), of("used")), (tables.len() as u64, used));
        assert_eq!(Some(of("bytes")), stats["table_bytes"].as_u64());
    }
}

#[test]
fn whole_runs_of_small_pages_are_candidates() {
    let image = (0..512).fold(space(0x8000), |image, n| image.word(SMALL + n * 8, page(0x40_0000 + (n as u64) * 4096)));
    let file = image.word(BIG + 8, 0).file();
    let stats = gmmu(&["stats", "--file", file.path(), "--root", "0x1000", "--mmu", "v3", "--json"]).json();
    let found = &stats["promotion"];
    assert_eq!((&found["entries_saved"], &found["table_bytes_saved"]), (&json!(511), &json!(4096)));
    assert_eq!((&found["largest"][0]["from"], &found["largest"][0]["to"]), (&json!("4K"), &json!("2M")));
}
