//! What `map` writes is what `dump` reads; and what `map` and `run` say as JSON.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;

use common::gmmu_with;
use serde_json::{Value, json};

/// A folder that goes away with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("gmmu-maps-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder left in the temporary one is no reason to fail.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs `gmmu` with the words of `line` and `more`, and gives its JSON and its exit code.
fn gmmu(line: &str, more: &[&str]) -> (Value, u8) {
    let args: Vec<_> = line.split_whitespace().chain(more.iter().copied()).chain(["--json"]).collect();
    let ran = gmmu_with(&args, b"");
    (ran.json(), ran.code)
}

fn number(text: &str) -> u64 {
    u64::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap()
}

/// `va`, `bytes` and `to` of a range in video memory.
fn place(range: &Value) -> (u64, u64, u64) {
    let to = range["to"].as_str().unwrap().strip_prefix("vram:").unwrap();
    (number(range["va"].as_str().unwrap()), range["bytes"].as_u64().unwrap(), number(to))
}

/// Maps with `line`, and dumps what it left in a raw image and in a snapshot, which must be the same. The report of the
/// map, the merged ranges, and the single pages.
fn mapped(name: &str, chip: &str, line: &str) -> (Value, Vec<Value>, Vec<Value>) {
    let folder = Folder::new(name);
    let (image, snapshot) = (folder.file("vram.img"), folder.file("tables.gmmu"));
    let files = ["--vram-out", &image, "--snapshot", &snapshot];
    let (report, code) = gmmu(&format!("map --chip {chip} --keep {line}"), &files);
    assert_eq!((code, &report["chip"], &report["findings"]), (0, &json!(chip), &json!([])), "{chip} {line}");
    let root = report["root"].as_str().unwrap();
    let [merged, single] = ["va", "none"].map(|merge| {
        let raw = ["--file", &image, "--root", root, "--chip", chip, "--merge", merge];
        let (raw, code) = gmmu("dump", &raw);
        assert_eq!((code, &raw["bad"], &raw["truncated"]), (0, &json!([]), &json!(false)), "{chip} {line}");
        let (of_snapshot, code) = gmmu("dump", &["--file", &snapshot, "--merge", merge]);
        assert_eq!((code, &of_snapshot), (0, &raw), "{chip} {line}");
        raw["ranges"].as_array().unwrap().clone()
    });
    (report, merged, single)
}

#[test]
fn memory_in_one_piece_is_dumped_as_one_range() {
    for (number, (chip, mmu, page, bytes)) in [
        ("tu102", "v2", "4K", 1_u64 << 20),
        ("tu102", "v2", "64K", 3 << 20),
        ("ga100", "v2", "512M", 1 << 30),
        ("ad107", "v2", "2M", 6 << 20),
        ("gh100", "v3", "4K", 5 << 20),
        ("gh100", "v3", "512M", 1 << 30),
        ("gb100", "v3", "64K", 2 << 20),
        ("gb202", "v3", "2M", 64 << 20),
    ]
    .into_iter()
    .enumerate()
    {
        let line = format!(
            "--size {bytes} --page {page} --va 0x1040000000 --pa vram:0x40000000 --vram 4G --flags priv,ro,vol --kind 0x6"
        );
        let (report, merged, single) = mapped(&format!("piece-{number}"), chip, &line);
        let range = json!({"va": "0x001040000000", "bytes": bytes, "page": page, "to": "vram:0x000040000000",
                           "kind": 6, "flags": ["priv", "ro", "vol"]});
        assert_eq!(merged, [range], "{chip} {page}");
        assert_eq!(single.iter().map(|page| place(page).1).sum::<u64>(), bytes, "{chip} {page}");
        assert_eq!(report["verified_pages"], json!(bytes >> 12));
        assert_eq!(report["spaces"], json!([{"name": "map", "mmu": mmu, "root": report["root"]}]));
    }
}

#[test]
fn shuffled_pages_are_all_there_once() {
    for (chip, page, unit) in
        [("tu102", "4K", 4096), ("ga102", "64K", 64 << 10), ("gh100", "4K", 4096), ("gb100", "2M", 2 << 20)]
    {
        let pages = 96;
        let bytes = pages * unit;
        let line = format!("--size {bytes} --page {page} --va 0x40000000 --pa vram:0x40000000 --vram 4G --scatter 7");
        let (_, _, single) = mapped(&format!("scatter-{chip}"), chip, &line);
        let places: Vec<_> = single.iter().map(place).collect();
        assert!((0..pages).zip(&places).all(|(n, page)| (page.0, page.1) == (0x4000_0000 + n * unit, unit)), "{chip}");
        let to: BTreeSet<_> = places.iter().map(|page| page.2).collect();
        assert_eq!(to, (0..pages).map(|n| 0x4000_0000 + n * unit).collect(), "{chip}");
        assert!(!places.iter().is_sorted_by_key(|page| page.2), "{chip}: they are shuffled");
    }
}

#[test]
fn pages_of_any_size_cover_what_was_asked_for() {
    for chip in ["tu117", "ga100", "gh100", "gb207"] {
        // A piece for every page size that the chip has, but for the largest of all.
        let bytes: u64 = (512 << 20) + (2 << 20) + (64 << 10) + 4096;
        let line = format!("--size {bytes} --page auto --vram 2G");
        let (report, merged, _) = mapped(&format!("auto-{chip}"), chip, &line);
        let (mut at, _, to) = place(merged.first().unwrap());
        let start = at;
        for range in &merged {
            assert_eq!((place(range).0, place(range).2), (at, to + (at - start)), "{chip}: in one piece");
            at += place(range).1;
        }
        assert_eq!((at - start, &report["verified_pages"]), (bytes, &json!(bytes >> 12)), "{chip}");
        let pages: BTreeSet<_> = merged.iter().map(|range| range["page"].as_str().unwrap()).collect();
        assert!(pages.contains("4K") && pages.contains("64K") && pages.contains("2M"), "{chip}: {pages:?}");
    }
}

#[test]
fn nothing_is_left_without_keep_but_the_files_are_from_before() {
    let folder = Folder::new("before");
    let snapshot = folder.file("tables.gmmu");
    let (report, code) = gmmu("map --size 64K --va 0x40000000 --vram 1G", &["--snapshot", &snapshot]);
    assert_eq!((code, report["unmap_counts"]["invalidates"].as_u64()), (0, Some(1)));
    let (dump, code) = gmmu("dump", &["--file", &snapshot]);
    assert_eq!((code, &dump["ranges"][0]["va"]), (0, &json!("0x000040000000")));
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The fields that `map` and `run` share.
fn check_fields(report: &Value, chip: &str) {
    let shared = ["schema", "chip", "counts", "tables", "verified_pages", "root", "spaces", "findings"];
    assert!(shared.into_iter().all(|key| keys(report).contains(key)), "{report}");
    assert_eq!((&report["schema"], &report["chip"]), (&json!(1), &json!(chip)));
    check_counts(&report["counts"]);
    assert!(report["tables"].is_u64() && report["verified_pages"].is_u64(), "{report}");
    let root = report["root"].as_str().unwrap();
    let digits = root.strip_prefix("vram:0x").unwrap();
    assert!(digits.len() == 12 && digits.chars().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()), "{root}");
    for space in report["spaces"].as_array().unwrap() {
        assert_eq!(keys(space), BTreeSet::from(["name", "mmu", "root"]));
        assert!(space["name"].is_string() && matches!(space["mmu"].as_str(), Some("v2" | "v3")), "{space}");
    }
    assert_eq!(report["root"], report["spaces"][0]["root"], "the root is the first space's");
    assert!(report["findings"].is_array());
}

fn check_counts(counts: &Value) {
    assert_eq!(keys(counts), BTreeSet::from(["reads", "writes", "window_moves", "invalidates"]));
    assert!(counts.as_object().unwrap().values().all(Value::is_u64), "{counts}");
}

#[test]
fn the_fields_of_map_are_the_ones_that_scripts_rely_on() {
    let (report, code) = gmmu("map --size 2M --chip tu102 --vram 1G", &[]);
    check_fields(&report, "tu102");
    check_counts(&report["unmap_counts"]);
    assert_eq!((code, &report["verified_pages"], &report["findings"]), (0, &json!(512), &json!([])));
    let names = ["schema", "chip", "counts", "tables", "verified_pages", "root", "spaces", "findings", "unmap_counts"];
    assert_eq!(keys(&report), BTreeSet::from(names), "and `wrong` only where something is");
    let (kept, _) = gmmu("map --size 2M --keep --vram 1G", &[]);
    assert!(kept.get("unmap_counts").is_none(), "nothing was unmapped: {kept}");
}

#[test]
fn the_fields_of_run_are_the_ones_that_scripts_rely_on() {
    let folder = Folder::new("run");
    let script = folder.file("script.gmmu");
    std::fs::write(
        &script,
        "gpu tu102 vram=1G\nspace a\nspace b\nmap a va=0x40000000 pa=vram:0x10000000 len=64K page=4K\n\
         expect a 0x40000000 vram:0x10000000\n",
    )
    .unwrap();
    let (report, code) = gmmu("run", &[&script]);
    check_fields(&report, "tu102");
    let names: Vec<_> = report["spaces"].as_array().unwrap().iter().map(|space| &space["name"]).collect();
    assert_eq!((code, names, &report["findings"]), (0, vec![&json!("a"), &json!("b")], &json!([])));
}

#[cfg(unix)]
#[test]
fn a_file_that_is_no_file_is_refused_and_stays() {
    for option in ["--vram-out", "--snapshot"] {
        let ran = gmmu_with(&["map", "--size", "4K", "--vram", "64M", option, "/dev/null"], b"");
        assert_eq!(ran.code, 3, "{ran:?}");
        assert!(ran.err.contains("/dev/null: is no regular file"), "{}", ran.err);
    }
}

#[test]
fn the_prose_below_the_examples_fits_80_columns() {
    for command in [
        "map", "walk", "dump", "tree", "decode", "encode", "fault", "capture", "selftest", "roots", "check", "diff",
        "stats", "render",
    ] {
        let ran = gmmu_with(&[command, "--help"], b"");
        let (_, below) = ran.out.split_once("Examples:").unwrap();
        // A command line to copy may be longer: broken, it would not work.
        for line in below.lines().filter(|line| !line.starts_with("  ")) {
            assert!(line.chars().count() <= 80, "{command}: {line}");
        }
    }
}

/// What the caches fetch by themselves changes nothing for who flushes as he should: not the mapping, not what it costs.
#[test]
fn speculation_makes_no_difference_to_a_right_driver() {
    let (plain, code) = gmmu("map --size 4M --page 4K", &[]);
    assert_eq!(code, 0);
    for how in ["off", "worst", "random", "random=7"] {
        let (report, code) = gmmu("map --size 4M --page 4K --speculation", &[how]);
        assert_eq!((report["counts"]["writes"].clone(), code), (plain["counts"]["writes"].clone(), 0), "{how}");
        assert_eq!((&report["verified_pages"], &report["findings"]), (&json!(1024), &json!([])), "{how}");
    }
}
