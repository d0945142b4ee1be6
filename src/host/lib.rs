//! This machine, behind types of our own: containerd, the network, the store, and files.
//!
//! Only [`runtime`] names containerd, only [`network`] netlink, only [`store`] sled.

pub mod bundles;
pub mod config_file;
pub mod exec;
pub mod fd_store;
pub mod liveness;
pub mod logs;
pub mod network;
pub mod private_file;
pub mod runtime;
pub mod secrets;
pub mod store;
