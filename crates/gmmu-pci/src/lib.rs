//! NVIDIA cards on Linux: which there are, and which ways of access work.
//!
//! Everything here is read from text files of sysfs and procfs. Nothing is mapped, bound or written, and no file is
//! opened that would wake a card: reading `config`, `vpd`, `rom` or `resourceN_resize` makes the kernel resume a
//! suspended one, so they are never touched. Device nodes and the `resourceN` files are only looked at from outside.
//!
//! Read on in this order: [`bdf`] is a card's address, [`card`] what sysfs says of it, [`chip`] what its device id
//! tells; [`system`] is what holds for all cards, and [`mod@ways`] which ways of access follow from both.
//!
//! Sysfs may lie, in a test, a container, or a copy in somebody's bug report: every file is read up to a limit,
//! and what does not read is named in [`card::Card::unread`].
#![forbid(unsafe_code)]

pub mod bdf;
pub mod card;
pub mod chip;
mod read;
pub mod system;
pub mod ways;

pub use bdf::Bdf;
pub use card::{Card, Cards};
pub use system::System;
pub use ways::{Way, ways};
