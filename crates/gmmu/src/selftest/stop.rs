//! Why a self-test did not get to the end of a check: whatever the library said.

use super::Sight;
use crate::bar1::{AccessError, MapFailed, UnmapError};
use crate::storage::NoMemory;
use crate::vmm::{CloseError, CommitError, ExecuteError, PrepareError};
use crate::vram::{AllocError, InvalidRequest};
use crate::walk::WalkError;

/// An error of the library where a check expected none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stop {
    /// A change could not be prepared.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// A job could not be executed.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// A job could not be committed or cancelled.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A space could not be closed.
    #[error(transparent)]
    Close(#[from] CloseError),
    /// Tables could not be read.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// BAR1 refused to map.
    #[error(transparent)]
    Map(#[from] crate::bar1::MapError),
    /// An access through BAR1 was refused.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// BAR1 refused to unmap.
    #[error(transparent)]
    Unmap(#[from] UnmapError),
    /// Memory could not be allocated.
    #[error(transparent)]
    Alloc(#[from] AllocError),
    /// The library's records have no memory.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}

macro_rules! sight_of {
    ($($error:ty),*) => {
        $(impl From<$error> for Sight {
            fn from(why: $error) -> Self {
                Self::Stopped(why.into())
            }
        })*
    };
}

sight_of!(
    PrepareError,
    ExecuteError,
    CommitError,
    CloseError,
    WalkError,
    AccessError,
    UnmapError,
    AllocError,
    NoMemory
);

impl From<InvalidRequest> for Sight {
    fn from(why: InvalidRequest) -> Self {
        AllocError::InvalidRequest(why).into()
    }
}

impl<T> From<MapFailed<T>> for Sight {
    fn from(failed: MapFailed<T>) -> Self {
        match failed {
            MapFailed::Refused { why, .. } => Self::Stopped(why.into()),
            MapFailed::Poisoned { why, .. } => why.into(),
        }
    }
}
