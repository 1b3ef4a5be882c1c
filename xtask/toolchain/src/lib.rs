//! Finds the toolchain that builds the XDP program.
