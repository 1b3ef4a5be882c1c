//! The clients that people use, each run to its end.

use std::net::IpAddr;
use std::process::Output;

use crate::agent::program;
use crate::lab::Host;
use crate::netns::run;

/// Debian's classic client: `steps` as in `7000:tcp 8000:udp`.
pub fn knock(host: &Host, to: IpAddr, steps: &str) {
    let family = if to.is_ipv6() { "-6" } else { "-4" };
    run(host
        .command("knock")
        .args([family, "-d", "50", &to.to_string()])
        .args(steps.split_whitespace()));
}

/// Our own client, with these arguments after the host.
///
/// # Panics
///
/// If it cannot be started.
pub fn xknock(host: &Host, to: IpAddr, arguments: &[&str]) -> Output {
    let mut command = host.command(program("xknock"));
    command.arg(to.to_string()).args(arguments).output().expect("xknock runs")
}

/// Our own client, sending `steps` (as in `tcp/7000,udp/8000`) and expected to succeed.
pub fn xknock_steps(host: &Host, to: IpAddr, steps: &str) {
    let output = xknock(host, to, &["--steps", steps, "--gap", "10ms"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
