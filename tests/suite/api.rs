//! The API over a whole fleet whose engine and network are fakes: what clients send, and exactly what
//! they are answered.

mod browsers;
mod client;
mod cron;
mod disk;
mod faas_cli;
mod functions;
mod handlers;
mod logs_and_images;
mod metrics;
mod queue;
mod secrets_and_namespaces;
mod world;
