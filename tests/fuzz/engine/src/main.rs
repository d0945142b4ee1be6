//! libFuzzer, with the target that the variable `FUZZ_TARGET` names.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    fuzz::target(&name).unwrap_or_else(|| panic!("FUZZ_TARGET={name} is no target: see tests/fuzz/lib.rs"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
