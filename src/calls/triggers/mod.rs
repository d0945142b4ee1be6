//! What calls functions without a client: schedules.

pub mod cron;
