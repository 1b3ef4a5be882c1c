//! The files for systemd: what systemd's own tools say of them, and the unit under systemd.

mod guest;
mod tools;
