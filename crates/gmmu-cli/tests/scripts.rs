//! Scripts as programs: the examples on every kind of chip, and random ones.

mod common;

use common::{fail, gmmu_with};
use gmmu_cli::script::Script;
use proptest::prelude::*;

#[test]
fn every_example_goes_as_it_says_on_every_kind_of_chip() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let mut scripts = 0;
    for entry in std::fs::read_dir(folder).expect("the examples") {
        let path = entry.expect("an example").path();
        if path.extension().is_none_or(|ext| ext != "gmmu") {
            continue;
        }
        scripts += 1;
        let text = std::fs::read_to_string(&path).expect("a script");
        for chip in ["tu102", "ga100", "gh100", "gb100", "gb202"] {
            let text = text.replace("gpu gh100", &format!("gpu {chip}"));
            let ran = gmmu_with(&["run", "-", "--json"], text.as_bytes());
            assert_eq!(ran.code, 0, "{} on {chip}: {}{}", path.display(), ran.out, ran.err);
        }
    }
    assert!(scripts >= 11, "{scripts}");
}

#[test]
fn every_script_of_the_page_goes_as_it_says() {
    let page = include_str!("../../../docs/scripts.md");
    let scripts: Vec<&str> = page.split("```gmmu\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(scripts.len() >= 5, "{}", scripts.len());
    for script in scripts {
        let ran = gmmu_with(&["run", "-"], script.as_bytes());
        assert_eq!(ran.code, 0, "{script}\n{}{}", ran.out, ran.err);
    }
}

/// What each mishap does to a change, and who says so.
#[test]
fn every_mishap_of_a_script_is_met() {
    let met = |inject: &str, seed: u64| {
        let script = format!(
            "space a\nmap a va=0x40000000 pa=vram:0x10000000 len=8K page=4K\nread a 0x40000000 0\ninject {inject}\n\
             unmap a va=0x40000000 len=4K\nexpect a 0x40000000 unmapped\nmap a va=0x80000000 len=4K\n"
        );
        let ran = gmmu_with(&["run", "-", "--seed", &seed.to_string()], script.as_bytes());
        (ran.code, ran.out)
    };
    for (inject, says) in [
        ("noflush", "[stale-leaf]"),
        ("otherspace", "[invalidate-wrong-pdb]"),
        ("lostack for=2000000", "was not ready after"),
        ("deadbar", "the device is gone"),
        ("deadbar for=3", "the device is gone"),
        ("poison", "answers with the error word 0xbadf5040"),
        ("lostvram", "[reserved-bits]"),
        ("oom", "no memory is left for a table"),
    ] {
        let (code, out) = met(inject, 0);
        assert!(code == 1 && out.contains(says), "{inject}: {code} {out}");
    }
    // Which bits they are, decides who sees it: most entries of tables are empty and not used.
    let seen = (0..30).filter(|seed| met("bitflip for=40", *seed).0 == 1).count();
    assert!((1..30).contains(&seen), "flipped bits were seen in {seen} of 30 runs");
}

/// Addresses around the borders of tables and pages.
fn address() -> impl Strategy<Value = u64> {
    let base = prop_oneof![Just(0x4000_0000u64), Just(0x401f_0000), Just(0x5fe0_0000), Just(0x3f_fff0_0000)];
    (base, 0u64..64, prop_oneof![Just(12), Just(16), Just(21)]).prop_map(|(base, n, shift)| base + (n << shift))
}

fn length() -> impl Strategy<Value = u64> {
    (1u64..20, prop_oneof![Just(12), Just(12), Just(16), Just(21)]).prop_map(|(n, shift)| n << shift)
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(words)
}

/// `map`, `unmap`, `protect`, `sparse`, `unsparse`.
fn change() -> impl Strategy<Value = String> {
    let live = || word(&["", "quiesced", "replayable", "live"]);
    let size = word(&["", "page=4K", "page=64K", "page=2M", "largest=64K", "largest=2M"]);
    let memory =
        word(&["", "pa=vram:0x200000000", "pa=sys-coh:0x40000000", "pa=sys-ncoh:0x1f0000", "pa=peer1:0x10000"]);
    let flags = word(&["", "ro", "vol priv", "noatomic"]);
    let map = (address(), length(), memory, size, flags, live()).prop_map(|(va, len, memory, size, flags, live)| {
        format!("map a va={va:#x} len={len:#x} {memory} {size} {flags} {live} as=m")
    });
    let lists = word(&["0x5000,0x9000,0x1000", "0x200000,0x400000 page=2M", "sys-coh:0x50000,0x90000 page=64K"]);
    let list = (address(), lists, live()).prop_map(|(va, list, live)| format!("map a va={va:#x} pages={list} {live}"));
    let verb = word(&["unmap", "unmap", "sparse", "unsparse", "protect"]);
    let range = (verb, address(), length(), word(&["ro", "none", "vol kind=0"]), live());
    let range = range.prop_map(|(verb, va, len, flags, live)| {
        format!("{verb} a va={va:#x} len={len:#x} {} {live}", if verb == "protect" { flags } else { "" })
    });
    prop_oneof![2 => map, 1 => list, 4 => range, 1 => Just("unmap a va=m".to_owned())]
}

/// A step of a bind, without its space.
fn step() -> impl Strategy<Value = String> {
    let parts = (word(&["", "pa=vram:0x200000000", "pa=sys-coh:0x40000000"]), word(&["", "page=4K", "largest=64K"]));
    let map = (address(), length(), parts, 1u64..3, 0u64..20);
    let map = map.prop_map(|(va, len, (memory, size), object, offset)| {
        format!("map va={va:#x} len={len:#x} {memory} {size} object={object} offset={:#x}", offset << 16)
    });
    let list = (address(), word(&["0x5000,0x9000", "0x10000,0x40000 page=64K"]));
    let list = list.prop_map(|(va, list)| format!("map va={va:#x} pages={list}"));
    let range = (word(&["unmap", "unmap", "sparse", "unsparse"]), address(), length());
    prop_oneof![3 => map, 1 => list, 3 => range.prop_map(|(verb, va, len)| format!("{verb} va={va:#x} len={len:#x}"))]
}

/// Words that may follow one another by mistake.
const SOUP: [&str; 30] = [
    "\n",
    ";",
    "{",
    "}",
    "#",
    "a",
    "Z",
    "gpu",
    "gh100",
    "space",
    "map",
    "unmap",
    "bind",
    "rebind",
    "prepare",
    "refuse",
    "Busy",
    "execute",
    "bar1",
    "inst",
    "expect",
    "piece",
    "read",
    "va=0x1000",
    "len=4K",
    "pages=1,,2",
    "object=1",
    "ro",
    "w+",
    "=",
];

/// Anything that can be prepared, but for `restore`.
fn preparable() -> impl Strategy<Value = String> {
    let steps = (word(&["", "live", "replayable"]), prop::collection::vec(step(), 1..6));
    let bind = steps.prop_map(|(live, steps)| format!("bind a {live} {{ {} }}", steps.join("; ")));
    let evictable = (address(), length(), word(&["", "page=4K", "largest=64K"]), word(&["Y", "Z"]));
    let evictable = evictable
        .prop_map(|(va, len, size, zap)| format!("map a va={va:#x} len={len:#x} {size} evictable={zap} as={zap}"));
    let parts = (word(&["Y", "Z"]), length(), word(&["", "page=4K"]));
    let rebind = parts.prop_map(|(zap, len, size)| format!("rebind a {zap} {{ map va={zap} len={len:#x} {size} }}"));
    let merge = (address(), length(), word(&["64K", "2M"]));
    let merge = merge.prop_map(|(va, len, size)| format!("defragment a va={va:#x} len={len:#x} largest={size}"));
    let reclaim = Just("reclaim a".to_owned());
    prop_oneof![5 => change(), 3 => bind, 2 => evictable, 1 => rebind, 1 => merge, 1 => reclaim]
}

/// Three jobs, prepared before any is executed, and ended in any order; what cannot be is tried all the same.
fn queue() -> impl Strategy<Value = String> {
    const ENDS: [&str; 10] = [
        "execute J",
        "execute K",
        "execute L",
        "commit J",
        "commit K",
        "commit L",
        "cancel J",
        "cancel L",
        "drop K",
        "zap Z",
    ];
    let ends = prop::collection::vec(word(&ENDS), 3..12);
    let first = (preparable(), preparable(), preparable());
    (first, ends)
        .prop_map(|((j, k, l), ends)| format!("prepare J {j}; prepare K {k}; prepare L {l}; {}", ends.join("; ")))
}

/// What happens to BAR1.
fn bar1() -> impl Strategy<Value = String> {
    let name = || word(&["w", "x"]);
    let map = (name(), 0u64..64, length(), word(&["", "pa=vram:0x200000000", "ro", "page=4K"]));
    let map =
        map.prop_map(|(name, at, len, memory)| format!("bar1 map {name} va={:#x} len={len:#x} {memory}", at << 16));
    let access = (word(&["read", "write"]), name(), 0u64..0x3000, word(&["8", "16", "32", "64"]));
    let access = access.prop_map(|(verb, name, at, bits)| format!("bar1 {verb} {name}+{at} 7 bits={bits}"));
    let end = name().prop_map(|name| format!("bar1 unmap {name}"));
    prop_oneof![2 => map, 2 => access, 2 => end]
}

/// A line that never lets accesses meet what is half done.
fn sound() -> impl Strategy<Value = String> {
    let job = || word(&["J", "K", "L"]);
    let prepare = (job(), preparable()).prop_map(|(job, change)| format!("prepare {job} {change}"));
    let end = (word(&["execute", "execute", "commit", "commit", "cancel", "drop"]), job())
        .prop_map(|(verb, job)| format!("{verb} {job}"));
    let use_ = (word(&["read", "write"]), address()).prop_map(|(verb, va)| format!("{verb} a {va:#x} 7"));
    let oom = (1u64..5, 1u64..3).prop_map(|(at, times)| format!("inject oom at={at} for={times}"));
    let again = word(&["lose vram; restore a", "close a; space a", "unmap a va=m; reclaim a", "adopt a"])
        .prop_map(str::to_owned);
    let zap = word(&["zap Y", "zap Z", "skip J", "skip K"]).prop_map(str::to_owned);
    prop_oneof![4 => preparable(), 1 => zap, 2 => queue(), 1 => prepare, 2 => end, 3 => use_, 2 => bar1(), 1 => oom, 1 => again]
}

/// Any line.
fn wild() -> impl Strategy<Value = String> {
    let steps = (word(&["J", "K", "L"]), 1u64..600).prop_map(|(job, budget)| format!("execute {job} budget={budget}"));
    let what = word(&["noflush", "lostack", "deadbar", "lostwindow", "oom"]);
    let inject = (what, 1u64..600, 1u64..9).prop_map(|(what, at, times)| format!("inject {what} at={at} for={times}"));
    prop_oneof![12 => sound(), 2 => steps, 1 => inject]
}

/// Runs lines on a chip of either format, to the end. The report.
fn ran(chip: &str, lines: &[String]) -> serde_json::Value {
    let text = format!("gpu {chip} vram=16G bar1=4M\nspace a\nspace b use=bar\nbar1 bind b\n{}\n", lines.join("\n"));
    let ran = gmmu_with(&["run", "-", "--keep-going", "--json"], text.as_bytes());
    if ran.code > 1 {
        fail(&format!("{ran:?} of\n{text}"));
    }
    ran.json()
}

#[test]
fn a_sparse_chunk_that_is_cut_is_cleared_first() {
    let lines = ["sparse a va=0x40000000 len=64K", "map a va=0x40001000 pa=vram:0x200000000 len=4K"].map(str::to_owned);
    assert_eq!(ran("tu102", &lines)["findings"], serde_json::json!([]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_sanitizer_finds_nothing_wrong_with_random_scripts(
        chip in word(&["tu102", "gh100"]), lines in prop::collection::vec(sound(), 1..40),
    ) {
        let report = ran(chip, &lines);
        let findings = report["findings"].as_array().expect("a list");
        prop_assert!(findings.is_empty(), "{:?}\n{}", findings, lines.join("\n"));
    }

    #[test]
    fn what_is_no_script_is_refused_with_its_line(words in prop::collection::vec(word(&SOUP), 1..24)) {
        let text = words.join(" ");
        if let Err(why) = Script::read("s", &text) {
            let line = why.what().strip_prefix("s:").and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
            prop_assert!(line.is_some_and(|line| (1..=text.lines().count()).contains(&line)), "{}\n{text}", why.what());
        }
    }

    #[test]
    fn whatever_goes_wrong_scripts_come_to_an_end(
        chip in word(&["tu102", "gh100"]), lines in prop::collection::vec(wild(), 1..40),
    ) {
        let report = ran(chip, &lines);
        let operations = Script::read("s", &lines.join("\n")).expect("reads").lines.len();
        prop_assert_eq!(report["operations"].as_u64(), Some(operations as u64 + 3));
    }
}
