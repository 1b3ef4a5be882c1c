//! The files for systemd, as systemd's own tools judge them and under a running systemd.

mod guest;
mod tools;
