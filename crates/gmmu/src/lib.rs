//! Virtual memory of NVIDIA GPUs.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod bits;
pub mod chip;
pub mod device;
pub mod format;
#[cfg(feature = "alloc")]
pub mod storage;
pub mod walk;
