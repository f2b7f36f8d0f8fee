//! NVIDIA cards on Linux: which there are, and which ways of access work.
//!
//! All but [`map`] is read from text files of sysfs and procfs. Nothing is bound or written there, and no file is
//! opened that would wake a card: reading `config`, `vpd`, `rom` or `resourceN_resize` makes the kernel resume a
//! suspended one, so they are never touched. Device nodes and the `resourceN` files are only looked at from outside.
//!
//! Read on in this order: [`bdf`] is a card's address, [`card`] what sysfs says of it, [`chip`] what its device id
//! tells; [`system`] is what holds for all cards, [`mod@ways`] which ways of access follow from both,
//! [`map`] maps a BAR of a card that is awake: it and the `view` of memory
//! that it gives are the only files of the workspace with `unsafe` in them; and [`open`] is how to get
//! at one, where nobody else counts on it. [`bars`] puts two of them together.
//!
//! Sysfs may lie, in a test, a container, or a copy in somebody's bug report: every file is read up to a limit,
//! and what does not read is named in [`card::Card::unread`].

#[cfg(target_os = "linux")]
pub mod bars;
pub mod bdf;
pub mod card;
pub mod chip;
#[cfg(target_os = "linux")]
pub mod map;
#[cfg(target_os = "linux")]
pub mod open;
mod read;
pub mod system;
#[cfg(target_os = "linux")]
mod view;
pub mod ways;

pub use bdf::Bdf;
pub use card::{Card, Cards};
pub use system::System;
pub use ways::{Way, ways};
