//! Snapshots: what goes in comes out, nothing else goes in, and no file does harm.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;
mod hostile;
#[path = "../images/image.rs"]
mod image;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Ran, gmmu_with};
use gmmu::addr::{SysAddr, TableAddr};
use gmmu::chip::Chip;
use gmmu::device::{DeviceError, TableRead};
use gmmu::format::MmuVersion;
use gmmu_cli::exit::Exit;
use gmmu_cli::snapshot::{NamedRoot, Snapshot, SnapshotInfo, Written, is_snapshot, write};
use image::{Image, Scratch, data};
use proptest::prelude::*;

/// Runs `gmmu` with `args`.
fn gmmu(args: &[&str]) -> Ran {
    gmmu_with(args, b"")
}

/// The images that NVIDIA's own walker wrote.
const REAL: [(&str, &str); 2] = [("nv-v2-12", "v2"), ("nv-v3-12", "v3")];

/// A snapshot of one of them.
fn captured(name: &str, mmu: &str) -> Scratch {
    let file = Scratch::new(b"");
    let ran = gmmu(&[
        "capture",
        "--file",
        &data(&format!("{name}.img")),
        "--mmu",
        mmu,
        "--root",
        "0x10000",
        "-o",
        file.path(),
    ]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    file
}

#[test]
fn a_snapshot_reads_like_the_image_that_it_is_of() {
    for (name, mmu) in REAL {
        let file = captured(name, mmu);
        assert!(is_snapshot(Path::new(file.path())));
        let image = data(&format!("{name}.img"));
        let commands: [&[&str]; 5] = [
            &["dump", "--json"],
            &["dump", "--merge", "none"],
            &["tree", "--json"],
            &["walk", "0x1000200000"],
            &["walk", "0x1000200000+64M", "--json"],
        ];
        for command in commands {
            let of_image = gmmu(&[command, &["--file", &image, "--root", "0x10000", "--mmu", mmu]].concat());
            let of_file = gmmu(&[command, &["--file", file.path()]].concat());
            assert_eq!((of_file.code, &of_file.out), (of_image.code, &of_image.out), "{name} {command:?}");
            assert!(of_file.out.len() > 100);
        }
        let [small, large] = [file.path(), &image].map(|path| std::fs::metadata(path).unwrap().len());
        assert!(small * 10 < large, "{small} of {large} bytes");
    }
}

#[test]
fn a_snapshot_of_a_snapshot_is_the_same_file() {
    for (name, mmu) in REAL {
        let (file, again) = (captured(name, mmu), Scratch::new(b""));
        let ran = gmmu(&["capture", "--file", file.path(), "-o", again.path(), "--json"]);
        assert_eq!(ran.code, 0);
        let (one, two) = (std::fs::read(file.path()).unwrap(), std::fs::read(again.path()).unwrap());
        assert_eq!(one, two);
        assert_eq!(ran.json()["bytes"], two.len());
    }
}

/// Table memory from words.
#[derive(Default)]
struct Words {
    words: BTreeMap<TableAddr, u64>,
    /// Where reading fails for good.
    broken: Option<TableAddr>,
}

impl Words {
    fn table(mut self, at: TableAddr, words: &[(u64, u64)]) -> Self {
        self.words.extend((0..512).map(|n| (at.with_raw(at.raw() + 8 * n), 0)));
        self.words.extend(words.iter().map(|&(n, word)| (at.with_raw(at.raw() + 8 * n), word)));
        self
    }
}

impl TableRead for Words {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        for (n, word) in (0..).zip(words) {
            let here = at.with_raw(at.raw() + 8 * n);
            if self.broken == Some(here) {
                return Err(DeviceError::Backend("the memory caught fire"));
            }
            *word = *self.words.get(&here).ok_or(DeviceError::OutOfRange { at, bytes: 8, end: 0 })?;
        }
        Ok(())
    }
}

fn root(name: &str, at: u64) -> NamedRoot {
    NamedRoot { name: name.to_owned(), at: TableAddr::vram(at) }
}

const fn info(roots: Vec<NamedRoot>) -> SnapshotInfo {
    SnapshotInfo { chip: None, mmu: MmuVersion::V2, fb_bytes: 1 << 30, base: 0, roots, blocks: Vec::new() }
}

/// A v2 directory entry that points to a table.
const fn pde(at: TableAddr) -> u64 {
    let aperture = match at {
        TableAddr::Vram(_) => 1,
        TableAddr::SysCoherent(_) => 2,
        TableAddr::SysNonCoherent(_) => 3,
    };
    (at.raw() >> 12) << 8 | aperture << 1
}

/// The same in the big half of a dual entry.
const fn big(at: TableAddr) -> u64 {
    (at.raw() >> 8) << 4 | 1 << 1
}

/// A v2 leaf of kind 6 in video memory.
const fn leaf(at: u64) -> u64 {
    6 << 56 | (at >> 12) << 8 | 1
}

const SECRET: u64 = 0x5345_4352_4554_2121;

/// A space whose leaf tables are a 64K table at 0x5000, in the middle of foreign words, and a 4K table that is
/// `small` or missing.
fn space(small: Option<TableAddr>) -> Words {
    let [pde3, pde2, pde1, pde0] = [0x1000, 0x2000, 0x3000, 0x4000].map(TableAddr::vram);
    let foreign: Vec<_> = (0..512).map(|n| (n, SECRET)).collect();
    let page = TableAddr::vram(0x5000);
    let mut words = Words::default()
        .table(pde3, &foreign)
        .table(pde3, &[(0, pde(pde2))])
        .table(pde2, &[(0, pde(pde1))])
        .table(pde1, &[(0, pde(pde0))])
        .table(pde0, &[(0, big(TableAddr::vram(0x5100))), (1, pde(small.unwrap_or(TableAddr::vram(0xff_f000))))])
        .table(page, &foreign);
    for n in 4..512 {
        words.words.insert(TableAddr::vram(0x1000 + 8 * n), SECRET);
    }
    for n in 0..32 {
        words.words.insert(TableAddr::vram(0x5100 + 8 * n), 0);
    }
    words.words.insert(TableAddr::vram(0x5100), leaf(0x20_0000));
    match small {
        Some(at) => words.table(at, &[(511, leaf(0x7000))]),
        None => words,
    }
}

/// Writes a snapshot of the space at 0x1000.
fn written(memory: &mut Words) -> (Scratch, Written) {
    let file = Scratch::new(b"");
    let written = write(Path::new(file.path()), &info(vec![root("main", 0x1000)]), memory).unwrap();
    (file, written)
}

#[test]
fn words_that_are_no_table_stay_outside() {
    let (file, written) = written(&mut space(Some(TableAddr::vram(0x6000))));
    assert_eq!((written.tables, written.pages, written.unreadable), (6, 6, 0));
    let mut snapshot = Snapshot::open(Path::new(file.path())).unwrap();
    let mut words = [0; 512];
    for page in [0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000] {
        snapshot.read_words(TableAddr::vram(page), &mut words).unwrap();
        assert!(words.iter().all(|&word| word != SECRET), "{page:#x}");
    }
    assert_eq!(snapshot.read_word(TableAddr::vram(0x5100)), Ok(leaf(0x20_0000)));
    assert_eq!(snapshot.read_word(TableAddr::vram(0x6ff8)), Ok(leaf(0x7000)));
    // Over the border of two pages, at odd places, and where there is nothing.
    let mut two = [1; 2];
    snapshot.read_words(TableAddr::vram(0x4ff8), &mut two).unwrap();
    assert_eq!(two, [0, 0]);
    assert!(matches!(snapshot.read_word(TableAddr::vram(0x1004)), Err(DeviceError::Unaligned { .. })));
    assert!(matches!(snapshot.read_word(TableAddr::vram(0x7000)), Err(DeviceError::OutOfRange { .. })));
    let coherent = TableAddr::SysCoherent(SysAddr::new(0x1000));
    assert!(matches!(snapshot.read_word(coherent), Err(DeviceError::OutOfRange { .. })));
    let last = TableAddr::vram(u64::MAX - 7);
    assert!(matches!(snapshot.read_words(last, &mut two), Err(DeviceError::OutOfRange { .. })));
}

#[test]
fn tables_in_system_memory_are_kept_apart_from_those_at_the_same_address_in_vram() {
    for at in [TableAddr::SysCoherent(SysAddr::new(0x1000)), TableAddr::SysNonCoherent(SysAddr::new(0x1000))] {
        let (file, _) = written(&mut space(Some(at)));
        let ran = gmmu(&["walk", "0x1ff123", "--file", file.path(), "--json"]);
        assert_eq!((ran.code, ran.json()["to"].as_str()), (0, Some("vram:0x000000007123")), "{ran:?}");
    }
}

#[test]
fn a_table_that_is_missing_is_missing_in_the_snapshot_and_its_neighbour_is_not() {
    let (file, written) = written(&mut space(None));
    assert_eq!((written.tables, written.unreadable), (5, 1));
    let ran = gmmu(&["walk", "0x123", "--file", file.path(), "--json"]);
    assert_eq!((ran.code, ran.json()["to"].as_str()), (0, Some("vram:0x000000200123")), "{ran:?}");
    let ran = gmmu(&["walk", "0x1ff123", "--file", file.path()]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("is not in the snapshot, at vram:0x000000fffff8"), "{}", ran.out);
    let again = Scratch::new(b"");
    let ran = gmmu(&["capture", "--file", file.path(), "-o", again.path()]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("1 entries point to tables that cannot be read"), "{}", ran.err);
}

#[test]
fn tables_in_a_loop_end() {
    let at = TableAddr::vram(0x1000);
    let mut memory = Words::default().table(at, &[(0, pde(at)), (1, pde(at)), (2, pde(at)), (3, pde(at))]);
    let (_, written) = written(&mut memory);
    // A table that points back to itself is a bad entry, and what it would be at other levels is not read.
    assert_eq!((written.tables, written.pages), (1, 1));
}

#[test]
fn several_spaces_are_told_apart() {
    let script = Scratch::new(
        b"gpu tu102 vram=1G\nspace a\nspace b\nspace c tables=vram\nmap a va=0x1000000000 len=4M page=4K\n\
          map b va=0x2000000000 len=64K page=64K\n",
    );
    let file = Scratch::new(b"");
    let ran = gmmu(&["run", script.path(), "--snapshot", file.path()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let snapshot = Snapshot::open(Path::new(file.path())).unwrap();
    let info = snapshot.info();
    assert_eq!((info.chip, info.fb_bytes, info.base), (Chip::by_name("tu102"), 1 << 30, 0));
    assert_eq!(info.roots.iter().map(|root| root.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let starts = |more: &[&str]| -> Vec<String> {
        let ran = gmmu(&[&["dump", "--json", "--file", file.path()], more].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        let ranges = ran.json()["ranges"].as_array().unwrap().clone();
        ranges.iter().map(|range| range["va"].as_str().unwrap().to_owned()).collect()
    };
    let b = info.roots.get(1).unwrap().at.to_string();
    assert_eq!(starts(&[]), ["0x001000000000"]);
    assert_eq!(starts(&["--root", "a"]), ["0x001000000000"]);
    assert_eq!(starts(&["--root", "b"]), ["0x002000000000"]);
    assert_eq!(starts(&["--root", &b, "--chip", "tu102"]), ["0x002000000000"]);
    assert_eq!(starts(&["--root", "c", "--mmu", "v2"]), [""; 0]);

    // A script is a source too, and gives the same file.
    let of_script = Scratch::new(b"");
    assert_eq!(gmmu(&["capture", "--script", script.path(), "-o", of_script.path()]).code, 0);
    assert_eq!(std::fs::read(of_script.path()).unwrap(), std::fs::read(file.path()).unwrap());

    let only_b = Scratch::new(b"");
    assert_eq!(gmmu(&["capture", "--file", file.path(), "--root", "b", "-o", only_b.path()]).code, 0);
    let only_b = Snapshot::open(Path::new(only_b.path())).unwrap();
    assert_eq!(only_b.info().roots, [info.roots.get(1).unwrap().clone()]);
    assert!(only_b.pages() < snapshot.pages());
}

#[test]
fn options_that_do_not_fit_a_snapshot_are_refused() {
    let file = captured("nv-v2-12", "v2");
    for (more, code, said) in [
        (&["--chip", "gh100"][..], 2, "the snapshot is of MMU v2, not of gh100"),
        (&["--mmu", "v3"], 2, "the snapshot is of MMU v2, not of MMU v3"),
        (&["--base", "4K"], 2, "--base is for raw images"),
        (&["--root", "other"], 2, "no address space called other"),
        (&["--root", "0x7f000"], 3, "the top table vram:0x00000007f000 is not in the snapshot"),
        (&["--inst", "0x7f000"], 3, "the instance block vram:0x00000007f000 is not in the snapshot"),
        (&["--root", "0x"], 2, "0x"),
    ] {
        let ran = gmmu(&[&["dump", "--file", file.path()], more].concat());
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains(said), "{}", ran.err);
    }
    // A chip of the same format may be filled in.
    assert_eq!(gmmu(&["dump", "--file", file.path(), "--chip", "ga102"]).code, 0);
}

#[test]
fn the_file_that_is_read_is_not_written() {
    let image = Image::new(0x11000).word(0x10000, 0);
    let file = image.file();
    let (path, before) = (file.path(), std::fs::read(file.path()).unwrap());
    let ran = gmmu(&["capture", "--file", path, "--mmu", "v2", "--root", "0x10000", "-o", path]);
    assert_eq!(ran.code, 2);
    assert_eq!(std::fs::read(path).unwrap(), before);
}

#[test]
fn what_cannot_be_stored_is_refused_before_anything_is_written() {
    let mut memory = space(None);
    let long = "x".repeat(256);
    let many = (0..1025).map(|n| root(&n.to_string(), 0x1000)).collect();
    let bad = [
        (info(vec![]), "not 0"),
        (info(many), "not 1025"),
        (info(vec![root("", 0x1000)]), "1 to 255 bytes"),
        (info(vec![root(&long, 0x1000)]), "1 to 255 bytes"),
        (info(vec![root("a", 0x1000), root("a", 0x1000)]), "and differ"),
        (info(vec![root("a", 0x1100)]), "not aligned to 4 KiB"),
        (SnapshotInfo { chip: Chip::by_name("gh100"), ..info(vec![root("a", 0x1000)]) }, "gh100 has MMU v3, not v2"),
    ];
    let file = Scratch::new(b"as it was");
    let path = Path::new(file.path());
    for (info, said) in bad {
        let failure = write(path, &info, &mut memory).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.what().contains(said), "{failure}");
    }
    // The same for memory that fails in the middle.
    memory.broken = Some(TableAddr::vram(0x3008));
    let failure = write(path, &info(vec![root("a", 0x1000)]), &mut memory).unwrap_err();
    assert_eq!(failure.exit(), Exit::Input);
    assert!(failure.what().contains("caught fire"), "{failure}");
    assert_eq!(std::fs::read(path).unwrap(), b"as it was");
}

#[test]
fn the_longest_names_and_the_most_spaces_come_back() {
    let many: Vec<_> = (0..1024).map(|n| root(&format!("{n:0>255}"), 0x1000)).collect();
    let file = Scratch::new(b"");
    write(Path::new(file.path()), &info(many.clone()), &mut space(None)).unwrap();
    assert_eq!(Snapshot::open(Path::new(file.path())).unwrap().info().roots, many);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is in an image, a snapshot of it maps the same, and lacks what the image lacks.
    #[test]
    fn snapshots_of_broken_images_read_like_them(
        which in 0..REAL.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u64>()), 0..40),
    ) {
        let (name, mmu) = REAL.get(which).copied().unwrap();
        let mut bytes = std::fs::read(data(&format!("{name}.img"))).unwrap();
        // Words of the image come up elsewhere in it, with a bit changed: tables in loops and outside of the image.
        for (from, to, noise) in changes {
            let (from, to) = (from.index(bytes.len() / 8) * 8, to.index(bytes.len() / 8) * 8);
            let word = u64::from_le_bytes(*bytes.get(from..).unwrap().first_chunk().unwrap());
            bytes.splice(to..to + 8, (word ^ 1 << (noise % 128).min(63)).to_le_bytes());
        }
        let (image, file) = (Scratch::new(&bytes), Scratch::new(b""));
        let source = ["--file", image.path(), "--mmu", mmu, "--root", "0x10000"];
        let ran = gmmu(&[&["capture", "-o", file.path()], &source[..]].concat());
        prop_assert_eq!(ran.code, 0, "{:?}", ran);
        let of_image = gmmu(&[&["dump", "--json"], &source[..]].concat()).json();
        let of_file = gmmu(&["dump", "--json", "--file", file.path()]).json();
        prop_assume!(of_image["truncated"] == false && of_file["truncated"] == false);
        prop_assert_eq!(&of_image["ranges"], &of_file["ranges"]);
        let places = |dump: &serde_json::Value| -> Vec<_> {
            let bad = dump["bad"].as_array().unwrap().iter();
            bad.map(|bad| (bad["entry"].clone(), bad["raw"].clone(), bad["va"].clone())).collect()
        };
        prop_assert_eq!(places(&of_image), places(&of_file));
    }
}
