//! Sessions as typed into a shell, with all that the program says: `tests/cmd/*.trycmd`.

#[test]
fn sessions() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd");
}
