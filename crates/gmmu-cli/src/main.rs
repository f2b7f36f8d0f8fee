//! The program `gmmu`.
fn main() {}
