//! Triggers: calls of functions without a client, by schedules.

pub mod cron;
