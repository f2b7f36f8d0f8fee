//! The sessions of the README and of the page about scripts, run in the top folder, where a reader stands. A binary of its own, since that folder belongs to
//! the whole process.

#[test]
fn readme() {
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).expect("the top folder");
    trycmd::TestCases::new().case("README.md").case("docs/scripts.md");
}
