//! The memory of a source, whatever kind it is: reads, and what to say where they fail.

use std::path::Path;

use gmmu::addr::TableAddr;
use gmmu::device::{DeviceError, TableRead};
use gmmu::walk::Why;

use super::image::Image;
use super::model::Model;
#[cfg(target_os = "linux")]
use super::pci::Card;
use crate::exit::Failure;
use crate::machine::Bar1View;
use crate::snapshot::Snapshot;

/// Memory that page tables are read from.
#[derive(Debug)]
pub enum Memory {
    /// A raw image.
    Image(Image),
    /// A snapshot.
    Snapshot(Box<Snapshot>),
    /// A model, after a script.
    Model(Box<Model>),
    /// A real card.
    #[cfg(target_os = "linux")]
    Card(Box<Card>),
}

impl Memory {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Image(image) => image.path(),
            Self::Snapshot(snapshot) => snapshot.path(),
            Self::Model(model) => model.path(),
            #[cfg(target_os = "linux")]
            Self::Card(card) => card.path(),
        }
    }

    /// Whether its address spaces are known, and by name: those of a snapshot or a script.
    #[must_use]
    pub const fn is_of_spaces(&self) -> bool {
        matches!(self, Self::Snapshot(_) | Self::Model(_))
    }

    /// Whether this is the memory of a card.
    #[must_use]
    pub const fn is_card(&self) -> bool {
        #[cfg(target_os = "linux")]
        return matches!(self, Self::Card(_));
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// How many bytes of it can hold tables.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        match self {
            Self::Image(image) => image.bytes_held(),
            Self::Snapshot(snapshot) => snapshot.pages().saturating_mul(4096),
            Self::Model(model) => model.bytes_held(),
            #[cfg(target_os = "linux")]
            Self::Card(card) => card.bytes_held(),
        }
    }

    /// How full BAR1 is, where the source knows.
    #[must_use]
    pub fn bar1(&self) -> Option<&Bar1View> {
        match self {
            Self::Model(model) => model.bar1(),
            _ => None,
        }
    }

    /// The failure for memory that could not be read any more.
    pub(crate) fn failure(&mut self, error: DeviceError) -> Failure {
        #[cfg(target_os = "linux")]
        if let Self::Card(card) = self {
            return card.failure(error);
        }
        let path = self.path().display().to_string();
        self.take_failure().unwrap_or_else(|| Failure::input(format_args!("{path}: {error}")))
    }

    /// Why the last read failed, where it was the file's fault, to be said once.
    pub(crate) fn take_failure(&mut self) -> Option<Failure> {
        match self {
            Self::Image(image) => {
                let system = image.take_error()?;
                Some(Failure::input(format_args!("{}: cannot be read: {system}", image.path().display())))
            }
            Self::Snapshot(snapshot) => snapshot.take_error(),
            _ => None,
        }
    }

    /// The failure for `what` at `at`, which the user asked for and which cannot be read.
    pub(crate) fn outside(&mut self, what: &str, at: TableAddr, error: DeviceError) -> Failure {
        let path = self.path().display().to_string();
        match (self, error) {
            (Self::Image(_), DeviceError::WrongAperture { .. }) => {
                Failure::input(format_args!("{path}: {what} {at} is in system memory, not in this image"))
            }
            (Self::Image(image), DeviceError::OutOfRange { .. }) => {
                let covers = image.covers();
                Failure::input(format_args!("{path}: {what} {at} is outside the image, which covers {covers}"))
                    .hint("--base ADDR says which VRAM address the first byte is")
            }
            (Self::Image(image), DeviceError::Unaligned { alignment, .. }) => {
                let covers = image.covers();
                Failure::input(format_args!(
                    "{path}: {what} {at} is not aligned to {alignment} bytes in the image, which covers {covers}"
                ))
            }
            (Self::Snapshot(snapshot), DeviceError::OutOfRange { .. }) => {
                let roots = snapshot.info().roots_text();
                Failure::input(format_args!("{path}: {what} {at} is not in the snapshot"))
                    .hint(format_args!("it has the tables of {roots}"))
            }
            (memory, other) => memory.failure(other),
        }
    }

    /// Why an entry is bad, as far as possible in terms of this memory.
    #[must_use]
    pub fn why(&self, why: &Why) -> String {
        let (what, error) = match why {
            Why::TableUnreadable(error) => ("the table", error),
            Why::Unreadable(error) => ("the entry", error),
            other => return other.to_string(),
        };
        match (self, error) {
            (Self::Image(_), DeviceError::WrongAperture { at }) => {
                format!("{what} is in system memory, at {at}, not in this image")
            }
            (Self::Image(image), DeviceError::OutOfRange { at, .. }) => {
                format!("{what} is outside the image, at {at}; the image covers {}", image.covers())
            }
            (Self::Snapshot(_), DeviceError::OutOfRange { at, .. }) => {
                format!("{what} is not in the snapshot, at {at}: it could not be read when that was made")
            }
            (_, other) => format!("{what} cannot be read: {other}"),
        }
    }
}

impl TableRead for Memory {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        match self {
            Self::Image(image) => image.read_words(at, words),
            Self::Snapshot(snapshot) => snapshot.read_words(at, words),
            Self::Model(model) => model.read_words(at, words),
            #[cfg(target_os = "linux")]
            Self::Card(card) => card.read_words(at, words),
        }
    }
}
