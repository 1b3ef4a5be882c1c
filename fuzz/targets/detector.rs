//! `cargo xtask fuzz --target detector`; what it checks is in `src/detector.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| xknock_fuzz::detector::run(input));
