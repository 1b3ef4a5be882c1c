//! `cargo xtask fuzz --target packet`; what it checks is in `src/packet.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| xknock_fuzz::packet::run(input));
