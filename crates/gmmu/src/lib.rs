//! Virtual memory of NVIDIA GPUs.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod device;
#[cfg(feature = "alloc")]
pub mod storage;
#[cfg(feature = "alloc")]
pub mod vram;
