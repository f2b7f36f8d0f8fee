//! `--pci` on made-up cards: a sysfs of plain files, in which BAR0 is a file of registers and of page tables in the PRAMIN
//! window. The file does not know where the window stands, so that the tables lie in the megabyte that it shows first.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;
#[path = "../../gmmu-pci/tests/common/mod.rs"]
mod machines;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Ran, gmmu_with};
use gmmu::device::{Bar0, Width};
use gmmu::regs::{NV_PMC_BOOT_0, NV_PRAMIN};
use gmmu_sim::{Config, Gpu};
use serde_json::json;

const BDF: &str = "0000:2b:00.0";
/// `NV_XAL_EP_ZB_BAR0_WINDOW`.
const WINDOW: u32 = gmmu::regs::NV_XAL_EP_ZB_BAR0_WINDOW;
/// Where the window stood before.
const STOOD: u32 = 0x1234;

/// A card of the machine `server`: an H100 without driver.
struct Made {
    sys: PathBuf,
}

impl Made {
    fn new(test: &str) -> Self {
        let sys = unpacked("server", test);
        let mut gpu = Gpu::new(&Config { vram: 96 << 30, ..Config::chip("gh100") }).unwrap();
        let mut bar = vec![0; 16 << 20];
        for offset in (0..NV_PRAMIN).step_by(4).chain((NV_PRAMIN + (1 << 20)..16 << 20).step_by(4)) {
            let word = u32::try_from(gpu.read(offset, Width::W32).unwrap()).unwrap();
            if word >> 16 != 0xbadf {
                put(&mut bar, offset, &word.to_le_bytes());
            }
        }
        put(&mut bar, WINDOW, &STOOD.to_le_bytes());
        // The window begins at a multiple of 64 KiB, and so where this image has its top table.
        let image = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/nv-v3-12.img")).unwrap();
        put(&mut bar, NV_PRAMIN, &image[0x10000..]);
        let made = Self { sys };
        fs::write(made.bar0(), bar).unwrap();
        made
    }

    fn bar0(&self) -> PathBuf {
        self.sys.join("bus/pci/devices").join(BDF).join("resource0")
    }

    /// A file of the card's.
    fn file(&self, name: &str, text: &str) {
        fs::write(self.sys.join("bus/pci/devices").join(BDF).join(name), text).unwrap();
    }

    fn register(&self, offset: u32, word: u32) {
        let mut bar = fs::read(self.bar0()).unwrap();
        put(&mut bar, offset, &word.to_le_bytes());
        fs::write(self.bar0(), bar).unwrap();
    }

    fn window(&self) -> u32 {
        let bar = fs::read(self.bar0()).unwrap();
        let at = WINDOW as usize;
        u32::from_le_bytes(bar[at..at + 4].try_into().unwrap())
    }

    fn gmmu(&self, args: &[&str]) -> Ran {
        let card = ["--pci", BDF, "--sysfs", self.sys.to_str().unwrap()];
        gmmu_with(&[args, &card].concat(), b"")
    }

    fn read(&self, args: &[&str]) -> Ran {
        self.gmmu(&[args, &["--move-window", "--root", "0x10000"]].concat())
    }
}

/// The sysfs of a made-up machine.
fn unpacked(machine: &str, test: &str) -> PathBuf {
    machines::unpack(machine, &Path::new(env!("CARGO_TARGET_TMPDIR")).join("pci").join(test)).join("sys")
}

fn put(bar: &mut [u8], offset: u32, bytes: &[u8]) {
    let at = offset as usize;
    bar[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn every_reading_command_reads_a_card_and_puts_the_window_back() {
    let made = Made::new("reading");
    let image = ["--file", "tests/data/nv-v3-12.img", "--chip", "gh100", "--root", "0x10000"];
    for command in
        [&["dump", "--json"][..], &["walk", "0x38af000", "--json"], &["tree", "--json"], &["check", "--json"]]
    {
        let (card, file) = (made.read(command), gmmu_with(&[command, &image].concat(), b""));
        assert!(card.code == file.code && card.out == file.out, "{command:?}: {} {}", card.code, card.err);
        assert_eq!(made.window(), STOOD, "{command:?}");
    }
    let folder = made.sys.parent().unwrap().to_str().unwrap().to_owned();
    let (snapshot, page) = (format!("{folder}/card.snap"), format!("{folder}/card.html"));
    for command in [&["stats"][..], &["capture", "-o", &snapshot], &["render", "-o", &page], &["roots"]] {
        let ran = made.read(command);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{command:?}: {}", ran.out);
        assert_eq!(made.window(), STOOD, "{command:?}");
    }
    let (dump, captured) = (made.read(&["dump", "--json"]), gmmu_with(&["dump", "--json", "--file", &snapshot], b""));
    assert_eq!(dump.out, captured.out);
    let line = "MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_3 faulted @ 0x0_038ae000. Fault is of type FAULT_PTE \
                ACCESS_TYPE_VIRT_READ";
    assert!(made.read(&["fault", line]).out.contains("say the same as the line"));
}

#[test]
fn a_card_is_read_with_consent_alone() {
    let made = Made::new("consent");
    let ran = made.gmmu(&["dump", "--root", "0x10000"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("read through the PRAMIN window") && ran.err.contains("--move-window"), "{}", ran.err);
    assert_eq!(made.window(), STOOD);
}

#[test]
fn what_stands_in_the_way_is_said_with_what_helps() {
    let sys = unpacked("locked", "locked");
    let refused = |ran: Ran, code: u8, parts: &[&str]| {
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{}", ran.err);
        for part in parts {
            assert!(ran.err.contains(part), "{part}: {}", ran.err);
        }
    };
    let locked = |args: &[&str]| gmmu_with(&[args, &["--sysfs", sys.to_str().unwrap()]].concat(), b"");
    refused(locked(&["dump", "--pci", "0000:01:00.0"]), 4, &["locked down", "VFIO"]);
    refused(locked(&["dump", "--pci", "0000:09:00.0"]), 3, &["no NVIDIA card", "gmmu list"]);
    refused(locked(&["dump", "--pci", "nonsense"]), 2, &["--pci nonsense"]);
    refused(locked(&["dump", "--pci", "0000:01:00.0", "--file", "x"]), 2, &["more than one source"]);

    let made = Made::new("bound");
    let driver = made.sys.join("bus/pci/devices").join(BDF).join("driver");
    std::os::unix::fs::symlink("../../../../bus/pci/drivers/nouveau", &driver).unwrap();
    refused(
        made.read(&["dump"]),
        4,
        &["nouveau counts on it", "gmmu fault explains the log line", "--file reads a snapshot"],
    );
    // Consent changes nothing about that.
    refused(made.gmmu(&["dump"]), 4, &["nouveau counts on it"]);
    fs::remove_file(&driver).unwrap();
    std::os::unix::fs::symlink("../../../../bus/pci/drivers/vfio-pci", &driver).unwrap();
    refused(made.read(&["dump"]), 4, &["vfio-pci holds the card", "gmmu doctor"]);
    fs::remove_file(&driver).unwrap();
    made.file("power_state", "D3cold\n");
    made.file("power/runtime_status", "suspended\n");
    refused(made.read(&["dump"]), 4, &["sleeps (D3cold)", "power/control"]);
    made.file("power_state", "D0\n");
    made.file("power/runtime_status", "active\n");
    made.file("sriov_numvfs", "2\n");
    refused(made.read(&["dump"]), 4, &["2 virtual functions are in use", "end the virtual machines"]);
    made.file("sriov_numvfs", "0\n");
    let held = gmmu_pci_lock(&made);
    refused(made.read(&["dump"]), 4, &["another program reads or writes the card"]);
    drop(held);
    assert_eq!(made.read(&["dump"]).code, 0);
    assert_eq!(made.window(), STOOD);
}

/// Has the card open, as another program would.
fn gmmu_pci_lock(made: &Made) -> impl Drop {
    struct Held(#[expect(dead_code, reason = "what closes it gives the lock back")] Box<dyn std::any::Any>);
    impl Drop for Held {
        fn drop(&mut self) {}
    }
    let cards = gmmu_pci::Cards::read(&made.sys).unwrap();
    let card = cards.cards.iter().find(|card| card.bdf.to_string() == BDF).unwrap();
    Held(Box::new(gmmu_pci::open::open(&made.sys, card, &gmmu_pci::System::read(&made.sys), true).unwrap()))
}

#[test]
fn a_card_that_does_not_answer_ends_with_5() {
    let made = Made::new("dead");
    for (word, part) in [(u32::MAX, "nothing answers"), (0xbadf_5040, "an error word"), (0xbad0_0200, "is not set up")]
    {
        made.register(NV_PMC_BOOT_0, word);
        let ran = made.read(&["dump"]);
        assert_eq!(ran.code, 5, "{word:#x}: {}", ran.err);
        assert!(ran.err.contains(part) && ran.err.contains(&format!("{word:#010x}")), "{}", ran.err);
    }
    made.register(gmmu::regs::NV_PMC_BOOT_42, 0);
    made.register(NV_PMC_BOOT_0, 0);
    let ran = made.read(&["dump"]);
    assert!(ran.code == 5 && ran.err.contains("nothing answers"), "{} {}", ran.code, ran.err);
    let made = Made::new("poison");
    // Registers answer, memory does not.
    for half in [0, 4] {
        made.register(NV_PRAMIN + half, 0xbadf_2100);
    }
    let ran = made.read(&["walk", "0"]);
    assert_eq!(ran.code, 5, "{} {}", ran.out, ran.err);
    assert!(ran.err.contains("0xbadf2100") && ran.err.contains("firmware"), "{}", ran.err);
    assert_eq!(made.window(), STOOD);
    // All-ones in a table of a card that is well are a bad entry, as in an image.
    for half in [0, 4] {
        made.register(NV_PRAMIN + half, u32::MAX);
    }
    let ran = made.read(&["walk", "0"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.out.contains("bad: 0xffffffffffffffff"), "{}", ran.out);
}

#[test]
fn without_a_bound_bar_there_is_no_root_by_itself() {
    let made = Made::new("roots");
    let ran = made.gmmu(&["dump", "--move-window"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("BAR1 and BAR2 go through none"), "{}", ran.err);
    // BAR1 is bound to an instance block in the same megabyte, which names the top table.
    let block = 0x6_0000u64;
    let low = u32::try_from(block).unwrap() | 1 << 9;
    made.register(gmmu::regs::NV_VIRTUAL_FUNCTION_PRIV_FUNC_BAR1_BLOCK_LOW_ADDR, low);
    made.register(NV_PRAMIN + 0x200, 0x1_0000 | 1 << 10 | 1 << 11);
    let ran = made.gmmu(&["roots", "--move-window", "--json"]);
    assert_eq!(ran.json()["roots"][0]["root"], json!("vram:0x000000010000"), "{} {}", ran.out, ran.err);
    assert_eq!(made.window(), STOOD);
}

#[test]
fn the_self_tests_write_with_consent_alone_and_find_a_card_that_is_none() {
    let made = Made::new("selftest");
    let before = fs::read(made.bar0()).unwrap();
    let ran = made.gmmu(&["selftest"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("the self-tests write to the card") && ran.err.contains("--write"), "{}", ran.err);
    assert!(fs::read(made.bar0()).unwrap() == before, "nothing was written");
    // BAR1 is no file here.
    let ran = made.gmmu(&["selftest", "--write"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    // A file keeps what is written to it, but not by address: what the window shows does not move with it.
    let bar1 = made.bar0().with_file_name("resource2");
    fs::File::create(&bar1).unwrap().set_len(128 << 30).unwrap();
    let ran = made.gmmu(&["selftest", "--write", "--json"]);
    assert_eq!(ran.code, 1, "{} {}", ran.out, ran.err);
    assert_eq!(ran.json()["pci"], json!(BDF));
    assert_ne!(ran.json()["failed"], json!(0));
    assert_eq!(made.window(), STOOD);
}
