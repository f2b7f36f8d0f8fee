//! Address spaces: [`Vmm`] prepares changes of one, and keeps the books.
//!
//! ```text
//! request ─ plan ─ init ─▶ Job ─ (frames) ─ write ─ flush ─▶ Receipt ─ commit
//! └────── prepare ──────┘        └───── execute ──────┘
//! ```
//! `prepare` and `commit` are the planner's: they may allocate and free, and belong under the planner's lock. `write`
//! and `flush` are the [`Job`]'s own: they touch hardware alone, under the hardware's lock. A job that builds on an
//! earlier one is refused with [`ExecuteError::NotYet`] until that one was executed.

pub mod execute;

#[cfg(feature = "alloc")]
mod adopt;
#[cfg(feature = "alloc")]
mod batch;
#[cfg(feature = "alloc")]
mod bind;
#[cfg(feature = "alloc")]
mod change;
#[cfg(feature = "alloc")]
mod commit;
#[cfg(feature = "alloc")]
mod defragment;
#[cfg(feature = "alloc")]
mod domain;
#[cfg(feature = "alloc")]
mod foreign;
#[cfg(feature = "alloc")]
mod frames;
#[cfg(feature = "alloc")]
mod halves;
#[cfg(feature = "alloc")]
mod job;
#[cfg(feature = "alloc")]
mod journal;
#[cfg(feature = "alloc")]
mod large;
#[cfg(feature = "alloc")]
mod leaves;
#[cfg(feature = "sabotage")]
mod mistakes;
#[cfg(feature = "alloc")]
mod pages;
#[cfg(feature = "alloc")]
mod piece;
#[cfg(feature = "alloc")]
mod place;
#[cfg(feature = "alloc")]
mod plan;
#[cfg(feature = "alloc")]
mod prepare;
#[cfg(feature = "alloc")]
mod rebind;
#[cfg(feature = "alloc")]
mod reclaim;
#[cfg(feature = "alloc")]
mod record;
#[cfg(feature = "alloc")]
mod request;
#[cfg(feature = "alloc")]
mod restore;
#[cfg(feature = "alloc")]
mod rounds;
#[cfg(feature = "alloc")]
mod slots;
#[cfg(feature = "alloc")]
mod space;
#[cfg(feature = "alloc")]
mod steps;
#[cfg(feature = "alloc")]
mod zap;

#[cfg(feature = "alloc")]
pub use adopt::AdoptError;
#[cfg(feature = "alloc")]
pub use batch::{flush_all, poll_flush_all};
#[cfg(feature = "alloc")]
pub use bind::Bind;
#[cfg(feature = "alloc")]
pub use commit::{CloseError, CommitError};
#[cfg(feature = "alloc")]
pub use frames::{FramesError, Want};
#[cfg(feature = "alloc")]
pub use job::{ExecuteError, Failed, Flushed, Job, Ready, Receipt, State};
#[cfg(feature = "sabotage")]
pub use mistakes::Mistakes;
#[cfg(feature = "alloc")]
pub use pages::MapError;
#[cfg(feature = "alloc")]
pub use piece::{Backed, Piece};
#[cfg(feature = "alloc")]
pub use prepare::Plan;
#[cfg(feature = "alloc")]
pub use request::{Backing, Extent, Live, MapRequest, Place, PrepareError, Protection, Span};
#[cfg(feature = "alloc")]
pub use space::{Census, Mapping, SpaceConfig, Use, Vmm};
#[cfg(feature = "alloc")]
pub use steps::{Region, Step};
#[cfg(feature = "alloc")]
pub use zap::{Zap, ZapError};
