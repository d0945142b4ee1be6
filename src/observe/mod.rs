//! Looks at every other part, and is looked at by none but the gateway and the commands.

pub mod doctor;
pub mod metrics;
