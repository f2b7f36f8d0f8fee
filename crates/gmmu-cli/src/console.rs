//! How commands talk: data on stdout as text or JSON, notes on stderr, colour where it is wanted.
//!
//! A command builds one value of its view type and hands it to [`Console::show`]. The same value is what `--json`
//! prints, so the two cannot disagree. Text is written with styles in it, which are taken out again where no colour
//! is wanted.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Read, Write};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde::Serialize;

use crate::exit::Failure;
use crate::wrap::{WIDTH, wrapped};

/// The number that every JSON object starts with.
pub const SCHEMA: u32 = 1;

/// Names and headings.
pub const STRONG: Style = Style::new().bold();
/// Text as any other.
pub const PLAIN: Style = Style::new();
/// What matters less.
pub const FAINT: Style = Style::new().dimmed();
/// Good news.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Bad news.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Neither: worth a look.
pub const ODD: Style = AnsiColor::Yellow.on_default();

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What the streams are connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Terminal {
    /// Colour may be used on stdout.
    pub out_color: bool,
    /// Colour may be used on stderr.
    pub err_color: bool,
    /// Somebody watches stdout: it must not be interrupted while it is written.
    pub out_watched: bool,
    /// Somebody watches stderr: progress is worth printing.
    pub err_watched: bool,
    /// Stdin is a keyboard: waiting for it in silence would look like a hang.
    pub in_keyboard: bool,
}

/// Where input comes from and output goes to.
pub struct Streams<'a> {
    /// Standard input.
    pub input: &'a mut dyn Read,
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// What they are connected to.
    pub terminal: Terminal,
}

impl Streams<'_> {
    /// What the streams of this process are connected to.
    #[must_use]
    pub fn terminal() -> Terminal {
        let colorful = |choice| choice != anstream::ColorChoice::Never;
        Terminal {
            out_color: colorful(anstream::AutoStream::choice(&io::stdout())),
            err_color: colorful(anstream::AutoStream::choice(&io::stderr())),
            out_watched: io::stdout().is_terminal(),
            err_watched: io::stderr().is_terminal(),
            in_keyboard: io::stdin().is_terminal(),
        }
    }
}

impl fmt::Debug for Streams<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

/// Something that a command has found out: text for people and JSON for programs, from one value.
pub trait View: Serialize {
    /// Writes the value for people.
    ///
    /// # Errors
    /// Those of the console's stdout.
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure>;
}

/// The streams, and how they are to be used.
pub struct Console<'a> {
    input: &'a mut dyn Read,
    out: BufWriter<&'a mut dyn Write>,
    err: &'a mut dyn Write,
    json: bool,
    terminal: Terminal,
    line: String,
}

impl<'a> Console<'a> {
    /// A console on `streams`.
    pub fn new(streams: Streams<'a>, json: bool, color: Color) -> Self {
        let Streams { input, out, err, mut terminal } = streams;
        match color {
            Color::Auto => {}
            Color::Always => (terminal.out_color, terminal.err_color) = (true, true),
            Color::Never => (terminal.out_color, terminal.err_color) = (false, false),
        }
        Self { input, out: BufWriter::new(out), err, json, terminal, line: String::new() }
    }

    /// Standard input.
    pub fn input(&mut self) -> &mut dyn Read {
        self.input
    }

    /// Whether `--json` was given.
    #[must_use]
    pub const fn json(&self) -> bool {
        self.json
    }

    /// What the streams are connected to.
    #[must_use]
    pub const fn terminal(&self) -> Terminal {
        self.terminal
    }

    /// Prints `view`, as text or as one line of JSON.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn show(&mut self, view: &impl View) -> Result<(), Failure> {
        if self.json {
            self.raw_json(view)?;
            self.raw("\n")
        } else {
            view.text(self)
        }
    }

    /// Writes `value` as JSON with nothing around it, for commands that stream a long list.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn raw_json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.out, value).map_err(|error| Failure::from(io::Error::from(error)))
    }

    /// Writes `text` to stdout as it is.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn raw(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.out.write_all(text.as_bytes())?)
    }

    /// Writes one line of text, styles allowed.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn line(&mut self, text: fmt::Arguments<'_>) -> Result<(), Failure> {
        self.line.clear();
        // Writing to a string fails only if a `Display` does.
        let _ = fmt::write(&mut self.line, text);
        self.line.push('\n');
        if self.terminal.out_color {
            self.out.write_all(self.line.as_bytes())?;
        } else {
            write!(self.out, "{}", anstream::adapter::strip_str(&self.line))?;
        }
        Ok(())
    }

    /// Prints `text` in lines of [`WIDTH`] columns: the first behind `lead`, the others behind as many blanks as `indent`.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn paragraph(&mut self, lead: &str, indent: usize, style: Style, text: &str) -> Result<(), Failure> {
        let width = WIDTH.saturating_sub(indent.max(lead.chars().count()));
        for (n, line) in wrapped(text, width).iter().enumerate() {
            let (lead, indent) = if n == 0 { (lead, 0) } else { ("", indent) };
            self.line(format_args!("{lead}{:indent$}{style}{line}{style:#}", ""))?;
        }
        Ok(())
    }

    /// Tells the person at the terminal something that is not data.
    pub fn note(&mut self, text: fmt::Arguments<'_>) {
        // What was found before belongs in front of it. A stdout that is closed shows at the next write to it.
        let _ = self.out.flush();
        self.say(ODD, "note", text);
    }

    /// Reports the failure that ends the program.
    pub fn fail(&mut self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        // What was found before the failure belongs in front of it.
        let _ = self.out.flush();
        self.say(BAD, "error", format_args!("{}", failure.what()));
        if let Some(hint) = failure.hint_line() {
            self.say(GOOD, "hint", format_args!("{hint}"));
        }
    }

    fn say(&mut self, style: Style, word: &str, text: fmt::Arguments<'_>) {
        let line = format!("{style}{word}:{style:#} {text}\n");
        // Nobody is left to tell when stderr is closed.
        let _ = if self.terminal.err_color {
            self.err.write_all(line.as_bytes())
        } else {
            write!(self.err, "{}", anstream::adapter::strip_str(&line))
        };
    }

    /// Hands everything written so far to stdout.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}

impl fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("json", &self.json).field("terminal", &self.terminal).finish_non_exhaustive()
    }
}
