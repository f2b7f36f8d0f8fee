//! What is measured of the allocators, and beside whom.
//!
//! [`vram`] and [`va`] hold the streams of requests and the peers; [`rows`] puts them together into the table that
//! `cargo bench` and `gmmu bench alloc` print. Times are for an idle core: look at the ratios of one run.
#![forbid(unsafe_code)]
#![expect(clippy::cast_precision_loss, reason = "measurements are rounded")]

pub mod rows;
pub mod va;
pub mod vram;

pub use rows::{machine, Row};
