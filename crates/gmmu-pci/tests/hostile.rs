//! Whatever sysfs holds, reading it ends, and without a panic.

#![expect(clippy::expect_used, reason = "a failed expectation is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use gmmu_pci::{Bdf, Cards, System, ways};
use proptest::prelude::*;

/// Every file of the card that is read, and those that say what holds for all cards.
const FILES: [&str; 22] = [
    "sys/bus/pci/devices/0000:2b:00.0/vendor",
    "sys/bus/pci/devices/0000:2b:00.0/class",
    "sys/bus/pci/devices/0000:2b:00.0/device",
    "sys/bus/pci/devices/0000:2b:00.0/subsystem_vendor",
    "sys/bus/pci/devices/0000:2b:00.0/subsystem_device",
    "sys/bus/pci/devices/0000:2b:00.0/revision",
    "sys/bus/pci/devices/0000:2b:00.0/enable",
    "sys/bus/pci/devices/0000:2b:00.0/boot_vga",
    "sys/bus/pci/devices/0000:2b:00.0/numa_node",
    "sys/bus/pci/devices/0000:2b:00.0/driver",
    "sys/bus/pci/devices/0000:2b:00.0/driver_override",
    "sys/bus/pci/devices/0000:2b:00.0/iommu_group",
    "sys/bus/pci/devices/0000:2b:00.0/power_state",
    "sys/bus/pci/devices/0000:2b:00.0/power/runtime_status",
    "sys/bus/pci/devices/0000:2b:00.0/sriov_numvfs",
    "sys/bus/pci/devices/0000:2b:00.0/physfn",
    "sys/bus/pci/devices/0000:2b:00.0/resource",
    "sys/kernel/security/lockdown",
    "proc/self/status",
    "proc/self/mountinfo",
    "proc/self/uid_map",
    "proc/1/cgroup",
];

#[derive(Clone, Debug)]
enum Junk {
    Bytes(Vec<u8>),
    Link(String),
    Folder,
    Gone,
}

fn junk() -> impl Strategy<Value = Junk> {
    let line = "(0x[0-9a-f]{0,17} ?){0,4}";
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(Junk::Bytes),
        (0usize..9000).prop_map(|count| Junk::Bytes(vec![b'0'; count])),
        proptest::collection::vec(line, 0..9).prop_map(|lines| Junk::Bytes(lines.join("\n").into_bytes())),
        "(Uid|Gid|Groups|CapEff):[\\s\\d-]{0,20}\n".prop_map(|text| Junk::Bytes(text.into_bytes())),
        "[\\[\\] a-z0-9/]{0,30}".prop_map(|text| Junk::Bytes(text.into_bytes())),
        "[./a-zé0-9:]{1,20}".prop_map(Junk::Link),
        Just(Junk::Link("/dev/zero".to_owned())),
        Just(Junk::Folder),
        Just(Junk::Gone),
    ]
}

fn put(path: &Path, junk: &Junk) {
    if fs::symlink_metadata(path).is_ok_and(|there| there.is_dir()) {
        fs::remove_dir_all(path).expect("removes");
    } else {
        let _ = fs::remove_file(path);
    }
    fs::create_dir_all(path.parent().expect("has a folder")).expect("makes a folder");
    match junk {
        Junk::Bytes(bytes) => fs::write(path, bytes).expect("writes"),
        #[cfg(unix)]
        Junk::Link(target) => std::os::unix::fs::symlink(target, path).expect("links"),
        #[cfg(not(unix))]
        Junk::Link(_) => {}
        Junk::Folder => fs::create_dir(path).expect("makes a folder"),
        Junk::Gone => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn junk_files(files in proptest::collection::vec((0..FILES.len(), junk()), 1..6)) {
        let root = common::unpack("server", &Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile"));
        for (file, junk) in &files {
            put(&root.join(FILES[*file]), junk);
        }
        let sys = root.join("sys");
        let (cards, system) = (Cards::read(&sys).expect("there is a sysfs"), System::read(&sys));
        for card in &cards.cards {
            prop_assert_eq!(ways(card, &system).len(), 3);
            prop_assert!(card.bars.len() <= 6);
            let printed = [&card.driver, &card.driver_override, &system.container];
            prop_assert!(printed.into_iter().flatten().all(|word| word.len() <= 64 && word.is_ascii()));
            prop_assert!(card.unread.iter().all(|unread| unread.why.len() < 256));
        }
        // The other card is as it was.
        let other = cards.cards.iter().find(|card| card.bdf.to_string() == "0000:a1:00.0").expect("is there");
        prop_assert!(other.unread.is_empty());
    }

    #[test]
    fn addresses(text in "[PCI0-9a-f:. +é]{0,20}") {
        if let Ok(bdf) = text.parse::<Bdf>() {
            prop_assert_eq!(bdf.to_string().parse(), Ok(bdf));
            prop_assert_eq!(Bdf::of_folder(&bdf.to_string()), Some(bdf));
        }
    }
}
