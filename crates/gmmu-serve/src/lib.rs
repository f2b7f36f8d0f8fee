//! The software GPU as a PCI device: whoever speaks vfio-user, QEMU above all, can plug it in, and drivers that know
//! nothing of it drive it.
//!
//! [`Card`] is the PCI function: configuration space, and regions of bytes over the registers and apertures of
//! [`gmmu_sim::Gpu`]. [`Server`] lets one client at a time reach it through a socket. [`Identity`] is what the bus is told.
//!
//! The server trusts nothing that it receives: a message is looked at whole, against limits, before anything is done
//! for it, and what is wrong with it is answered with an error. The crate `vfio_user` has a server too; it allocates
//! what a client names, panics on a version message that is too short, and loses its place after a refused message. So
//! the few messages that are needed are read here, and that crate's client is what tests use.
//! Linux alone: the descriptors of messages are closed on exec, which not every Unix can.
#![forbid(unsafe_code)]

mod card;
mod config_space;
mod furniture;
mod identity;
mod recording;
mod server;
mod vbios;
mod wire;

pub use card::{Card, CardError};
pub use identity::Identity;
pub use server::{Parted, Server};
