//! `list` and `doctor` on made-up machines. The sessions, those of `docs/cards.md` too, run in the folder where the
//! machines are unpacked. A binary of its own, since that folder belongs to the whole process.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is a failed test")]

mod common;
#[path = "../../gmmu-pci/tests/common/mod.rs"]
mod machines;

use std::path::Path;
use std::time::{Duration, Instant};

use common::gmmu_with;
use gmmu::chip::Chip;
use serde_json::json;

fn folder(test: &str) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("systems").join(test);
    for machine in ["server", "laptop", "locked", "container", "none", "junk"] {
        machines::unpack(machine, &folder);
    }
    folder.to_str().expect("a plain name").to_owned()
}

#[test]
fn sessions() {
    std::env::set_current_dir(folder("sessions")).expect("the machines are there");
    let crates = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    trycmd::TestCases::new()
        .case(format!("{crates}/gmmu-cli/tests/systems/*.trycmd"))
        .case(format!("{crates}/../docs/cards.md"));
}

#[test]
fn list_says_in_json_all_that_there_is() {
    let folder = folder("list");
    let ran = gmmu_with(&["list", "--json", "--sysfs", &format!("{folder}/server/sys")], b"");
    let list = ran.json();
    assert_eq!((ran.code, &list["schema"], &list["truncated"]), (0, &json!(1), &json!(false)));
    let card = &list["cards"][0];
    assert_eq!(
        card["bars"][0],
        json!({"index": 0, "start": "0x206042000000", "bytes": 16 << 20, "is": "memory", "bits": 64, "prefetch": true,
               "assigned": true})
    );
    for (field, value) in [
        ("bdf", json!("0000:2b:00.0")),
        ("vendor", json!("0x10de")),
        ("device", json!("0x2330")),
        ("subsystem", json!(["0x10de", "0x16c1"])),
        ("class", json!("0x030200")),
        ("revision", json!("0xa1")),
        ("kind", json!("3D controller")),
        ("chip", json!("gh100")),
        ("driver", json!(null)),
        ("driver_override", json!(null)),
        ("iommu_group", json!(14)),
        ("power", json!({"state": "D0", "runtime": "active", "control": "on"})),
        ("enabled", json!(true)),
        ("boot_vga", json!(null)),
        ("numa_node", json!(0)),
        ("sriov", json!({"total": 16, "enabled": 0, "parent": null})),
        ("unread", json!([])),
    ] {
        assert_eq!(card[field], value, "{field}");
    }
}

#[test]
fn doctor_ends_with_what_can_be_read() {
    let folder = folder("doctor");
    let doctor = |machine: &str, card: &str| {
        gmmu_with(
            &["doctor", "--json", "--sysfs", &format!("{folder}/{machine}/sys"), card]
                [..4 + usize::from(!card.is_empty())],
            b"",
        )
    };
    for (machine, card, code, vram) in [
        ("server", "", 0, "yes"),
        ("server", "PCI:0000:2B:00", 0, "yes"),
        ("laptop", "01:00.0", 1, "no"),
        ("locked", "", 1, "no"),
        ("container", "", 1, "no"),
    ] {
        let ran = doctor(machine, card);
        assert_eq!((ran.code, &ran.json()["cards"][0]["vram"]), (code, &json!(vram)), "{machine}");
    }
    assert_eq!((doctor("none", "").code, doctor("none", "").json()["cards"].clone()), (1, json!([])));
    assert_eq!(
        (doctor("none", "01:00.0").code, doctor("server", "01:00.0").code, doctor("server", "01:00").code),
        (3, 3, 2)
    );
    assert_eq!(gmmu_with(&["doctor", "--sysfs", &folder], b"").code, 3);
    let lost = doctor("server", "01:00.0").err;
    assert!(lost.contains("0000:01:00.0: no NVIDIA card") && lost.contains("0000:a1:00.0"), "{lost}");
    let ways = doctor("locked", "").json()["cards"][0]["ways"].clone();
    assert_eq!(
        (&ways[0]["way"], &ways[0]["registers"], &ways[0]["vram"]),
        (&json!("sysfs"), &json!("no"), &json!("no"))
    );
    let lockdown = &ways[0]["obstacles"][0];
    assert_eq!((&lockdown["reason"], &lockdown["stops"]), (&json!("lockdown"), &json!("all")));
    assert!(lockdown["fix"][0].as_str().unwrap().contains("VFIO"));
}

#[test]
fn text_fits_a_terminal_and_colour_only_adds_to_it() {
    let folder = folder("width");
    for machine in ["server", "laptop", "locked", "container", "junk"] {
        let sys = format!("{folder}/{machine}/sys");
        for command in ["list", "doctor"] {
            let plain = gmmu_with(&[command, "--sysfs", &sys], b"").out;
            let long = plain.lines().find(|line| line.chars().count() > 80 && !line.contains("-> # "));
            assert_eq!(long, None, "{command} {machine}");
            let colored = gmmu_with(&[command, "--sysfs", &sys, "--color", "always"], b"").out;
            assert_eq!(anstream::adapter::strip_str(&colored).to_string(), plain);
        }
    }
}

#[test]
fn every_guess_is_a_chip_that_the_library_knows() {
    for name in gmmu_pci::chip::names() {
        assert!(Chip::by_name(name).is_some(), "{name}");
    }
}

/// A start takes 20 ms at most. The best of some, since other programs run beside the tests.
#[test]
fn commands_start_at_once() {
    let sys = format!("{}/server/sys", folder("start"));
    let start = || {
        let began = Instant::now();
        let args = ["doctor", "--sysfs", &sys];
        let ran = std::process::Command::new(env!("CARGO_BIN_EXE_gmmu")).args(args).output().expect("runs");
        assert!(ran.status.success());
        began.elapsed()
    };
    let best = (0..20).map(|_| start()).min().unwrap();
    println!("{best:?}");
    assert!(best < Duration::from_millis(20), "{best:?}");
}
