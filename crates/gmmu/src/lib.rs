//! Virtual memory of NVIDIA GPUs.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod bits;
pub mod chip;
pub mod device;
pub mod fb;
pub mod format;
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
