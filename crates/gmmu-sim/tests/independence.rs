//! The model and the library are two authors of one specification: the model may not look at the library's answers.

use std::fs;
use std::path::{Path, PathBuf};

/// The files below a directory.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the sources") {
        let path = entry.expect("a file").path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn only_addresses_and_device_traits_of_the_library() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut seen, mut all) = (0, Vec::new());
    files(&sources, &mut all);
    for path in all {
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
