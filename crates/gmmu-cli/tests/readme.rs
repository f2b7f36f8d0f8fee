//! The sessions of the README and of the pages in docs, run in the top folder, where a reader stands. A binary of its own, since that folder belongs to
//! the whole process.

#[test]
fn readme() {
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).expect("the top folder");
    trycmd::TestCases::new()
        .case("README.md")
        .case("docs/scripts.md")
        .case("docs/commands/*.md")
        .case("docs/reading-page-tables.md");
}

#[test]
fn every_command_has_a_page_and_a_schema() {
    let top = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let commands = <gmmu_cli::cli::Cli as clap::CommandFactory>::command();
    let names: Vec<&str> = commands.get_subcommands().map(clap::Command::get_name).collect();
    assert!(names.len() >= 21, "{names:?}");
    for name in names {
        for file in [format!("docs/commands/{name}.md"), format!("docs/schemas/{name}.json")] {
            assert!(top.join(&file).exists(), "{file}");
        }
    }
}
