//! Virtual memory of NVIDIA GPUs: page tables that the GPU's own MMU ("GMMU") reads, for drivers, simulators and tools.
//!
//! The library is `no_std`, has no `unsafe` and never panics; it has no locks, no clock and no logging of its own.
//! Without the feature `alloc` it still decodes, walks, reaches hardware and executes prepared work. All that it asks of
//! the world is in [`device`].
//!
//! Read the modules in this order; it is the way of a mapping through the code.
//!
//! * What there is: [`addr`], [`chip`], and words made of named fields: [`bits`], [`regs`], [`mod@format`].
//! * How it is reached: the seams ([`device`]), the PRAMIN window ([`pramin`]), invalidates ([`tlb`]), the size of memory
//!   ([`fb`]), and all of it over one BAR0 ([`mmio`], with [`selftest`] to try it).
//! * How it is read: [`walk`].
//! * How it is changed: who owns memory (`vram`) and addresses (`va`), and address spaces with their jobs ([`vmm`]);
//!   through one of them the CPU reaches memory (`bar1`).
//! * Who uses it: instance blocks of channels and BARs ([`instance`]), and the parts of one GPU put together (`mm`).
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
mod aperture;
#[cfg(feature = "alloc")]
pub mod bar1;
pub mod bar_tables;
pub mod bits;
pub mod chip;
pub mod device;
pub mod fb;
pub mod format;
pub mod instance;
#[cfg(feature = "alloc")]
pub mod mm;
pub mod mmio;
pub mod pramin;
pub mod regs;
pub mod selftest;
#[cfg(feature = "alloc")]
pub mod storage;
pub mod tlb;
#[cfg(feature = "alloc")]
mod tree;
#[cfg(feature = "alloc")]
pub mod va;
pub mod vmm;
#[cfg(feature = "alloc")]
pub mod vram;
pub mod walk;

/// README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
