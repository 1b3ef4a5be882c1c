//! `cargo xtask fuzz --target netlink`; what it checks is in `src/netlink.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| xknock_fuzz::netlink::run(input));
