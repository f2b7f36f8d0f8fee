//! The JSON schemas in `docs/schemas`: as the types are that print, and what is printed is as they say. Run with
//! `GMMU_SCHEMAS=overwrite` they are written anew.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;
mod schema;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::gmmu_with;
use schema::Schema;
use serde_json::Value;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schemas"))
}

#[test]
fn the_schemas_are_those_of_the_types() {
    let write = std::env::var("GMMU_SCHEMAS").is_ok_and(|what| what == "overwrite");
    let mut names = BTreeSet::new();
    for (name, schema) in gmmu_cli::schemas::all() {
        let path = folder().join(format!("{name}.json"));
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        if write {
            fs::create_dir_all(folder()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert!(there == text, "{}: outdated; GMMU_SCHEMAS=overwrite writes it anew", path.display());
        names.insert(format!("{name}.json"));
    }
    let there = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(there.collect::<BTreeSet<_>>(), names, "files without a type");
}

/// For each schema, commands whose output is to be as it says. `{}` is an image, `[]` a folder.
const PRINTED: &[(&str, &[&str])] = &[
    ("bench", &["bench alloc --rounds 1 --live 10"]),
    ("capture", &["capture {} -o []/a.snap"]),
    ("check", &["check {}", "check --script ../../examples/sparse.gmmu"]),
    ("check-explain", &["check --explain GM007"]),
    ("completions", &["completions bash"]),
    ("decode", &["decode --mmu v3 --entry pte 0x0600000059b45501", "decode --mmu v2 --entry dual 0x2000000 0x3000002"]),
    ("diff", &["diff tests/data/nv-v3-12.img@0x10000 tests/data/nv-v3-12.img@0x10000 --mmu v3 --tables"]),
    ("doctor", &["doctor --sysfs []"]),
    ("dump", &["dump {}", "dump {} --limit 2", "dump --script ../../examples/sparse.gmmu"]),
    (
        "encode",
        &[
            "encode --mmu v3 --entry pte --to vram:0x5000",
            "encode --mmu v2 --entry dual --big none --small vram:0x5000",
        ],
    ),
    (
        "fault",
        &[
            "fault NVRM:_Xid_(PCI:0000:2b:00):_31,_pid=1,_MMU_Fault:_ENGINE_GRAPHICS_GPC6_GPCCLIENT_T1_13_faulted_@_0x6f17_04027000._Fault_is_of_type_FAULT_PDE_ACCESS_TYPE_VIRT_WRITE",
            "fault {} MMU_Fault:_ENGINE_GRAPHICS_GPCCLIENT_T1_3_faulted_@_0x0_038ae000._Fault_is_of_type_FAULT_PTE_ACCESS_TYPE_VIRT_READ",
            "fault --packet 0xff8b9000_0_0x34567000_0x7f12_0_0_180_0x83010002 --chip gh100",
        ],
    ),
    ("list", &["list --sysfs []"]),
    ("man", &["man []/man"]),
    ("map", &["map --size 64K", "map --size 64K --keep", "map --size 2M --scatter 3 --chip tu102"]),
    ("render", &["render {} -o []/a.html", "render {} -o []/a.dot"]),
    ("roots", &["roots --file tests/data/nv-v3-12.img"]),
    ("run", &["run ../../examples/bar1.gmmu", "run tests/scripts/noflush.gmmu", "run tests/scripts/race.gmmu"]),
    ("run-soak", &["run --soak 1 --jobs 50 --seed 3"]),
    ("run-trace", &["run --trace tests/data/forgotten-flush.trace", "run --mmiotrace tests/data/mmio.log.gz"]),
    ("selftest", &["selftest"]),
    ("stats", &["stats {}", "stats --script ../../examples/bar1.gmmu"]),
    ("tree", &["tree {}"]),
    ("walk", &["walk 0x5000 {}", "walk 0x1000000 --script ../../examples/sparse.gmmu"]),
    ("walk-range", &["walk 0x0+16M {}"]),
];

#[test]
fn what_is_printed_is_as_the_schemas_say() {
    let out = std::env::temp_dir().join(format!("gmmu-schemas-{}", std::process::id()));
    ["bus/pci/devices", "man"].iter().for_each(|name| fs::create_dir_all(out.join(name)).unwrap());
    for (name, commands) in PRINTED {
        let schema: Value =
            serde_json::from_str(&fs::read_to_string(folder().join(format!("{name}.json"))).unwrap()).unwrap();
        let schema = Schema::new(&schema);
        for command in *commands {
            let words = command.split(' ').flat_map(|word| match word {
                "{}" => vec!["--file", "tests/data/nv-v3-12.img", "--mmu", "v3", "--root", "0x10000"],
                word => vec![word],
            });
            let folder = out.to_str().unwrap();
            let words =
                words.map(|word| word.replace("[]", folder).replace('_', if *name == "fault" { " " } else { "_" }));
            let words: Vec<String> = words.chain(["--json".to_owned()]).collect();
            let ran = gmmu_with(&words.iter().map(String::as_str).collect::<Vec<_>>(), b"");
            assert!(ran.code <= 1 && !ran.out.is_empty(), "{command}: {} {}", ran.code, ran.err);
            let printed = ran.json();
            let wrong = schema.errors(&printed);
            assert!(wrong.is_empty(), "{command}: {wrong:?}");
            // And the schema asks for something: an object without fields is none of it.
            assert!(!schema.errors(&serde_json::json!({})).is_empty(), "{name} takes anything");
        }
    }
    fs::remove_dir_all(&out).unwrap();
    // All but `serve`, which waits for a client.
    let all: BTreeSet<_> = gmmu_cli::schemas::all().into_iter().map(|(name, _)| name).collect();
    let printed: BTreeSet<_> = PRINTED.iter().map(|(name, _)| *name).chain(["serve"]).collect();
    assert_eq!(all, printed);
}
