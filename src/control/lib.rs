//! The control plane: what should run on this machine, and what is done so that it does.
//!
//! [`fleet`] has an owner for each function, [`replica`] starts and stops one container, [`images`] makes room,
//! [`first_boot`] deploys what the machine was set up with. Calls learn of all this from the directory alone.

pub mod first_boot;
pub mod fleet;
pub mod images;
pub mod replica;
