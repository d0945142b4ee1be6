//! How the process ends.
//!
//! The first process of a container has no default for SIGTERM: without a handler the kernel drops the
//! signal, and stopping the container takes until the SIGKILL. The standard library has no way to set one.
#![allow(unsafe_code, reason = "signal(2) is not in the standard library, and this needs nothing else")]

use std::ffi::c_int;

const SIGTERM: c_int = 15;

unsafe extern "C" {
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn _exit(code: c_int) -> !;
}

extern "C" fn leave(_: c_int) {
    now(0);
}

/// Lets SIGTERM end the process at once, with success: nothing here is worth finishing.
pub(crate) fn on_sigterm() {
    // SAFETY: the handler only calls `_exit`, which is safe in a signal handler, and never returns.
    unsafe { signal(SIGTERM, leave) };
}

/// Ends the process with this code, whatever its threads are doing.
pub(crate) fn now(code: c_int) -> ! {
    // SAFETY: `_exit` has no conditions.
    unsafe { _exit(code) }
}
