//! The longer stages: `cargo xtask fuzz [SECONDS]`, `cargo xtask browser`, `cargo xtask limits`, `cargo xtask qemu STAGE`.
#![forbid(unsafe_code)]

mod browser;
mod checks;
mod fuzz;
mod limits;
mod program;
mod qemu;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask fuzz [SECONDS]   fuzz each target for so long (60)
       cargo xtask browser          what render draws, in Chromium
       cargo xtask limits           size, start, time and memory of the program
       cargo xtask qemu boot        a guest in QEMU: does it start, what is on its bus
       cargo xtask qemu sysfs       the program and a driver of ours on a card in a guest
       cargo xtask qemu nouveau     nouveau on the software GPU, and the page tables that it writes";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["fuzz"] => fuzz::fuzz(60),
        ["fuzz", seconds] => match seconds.parse() {
            Ok(seconds) => fuzz::fuzz(seconds),
            Err(_) => Err(format!("{seconds:?} are no seconds\n{USAGE}")),
        },
        ["browser"] => browser::browser(),
        ["limits"] => limits::limits(),
        ["qemu", stage] => qemu::run(stage).unwrap_or_else(|| Err(format!("no stage {stage:?}\n{USAGE}"))),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
