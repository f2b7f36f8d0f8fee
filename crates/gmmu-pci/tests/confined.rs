//! `unsafe` is in two files of the workspace: where files are mapped, and where mapped memory is accessed.
#![expect(clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::fs;
use std::path::Path;

#[test]
fn all_other_crates_and_files_forbid_unsafe() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &Path| fs::read_to_string(path).expect("is part of the workspace");
    let workspace = read(&root.join("Cargo.toml"));
    assert!(workspace.contains("\nunsafe_code = \"forbid\"\n"));
    let members = workspace.lines().find_map(|line| line.strip_prefix("members = ")).expect("there are members");
    let members: Vec<_> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.contains(&"crates/gmmu-pci") && members.len() > 4, "{members:?}");
    for member in members.into_iter().filter(|member| *member != "crates/gmmu-pci") {
        let manifest = read(&root.join(member).join("Cargo.toml"));
        assert!(manifest.contains("\n[lints]\nworkspace = true\n"), "{member} takes the workspace's lints");
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(read(&here.join("Cargo.toml")).contains("\nunsafe_code = \"deny\"\n"));
    let excepted = fs::read_dir(here.join("src")).expect("has sources").map(|entry| entry.expect("is read").path());
    let mut excepted: Vec<_> = excepted.filter(|path| read(path).contains("(unsafe_code")).collect();
    excepted.sort();
    assert_eq!(excepted, [here.join("src/map.rs"), here.join("src/view.rs")]);
}
