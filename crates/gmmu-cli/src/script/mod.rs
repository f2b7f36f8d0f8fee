//! Scripts: a GPU, its address spaces and what happens to them, one operation a line.

mod books;
mod ops;
mod parse;
mod refusal;
mod runner;
mod words;
mod work;

#[cfg(test)]
mod tests;

pub use ops::Script;
pub use runner::{Broken, Ran, Runner};
