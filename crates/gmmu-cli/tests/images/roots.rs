//! `roots`: true top tables are found, and nothing else is.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A file in the folder for them, gone with the value.
struct Made(String);

impl Made {
    fn new(name: &str) -> Self {
        Self(format!("{}/{name}-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id()))
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_only_root_of_real_images_is_found_without_being_told_the_format() {
    for (name, mmu) in REAL {
        let ran = gmmu(&["roots", "--file", &data(&format!("{name}.img")), "--json"]);
        let roots = ran.json()["roots"].clone();
        assert_eq!((ran.code, roots.as_array().unwrap().len()), (0, 1), "{roots}");
        assert_eq!((&roots[0]["root"], &roots[0]["mmu"]), (&json!("vram:0x000000010000"), &json!(mmu)));
        assert_eq!((&roots[0]["score"], &roots[0]["broken"]), (&json!(90), &json!(0)));
    }
}

#[test]
fn inner_tables_reach_the_line_for_no_format() {
    for (name, mmu) in REAL {
        let tree = real(name, mmu, &["tree", "--json"]).json();
        for table in tree["tables"].as_array().unwrap().iter().skip(1) {
            let at = table["at"].as_str().unwrap();
            if hex(&json!(at.trim_start_matches("vram:"))) % 4096 != 0 {
                continue;
            }
            let ran = gmmu(&["roots", "--file", &data(&format!("{name}.img")), "--root", at, "--json"]);
            assert_eq!(ran.code, 1, "{}", ran.out);
        }
    }
}

#[test]
fn a_root_in_16_gib_is_found_in_10_seconds_and_its_holes_are_not_read() {
    let image = Made::new("roots-16g");
    let made = gmmu(&["map", "--size", "64M", "--vram", "16G", "--keep", "--vram-out", &image.0, "--json"]);
    assert_eq!(made.code, 0, "{}", made.err);
    assert_eq!(std::fs::metadata(&image.0).unwrap().len(), 16 << 30);
    let began = Instant::now();
    let ran = gmmu(&["roots", "--file", &image.0, "--json"]);
    let took = began.elapsed();
    let roots = ran.json();
    println!("{took:?}, {} bytes read", roots["scanned"]);
    assert_eq!(roots["roots"][0]["root"], made.json()["root"]);
    assert_eq!(roots["roots"].as_array().unwrap().len(), 1, "{roots}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(roots["scanned"].as_u64().unwrap() < 1 << 30, "{roots}");
}

#[test]
fn an_instance_block_names_its_root() {
    let bytes = std::fs::read(data("nv-v3-12.img")).unwrap();
    let block = bytes.len().next_multiple_of(4096);
    let mut image = bytes;
    image.resize(block + 4096, 0);
    image[block + 0x200..block + 0x208].copy_from_slice(&0x1_0c00_u64.to_le_bytes());
    let image = Scratch::new(&image);
    let found = gmmu(&["roots", "--file", image.path(), "--json"]).json();
    let named = json!([format!("vram:{block:#014x}")]);
    assert_eq!((&found["roots"][0]["inst"], &found["roots"][0]["score"]), (&named, &json!(100)));
    let asked = gmmu(&["roots", "--file", image.path(), "--inst", &format!("{block:#x}"), "--json"]).json();
    assert_eq!(asked["roots"][0]["root"], json!("vram:0x000000010000"));
}

#[test]
fn a_slice_of_the_memory_is_searched_at_its_base() {
    let bytes = std::fs::read(data("nv-v2-12.img")).unwrap();
    let slice = Scratch::new(&bytes[0x1_0000..]);
    let found = gmmu(&["roots", "--file", slice.path(), "--base", "0x10000", "--json"]).json();
    assert_eq!(found["roots"][0]["root"], json!("vram:0x000000010000"));
    let elsewhere = gmmu(&["roots", "--file", slice.path(), "--base", "1T"]);
    assert_eq!(elsewhere.code, 1, "{}", elsewhere.out);
    assert!(elsewhere.err.contains("--base"), "{}", elsewhere.err);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Words as tables have them, in no order: links to pages of the image, small numbers, leaves, noise.
    #[test]
    fn garbage_stays_below_the_line(
        words in prop::collection::vec((0_usize..32 * 512, prop_oneof![
            any::<u64>(), 0_u64..64, (0_u64..32).prop_map(|page| page << 12 | 2), (0_u64..32).prop_map(|page| page << 8 | 2),
            (0_u64..32).prop_map(|page| page << 12 | 1), Just(u64::MAX), Just(0xbadf_5040),
        ]), 0..2000)
    ) {
        let image = words.iter().fold(Image::new(32 * 4096), |image, (at, word)| image.word(at * 8, *word));
        let image = image.file();
        let ran = gmmu(&["roots", "--file", image.path(), "--json"]);
        prop_assert_eq!(ran.code, 1, "{}", ran.out);
    }

    /// The same with a true tree among it: it is found, and nothing else.
    #[test]
    fn a_root_is_found_among_garbage(
        words in prop::collection::vec((0_usize..16 * 512, any::<u64>()), 0..4000)
    ) {
        let mut bytes = std::fs::read(data("nv-v3-12.img")).unwrap();
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        // The first 64 KiB hold no table.
        for (at, word) in words {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        let image = Scratch::new(&bytes);
        let roots = gmmu(&["roots", "--file", image.path(), "--json"]).json()["roots"].clone();
        prop_assert_eq!(roots.as_array().map(Vec::len), Some(1), "{}", roots);
        prop_assert_eq!(&roots[0]["root"], "vram:0x000000010000");
    }
}
