//! `gmmu completions`: what a shell needs to complete this command line.

use clap::CommandFactory;
use clap_complete::Shell;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::Cli;
use crate::console::{Console, SCHEMA, View};
use crate::exit::{Exit, Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  gmmu completions bash > ~/.local/share/bash-completion/completions/gmmu
  gmmu completions zsh > ~/.zfunc/_gmmu
  gmmu completions fish > ~/.config/fish/completions/gmmu.fish";

/// Arguments of `gmmu completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// All that `gmmu completions` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Completions {
    schema: u32,
    shell: String,
    script: String,
}

/// Runs the command.
///
/// # Errors
/// Those of stdout.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "gmmu", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    console.show(&Completions { schema: SCHEMA, shell: args.shell.to_string(), script })?;
    Ok(Exit::Done)
}

impl View for Completions {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        console.raw(&self.script)
    }
}
