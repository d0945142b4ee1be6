//! [`super::Runtime`] on containerd, over gRPC.

mod client;
mod images;
