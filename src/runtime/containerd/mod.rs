//! [`super::Runtime`] on containerd, over gRPC.
