//! Scripts: a GPU, its address spaces and what happens to them, one operation a line.

mod bar1;
mod books;
mod changes;
mod expect;
mod explore;
mod jobs;
mod ops;
mod parse;
mod refusal;
mod runner;
mod schedule;
mod threads;
mod words;
mod work;

#[cfg(test)]
mod tests;

pub use bar1::Occupancy;
pub use explore::{Explored, Explorer, Order, Trial};
pub use ops::Script;
pub use runner::{Broken, Ran, Runner};
