//! [`super::Network`] from a CNI conflist.
