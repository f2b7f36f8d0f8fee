//! README's sessions, run in the top folder, where a reader stands. A binary of its own, since that folder belongs to
//! the whole process.

#[test]
fn readme() {
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).expect("the top folder");
    trycmd::TestCases::new().case("README.md");
}
