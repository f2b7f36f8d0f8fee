//! The example of the README is a test: it says what it finds, and fails where that is wrong.

#[path = "../examples/your_driver.rs"]
mod your_driver;

#[test]
fn your_drivers_page_tables_in_30_lines() -> Result<(), Box<dyn std::error::Error>> {
    your_driver::main()
}
