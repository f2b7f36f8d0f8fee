//! The program `gmmu` without its process.
//!
//! [`run`] takes arguments and streams and gives an exit code, so a test drives it as a shell does. Read on in this
//! order: [`cli`] is the command line, [`cmd`] one file per command; [`exit`], [`console`] and [`num`] are what the
//! commands share: how they end, how they talk, and how they read numbers.
#![forbid(unsafe_code)]

pub mod bad;
pub mod cards;
pub mod check;
pub mod cli;
pub mod cmd;
pub mod console;
pub mod entry;
pub mod exit;
pub mod fault;
pub mod files;
pub mod format;
pub mod hole;
pub mod machine;
pub mod notation;
pub mod num;
pub mod progress;
pub mod ranges;
pub mod roots;
pub mod scan;
pub mod schemas;
pub mod script;
pub mod snapshot;
pub mod source;
pub mod stream;
pub mod survey;
pub mod wrap;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};

use console::{Console, Streams};
use exit::Exit;

/// The names of all commands.
#[must_use]
pub fn command_names() -> Vec<String> {
    cli::Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

/// Runs the program on `args` (the first is its own name).
pub fn run(args: impl IntoIterator<Item = OsString>, streams: Streams<'_>) -> Exit {
    let command = cli::Cli::command();
    let parsed = command.try_get_matches_from(args).and_then(|matches| cli::Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(said) => return usage(&said, streams),
    };
    let mut console = Console::new(streams, cli.json, cli.color);
    let result = cli.command.run(&mut console).and_then(|exit| {
        console.flush()?;
        Ok(exit)
    });
    match result {
        Ok(exit) => exit,
        Err(failure) => {
            console.fail(&failure);
            failure.exit()
        }
    }
}

/// Prints what clap has to say: help and version are data, everything else is a usage error.
fn usage(said: &clap::Error, streams: Streams<'_>) -> Exit {
    let text = said.render();
    let (sink, color, exit) = if said.use_stderr() {
        (streams.err, streams.terminal.err_color, Exit::Usage)
    } else {
        (streams.out, streams.terminal.out_color, Exit::Done)
    };
    // A reader that has gone away is no error, and there is nobody else to tell.
    let _ = if color { write!(sink, "{}", text.ansi()) } else { write!(sink, "{text}") };
    let _ = sink.flush();
    exit
}
