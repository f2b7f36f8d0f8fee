//! The corpora of the fuzz targets, as the fuzzer would run them.
#![expect(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;
mod fuzzed;
mod random;

/// Runs every file of a corpus; says how many there were.
fn each(target: &str, run: impl Fn(&[u8])) {
    let corpus = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(corpus).unwrap();
    let runs = files.map(|file| run(&std::fs::read(file.unwrap().path()).unwrap())).count();
    println!("{target}: {runs} files");
    assert!(runs >= 3, "{target}: {runs} files");
}

#[test]
fn walk_image() {
    each("walk_image", fuzzed::walk_image);
}

#[test]
fn trace() {
    each("trace", fuzzed::trace);
}

#[test]
fn jobs() {
    each("jobs", random::spelled);
}
