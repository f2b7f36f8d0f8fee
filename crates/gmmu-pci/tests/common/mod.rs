//! Made-up machines, written down as text (`tests/systems`) and unpacked into folders for a test.
//!
//! `[folder]` opens a folder, `name = text` is a file in it (`\n` as such), `name -> target` a symlink, `name/` an empty
//! folder. BAR files and device nodes get the permissions that the kernel gives them.

use std::fs;
use std::path::{Path, PathBuf};

/// Unpacks the machine `name` into `into`, which is emptied before.
pub fn unpack(name: &str, into: &Path) -> PathBuf {
    let systems = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../gmmu-pci/tests/systems"));
    let text = fs::read_to_string(systems.join(name).with_extension("tree")).expect("the machine is written down");
    let root = into.join(name);
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).expect("makes a folder");
    let mut folder = root.clone();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            folder = root.join(name);
            fs::create_dir_all(&folder).expect("makes a folder");
        } else if let Some((name, text)) = line.split_once(" = ") {
            file(&folder.join(name), text.replace("\\n", "\n").as_bytes());
        } else if let Some((name, target)) = line.split_once(" -> ") {
            link(&folder.join(name), target);
        } else {
            let name = line.strip_suffix('/').expect("a line that says what it is");
            fs::create_dir_all(folder.join(name)).expect("makes a folder");
        }
    }
    root
}

fn file(path: &Path, text: &[u8]) {
    let parent = path.parent().expect("has a folder");
    fs::create_dir_all(parent).expect("makes a folder");
    fs::write(path, [text, b"\n"].concat()).expect("writes");
    let name = path.file_name().expect("has a name").to_string_lossy();
    let private = name.starts_with("resource") && name != "resource" || path.to_string_lossy().contains("/dev/");
    if private && !path.ends_with("vfio/vfio") {
        mode(path, 0o600);
    } else {
        mode(path, 0o666);
    }
}

#[cfg(unix)]
fn mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("sets permissions");
}

#[cfg(unix)]
fn link(path: &Path, target: &str) {
    std::os::unix::fs::symlink(target, path).expect("links");
}
