//! `walk`, `dump` and `tree` on images: real ones, and ones that are out to harm.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod checks;
#[path = "../common/mod.rs"]
mod common;
mod diffs;
mod faults;
mod image;
mod made;
mod pictures;
mod roots;

use std::time::{Duration, Instant};

use common::{Ran, gmmu_with};
use image::{Image, Scratch, data};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Runs `gmmu` with `args`.
fn gmmu(args: &[&str]) -> Ran {
    gmmu_with(args, b"")
}

/// Text without its line breaks.
fn said(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The images that NVIDIA's own walker wrote, and the mappings that it says they hold.
const REAL: [(&str, &str); 2] = [("nv-v2-12", "v2"), ("nv-v3-12", "v3")];

fn real(name: &str, mmu: &str, command: &[&str]) -> Ran {
    let image = data(&format!("{name}.img"));
    gmmu(&[command, &["--file", &image, "--root", "0x10000", "--mmu", mmu]].concat())
}

fn ranges_of(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(data(&format!("{name}.json"))).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    value["ranges"].as_array().unwrap().clone()
}

fn hex(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

#[test]
fn dump_gives_exactly_what_nvidias_walker_mapped() {
    for (name, mmu) in REAL {
        let ran = real(name, mmu, &["dump", "--json"]);
        let dump = ran.json();
        assert_eq!(ran.code, 0);
        assert_eq!(dump["ranges"].as_array().unwrap(), &ranges_of(name), "{name}");
        assert_eq!((&dump["bad"], &dump["truncated"], &dump["schema"]), (&json!([]), &json!(false), &json!(1)));
        assert_eq!((&dump["mmu"], &dump["root"]), (&json!(mmu), &json!("vram:0x000000010000")));
        let keys = ["\"schema\"", "\"mmu\"", "\"root\"", "\"ranges\"", "\"bad\"", "\"truncated\""];
        assert!(keys.map(|key| ran.out.find(key).unwrap()).is_sorted(), "the order of the keys is fixed");
    }
}

#[test]
fn the_wrong_format_is_noted() {
    for ((name, mmu), wrong) in REAL.into_iter().zip(["v3", "v2"]) {
        for command in [&["walk", "0x1000"][..], &["dump"], &["tree"], &["stats"], &["check"]] {
            let note = format!("note: this looks like a {mmu} table, and is read as {wrong}: try --mmu {mmu}\n");
            assert!(real(name, wrong, command).err.contains(&note), "{command:?}");
            assert!(!real(name, mmu, command).err.contains("looks like"), "{command:?}");
        }
    }
    // Nothing speaks for either where there is nothing.
    let empty = Image::new(0x2000).file();
    let ran = gmmu(&["dump", "--file", empty.path(), "--mmu", "v2", "--root", "0"]);
    assert!(!ran.err.contains("looks like"), "{}", ran.err);
}

#[test]
fn dump_of_single_entries_is_the_same_space() {
    for (name, mmu) in REAL {
        let all = real(name, mmu, &["dump", "--json", "--merge", "none"]).json();
        let sum = |ranges: &[Value]| ranges.iter().map(|range| range["bytes"].as_u64().unwrap()).sum::<u64>();
        assert_eq!(sum(all["ranges"].as_array().unwrap()), sum(&ranges_of(name)));
    }
}

#[test]
fn walk_agrees_with_dump_at_both_ends_of_every_range() {
    for (name, mmu) in REAL {
        for range in ranges_of(name) {
            let bytes = range["bytes"].as_u64().unwrap();
            for offset in [0, bytes - 1] {
                let va = format!("{:#x}", hex(&range["va"]) + offset);
                let ran = real(name, mmu, &["walk", &va, "--json"]);
                let walk = ran.json();
                assert_eq!(ran.code, 0, "{va}");
                if range["sparse"] == json!(true) {
                    assert_eq!((&walk["result"], &walk["to"]), (&json!("sparse"), &Value::Null), "{va}");
                    continue;
                }
                let (space, start) = range["to"].as_str().unwrap().split_once(':').unwrap();
                let to = format!("{space}:{:#014x}", hex(&json!(start)) + offset);
                assert_eq!((&walk["result"], &walk["to"]), (&json!("mapped"), &json!(to)), "{va}");
                for key in ["page", "kind", "flags"] {
                    assert_eq!(walk[key], range[key], "{va} {key}");
                }
            }
        }
    }
}

#[test]
fn a_miss_shows_the_hole_between_its_neighbours() {
    for (name, mmu) in REAL {
        let ranges = ranges_of(name);
        for pair in ranges.windows(2) {
            let [below, above] = pair else { continue };
            let start = hex(&below["va"]) + below["bytes"].as_u64().unwrap();
            let end = hex(&above["va"]);
            if start == end {
                continue;
            }
            for va in [start, end - 1] {
                let ran = real(name, mmu, &["walk", &format!("{va:#x}"), "--json"]);
                let walk = ran.json();
                assert_eq!((ran.code, &walk["result"]), (1, &json!("unmapped")), "{va:#x}");
                assert_eq!(hex(&walk["hole"]["va"]), start, "{va:#x}");
                assert_eq!(walk["hole"]["bytes"].as_u64().unwrap(), end - start, "{va:#x}");
                assert_eq!(walk["above"]["va"], above["va"], "{va:#x}");
                assert_eq!(hex(&walk["below"]["va"]) + walk["below"]["bytes"].as_u64().unwrap(), start, "{va:#x}");
            }
        }
    }
}

#[test]
fn tree_reaches_every_table_once() {
    for (name, mmu) in REAL {
        let ran = real(name, mmu, &["tree", "--json"]);
        let tree = ran.json();
        let tables = tree["tables"].as_array().unwrap();
        assert_eq!((ran.code, &tree["bad"]), (0, &json!([])));
        let mut places: Vec<_> = tables.iter().map(|table| table["at"].as_str().unwrap()).collect();
        places.sort_unstable();
        let all = places.len();
        places.dedup();
        assert_eq!(all, places.len(), "no table of these images is shared");
        let leaves = tables.first().unwrap()["leaves"].as_u64().unwrap();
        let dump = real(name, mmu, &["dump", "--json", "--merge", "none"]).json();
        assert_eq!(leaves, dump["ranges"].as_array().unwrap().len() as u64);
    }
}

#[test]
fn a_range_of_walks_folds_what_repeats() {
    let first = &ranges_of("nv-v3-12")[1];
    let range = format!("{}+16K", first["va"].as_str().unwrap());
    let folded = real("nv-v3-12", "v3", &["walk", &range, "--json"]).json();
    let steps = |walks: &Value| -> Vec<usize> {
        walks["walks"].as_array().unwrap().iter().map(|walk| walk["steps"].as_array().unwrap().len()).collect()
    };
    assert_eq!(steps(&folded), [6, 1, 1, 1]);
    let whole = real("nv-v3-12", "v3", &["walk", &range, "--json", "--no-fold"]).json();
    assert_eq!(steps(&whole), [6, 6, 6, 6]);
    let cut = real("nv-v3-12", "v3", &["walk", &range, "--json", "--limit", "2"]);
    assert_eq!((cut.code, &cut.json()["truncated"]), (1, &json!(true)));
}

/// A v3 directory entry for the table at `at` in video memory.
fn link(at: u64) -> u64 {
    at | 1 << 1
}

/// The same on v2.
fn link_v2(at: u64) -> u64 {
    at >> 4 | 1 << 1
}

/// A v3 image whose five directories lie one after the other from 0x1000, one entry each, and whose last entry has
/// the words `low` and `high`.
fn down_to_pd0(low: u64, high: u64) -> Image {
    let chain = (1..5).fold(Image::new(0x10000), |image, n| image.word(n * 0x1000, link((n as u64 + 1) * 0x1000)));
    chain.word(0x5000, low).word(0x5008, high)
}

fn on(image: &Image, args: &[&str]) -> Ran {
    let file = image.file();
    gmmu(&[args, &["--file", file.path(), "--mmu", "v3", "--root", "0x1000"]].concat())
}

#[test]
fn every_bad_entry_is_said() {
    for (low, high, level, why) in [
        (link(0x20_0000), 0, "PDE0", "outside the image"),
        (link(0x4000) | 3 << 1, 0, "PDE0", "system memory"),
        (u64::MAX, u64::MAX, "PDE0", "when nothing answers"),
        (0xbadf_5040_badf_5040, 0xbadf_5040_badf_5040, "PDE0", "when nothing answers"),
        (0x7 << 3, 0, "PDE0", "PCF_BIG"),
        (link(0x6000), 0, "PTE", "PCF"),
    ] {
        let image = down_to_pd0(low, high).word(0x6008, 0x1f << 3);
        let ran = on(&image, &["dump", "--json"]);
        let dump = ran.json();
        assert_eq!((ran.code, &dump["truncated"]), (0, &json!(false)));
        let bad = dump["bad"].as_array().unwrap();
        assert_eq!(bad.len(), 1, "{low:#x}: {dump}");
        assert_eq!(bad[0]["level"], json!(level), "{low:#x}");
        assert!(bad[0]["why"].as_str().unwrap().contains(why), "{low:#x}: {}", bad[0]["why"]);
        if level == "PDE0" {
            assert_eq!(bad[0]["entry"], json!("vram:0x000000005000"));
            assert_eq!(bad[0]["raw"], json!([format!("{low:#018x}"), format!("{high:#018x}")]));
            let walk = on(&image, &["walk", "0", "--json"]);
            assert_eq!((walk.code, &walk.json()["result"]), (1, &json!("bad")), "{low:#x}");
        }
        assert_eq!(on(&image, &["tree", "--json"]).json()["bad"], dump["bad"], "{low:#x}");
    }
}

#[test]
fn a_walk_into_system_memory_says_so() {
    let ran = on(&down_to_pd0(0, link(0x6000) | 2 << 1), &["walk", "0x1000"]);
    assert_eq!(ran.code, 1);
    assert!(
        said(&ran.out).contains("bad: the entry is in system memory, at sys-ncoh:0x000000006008, not in this image"),
        "{}",
        ran.out
    );
}

/// Runs what must end soon on `image`, and nothing but with 0, 1 or 3.
fn survives(image: &Scratch, mmu: &str, root: &str) {
    let started = Instant::now();
    for command in [&["dump", "--limit", "20000"][..], &["tree"], &["walk", "0x123456789000"], &["walk", "0+1T"]] {
        for json in [&[][..], &["--json"]] {
            let ran = gmmu(&[command, json, &["--file", image.path(), "--mmu", mmu, "--root", root]].concat());
            assert!(matches!(ran.code, 0 | 1 | 3), "{command:?}: {} {}", ran.code, ran.err);
            if !json.is_empty() && ran.code != 3 {
                let _: Value = ran.json();
            }
        }
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{mmu} {root}: {:?}", started.elapsed());
}

#[test]
fn tables_that_point_at_themselves_and_each_other_end() {
    let entry = |mmu: &str, at: u64| if mmu == "v3" { link(at) } else { link_v2(at) };
    for mmu in ["v2", "v3"] {
        // One table with 512 pointers to itself, and nothing else; then two that point at each other.
        for other in [0x1000, 0x2000] {
            let mut image = Image::new(0x4000);
            for n in 0..512 {
                image = image.word(0x1000 + n * 8, entry(mmu, other)).word(0x2000 + n * 8, entry(mmu, 0x1000));
            }
            survives(&image.file(), mmu, "0x1000");
        }
        // The same with a page in it: a space without end, in which every path leads to a mapping.
        let mut image = Image::new(0x4000);
        for n in 0..512 {
            image = image.word(0x1000 + n * 8, if n % 2 == 0 { entry(mmu, 0x1000) } else { 0x601 });
        }
        survives(&image.file(), mmu, "0x1000");
        // And with sparse entries, which all merge into one range.
        let mut image = Image::new(0x4000);
        for n in 0..512 {
            image = image.word(0x1000 + n * 8, if n < 256 { entry(mmu, 0x1000) } else { 0x8 });
        }
        survives(&image.file(), mmu, "0x1000");
    }
}

#[test]
fn images_of_one_word_end() {
    for word in [0, u64::MAX, 0xbadf_5040_badf_5040, 0xbad0_0200_bad0_0200, 1, 3, 8, 0x18, 0x20] {
        let image = Scratch::new(&word.to_le_bytes().repeat(0x2000));
        for mmu in ["v2", "v3"] {
            survives(&image, mmu, "0x1000");
        }
    }
}

#[test]
fn a_shared_table_is_read_once_and_shown_twice() {
    let image = down_to_pd0(0, link(0x6000)).word(0x5018, link(0x6000)).word(0x6000, 0x601);
    let tree = on(&image, &["tree", "--json"]).json();
    let again: Vec<_> = tree["tables"].as_array().unwrap().iter().map(|table| &table["again"]).collect();
    assert_eq!(again, [false, false, false, false, false, false, true]);
    let dump = on(&image, &["dump", "--json"]).json();
    assert_eq!(dump["ranges"].as_array().unwrap().len(), 2);
}

#[test]
fn the_base_of_an_image_is_respected() {
    let bytes = std::fs::read(data("nv-v2-12.img")).unwrap();
    let cut = Scratch::new(&bytes[0x10000..]);
    let args = ["--file", cut.path(), "--base", "0x10000", "--mmu", "v2"];
    let dump = gmmu(&[&["dump", "--json", "--root", "0x10000"][..], &args].concat());
    assert_eq!(dump.json()["ranges"].as_array().unwrap(), &ranges_of("nv-v2-12"));
    let outside = gmmu(&[&["dump", "--root", "0x1000"][..], &args].concat());
    assert_eq!(outside.code, 3);
    assert!(outside.err.contains("vram:0x000000001000 is outside the image"), "{}", outside.err);
}

#[test]
fn an_instance_block_names_the_root() {
    for (target, code) in [(0, 0), (1, 3), (2, 3)] {
        let image = down_to_pd0(0, link(0x6000)).word(0x6000, 0x601).word(0x7200, 0x1000 | 3 << 10 | target);
        let file = image.file();
        let ran = gmmu(&["dump", "--json", "--file", file.path(), "--mmu", "v3", "--inst", "0x7000"]);
        assert_eq!(ran.code, code, "{target}: {}", ran.err);
        if code == 0 {
            assert_eq!(ran.json()["ranges"].as_array().unwrap().len(), 1);
        }
    }
}

#[test]
fn addresses_with_their_sign_are_those_of_the_upper_half() {
    let walk = |va| real("nv-v3-12", "v3", &["walk", va, "--json"]).json();
    assert_eq!(walk("0xff00000000390000"), walk("0x100000000390000"));
    assert_eq!(walk("0xff00000000390000")["result"], json!("mapped"));
    assert_eq!(real("nv-v3-12", "v3", &["walk", "0xfe00000000390000"]).code, 2);
    assert_eq!(real("nv-v2-12", "v2", &["walk", "0xff00000000390000"]).code, 2);
}

#[test]
fn a_chip_without_512m_pages_refuses_them() {
    let image = Image::new(0x4000).word(0x1000, link_v2(0x2000)).word(0x2000, link_v2(0x3000));
    let file = image.word(0x3000, 0x0600_0000_0000_0001).file();
    let run = |chip: &str| gmmu(&["dump", "--json", "--file", file.path(), "--chip", chip, "--root", "0x1000"]);
    assert_eq!(run("ga100").json()["ranges"][0]["page"], json!("512M"));
    let turing = run("tu102").json();
    assert_eq!(turing["ranges"], json!([]));
    assert!(turing["bad"][0]["why"].as_str().unwrap().contains("512M"), "{turing}");
}

/// An image of 1 MiB in which many words are entries that lead somewhere in it.
fn hostile(seed: u64, density: u64) -> Vec<u8> {
    // A small generator of our own (splitmix64): the image is a million draws, and proptest need not shrink them.
    let mut state = seed;
    let mut draw = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    let mut words = Vec::with_capacity(1 << 20);
    for _ in 0..1 << 17 {
        let (choice, noise) = (draw() % 16, draw());
        let near = noise & 0xff000;
        let word = match choice {
            _ if draw() % 16 >= density => 0,
            0..=4 => near | noise & 0x3f,
            5..=9 => near >> 4 | noise & 0x3e,
            10 => near | 1,
            11 => noise & 0x3f,
            12 => u64::MAX,
            _ => noise,
        };
        words.extend(word.to_le_bytes());
    }
    words
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn random_images_never_hang_or_panic(seed: u64, density in 1u64..=16, page in 0u64..256) {
        let image = Scratch::new(&hostile(seed, density));
        for mmu in ["v2", "v3"] {
            survives(&image, mmu, &format!("{:#x}", page << 12));
        }
    }
}
