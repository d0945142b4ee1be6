//! Containers on a real containerd and a real OCI runtime: what a function finds inside, what it
//! cannot do, and what is left of it.

mod inside;
mod life;
mod limits;
mod room;
