//! The model and the library are two authors of one specification: the model may not look at the library's answers.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn only_addresses_and_device_traits_of_the_library() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for path in files(&sources) {
        let text = fs::read_to_string(&path).expect("text");
        for (at, _) in text.match_indices("gmmu::") {
            let after = text.get(at + 6..).unwrap_or_default();
            let allowed = after.starts_with("addr::") || after.starts_with("device::");
            assert!(allowed, "{}: gmmu::{}", path.display(), after.lines().next().unwrap_or_default());
            seen += 1;
        }
        for forbidden in ["use gmmu;", "use gmmu as", "use gmmu::{", "extern crate gmmu"] {
            assert!(!text.contains(forbidden), "{}: {forbidden}", path.display());
        }
    }
    assert!(seen > 10, "this test must find the imports that there are");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the sources").map(|entry| entry.expect("a file").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
