//! A software NVIDIA GPU for driver tests.
#![no_std]
