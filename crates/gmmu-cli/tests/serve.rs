//! `gmmu serve` as a whole: a client at the other end of its socket, and what is left when it has gone.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::{Ran, gmmu_with};
use vfio_user::Client;

const BAR0: u32 = 0;
const BAR1: u32 = 1;
const CONFIG: u32 = 7;
const ROOT: u64 = 0x10_0000;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gmmu-serve-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left over is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program with a socket in `folder`, and a client of it.
fn serve(folder: &Folder, more: &[&str]) -> (JoinHandle<Ran>, Client) {
    let socket = folder.at("socket");
    let mut args = vec!["serve", "--socket", &socket, "--chip", "tu102", "--vram", "256M"];
    args.extend(more);
    let args: Vec<String> = args.into_iter().map(ToOwned::to_owned).collect();
    let ran = thread::spawn(move || gmmu_with(&args.iter().map(String::as_str).collect::<Vec<_>>(), b""));
    while !Path::new(&socket).exists() {
        assert!(!ran.is_finished(), "{:?}", ran.join());
        thread::sleep(Duration::from_millis(1));
    }
    // The socket is there a moment before somebody listens.
    let client = (0..1000).find_map(|_| {
        thread::sleep(Duration::from_millis(1));
        Client::new(Path::new(&socket)).ok()
    });
    (ran, client.unwrap())
}

fn write32(client: &mut Client, at: u64, value: u32) {
    client.region_write(BAR0, at, &value.to_le_bytes()).unwrap();
}

/// BAR1 through a space of its own, which maps nothing: an instance block, and the register that names it.
fn bind(client: &mut Client) {
    let words = [(ROOT, 0x1_0202_u64), (0x20_0200, ROOT | 3 << 10)];
    for (at, word) in words {
        write32(client, 0x1700, u32::try_from(at >> 16).unwrap());
        client.region_read(BAR0, 0x1700, &mut [0; 4]).unwrap();
        client.region_write(BAR0, 0x70_0000 + (at & 0xffff), &word.to_le_bytes()).unwrap();
    }
    client.region_read(BAR0, 0x70_0000, &mut [0; 4]).unwrap();
    write32(client, 0x1704, 1 << 31 | 0x200);
    while {
        let mut status = [0; 4];
        client.region_read(BAR0, 0x1710, &mut status).unwrap();
        status[0] & 3 != 0
    } {}
}

#[test]
fn a_clean_session_ends_with_0_and_leaves_what_was_asked_for() {
    let folder = Folder::new("clean");
    let (exit, mark, trace) = (folder.at("exit"), folder.at("mark"), folder.at("trace"));
    let (ran, mut client) = serve(
        &folder,
        &["--sanitize", "--snapshot-on-exit", &exit, "--snapshot-on-mark", &mark, "--record", &trace, "--json"],
    );
    bind(&mut client);
    client.region_write(CONFIG, 0x5c, &5_u32.to_le_bytes()).unwrap();
    // The answer comes when the file is there.
    assert!(Path::new(&format!("{mark}.5")).exists());
    drop(client);
    let ran = ran.join().unwrap();
    assert_eq!(ran.code, 0, "{ran:?}");
    let said = ran.json();
    assert_eq!((&said["parted"], &said["spaces"]), (&"the client disconnected".into(), &1.into()));
    assert_eq!(said["findings"], serde_json::json!([]));
    assert!(!Path::new(&folder.at("socket")).exists());
    for file in [&exit, &format!("{mark}.5")] {
        let tree = gmmu_with(&["tree", "--file", file, "--root", "bar1", "--json"], b"");
        assert_eq!(tree.code, 0, "{tree:?}");
        assert!(tree.out.contains("vram:0x000000100000"), "{tree:?}");
    }
    let replayed = gmmu_with(&["run", "--trace", &trace, "--json"], b"");
    assert_eq!((replayed.code, &replayed.json()["counts"]), (0, &said["counts"]), "{replayed:?}");
}

#[test]
fn findings_end_it_with_1_and_so_does_the_trace() {
    let folder = Folder::new("findings");
    let trace = folder.at("trace");
    let (ran, mut client) = serve(&folder, &["--sanitize", "--record", &trace]);
    let mut word = [0; 4];
    client.region_read(BAR1, 0x1000, &mut word).unwrap();
    assert_eq!(word, [0xff; 4]);
    drop(client);
    let ran = ran.join().unwrap();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("[bar-unbound]") && ran.out.contains("the sanitizer: 1 finding\n"), "{ran:?}");
    let replayed = gmmu_with(&["run", "--trace", &trace], b"");
    assert_eq!(replayed.code, 1, "{replayed:?}");
    assert!(replayed.out.contains("[bar-unbound]"), "{replayed:?}");
}

#[test]
fn what_was_not_asked_for_is_not_judged() {
    let folder = Folder::new("unjudged");
    let exit = folder.at("exit");
    let (ran, mut client) = serve(&folder, &["--snapshot-on-exit", &exit]);
    client.region_read(BAR1, 0x1000, &mut [0; 4]).unwrap();
    drop(client);
    let ran = ran.join().unwrap();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!ran.out.contains("sanitizer"), "{ran:?}");
    assert!(ran.err.contains("nobody made an address space"), "{ran:?}");
    assert!(!Path::new(&exit).exists());
}

#[test]
fn what_cannot_be_served_is_refused() {
    let folder = Folder::new("refused");
    let file = folder.at("file");
    std::fs::write(&file, "precious").unwrap();
    let ran = gmmu_with(&["serve", "--socket", &file], b"");
    assert_eq!((ran.code, ran.err.contains("hint: name a path")), (3, true), "{ran:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let socket = folder.at("socket");
    for wrong in [["--bar1", "3M"], ["--vram", "5K"], ["--chip", "gm107"]] {
        let ran = gmmu_with(&["serve", "--socket", &socket, wrong[0], wrong[1]], b"");
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(!Path::new(&socket).exists());
    }
}
