//! Everything that needs more than memory and loopback: root, containerd, a registry, a built daemon.
//!
//! One binary, so that it is linked once; `cargo nextest` runs each test in a process of its own, so a
//! test may do to its process what it likes. `sudo tests/run` is how to run all of it.
//!
//! Contents, each module with its own account of what it proves:
//!
//! ```text
//! support      what tests share: requirements, waiting, the sample image
//! examples     the sample function of examples/, by itself
//! fleet        the fleet over fakes: failures at every step, restarts
//! gateway      calls through the gateway's server to replicas that misbehave
//! containers   containers on containerd: what is inside, limits, life and death
//! images       images from registries and archives, kept in containerd
//! api          the API over a fleet whose engine and network are fakes
//! cli          the client commands, against a gateway of the test's own
//! installation  install.sh from the first run to the purge, with a containerd and a network of its own
//! installer    the checks of install.sh
//! logs         function output: floods, restarts, a full disk, clients that follow
//! machine      an ingle of the machine's own is neither seen nor changed
//! network      what replicas reach, and what they leave behind
//! shipped_files  what is installed agrees with the code
//! watchdog     the watchdog as a program: every mode, and processes that misbehave
//! whole        the built daemon on a real containerd: deploys, calls, restarts, bad input
//! ```
//!
//! Habits
//! - A test that cannot run here says why through `require!` or `require_root!`; with `CI` set that is
//!   a failure, so nothing is ever skipped in silence.
//! - Tests wait for conditions with `eventually!`; none sleeps for a guess.
//! - Everything a test makes carries a name of its own and is gone when the test ends, also when it fails:
//!   `tests/run` compares the machine before and after.

#[macro_use]
mod support;
mod api;
mod cli;
mod containers;
mod examples;
mod fleet;
mod gateway;
mod images;
mod installation;
mod installer;
mod logs;
mod machine;
mod network;
mod shipped_files;
mod watchdog;
mod whole;
