//! The clients of users, each run to its end.

use std::net::IpAddr;
use std::process::Output;

use crate::agent::program;
use crate::lab::Host;
use crate::netns::run;

/// Knocks with Debian's classic client, with `steps` as in `7000:tcp 8000:udp`.
pub fn knock(host: &Host, to: IpAddr, steps: &str) {
    let family = if to.is_ipv6() { "-6" } else { "-4" };
    run(host
        .command("knock")
        .args([family, "-d", "50", &to.to_string()])
        .args(steps.split_whitespace()));
}

/// Runs the project's own client with these arguments after the host, and returns its output.
///
/// # Panics
///
/// If it cannot be started.
pub fn xknock(host: &Host, to: IpAddr, arguments: &[&str]) -> Output {
    let mut command = host.command(program("xknock"));
    command.arg(to.to_string()).args(arguments).output().expect("xknock runs")
}

/// Knocks with the project's own client, which must succeed, with `steps` as in
/// `tcp/7000,udp/8000`.
pub fn xknock_steps(host: &Host, to: IpAddr, steps: &str) {
    let output = xknock(host, to, &["--steps", steps, "--gap", "10ms"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
