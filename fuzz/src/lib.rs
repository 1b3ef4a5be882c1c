//! What the fuzz targets check. Each takes bytes that may be anything, and panics if a
//! promise is broken.
//!
//! The targets themselves only hand over what libFuzzer makes up. The corpus of each, in
//! `corpus/`, goes through the same functions in a plain test as well.

pub mod config;
pub mod control;
pub mod detector;
pub mod keys;
pub mod netlink;
pub mod packet;

#[cfg(test)]
mod tests;
