//! The commands, one file each: its arguments, what it does, and what it shows.

pub mod bench;
pub mod capture;
pub mod check;
pub mod completions;
pub mod decode;
pub mod diff;
pub mod doctor;
pub mod dump;
pub mod encode;
pub mod fault;
pub mod list;
pub mod man;
pub mod map;
pub mod render;
pub mod replay;
pub mod roots;
pub mod run;
pub mod selftest;
#[cfg(target_os = "linux")]
pub mod serve;
pub mod soak;
pub mod stats;
pub mod tree;
pub mod walk;
