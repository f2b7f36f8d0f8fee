//! What is measured of the library, and beside whom.
//!
//! [`vram`] and [`va`] hold the streams of requests for the allocators and their peers, [`vmm`] the jobs of an address
//! space beside the plain stores that they come down to, and [`counts`] what such jobs cost on a model's registers.
//! [`rows`] puts them together into the tables that `cargo bench` and `gmmu bench` print. Times are for an idle core:
//! look at the ratios of one run.
#![forbid(unsafe_code)]
#![expect(clippy::cast_precision_loss, reason = "measurements are rounded")]

pub mod counts;
pub mod memory;
pub mod rows;
pub mod va;
pub mod vmm;
pub mod vram;

pub use rows::{machine, Limit, Row};
