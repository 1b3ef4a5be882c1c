//! `cargo xtask fuzz --target control`; what it checks is in `src/control.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| xknock_fuzz::control::run(input));
