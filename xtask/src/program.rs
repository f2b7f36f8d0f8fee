//! The program `gmmu`, in this process.

use gmmu_cli::console::{Streams, Terminal};

/// Runs the program, and gives what it prints.
pub(crate) fn gmmu(args: &[&str]) -> Result<String, String> {
    let args = std::iter::once("gmmu").chain(args.iter().copied()).map(Into::into);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let streams = Streams { input: &mut std::io::empty(), out: &mut out, err: &mut err, terminal: Terminal::default() };
    let exit = gmmu_cli::run(args, streams);
    let said = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if exit.code() == 0 { Ok(said(out)) } else { Err(said(err)) }
}
