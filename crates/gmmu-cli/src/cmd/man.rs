//! `gmmu man`: manual pages, made from the command line itself.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::Cli;
use crate::console::{Console, SCHEMA, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{unwritable, write_whole};

const EXAMPLES: &str = "\
Examples:
  gmmu man | man -l -
  gmmu man ~/.local/share/man/man1

With a folder, which is made if it is not there, one page for each command is
written into it; without, the page of gmmu itself goes to stdout.";

/// Arguments of `gmmu man`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The folder to write all pages into
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// All that `gmmu man` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Pages {
    schema: u32,
    /// The files that were written.
    files: Vec<String>,
    /// The page of the program, where none were.
    page: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// The folder or a page cannot be written.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let mut command = Cli::command();
    command.build();
    let mut pages = Pages { schema: SCHEMA, files: Vec::new(), page: None };
    match &args.folder {
        Some(folder) => {
            fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
            write_all(&command, folder, &mut pages.files)?;
        }
        None => pages.page = Some(String::from_utf8_lossy(&page(&command)?).into_owned()),
    }
    console.show(&pages)?;
    Ok(Exit::Done)
}

/// Writes the page of `command`, and those of its commands.
fn write_all(command: &Command, folder: &Path, files: &mut Vec<String>) -> Result<(), Failure> {
    let path = folder.join(Man::new(command.clone()).get_filename());
    let page = page(command)?;
    write_whole(&path, |file| file.write_all(&page).map_err(|error| unwritable(&path, &error)))?;
    files.push(path.display().to_string());
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.into_iter().try_for_each(|command| write_all(command, folder, files))
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let source = format!("gmmu {}", env!("CARGO_PKG_VERSION"));
    // Without the date of the build, so that equal sources make equal pages.
    let man = Man::new(command.clone()).title(name.to_uppercase()).source(source).manual("gmmu");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(help) = command.get_after_help() {
        as_typed(&help.to_string(), &mut page)?;
    }
    if name != "gmmu" {
        page.extend_from_slice(b".SH \"SEE ALSO\"\n.BR gmmu (1)\n");
    }
    Ok(page)
}

/// The text below the help, line by line: `clap_mangen` would fill the lines, and examples run into each other.
fn as_typed(help: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let (heading, text) = match help.strip_prefix("Examples:\n") {
        Some(text) => ("EXAMPLES", text),
        None => ("NOTES", help),
    };
    writeln!(page, ".SH {heading}\n.nf")?;
    for line in text.lines() {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // A line that starts so would be a request.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        writeln!(page, "{guard}{line}")?;
    }
    writeln!(page, ".fi")
}

impl View for Pages {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        if let Some(page) = &self.page {
            console.raw(page)?;
        }
        self.files.iter().try_for_each(|file| console.line(format_args!("{file}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_stay_as_they_are_typed() {
        let mut page = Vec::new();
        as_typed("Examples:\n  gmmu walk a\\b\n.not a request", &mut page).expect("writes");
        assert_eq!(page, b".SH EXAMPLES\n.nf\n  gmmu walk a\\eb\n\\&.not a request\n.fi\n");
    }
}
