//! How a command ends: the exit codes, and the error that carries one.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// What the program's exit code says. Scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; for `walk`: mapped or sparse; for `dump`: even if empty.
    Done = 0,
    /// Done, and the answer is no: unmapped, findings, differences, nothing understood, output cut short.
    Negative = 1,
    /// The command line, or a script, does not parse or does not fit together.
    Usage = 2,
    /// Input is missing, broken, or cannot be read.
    Input = 3,
    /// Access was refused: permission, lockdown, a driver that is bound.
    Refused = 4,
    /// A device looks dead: all-ones or an error word.
    Dead = 5,
}

impl Exit {
    /// The number that the process ends with.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl Exit {
    /// The code for a file that cannot be opened, read or written: a missing permission has one of its own.
    #[must_use]
    pub fn of_file(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Refused,
            _ => Self::Input,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command could not do its work: what and where, what would be right, and the exit code.
///
/// There is no way to make one without choosing the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    what: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure with an exit code of the caller's choice.
    pub fn new(exit: Exit, what: impl fmt::Display) -> Self {
        Self { exit, what: what.to_string(), hint: None }
    }

    /// Options that do not fit together, or a script that does not parse.
    pub fn usage(what: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// Input that is missing, broken or unreadable.
    pub fn input(what: impl fmt::Display) -> Self {
        Self::new(Exit::Input, what)
    }

    /// The same, with a line that says what would be right.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// The exit code.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// Whether there is nothing to say: the reader of our output has gone.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        matches!(self.exit, Exit::Done)
    }

    /// What went wrong, without the hint.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What would be right.
    #[must_use]
    pub fn hint_line(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// An error while writing to stdout. Input has names, so its errors are made by hand where the name is known.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // `gmmu dump … | head` is a fine thing to do.
            io::ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            _ => Self::input(format_args!("stdout: {error}")),
        }
    }
}

/// What a command returns.
pub type Outcome = Result<Exit, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_error_but_a_full_disk_is() {
        let closed = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(closed.is_silent());
        assert_eq!(closed.exit().code(), 0);
        let full = Failure::from(io::Error::from(io::ErrorKind::StorageFull));
        assert!(!full.is_silent());
        assert_eq!(full.exit().code(), 3);
        assert!(full.what().starts_with("stdout: "));
    }

    #[test]
    fn the_hint_is_a_line_of_its_own() {
        let failure = Failure::usage("no source").hint("give --file PATH");
        assert_eq!(failure.to_string(), "no source\nhint: give --file PATH");
    }
}
