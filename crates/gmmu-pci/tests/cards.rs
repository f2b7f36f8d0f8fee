//! Cards and ways of access on made-up machines.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a failed expectation is a failed test")]

mod common;

use std::path::{Path, PathBuf};

use gmmu_pci::system::Lockdown;
use gmmu_pci::ways::{Stops, Works};
use gmmu_pci::{Card, Cards, System, Way, ways};

fn machine(name: &str, test: &str) -> (Vec<Card>, System) {
    let (cards, system) = read(&unpacked(name, test));
    (cards.cards, system)
}

fn unpacked(name: &str, test: &str) -> PathBuf {
    common::unpack(name, &Path::new(env!("CARGO_TARGET_TMPDIR")).join(test)).join("sys")
}

fn read(sys: &Path) -> (Cards, System) {
    (Cards::read(sys).expect("there is a sysfs"), System::read(sys))
}

fn reasons(way: &Way) -> Vec<(&'static str, Stops)> {
    way.obstacles.iter().map(|obstacle| (obstacle.reason, obstacle.stops)).collect()
}

#[test]
fn all_that_sysfs_says_of_a_card() {
    let (cards, system) = machine("server", "all");
    assert_eq!(cards.len(), 2, "bridges and audio are no cards");
    let card = &cards[0];
    assert_eq!((card.bdf.to_string().as_str(), card.device, card.chip), ("0000:2b:00.0", Some(0x2330), Some("gh100")));
    assert_eq!((card.subsystem, card.revision, card.kind()), (Some((0x10de, 0x16c1)), Some(0xa1), "3D controller"));
    assert_eq!((card.driver.as_deref(), card.driver_override.as_deref(), card.iommu_group), (None, None, Some(14)));
    assert_eq!((card.numa_node, card.enabled, card.boot_vga), (Some(0), Some(true), None));
    assert_eq!((card.sriov.total, card.sriov.enabled, card.sriov.parent), (Some(16), Some(0), None));
    let bars: Vec<_> = card.bars.iter().map(|bar| (bar.index, bar.bytes, bar.assigned)).collect();
    assert_eq!(bars, [(0, 16 << 20, true), (2, 128 << 30, true), (4, 32 << 20, true)]);
    assert_eq!(card.unread, []);
    let io = cards[1].bar(5).expect("is there");
    assert!(!io.memory && io.bytes == 128);
    assert_eq!((system.lockdown, system.container, system.read_only), (Some(Lockdown::None), None, false));
}

#[test]
fn a_free_card_is_read_through_sysfs_and_a_card_on_vfio_through_vfio() {
    let (cards, system) = machine("server", "free");
    let [sysfs, vfio, dev_mem] = ways(&cards[0], &system);
    assert_eq!((sysfs.registers(), sysfs.memory(), reasons(&sysfs)), (Works::Yes, Works::Yes, vec![]));
    assert_eq!(reasons(&vfio), [("driver", Stops::All)]);
    assert_eq!((dev_mem.memory(), reasons(&dev_mem)), (Works::Yes, vec![]));
    let [sysfs, vfio, dev_mem] = ways(&cards[1], &system);
    assert_eq!((vfio.memory(), reasons(&vfio)), (Works::Yes, vec![]));
    assert_eq!(reasons(&sysfs), [("driver", Stops::All)]);
    assert_eq!(reasons(&dev_mem), [("driver", Stops::All)]);
}

#[test]
fn a_suspended_card_under_a_driver_and_a_user_without_rights() {
    let (cards, system) = machine("laptop", "suspended");
    let [sysfs, vfio, dev_mem] = ways(&cards[0], &system);
    let all = Stops::All;
    let from_sysfs = [("permission", all), ("driver", Stops::Perhaps), ("window", Stops::Memory), ("suspended", all)];
    assert_eq!(reasons(&sysfs), from_sysfs);
    assert_eq!(reasons(&dev_mem), from_sysfs);
    assert_eq!(reasons(&vfio), [("driver", all), ("group", all)]);
    assert!(vfio.obstacles[1].says.contains("0000:01:00.1"), "{vfio:?}");
    let wake = &sysfs.obstacles[3].fix;
    assert_eq!(wake[..], ["# echo on > /sys/bus/pci/devices/0000:01:00.0/power/control"]);
}

#[test]
fn lockdown_leaves_vfio_alone() {
    let (cards, system) = machine("locked", "locked");
    let [sysfs, vfio, dev_mem] = ways(&cards[0], &system);
    for way in [&sysfs, &dev_mem] {
        assert_eq!(reasons(way), [("lockdown", Stops::All), ("driver", Stops::Perhaps), ("window", Stops::Memory)]);
        assert_eq!((way.registers(), way.memory()), (Works::No, Works::No));
    }
    assert_eq!(reasons(&vfio), [("iommu", Stops::All)]);
}

#[test]
fn a_driver_alone_leaves_the_registers_and_takes_the_memory() {
    let (mut cards, mut system) = machine("locked", "bound");
    system.lockdown = Some(Lockdown::None);
    let [sysfs, ..] = ways(&cards[0], &system);
    assert_eq!((sysfs.registers(), sysfs.memory()), (Works::Unclear, Works::No));
    cards[0].driver = None;
    let [sysfs, ..] = ways(&cards[0], &system);
    assert_eq!((sysfs.registers(), sysfs.memory()), (Works::Yes, Works::Yes));
    system.lockdown = None;
    assert_eq!(ways(&cards[0], &system)[0].memory(), Works::Unclear);
    cards[0].enabled = Some(false);
    system.lockdown = Some(Lockdown::None);
    assert_eq!(reasons(&ways(&cards[0], &system)[0]), [("disabled", Stops::Perhaps)]);
    cards[0].sriov.enabled = Some(4);
    cards[0].enabled = Some(true);
    assert_eq!(reasons(&ways(&cards[0], &system)[0]), [("window", Stops::Memory)]);
}

#[test]
fn a_container_and_bars_without_addresses() {
    let (cards, system) = machine("container", "container");
    assert_eq!((system.container.as_deref(), system.read_only, system.user.namespaced), (Some("docker"), true, false));
    let [sysfs, vfio, dev_mem] = ways(&cards[0], &system);
    let (all, perhaps) = (Stops::All, Stops::Perhaps);
    let answers = [("lockdown", perhaps), ("suspended", perhaps), ("unassigned", all), ("disabled", perhaps)];
    assert_eq!(reasons(&sysfs), [&[("read-only", all)][..], &answers].concat());
    assert_eq!(reasons(&dev_mem), [&[("missing", all)][..], &answers].concat());
    assert_eq!(reasons(&vfio), [("driver", all), ("unassigned", all)]);

    let [_, vfio, _] = ways(&cards[1], &system);
    assert_eq!(reasons(&vfio), [("missing", all), ("missing", all), ("virtual-function", Stops::Memory)]);
}

#[test]
fn a_group_in_use_and_nodes_of_somebody_else() {
    let (mut cards, mut system) = machine("server", "in-use");
    cards[1].enabled = Some(true);
    assert_eq!(reasons(&ways(&cards[1], &system)[1]), [("in-use", Stops::Perhaps)]);
    cards[1].enabled = Some(false);
    system.user = machine("laptop", "in-use").1.user;
    assert_eq!(reasons(&ways(&cards[1], &system)[1]), [("permission", Stops::All)]);
}

#[test]
fn root_of_a_user_namespace_is_nobody_outside() {
    let (cards, mut system) = machine("server", "namespace");
    assert!(system.user.raw_io());
    system.user.namespaced = true;
    assert!(!system.user.raw_io());
    let [.., dev_mem] = ways(&cards[0], &system);
    assert_eq!(reasons(&dev_mem), [("permission", Stops::All)]);
    assert!(dev_mem.obstacles[0].says.contains("user namespace"), "{dev_mem:?}");
}

#[test]
fn no_cards_and_no_sysfs() {
    assert_eq!(machine("none", "none").0, []);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-sysfs");
    std::fs::create_dir_all(folder.join("without-pci/bus")).expect("makes a folder");
    assert!(Cards::read(&folder.join("not-there")).is_err());
    assert!(Cards::read(&folder).is_err(), "a folder is no sysfs");
    assert_eq!(Cards::read(&folder.join("without-pci")).expect("has no PCI"), Cards::default());
}

#[test]
fn junk_is_named_and_survived() {
    let (cards, system) = read(&unpacked("junk", "junk"));
    assert_eq!(cards.cards.len(), 2);
    let named: Vec<_> = cards.cards[0].unread.iter().map(|unread| unread.file).collect();
    for file in [
        "device",
        "subsystem_vendor",
        "revision",
        "iommu_group",
        "driver",
        "driver_override",
        "power_state",
        "power/control",
        "power/runtime_status",
        "enable",
        "boot_vga",
        "numa_node",
        "resource",
        "sriov_numvfs",
        "physfn",
    ] {
        assert!(named.contains(&file), "{file} in {named:?}");
    }
    assert!(cards.unread.iter().any(|unread| unread.bdf.to_string() == "0000:03:00.0" && unread.file == "class"));
    assert_eq!((system.lockdown, system.user.uid), (None, None));
    for card in &cards.cards {
        assert!(ways(card, &system).iter().all(|way| way.memory() != Works::Yes));
    }
    // A card whose driver cannot be told has one, as far as its window goes.
    let (mut free, system) = machine("server", "junk");
    free[0].unread.clone_from(&cards.cards[0].unread);
    assert!(ways(&free[0], &system).iter().all(|way| way.memory() == Works::No));
}

/// Files that a reader could wait for, or that never end.
#[cfg(unix)]
#[test]
fn files_without_end_are_not_waited_for() {
    let sys = unpacked("server", "endless");
    let card = sys.join("bus/pci/devices/0000:2b:00.0");
    for (name, target) in [("resource", "/dev/zero"), ("enable", "fifo")] {
        std::fs::remove_file(card.join(name)).expect("was there");
        std::os::unix::fs::symlink(target, card.join(name)).expect("links");
    }
    let fifo = fifo(&card.join("fifo"));
    std::fs::write(card.join("power_state"), vec![b'D'; 1 << 20]).expect("writes");
    let (cards, _) = read(&sys);
    let named: Vec<_> = cards.cards[0].unread.iter().map(|unread| (unread.file, unread.why.as_str())).collect();
    assert!(named.contains(&("resource", "no regular file")), "{named:?}");
    assert!(named.contains(&("power_state", "longer than 4096 bytes")), "{named:?}");
    assert!(!fifo || named.contains(&("enable", "no regular file")), "{named:?}");
}

/// A test that hangs where one of them is opened: each stands for a read of the card's configuration space, for which the
/// kernel wakes it, or for its registers.
#[cfg(unix)]
#[test]
fn files_that_wake_a_card_are_never_opened() {
    let sys = unpacked("laptop", "wakes");
    let card = sys.join("bus/pci/devices/0000:01:00.0");
    let wakes =
        ["config", "rom", "vpd", "resource0", "resource1", "resource1_wc", "resource1_resize", "current_link_speed"];
    for name in wakes {
        let _ = std::fs::remove_file(card.join(name));
        if !fifo(&card.join(name)) {
            println!("skipped: no mkfifo here");
            return;
        }
    }
    let (cards, system) = read(&sys);
    assert_eq!((cards.cards.len(), cards.cards[0].unread.len()), (1, 0));
    assert_eq!(ways(&cards.cards[0], &system)[0].memory(), Works::No);
}

#[cfg(unix)]
fn fifo(path: &Path) -> bool {
    std::process::Command::new("mkfifo").arg(path).status().is_ok_and(|made| made.success())
}
