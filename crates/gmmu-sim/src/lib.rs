//! A software NVIDIA GPU for tests of drivers: as much of the card as its memory management sees.
//!
//! [`Gpu`] is the card. A driver reaches it as it reaches a real one: through the registers of BAR0
//! ([`gmmu::device::Bar0`]), with the PRAMIN window on memory, the invalidate and BAR block registers, and the fault
//! buffer, and through system memory, to which the CPU stores by itself ([`CpuMemory`]); its time
//! ([`gmmu::device::Clock`]) is a model's. A test reaches more: it lets engines access memory through
//! the MMU ([`Gpu::access`], [`Gpu::load`], [`Gpu::store`]), looks without a trace ([`Gpu::peek_translate`],
//! [`Gpu::peek_vram`]), counts what the driver cost ([`Gpu::counts`]) and asks what it did wrong ([`Gpu::findings`]).
//!
//! What hardware does wrong can be asked for: an acknowledgement that never comes, a card that leaves the bus
//! ([`Gpu::inject`]), memory for tables that runs out ([`Notes::exhaust`]).
//!
//! The translation caches keep every entry that they have seen until an invalidate covers it: the worst that hardware
//! may do. The [`sanitizer`] judges every access and every store to a table.
//!
//! Of `gmmu` this crate uses the addresses and the device traits, and nothing else: its decoder and its register map
//! were written on their own, so that a wrong bit on one side shows.
//!
//! ```
//! use gmmu_sim::{Config, Gpu};
//! use gmmu::device::Bar0;
//!
//! let mut gpu = Gpu::new(&Config::chip("tu102"))?;
//! assert_eq!(gpu.read32(0).map(|boot_0| boot_0 >> 20), Ok(0x162));
//! assert_eq!(gpu.counts().reads, 1);
//! # Ok::<(), gmmu_sim::ConfigError>(())
//! ```
#![forbid(unsafe_code)]

// What the card is.
mod around;
mod chip;
mod config;
mod counts;
mod gpu;
mod model;
mod rng;

// What the bus reaches: BAR0 and what lies behind it.
mod bus;
mod carveouts;
mod loss;
mod mishap;
mod pramin;
mod regs;

// Memory, and every change of it.
mod cpu;
mod memory;
mod order;
mod store;

// The MMU: entries, the walk, the caches, the accesses of engines and BARs, and what can go wrong with them.
mod format;

mod mmu;

mod access;
mod client;
mod record;
mod speculation;
mod tlb;

mod bar1;
mod bars;
mod fault;
mod invalidate;

// The sanitizer: its rules, what it is told, which tables are live, and the sizes with which addresses translate.
pub mod sanitizer;

mod blame;
mod entries;
mod graph;
mod halves;
mod notes;
mod rules;
mod sizes;
mod syspool;
mod system;
mod watch;

pub mod trace;

pub use chip::{ChipModel, MmuVersion};
pub use config::{Bus, Carveouts, Config, ConfigError, Speculation};
pub use counts::Counts;
pub use cpu::{CpuMemory, CpuPath};
pub use fault::{AccessKind, Client, Fault, FaultType};
pub use format::Flags;
pub use gpu::{Gpu, Peek};
pub use memory::Space;
pub use mishap::Mishap;
pub use mmu::Translated;
pub use sanitizer::{Event, Finding, Rule, RuleInfo, Severity};
pub use syspool::SysPool;
pub use watch::{Notes, Watched};
