//! The checks of the fuzz targets. Each takes any bytes, and panics if a promise is broken.
//!
//! The targets themselves only hand over what libFuzzer makes up. A plain test runs the same
//! functions on the corpus of each target, in `corpus/`.

pub mod config;
pub mod control;
pub mod detector;
pub mod keys;
pub mod netlink;
pub mod packet;

#[cfg(test)]
mod tests;
