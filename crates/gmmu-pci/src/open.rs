//! Opening a card: what must not stand in the way, and one program at a time.
//!
//! Reading video memory moves the PRAMIN window, which everybody on the card shares. So nobody gets a card that a driver
//! counts on, and of programs that open cards this way only one has a card at a time: the lock is on the card's own
//! `resource0`, which is the same file for all of them and needs no cleaning up.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::card::Card;
use crate::map::{MapError, Mapping};
use crate::system::System;
use crate::ways::{self, Obstacle, Stops};

/// Why a card was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Something stands in the way, and would even if nobody else had the card.
    #[error("{}", .0.says)]
    Obstacle(Obstacle),
    /// Another program has it open.
    #[error("{}: another program reads or writes the card", .0.display())]
    Busy(PathBuf),
    /// The file of BAR0 cannot be locked.
    #[error("{}: {error}", .path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A BAR cannot be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// The card is ours as long as this lives.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "what closes it gives the lock back")] File);

/// Whether an obstacle keeps from video memory; what perhaps does is tried.
fn stops(obstacle: &Obstacle) -> bool {
    obstacle.stops != Stops::Perhaps
}

/// Opens BAR0 of `card`, for reading alone unless asked otherwise: moving the PRAMIN window is a write.
///
/// # Errors
/// [`OpenError`]: the first thing that stands in the way of video memory, as [`ways`](ways::ways) has it.
pub fn open(sys: &Path, card: &Card, system: &System, writable: bool) -> Result<(Alone, Mapping), OpenError> {
    let [sysfs, ..] = ways::ways(card, system);
    if let Some(obstacle) = sysfs.obstacles.into_iter().find(stops) {
        return Err(OpenError::Obstacle(obstacle));
    }
    let path = sys.join(format!("bus/pci/devices/{}/resource0", card.bdf));
    let lock = |error: io::Error| OpenError::Lock { path: path.clone(), error };
    let file = OpenOptions::new().read(true).open(&path).map_err(lock)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Busy(path)),
        Err(error) => return Err(lock(error.into())),
    }
    // Who was bound between the first look and the lock is seen now; who comes later finds a card in use.
    Ok((Alone(file), Mapping::open(sys, card, 0, writable)?))
}
