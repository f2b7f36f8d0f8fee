//! What the tests of this program share: running it in this process.

use std::ffi::OsString;

use gmmu_cli::console::{Streams, Terminal};

/// What a run of the program gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| fail(&format!("{error} in {self:?}")))
    }
}

#[expect(clippy::panic, reason = "a test says what it saw")]
#[track_caller]
pub(crate) fn fail(what: &str) -> ! {
    panic!("{what}")
}

/// Runs `gmmu` with `args` and `input` on its stdin.
pub(crate) fn gmmu_with(args: &[&str], mut input: &[u8]) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let streams = Streams { input: &mut input, out: &mut out, err: &mut err, terminal: Terminal::default() };
    let exit = gmmu_cli::run(std::iter::once("gmmu").chain(args.iter().copied()).map(OsString::from), streams);
    let text = |bytes| String::from_utf8(bytes).unwrap_or_else(|error| fail(&error.to_string()));
    Ran { code: exit.code(), out: text(out), err: text(err) }
}
