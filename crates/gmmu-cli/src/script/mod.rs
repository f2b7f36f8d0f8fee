//! Scripts: a GPU, its address spaces and what happens to them, one operation a line.

mod parse;
mod runner;

pub use parse::Script;
pub use runner::{Broken, Ran, Runner};
