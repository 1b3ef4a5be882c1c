//! `cargo xtask demo`: a knock from beginning to end in throwaway namespaces, each stage shown as
//! it happens. The status is 0 only if every stage went as expected.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use knock_lab::clients::xknock;
use knock_lab::process::PATIENCE;
use knock_lab::services::{Echo, tcp_open};
use knock_lab::{Agent, ConfigText, Lab};
use knock_output::{OutputError, note, out};

const PORT: u16 = 22;
const STEPS: &str = "tcp/7000,udp/8000,tcp/4500";

/// Prints stages, each with the time since the one before.
struct Story {
    last: Instant,
    failed: Vec<String>,
}

impl Story {
    fn tell(&mut self, what: &str, held: bool) -> Result<(), OutputError> {
        let took = self.last.elapsed();
        self.last = Instant::now();
        let mark = if held { "ok  " } else { "FAIL" };
        out!("{mark} {:>9.1} ms  {what}", took.as_secs_f64() * 1000.0)?;
        if !held {
            self.failed.push(what.to_owned());
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    knock_output::conclude("demo", demo().map_err(Into::into))
}

fn demo() -> Result<ExitCode, OutputError> {
    let mut story = Story { last: Instant::now(), failed: Vec::new() };
    tell(&mut story)?;
    match story.failed.as_slice() {
        [] => {
            out!("\nEvery stage went as expected.")?;
            Ok(ExitCode::SUCCESS)
        }
        failed => {
            note!("\nThese stages failed: {}", failed.join("; "));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn tell(story: &mut Story) -> Result<(), OutputError> {
    let lab = Lab::new();
    let (server, client, stranger) = (lab.server.v4, lab.client.v4, lab.stranger.v4);
    out!(
        "A server ({server}) with a service on tcp/22, a client ({client}), a stranger ({stranger}).\n"
    )?;
    let _service = Echo::start(&lab.server, PORT);
    story.tell("three hosts on one switch, the service runs", true)?;
    story.tell(
        "before the agent starts, anyone reaches it",
        tcp_open(&lab.stranger, server, PORT),
    )?;

    let mut agent = Agent::start(&lab.server, ConfigText::ssh().sequence(STEPS).open_for("3s"));
    story.tell("the agent guards tcp/22 and watches for knocks", true)?;
    story.tell("the port is closed to the client", !tcp_open(&lab.client, server, PORT))?;
    story.tell("and to the stranger", !tcp_open(&lab.stranger, server, PORT))?;

    let output = xknock(&lab.client, server, &["--steps", STEPS, "--wait", "tcp/22", "-v"]);
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        out!("                    | {line}")?;
    }
    story.tell("the client knocks, and the port answers", output.status.success())?;
    agent.await_opened(lab.client.v4, "tcp/22");
    let opened = Instant::now();
    story.tell("it is open for the client", tcp_open(&lab.client, server, PORT))?;
    story.tell("and for no other host", !tcp_open(&lab.stranger, server, PORT))?;

    agent.await_closed(lab.client.v4, "tcp/22");
    let lasted = opened.elapsed();
    let in_time = lasted < Duration::from_secs(3) + PATIENCE / 10;
    story.tell("the grant of three seconds ends by itself", in_time)?;
    story.tell("the port is closed to the client again", !tcp_open(&lab.client, server, PORT))?;
    let counters = agent.stop();
    story.tell(
        "one knock was seen, no event lost",
        counters.get("completed") == 1 && counters.get("event_lost") == 0,
    )?;
    Ok(())
}
