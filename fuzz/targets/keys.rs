//! `cargo xtask fuzz --target keys`; what it checks is in `src/keys.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| xknock_fuzz::keys::run(input));
