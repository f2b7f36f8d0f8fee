//! The program `gmmu`: its process. All the rest is in the library beside it.
#![forbid(unsafe_code)]

use std::io::{stderr, stdin, stdout};
use std::process::ExitCode;

use gmmu_cli::console::Streams;

fn main() -> ExitCode {
    let streams = Streams {
        input: &mut stdin().lock(),
        out: &mut stdout().lock(),
        err: &mut stderr(),
        terminal: Streams::terminal(),
    };
    gmmu_cli::run(std::env::args_os(), streams).into()
}
