//! The corpora of the fuzz targets, as the fuzzer would run them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod fuzzed;

/// Runs every file of a corpus; says how many there were.
fn each(target: &str, run: impl Fn(&[u8])) {
    let corpus = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(corpus).unwrap();
    let runs = files.map(|file| run(&std::fs::read(file.unwrap().path()).unwrap())).count();
    println!("{target}: {runs} files");
    assert!(runs >= 3, "{target}: {runs} files");
}

#[test]
fn fault_line() {
    each("fault_line", fuzzed::fault_line);
}

#[test]
fn script() {
    each("script", fuzzed::script);
}
