//! The commands, one file each: its arguments, what it does, and what it shows.

pub mod bench;
pub mod capture;
pub mod completions;
pub mod decode;
pub mod doctor;
pub mod dump;
pub mod encode;
pub mod fault;
pub mod list;
pub mod man;
pub mod map;
pub mod replay;
pub mod run;
pub mod selftest;
pub mod tree;
pub mod walk;
