//! The command line: `serve` runs the daemon, everything else speaks HTTP to one.
