//! The whole: a built daemon on a real containerd, with real images, a real bridge and real calls.
//!
//! ```text
//! admin        access to the API through each of the sockets
//! canaries     secrets reach no log and no stranger
//! commands     commands of any image, with the watchdog that the daemon brings along
//! cron         the daemon killed again and again while a function is called each second
//! clock        the machine's clock jumps
//! handlers     code that has no image of its own
//! early        watchdogs that are ready before the server behind them
//! languages    the examples, each in its language
//! queue        the daemon killed again and again while calls are queued
//! soak         many queued calls, after which nothing has grown
//! long_calls   calls that take long, while their function is scaled to nothing
//! disk         an image in use stays, one that is not goes
//! lifecycle    deploy, update, scale, wake, remove; nothing is left
//! restarts     the daemon restarted under load
//! liveness     systemd is told that the threads turn over, for as long as they do
//! moving       export and apply, and the first boot
//! survival     the daemon restarted, killed, and everything killed
//! registry     pulled from a registry, and started again without it
//! refusals     bad input: the status, the reason, and that nothing was changed
//! doctor       what is wrong is found
//! limits       limits of a function on the machine
//! inside       what a function sees and reaches
//! failures     every step of a launch fails on a real containerd; nothing is left
//! flood        more connections than there are places, with requests that do not arrive whole
//! chaos        rounds in which something is killed while something is asked, under load
//! exhausted    a full or read-only disk, no free file, no free address
//! updates      updates in a row under load, without one failed call
//! power        the power is cut, and sectors go bad, under the state directory
//! upgrade      an older release is taken over under load
//! ```

mod admin;
mod backup;
mod canaries;
mod chaos;
mod clock;
mod commands;
mod cron;
mod disk;
mod doctor;
mod early;
mod exhausted;
mod failures;
mod flood;
mod handlers;
mod inside;
mod languages;
mod lifecycle;
mod limits;
mod liveness;
mod long_calls;
mod moving;
mod power;
mod queue;
mod refusals;
mod registry;
mod restarts;
mod soak;
mod state;
mod survival;
mod updates;
mod upgrade;
